//! What is agreed on one route or edge, from the keys that both have. Reads what one table says, lays it over what another
//! one says, and fills in what neither does.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::{Algorithm, Balance, Breaker, Concurrency, Ejection, Fallback, Policy, RateLimit, Retry, Window};
use crate::reader::{Table, Text};
use crate::shape::EDGE;
use crate::text::{format_duration, format_size, parse_duration};

/// What `codes` is when it is not written: the answers of whoever stands between.
const CODES: [u16; 3] = [502, 503, 504];
/// Limit: bytes of a fixed answer, which every core keeps.
const BODY_MAX: usize = 64 << 10;
/// Statuses whose answers have no content (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
const WITHOUT_CONTENT: [u16; 3] = [204, 205, 304];

/// What one table says of a policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    timeout: Option<Duration>,
    total_timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    retry: Option<Retry>,
    load_balancing: Option<Balance>,
    outlier_ejection: Option<Ejection>,
    circuit_breaker: Option<Breaker>,
    concurrency_limit: Option<Concurrency>,
    rate_limit: Option<RateLimit>,
    fallback: Option<Fallback>,
}

impl Written {
    /// Reads the table of a route or an edge, and reports what in it contradicts itself.
    pub(crate) fn of(cx: &Context<'_>, table: &Table<'_>) -> Self {
        Self {
            timeout: table.written_duration("timeout"),
            total_timeout: table.written_duration("total_timeout"),
            connect_timeout: table.written_duration("connect_timeout"),
            idle_timeout: table.written_duration("idle_timeout"),
            retry: table.table("retry").map(|table| {
                check_order(cx, &table, ["backoff", "backoff_max"]);
                retry(&table)
            }),
            load_balancing: table.table("load_balancing").map(|table| balance(cx, &table)),
            outlier_ejection: table.table("outlier_ejection").map(|table| ejection(cx, &table)),
            circuit_breaker: table.table("circuit_breaker").map(|table| breaker(cx, &table)),
            concurrency_limit: table.table("concurrency_limit").map(|table| Concurrency {
                max: table.count("max"),
                queue: table.count("queue"),
                wait: table.duration("wait"),
            }),
            rate_limit: table.table("rate_limit").and_then(|table| rate_limit(&table)),
            fallback: table.table("fallback").and_then(|table| fallback(cx, &table)),
        }
    }

    /// Takes from `other` what is not written here, key by key.
    pub(crate) fn or(self, other: &Self) -> Self {
        let other = other.clone();
        Self {
            timeout: self.timeout.or(other.timeout),
            total_timeout: self.total_timeout.or(other.total_timeout),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            idle_timeout: self.idle_timeout.or(other.idle_timeout),
            retry: self.retry.or(other.retry),
            load_balancing: self.load_balancing.or(other.load_balancing),
            outlier_ejection: self.outlier_ejection.or(other.outlier_ejection),
            circuit_breaker: self.circuit_breaker.or(other.circuit_breaker),
            concurrency_limit: self.concurrency_limit.or(other.concurrency_limit),
            rate_limit: self.rate_limit.or(other.rate_limit),
            fallback: self.fallback.or(other.fallback),
        }
    }

    /// The same without a fallback to this service: what is agreed on many edges is not for the one that it leads to.
    pub(crate) fn without_fallback_to(mut self, upstream: &str) -> Self {
        self.fallback = self.fallback.filter(|fallback| !leads_to(fallback, upstream));
        self
    }

    /// Fills in what is not written. Routes and edges have the same defaults.
    pub(crate) fn complete(self) -> Policy {
        let default = || EDGE.default_of("timeout").and_then(parse_duration).unwrap_or_default();
        // Nobody asked for more time to the head than there is for all of it.
        let timeout = || self.total_timeout.map_or_else(default, |total| total.min(default()));
        Policy {
            timeout: self.timeout.unwrap_or_else(timeout),
            total_timeout: self.total_timeout,
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
            retry: self.retry.unwrap_or(Retry::OFF),
            load_balancing: self.load_balancing.unwrap_or(Balance::PLAIN),
            outlier_ejection: self.outlier_ejection,
            circuit_breaker: self.circuit_breaker,
            concurrency_limit: self.concurrency_limit,
            rate_limit: self.rate_limit,
            fallback: self.fallback,
        }
    }
}

