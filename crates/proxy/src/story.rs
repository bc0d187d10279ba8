//! What happened to one request, decision by decision, as values: recorded while it is served, kept for all that failed
//! or were tried again and for a sample of the rest, and told by `explain`. Plain data; sentences are made elsewhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guard::GuardReading;

/// One decision, and when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Since the head.
    pub after: Duration,
    pub event: Event,
}

/// One request, from its head to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    pub request_id: String,
    pub trace_id: String,
    pub began: jiff::Timestamp,
    pub listener: String,
    /// `gateway`, or the caller of an edge.
    pub role: String,
    pub client: String,
    /// Like host and path cut after 256 bytes, and then with `…` at its end.
    pub method: String,
    pub host: String,
    /// Without its query, which may carry secrets.
    pub path: String,
    /// The rule that answered, and those that could have: the reasons why they did not.
    pub route: Option<String>,
    /// Who was to answer, before any fallback.
    pub service: Option<String>,
    pub considered: Vec<Rejected>,
    pub events: Vec<Told>,
    /// How many more there were than are kept.
    pub events_dropped: u32,
    pub status: u16,
    /// [`crate::Reason::code`].
    pub reason: Option<String>,
    /// `static`, or the service that answered instead.
    pub fallback: Option<String>,
    pub attempts: u32,
    /// How the route or edge stood when the request had ended.
    pub state: Option<GuardReading>,
    pub duration: Duration,
    /// Why it was kept.
    pub kept: Kept,
}

// Limit: bytes of a text that is kept of a request. Longer ones are cut and end in `…`.
const TEXT_BYTES_MAX: usize = 256;

/// What is kept of a text that somebody else has written.
pub(crate) fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let mut kept = text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned();
    kept.push('…');
    kept
}

/// A rule that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub route: String,
    /// Its conditions in short.
    pub rule: String,
    /// What of the request did not fit, or that another rule is more specific.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// It failed, or was refused.
    Failed,
    /// It was tried more than once, or met a fault, or waited in a queue.
    Unusual,
    Sampled,
}

/// One decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The bucket of its key had a token, or had not.
    Rate { is_admitted: bool, limit: u32, left: u32 },
    /// All of the route's or edge's places were taken.
    Queued { running: u32, ahead: u32 },
    /// It got one after this time.
    Dequeued { waited: Duration },
    /// The queue was full, or the wait too long.
    Crowded { running: u32, waiting: u32, waited: Duration },
    /// The process has more requests than it takes.
    Shed { active: u64, limit: u64 },
    /// The breaker let a try through, or did not.
    Breaker { state: BreakerState, is_admitted: bool, failures: u32, slow: u32, calls: u32 },
    /// This outcome has changed the state of the breaker.
    BreakerTurned { from: BreakerState, to: BreakerState },
    /// An instance was chosen.
    Chosen { instance: u32, outstanding: u32, ready: u32, passed_over: u32, is_panic: bool, how: How },
    /// Nobody could be.
    NobodyLeft { ready: u32, tried: u32 },
    /// A try has ended: with this status, or without one.
    Tried { instance: u32, outcome: Tried, took: Duration },
    /// This outcome has put the instance aside for a time.
    Ejected { instance: u32, time: Duration },
    /// Another try is made after this pause.
    Again { pause: Duration, is_told: bool },
    /// The retry budget has none left: so many of at most so many in the last ten seconds.
    Budget { retries: u32, max: u32 },
    /// None is made.
    NoMore { why: NoMore },
    /// A fault was met.
    Fault { id: u64, effect: crate::switches::Effect },
    /// Something else is answered: [`Story::fallback`].
    Fallback,
}

/// As Resilience4j names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BreakerState {
    #[default]
    Closed,
    Open,
    HalfOpen,
    ForcedOpen,
    ForcedClosed,
}

/// By what rule an instance was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    Only,
    /// Against another one with so many outstanding requests.
    FewerOutstanding {
        other: u32,
        other_outstanding: u32,
    },
    Turn,
    /// Against another one; costs are microseconds times outstanding requests, at most what fits.
    LowerCost {
        cost: u32,
        other: u32,
        other_cost: u32,
    },
    /// Of the ring; how many before it on the ring were passed over.
    Hash {
        skipped: u32,
    },
    /// The same again, as the connection may only have been idle for too long.
    SameAgain,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tried {
    Answered(u16),
    ConnectRefused,
    ConnectTimeout,
    ConnectFailed,
    /// Before its answer; over a connection that had waited, or a new one.
    Broken {
        is_reused: bool,
    },
    Invalid,
    HeadTooLarge,
    TimedOut,
}

/// Why there was no other try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoMore {
    /// The method is not idempotent and the request has no `idempotency-key`.
    NotRepeatable,
    /// Its body is larger than what is kept for another try.
    BodyNotKept,
    AttemptsUsed,
    BudgetSpent,
    /// The pause would last beyond the time of the request.
    NoTime,
    /// The service said when to come again (`retry-after`), and that is too late.
    ToldToWaitTooLong,
    /// An answer like this is final.
    Final,
}
