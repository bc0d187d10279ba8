//! Durations in log-linear buckets: four to an octave, from a microsecond to more than an hour, so that a quantile is
//! wrong by an eighth at most. Pure. Filled by a shard of `meters`, merged and asked by whoever reads.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets to an octave are two to this power.
const SPLIT_BITS: u32 = 2;
const SPLIT: u64 = 1 << SPLIT_BITS;
/// Octaves with buckets of their own: the last ends at 2^32 µs, 71 minutes. Longer durations are in its last bucket.
const OCTAVES: u32 = 32;

/// Buckets in all: those of one microsecond below the first octave that can be split, then four an octave.
pub(crate) const BUCKETS: usize = ((OCTAVES - SPLIT_BITS + 1) * SPLIT as u32) as usize;

/// The bucket of a duration in microseconds.
pub(crate) const fn bucket_of(micros: u64) -> usize {
    if micros < SPLIT {
        return micros as usize;
    }
    let octave = micros.ilog2();
    if octave >= OCTAVES {
        return BUCKETS - 1;
    }
    let shift = octave - SPLIT_BITS;
    // The leading bit counts as one octave more than the shift says: that is the linear part below.
    ((shift as u64) * SPLIT + (micros >> shift)) as usize
}

/// The least duration of a bucket in microseconds; of the bucket behind the last, where that ends.
pub(crate) const fn lower_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SPLIT {
        return bucket;
    }
    let shift = bucket / SPLIT - 1;
    (bucket % SPLIT + SPLIT) << shift
}

/// How long things took. Two are equal when they have the same counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// By bucket; what is not there is 0.
    counts: Vec<u64>,
}

impl Histogram {
    /// Adds so many durations that fall into the bucket of this one.
    pub fn add(&mut self, duration: Duration, count: u64) {
        self.add_to(bucket_of(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)), count);
    }

    pub(crate) fn add_to(&mut self, bucket: usize, count: u64) {
        if count > 0 && bucket < BUCKETS {
            if self.counts.len() <= bucket {
                self.counts.resize(bucket + 1, 0);
            }
            self.counts[bucket] = self.counts[bucket].saturating_add(count);
        }
    }

    /// Adds another one.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.counts.iter().enumerate() {
            self.add_to(bucket, *count);
        }
    }

    /// What came since `before`. Where that has more, counting has begun anew since: then all that is there.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let of = |histogram: &Self, bucket: usize| histogram.counts.get(bucket).copied().unwrap_or_default();
        let all = 0..self.counts.len().max(before.counts.len());
        if all.clone().any(|bucket| of(self, bucket) < of(before, bucket)) {
            return self.clone();
        }
        Self { counts: all.map(|bucket| of(self, bucket) - of(before, bucket)).collect() }
    }

    /// How many durations were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The least duration of each bucket that has something, with how many are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let filled = self.counts.iter().enumerate().take(BUCKETS).filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| (Duration::from_micros(lower_bound(bucket)), *count))
    }

    /// The duration that the share `q` of all does not exceed, in the middle of its bucket: off by an eighth at most (and
    /// half a microsecond), for durations up to 71 minutes. `None` of nothing.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = ((q.clamp(0.0, 1.0) * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0_u64;
        let bucket = self.counts.iter().take(BUCKETS).position(|count| {
            seen = seen.saturating_add(*count);
            seen >= rank
        })?;
        let (low, high) = (lower_bound(bucket), lower_bound(bucket + 1));
        Some(Duration::from_nanos((low + high) * 500))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        assert_eq!(BUCKETS, 124);
        for bucket in 0..BUCKETS {
            let (low, next) = (lower_bound(bucket), lower_bound(bucket + 1));
            assert!(low < next, "{bucket}");
            assert_eq!((bucket_of(low), bucket_of(next - 1)), (bucket, bucket));
        }
        assert_eq!(lower_bound(BUCKETS), 1 << OCTAVES);
        assert!(Duration::from_micros(lower_bound(BUCKETS)) > Duration::from_secs(3600));
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn nothing_has_no_quantile_and_one_is_every_quantile() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        histogram.add(Duration::from_micros(3), 1);
        let all: Vec<_> = [0.0, 0.5, 0.99, 1.0, f64::NAN].map(|q| histogram.quantile(q)).to_vec();
        assert_eq!(all, vec![Some(Duration::from_nanos(3500)); 5]);
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(Duration::from_micros(3), 1)]);
    }

    #[test]
    fn a_counter_that_began_anew_gives_all_that_it_has() {
        let of = |counts: &[u64]| Histogram { counts: counts.to_vec() };
        assert_eq!(of(&[5, 2, 9]).since(&of(&[5, 1])).count(), 10);
        assert_eq!(of(&[1, 0]).since(&of(&[0, 1])).count(), 1);
        assert_eq!(of(&[1]).since(&of(&[1, 1])).count(), 1);
    }

    proptest! {
        #[test]
        fn a_quantile_is_off_by_an_eighth_at_most(
            mut micros in proptest::collection::vec((0_u32..32).prop_flat_map(|bits| 0..=(u32::MAX >> bits)), 1..200),
            q in 0.0..=1.0_f64,
        ) {
            let mut histogram = Histogram::default();
            for value in &micros {
                histogram.add(Duration::from_micros((*value).into()), 1);
            }
            micros.sort_unstable();
            let rank = ((q * micros.len() as f64).ceil() as usize).max(1);
            let exact = f64::from(micros[rank - 1]);
            let found = histogram.quantile(q).unwrap().as_nanos() as f64 / 1000.0;
            prop_assert!((found - exact).abs() <= exact / 8.0 + 0.5, "{found} of {exact}");
            prop_assert_eq!(histogram.count(), micros.len() as u64);
        }

        #[test]
        fn merged_and_taken_apart_it_is_what_it_was(
            one in proptest::collection::vec(any::<u32>(), 0..50),
            other in proptest::collection::vec(any::<u32>(), 0..50),
        ) {
            let of = |values: &[u32]| values.iter().fold(Histogram::default(), |mut histogram, value| {
                histogram.add(Duration::from_micros((*value).into()), 1);
                histogram
            });
            let mut both = of(&one);
            both.merge(&of(&other));
            let rest = both.since(&of(&one));
            prop_assert_eq!(rest.buckets().collect::<Vec<_>>(), of(&other).buckets().collect::<Vec<_>>());
        }
    }
}
