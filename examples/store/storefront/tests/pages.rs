//! The shop as a visitor sees it: the real router, with a catalog and a cart made for the test on real sockets.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store_kit::{openapi, server};
use storefront::routes;
use tokio::net::TcpListener;
use tower::ServiceExt;

const CART: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
/// A name that breaks every page that does not escape it.
const HOSTILE: &str = "<script>alert(1)</script> & \"Mug\"";

/// What both services behind the shop know, and whether they answer.
#[derive(Clone, Default)]
struct Behind(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    catalog_away: bool,
    cart_away: bool,
    lines: BTreeMap<String, i64>,
    has_cart: bool,
    price_now: i64,
    currency_now: &'static str,
}

fn product(id: &str) -> Value {
    json!({
        "id": id, "slug": format!("slug-{id}"), "name": HOSTILE, "description": "Good & plain.", "category": "mugs",
        "brand": "Kiln", "attributes": { "color": "Sage" }, "price": 124_900, "currency": "EUR",
        "image": format!("/images/{id}.svg"), "version": 1,
    })
}

async fn list(State(behind): State<Behind>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    if behind.0.lock().unwrap().catalog_away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let page: usize = query.get("page").map_or(1, |page| page.parse().unwrap());
    let found = query.get("q").is_none_or(|q| q != "nothing") && page <= 5;
    let items: Vec<Value> = if found { (0..4).map(|n| product(&format!("p{n}"))).collect() } else { Vec::new() };
    axum::Json(json!({ "items": items, "total": if found { 100 } else { 0 }, "next": null })).into_response()
}

