//! What keeps retries from becoming the larger part of the load: the budget of one route or edge. Pure; time is given.
//! Each core counts its requests for itself; what is taken out is counted together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::timers::Moment;

/// The time that a budget looks back on, in seconds.
const WINDOW: u64 = 10;

// Limit: retries within the window: one for every so many requests in it, and that many in any case.
const REQUESTS_A_RETRY: u64 = 5;
const RETRIES_MIN: u64 = 10;

/// Seconds of requests that are remembered, the running one included: never more than the window.
const REQUEST_SLOTS: usize = WINDOW as usize;
/// Seconds of retries that are remembered, the running one included: never less than the window. With both, no ten
/// seconds have more retries than the limit, wherever they begin.
const RETRY_SLOTS: usize = WINDOW as usize + 1;

/// How many retries one route or edge takes. One for the whole process; it outlives snapshots.
#[derive(Debug)]
pub(crate) struct Budget {
    requests: Box<[Requests]>,
    /// Retries are few, and all cores together must not exceed the limit: one short lock.
    retries: Mutex<[Second; RETRY_SLOTS]>,
}

/// How a budget stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetReading {
    /// In the last ten seconds.
    pub requests: u64,
    pub retries: u64,
    /// Retries that so many requests allow.
    pub retries_max: u64,
}

impl Budget {
    /// For cores numbered from zero.
    pub(crate) fn new(cores: usize) -> Self {
        Self { requests: (0..cores).map(|_| Requests::default()).collect(), retries: Mutex::default() }
    }

    /// Counts a request that could be sent again. To be called by the thread of this core alone.
    pub(crate) fn add_request(&self, core: usize, now: Moment) {
        if let Some(requests) = self.requests.get(core) {
            requests.add(second(now));
        }
    }

    /// Takes one retry out, if there is one left.
    pub(crate) fn take(&self, now: Moment) -> bool {
        let most = most(self.requests(now));
        let second = second(now);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left = sum(&*retries, second, RETRY_SLOTS) < most;
        if is_left {
            retries[second as usize % RETRY_SLOTS].add(second);
        }
        is_left
    }

    /// Takes one out though none may be left.
    pub(crate) fn spend(&self, now: Moment) {
        let second = second(now);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        retries[second as usize % RETRY_SLOTS].add(second);
    }

    pub(crate) fn reading(&self, now: Moment) -> BudgetReading {
        let requests = self.requests(now);
        let retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        BudgetReading { requests, retries: sum(&*retries, second(now), RETRY_SLOTS), retries_max: most(requests) }
    }

    fn requests(&self, now: Moment) -> u64 {
        self.requests.iter().map(|core| core.sum(second(now))).sum()
    }
}

fn most(requests: u64) -> u64 {
    (requests / REQUESTS_A_RETRY).max(RETRIES_MIN)
}

fn second(now: Moment) -> u32 {
    u32::try_from(now.micros() / 1_000_000).unwrap_or(u32::MAX)
}

/// A second, and what is counted of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Second {
    number: u32,
    count: u32,
}

impl Second {
    /// Cores look at the clock at different moments: what comes late for its second is counted in the one that is there.
    fn add(&mut self, number: u32) {
        if self.number < number {
            *self = Self { number, count: 0 };
        }
        self.count = self.count.saturating_add(1);
    }

    const fn pack(self) -> u64 {
        (self.number as u64) << 32 | self.count as u64
    }

    const fn unpack(packed: u64) -> Self {
        Self { number: (packed >> 32) as u32, count: packed as u32 }
    }
}

fn sum<'a>(seconds: impl IntoIterator<Item = &'a Second>, now: u32, slots: usize) -> u64 {
    let recent = seconds.into_iter().filter(|second| (now.saturating_sub(second.number) as usize) < slots);
    recent.map(|second| u64::from(second.count)).sum()
}

/// The requests of one core, which alone writes: no lock prefix, and no line of the cache that two of them write.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Requests {
    /// A [`Second`] each: one number, so that who reads sees both change in one step.
    seconds: [AtomicU64; REQUEST_SLOTS],
}

impl Requests {
    fn add(&self, number: u32) {
        let slot = &self.seconds[number as usize % REQUEST_SLOTS];
        let mut second = Second::unpack(slot.load(Ordering::Relaxed));
        second.add(number);
        slot.store(second.pack(), Ordering::Relaxed);
    }

    fn sum(&self, now: u32) -> u64 {
        let seconds = self.seconds.each_ref().map(|slot| Second::unpack(slot.load(Ordering::Relaxed)));
        sum(&seconds, now, REQUEST_SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn at(second: u64) -> Moment {
        Moment::of_micros(second * 1_000_000)
    }

    fn taken(budget: &Budget, second: u64) -> usize {
        (0..1000).take_while(|_| budget.take(at(second))).count()
    }

    #[test]
    fn a_budget_is_a_share_of_the_requests_and_a_few_in_any_case() {
        let budget = Budget::new(2);
        for (second, requests, expected) in [
            (0, 0, 10),
            (10, 50, 0),
            (11, 5, 11),
            (19, 0, 0),
            (20, 1000, 190),
            (31, 0, 10),
            (99, 49, 10),
            (99, 11, 2),
            (99, 1_000_000, 1000),
        ] {
            for _ in 0..requests {
                budget.add_request(second as usize % 2, at(second));
            }
            assert_eq!(taken(&budget, second), expected, "at {second}");
        }
        let reading = budget.reading(at(99));
        assert_eq!(reading, BudgetReading { requests: 1_000_060, retries: 1012, retries_max: 200_012 });
        budget.add_request(7, at(99));
        assert_eq!(budget.reading(at(99)), reading, "there is no such core");
        assert_eq!(budget.reading(at(110)), BudgetReading { requests: 0, retries: 0, retries_max: 10 });
    }

    #[test]
    fn no_ten_seconds_have_more_retries_than_their_requests_allow() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..30 {
            let (budget, mut now) = (Budget::new(3), random.u64(0..20_000_000));
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            let (pause, share) = (random.u64(1..1_000_000), random.u32(1..100));
            for _ in 0..2000 {
                now += random.u64(..pause);
                if random.u32(..100) < share {
                    requests.push(now);
                    budget.add_request(random.usize(..3), Moment::of_micros(now));
                } else if budget.take(Moment::of_micros(now)) {
                    retries.push(now);
                    let recent = |all: &[u64]| all.iter().filter(|at| **at + 10_000_000 > now).count() as u64;
                    assert!(recent(&retries) <= most(recent(&requests)), "at {now}");
                }
            }
        }
    }

    #[test]
    fn cores_together_take_what_there_is_and_no_more() {
        let (budget, took) = (Budget::new(4), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for core in 0..4 {
                let (budget, took) = (&budget, &took);
                scope.spawn(move || {
                    for _ in 0..5000 {
                        budget.add_request(core, at(3));
                        took.fetch_add(usize::from(budget.take(at(3))), Ordering::Relaxed);
                    }
                    while budget.take(at(3)) {
                        took.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!((took.into_inner(), budget.reading(at(3)).requests), (4000, 20_000));
    }
}
