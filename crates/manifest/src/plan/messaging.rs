//! Broker and topics in a plan.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::text::format_duration;

/// What speaks NATS's protocol.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Broker {
    pub listen: SocketAddr,
    /// As of the gateway.
    pub written: bool,
    /// Where NATS's monitoring pages are read, if anywhere.
    pub monitor: Option<SocketAddr>,
    pub sync: Sync,
    /// Of a message with its headers.
    #[serde(serialize_with = "crate::text::size")]
    pub max_payload: u64,
    pub store: Store,
    pub limits: BrokerLimits,
}

/// When a publish to a stream of files is acknowledged.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Sync {
    /// Once it is on the disk.
    Always,
    /// At once; the disk is told that often.
    Interval(Duration),
}

/// As the manifest has it.
impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(every) => write!(f, "interval:{}", format_duration(*every)),
        }
    }
}

impl Serialize for Sync {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bytes that all streams may take together.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Store {
    #[serde(serialize_with = "crate::text::size")]
    pub file: u64,
    #[serde(serialize_with = "crate::text::size")]
    pub memory: u64,
}

/// Bounds of what clients of the broker can make grow.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct BrokerLimits {
    pub connections: u32,
    /// Of one connection.
    pub subscriptions: u32,
    /// Bytes that may wait for one client.
    #[serde(serialize_with = "crate::text::size")]
    pub pending: u64,
    pub streams: u32,
    /// Of one stream.
    pub consumers: u32,
}

/// A subject, or a family of them, and the stream that keeps what is published to it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Topic {
    /// Unique.
    pub stream: String,
    pub description: Option<String>,
    pub retention: Retention,
    pub discard: Discard,
    pub storage: Storage,
    /// At most the age of the retention.
    #[serde(serialize_with = "crate::text::duration")]
    pub duplicate_window: Duration,
    /// Whether it has a table of its own; else a service publishes it, and nothing more is said of it.
    #[serde(skip)]
    pub is_declared: bool,
}

/// How much is kept.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Retention {
    #[serde(serialize_with = "crate::text::duration")]
    pub age: Duration,
    #[serde(serialize_with = "crate::text::size")]
    pub size: u64,
    pub messages: Option<u64>,
}

/// What goes where something has to.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discard {
    /// The oldest messages.
    Old,
    /// What is published now: it is refused.
    New,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    File,
    Memory,
}
