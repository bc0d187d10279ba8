//! Where the instances of a service listen, once or as Server-Sent Events (HTML Living Standard §9.2).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::Stream;
use serde::Deserialize;

use super::{Shared, done, until_drain};
use crate::api::dto::Endpoint;
use crate::daemon::Control;

/// A stream that says nothing for so long says that it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// `?watch` follows the changes; `?watch=false` does not.
#[derive(Debug, Deserialize)]
struct Wish {
    watch: Option<String>,
}

pub(super) fn router() -> Router<Arc<Control>> {
    Router::new().route("/v1/services/{name}/endpoints", get(endpoints))
}

async fn endpoints(State(control): Shared, Path(name): Path<String>, Query(wish): Query<Wish>) -> Response {
    if let Err(problem) = control.check_service(&name) {
        return done(Err(problem));
    }
    if wish.watch.is_some_and(|watch| !matches!(watch.as_str(), "false" | "0")) {
        let drained = control.drained.clone();
        let events = until_drain(changes(control, name), drained);
        return Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_INTERVAL)).into_response();
    }
    let snapshot = control.endpoints.clone().current();
    Json(control.endpoints(&snapshot, &name)).into_response()
}

/// The whole state of the service now, and again with every change of it: a reader that reconnects has missed nothing
/// that counts, whatever `Last-Event-ID` it sends.
fn changes(control: Arc<Control>, service: String) -> impl Stream<Item = Result<Event, Infallible>> {
    struct Progress {
        control: Arc<Control>,
        watcher: registry::Watcher,
        service: String,
        sent: Option<Vec<Endpoint>>,
    }
    let watcher = control.endpoints.clone();
    futures_util::stream::unfold(Progress { control, watcher, service, sent: None }, |mut progress| async move {
        loop {
            let snapshot = match progress.sent {
                None => progress.watcher.current(),
                // Changes of other services are no news.
                Some(_) => progress.watcher.changed().await?,
            };
            let endpoints = progress.control.endpoints(&snapshot, &progress.service);
            if progress.sent.as_ref() != Some(&endpoints) {
                let event = Event::default().event("endpoints").id(snapshot.generation.to_string());
                let event = event.json_data(&endpoints).ok()?;
                progress.sent = Some(endpoints);
                return Some((Ok(event), progress));
            }
        }
    })
}
