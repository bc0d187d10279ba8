//! A search over SQLite with the real migrations, told of the catalog's own products by its own events.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::path::Path;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use rusqlite::Connection;
use search::api;
use serde_json::Value;
use store_kit::{Pool, server};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// Events that are on their way at once.
const CONCURRENCY: usize = 64;

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) pool: Pool,
    _folder: TempDir,
}

/// Type and data.
pub(crate) type Event = (String, Value);

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("search.db");
        migrate(&path, Path::new(env!("CARGO_MANIFEST_DIR")));
        let pool = Pool::open(&path).unwrap();
        Self { router: server::around(api::router(pool.clone())), pool, _folder: folder }
    }

    /// With everything that the catalog sells.
    pub(crate) async fn full() -> Self {
        let world = Self::new();
        world.tell_all(catalog_events()).await;
        world
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        answer(self.router.clone(), request).await
    }

    /// Finds words; the path may go on with further parameters.
    pub(crate) async fn find(&self, words: &str, more: &str) -> Value {
        let path = format!("/search?q={}{more}", store_kit::client::escape(words));
        let (status, value) = self.get(&path).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    pub(crate) async fn tell(&self, kind: &str, data: &Value) -> StatusCode {
        answer(self.router.clone(), event(kind, data)).await.0
    }

    /// Once more, as `atoll replay` has it told.
    pub(crate) async fn replay(&self, kind: &str, data: &Value) -> StatusCode {
        let mut request = event(kind, data);
        request.headers_mut().insert("atoll-replayed", header::HeaderValue::from_static("true"));
        answer(self.router.clone(), request).await.0
    }

    /// Many at once, as they come with a key.
    pub(crate) async fn tell_all(&self, events: &[Event]) {
        let mut sent = JoinSet::new();
        for (kind, data) in events {
            while sent.len() >= CONCURRENCY {
                assert_eq!(sent.join_next().await.unwrap().unwrap(), StatusCode::NO_CONTENT);
            }
            let (router, request) = (self.router.clone(), event(kind, data));
            sent.spawn(async move { answer(router, request).await.0 });
        }
        while let Some(done) = sent.join_next().await {
            assert_eq!(done.unwrap(), StatusCode::NO_CONTENT);
        }
    }
}

fn event(kind: &str, data: &Value) -> Request<Body> {
    let request = Request::builder().method("POST").uri("/events/products");
    let request = request.header("ce-type", kind).header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(data.to_string())).unwrap()
}

async fn answer(router: Router, request: Request<Body>) -> (StatusCode, Value) {
    let (head, body) = router.oneshot(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (head.status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// What the catalog tells when it opens.
pub(crate) fn catalog_events() -> &'static [Event] {
    static EVENTS: LazyLock<Vec<Event>> = LazyLock::new(open_catalog);
    &EVENTS
}

fn open_catalog() -> Vec<Event> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    migrate(&path, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../catalog"));
    let mut connection = Connection::open(&path).unwrap();
    let transaction = connection.transaction().unwrap();
    catalog::seed::fill(&transaction).unwrap();
    transaction.commit().unwrap();
    let mut rows = connection.prepare("SELECT topic, data FROM outbox ORDER BY id").unwrap();
    let rows = rows.query_map([], |row| {
        let data: String = row.get(1)?;
        Ok((row.get(0)?, serde_json::from_str(&data).unwrap()))
    });
    rows.unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

fn migrate(path: &Path, service: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    let folder = service.join("migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        connection.execute_batch(&std::fs::read_to_string(file).unwrap()).unwrap();
    }
}
