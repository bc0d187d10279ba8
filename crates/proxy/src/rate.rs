//! Token buckets, one for each key of a route or edge, shared by all cores. Pure: time is given, and keys come as hashes
//! that no client can foresee (`ring::secret_hash`). Written as the generic cell rate algorithm (ITU-T I.371): a bucket is
//! one number, the moment at which it is full again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::hashing::Hashing;
use crate::policy::{Key, RateLimit};
use crate::timers::Moment;

#[cfg(test)]
mod tests;

const SHARDS: usize = 16;

// Limit: keys of one route or edge that have a bucket of their own, 3 MiB. Beyond it, buckets that are full again are
// forgotten; keys for which none is left share one (of each shard), and are refused the sooner.
const KEYS_MAX: usize = 65_536;

/// How long a shard whose buckets are all in use is not searched for full ones again.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);

/// Whether a request may pass, and what its key is left with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) is_admitted: bool,
    /// Requests that may follow at once.
    pub(crate) left: u32,
    /// Until all of them may.
    pub(crate) reset_after: Duration,
    /// Until the next one may; zero for one that was admitted.
    pub(crate) retry_after: Duration,
}

/// The buckets of one route or edge.
#[derive(Debug)]
pub(crate) struct Buckets {
    rate: Rate,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    One(Mutex<Bucket>),
    Keyed { shards: Box<[Mutex<Shard>; SHARDS]>, keys_max: usize },
}

impl Buckets {
    /// All full. `requests`, `per` and `burst` are at least 1 (`per`: 1 µs).
    pub(crate) fn new(limit: &RateLimit) -> Self {
        Self::bounded(limit, KEYS_MAX / SHARDS)
    }

    fn bounded(limit: &RateLimit, keys_max: usize) -> Self {
        let kept = match limit.key {
            Key::Route => Kept::One(Mutex::default()),
            Key::Address | Key::Header(_) | Key::Cookie(_) => Kept::Keyed { shards: Box::default(), keys_max },
        };
        Self { rate: Rate::of(limit), kept }
    }

    /// Takes a token of this key, if there is one. With [`Key::Route`] the hash means nothing.
    pub(crate) fn take(&self, key_hash: u64, now: Moment) -> Admission {
        match &self.kept {
            Kept::One(bucket) => bucket.lock().unwrap_or_else(PoisonError::into_inner).take(&self.rate, now),
            Kept::Keyed { shards, keys_max } => {
                // The lower bits find the place within the shard.
                let shard = &shards[(key_hash >> 60) as usize % SHARDS];
                let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.bucket(key_hash, &self.rate, *keys_max, now).take(&self.rate, now)
            }
        }
    }
}

/// Time is counted in parts of a microsecond, `requests` of them, so that a token is a whole number of them and nothing
/// is ever rounded. Fits easily: 64 bits of microseconds times 32 bits of requests.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Parts of a microsecond.
    requests: u128,
    /// Parts that one token takes to come.
    token: u128,
    /// Parts that all tokens take to come.
    full: u128,
}

impl Rate {
    fn of(limit: &RateLimit) -> Self {
        let token = limit.per.as_micros().clamp(1, u128::from(u64::MAX));
        Self { requests: limit.requests.max(1).into(), token, full: token * u128::from(limit.burst.max(1)) }
    }

    fn parts(&self, now: Moment) -> u128 {
        u128::from(now.micros()) * self.requests
    }

    /// Rounded up: then it is over.
    fn duration(&self, parts: u128) -> Duration {
        Duration::from_micros(u64::try_from(parts.div_ceil(self.requests)).unwrap_or(u64::MAX))
    }
}

/// When it is full again, in parts. What lies in the past is full.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(u128);

impl Bucket {
    fn take(&mut self, rate: &Rate, now: Moment) -> Admission {
        let now = rate.parts(now);
        let full_at = self.0.max(now);
        // Clocks of two cores differ a little: for the one behind, more may be missing than all.
        let missing = full_at - now;
        let is_admitted = missing + rate.token <= rate.full;
        let missing = if is_admitted { missing + rate.token } else { missing };
        if is_admitted {
            self.0 = now + missing;
        }
        let left = u32::try_from(rate.full.saturating_sub(missing) / rate.token).unwrap_or(u32::MAX);
        let retry = if is_admitted { 0 } else { missing + rate.token - rate.full };
        Admission { is_admitted, left, reset_after: rate.duration(missing), retry_after: rate.duration(retry) }
    }
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<u64, Bucket, Hashing>,
    /// Of all keys that have none of their own.
    shared: Bucket,
    /// When full ones may be searched for.
    search_at: Moment,
}

impl Shard {
    fn bucket(&mut self, key: u64, rate: &Rate, keys_max: usize, now: Moment) -> &mut Bucket {
        if self.buckets.len() >= keys_max && !self.buckets.contains_key(&key) {
            if now >= self.search_at {
                self.search_at = now.after(SEARCH_PAUSE);
                let parts = rate.parts(now);
                self.buckets.retain(|_, bucket| bucket.0 > parts);
            }
            if self.buckets.len() >= keys_max {
                return &mut self.shared;
            }
        }
        // Invariant: it may have taken from the shared bucket what is missing there; else it would get its burst twice.
        self.buckets.entry(key).or_insert(self.shared)
    }
}
