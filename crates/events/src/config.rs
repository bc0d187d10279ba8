//! What the engine is told: the broker, topics, who publishes, who is delivered to. Plain data, nothing left to choose.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

/// Everything that the engine is told. Topics, publishers and subscriptions may be replaced while it runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where publishers are served; port 0 lets the kernel choose. Requests name the publisher in their path:
    /// `POST /<service>/<topic>`.
    pub listen: SocketAddr,
    /// None where nothing needs one: then nothing is published or delivered, and nobody is asked.
    pub server: Option<Server>,
    /// The application's name: what the engine keeps for itself is named after it, as several may share one broker.
    pub application: String,
    pub topics: Vec<Topic>,
    pub publishers: Vec<Publisher>,
    pub subscriptions: Vec<Subscription>,
    pub limits: Limits,
}

/// The NATS server, with the right to everything of this application.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// `nats://user:password@host:port` or `tls://…`; several with commas.
    pub url: String,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It has a password in it.
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// A topic, whose stream is there or will be: whoever made the configuration sees to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// A subject, or a family of them that ends with `>`.
    pub subject: String,
    pub stream: String,
    /// What the data of every event must be.
    pub schema: Option<Schema>,
}

/// A JSON Schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Where it was read; for messages only.
    pub path: PathBuf,
    pub text: String,
}

/// A service that publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    pub service: String,
    /// Subjects and patterns of them; nothing else is taken from it.
    pub publishes: Vec<String>,
}

/// Events of one topic for one path of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Letters, digits, `-` and `_`. What was delivered is remembered under this name.
    pub name: String,
    /// A subject or a pattern of subjects, within one stream.
    pub topic: String,
    pub stream: String,
    /// For readers only.
    pub service: String,
    /// Where to deliver: the edge of this engine to the service.
    pub edge: SocketAddr,
    /// Begins with `/`.
    pub path: String,
    /// CEL over the attributes, by their names, and `data`; events for which it is not true are passed over.
    pub filter: Option<String>,
    /// A dotted path in the JSON data, or `attributes.<name>`: events of equal value are delivered one after the other.
    pub key: Option<String>,
    /// Requests at once, at least 1.
    pub concurrency: usize,
    /// Attempts for one event, at least 1.
    pub max_deliver: u32,
    /// The pause after each failed attempt; the last one goes on. Empty means none.
    pub backoff: Vec<Duration>,
    /// How long one attempt may take.
    pub ack_wait: Duration,
    /// Where a dead letter is published besides being kept.
    pub dead_letter_topic: Option<String>,
    pub on_dead_letter: OnDeadLetter,
    /// Several events in one request.
    pub batch: Option<Batch>,
    /// Where a subscription begins that has never been.
    pub start: Start,
}

/// What becomes of those behind a dead letter, where there is a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeadLetter {
    Continue,
    /// They wait until it was redriven or dropped.
    HoldKey,
}

/// Events in one request (`application/cloudevents-batch+json`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// At least 1.
    pub size: usize,
    /// How long the first of them waits for others.
    pub wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event that is kept.
    First,
    /// With what is published from then on.
    New,
}

/// Since when events are delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    First,
    Time(Timestamp),
    /// The number of a message in its stream.
    Sequence(u64),
}

/// Bounds. What happens at each stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A larger event, head and data together, is refused with 413.
    pub event_bytes_max: usize,
    /// More events in one request are refused with 413.
    pub batch_events_max: usize,
    /// With more publishing requests at once, further ones are answered 503 with `retry-after`.
    pub publishes_max: usize,
    /// How long a publish may wait for the broker before it is answered 503 with `retry-after`.
    pub publish_timeout: Duration,
    /// Events, and bytes of them, that one subscription holds in memory; beyond it it reads no further.
    pub buffer_events_max: usize,
    pub buffer_bytes_max: usize,
    /// Events of one subscription that may wait aside behind failed ones; beyond it it reads no further.
    pub parked_max: usize,
    /// Bytes that what waits aside may take in the broker, and the same of dead letters.
    pub parked_bytes_max: u64,
    pub dead_letters_bytes_max: u64,
    /// How long what is in flight may take when the engine ends.
    pub drain_max: Duration,
}

impl Limits {
    /// Those that the daemon uses.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            event_bytes_max: 1 << 20,
            batch_events_max: 1_000,
            publishes_max: 4_096,
            publish_timeout: Duration::from_secs(5),
            buffer_events_max: 4_096,
            buffer_bytes_max: 16 << 20,
            parked_max: 100_000,
            parked_bytes_max: 1 << 30,
            dead_letters_bytes_max: 1 << 30,
            drain_max: Duration::from_secs(10),
        }
    }
}
