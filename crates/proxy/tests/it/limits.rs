//! Hostile and clumsy clients: each gets a clear answer or a closed connection, and nothing that runs is lost.

use std::time::Duration;

use proxy::Limits;
use testkit::client::Client;
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::support::{BOUND, Proxy, all_to, limits, problem};

async fn strict() -> (Server, Proxy) {
    let origin = Server::http(|request| Answer::ok(request.body.len().to_string())).await;
    let limits = Limits {
        head_bytes_max: 4096,
        headers_max: 20,
        uri_bytes_max: 1024,
        body_bytes_max: 1000,
        head_timeout: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(300),
        connections_max: 8,
        ..limits()
    };
    let proxy = Proxy::start(limits, all_to(&[origin.address])).await;
    (origin, proxy)
}

#[tokio::test]
async fn malformed_requests_are_refused_by_kind() {
    let (origin, proxy) = strict().await;
    let uri = format!("GET /{} HTTP/1.1\r\nhost: t\r\n\r\n", "x".repeat(1100));
    let field = format!("GET / HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "x".repeat(5000));
    let huge = format!("GET / HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nhost: t\r\n{}\r\n", "x: y\r\n".repeat(25));
    let more = format!("GET / HTTP/1.1\r\nhost: t\r\n{}\r\n", "x: y\r\n".repeat(100));
    let mut asked = Vec::new();
    // Of some nothing can be known but that they are no request: those are logged without a method.
    for (request, status, reason, is_read) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request", true),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "bad_request", true),
        ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400, "bad_request", true),
        ("GET /a/../b HTTP/1.1\r\nhost: t\r\n\r\n", 400, "bad_path", true),
        ("GET /a/%2e%2e/b HTTP/1.1\r\nhost: t\r\n\r\n", 400, "bad_path", true),
        ("GET /a%2fb HTTP/1.1\r\nhost: t\r\n\r\n", 400, "bad_path", true),
        ("GET /a%00 HTTP/1.1\r\nhost: t\r\n\r\n", 400, "bad_path", true),
        ("GET /a%zz HTTP/1.1\r\nhost: t\r\n\r\n", 400, "bad_path", true),
        (&uri, 414, "uri_too_long", false),
        (&field, 431, "head_too_large", false),
        (&many, 431, "too_many_headers", false),
        (&huge, 431, "head_too_large", false),
        (&more, 431, "too_many_headers", false),
        ("GET x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n", 400, "bad_request", true),
        ("CONNECT t:443 HTTP/1.1\r\nhost: t:443\r\n\r\n", 501, "not_implemented", true),
        ("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501, "not_implemented", true),
        ("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1001\r\n\r\n", 413, "body_too_large", true),
        ("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: -1\r\n\r\n", 400, "bad_request", true),
        ("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400, "bad_request", true),
        ("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked, gzip\r\n\r\n", 400, "bad_request", true),
        ("POST / HTTP/1.0\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n", 400, "bad_request", true),
        ("GET / HTTP/1.1\r\nhost : t\r\n\r\n", 400, "bad_request", false),
        ("GET / HTTP/1.1\r\nhost: t\r\n folded: x\r\n\r\n", 400, "bad_request", false),
        ("GET / HTTP/1.1\r\nhost: t\r\nx: \0\r\n\r\n", 400, "bad_request", false),
        ("GE T / HTTP/1.1\r\nhost: t\r\n\r\n", 400, "bad_request", false),
        ("GET / HTTP/9.9\r\nhost: t\r\n\r\n", 400, "bad_request", false),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400, "bad_request", false),
    ] {
        let mut client = proxy.client().await;
        client.send(request).await.unwrap();
        let answer = client.response().await.unwrap_or_else(|error| panic!("{request:.60}: {error}"));
        assert_eq!(problem(&answer), (status, reason.to_owned()), "{request:.60}");
        asked.push((u64::from(status), reason, !is_read));
    }
    assert_eq!(origin.requests(), 0);
    let lines = proxy.lines(asked.len()).await;
    assert!(lines.iter().all(|line| line["client"].is_string() && line["listener"] == "gateway"));
    let mut logged: Vec<_> = lines
        .iter()
        .map(|line| (line["status"].as_u64().unwrap(), line["reason"].as_str().unwrap(), line["method"].is_null()))
        .collect();
    logged.sort_unstable();
    asked.sort_unstable();
    assert_eq!(logged, asked);
    let unread = asked.iter().filter(|(_, _, is_unread)| *is_unread).count();
    assert_eq!(proxy.handle.counters().heads_refused, unread as u64);
    assert_eq!(proxy.client().await.get("/").await.unwrap().status(), 200);
    proxy.stop().await;
}

