//! The carts as a client sees them: the real router over SQLite with the real migrations, and a catalog made for the test
//! on a real socket.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as Segment, Query, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cart::api;
use cart::catalog::Catalog;
use http_body_util::BodyExt;
use rusqlite::Connection;
use serde_json::{Value, json};
use store_kit::{Pool, openapi, server};
use tokio::net::TcpListener;
use tower::ServiceExt;

/// Products by id, with price and currency; how it answers is changed by the tests.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<(Prices, Mood)>>);

type Prices = BTreeMap<String, (i64, String)>;

#[derive(Clone, Copy, Default, PartialEq)]
enum Mood {
    #[default]
    Well,
    Failing,
    Silent,
    Odd,
}

impl Shelf {
    fn put(&self, id: &str, price: i64, currency: &str) {
        self.0.lock().unwrap().0.insert(id.to_owned(), (price, currency.to_owned()));
    }

    fn take(&self, id: &str) {
        self.0.lock().unwrap().0.remove(id);
    }

    fn turn(&self, mood: Mood) {
        self.0.lock().unwrap().1 = mood;
    }

    fn product(&self, id: &str) -> Option<Value> {
        let shelf = self.0.lock().unwrap();
        let (price, currency) = shelf.0.get(id)?;
        Some(json!({ "id": id, "slug": id, "name": id, "image": id, "price": price, "currency": currency, "more": 1 }))
    }

    async fn answer(&self, value: Option<Value>) -> Response {
        let mood = self.0.lock().unwrap().1;
        match (mood, value) {
            (Mood::Well, Some(value)) => axum::Json(value).into_response(),
            (Mood::Well, None) => StatusCode::NOT_FOUND.into_response(),
            (Mood::Failing, _) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            (Mood::Odd, _) => "<html>".into_response(),
            (Mood::Silent, _) => std::future::pending().await,
        }
    }
}

async fn one(State(shelf): State<Shelf>, Segment(id): Segment<String>) -> Response {
    shelf.answer(shelf.product(&id)).await
}

async fn many(State(shelf): State<Shelf>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let items: Vec<Value> = query["ids"].split(',').filter_map(|id| shelf.product(id)).collect();
    shelf.answer(Some(json!({ "items": items, "total": items.len(), "next": null }))).await
}

struct Carts {
    router: Router,
    pool: Pool,
    shelf: Shelf,
    _folder: tempfile::TempDir,
}

