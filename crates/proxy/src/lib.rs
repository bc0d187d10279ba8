//! The data plane: gateway (north–south) and mesh (east–west, one listener a declared edge). [`bind`] opens the
//! sockets, [`Bound::run`] serves on one thread a core, [`Handle::apply`] swaps in what is served. It is told
//! everything by [`Config`] and [`Snapshot`] and decides nothing that a plan could have decided.
//!
//! Deciding is pure: `message`, `http1::{parse, framing, chunk}`, `head`, `path`, `table`, [`route()`], `filter`, `balance`,
//! `retry`, `breaker`, `budget`, `gate`, `outlier`, `rate`, `ring`, `pace`, `headers`. Acting is `connection` → `exchange` →
//! `admission` → `tries` → `attempt` → `fallback` → `relay` or `tunnel`, over `http1::pipe` and `upstream`: one task a
//! client's connection, which polls the service's socket as well. What is decided is written down by `recording`.

mod access;
mod admission;
mod attempt;
mod balance;
mod bound;
mod breaker;
mod budget;
mod candidates;
mod chronicle;
mod config;
mod connection;
mod cores;
mod counters;
mod endpoint;
mod error;
mod exchange;
mod fallback;
mod filter;
mod gate;
mod guard;
mod handle;
mod hashing;
mod head;
mod headers;
mod http1;
mod limit;
mod message;
mod meters;
mod outlier;
mod pace;
mod path;
mod patience;
pub mod plane;
mod policy;
mod rate;
mod reason;
mod recording;
mod relay;
mod retry;
mod ring;
mod rooms;
mod route;
mod snapshot;
mod sockets;
mod stock;
mod story;
mod switches;
mod table;
mod tally;
mod timers;
mod tries;
mod tunnel;
mod upstream;

pub use bound::{Bound, bind};
pub use breaker::BreakerReading;
pub use budget::BudgetReading;
pub use config::{Config, Limits};
pub use counters::Counters;
pub use error::Error;
pub use gate::GateReading;
pub use guard::{Ejected, GuardReading};
pub use handle::Handle;
pub use head::with_head;
pub use http1::chunk::{Decoded, Malformed, decode_chunked};
pub use limit::Limit;
pub use message::Head;
pub use meters::{Histogram, Outcome, Reading, Readings, Series, Subject, bounds_seconds};
pub use path::check_pattern;
pub use policy::{
    Absence, Algorithm, Balance, Breaker, Concurrency, Ejection, Fallback, Key, Policy, RateLimit, Retry, Share, Window,
};
pub use reason::Reason;
pub use route::{Considered, Decision, Verdict, explain, route};
pub use snapshot::{
    Backend, Endpoint, Filter, HeaderEdits, Listener, Match, NamedMatch, PathMatch, PathRewrite, Role, Route, Snapshot,
    State, ValueMatch,
};
pub use story::{BreakerState, Event, How, Kept, NoMore, Rejected, Story, Told, Tried};
pub use switches::{Effect, Fault, FaultTarget, Forced, Switches};
pub use table::{Compiled, Table, Tables};
