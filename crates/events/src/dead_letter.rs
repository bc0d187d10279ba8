//! Dead letters, and deliveries of the past: what operators ask the engine. Each is a message of a stream of the engine's
//! own, whose number is the dead letter's. What is to become of one is asked of its subscription, which alone knows its keys.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use tokio::time::timeout;

use crate::config::Since;
use crate::error::Error;
use crate::event::Event;
use crate::handle::Handle;
use crate::link::Session;
use crate::reading::{DeadLetter, Replay};
use crate::subscription::cursor::{Content, Cursor, From, Next, Wish};
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

impl Handle {
    /// Dead letters, by their numbers. With neither `after` nor `before` the last ones.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Broker`], [`Error::Ended`].
    pub async fn dead_letters(&self, query: Query) -> Result<Vec<DeadLetter>, Error> {
        let session = self.shared.link.session()?;
        let before = query.before.unwrap_or(u64::MAX);
        if let Some(after) = query.after {
            return read(&session, &query, after + 1, before, query.limit).await;
        }
        let last = last(&session).await?.min(before.saturating_sub(1));
        if last == 0 {
            return Ok(Vec::new());
        }
        // Backwards in ever larger steps, as nobody knows how many of the numbers are taken.
        let mut step = u64::try_from(query.limit.max(1)).unwrap_or(u64::MAX);
        loop {
            let from = (last + 1).saturating_sub(step).max(1);
            let mut letters = read(&session, &query, from, before, usize::MAX).await?;
            if letters.len() >= query.limit || from == 1 {
                letters.drain(..letters.len().saturating_sub(query.limit));
                return Ok(letters);
            }
            step = step.saturating_mul(4);
        }
    }

    /// One dead letter.
    ///
    /// # Errors
    /// [`Error::NoDeadLetter`], [`Error::Away`], [`Error::Broker`], [`Error::Ended`].
    pub async fn dead_letter(&self, id: u64) -> Result<DeadLetter, Error> {
        let session = self.shared.link.session()?;
        let (kept, event, subscription, at) = find(&session, id).await?;
        Ok(kept.dead_letter(id, &subscription, event, at))
    }

    /// Tries a dead letter again, now, as if it had never been tried; with `edited` what is delivered is that. It is marked
    /// `atoll-redriven`, and `atoll-out-of-order` where a later event of its key was delivered already. The dead letter is
    /// removed when the event is safely on its way.
    ///
    /// # Errors
    /// [`Error::NoDeadLetter`], [`Error::NoSubscription`], [`Error::Busy`], [`Error::Away`], [`Error::Broker`],
    /// [`Error::Ended`].
    pub async fn redrive(&self, id: u64, edited: Option<Event>) -> Result<(), Error> {
        let session = self.shared.link.session()?;
        let (kept, event, subscription, _) = find(&session, id).await?;
        let remote = self.shared.remote(&subscription)?;
        remote.redrive(id, kept, edited.unwrap_or(event)).await
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
        let session = self.shared.link.session()?;
        let last = last(&session).await?;
        let subscription = subscription.map(str::to_owned);
        let (mut count, mut after) = (0, Some(0));
        while let Some(from) = after {
            let query = Query { subscription: subscription.clone(), after, before: Some(last + 1), limit: PAGE };
            let letters = read(&session, &query, from + 1, last + 1, PAGE).await?;
            after = letters.last().map(|letter| letter.id);
            for letter in letters {
                match self.redrive(letter.id, None).await {
                    Ok(()) => count += 1,
                    Err(Error::NoDeadLetter { .. } | Error::NoSubscription { .. } | Error::Busy { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(count)
    }

    /// Gives up a dead letter. What waits for it goes on.
    ///
    /// # Errors
    /// [`Error::NoDeadLetter`], [`Error::Busy`], [`Error::Away`], [`Error::Broker`], [`Error::Ended`].
    pub async fn drop_dead_letter(&self, id: u64) -> Result<(), Error> {
        let session = self.shared.link.session()?;
        let (kept, _, subscription, _) = find(&session, id).await?;
        match self.shared.remote(&subscription) {
            Ok(remote) => remote.drop_letter(id, kept.sequence).await,
            // What it held is looked at when the subscription begins again.
            Err(_) => match store::delete(&session, &session.names.dead, id).await? {
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

/// Those of a query with numbers of `from..before`, the first ones.
async fn read(
    session: &Session,
    query: &Query,
    from: u64,
    before: u64,
    limit: usize,
) -> Result<Vec<DeadLetter>, Error> {
    let mut letters = Vec::new();
    if limit == 0 || from >= before {
        return Ok(letters);
    }
    let wish = Wish {
        stream: session.names.dead.clone(),
        filter: session.names.dead_subject(query.subscription.as_deref().unwrap_or("*")),
        from: From::Sequence(from),
        content: Content::All,
        description: "dead letters".to_owned(),
    };
    let mut cursor = Cursor::open(session, &wish).await?;
    let away = || Error::Away { reason: "dead letters were not read to their end".to_owned() };
    while cursor.pending > 0 && letters.len() < limit {
        cursor.pull(PAGE.min(limit), PAGE * PAGE).await?;
        let read = match timeout(READ_TIME_MAX, cursor.next()).await.map_err(|_| away())? {
            Next::Nothing => continue,
            Next::Lost => return Err(away()),
            Next::Message(read) => read,
        };
        if read.sequence >= before {
            break;
        }
        let subscription = subscription_of(&read.message.subject);
        let headers = read.message.headers.unwrap_or_default();
        let found = Kept::decode_all(&headers, &read.message.payload, read.time);
        let Some(found) = found else { continue };
        let (kept, event) = match found.event {
            Some(event) => (found.kept, event),
            None => match find(session, read.sequence).await {
                Ok((kept, event, ..)) => (kept, event),
                Err(Error::NoDeadLetter { .. }) => continue,
                Err(error) => return Err(error),
            },
        };
        letters.push(kept.dead_letter(read.sequence, &subscription, event, read.time));
    }
    cursor.close().await;
    Ok(letters)
}

async fn find(session: &Session, id: u64) -> Result<(Kept, Event, String, jiff::Timestamp), Error> {
    let missing = || Error::NoDeadLetter { id };
    if id == 0 {
        return Err(missing());
    }
    let message = store::get(session, &session.names.dead, id).await?.ok_or_else(missing)?;
    let at = jiff::Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).unwrap_or_default();
    let (kept, event) = store::complete(session, &message).await?.ok_or_else(missing)?;
    Ok((kept, event, subscription_of(&message.subject), at))
}

/// The last token of the subject.
fn subscription_of(subject: &str) -> String {
    subject.rsplit('.').next().unwrap_or_default().to_owned()
}

fn failed(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broker { operation, source: Box::new(error) }
}
