//! What a bucket gives, step by step, and what must hold for any sequence of requests.

use super::*;
use crate::ring::secret_hash;

fn limit(requests: u32, per_ms: u64, burst: u32) -> RateLimit {
    RateLimit { requests, per: Duration::from_millis(per_ms), burst, key: Key::Address }
}

fn at(ms: u64) -> Moment {
    Moment::of_micros(ms * 1000)
}

#[test]
fn a_bucket_gives_its_burst_and_then_a_token_at_a_time() {
    let route = Buckets::new(&RateLimit { key: Key::Route, ..limit(2, 1000, 3) });
    let address = Buckets::new(&limit(2, 1000, 3));
    // At ms: whether it is admitted, left, ms until all are there, ms until one is.
    for (ms, expected) in [
        (0, (true, 2, 500, 0)),
        (0, (true, 1, 1000, 0)),
        (0, (true, 0, 1500, 0)),
        (0, (false, 0, 1500, 500)),
        (499, (false, 0, 1001, 1)),
        (500, (true, 0, 1500, 0)),
        (750, (false, 0, 1250, 250)),
        (1500, (true, 1, 1000, 0)),
        (1400, (false, 0, 1100, 100)),
        (500, (false, 0, 2000, 1000)),
        (9000, (true, 2, 500, 0)),
    ] {
        for buckets in [&route, &address] {
            let Admission { is_admitted, left, reset_after, retry_after } = buckets.take(7, at(ms));
            assert_eq!((is_admitted, left, reset_after.as_millis(), retry_after.as_millis()), expected, "at {ms}");
        }
    }
    assert!(!route.take(1, at(9000)).is_admitted || route.take(2, at(9000)).left == 0, "all keys are alike");
    assert_eq!(address.take(1, at(9000)).left, 2, "each key has its own");
}

#[test]
fn a_limit_of_nothing_is_of_one_and_the_largest_one_does_not_overflow() {
    let nothing = Buckets::new(&limit(0, 0, 0));
    assert_eq!((nothing.take(0, at(5)).is_admitted, nothing.take(0, at(5)).is_admitted), (true, false));
    assert!(nothing.take(0, at(6)).is_admitted);
    let largest = Buckets::new(&RateLimit { requests: u32::MAX, per: Duration::MAX, burst: u32::MAX, key: Key::Route });
    assert_eq!(largest.take(0, Moment::NEVER).left, u32::MAX - 1);
    let never = Buckets::new(&RateLimit { requests: 1, per: Duration::MAX, burst: 1, key: Key::Route });
    assert!(never.take(0, at(1)).is_admitted);
    assert!(never.take(0, at(1)).retry_after > Duration::from_secs(1 << 40));
}

/// That of these moments, in microseconds, no two have more between them than the limit says.
fn assert_conforms(limit: &RateLimit, admitted: &[u64]) {
    for (first, from) in admitted.iter().enumerate() {
        for (last, to) in admitted.iter().enumerate().skip(first) {
            let beyond = (last - first + 1).saturating_sub(limit.burst as usize) as u128;
            let came = u128::from(limit.requests) * u128::from(to - from);
            assert!(beyond * limit.per.as_micros() <= came, "{beyond} beyond the burst from {from} to {to}");
        }
    }
}

#[test]
fn nobody_ever_gets_more_than_the_limit_or_is_refused_below_it() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..100 {
        let limit = limit(random.u32(1..200), random.u64(1..2000), random.u32(1..20));
        let pause = 2 * limit.per.as_micros() as u64 / u64::from(limit.requests) + 2;
        // Few places, so that keys come and go and share.
        let buckets = Buckets::bounded(&limit, 2);
        let mut admitted = vec![Vec::new(); 200];
        let mut now = random.u64(..1 << 40);
        let keys = random.u64(1..100);
        for _ in 0..600 {
            now += random.u64(..pause) / random.u64(1..keys + 1);
            let key = random.u64(..keys);
            let admission = buckets.take(secret_hash(&key.to_le_bytes()), Moment::of_micros(now));
            assert_eq!(admission.is_admitted, admission.retry_after.is_zero());
            assert!(admission.left < limit.burst);
            if admission.is_admitted {
                admitted[key as usize].push(now);
            }
        }
        for admitted in &admitted {
            assert_conforms(&limit, admitted);
        }
    }
}

#[test]
fn what_is_told_comes_true() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let limit = RateLimit { key: Key::Route, ..limit(random.u32(1..3000), random.u64(1..2000), random.u32(1..50)) };
        let (buckets, mut now) = (Buckets::new(&limit), Moment::of_micros(random.u64(..1 << 40)));
        for _ in 0..random.u32(..100) {
            now = now.after(Duration::from_micros(random.u64(..500)));
            buckets.take(0, now);
        }
        let told = buckets.take(0, now);
        for _ in 0..told.left {
            assert!(buckets.take(0, now).is_admitted);
        }
        let refused = buckets.take(0, now);
        assert!(!refused.is_admitted && !refused.retry_after.is_zero());
        let early = now.after(refused.retry_after - Duration::from_micros(1));
        assert!(!buckets.take(0, early).is_admitted);
        assert!(buckets.take(0, now.after(refused.retry_after)).is_admitted, "who comes when told to is served");
        let last = buckets.take(0, now.after(refused.retry_after));
        assert_eq!(buckets.take(0, now.after(refused.retry_after + last.reset_after)).left, limit.burst - 1);
    }
}

#[test]
fn a_flood_of_keys_is_bounded_and_takes_no_bucket_away_that_is_in_use() {
    let buckets = Buckets::bounded(&limit(1, 1000, 5), 4);
    let known = secret_hash(b"known");
    for _ in 0..5 {
        assert!(buckets.take(known, at(0)).is_admitted);
    }
    let admitted = |ms: u64, flood: u64| {
        let keys = (0..1000_u64).map(|key| secret_hash(&[key, flood].map(u64::to_le_bytes).concat()));
        keys.filter(|key| buckets.take(*key, at(ms)).is_admitted).count()
    };
    let Kept::Keyed { shards, .. } = &buckets.kept else { unreachable!() };
    let held = || shards.iter().map(|shard| shard.lock().unwrap().buckets.len()).collect::<Vec<_>>();
    let first = admitted(0, 0);
    assert!((SHARDS * 4..=SHARDS * 9).contains(&first), "{first}: each its own, then five for all of a shard");
    assert_eq!((admitted(1, 1), held()), (0, vec![4; SHARDS]));
    assert!(!buckets.take(known, at(2)).is_admitted, "it is not forgotten by the flood");
    assert!(admitted(1500, 2) >= SHARDS, "what is full again makes room");
    assert!(held().iter().all(|held| *held <= 4));
    assert!(buckets.take(known, at(3000)).is_admitted);
}

#[test]
fn cores_together_take_what_there_is_and_no_more() {
    for key in [Key::Route, Key::Address] {
        let buckets = Buckets::new(&RateLimit { key, ..limit(1, 1_000_000, 500) });
        let admitted: usize = std::thread::scope(|scope| {
            let take = || (0..400).filter(|_| buckets.take(9, at(1)).is_admitted).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 500);
    }
}
