//! Gives space back while the stream goes on: moves survivors to `kept`, drops segments of journals. Each piece of work is
//! a task beside the stream's actor, one at a time; it has all that it needs as values, and what it did is taken in by
//! `files` before the next begins. Appends in order, never removes anything that is not on disk elsewhere or gone.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use journal::{Damage, Journal, Record, Visible};

use super::change::push_sequence;
use super::files::overhead;
use super::index::Arrival;
use super::kept::{Commit, PREFIX, RANGES_MAX};
use super::summary::KeptRows;
use super::{FRAME_BYTES, Result, record};

/// Limit: bytes of moved messages that may wait for the disk.
const WAITING_MAX: usize = 1 << 20;
/// Limit: how far apart records may be to be read at once.
const STRIDE: u64 = 64;

/// Something to be done.
#[derive(Debug)]
pub(super) enum Work {
    Move(Move),
    Drop(Drops),
}

/// Messages to be appended to `kept`.
#[derive(Debug)]
pub(super) struct Move {
    /// Where they are, in order: sequences and numbers of records.
    pub(super) from: Journal,
    pub(super) visible: Visible,
    pub(super) messages: Vec<(u64, u64)>,
    /// Bytes in front of each message's record there.
    pub(super) prefix: usize,
    pub(super) kept: Journal,
    /// The number of the last commit.
    pub(super) last_commit: u64,
    /// Below these, all messages are in `kept` before and after.
    pub(super) until_before: u64,
    pub(super) until: u64,
    /// Went from `kept` and is not told there yet.
    pub(super) graves: Vec<u64>,
}

/// Segments to be dropped.
#[derive(Debug)]
pub(super) struct Drops {
    /// Journals, and the number below which nothing is needed.
    pub(super) journals: Vec<(Journal, u64)>,
    /// What must be on disk before: the last commit there, and what went since; and all of this.
    pub(super) kept: Option<(Journal, u64)>,
    pub(super) index: Option<Journal>,
    pub(super) until: u64,
    pub(super) graves: Vec<u64>,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Sequences with the numbers of their new records.
    pub(super) placed: Vec<(u64, u64)>,
    /// Numbers of commits with their summaries.
    pub(super) summaries: Vec<(u64, Vec<u8>)>,
    /// All messages below this are in `kept`; 0 if that did not change.
    pub(super) until: u64,
    /// The number of the last commit, 0 if that did not change.
    pub(super) last_commit: u64,
    /// What could not be moved.
    pub(super) lost: Vec<(u64, Damage)>,
}

/// Does it, once everything that has arrived until now is on disk: what goes may have gone because of it.
pub(super) async fn run(work: Work, messages: Journal) -> Result<Done> {
    messages.sync().await?;
    match work {
        Work::Move(moving) => moving.run().await,
        Work::Drop(drops) => drops.run().await,
    }
}

/// Tells `kept` what went from it, but for the last part, which goes with another commit.
async fn bury(kept: &Journal, until: u64, mut graves: Vec<u64>, done: &mut Done) -> Result<Vec<RangeInclusive<u64>>> {
    graves.sort_unstable();
    let mut ranges = Vec::new();
    for sequence in graves {
        push_sequence(&mut ranges, sequence);
    }
    while ranges.len() > RANGES_MAX {
        let rest = ranges.split_off(RANGES_MAX);
        let gone = std::mem::replace(&mut ranges, rest);
        commit(kept, Commit { base: 0, count: 0, until, gone }, KeptRows::default(), done).await?;
    }
    Ok(ranges)
}

async fn commit(kept: &Journal, commit: Commit, rows: KeptRows, done: &mut Done) -> Result<()> {
    let bytes = commit.encode();
    let number = kept.append(&bytes).await?;
    done.summaries.push((number, rows.close(done.last_commit, number, &bytes)));
    done.last_commit = number;
    Ok(())
}

impl Drops {
    async fn run(self) -> Result<Done> {
        let mut done = Done::default();
        if let Some((kept, last_commit)) = self.kept.filter(|_| !self.graves.is_empty()) {
            done.last_commit = last_commit;
            let gone = bury(&kept, self.until, self.graves, &mut done).await?;
            let last = Commit { base: 0, count: 0, until: self.until, gone };
            commit(&kept, last, KeptRows::default(), &mut done).await?;
        }
        if let Some(index) = self.index {
            // What is dropped from it may have been copied to its end.
            index.sync().await?;
        }
        for (journal, before) in self.journals {
            journal.drop_before(before).await?;
        }
        Ok(done)
    }
}

