//! What follows a try: decided by what is known of its effect and by what the route asks for, never by hope. How many
//! tries a route or edge may make in all is its budget's matter.

use std::time::Duration;

use http::Method;

use crate::policy::Retry;
use crate::reason::Reason;
use crate::story::NoMore;

// Limit: exchanges of one request, the first included, where its route has no `retry`. What reached no instance is
// bounded by how many there are.
const EXCHANGES_MAX: u32 = 3;

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection, or one that broke before anything was written to it. The upstream knows nothing of the request.
    Unsent(Unsent),
    /// The connection broke before the head of a response. Whether the request had an effect is unknown.
    Broken,
    /// The same on a connection that had served before: perhaps it was just being closed for its idleness.
    BrokenReused,
    /// No head of a response in the time of one try. Whether the request had an effect is unknown.
    TimedOut,
    /// An answer came, but it was no HTTP. Another instance would most likely say the same.
    Invalid,
    /// The head of the answer is beyond the limits. Another instance would most likely say the same.
    HeadTooLarge,
    /// A fault answered, with this status.
    Fault(u16),
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    Refused,
    TimedOut,
    /// The network's reasons, and connections that broke before anything was written.
    Other,
    /// This process has no file or no port for it: that says nothing of the instance.
    Own,
}

impl Failure {
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Unsent(_) => Reason::ConnectFailed,
            Self::Broken | Self::BrokenReused => Reason::UpstreamBroken,
            Self::TimedOut => Reason::UpstreamTimeout,
            Self::Invalid => Reason::UpstreamInvalid,
            Self::HeadTooLarge => Reason::UpstreamHeadTooLarge,
            Self::Fault(_) => Reason::FaultInjected,
        }
    }
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered {
        status: u16,
        /// When the service wants to be asked again (RFC 9110 §10.2.3).
        retry_after: Option<Duration>,
    },
    Failed(Failure),
}

impl Outcome {
    /// Whether the instance did not do what it is there for.
    pub(crate) fn is_failure(self) -> bool {
        match self {
            Self::Answered { status, .. } => status >= 500,
            Self::Failed(Failure::Fault(status)) => status >= 500,
            Self::Failed(_) => true,
        }
    }
}

/// What follows a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At once, on an instance that was not tried: it costs nobody anything, as long as there is a good one.
    Elsewhere,
    /// At once, on an instance that was not tried, or on this one if there is none: its connection may only have been closed
    /// for its idleness. From then on and for a while, none of that instance is used twice.
    Anew,
    /// At once, on an instance that was not tried, if the budget allows it.
    Another,
    /// When this time is over and the budget allows it: on another instance, or on this one if there is none.
    After { pause: Duration, is_told: bool },
    /// Nothing: the outcome is the client's.
    Keep(NoMore),
}

/// One request, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Whether twice is as good as once: see [`sends_again`].
    pub(crate) is_repeatable: bool,
    /// Whether all of its body can be sent again.
    pub(crate) is_whole: bool,
    /// Its tries so far that reached an instance.
    pub(crate) exchanges: u32,
    /// What is left of its time.
    pub(crate) left: Duration,
}

/// Decides. `random` is in `[0, 1)` and spreads the back-off over its whole range ("full jitter"), so that requests that
/// failed together do not come back together.
pub(crate) fn next(policy: &Retry, request: Request, outcome: Outcome, random: f64) -> Next {
    let repeat = |next: Next| match request {
        Request { is_repeatable: false, .. } => Next::Keep(NoMore::NotRepeatable),
        Request { is_whole: false, .. } => Next::Keep(NoMore::BodyNotKept),
        _ => next,
    };
    match outcome {
        Outcome::Failed(Failure::Unsent(_)) => Next::Elsewhere,
        Outcome::Failed(Failure::Invalid | Failure::HeadTooLarge) => Next::Keep(NoMore::Final),
        Outcome::Answered { status, retry_after } if policy.is_on() && policy.codes.contains(&status) => {
            repeat(after(policy, request, retry_after, random))
        }
        Outcome::Failed(Failure::Fault(status)) if policy.is_on() && policy.codes.contains(&status) => {
            repeat(after(policy, request, None, random))
        }
        Outcome::Answered { .. } | Outcome::Failed(Failure::Fault(_)) => Next::Keep(NoMore::Final),
        Outcome::Failed(Failure::BrokenReused) if request.exchanges < policy.attempts.max(2) => repeat(Next::Anew),
        Outcome::Failed(_) if policy.is_on() => repeat(after(policy, request, None, random)),
        Outcome::Failed(_) if request.exchanges < EXCHANGES_MAX => repeat(Next::Another),
        Outcome::Failed(_) => Next::Keep(NoMore::AttemptsUsed),
    }
}

