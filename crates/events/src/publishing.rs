//! Durable publishing: an event that was looked at goes to JetStream, and is published when JetStream says so. Called by
//! the intake and by the handle. It knows nothing of HTTP.

pub(crate) mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use aws_lc_rs::digest;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use crate::cloudevent::{self, attribute, http as binding, nats};
use crate::compiled::{Compiled, CompiledTopic, is_subject, matches};
use crate::event::Event;
use crate::handle::Shared;
use crate::link::Session;
use crate::reading::TopicReading;
use crate::schema::Violation;

/// An event that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub id: String,
    pub source: String,
    pub stream: String,
    /// Its number there.
    pub sequence: u64,
    /// The same source and id were published before, within the stream's window: that one counts, this one is not there.
    pub is_duplicate: bool,
}

impl Published {
    fn new(event: &Event, ack: PublishAck) -> Self {
        Self {
            id: event.id().to_owned(),
            source: event.source().to_owned(),
            stream: ack.stream,
            sequence: ack.sequence,
            is_duplicate: ack.duplicate,
        }
    }
}

/// Why an event was not published, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("no service {service:?} publishes here")]
    NoService { service: String },
    #[error("{service} does not publish {topic:?}; it declares {declared}", declared = list(.declared))]
    Undeclared { service: String, topic: String, declared: Vec<String> },
    #[error("malformed event")]
    Malformed {
        #[from]
        source: cloudevent::Malformed,
    },
    /// Of several in one request, this one, counted from 0.
    #[error("event {at} of the request")]
    InBatch { at: usize, source: Box<Self> },
    #[error("the event is larger than {max} bytes")]
    TooLarge { max: usize },
    /// It could be published, and never delivered.
    #[error("the attributes of the event take more than {max} bytes as headers of HTTP")]
    AttributesTooLarge { max: usize },
    #[error("the event is larger than its stream takes")]
    TooLargeForStream,
    #[error("{count} events are more than {max} in one request")]
    TooMany { count: usize, max: usize },
    #[error("the data is against the schema of the topic")]
    Schema { violations: Vec<Violation> },
    /// The outcome may be unknown; nothing was promised.
    #[error("{reason}")]
    Unavailable { reason: String },
}

impl PublishError {
    /// Whether it was refused for what it is, and would be again.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::InBatch { source, .. } => source.is_refusal(),
            Self::Unavailable { .. } => false,
            _ => true,
        }
    }

    fn unavailable(reason: impl std::fmt::Display) -> Self {
        Self::Unavailable { reason: reason.to_string() }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// What was counted of one topic.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    published: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> TopicReading {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TopicReading {
            published: load(&self.published),
            duplicates: load(&self.duplicates),
            refused: load(&self.refused),
            failed: load(&self.failed),
        }
    }

    fn add(&self, result: &Result<Vec<Published>, PublishError>, count: usize) {
        match result {
            Ok(published) => {
                let duplicates = published.iter().filter(|published| published.is_duplicate).count();
                self.add_published(published.len(), duplicates);
            }
            Err(error) => self.add_failure(error, count),
        }
    }

    fn add_published(&self, count: usize, duplicates: usize) {
        self.published.fetch_add((count - duplicates) as u64, Ordering::Relaxed);
        self.duplicates.fetch_add(duplicates as u64, Ordering::Relaxed);
    }

    fn add_failure(&self, error: &PublishError, count: usize) {
        let counter = if error.is_refusal() { &self.refused } else { &self.failed };
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// A topic that a service may publish to: its permission, looked up before anything of the event is.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    compiled: Arc<Compiled>,
    subject: String,
    topic: Option<Arc<CompiledTopic>>,
}

impl Destination {
    /// # Errors
    /// [`PublishError::NoService`], [`PublishError::Undeclared`].
    pub(crate) fn find(compiled: Arc<Compiled>, service: &str, subject: &str) -> Result<Self, PublishError> {
        let Some(publisher) = compiled.publisher(service) else {
            return Err(PublishError::NoService { service: service.to_owned() });
        };
        let is_declared = is_subject(subject) && publisher.publishes.iter().any(|pattern| matches(pattern, subject));
        if !is_declared {
            let declared = publisher.publishes.clone();
            return Err(PublishError::Undeclared { service: service.to_owned(), topic: subject.to_owned(), declared });
        }
        let topic = compiled.topic(subject).cloned();
        Ok(Self { compiled, subject: subject.to_owned(), topic })
    }

