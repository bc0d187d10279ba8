//! Requests and answers on their way through: bodies, framings, headers, filters, reuse of connections.

use proxy::{Filter, HeaderEdits, PathRewrite};
use testkit::client::Client;
use testkit::server::{Answer, Server};
use tokio::io::{AsyncReadExt, BufReader};

use crate::support::{Proxy, all_to, filtered, limits, route, snapshot};

/// Says what it was asked, one line a fact.
async fn echo() -> Server {
    Server::http(|request| {
        let fields: Vec<String> = request.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let trailers: Vec<String> = request.trailers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let body = request.text();
        Answer::ok(format!("{}\n{}\n\n{body}\n{}", request.start, fields.join("\n"), trailers.join("\n")))
    })
    .await
}

#[tokio::test]
async fn every_framing_of_a_request_arrives() {
    let origin = echo().await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    let plain = client.get("/a%20b?c=d&e").await.unwrap();
    assert_eq!(plain.status(), 200);
    assert!(plain.text().starts_with("GET /a%20b?c=d&e HTTP/1.1\n"), "{}", plain.text());
    let sized = client.request("POST", "/", &[], b"hello").await.unwrap();
    assert!(sized.text().contains("content-length: 5\n") && sized.text().contains("\n\nhello"), "{}", sized.text());
    let chunked = "PUT / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                   3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
    client.send(chunked).await.unwrap();
    let chunked = client.response().await.unwrap().text();
    assert!(chunked.contains("transfer-encoding: chunked\n") && chunked.ends_with("\n\nabcde\nx-sum: 5"), "{chunked}");
    client.send("GET / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n").await.unwrap();
    assert!(client.response().await.unwrap().text().contains("\n\nx\n"), "even a GET may have a body");
    assert_eq!(origin.connections(), 1, "one client's requests share a connection");
    proxy.stop().await;
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connection() {
    let origin = Server::http(|request| match request.second() {
        "/204" => Answer::status(204),
        "/304" => Answer::status(304).with("etag", "\"1\""),
        _ => Answer::ok("12345"),
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        let head = client.request("HEAD", "/", &[], &[]).await.unwrap();
        assert_eq!((head.status(), head.field("content-length")), (200, Some("5")));
        assert_eq!(client.get("/204").await.unwrap().status(), 204);
        assert_eq!(client.get("/304").await.unwrap().field("etag"), Some("\"1\""));
        assert_eq!(client.get("/").await.unwrap().text(), "12345");
    }
    assert_eq!(origin.connections(), 1);
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_in_chunks_keeps_its_trailers() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                      4\r\nwiki\r\n0\r\nx-sum: 4\r\n\r\n";
        client.send(answer).await.unwrap();
        let _ = client.head().await;
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let answer = proxy.client().await.request("GET", "/", &[("te", "trailers")], &[]).await.unwrap();
    assert_eq!(answer.text(), "wiki");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "4".to_owned())]);
    assert_eq!((answer.field("via"), answer.field("date").is_some()), (Some("1.1 atoll"), true));
    proxy.stop().await;
}

#[tokio::test]
async fn expectations_are_met_once_an_upstream_takes_the_body() {
    let origin = echo().await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), 100);
    client.send("ok").await.unwrap();
    let answer = client.response().await.unwrap();
    assert!(answer.text().contains("\n\nok") && !answer.text().contains("expect:"), "{}", answer.text());
    // Nobody takes this one, so nobody asks for it.
    let mut client = Client::connect(proxy.gateway).await;
    client.send("POST /../ HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), 400);
    proxy.stop().await;
}

