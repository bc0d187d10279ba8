//! The rows of one outbox that are handed over and not settled, in their order. Pure, with time as a value, but for the
//! channel on which tickets answer.
//!
//! ```text
//! a run:  [Done Done Refused | Open Done Open …]      the settled prefix is deleted from the table
//!         one Away ends the run: nothing more of it is wanted; once nothing is open, the next run begins behind the
//!         settled prefix, with the row that was not taken
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Limits;

/// Limit: rows deleted in one transaction, so that the lock of the database is held for a moment only.
pub(super) const SETTLE_ROWS_MAX: usize = 500;

/// With so many settled rows, or after so long, they are deleted although others are still in flight: a transaction for
/// each row would keep the service's own writers waiting.
const SETTLE_ROWS: usize = 128;
const SETTLE_AFTER: Duration = Duration::from_millis(50);

/// Why an event was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// For what it is: the row is put aside with this reason.
    Refused(String),
    /// For want of somebody to take it: it is tried again. It may have been published all the same.
    Away(String),
}

/// The right to publish one row, and the duty to say what came of it. Dropped without a word, the row was not taken.
#[derive(Debug)]
pub struct Ticket {
    run: Arc<Run>,
    id: i64,
    answers: Option<mpsc::UnboundedSender<Answer>>,
}

#[derive(Debug)]
struct Run {
    number: u64,
    is_broken: AtomicBool,
}

/// What came of one row.
#[derive(Debug)]
pub(super) struct Answer {
    run: u64,
    id: i64,
    result: Result<(), Refusal>,
}

impl Ticket {
    /// Whether the event may be published: not after one ahead of it was not taken, when it will come again behind it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.run.is_broken.load(Ordering::Acquire)
    }

    /// Says what came of the event: `Ok` once it is durable.
    pub fn settle(mut self, result: Result<(), Refusal>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<(), Refusal>) {
        let Some(answers) = self.answers.take() else { return };
        if matches!(result, Err(Refusal::Away(_))) {
            // Order: before anybody learns of the failure, nothing behind it is wanted any more.
            self.run.is_broken.store(true, Ordering::Release);
        }
        // Without a receiver the relay has ended, and the row stays where it is.
        let _ = answers.send(Answer { run: self.run.number, id: self.id, result });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answer(Err(Refusal::Away("nobody took it".to_owned())));
    }
}

/// What is to be done with a row in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) id: i64,
    /// None where it was published.
    pub(super) refused: Option<String>,
}

#[derive(Debug)]
struct Entry {
    id: i64,
    bytes: usize,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
    Refused(String),
    Away,
}

/// What may be read at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Window {
    rows_max: usize,
    bytes_max: usize,
    bytes: usize,
    entries: VecDeque<Entry>,
    open: usize,
    run: Arc<Run>,
    answers: mpsc::UnboundedSender<Answer>,
    /// Since when the first of the entries is settled.
    settled_since: Option<Instant>,
}

impl Window {
    /// Also gives where tickets answer: at most one answer for each entry is in that channel.
    pub(super) fn new(limits: &Limits) -> (Self, mpsc::UnboundedReceiver<Answer>) {
        let (answers, receiver) = mpsc::unbounded_channel();
        let window = Self {
            rows_max: limits.window_rows_max.max(1),
            bytes_max: limits.window_bytes_max.max(1),
            bytes: 0,
            entries: VecDeque::new(),
            open: 0,
            run: Arc::new(Run { number: 0, is_broken: AtomicBool::new(false) }),
            answers,
            settled_since: None,
        };
        (window, receiver)
    }

    /// None when it is full, or its run is broken.
    pub(super) fn room(&self) -> Option<Room> {
        let room = Room {
            rows: self.rows_max.saturating_sub(self.entries.len()),
            bytes: self.bytes_max.saturating_sub(self.bytes),
        };
        (room.rows > 0 && room.bytes > 0 && !self.is_broken()).then_some(room)
    }

