//! The state of a stream's messages in memory: which are there, what they count, whom they are for. Pure: it changes by
//! messages, changes and time as values, the same when they happen and when they are replayed. What removes is in
//! `retention`, what only looks is in `query`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::change::push_sequence;
use super::chunks::{Chunks, Entry, Stay};
use super::cursors::{Cursor, CursorId, Cursors, Selection};
use super::subjects::Subjects;
use super::{Full, Limits, Rollup, Ttl};

/// A message on its way into the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Held by whoever made this.
    pub(super) subject: u32,
    pub(super) size: u32,
    pub(super) time: i64,
    pub(super) ttl: Option<Ttl>,
    pub(super) rollup: Option<Rollup>,
}

/// What some messages are, or will add.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// All that is known of the messages, but their content.
#[derive(Debug)]
pub(crate) struct Index {
    pub(super) chunks: Chunks,
    pub(super) subjects: Subjects,
    pub(super) cursors: Cursors,
    pub(super) limits: Limits,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// The first message that is there, or one behind the last that was.
    pub(super) first: u64,
    pub(super) last_time: Option<i64>,
    /// Never goes back: replayed messages expire where they did.
    pub(super) clock: i64,
    /// Deadlines of messages that have their own; also of some that are gone.
    pub(super) deadlines: BTreeSet<(i64, u64)>,
    pub(super) limited: usize,
    /// Below this, whatever is there never grows too old.
    pub(super) aged: u64,
    pub(super) staged: Growth,
    pub(super) removed: Vec<RangeInclusive<u64>>,
    /// Messages below this are in `kept`; what they count; those that went since it was last told.
    pub(super) kept_until: u64,
    pub(super) kept: Growth,
    pub(super) graves: Vec<u64>,
}

impl Index {
    pub(super) fn new(limits: Limits, next: u64) -> Self {
        Self {
            chunks: Chunks::new(next),
            subjects: Subjects::default(),
            cursors: Cursors::default(),
            limits,
            messages: 0,
            bytes: 0,
            first: next,
            last_time: None,
            clock: i64::MIN,
            deadlines: BTreeSet::new(),
            limited: 0,
            aged: next,
            staged: Growth::default(),
            removed: Vec::new(),
            kept_until: 0,
            kept: Growth::default(),
            graves: Vec::new(),
        }
    }

    /// Says, before any message, which sequence may be the first.
    pub(super) fn begin(&mut self, first: u64) {
        self.chunks = Chunks::new(first);
        (self.first, self.aged) = (first, first);
    }

    /// Messages below `until`, which are these, are in `kept` from now on.
    pub(super) fn keep_below(&mut self, until: u64, moved: impl Iterator<Item = u64>) {
        self.kept_until = until;
        for sequence in moved {
            match self.chunks.get(sequence) {
                Some(entry) => {
                    self.kept.messages += 1;
                    self.kept.bytes += entry.size();
                }
                // It went meanwhile.
                None => self.graves.push(sequence),
            }
        }
    }

    /// The last sequence that has arrived.
    pub(crate) fn last(&self) -> u64 {
        self.chunks.next() - 1
    }

    /// The number of a subject, which stays the same until [`Index::unhold`].
    pub(super) fn hold(&mut self, name: &[u8]) -> u32 {
        let (id, is_new) = self.subjects.find_or_add(name);
        self.subjects.get_mut(id).holds += 1;
        if is_new {
            self.cursors.subject_added(id, name);
        }
        id
    }

    #[inline]
    pub(super) fn hold_again(&mut self, id: u32) {
        self.subjects.get_mut(id).holds += 1;
    }

    #[inline]
    pub(super) fn unhold(&mut self, id: u32) {
        self.subjects.get_mut(id).holds -= 1;
        self.release(id);
    }

    fn release(&mut self, id: u32) {
        if self.subjects.release(id) {
            self.cursors.subject_freed(id);
        }
    }

