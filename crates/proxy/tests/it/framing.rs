//! Framing from end to end: what a client says, byte for byte, what it is answered, and what the service saw. Each row
//! names the clause or the attack that it stands for.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proxy::{Limits, Route};
use testkit::client::Client;
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::{AsyncReadExt, BufReader};

use crate::support::{BOUND, Proxy, all_to, limits, problem, route, snapshot};

/// Writes down what it is asked, in short, and answers with it.
async fn recording() -> (Server, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let list = Arc::clone(&seen);
    let origin = Server::http(move |request| {
        let framing = match (request.field("content-length"), request.field("transfer-encoding")) {
            (None, None) => "none",
            (Some(length), None) => length,
            (None, Some(coding)) => coding,
            _ => "both",
        };
        let told = format!("{} {} {framing} {}", request.method(), request.second(), request.text());
        list.lock().unwrap().push(told.clone());
        Answer::ok(told)
    })
    .await;
    (origin, seen)
}

/// Clause, what the client says before its next request, the status, what the service saw of it, and whether the next
/// request is still answered.
const REQUESTS: &[(&str, &str, u16, &str, bool)] = &[
    ("RFC 9112 §6.3", "GET /a HTTP/1.1\r\nhost: t\r\n\r\n", 200, "GET /a none ", true),
    ("RFC 9112 §6.2", "POST /a HTTP/1.1\r\nhost: t\r\ncontent-length: 3\r\n\r\nabc", 200, "POST /a 3 abc", true),
    (
        "RFC 9112 §7.1: re-framed, without extensions",
        "POST /a HTTP/1.1\r\nhost: t\r\ntransfer-encoding: Chunked\r\n\r\n1;x=y\r\na\r\n02\r\nbc\r\n000\r\n\r\n",
        200,
        "POST /a chunked abc",
        true,
    ),
    ("RFC 9112 §2.2", "\r\nGET /a HTTP/1.1\r\nhost: t\r\n\r\n", 200, "GET /a none ", true),
    ("RFC 9112 §9.6", "GET /a HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", 200, "GET /a none ", false),
    (
        "RFC 9110 §7.6.1: `connection` cannot take the length away",
        "POST /a HTTP/1.1\r\nhost: t\r\nconnection: content-length, host\r\ncontent-length: 3\r\n\r\nabc",
        200,
        "POST /a 3 abc",
        true,
    ),
    (
        "RFC 9112 §6.3: a body behind a path that is refused is no request",
        "POST /a/../b HTTP/1.1\r\nhost: t\r\ncontent-length: 38\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: t\r\n\r\nabc",
        400,
        "",
        true,
    ),
    (
        "RFC 9112 §6.3: CL.TE",
        "POST /a HTTP/1.1\r\nhost: t\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nG",
        400,
        "",
        false,
    ),
    (
        "CVE-2019-16276: TE.TE by a space",
        "POST /a HTTP/1.1\r\nhost: t\r\ntransfer-encoding : chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n",
        400,
        "",
        false,
    ),
    (
        "RFC 9110 §8.6: two lengths",
        "POST /a HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\ncontent-length: 3\r\n\r\nabc",
        400,
        "",
        false,
    ),
    ("RFC 9112 §2.2: bare LF", "GET /a HTTP/1.1\nhost: t\n\n", 400, "", false),
    ("RFC 9112 §3.2: no Host", "GET /a HTTP/1.1\r\n\r\n", 400, "", false),
    ("RFC 9112 §3.2: two Hosts", "GET /a HTTP/1.1\r\nhost: t\r\nhost: t\r\n\r\n", 400, "", false),
    (
        "RFC 9112 §7.1: a chunk's size",
        "POST /a HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        400,
        "",
        false,
    ),
];

#[tokio::test]
async fn each_request_is_seen_as_one_or_not_at_all() {
    let (origin, seen) = recording().await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let next = "GET /next HTTP/1.1\r\nhost: t\r\n\r\n";
    for &(clause, request, status, upstream, is_kept) in REQUESTS {
        let mut client = proxy.client().await;
        client.send(format!("{request}{next}")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!(answer.status(), status, "{clause}");
        if status == 200 {
            assert_eq!(answer.text(), upstream, "{clause}");
        } else {
            problem(&answer);
        }
        let after = client.response().await;
        assert_eq!(after.is_ok_and(|after| after.text() == "GET /next none "), is_kept, "{clause}");
        let expected = [upstream, "GET /next none "];
        let expected = expected.into_iter().filter(|told| !told.is_empty()).take(if is_kept { 2 } else { 1 });
        let expected: Vec<&str> = expected.filter(|told| is_kept || *told == upstream).collect();
        assert_eq!(*seen.lock().unwrap(), expected, "{clause}");
        seen.lock().unwrap().clear();
    }
    proxy.stop().await;
}

/// Says this to every request and goes on listening.
async fn saying(words: &'static str) -> Server {
    Server::raw(move |stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        while client.head().await.is_ok() && client.send(words).await.is_ok() {}
    })
    .await
}