impl Move {
    async fn run(mut self) -> Result<Done> {
        let mut done = Done { until: self.until, last_commit: self.last_commit, ..Done::default() };
        let graves = std::mem::take(&mut self.graves);
        let mut gone = bury(&self.kept, self.until_before, graves, &mut done).await?;
        let mut source = Source::new(self.from.clone(), self.visible);
        let mut messages = std::mem::take(&mut self.messages).into_iter().peekable();
        loop {
            let mut group = Group::default();
            while !group.rows.is_full()
                && let Some((sequence, number)) = messages.next()
            {
                match source.get(number).await {
                    Ok(record) => group.push(sequence, &record.payload[self.prefix..], &self.kept).await?,
                    Err(journal::Error::Damaged(damage)) => done.lost.push((sequence, damage)),
                    Err(error) => return Err(error.into()),
                }
            }
            // What comes next in order of sequences is still where it was. Moves within `kept` change nothing of that.
            let until = match messages.peek() {
                Some((next, _)) if self.until > self.until_before => *next,
                _ => self.until,
            };
            group.finish(&self.kept, until, std::mem::take(&mut gone), &mut done).await?;
            if messages.peek().is_none() {
                return Ok(done);
            }
        }
    }
}

/// Messages that one commit confirms.
#[derive(Debug, Default)]
struct Group {
    rows: KeptRows,
    sequences: Vec<u64>,
    base: u64,
    batch: Vec<Vec<u8>>,
    batch_bytes: usize,
    waiting: usize,
}

impl Group {
    async fn push(&mut self, sequence: u64, bytes: &[u8], kept: &Journal) -> Result<()> {
        let message = record::decode(bytes).ok_or(super::Error::Record { sequence })?;
        let content = message.subject.len() + message.headers.len() + message.payload.len();
        let size = (content + overhead(!message.headers.is_empty())) as u32;
        let (time, ttl, rollup) = (message.time, message.ttl, message.rollup);
        self.rows.push(sequence, message.subject, &Arrival { subject: 0, size, time, ttl, rollup });
        self.sequences.push(sequence);
        let mut record = Vec::with_capacity(PREFIX + bytes.len());
        record.extend_from_slice(&sequence.to_le_bytes());
        record.extend_from_slice(bytes);
        self.batch_bytes += record.len();
        self.batch.push(record);
        if self.batch_bytes >= FRAME_BYTES {
            self.write(kept).await?;
        }
        Ok(())
    }

    async fn write(&mut self, kept: &Journal) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let pending = kept.enqueue(&self.batch).await?;
        if self.base == 0 {
            self.base = pending.first();
        }
        self.batch.clear();
        self.waiting += std::mem::take(&mut self.batch_bytes);
        if self.waiting >= WAITING_MAX {
            self.waiting = 0;
            pending.await?;
        }
        // Otherwise the commit, which is waited for, comes after it.
        Ok(())
    }

    async fn finish(
        mut self,
        kept: &Journal,
        until: u64,
        gone: Vec<RangeInclusive<u64>>,
        done: &mut Done,
    ) -> Result<()> {
        self.write(kept).await?;
        let Self { rows, sequences, base, .. } = self;
        let count = sequences.len() as u64;
        commit(kept, Commit { base, count, until, gone }, rows, done).await?;
        done.placed.extend(sequences.into_iter().zip(base..));
        Ok(())
    }
}

/// Reads single records in ascending order, neighbours at once.
struct Source {
    journal: Journal,
    visible: Visible,
    read: VecDeque<Record>,
    last: u64,
}

impl Source {
    fn new(journal: Journal, visible: Visible) -> Self {
        Self { journal, visible, read: VecDeque::new(), last: 0 }
    }

    async fn get(&mut self, number: u64) -> journal::Result<Record> {
        while self.read.pop_front_if(|record| record.sequence < number).is_some() {}
        let is_near = number - self.last <= STRIDE;
        self.last = number;
        if let Some(record) = self.read.pop_front_if(|record| record.sequence == number) {
            return Ok(record);
        }
        self.read.clear();
        if is_near {
            self.read = self.journal.read_some(number, self.visible).await?.into();
            if let Some(record) = self.read.pop_front() {
                return Ok(record);
            }
        }
        Ok(self.journal.get(number, self.visible).await?.expect("what is in the index was acknowledged"))
    }
}
