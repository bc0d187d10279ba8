//! What can be asked about the messages of a stream. Nothing here changes them.

use std::ops::RangeInclusive;

use super::State;
use super::index::Index;

impl Index {
    /// What the stream's state says of its messages.
    pub(crate) fn state(&self) -> State {
        let last = self.last();
        let first_time = self.chunks.get(self.first).map(|entry| entry.time);
        let first = if last == 0 { 0 } else { self.first };
        let span = if self.messages == 0 { 0 } else { last + 1 - self.first };
        State {
            messages: self.messages,
            bytes: self.bytes,
            first,
            first_time,
            last,
            last_time: self.last_time,
            subjects: self.subjects.filled,
            deleted: span - self.messages,
        }
    }

    /// Messages, and their bytes.
    pub(crate) fn sums(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// What is gone between the first and the last message, in order.
    pub(crate) fn deleted(&self, max: usize) -> Vec<u64> {
        let holes = self.holes(self.first).into_iter().flatten();
        if self.messages == 0 { Vec::new() } else { holes.take(max).collect() }
    }

    /// The gaps from `from` to the last sequence.
    pub(super) fn holes(&self, from: u64) -> Vec<RangeInclusive<u64>> {
        let mut holes = Vec::new();
        let mut next = from;
        let end = self.chunks.next();
        self.chunks.each(from, end, |sequence, _| {
            if sequence > next {
                holes.push(next..=sequence - 1);
            }
            next = sequence + 1;
        });
        if next < end {
            holes.push(next..=end - 1);
        }
        holes
    }

    /// Subjects that match, with how many messages each has, in any order that stays while nothing changes; and how many
    /// subjects match.
    pub(crate) fn subjects(&self, filter: &[u8], offset: usize, max: usize) -> (Vec<(&[u8], u64)>, usize) {
        let selection = self.select(&[filter.to_vec()]);
        let matching = || self.subjects.iter().filter(|(id, _)| selection.has(*id));
        let page = matching().skip(offset).take(max).map(|(_, subject)| (&*subject.name, subject.count)).collect();
        (page, matching().count())
    }

    /// How many messages have a subject that matches one of these.
    #[cfg(test)]
    pub(crate) fn count(&self, filters: &[Vec<u8>], from: u64) -> u64 {
        self.count_from(&self.select(filters), from)
    }

    /// The last message of a subject.
    pub(crate) fn last_by_subject(&mut self, name: &[u8]) -> Option<u64> {
        let id = self.subjects.find(name)?;
        self.last_of(id)
    }

    /// The last sequence that was given to a subject, also of a message that is on its way.
    pub(crate) fn last_by_subject_staged(&mut self, name: &[u8]) -> Option<u64> {
        let id = self.subjects.find(name)?;
        let subject = self.subjects.get(id);
        if subject.holds > 0 && subject.staged >= self.chunks.next() { Some(subject.staged) } else { self.last_of(id) }
    }

    fn last_of(&mut self, id: u32) -> Option<u64> {
        let subject = self.subjects.get(id);
        if subject.last > 0 || subject.count == 0 {
            return Some(subject.last).filter(|last| *last > 0);
        }
        let (last, _) = self.chunks.find_last(self.chunks.next(), |entry| entry.subject == id)?;
        self.subjects.get_mut(id).last = last;
        Some(last)
    }

    /// The last message, up to `up_to`, of each subject that matches one of these; `None` if they are more than `max`.
    pub(crate) fn last_by_filter(&mut self, filters: &[Vec<u8>], up_to: u64, max: usize) -> Option<Vec<u64>> {
        let selection = self.select(filters);
        let ids: Vec<u32> = match selection.is_all() {
            true => self.subjects.iter().map(|(id, _)| id).collect(),
            false => selection.ids().collect(),
        };
        let mut lasts = Vec::new();
        let mut sought = Vec::new();
        for id in ids {
            match self.last_of(id) {
                Some(last) if last <= up_to => lasts.push(last),
                Some(_) => sought.push(id),
                None => {}
            }
        }
        // One pass for those whose last one is later.
        let mut sought: std::collections::HashSet<u32> = sought.into_iter().collect();
        let mut until = up_to.saturating_add(1);
        while !sought.is_empty()
            && lasts.len() <= max
            && let Some((sequence, entry)) = self.chunks.find_last(until, |entry| sought.contains(&entry.subject))
        {
            sought.remove(&entry.subject);
            lasts.push(sequence);
            until = sequence;
        }
        lasts.sort_unstable();
        (lasts.len() <= max).then_some(lasts)
    }

    /// The messages that are there and of which this says so, in order.
    pub(crate) fn live(&self, wanted: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut found = Vec::new();
        self.chunks
            .each(self.first, self.chunks.next(), |sequence, _| found.extend(wanted(sequence).then_some(sequence)));
        found
    }

    /// The first message that is not older than `time`.
    pub(crate) fn first_after(&self, time: i64) -> Option<u64> {
        // Times never go back: what lies between can be halved, though not every sequence is there.
        let (mut from, mut until) = (self.first, self.chunks.next());
        while from < until {
            let middle = from + (until - from) / 2;
            match self.chunks.find(middle, |_| true) {
                Some((found, entry)) if entry.time < time => from = found + 1,
                _ => until = middle,
            }
        }
        self.chunks.find(from, |_| true).map(|(sequence, _)| sequence)
    }

    /// The first message from `from` on with a subject that matches.
    pub(crate) fn first_match(&self, filter: &[u8], from: u64) -> Option<u64> {
        let selection = self.select(&[filter.to_vec()]);
        if selection.is_empty() {
            return None;
        }
        let found = self.chunks.find(from, |entry| selection.has(entry.subject));
        found.map(|(sequence, _)| sequence)
    }

    /// The subject of a message.
    pub(crate) fn subject(&self, sequence: u64) -> Option<&[u8]> {
        self.chunks.get(sequence).map(|entry| &*self.subjects.get(entry.subject).name)
    }
}
