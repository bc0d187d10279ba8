//! What one core counts of one route or edge. Only that core writes, with plain loads and stores; whoever reads adds up
//! the shards of all cores. A request costs a dozen additions and no lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::Method;

use crate::counters::Count;
use crate::meters::histogram::{self, Histogram};
use crate::meters::reading::{Outcome, Reading, Series};
use crate::reason::Reason;

/// Upper bounds in nanoseconds, as OpenTelemetry advises for `http.server.request.duration`.
pub(crate) const ADVISED_NANOS: [u64; 14] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

// Limit: combinations of method, status and reason that one core tells apart in one route. What comes beyond is counted
// together, as OpenTelemetry's overflow series.
const SERIES_MAX: usize = 24;

/// The methods that OpenTelemetry knows; any other is the first.
const METHODS: [&str; 10] = [OTHER, "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
const OTHER: &str = "_OTHER";

/// How one request ended.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) method: &'a Method,
    pub(crate) status: u16,
    pub(crate) reason: Option<Reason>,
    pub(crate) attempts: u32,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    /// From the sending of the last attempt to the head of its response.
    pub(crate) upstream: Option<Duration>,
}

/// One core's part of a meter.
#[derive(Debug)]
pub(crate) struct Shard {
    begun: Count,
    durations: [Count; histogram::BUCKETS],
    retries: Count,
    bytes_in: Count,
    bytes_out: Count,
    upstream_nanos: Count,
    upstream_count: Count,
    /// What is counted in `tallies` at the same position; 0 where nothing is yet. Filled from the front.
    keys: [AtomicU32; SERIES_MAX],
    tallies: [OnceLock<Box<Tally>>; SERIES_MAX],
    overflow: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    nanos: Count,
    buckets: [Count; ADVISED_NANOS.len() + 1],
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            begun: Count::default(),
            durations: std::array::from_fn(|_| Count::default()),
            retries: Count::default(),
            bytes_in: Count::default(),
            bytes_out: Count::default(),
            upstream_nanos: Count::default(),
            upstream_count: Count::default(),
            keys: std::array::from_fn(|_| AtomicU32::new(0)),
            tallies: std::array::from_fn(|_| OnceLock::new()),
            overflow: Tally::default(),
        }
    }
}

impl Shard {
    pub(crate) fn begin(&self) {
        self.begun.add(1);
    }

    pub(crate) fn end(&self, ended: &Ended<'_>) {
        let duration = nanos(ended.duration);
        self.durations[histogram::bucket_of(duration / 1000)].add(1);
        self.retries.add(ended.attempts.saturating_sub(1).into());
        self.bytes_in.add(ended.bytes_in);
        self.bytes_out.add(ended.bytes_out);
        if let Some(upstream) = ended.upstream {
            self.upstream_nanos.add(nanos(upstream));
            self.upstream_count.add(1);
        }
        let tally = self.tally(key(ended.method, ended.status, ended.reason));
        tally.nanos.add(duration);
        // Most are in the first; the bounds are inclusive.
        let bucket =
            if duration <= ADVISED_NANOS[0] { 0 } else { ADVISED_NANOS.partition_point(|bound| *bound < duration) };
        tally.buckets[bucket].add(1);
    }

    /// Where requests of this kind are counted. The usual ones come early, so that a search is short.
    fn tally(&self, key: u32) -> &Tally {
        for (known, tally) in self.keys.iter().zip(&self.tallies) {
            let present = known.load(Ordering::Relaxed);
            if present == 0 {
                let tally = tally.get_or_init(Box::default);
                // Order: a reader who sees the key finds the tally.
                known.store(key, Ordering::Release);
                return tally;
            }
            if present == key {
                return tally.get_or_init(Box::default);
            }
        }
        &self.overflow
    }

    /// Adds what is here. What has ended is read first, so that nothing ever seems to end before it begins.
    pub(crate) fn add_to(&self, reading: &mut Reading) {
        for (known, tally) in self.keys.iter().zip(&self.tallies) {
            let key = known.load(Ordering::Acquire);
            let Some(tally) = tally.get().filter(|_| key != 0) else { break };
            tally.add_to(reading.series.entry(outcome(key)).or_default());
        }
        if self.overflow.buckets.iter().any(|bucket| bucket.get() > 0) {
            self.overflow.add_to(reading.series.entry(Outcome::overflow()).or_default());
        }
        let mut durations = Histogram::default();
        for (bucket, count) in self.durations.iter().enumerate() {
            durations.add_to(bucket, count.get());
        }
        reading.durations.merge(&durations);
        reading.retries += self.retries.get();
        reading.bytes_in += self.bytes_in.get();
        reading.bytes_out += self.bytes_out.get();
        reading.upstream_nanos += self.upstream_nanos.get();
        reading.upstream_count += self.upstream_count.get();
        reading.begun += self.begun.get();
    }
}

