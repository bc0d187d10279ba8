//! The access log, as whoever reads it sees it.

use expect_test::expect;
use proxy::{Config, bind};
use serde_json::Value;
use testkit::client::Client;
use testkit::server::{Answer, Server};

use crate::support::{Proxy, all_to, limits};

/// The keys of a line in their order, with what is the same in every run.
fn shape(line: &Value) -> String {
    let object = line.as_object().unwrap();
    let stable = |(key, value): (&String, &Value)| match key.as_str() {
        "ts" => format!("ts: {} characters", value.as_str().unwrap().len()),
        "client" => format!("client: {}", value.as_str().unwrap().split(':').next().unwrap()),
        "duration_ms" | "upstream_ms" if value.is_f64() => format!("{key}: a number"),
        _ => format!("{key}: {value}"),
    };
    object.iter().map(stable).collect::<Vec<_>>().join("\n") + "\n"
}

#[tokio::test]
async fn each_request_leaves_one_line_without_secrets() {
    let origin = Server::http(|_| Answer::ok("12345")).await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let fields = [trace, ("x-request-id", "r-1")];
    let mut caller = Client::connect(proxy.edge).await;
    caller.request("POST", "/pay?card=secret", &fields, b"abc").await.unwrap();
    proxy.client().await.request("GET", "/%2f", &[("x-request-id", "r-2"), trace], &[]).await.unwrap();
    let lines = proxy.lines(2).await;
    let line = |listener: &str| shape(lines.iter().find(|line| line["listener"] == listener).unwrap());
    expect![[r#"
        ts: 24 characters
        listener: "edge"
        role: "cart"
        client: 127.0.0.1
        method: "POST"
        host: "test"
        path: "/pay"
        route: "cart→a"
        service: "a"
        instance: 0
        status: 200
        reason: null
        attempts: 1
        bytes_in: 3
        bytes_out: 5
        duration_ms: a number
        upstream_ms: a number
        request_id: "r-1"
        trace_id: "0af7651916cd43dd8448eb211c80319c"
    "#]]
    .assert_eq(&line("edge"));
    expect![[r#"
        ts: 24 characters
        listener: "gateway"
        role: "gateway"
        client: 127.0.0.1
        method: "GET"
        host: ""
        path: "/%2f"
        route: null
        service: null
        instance: null
        status: 400
        reason: "bad_path"
        attempts: 0
        bytes_in: 0
        bytes_out: 154
        duration_ms: a number
        upstream_ms: null
        request_id: "r-2"
        trace_id: "0af7651916cd43dd8448eb211c80319c"
    "#]]
    .assert_eq(&line("gateway"));
    assert!(!format!("{lines:?}").contains("secret"));
    proxy.stop().await;
}

#[tokio::test]
async fn lines_that_nobody_takes_are_dropped_and_counted() {
    let (access, batches) = tokio::sync::mpsc::channel(1);
    drop(batches);
    let listeners = vec![("gateway".to_owned(), std::net::SocketAddr::from(([127, 0, 0, 1], 0)))];
    let bound = bind(Config { cores: 1, listeners, limits: limits(), access: Some(access) }).unwrap();
    let (handle, address) = (bound.handle(), bound.addresses()["gateway"]);
    let (token, _ready) = kit::readiness::channel();
    let (trigger, watch) = kit::drain::channel();
    let run = tokio::spawn(bound.run(token, watch));
    assert_eq!(Client::connect(address).await.get("/").await.unwrap().status(), 404);
    trigger.start();
    run.await.unwrap().unwrap();
    assert_eq!(handle.counters().access_lines_dropped, 1);
}
