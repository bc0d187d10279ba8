//! What a subscription keeps in the broker: its progress, what is aside, dead letters. Everything here goes on until it is
//! done, however long the broker is away; why it is not done yet is told in [`Store::trouble`].

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind, RawMessageErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use jiff::Timestamp;
use kit::backoff::Backoff;
use tokio::time::sleep;

use super::cursor::{Content, Cursor, From, Next, Wish};
use super::kept::{Found, Kept};
use super::progress::Record;
use crate::cloudevent::nats;
use crate::config::Subscription;
use crate::error::Error;
use crate::event::Event;
use crate::link::{Link, Session};

const MESSAGE_ID: &str = "Nats-Msg-Id";
/// How soon something is tried again.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };
/// A topic for dead letters without a stream is given up after so many attempts: they are kept in any case.
const TOPIC_ATTEMPTS_MAX: u32 = 5;

/// The way to what one subscription keeps. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    link: Link,
    name: Arc<str>,
    dead_letter_topic: Option<Arc<str>>,
    trouble: Arc<Mutex<Option<String>>>,
}

/// Something that was aside at the beginning.
#[derive(Debug)]
pub(crate) struct Aside {
    pub(crate) kept: Kept,
    /// Its number in the stream of what is aside.
    pub(crate) stored: u64,
}

impl Store {
    pub(crate) fn new(link: Link, subscription: &Subscription) -> Self {
        Self {
            link,
            name: subscription.name.as_str().into(),
            dead_letter_topic: subscription.dead_letter_topic.as_deref().map(Arc::from),
            trouble: Arc::default(),
        }
    }

