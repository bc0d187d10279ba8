//! The ring of consistent hashing: a key goes to the same instance for as long as that is there, whoever else comes or
//! goes. Pure. And the hashes of keys: one that is the same everywhere, one that nobody outside can know.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// Points of an instance on the ring: shares differ by some 7 % (one in the square root of it).
const POINTS: usize = 200;

// Limit: points of a ring, 1 MiB. With more than 327 instances each has fewer, at least one.
const POINTS_MAX: usize = 65_536;

/// Hashes bytes the same way in every process and build: FNV-1a (RFC 9923 §2), whose bits are mixed by the finalizer of
/// MurmurHash3, as neighbouring keys would be neighbours on the ring. Whoever chooses keys can make them collide.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (fnv ^ fnv >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

/// Hashes the key of a client with a secret of this process (SipHash), so that nobody can make two collide.
pub(crate) fn secret_hash(bytes: &[u8]) -> u64 {
    static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    SECRET.hash_one(bytes)
}

/// The instances of one service, by their numbers: an instance that comes back elsewhere has its keys again.
#[derive(Debug)]
pub(crate) struct Ring {
    /// In order: where, and which of the instances.
    points: Vec<(u64, u32)>,
    instances: usize,
}

impl Ring {
    /// The order of the instances matters to nothing but the indices that are given.
    pub(crate) fn new(instances: &[u32]) -> Self {
        let points_each = (POINTS_MAX / instances.len().max(1)).clamp(1, POINTS) as u64;
        let of = |(index, instance): (usize, &u32)| {
            let (index, instance) = (index as u32, u64::from(*instance) << 32);
            (0..points_each).map(move |point| (hash(&(instance | point).to_le_bytes()), index))
        };
        let mut points: Vec<_> = instances.iter().enumerate().flat_map(of).collect();
        points.sort_unstable();
        Self { points, instances: instances.len() }
    }

    /// Gives all instances, as indices into the slice that the ring was made of: first whose key it is, then whose it
    /// would be without that one, and so on. Each once. The first costs a search, all together one round.
    pub(crate) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, behind) = self.points.split_at(start);
        let mut round = behind.iter().chain(before).map(|(_, index)| *index as usize);
        let mut seen = Seen::default();
        (0..self.instances).map_while(move |_| round.find(|index| seen.insert(*index, self.instances)))
    }
}

/// Who was given already. As a rule one is enough, which costs no memory.
#[derive(Debug, Default)]
struct Seen {
    first: Option<usize>,
    all: Vec<bool>,
}

impl Seen {
    /// Whether it is new.
    fn insert(&mut self, index: usize, of: usize) -> bool {
        let Some(first) = self.first else {
            self.first = Some(index);
            return true;
        };
        if self.all.is_empty() {
            self.all.resize(of, false);
            self.all[first] = true;
        }
        !std::mem::replace(&mut self.all[index], true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u32) -> impl Iterator<Item = u64> {
        (0..count).map(|key| hash(format!("user-{key}").as_bytes()))
    }

    #[test]
    fn the_hash_is_the_same_in_every_build_and_the_secret_one_in_one_process() {
        assert_eq!(
            [hash(b""), hash(b"a"), hash(b"foobar"), hash(&[0; 8])],
            [0xefd0_1f60_ba99_2926, 0x82a2_a958_a9be_ce5b, 0x2c22_1949_22d1_672b, 0x7bd3_144f_29c0_cc9e]
        );
        assert_eq!(secret_hash(b"a"), secret_hash(b"a"));
        assert_ne!(secret_hash(b"a"), secret_hash(b"b"));
    }

    #[test]
    fn every_instance_gets_its_share() {
        for count in 2..=40 {
            let instances: Vec<u32> = (0..count).collect();
            let ring = Ring::new(&instances);
            let mut shares = vec![0_u32; count as usize];
            let fair = 2000;
            for key in keys(count * fair) {
                shares[ring.walk(key).next().unwrap()] += 1;
            }
            let is_fair = |share: &u32| (fair * 7 / 10..=fair * 13 / 10).contains(share);
            assert!(shares.iter().all(is_fair), "{count}: {shares:?}");
        }
    }

    #[test]
    fn who_leaves_takes_only_its_own_keys_along_and_who_comes_back_has_them_again() {
        let instances: Vec<u32> = (0..12).collect();
        let ring = Ring::new(&instances);
        for gone in 0..12_u32 {
            let mut rest: Vec<u32> = instances.iter().copied().filter(|instance| *instance != gone).collect();
            rest.reverse();
            let without = Ring::new(&rest);
            for key in keys(2000) {
                let before: Vec<u32> = ring.walk(key).map(|index| instances[index]).collect();
                let after: Vec<u32> = without.walk(key).map(|index| rest[index]).collect();
                let expected: Vec<u32> = before.into_iter().filter(|instance| *instance != gone).collect();
                assert_eq!(after, expected);
            }
        }
    }

    #[test]
    fn a_walk_gives_everybody_once_and_ends() {
        for count in [0, 1, 2, 3, 64, 65, 1000] {
            let instances: Vec<u32> = (0..count).map(|number| number * 7).collect();
            let ring = Ring::new(&instances);
            assert!(ring.points.len() <= POINTS_MAX);
            for key in [0, 1, u64::MAX / 2, u64::MAX].into_iter().chain(keys(20)) {
                let mut walked: Vec<usize> = ring.walk(key).collect();
                walked.sort_unstable();
                assert_eq!(walked, (0..count as usize).collect::<Vec<_>>());
            }
        }
        assert_eq!(Ring::new(&[3, 3]).walk(5).count(), 2, "the same number twice is two");
        assert_eq!(Ring::new(&vec![0; 70_000]).points.len(), 70_000, "one point at least");
    }
}