    /// The last row in it: the next ones come behind it.
    pub(super) fn last(&self) -> Option<i64> {
        self.entries.back().map(|entry| entry.id)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes in a row that is to be published.
    pub(super) fn push(&mut self, id: i64, bytes: usize) -> Ticket {
        self.open += 1;
        self.add(id, bytes, State::Open);
        Ticket { run: Arc::clone(&self.run), id, answers: Some(self.answers.clone()) }
    }

    /// Takes in a row that can never be published.
    pub(super) fn push_refused(&mut self, id: i64, bytes: usize, reason: String, now: Instant) {
        self.add(id, bytes, State::Refused(reason));
        self.note_settled(now);
    }

    fn add(&mut self, id: i64, bytes: usize, state: State) {
        debug_assert!(self.last().is_none_or(|last| last < id));
        self.bytes += bytes;
        self.entries.push_back(Entry { id, bytes, state });
    }

    /// Notes what came of a row; gives why it was not taken, where nobody took it.
    pub(super) fn answer(&mut self, answer: Answer, now: Instant) -> Option<String> {
        if answer.run != self.run.number {
            return None;
        }
        let at = self.entries.binary_search_by_key(&answer.id, |entry| entry.id).ok()?;
        let entry = &mut self.entries[at];
        if entry.state != State::Open {
            return None;
        }
        self.open -= 1;
        let mut away = None;
        entry.state = match answer.result {
            Ok(()) => State::Done,
            Err(Refusal::Refused(reason)) => State::Refused(reason),
            Err(Refusal::Away(reason)) => {
                away = Some(reason);
                State::Away
            }
        };
        self.note_settled(now);
        away
    }

    fn note_settled(&mut self, now: Instant) {
        let is_settled = self.entries.front().is_some_and(Entry::is_settled);
        self.settled_since = is_settled.then(|| self.settled_since.unwrap_or(now));
    }

    /// When the settled rows are to be deleted.
    pub(super) fn settle_at(&self) -> Option<Instant> {
        let since = self.settled_since?;
        let is_due = self.open == 0 || self.is_broken() || self.settled_rows().nth(SETTLE_ROWS - 1).is_some();
        Some(if is_due { since } else { since + SETTLE_AFTER })
    }

    /// What is settled and has nothing unsettled ahead of it, at most [`SETTLE_ROWS_MAX`] rows.
    pub(super) fn settled(&self) -> Vec<Settled> {
        let settled = self.settled_rows().take(SETTLE_ROWS_MAX).map(|entry| Settled {
            id: entry.id,
            refused: match &entry.state {
                State::Refused(reason) => Some(reason.clone()),
                _ => None,
            },
        });
        settled.collect()
    }

    fn settled_rows(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().take_while(|entry| entry.is_settled())
    }

    /// The first `count` rows have gone from the table.
    pub(super) fn forget(&mut self, count: usize, now: Instant) {
        for entry in self.entries.drain(..count) {
            self.bytes -= entry.bytes;
        }
        self.settled_since = None;
        self.note_settled(now);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.run.is_broken.load(Ordering::Acquire)
    }

    /// Whether a broken run has come to its end: nothing of it can be published any more, and what was is forgotten.
    pub(super) fn may_restart(&self) -> bool {
        self.is_broken() && self.open == 0 && self.settled_since.is_none()
    }

    /// Begins the next run, with nothing in it. What is still open of this one is of no interest any more.
    pub(super) fn restart(&mut self) {
        self.run.is_broken.store(true, Ordering::Release);
        self.run = Arc::new(Run { number: self.run.number + 1, is_broken: AtomicBool::new(false) });
        self.entries.clear();
        (self.bytes, self.open, self.settled_since) = (0, 0, None);
    }
}

impl Entry {
    fn is_settled(&self) -> bool {
        matches!(self.state, State::Done | State::Refused(_))
    }
}

#[cfg(test)]
mod tests;
