//! The keys that routes and edges share: how requests and the instances that answer them are treated.

use std::time::Duration;

use super::keys::{DAY, HOUR, LIST_MAX, TIMEOUT as REQUEST_TIME, WAIT, key};
use super::{Key, Kind, OneOf, Table};

/// Limit: calls that are counted, in a window or before something is judged.
const CALLS_MAX: i64 = 10_000;
/// Limit: requests that are counted at a time.
const REQUESTS_MAX: i64 = 1_000_000;
/// What is measured over it needs some calls in it.
const WINDOW: Kind = Kind::Duration { min: Duration::from_millis(100), max: HOUR };
/// A part that must be reached; 0 always would be.
const RATE: Kind = Kind::Share { min: 0.01, max: 1.0 };
const PART: Kind = Kind::Share { min: 0.0, max: 1.0 };

pub(super) const TIMEOUT: Key =
    key("timeout", REQUEST_TIME, "From the head of the request to the head of the response, all tries together.")
        .default("15s");
pub(super) const TOTAL_TIMEOUT: Key = key(
    "total_timeout",
    Kind::Duration { min: Duration::from_millis(1), max: DAY },
    "From the head of the request to the end of the response; event streams and tunnels are not limited. Not written: none.",
);
pub(super) const CONNECT_TIMEOUT: Key =
    key("connect_timeout", REQUEST_TIME, "To connect to one instance. Not written: that of the gateway's limits.");
pub(super) const IDLE_TIMEOUT: Key = key(
    "idle_timeout",
    WAIT,
    "How long a service may be silent in the middle of a response. Not written: `response_idle_timeout` of the gateway's limits.",
);
pub(super) const RETRY: Key = key(
    "retry",
    Kind::Table(&RETRY_TABLE),
    "When a request is sent again. Not written: an answer is final, and an exchange that broke before one is repeated at once, twice at most, on other instances, where method and body allow it.",
);
pub(super) const LOAD_BALANCING: Key = key(
    "load_balancing",
    Kind::Table(&LOAD_BALANCING_TABLE),
    "Which instance gets a request. Not written: of two at random, the one with fewer outstanding requests.",
);
pub(super) const OUTLIER_EJECTION: Key = key(
    "outlier_ejection",
    Kind::Table(&OUTLIER_EJECTION_TABLE),
    "When an instance is passed over for a time because of what it answers; `{}` takes all defaults. Not written: never.",
);
pub(super) const CIRCUIT_BREAKER: Key = key(
    "circuit_breaker",
    Kind::Table(&CIRCUIT_BREAKER_TABLE),
    "When requests are refused at once instead of being sent; `{}` takes all defaults. Not written: never.",
);
pub(super) const CONCURRENCY_LIMIT: Key = key(
    "concurrency_limit",
    Kind::Table(&CONCURRENCY_LIMIT_TABLE),
    "How many requests are under way at a time. Not written: as many as there are connections.",
);
pub(super) const RATE_LIMIT: Key =
    key("rate_limit", Kind::Table(&RATE_LIMIT_TABLE), "How many requests come in a time. Not written: any number.");
pub(super) const FALLBACK: Key =
    key("fallback", Kind::Table(&FALLBACK_TABLE), "What is answered instead of a failure. Not written: the failure.");