    /// Why something is not kept yet.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        let mut own = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *own != trouble {
            *own = trouble;
        }
    }

    /// Does something until it is done. Never returns once the link has ended: whoever waits for it is ended then.
    async fn insist<T, F>(&self, what: &'static str, once: impl Fn(Session) -> F) -> T
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut link = self.link.clone();
        let mut attempt = 0;
        loop {
            let Ok(session) = link.connected().await else { std::future::pending().await };
            let result = tokio::select! {
                result = once(session.clone()) => result,
                () = session.lost() => continue,
            };
            match result {
                Ok(value) => {
                    if attempt > 0 {
                        self.set_trouble(None);
                    }
                    return value;
                }
                Err(error) => self.set_trouble(Some(format!("{what}: {}", kit::Chain(&error)))),
            }
            sleep(BACKOFF.delay(attempt, fastrand::f64())).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Writes the progress.
    pub(crate) async fn record(&self, record: &Record) {
        let payload = &Bytes::from(record.encode());
        self.insist("the progress cannot be written", |session| async move {
            let subject = session.names.progress_subject(&self.name);
            publish(&session, subject, HeaderMap::new(), payload.clone()).await.map(drop)
        })
        .await;
    }

    /// The progress, where there is any.
    ///
    /// # Errors
    /// [`Error::Unreadable`], [`Error::Broker`].
    pub(crate) async fn load_record(&self, session: &Session) -> Result<Option<Record>, Error> {
        let stream = session.jetstream.get_stream_no_info(&session.names.progress).await;
        let stream = stream.map_err(|error| failed("read the progress", error))?;
        let subject = session.names.progress_subject(&self.name);
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => {
                let unreadable = || Error::Unreadable { what: format!("the progress of {}", self.name) };
                Record::decode(&message.payload).map(Some).ok_or_else(unreadable)
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::JetStream(ref error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND) => {
                Ok(None)
            }
            Err(error) => Err(failed("read the progress", error)),
        }
    }

    /// Everything that is aside, without the events themselves, and without what their attempts were: only those are as large.
    ///
    /// # Errors
    /// [`Error::Unreadable`], [`Error::Away`], [`Error::Broker`].
    pub(crate) async fn load_aside(&self, session: &Session) -> Result<Vec<Aside>, Error> {
        let wish = Wish {
            stream: session.names.aside.clone(),
            filter: format!("{}.>", session.names.aside_subject(&self.name)),
            from: From::Sequence(1),
            content: Content::Headers,
            description: format!("what is aside of {}", self.name),
        };
        let mut all = Vec::new();
        let broken = || Error::Away { reason: "what is aside was not read to its end".to_owned() };
        let mut cursor = Cursor::open(session, &wish).await?;
        while cursor.pending > 0 {
            cursor.pull(PAGE, PAGE * PAGE).await?;
            let next = tokio::time::timeout(READ_TIME_MAX, cursor.next()).await.map_err(|_| broken())?;
            match next {
                Next::Nothing => {}
                Next::Lost => return Err(broken()),
                Next::Message(read) => {
                    let unreadable =
                        || Error::Unreadable { what: format!("number {} of what is aside", read.sequence) };
                    let kept = read.message.headers.as_ref().and_then(Kept::decode).ok_or_else(unreadable)?;
                    all.push(Aside { kept: kept.without_attempts(), stored: read.sequence });
                }
            }
        }
        cursor.close().await;
        Ok(all)
    }

    /// Puts an event aside, of which nothing is there. Gives its number there.
    pub(crate) async fn put_aside(&self, kept: &Kept, event: &Event) -> u64 {
        let id = &kit::ids::unique();
        let what = "what failed cannot be put aside";
        self.insist(what, |session| async move { self.put(&session, kept, event, id).await }).await
    }

    /// Puts it in the place of what is there of it. None where there is no room: what is there stays.
    pub(crate) async fn put_aside_again(&self, kept: &Kept, event: &Event) -> Option<u64> {
        let id = &kit::ids::unique();
        self.insist("what failed cannot be put aside", |session| async move {
            match self.put(&session, kept, event, id).await {
                Err(error) if is_full(&error) => Ok(None),
                put => put.map(Some),
            }
        })
        .await
    }

    async fn put(&self, session: &Session, kept: &Kept, event: &Event, id: &str) -> Result<u64, Error> {
        let (mut headers, payload) = kept.encode(event, session.client.server_info().max_payload);
        headers.insert(MESSAGE_ID, id);
        let subject = format!("{}.{}", session.names.aside_subject(&self.name), kept.number);
        publish(session, subject, headers, payload).await
    }

    /// Takes an event out of what is aside.
    pub(crate) async fn forget(&self, stored: u64) {
        self.insist("what was done cannot be taken out of what is aside", |session| async move {
            delete(&session, &session.names.aside, stored).await.map(drop)
        })
        .await;
    }

    /// An event that is aside; without attributes where it is gone from its stream. None where somebody has taken it away.
    pub(crate) async fn fetch(&self, stored: u64) -> Option<(Kept, Event)> {
        self.insist("what is aside cannot be read", |session| async move {
            let Some(message) = get(&session, &session.names.aside, stored).await? else { return Ok(None) };
            complete(&session, &message).await
        })
        .await
    }

    /// Keeps a dead letter. Gives its number.
    pub(crate) async fn bury(&self, kept: &Kept, event: &Event) -> u64 {
        let id = &kept.last_attempt().map_or_else(kit::ids::unique, str::to_owned);
        let letter = self
            .insist("a dead letter cannot be kept", |session| async move {
                let (mut headers, payload) = kept.encode(event, session.client.server_info().max_payload);
                headers.insert(MESSAGE_ID, id.as_str());
                publish(&session, session.names.dead_subject(&self.name), headers, payload).await
            })
            .await;
        if let Some(topic) = &self.dead_letter_topic
            && !event.attributes.is_empty()
        {
            self.publish_dead(topic, kept, event, id).await;
        }
        letter
    }

    async fn publish_dead(&self, topic: &str, kept: &Kept, event: &Event, id: &str) {
        let mut event = event.clone();
        for (name, value) in [
            ("atollsubscription", self.name.to_string()),
            ("atollreason", kept.reason.clone()),
            ("atollattempts", kept.attempts_count.to_string()),
        ] {
            event.attributes.insert(name.to_owned(), value);
        }
        let (mut headers, payload) = nats::encode(&event);
        headers.insert(MESSAGE_ID, format!("{}/{id}", self.name));
        let (headers, payload, failures) = (&headers, &payload, &AtomicU32::new(0));
        self.insist("a dead letter cannot be published", |session| async move {
            let published = publish(&session, topic.to_owned(), headers.clone(), payload.clone()).await;
            match published {
                Err(error) if failures.fetch_add(1, Ordering::Relaxed) + 1 >= TOPIC_ATTEMPTS_MAX => {
                    tracing::warn!(topic, error = %kit::Chain(&error), "a dead letter is kept, and was not published");
                    Ok(())
                }
                other => other.map(drop),
            }
        })
        .await;
    }

    /// Whether a dead letter is there.
    pub(crate) async fn has_letter(&self, id: u64) -> bool {
        self.insist("a dead letter cannot be read", |session| async move {
            Ok(get(&session, &session.names.dead, id).await?.is_some())
        })
        .await
    }

    /// Takes a dead letter away.
    pub(crate) async fn drop_letter(&self, id: u64) {
        self.insist("a dead letter cannot be removed", |session| async move {
            delete(&session, &session.names.dead, id).await.map(drop)
        })
        .await;
    }
}

/// Messages of one page, and the longest wait for the next one, where something is read to its end.
pub(crate) const PAGE: usize = 1024;
pub(crate) const READ_TIME_MAX: Duration = Duration::from_secs(10);

async fn publish(session: &Session, subject: String, headers: HeaderMap, payload: Bytes) -> Result<u64, Error> {
    let sent = session.jetstream.publish_with_headers(subject, headers, payload).await;
    let ack = sent.map_err(|error| failed("publish", error))?.await.map_err(|error| failed("publish", error))?;
    Ok(ack.sequence)
}

/// A message of a stream, unless it is not there.
///
/// # Errors
/// [`Error::Broker`].
pub(crate) async fn get(session: &Session, stream: &str, sequence: u64) -> Result<Option<StreamMessage>, Error> {
    let stream = session.jetstream.get_stream_no_info(stream).await.map_err(|error| failed("read a message", error))?;
    match stream.direct_get(sequence).await {
        Ok(message) => return Ok(Some(message)),
        // Another member of a cluster may have it.
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => {}
        Err(error) => return Err(failed("read a message", error)),
    }
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(message)),
        Err(error) => match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            RawMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            _ => Err(failed("read a message", error)),
        },
    }
}