async fn one(State(behind): State<Behind>, Path(id): Path<String>) -> Response {
    match (behind.0.lock().unwrap().catalog_away, id.strip_prefix("slug-")) {
        (true, _) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        (false, Some(id)) => axum::Json(product(id)).into_response(),
        (false, None) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn categories(State(behind): State<Behind>) -> Response {
    if behind.0.lock().unwrap().catalog_away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let category = |slug: &str, name: &str, parent: Option<&str>| json!({ "slug": slug, "name": name, "description": "D.", "parent": parent, "count": 100, "image": "/images/x.svg" });
    let items = [category("kitchen", "Kitchen", None), category("mugs", "Mugs", Some("kitchen"))];
    axum::Json(json!({ "items": items })).into_response()
}

fn cart(world: &World) -> Response {
    if world.cart_away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if !world.has_cart {
        return StatusCode::NOT_FOUND.into_response();
    }
    let item = |(id, quantity): (&String, &i64)| {
        json!({
            "product_id": id, "slug": id, "name": HOSTILE, "image": "/i", "quantity": quantity, "price": 1000,
            "total": 1000 * quantity, "current_price": world.price_now, "current_currency": world.currency_now,
            "price_changed": world.price_now != 1000 || world.currency_now != "EUR",
            "available": true,
        })
    };
    let items: Vec<Value> = world.lines.iter().map(item).collect();
    let count: i64 = world.lines.values().sum();
    let cart = json!({
        "id": CART, "items": items, "count": count, "subtotal": count * 1000, "currency": "EUR", "prices_checked": true,
    });
    axum::Json(cart).into_response()
}

async fn read_cart(State(behind): State<Behind>, Path(id): Path<String>) -> Response {
    assert_eq!(id, CART);
    cart(&behind.0.lock().unwrap())
}

async fn create_cart(State(behind): State<Behind>) -> Response {
    let mut world = behind.0.lock().unwrap();
    world.has_cart = true;
    cart(&world)
}

async fn add_line(State(behind): State<Behind>, axum::Json(body): axum::Json<Value>) -> Response {
    let mut world = behind.0.lock().unwrap();
    let id = body["product_id"].as_str().unwrap();
    if id == "gone" {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    }
    if world.has_cart {
        *world.lines.entry(id.to_owned()).or_default() += body["quantity"].as_i64().unwrap();
    }
    cart(&world)
}

async fn set_line(
    State(behind): State<Behind>,
    Path((_, id)): Path<(String, String)>,
    axum::Json(body): axum::Json<Value>,
) -> Response {
    let mut world = behind.0.lock().unwrap();
    if id == "gone" {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    }
    world.lines.insert(id, body["quantity"].as_i64().unwrap());
    cart(&world)
}

async fn remove_line(State(behind): State<Behind>, Path((_, id)): Path<(String, String)>) -> StatusCode {
    let removed = behind.0.lock().unwrap().lines.remove(&id);
    if removed.is_some() { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

struct Shop {
    router: Router,
    behind: Behind,
}

async fn shop() -> Shop {
    let behind = Behind::default();
    {
        let mut world = behind.0.lock().unwrap();
        (world.price_now, world.currency_now) = (1000, "EUR");
    }
    let catalog = Router::new()
        .route("/products", get(list))
        .route("/products/{id}", get(one))
        .route("/categories", get(categories));
    let carts = Router::new()
        .route("/carts", post(create_cart))
        .route("/carts/{id}", get(read_cart))
        .route("/carts/{id}/count", get(read_cart))
        .route("/carts/{id}/items", post(add_line))
        .route("/carts/{id}/items/{product}", put(set_line).delete(remove_line));
    let (catalog, carts) =
        (listen(catalog.with_state(behind.clone())).await, listen(carts.with_state(behind.clone())).await);
    Shop { router: server::around(routes::router(&catalog, &carts)), behind }
}

async fn listen(router: Router) -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(server::serve(listener, router, std::future::pending()));
    address
}

struct Page {
    status: StatusCode,
    headers: HeaderMap,
    html: String,
}

impl Page {
    /// Checks what holds for every page, good or bad.
    fn is_whole(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.html);
        assert!(self.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
        assert!(self.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'self'"));
        for part in ["<html lang=\"en\">", "<main id=\"main\"", "class=\"skip\"", "<h1>", "href=\"/cart\"", "</html>"] {
            assert!(self.html.contains(part), "{part} is missing in {}", self.html);
        }
        assert!(!self.html.contains("<script"), "{}", self.html);
        self
    }

    fn has(&self, text: &str) -> &Self {
        assert!(self.html.contains(text), "{text} is missing in {}", self.html);
        self
    }
}

impl Shop {
    async fn send(&self, request: Request<Body>) -> Page {
        let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let html = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        Page { status: head.status, headers: head.headers, html }
    }

    async fn get(&self, path: &str) -> Page {
        let cookie = format!("cart={CART}");
        self.send(Request::get(path).header(header::COOKIE, cookie).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, form: &str, headers: &[(&str, &str)]) -> Page {
        let kind = "application/x-www-form-urlencoded";
        let mut request = Request::post(path).header(header::CONTENT_TYPE, kind).header(header::HOST, "shop");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(form.to_owned())).unwrap()).await
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.behind.0.lock().unwrap()
    }
}

#[tokio::test]
async fn every_page_is_whole_and_escapes_what_it_shows() {
    let shop = shop().await;
    let escaped = "&#60;script&#62;";
    shop.get("/").await.is_whole(200).has(escaped).has("€1,249.00");
    shop.get("/category/mugs").await.is_whole(200).has(escaped).has("aria-current=\"page\"");
    shop.get("/category/mugs?page=3&sort=price").await.is_whole(200).has("page=4").has("page=2");
    shop.get("/product/slug-p1").await.is_whole(200).has(escaped).has("Add to cart").has("Colour");
    shop.get("/search?q=%3Cscript%3E").await.is_whole(200).has("value=\"&#60;script&#62;\"");
    shop.get("/search?q=nothing").await.is_whole(200).has("Nothing in the shop");
    shop.get("/search").await.is_whole(200);
    shop.get("/cart").await.is_whole(200).has("nothing in it yet");
}

#[tokio::test]
async fn what_is_not_there_is_a_page_that_says_so() {
    let shop = shop().await;
    for path in ["/nothing", "/category/boats", "/product/boat", "/category/mugs?page=9", "/assets/none.css"] {
        shop.get(path).await.is_whole(404).has("Kitchen");
    }
    shop.post("/", "", &[]).await.is_whole(405);
    shop.post("/cart/items", "product_id=p1", &[]).await.is_whole(422);
    shop.get("/product/%ff").await.is_whole(400);
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_the_first_page() {
    let shop = shop().await;
    for query in ["page=0", "page=x", "page=-1", "sort=colour", "page=99999999999", "q=1&q=2", "%ff"] {
        shop.get(&format!("/category/mugs?{query}")).await.is_whole(200);
    }
}

#[tokio::test]
async fn a_product_goes_into_the_cart_is_counted_changed_and_removed() {
    let shop = shop().await;
    let added = shop.post("/cart/items", "product_id=p1&quantity=2", &[]).await;
    assert_eq!((added.status, &added.headers[header::LOCATION]), (StatusCode::SEE_OTHER, &"/cart".parse().unwrap()));
    let cookie = added.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with(&format!("cart={CART}; Path=/;")), "{cookie}");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let with_cookie = [("cookie", &*format!("cart={CART}"))];
    shop.post("/cart/items", "product_id=p1&quantity=3", &with_cookie).await;
    assert_eq!(shop.world().lines["p1"], 5);
    shop.get("/").await.is_whole(200).has("class=\"badge\"");
    shop.post("/cart/items/p1", "quantity=7", &with_cookie).await;
    shop.world().price_now = 1200;
    shop.get("/cart").await.is_whole(200).has("€70.00").has("The price is now €12.00");
    shop.world().currency_now = "USD";
    shop.get("/cart").await.is_whole(200).has("€70.00").has("The price is now $12.00");
    let removed = shop.post("/cart/items/p1", "quantity=0", &with_cookie).await;
    assert_eq!((removed.status, shop.world().lines.len()), (StatusCode::SEE_OTHER, 0));
    let again = shop.post("/cart/items/p1", "quantity=0", &with_cookie).await;
    assert_eq!(again.status, 303);
    shop.post("/cart/items", "product_id=gone&quantity=1", &with_cookie).await.is_whole(422).has("did not fit");
    shop.world().has_cart = false;
    assert_eq!(shop.post("/cart/items", "product_id=p2&quantity=1", &with_cookie).await.status, 303);
    assert_eq!(shop.world().lines["p2"], 1, "a cart that is gone is replaced");
}

#[tokio::test]
async fn a_quantity_below_one_or_beyond_a_line_changes_nothing() {
    let shop = shop().await;
    let with_cookie = [("cookie", &*format!("cart={CART}"))];
    shop.post("/cart/items", "product_id=p1&quantity=5", &with_cookie).await;
    for quantity in ["0", "-3", "100", "9223372036854775807"] {
        let form = format!("product_id=p1&quantity={quantity}");
        shop.post("/cart/items", &form, &with_cookie).await.is_whole(422).has("Nothing was changed");
        shop.post("/cart/items", &form, &[]).await.is_whole(422);
    }
    assert_eq!(shop.world().lines["p1"], 5);
}

#[tokio::test]
async fn a_form_of_another_site_changes_nothing() {
    let shop = shop().await;
    for foreign in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        shop.post("/cart/items", "product_id=p1&quantity=1", &[foreign]).await.is_whole(403);
        shop.post("/cart/items/p1", "quantity=1", &[foreign, ("cookie", &format!("cart={CART}"))]).await.is_whole(403);
    }
    assert!(shop.world().lines.is_empty());
    let ours = shop.post("/cart/items", "product_id=p1&quantity=1", &[("origin", "http://shop")]).await;
    assert_eq!(ours.status, 303);
}

#[tokio::test]
async fn without_the_catalog_the_shop_says_so_and_keeps_its_frame() {
    let shop = shop().await;
    shop.get("/").await.is_whole(200);
    shop.world().catalog_away = true;
    for path in ["/", "/category/mugs", "/product/slug-p1", "/search?q=mug"] {
        let page = shop.get(path).await;
        page.is_whole(503).has("right back").has("Kitchen");
        assert!(page.headers.contains_key(header::RETRY_AFTER));
    }
    shop.get("/cart").await.is_whole(200);
}

#[tokio::test]
async fn without_the_carts_the_shop_is_open_and_has_no_badge() {
    let shop = shop().await;
    shop.world().cart_away = true;
    let home = shop.get("/").await;
    assert!(!home.is_whole(200).html.contains("badge"));
    shop.get("/product/slug-p1").await.is_whole(200);
    shop.get("/cart").await.is_whole(503).has("Nothing in your cart is lost");
    shop.post("/cart/items", "product_id=p1&quantity=1", &[("cookie", &format!("cart={CART}"))]).await.is_whole(503);
}

#[tokio::test]
async fn the_style_sheet_is_kept_under_its_fingerprint_only() {
    let shop = shop().await;
    let home = shop.get("/").await.html;
    let address = home.split("href=\"").find(|part| part.starts_with("/assets/store.css")).unwrap();
    let address = address.split('"').next().unwrap();
    let caching = |page: &Page| page.headers[header::CACHE_CONTROL].to_str().unwrap().to_owned();
    let style = shop.get(address).await;
    assert_eq!(
        (style.status, style.headers[header::CONTENT_TYPE].to_str().unwrap()),
        (StatusCode::OK, "text/css; charset=utf-8")
    );
    assert!(caching(&style).contains("immutable"));
    assert_eq!(caching(&shop.get("/assets/store.css?v=other").await), "no-cache");
    assert_eq!(caching(&shop.get("/").await), "private, no-cache");
}

#[tokio::test]
async fn the_document_has_every_route() {
    let shop = shop().await;
    let differences = openapi::differences(shop.router.clone(), &routes::paths(), routes::DOCUMENT).await.unwrap();
    assert_eq!(differences, Vec::<String>::new());
}
