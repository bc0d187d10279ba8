//! The data plane: gateway (north–south) and mesh (east–west, one listener a declared edge). [`bind`] opens the
//! sockets, [`Bound::run`] serves on one thread a core, [`Handle::apply`] swaps in what is served. It is told
//! everything by [`Config`] and [`Snapshot`] and decides nothing that a plan could have decided.
//!
//! Deciding is pure and knows no HTTP library: `head`, `path`, `table`, [`route()`], `filter`, `balance`, `retry`,
//! `headers`. Acting is `exchange` with `attempt`, `upstream`, `body`, `tunnel` and `connection`, today on hyper.

mod access;
mod attempt;
mod balance;
mod body;
mod bound;
mod config;
mod connection;
mod cores;
mod counters;
mod error;
mod exchange;
mod filter;
mod handle;
mod head;
mod headers;
mod outlet;
mod path;
mod patience;
pub mod plane;
mod reason;
mod retry;
mod route;
mod snapshot;
mod sockets;
mod table;
mod tunnel;
mod upstream;
mod watched;

pub use bound::{Bound, bind};
pub use config::{Config, Limits};
pub use counters::Counters;
pub use error::Error;
pub use handle::Handle;
pub use head::Head;
pub use path::check_pattern;
pub use reason::Reason;
pub use route::{Considered, Decision, Verdict, explain, route};
pub use snapshot::{
    Backend, Endpoint, Filter, HeaderEdits, Listener, Match, NamedMatch, PathMatch, PathRewrite, Retry, Role, Route,
    Snapshot, State, ValueMatch,
};
pub use table::{Compiled, Table, Tables};
