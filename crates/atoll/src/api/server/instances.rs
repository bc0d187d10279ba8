//! Paths about single instances and the daemon's own life: signals, programs, history, leaving.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

use super::{Shared, done, lines, refuse};
use crate::api::dto;
use crate::daemon::Control;

pub(super) fn router() -> Router<Arc<Control>> {
    Router::new()
        .route("/v1/services/{name}/program", get(program))
        .route("/v1/kill", post(kill))
        .route("/v1/leave", post(leave))
        .route("/v1/history", get(history))
}

async fn program(State(control): Shared, Path(name): Path<String>, Query(query): Query<dto::ProgramQuery>) -> Response {
    match control.program(&name, query.which()) {
        Ok(program) => Json(program).into_response(),
        Err(problem) => done(Err(problem)),
    }
}

async fn kill(State(control): Shared, kill: Result<Json<dto::Kill>, JsonRejection>) -> Response {
    match kill {
        Ok(Json(kill)) => done(control.kill(kill).await),
        Err(rejection) => refuse(rejection.status(), rejection.body_text(), None),
    }
}

async fn leave(State(control): Shared) -> Response {
    control.leave();
    StatusCode::ACCEPTED.into_response()
}

/// Ends when the last event of this daemon was sent.
async fn history(State(control): Shared) -> Response {
    match control.history.follow() {
        // A follower that fell behind reads the file.
        Some(live) => lines(BroadcastStream::new(live).filter_map(Result::ok)),
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending".into(), None),
    }
}