#[tokio::test]
async fn a_length_beside_chunks_is_refused_and_the_connection_closed() {
    let (origin, proxy) = strict().await;
    let mut client = proxy.client().await;
    let smuggled = "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                    1\r\nx\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: t\r\n\r\n";
    client.send(smuggled).await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!(problem(&answer), (400, "bad_request".to_owned()));
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(client.response().await.is_err());
    assert_eq!(origin.requests(), 0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_body_without_a_length_is_counted_on_its_way() {
    let (_origin, proxy) = strict().await;
    let mut client = proxy.client().await;
    let fits = format!("{:x}\r\n{}\r\n0\r\n\r\n", 1000, "x".repeat(1000));
    client.send(format!("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n{fits}")).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "1000");
    let more = format!("{:x}\r\n{}\r\n0\r\n\r\n", 200_000, "x".repeat(200_000));
    client.send("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    client.send(more).await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!(problem(&answer), (413, "body_too_large".to_owned()));
    proxy.stop().await;
}

#[tokio::test]
async fn a_refused_upload_gets_its_answer_before_the_connection_ends() {
    let (_origin, proxy) = strict().await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 8000000\r\n\r\n").await.unwrap();
    // The proxy must go on reading for a while, or a reset would take the answer away.
    let sent = client.send(vec![b'x'; 8_000_000]).await;
    let answer = client.response().await.unwrap();
    assert_eq!(problem(&answer), (413, "body_too_large".to_owned()));
    drop(sent);
    proxy.stop().await;
}

#[tokio::test]
async fn clients_that_stall_are_not_waited_for() {
    let (origin, proxy) = strict().await;
    let mut slow = proxy.client().await;
    slow.send("GET / HTTP/1.1\r\nhost:").await.unwrap();
    let answer = slow.response().await.unwrap();
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(problem(&answer), (408, "request_timeout".to_owned()));
    let mut stuck = proxy.client().await;
    stuck.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\nxxx").await.unwrap();
    assert_eq!(problem(&stuck.response().await.unwrap()), (408, "request_timeout".to_owned()));
    let mut idle = proxy.client().await;
    idle.get("/").await.unwrap();
    assert_eq!(idle.stream.read(&mut [0; 8]).await.unwrap(), 0, "closed for its idleness");
    let mut mute = proxy.client().await;
    assert_eq!(mute.stream.read(&mut [0; 8]).await.unwrap(), 0, "closed without a word said");
    assert_eq!(origin.requests(), 1);
    proxy.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let (_origin, proxy) = strict().await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut client = proxy.client().await;
        assert_eq!(client.get("/").await.unwrap().status(), 200);
        open.push(client);
    }
    let mut refused = proxy.client().await;
    let answer = refused.get("/").await.unwrap();
    assert_eq!(problem(&answer), (503, "too_many_connections".to_owned()));
    assert_eq!((answer.field("retry-after"), answer.field("connection")), (Some("1"), Some("close")));
    drop((open, refused));
    let gone = || async { (proxy.handle.counters().connections_active == 0).then_some(()) };
    wait::until("the connections to close", BOUND, gone).await;
    assert_eq!(Client::connect(proxy.gateway).await.get("/").await.unwrap().status(), 200);
    proxy.stop().await;
}

#[tokio::test]
async fn one_too_many_that_says_nothing_is_closed_soon_and_one_that_uploads_can_read_why() {
    let origin = Server::http(|_| Answer::ok("x")).await;
    let proxy = Proxy::start(Limits { connections_max: 1, ..limits() }, all_to(&[origin.address])).await;
    let mut first = proxy.client().await;
    assert_eq!(first.get("/").await.unwrap().status(), 200);
    let began = Instant::now();
    let mut silent = proxy.client().await;
    assert_eq!(silent.stream.read(&mut [0; 8]).await.unwrap(), 0);
    // Long before `idle_timeout`; at once it would reset who has just sent its request.
    assert!((Duration::from_millis(90)..BOUND).contains(&began.elapsed()), "{:?}", began.elapsed());
    let mut upload = proxy.client().await;
    upload.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 8000000\r\n\r\n").await.unwrap();
    let sent = upload.send(vec![b'x'; 1_000_000]).await;
    assert_eq!(problem(&upload.response().await.unwrap()), (503, "too_many_connections".to_owned()));
    drop(sent);
    assert_eq!(proxy.handle.read().limits["connections"], 2);
    assert_eq!(first.get("/").await.unwrap().status(), 200, "who was there first is served on");
    proxy.stop().await;
}

#[tokio::test]
async fn a_request_may_arrive_in_any_two_pieces_or_end_anywhere() {
    let (origin, proxy) = strict().await;
    let request = "POST /a%20b HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let mut client = proxy.client().await;
    for at in 1..request.len() {
        client.send(&request[..at]).await.unwrap();
        // The first piece has left this machine's half of the socket before the second is written.
        tokio::task::yield_now().await;
        client.send(&request[at..]).await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), "2", "split at {at}");
    }
    let whole = origin.requests();
    for at in 1..request.len() {
        let mut client = proxy.client().await;
        client.send(&request[..at]).await.unwrap();
    }
    let gone = || async { (proxy.handle.counters().connections_active == 1).then_some(()) };
    wait::until("the broken ones to be gone", BOUND, gone).await;
    assert_eq!(origin.requests(), whole, "half a request never counts as one");
    proxy.stop().await;
}

