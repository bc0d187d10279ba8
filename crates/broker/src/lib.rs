//! The broker: NATS's client protocol, subjects, users and what they may do. [`bind`] opens the sockets, [`Bound::run`]
//! serves, [`Handle`] is how the process itself publishes and subscribes. It is told everything by [`Config`].
//!
//! Pure: [`subject`], `protocol`, `auth`, `inbox`. Shared: `sublist` (who wants what), `broker` (who is there), `outbound`
//! (what waits for whom). Acting: `connection` → `session` → `publisher`, one task a connection.

mod auth;
mod bound;
mod broker;
mod client;
mod config;
mod connection;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod inbox;
mod internal;
mod jetstream;
mod monitor;
mod outbound;
mod pressure;
mod protocol;
mod publisher;
mod reason;
mod session;
mod sockets;
pub mod subject;
mod sublist;
mod subscription;

pub use bound::{Bound, bind, bind_on};
pub use config::{
    Config, Credential, JetStream, JetStreamLimits, LameDuck, Limits, Permissions, Rules, Sync, Tls, User,
};
pub use error::Error;
pub use handle::Handle;
pub use internal::{Message, Subscription};
pub use monitor::Counts;
pub use protocol::{Bounds, Operation, Parsed, Publish, Violation, parse};
pub use publisher::{Outgoing, Publisher};
pub use reason::Reason;
pub use sockets::Sockets;
