//! The routes of the catalog. Each handler reads the request, asks the database, and shapes the answer.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use rusqlite::Connection;
use serde::Serialize;
use serde_json::json;
use store_kit::json::Body;
use store_kit::query::Query;
use store_kit::{Pool, Problem, openapi, server};

use crate::drawing::{self, Subject};
use crate::etag::{self, Condition};
use crate::listing::{self, Wanted};
use crate::product::{self, Draft, Product, Written};

/// What this service offers, for people and programs.
pub const DOCUMENT: &str = include_str!("../openapi.json");

/// An image only changes with its product, whose image then has another address.
const IMAGE_CACHING: &str = "public, max-age=2592000";

/// The whole service over its database.
pub fn router(pool: Pool) -> Router {
    let routes = routes(&pool).into_iter();
    routes.fold(Router::new(), |router, (path, methods)| router.route(path, methods)).with_state(pool)
}

/// The paths of [`router`].
pub fn paths(pool: &Pool) -> Vec<&'static str> {
    routes(pool).into_iter().map(|(path, _)| path).collect()
}

fn routes(pool: &Pool) -> [(&'static str, MethodRouter<Pool>); 8] {
    [
        ("/products", get(list).post(create)),
        ("/products/{id}", get(read).put(replace).delete(delete)),
        ("/categories", get(categories)),
        ("/brands", get(brands)),
        ("/images/{file}", get(image)),
        ("/openapi.json", openapi::document(DOCUMENT)),
        ("/readyz", server::readyz(pool.clone())),
        ("/livez", server::livez()),
    ]
}

async fn list(State(pool): State<Pool>, query: Query) -> Result<Response, Problem> {
    let wanted = Wanted::parse(query)?;
    let listing = pool.read(move |connection| wanted.load(connection)).await?;
    let listing = listing.ok_or_else(|| listing::invalid("category", "there is no such category"))?;
    Ok(axum::Json(listing).into_response())
}

async fn read(State(pool): State<Pool>, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let product = pool.read(move |connection| product::load(connection, &id)).await?.ok_or_else(no_such_product)?;
    let tag = etag::of(product.version);
    if etag::is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(with_tag(StatusCode::OK, &product))
}

async fn create(State(pool): State<Pool>, Body(draft): Body<Draft>) -> Result<Response, Problem> {
    draft.check()?;
    let product = done(pool.write(move |transaction| product::create(transaction, &draft)).await?)?;
    // Relative to the list, as the reference of a next page is: `products/…` beside `/products`.
    let location = format!("products/{}", product.id);
    Ok(([(LOCATION, location)], with_tag(StatusCode::CREATED, &product)).into_response())
}

async fn replace(
    State(pool): State<Pool>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(draft): Body<Draft>,
) -> Result<Response, Problem> {
    let condition = Condition::of(&headers)?;
    draft.check()?;
    let written = pool.write(move |transaction| product::replace(transaction, &id, &condition, &draft)).await?;
    Ok(with_tag(StatusCode::OK, &*done(written)?))
}

async fn delete(State(pool): State<Pool>, Path(id): Path<String>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let condition = Condition::of(&headers)?;
    done(pool.write(move |transaction| product::delete(transaction, &id, &condition)).await?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn categories(State(pool): State<Pool>) -> Result<Response, Problem> {
    let items = pool.read(load_categories).await?;
    Ok(axum::Json(json!({ "items": items })).into_response())
}

async fn brands(State(pool): State<Pool>) -> Result<Response, Problem> {
    let items = pool.read(load_brands).await?;
    Ok(axum::Json(json!({ "items": items })).into_response())
}

async fn image(State(pool): State<Pool>, Path(file): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "there is no such image");
    let key = file.strip_suffix(".svg").ok_or_else(missing)?.to_owned();
    let product = pool.read(move |connection| product::load(connection, &key)).await?.ok_or_else(missing)?;
    let tag = format!("\"{}.{}\"", drawing::REVISION, product.version);
    let caching = [(ETAG, tag.as_str()), (CACHE_CONTROL, IMAGE_CACHING)];
    if etag::is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let attribute = |name: &str| product.attributes.get(name).map_or("", String::as_str);
    let (style, color) = (attribute("style"), attribute("color"));
    let model = product.name.split(',').next().unwrap_or_default();
    let subject = Subject { model, category: &product.category, style, color };
    let kind = [
        (CONTENT_TYPE, "image/svg+xml"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((caching, kind, drawing::draw(subject)).into_response())
}

fn with_tag(status: StatusCode, product: &Product) -> Response {
    (status, [(ETAG, etag::of(product.version))], axum::Json(product)).into_response()
}

fn no_such_product() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such product")
}

fn done(written: Written) -> Result<Box<Product>, Problem> {
    match written {
        Written::Done(product) => Ok(product),
        Written::NotFound => Err(no_such_product()),
        Written::UnknownCategory => Err(product::unknown_category()),
        Written::Stale => {
            let detail = "the product has changed since; read it again";
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail).parameter("If-Match"))
        }
    }
}

/// A category with how many products it has, those of the categories below it included.
#[derive(Debug, Serialize)]
struct Category {
    slug: String,
    name: String,
    description: String,
    parent: Option<String>,
    count: i64,
    /// Of its newest product.
    image: Option<String>,
}

fn load_categories(connection: &Connection) -> rusqlite::Result<Vec<Category>> {
    // With max(), SQLite takes the other columns from the row that has the maximum.
    let sql = "SELECT c.slug, c.name, c.description, c.parent, count(p.id), \
                      '/images/' || p.slug || '.svg?v=' || p.version, max(p.created_at) \
               FROM categories c LEFT JOIN categories below ON below.slug = c.slug OR below.parent = c.slug \
               LEFT JOIN products p ON p.category = below.slug GROUP BY c.slug ORDER BY c.position";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(Category {
            slug: row.get(0)?,
            name: row.get(1)?,
            description: row.get(2)?,
            parent: row.get(3)?,
            count: row.get(4)?,
            image: row.get(5)?,
        })
    })?;
    rows.collect()
}

/// A brand with how many products it has.
#[derive(Debug, Serialize)]
struct Brand {
    name: String,
    count: i64,
}

fn load_brands(connection: &Connection) -> rusqlite::Result<Vec<Brand>> {
    let mut statement =
        connection.prepare_cached("SELECT brand, count(*) FROM products GROUP BY brand ORDER BY brand")?;
    statement.query_map([], |row| Ok(Brand { name: row.get(0)?, count: row.get(1)? }))?.collect()
}
