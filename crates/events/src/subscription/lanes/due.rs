//! Lanes by the time at which their head is due, and lanes whose head waits until the cursor has come to it.

use std::collections::BTreeSet;
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Due {
    times: BTreeSet<(Instant, u64)>,
    gated: BTreeSet<(u64, u64)>,
}

impl Due {
    pub(super) fn first(&self) -> Option<Instant> {
        self.times.first().map(|(time, _)| *time)
    }

    pub(super) fn insert(&mut self, time: Instant, lane: u64) {
        self.times.insert((time, lane));
    }

    pub(super) fn remove(&mut self, time: Instant, lane: u64) {
        self.times.remove(&(time, lane));
    }

    /// One that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<u64> {
        self.first().filter(|time| *time <= now)?;
        self.times.pop_first().map(|(_, lane)| lane)
    }

    /// The lane waits until the sequence was read.
    pub(super) fn gate(&mut self, sequence: u64, lane: u64) {
        self.gated.insert((sequence, lane));
    }

    pub(super) fn is_gated(&self) -> bool {
        !self.gated.is_empty()
    }

    /// A lane that waits for a sequence that was read.
    pub(super) fn pop_gated(&mut self, read: u64) -> Option<u64> {
        self.gated.first().filter(|(sequence, _)| *sequence <= read)?;
        self.gated.pop_first().map(|(_, lane)| lane)
    }
}
