//! Dead letters, and deliveries of the past: what operators ask the engine. Each is a message of a stream of the engine's
//! own, whose number is the dead letter's. What is to become of one is asked of its subscription, which alone knows its keys.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{ControlFlow, Range};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::message::StreamMessage;
use futures_util::TryStreamExt;
use tokio::time::timeout;

use crate::config::Since;
use crate::error::Error;
use crate::event::Event;
use crate::handle::Handle;
use crate::link::Session;
use crate::publishing;
use crate::reading::{DeadLetter, Replay};
use crate::subscription::cursor::{Content, Cursor, From, Next, Read, Wish};
use crate::subscription::kept::Kept;
use crate::subscription::store::{self, PAGE, READ_TIME_MAX};

/// Which dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Of this subscription only.
    pub subscription: Option<String>,
    /// With a higher number; the first ones of them are given.
    pub after: Option<u64>,
    /// With a lower number; without `after` the last ones of them are given.
    pub before: Option<u64>,
    /// Not more than this.
    pub limit: usize,
}

/// What is done with every dead letter.
#[derive(Clone, Copy, Debug)]
enum What {
    Redrive,
    Drop,
}

impl Handle {
    /// Dead letters, by their numbers, without what their attempts were and without the data of their events: only
    /// [one](Self::dead_letter) is shown whole. With neither `after` nor `before` the last ones.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Broker`], [`Error::Ended`].
    pub async fn dead_letters(&self, query: Query) -> Result<Vec<DeadLetter>, Error> {
        let session = self.shared.link.session()?;
        let before = query.before.unwrap_or(u64::MAX);
        if let Some(after) = query.after {
            return read(&session, &query, after.saturating_add(1)..before, Which::First).await;
        }
        let last = last(&session).await?.min(before.saturating_sub(1));
        if last == 0 {
            return Ok(Vec::new());
        }
        // Backwards in ever larger steps, as nobody knows how many of the numbers are taken.
        let mut step = u64::try_from(query.limit.max(1)).unwrap_or(u64::MAX);
        loop {
            let from = (last + 1).saturating_sub(step).max(1);
            let letters = read(&session, &query, from..before, Which::Last).await?;
            if letters.len() >= query.limit || from == 1 {
                return Ok(letters);
            }
            step = step.saturating_mul(4);
        }
    }

    /// How many dead letters there are of each subscription that has any.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Broker`], [`Error::Ended`].
    pub async fn dead_letter_counts(&self) -> Result<BTreeMap<String, u64>, Error> {
        let session = self.shared.link.session()?;
        if last(&session).await? == 0 {
            return Ok(BTreeMap::new());
        }
        let stream = session.jetstream.get_stream_no_info(&session.names.dead).await;
        let stream = stream.map_err(|error| failed("look at the dead letters", error))?;
        let info = stream.info_with_subjects(session.names.dead_subject("*")).await;
        let info = info.map_err(|error| failed("look at the dead letters", error))?;
        let counts: Vec<(String, usize)> =
            info.try_collect().await.map_err(|error| failed("look at the dead letters", error))?;
        Ok(counts.into_iter().map(|(subject, count)| (subscription_of(&subject), count as u64)).collect())
    }

    /// One dead letter.
    ///
    /// # Errors
    /// [`Error::NoDeadLetter`], [`Error::Away`], [`Error::Broker`], [`Error::Ended`].
    pub async fn dead_letter(&self, id: u64) -> Result<DeadLetter, Error> {
        let session = self.shared.link.session()?;
        let (kept, event, subscription, at) = find(&session, id).await?;
        let kept = if event.attributes.is_empty() { kept.without_event() } else { kept };
        Ok(kept.dead_letter(id, &subscription, event, at))
    }

