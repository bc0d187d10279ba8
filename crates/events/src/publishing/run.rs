//! Many events of one service on their way at once, and yet in order. Called by the handle, for outboxes.
//!
//! Each but the first asks the broker to be stored right behind the one before it (`Nats-Expected-Last-Msg-Id`): where one
//! is not stored, for whatever reason, none behind it is. Where another publisher's event came between, the rest is refused
//! as well, and is to be sent once more: that costs time, never the order. The first asks for nothing, so that there is
//! always one that is stored. One that was stored before is answered as such whatever it expects.

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
    /// publisher's event came between, the next one goes to another stream, or only one may go at once. At least one was
    /// published then, unless there was none.
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
    let events = match may_expect(&session, events).await {
        true => events,
        false => &events[..1],
    };
    let (sent, mut stop) = write(&session, events, patience).await;
    let mut published = Vec::with_capacity(sent.len());
    for ((destination, event), waiting) in events.iter().zip(sent) {
        match destination.answer(&session, patience, waiting.into_future()).await {
            Ok(ack) => published.push(Published::new(event, ack)),
            Err(why) => {
                stop = why;
                break;
            }
        }
    }
    let stop = match stop {
        None if published.is_empty() => Some(PublishError::unavailable("the broker expects what was not asked for")),
        // What it asks for is a part of its size: it goes first the next time, without.
        Some(error) if error.is_refusal() && !published.is_empty() => None,
        stop => stop,
    };
    (published, stop)
}

/// Whether several may go at once. With replicas nats-server takes an id for used from when the message is proposed, also
/// where it is not stored then for what it expects: to send it once more is a conflict for as long as ids are known.
async fn may_expect(session: &Session, events: &[(Destination, Event)]) -> bool {
    let stream =
        events.first().and_then(|(destination, _)| destination.topic.as_ref()).map(|topic| &topic.config.stream);
    match stream {
        _ if events.len() == 1 => true,
        Some(stream) => !session.is_replicated(stream).await,
        None => false,
    }
}

/// Writes them, each with what it expects, up to the first that cannot be.
async fn write(
    session: &Session,
    events: &[(Destination, Event)],
    patience: Duration,
) -> (Vec<PublishAckFuture>, Stop) {
    let mut before: Option<String> = None;
    let encode = |(destination, event): &(Destination, Event)| {
        let (mut headers, data) = nats::encode(event);
        let id = message_id(event);
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        if let Some(before) = before.replace(id) {
            headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, before);
        }
        (destination.subject.clone(), headers, data)
    };
    // Not while others wait for their turn.
    let encoded: Vec<_> = events.iter().map(encode).collect();
    let mut sent = Vec::with_capacity(events.len());
    let Ok(_turn) = timeout(patience, session.turn.write()).await else {
        return (sent, Some(PublishError::unavailable("the connection to the broker is busy")));
    };
    for ((destination, _), (subject, headers, data)) in events.iter().zip(encoded) {
        let publish = session.jetstream.publish_with_headers(subject, headers, data);
        match destination.answer(session, patience, publish).await {
            Ok(waiting) => sent.push(waiting),
            Err(why) => return (sent, why),
        }
    }
    (sent, None)
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
