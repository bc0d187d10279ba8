//! The addresses of the shop. A handler asks the services behind it side by side and shows one page, or the page that says
//! why it cannot.

mod finding;

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{Form, Path, Query, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION, REFERRER_POLICY, RETRY_AFTER,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Deserialize;
use store_kit::client::escape;
use store_kit::{log, openapi, server, session};

use crate::cart::{Carts, Changed, QUANTITY_MAX};
use crate::catalog::{Catalog, Category, Listing, Product};
use crate::failure::Failure;
use crate::pages::{Card, CartPage, Choice, Frame, Home, Link, PAGE_SIZE, Pages, ProductPage, Products};
use crate::recommendation::Recommendations;
use crate::search::Search;
use crate::views::Views;
use crate::{assets, money, visitor};

/// What this service offers, for people and programs.
pub const DOCUMENT: &str = include_str!("../openapi.json");

/// Characters of a search, as many as the catalog takes.
const QUERY_MAX: usize = 100;
const PAGE_MAX: usize = 10_000;
const ORDERS: [(&str, &str); 4] =
    [("newest", "Newest"), ("price", "Price, low to high"), ("-price", "Price, high to low"), ("name", "Name")];
/// Products that are recommended beside one.
const RECOMMENDED: usize = 4;
/// Categories whose pictures open the shop.
const PICTURES: [&str; 3] = ["lamps", "chairs", "teapots"];

const GUARDS: [(HeaderName, &str); 4] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "same-origin"),
    (X_FRAME_OPTIONS, "DENY"),
];

#[derive(Clone, Debug)]
struct Shop {
    catalog: Catalog,
    carts: Carts,
    search: Search,
    recommendations: Recommendations,
    views: Views,
}

/// Where the services behind the shop are.
#[derive(Clone, Debug)]
pub struct Upstreams {
    pub catalog: Uri,
    pub cart: Uri,
    pub search: Uri,
    pub recommendation: Uri,
    /// Takes events.
    pub events: Uri,
}

/// The whole shop. To be called within a runtime, on which views are published.
pub fn router(upstreams: &Upstreams) -> Router {
    let shop = Shop {
        catalog: Catalog::new(&upstreams.catalog),
        carts: Carts::new(&upstreams.cart),
        search: Search::new(&upstreams.search),
        recommendations: Recommendations::new(&upstreams.recommendation),
        views: Views::new(&upstreams.events),
    };
    let router = routes().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    router
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(middleware::from_fn_with_state(shop.clone(), dress))
        .with_state(shop)
}

/// The paths of [`router`].
#[must_use]
pub fn paths() -> Vec<&'static str> {
    routes().into_iter().map(|(path, _)| path).collect()
}

