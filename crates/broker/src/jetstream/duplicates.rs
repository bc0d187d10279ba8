//! The ids of messages within the duplicate window: which of them are there, and with which sequence. One copy of each id,
//! in the order in which they came; the oldest go by time. Their time is one of its own that always goes on, so that no
//! wrong clock keeps them; it is a value. A long id is kept as its digest.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::ops::RangeInclusive;
use std::time::Instant;

use aws_lc_rs::digest;
use hashbrown::{DefaultHashBuilder, HashTable};

/// Limit: bytes of an id that are kept.
const ID_MAX: usize = 64;

/// The ids of one stream.
#[derive(Debug)]
pub(super) struct Duplicates {
    hasher: DefaultHashBuilder,
    /// By id: how many ids came before it, ever.
    places: HashTable<u64>,
    ids: VecDeque<Arrived>,
    /// How many ids have gone.
    gone: u64,
    began: Instant,
}

/// An id, and the message that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// As [`short`] gives it.
    pub(super) id: Box<[u8]>,
    pub(super) sequence: u64,
    /// That of the message: nanoseconds since the epoch.
    pub(super) time: i64,
}

#[derive(Debug)]
struct Arrived {
    known: Known,
    /// By [`Duplicates::clock`].
    at: i64,
}

/// What is kept of an id: itself, or its SHA-256 where it is long.
pub(super) fn short(id: &[u8]) -> Cow<'_, [u8]> {
    if id.len() <= ID_MAX {
        return Cow::Borrowed(id);
    }
    Cow::Owned(digest::digest(&digest::SHA256, id).as_ref().to_vec())
}

impl Default for Duplicates {
    fn default() -> Self {
        let (hasher, places, ids) = (DefaultHashBuilder::default(), HashTable::default(), VecDeque::default());
        Self { hasher, places, ids, gone: 0, began: Instant::now() }
    }
}

impl Duplicates {
    /// The time that ids are forgotten by: nanoseconds since this was made.
    pub(super) fn clock(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The sequence of the message with this id, if it is within the window.
    pub(super) fn find(&self, id: &[u8]) -> Option<u64> {
        let id = &*short(id);
        let at = self.places.find(self.hasher.hash_one(id), |place| *self.known(*place).id == *id)?;
        Some(self.known(*at).sequence)
    }

    /// Those of messages with these sequences.
    pub(super) fn within(&self, sequences: &RangeInclusive<u64>) -> impl Iterator<Item = &Known> {
        let first = self.ids.partition_point(|id| id.known.sequence < *sequences.start());
        let end = *sequences.end();
        self.ids.range(first..).map(|id| &id.known).take_while(move |known| known.sequence <= end)
    }

    /// Keeps an id that is not there yet. They come in the order of their messages, each at a time of [`Self::clock`].
    pub(super) fn add(&mut self, id: &[u8], sequence: u64, time: i64, at: i64) {
        let place = self.gone + self.ids.len() as u64;
        let known = Known { id: short(id).into(), sequence, time };
        self.ids.push_back(Arrived { known, at });
        let Self { hasher, places, ids, gone, .. } = self;
        let hash = |place: &u64| hasher.hash_one(&*ids[(place - *gone) as usize].known.id);
        places.insert_unique(hash(&place), place, hash);
    }

    /// Forgets what came before a time.
    pub(super) fn forget_before(&mut self, at: i64) {
        while self.ids.front().is_some_and(|oldest| oldest.at < at) {
            let hash = self.hasher.hash_one(&*self.ids[0].known.id);
            if let Ok(entry) = self.places.find_entry(hash, |place| *place == self.gone) {
                entry.remove();
            }
            self.ids.pop_front();
            self.gone += 1;
        }
        // A burst leaves no memory behind.
        if self.ids.capacity() > 4096 && self.ids.len() < self.ids.capacity() / 4 {
            let Self { hasher, places, ids, gone, .. } = self;
            ids.shrink_to(ids.len() * 2);
            places.shrink_to(ids.len() * 2, |place| hasher.hash_one(&*ids[(place - *gone) as usize].known.id));
        }
    }

    /// When the oldest came.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.ids.front().map(|oldest| oldest.at)
    }

    fn known(&self, place: u64) -> &Known {
        &self.ids[(place - self.gone) as usize].known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_until_their_time_is_over() {
        let mut duplicates = Duplicates::default();
        for at in 0..10_000 {
            duplicates.add(format!("id-{at}").as_bytes(), at + 1, i64::MAX, at as i64);
        }
        assert_eq!(duplicates.find(b"id-0"), Some(1));
        let within = duplicates.within(&(5..=7)).map(|known| known.sequence);
        assert_eq!(within.collect::<Vec<_>>(), [5, 6, 7]);
        duplicates.forget_before(9_000);
        assert_eq!((duplicates.find(b"id-8999"), duplicates.find(b"id-9000")), (None, Some(9_001)));
        assert_eq!((duplicates.len(), duplicates.oldest()), (1_000, Some(9_000)));
        duplicates.add(b"id-0", 20_000, 0, 10_000);
        duplicates.forget_before(10_000);
        assert_eq!((duplicates.find(b"id-0"), duplicates.len()), (Some(20_000), 1));
        duplicates.forget_before(i64::MAX);
        assert_eq!((duplicates.len(), duplicates.oldest(), duplicates.places.len()), (0, None, 0));
    }

    #[test]
    fn long_ids_are_told_apart_and_take_little() {
        let mut duplicates = Duplicates::default();
        let long = [vec![b'x'; 60_000], vec![b'y'; 60_000], vec![b'x'; 65], vec![b'x'; 64]];
        for (id, sequence) in long.iter().zip(1..) {
            assert_eq!(duplicates.find(id), None);
            duplicates.add(id, sequence, 0, 0);
        }
        for (id, sequence) in long.iter().zip(1..) {
            assert_eq!(duplicates.find(id), Some(sequence));
        }
        let kept: Vec<Known> = duplicates.within(&(0..=9)).cloned().collect();
        assert!(kept.iter().all(|known| known.id.len() <= ID_MAX));
        // Read from the ledger, where they are as they were kept.
        let mut again = Duplicates::default();
        kept.iter().for_each(|known| again.add(&known.id, known.sequence, known.time, 0));
        assert_eq!(again.find(&long[0]), Some(1));
    }
}