#[tokio::test]
async fn old_clients_and_odd_targets_are_served() {
    let origin = echo().await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("GET /old HTTP/1.0\r\n\r\n").await.unwrap();
    let old = client.response().await.unwrap();
    assert!(old.start.starts_with("HTTP/1.0 200"), "{}", old.start);
    assert!(old.text().starts_with("GET /old HTTP/1.1\n") && old.text().contains("via: 1.0 atoll"), "{}", old.text());
    let mut client = proxy.client().await;
    client.send("GET http://other.test:81/x HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let absolute = client.response().await.unwrap().text();
    assert!(absolute.starts_with("GET /x HTTP/1.1\n") && absolute.contains("host: other.test:81\n"), "{absolute}");
    assert!(!absolute.contains("host: test\n"), "{absolute}");
    let options = client.request("OPTIONS", "*", &[], &[]).await.unwrap();
    assert_eq!(options.status(), 204);
    assert!(options.field("allow").unwrap().contains("GET"));
    proxy.stop().await;
}

#[tokio::test]
async fn context_is_made_at_the_gateway_and_kept_at_an_edge() {
    let origin = echo().await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fields = [("traceparent", trace), ("x-request-id", "r-1"), ("atoll-deadline", "700"), ("atoll-x", "1")];
    let answer = proxy.client().await.request("GET", "/", &fields, &[]).await.unwrap();
    let seen = answer.text();
    assert!(seen.contains("x-request-id: r-1\n") && answer.field("x-request-id") == Some("r-1"), "{seen}");
    assert!(seen.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-") && !seen.contains(trace), "{seen}");
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\n") && !seen.contains("atoll-x"), "{seen}");
    let deadline = |seen: &str| -> u64 {
        let line = seen.lines().find_map(|line| line.strip_prefix("atoll-deadline: ")).expect("a deadline");
        line.parse().unwrap()
    };
    assert!((9_000..=10_000).contains(&deadline(&seen)), "the client's own deadline does not count: {seen}");
    let mut caller = Client::connect(proxy.edge).await;
    let seen = caller.request("GET", "/", &fields, &[]).await.unwrap().text();
    assert!(seen.contains("atoll-x: 1\n") && deadline(&seen) <= 700, "{seen}");
    let made = proxy.client().await.get("/").await.unwrap();
    assert_eq!(made.field("x-request-id").map(str::len), Some(36));
    proxy.stop().await;
}

#[tokio::test]
async fn filters_change_request_and_answer() {
    let origin = Server::http(|request| {
        let host = request.field("host").unwrap_or_default();
        let added = request.field("x-added").unwrap_or("none");
        Answer::ok(format!("{} {host} {added}", request.second())).with("server", "secret")
    })
    .await;
    let set = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into_iter().collect();
    let prefix = |path: &str| Some(PathRewrite::Prefix(path.to_owned()));
    let rewriting = filtered(
        route("api", "/api", "a"),
        vec![
            Filter::UrlRewrite { hostname: Some("in.test".to_owned()), path: prefix("/v1") },
            Filter::RequestHeaders(HeaderEdits { set: set("x-added", "yes"), ..HeaderEdits::default() }),
            Filter::ResponseHeaders(HeaderEdits { remove: vec!["server".to_owned()], ..HeaderEdits::default() }),
        ],
    );
    let redirect =
        Filter::RequestRedirect { scheme: None, hostname: None, port: None, path: prefix("/api"), status: 308 };
    let redirecting = filtered(route("old", "/old", "a"), vec![redirect]);
    let proxy = Proxy::start(limits(), snapshot(1, vec![rewriting, redirecting], &[origin.address])).await;
    let mut client = proxy.client().await;
    let rewritten = client.get("/api/orders?n=1").await.unwrap();
    assert_eq!(rewritten.text(), "/v1/orders?n=1 in.test yes");
    assert_eq!(rewritten.field("server"), None);
    let redirected = client.get("/old/orders?n=1").await.unwrap();
    assert_eq!(redirected.status(), 308);
    assert_eq!(redirected.field("location"), Some("http://test/api/orders?n=1"));
    assert_eq!(origin.requests(), 1);
    proxy.stop().await;
}

#[tokio::test]
async fn ten_thousand_requests_use_a_handful_of_connections() {
    let origin = Server::http(|_| Answer::ok("x")).await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let clients = (0..10).map(|_| async {
        let mut client = proxy.client().await;
        for _ in 0..1_000 {
            assert_eq!(client.get("/").await.unwrap().text(), "x");
        }
    });
    futures_util::future::join_all(clients).await;
    assert_eq!(origin.requests(), 10_000);
    assert!(origin.connections() <= 20, "{}", origin.connections());
    assert_eq!(proxy.handle.counters().requests, 10_000);
    assert_eq!(proxy.handle.counters().upstream_connections, origin.connections() as u64);
    proxy.stop().await;
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order() {
    let origin = Server::http(|request| Answer::ok(request.second())).await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    let requests: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: t\r\n\r\n")).collect();
    client.send(requests).await.unwrap();
    for n in 0..20 {
        assert_eq!(client.response().await.unwrap().text(), format!("/{n}"));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_of_1_0_keeps_its_connection_where_it_asks_to() {
    let origin = Server::http(|_| Answer::ok("x")).await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.unwrap();
        let answer = client.response().await.unwrap();
        assert!(answer.start.starts_with("HTTP/1.0 200"), "{}", answer.start);
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("x", Some("keep-alive")));
    }
    client.send("GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "x");
    assert_eq!(client.stream.read(&mut [0; 8]).await.unwrap(), 0, "without the wish it is closed");
    proxy.stop().await;
}

#[tokio::test]
async fn early_hints_are_passed_on_to_who_understands_them() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        while client.head().await.is_ok() {
            let asked = "HTTP/1.1 100 Continue\r\n\r\n";
            let hints = "HTTP/1.1 103 Early Hints\r\nlink: </x.css>\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n".repeat(2);
            client.send(format!("{asked}{hints}HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        for _ in 0..2 {
            let hints = client.head().await.unwrap();
            assert_eq!((hints.status(), hints.field("link"), hints.field("x-hop")), (103, Some("</x.css>"), None));
        }
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "x"));
    }
    client.send("GET / HTTP/1.0\r\nhost: t\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status(), 200, "HTTP/1.0 knows no interim responses");
    assert_eq!(origin.connections(), 1);
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_of_http_1_0_is_told_that_content_without_a_length_ends_with_the_connection() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        while let Ok(request) = client.head().await {
            let rest = match request.second() {
                "/chunks" => "transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                _ => "content-length: 2\r\n\r\nok",
            };
            client.send(format!("HTTP/1.1 200 OK\r\n{rest}")).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for (target, connection) in [("/", "keep-alive"), ("/chunks", "close")] {
        client.send(format!("GET {target} HTTP/1.0\r\nhost: t\r\nconnection: keep-alive\r\n\r\n")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert!(answer.start.starts_with("HTTP/1.0 200"), "{}", answer.start);
        assert_eq!((answer.text().as_str(), answer.all("connection")), ("ok", vec![connection]));
    }
    assert!(client.head().await.is_err(), "the connection has ended");
    proxy.stop().await;
}
