//! Outcomes of calls, added up over the last so many of them or over the last so much time. For `breaker` and `outlier`,
//! which own one behind a lock each. Pure; time is given.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::time::Duration;

use crate::policy::Window;
use crate::timers::Moment;

/// Slices of a window of time: what is forgotten is forgotten in steps of a tenth.
const SLICES: usize = 10;

// Limit: calls that a window of calls remembers, a byte each. A larger one is as large as this.
const CALLS_MAX: u32 = 65_536;

/// How many calls, and what of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) calls: u32,
    pub(crate) failures: u32,
    pub(crate) slow: u32,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failures = self.failures.saturating_add(other.failures);
        self.slow = self.slow.saturating_add(other.slow);
    }
}

/// Those of a window.
#[derive(Debug)]
pub(crate) enum Recent {
    Calls(LastCalls),
    Time(Slices),
}

impl Recent {
    pub(crate) fn new(window: Window) -> Self {
        match window {
            Window::Calls(most) => Self::Calls(LastCalls::new(most)),
            Window::Time(time) => Self::Time(Slices::new(time)),
        }
    }

    /// Adds one call.
    pub(crate) fn add(&mut self, call: Tally, now: Moment) {
        match self {
            Self::Calls(calls) => calls.add(call),
            Self::Time(slices) => slices.add(call, now),
        }
    }

    pub(crate) fn sum(&self, now: Moment) -> Tally {
        match self {
            Self::Calls(calls) => calls.sum,
            Self::Time(slices) => slices.sum(now),
        }
    }
}

/// How many calls a window of calls holds.
pub(crate) const fn calls_max(calls: u32) -> u32 {
    if calls == 0 {
        1
    } else if calls > CALLS_MAX {
        CALLS_MAX
    } else {
        calls
    }
}

/// The last so many calls.
#[derive(Debug)]
pub(crate) struct LastCalls {
    max: usize,
    /// The oldest first.
    calls: VecDeque<u8>,
    sum: Tally,
}

const FAILED: u8 = 1;
const SLOW: u8 = 2;

impl LastCalls {
    fn new(max: u32) -> Self {
        Self { max: calls_max(max) as usize, calls: VecDeque::new(), sum: Tally::default() }
    }

    fn add(&mut self, call: Tally) {
        if self.calls.len() == self.max
            && let Some(oldest) = self.calls.pop_front()
        {
            self.sum.calls -= 1;
            self.sum.failures -= u32::from(oldest & FAILED > 0);
            self.sum.slow -= u32::from(oldest & SLOW > 0);
        }
        let mark = |count: u32, mark: u8| if count > 0 { mark } else { 0 };
        self.calls.push_back(mark(call.failures, FAILED) | mark(call.slow, SLOW));
        self.sum += call;
    }
}

/// The last so much time: between nine and ten tenths of it.
#[derive(Debug)]
pub(crate) struct Slices {
    /// Microseconds.
    width: u64,
    /// With the number of the slice of time that each one counts.
    slices: [(u64, Tally); SLICES],
}

impl Slices {
    pub(crate) fn new(time: Duration) -> Self {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self { width: (micros / SLICES as u64).max(1), slices: Default::default() }
    }

    /// Cores look at the clock at different moments: what comes late for its slice is counted in the one that is there.
    pub(crate) fn add(&mut self, call: Tally, now: Moment) {
        let number = now.micros() / self.width;
        let slice = &mut self.slices[(number % SLICES as u64) as usize];
        if slice.0 < number {
            *slice = (number, Tally::default());
        }
        slice.1 += call;
    }

    pub(crate) fn sum(&self, now: Moment) -> Tally {
        let number = now.micros() / self.width;
        let mut sum = Tally::default();
        for (_, tally) in self.slices.iter().filter(|(of, _)| of + SLICES as u64 > number) {
            sum += *tally;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_what_a_list_of_all_calls_says() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let max = random.u32(1..20);
            let mut calls = Recent::new(Window::Calls(max));
            let mut time = Recent::new(Window::Time(Duration::from_millis(100)));
            let (mut now, mut all) = (0, Vec::new());
            for _ in 0..100 {
                now += random.u64(0..30_000);
                let call = Tally { calls: 1, failures: random.u32(0..2), slow: random.u32(0..2) };
                all.push((now, call));
                calls.add(call, Moment::of_micros(now));
                time.add(call, Moment::of_micros(now));
                let sum = |of: &dyn Fn(usize, u64) -> bool| {
                    let mut sum = Tally::default();
                    for (place, (at, call)) in all.iter().enumerate() {
                        if of(all.len() - place, *at) {
                            sum += *call;
                        }
                    }
                    sum
                };
                assert_eq!(calls.sum(Moment::of_micros(now)), sum(&|back, _| back <= max as usize));
                assert_eq!(time.sum(Moment::of_micros(now)), sum(&|_, at| at / 10_000 + 10 > now / 10_000));
            }
        }
    }

    #[test]
    fn a_clock_that_lags_a_little_loses_no_call_and_a_window_of_nothing_is_of_one() {
        let mut time = Slices::new(Duration::from_millis(100));
        let call = Tally { calls: 1, failures: 1, slow: 0 };
        time.add(call, Moment::of_micros(120_000));
        time.add(call, Moment::of_micros(29_000));
        assert_eq!(time.sum(Moment::of_micros(119_000)).calls, 2);
        let mut none = Recent::new(Window::Calls(0));
        none.add(call, Moment::default());
        none.add(Tally { failures: 0, ..call }, Moment::default());
        assert_eq!(none.sum(Moment::default()), Tally { calls: 1, failures: 0, slow: 0 });
        let mut none = Recent::new(Window::Time(Duration::ZERO));
        none.add(call, Moment::of_micros(5));
        assert_eq!(none.sum(Moment::of_micros(15)).calls, 0);
    }
}
