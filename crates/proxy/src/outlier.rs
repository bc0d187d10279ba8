//! What the answers of one endpoint say about it: whether it is passed over for a time, and how long it takes to answer.
//! One of each for an endpoint on a route or edge, shared by all cores. Pure; time is given.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::policy::{Ejection, Share};
use crate::tally::{Slices, Tally};
use crate::timers::Moment;

#[cfg(test)]
mod tests;

/// Whether an outcome has put the endpoint aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// It is, for so long.
    Ejected(Duration),
}

/// The health of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Failures in a row.
    row: AtomicU32,
    /// Microseconds: until when it is passed over; 0 for never.
    until: AtomicU64,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    /// The calls of the window, where a rate is asked for; with the window that they are of.
    calls: Option<(Duration, Slices)>,
    /// How many times the ejection doubles. Goes down by one for each full `time_max` without one.
    doublings: u32,
}

impl Health {
    /// Counts the outcome of a call and ejects the endpoint if that is due and permitted. As in Envoy, an ejection begins
    /// anew: what led to it is forgotten, outcomes that come meanwhile say nothing, and afterwards it takes as many
    /// failures as before. `may_eject` is asked only then, under a lock of the whole process: no two endpoints are ejected
    /// where only one may be. It must not ask a `Health` for more than [`Health::is_ejected`]. If it refuses, counting
    /// goes on, and the next failure asks again.
    pub(crate) fn record(
        &self,
        policy: &Ejection,
        is_failure: bool,
        now: Moment,
        may_eject: impl FnOnce() -> bool,
    ) -> Verdict {
        if self.is_ejected(now) {
            return Verdict::Fine;
        }
        let is_in_a_row = self.is_in_a_row(policy, is_failure);
        let is_rate_reached =
            policy.failure_rate.is_some_and(|rate| self.is_rate_reached(policy, rate, is_failure, now));
        if is_failure && (is_in_a_row || is_rate_reached) { self.eject(policy, now, may_eject) } else { Verdict::Fine }
    }

