//! Broker, topics and subscriptions in a plan.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
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

/// NATS servers of somebody else's, which stand in place of the broker.
#[derive(Clone, Hash, PartialEq, Eq, Serialize)]
pub struct Nats {
    /// Where they are, with user and password where these are written: `nats://user:password@host:port`; several with commas.
    #[serde(skip)]
    pub url: String,
    /// The same without user and password.
    #[serde(rename = "url")]
    pub address: String,
    /// Of a message with its headers, as the manifest has it: what the servers take is theirs to say.
    #[serde(serialize_with = "crate::text::size")]
    pub max_payload: u64,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may have a password in it.
        let Self { url: _, address, max_payload } = self;
        f.debug_struct("Nats").field("address", address).field("max_payload", max_payload).finish_non_exhaustive()
    }
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
    /// What the data of every event must be.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "Schema::print")]
    pub schema: Option<Schema>,
    /// Whether it has a table of its own; else a service publishes it, and nothing more is said of it.
    #[serde(skip)]
    pub is_declared: bool,
}

/// A JSON Schema. Printed as its path; its text tells plans apart.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Schema {
    /// Absolute path of its file.
    pub path: PathBuf,
    /// JSON: an object or a boolean.
    pub text: String,
}

impl Schema {
    fn print<S: Serializer>(schema: &Option<Self>, serializer: S) -> Result<S::Ok, S::Error> {
        let path = schema.as_ref().map(|schema| schema.path.to_string_lossy());
        path.serialize(serializer)
    }
}

/// Events of one topic that are delivered to one path of one service.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Subscription {
    /// A subject or a pattern, within one topic.
    pub topic: String,
    /// The stream of that topic.
    pub stream: String,
    pub service: String,
    /// In the normal form of paths, without a query.
    pub path: String,
    /// CEL that can be read; whether it means anything shows when it is evaluated.
    pub filter: Option<String>,
    /// A dotted path in the data, or `attributes.` and the name of an attribute.
    pub key: Option<String>,
    /// Requests at once, at least 1.
    pub concurrency: u32,
    /// Attempts for one event, at least 1.
    pub max_deliver: u32,
    /// The pause after each failed attempt; the last one goes on. Empty means none.
    #[serde(serialize_with = "crate::text::durations")]
    pub backoff: Vec<Duration>,
    /// How long one attempt may take; more than zero.
    #[serde(serialize_with = "crate::text::duration")]
    pub ack_wait: Duration,
    /// A subject of a topic, which this subscription does not have in it.
    pub dead_letter_topic: Option<String>,
    pub on_dead_letter: OnDeadLetter,
    pub batch: Option<Batch>,
    pub from: Start,
}

/// What becomes of those behind a dead letter.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeadLetter {
    Continue,
    /// Those of its key wait for it; there is a key.
    HoldKey,
}

/// Several events in one request.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Batch {
    /// At least 1.
    pub size: u32,
    /// How long the first of them waits for others.
    #[serde(serialize_with = "crate::text::duration")]
    pub wait: Duration,
}

/// Where a subscription begins that has never been.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest event that is kept.
    First,
    /// With what is published from then on.
    New,
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
