//! What the broker is told: addresses, users and what they may do, limits. Plain data, nothing left to choose.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use journal::Sync;

/// Everything that a broker is told before it runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Where `/varz`, `/connz`, `/subsz` and `/healthz` are read; without it, nowhere.
    pub monitor: Option<SocketAddr>,
    /// `server_name` of INFO.
    pub name: String,
    /// Who may connect. Empty: everybody, without credentials and with every right.
    pub users: Vec<User>,
    pub tls: Option<Tls>,
    /// Durable streams; without it there are none, and nobody answers `$JS.API.>`.
    pub jetstream: Option<JetStream>,
    pub limits: Limits,
    pub lame_duck: LameDuck,
}

/// Where streams are kept, and their bounds.
#[derive(Clone, Debug)]
pub struct JetStream {
    /// A folder of its own, made if it is missing.
    pub folder: PathBuf,
    /// When a publish to a stream of files is acknowledged.
    pub sync: Sync,
    pub limits: JetStreamLimits,
}

/// Bounds of JetStream. At each, its own error is answered.
#[derive(Clone, Debug)]
pub struct JetStreamLimits {
    pub streams_max: usize,
    /// Of one stream.
    pub consumers_max: usize,
    /// Bytes that all streams in files may take together.
    pub store_bytes_max: u64,
    /// Bytes that all streams in memory may take together.
    pub memory_bytes_max: u64,
    /// Size from which the next segment of a stream's files is begun.
    pub segment_bytes: u64,
    /// Bytes of one stream that may wait for the disk; publishers wait beyond it.
    pub queue_bytes: usize,
    /// Bytes of messages that one stream keeps in memory for its readers.
    pub cache_bytes: usize,
    /// Message ids that one stream remembers within its duplicate window; with one more a publish with an id is refused.
    pub message_ids_max: usize,
}

/// Certificate and key, in PEM files. Every client must then speak TLS after INFO.
#[derive(Clone, Debug)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Somebody who may connect, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// A single token of a subject: it is a part of the names of inboxes. Unique.
    pub name: String,
    pub credential: Credential,
    pub permissions: Permissions,
}

/// What a user proves itself with.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// With the user's name.
    Password(String),
    /// Alone.
    Token(String),
    /// The public key (`U…`) whose owner signs the nonce.
    Nkey(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(…)",
            Self::Token(_) => "Token(…)",
            Self::Nkey(_) => "Nkey(…)",
        })
    }
}

/// What a user may publish and subscribe to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    pub publish: Rules,
    pub subscribe: Rules,
}

/// Patterns of subjects. What is denied is denied whatever is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `None` allows everything, an empty list nothing.
    pub allow: Option<Vec<String>>,
    pub deny: Vec<String>,
}

/// Bounds. At each, NATS's error is sent where it has one, and the connection closed where NATS closes it.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections_max: usize,
    /// Of one connection.
    pub subscriptions_max: usize,
    /// Tokens in the subject of a subscription.
    pub subject_tokens_max: usize,
    /// Bytes of an operation's arguments.
    pub control_line_max: usize,
    /// Bytes of a message, its headers included.
    pub payload_max: usize,
    /// Bytes that may wait for one client, or for one subscription of the process itself, before it counts as slow: a
    /// client is then cut, a subscription of the process misses messages.
    pub pending_max: usize,
    /// How long a client may take nothing of what waits for it.
    pub write_deadline: Duration,
    /// How long a client may be connected without having proved who it is, where it must.
    pub auth_timeout: Duration,
    pub tls_timeout: Duration,
    pub ping_interval: Duration,
    /// PINGs that may be unanswered.
    pub pings_outstanding_max: u32,
    /// Ended connections that `/connz?state=closed` remembers.
    pub closed_connections_max: usize,
}

/// How clients are sent away at drain.
#[derive(Clone, Debug)]
pub struct LameDuck {
    /// Between the notice (`ldm`) and the first connection that is closed.
    pub grace: Duration,
    /// Over which the closing of connections is spread.
    pub duration: Duration,
}
