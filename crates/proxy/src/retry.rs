//! Whether a failed attempt may be followed by another: decided by what is known of its effect, never by hope.

use http::Method;

use crate::reason::Reason;

// Limit: attempts of one request, the first included.
pub(crate) const ATTEMPTS_MAX: u32 = 3;

/// How an attempt failed.
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

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// An instance that was not tried.
    Another,
    /// An instance that was not tried, or this one on a new connection if there is none.
    AnotherOrSame,
    GiveUp,
}

/// Decides. `is_repeatable` says that the request's body can be sent again, `attempts` counts those made.
pub(crate) fn next(failure: Failure, method: &Method, is_repeatable: bool, attempts: u32) -> Next {
    if attempts >= ATTEMPTS_MAX {
        return Next::GiveUp;
    }
    match failure {
        Failure::Unsent => Next::Another,
        // RFC 9110 §9.2.2: only where twice is as good as once.
        Failure::Broken if method.is_idempotent() && is_repeatable => Next::Another,
        Failure::BrokenReused if method.is_idempotent() && is_repeatable => Next::AnotherOrSame,
        Failure::Broken | Failure::BrokenReused | Failure::Invalid | Failure::HeadTooLarge => Next::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_safe_is_tried_again() {
        use Failure::{Broken, BrokenReused, HeadTooLarge, Invalid, Unsent};
        for (failure, method, is_repeatable, attempts, expected) in [
            (Unsent, Method::POST, false, 1, Next::Another),
            (Unsent, Method::POST, false, 3, Next::GiveUp),
            (Broken, Method::GET, true, 1, Next::Another),
            (Broken, Method::DELETE, true, 2, Next::Another),
            (Broken, Method::GET, true, 3, Next::GiveUp),
            (Broken, Method::PUT, false, 1, Next::GiveUp),
            (Broken, Method::POST, true, 1, Next::GiveUp),
            (Broken, Method::PATCH, true, 1, Next::GiveUp),
            (BrokenReused, Method::GET, true, 1, Next::AnotherOrSame),
            (BrokenReused, Method::POST, true, 1, Next::GiveUp),
            (Invalid, Method::GET, true, 1, Next::GiveUp),
            (HeadTooLarge, Method::GET, true, 1, Next::GiveUp),
        ] {
            assert_eq!(
                next(failure, &method, is_repeatable, attempts),
                expected,
                "{failure:?} {method} repeatable {is_repeatable} after {attempts}"
            );
        }
    }
}
