//! What follows a try: decided by what is known of its effect and by what the route asks for, never by hope. And the
//! budget of a service, which keeps retries from becoming the larger part of its load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;

use crate::policy::Retry;
use crate::reason::Reason;

// Limit: exchanges of one request, the first included, where its route has no `retry`. What reached no instance is
// bounded by how many there are.
const EXCHANGES_MAX: u32 = 3;

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection, or one that broke before anything was written to it. The upstream knows nothing of the request.
    Unsent,
    /// The connection broke before the head of a response. Whether the request had an effect is unknown.
    Broken,
    /// The same on a connection that had served before: perhaps it was just being closed for its idleness.
    BrokenReused,
    /// An answer came, but it was no HTTP. Another instance would most likely say the same.
    Invalid,
    /// The head of the answer is beyond the limits. Another instance would most likely say the same.
    HeadTooLarge,
}

impl Failure {
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Unsent => Reason::ConnectFailed,
            Self::Broken | Self::BrokenReused => Reason::UpstreamBroken,
            Self::Invalid => Reason::UpstreamInvalid,
            Self::HeadTooLarge => Reason::UpstreamHeadTooLarge,
        }
    }
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered(u16),
    Failed(Failure),
}

/// What follows a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At once, on an instance that was not tried; after [`Failure::BrokenReused`], on this one if there is none.
    Another,
    /// When this time is over and the service's budget allows it: on another instance, or on this one if there is none.
    After(Duration),
    /// Nothing: the outcome is the client's.
    Keep,
}

/// One request, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Whether its method allows it to be sent again, and all of its body still can be.
    pub(crate) is_repeatable: bool,
    /// Its tries so far that reached an instance.
    pub(crate) exchanges: u32,
    /// What is left of its time.
    pub(crate) left: Duration,
}

/// Decides. `random` is in `[0, 1)` and spreads the back-off over its whole range ("full jitter"), so that requests that
/// failed together do not come back together.
pub(crate) fn next(policy: &Retry, request: Request, outcome: Outcome, random: f64) -> Next {
    match outcome {
        Outcome::Failed(Failure::Unsent) => Next::Another,
        Outcome::Failed(Failure::Invalid | Failure::HeadTooLarge) => Next::Keep,
        _ if !request.is_repeatable => Next::Keep,
        Outcome::Answered(status) if policy.codes.contains(&status) => after(policy, request, random),
        Outcome::Answered(_) => Next::Keep,
        Outcome::Failed(_) if policy.is_on() => after(policy, request, random),
        Outcome::Failed(_) if request.exchanges >= EXCHANGES_MAX => Next::Keep,
        Outcome::Failed(_) => Next::Another,
    }
}

/// Whether a request of this method may be sent again once it has reached an instance. RFC 9110 §9.2.2: only where twice
/// is as good as once, or where the policy says so.
pub(crate) fn sends_again(policy: &Retry, method: &Method) -> bool {
    method.is_idempotent() || policy.unsafe_methods
}

fn after(policy: &Retry, request: Request, random: f64) -> Next {
    if request.exchanges >= policy.attempts {
        return Next::Keep;
    }
    let repeats = request.exchanges.saturating_sub(1);
    let pause = policy.backoff.saturating_mul(1 << repeats.min(16)).min(policy.backoff_max).mul_f64(random);
    // A try beyond the time of the request would have nobody to answer.
    if pause < request.left { Next::After(pause) } else { Next::Keep }
}

/// The time that a budget looks back on, in seconds.
const WINDOW: usize = 10;

// Limit: retries of a service within the window, those that its routes and edges ask for: this many a second, and one
// for every so many requests.
const RETRIES_A_SECOND: u64 = 3;
const REQUESTS_A_RETRY: u64 = 5;

/// How many retries one service takes, from all routes and edges that have a `retry`. One for the whole process; it
/// outlives snapshots. Cores that ask at the same moment may exceed it by one each.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    requests: Window,
    retries: Window,
}

impl Budget {
    /// Counts a request that may be sent again.
    pub(crate) fn add_request(&self) {
        self.requests.add(now());
    }

    /// Takes one retry out, if there is one left.
    pub(crate) fn take(&self) -> bool {
        self.take_at(now())
    }

    fn take_at(&self, second: u32) -> bool {
        let most = RETRIES_A_SECOND * WINDOW as u64 + self.requests.sum(second) / REQUESTS_A_RETRY;
        let is_left = self.retries.sum(second) < most;
        if is_left {
            self.retries.add(second);
        }
        is_left
    }
}

/// Counts of the last seconds.
#[derive(Debug, Default)]
struct Window {
    /// The second in the upper half, its count in the lower: one number, so that both change in one step.
    slots: [AtomicU64; WINDOW],
}

impl Window {
    fn add(&self, second: u32) {
        let count =
            |slot: u64| Some(if slot >> 32 == u64::from(second) { slot + 1 } else { (u64::from(second) << 32) + 1 });
        // It never refuses.
        let _ = self.slots[second as usize % WINDOW].fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }

    fn sum(&self, second: u32) -> u64 {
        let slots = self.slots.iter().map(|slot| slot.load(Ordering::Relaxed));
        let recent = slots.filter(|slot| u64::from(second).saturating_sub(slot >> 32) < WINDOW as u64);
        recent.map(|slot| slot & u64::from(u32::MAX)).sum()
    }
}