/// What holds of an edge of the platform's own: so much time, and defaults.
pub(crate) fn plain(timeout: Duration) -> Policy {
    Policy { timeout, ..Written::default().complete() }
}

/// Whether failures are answered by this service.
pub(crate) fn leads_to(fallback: &Fallback, name: &str) -> bool {
    matches!(fallback, Fallback::Service { service } if service == name)
}

/// The service that the table of a route or an edge names as its fallback.
pub(crate) fn fallback_service<'d>(table: &Table<'d>) -> Option<Text<'d>> {
    table.table("fallback")?.text("service")
}

/// What the table `retry` says.
pub(crate) fn retry(table: &Table<'_>) -> Retry {
    let codes: BTreeSet<u16> = match table.has("codes") {
        true => table.list("codes").iter().filter_map(|item| u16::try_from(item.integer()?).ok()).collect(),
        false => CODES.into(),
    };
    let backoff = table.duration("backoff");
    let retry = Retry {
        attempts: table.count("attempts"),
        codes: codes.into_iter().collect(),
        backoff,
        backoff_max: table.duration("backoff_max").max(backoff),
        try_timeout: table.written_duration("try_timeout"),
        unsafe_methods: table.boolean("unsafe_methods"),
    };
    if retry.is_off() { Retry::OFF } else { retry }
}

fn balance(cx: &Context<'_>, table: &Table<'_>) -> Balance {
    let policy = match table.choice("policy") {
        "round_robin" => Algorithm::RoundRobin,
        "peak_ewma" => Algorithm::PeakEwma,
        "ring_hash" => Algorithm::RingHash,
        _ => Algorithm::LeastRequests,
    };
    let hash_on = table.get("hash_on").and_then(|item| item.key());
    let slow_start = table.duration("slow_start");
    // Of a policy that is none nothing can be said.
    let is_known = table.get("policy").is_none_or(|item| item.choice().is_some());
    if is_known && policy != Algorithm::RingHash && table.has("hash_on") {
        let hint = "write `policy = \"ring_hash\"`, or take `hash_on` out";
        contradiction(cx, &table.place_of("hash_on"), "only `ring_hash` looks at `hash_on`", hint);
    }
    if policy == Algorithm::RingHash && !table.has("hash_on") {
        let hint = "add `hash_on = \"header.…\"`, `\"cookie.…\"` or `\"address\"`";
        contradiction(cx, &table.place_of("policy"), "`ring_hash` has nothing to look at", hint);
    }
    if policy == Algorithm::RingHash && !slow_start.is_zero() {
        let message = "`slow_start` has no meaning with `ring_hash`: the key decides, not the load";
        contradiction(cx, &table.place_of("slow_start"), message, "take `slow_start` out");
    }
    Balance { policy, hash_on, slow_start, panic_threshold: table.share("panic_threshold") }
}

fn ejection(cx: &Context<'_>, table: &Table<'_>) -> Ejection {
    let ejection = Ejection {
        consecutive_failures: table.count("consecutive_failures"),
        failure_rate: table.get("failure_rate").and_then(|item| item.share()),
        window: table.duration("window"),
        minimum_calls: table.count("minimum_calls"),
        time: table.duration("time"),
        time_max: table.duration("time_max").max(table.duration("time")),
        max_ejected: table.share("max_ejected"),
    };
    check_order(cx, table, ["time", "time_max"]);
    if ejection.consecutive_failures == 0 && !table.has("failure_rate") && !table.is_wrong("consecutive_failures") {
        let message = "nothing would ever be ejected: no failures in a row, and no rate";
        let hint = "write how many `consecutive_failures`, or a `failure_rate`";
        contradiction(cx, &table.place_of("consecutive_failures"), message, hint);
    }
    ejection
}

fn breaker(cx: &Context<'_>, table: &Table<'_>) -> Breaker {
    let window = match table.written_count("window_calls") {
        Some(calls) => Window::Calls(calls),
        None => Window::Time(table.duration("window")),
    };
    let minimum_calls = table.count("minimum_calls");
    if let Window::Calls(calls) = window
        && table.has("minimum_calls")
        && minimum_calls > calls
    {
        let message = format!("it would never open: of {calls} calls, never {minimum_calls} are in the window");
        let hint = format!("write `minimum_calls = {calls}` or less, or more `window_calls`");
        contradiction(cx, &table.place_of("minimum_calls"), &message, &hint);
    }
    let slow_call = table.written_duration("slow_call");
    if table.has("slow_call_rate") && !table.has("slow_call") {
        let message = "no call is slow: `slow_call` does not say which are";
        let hint = "add `slow_call = \"500ms\"`, or take `slow_call_rate` out";
        contradiction(cx, &table.place_of("slow_call_rate"), message, hint);
    }
    Breaker {
        failure_rate: table.share("failure_rate"),
        window,
        minimum_calls: match window {
            Window::Calls(calls) => minimum_calls.min(calls),
            Window::Time(_) => minimum_calls,
        },
        slow_call,
        slow_call_rate: table.share("slow_call_rate"),
        open_for: table.duration("open_for"),
        half_open_calls: table.count("half_open_calls"),
    }
}

