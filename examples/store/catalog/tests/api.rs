//! The catalog as a client sees it: the real router over SQLite with the real migrations.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::path::Path;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use catalog::{api, seed};
use http_body_util::BodyExt;
use rusqlite::Connection;
use serde_json::{Value, json};
use store_kit::{Pool, openapi, server};
use tower::ServiceExt;

struct Shop {
    router: Router,
    pool: Pool,
    folder: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// Checks that it is a problem, and gives the parameter that it names.
    fn problem(&self, status: u16) -> Option<String> {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header(header::CONTENT_TYPE), "application/problem+json");
        assert_eq!(self.json()["status"], status);
        self.json()["parameter"].as_str().map(str::to_owned)
    }
}

fn migrate(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        connection.execute_batch(&std::fs::read_to_string(file).unwrap()).unwrap();
    }
}

async fn shop() -> Shop {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    migrate(&path);
    let pool = Pool::open(&path).unwrap();
    pool.write(seed::fill).await.unwrap();
    Shop { router: server::around(api::router(pool.clone())), pool, folder }
}

impl Shop {
    async fn send(&self, method: &str, path: &str, headers: &[(header::HeaderName, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let response = self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        Answer { status: head.status, headers: head.headers, text }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()["items"].as_array().unwrap().clone()
    }
}

fn draft() -> Value {
    json!({
        "name": "Tin Mug", "description": "A mug of tin.", "category": "mugs", "brand": "Kiln Street",
        "attributes": { "color": "Red" }, "price": 1290, "currency": "EUR",
    })
}

#[tokio::test]
async fn the_shop_opens_with_more_than_two_thousand_products_in_pages() {
    let shop = shop().await;
    let first = shop.get("/products?limit=3").await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    assert!(first["total"].as_u64().unwrap() > 2000);
    let next = format!("/products{}", first["next"].as_str().unwrap());
    let second = shop.get(&next).await.json();
    assert_ne!(first["items"][0]["id"], second["items"][0]["id"]);
    let past = shop.get("/products?limit=100&page=100").await.json();
    assert_eq!((&past["items"], &past["next"]), (&json!([]), &Value::Null));
}

#[tokio::test]
async fn the_pages_of_a_list_have_every_product_once() {
    let shop = shop().await;
    let mut path = "/products?limit=50&category=living&sort=price".to_owned();
    let (mut ids, mut prices) = (Vec::new(), Vec::new());
    let total = loop {
        let page = shop.get(&path).await.json();
        for item in page["items"].as_array().unwrap() {
            ids.push(item["id"].as_str().unwrap().to_owned());
            prices.push(item["price"].as_i64().unwrap());
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/products{next}"),
            None => break page["total"].as_u64().unwrap(),
        }
    };
    assert!(prices.is_sorted());
    assert_eq!(ids.len() as u64, total);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len() as u64, total);
}

#[tokio::test]
async fn two_instances_that_start_at_once_fill_the_catalog_once_and_alike() {
    let [one, other] = [shop().await, shop().await];
    let again = Pool::open(&one.folder.path().join("catalog.db")).unwrap();
    let (first, second) = tokio::join!(one.pool.write(seed::fill), again.write(seed::fill));
    assert!(first.is_ok() && second.is_ok());
    let listing = "/products?limit=100&page=7&sort=name";
    assert_eq!(one.get(listing).await.text, other.get(listing).await.text);
}

#[tokio::test]
async fn filters_hold_for_every_item() {
    let shop = shop().await;
    let brand = shop.items("/brands").await[0]["name"].as_str().unwrap().replace(' ', "%20").replace('&', "%26");
    let path = format!("/products?brand={brand}&min_price=2000&max_price=9000&sort=-price");
    let items = shop.items(&path).await;
    assert!(!items.is_empty());
    assert!(items.iter().all(|item| (2000..=9000).contains(&item["price"].as_i64().unwrap())));
    assert!(items.is_sorted_by(|a, b| a["price"].as_i64() >= b["price"].as_i64()));
    let found = shop.items("/products?q=sage%20MUG&limit=100").await;
    assert!(!found.is_empty());
    for item in found {
        assert_eq!((&item["category"], &item["attributes"]["color"]), (&json!("mugs"), &json!("Sage")));
    }
    for hostile in ["%25", "_", "%27%3B--", "%00", "%5C", "%22"] {
        assert_eq!(shop.items(&format!("/products?q=zz{hostile}")).await.len(), 0, "{hostile}");
    }
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let shop = shop().await;
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=a", "limit"),
        ("page=0", "page"),
        ("page=99999999999999999999", "page"),
        ("sort=colour", "sort"),
        ("min_price=-1", "min_price"),
        ("min_price=9&max_price=3", "min_price"),
        ("category=boats", "category"),
        ("colour=red", "colour"),
        ("limit=1&limit=2", "limit"),
        ("ids=a&limit=2", "limit"),
    ] {
        let answer = shop.get(&format!("/products?{query}")).await;
        assert_eq!(answer.problem(400).as_deref(), Some(parameter), "{query}");
    }
}

