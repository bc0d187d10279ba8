//! What changes a stream beside its messages: removals and limits, as values that the stream's ledger keeps and gives back
//! when the stream is opened. The bytes, version 1, are here too.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::wire;
use super::{Discard, Limits};

const VERSION: u8 = 1;

/// One change, between two messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The last message that was there when it happened.
    pub(crate) at: u64,
    /// The store's clock then: what had expired by this time was gone.
    pub(crate) time: i64,
    pub(crate) what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Nothing: messages behind `at` that earlier changes know of were lost with the power.
    Opened,
    /// These messages were removed.
    Removed(Vec<RangeInclusive<u64>>),
    Purged(Purge),
    Limits(Limits),
    /// Everything until now: of the messages up to `at`, all but those in these ranges are there. Earlier changes mean nothing.
    Snapshot {
        limits: Limits,
        holes: Vec<RangeInclusive<u64>>,
    },
}

/// Which messages to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Purge {
    /// With a subject that this pattern matches; `None` for all.
    pub(crate) filter: Option<Vec<u8>>,
    /// But not so many of the newest of them.
    pub(crate) keep: u64,
    /// Only messages below this sequence; 0 for all.
    pub(crate) up_to: u64,
}

const OPENED: u8 = 0;
const REMOVED: u8 = 1;
const PURGED: u8 = 2;
const LIMITS: u8 = 3;
const SNAPSHOT: u8 = 4;

impl Change {
    /// The bytes that [`Change::decode`] reads.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        wire::put_u64(&mut bytes, self.at);
        bytes.extend_from_slice(&self.time.to_le_bytes());
        match &self.what {
            What::Opened => bytes.push(OPENED),
            What::Removed(ranges) => {
                bytes.push(REMOVED);
                push_ranges(&mut bytes, ranges);
            }
            What::Purged(Purge { filter, keep, up_to }) => {
                bytes.push(PURGED);
                bytes.push(u8::from(filter.is_some()));
                wire::put_bytes(&mut bytes, filter.as_deref().unwrap_or_default());
                wire::put_u64(&mut bytes, *keep);
                wire::put_u64(&mut bytes, *up_to);
            }
            What::Limits(limits) => {
                bytes.push(LIMITS);
                push_limits(&mut bytes, limits);
            }
            What::Snapshot { limits, holes } => {
                bytes.push(SNAPSHOT);
                push_limits(&mut bytes, limits);
                push_ranges(&mut bytes, holes);
            }
        }
        bytes
    }

    /// Reads one change; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, mut rest) = bytes.split_first()?;
        let rest = &mut rest;
        let at = (*version == VERSION).then(|| wire::take_u64(rest))??;
        let time = take_i64(rest)?;
        let what = match take_u8(rest)? {
            OPENED => What::Opened,
            REMOVED => What::Removed(take_ranges(rest)?),
            PURGED => {
                let is_filtered = take_u8(rest)? == 1;
                let filter = wire::take_bytes(rest)?;
                let filter = is_filtered.then(|| filter.to_vec());
                What::Purged(Purge { filter, keep: wire::take_u64(rest)?, up_to: wire::take_u64(rest)? })
            }
            LIMITS => What::Limits(take_limits(rest)?),
            SNAPSHOT => What::Snapshot { limits: take_limits(rest)?, holes: take_ranges(rest)? },
            _ => return None,
        };
        rest.is_empty().then_some(Self { at, time, what })
    }
}

fn take_u8(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

pub(super) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(i64::from_le_bytes(*first))
}

/// Ascending and disjoint.
pub(super) fn push_ranges(bytes: &mut Vec<u8>, ranges: &[RangeInclusive<u64>]) {
    wire::put_u64(bytes, ranges.len() as u64);
    let mut last = 0;
    for range in ranges {
        wire::put_u64(bytes, range.start() - last);
        wire::put_u64(bytes, range.end() - range.start());
        last = *range.end();
    }
}

pub(super) fn take_ranges(bytes: &mut &[u8]) -> Option<Vec<RangeInclusive<u64>>> {
    let count = usize::try_from(wire::take_u64(bytes)?).ok()?;
    // Each takes at least two bytes: nothing larger than the input is reserved.
    let mut ranges = Vec::with_capacity(count.min(bytes.len() / 2));
    let mut last = 0u64;
    for _ in 0..count {
        let start = last.checked_add(wire::take_u64(bytes)?)?;
        last = start.checked_add(wire::take_u64(bytes)?)?;
        ranges.push(start..=last);
    }
    Some(ranges)
}

fn push_limits(bytes: &mut Vec<u8>, limits: &Limits) {
    let Limits { max_msgs, max_bytes, max_age, max_msgs_per_subject, discard } = limits;
    let max_age = max_age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX - 1));
    for limit in [*max_msgs, *max_bytes, max_age, *max_msgs_per_subject] {
        // 0 is no limit: it can be told from a limit of 0.
        wire::put_u64(bytes, limit.map_or(0, |limit| limit.saturating_add(1)));
    }
    bytes.push(match discard {
        Discard::Old => 0,
        Discard::New => 1,
        Discard::NewPerSubject => 2,
    });
}

fn take_limits(bytes: &mut &[u8]) -> Option<Limits> {
    let mut limit = || wire::take_u64(bytes).map(|limit| limit.checked_sub(1));
    let (max_msgs, max_bytes, max_age, max_msgs_per_subject) = (limit()?, limit()?, limit()?, limit()?);
    let discard = match take_u8(bytes)? {
        0 => Discard::Old,
        1 => Discard::New,
        2 => Discard::NewPerSubject,
        _ => return None,
    };
    Some(Limits { max_msgs, max_bytes, max_age: max_age.map(Duration::from_nanos), max_msgs_per_subject, discard })
}

/// Adds a sequence to ranges that end before it, or somewhere else.
pub(super) fn push_sequence(ranges: &mut Vec<RangeInclusive<u64>>, sequence: u64) {
    match ranges.last_mut() {
        Some(last) if *last.end() + 1 == sequence => *last = *last.start()..=sequence,
        _ => ranges.push(sequence..=sequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_and_cut_ones_do_not() {
        let limits = Limits {
            max_msgs: Some(0),
            max_bytes: None,
            max_age: Some(Duration::from_millis(5)),
            max_msgs_per_subject: Some(u64::MAX - 1),
            discard: Discard::NewPerSubject,
        };
        let whats = [
            What::Opened,
            What::Removed(vec![1..=1, 5..=900, 901..=901]),
            What::Purged(Purge::default()),
            What::Purged(Purge { filter: Some(b"a.>".to_vec()), keep: 3, up_to: 70_000 }),
            What::Limits(limits.clone()),
            What::Snapshot { limits, holes: vec![7..=u64::MAX] },
        ];
        for what in whats {
            let change = Change { at: 1 << 40, time: -3, what };
            let bytes = change.encode();
            assert_eq!(Change::decode(&bytes), Some(change));
            for cut in 0..bytes.len() {
                assert_eq!(Change::decode(&bytes[..cut]), None);
            }
        }
    }
}
