//! A consumer's state as records of the ledger. A record is a version, a kind (`CHANGES`, or `WHOLE`, which begins anew),
//! both places, and operations to the end, all numbers as varints (LEB128). An operation is a tag and its fields; the
//! sequences of one tag ascend and are written as gaps. What is not written exactly so is refused.

use super::schedule::Due;
use super::state::{Changed, Pending, Place, State};
use crate::jetstream::wire;

/// A record that this version has not written so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a consumer's record has version {0}, which is not known")]
    Version(u8),
    #[error("a consumer's record is malformed: {0}")]
    Content(&'static str),
}

const VERSION: u8 = 1;
const CHANGES: u8 = 0;
const WHOLE: u8 = 1;

/// Acknowledged or gone: gap, length.
const GONE: u8 = 1;
/// Delivered as often as may be: gap, length.
const EXHAUSTED: u8 = 2;
/// Pending: gap, length, consumer sequence of the first (each next is one more), deliveries.
const PENDING: u8 = 3;
/// Pending and not due before a time: gap, time as two's complement.
const DELAYED: u8 = 4;
/// To be delivered first: gap, length.
const LISTED: u8 = 5;
/// Where the cursor begins: sequence.
const RESUME: u8 = 6;
const TAGS: usize = 7;

/// Operations, and pending or listed sequences, of one record.
const ENTRIES_MAX: u64 = 1 << 14;

impl State {
    /// What has changed since the last call, as records that belong together; none if nothing has.
    pub(super) fn changes(&mut self) -> Vec<Vec<u8>> {
        match std::mem::take(&mut self.changed) {
            Changed::Nothing => Vec::new(),
            Changed::Everything => self.snapshot(),
            Changed::Sequences(mut sequences) => {
                sequences.sort_unstable();
                sequences.dedup();
                let mut writer = Writer::new(self, CHANGES);
                self.write_settled(&mut writer, &sequences);
                let pending = || sequences.iter().filter_map(|at| self.pending.get_key_value(at));
                write_pending(&mut writer, pending);
                writer.records
            }
        }
    }

    /// Everything, as records that belong together. The first one begins anew.
    pub(super) fn snapshot(&self) -> Vec<Vec<u8>> {
        let mut writer = Writer::new(self, WHOLE);
        writer.resume(self.resume);
        self.exhausted.iter().for_each(|(first, last)| writer.range(EXHAUSTED, first, last));
        write_pending(&mut writer, || self.pending.iter());
        runs(
            self.listed.iter().copied(),
            |one, next| one + 1 == next,
            |first, last, len| {
                writer.range_of(LISTED, first, last, len);
            },
        );
        writer.records
    }

    /// What of these is pending no more.
    fn write_settled(&self, writer: &mut Writer<'_>, sequences: &[u64]) {
        let settled = || sequences.iter().copied().filter(|sequence| !self.pending.contains_key(sequence));
        let follows = |one: u64, next: u64| one + 1 == next;
        let gone = settled().filter(|sequence| !self.exhausted.contains(*sequence));
        runs(gone, follows, |first, last, _| writer.range(GONE, first, last));
        let exhausted = settled().filter(|sequence| self.exhausted.contains(*sequence));
        runs(exhausted, follows, |first, last, _| writer.range(EXHAUSTED, first, last));
    }

    /// Applies a record, in the order in which they were written.
    ///
    /// # Errors
    /// The record is not as this version writes it. The state is then of no use any more.
    pub(crate) fn replay(&mut self, record: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader { rest: record, ends: [0; TAGS], entries: 0 };
        let version = reader.byte()?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        match reader.byte()? {
            CHANGES => {}
            WHOLE => *self = Self::default(),
            _ => return Err(Malformed::Content("its kind is not known")),
        }
        let delivered = Place { consumer: reader.number()?, stream: reader.number()? };
        let below = |of: u64, lag: u64| of.checked_sub(lag).ok_or(Malformed::Content("its floor lies below zero"));
        let consumer = below(delivered.consumer, reader.number()?)?;
        let stream = below(delivered.stream, reader.number()?)?;
        if delivered.consumer < self.delivered.consumer || delivered.stream < self.delivered.stream {
            return Err(Malformed::Content("it goes backwards"));
        }
        (self.delivered, self.floor) = (delivered, Place { consumer, stream });
        while self.listed.front().is_some_and(|listed| *listed <= delivered.stream) {
            self.listed.pop_front();
        }
        while !reader.rest.is_empty() {
            self.replay_operation(&mut reader)?;
        }
        Ok(())
    }