#[tokio::test]
async fn a_batch_comes_in_the_order_asked_for() {
    let shop = shop().await;
    let items = shop.items("/products?limit=2").await;
    let (a, b) = (items[0]["id"].as_str().unwrap(), items[1]["id"].as_str().unwrap());
    let batch = shop.items(&format!("/products?ids={b},nothing,{a}")).await;
    assert_eq!(batch, [items[1].clone(), items[0].clone()]);
    let many = vec!["x"; 101].join(",");
    assert_eq!(shop.get(&format!("/products?ids={many}")).await.problem(400).as_deref(), Some("ids"));
}

#[tokio::test]
async fn a_copy_that_is_still_right_is_not_sent_again() {
    let shop = shop().await;
    let item = &shop.items("/products?limit=1").await[0];
    let path = format!("/products/{}", item["id"].as_str().unwrap());
    let answer = shop.get(&path).await;
    assert_eq!(answer.json(), *item);
    let tag = answer.header(header::ETAG).to_owned();
    let again = shop.send("GET", &path, &[(header::IF_NONE_MATCH, &tag)], "").await;
    assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    let by_slug = shop.get(&format!("/products/{}", item["slug"].as_str().unwrap())).await;
    assert_eq!(by_slug.json(), *item);
    shop.get("/products/none").await.problem(404);
}

#[tokio::test]
async fn a_product_is_created_changed_and_deleted_by_its_version() {
    let shop = shop().await;
    let created = shop.send("POST", "/products", &[], &draft().to_string()).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let path = format!("/{}", created.header(header::LOCATION));
    let tag = created.header(header::ETAG).to_owned();
    assert_eq!(shop.get(&path).await.json(), created.json());

    let mut dearer = draft();
    dearer["price"] = json!(1490);
    let dearer = dearer.to_string();
    assert_eq!(shop.send("PUT", &path, &[], &dearer).await.problem(428).as_deref(), Some("If-Match"));
    let changed = shop.send("PUT", &path, &[(header::IF_MATCH, &tag)], &dearer).await;
    assert_eq!((changed.status, &changed.json()["price"]), (StatusCode::OK, &json!(1490)));
    shop.send("PUT", &path, &[(header::IF_MATCH, &tag)], &dearer).await.problem(412);
    shop.send("DELETE", &path, &[(header::IF_MATCH, &tag)], "").await.problem(412);
    shop.send("DELETE", &path, &[], "").await.problem(428);
    let tag = changed.header(header::ETAG).to_owned();
    assert_eq!(shop.send("DELETE", &path, &[(header::IF_MATCH, &tag)], "").await.status, 204);
    shop.send("DELETE", &path, &[(header::IF_MATCH, &tag)], "").await.problem(404);
    shop.get(&path).await.problem(404);
}

#[tokio::test]
async fn a_wrong_body_says_what_is_wrong() {
    let shop = shop().await;
    let with = |field: &str, value: Value| {
        let mut draft = draft();
        draft[field] = value;
        draft.to_string()
    };
    shop.send("POST", "/products", &[], "{").await.problem(400);
    shop.send("POST", "/products", &[], "{}").await.problem(422);
    shop.send("POST", "/products", &[], &with("colour", json!("red"))).await.problem(422);
    shop.send("POST", "/products", &[], &with("price", json!(1.5))).await.problem(422);
    shop.send("POST", "/products", &[], &with("name", json!("x".repeat(70_000)))).await.problem(413);
    for (field, value) in [("price", json!(-1)), ("category", json!("living")), ("category", json!("boats"))] {
        let answer = shop.send("POST", "/products", &[], &with(field, value)).await;
        assert_eq!(answer.problem(422).as_deref(), Some(field));
    }
    shop.send("PATCH", "/products", &[], "").await.problem(405);
    shop.get("/nothing").await.problem(404);
    shop.get("/products/%ff").await.problem(400);
}

