//! What leaves the index: by limits, by age, by changes. All of it follows from messages, changes and time alone.

use std::ops::RangeInclusive;

use super::change::{Change, Purge, What, push_sequence};
use super::chunks::{Entry, Stay};
use super::index::{Arrival, Index};
use super::subjects::Sequences;
use super::{Discard, Limits, Rollup};

/// Limit: deadlines of messages that are gone may be as many as those of others, and this many more.
const STALE_DEADLINES: usize = 1024;

impl Index {
    /// What an arrival leaves no room for goes, in the order of nats-server: its subject's, then the stream's oldest.
    #[inline]
    pub(super) fn enforce_arrival(&mut self, sequence: u64, arrival: &Arrival, before: u64) {
        if let Some(max) = self.limits.max_msgs_per_subject {
            self.note_sequences(arrival.subject, max, before);
            self.enforce_subject(arrival.subject, max, before);
        }
        self.enforce_stream();
        match arrival.rollup {
            None => {}
            Some(Rollup::All) => self.take_all_below(sequence),
            Some(Rollup::Subject) => self.take_subject_below(arrival.subject, sequence),
        }
    }

    /// Keeps a list of a subject's sequences from its second message on, where the limit is more than one.
    fn note_sequences(&mut self, id: u32, max: u64, before: u64) {
        let subject = self.subjects.get_mut(id);
        if max > 1 && subject.count == 2 && subject.sequences.is_none() && before > 0 {
            subject.sequences = Some(Box::new(Sequences([before, subject.last].into())));
        }
    }

    fn enforce_subject(&mut self, id: u32, max: u64, before: u64) {
        while self.subjects.get(id).count > max {
            let subject = self.subjects.get(id);
            let oldest = match &subject.sequences {
                Some(sequences) => sequences.0.front().copied(),
                None if subject.count == 2 && before > 0 => Some(before),
                None => self.chunks.find(self.first, |entry| entry.subject == id).map(|(sequence, _)| sequence),
            };
            let Some(oldest) = oldest else { return };
            self.take(oldest);
        }
    }

    fn enforce_stream(&mut self) {
        if self.limits.discard != Discard::Old {
            return;
        }
        let is_over = |index: &Self| {
            index.limits.max_msgs.is_some_and(|max| index.messages > max)
                || index.limits.max_bytes.is_some_and(|max| index.bytes > max)
        };
        while self.messages > 0 && is_over(self) {
            self.take(self.first);
        }
    }

    fn take_all_below(&mut self, until: u64) {
        while self.messages > 0 && self.first < until {
            self.take(self.first);
        }
    }

    fn take_subject_below(&mut self, id: u32, until: u64) {
        while let Some(oldest) = self.subjects.get(id).sequences.as_ref().and_then(|all| all.0.front().copied()) {
            if oldest >= until {
                return;
            }
            self.take(oldest);
        }
        let mut until = until;
        let mut older = self.subjects.get(id).count.saturating_sub(1);
        while older > 0 {
            let Some((sequence, _)) = self.chunks.find_last(until, |entry| entry.subject == id) else { return };
            self.take(sequence);
            (until, older) = (sequence, older - 1);
        }
    }

