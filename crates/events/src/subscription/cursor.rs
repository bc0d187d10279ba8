//! Reads a stream in order from a sequence on: a consumer of its own that acknowledges nothing, pulled as there is room.
//! It lives as long as nothing is missing; then whoever uses it opens another one. Called by the subscription.

use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;
use crate::link::Session;

/// Limit: messages of one pull.
const PULL_MAX: usize = 1024;
/// How long the server keeps a pull, and how often it says that it does.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Nothing was heard although there is a pull: the consumer is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// The server forgets the consumer after this time without a pull.
const INACTIVE_MAX: Duration = Duration::from_secs(60);
/// How soon it is asked again after a refusal.
const AGAIN: Duration = Duration::from_millis(500);
/// A message takes this much beside its payload, for the bound of bytes of a pull.
const MESSAGE_BYTES: usize = 4096;

/// What to read.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) stream: String,
    pub(crate) filter: String,
    pub(crate) from: From,
    pub(crate) content: Content,
    /// For whoever looks at consumers.
    pub(crate) description: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    Sequence(u64),
    Time(Timestamp),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    All,
    Headers,
}

#[derive(Debug)]
pub(crate) struct Cursor {
    session: Session,
    stream: String,
    consumer: String,
    inbox: String,
    messages: Subscriber,
    /// The number of the next message, counted by the consumer.
    next: u64,
    /// Messages that were asked for and have not come.
    outstanding: usize,
    heard: Instant,
    /// Why the server did not take the last pull, and when it is asked again.
    pub(crate) refused: Option<String>,
    again: Option<Instant>,
    /// The most messages that the server gives at once, as far as is known.
    pull_max: usize,
    /// Whether a message has come since the last pull, and whether one pull goes without a bound of bytes, for one message:
    /// it is larger than any bound.
    has_come: bool,
    is_large_next: bool,
    /// Messages behind the last one.
    pub(crate) pending: u64,
    /// What the stream looked like before the consumer was made.
    pub(crate) last_sequence: u64,
    pub(crate) created: i64,
    pub(crate) is_replicated: bool,
}

/// A message of the stream.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) sequence: u64,
    pub(crate) time: Timestamp,
    pub(crate) message: Message,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    Message(Box<Read>),
    /// Nothing but a word of the server.
    Nothing,
    /// Another one must be opened.
    Lost,
}

impl Cursor {
    /// # Errors
    /// [`Error::Broker`]: the stream is not there, or the broker is not.
    pub(crate) async fn open(session: &Session, wish: &Wish) -> Result<Self, Error> {
        let stream =
            session.jetstream.get_stream(&wish.stream).await.map_err(|error| failed("look at a stream", error))?;
        let info = stream.cached_info();
        let (last_sequence, created) =
            (info.state.last_sequence, i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or_default());
        let is_replicated = info.config.num_replicas > 1;
        let consumer = format!("atoll-{}", kit::ids::unique());
        let deliver_policy = match wish.from {
            From::Sequence(sequence) => DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) },
            From::Time(time) => DeliverPolicy::ByStartTime { start_time: to_time(time) },
        };
        let config = pull::Config {
            name: Some(consumer.clone()),
            description: Some(wish.description.clone()),
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: wish.filter.clone(),
            headers_only: wish.content == Content::Headers,
            inactive_threshold: INACTIVE_MAX,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let inbox = session.client.new_inbox();
        let messages =
            session.client.subscribe(inbox.clone()).await.map_err(|error| failed("subscribe to an inbox", error))?;
        let made = stream.create_consumer(config).await.map_err(|error| failed("make a consumer", error))?;
        let pending = made.cached_info().num_pending;
        Ok(Self {
            session: session.clone(),
            stream: wish.stream.clone(),
            consumer,
            inbox,
            messages,
            next: 1,
            outstanding: 0,
            heard: Instant::now(),
            refused: None,
            again: None,
            pull_max: PULL_MAX,
            has_come: false,
            is_large_next: false,
            pending,
            last_sequence,
            created,
            is_replicated,
        })
    }

    /// Asks for more, where there is room for as many messages and bytes.
    ///
    /// # Errors
    /// [`Error::Broker`].
    pub(crate) async fn pull(&mut self, room: usize, room_bytes: usize) -> Result<(), Error> {
        let Some((batch, bytes)) = self.ask(room, room_bytes) else { return Ok(()) };
        let mut request = json!({
            "batch": batch,
            "expires": PULL_EXPIRES.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        if let Some(bytes) = bytes {
            request["max_bytes"] = bytes.into();
        }
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.consumer);
        let payload = request.to_string().into();
        let sent = self.session.client.publish_with_reply(subject, self.inbox.clone(), payload).await;
        sent.map_err(|error| failed("ask for messages", error))?;
        if self.outstanding == 0 {
            self.heard = Instant::now();
        }
        self.outstanding += batch;
        self.has_come = false;
        Ok(())
    }

    /// How many messages, and bytes of them, are asked for now.
    fn ask(&mut self, room: usize, room_bytes: usize) -> Option<(usize, Option<usize>)> {
        let wanted = room.min(self.pull_max);
        // Half of a pull is asked for again as it comes, so that the server always has one.
        if self.again.is_some() || room_bytes == 0 || wanted == 0 || self.outstanding * 2 > wanted {
            return None;
        }
        if std::mem::take(&mut self.is_large_next) {
            // Limit: one message more than the room for bytes.
            return Some((1, None));
        }
        let batch = wanted - self.outstanding;
        Some((batch, Some(room_bytes + batch * MESSAGE_BYTES)))
    }

    /// Whether it is up to the server to send something.
    pub(crate) fn is_waiting(&self) -> bool {
        self.outstanding > 0
    }

    /// Whether it must be given up for silence.
    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        self.outstanding > 0 && now > self.heard + SILENCE_MAX
    }

    /// Waits for the next message, or until it may be asked again. Cancel safe.
    pub(crate) async fn next(&mut self) -> Next {
        let again = self.again;
        tokio::select! {
            message = self.messages.next() => message.map_or(Next::Lost, |message| self.take(message)),
            () = sleep_until(again.unwrap_or(self.heard)), if again.is_some() => {
                self.again = None;
                Next::Nothing
            }
        }
    }

    /// The next message, if it has come already.
    pub(crate) fn try_next(&mut self) -> Option<Next> {
        let next = futures_util::FutureExt::now_or_never(self.messages.next())?;
        Some(next.map_or(Next::Lost, |message| self.take(message)))
    }

    /// How many messages are behind the last one, asked now.
    ///
    /// # Errors
    /// [`Error::Broker`].
    pub(crate) fn ask_pending(&self) -> impl Future<Output = Result<u64, Error>> + Send + use<> {
        let (jetstream, stream, consumer) =
            (self.session.jetstream.clone(), self.stream.clone(), self.consumer.clone());
        async move {
            let stream =
                jetstream.get_stream_no_info(&stream).await.map_err(|error| failed("look at a stream", error))?;
            let info = stream.consumer_info(&consumer).await.map_err(|error| failed("look at a consumer", error))?;
            Ok(info.num_pending)
        }
    }

    /// Tells the server that nobody needs the consumer any more.
    pub(crate) async fn close(self) {
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.stream, self.consumer);
        // Without it the server forgets it by itself.
        let _ = self.session.client.publish(subject, Vec::new().into()).await;
    }

    fn take(&mut self, message: Message) -> Next {
        self.heard = Instant::now();
        if let Some(status) = message.status
            && status != StatusCode::OK
        {
            return self.take_status(status, &message);
        }
        let Some(place) = message.reply.as_ref().and_then(|reply| Place::parse(reply.as_str())) else {
            return Next::Nothing;
        };
        if place.consumer_sequence != self.next {
            return Next::Lost;
        }
        self.next += 1;
        self.outstanding = self.outstanding.saturating_sub(1);
        self.pending = place.pending;
        (self.has_come, self.refused) = (true, None);
        Next::Message(Box::new(Read { sequence: place.sequence, time: place.time, message }))
    }

    fn take_status(&mut self, status: StatusCode, message: &Message) -> Next {
        let description = message.description.as_deref().unwrap_or_default().to_ascii_lowercase();
        match status.as_u16() {
            100 => Next::Nothing,
            // The pull is over: its time, or its bytes. Others are gone with their consumer.
            404 | 408 | 409 if !description.contains("consumer") && !description.contains("leader") => {
                let left = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
                let left = left.and_then(|left| left.as_str().parse().ok()).unwrap_or(self.outstanding);
                self.outstanding = self.outstanding.saturating_sub(left);
                if status.as_u16() == 409 {
                    self.was_refused(&description);
                }
                Next::Nothing
            }
            _ => Next::Lost,
        }
    }
}