    /// Tries a dead letter again, now, as if it had never been tried; with `edited` what is delivered is that. It is marked
    /// `atoll-redriven`, and `atoll-out-of-order` where a later event of its key was delivered already. The dead letter is
    /// removed when the event is safely on its way.
    ///
    /// # Errors
    /// [`Error::NoDeadLetter`], [`Error::Gone`], [`Error::Edited`] where `edited` could not have been published,
    /// [`Error::NoSubscription`], [`Error::Busy`], [`Error::Away`], [`Error::Broker`], [`Error::Ended`].
    pub async fn redrive(&self, id: u64, edited: Option<Event>) -> Result<(), Error> {
        let session = self.shared.link.session()?;
        let (mut kept, mut event, subscription, _) = find(&session, id).await?;
        let remote = self.shared.remote(&subscription)?;
        if let Some(edited) = edited {
            let refused = |reason| Error::Edited { id, reason };
            publishing::check_edited(self.shared.compiled(), &kept.topic, &edited).map_err(refused)?;
            kept.renew();
            kept.is_edited = true;
            let max = session.client.server_info().max_payload;
            if !kept.has_room_for(&edited, max) {
                return Err(refused(format!("with what is remembered of it it is larger than {max} bytes")));
            }
            event = edited;
        } else if event.attributes.is_empty() {
            return Err(Error::Gone { id });
        }
        remote.redrive(id, kept, event).await
    }

    /// Tries all dead letters again that are there now, of one subscription or of all, in their order. Gives how many they
    /// were. Those of subscriptions that do not run stay.
    ///
    /// # Errors
    /// [`Error::NoSubscription`], [`Error::Away`], [`Error::Broker`], [`Error::Ended`]; what was redriven until then is.
    pub async fn redrive_all(&self, subscription: Option<&str>) -> Result<u64, Error> {
        if let Some(subscription) = subscription {
            self.shared.remote(subscription)?;
        }
        self.all(subscription, What::Redrive).await
    }

    /// Gives up all dead letters that are there now, of one subscription or of all. Gives how many they were. What is on its
    /// way stays.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Broker`], [`Error::Ended`]; what was dropped until then is.
    pub async fn drop_all(&self, subscription: Option<&str>) -> Result<u64, Error> {
        self.all(subscription, What::Drop).await
    }

