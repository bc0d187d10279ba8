//! The ids of messages within the duplicate window: which of them are there, and with which sequence. One copy of each id,
//! in the order in which they came; the oldest go by time. Time is a value: nanoseconds since the epoch.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::ops::RangeInclusive;

use hashbrown::{DefaultHashBuilder, HashTable};

/// The ids of one stream.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    hasher: DefaultHashBuilder,
    /// By id: how many ids came before it, ever.
    places: HashTable<u64>,
    ids: VecDeque<Known>,
    /// How many ids have gone.
    gone: u64,
}

/// An id, and the message that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: Box<[u8]>,
    pub(super) sequence: u64,
    /// When it came.
    pub(super) time: i64,
}

impl Duplicates {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The sequence of the message with this id, if it is within the window.
    pub(super) fn find(&self, id: &[u8]) -> Option<u64> {
        let at = self.places.find(self.hasher.hash_one(id), |place| *self.known(*place).id == *id)?;
        Some(self.known(*at).sequence)
    }

    /// Those of messages with these sequences.
    pub(super) fn within(&self, sequences: &RangeInclusive<u64>) -> impl Iterator<Item = &Known> {
        let first = self.ids.partition_point(|known| known.sequence < *sequences.start());
        let end = *sequences.end();
        self.ids.range(first..).take_while(move |known| known.sequence <= end)
    }

    /// Keeps an id that is not there yet. They come in the order of their messages.
    pub(super) fn add(&mut self, id: &[u8], sequence: u64, time: i64) {
        let place = self.gone + self.ids.len() as u64;
        self.ids.push_back(Known { id: id.into(), sequence, time });
        let Self { hasher, places, ids, gone } = self;
        let hash = |place: &u64| hasher.hash_one(&*ids[(place - *gone) as usize].id);
        places.insert_unique(hash(&place), place, hash);
    }

    /// Forgets what came before a time.
    pub(super) fn forget_before(&mut self, time: i64) {
        while self.ids.front().is_some_and(|oldest| oldest.time < time) {
            let hash = self.hasher.hash_one(&*self.ids[0].id);
            if let Ok(entry) = self.places.find_entry(hash, |place| *place == self.gone) {
                entry.remove();
            }
            self.ids.pop_front();
            self.gone += 1;
        }
        // A burst leaves no memory behind.
        if self.ids.capacity() > 4096 && self.ids.len() < self.ids.capacity() / 4 {
            let Self { hasher, places, ids, gone } = self;
            ids.shrink_to(ids.len() * 2);
            places.shrink_to(ids.len() * 2, |place| hasher.hash_one(&*ids[(place - *gone) as usize].id));
        }
    }

    /// When the oldest came.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.ids.front().map(|known| known.time)
    }

    fn known(&self, place: u64) -> &Known {
        &self.ids[(place - self.gone) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_until_their_time_is_over() {
        let mut duplicates = Duplicates::default();
        for at in 0..10_000 {
            duplicates.add(format!("id-{at}").as_bytes(), at + 1, at as i64);
        }
        assert_eq!(duplicates.find(b"id-0"), Some(1));
        let within = duplicates.within(&(5..=7)).map(|known| known.sequence);
        assert_eq!(within.collect::<Vec<_>>(), [5, 6, 7]);
        duplicates.forget_before(9_000);
        assert_eq!((duplicates.find(b"id-8999"), duplicates.find(b"id-9000")), (None, Some(9_001)));
        assert_eq!((duplicates.len(), duplicates.oldest()), (1_000, Some(9_000)));
        duplicates.add(b"id-0", 20_000, 10_000);
        duplicates.forget_before(10_000);
        assert_eq!((duplicates.find(b"id-0"), duplicates.len()), (Some(20_000), 1));
        duplicates.forget_before(i64::MAX);
        assert_eq!((duplicates.len(), duplicates.oldest(), duplicates.places.len()), (0, None, 0));
    }
}