    /// Those whose time is over at `now` and that are the only ones of their subjects; nothing of those is on its way.
    pub(crate) fn last_expiring(&self, now: i64) -> Vec<u64> {
        let late = self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, sequence)| *sequence);
        let mut expiring: Vec<u64> = late.collect();
        let mut next = self.next_aged();
        while let Some((sequence, _)) = next.filter(|(_, deadline)| *deadline <= now) {
            expiring.push(sequence);
            next = self.next_aged_from(sequence + 1);
        }
        let is_only = |entry: &Entry| {
            let subject = self.subjects.get(entry.subject);
            subject.count == 1 && subject.holds == 0
        };
        expiring.retain(|sequence| self.chunks.get(*sequence).is_some_and(is_only));
        expiring.sort_unstable();
        expiring.dedup();
        expiring
    }

    /// Removes what is too old at `now`. Says how many.
    #[inline]
    pub(crate) fn expire(&mut self, now: i64) -> u64 {
        self.clock = self.clock.max(now);
        let before = self.messages;
        while let Some((deadline, sequence)) = self.deadlines.first().copied().filter(|(at, _)| *at <= self.clock) {
            self.deadlines.remove(&(deadline, sequence));
            self.take(sequence);
        }
        if self.deadlines.len() > 2 * self.limited + STALE_DEADLINES {
            let Self { deadlines, chunks, .. } = self;
            deadlines.retain(|(_, sequence)| chunks.get(*sequence).is_some());
        }
        while let Some((sequence, deadline)) = self.next_aged() {
            self.aged = sequence;
            if deadline > self.clock {
                break;
            }
            self.take(sequence);
        }
        before - self.messages
    }

    /// The oldest message that grows too old, and when.
    fn next_aged(&self) -> Option<(u64, i64)> {
        self.next_aged_from(self.aged.max(self.first))
    }

    fn next_aged_from(&self, from: u64) -> Option<(u64, i64)> {
        let max_age = i64::try_from(self.limits.max_age?.as_nanos()).unwrap_or(i64::MAX);
        let (sequence, entry) = self.chunks.find(from, |entry| entry.stay() != Stay::Forever)?;
        Some((sequence, entry.time.saturating_add(max_age)))
    }

    /// When the next message is too old, in nanoseconds since the epoch. It may be early, never late.
    pub(crate) fn next_expiry(&self) -> Option<i64> {
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        let aged = self.next_aged().map(|(_, deadline)| deadline);
        deadline.into_iter().chain(aged).min()
    }

    /// Applies a change that was made at this place, now or in an earlier life.
    pub(super) fn apply_change(&mut self, change: &Change) {
        self.expire(change.time);
        match &change.what {
            What::Opened => {}
            What::Removed(ranges) => {
                self.take_ranges(ranges);
            }
            What::Purged(purge) => {
                self.purge(purge);
            }
            What::Limits(limits) | What::Snapshot { limits, .. } => self.replace_limits(limits.clone()),
        }
    }

    /// Removes what is there within these ranges. Gives what was.
    pub(super) fn take_ranges(&mut self, ranges: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
        let mut taken = Vec::new();
        for range in ranges {
            let mut from = *range.start();
            while let Some((sequence, _)) =
                self.chunks.find(from, |_| true).filter(|(sequence, _)| *sequence <= *range.end())
            {
                self.take(sequence);
                push_sequence(&mut taken, sequence);
                from = sequence + 1;
            }
        }
        taken
    }

    /// Removes messages. Says how many.
    pub(super) fn purge(&mut self, purge: &Purge) -> u64 {
        let before = self.messages;
        let end = self.chunks.next();
        let until = if purge.up_to == 0 { end } else { purge.up_to.min(end) };
        let filters: Vec<Vec<u8>> = purge.filter.iter().cloned().collect();
        let selection = self.select(&filters);
        if selection.is_empty() {
            return 0;
        }
        let mut most = match purge.keep {
            0 => u64::MAX,
            keep => self.count_from(&selection, self.first).saturating_sub(keep),
        };
        let mut from = self.first;
        while most > 0 {
            let found = self.chunks.find(from, |entry| selection.has(entry.subject));
            let Some((sequence, _)) = found.filter(|(sequence, _)| *sequence < until) else { break };
            self.take(sequence);
            (from, most) = (sequence + 1, most - 1);
        }
        before - self.messages
    }

    pub(super) fn replace_limits(&mut self, limits: Limits) {
        let before = std::mem::replace(&mut self.limits, limits);
        self.aged = 0;
        if before.max_msgs_per_subject != self.limits.max_msgs_per_subject {
            self.subjects.iter_mut().for_each(|subject| subject.sequences = None);
            if let Some(max) = self.limits.max_msgs_per_subject {
                self.enforce_subjects(max);
            }
        }
        self.enforce_stream();
        self.expire(self.clock);
    }

    fn enforce_subjects(&mut self, max: u64) {
        // One pass for all subjects: the oldest of those that have too many go, the rest is noted.
        let mut excess = Vec::new();
        let Self { chunks, subjects, first, .. } = self;
        let mut over = std::collections::HashMap::new();
        for (id, subject) in subjects.iter().filter(|(_, subject)| subject.count > max) {
            over.insert(id, subject.count - max);
        }
        chunks.each(*first, chunks.next(), |sequence, entry| match over.get_mut(&entry.subject) {
            Some(left) if *left > 0 => {
                *left -= 1;
                excess.push(sequence);
            }
            _ => {
                let subject = subjects.get_mut(entry.subject);
                if max > 1 && subject.count > 1 {
                    subject.sequences.get_or_insert_default().0.push_back(sequence);
                }
            }
        });
        for sequence in excess {
            self.take(sequence);
        }
    }
}
