//! What the index needs of many messages, in few bytes, so that opening a stream need not read them: the records of the
//! journal `index`, version 1, as pure functions. They can always be made again from the messages.

// A record is
//
//   version (1), kind (1), then numbers (`wire`):
//   messages: first, last sequence;                    then rows to the end
//   kept:     numbers in `kept` of the commit before it and of its own, length of the commit, the commit as it is there;
//             then rows to the end
//
// and a row is
//
//   subject << 5 | gap << 4 | flags of the message; if gap: sequences that were passed over, in zigzag;
//   where the subject is one more than there were: its length, its name;
//   size; time since the row before, in zigzag; the TTL if the flags say so.
//
// The first row's sequence is `first`, or what its gap says in `kept`; the first row's time is since the epoch.

use super::super::wire;
use super::index::Arrival;
use super::subjects::Subjects;
use super::{Rollup, Ttl, record};

const VERSION: u8 = 1;
const MESSAGES: u8 = 0;
const KEPT: u8 = 1;
const GAP: u64 = 1 << 4;
const FLAGS: u64 = GAP - 1;
const SUBJECT_SHIFT: u32 = 5;

/// Limit: messages of one summary, the bytes that they count, and the bytes of the summary, but for one row.
pub(super) const MESSAGES_MAX: u64 = if cfg!(test) { 24 } else { 16 << 10 };
const CONTENT_MAX: u64 = 16 << 20;
const BYTES_MAX: usize = 1 << 20;
/// Limit: bytes of a summary's record, with a row that has the longest subject.
pub(super) const RECORD_MAX: usize = 4 << 20;

/// A summary that is being written.
#[derive(Debug)]
pub(super) struct Notes {
    /// Tells which of the table's subjects this one knows.
    number: u32,
    rows: Vec<u8>,
    first: u64,
    next: u64,
    count: u64,
    content: u64,
    time: i64,
    subjects: u32,
}

/// One that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: Vec<u8>,
}

impl Notes {
    pub(super) fn new() -> Self {
        Self { number: 1, rows: Vec::new(), first: 0, next: 0, count: 0, content: 0, time: 0, subjects: 0 }
    }

    /// Notes a message behind those that were.
    pub(super) fn push(&mut self, subjects: &mut Subjects, sequence: u64, arrival: &Arrival) {
        let Arrival { subject: id, size, time, .. } = *arrival;
        if self.count == 0 {
            (self.first, self.next, self.time, self.subjects) = (sequence, sequence, 0, 0);
        }
        let subject = subjects.get_mut(id);
        let is_new = subject.noted.0 != self.number;
        if is_new {
            subject.noted = (self.number, self.subjects);
            self.subjects += 1;
        }
        let name = is_new.then_some(&*subject.name);
        push_row(&mut self.rows, subject.noted.1, name, sequence.wrapping_sub(self.next), arrival, self.time);
        (self.next, self.time) = (sequence + 1, time);
        self.count += 1;
        self.content += u64::from(size);
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= MESSAGES_MAX || self.content >= CONTENT_MAX || self.rows.len() >= BYTES_MAX
    }

    /// What was noted, if anything was; begins anew.
    pub(super) fn close(&mut self) -> Option<Closed> {
        if self.count == 0 {
            return None;
        }
        let (first, last) = (self.first, self.next - 1);
        let mut bytes = vec![VERSION, MESSAGES];
        wire::put_u64(&mut bytes, first);
        wire::put_u64(&mut bytes, last);
        bytes.append(&mut self.rows);
        *self = Self { number: self.number.wrapping_add(1).max(1), ..Self::new() };
        Some(Closed { first, last, bytes })
    }
}

fn push_row(rows: &mut Vec<u8>, subject: u32, name: Option<&[u8]>, gap: u64, arrival: &Arrival, before: i64) {
    let flags = u64::from(record::flags(arrival.ttl, arrival.rollup));
    let gap_flag = if gap == 0 { 0 } else { GAP };
    wire::put_u64(rows, u64::from(subject) << SUBJECT_SHIFT | gap_flag | flags);
    if gap != 0 {
        wire::put_u64(rows, zigzag(gap as i64));
    }
    if let Some(name) = name {
        wire::put_bytes(rows, name);
    }
    wire::put_u64(rows, arrival.size.into());
    wire::put_u64(rows, zigzag(arrival.time.wrapping_sub(before)));
    if let Some(Ttl::After(after)) = arrival.ttl {
        wire::put_u64(rows, after.as_nanos() as u64);
    }
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Writes the rows of messages that were moved to `kept`.
#[derive(Debug, Default)]
pub(super) struct KeptRows {
    rows: Vec<u8>,
    subjects: hashbrown::HashMap<Box<[u8]>, u32>,
    next: u64,
    time: i64,
    count: u64,
}

impl KeptRows {
    /// `arrival.subject` means nothing here.
    pub(super) fn push(&mut self, sequence: u64, name: &[u8], arrival: &Arrival) {
        let known = self.subjects.get(name).copied();
        let subject = known.unwrap_or(self.subjects.len() as u32);
        if known.is_none() {
            self.subjects.insert(name.into(), subject);
        }
        let name = known.is_none().then_some(name);
        push_row(&mut self.rows, subject, name, sequence.wrapping_sub(self.next), arrival, self.time);
        (self.next, self.time) = (sequence + 1, arrival.time);
        self.count += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= MESSAGES_MAX || self.rows.len() >= BYTES_MAX
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The summary of what a commit with this number and these bytes has confirmed, after the one with the number `before`.
    pub(super) fn close(self, before: u64, number: u64, commit: &[u8]) -> Vec<u8> {
        let mut bytes = vec![VERSION, KEPT];
        wire::put_u64(&mut bytes, before);
        wire::put_u64(&mut bytes, number);
        wire::put_bytes(&mut bytes, commit);
        bytes.extend_from_slice(&self.rows);
        bytes
    }
}

/// A summary as it is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Summary<'a> {
    Messages { first: u64, last: u64, rows: Rows<'a> },
    Kept { before: u64, number: u64, commit: &'a [u8], rows: Rows<'a> },
}

/// Rows in order; the first that is none ends them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    rest: &'a [u8],
    next: u64,
    time: i64,
    subjects: u32,
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) sequence: u64,
    /// Its number within the summary, and its name where it is new.
    pub(super) subject: u32,
    pub(super) name: Option<&'a [u8]>,
    pub(super) size: u32,
    pub(super) time: i64,
    pub(super) ttl: Option<Ttl>,
    pub(super) rollup: Option<Rollup>,
}

