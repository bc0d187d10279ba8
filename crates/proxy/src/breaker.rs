//! A circuit breaker with Resilience4j's meaning, one for a route or edge, shared by all cores. Pure: time is given, and
//! whoever makes a call asks before it and tells its outcome after it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::{self, Window};
use crate::story::BreakerState;
use crate::switches::Forced;
use crate::tally::{Recent, Tally, calls_max};
use crate::timers::Moment;

#[cfg(test)]
mod tests;

/// From one state to another.
pub(crate) type Turn = (BreakerState, BreakerState);

/// One breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    policy: policy::Breaker,
    /// What is asked without the lock, and written under it: the epoch, and in the lowest bits [`ADMITS`].
    quick: AtomicU64,
    inner: Mutex<Inner>,
}

/// How long half-open calls are waited for at least: a client that sends its request slowly must not hold a breaker half
/// open for ever (`maxWaitDurationInHalfOpenState` of Resilience4j). Beyond what routes give their services.
const HALF_OPEN_MIN: Duration = Duration::from_secs(60);

/// Bits of `quick` below the epoch: closed; closed by force; zero where the lock is needed to know.
const ADMITS: u64 = 0b11;
const CLOSED: u64 = 0b01;
const FORCED_CLOSED: u64 = 0b10;
const EPOCH_SHIFT: u32 = 2;

#[derive(Debug)]
struct Inner {
    /// Rises with each turn. Outcomes of calls of an earlier epoch say nothing about this one.
    epoch: u64,
    state: State,
}

/// ```text
///            rate reached                open_for over, at the next call
///   Closed ───────────────▶ Open ─────────────────────────────▶ HalfOpen
///     ▲                      ▲        all half-open calls ended,    │ │
///     │                      └────────────── rate reached ──────────┘ │
///     └───────────────────────────── rate not reached ────────────────┘
///   any ── force(Open) ──▶ ForcedOpen ── force(None) ──▶ Closed, empty
///   any ── force(Closed) ▶ ForcedClosed ─ force(None) ─▶ Closed, with what was counted
/// ```
#[derive(Debug)]
enum State {
    Closed(Recent),
    /// With what has opened it.
    Open {
        until: Moment,
        why: Tally,
    },
    /// How many calls were let through and did not vanish, and how those of them that have ended did so. Calls that have no
    /// end after [`HALF_OPEN_MIN`] are given up, and others are made instead.
    HalfOpen {
        since: Moment,
        given: u32,
        ended: Tally,
    },
    ForcedOpen {
        before: Tally,
    },
    ForcedClosed(Recent),
}

impl State {
    const fn name(&self) -> BreakerState {
        match self {
            Self::Closed(_) => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
            Self::ForcedOpen { .. } => BreakerState::ForcedOpen,
            Self::ForcedClosed(_) => BreakerState::ForcedClosed,
        }
    }

    fn tally(&self, now: Moment) -> Tally {
        match self {
            Self::Closed(recent) | Self::ForcedClosed(recent) => recent.sum(now),
            Self::Open { why, .. } => *why,
            Self::HalfOpen { ended, .. } => *ended,
            Self::ForcedOpen { before } => *before,
        }
    }
}

/// A call may be made. Its end is to be told once: [`Breaker::record`] or [`Breaker::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permit {
    epoch: u64,
    pub(crate) state: BreakerState,
    /// This call was the first after the time for which it was open.
    pub(crate) turned: Option<Turn>,
}

/// A call may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) state: BreakerState,
    /// Open: what has opened it. Half-open: of the calls that are judged.
    pub(crate) tally: Tally,
    /// Zero where nobody knows.
    pub(crate) retry_after: Duration,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) is_failure: bool,
    /// To the head of the answer, or to the failure.
    pub(crate) took: Duration,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerReading {
    pub state: BreakerState,
    /// Of the calls of the window; open, of those that opened it; half-open, of those that are judged.
    pub failures: u32,
    pub slow: u32,
    pub calls: u32,
    /// Until a call is let through. Zero and open: the next one is.
    pub open_left: Duration,
}

impl Breaker {
    /// Closed, and nothing counted. `half_open_calls` and a window of calls are at least one.
    pub(crate) fn new(policy: &policy::Breaker) -> Self {
        let state = State::Closed(Recent::new(policy.window));
        let inner = Inner { epoch: 0, state };
        Self { policy: policy.clone(), quick: AtomicU64::new(quick(&inner)), inner: Mutex::new(inner) }
    }

    /// Asks for one call.
    pub(crate) fn try_acquire(&self, now: Moment) -> Result<Permit, Refused> {
        let quick = self.quick.load(Ordering::Acquire);
        let epoch = quick >> EPOCH_SHIFT;
        match quick & ADMITS {
            CLOSED => return Ok(Permit { epoch, state: BreakerState::Closed, turned: None }),
            FORCED_CLOSED => return Ok(Permit { epoch, state: BreakerState::ForcedClosed, turned: None }),
            _ => {}
        }
        let mut inner = self.lock();
        let mut turned = None;
        if let State::Open { until, .. } = inner.state
            && until <= now
        {
            turned = Some(self.turn(&mut inner, State::HalfOpen { since: now, given: 0, ended: Tally::default() }));
        }
        if let State::HalfOpen { since, given, .. } = inner.state
            && given >= self.half_open_calls()
            && since.after(self.half_open_max()) <= now
        {
            self.turn(&mut inner, State::HalfOpen { since: now, given: 0, ended: Tally::default() });
        }
        let epoch = inner.epoch;
        let retry_after = match &mut inner.state {
            State::Closed(_) | State::ForcedClosed(_) => {
                return Ok(Permit { epoch, state: inner.state.name(), turned });
            }
            State::HalfOpen { given, .. } if *given < self.half_open_calls() => {
                *given += 1;
                return Ok(Permit { epoch, state: BreakerState::HalfOpen, turned });
            }
            State::Open { until, .. } => until.since(now),
            State::HalfOpen { .. } => Duration::ZERO,
            State::ForcedOpen { .. } => Duration::ZERO,
        };
        Err(Refused { state: inner.state.name(), tally: inner.state.tally(now), retry_after })
    }

