//! What is asked of a running subscription: redrive or drop a dead letter, deliver again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Back, Delivering, Happening, LOOK_EVERY, Phase, Place};
use crate::cloudevent::nats;
use crate::config::Since;
use crate::error::Error;
use crate::event::Event;
use crate::key::Parsed;
use crate::link::Session;
use crate::reading::Replay;
use crate::subscription::cursor::{Cursor, From, Next, Wish};
use crate::subscription::kept::Kept;
use crate::subscription::progress::sequence_of;
use crate::subscription::store::{PAGE, READ_TIME_MAX};
use crate::subscription::{Command, Compiled, Reply};

/// Limit: what is asked of an event to which something happens waits so long, and so much of it.
const WAIT_MAX: Duration = Duration::from_secs(2);
const WAITING_MAX: usize = 64;
/// Limit: so long, after the longest request, the subscription stands still for a replay that cannot begin.
const HELD_MAX: Duration = Duration::from_secs(5);
/// Limit: messages that are looked at for a later event of the same key; beyond it one is taken for granted.
const LOOKED_AT_MAX: usize = 100_000;
/// Limit: the same of later events of the key that were not delivered yet.
const LATER_MAX: usize = 1_000;

impl Delivering {
    /// What cannot be done now waits for what is under way.
    pub(super) fn asked(&mut self, command: Command) {
        let is_free = match &command {
            Command::Redrive { kept, .. } => self.is_free(kept.number),
            Command::Drop { letter, number, .. } => {
                !self.lanes.is_burying(*number) && (!self.is_holding(*letter, *number) || self.is_free(*number))
            }
            Command::Replay { .. } => true,
        };
        if is_free || self.waiting.len() >= WAITING_MAX {
            self.begin_asked(command);
        } else {
            self.waiting.push((Instant::now() + WAIT_MAX, command));
        }
    }

    /// Looks at what waits again.
    pub(super) fn ask_again(&mut self) {
        let now = Instant::now();
        for (until, command) in std::mem::take(&mut self.waiting) {
            if now >= until {
                self.begin_asked(command);
            } else {
                self.asked(command);
                if let Some((waits, _)) = self.waiting.last_mut() {
                    *waits = (*waits).min(until);
                }
            }
        }
    }

    /// Whether it is this dead letter for which the key of the event waits.
    fn is_holding(&self, letter: u64, number: u64) -> bool {
        self.lanes.held_by(number) == Some(letter)
    }

    fn is_free(&self, number: u64) -> bool {
        self.lanes.is_resting(number) && !self.asked.contains(&number)
    }

    fn begin_asked(&mut self, command: Command) {
        match command {
            Command::Redrive { letter, kept, event, reply } => self.redrive(letter, kept, *event, reply),
            Command::Drop { letter, number, reply } => self.drop_letter(letter, number, reply),
            Command::Replay { since, reply } if matches!(self.phase, Phase::Delivering) => {
                match self.surroundings.link.session() {
                    Ok(session) => self.seek(&session, since),
                    Err(error) => return answer(reply, Err(error)),
                }
                self.close();
                self.hold(Back::Seeking(since, reply));
            }
            Command::Replay { reply, .. } => answer(reply, Err(busy("another replay begins"))),
        }
    }

