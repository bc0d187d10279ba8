//! Events without an SDK: services publish with a POST and receive with a POST (CloudEvents 1.0). What lies between is
//! JetStream, spoken as any NATS client speaks it, so that the embedded broker and a real NATS behave alike.
//! Called by the daemon. It knows neither the manifest nor other engines: it is given addresses.

mod config;
mod event;
mod reading;

pub use config::{Batch, Config, Limits, OnDeadLetter, Publisher, Schema, Server, Since, Start, Subscription, Topic};
pub use event::Event;
pub use reading::{Attempt, DeadLetter, Reading, Replay, SubscriptionReading, TopicReading};