#[tokio::test]
async fn malformed_chunks_are_the_clients_fault_and_told() {
    let (origin, proxy) = strict().await;
    for chunks in ["x\r\n", "2\r\nabc\r\n0\r\n\r\n", "1;a\nb\r\nx\r\n", "f0000000000000003\r\nx", "1 x\r\na\r\n"] {
        let mut client = proxy.client().await;
        client.send("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        client.send(chunks).await.unwrap();
        assert_eq!(problem(&client.response().await.unwrap()), (400, "bad_request".to_owned()), "{chunks:?}");
    }
    let lines = proxy.lines(5).await;
    assert!(lines.iter().all(|line| line["reason"] == "bad_request" && line["status"] == 400), "{lines:?}");
    assert_eq!(origin.requests(), 0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_told_while_somebody_listens() {
    let (origin, proxy) = strict().await;
    let cut = ["content-length: 10\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n5\r\nabc"];
    for rest in cut {
        let mut client = proxy.client().await;
        client.send(format!("POST / HTTP/1.1\r\nhost: t\r\n{rest}")).await.unwrap();
        client.stream.get_mut().shutdown().await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!(problem(&answer), (400, "bad_request".to_owned()), "{rest:?}");
        assert!(answer.text().contains("The body ended before its announced length."), "{}", answer.text());
        assert_eq!(answer.field("connection"), Some("close"));
    }
    assert!(proxy.lines(2).await.iter().all(|line| line["status"] == 400 && line["reason"] == "bad_request"));
    for rest in cut {
        let mut client = proxy.client().await;
        client.send(format!("POST / HTTP/1.1\r\nhost: t\r\n{rest}")).await.unwrap();
        let begun = || async { (proxy.handle.counters().requests_active == 1).then_some(()) };
        wait::until("the request to begin", BOUND, begun).await;
        client.stream.get_ref().set_zero_linger().unwrap();
        drop(client);
        let gone = || async { (proxy.handle.counters().requests_active == 0).then_some(()) };
        wait::until("the request to end", BOUND, gone).await;
    }
    let lines = proxy.lines(4).await;
    assert!(lines[2..].iter().all(|line| line["status"] == 499 && line["reason"] == "client_closed"), "{lines:?}");
    assert_eq!(origin.requests(), 0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_speaks_http_2_is_told_what_is_logged() {
    let (_origin, proxy) = strict().await;
    let mut client = proxy.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!(problem(&answer), (505, "http_version_not_supported".to_owned()));
    assert_eq!(answer.field("connection"), Some("close"));
    let line = &proxy.lines(1).await[0];
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(505), Some("http_version_not_supported")));
    proxy.stop().await;
}

#[tokio::test]
async fn a_target_that_never_ends_is_refused_and_logged_as_such() {
    let limits = Limits { head_bytes_max: 100_000, ..limits() };
    let proxy = Proxy::start(limits, all_to(&[])).await;
    let mut client = proxy.client().await;
    client.send(format!("GET /{} HTTP/1.1\r\nhost: t\r\n\r\n", "x".repeat(70_000))).await.unwrap();
    assert_eq!(client.response().await.unwrap().status(), 414);
    let line = &proxy.lines(1).await[0];
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(414), Some("uri_too_long")));
    proxy.stop().await;
}