/// Seconds since the first call.
fn now() -> u32 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    u32::try_from(BEGAN.get_or_init(Instant::now).elapsed().as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(attempts: u32) -> Retry {
        let backoff = Duration::from_millis(100);
        Retry { attempts: attempts + 1, codes: vec![502, 503], backoff, backoff_max: 16 * backoff, ..Retry::NONE }
    }

    fn request(exchanges: u32) -> Request {
        Request { is_repeatable: true, exchanges, left: Duration::from_secs(10) }
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered(status)
    }

    #[test]
    fn without_a_policy_only_what_is_known_to_be_safe_is_tried_again() {
        use Failure::{Broken, BrokenReused, HeadTooLarge, Invalid, Unsent};
        for (failure, is_repeatable, exchanges, expected) in [
            (Unsent, false, 0, Next::Another),
            (Unsent, false, 3, Next::Another),
            (Broken, true, 1, Next::Another),
            (Broken, true, 2, Next::Another),
            (Broken, true, 3, Next::Keep),
            (Broken, false, 1, Next::Keep),
            (BrokenReused, true, 1, Next::Another),
            (BrokenReused, true, 3, Next::Keep),
            (BrokenReused, false, 1, Next::Keep),
            (Invalid, true, 1, Next::Keep),
            (HeadTooLarge, true, 1, Next::Keep),
        ] {
            let request = Request { is_repeatable, ..request(exchanges) };
            let next = next(&Retry::NONE, request, Outcome::Failed(failure), 0.5);
            assert_eq!(next, expected, "{failure:?} repeatable {is_repeatable} after {exchanges}");
        }
        assert_eq!(next(&Retry::NONE, request(1), answered(503), 0.5), Next::Keep);
    }

    #[test]
    fn a_policy_repeats_broken_exchanges_and_its_codes_with_a_back_off_that_doubles() {
        use Failure::{Broken, BrokenReused, Invalid, Unsent};
        let after = |milliseconds| Next::After(Duration::from_millis(milliseconds));
        for (outcome, exchanges, expected) in [
            (answered(503), 1, after(50)),
            (answered(502), 2, after(100)),
            (answered(503), 3, after(200)),
            (answered(503), 4, Next::Keep),
            (answered(500), 1, Next::Keep),
            (answered(200), 1, Next::Keep),
            (Outcome::Failed(Broken), 1, after(50)),
            (Outcome::Failed(BrokenReused), 3, after(200)),
            (Outcome::Failed(Broken), 4, Next::Keep),
            (Outcome::Failed(Invalid), 1, Next::Keep),
            (Outcome::Failed(Unsent), 0, Next::Another),
            (Outcome::Failed(Unsent), 4, Next::Another),
        ] {
            let next = next(&policy(3), request(exchanges), outcome, 0.5);
            assert_eq!(next, expected, "{outcome:?} after {exchanges}");
        }
        assert_eq!(next(&policy(3), request(1), answered(503), 0.0), after(0));
    }

    #[test]
    fn what_is_not_idempotent_is_sent_again_only_where_the_policy_says_so() {
        let free = Retry { unsafe_methods: true, ..policy(1) };
        for (method, is_idempotent) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::PUT, true),
            (Method::DELETE, true),
            (Method::POST, false),
            (Method::PATCH, false),
            (Method::from_bytes(b"PURGE").unwrap(), false),
        ] {
            assert_eq!(sends_again(&policy(1), &method), is_idempotent, "{method}");
            assert!(sends_again(&free, &method), "{method}");
        }
        for outcome in [answered(503), Outcome::Failed(Failure::Broken)] {
            let request = Request { is_repeatable: false, ..request(1) };
            assert_eq!(next(&policy(3), request, outcome, 0.5), Next::Keep, "{outcome:?}");
        }
    }

    #[test]
    fn nothing_sleeps_beyond_the_time_of_its_request() {
        for (left, random, expected) in [
            (50, 0.4, Next::After(Duration::from_millis(40))),
            (50, 0.5, Next::Keep),
            (50, 0.9, Next::Keep),
            (0, 0.0, Next::Keep),
        ] {
            let request = Request { left: Duration::from_millis(left), ..request(1) };
            assert_eq!(next(&policy(1), request, answered(503), random), expected, "{left} {random}");
        }
    }

    #[test]
    fn a_budget_is_a_share_of_the_requests_and_a_few_a_second() {
        let taken = |budget: &Budget, second| (0..1000).take_while(|_| budget.take_at(second)).count();
        let budget = Budget::default();
        assert_eq!(taken(&budget, 0), 30);
        assert_eq!(taken(&budget, 9), 0, "what was taken ten seconds ago is forgotten, not before");
        assert_eq!(taken(&budget, 10), 30);
        for _ in 0..100 {
            budget.requests.add(15);
        }
        assert_eq!(taken(&budget, 19), 20);
        assert_eq!(taken(&budget, 24), 30, "twenty of fifty are still known");
        assert_eq!(taken(&budget, 60), 30, "and requests are forgotten, too");
    }
}
