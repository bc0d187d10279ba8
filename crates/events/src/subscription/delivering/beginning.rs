//! How a subscription begins: what it has done, what is aside, where its cursor opens.

use std::time::Duration;

use jiff::Timestamp;
use kit::drain;
use tokio::time::{Instant, sleep};

use super::{Back, Delivering, Happening, Place};
use crate::config::{Since, Start};
use crate::error::Error;
use crate::link::Session;
use crate::subscription::cursor::{Content, Cursor, From, Next, Read, Wish};
use crate::subscription::lanes::Parked;
use crate::subscription::progress::{Record, Window, sequence_of};
use crate::subscription::raw;
use crate::subscription::store::{self, READ_TIME_MAX};

/// How soon it is tried again to begin, or to open a cursor.
const AGAIN: Duration = Duration::from_millis(500);
/// So often the connection may be lost at one and the same message.
const STUCK_MAX: u32 = 2;

impl Delivering {
    /// Waits for the broker, and reads what is kept there. None where the drain comes first.
    pub(super) async fn begin(&mut self, drain: &mut drain::Watch) -> Option<Session> {
        let mut link = self.surroundings.link.clone();
        loop {
            let begun = async {
                let session = link.connected().await?;
                let result = tokio::select! {
                    result = self.load(&session) => result,
                    () = session.lost() => Err(Error::Away { reason: "the connection was lost".to_owned() }),
                };
                if let Err(error) = &result {
                    self.counting.reading.paused = Some(format!("it cannot begin: {}", kit::Chain(error)));
                    self.counting.send();
                    sleep(AGAIN).await;
                }
                result.map(|()| session)
            };
            let begun = tokio::select! {
                begun = begun => begun,
                () = drain.started() => return None,
            };
            match begun {
                Ok(session) => return Some(session),
                Err(Error::Ended) => return None,
                Err(_) => {}
            }
        }
    }

    async fn load(&mut self, session: &Session) -> Result<(), Error> {
        let record = match self.store.load_record(session).await? {
            Some(record) => record,
            None => {
                let record = Record::after(self.first(session).await?);
                self.store.record(&record).await;
                record
            }
        };
        let aside = self.store.load_aside(session).await?;
        let now = Instant::now().into_std();
        let mut lanes = self.lanes.renewed(Window::new(&record));
        self.stored.clear();
        for store::Aside { kept, stored } in aside {
            if let Some(letter) = kept.held
                && store::get(session, &session.names.dead, letter).await?.is_none()
            {
                // It was dropped, and what it held is to go on.
                store::delete(session, &session.names.aside, stored).await?;
                continue;
            }
            let wait = kept.due.map(|due| due.duration_since(Timestamp::now()));
            let wait = wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default();
            let mut parked = Parked::found(now + wait, kept.attempts_count);
            (parked.is_exhausted, parked.is_redriven, parked.held) = (kept.is_exhausted, kept.is_redriven, kept.held);
            lanes.restore(kept.number, kept.key.as_ref(), parked, now);
            self.stored.insert(kept.number, stored);
        }
        self.lanes = lanes;
        Ok(())
    }

    /// The sequence behind which a subscription begins that has never been.
    async fn first(&mut self, session: &Session) -> Result<u64, Error> {
        let config = &self.compiled.config;
        match config.start {
            Start::First => Ok(0),
            Start::New => {
                let cursor = Cursor::open(session, &self.wish(From::Sequence(1))).await?;
                let last = cursor.last_sequence;
                cursor.close().await;
                Ok(last)
            }
        }
    }

    pub(super) fn wish(&self, from: From) -> Wish {
        let config = &self.compiled.config;
        Wish {
            stream: config.stream.clone(),
            filter: config.topic.clone(),
            from,
            content: Content::All,
            description: format!("subscription {}", config.name),
        }
    }

    /// Opens another cursor behind what was read. Where that has ended the connection again and again, the next message is
    /// fetched by itself: the client may not be able to read it.
    pub(super) fn open(&mut self, session: &Session) {
        if self.stuck.1 >= STUCK_MAX && self.stuck.0 == self.lanes.window.read() {
            let (session, config) = (session.clone(), &self.compiled.config);
            let (stream, filter, from) = (config.stream.clone(), config.topic.clone(), sequence_of(self.stuck.0) + 1);
            self.cursor = Place::Opening;
            self.work.push(Box::pin(async move {
                let read = raw::next(&session, &stream, &filter, from).await;
                Happening::Stepped(from, read.map(|read| read.map(Box::new)))
            }));
            return;
        }
        let from = sequence_of(self.lanes.window.read()) + 1;
        let wish = self.wish(From::Sequence(from));
        let session = session.clone();
        self.cursor = Place::Opening;
        self.work.push(Box::pin(async move {
            let opened = tokio::select! {
                opened = Cursor::open(&session, &wish) => opened.map(Box::new),
                () = session.lost() => Err(Error::Away { reason: "the connection was lost".to_owned() }),
            };
            Happening::Opened(from, opened)
        }));
    }

