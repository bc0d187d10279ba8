//! Paths about what is switched, and about what happened to single requests.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use http::StatusCode;

use super::{Shared, answer, refuse};
use crate::api::dto;
use crate::daemon::Control;

pub(super) fn router() -> Router<Arc<Control>> {
    Router::new()
        .route("/v1/faults", get(faults).post(set_faults).delete(clear_all))
        .route("/v1/faults/{id}", delete(clear))
        .route("/v1/breakers", get(breakers).post(switch_breaker))
        .route("/v1/explain", get(newest))
        .route("/v1/explain/{id}", get(explain))
}

async fn faults(State(control): Shared) -> Response {
    Json(control.faults()).into_response()
}

async fn set_faults(State(control): Shared, wish: Result<Json<dto::FaultWish>, JsonRejection>) -> Response {
    match wish {
        Ok(Json(wish)) => answer(control.set_faults(wish).await),
        Err(rejection) => refuse(rejection.status(), rejection.body_text(), None),
    }
}

async fn clear_all(State(control): Shared) -> Response {
    answer(control.clear_faults(None).await)
}

async fn clear(State(control): Shared, Path(id): Path<String>) -> Response {
    match id.parse() {
        Ok(id) => answer(control.clear_faults(Some(id)).await),
        Err(_) => refuse(StatusCode::NOT_FOUND, "a fault has a number".into(), None),
    }
}

async fn breakers(State(control): Shared) -> Response {
    answer(control.breakers().await)
}

async fn switch_breaker(State(control): Shared, wish: Result<Json<dto::BreakerWish>, JsonRejection>) -> Response {
    match wish {
        Ok(Json(wish)) => answer(control.switch_breaker(wish).await),
        Err(rejection) => refuse(rejection.status(), rejection.body_text(), None),
    }
}

async fn newest(State(control): Shared, Query(query): Query<dto::Explain>) -> Response {
    answer(control.explain("", query.max).await)
}

async fn explain(State(control): Shared, Path(id): Path<String>, Query(query): Query<dto::Explain>) -> Response {
    answer(control.explain(&id, query.max).await)
}
