//! The routes of the carts. A write asks the catalog first and the database second, so that a cart never changes when the
//! catalog cannot be asked.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use serde::{Deserialize, Serialize};
use store_kit::json::Body;
use store_kit::{Pool, Problem, openapi, server};
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::rows::{self, Change, LINES_MAX, QUANTITY_MAX, Set};
use crate::view::View;

/// What this service offers, for people and programs.
pub const DOCUMENT: &str = include_str!("../openapi.json");

#[derive(Clone, Debug)]
struct Carts {
    pool: Pool,
    catalog: Catalog,
}

/// The whole service over its database and its upstream.
pub fn router(pool: Pool, catalog: Catalog) -> Router {
    let routes = routes(&pool).into_iter();
    let state = Carts { pool, catalog };
    routes.fold(Router::new(), |router, (path, methods)| router.route(path, methods)).with_state(state)
}

/// The paths of [`router`].
pub fn paths(pool: &Pool) -> Vec<&'static str> {
    routes(pool).into_iter().map(|(path, _)| path).collect()
}

fn routes(pool: &Pool) -> [(&'static str, MethodRouter<Carts>); 8] {
    [
        ("/carts", post(create)),
        ("/carts/{id}", get(read).delete(delete)),
        ("/carts/{id}/count", get(count)),
        ("/carts/{id}/items", post(add)),
        ("/carts/{id}/items/{product_id}", put(set).delete(remove)),
        ("/openapi.json", openapi::document(DOCUMENT)),
        ("/readyz", server::readyz(pool.clone())),
        ("/livez", server::livez()),
    ]
}

/// Pieces in a cart, over all lines.
#[derive(Clone, Copy, Debug, Serialize)]
struct Count {
    count: i64,
}

/// How many pieces of a product there shall be.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quantity {
    quantity: i64,
}

/// How many pieces of a product there shall be more.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Addition {
    product_id: String,
    quantity: i64,
}

/// A cart under the id of a visitor who had none yet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proposal {
    id: String,
}

/// Without a body the cart gets an id of its own. One that is there already stays as it is.
async fn create(State(carts): State<Carts>, proposal: Option<Body<Proposal>>) -> Result<Response, Problem> {
    let id = match proposal {
        Some(Body(Proposal { id })) => Uuid::parse_str(&id).map_err(|error| refused("id", error))?,
        None => Uuid::new_v4(),
    };
    let id = id.to_string();
    let location = HeaderValue::try_from(format!("carts/{id}")).map_err(|_| no_such_cart())?;
    let key = id.clone();
    let is_new = carts.pool.write(move |transaction| rows::create(transaction, &key)).await?;
    let mut response = carts.view(id).await?;
    *response.status_mut() = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

async fn read(State(carts): State<Carts>, Path(id): Path<String>) -> Result<Response, Problem> {
    carts.view(id).await
}

/// For a badge on every page: does not ask the catalog.
async fn count(State(carts): State<Carts>, Path(id): Path<String>) -> Result<Response, Problem> {
    let lines = carts.pool.read(move |connection| rows::load(connection, &id)).await?.ok_or_else(no_such_cart)?;
    let count: i64 = lines.iter().map(|line| line.quantity).sum();
    Ok(([(CACHE_CONTROL, "no-store")], axum::Json(Count { count })).into_response())
}

async fn delete(State(carts): State<Carts>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let deleted = carts.pool.write(move |transaction| rows::delete(transaction, &id)).await?;
    if deleted { Ok(StatusCode::NO_CONTENT) } else { Err(no_such_cart()) }
}

async fn add(
    State(carts): State<Carts>,
    Path(id): Path<String>,
    Body(Addition { product_id, quantity }): Body<Addition>,
) -> Result<Response, Problem> {
    check_quantity(quantity)?;
    carts.set(id, &product_id, Change::By(quantity)).await
}

async fn set(
    State(carts): State<Carts>,
    Path((id, product_id)): Path<(String, String)>,
    Body(Quantity { quantity }): Body<Quantity>,
) -> Result<Response, Problem> {
    check_quantity(quantity)?;
    carts.set(id, &product_id, Change::To(quantity)).await
}

fn check_quantity(quantity: i64) -> Result<(), Problem> {
    if (1..=QUANTITY_MAX).contains(&quantity) {
        return Ok(());
    }
    Err(refused("quantity", format!("it must be from 1 to {QUANTITY_MAX}")))
}

async fn remove(
    State(carts): State<Carts>,
    Path((id, product_id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let removed = carts.pool.write(move |transaction| rows::remove(transaction, &id, &product_id)).await?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "there is no such cart, or no such product in it");
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(missing()) }
}

impl Carts {
    /// Changes a line to the product of now, and gives the cart as it then is.
    async fn set(&self, id: String, product_id: &str, change: Change) -> Result<Response, Problem> {
        let product = self.catalog.fetch(product_id).await?;
        let product = product.ok_or_else(|| refused("product_id", "the catalog has no such product"))?;
        let cart = id.clone();
        match self.pool.write(move |transaction| rows::set(transaction, &cart, &product, change)).await? {
            Set::Done => self.view(id).await,
            Set::NoSuchCart => Err(no_such_cart()),
            Set::Full => Err(refused("product_id", format!("the cart already has {LINES_MAX} products"))),
            Set::OtherCurrency => Err(refused("product_id", "its price is in another currency than the cart")),
        }
    }

    /// A cart beside the prices of now. It is shown without them when the catalog is away.
    async fn view(&self, id: String) -> Result<Response, Problem> {
        let key = id.clone();
        let lines = self.pool.read(move |connection| rows::load(connection, &key)).await?.ok_or_else(no_such_cart)?;
        let ids: Vec<&str> = lines.iter().map(|line| line.product.id.as_str()).collect();
        let now = self.catalog.fetch_now(&ids).await;
        let view = View::new(&id, &lines, now.as_deref());
        Ok(([(CACHE_CONTROL, "no-store")], axum::Json(view)).into_response())
    }
}

fn no_such_cart() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such cart")
}

/// A 422 that names what is at fault.
fn refused(parameter: &str, reason: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{parameter}: {reason}")).parameter(parameter)
}