    /// Does something with each of those that are there now, and counts for how many it was done.
    async fn all(&self, subscription: Option<&str>, what: What) -> Result<u64, Error> {
        let session = self.shared.link.session()?;
        let end = last(&session).await? + 1;
        let (mut count, mut from) = (0, 1);
        loop {
            let mut ids = Vec::new();
            walk(&session, subscription, from..end, Content::Headers, |read| {
                ids.push(read.sequence);
                if ids.len() < PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .await?;
            let Some(last) = ids.last() else { return Ok(count) };
            from = last + 1;
            for id in ids {
                let done = match what {
                    What::Redrive => self.redrive(id, None).await,
                    What::Drop => self.drop_dead_letter(id).await,
                };
                match done {
                    Ok(()) => count += 1,
                    Err(
                        Error::NoDeadLetter { .. }
                        | Error::NoSubscription { .. }
                        | Error::Busy { .. }
                        | Error::Gone { .. }
                        | Error::Unreadable { .. },
                    ) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Gives up a dead letter. What waits for it goes on.
    ///
    /// # Errors
    /// [`Error::NoDeadLetter`], [`Error::Busy`], [`Error::Away`], [`Error::Broker`], [`Error::Ended`].
    pub async fn drop_dead_letter(&self, id: u64) -> Result<(), Error> {
        let session = self.shared.link.session()?;
        let message = message(&session, id).await?;
        let remote = self.shared.remote(&subscription_of(&message.subject)).ok();
        match remote.zip(Kept::decode(&message.headers)) {
            Some((remote, kept)) => remote.drop_letter(id, kept.number).await,
            // What it held is looked at when the subscription begins again.
            None => match store::delete(&session, &session.names.dead, id).await? {
                true => Ok(()),
                false => Err(Error::NoDeadLetter { id }),
            },
        }
    }

    /// Delivers again from then on, in order, marked `atoll-replayed` as far as it was delivered before. Returns when the
    /// cursor is set back, which is when what was in flight has ended.
    ///
    /// # Errors
    /// [`Error::NoSubscription`], [`Error::Busy`], [`Error::Away`], [`Error::Broker`], [`Error::Ended`].
    pub async fn replay(&self, subscription: &str, since: Since) -> Result<Replay, Error> {
        self.shared.remote(subscription)?.replay(since).await
    }
}

/// The highest number that was ever given; 0 where nothing was ever delivered, and none could be.
async fn last(session: &Session) -> Result<u64, Error> {
    match session.jetstream.get_stream(&session.names.dead).await {
        Ok(stream) => Ok(stream.cached_info().state.last_sequence),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(0),
            _ => Err(failed("look at the dead letters", error)),
        },
    }
}

/// Which of more than are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    First,
    Last,
}

/// Those of a query with these numbers, as many as it wants. Holds no more than it gives.
async fn read(session: &Session, query: &Query, ids: Range<u64>, which: Which) -> Result<Vec<DeadLetter>, Error> {
    let limit = query.limit;
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut letters = VecDeque::new();
    walk(session, query.subscription.as_deref(), ids, Content::Headers, |read| {
        let headers = read.message.headers.clone().unwrap_or_default();
        if let Some((kept, event)) = Kept::decode_head(&headers) {
            if letters.len() == limit {
                letters.pop_front();
            }
            let subscription = subscription_of(&read.message.subject);
            letters.push_back(kept.dead_letter(read.sequence, &subscription, event, read.time));
        }
        let is_enough = which == Which::First && letters.len() == limit;
        if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await?;
    Ok(letters.into())
}

/// Goes over the messages with these numbers, in order, until it is told to stop.
async fn walk(
    session: &Session,
    subscription: Option<&str>,
    ids: Range<u64>,
    content: Content,
    mut each: impl FnMut(&Read) -> ControlFlow<()>,
) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let wish = Wish {
        stream: session.names.dead.clone(),
        filter: session.names.dead_subject(subscription.unwrap_or("*")),
        from: From::Sequence(ids.start),
        content,
        description: "dead letters".to_owned(),
    };
    let mut cursor = Cursor::open(session, &wish).await?;
    let away = || Error::Away { reason: "dead letters were not read to their end".to_owned() };
    while cursor.pending > 0 {
        cursor.pull(PAGE, PAGE * PAGE).await?;
        match timeout(READ_TIME_MAX, cursor.next()).await.map_err(|_| away())? {
            Next::Nothing => {}
            Next::Lost => return Err(away()),
            Next::Message(read) if read.sequence >= ids.end || each(&read).is_break() => break,
            Next::Message(_) => {}
        }
    }
    cursor.close().await;
    Ok(())
}

async fn message(session: &Session, id: u64) -> Result<StreamMessage, Error> {
    let missing = || Error::NoDeadLetter { id };
    if id == 0 {
        return Err(missing());
    }
    store::get(session, &session.names.dead, id).await?.ok_or_else(missing)
}

/// With an event without attributes where that is gone.
async fn find(session: &Session, id: u64) -> Result<(Kept, Event, String, jiff::Timestamp), Error> {
    let message = message(session, id).await?;
    let at = jiff::Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).unwrap_or_default();
    let unreadable = || Error::Unreadable { what: format!("dead letter {id}") };
    let (kept, event) = store::complete(session, &message).await?.ok_or_else(unreadable)?;
    Ok((kept, event, subscription_of(&message.subject), at))
}

/// The last token of the subject.
fn subscription_of(subject: &str) -> String {
    subject.rsplit('.').next().unwrap_or_default().to_owned()
}

fn failed(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broker { operation, source: Box::new(error) }
}
