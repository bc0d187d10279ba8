//! Events without an SDK: services publish with a POST and receive with a POST (CloudEvents 1.0). What lies between is
//! JetStream, spoken as any NATS client speaks it, so that the embedded broker and a real NATS behave alike.
//! Called by the daemon. It knows neither the manifest nor other engines: it is given addresses.
//!
//! Pure: `cloudevent`, `schema`, `compiled`. Acting: `link` (the connection) ← `publishing` ← `intake` (HTTP), and one
//! `subscription` each; `bound` owns them, `handle` is the way in.

mod bound;
mod cloudevent;
mod compiled;
mod config;
mod dead_letter;
mod error;
mod event;
mod filter;
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod intake;
mod key;
mod link;
mod publishing;
mod reading;
mod schema;
mod streams;
mod subscription;

pub use bound::{Bound, bind, check};
pub use cloudevent::Malformed;
pub use cloudevent::nats::Stored;
pub use config::{Batch, Config, Limits, OnDeadLetter, Publisher, Schema, Server, Since, Start, Subscription, Topic};
pub use dead_letter::Query;
pub use error::Error;
pub use event::Event;
pub use handle::Handle;
pub use publishing::run::Run;
pub use publishing::{PublishError, Published};
pub use reading::{Attempt, DeadLetter, Reading, Replay, SubscriptionReading, TopicReading};
pub use schema::{SchemaError, Violation};