    /// Whether a message of this size may come, and what it would add. Only what discards new ones refuses.
    pub(super) fn room(&self, name: &[u8], size: u32, rollup: Option<Rollup>) -> Result<Growth, Full> {
        let size = u64::from(size);
        if !self.limits.discard.is_new() {
            return Ok(Growth::default());
        }
        let subject = self.limits.max_msgs_per_subject.and_then(|max| {
            let subject = self.subjects.get(self.subjects.find(name)?);
            (subject.count + u64::from(subject.holds) >= max).then_some(subject)
        });
        if subject.is_some() && self.limits.discard.is_per_subject() && rollup.is_none() {
            return Err(Full::PerSubject);
        }
        if subject.is_none() && self.limits.max_msgs.is_some_and(|max| self.messages + self.staged.messages >= max) {
            return Err(Full::Messages);
        }
        // What it replaces makes room; with others on their way to the same subject it is not known how much.
        let replaced = subject.filter(|subject| subject.holds == 0).and_then(|subject| {
            let oldest = match &subject.sequences {
                Some(sequences) => sequences.0.front().copied(),
                None => Some(subject.last),
            };
            self.chunks.get(oldest?).map(Entry::size)
        });
        let replaced = replaced.unwrap_or(0);
        let over = |max| self.bytes + self.staged.bytes + size > max;
        if self.limits.max_bytes.is_some_and(over) && (subject.is_none() || replaced < size) {
            return Err(Full::Bytes);
        }
        Ok(Growth { messages: u64::from(subject.is_none()), bytes: size.saturating_sub(replaced) })
    }

    /// A message arrives: whatever is too old by its time goes first, then what is too much.
    #[inline]
    pub(super) fn apply(&mut self, sequence: u64, arrival: &Arrival) {
        self.expire(arrival.time);
        let before = self.insert(sequence, arrival);
        self.enforce_arrival(sequence, arrival, before);
        self.unhold(arrival.subject);
    }

    /// Adds a message and looks at no limit. Gives what was the last one of its subject.
    #[inline]
    pub(super) fn insert(&mut self, sequence: u64, arrival: &Arrival) -> u64 {
        let Arrival { subject: id, size, time, ttl, .. } = *arrival;
        let stay = match ttl {
            None => Stay::Ordinary,
            Some(Ttl::Never) => Stay::Forever,
            Some(Ttl::After(after)) => {
                self.limited += 1;
                let after = i64::try_from(after.as_nanos()).unwrap_or(i64::MAX);
                self.deadlines.insert((time.saturating_add(after), sequence));
                Stay::Limited
            }
        };
        let entry = Entry::new(time, id, size, stay);
        if self.messages == 0 {
            self.first = sequence;
        }
        self.chunks.push(sequence, entry);
        if sequence < self.kept_until {
            self.kept.messages += 1;
            self.kept.bytes += entry.size();
        }
        self.messages += 1;
        self.bytes += entry.size();
        self.last_time = Some(time);
        self.clock = self.clock.max(time);
        let subject = self.subjects.count_up(id);
        let before = subject.last;
        subject.last = sequence;
        subject.staged = subject.staged.max(sequence);
        if let Some(sequences) = &mut subject.sequences {
            sequences.0.push_back(sequence);
        }
        self.cursors.added(sequence, id);
        before
    }

    /// Removes one message, if it is there.
    pub(super) fn take(&mut self, sequence: u64) -> Option<Entry> {
        let entry = self.chunks.take(sequence)?;
        self.messages -= 1;
        self.bytes -= entry.size();
        self.limited -= usize::from(entry.stay() == Stay::Limited);
        self.cursors.removed(sequence, entry.subject);
        push_sequence(&mut self.removed, sequence);
        if sequence < self.kept_until {
            self.graves.push(sequence);
            self.kept.messages -= 1;
            self.kept.bytes -= entry.size();
        }
        if sequence == self.first {
            let next = self.chunks.next();
            self.first = self.chunks.find(sequence + 1, |_| true).map_or(next, |(first, _)| first);
        }
        let subject = self.subjects.count_down(entry.subject);
        if subject.last == sequence {
            subject.last = 0;
        }
        if let Some(sequences) = &mut subject.sequences {
            if let Ok(at) = sequences.0.binary_search(&sequence) {
                sequences.0.remove(at);
            }
            subject.last = sequences.0.back().copied().unwrap_or(0);
            if sequences.0.len() < 2 {
                subject.sequences = None;
            }
        }
        self.release(entry.subject);
        Some(entry)
    }

