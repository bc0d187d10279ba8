//! What can go wrong in the engine. A message names the operation and what the caller knew; the cause is its `source`.
//! Errors of publishing are of their own ([`crate::PublishError`]): publishers are told them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the engine cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the schema of topic {topic} cannot be used: {path}")]
    Schema { topic: String, path: PathBuf, source: crate::schema::SchemaError },
    /// A filter, a key or a path that cannot be.
    #[error("subscription {subscription} cannot be: {reason}")]
    Subscription { subscription: String, reason: String },
    #[error("{url} is no address of a NATS server", url = redacted(.url))]
    Server { url: String, source: io::Error },
    #[error("there is no subscription {subscription}")]
    NoSubscription { subscription: String },
    #[error("there is no dead letter {id}")]
    NoDeadLetter { id: u64 },
    /// It was only referred to, and its stream keeps it no more.
    #[error("the event of dead letter {id} is gone from its stream: there is nothing to deliver")]
    Gone { id: u64 },
    #[error("dead letter {id} cannot be delivered with that data: {reason}")]
    Edited { id: u64, reason: String },
    /// What was kept is damaged, or of a newer version.
    #[error("{what} cannot be read: it is damaged, or was written by a newer version")]
    Unreadable { what: String },
    /// It may be asked again.
    #[error("not now: {reason}")]
    Busy { reason: &'static str },
    /// It may be tried again.
    #[error("the broker is away: {reason}")]
    Away { reason: String },
    /// The broker has answered, and not as was wanted.
    #[error("the broker has not done it: {operation}")]
    Broker { operation: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("subscription {subscription} has ended by itself")]
    Failed { subscription: String },
    #[error("the engine has ended")]
    Ended,
}

/// The same without user and password.
fn redacted(url: &str) -> String {
    let end = |part: &str| part.rsplit_once('@').map_or_else(|| part.to_owned(), |(_, host)| host.to_owned());
    url.split(',').map(end).collect::<Vec<_>>().join(",")
}
