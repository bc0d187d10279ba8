//! The journal `kept`: messages that outlived their neighbours in `messages`, so that those could be dropped. Where each of
//! them lies, and how that is found again. Messages are moved here by `upkeep`.

// A record is a message (its sequence, 8 bytes, then its record), or a commit (the highest bit set, 8 bytes, then numbers):
// that the `count` records from number `base` on are whole; that everything below `until` that is there is here, nothing of
// it in `messages`; and which messages that were here have gone since the last commit. Messages without a commit count for
// nothing: the move was interrupted. Of several copies of a message the last counts.
//
// Order: a commit is on disk before anything that it speaks of, or that it outlives, is dropped from a journal. Without the
// deaths in it a replay could bring a message back: one that had to go when others were there that are dropped since.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use bytes::Bytes;
use journal::{Damage, Journal, Visible};

use super::super::wire;
use super::change::{push_ranges, take_ranges};
use super::files::overhead;
use super::index::{Arrival, Index};
use super::summary::{self, KeptRows, Summary};
use super::{Error, Result, record};

/// Bytes in front of a message's record.
pub(super) const PREFIX: usize = 8;
const COMMIT: u64 = 1 << 63;
/// Limit: ranges of sequences in one commit, which is then below 2 MiB.
pub(super) const RANGES_MAX: usize = 64 << 10;
/// Limit: a message that was taken when more was allowed is moved all the same. NATS's own bound, and something on top.
pub(super) const MESSAGE_MAX: usize = 65 << 20;

/// What a commit says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) base: u64,
    pub(super) count: u64,
    pub(super) until: u64,
    pub(super) gone: Vec<RangeInclusive<u64>>,
}

impl Commit {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = COMMIT.to_le_bytes().to_vec();
        for number in [self.base, self.count, self.until] {
            wire::put_u64(&mut bytes, number);
        }
        push_ranges(&mut bytes, &self.gone);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_first_chunk::<PREFIX>()?;
        let rest = &mut rest;
        (u64::from_le_bytes(*head) == COMMIT).then_some(())?;
        let (base, count, until) = (wire::take_u64(rest)?, wire::take_u64(rest)?, wire::take_u64(rest)?);
        Some(Self { base, count, until, gone: take_ranges(rest)? })
    }
}

/// Where the messages are.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) journal: Journal,
    /// Sequences, ascending, with the numbers of their records; also of some that are gone.
    places: Vec<(u64, u64)>,
    /// The number of the last commit, 0 for none.
    pub(super) last_commit: u64,
    /// The lowest number that counted, and how many messages there were, when that was last looked for.
    lowest: Option<(u64, u64)>,
}

impl Kept {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, places: Vec::new(), last_commit: 0, lowest: None }
    }

    /// The number of a message's record.
    pub(super) fn place(&self, sequence: u64) -> Option<u64> {
        self.places.binary_search_by_key(&sequence, |(sequence, _)| *sequence).ok().map(|at| self.places[at].1)
    }

    /// Those whose records are below this number, in the order of their records.
    pub(super) fn below(&self, number: u64) -> Vec<(u64, u64)> {
        let mut below: Vec<(u64, u64)> = self.places.iter().copied().filter(|(_, at)| *at < number).collect();
        below.sort_unstable_by_key(|(_, at)| *at);
        below
    }

    /// The lowest number of a record that counts; it may have risen a little.
    pub(super) fn lowest(&mut self, index: &Index) -> u64 {
        let messages = index.kept.messages;
        match self.lowest {
            Some((lowest, counted)) if messages > 0 && messages > counted - counted / 8 => lowest,
            _ => {
                let there = self.places.iter().filter(|(sequence, _)| index.is_live(*sequence));
                let end = self.journal.last(Visible::Synced);
                let lowest = there.map(|(_, number)| *number).min().unwrap_or(end);
                self.lowest = Some((lowest, messages));
                lowest
            }
        }
    }

    /// Messages have a new place: those that have one are known, others come behind them.
    pub(super) fn placed(&mut self, placed: &[(u64, u64)], index: &Index) {
        for (sequence, number) in placed {
            match self.places.binary_search_by_key(sequence, |(sequence, _)| *sequence) {
                Ok(at) => self.places[at].1 = *number,
                Err(at) => self.places.insert(at, (*sequence, *number)),
            }
        }
        self.places.retain(|(sequence, _)| index.is_live(*sequence));
        self.places.shrink_to(2 * self.places.len());
        self.lowest = None;
    }
}

/// What was found in `kept` when the stream was opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By sequence: the record's number and the message, whose subject is held.
    pub(super) messages: BTreeMap<u64, (u64, Arrival)>,
    pub(super) until: u64,
    /// Summaries of commits that had none.
    pub(super) summaries: Vec<(u64, Vec<u8>)>,
    pub(super) damage: Vec<Damage>,
    /// The number of the last commit, 0 for none.
    pub(super) last_commit: u64,
    gone: HashSet<u64>,
}

/// A message whose commit was not seen yet.
struct Uncommitted {
    number: u64,
    sequence: u64,
    arrival: Arrival,
}