/// Nothing where what is required is wrong or missing, which is already reported.
fn rate_limit(table: &Table<'_>) -> Option<RateLimit> {
    // Every one of them is read, so that every mistake is told.
    let (requests, per) = (table.written_count("requests"), table.written_duration("per"));
    let (burst, key) = (table.written_count("burst"), table.get("key").map(|item| item.key()));
    let requests = requests?;
    Some(RateLimit {
        requests,
        per: per?,
        burst: burst.unwrap_or(requests),
        key: key.unwrap_or(Some(crate::plan::Key::Route))?,
    })
}

/// Nothing where it does not say which kind it is, which is already reported.
fn fallback(cx: &Context<'_>, table: &Table<'_>) -> Option<Fallback> {
    let status = table.written_count("status").and_then(|status| u16::try_from(status).ok());
    let (body, content_type) = (table.text("body"), table.text("content_type"));
    for name in ["body", "content_type"].into_iter().filter(|name| table.has("service") && table.has(name)) {
        let message = format!("`{name}` is of a fixed answer, and here `service` answers");
        let diagnostic = Diagnostic::new(Code::Exclusive, &table.place_of(name), message).label("never sent");
        cx.report(diagnostic.hint(format!("take `{name}` out, or write `status` instead of `service`")));
    }
    if let Some(service) = table.text("service") {
        return Some(Fallback::Service { service: service.value });
    }
    let content_type = match content_type {
        Some(text) => {
            check_media_type(cx, &text);
            text.value
        }
        None => table.default("content_type").to_owned(),
    };
    let (status, body) = (status?, body.map_or_else(String::new, |text| text.value));
    if body.len() > BODY_MAX {
        let message = format!("the body has {} bytes; the limit is {}", body.len(), format_size(BODY_MAX as u64));
        let diagnostic = Diagnostic::new(Code::Limit, &table.place_of("body"), message);
        cx.report(diagnostic.hint("shorten it, or let a `service` answer"));
    }
    if !body.is_empty() && WITHOUT_CONTENT.contains(&status) {
        let message = format!("an answer with the status {status} has no content");
        contradiction(cx, &table.place_of("body"), &message, "take `body` out, or write `status = 200`");
    }
    Some(Fallback::Static { status, content_type, body })
}

/// Type and subtype, and what may stand in a header (RFC 9110 §8.3.1).
fn check_media_type(cx: &Context<'_>, text: &Text<'_>) {
    let kind = text.value.split(';').next().unwrap_or_default().trim_end();
    let is_type = kind.split_once('/').is_some_and(|(of, sub)| crate::text::is_token(of) && crate::text::is_token(sub));
    if !is_type || !text.value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        let message = format!("`{}` is not a media type", text.value);
        let diagnostic = Diagnostic::new(Code::Header, &text.place, message);
        cx.report(diagnostic.hint("write `\"application/json\"` or `\"text/html; charset=utf-8\"`"));
    }
}

/// Both are durations; the second one bounds the first, and is at least as long where it is written.
fn check_order(cx: &Context<'_>, table: &Table<'_>, [first, most]: [&str; 2]) {
    let (shorter, longer) = (table.duration(first), table.duration(most));
    if table.has(most) && !table.is_wrong(most) && longer < shorter {
        let message = format!("`{most}` is below `{first}`, which is {}", format_duration(shorter));
        let hint = format!("write `{most} = \"{}\"` or longer", format_duration(shorter));
        contradiction(cx, &table.place_of(most), &message, &hint);
    }
}

fn contradiction(cx: &Context<'_>, place: &Place<'_>, message: &str, hint: &str) {
    cx.report(Diagnostic::new(Code::PolicyContradicts, place, message).hint(hint));
}
