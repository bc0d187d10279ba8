//! The closed list of limits that clients and services can meet, one for each of [`crate::Limits`]: what refuses, cuts or
//! closes says which one it was, and `counters` counts it.

/// One of [`crate::Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    RequestHead,
    RequestHeaders,
    RequestTarget,
    RequestBody,
    RequestHeadTimeout,
    RequestBodyTimeout,
    IdleTimeout,
    Connections,
    ConnectionsPerListener,
    ConnectionsPerAddress,
    Requests,
    ConnectTimeout,
    UpstreamIdleConnections,
    UpstreamIdleTimeout,
    UpstreamMaxAge,
    ResponseIdleTimeout,
    ResponseRateMin,
    Trailers,
    ChunkExtensions,
    InterimResponses,
}

impl Limit {
    /// Every one, in the order of declaration: one that is missing here does not compile, and each has a counter.
    pub const ALL: [Self; Self::InterimResponses as usize + 1] = [
        Self::RequestHead,
        Self::RequestHeaders,
        Self::RequestTarget,
        Self::RequestBody,
        Self::RequestHeadTimeout,
        Self::RequestBodyTimeout,
        Self::IdleTimeout,
        Self::Connections,
        Self::ConnectionsPerListener,
        Self::ConnectionsPerAddress,
        Self::Requests,
        Self::ConnectTimeout,
        Self::UpstreamIdleConnections,
        Self::UpstreamIdleTimeout,
        Self::UpstreamMaxAge,
        Self::ResponseIdleTimeout,
        Self::ResponseRateMin,
        Self::Trailers,
        Self::ChunkExtensions,
        Self::InterimResponses,
    ];

    /// The name in counters: that of the key under `[gateway.limits]`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::RequestHead => "request_head",
            Self::RequestHeaders => "request_headers",
            Self::RequestTarget => "request_target",
            Self::RequestBody => "request_body",
            Self::RequestHeadTimeout => "request_head_timeout",
            Self::RequestBodyTimeout => "request_body_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Connections => "connections",
            Self::ConnectionsPerListener => "connections_per_listener",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::Requests => "requests",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamIdleConnections => "upstream_idle_connections",
            Self::UpstreamIdleTimeout => "upstream_idle_timeout",
            Self::UpstreamMaxAge => "upstream_max_age",
            Self::ResponseIdleTimeout => "response_idle_timeout",
            Self::ResponseRateMin => "response_rate_min",
            Self::Trailers => "trailers",
            Self::ChunkExtensions => "chunk_extensions",
            Self::InterimResponses => "interim_responses",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_stands_at_its_number() {
        assert!(Limit::ALL.iter().enumerate().all(|(number, limit)| *limit as usize == number));
    }
}
