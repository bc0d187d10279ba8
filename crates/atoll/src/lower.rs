//! Turns a plan into each engine's configuration, and engine states into what the API shows. Pure: no files, no
//! sockets, no clock. The only place besides `daemon` that knows more than one engine.

mod traffic;
mod units;
mod view;

pub use traffic::{GATEWAY, listeners, snapshot};
pub use units::{databases, services};
pub use view::{description, event, instances, line, services as service_views};