impl Cursor {
    /// The server has ended a pull before its time. Where that was for nothing that came, another one must be otherwise.
    fn was_refused(&mut self, description: &str) {
        let is_limit = description.contains("exceeded ");
        if description.contains("maxbytes") && (is_limit || (self.outstanding == 0 && !self.has_come)) {
            self.is_large_next = true;
        } else if description.contains("maxrequestbatch") {
            self.pull_max = (self.pull_max / 2).max(1);
        }
        if is_limit {
            self.refused = Some(format!("the broker gives no messages: {description}"));
            self.again = Some(Instant::now() + AGAIN);
        }
    }
}

/// Where a message is, as its reply subject says (ADR-15).
struct Place {
    sequence: u64,
    consumer_sequence: u64,
    time: Timestamp,
    pending: u64,
}

impl Place {
    fn parse(reply: &str) -> Option<Self> {
        let mut tokens = reply.strip_prefix("$JS.ACK.")?.split('.');
        // With a domain and an account before the stream there are more than the seven.
        if tokens.clone().count() > 7 {
            tokens.nth(1);
        }
        let mut numbers = tokens.skip(3).map(|token| token.parse::<u64>().ok());
        let mut number = || numbers.next().flatten();
        let (sequence, consumer_sequence, time, pending) = (number()?, number()?, number()?, number()?);
        let time = Timestamp::from_nanosecond(i128::from(time)).ok()?;
        Some(Self { sequence, consumer_sequence, time, pending })
    }
}

fn to_time(time: Timestamp) -> DateTime {
    DateTime::from_unix_timestamp_nanos(time.as_nanosecond()).unwrap_or(DateTime::UNIX_EPOCH)
}

fn failed(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broker { operation, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_reply_are_read() {
        for reply in [
            "$JS.ACK.ORDERS.c1.1.17.5.1700000000000000000.3",
            "$JS.ACK._.hash.ORDERS.c1.1.17.5.1700000000000000000.3.random",
        ] {
            let place = Place::parse(reply).unwrap();
            assert_eq!((place.sequence, place.consumer_sequence, place.pending), (17, 5, 3));
            assert_eq!(place.time.as_second(), 1_700_000_000);
        }
        for bad in ["", "_INBOX.x", "$JS.ACK.", "$JS.ACK.ORDERS.c1.1.x.5.1.3", "$JS.ACK.ORDERS.c1.1.17"] {
            assert!(Place::parse(bad).is_none(), "{bad}");
        }
    }
}
