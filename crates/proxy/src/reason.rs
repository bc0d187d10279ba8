//! Why a request was answered by the proxy itself: the closed list of reasons, their status, and the body in which
//! they are told (RFC 9457). The same code stands in the access log.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;

use crate::limit::Limit;

/// Why a request was not answered by a service. The codes are stable; tools may match on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The client broke a rule of HTTP. Blame: downstream.
    BadRequest,
    /// The path could mean something else to the service than to the router.
    BadPath,
    UriTooLong,
    HeadTooLarge,
    TooManyHeaders,
    BodyTooLarge,
    /// The request's body stopped coming.
    RequestTimeout,
    /// CONNECT, and transfer codings other than chunked.
    NotImplemented,
    /// HTTP/2 without asking whether we speak it.
    HttpVersionNotSupported,
    TooManyConnections,
    /// No route matches.
    NoRoute,
    /// The listener does not answer for the host at all.
    Misdirected,
    /// The service has no endpoint that takes requests.
    NoEndpoint,
    /// No endpoint could be connected to. Nothing was sent: safe to retry.
    ConnectFailed,
    /// The connection broke before a response. The effect of the request is unknown.
    UpstreamBroken,
    /// What came back is no HTTP response.
    UpstreamInvalid,
    /// The head of the response is beyond the limits. The effect of the request is unknown.
    UpstreamHeadTooLarge,
    /// No response in time. The effect of the request is unknown.
    UpstreamTimeout,
    /// The service answered 500 or above, and something else was answered instead (`fallback`).
    UpstreamFailed,
    /// The time that the caller gave was over before a service was asked. Nothing was sent.
    DeadlinePassed,
    /// More requests of this kind than the rate limit lets through. Nothing was sent.
    RateLimited,
    /// The circuit breaker is open. Nothing was sent.
    CircuitOpen,
    /// All places of the concurrency limit are taken. Nothing was sent.
    ConcurrencyLimited,
    /// The data plane has all the requests it takes. Nothing was sent.
    Overloaded,
    /// A fault that somebody has set for a drill.
    FaultInjected,
    /// The client went away before its answer was complete. Only in the log; nobody is left to tell.
    ClientClosed,
}

impl Reason {
    /// Every reason, in the order of declaration: one that is missing here does not compile, and each has a counter.
    pub const ALL: [Self; Self::ClientClosed as usize + 1] = [
        Self::BadRequest,
        Self::BadPath,
        Self::UriTooLong,
        Self::HeadTooLarge,
        Self::TooManyHeaders,
        Self::BodyTooLarge,
        Self::RequestTimeout,
        Self::NotImplemented,
        Self::HttpVersionNotSupported,
        Self::TooManyConnections,
        Self::NoRoute,
        Self::Misdirected,
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::UpstreamBroken,
        Self::UpstreamInvalid,
        Self::UpstreamHeadTooLarge,
        Self::UpstreamTimeout,
        Self::UpstreamFailed,
        Self::DeadlinePassed,
        Self::RateLimited,
        Self::CircuitOpen,
        Self::ConcurrencyLimited,
        Self::Overloaded,
        Self::FaultInjected,
        Self::ClientClosed,
    ];

