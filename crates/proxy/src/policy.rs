//! How a route or an edge treats its requests and the instances that answer them, as plain data: part of a
//! [`crate::Snapshot`]. Nothing here has a default of its own: whoever lowers a plan names every value.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything that is agreed on one route or edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// From the end of the request to the response's head, all tries together. A service that answers instead (`fallback`)
    /// has as much again.
    pub timeout: Duration,
    /// From the request's head to the end of the response, whoever answers. Event streams and tunnels are bound by it to
    /// their head.
    pub total_timeout: Option<Duration>,
    /// For one connection to one instance, instead of [`crate::Limits::connect_timeout`].
    pub connect_timeout: Option<Duration>,
    /// How long a service may be silent in the middle of a response, instead of
    /// [`crate::Limits::upstream_body_timeout`].
    pub idle_timeout: Option<Duration>,
    pub retry: Retry,
    pub balance: Balance,
    pub ejection: Option<Ejection>,
    pub breaker: Option<Breaker>,
    pub concurrency: Option<Concurrency>,
    pub rate_limit: Option<RateLimit>,
    pub fallback: Option<Fallback>,
    #[serde(default)]
    pub absence: Absence,
}

/// What it means that no instance answers at all: that none could be connected to, or the connection broke before an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Absence {
    /// A failure like others: 502.
    #[default]
    Failure,
    /// A part of the platform that is started anew and repeats nothing twice: 503 with `retry-after`.
    Passing,
}

impl Policy {
    /// A time for the answer, choice of two by outstanding requests, and nothing else.
    #[must_use]
    pub const fn plain(timeout: Duration) -> Self {
        Self {
            timeout,
            total_timeout: None,
            connect_timeout: None,
            idle_timeout: None,
            retry: Retry::NONE,
            balance: Balance::PLAIN,
            ejection: None,
            breaker: None,
            concurrency: None,
            rate_limit: None,
            fallback: None,
            absence: Absence::Failure,
        }
    }
}

impl Policy {
    /// Whether the route or edge must know how each instance fares with it.
    pub(crate) fn sees_instances(&self) -> bool {
        self.ejection.is_some() || self.balance != Balance::PLAIN
    }
}

/// When a request that an instance got is sent again. With one attempt, the rest means nothing, and only an exchange that
/// broke before an answer is repeated, where that is safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Tries that reach an instance, the first one too. 0 counts as 1.
    pub attempts: u32,
    /// Statuses that are followed by another try, as is a connection that breaks before an answer.
    pub codes: Vec<u16>,
    /// The longest pause before the second try; doubles with each further one, up to `backoff_max`.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// How long one try may take to the head of its response; then it counts as broken.
    pub try_timeout: Option<Duration>,
    /// Whether methods that are not idempotent (RFC 9110 §9.2.2) are sent again, too, though the request has no
    /// `idempotency-key`.
    pub unsafe_methods: bool,
}

impl Retry {
    /// Nothing is asked for.
    pub const NONE: Self = Self {
        attempts: 1,
        codes: Vec::new(),
        backoff: Duration::ZERO,
        backoff_max: Duration::ZERO,
        try_timeout: None,
        unsafe_methods: false,
    };

    /// Whether more than one attempt is asked for.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.attempts > 1
    }
}

/// A part of a whole, in millionths: comparable, hashable, and exact enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Share(u32);

impl Share {
    pub const ALL: Self = Self(1_000_000);
    pub const NONE: Self = Self(0);

    /// `part` is in `[0, 1]`; what is beyond is cut.
    #[must_use]
    pub const fn of(part: f64) -> Self {
        Self((part.clamp(0.0, 1.0) * 1e6 + 0.5) as u32)
    }

    /// In `[0, 1]`.
    #[must_use]
    pub const fn part(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Whether `some` of `all` are at least this part; never of nothing.
    #[must_use]
    pub const fn is_reached(self, some: u64, all: u64) -> bool {
        all > 0 && some as u128 * 1_000_000 >= self.0 as u128 * all as u128
    }
}

/// What of a request tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    /// Nothing: all of the route or edge are alike.
    Route,
    /// The client's address.
    Address,
    /// The value of a header; the name is in lower case.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
}

/// Who of the ready instances gets a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    pub algorithm: Algorithm,
    /// How long an instance that became ready gets less than its share, growing to all of it. Zero for at once. Not with
    /// [`Algorithm::RingHash`].
    pub slow_start: Duration,
    /// When fewer than this part of the ready instances are not ejected, no ejection counts.
    pub panic_threshold: Share,
}

impl Balance {
    pub const PLAIN: Self =
        Self { algorithm: Algorithm::LeastRequests, slow_start: Duration::ZERO, panic_threshold: Share(500_000) };
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Of two at random, the one with fewer outstanding requests; of two with as many, not the one whose last answer took
    /// more than four times as long, for a second.
    LeastRequests,
    RoundRobin,
    /// Of two at random, the one with the lower peak-sensitive moving average of its response time, times its outstanding
    /// requests.
    PeakEwma,
    /// The same key goes to the same instance, as far as instances stay.
    RingHash(Key),
}

/// When an instance is passed over for a time because of what it answered. Connections that it refuses count as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejection {
    /// So many failures in a row; 0 for never.
    pub consecutive_failures: u32,
    /// This part of the calls of the window, once there are `minimum_calls` in it.
    pub failure_rate: Option<Share>,
    pub window: Duration,
    pub minimum_calls: u32,
    /// The first time; doubles with each further one, up to `time_max`.
    pub time: Duration,
    pub time_max: Duration,
    /// Of the ready instances, at most this part is ejected at any moment. One of two or more always may be.
    pub share_max: Share,
}

/// A circuit breaker as Resilience4j has it. A call is one try; it fails with a status of 500 and above or without an
/// answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    pub window: Window,
    /// Without so many calls in the window nothing is judged.
    pub minimum_calls: u32,
    pub failure_rate: Share,
    /// Calls that take longer to the head of their answer are slow, whatever they answer.
    pub slow_call: Option<Duration>,
    pub slow_call_rate: Share,
    /// How long it stays open.
    pub open_for: Duration,
    /// Calls that are let through half-open, and that are judged then.
    pub half_open_calls: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Window {
    /// The last so many calls.
    Calls(u32),
    /// Those of this time.
    Time(Duration),
}

/// Requests at a time, from their head to the end of their answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    pub max: u32,
    /// Requests that wait for one of them to end; more are refused at once.
    pub queue: u32,
    /// How long each waits at most.
    pub wait: Duration,
}

/// A token bucket: `burst` requests at once, and `requests` in each `per`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    pub requests: u32,
    pub per: Duration,
    pub burst: u32,
    pub key: Key,
}

/// What is answered instead of a failure: of an answer of 500 and above, or of none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fallback {
    Static { status: u16, content_type: String, body: String },
    Service(String),
}