    fn redrive(&mut self, letter: u64, mut kept: Box<Kept>, event: Event, reply: Reply<()>) {
        let number = kept.number;
        if !self.lanes.is_resting(number) || !self.asked.insert(number) {
            return answer(reply, Err(busy("the event is on its way")));
        }
        let now = Instant::now().into_std();
        kept.renew();
        kept.is_redriven = true;
        kept.key = self.compiled.key.as_ref().and_then(|key| key.of(&Parsed::new(&event)));
        let is_held = self.lanes.is_held(number);
        self.lanes.detain(number, now);
        // What is delivered from now on comes behind it.
        let is_later_in_flight = kept.key.as_ref().is_some_and(|key| self.lanes.reserve(key, number, now));
        let is_of_stream = self.lanes.window.number(kept.sequence()) == number;
        let later = self.wish(From::Sequence(if is_of_stream { kept.sequence() + 1 } else { 1 }));
        let (store, link, compiled) = (self.store.clone(), self.surroundings.link.clone(), self.compiled.clone());
        let (is_done, base) = (self.lanes.done_beyond(number), self.lanes.window.number(0));
        let is_done = move |sequence| is_done(base + sequence);
        let key = kept.key.clone();
        self.work.push(Box::pin(async move {
            if !is_held && kept.key.is_some() {
                let looked = match link.session() {
                    Ok(session) => later_delivered(&session, &later, &compiled, &kept, is_done).await.ok(),
                    Err(_) => None,
                };
                // What could not be found out is taken for granted.
                kept.is_out_of_order = is_later_in_flight || looked.unwrap_or(true);
            }
            // Somebody else may have asked the same meanwhile.
            if !store.has_letter(letter).await {
                return Happening::NotRedriven { number, key, error: Error::NoDeadLetter { id: letter }, reply };
            }
            let Some(stored) = store.put_aside_again(&kept, &event).await else {
                return Happening::NotRedriven { number, key, error: busy("what waits aside has no room"), reply };
            };
            store.drop_letter(letter).await;
            Happening::Redriven { letter, kept, stored, reply }
        }));
    }

    pub(super) fn not_redriven(&mut self, number: u64, key: Option<&Arc<str>>, error: Error, reply: Reply<()>) {
        self.asked.remove(&number);
        let now = Instant::now().into_std();
        self.lanes.let_go(number, now);
        if let Some(key) = key {
            self.lanes.release(key, now);
        }
        answer(reply, Err(error));
    }

    pub(super) fn redriven(&mut self, letter: u64, kept: &Kept, stored: u64, reply: Reply<()>) {
        self.asked.remove(&kept.number);
        self.forget_body(kept.number);
        self.stored.insert(kept.number, stored);
        let now = Instant::now().into_std();
        self.lanes.redrive(kept.number, kept.key.as_ref(), now);
        if let Some(key) = &kept.key {
            self.lanes.release(key, now);
        }
        tracing::info!(subscription = self.compiled.config.name, letter, "a dead letter is tried again");
        answer(reply, Ok(()));
    }

    fn drop_letter(&mut self, letter: u64, number: u64, reply: Reply<()>) {
        let is_held = self.is_holding(letter, number);
        if self.lanes.is_burying(number) {
            return answer(reply, Err(busy("it is not wholly a dead letter yet")));
        }
        if is_held && (!self.lanes.is_resting(number) || !self.asked.insert(number)) {
            return answer(reply, Err(busy("the event is on its way")));
        }
        let stored = self.stored.get(&number).copied().filter(|_| is_held);
        let store = self.store.clone();
        self.work.push(Box::pin(async move {
            // Order: what is held by a dead letter that is gone is forgotten at the next beginning.
            store.drop_letter(letter).await;
            if let Some(stored) = stored {
                store.forget(stored).await;
            }
            Happening::Dropped { letter, number, reply }
        }));
    }

    pub(super) fn dropped(&mut self, letter: u64, number: u64, reply: Reply<()>) {
        if self.is_holding(letter, number) {
            self.asked.remove(&number);
            self.forget_body(number);
            self.stored.remove(&number);
            self.lanes.drop_aside(number, Instant::now().into_std());
        }
        tracing::info!(subscription = self.compiled.config.name, letter, "a dead letter was dropped");
        answer(reply, Ok(()));
    }

    /// Where the replay begins is known.
    pub(super) fn sought(&mut self, since: Since, sought: Result<u64, Error>) {
        match std::mem::replace(&mut self.phase, Phase::Delivering) {
            Phase::Receding(until, Back::Seeking(wanted, reply)) if wanted == since => match sought {
                Ok(from) => self.phase = Phase::Receding(until, Back::To(from, reply)),
                Err(error) => {
                    self.go_on(Instant::now());
                    answer(reply, Err(error));
                }
            },
            other => self.phase = other,
        }
    }

    /// Sends nothing more until the cursor can be set back.
    pub(super) fn hold(&mut self, back: Back) {
        self.lanes.hold();
        self.phase = Phase::Receding(Instant::now() + self.compiled.config.ack_wait + HELD_MAX, back);
    }

