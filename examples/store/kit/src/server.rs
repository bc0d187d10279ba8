//! The HTTP server of a service: limits and the access log around its router, a bounded number of connections, and a stop
//! on SIGTERM that lets every request finish.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::{HeaderMap, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::{Environment, Pool, Problem, environment, log, problem};

/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// From a request's head to the response's head; the caller's deadline may be sooner.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// For the head of a request, the wait on a kept connection included: longer than proxies keep theirs.
const HEAD_MAX: Duration = Duration::from_secs(120);
const CONNECTIONS_MAX: usize = 1024;
/// Shorter than the platform's grace, so that a stop that cannot be clean is at least told of.
const STOP_MAX: Duration = Duration::from_secs(9);
/// How long new connections are still taken after the signal: whoever sends requests may learn of the stop a moment later
/// than this process does, and what is on its way then shall not be refused.
const LINGER: Duration = Duration::from_millis(100);
/// Pause after a failed accept, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the environment is incomplete")]
    Environment {
        #[from]
        source: environment::Error,
    },
    #[error("the database cannot be used")]
    Database {
        #[from]
        source: crate::database::Error,
    },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot watch for signals")]
    Signal { source: io::Error },
}

/// `GET /readyz`: asks the database.
pub fn readyz<S: Clone + Send + Sync + 'static>(pool: Pool) -> MethodRouter<S> {
    get(move || async move {
        let asked = pool.read(|connection| connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())));
        asked.await.map(|()| "ready\n").map_err(|error| {
            log::error("not ready", &error);
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer")
        })
    })
}

/// `GET /livez`, and `GET /readyz` of a service that has no database: whoever answers, lives.
pub fn livez<S: Clone + Send + Sync + 'static>() -> MethodRouter<S> {
    get(|| async { "alive\n" })
}

/// Puts limits, context and problem documents around a service's routes.
pub fn around(router: Router) -> Router {
    router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(axum::middleware::from_fn(answer))
}

/// Serves until SIGTERM or SIGINT, then finishes what has begun.
///
/// # Errors
/// When the environment does not say where to listen, or the address is taken.
pub async fn run(environment: &Environment, router: Router) -> Result<(), Error> {
    let address = environment.listen()?;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let watch = |kind| signal(kind).map_err(|source| Error::Signal { source });
    let (terminate, interrupt) = (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
    log::write("info", "listening", json!({ "address": address.to_string() }));
    let router = around(router).layer(axum::middleware::from_fn(logged));
    serve(listener, router, either(terminate, interrupt)).await;
    log::write("info", "stopped", json!({}));
    Ok(())
}

/// Serves until shortly after `stop` is done, then closes the listener and waits for the requests that have begun.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (draining, drain) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(async {
        stop.await;
        tokio::time::sleep(LINGER).await;
    });
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut stop => break,
            (permit, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (router, drain) = (router.clone(), drain.clone());
                    connections.spawn(async move { serve_connection(stream, router, drain).await; drop(permit); });
                }
                Err(error) => {
                    log::error("cannot accept a connection", &error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    draining.send_replace(true);
    let finished = tokio::time::timeout(STOP_MAX, async { while connections.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        log::write("error", "stopped before every request had finished", json!({ "requests": connections.len() }));
    }
}

/// Errors end the connection and nothing else: who broke it off knows, and the access log has what was answered.
async fn serve_connection(stream: TcpStream, router: Router, mut drain: watch::Receiver<bool>) {
    // Without it small answers wait for acknowledgements. A socket that refuses the option still works.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        _ = drain.wait_for(|draining| *draining) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Gives a request its context and its time, and an error its shape.
async fn answer(request: Request, next: Next) -> Response {
    let context = Context::of(request.headers());
    let timeout = context.remaining(REQUEST_MAX);
    match tokio::time::timeout(timeout, context.enter(next.run(request))).await {
        Ok(response) => problem::shape(response),
        Err(_) => {
            let detail =
                format!("not done within {} ms, the time that the caller or this service gives", timeout.as_millis());
            Problem::new(StatusCode::GATEWAY_TIMEOUT, detail).into_response()
        }
    }
}

/// The access log.
async fn logged(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route =
        request.extensions().get().map_or_else(|| "-".to_owned(), |path: &MatchedPath| path.as_str().to_owned());
    let id = request_id(request.headers());
    let response = next.run(request).await;
    // A probe a second would drown everything else.
    let is_probe = matches!(route.as_str(), "/readyz" | "/livez") && response.status().is_success();
    if !is_probe {
        let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
        let fields = json!({
            "method": method.as_str(), "route": route, "status": response.status().as_u16(),
            "ms": (milliseconds * 100.0).round() / 100.0, "request_id": id,
        });
        log::write("info", "request", fields);
    }
    response
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("x-request-id")?.to_str().ok()?.to_owned())
}

async fn either(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