    fn replay_operation(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let end = self.delivered.stream;
        match reader.byte()? {
            GONE => {
                let (first, last) = reader.range(GONE, end)?;
                self.replay_removal(first, last);
                self.exhausted.remove_range(first, last);
            }
            EXHAUSTED => {
                let (first, last) = reader.range(EXHAUSTED, end)?;
                self.replay_removal(first, last);
                self.exhausted.insert_range(first, last);
            }
            PENDING => {
                let (first, last) = reader.range(PENDING, end)?;
                reader.count(last - first)?;
                let (consumer, deliveries) = (reader.number()?, reader.number()?);
                let consumer_last = consumer.checked_add(last - first);
                let is_delivered = consumer_last.is_some_and(|at| at <= self.delivered.consumer);
                if consumer == 0 || deliveries == 0 || !is_delivered {
                    return Err(Malformed::Content("something was delivered never, or beyond the last delivery"));
                }
                self.replay_removal(first, last);
                for (consumer_sequence, sequence) in (consumer..).zip(first..=last) {
                    let pending = Pending { consumer_sequence, deliveries, until: 0, due: Due::Unknown };
                    self.redelivered += usize::from(deliveries > 1);
                    self.pending.insert(sequence, pending);
                }
            }
            DELAYED => {
                let sequence = reader.sequence(DELAYED, end)?;
                let until = reader.number()?.cast_signed();
                let pending = self.pending.get_mut(&sequence);
                pending.ok_or(Malformed::Content("it delays what is not pending"))?.until = until;
            }
            LISTED => {
                let (first, last) = reader.range(LISTED, u64::MAX)?;
                reader.count(last - first)?;
                let before = self.listed.back().copied().unwrap_or(end);
                if first <= before {
                    return Err(Malformed::Content("its list does not ascend"));
                }
                self.listed.extend(first..=last);
            }
            RESUME => self.resume = reader.number()?,
            _ => return Err(Malformed::Content("an operation is not known")),
        }
        Ok(())
    }

    fn replay_removal(&mut self, first: u64, last: u64) {
        while let Some((sequence, pending)) = self.pending.range(first..=last).next() {
            let sequence = *sequence;
            self.redelivered -= usize::from(pending.deliveries > 1);
            self.pending.remove(&sequence);
        }
    }
}

fn write_pending<'a, I: Iterator<Item = (&'a u64, &'a Pending)>>(writer: &mut Writer<'_>, pending: impl Fn() -> I) {
    let follows = |one: (u64, Pending), next: (u64, Pending)| {
        one.0 + 1 == next.0
            && one.1.consumer_sequence + 1 == next.1.consumer_sequence
            && one.1.deliveries == next.1.deliveries
    };
    runs(pending().map(|(sequence, pending)| (*sequence, *pending)), follows, |(first, pending), (last, _), len| {
        writer.range_of(PENDING, first, last, len);
        writer.number(pending.consumer_sequence);
        writer.number(pending.deliveries);
    });
    for (sequence, pending) in pending().filter(|(_, pending)| pending.until != 0) {
        writer.begin(DELAYED, *sequence, 1);
        writer.number(pending.until.cast_unsigned());
    }
}

