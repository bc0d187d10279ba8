//! What the engine shows: how topics and subscriptions stand, and the dead letters. Plain data for whoever asks.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::Event;

/// How everything stands at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Whether the broker answers.
    pub is_connected: bool,
    pub topics: BTreeMap<String, TopicReading>,
    pub subscriptions: BTreeMap<String, SubscriptionReading>,
}

/// What was published to one topic through this engine since it began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicReading {
    pub published: u64,
    pub duplicates: u64,
    /// Refused for what they were: malformed, against the schema, too large.
    pub refused: u64,
    /// Answered 503: the broker did not take them in time.
    pub failed: u64,
}

/// One subscription, counted since the engine began, but for the gauges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscriptionReading {
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts beyond the first.
    pub retried: u64,
    /// Passed over by the filter, and those of them whose filter could not be evaluated.
    pub filtered: u64,
    pub filter_errors: u64,
    pub dead_lettered: u64,
    /// Deliveries a second, over the last ten.
    pub rate: f64,
    /// Events of the stream that are not delivered yet, those aside among them.
    pub lag: u64,
    pub in_flight: u64,
    /// Keys with something aside, and events aside.
    pub keys_parked: u64,
    pub parked: u64,
    /// Keys that wait for a dead letter to be redriven or dropped.
    pub keys_held: u64,
    /// Why nothing is delivered at the moment, where that is so: no instance is ready, the broker is away, something is full.
    pub paused: Option<String>,
    /// Where a replay is on, what is left of it.
    pub replay: Option<Replay>,
}

/// Events that are delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The first and the last of them, as numbers in the stream.
    pub from: u64,
    pub to: u64,
    /// How many are left, at most.
    pub left: u64,
}

/// One attempt to deliver an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub at: Timestamp,
    pub took: Duration,
    /// None where there was no answer.
    pub status: Option<u16>,
    /// The first KiB of the answer, or what went wrong in words.
    pub answer: String,
    pub request_id: String,
}

/// An event that could not be delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Its number, by which it is shown, redriven and dropped.
    pub id: u64,
    pub subscription: String,
    pub service: String,
    pub topic: String,
    /// The event's number in its stream.
    pub sequence: u64,
    pub key: Option<String>,
    pub event: Event,
    /// Each, oldest first; the last hundred. Where a message would be too large, the oldest have lost their answers.
    pub attempts: Vec<Attempt>,
    /// All of them.
    pub attempts_count: u32,
    /// Why it was given up, in words.
    pub reason: String,
    pub at: Timestamp,
    /// Whether others of its key wait for it.
    pub is_holding: bool,
}
