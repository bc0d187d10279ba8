//! Paths about topics, replays and dead letters.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;

use super::{Shared, answer, refuse};
use crate::api::dto;
use crate::daemon::Control;

pub(super) fn router() -> Router<Arc<Control>> {
    Router::new()
        .route("/v1/topics", get(topics))
        .route("/v1/replay", post(replay))
        .route("/v1/dead-letters", get(dead_letters))
        .route("/v1/dead-letters/redrive", post(redrive))
        .route("/v1/dead-letters/drop", post(drop_dead_letters))
        .route("/v1/dead-letters/{id}", get(dead_letter))
}

async fn topics(State(control): Shared) -> Response {
    answer(control.topics().await)
}

async fn replay(State(control): Shared, wish: Result<Json<dto::ReplayWish>, JsonRejection>) -> Response {
    match wish {
        Ok(Json(wish)) => answer(control.replay(wish).await),
        Err(rejection) => refuse(rejection.status(), rejection.body_text(), None),
    }
}

async fn dead_letters(State(control): Shared, Query(query): Query<dto::DeadLetterQuery>) -> Response {
    answer(control.dead_letters(query).await)
}

async fn dead_letter(State(control): Shared, Path(id): Path<String>) -> Response {
    match id.parse() {
        Ok(id) => answer(control.dead_letter(id).await),
        Err(_) => refuse(StatusCode::NOT_FOUND, "a dead letter has a number".into(), None),
    }
}

async fn redrive(State(control): Shared, wish: Result<Json<dto::DeadLetterWish>, JsonRejection>) -> Response {
    match wish {
        Ok(Json(wish)) => answer(control.redrive(wish).await),
        Err(rejection) => refuse(rejection.status(), rejection.body_text(), None),
    }
}

async fn drop_dead_letters(State(control): Shared, wish: Result<Json<dto::DeadLetterWish>, JsonRejection>) -> Response {
    match wish {
        Ok(Json(wish)) => answer(control.drop_dead_letters(wish).await),
        Err(rejection) => refuse(rejection.status(), rejection.body_text(), None),
    }
}