fn routes() -> [(&'static str, MethodRouter<Shop>); 11] {
    [
        ("/", get(home)),
        ("/category/{slug}", get(category)),
        ("/product/{slug}", get(product)),
        ("/search", get(finding::search)),
        ("/cart", get(cart)),
        ("/cart/items", post(add)),
        ("/cart/items/{product_id}", post(change)),
        ("/assets/{file}", get(assets::serve)),
        ("/openapi.json", openapi::document(DOCUMENT)),
        ("/readyz", server::livez()),
        ("/livez", server::livez()),
    ]
}

type Parameters = Query<HashMap<String, String>>;

async fn home(State(shop): State<Shop>, headers: HeaderMap) -> Response {
    let load =
        async { Ok::<_, Failure>((shop.catalog.categories().await?, shop.catalog.list(&[("limit", "8")]).await?)) };
    let (count, loaded) = tokio::join!(shop.count(&headers), load);
    let (categories, listing) = match loaded {
        Ok(loaded) => loaded,
        Err(failure) => return shop.notice(failure, count).await,
    };
    let links = |wanted: &dyn Fn(&Category) -> bool| categories.iter().filter(|c| wanted(c)).map(Link::new).collect();
    show(&Home {
        frame: Frame::new("Lagoon", &categories, count),
        pictures: links(&|category| PICTURES.contains(&category.slug.as_str())),
        categories: links(&|category| category.parent.is_some()),
        items: Card::all(&listing),
    })
}

async fn category(
    State(shop): State<Shop>,
    Path(slug): Path<String>,
    Query(query): Parameters,
    headers: HeaderMap,
) -> Response {
    let place = Place::of(&query);
    let load = async {
        let categories = shop.catalog.categories().await?;
        let category = categories.iter().find(|category| category.slug == slug).cloned().ok_or(Failure::NotFound)?;
        let listing = shop.list(&[("category", &slug)], place).await?;
        Ok::<_, Failure>((categories, category, listing))
    };
    let (count, loaded) = tokio::join!(shop.count(&headers), load);
    let (categories, category, listing) = match loaded {
        Ok(loaded) => loaded,
        Err(failure) => return shop.notice(failure, count).await,
    };
    let href = |place: Place| format!("/category/{}?sort={}&page={}", escape(&slug), place.sort, place.page);
    show(&Products {
        frame: Frame::new(&category.name, &categories, count).at(Some(&category)),
        trail: Link::trail(&category, &categories),
        related: Link::related(&category, &categories),
        heading: category.name,
        description: category.description,
        notes: Vec::new(),
        facets: Vec::new(),
        items: Card::all(&listing),
        total: listing.total,
        orders: place.orders(href),
        pages: Pages::new(listing.total, place.page, |page| href(Place { page, ..place })),
    })
}

async fn product(State(shop): State<Shop>, Path(slug): Path<String>, method: Method, headers: HeaderMap) -> Response {
    let known = visitor::cart(&headers);
    let visitor = known.clone().unwrap_or_else(visitor::new_cart);
    let load = async {
        let (product, categories) = tokio::try_join!(shop.catalog.fetch(&slug), shop.catalog.categories())?;
        let product = product.ok_or(Failure::NotFound)?;
        let session = session::of_cart(&visitor);
        let (colors, recommended, more) =
            tokio::join!(shop.same_model(&product), shop.recommended(&product, &session), shop.same_category(&product));
        if method == Method::GET && !visitor::is_prefetch(&headers) {
            shop.views.tell(session, product.id.clone());
        }
        Ok::<_, Failure>((product, categories, colors?, recommended, more?))
    };
    let (count, loaded) = tokio::join!(shop.count(&headers), load);
    let (product, categories, colors, recommended, more) = match loaded {
        Ok(loaded) => loaded,
        Err(failure) => return shop.notice(failure, count).await,
    };
    let category = categories.iter().find(|category| category.slug == product.category);
    let page = show(&ProductPage {
        frame: Frame::new(&product.name, &categories, count).at(category),
        price: money::format(product.price, &product.currency),
        trail: category.map(|category| Link::trail(category, &categories)).unwrap_or_default(),
        attributes: product.attributes.iter().map(|(name, value)| (label(name), value.clone())).collect(),
        colors,
        recommended,
        items: more,
        product,
    });
    if known.is_some() { page } else { ([(SET_COOKIE, visitor::cookie(&visitor, &headers))], page).into_response() }
}

async fn cart(State(shop): State<Shop>, headers: HeaderMap) -> Response {
    let load = async {
        match visitor::cart(&headers) {
            Some(id) => shop.carts.fetch(&id).await.map_err(Failure::from),
            None => Ok(None),
        }
    };
    let (categories, loaded) = tokio::join!(shop.categories(), load);
    match loaded {
        Ok(cart) => {
            let count = cart.as_ref().map_or(0, |cart| cart.count);
            show(&CartPage::new(Frame::new("Cart", &categories, Some(count)), cart.as_ref()))
        }
        Err(failure) => shop.notice(failure, None).await,
    }
}

#[derive(Debug, Deserialize)]
struct Addition {
    product_id: String,
    quantity: i64,
}

#[derive(Debug, Deserialize)]
struct Change {
    quantity: i64,
}

async fn add(State(shop): State<Shop>, headers: HeaderMap, Form(addition): Form<Addition>) -> Response {
    let done = async {
        if !visitor::is_from_here(&headers) {
            return Err(Failure::Foreign);
        }
        if !(1..=QUANTITY_MAX).contains(&addition.quantity) {
            return Err(Failure::Other(StatusCode::UNPROCESSABLE_ENTITY));
        }
        let known = visitor::cart(&headers);
        let id = known.clone().unwrap_or_else(visitor::new_cart);
        if known.is_some() {
            match shop.carts.add(&id, &addition.product_id, addition.quantity).await? {
                Changed::Done => return Ok(id),
                Changed::Refused => return Err(Failure::Refused),
                // It has not been needed yet, or was swept away.
                Changed::NoSuchCart => {}
            }
        }
        shop.carts.create(&id).await?;
        match shop.carts.add(&id, &addition.product_id, addition.quantity).await? {
            Changed::Done => Ok(id),
            Changed::NoSuchCart => Err(Failure::Away),
            Changed::Refused => Err(Failure::Refused),
        }
    };
    match done.await {
        Ok(id) => ([(SET_COOKIE, visitor::cookie(&id, &headers))], to_cart()).into_response(),
        Err(failure) => shop.notice(failure, shop.count(&headers).await).await,
    }
}

async fn change(
    State(shop): State<Shop>,
    Path(product_id): Path<String>,
    headers: HeaderMap,
    Form(change): Form<Change>,
) -> Response {
    let done = async {
        if !visitor::is_from_here(&headers) {
            return Err(Failure::Foreign);
        }
        // Whoever has no cart, or lost it, sees an empty one.
        let Some(id) = visitor::cart(&headers) else { return Ok(()) };
        let changed = match change.quantity {
            0 => shop.carts.remove(&id, &product_id).await?,
            quantity => shop.carts.set(&id, &product_id, quantity).await?,
        };
        if changed == Changed::Refused { Err(Failure::Refused) } else { Ok(()) }
    };
    match done.await {
        Ok(()) => to_cart().into_response(),
        Err(failure) => shop.notice(failure, shop.count(&headers).await).await,
    }
}

/// After a form: the cart, so that a reload sends nothing again.
fn to_cart() -> impl IntoResponse {
    (StatusCode::SEE_OTHER, [(LOCATION, "/cart")])
}

/// Puts the guards on every answer, and turns an error that the router made into a page.
async fn dress(State(shop): State<Shop>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let mut response = if is_error && !kind.starts_with(b"text/html") {
        let failure = if status == StatusCode::NOT_FOUND { Failure::NotFound } else { Failure::Other(status) };
        shop.notice(failure, None).await
    } else {
        response
    };
    for (name, value) in GUARDS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let caching = HeaderValue::from_static("private, no-cache");
    response.headers_mut().entry(CACHE_CONTROL).or_insert(caching);
    response
}

/// Where one is in a list.
#[derive(Clone, Copy, Debug)]
struct Place {
    sort: &'static str,
    page: usize,
}

impl Place {
    /// Reads a query. What makes no sense is the first page of the newest: a reader is not helped by an error.
    fn of(query: &HashMap<String, String>) -> Self {
        let sort = query.get("sort").and_then(|sort| ORDERS.iter().find(|(name, _)| name == sort));
        let page = query.get("page").and_then(|page| page.parse().ok()).filter(|page| (1..=PAGE_MAX).contains(page));
        Self { sort: sort.map_or(ORDERS[0].0, |(name, _)| name), page: page.unwrap_or(1) }
    }

    fn orders(self, href: impl Fn(Self) -> String) -> Vec<Choice> {
        let choice = |(name, label): &(&'static str, &str)| Choice {
            label: (*label).to_owned(),
            href: href(Self { sort: name, page: 1 }),
            is_current: *name == self.sort,
        };
        ORDERS.iter().map(choice).collect()
    }
}

impl Shop {
    /// How much is in the visitor's cart, as far as it can be said.
    async fn count(&self, headers: &HeaderMap) -> Option<i64> {
        self.carts.count(visitor::cart(headers).as_deref()).await
    }

    /// The categories for a page that can do without.
    async fn categories(&self) -> Arc<[Category]> {
        self.catalog.categories().await.unwrap_or_else(|error| {
            log::error("a page is shown without categories", &error);
            Arc::default()
        })
    }

    async fn notice(&self, failure: Failure, cart_count: Option<i64>) -> Response {
        let notice = failure.notice(Frame::new("", &self.categories().await, cart_count));
        let mut response = (failure.status(), show(&notice)).into_response();
        if failure == Failure::Away {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("3"));
        }
        response
    }

    /// One page of products; a page that does not exist is not found.
    async fn list(&self, filter: &[(&str, &str)], place: Place) -> Result<Listing, Failure> {
        let (limit, page) = (PAGE_SIZE.to_string(), place.page.to_string());
        let mut parameters = vec![("limit", limit.as_str()), ("page", page.as_str()), ("sort", place.sort)];
        parameters.extend(filter);
        let listing = self.catalog.list(&parameters).await?;
        if listing.items.is_empty() && place.page > 1 { Err(Failure::NotFound) } else { Ok(listing) }
    }

    /// The same model in its other colours.
    async fn same_model(&self, product: &Product) -> Result<Vec<Card>, Failure> {
        let model = product.name.split(',').next().unwrap_or_default();
        let words: String = model.chars().take(QUERY_MAX).collect();
        let parameters =
            [("category", product.category.as_str()), ("brand", &product.brand), ("q", &words), ("limit", "6")];
        let listing = self.catalog.list(&parameters).await?;
        let is_other = |other: &&Product| other.id != product.id && other.name.split(',').next() == Some(model);
        Ok(listing.items.iter().filter(is_other).map(Card::from).collect())
    }

    /// What goes with it; nothing where that cannot be said.
    async fn recommended(&self, product: &Product, session: &str) -> Vec<Card> {
        let ids = self.recommendations.of(&product.id, session, RECOMMENDED).await;
        if ids.is_empty() {
            return Vec::new();
        }
        match self.catalog.list(&[("ids", &ids.join(","))]).await {
            Ok(listing) => Card::all(&listing),
            Err(error) => {
                log::error("a page is shown without recommendations", &error);
                Vec::new()
            }
        }
    }

    async fn same_category(&self, product: &Product) -> Result<Vec<Card>, Failure> {
        let listing = self.catalog.list(&[("category", &product.category), ("limit", "5")]).await?;
        let others = listing.items.iter().filter(|other| other.id != product.id);
        Ok(others.take(4).map(Card::from).collect())
    }
}

fn show(page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => Html(html).into_response(),
        Err(error) => {
            log::error("a page could not be written", &error);
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// An attribute's name as a label.
fn label(name: &str) -> String {
    if name == "color" {
        return "Colour".to_owned();
    }
    let mut characters = name.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