#[tokio::test]
async fn answers_are_seen_as_one_or_not_at_all() {
    for (clause, words, expected, connections) in [
        ("RFC 9112 §6.3", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some("ok"), 1),
        (
            "RFC 9112 §7.1",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            Some("ok"),
            1,
        ),
        ("RFC 9112 §9.3", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", Some("ok"), 3),
        ("RFC 9112 §9.6", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", Some("ok"), 3),
        (
            "RFC 9112 §9.2: an answer that nobody asked for",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
            Some("ok"),
            3,
        ),
        ("RFC 9112 §9.2: surplus", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\r\n", Some("ok"), 3),
        (
            "RFC 9112 §6.3: both lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            None,
            3,
        ),
        ("RFC 9112 §6.3: two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", None, 3),
        ("RFC 9112 §7.1: no size", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", None, 3),
        ("RFC 9112 §2.2: bare LF", "HTTP/1.1 200 OK\ncontent-length: 2\n\nok", None, 3),
        ("RFC 9110 §5.5: NUL", "HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 2\r\n\r\nok", None, 3),
    ] {
        let origin = saying(words).await;
        let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
        let mut client = proxy.client().await;
        for _ in 0..3 {
            let answer = client.get("/").await.unwrap();
            match expected {
                Some(text) => assert_eq!((answer.status(), answer.text().as_str()), (200, text), "{clause}"),
                None => assert_eq!(problem(&answer), (502, "upstream_invalid".to_owned()), "{clause}"),
            }
        }
        assert_eq!(origin.connections(), connections, "{clause}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn content_without_a_length_becomes_chunks_or_ends_with_the_connection() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        client.send("HTTP/1.0 200 OK\r\n\r\nok").await.unwrap();
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let answer = client.get("/").await.unwrap();
        assert_eq!((answer.text().as_str(), answer.field("transfer-encoding")), ("ok", Some("chunked")));
        assert_eq!(answer.field("via"), Some("1.0 atoll"));
    }
    client.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("ok", Some("close")));
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_may_arrive_in_any_two_pieces() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
    let origin = Server::raw(move |stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        while let Ok(request) = client.head().await {
            let at: usize = request.second()[1..].parse().unwrap();
            client.send(&answer[..at]).await.unwrap();
            tokio::task::yield_now().await;
            client.send(&answer[at..]).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for at in 1..answer.len() {
        let seen = client.get(&format!("/{at}")).await.unwrap();
        assert_eq!((seen.text().as_str(), seen.trailers.len()), ("abcde", 1), "split at {at}");
    }
    assert_eq!(origin.connections(), 1);
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_leaves_both_connections_usable() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        while client.head().await.is_ok() {
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await.unwrap();
            let mut body = vec![0; 100_000];
            if client.stream.read_exact(&mut body).await.is_err() {
                return;
            }
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), "early");
        client.send(vec![b'x'; 100_000]).await.unwrap();
    }
    assert_eq!(origin.connections(), 1);
    proxy.stop().await;
}

#[tokio::test]
async fn connections_of_one_listener_and_of_one_client_are_bounded() {
    let origin = Server::http(|_| Answer::ok("x")).await;
    for limits in [Limits { connections_client_max: 2, ..limits() }, Limits { connections_listener_max: 2, ..limits() }]
    {
        let is_by_listener = limits.connections_listener_max == 2;
        let proxy = Proxy::start(limits, all_to(&[origin.address])).await;
        let (mut first, mut second) = (proxy.client().await, proxy.client().await);
        for client in [&mut first, &mut second] {
            assert_eq!(client.get("/").await.unwrap().status(), 200);
        }
        let refused = proxy.client().await.get("/").await.unwrap();
        assert_eq!(problem(&refused), (503, "too_many_connections".to_owned()));
        let other = Client::connect(proxy.edge).await.get("/").await.unwrap();
        assert_eq!(other.status(), if is_by_listener { 200 } else { 503 });
        drop((first, second));
        let gone = || async { (proxy.handle.counters().connections_active == 0).then_some(()) };
        wait::until("the connections to close", BOUND, gone).await;
        assert_eq!(proxy.client().await.get("/").await.unwrap().status(), 200);
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_body_has_an_end_and_so_has_the_age_of_a_connection() {
    let origin = Server::http(|_| Answer::ok("x")).await;
    let bounds = Limits { body_timeout: Duration::from_millis(100), upstream_age_max: Duration::ZERO, ..limits() };
    let proxy = Proxy::start(bounds, all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\nx").await.unwrap();
    assert_eq!(problem(&client.response().await.unwrap()), (408, "request_timeout".to_owned()));
    let before = origin.connections();
    let mut client = proxy.client().await;
    for _ in 0..3 {
        client.get("/").await.unwrap();
    }
    assert_eq!(origin.connections() - before, 3, "none is used again");
    proxy.stop().await;
}

#[tokio::test]
async fn who_asks_for_a_host_that_no_route_knows_came_to_the_wrong_place() {
    let (origin, seen) = recording().await;
    let named = Route { hostnames: vec!["a.test".to_owned(), "*.b.test".to_owned()], ..route("named", "/x", "a") };
    let proxy = Proxy::start(limits(), snapshot(1, vec![named], &[origin.address])).await;
    for (host, target, status) in [
        ("a.test", "/x", 200),
        ("A.TEST.:80", "/x", 200),
        ("c.b.test", "/x", 200),
        ("a.test", "/y", 404),
        ("b.test", "/x", 421),
        ("evil", "/x", 421),
    ] {
        let mut client = proxy.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await.unwrap();
        assert_eq!(client.response().await.unwrap().status(), status, "{host} {target}");
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
    proxy.stop().await;
}