    /// Goes on as it was before it was held, and reads on from a time on.
    fn go_on(&mut self, reading_from: Instant) {
        self.lanes.resume();
        self.phase = Phase::Delivering;
        self.cursor = Place::None(reading_from);
    }

    /// Sets the cursor back once what was under way has ended; where that takes too long, it goes on.
    pub(super) fn set_back(&mut self, now: Instant) {
        let Phase::Receding(until, back) = &self.phase else { return };
        if matches!(back, Back::Cut(_)) {
            self.lanes.gather(now.into_std());
        }
        let is_known = !matches!(back, Back::Seeking(..));
        let is_ready = is_known && self.lanes.is_quiet() && self.asked.is_empty();
        if !is_ready && now < *until {
            return;
        }
        let Phase::Receding(_, back) = std::mem::replace(&mut self.phase, Phase::Delivering) else { return };
        if !is_ready {
            return match back {
                Back::Seeking(_, reply) | Back::To(_, reply) => {
                    self.go_on(now);
                    answer(reply, Err(busy("what is under way does not end")));
                }
                // What is under way may need others to be delivered.
                Back::Anew(_) | Back::Cut(_) => self.go_on(now + LOOK_EVERY),
            };
        }
        let time = now.into_std();
        match back {
            Back::Seeking(..) => {}
            Back::To(from, reply) => {
                let from = from.min(sequence_of(u64::MAX));
                self.lanes.set_back(self.lanes.window.number(from), time);
                let to = sequence_of(self.lanes.window.highest());
                let from = from.min(to + 1);
                let replay = Replay { from, to, left: (to + 1).saturating_sub(from) };
                self.recording.replies.push((self.lanes.changes(), replay, reply));
            }
            Back::Anew(created) => self.lanes.begin_anew(created, time),
            Back::Cut(last) => self.lanes.cut(last, time),
        }
        self.bodies.clear();
        self.bytes = 0;
        self.cursor = Place::None(now);
    }
}

/// Whether a later event of the key was delivered.
async fn later_delivered(
    session: &Session,
    wish: &Wish,
    compiled: &Compiled,
    kept: &Kept,
    is_done: impl Fn(u64) -> bool,
) -> Result<bool, Error> {
    let mut cursor = Cursor::open(session, wish).await?;
    let away = || Error::Away { reason: "the stream was not read to its end".to_owned() };
    let (mut looked_at, mut later) = (0, 0);
    let is_empty = cursor.pending == 0;
    let found = loop {
        if is_empty {
            break false;
        }
        if looked_at >= LOOKED_AT_MAX || later >= LATER_MAX {
            break true;
        }
        cursor.pull(PAGE, PAGE * PAGE).await?;
        match tokio::time::timeout(READ_TIME_MAX, cursor.next()).await.map_err(|_| away())? {
            Next::Nothing => {}
            Next::Lost => return Err(away()),
            Next::Message(read) => {
                looked_at += 1;
                let stored = nats::Stored {
                    stream: &kept.stream,
                    sequence: read.sequence,
                    subject: &read.message.subject,
                    time: read.time,
                    headers: read.message.headers.as_ref(),
                    payload: &read.message.payload,
                };
                let event = nats::decode(&stored);
                let parsed = Parsed::new(&event);
                let is_of_key = compiled.key.as_ref().and_then(|key| key.of(&parsed)) == kept.key;
                let is_wanted = || compiled.filter.as_ref().is_none_or(|filter| filter.is_wanted(&parsed) == Ok(true));
                // A sequence says nothing of it where the stream was cut meanwhile.
                if read.time > kept.published && is_of_key && is_wanted() {
                    later += 1;
                    if is_done(read.sequence) {
                        break true;
                    }
                }
                if cursor.pending == 0 {
                    break false;
                }
            }
        }
    };
    cursor.close().await;
    Ok(found)
}

fn busy(reason: &'static str) -> Error {
    Error::Busy { reason }
}

/// Whoever asked may have gone.
fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    let _ = reply.send(result);
}