    /// Counts what came to nothing before it was an event, as one.
    pub(crate) fn count_refused(&self) {
        if let Some(topic) = &self.topic {
            topic.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The same of what may be tried again.
    pub(crate) fn count_failed(&self) {
        if let Some(topic) = &self.topic {
            topic.counts.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether an event may be published here.
    fn check(&self, event: &Event) -> Result<(), PublishError> {
        attribute::check(event)?;
        let max = self.compiled.config.limits.event_bytes_max;
        if size(event) > max {
            return Err(PublishError::TooLarge { max });
        }
        if header_bytes(event) > HEADERS_BYTES_MAX {
            return Err(PublishError::AttributesTooLarge { max: HEADERS_BYTES_MAX });
        }
        let schema = self.topic.as_ref().and_then(|topic| topic.schema.as_ref());
        match schema.map(|schema| schema.check(event)) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(violations)) => Err(PublishError::Schema { violations }),
        }
    }

    /// Publishes all of them in their order, or says why not all of them; some may be there then.
    pub(crate) async fn publish(&self, shared: &Shared, events: &[Event]) -> Result<Vec<Published>, PublishError> {
        let result = self.check_and_send(shared, events).await;
        if let Some(topic) = &self.topic {
            topic.counts.add(&result, events.len());
        }
        result
    }

    async fn check_and_send(&self, shared: &Shared, events: &[Event]) -> Result<Vec<Published>, PublishError> {
        let max = self.compiled.config.limits.batch_events_max;
        if events.len() > max {
            return Err(PublishError::TooMany { count: events.len(), max });
        }
        let in_batch = |at: usize, error: PublishError| match events.len() {
            1 => error,
            _ => PublishError::InBatch { at, source: Box::new(error) },
        };
        for (at, event) in events.iter().enumerate() {
            self.check(event).map_err(|error| in_batch(at, error))?;
        }
        let session = shared.publishing.session().map_err(|error| PublishError::unavailable(kit::Chain(&error)))?;
        let until = Instant::now() + self.compiled.config.limits.publish_timeout;
        tokio::select! {
            biased;
            sent = timeout_at(until, self.send(&session, events)) => match sent {
                Ok(sent) => sent.map_err(|(at, error)| in_batch(at, error)),
                Err(_) => Err(PublishError::unavailable("the broker does not answer in time")),
            },
            () = session.lost() => Err(PublishError::unavailable("the connection to the broker was lost")),
        }
    }

    /// Order: all are written before the first answer is waited for, as a batch is one round trip then.
    async fn send(&self, session: &Session, events: &[Event]) -> Result<Vec<Published>, (usize, PublishError)> {
        let mut sent: Vec<PublishAckFuture> = Vec::with_capacity(events.len());
        // All of it or nothing: who had room for a part only would keep it from others who wait as well.
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let room = session.room.acquire_many(count).await;
        let turn = session.turn.read().await;
        for (at, event) in events.iter().enumerate() {
            let (mut headers, data) = nats::encode(event);
            headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id(event));
            let publish = session.jetstream.publish_with_headers(self.subject.clone(), headers, data);
            sent.push(publish.await.map_err(|error| (at, self.explain(session, &error)))?);
        }
        drop(turn);
        let mut published = Vec::with_capacity(events.len());
        for (at, (event, sent)) in events.iter().zip(sent).enumerate() {
            let ack = sent.await.map_err(|error| (at, self.explain(session, &error)))?;
            published.push(Published::new(event, ack));
        }
        drop(room);
        Ok(published)
    }

    fn explain(&self, session: &Session, error: &jetstream::context::PublishError) -> PublishError {
        let refused = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
        let is_too_large = |error: &jetstream::Error| error.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM;
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge { max: session.client.max_payload() },
            PublishErrorKind::StreamNotFound => {
                PublishError::unavailable(format_args!("no stream takes {} at the moment", self.subject))
            }
            _ if refused.is_some_and(is_too_large) => PublishError::TooLargeForStream,
            _ => PublishError::unavailable(kit::Chain(error)),
        }
    }
}

/// Whether an event, put in the place of one of the topic, could have been published there.
///
/// # Errors
/// Why not, in words.
pub(crate) fn check_edited(compiled: Arc<Compiled>, subject: &str, event: &Event) -> Result<(), String> {
    let topic = compiled.topic(subject).cloned();
    let destination = Destination { compiled, subject: subject.to_owned(), topic };
    if event.content_type.as_deref().is_some_and(attribute::is_json)
        && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&event.data)
    {
        return Err(format!("its content type says JSON, and its data is none: {error}"));
    }
    destination.check(event).map_err(|error| match &error {
        PublishError::Schema { violations } => {
            let each = violations
                .iter()
                .map(|one| match one.pointer.as_str() {
                    "" => one.detail.clone(),
                    pointer => format!("{pointer}: {}", one.detail),
                })
                .collect::<Vec<_>>();
            format!("{error}: {}", each.join("; "))
        }
        _ => kit::Chain(&error).to_string(),
    })
}

/// Publishes one event that does not come over HTTP.
pub(crate) async fn publish_one(
    shared: &Shared,
    service: &str,
    topic: &str,
    mut event: Event,
) -> Result<Published, PublishError> {
    let destination = Destination::find(shared.compiled(), service, topic)?;
    attribute::fill(&mut event, Timestamp::now());
    let mut published = destination.publish(shared, std::slice::from_ref(&event)).await?;
    Ok(published.pop().expect("one event gives one answer"))
}

/// Limit: what the attributes of an event take as headers; edges take heads of 32 KiB.
const HEADERS_BYTES_MAX: usize = 24 << 10;
/// What a line of a head has beside name and value.
const LINE_BYTES: usize = "ce-: \r\n".len();

/// Bytes that the attributes take as headers of HTTP, at least where these are many.
fn header_bytes(event: &Event) -> usize {
    let plain: usize = event.attributes.iter().map(|(name, value)| LINE_BYTES + name.len() + value.len()).sum();
    // A byte becomes three at most.
    if plain * 3 <= HEADERS_BYTES_MAX {
        return plain;
    }
    let mut headers = http::HeaderMap::new();
    binding::print(event, &mut headers);
    headers.iter().map(|(name, value)| LINE_BYTES + name.as_str().len() + value.len()).sum()
}

/// Bytes of head and data.
fn size(event: &Event) -> usize {
    let attributes = event.attributes.iter().map(|(name, value)| name.len() + value.len());
    attributes.sum::<usize>() + event.content_type.as_ref().map_or(0, String::len) + event.data.len()
}

/// What an event is known by for deduplication: equal for equal source and id, and for those only.
pub(crate) fn message_id(event: &Event) -> String {
    let (id, source) = (event.id(), event.source());
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(format!("{}:", source.len()).as_bytes());
    context.update(source.as_bytes());
    context.update(b" ");
    context.update(id.as_bytes());
    context.finish().as_ref()[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
        text
    })
}
