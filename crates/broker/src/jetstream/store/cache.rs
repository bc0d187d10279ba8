//! Records in memory: the end of what was appended, for those who follow it, and what was read ahead of those who do not.
//! Used by the store alone; it knows records and their numbers, not what they mean.

use std::collections::VecDeque;

use bytes::Bytes;

/// Limit: chunks read ahead at once, whatever their size.
const AHEAD_MAX: usize = 16;
/// Limit: places where somebody has read, to tell who reads in order.
const TRACES: usize = 16;
/// How far behind the last one a read may be to count as the next: filters pass over some.
const STRIDE: u64 = 64;

/// Which journal a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Messages,
    Kept,
}

/// Bounded in bytes; what was used longest ago goes.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: usize,
    /// The end of `messages`, without a gap.
    tail: VecDeque<Bytes>,
    tail_first: u64,
    tail_bytes: usize,
    ahead: VecDeque<Ahead>,
    ahead_bytes: usize,
    traces: VecDeque<(Source, u64)>,
}

#[derive(Debug)]
struct Ahead {
    source: Source,
    first: u64,
    records: Vec<Bytes>,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            tail: VecDeque::new(),
            tail_first: 0,
            tail_bytes: 0,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            traces: VecDeque::new(),
        }
    }

    /// The record behind all others.
    pub(super) fn push(&mut self, number: u64, record: Bytes) {
        if self.tail_first + self.tail.len() as u64 != number {
            self.tail.clear();
            (self.tail_first, self.tail_bytes) = (number, 0);
        }
        self.tail_bytes += record.len();
        self.tail.push_back(record);
        while self.tail_bytes > self.bytes_max / 2
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes -= oldest.len();
            self.tail_first += 1;
        }
    }

    pub(super) fn get(&mut self, source: Source, number: u64) -> Option<Bytes> {
        if source == Source::Messages
            && let Some(record) = number.checked_sub(self.tail_first).and_then(|at| self.tail.get(at as usize))
        {
            return Some(record.clone());
        }
        let at = self.ahead.iter().position(|ahead| ahead.holds(source, number))?;
        let record = self.ahead[at].records[(number - self.ahead[at].first) as usize].clone();
        if at > 0
            && let Some(used) = self.ahead.remove(at)
        {
            self.ahead.push_front(used);
        }
        self.trace(source, number);
        Some(record)
    }

    /// Whether whoever wants this record will want those behind it. Remembers that it was wanted.
    pub(super) fn is_sequential(&mut self, source: Source, number: u64) -> bool {
        self.trace(source, number)
    }

    fn trace(&mut self, source: Source, number: u64) -> bool {
        let is_next = |(other, last): &(Source, u64)| *other == source && number.wrapping_sub(*last) <= STRIDE;
        if let Some(at) = self.traces.iter().position(is_next) {
            let is_new = self.traces[at].1 != number;
            self.traces[at].1 = number;
            return is_new;
        }
        self.traces.truncate(TRACES - 1);
        self.traces.push_front((source, number));
        false
    }

    /// Keeps what was read, in order and without a gap.
    pub(super) fn keep(&mut self, source: Source, first: u64, records: Vec<Bytes>) {
        // Records share the memory of what was read at once.
        let bytes = records.iter().map(|record| record.len() + size_of::<Bytes>()).sum();
        self.ahead_bytes += bytes;
        self.ahead.push_front(Ahead { source, first, records, bytes });
        while (self.ahead.len() > AHEAD_MAX || self.ahead_bytes > self.bytes_max / 2)
            && let Some(oldest) = self.ahead.pop_back()
        {
            self.ahead_bytes -= oldest.bytes;
        }
    }
}

impl Ahead {
    fn holds(&self, source: Source, number: u64) -> bool {
        self.source == source && number.checked_sub(self.first).is_some_and(|at| at < self.records.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_bounded_and_reads_ahead_are_found() {
        let mut cache = Cache::new(1000);
        for number in 1..=100 {
            cache.push(number, Bytes::from(vec![0; 10]));
        }
        assert!(cache.get(Source::Messages, 50).is_none());
        assert!(cache.get(Source::Messages, 51).is_some() && cache.get(Source::Messages, 100).is_some());
        assert!(cache.get(Source::Messages, 101).is_none() && cache.get(Source::Kept, 100).is_none());
        assert!(!cache.is_sequential(Source::Messages, 7) && cache.is_sequential(Source::Messages, 9));
        cache.keep(Source::Messages, 10, vec![Bytes::from_static(b"x"); 3]);
        assert!(cache.get(Source::Messages, 12).is_some() && cache.get(Source::Messages, 13).is_none());
        cache.keep(Source::Messages, 20, vec![Bytes::from(vec![0; 480])]);
        assert!(cache.get(Source::Messages, 12).is_none(), "the older chunk went");
    }
}