impl Found {
    /// Reads what summaries tell, by the numbers of their commits, and the rest from the journal. `first` is the first
    /// message of which `messages` has a record.
    pub(super) async fn read(
        journal: &Journal,
        summaries: &BTreeMap<u64, Bytes>,
        first: u64,
        index: &mut Index,
    ) -> Result<Self> {
        let mut found = Self::default();
        for bytes in summaries.values() {
            // Each names the one before it: none is missing in between.
            if !found.read_summary(bytes, journal.first(), index) {
                break;
            }
        }
        let from = found.last_commit + 1;
        let orphans = found.read_journal(journal, from.max(journal.first()), index).await?;
        // A commit that is damaged is missed only where nothing else has the message.
        for Uncommitted { number, sequence, arrival } in orphans {
            let is_lost = !found.damage.is_empty() && sequence < first && !found.gone.contains(&sequence);
            if is_lost && !found.messages.contains_key(&sequence) {
                found.messages.insert(sequence, (number, arrival));
                found.until = found.until.max(sequence + 1);
            } else {
                index.unhold(arrival.subject);
            }
        }
        let dropped = journal.first();
        found.messages.retain(|_, (number, arrival)| {
            let is_there = *number >= dropped;
            if !is_there {
                index.unhold(arrival.subject);
            }
            is_there
        });
        Ok(found)
    }

    fn insert(&mut self, index: &mut Index, sequence: u64, number: u64, arrival: Arrival) {
        if let Some((_, before)) = self.messages.insert(sequence, (number, arrival)) {
            index.unhold(before.subject);
        }
    }

    fn commit(&mut self, index: &mut Index, number: u64, commit: &Commit) {
        self.last_commit = number;
        self.until = self.until.max(commit.until);
        for sequence in commit.gone.iter().cloned().flatten() {
            if let Some((_, arrival)) = self.messages.remove(&sequence) {
                index.unhold(arrival.subject);
            }
            self.gone.insert(sequence);
        }
    }

    fn read_summary(&mut self, bytes: &[u8], first: u64, index: &mut Index) -> bool {
        let Some(Summary::Kept { before, number: own, commit, rows }) = summary::decode(bytes) else { return false };
        let Some(commit) = Commit::decode(commit).filter(|_| before < first || before == self.last_commit) else {
            return false;
        };
        let mut subjects = Vec::new();
        for (number, row) in (commit.base..).zip(rows) {
            if let Some(name) = row.name {
                subjects.push(index.hold(name));
            }
            let subject = subjects[row.subject as usize];
            index.hold_again(subject);
            self.insert(index, row.sequence, number, row.arrival(subject));
        }
        subjects.into_iter().for_each(|subject| index.unhold(subject));
        self.commit(index, own, &commit);
        true
    }

    async fn read_journal(&mut self, journal: &Journal, from: u64, index: &mut Index) -> Result<Vec<Uncommitted>> {
        let mut reader = journal.read(from, Visible::Synced);
        let (mut waiting, mut orphans) = (Vec::new(), Vec::new());
        loop {
            let read = match reader.next().await {
                Ok(None) => break,
                Ok(Some(read)) => read,
                Err(journal::Error::Damaged(damage)) => {
                    reader = journal.read(damage.until, Visible::Synced);
                    self.damage.push(damage);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let number = read.sequence;
            if let Some(commit) = Commit::decode(&read.payload) {
                let range = commit.base..commit.base + commit.count;
                let mut rows = KeptRows::default();
                for one in waiting.drain(..) {
                    let Uncommitted { number, sequence, arrival } = one;
                    if range.contains(&number) {
                        rows.push(sequence, &index.subjects.get(arrival.subject).name, &arrival);
                        self.insert(index, sequence, number, arrival);
                    } else {
                        orphans.push(one);
                    }
                }
                // Rows stand for numbers without a gap: one that has a gap is read each time.
                if rows.count() == commit.count {
                    self.summaries.push((number, rows.close(self.last_commit, number, &read.payload)));
                }
                self.commit(index, number, &commit);
                continue;
            }
            let (sequence, message) = decode_message(&read.payload).ok_or(Error::Record { sequence: number })?;
            let content = message.subject.len() + message.headers.len() + message.payload.len();
            let size = (content + overhead(!message.headers.is_empty())) as u32;
            let (time, ttl, rollup) = (message.time, message.ttl, message.rollup);
            let arrival = Arrival { subject: index.hold(message.subject), size, time, ttl, rollup };
            waiting.push(Uncommitted { number, sequence, arrival });
        }
        orphans.append(&mut waiting);
        Ok(orphans)
    }

    /// Where the messages are that the index has.
    pub(super) fn places(&self, index: &Index) -> Vec<(u64, u64)> {
        let there = self.messages.iter().filter(|(sequence, _)| index.is_live(**sequence));
        there.map(|(sequence, (number, _))| (*sequence, *number)).collect()
    }
}

/// The sequence and the message in a record.
pub(super) fn decode_message(bytes: &[u8]) -> Option<(u64, record::Decoded<'_>)> {
    let (head, rest) = bytes.split_first_chunk::<PREFIX>()?;
    Some((u64::from_le_bytes(*head), record::decode(rest)?))
}