    /// Tells the outcome of a call, and gives what it has turned.
    pub(crate) fn record(&self, permit: Permit, outcome: Outcome, now: Moment) -> Option<Turn> {
        let is_slow = self.policy.slow_call.is_some_and(|limit| outcome.took > limit);
        let call = Tally { calls: 1, failures: u32::from(outcome.is_failure), slow: u32::from(is_slow) };
        let mut inner = self.lock();
        if inner.epoch != permit.epoch {
            return None;
        }
        let (sum, is_judged) = match &mut inner.state {
            State::Closed(recent) => {
                recent.add(call, now);
                let sum = recent.sum(now);
                (sum, sum.calls >= self.minimum_calls() && self.is_bad(sum))
            }
            State::HalfOpen { ended, .. } => {
                *ended += call;
                (*ended, ended.calls >= self.half_open_calls())
            }
            State::ForcedClosed(recent) => {
                recent.add(call, now);
                return None;
            }
            // Nobody has a permit of such an epoch.
            State::Open { .. } | State::ForcedOpen { .. } => return None,
        };
        let next = || match self.is_bad(sum) {
            true => State::Open { until: now.after(self.policy.open_for), why: sum },
            false => State::Closed(Recent::new(self.policy.window)),
        };
        is_judged.then(|| self.turn(&mut inner, next()))
    }

    /// A call has no outcome: its client went away, or it never reached an instance. Half-open, another one may be made.
    pub(crate) fn release(&self, permit: Permit) {
        if permit.state != BreakerState::HalfOpen {
            return;
        }
        let mut inner = self.lock();
        if inner.epoch == permit.epoch
            && let State::HalfOpen { given, ended, .. } = &mut inner.state
        {
            *given = given.saturating_sub(1).max(ended.calls);
        }
    }

    /// Switches it, or takes that back. What is so already changes nothing.
    pub(crate) fn force(&self, forced: Option<Forced>, now: Moment) -> Option<Turn> {
        let mut inner = self.lock();
        let state = &mut inner.state;
        let keep = |recent: &mut Recent| std::mem::replace(recent, Recent::new(self.policy.window));
        let next = match (forced, &mut *state) {
            (Some(Forced::Open), State::ForcedOpen { .. })
            | (Some(Forced::Closed), State::ForcedClosed(_))
            | (None, State::Closed(_) | State::Open { .. } | State::HalfOpen { .. }) => return None,
            (Some(Forced::Open), state) => State::ForcedOpen { before: state.tally(now) },
            (Some(Forced::Closed), State::Closed(recent)) => State::ForcedClosed(keep(recent)),
            (Some(Forced::Closed), _) => State::ForcedClosed(Recent::new(self.policy.window)),
            (None, State::ForcedClosed(recent)) => State::Closed(keep(recent)),
            (None, State::ForcedOpen { .. }) => State::Closed(Recent::new(self.policy.window)),
        };
        Some(self.turn(&mut inner, next))
    }

    /// Forgets everything that was counted. Closed, but for what is forced.
    pub(crate) fn reset(&self) -> Option<Turn> {
        let mut inner = self.lock();
        let fresh = Recent::new(self.policy.window);
        let next = match inner.state {
            State::ForcedOpen { .. } => State::ForcedOpen { before: Tally::default() },
            State::ForcedClosed(_) => State::ForcedClosed(fresh),
            _ => State::Closed(fresh),
        };
        let turn = self.turn(&mut inner, next);
        (turn.0 != turn.1).then_some(turn)
    }

    pub(crate) fn reading(&self, now: Moment) -> BreakerReading {
        let inner = self.lock();
        let Tally { calls, failures, slow } = inner.state.tally(now);
        let open_left = if let State::Open { until, .. } = inner.state { until.since(now) } else { Duration::ZERO };
        BreakerReading { state: inner.state.name(), failures, slow, calls, open_left }
    }

    fn turn(&self, inner: &mut Inner, to: State) -> Turn {
        let from = inner.state.name();
        inner.state = to;
        inner.epoch += 1;
        self.quick.store(quick(inner), Ordering::Release);
        (from, inner.state.name())
    }

    fn is_bad(&self, sum: Tally) -> bool {
        let policy = &self.policy;
        let calls = u64::from(sum.calls);
        policy.failure_rate.is_reached(u64::from(sum.failures), calls)
            || policy.slow_call.is_some() && policy.slow_call_rate.is_reached(u64::from(sum.slow), calls)
    }

    fn half_open_max(&self) -> Duration {
        self.policy.open_for.max(HALF_OPEN_MIN)
    }

    fn half_open_calls(&self) -> u32 {
        self.policy.half_open_calls.max(1)
    }

    /// Not more than the window holds, or nothing would ever be judged.
    fn minimum_calls(&self) -> u32 {
        match self.policy.window {
            Window::Calls(calls) => self.policy.minimum_calls.min(calls_max(calls)),
            Window::Time(_) => self.policy.minimum_calls,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn quick(inner: &Inner) -> u64 {
    let admits = match inner.state {
        State::Closed(_) => CLOSED,
        State::ForcedClosed(_) => FORCED_CLOSED,
        State::Open { .. } | State::HalfOpen { .. } | State::ForcedOpen { .. } => 0,
    };
    inner.epoch << EPOCH_SHIFT | admits
}
