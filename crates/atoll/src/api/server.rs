//! Answers for the daemon: state as JSON, streams as JSON lines, commands that return when they are done.

mod broker;
mod discovery;
mod drills;
mod eventing;
mod instances;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::Stream;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, WatchStream};

use crate::api::dto;
use crate::daemon::Control;
use crate::lower;

type Shared = State<Arc<Control>>;

/// Every path of the API.
pub fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/instances", get(list_instances))
        .route("/v1/services", get(services))
        .route("/v1/services/{name}", get(service))
        .route("/v1/gateway", get(gateway))
        .route("/v1/edges", get(edges))
        .route("/v1/watch", get(watch_services))
        .route("/v1/events", get(events))
        .route("/v1/logs", get(logs))
        .route("/v1/apply", post(apply))
        .route("/v1/scale", post(scale))
        .route("/v1/start", post(start))
        .route("/v1/stop", post(stop))
        .route("/v1/restart", post(restart))
        .route("/v1/down", post(down))
        .merge(broker::router())
        .merge(discovery::router())
        .merge(drills::router())
        .merge(eventing::router())
        .merge(instances::router())
        .fallback(async || refuse(StatusCode::NOT_FOUND, "the daemon knows no such path".into(), None))
        .with_state(control)
}

async fn status(State(control): Shared) -> Json<dto::Status> {
    Json(control.status())
}

async fn list_instances(State(control): Shared) -> Json<Vec<dto::Instance>> {
    Json(lower::instances(&control.supervisor.snapshot()))
}

async fn services(State(control): Shared) -> Json<Vec<dto::Service>> {
    Json(lower::service_views(&control.supervisor.snapshot()))
}

async fn service(State(control): Shared, Path(name): Path<String>) -> Response {
    match lower::description(&control.plan(), &control.supervisor.snapshot(), &name) {
        Some(description) => Json(description).into_response(),
        None => {
            let plan = control.plan();
            let known: Vec<&str> = plan.services.keys().map(String::as_str).collect();
            let hint = format!("its services are {}", known.join(", "));
            refuse(StatusCode::NOT_FOUND, format!("there is no service `{name}` in this application"), Some(hint))
        }
    }
}

async fn gateway(State(control): Shared) -> Json<dto::Gateway> {
    Json(control.gateway())
}

async fn edges(State(control): Shared) -> Response {
    answer(control.edges().await)
}

async fn watch_services(State(control): Shared) -> Response {
    let snapshots = until_drain(WatchStream::new(control.supervisor.watch()), control.drained.clone());
    lines(snapshots.map(|snapshot| lower::service_views(&snapshot)))
}

async fn events(State(control): Shared, Query(wanted): Query<dto::Events>) -> Response {
    let (mut past, live) = control.supervisor.events();
    if wanted.new_only {
        past.clear();
    }
    // A follower that fell behind has missed what it could not have shown in time.
    let live = BroadcastStream::new(live).filter_map(Result::ok);
    let all = tokio_stream::iter(past).chain(live);
    lines(until_drain(all, control.drained.clone()).map(|event| lower::event(&event)))
}

async fn logs(State(control): Shared) -> Response {
    let live = BroadcastStream::new(control.supervisor.logs()).map(|line| match line {
        Ok(line) => lower::line((*line).clone()),
        Err(BroadcastStreamRecvError::Lagged(count)) => lower::skipped(count, Timestamp::now()),
    });
    lines(until_drain(live, control.drained.clone()))
}

async fn start(State(control): Shared, Json(selection): Json<dto::Selection>) -> Response {
    done(control.start(selection).await)
}

async fn apply(State(control): Shared, Json(wish): Json<dto::Apply>) -> Response {
    answer(control.apply(wish).await)
}

async fn scale(State(control): Shared, Json(wish): Json<dto::Scale>) -> Response {
    answer(control.scale(wish).await)
}

fn answer<T: Serialize>(result: Result<T, dto::Problem>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(problem) => done(Err(problem)),
    }
}

async fn stop(State(control): Shared, Json(selection): Json<dto::Selection>) -> Response {
    done(control.stop(selection).await)
}

async fn restart(State(control): Shared, Json(selection): Json<dto::Selection>) -> Response {
    done(control.restart(selection).await)
}

async fn down(State(control): Shared) -> StatusCode {
    control.shut_down();
    StatusCode::ACCEPTED
}

fn done(result: Result<(), dto::Problem>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [("content-type", "application/problem+json")], Json(problem)).into_response()
        }
    }
}

fn refuse(status: StatusCode, detail: String, hint: Option<String>) -> Response {
    let title = status.canonical_reason().unwrap_or("refused").to_owned();
    done(Err(dto::Problem { title, status: status.as_u16(), detail, hint }))
}

/// Ends a stream when the daemon has stopped everything, so that followers see the last events and then the end.
fn until_drain<S: Stream>(stream: S, mut drained: watch::Receiver<bool>) -> impl Stream<Item = S::Item> {
    futures_util::StreamExt::take_until(stream, async move {
        // A lost sender is the end as well.
        let _ = drained.wait_for(|drained| *drained).await;
    })
}

fn lines<T: Serialize>(values: impl Stream<Item = T> + Send + 'static) -> Response {
    let lines = values.filter_map(|value| {
        let mut line = serde_json::to_vec(&value).ok()?;
        line.push(b'\n');
        Some(Ok::<_, Infallible>(Bytes::from(line)))
    });
    ([("content-type", "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