async fn carts() -> Carts {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cart.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    for file in ["0001_carts.sql", "0002_outbox.sql"] {
        let migration = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(file);
        connection.execute_batch(&std::fs::read_to_string(migration).unwrap()).unwrap();
    }
    let shelf = Shelf::default();
    for (id, price) in [("lamp", 12900), ("mug", 1990)] {
        shelf.put(id, price, "EUR");
    }
    let router = Router::new().route("/products/{id}", get(one)).route("/products", get(many));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let catalog = Catalog::new(&format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    tokio::spawn(server::serve(listener, router.with_state(shelf.clone()), std::future::pending()));
    let pool = Pool::open(&path).unwrap();
    Carts { router: server::around(api::router(pool.clone(), catalog)), pool, shelf, _folder: folder }
}

impl Carts {
    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> (StatusCode, Value, header::HeaderMap) {
        // So little that a silent catalog does not keep the test waiting.
        let mut request = Request::builder().method(method).uri(path).header("atoll-deadline", "600");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json").header("atoll-deadline", "600");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head.status, serde_json::from_slice(&bytes).unwrap_or(Value::Null), head.headers)
    }

    async fn create(&self) -> String {
        let (status, cart, headers) = self.send("POST", "/carts", None).await;
        assert_eq!(status, 201);
        let id = cart["id"].as_str().unwrap();
        assert_eq!(headers[header::LOCATION], format!("carts/{id}"));
        format!("/carts/{id}")
    }

    async fn put(&self, cart: &str, product: &str, quantity: i64) -> (StatusCode, Value) {
        let body = json!({ "quantity": quantity });
        let (status, value, _) = self.send("PUT", &format!("{cart}/items/{product}"), Some(body)).await;
        (status, value)
    }

    /// Topic, product and quantity of every event, and whose session it was.
    async fn told(&self) -> (Vec<String>, Vec<String>) {
        let read = |connection: &Connection| {
            let sql = "SELECT topic || ' ' || (data ->> 'product') || ' ' || (data ->> 'quantity'), data ->> 'session' \
                       FROM outbox ORDER BY id";
            let mut rows = connection.prepare(sql)?;
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()
        };
        self.pool.read(read).await.unwrap()
    }

    async fn read(&self, cart: &str) -> Value {
        let (status, value, headers) = self.send("GET", cart, None).await;
        assert_eq!((status, &headers[header::CACHE_CONTROL]), (StatusCode::OK, &"no-store".parse().unwrap()));
        value
    }
}

#[tokio::test]
async fn products_are_added_changed_and_removed() {
    let carts = carts().await;
    let cart = carts.create().await;
    assert_eq!(carts.put(&cart, "lamp", 1).await.0, 200);
    assert_eq!(carts.put(&cart, "mug", 2).await.0, 200);
    let (_, changed) = carts.put(&cart, "lamp", 3).await;
    assert_eq!(
        (&changed["count"], &changed["subtotal"], &changed["currency"]),
        (&json!(5), &json!(42680), &json!("EUR"))
    );
    assert_eq!(changed["items"][0]["product_id"], "lamp");
    assert_eq!(changed, carts.read(&cart).await);
    assert_eq!(carts.send("DELETE", &format!("{cart}/items/lamp"), None).await.0, 204);
    assert_eq!(carts.send("DELETE", &format!("{cart}/items/lamp"), None).await.0, 404);
    assert_eq!(carts.read(&cart).await["subtotal"], 3980);
    assert_eq!(carts.send("DELETE", &cart, None).await.0, 204);
    assert_eq!(carts.send("GET", &cart, None).await.0, 404);
    assert_eq!(carts.send("GET", &format!("{cart}/count"), None).await.0, 404);
    assert_eq!(carts.put(&cart, "mug", 1).await.0, 404);
}

#[tokio::test]
async fn of_additions_at_once_none_is_lost() {
    let carts = carts().await;
    let cart = carts.create().await;
    let items = format!("{cart}/items");
    let add = |product: &str, quantity: i64| {
        carts.send("POST", &items, Some(json!({ "product_id": product, "quantity": quantity })))
    };
    let (first, second, third, fourth) = tokio::join!(add("mug", 1), add("mug", 2), add("mug", 3), add("lamp", 4));
    for (status, ..) in [first, second, third, fourth] {
        assert_eq!(status, 200);
    }
    assert_eq!(carts.read(&cart).await["count"], 10);
    let (_, capped, _) = add("mug", 99).await;
    assert_eq!(capped["count"], 103, "a line holds 99");
    for (product, quantity, at_fault) in [("mug", 0, "quantity"), ("mug", -5, "quantity"), ("boat", 1, "product_id")] {
        let (status, problem, _) = add(product, quantity).await;
        assert_eq!((status.as_u16(), &problem["parameter"]), (422, &json!(at_fault)));
    }
    let body = json!({ "product_id": "mug", "quantity": 1 });
    assert_eq!(carts.send("POST", "/carts/none/items", Some(body)).await.0, 404);
    assert_eq!(carts.read(&cart).await["count"], 103);
}

#[tokio::test]
async fn ids_cannot_be_guessed_and_carts_do_not_mix() {
    let carts = carts().await;
    let (one, other) = (carts.create().await, carts.create().await);
    assert_ne!(one, other);
    assert!(uuid::Uuid::parse_str(one.trim_start_matches("/carts/")).unwrap().get_version_num() == 4);
    carts.put(&one, "mug", 1).await;
    assert_eq!(carts.read(&other).await["items"], json!([]));
}

#[tokio::test]
async fn the_price_that_was_seen_stays_and_the_new_one_is_shown() {
    let carts = carts().await;
    let cart = carts.create().await;
    carts.put(&cart, "mug", 2).await;
    carts.shelf.put("mug", 2490, "EUR");
    let item = &carts.read(&cart).await["items"][0];
    let seen = [&item["price"], &item["total"], &item["current_price"], &item["price_changed"]];
    assert_eq!(seen, [&json!(1990), &json!(3980), &json!(2490), &json!(true)]);
    let (_, accepted) = carts.put(&cart, "mug", 2).await;
    assert_eq!((&accepted["subtotal"], &accepted["items"][0]["price_changed"]), (&json!(4980), &json!(false)));
    carts.shelf.put("mug", 2490, "USD");
    let item = &carts.read(&cart).await["items"][0];
    assert_eq!((&item["current_currency"], &item["price_changed"]), (&json!("USD"), &json!(true)));
    carts.shelf.take("mug");
    assert_eq!(carts.read(&cart).await["items"][0]["available"], false);
}

#[tokio::test]
async fn what_the_catalog_does_not_have_is_refused() {
    let carts = carts().await;
    let cart = carts.create().await;
    let (status, problem) = carts.put(&cart, "boat", 1).await;
    assert_eq!((status.as_u16(), &problem["parameter"]), (422, &json!("product_id")));
    let (status, _) = carts.put(&cart, "..%2Fproducts", 1).await;
    assert_eq!(status, 422);
    for quantity in [0, -1, 100, i64::MAX] {
        let (status, problem) = carts.put(&cart, "mug", quantity).await;
        assert_eq!((status.as_u16(), &problem["parameter"]), (422, &json!("quantity")));
    }
    for body in [json!({}), json!({ "quantity": "1" }), json!({ "quantity": 1, "price": 1 })] {
        assert_eq!(carts.send("PUT", &format!("{cart}/items/mug"), Some(body)).await.0, 422);
    }
    carts.put(&cart, "mug", 1).await;
    carts.shelf.put("tea", 500, "GBP");
    assert_eq!(carts.put(&cart, "tea", 1).await.0, 422);
    assert_eq!(carts.read(&cart).await["count"], 1);
}

#[tokio::test]
async fn a_cart_stays_as_it_is_while_the_catalog_is_away() {
    let carts = carts().await;
    let cart = carts.create().await;
    carts.put(&cart, "mug", 2).await;
    for mood in [Mood::Failing, Mood::Odd, Mood::Silent] {
        carts.shelf.turn(mood);
        let body = json!({ "quantity": 5 });
        let (status, problem, headers) = carts.send("PUT", &format!("{cart}/items/mug"), Some(body)).await;
        assert_eq!((status.as_u16(), &problem["status"]), (503, &json!(503)));
        assert!(headers.contains_key(header::RETRY_AFTER));
        let seen = carts.read(&cart).await;
        assert_eq!((&seen["count"], &seen["prices_checked"]), (&json!(2), &json!(false)));
        assert_eq!(carts.send("GET", &format!("{cart}/count"), None).await.1, json!({ "count": 2 }));
    }
    carts.shelf.turn(Mood::Well);
    assert_eq!(carts.read(&cart).await["count"], 2);
}

#[tokio::test]
async fn a_cart_holds_a_hundred_products_and_no_more() {
    let carts = carts().await;
    let cart = carts.create().await;
    for number in 0..=100 {
        carts.shelf.put(&format!("p{number}"), 100, "EUR");
        let (status, _) = carts.put(&cart, &format!("p{number}"), 1).await;
        assert_eq!(status, if number < 100 { 200 } else { 422 });
    }
    assert_eq!(carts.put(&cart, "p7", 9).await.0, 200);
    assert_eq!(carts.read(&cart).await["count"], 108);
}

#[tokio::test]
async fn carts_that_nobody_touches_are_swept_away() {
    let carts = carts().await;
    let (old, young) = (carts.create().await, carts.create().await);
    carts.put(&old, "mug", 1).await;
    let id = old.trim_start_matches("/carts/").to_owned();
    let age = "UPDATE carts SET updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-31 days') WHERE id = ?1";
    carts.pool.write(move |transaction| transaction.execute(age, [id])).await.unwrap();
    carts.create().await;
    assert_eq!(carts.send("GET", &old, None).await.0, 404);
    assert_eq!(carts.send("GET", &young, None).await.0, 200);
}

#[tokio::test]
async fn the_document_has_every_route() {
    let carts = carts().await;
    let paths = api::paths(&carts.pool);
    let differences = openapi::differences(carts.router.clone(), &paths, api::DOCUMENT).await.unwrap();
    assert_eq!(differences, Vec::<String>::new());
}

#[tokio::test]
async fn others_are_told_of_each_line_and_not_whose_cart_it_is() {
    let carts = carts().await;
    let cart = carts.create().await;
    carts.put(&cart, "lamp", 2).await;
    carts.put(&cart, "lamp", 2).await;
    carts.put(&cart, "lamp", 3).await;
    carts.put(&cart, "none", 3).await;
    carts.put(&cart, "mug", 1).await;
    carts.send("DELETE", &format!("{cart}/items/lamp"), None).await;
    carts.send("DELETE", &format!("{cart}/items/lamp"), None).await;
    carts.send("DELETE", &cart, None).await;
    let (told, sessions) = carts.told().await;
    let expected = [
        "cart.line.added lamp 2",
        "cart.line.changed lamp 3",
        "cart.line.added mug 1",
        "cart.line.removed lamp 0",
        "cart.line.removed mug 0",
    ];
    assert_eq!(told, expected);
    let id = cart.strip_prefix("/carts/").unwrap();
    assert!(sessions.iter().all(|session| *session == store_kit::session::of_cart(id)));
}

#[tokio::test]
async fn a_visitor_may_bring_the_id_of_the_cart() {
    let carts = carts().await;
    let id = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
    let (status, cart, _) = carts.send("POST", "/carts", Some(json!({ "id": id }))).await;
    assert_eq!((status, &cart["id"]), (StatusCode::CREATED, &json!(id)));
    carts.put(&format!("/carts/{id}"), "mug", 2).await;
    let (status, cart, headers) = carts.send("POST", "/carts", Some(json!({ "id": id }))).await;
    assert_eq!((status, &cart["count"]), (StatusCode::OK, &json!(2)));
    assert_eq!(headers[header::LOCATION], format!("carts/{id}"));
    for wrong in [json!({ "id": "mine" }), json!({}), json!({ "id": id, "more": 1 })] {
        let (status, _, _) = carts.send("POST", "/carts", Some(wrong)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    }
}
