//! Each test speaks to a real server on a port of its own.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::routing::get;
use hello_service::serve;
use hello_service::upstream::{Context, Upstream};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, base)
}

fn request(method: &str, address: String) -> Request<Body> {
    Request::builder().method(method).uri(address).body(Body::empty()).expect("a request")
}

#[tokio::test]
async fn it_says_hello_refuses_and_stops() {
    let (listener, base) = listen().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, async {
        let _ = stopped.await;
    }));
    let upstream = Upstream::default();
    let context = Context::default();
    let body = upstream.call(&context, request("GET", format!("{base}/hello?name=Ada"))).await.expect("an answer");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["message"], "Hello, Ada!");
    upstream.call(&context, request("GET", format!("{base}/readyz"))).await.expect("ready");
    let long = format!("/hello?name={}", "x".repeat(101));
    for (method, path, status) in [("GET", "/nothing", 404), ("DELETE", "/hello", 405), ("GET", &long, 400)] {
        let refused = upstream.call(&context, request(method, format!("{base}{path}"))).await.expect_err("a refusal");
        assert_eq!(refused.detail, format!("an upstream answered {status}"));
    }
    stop.send(()).expect("it serves");
    serving.await.expect("no panic").expect("stopped in order");
}

#[tokio::test]
async fn a_call_passes_on_the_trace_the_id_and_the_time_left() {
    let (listener, base) = listen().await;
    let echo = |headers: HeaderMap| async move {
        let shown = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        ["traceparent", "x-request-id", "atoll-deadline", "cookie"].map(shown).join(" ")
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(echo))).await });
    let mut brought = HeaderMap::new();
    let pairs = [("traceparent", "00-a-b-01"), ("x-request-id", "r1"), ("atoll-deadline", "1000"), ("cookie", "secret")];
    for (name, value) in pairs {
        brought.insert(name, HeaderValue::from_static(value));
    }
    let seen = Upstream::default().call(&Context::of(&brought), request("GET", format!("{base}/"))).await;
    let seen = String::from_utf8(seen.expect("an answer").to_vec()).expect("text");
    let words: Vec<&str> = seen.split(' ').collect();
    assert_eq!((words[0], words[1], words[3]), ("00-a-b-01", "r1", "-"));
    assert!(words[2].parse::<u64>().expect("a number") <= 900, "{seen}");
}

#[tokio::test]
async fn a_call_without_time_left_is_not_made() {
    let brought: HeaderMap = [("atoll-deadline".parse().expect("a name"), HeaderValue::from_static("0"))].into_iter().collect();
    let refused = Upstream::default().call(&Context::of(&brought), request("GET", "http://127.0.0.1:1/".to_owned())).await;
    assert_eq!(refused.expect_err("a refusal").status, StatusCode::GATEWAY_TIMEOUT);
}