/// Whether a request may be sent again once it has reached an instance: where twice is as good as once (RFC 9110 §9.2.2),
/// where the client says with an `idempotency-key` that the service sees to that, or where the policy says so.
pub(crate) fn sends_again(policy: &Retry, method: &Method, is_keyed: impl FnOnce() -> bool) -> bool {
    method.is_idempotent() || policy.is_on() && policy.unsafe_methods || is_keyed()
}

fn after(policy: &Retry, request: Request, told: Option<Duration>, random: f64) -> Next {
    if request.exchanges >= policy.attempts {
        return Next::Keep(NoMore::AttemptsUsed);
    }
    let repeats = request.exchanges.saturating_sub(1);
    let own = policy.backoff.saturating_mul(1 << repeats.min(16)).min(policy.backoff_max).mul_f64(random);
    let pause = told.map_or(own, |told| told.saturating_add(own));
    // A try beyond the time of the request would have nobody to answer.
    match (pause < request.left, told) {
        (true, told) => Next::After { pause, is_told: told.is_some_and(|told| !told.is_zero()) },
        (false, Some(told)) if told >= request.left => Next::Keep(NoMore::ToldToWaitTooLong),
        (false, _) => Next::Keep(NoMore::NoTime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Outcome = Outcome::Failed(Failure::Unsent(Unsent::Refused));

    fn policy(attempts: u32) -> Retry {
        let backoff = Duration::from_millis(100);
        Retry { attempts, codes: vec![502, 503], backoff, backoff_max: Duration::from_millis(300), ..Retry::NONE }
    }

    fn request(exchanges: u32) -> Request {
        Request { is_repeatable: true, is_whole: true, exchanges, left: Duration::from_secs(10) }
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after: None }
    }

    fn failed(failure: Failure) -> Outcome {
        Outcome::Failed(failure)
    }

    fn after(milliseconds: u64) -> Next {
        Next::After { pause: Duration::from_millis(milliseconds), is_told: false }
    }

    #[test]
    fn without_a_policy_only_what_is_known_to_be_safe_is_tried_again() {
        use Failure::{Broken, BrokenReused, Fault, HeadTooLarge, Invalid};
        let no = Next::Keep(NoMore::NotRepeatable);
        for (outcome, is_repeatable, exchanges, expected) in [
            (REFUSED, false, 0, Next::Elsewhere),
            (REFUSED, false, 3, Next::Elsewhere),
            (failed(Broken), true, 1, Next::Another),
            (failed(Broken), true, 2, Next::Another),
            (failed(Broken), true, 3, Next::Keep(NoMore::AttemptsUsed)),
            (failed(Broken), false, 1, no),
            (failed(BrokenReused), true, 1, Next::Anew),
            (failed(BrokenReused), true, 2, Next::Another),
            (failed(BrokenReused), true, 3, Next::Keep(NoMore::AttemptsUsed)),
            (failed(BrokenReused), false, 1, no),
            (failed(Invalid), true, 1, Next::Keep(NoMore::Final)),
            (failed(HeadTooLarge), true, 1, Next::Keep(NoMore::Final)),
            (failed(Fault(503)), true, 1, Next::Keep(NoMore::Final)),
            (answered(503), true, 1, Next::Keep(NoMore::Final)),
        ] {
            let request = Request { is_repeatable, ..request(exchanges) };
            let next = next(&Retry::NONE, request, outcome, 0.5);
            assert_eq!(next, expected, "{outcome:?} repeatable {is_repeatable} after {exchanges}");
        }
    }

    #[test]
    fn a_policy_repeats_broken_exchanges_and_its_codes_with_a_back_off_that_doubles_up_to_its_bound() {
        use Failure::{Broken, BrokenReused, Fault, Invalid, TimedOut};
        let used = Next::Keep(NoMore::AttemptsUsed);
        for (outcome, exchanges, expected) in [
            (answered(503), 1, after(50)),
            (answered(502), 2, after(100)),
            (answered(503), 3, after(150)),
            (answered(503), 4, used),
            (answered(500), 1, Next::Keep(NoMore::Final)),
            (answered(200), 1, Next::Keep(NoMore::Final)),
            (failed(Broken), 1, after(50)),
            (failed(TimedOut), 1, after(50)),
            (failed(Fault(503)), 1, after(50)),
            (failed(Fault(500)), 1, Next::Keep(NoMore::Final)),
            (failed(BrokenReused), 1, Next::Anew),
            (failed(BrokenReused), 3, Next::Anew),
            (failed(BrokenReused), 4, used),
            (failed(Broken), 4, used),
            (failed(Invalid), 1, Next::Keep(NoMore::Final)),
            (REFUSED, 0, Next::Elsewhere),
            (REFUSED, 4, Next::Elsewhere),
        ] {
            let next = next(&policy(4), request(exchanges), outcome, 0.5);
            assert_eq!(next, expected, "{outcome:?} after {exchanges}");
        }
        assert_eq!(next(&policy(4), request(1), answered(503), 0.0), after(0));
        assert_eq!(next(&policy(1), request(1), answered(503), 0.0), Next::Keep(NoMore::Final), "one attempt is none");
    }

    #[test]
    fn what_is_not_idempotent_is_sent_again_only_with_a_key_or_where_the_policy_says_so() {
        let free = Retry { unsafe_methods: true, ..policy(2) };
        for (method, is_idempotent) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::PUT, true),
            (Method::DELETE, true),
            (Method::POST, false),
            (Method::PATCH, false),
            (Method::from_bytes(b"PURGE").unwrap(), false),
        ] {
            assert_eq!(sends_again(&policy(2), &method, || false), is_idempotent, "{method}");
            assert!(sends_again(&policy(2), &method, || true), "{method}");
            assert!(sends_again(&free, &method, || false), "{method}");
            let once = Retry { attempts: 1, ..free.clone() };
            assert_eq!(sends_again(&once, &method, || false), is_idempotent, "{method}");
        }
        for outcome in [answered(503), failed(Failure::Broken), failed(Failure::TimedOut)] {
            let kept = |request: Request| next(&policy(4), request, outcome, 0.5);
            let unsafe_one = Request { is_repeatable: false, ..request(1) };
            assert_eq!(kept(unsafe_one), Next::Keep(NoMore::NotRepeatable), "{outcome:?}");
            let long_one = Request { is_whole: false, ..request(1) };
            assert_eq!(kept(long_one), Next::Keep(NoMore::BodyNotKept), "{outcome:?}");
        }
    }

    #[test]
    fn nothing_sleeps_beyond_the_time_of_its_request() {
        for (left, random, expected) in [
            (50, 0.4, after(40)),
            (50, 0.5, Next::Keep(NoMore::NoTime)),
            (50, 0.9, Next::Keep(NoMore::NoTime)),
            (0, 0.0, Next::Keep(NoMore::NoTime)),
        ] {
            let request = Request { left: Duration::from_millis(left), ..request(1) };
            assert_eq!(next(&policy(2), request, answered(503), random), expected, "{left} {random}");
        }
    }

    #[test]
    fn who_says_when_to_come_again_is_not_asked_before() {
        let told = |seconds| Outcome::Answered { status: 503, retry_after: Some(Duration::from_secs(seconds)) };
        let pause = Duration::from_millis(2050);
        assert_eq!(next(&policy(2), request(1), told(2), 0.5), Next::After { pause, is_told: true });
        assert_eq!(next(&policy(2), request(1), told(10), 0.5), Next::Keep(NoMore::ToldToWaitTooLong));
        assert_eq!(next(&policy(2), request(1), told(0), 0.5), after(50));
    }
}
