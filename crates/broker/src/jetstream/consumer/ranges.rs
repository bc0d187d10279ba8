//! A set of sequences, kept as ranges: what runs on costs one entry.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Sequences, as ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First → last.
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl Ranges {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.around(sequence).is_some()
    }

    /// Whether one of these is in it.
    pub(super) fn has_any(&self, range: &RangeInclusive<u64>) -> bool {
        self.last_before(*range.end()).is_some_and(|(_, last)| last >= *range.start())
    }

    /// Ranges in order, both ends included.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// Adds one; whether it is new.
    pub(super) fn insert(&mut self, sequence: u64) -> bool {
        if self.contains(sequence) {
            return false;
        }
        let left = sequence.checked_sub(1).and_then(|left| self.around(left));
        let right = sequence.checked_add(1).and_then(|right| self.ranges.remove(&right));
        let first = left.map_or(sequence, |(first, _)| first);
        self.ranges.insert(first, right.unwrap_or(sequence));
        self.len += 1;
        true
    }

    /// Adds all from `first` to `last`.
    pub(super) fn insert_range(&mut self, first: u64, last: u64) {
        self.remove_range(first, last);
        let left = first.checked_sub(1).and_then(|left| self.around(left));
        let right = last.checked_add(1).and_then(|right| self.ranges.remove(&right));
        self.ranges.insert(left.map_or(first, |(first, _)| first), right.unwrap_or(last));
        self.len += last - first + 1;
    }

    /// Takes one out; whether it was there.
    pub(super) fn remove(&mut self, sequence: u64) -> bool {
        let Some((first, last)) = self.around(sequence) else { return false };
        self.cut(first, last, sequence, sequence);
        true
    }

    /// Takes out all from `first` to `last`.
    pub(super) fn remove_range(&mut self, first: u64, last: u64) {
        while let Some((start, end)) = self.last_before(last).filter(|(_, end)| *end >= first) {
            self.cut(start, end, first.max(start), last.min(end));
        }
    }

    fn cut(&mut self, first: u64, last: u64, from: u64, to: u64) {
        self.ranges.remove(&first);
        if first < from {
            self.ranges.insert(first, from - 1);
        }
        if to < last {
            self.ranges.insert(to + 1, last);
        }
        self.len -= to - from + 1;
    }

    fn around(&self, sequence: u64) -> Option<(u64, u64)> {
        self.last_before(sequence).filter(|(_, last)| *last >= sequence)
    }

    /// The last range that begins at or before `sequence`.
    fn last_before(&self, sequence: u64) -> Option<(u64, u64)> {
        self.ranges.range(..=sequence).next_back().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_are_a_set_of_sequences() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
        for _ in 0..20_000 {
            let at = random.u64(0..60);
            let to = at + random.u64(0..9);
            match random.u8(0..4) {
                0 => assert_eq!(ranges.insert(at), model.insert(at)),
                1 => assert_eq!(ranges.remove(at), model.remove(&at)),
                2 => {
                    ranges.insert_range(at, to);
                    model.extend(at..=to);
                }
                _ => {
                    ranges.remove_range(at, to);
                    model.retain(|sequence| !(at..=to).contains(sequence));
                }
            }
            assert!(ranges.iter().flat_map(|(first, last)| first..=last).eq(model.iter().copied()));
            assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(one, next)| one.1 + 1 < next.0));
            assert_eq!(ranges.len(), model.len() as u64);
        }
    }
}
