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
use storefront::routes::{self, Upstreams};
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
    search_away: bool,
    recommendation_away: bool,
    events_away: bool,
    /// Ids of carts that were made.
    made: Vec<String>,
    /// Events that were published.
    told: Vec<Value>,
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

async fn create_cart(State(behind): State<Behind>, axum::Json(body): axum::Json<Value>) -> Response {
    let mut world = behind.0.lock().unwrap();
    world.has_cart = true;
    world.made.push(body["id"].as_str().unwrap().to_owned());
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

async fn find(State(behind): State<Behind>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    if behind.0.lock().unwrap().search_away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    assert!(!query["q"].is_empty() && query["limit"] == "24");
    let mut item = product("p1");
    item["available"] = json!(true);
    item["marked"] = json!({ "name": "&lt;script&gt; <mark>Mug</mark> <b>x</b>", "description": "" });
    let items = if query["q"] == "nothing" { json!([]) } else { json!([item]) };
    axum::Json(json!({
        "items": items, "total": items.as_array().unwrap().len() * 30, "next": null,
        "corrected": (query["q"] == "mgu").then_some("mug"), "ignored": [], "relaxed": query["q"] == "red mug",
        "facets": {
            "category": [{ "value": "mugs", "count": 28 }, { "value": "boats", "count": 2 }],
            "price": [{ "min": 0, "max": 2499, "count": 9 }, { "min": 25000, "max": null, "count": 21 }],
            "available": { "yes": 30, "no": 0 },
        },
    }))
    .into_response()
}

async fn recommend(State(behind): State<Behind>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    if behind.0.lock().unwrap().recommendation_away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    assert_eq!(query["session"], store_kit::session::of_cart(CART));
    axum::Json(json!({ "items": [{ "product": "p7", "why": "popular" }, "p8"] })).into_response()
}

async fn take_view(State(behind): State<Behind>, axum::Json(view): axum::Json<Value>) -> StatusCode {
    let mut world = behind.0.lock().unwrap();
    if world.events_away {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    world.told.push(view);
    StatusCode::ACCEPTED
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
    let others = Router::new()
        .route("/search", get(find))
        .route("/recommendations/{product}", get(recommend))
        .route("/storefront.product.viewed", post(take_view));
    let others = listen(others.with_state(behind.clone())).await;
    let upstreams = Upstreams {
        catalog: listen(catalog.with_state(behind.clone())).await,
        cart: listen(carts.with_state(behind.clone())).await,
        search: others.clone(),
        recommendation: others.clone(),
        events: others,
    };
    Shop { router: server::around(routes::router(&upstreams)), behind }
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
    let made = shop.world().made.clone();
    assert!(cookie.starts_with(&format!("cart={}; Path=/;", made[0])), "{cookie}");
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
    assert_eq!(shop.world().made[1], CART, "under the same id");
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
    shop.world().search_away = true;
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

#[tokio::test]
async fn what_was_searched_for_is_marked_and_can_be_narrowed() {
    let shop = shop().await;
    let page = shop.get("/search?q=mug&sort=price").await;
    page.is_whole(200).has("&#60;script&#62; <mark>Mug</mark> &#60;b&#62;x").has("30 product").has("Best match");
    page.has("/search?q=mug&#38;sort=price&#38;page=1&#38;category=mugs").has(">Mugs <").has(">boats <");
    page.has("min_price=0&#38;max_price=2499").has("under €25").has("min_price=25000\"").has("€250 and more");
    shop.get("/search?q=mgu").await.is_whole(200).has("Showing what there is for “mug”");
    shop.get("/search?q=red+mug").await.is_whole(200).has("Nothing has all of these words");
    let chosen = shop.get("/search?q=mug&category=mugs&min_price=0&max_price=2499").await;
    chosen.is_whole(200).has("aria-current=\"true\">Mugs").has("aria-current=\"true\">under €25");
    chosen.has("/search?q=mug&#38;sort=relevance&#38;page=1&#38;min_price=0&#38;max_price=2499\"");
    for query in ["q=mug&min_price=9&max_price=3", "q=mug&min_price=x", "q=mug&page=0&sort=best", "category=mugs"] {
        shop.get(&format!("/search?{query}")).await.is_whole(200);
    }
}

#[tokio::test]
async fn without_the_search_there_is_a_plain_list_and_a_note() {
    let shop = shop().await;
    shop.world().search_away = true;
    shop.get("/search?q=mug").await.is_whole(200).has("plain list").has("100 product");
    shop.get("/search?q=mug&sort=price&page=2").await.is_whole(200).has("plain list");
    shop.get("/search?q=mug&page=9").await.is_whole(404);
}

#[tokio::test]
async fn what_goes_with_a_product_is_shown_where_somebody_knows() {
    let shop = shop().await;
    shop.get("/product/slug-p1").await.is_whole(200).has("Goes well with it").has("More like this");
    shop.world().recommendation_away = true;
    let page = shop.get("/product/slug-p1").await;
    assert!(!page.is_whole(200).has("More like this").html.contains("Goes well"));
}

#[tokio::test]
async fn a_view_is_told_of_under_the_session_of_the_cart_to_be() {
    let shop = shop().await;
    shop.world().recommendation_away = true;
    let page = shop.send(Request::get("/product/slug-p1").body(Body::empty()).unwrap()).await;
    let cookie = page.is_whole(200).headers[header::SET_COOKIE].to_str().unwrap();
    let cart = cookie.strip_prefix("cart=").unwrap().split(';').next().unwrap().to_owned();
    let known = shop.get("/product/slug-p2").await;
    assert!(!known.headers.contains_key(header::SET_COOKIE));
    // What is not there is not looked at.
    shop.get("/product/boat").await.is_whole(404);
    let told = async {
        while shop.world().told.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), told).await.unwrap();
    let session = |cart: &str| store_kit::session::of_cart(cart);
    let expected =
        [json!({ "session": session(&cart), "product": "p1" }), json!({ "session": session(CART), "product": "p2" })];
    assert_eq!(shop.world().told, expected);
    // Nobody to tell is no reason to fail.
    shop.world().events_away = true;
    shop.get("/product/slug-p1").await.is_whole(200);
}
