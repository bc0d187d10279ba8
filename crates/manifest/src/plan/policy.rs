//! What is agreed on one route or edge: times, retries, balancing, ejection, breaker, limits, fallback. The words of the
//! manifest, with every default filled in; what is off is `None` and is not printed.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// How a route or an edge treats its requests and the instances that answer them.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// From the request's head to the response's head, all tries together.
    #[serde(serialize_with = "crate::text::duration")]
    pub timeout: Duration,
    /// From the request's head to the end of the response.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::text::duration_optional")]
    pub total_timeout: Option<Duration>,
    /// For one connection to one instance, instead of the gateway's limit.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::text::duration_optional")]
    pub connect_timeout: Option<Duration>,
    /// How long a service may be silent in the middle of a response, instead of the gateway's limit.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::text::duration_optional")]
    pub idle_timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Retry::is_off")]
    pub retry: Retry,
    #[serde(skip_serializing_if = "Balance::is_plain")]
    pub load_balancing: Balance,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_ejection: Option<Ejection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<Breaker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<Concurrency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

impl Policy {
    /// How long the head of an answer is waited for at most: the shorter of the two timeouts.
    #[must_use]
    pub fn waits(&self) -> Duration {
        self.total_timeout.map_or(self.timeout, |total| total.min(self.timeout))
    }
}

/// Whether a request that was answered badly, or not at all, is sent again. The words of the Gateway API, GEP-1731, but for
/// `attempts`, which counts the first try. What reached no instance is sent to another one in any case, and does not count
/// here.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// Tries that reach an instance, the first one too: 1 to 6. 1 is no retry, and then the rest is empty.
    pub attempts: u32,
    /// Statuses of 400 to 599 that are followed by another try, in order. A connection that breaks before an answer is,
    /// too.
    pub codes: Vec<u16>,
    /// The longest pause before the second try; twice as long each time, up to `backoff_max`.
    #[serde(serialize_with = "crate::text::duration")]
    pub backoff: Duration,
    #[serde(serialize_with = "crate::text::duration")]
    pub backoff_max: Duration,
    /// How long one try may take to the head of its response.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::text::duration_optional")]
    pub try_timeout: Option<Duration>,
    /// Whether methods that are not idempotent (RFC 9110 §9.2.2), such as POST and PATCH, are sent again without an
    /// `idempotency-key`, too.
    pub unsafe_methods: bool,
}

impl Retry {
    /// Nothing is sent again.
    pub const OFF: Self = Self {
        attempts: 1,
        codes: Vec::new(),
        backoff: Duration::ZERO,
        backoff_max: Duration::ZERO,
        try_timeout: None,
        unsafe_methods: false,
    };

    /// Whether nothing is sent again.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.attempts <= 1
    }
}

/// Who of the ready instances gets a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Balance {
    pub policy: Algorithm,
    /// What is hashed; with `RingHash`, and only there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<Key>,
    /// How long an instance that became ready gets less than its share. Zero with `RingHash`.
    #[serde(serialize_with = "crate::text::duration")]
    pub slow_start: Duration,
    /// When fewer than this part of the ready instances are not ejected, all of them are asked.
    pub panic_threshold: Share,
}

impl Balance {
    /// What is done where nothing is written.
    pub const PLAIN: Self = Self {
        policy: Algorithm::LeastRequests,
        hash_on: None,
        slow_start: Duration::ZERO,
        panic_threshold: Share::of_millionths(500_000),
    };

    fn is_plain(&self) -> bool {
        *self == Self::PLAIN
    }
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Of two at random, the one with fewer outstanding requests.
    LeastRequests,
    RoundRobin,
    /// Of two at random, the one with the lower peak-sensitive moving average of its response time.
    PeakEwma,
    /// The same key goes to the same instance.
    RingHash,
}

/// What of a request tells it from others. Printed as it is written, `header.x-user`.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Key {
    /// Nothing: all of the route or edge are alike.
    Route,
    /// The client's address.
    Address,
    /// A header, in lower case.
    Header(String),
    Cookie(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route => f.write_str("route"),
            Self::Address => f.write_str("address"),
            Self::Header(name) => write!(f, "header.{name}"),
            Self::Cookie(name) => write!(f, "cookie.{name}"),
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A part of a whole, from 0 to 1, kept in millionths. Printed as a number.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// More than a million counts as one million.
    #[must_use]
    pub const fn of_millionths(millionths: u32) -> Self {
        Self(if millionths > 1_000_000 { 1_000_000 } else { millionths })
    }

    /// In `[0, 1]`.
    #[must_use]
    pub fn part(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.part().fmt(f)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.part())
    }
}

/// When an instance is passed over for a time because of what it answered. One of the first two is on.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Ejection {
    /// So many failures in a row; 0 for never.
    pub consecutive_failures: u32,
    /// This part of the calls of the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<Share>,
    #[serde(serialize_with = "crate::text::duration")]
    pub window: Duration,
    /// Without so many calls in the window the rate is not judged.
    pub minimum_calls: u32,
    /// The first time; twice as long with each further one, up to `time_max`.
    #[serde(serialize_with = "crate::text::duration")]
    pub time: Duration,
    #[serde(serialize_with = "crate::text::duration")]
    pub time_max: Duration,
    /// Of the ready instances, at most this part at any moment; one of two or more always may be.
    pub max_ejected: Share,
}

/// A circuit breaker with the meaning of Resilience4j's.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Breaker {
    pub failure_rate: Share,
    #[serde(flatten)]
    pub window: Window,
    /// Without so many calls in the window nothing is judged. No more than a window of calls has.
    pub minimum_calls: u32,
    /// Calls that take longer to the head of their answer are slow.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::text::duration_optional")]
    pub slow_call: Option<Duration>,
    /// Means nothing without `slow_call`.
    pub slow_call_rate: Share,
    #[serde(serialize_with = "crate::text::duration")]
    pub open_for: Duration,
    /// Calls that are let through half-open.
    pub half_open_calls: u32,
}

/// What a breaker looks back on.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
pub enum Window {
    /// The calls of this time.
    #[serde(rename = "window", serialize_with = "crate::text::duration")]
    Time(Duration),
    /// The last so many calls.
    #[serde(rename = "window_calls")]
    Calls(u32),
}

/// Requests at a time, from their head to the end of their answer.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Concurrency {
    pub max: u32,
    /// Requests that wait for one of them to end; more are refused at once.
    pub queue: u32,
    /// How long each waits at most.
    #[serde(serialize_with = "crate::text::duration")]
    pub wait: Duration,
}

/// A token bucket: `burst` requests at once, and `requests` in each `per`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    pub requests: u32,
    #[serde(serialize_with = "crate::text::duration")]
    pub per: Duration,
    pub burst: u32,
    /// Requests with another key have a bucket of their own. Never a cookie.
    pub key: Key,
}

/// What is answered instead of a failure.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Fallback {
    Static { status: u16, content_type: String, body: String },
    Service { service: String },
}