    /// Whether what was begun at a sequence is still wanted: meanwhile the connection may have been lost, or the cursor set back.
    fn is_opening(&self, from: u64) -> bool {
        self.is_reading() && matches!(self.cursor, Place::Opening) && from == sequence_of(self.lanes.window.read()) + 1
    }

    pub(super) fn stepped(&mut self, from: u64, stepped: Result<Option<Box<Read>>, Error>) {
        if !self.is_opening(from) {
            return;
        }
        if let Ok(Some(read)) = stepped {
            self.arrived(&read);
        }
        self.stuck.1 = 0;
        self.cursor = Place::None(Instant::now());
    }

    pub(super) fn opened(&mut self, from: u64, opened: Result<Box<Cursor>, Error>) {
        if !self.is_opening(from) {
            if let Ok(cursor) = opened {
                self.close_cursor(cursor);
            }
            return;
        }
        let now = Instant::now();
        let cursor = match opened {
            Ok(cursor) => cursor,
            Err(error) => {
                self.counting.unreadable = Some(format!("the stream cannot be read: {}", kit::Chain(&error)));
                self.cursor = Place::None(now + AGAIN);
                return;
            }
        };
        (self.counting.unreadable, self.counting.is_begun) = (None, true);
        let (last, last_known) = (cursor.last_sequence, self.lanes.last_known());
        let window = &mut self.lanes.window;
        let back = if window.created().is_some_and(|created| created != cursor.created) {
            let subscription = &self.compiled.config.name;
            tracing::warn!(subscription, "its stream was made anew: it begins with the first event");
            Some(Back::Anew(cursor.created))
        } else {
            window.set_created(cursor.created);
            // The broker has lost what was not on its disk, and gives these numbers again.
            (last_known > last).then_some(Back::Cut(last))
        };
        if let Some(back) = back {
            self.cursor = Place::None(now);
            self.close_cursor(cursor);
            return self.hold(back);
        }
        self.cursor = Place::Open(cursor);
        self.pass_the_rest();
    }

    /// Where nothing more is to come, what is not for this subscription is passed, up to what was the last when the cursor was
    /// opened: it is of other subjects, or gone, though something aside may wait for it.
    pub(super) fn pass_the_rest(&mut self) {
        let Place::Open(cursor) = &self.cursor else { return };
        let (last, from) = (cursor.last_sequence, sequence_of(self.lanes.window.read()) + 1);
        if cursor.pending > 0 || last < from {
            return;
        }
        if !cursor.is_replicated {
            return self.lanes.pass(self.lanes.window.number(last), Instant::now().into_std());
        }
        // The replica that delivers may know less than the one that told of the last.
        if std::mem::replace(&mut self.is_asking_for_rest, true) {
            return;
        }
        let (link, config) = (self.surroundings.link.clone(), &self.compiled.config);
        let (stream, filter) = (config.stream.clone(), config.topic.clone());
        self.work.push(Box::pin(async move {
            let is_none = match link.session() {
                Ok(session) => matches!(raw::next(&session, &stream, &filter, from).await, Ok(None)),
                Err(_) => false,
            };
            Happening::Rest { from, last, is_none }
        }));
    }

    pub(super) fn rest(&mut self, from: u64, last: u64, is_none: bool) {
        self.is_asking_for_rest = false;
        let is_as_it_was = from == sequence_of(self.lanes.window.read()) + 1 && matches!(self.cursor, Place::Open(_));
        if is_none && is_as_it_was {
            self.lanes.pass(self.lanes.window.number(last), Instant::now().into_std());
        }
    }

    /// Finds out which sequence is the first of a replay.
    pub(super) fn seek(&self, session: &Session, since: Since) {
        let (session, wish) = (
            session.clone(),
            match since {
                Since::First => return self.work.push(Box::pin(async move { Happening::Sought(since, Ok(1)) })),
                Since::Sequence(sequence) => {
                    return self.work.push(Box::pin(async move { Happening::Sought(since, Ok(sequence.max(1))) }));
                }
                Since::Time(time) => self.wish(From::Time(time)),
            },
        );
        self.work.push(Box::pin(async move {
            let sought = tokio::select! {
                sought = first_of(&session, &wish) => sought,
                () = session.lost() => Err(Error::Away { reason: "the connection was lost".to_owned() }),
            };
            Happening::Sought(since, sought)
        }));
    }
}

/// The sequence of the first message that is wished for; where there is none, the one behind the last.
async fn first_of(session: &Session, wish: &Wish) -> Result<u64, Error> {
    let mut cursor = Cursor::open(session, wish).await?;
    let mut found = cursor.last_sequence + 1;
    if cursor.pending > 0 {
        cursor.pull(1, 0x0010_0000).await?;
        let late = || Error::Away { reason: "the broker has not answered in time".to_owned() };
        loop {
            match tokio::time::timeout(READ_TIME_MAX, cursor.next()).await.map_err(|_| late())? {
                Next::Message(read) => {
                    found = read.sequence;
                    break;
                }
                Next::Nothing => {}
                Next::Lost => return Err(late()),
            }
        }
    }
    cursor.close().await;
    Ok(found)
}
