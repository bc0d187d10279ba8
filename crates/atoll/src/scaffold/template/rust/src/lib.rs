//! hello-service: answers JSON, logs JSON lines, and finishes what has begun when it is told to stop.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub mod upstream;

const BODY_BYTES_MAX: usize = 64 * 1024;
/// Shorter than the platform's grace of ten seconds.
const STOP_MAX: Duration = Duration::from_secs(9);

/// Writes one line of JSON to stdout.
pub fn log(level: &str, message: &str, fields: &Value) {
    println!("{}", json!({ "level": level, "message": message, "fields": fields }));
}

/// A refusal, answered as a problem document (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "status": self.status.as_u16(), "detail": self.detail }).to_string();
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

/// Everything that the service answers: add yours here.
pub fn router() -> Router {
    Router::new()
        .route("/hello", get(hello))
        .route("/readyz", get(|| async { reply(&json!({ "status": "ready" })) }))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(logged))
}

/// Serves until `stop` is done, then finishes the requests that have begun.
pub async fn serve(listener: TcpListener, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let (stopping, stopped) = oneshot::channel();
    let serving = axum::serve(listener, router()).with_graceful_shutdown(async move {
        stop.await;
        // Whoever waits for it is gone only when serving has ended.
        let _ = stopping.send(());
    });
    let too_late = async {
        let _ = stopped.await;
        tokio::time::sleep(STOP_MAX).await;
    };
    tokio::select! {
        ended = serving => ended,
        () = too_late => Err(io::Error::new(io::ErrorKind::TimedOut, "stopped before every request had finished")),
    }
}

#[derive(Deserialize)]
struct Hello {
    name: Option<String>,
}

async fn hello(query: Result<Query<Hello>, QueryRejection>) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let name = query.name.unwrap_or_else(|| "world".to_owned());
    if name.chars().count() > 100 {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "`name` is longer than 100 characters"));
    }
    Ok(reply(&json!({ "message": format!("Hello, {name}!") })))
}

fn reply(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn logged(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let response = next.run(request).await;
    let status = response.status();
    // A probe a second would drown everything else.
    if path != "/readyz" || !status.is_success() {
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        let fields = json!({
            "method": method.as_str(), "path": path, "status": status.as_u16(), "ms": ms, "request_id": id,
        });
        log("info", "request", &fields);
    }
    response
}
