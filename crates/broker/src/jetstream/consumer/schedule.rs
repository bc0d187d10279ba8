//! When what is pending is due again: timers in order of time, and behind them the queue of those whose time has come.
//! Every operation is logarithmic in what is pending.

use std::collections::{BTreeMap, BTreeSet};

/// Where a pending message stands in the schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Due {
    /// Nowhere: it was read from the ledger.
    #[default]
    Unknown,
    At(i64),
    /// To be delivered again, at this turn.
    Turn(u64),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    timers: BTreeSet<(i64, u64)>,
    queue: BTreeMap<u64, u64>,
    turn: u64,
}

impl Schedule {
    pub(super) fn arm(&mut self, sequence: u64, at: i64) -> Due {
        self.timers.insert((at, sequence));
        Due::At(at)
    }

    pub(super) fn enqueue(&mut self, sequence: u64) -> Due {
        self.turn += 1;
        self.queue.insert(self.turn, sequence);
        Due::Turn(self.turn)
    }

    pub(super) fn remove(&mut self, sequence: u64, due: Due) {
        match due {
            Due::Unknown => {}
            Due::At(at) => {
                self.timers.remove(&(at, sequence));
            }
            Due::Turn(turn) => {
                self.queue.remove(&turn);
            }
        }
    }

    /// Takes out those whose time has come, in order of sequence.
    pub(super) fn expire(&mut self, now: i64) -> Vec<u64> {
        let mut expired = Vec::new();
        while let Some((_, sequence)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            expired.push(sequence);
        }
        expired.sort_unstable();
        expired
    }

    /// What is to be delivered again first.
    pub(super) fn front(&self) -> Option<u64> {
        self.queue.first_key_value().map(|(_, sequence)| *sequence)
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn wake_at(&self) -> Option<i64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// When the last one is due.
    pub(super) fn ends_at(&self) -> Option<i64> {
        self.timers.last().map(|(at, _)| *at)
    }
}
