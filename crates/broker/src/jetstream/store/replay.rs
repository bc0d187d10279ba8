//! Brings an index to where it was: messages in order, and between them, where they happened, the changes. Pure.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::change::{Change, What};
use super::index::{Arrival, Index};
use super::{Discard, Limits};

/// A stream on its way back.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) index: Index,
    changes: VecDeque<Change>,
    snapshot: Option<Snapshot>,
}

/// Of messages up to `at`, those that are not in the holes were there.
#[derive(Debug)]
struct Snapshot {
    at: u64,
    holes: VecDeque<RangeInclusive<u64>>,
}

impl Replay {
    /// Of a stream that was made with `limits`, has `last` as its last message and `next` as the first that may be there.
    pub(super) fn new(limits: Limits, mut changes: Vec<Change>, next: u64, last: u64) -> Self {
        // A change after messages that were lost with the power happened, for all who look now, where the loss begins: its
        // number may have been given again since. Numbers in the ledger never go back otherwise.
        let mut lowest = last;
        for change in changes.iter_mut().rev() {
            lowest = lowest.min(change.at);
            change.at = lowest;
        }
        let newest = changes.iter().rposition(|change| matches!(change.what, What::Snapshot { .. }));
        let changes: VecDeque<Change> = changes.split_off(newest.unwrap_or(0)).into();
        let snapshot = changes.front().and_then(|change| match &change.what {
            What::Snapshot { holes, .. } => Some(Snapshot { at: change.at, holes: holes.clone().into() }),
            _ => None,
        });
        // What the snapshot holds was within all limits; those that were in force are set when it is passed.
        let unlimited = Limits { discard: Discard::Old, ..Limits::default() };
        let limits = if snapshot.is_some() { unlimited } else { limits };
        Self { index: Index::new(limits, next), changes, snapshot }
    }

    /// Says which message is the first that may be there, and that those below `kept_until` are in `kept`.
    pub(super) fn begin(&mut self, first: u64, kept_until: u64) {
        self.index.begin(first);
        self.index.kept_until = kept_until;
    }

    /// Whether the message's content matters. If not it need not be given to [`Replay::message`].
    #[inline]
    pub(super) fn reach(&mut self, sequence: u64) -> bool {
        while let Some(change) = self.changes.pop_front_if(|change| change.at < sequence) {
            self.change(&change);
        }
        let Some(snapshot) = &mut self.snapshot else { return true };
        while snapshot.holes.front().is_some_and(|hole| *hole.end() < sequence) {
            snapshot.holes.pop_front();
        }
        !snapshot.holes.front().is_some_and(|hole| hole.contains(&sequence))
    }

    /// A message that was reached.
    #[inline]
    pub(super) fn message(&mut self, sequence: u64, arrival: &Arrival) {
        if self.snapshot.is_some() {
            self.index.insert(sequence, arrival);
            self.index.unhold(arrival.subject);
        } else {
            self.index.apply(sequence, arrival);
        }
    }

    fn change(&mut self, change: &Change) {
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.at <= change.at) {
            self.snapshot = None;
        }
        self.index.apply_change(change);
    }

    /// All messages were given.
    pub(super) fn finish(mut self, next: u64) -> Index {
        while let Some(change) = self.changes.pop_front() {
            self.change(&change);
        }
        let mut index = self.index;
        index.chunks.skip(next);
        if index.messages == 0 {
            index.first = next;
        }
        index.removed = Vec::new();
        index
    }
}
