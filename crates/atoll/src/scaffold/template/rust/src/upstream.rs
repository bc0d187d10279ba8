//! Calls to upstreams, which carry on the trace, the id and the deadline of the request that they are made for.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::Problem;

const PASSED_ON: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];
const DEADLINE: &str = "atoll-deadline";
const CALL_MAX: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// What a request brought along.
#[derive(Clone, Debug, Default)]
pub struct Context {
    passed_on: Vec<(&'static str, HeaderValue)>,
    deadline: Option<Instant>,
}

impl Context {
    /// Reads it from the headers of a request that arrives now.
    pub fn of(headers: &HeaderMap) -> Self {
        let passed_on = PASSED_ON.iter().filter_map(|name| Some((*name, headers.get(*name)?.clone()))).collect();
        let left = headers.get(DEADLINE).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_millis);
        Self { passed_on, deadline: left.and_then(|left| Instant::now().checked_add(left)) }
    }

    /// A tenth of what is left is kept, to answer with when the call fails.
    fn time_for_call(&self) -> Duration {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now()) * 9 / 10;
        self.deadline.map_or(CALL_MAX, |deadline| left(deadline).min(CALL_MAX))
    }
}

/// A client for all upstreams; clones share its connections.
#[derive(Clone, Debug)]
pub struct Upstream(Client<HttpConnector, Body>);

impl Default for Upstream {
    fn default() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }
}

impl Upstream {
    /// Sends a request to an upstream, whose address is in its `<NAME>_URL`, and gives the body of a success.
    pub async fn call(&self, context: &Context, mut request: Request<Body>) -> Result<Bytes, Problem> {
        let time = context.time_for_call();
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "no time is left for the call"));
        }
        for (name, value) in &context.passed_on {
            request.headers_mut().insert(HeaderName::from_static(name), value.clone());
        }
        request.headers_mut().insert(DEADLINE, HeaderValue::from(millis));
        let late = |_| Problem::new(StatusCode::GATEWAY_TIMEOUT, "an upstream did not answer in time");
        tokio::time::timeout(time, self.exchange(request)).await.map_err(late)?
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Bytes, Problem> {
        let bad = |detail: String| Problem::new(StatusCode::BAD_GATEWAY, detail);
        let answer = self.0.request(request).await.map_err(|_| bad("an upstream cannot be called".to_owned()))?;
        if !answer.status().is_success() {
            return Err(bad(format!("an upstream answered {}", answer.status().as_u16())));
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|_| bad("an upstream broke off its answer".to_owned()))?.to_bytes())
    }
}