    /// Whether a message is there.
    pub(crate) fn is_live(&self, sequence: u64) -> bool {
        self.chunks.get(sequence).is_some()
    }

    /// Opens a position for whoever wants these subjects (none: all), before the message `from`.
    pub(crate) fn open_cursor(&mut self, filters: &[Vec<u8>], from: u64) -> CursorId {
        let selection = self.select(filters);
        let pending = self.count_from(&selection, from);
        self.cursors.open(Cursor { selection, position: from, pending })
    }

    pub(crate) fn close_cursor(&mut self, id: CursorId) {
        self.cursors.close(id);
    }

    /// Positions that had no message before them and now have one, since the last call. To be asked for every turn.
    pub(crate) fn take_woken(&mut self) -> Vec<CursorId> {
        self.cursors.take_woken()
    }

    /// The next message, which is then behind the position.
    pub(crate) fn next(&mut self, id: CursorId) -> Option<u64> {
        let end = self.chunks.next();
        let cursor = self.cursors.get_mut(id)?;
        // Never backwards: a position may be ahead of the stream.
        let found = match cursor.pending {
            0 => None,
            _ => self.chunks.find(cursor.position, |entry| cursor.selection.has(entry.subject)),
        };
        debug_assert_eq!(found.is_some(), cursor.pending > 0, "what is pending is found");
        match found {
            Some((sequence, _)) => {
                cursor.position = sequence + 1;
                cursor.pending -= 1;
                Some(sequence)
            }
            None => {
                cursor.position = cursor.position.max(end);
                None
            }
        }
    }

    /// How many messages lie before the position.
    pub(crate) fn pending(&self, id: CursorId) -> u64 {
        self.cursors.get(id).map_or(0, |cursor| cursor.pending)
    }

    /// The first sequence that was not given.
    pub(crate) fn position(&self, id: CursorId) -> u64 {
        self.cursors.get(id).map_or(0, |cursor| cursor.position)
    }

    /// Moves a position, forth or back.
    #[cfg(test)]
    pub(crate) fn seek(&mut self, id: CursorId, from: u64) {
        let Some(selection) = self.cursors.get(id).map(|cursor| cursor.selection.clone()) else { return };
        let pending = self.count_from(&selection, from);
        if let Some(cursor) = self.cursors.get_mut(id) {
            (cursor.position, cursor.pending) = (from, pending);
        }
    }

    /// The subjects that match, now; cursors learn of later ones.
    pub(super) fn select(&self, filters: &[Vec<u8>]) -> Selection {
        let mut selection = Selection::new(filters);
        if selection.is_all() {
            return selection;
        }
        if let Some(names) = selection.literals() {
            let ids: Vec<u32> = names.iter().filter_map(|name| self.subjects.find(name)).collect();
            ids.into_iter().for_each(|id| selection.insert(id));
            return selection;
        }
        for (id, subject) in self.subjects.ids() {
            if selection.matches(&subject.name) {
                selection.insert(id);
            }
        }
        selection
    }

    /// How many selected messages there are from `from` on.
    pub(super) fn count_from(&self, selection: &Selection, from: u64) -> u64 {
        let end = self.chunks.next();
        if from >= end {
            return 0;
        }
        if selection.is_all() {
            return self.chunks.count(from, end);
        }
        let total = || selection.ids().map(|id| self.subjects.get(id).count).sum();
        if from <= self.first {
            return total();
        }
        let counted = |from, until| {
            let mut count = 0;
            self.chunks.each(from, until, |_, entry| count += u64::from(selection.has(entry.subject)));
            count
        };
        // The shorter way.
        if end - from <= from - self.first { counted(from, end) } else { total() - counted(self.first, from) }
    }
}