impl Tally {
    fn add_to(&self, series: &mut Series) {
        series.nanos += self.nanos.get();
        for (sum, bucket) in series.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.get();
        }
    }
}

/// In 64 bits, which are enough for centuries and cheaper than the 128 of the standard library.
fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos().into())
}

/// The place in [`METHODS`]. A match, for the compiler makes a comparison of lengths of it.
fn number(method: &Method) -> u32 {
    match method.as_str() {
        "GET" => 1,
        "HEAD" => 2,
        "POST" => 3,
        "PUT" => 4,
        "PATCH" => 5,
        "DELETE" => 6,
        "OPTIONS" => 7,
        "TRACE" => 8,
        "CONNECT" => 9,
        _ => 0,
    }
}

const REASON_BITS: u32 = 8;
const STATUS_BITS: u32 = 10;

/// Never 0: the highest bit stands for "there is something".
fn key(method: &Method, status: u16, reason: Option<Reason>) -> u32 {
    let method = number(method);
    let reason = reason.map_or(0, |reason| reason as u32 + 1);
    1 << 31 | method << (STATUS_BITS + REASON_BITS) | u32::from(status) << REASON_BITS | reason
}

fn outcome(key: u32) -> Outcome {
    let method = (key & !(1 << 31)) >> (STATUS_BITS + REASON_BITS);
    let status = key >> REASON_BITS & ((1 << STATUS_BITS) - 1);
    let reason = (key & ((1 << REASON_BITS) - 1)).checked_sub(1);
    Outcome {
        method: METHODS.get(method as usize).copied().unwrap_or(OTHER).to_owned(),
        status: status as u16,
        reason: reason.and_then(|reason| Reason::ALL.get(reason as usize)).map(|reason| reason.code().to_owned()),
        is_overflow: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(method: &Method, status: u16, reason: Option<Reason>, millis: u64) -> Ended<'_> {
        let duration = Duration::from_millis(millis);
        Ended { method, status, reason, attempts: 2, bytes_in: 10, bytes_out: 100, duration, upstream: Some(duration) }
    }

    #[test]
    fn a_reading_has_the_sum_of_what_every_core_counted() {
        let (one, other) = (Shard::default(), Shard::default());
        for shard in [&one, &other] {
            for millis in [1, 5, 6, 20_000] {
                shard.begin();
                shard.end(&ended(&Method::GET, 200, None, millis));
            }
            shard.begin();
            shard.end(&ended(&Method::POST, 503, Some(Reason::NoEndpoint), 1));
            shard.begin();
        }
        let mut reading = Reading::default();
        one.add_to(&mut reading);
        other.add_to(&mut reading);
        assert_eq!((reading.begun, reading.ended(), reading.active()), (12, 10, 2));
        assert_eq!((reading.retries, reading.bytes_in, reading.bytes_out), (10, 100, 1000));
        assert_eq!((reading.upstream_count, reading.durations.count()), (10, 10));
        let keys: Vec<_> = reading.series.keys().map(|o| (o.method.as_str(), o.status, o.reason.as_deref())).collect();
        assert_eq!(keys, [("GET", 200, None), ("POST", 503, Some("no_endpoint"))]);
        let series = &reading.series.values().next().unwrap();
        // A bound is part of its bucket.
        assert_eq!((series.buckets[0], series.buckets[1], series.buckets[14]), (4, 2, 2));
        assert_eq!(series.nanos, 2 * 20_012_000_000);
        assert_eq!(reading.failed(), 2);
    }

    #[test]
    fn kinds_beyond_the_bound_are_counted_together() {
        let shard = Shard::default();
        for status in 200..300 {
            shard.begin();
            shard.end(&ended(&Method::from_bytes(b"BREW").unwrap(), status, None, 1));
        }
        let mut reading = Reading::default();
        shard.add_to(&mut reading);
        assert_eq!(reading.series.len(), SERIES_MAX + 1);
        assert_eq!(reading.series[&Outcome::overflow()].count(), 100 - SERIES_MAX as u64);
        assert!(reading.series.keys().all(|outcome| outcome.method == OTHER));
        assert_eq!(reading.ended(), 100);
    }

    #[test]
    fn a_key_holds_every_method_status_and_reason() {
        for method in METHODS {
            let parsed = Method::from_bytes(method.as_bytes()).unwrap();
            for status in [100, 200, 499, 599, 999] {
                for reason in Reason::ALL.into_iter().map(Some).chain([None]) {
                    let outcome = outcome(key(&parsed, status, reason));
                    assert_eq!((outcome.method.as_str(), outcome.status), (method, status));
                    assert_eq!(outcome.reason.as_deref(), reason.map(Reason::code));
                }
            }
        }
    }
}
