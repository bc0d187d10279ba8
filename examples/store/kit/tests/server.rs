//! Server and client of the kit against each other, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::{HeaderMap, Method, StatusCode};
use rusqlite::Connection;
use serde_json::{Value, json};
use store_kit::context::Context;
use store_kit::json::Body;
use store_kit::{Client, Pool, client, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

struct Service {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

async fn start(router: Router) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let stop_asked = async {
        let _ = stopped.await;
    };
    let running = tokio::spawn(server::serve(listener, server::around(router), stop_asked));
    Service { address, stop, running }
}

impl Service {
    fn client(&self) -> Client {
        Client::new("upstream", &format!("http://{}", self.address).parse().unwrap())
    }

    /// Sends bytes as they are, and reads until the server closes.
    async fn exchange(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_stop_lets_the_request_finish_and_closes_kept_connections() {
    let (begun, release) = (std::sync::Arc::new(Notify::new()), std::sync::Arc::new(Notify::new()));
    let slow = {
        let (begun, release) = (begun.clone(), release.clone());
        get(move || async move {
            begun.notify_one();
            release.notified().await;
            "done"
        })
    };
    let service = start(Router::new().route("/slow", slow).route("/livez", server::livez())).await;
    let idle = service.client();
    assert_eq!(idle.get("/livez").await.unwrap().status, 200);
    let client = service.client();
    let request = tokio::spawn(async move { client.get("/slow").await.map(|answer| answer.status) });
    begun.notified().await;
    service.stop.send(()).unwrap();
    let refused = async {
        while TcpStream::connect(service.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    assert!(!service.running.is_finished());
    release.notify_one();
    assert_eq!(request.await.unwrap().unwrap(), 200);
    tokio::time::timeout(Duration::from_secs(5), service.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_carries_the_context_of_the_request_it_is_made_for() {
    let show = get(|headers: HeaderMap| async move {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        axum::Json(
            json!({ "trace": header("traceparent"), "id": header("x-request-id"), "left": header("atoll-deadline") }),
        )
    });
    let inner = start(Router::new().route("/", show)).await;
    let client = inner.client();
    let outer = start(
        Router::new()
            .route("/", get(|| async move { axum::Json(client.get("/").await.unwrap().json::<Value>().unwrap()) })),
    )
    .await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntraceparent: 00-1-2-01\r\nx-request-id: r9\r\natoll-deadline: 700\r\n\r\n";
    let answer = outer.exchange(request).await;
    let seen: Value = serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap();
    assert_eq!((&seen["trace"], &seen["id"]), (&json!("00-1-2-01"), &json!("r9")));
    let left: u64 = seen["left"].as_str().unwrap().parse().unwrap();
    assert!((1..=630).contains(&left), "{left}");
}

#[tokio::test]
async fn a_call_ends_at_the_deadline() {
    let never = get(|| async { std::future::pending::<&str>().await });
    let service = start(Router::new().route("/", never)).await;
    let headers = HeaderMap::from_iter([("atoll-deadline".parse().unwrap(), "40".parse().unwrap())]);
    let client = service.client();
    let called = Context::of(&headers).enter(async { client.get("/").await.map(|answer| answer.status) }).await;
    let error = called.unwrap_err();
    // Whichever of the two is first: the caller's clock, or the answer of the server, which has the same deadline.
    let is_told = matches!(error, client::Error::Status { status: StatusCode::GATEWAY_TIMEOUT, .. });
    assert!(is_told || matches!(error, client::Error::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn whatever_goes_wrong_is_a_problem_document() {
    let echo = post(|Body(body): Body<Value>| async move { axum::Json(body) });
    let broken = get(|| async { (StatusCode::BAD_GATEWAY, "text").into_response() });
    let service = start(Router::new().route("/echo", echo).route("/broken", broken)).await;
    let body = format!("\"{}\"", "x".repeat(server::BODY_BYTES_MAX));
    let post = |kind: &str, body: &str| {
        let length = body.len();
        format!(
            "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    for (request, status) in [
        (get("/nothing"), 404),
        (get("/echo"), 405),
        (get("/broken"), 502),
        (post("application/json", "{"), 400),
        (post("text/plain", "{}"), 415),
        (post("application/json", &body), 413),
    ] {
        let answer = service.exchange(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{answer}");
        assert!(answer.contains(&format!("\"status\":{status}")), "{answer}");
    }
    assert!(service.exchange(&get("/echo")).await.contains("allow: POST"));
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_an_error_with_its_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::new("upstream", &format!("http://{address}").parse().unwrap());
    let error = client.send_json(Method::PUT, "/x", &json!({})).await.unwrap_err();
    assert!(matches!(error, client::Error::Call { upstream: "upstream", .. }), "{error}");
}

#[tokio::test]
async fn readiness_is_lost_with_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (n INTEGER) STRICT").unwrap();
    let service = start(Router::new().route("/readyz", server::readyz(Pool::open(&path).unwrap()))).await;
    let request = "GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    assert!(service.exchange(request).await.starts_with("HTTP/1.1 200 "));
    std::fs::write(&path, "this was a database, and now it is a text of some length".repeat(80)).unwrap();
    assert!(service.exchange(request).await.starts_with("HTTP/1.1 503 "));
}
