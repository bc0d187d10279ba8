//! Paths about the broker.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;

use super::{Shared, answer};
use crate::api::dto;
use crate::daemon::Control;

pub(super) fn router() -> Router<Arc<Control>> {
    Router::new().route("/v1/broker", get(broker)).route("/v1/broker/url", get(url))
}

async fn broker(State(control): Shared, Query(query): Query<dto::BrokerQuery>) -> Response {
    let seen = control.broker().await;
    answer(seen.and_then(|broker| {
        let url = query.secrets.then(|| control.broker_url()).transpose()?;
        Ok(dto::Broker { url: url.map(|url| url.url), ..broker })
    }))
}

async fn url(State(control): Shared) -> Response {
    answer(control.broker_url())
}