    /// Whether it is passed over.
    pub(crate) fn is_ejected(&self, now: Moment) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until > 0 && until > now.micros()
    }

    /// How much longer it is passed over.
    pub(crate) fn ejected_for(&self, now: Moment) -> Duration {
        self.until().since(now)
    }

    /// Nothing is written while all is well.
    fn is_in_a_row(&self, policy: &Ejection, is_failure: bool) -> bool {
        if is_failure {
            let row = self.row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            return policy.consecutive_failures > 0 && row >= policy.consecutive_failures;
        }
        if self.row.load(Ordering::Relaxed) > 0 {
            self.row.store(0, Ordering::Relaxed);
        }
        false
    }

    fn is_rate_reached(&self, policy: &Ejection, rate: Share, is_failure: bool, now: Moment) -> bool {
        let mut history = self.history();
        if history.calls.as_ref().is_none_or(|(window, _)| *window != policy.window) {
            history.calls = None;
        }
        let (_, calls) = history.calls.get_or_insert_with(|| (policy.window, Slices::new(policy.window)));
        calls.add(Tally { calls: 1, failures: u32::from(is_failure), slow: 0 }, now);
        // A rate is only reached by a failure.
        is_failure && {
            let sum = calls.sum(now);
            sum.calls >= policy.minimum_calls && rate.is_reached(u64::from(sum.failures), u64::from(sum.calls))
        }
    }

    fn eject(&self, policy: &Ejection, now: Moment, may_eject: impl FnOnce() -> bool) -> Verdict {
        static EJECTING: Mutex<()> = Mutex::new(());
        let mut history = self.history();
        let ejecting = EJECTING.lock().unwrap_or_else(PoisonError::into_inner);
        // Another core may have seen the same.
        if self.is_ejected(now) || !may_eject() {
            return Verdict::Fine;
        }
        let healthy = now.since(self.until()).as_micros() / policy.time_max.as_micros().max(1);
        let doublings = history.doublings.saturating_sub(u32::try_from(healthy).unwrap_or(u32::MAX));
        let time = policy.time.saturating_mul(1 << doublings.min(31)).min(policy.time_max);
        // What is as long as it may be doubles no more, so that it also comes down in as many steps.
        history.doublings = doublings + u32::from(time < policy.time_max);
        self.until.store(now.after(time).micros(), Ordering::Relaxed);
        drop(ejecting);
        self.row.store(0, Ordering::Relaxed);
        history.calls = None;
        Verdict::Ejected(time)
    }

    fn until(&self) -> Moment {
        Moment::of_micros(self.until.load(Ordering::Relaxed))
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one more of so many ready instances may be ejected, with so many of them ejected now: not beyond the share,
/// but the first of two or more always, and never the only one.
pub(crate) fn may_eject(policy: &Ejection, ready: usize, ejected_now: usize) -> bool {
    // As many as this would be left; `is_reached` asks for at least a share.
    let left = ready.saturating_sub(ejected_now.saturating_add(1));
    let share_left = Share::of(1.0 - policy.share_max.part());
    ready > ejected_now && ready > 1 && (ejected_now == 0 || share_left.is_reached(left as u64, ready as u64))
}

/// The time in which what was observed loses its weight but for 1/e.
const TAU_MICROS: f32 = 10e6;
/// The clock of an average: so many microseconds. It comes round after three days.
const TICK_MICROS: u64 = 64;
/// What lies less than a second ahead was observed by a core whose clock is ahead, and not three days ago.
const AHEAD_TICKS: u32 = 1_000_000 / TICK_MICROS as u32;
/// Of an endpoint that has not answered yet but has requests: more than any answer takes.
const UNKNOWN_MICROS: u64 = 1 << 32;

/// The peak-sensitive moving average of the time that an endpoint takes to answer: a longer time counts at once, shorter
/// ones by and by, and without any it decays. As `twitter/finagle: PeakEwma.scala` has it.
#[derive(Debug, Default)]
pub(crate) struct Ewma {
    /// When it was true, in ticks, and microseconds as a float, not zero: one number, so that both change in one step.
    /// Zero before the first answer.
    packed: AtomicU64,
}

impl Ewma {
    /// Takes in how long an answer took.
    pub(crate) fn observe(&self, took: Duration, now: Moment) {
        let took = (took.as_micros() as f32).max(1.0);
        let ticks = ticks(now);
        let observed = |packed: u64| {
            let before = value(packed);
            let elapsed = elapsed(packed, ticks);
            if packed == 0 || took >= before {
                // The later of the two moments: a clock that lags must not make time pass twice.
                return Some(pack(took, if elapsed > 0 || packed == 0 { ticks } else { stamp(packed) }));
            }
            // Not a tick since the last one: its time is counted with the next.
            let weight = weight(elapsed);
            (elapsed > 0).then(|| pack(before * weight + took * (1.0 - weight), ticks))
        };
        // What it refuses changes nothing.
        let _ = self.packed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, observed);
    }

    /// What one more request costs beside so many outstanding ones: microseconds times requests, the new one included.
    /// Nothing where nothing is known and nobody waits, so that it becomes known.
    pub(crate) fn cost(&self, outstanding: u32, now: Moment) -> u64 {
        let packed = self.packed.load(Ordering::Relaxed);
        let micros = match (packed, outstanding) {
            (0, 0) => 0,
            (0, _) => UNKNOWN_MICROS,
            _ => (value(packed) * weight(elapsed(packed, ticks(now)))).max(1.0) as u64,
        };
        micros.saturating_mul(u64::from(outstanding) + 1)
    }
}

const fn ticks(now: Moment) -> u32 {
    (now.micros() / TICK_MICROS) as u32
}

const fn pack(micros: f32, stamp: u32) -> u64 {
    (stamp as u64) << 32 | micros.to_bits() as u64
}

const fn value(packed: u64) -> f32 {
    f32::from_bits(packed as u32)
}

const fn stamp(packed: u64) -> u32 {
    (packed >> 32) as u32
}

/// Ticks since then.
const fn elapsed(packed: u64, ticks: u32) -> u32 {
    let elapsed = ticks.wrapping_sub(stamp(packed));
    if elapsed > u32::MAX - AHEAD_TICKS { 0 } else { elapsed }
}

/// What a value of so many ticks ago weighs.
fn weight(elapsed: u32) -> f32 {
    if elapsed == 0 { 1.0 } else { (-(elapsed as f32) * TICK_MICROS as f32 / TAU_MICROS).exp() }
}
