//! What can go wrong with the engine itself. What goes wrong with a request is a [`crate::Reason`] in its answer.

use std::io;
use std::net::SocketAddr;

/// A failure to bind, to run, or to accept a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the address; `source` says why, such as `AddrInUse`.
    #[error("cannot listen on {address} for `{listener}`")]
    Listen { listener: String, address: SocketAddr, source: io::Error },
    #[error("two listeners have the name `{listener}`")]
    DuplicateListener { listener: String },
    #[error("cannot start the thread of core {core}")]
    Thread { core: usize, source: io::Error },
    #[error("cannot start the runtime of core {core}")]
    Runtime { core: usize, source: io::Error },
    /// The process of the data plane, or the way to it.
    #[error("the data plane {what}")]
    Plane { what: &'static str, source: io::Error },
    /// Another daemon has taken the data plane over.
    #[error("another daemon has taken the data plane over")]
    Superseded,
    /// The engine has ended, or was left.
    #[error("the data plane is not run any more")]
    Ended,
    #[error("core {core} panicked")]
    CoreLost { core: usize },
    /// The snapshot is refused as a whole and the one before it goes on serving.
    #[error("route `{route}` has an invalid regular expression")]
    Regex { route: String, source: regex::Error },
    #[error("route `{route}` {what}")]
    Route { route: String, what: &'static str },
    #[error("route `{route}` names or sets an invalid header `{header}`")]
    Header { route: String, header: String },
}
