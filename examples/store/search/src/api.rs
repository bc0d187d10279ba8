//! The routes of the search.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use store_kit::query::Query;
use store_kit::{Pool, Problem, openapi, server};

use crate::event;
use crate::finder::Wanted;
use crate::writer::Writer;

/// What this service offers, for people and programs.
pub const DOCUMENT: &str = include_str!("../openapi.json");

#[derive(Clone, Debug)]
struct Search {
    pool: Pool,
    writer: Writer,
}

/// The whole service over its database. To be called within a runtime, on which the writer runs.
pub fn router(pool: Pool) -> Router {
    let routes = routes(&pool).into_iter();
    let state = Search { writer: Writer::new(pool.clone()), pool };
    routes.fold(Router::new(), |router, (path, methods)| router.route(path, methods)).with_state(state)
}

/// The paths of [`router`].
pub fn paths(pool: &Pool) -> Vec<&'static str> {
    routes(pool).into_iter().map(|(path, _)| path).collect()
}

fn routes(pool: &Pool) -> [(&'static str, MethodRouter<Search>); 5] {
    [
        ("/search", get(search)),
        ("/events/products", post(take)),
        ("/openapi.json", openapi::document(DOCUMENT)),
        ("/readyz", server::readyz(pool.clone())),
        ("/livez", server::livez()),
    ]
}

async fn search(State(search): State<Search>, query: Query) -> Result<Response, Problem> {
    let wanted = Wanted::parse(query)?;
    let found = search.pool.read(move |connection| wanted.find(connection)).await?;
    Ok(axum::Json(found).into_response())
}

/// Takes an event of a product; answered when what it says is on disk.
async fn take(State(search): State<Search>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, Problem> {
    if let Some(change) = event::parse(&headers, &body)? {
        search.writer.write(change).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
