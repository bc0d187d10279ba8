//! The JetStream API as data: what clients ask (`request`), what they are answered (`info`, `error`), what streams and
//! consumers are (`config`), and what of it is allowed (`check`). Pure: no clock, no disk, no tasks. Field names, the order
//! of the checks, codes and texts are those of nats-server 2.15. <https://docs.nats.io/reference/reference-protocols/nats_api_reference>

mod check;
mod config;
mod error;
mod info;
mod request;
#[cfg(test)]
mod tests;
mod time;

pub(crate) use check::{
    ConsumerChange, StreamCreation, check_consumer, check_level, check_stream_create, check_stream_update,
    consumer_request, pause_consumer,
};
pub(crate) use config::{
    AckPolicy, DeliverPolicy, Discard, PersistMode, PriorityPolicy, ReplayPolicy, Retention, Storage,
};
pub(crate) use config::{ConsumerConfig, Placement, StreamConfig};
pub(crate) use error::ApiError;
pub(crate) use info::*;
pub(crate) use request::*;
pub(crate) use time::Time;

/// The level of the API whose features are served: 1 is that of nats-server 2.11. What was added later needs more.
pub(crate) const LEVEL: u32 = 1;

/// Names in one page.
pub(crate) const NAMES_PAGE: usize = 1024;
/// Streams or consumers, described in full, in one page.
pub(crate) const LIST_PAGE: usize = 256;
/// Subjects with their counts in one page of a stream's description.
pub(crate) const SUBJECTS_PAGE: usize = 100_000;