/// Whether it was there.
///
/// # Errors
/// [`Error::Broker`].
pub(crate) async fn delete(session: &Session, stream: &str, sequence: u64) -> Result<bool, Error> {
    let name = stream;
    let stream = session.jetstream.get_stream_no_info(name).await.map_err(|error| failed("remove a message", error))?;
    match stream.delete_message(sequence).await {
        Ok(_) => Ok(true),
        Err(error) => {
            // Servers say in different words that it is not there.
            if get(session, name, sequence).await?.is_none() {
                return Ok(false);
            }
            Err(failed("remove a message", error))
        }
    }
}

/// Whether a stream has refused something for want of room.
fn is_full(error: &Error) -> bool {
    let Error::Broker { source, .. } = error else { return false };
    let refused = source.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    refused.is_some_and(|error| {
        error.error_code() == ErrorCode::STREAM_STORE_FAILED && error.to_string().contains("maximum bytes")
    })
}

/// What a message keeps, with an event that is looked up where it is not in it. Where it is not there either, the event has
/// no attributes.
///
/// # Errors
/// [`Error::Broker`].
pub(crate) async fn complete(session: &Session, message: &StreamMessage) -> Result<Option<(Kept, Event)>, Error> {
    let Some(Found { kept, event }) = Kept::decode_all(&message.headers, &message.payload) else {
        return Ok(None);
    };
    if let Some(event) = event {
        return Ok(Some((kept, event)));
    }
    let found = get(session, &kept.stream, kept.sequence()).await?;
    // Another stream of the name may have given the sequence to another event.
    let same = found.filter(|message| time_of(message) == kept.published);
    let Some(message) = same else { return Ok(Some((kept, Event::default()))) };
    let stored = nats::Stored {
        stream: &kept.stream,
        sequence: kept.sequence(),
        subject: &kept.topic,
        time: kept.published,
        headers: Some(&message.headers),
        payload: &message.payload,
    };
    let event = nats::decode(&stored);
    Ok(Some((kept, event)))
}

/// When its stream took a message.
pub(crate) fn time_of(message: &StreamMessage) -> Timestamp {
    Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).unwrap_or_default()
}

fn failed(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broker { operation, source: Box::new(error) }
}