/// Calls `take` with the first and the last of each run, and its length. No run is longer than a record may be.
fn runs<T: Copy>(items: impl Iterator<Item = T>, follows: impl Fn(T, T) -> bool, mut take: impl FnMut(T, T, u64)) {
    let mut run: Option<(T, T, u64)> = None;
    for item in items {
        run = match run {
            Some((first, last, len)) if len < ENTRIES_MAX && follows(last, item) => Some((first, item, len + 1)),
            other => {
                if let Some((first, last, len)) = other {
                    take(first, last, len);
                }
                Some((item, item, 1))
            }
        };
    }
    if let Some((first, last, len)) = run {
        take(first, last, len);
    }
}

struct Writer<'a> {
    state: &'a State,
    records: Vec<Vec<u8>>,
    /// Of the last record: where each tag's last sequence ended, and how many entries it has.
    ends: [u64; TAGS],
    entries: u64,
}

impl<'a> Writer<'a> {
    fn new(state: &'a State, kind: u8) -> Self {
        let mut writer = Self { state, records: Vec::new(), ends: [0; TAGS], entries: 0 };
        writer.begin_record(kind);
        writer
    }

    fn begin_record(&mut self, kind: u8) {
        let State { delivered, floor, .. } = self.state;
        self.records.push(vec![VERSION, kind]);
        (self.ends, self.entries) = ([0; TAGS], 0);
        self.number(delivered.consumer);
        self.number(delivered.stream);
        self.number(delivered.consumer - floor.consumer);
        self.number(delivered.stream - floor.stream);
    }

    /// Begins an operation; `entries` of it fit into one record.
    fn begin(&mut self, tag: u8, first: u64, entries: u64) {
        if self.entries + entries > ENTRIES_MAX {
            self.begin_record(CHANGES);
        }
        self.entries += entries;
        self.byte(tag);
        self.number(first - self.ends[usize::from(tag)]);
        self.ends[usize::from(tag)] = first;
    }

    fn range(&mut self, tag: u8, first: u64, last: u64) {
        self.begin(tag, first, 1);
        self.number(last - first + 1);
        self.ends[usize::from(tag)] = last;
    }

    /// A range whose members are counted.
    fn range_of(&mut self, tag: u8, first: u64, last: u64, len: u64) {
        self.begin(tag, first, len);
        self.number(len);
        self.ends[usize::from(tag)] = last;
    }

    fn resume(&mut self, sequence: u64) {
        self.byte(RESUME);
        self.number(sequence);
    }

    fn byte(&mut self, byte: u8) {
        self.record().push(byte);
    }

    fn number(&mut self, number: u64) {
        wire::put_u64(self.record(), number);
    }

    fn record(&mut self) -> &mut Vec<u8> {
        self.records.last_mut().expect("a writer begins with a record")
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    ends: [u64; TAGS],
    entries: u64,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        wire::take_byte(&mut self.rest).ok_or(Malformed::Content("it ends too early"))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let wrong = Malformed::Content("a number is cut, too large or not in its shortest form");
        wire::take_u64(&mut self.rest).ok_or(wrong)
    }

    /// The sequence that an operation begins with, at most `end`.
    fn sequence(&mut self, tag: u8, end: u64) -> Result<u64, Malformed> {
        self.count(1)?;
        let gap = self.number()?;
        let before = &mut self.ends[usize::from(tag)];
        let sequence = before.checked_add(gap).filter(|sequence| gap > 0 && *sequence <= end);
        *before = sequence.ok_or(Malformed::Content("a sequence does not ascend, or lies beyond the last"))?;
        Ok(*before)
    }

    fn range(&mut self, tag: u8, end: u64) -> Result<(u64, u64), Malformed> {
        let first = self.sequence(tag, end)?;
        let len = self.number()?;
        let last = len.checked_sub(1).and_then(|more| first.checked_add(more)).filter(|last| *last <= end);
        let last = last.ok_or(Malformed::Content("a range is empty, or lies beyond the last"))?;
        self.ends[usize::from(tag)] = last;
        Ok((first, last))
    }

    fn count(&mut self, entries: u64) -> Result<(), Malformed> {
        self.entries = self.entries.saturating_add(entries);
        if self.entries > ENTRIES_MAX { Err(Malformed::Content("it holds too much")) } else { Ok(()) }
    }
}