    /// The name in problems and in the access log.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadPath => "bad_path",
            Self::UriTooLong => "uri_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::BodyTooLarge => "body_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::NotImplemented => "not_implemented",
            Self::HttpVersionNotSupported => "http_version_not_supported",
            Self::TooManyConnections => "too_many_connections",
            Self::NoRoute => "no_route",
            Self::Misdirected => "misdirected",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamBroken => "upstream_broken",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::UpstreamHeadTooLarge => "upstream_head_too_large",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamFailed => "upstream_failed",
            Self::DeadlinePassed => "deadline_passed",
            Self::RateLimited => "rate_limited",
            Self::CircuitOpen => "circuit_open",
            Self::ConcurrencyLimited => "concurrency_limited",
            Self::Overloaded => "overloaded",
            Self::FaultInjected => "fault_injected",
            Self::ClientClosed => "client_closed",
        }
    }

    /// The status of the answer; 499 stands in the log where none could be given.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::BadPath => StatusCode::BAD_REQUEST,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::HttpVersionNotSupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::TooManyConnections
            | Self::NoEndpoint
            | Self::CircuitOpen
            | Self::ConcurrencyLimited
            | Self::Overloaded
            | Self::FaultInjected => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectFailed
            | Self::UpstreamBroken
            | Self::UpstreamInvalid
            | Self::UpstreamHeadTooLarge
            | Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout | Self::DeadlinePassed => StatusCode::GATEWAY_TIMEOUT,
            Self::ClientClosed => StatusCode::from_u16(499).expect("499 is between 100 and 999"),
        }
    }

    /// Whether the bytes behind the request may be anything but another one.
    pub(crate) const fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::BadRequest
                | Self::UriTooLong
                | Self::HeadTooLarge
                | Self::TooManyHeaders
                | Self::BodyTooLarge
                | Self::RequestTimeout
                | Self::NotImplemented
                | Self::HttpVersionNotSupported
                | Self::TooManyConnections
        )
    }

    /// Whether a client may expect another try to fare better at once.
    pub(crate) const fn is_passing(self) -> bool {
        matches!(
            self,
            Self::TooManyConnections
                | Self::NoEndpoint
                | Self::RateLimited
                | Self::CircuitOpen
                | Self::ConcurrencyLimited
                | Self::Overloaded
        )
    }

    /// Whether it says that the service gave no good answer. Then a `fallback` may.
    #[must_use]
    pub const fn is_of_service(self) -> bool {
        matches!(
            self,
            Self::NoEndpoint
                | Self::ConnectFailed
                | Self::UpstreamBroken
                | Self::UpstreamInvalid
                | Self::UpstreamHeadTooLarge
                | Self::UpstreamTimeout
                | Self::UpstreamFailed
                | Self::CircuitOpen
                | Self::ConcurrencyLimited
                | Self::FaultInjected
        )
    }

    /// The one of this code.
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

/// The refusal of one request, before it becomes a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// A sentence for whoever reads the answer. Never quotes what the client sent.
    pub(crate) detail: &'static str,
    /// The limit that is behind it.
    pub(crate) limit: Option<Limit>,
    /// Instead of the one of the reason.
    status: Option<StatusCode>,
    /// When another try may fare better.
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) const fn new(reason: Reason, detail: &'static str) -> Self {
        Self { reason, detail, limit: None, status: None, retry_after: None }
    }

    /// It is for this limit.
    pub(crate) const fn by(self, limit: Limit) -> Self {
        self.with_limit(Some(limit))
    }

    pub(crate) const fn with_limit(self, limit: Option<Limit>) -> Self {
        Self { limit, ..self }
    }

    pub(crate) const fn with_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    pub(crate) const fn with_retry_after(self, time: Duration) -> Self {
        Self { retry_after: Some(time), ..self }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| self.reason.status())
    }

    /// Whether a `fallback` may answer instead. A fault may stand for an answer that is no failure.
    pub(crate) fn is_failure_of_service(&self) -> bool {
        self.reason.is_of_service() && self.status().is_server_error()
    }

    /// What stands in `retry-after`: whole seconds, not too few (RFC 9110 §10.2.3).
    pub(crate) fn retry_after(&self) -> Option<u64> {
        let passing = self.reason.is_passing().then_some(Duration::from_secs(1));
        let time = self.retry_after.or(passing)?;
        Some((time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1))
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
}

/// Writes the problem document of a refusal. `service` is the one that was to answer, if the request got that far.
pub(crate) fn problem(refusal: &Refusal, request_id: &str, service: Option<&str>) -> Vec<u8> {
    let status = refusal.status();
    let problem = Problem {
        // With no page of its own a problem is of the type "its status" (RFC 9457 §4.2.1).
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or("Client Closed Request"),
        status: status.as_u16(),
        detail: refusal.detail,
        instance: request_id,
        reason: refusal.reason.code(),
        service,
    };
    serde_json::to_vec(&problem).expect("a struct of strings is JSON")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_reason_stands_at_its_number() {
        assert!(Reason::ALL.iter().enumerate().all(|(number, reason)| *reason as usize == number));
    }

    #[test]
    fn a_problem_names_reason_service_and_request() {
        let refusal = Refusal::new(Reason::NoEndpoint, "No instance is ready.");
        let body = problem(&refusal, "r-1", Some("catalog"));
        expect![[r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"No instance is ready.","instance":"r-1","reason":"no_endpoint","service":"catalog"}"#]]
            .assert_eq(std::str::from_utf8(&body).unwrap());
    }
}