impl Row<'_> {
    pub(super) fn arrival(&self, subject: u32) -> Arrival {
        Arrival { subject, size: self.size, time: self.time, ttl: self.ttl, rollup: self.rollup }
    }
}

/// Reads a record; `None` for one that is none.
pub(super) fn decode(bytes: &[u8]) -> Option<Summary<'_>> {
    let ([VERSION, kind], mut rest) = bytes.split_first_chunk::<2>()? else { return None };
    let one = wire::take_u64(&mut rest)?;
    let rows = |rest, next| Rows { rest, next, time: 0, subjects: 0 };
    match *kind {
        MESSAGES => {
            let last = wire::take_u64(&mut rest)?;
            Some(Summary::Messages { first: one, last, rows: rows(rest, one) })
        }
        KEPT => {
            let number = wire::take_u64(&mut rest)?;
            let commit = wire::take_bytes(&mut rest)?;
            Some(Summary::Kept { before: one, number, commit, rows: rows(rest, 0) })
        }
        _ => None,
    }
}

impl<'a> Rows<'a> {
    #[inline]
    fn take(&mut self) -> Option<Row<'a>> {
        let rest = &mut self.rest;
        let head = wire::take_u64(rest)?;
        let gap = if head & GAP == 0 { 0 } else { unzigzag(wire::take_u64(rest)?) };
        let subject = u32::try_from(head >> SUBJECT_SHIFT).ok()?;
        let name = if subject == self.subjects {
            self.subjects += 1;
            Some(wire::take_bytes(rest)?)
        } else if subject < self.subjects {
            None
        } else {
            return None;
        };
        let size = u32::try_from(wire::take_u64(rest)?).ok()?;
        let time = self.time.wrapping_add(unzigzag(wire::take_u64(rest)?));
        let (ttl, rollup) = record::from_flags((head & FLAGS) as u8, || wire::take_u64(rest))?;
        let sequence = self.next.wrapping_add_signed(gap);
        (self.next, self.time) = (sequence.checked_add(1)?, time);
        Some(Row { sequence, subject, name, size, time, ttl, rollup })
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = Row<'a>;

    #[inline]
    fn next(&mut self) -> Option<Row<'a>> {
        let row = self.take();
        if row.is_none() {
            self.rest = &[];
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn arrival(subject: u32, time: i64, ttl: Option<Ttl>, rollup: Option<Rollup>) -> Arrival {
        Arrival { subject, size: 77, time, ttl, rollup }
    }

    #[test]
    fn what_was_noted_comes_back_and_a_cut_one_gives_less() {
        let mut subjects = Subjects::default();
        let (a, _) = subjects.find_or_add(b"a");
        let (b, _) = subjects.find_or_add(b"b.c");
        let rows = [
            (900, arrival(a, 1 << 60, None, None)),
            (901, arrival(b, (1 << 60) - 5, Some(Ttl::Never), Some(Rollup::All))),
            (1000, arrival(a, (1 << 60) + 5, Some(Ttl::After(Duration::from_nanos(9))), Some(Rollup::Subject))),
        ];
        let mut notes = Notes::new();
        for _ in 0..2 {
            for (sequence, arrival) in &rows {
                notes.push(&mut subjects, *sequence, arrival);
            }
            let Closed { first, last, bytes } = notes.close().expect("noted");
            assert_eq!((first, last), (900, 1000));
            let Some(Summary::Messages { rows: read, .. }) = decode(&bytes) else { panic!("no summary") };
            let names: Vec<_> = read.map(|row| row.name).collect();
            assert_eq!(names, [Some(&b"a"[..]), Some(b"b.c"), None]);
            for (row, (sequence, expected)) in read.zip(&rows) {
                let arrival = row.arrival(row.subject);
                assert_eq!((row.sequence, arrival.time, arrival.size), (*sequence, expected.time, 77));
                assert_eq!((arrival.ttl, arrival.rollup), (expected.ttl, expected.rollup));
            }
            for cut in 0..bytes.len() {
                if let Some(Summary::Messages { rows, .. }) = decode(&bytes[..cut]) {
                    assert!(rows.count() < 3);
                }
            }
        }
        assert_eq!(notes.close(), None);
    }
}
