//! Many events of one service on their way at once, and yet in order. Called by the handle, for outboxes.
//!
//! Each but the first asks the broker to be stored right behind the one before it (`Nats-Expected-Last-Msg-Id`): where one
//! is not stored, for whatever reason, none behind it is. Where another publisher's event came between, the rest is refused
//! as well, and is to be sent once more: that costs time, never the order. The first asks for nothing, so that there is
//! always one that is stored.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{self, PublishAckFuture, PublishErrorKind};
use jiff::Timestamp;
use tokio::time::timeout;

use super::{Destination, PublishError, Published, message_id};
use crate::cloudevent::{attribute, nats};
use crate::event::Event;
use crate::handle::Shared;
use crate::link::Session;

/// What came of a run of events.
#[derive(Debug)]
pub struct Run {
    /// The first ones, which are durable.
    pub published: Vec<Published>,
    /// Why the one behind them is not, and none after it. Where that is not said the rest may be sent at once: another
    /// publisher's event came between, or the next one goes to another stream. At least one was published then.
    pub failure: Option<PublishError>,
}

/// Why it goes no further; `None` where the rest may be sent at once.
type Stop = Option<PublishError>;

/// Publishes as many of the first ones as go in one round, topics and events.
pub(crate) async fn publish(shared: &Shared, service: &str, events: Vec<(String, Event)>) -> Run {
    let compiled = shared.compiled();
    let mut ready: Vec<(Destination, Event)> = Vec::with_capacity(events.len());
    let mut refused = None;
    for (topic, mut event) in events {
        let destination = match Destination::find(Arc::clone(&compiled), service, &topic) {
            Ok(destination) => destination,
            Err(error) => {
                refused = Some((None, error));
                break;
            }
        };
        if ready.first().is_some_and(|(first, _)| !first.is_of_the_stream_of(&destination)) {
            break;
        }
        attribute::fill(&mut event, Timestamp::now());
        if let Err(error) = destination.check(&event) {
            refused = Some((destination.topic, error));
            break;
        }
        ready.push((destination, event));
    }
    let (published, mut stop) = send(shared, &ready, compiled.config.limits.publish_timeout).await;
    let mut failed = ready.get(published.len()).and_then(|(destination, _)| destination.topic.clone());
    if published.len() == ready.len()
        && let Some((topic, error)) = refused
    {
        (failed, stop) = (topic, Some(error));
    }
    for ((destination, _), published) in ready.iter().zip(&published) {
        if let Some(topic) = &destination.topic {
            topic.counts.add_published(1, usize::from(published.is_duplicate));
        }
    }
    if let (Some(topic), Some(error)) = (failed, &stop) {
        topic.counts.add_failure(error, 1);
    }
    Run { published, failure: stop }
}

/// Order: all are written before the first answer is waited for. Each may take `patience`: those before it have been answered.
async fn send(shared: &Shared, events: &[(Destination, Event)], patience: Duration) -> (Vec<Published>, Stop) {
    if events.is_empty() {
        return (Vec::new(), None);
    }
    let session = match shared.publishing.session() {
        Ok(session) => session,
        Err(error) => return (Vec::new(), Some(PublishError::unavailable(kit::Chain(&error)))),
    };
    let mut stop = None;
    let mut sent: Vec<PublishAckFuture> = Vec::with_capacity(events.len());
    let mut before: Option<String> = None;
    for (destination, event) in events {
        let (mut headers, data) = nats::encode(event);
        let id = message_id(event);
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        if let Some(before) = before.replace(id) {
            headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, before);
        }
        let publish = session.jetstream.publish_with_headers(destination.subject.clone(), headers, data);
        match destination.answer(&session, patience, publish).await {
            Ok(waiting) => sent.push(waiting),
            Err(why) => {
                stop = why;
                break;
            }
        }
    }
    let mut published = Vec::with_capacity(sent.len());
    for ((destination, event), waiting) in events.iter().zip(sent) {
        match destination.answer(&session, patience, waiting.into_future()).await {
            Ok(ack) => published.push(Published::new(event, ack)),
            Err(why) => return (published, why),
        }
    }
    (published, stop)
}

impl Destination {
    fn is_of_the_stream_of(&self, other: &Self) -> bool {
        let stream = |one: &Self| one.topic.as_ref().map(|topic| topic.config.stream.clone());
        self.subject == other.subject || stream(self).is_some_and(|own| stream(other) == Some(own))
    }

    async fn answer<T>(
        &self,
        session: &Session,
        patience: Duration,
        wait: impl Future<Output = Result<T, context::PublishError>>,
    ) -> Result<T, Stop> {
        tokio::select! {
            // Order: an answer that is there counts, even of a connection that is not.
            biased;
            answer = timeout(patience, wait) => match answer {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastMessageId => Err(None),
                Ok(Err(error)) => Err(Some(self.explain(session, &error))),
                Err(_) => Err(Some(PublishError::unavailable("the broker does not answer in time"))),
            },
            () = session.lost() => Err(Some(PublishError::unavailable("the connection to the broker was lost"))),
        }
    }
}
