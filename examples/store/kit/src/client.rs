//! Calls to an upstream over HTTP/1.1, on connections that are kept. Every call has a timeout, ends at the deadline of
//! the request it is made for, and passes on that request's context. Retries are the mesh's business, not ours.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as Connections;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context;

/// Until the whole answer is here.
const TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Shorter than what servers keep, so that a connection is seldom closed under a call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_MAX: usize = 32;
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A call that brought no usable answer. Its effect on the upstream is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make a request to {upstream}")]
    Request { upstream: &'static str, source: http::Error },
    #[error("{upstream} did not answer within {timeout:?}")]
    Timeout { upstream: &'static str, timeout: Duration },
    #[error("the call to {upstream} failed")]
    Call { upstream: &'static str, source: hyper_util::client::legacy::Error },
    #[error("the answer of {upstream} broke off or is too large")]
    Body { upstream: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{upstream} answered with JSON of another shape")]
    Json { upstream: &'static str, source: serde_json::Error },
    #[error("{upstream} answered {status}")]
    Status { upstream: &'static str, status: StatusCode },
}

impl Error {
    /// Who did not answer.
    #[must_use]
    pub fn upstream(&self) -> &'static str {
        match self {
            Self::Request { upstream, .. }
            | Self::Timeout { upstream, .. }
            | Self::Call { upstream, .. }
            | Self::Body { upstream, .. }
            | Self::Json { upstream, .. }
            | Self::Status { upstream, .. } => upstream,
        }
    }
}

/// Calls one upstream. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    upstream: &'static str,
    base: String,
    connections: Connections<HttpConnector, Full<Bytes>>,
}

/// A whole answer, of a status below 500.
#[derive(Clone, Debug)]
pub struct Answer {
    upstream: &'static str,
    pub status: StatusCode,
    body: Bytes,
}

impl Client {
    /// A client of the upstream with this name and address. Opens nothing yet.
    #[must_use]
    pub fn new(upstream: &'static str, address: &Uri) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let connections = Connections::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Self { upstream, base: address.to_string().trim_end_matches('/').to_owned(), connections }
    }

    /// Gets `path`, which begins with `/` and is escaped already.
    ///
    /// # Errors
    /// When there is no answer in time, or one of 500 and above.
    pub async fn get(&self, path: &str) -> Result<Answer, Error> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Sends `body` as JSON.
    ///
    /// # Errors
    /// As [`Client::get`]; the upstream may have acted all the same.
    pub async fn send_json(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Answer, Error> {
        let body = serde_json::to_vec(body).map_err(|source| Error::Json { upstream: self.upstream, source })?;
        self.send(method, path, body.into()).await
    }

    /// Sends a request whose body is JSON or empty.
    ///
    /// # Errors
    /// As [`Client::get`]; the upstream may have acted all the same.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Error> {
        let upstream = self.upstream;
        let timeout = context::current().remaining_for_call(TIMEOUT);
        let has_body = !body.is_empty();
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base)).body(Full::new(body));
        let mut request = request.map_err(|source| Error::Request { upstream, source })?;
        if has_body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        context::pass_on(request.headers_mut(), timeout);
        let exchange = tokio::time::timeout(timeout, self.exchange(request)).await;
        exchange.unwrap_or(Err(Error::Timeout { upstream, timeout }))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let upstream = self.upstream;
        let response = self.connections.request(request).await.map_err(|source| Error::Call { upstream, source })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|source| Error::Body { upstream, source })?.to_bytes();
        if status.is_server_error() {
            return Err(Error::Status { upstream, status });
        }
        Ok(Answer { upstream, status, body })
    }
}

impl Answer {
    /// Nothing but whether it is a success.
    ///
    /// # Errors
    /// When it is none.
    pub fn success(&self) -> Result<(), Error> {
        let (upstream, status) = (self.upstream, self.status);
        if status.is_success() { Ok(()) } else { Err(Error::Status { upstream, status }) }
    }

    /// The body of a success.
    ///
    /// # Errors
    /// When it is JSON of another shape, or the status is no success.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let upstream = self.upstream;
        self.success()?;
        serde_json::from_slice(&self.body).map_err(|source| Error::Json { upstream, source })
    }

    /// The `detail` of a problem document, where there is one.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(problem["detail"].as_str()?.to_owned())
    }
}

/// Escapes one segment of a path, or one value of a query (RFC 3986 §2.3).
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