#[tokio::test]
async fn every_product_has_an_image_that_caches_well() {
    let shop = shop().await;
    for category in shop.items("/categories").await {
        let answer = shop.get(category["image"].as_str().unwrap()).await;
        assert_eq!((answer.status, answer.header(header::CONTENT_TYPE)), (StatusCode::OK, "image/svg+xml"));
        assert!(answer.header(header::CACHE_CONTROL).contains("max-age=2592000"));
        assert!(answer.text.starts_with("<svg"));
    }
    let path = shop.items("/products?limit=1").await[0]["image"].as_str().unwrap().to_owned();
    let tag = shop.get(&path).await.header(header::ETAG).to_owned();
    assert_eq!(shop.send("GET", &path, &[(header::IF_NONE_MATCH, &tag)], "").await.status, 304);
    shop.get("/images/none.svg").await.problem(404);
    shop.get("/images/..%2fcatalog.db").await.problem(404);
}

#[tokio::test]
async fn categories_count_what_is_below_them() {
    let shop = shop().await;
    let categories = shop.items("/categories").await;
    let count = |wanted: &dyn Fn(&Value) -> bool| {
        categories.iter().filter(|c| wanted(c)).map(|c| c["count"].as_u64().unwrap()).sum::<u64>()
    };
    let all = shop.get("/products?limit=1").await.json()["total"].as_u64().unwrap();
    assert_eq!(count(&|category| category["parent"].is_null()), all);
    assert_eq!(count(&|category| !category["parent"].is_null()), all);
}

#[tokio::test]
async fn the_document_has_every_route() {
    let shop = shop().await;
    let paths = api::paths(&shop.pool);
    let differences = openapi::differences(shop.router.clone(), &paths, api::DOCUMENT).await.unwrap();
    assert_eq!(differences, Vec::<String>::new());
}

/// Topic, subject and data of the events that wait, in order.
async fn outbox(shop: &Shop) -> Vec<(String, String, Value)> {
    let read = |connection: &Connection| {
        let mut rows = connection.prepare("SELECT topic, subject, data FROM outbox ORDER BY id")?;
        rows.query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, serde_json::from_str(&row.get::<_, String>(2)?).unwrap()))
        })?
        .collect()
    };
    shop.pool.read(read).await.unwrap()
}

#[tokio::test]
async fn others_are_told_of_every_product_as_it_became() {
    let shop = shop().await;
    let seeded = outbox(&shop).await;
    let total = shop.get("/products?limit=1").await.json()["total"].as_u64().unwrap();
    assert_eq!(seeded.len() as u64, total);
    assert!(seeded.iter().all(|(topic, subject, data)| topic == "catalog.product.created" && data["id"] == **subject));

    let created = shop.send("POST", "/products", &[], &draft().to_string()).await;
    let path = format!("/{}", created.header(header::LOCATION));
    let mut dearer = draft();
    dearer["price"] = json!(1490);
    let tag = created.header(header::ETAG).to_owned();
    let changed = shop.send("PUT", &path, &[(header::IF_MATCH, &tag)], &dearer.to_string()).await;
    // What is refused is no event.
    shop.send("PUT", &path, &[(header::IF_MATCH, &tag)], &dearer.to_string()).await.problem(412);
    shop.send("DELETE", &path, &[(header::IF_MATCH, "*")], "").await;
    let events = outbox(&shop).await.split_off(seeded.len());
    let id = created.json()["id"].as_str().unwrap().to_owned();
    let expected = [("created", created.json()), ("changed", changed.json()), ("removed", changed.json())];
    assert_eq!(events, expected.map(|(what, data)| (format!("catalog.product.{what}"), id.clone(), data)));
}

#[tokio::test]
async fn a_catalog_of_before_tells_of_its_products_too() {
    let shop = shop().await;
    let migration = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/0003_outbox.sql");
    let migration = std::fs::read_to_string(migration).unwrap();
    let told = outbox(&shop).await;
    shop.pool.write(move |t| t.execute_batch(&format!("DROP TABLE outbox; {migration}"))).await.unwrap();
    let sorted = |mut events: Vec<(String, String, Value)>| {
        events.sort_by(|a, b| a.1.cmp(&b.1));
        events
    };
    assert_eq!(sorted(outbox(&shop).await), sorted(told));
}