static RETRY_TABLE: Table = Table {
    name: "retry",
    doc: "When a request is sent again, as in the Gateway API (GEP-1731): to another instance first, and to one that was asked before where there is none. Only methods that are idempotent (RFC 9110 §9.2.2) are repeated, and requests that carry an `idempotency-key`; never once a byte of the response was passed on, and a body up to 64 KiB. A `retry-after` of the answer is honoured. Retries are bounded by a budget: within ten seconds 20 % of the requests of the edge or route, but 10 are always allowed; beyond that, what came is passed on. Each try is a request to the upstream, so that tries along a path multiply.",
    keys: &[
        key("attempts", Kind::Integer { min: 1, max: 6 }, "Tries that reach an instance, the first one too: 2 is one repetition. 1: none but those that are made without a `retry`, too.").required(),
        key(
            "codes",
            Kind::List(&Kind::Integer { min: 400, max: 599 }, LIST_MAX),
            "Statuses that are followed by another try, as is a connection that breaks before an answer. Not written: 502, 503 and 504.",
        ),
        key(
            "backoff",
            Kind::Duration { min: Duration::from_millis(1), max: Duration::from_secs(60) },
            "The longest pause before the second try; twice as long each time. The pause is a random part of it. One that would last beyond the `timeout` is not begun: what came is passed on.",
        )
        .default("50ms"),
        key(
            "backoff_max",
            Kind::Duration { min: Duration::from_millis(1), max: Duration::from_secs(600) },
            "No pause is longer. Not written, and `backoff` is longer: `backoff`.",
        )
        .default("10s"),
        key(
            "try_timeout",
            REQUEST_TIME,
            "How long one try may take to the head of its response; then it counts as broken, and the next one begins. Not written: as long as all of them.",
        ),
        key(
            "unsafe_methods",
            Kind::Boolean,
            "Whether methods that are not idempotent, such as POST and PATCH, are sent again too, though they carry no `idempotency-key`.",
        )
        .default("false"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static LOAD_BALANCING_TABLE: Table = Table {
    name: "load balancing",
    doc: "Which of the ready instances gets a request, in the words of Envoy.",
    keys: &[
        key(
            "policy",
            Kind::Choice { known: &["least_requests", "round_robin", "peak_ewma", "ring_hash"], later: &[] },
            "`least_requests`: of two at random, the one with fewer outstanding requests. `round_robin`: one after the other. `peak_ewma`: of two at random, the one that has answered faster of late, by Linkerd's measure, with fewer outstanding. `ring_hash`: the same instance for the same `hash_on`, as far as instances stay.",
        )
        .default("least_requests"),
        key(
            "hash_on",
            Kind::Key { words: &["address"], prefixes: &["header", "cookie"], later: &["jwt"] },
            "What `ring_hash` looks at, such as `header.x-user` or `cookie.session`; required there, and only there. All `address`es of one IPv6 network (/64) are one.",
        ),
        key(
            "slow_start",
            Kind::Duration { min: Duration::ZERO, max: HOUR },
            "How long an instance that became ready gets less than its share, growing to all of it. Not with `ring_hash`.",
        )
        .default("0s"),
        key(
            "panic_threshold",
            PART,
            "When fewer than this part of the ready instances are left by ejection, all of them are asked.",
        )
        .default("0.5"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static OUTLIER_EJECTION_TABLE: Table = Table {
    name: "outlier ejection",
    doc: "When an instance is passed over for a time, as Envoy's outlier detection has it. A failure is a status of 500 and above, or no answer.",
    keys: &[
        key(
            "consecutive_failures",
            Kind::Integer { min: 0, max: CALLS_MAX },
            "So many failures in a row; 0 for never, which needs a `failure_rate`.",
        )
        .default("5"),
        key(
            "failure_rate",
            RATE,
            "Also when this part of the calls of the `window` failed. Not written: not looked at.",
        ),
        key("window", WINDOW, "What `failure_rate` looks back on.").default("10s"),
        key(
            "minimum_calls",
            Kind::Integer { min: 1, max: CALLS_MAX },
            "Without so many calls in the `window` the rate is not judged.",
        )
        .default("20"),
        key("time", REQUEST_TIME, "How long the first time is; twice as long with each further one.").default("5s"),
        key("time_max", Kind::Duration { min: Duration::from_millis(1), max: DAY }, "No time is longer.").default("5m"),
        key(
            "max_ejected",
            PART,
            "At most this part of the ready instances at any moment; one of two or more always may be.",
        )
        .default("0.5"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static CIRCUIT_BREAKER_TABLE: Table = Table {
    name: "circuit breaker",
    doc: "When requests are refused at once (503) instead of being sent, with the meaning of Resilience4j's: closed until too many calls failed or were slow, then open, then half-open for a few calls that decide. A call is one try; it fails with a status of 500 and above, or without an answer.",
    keys: &[
        key("failure_rate", RATE, "It opens when this part of the calls of its window failed.").default("0.5"),
        key("window", WINDOW, "It looks back on the calls of this time. Not together with `window_calls`.").default("10s"),
        key(
            "window_calls",
            Kind::Integer { min: 1, max: CALLS_MAX },
            "It looks back on the last so many calls. Not written: on those of `window`.",
        ),
        key(
            "minimum_calls",
            Kind::Integer { min: 1, max: CALLS_MAX },
            "Without so many calls in its window nothing is judged. Not written, and `window_calls` is fewer: `window_calls`.",
        )
        .default("10"),
        key(
            "slow_call",
            REQUEST_TIME,
            "A call that takes longer to the head of its answer is slow, whatever that is. Not written: none is.",
        ),
        key("slow_call_rate", RATE, "It also opens when this part of the calls was slow. Only with `slow_call`.").default("1"),
        key("open_for", REQUEST_TIME, "How long it stays open.").default("5s"),
        key(
            "half_open_calls",
            Kind::Integer { min: 1, max: 1_000 },
            "Calls that are let through then; the rates among these close it or open it again.",
        )
        .default("5"),
    ],
    later: &[],
    one_of: OneOf::AtMost(&["window", "window_calls"]),
};

static CONCURRENCY_LIMIT_TABLE: Table = Table {
    name: "concurrency limit",
    doc: "How many requests are under way at a time, each from its head to the end of its answer. More are answered 503 with `retry-after`.",
    keys: &[
        key("max", Kind::Integer { min: 1, max: REQUESTS_MAX }, "Requests at a time.").required(),
        key("queue", Kind::Integer { min: 0, max: REQUESTS_MAX }, "Requests beyond these that wait for one to end.")
            .default("0"),
        key("wait", REQUEST_TIME, "How long each of those waits at most.").default("100ms"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static RATE_LIMIT_TABLE: Table = Table {
    name: "rate limit",
    doc: "How many requests come in a time: a token bucket for each value of the `key`. More are answered 429, with `retry-after` and the `RateLimit` headers.",
    keys: &[
        key("requests", Kind::Integer { min: 1, max: REQUESTS_MAX }, "So many in each `per`.").required(),
        key("per", Kind::Duration { min: Duration::from_millis(1), max: DAY }, "A time, such as `1s` or `1m`.").required(),
        key(
            "burst",
            Kind::Integer { min: 1, max: REQUESTS_MAX },
            "So many may come at once after a pause. Not written: `requests`.",
        ),
        key(
            "key",
            Kind::Key { words: &["route", "address"], prefixes: &["header"], later: &["jwt"] },
            "What is counted by itself: the whole route or edge, each client address, or each value of a header, such as `header.x-api-key`. All addresses of one IPv6 network (/64) count as one. A header is what the client says it is: each new value is a new bucket, so that it tells clients apart and does not bound those that lie.",
        )
        .default("route"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static FALLBACK_TABLE: Table = Table {
    name: "fallback",
    doc: "What is answered instead of a failure, which is a status of 500 and above or no answer: something that is always the same, or what another service says. The header `atoll-fallback` of the answer always says so: `static`, or the service's name. The route's `response_headers` apply to a fixed answer, too. When the other service has no ready instance, the failure is passed on.",
    keys: &[
        key("status", Kind::Integer { min: 200, max: 599 }, "The status of a fixed answer."),
        key("body", Kind::Text, "Its content, up to 64 KiB. Not written: none."),
        key("content_type", Kind::Text, "The media type of the `body`.").default("application/json"),
        key(
            "service",
            Kind::Text,
            "The service that is asked instead, with the same request. On an edge it is one of the caller's `upstreams`.",
        ),
    ],
    later: &[],
    one_of: OneOf::Exactly(&["status", "service"]),
};
