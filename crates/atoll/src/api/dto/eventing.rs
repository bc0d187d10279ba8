//! What travels about topics, subscriptions and dead letters.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /v1/topics`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topics {
    /// Whether the engine that delivers has a broker.
    pub connected: bool,
    pub topics: Vec<Topic>,
}

/// A topic, with who publishes to it and who listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    pub topic: String,
    pub stream: String,
    pub description: Option<String>,
    /// Services that may publish to it, or to a part of it.
    pub publishers: Vec<String>,
    /// Databases whose outboxes are relayed to it.
    pub outboxes: Vec<String>,
    pub subscriptions: Vec<Subscription>,
    /// Services that may read it over NATS.
    pub readers: Vec<String>,
    /// The file of its JSON Schema.
    pub schema: Option<String>,
    pub messages: u64,
    pub bytes: u64,
    pub last_sequence: u64,
    /// By `EVENTS_URL` and outboxes since the daemon began: what was taken, was there already, was refused for what it is,
    /// and could not be kept in time.
    pub published: u64,
    pub duplicates: u64,
    pub refused: u64,
    pub failed: u64,
    /// Why its stream is not as the manifest wants it.
    pub problem: Option<String>,
}

/// How a subscription stands; counted since the daemon began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    pub name: String,
    /// Of the topic: a subject or a pattern of them.
    pub topic: String,
    pub service: String,
    pub path: String,
    pub filter: Option<String>,
    pub key: Option<String>,
    pub concurrency: u64,
    pub max_deliver: u32,
    /// Events that are not delivered yet.
    pub lag: u64,
    /// Deliveries a second.
    pub rate: f64,
    pub in_flight: u64,
    pub delivered: u64,
    pub failed: u64,
    pub retried: u64,
    pub filtered: u64,
    pub filter_errors: u64,
    pub dead_lettered: u64,
    /// Dead letters that are there; none where the broker does not tell.
    #[serde(default)]
    pub dead_letters: Option<u64>,
    /// Events aside, behind failed ones of their keys, and these keys.
    pub parked: u64,
    pub keys_parked: u64,
    /// Keys that wait for a dead letter.
    pub keys_held: u64,
    /// Why nothing is delivered.
    pub paused: Option<String>,
    pub replay: Option<Replay>,
}

/// Events that are delivered again, by their numbers in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    pub from: u64,
    pub to: u64,
    pub left: u64,
}

/// Body of `POST /v1/replay`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplayWish {
    pub subscription: String,
    pub since: Since,
}

/// From where on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    First,
    Time(Timestamp),
    Sequence(u64),
}

/// Query of `GET /v1/dead-letters`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeadLetterQuery {
    pub subscription: Option<String>,
    /// At most; the newest.
    pub limit: Option<usize>,
}

/// An event that could not be delivered: `GET /v1/dead-letters/{id}`; and, without its attempts and the data of its event, an
/// element of `GET /v1/dead-letters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub id: u64,
    pub subscription: String,
    pub service: String,
    pub topic: String,
    /// The event's number in its stream.
    pub sequence: u64,
    pub key: Option<String>,
    pub event: Event,
    /// The last ones, oldest first.
    pub attempts: Vec<Attempt>,
    pub attempts_count: u32,
    pub reason: String,
    pub at: Timestamp,
    /// Whether others of its key wait for it.
    pub holding: bool,
}

/// A CloudEvent. Data is `data` where it is JSON or text, else `data_base64`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub attributes: BTreeMap<String, String>,
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
}

/// One attempt to deliver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub at: Timestamp,
    pub took_ms: f64,
    /// None where there was no answer.
    pub status: Option<u16>,
    /// The beginning of it, or what went wrong.
    pub answer: String,
    pub request_id: String,
}

/// Body of `POST /v1/dead-letters/redrive` and `/v1/dead-letters/drop`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeadLetterWish {
    /// These.
    #[serde(default)]
    pub ids: Vec<u64>,
    /// Or all, of this subscription where it is named.
    #[serde(default)]
    pub all: bool,
    pub subscription: Option<String>,
    /// The data that takes the place of the event's own; of one event.
    pub data: Option<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterDone {
    pub count: u64,
}
