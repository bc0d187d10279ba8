//! What a route's `retry` asks for: which answers and broken connections are followed by another try, and which are not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proxy::{Policy, Retry, Route, Snapshot};
use testkit::client::Client;
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::BufReader;

use crate::support::{BOUND, Proxy, limits, nowhere, problem, route, snapshot};

fn retry(attempts: u32) -> Retry {
    let backoff = Duration::from_millis(1);
    Retry {
        attempts: attempts + 1,
        codes: vec![502, 503, 504],
        backoff,
        backoff_max: Duration::from_secs(60),
        ..Retry::NONE
    }
}

fn under(policy: Policy) -> Route {
    Route { policy, ..route("all", "/", "a") }
}

fn all_to(retry: Retry, addresses: &[SocketAddr]) -> Snapshot {
    snapshot(1, vec![under(Policy { retry, ..Policy::plain(BOUND) })], addresses)
}

/// Answers with this status so many times, then 200 with the body of the request.
async fn recovering(status: u16, times: usize) -> Server {
    let asked = AtomicUsize::new(0);
    Server::http(move |request| match asked.fetch_add(1, Ordering::SeqCst) {
        nth if nth < times => Answer { body: b"not yet".to_vec(), ..Answer::status(status) },
        _ => Answer::ok(request.body.clone()),
    })
    .await
}

/// Reads so many whole requests with a reset after each, then answers.
async fn resetting(times: usize) -> Server {
    let asked = Arc::new(AtomicUsize::new(0));
    Server::raw(move |stream| {
        let asked = Arc::clone(&asked);
        async move {
            stream.set_zero_linger().unwrap();
            let mut client = Client { stream: BufReader::new(stream) };
            if client.head().await.is_ok() && asked.fetch_add(1, Ordering::SeqCst) >= times {
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine").await.unwrap();
                let _ = client.head().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_answer_whose_status_is_listed_is_followed_by_another_try() {
    for (status, method, attempts, expected, tries) in [
        (503, "GET", 1, 200, 2),
        (503, "DELETE", 2, 200, 2),
        (500, "GET", 2, 500, 1),
        (404, "GET", 2, 404, 1),
        (503, "GET", 0, 503, 1),
        (503, "POST", 2, 503, 1),
        (503, "PATCH", 2, 503, 1),
    ] {
        let origin = recovering(status, 1).await;
        let proxy = Proxy::start(limits(), all_to(retry(attempts), &[origin.address])).await;
        let answer = proxy.client().await.request(method, "/", &[], &[]).await.unwrap();
        assert_eq!(answer.status(), expected, "{status} {method} {attempts}");
        assert_eq!(origin.requests(), tries, "{status} {method} {attempts}");
        let line = &proxy.lines(1).await[0];
        assert_eq!((line["attempts"].as_u64(), line["status"].as_u64()), (Some(tries as u64), Some(expected.into())));
        assert_eq!(origin.connections(), 1, "the connection of an answer that was not wanted is used again");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn when_the_tries_run_out_the_last_answer_is_passed_on() {
    let asked = AtomicUsize::new(0);
    let origin = Server::http(move |_| {
        let nth = asked.fetch_add(1, Ordering::SeqCst);
        Answer { body: format!("answer {nth}").into_bytes(), ..Answer::status(503) }.with("retry-after", "0")
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(retry(3), &[origin.address])).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (503, "answer 3"));
    assert_eq!(answer.field("retry-after"), Some("0"));
    assert_eq!(proxy.lines(1).await[0]["attempts"], 4);
    proxy.stop().await;
}

#[tokio::test]
async fn another_instance_is_asked_first_and_those_that_were_asked_only_when_there_is_none() {
    let (bad, good) = (recovering(503, usize::MAX).await, recovering(503, 0).await);
    let proxy = Proxy::start(limits(), all_to(retry(1), &[bad.address, nowhere(), good.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.unwrap().status(), 200);
    }
    assert!(bad.requests() > 0, "it was asked");
    proxy.stop().await;
    // Two that fail once each: the third try finds nobody new.
    let (first, second) = (recovering(503, 1).await, recovering(503, 1).await);
    let proxy = Proxy::start(limits(), all_to(retry(2), &[first.address, second.address])).await;
    assert_eq!(proxy.client().await.get("/").await.unwrap().status(), 200);
    assert_eq!(first.requests() + second.requests(), 3);
    assert!(first.requests() > 0 && second.requests() > 0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_broken_exchange_is_repeated_on_the_same_instance_if_there_is_no_other() {
    for (method, unsafe_methods, attempts, expected) in [
        ("GET", false, 2, 200),
        ("GET", false, 1, 502),
        ("GET", false, 0, 502),
        ("POST", false, 2, 502),
        ("POST", true, 2, 200),
    ] {
        let origin = resetting(2).await;
        let policy = Retry { unsafe_methods, ..retry(attempts) };
        let proxy = Proxy::start(limits(), all_to(policy, &[origin.address])).await;
        let answer = proxy.client().await.request(method, "/", &[], &[]).await.unwrap();
        assert_eq!(answer.status(), expected, "{method} {unsafe_methods} {attempts}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_body_is_sent_again_as_long_as_it_is_short() {
    for (method, unsafe_methods, length, expected) in [
        ("PUT", false, 5, 200),
        ("PUT", false, 64 * 1024, 200),
        ("PUT", false, 64 * 1024 + 1, 503),
        ("POST", false, 5, 503),
        ("POST", true, 60_000, 200),
    ] {
        let origin = recovering(503, 1).await;
        let policy = Retry { unsafe_methods, ..retry(2) };
        let proxy = Proxy::start(limits(), all_to(policy, &[origin.address])).await;
        let body: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let answer = proxy.client().await.request(method, "/", &[], &body).await.unwrap();
        assert_eq!(answer.status(), expected, "{method} {length}");
        if expected == 200 {
            assert!(answer.body == body, "{method} {length}: another body");
        }
        assert_eq!(proxy.lines(1).await[0]["bytes_in"], length, "what the client sent is counted once");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_chunked_body_is_sent_again_even_when_the_answer_comes_in_its_middle() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // The first answers when it has seen the first chunk; the second reads all of it.
    let origin = Server::raw(move |stream| {
        let count = Arc::clone(&count);
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            let end: &[u8] = if first { b"one" } else { b"0\r\n\r\n" };
            let mut seen = Vec::new();
            while !seen.windows(end.len()).any(|part| part == end) {
                seen.push(tokio::io::AsyncReadExt::read_u8(&mut client.stream).await.unwrap());
            }
            let text = String::from_utf8(seen).unwrap();
            let is_all = text.contains("one") && text.contains("two");
            let status = if first {
                "503 Busy"
            } else if is_all {
                "200 OK"
            } else {
                "400 Bad"
            };
            let _ = client.send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")).await;
            let _ = client.head().await;
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(retry(1), &[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("PUT / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await.unwrap();
    let again = || async { (asked.load(Ordering::SeqCst) == 2).then_some(()) };
    wait::until("the second try", BOUND, again).await;
    client.send("3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status(), 200);
    proxy.stop().await;
}

#[tokio::test]
async fn the_timeout_covers_all_tries_and_their_pauses() {
    // Pauses beyond the time are not begun: the answer that is there is passed on.
    let origin = recovering(503, usize::MAX).await;
    let slow = Retry { backoff: Duration::from_secs(60), ..retry(5) };
    let timeout = Duration::from_millis(200);
    let all = under(Policy { retry: slow, ..Policy::plain(timeout) });
    let proxy = Proxy::start(limits(), snapshot(1, vec![all], &[origin.address])).await;
    let began = Instant::now();
    assert_eq!(proxy.client().await.get("/").await.unwrap().status(), 503);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    proxy.stop().await;
    // The second try hangs: it has what the first one left.
    let asked = Arc::new(AtomicUsize::new(0));
    let origin = Server::raw(move |stream| {
        let asked = Arc::clone(&asked);
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                let last = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                client.send(last).await.unwrap();
            } else {
                let _ = client.head().await;
            }
        }
    })
    .await;
    let all = under(Policy { retry: retry(5), ..Policy::plain(timeout) });
    let proxy = Proxy::start(limits(), snapshot(1, vec![all], &[origin.address])).await;
    let began = Instant::now();
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!(problem(&answer), (504, "upstream_timeout".to_owned()));
    assert!(began.elapsed() >= timeout, "{:?}", began.elapsed());
    assert_eq!(proxy.lines(1).await[0]["attempts"], 2);
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_without_end_is_dropped_for_the_next_try() {
    let asked = Arc::new(AtomicUsize::new(0));
    let origin = Server::raw(move |stream| {
        let asked = Arc::clone(&asked);
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine").await.unwrap();
                return;
            }
            client.send("HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            while client.send("1000\r\n".to_owned() + &"x".repeat(4096) + "\r\n").await.is_ok() {}
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(retry(1), &[origin.address])).await;
    assert_eq!(proxy.client().await.get("/").await.unwrap().text(), "fine");
    let closed = || async { (origin.open() == 0).then_some(()) };
    wait::until("the connection of the first answer is closed", BOUND, closed).await;
    proxy.stop().await;
}

#[tokio::test]
async fn retries_of_a_route_are_bounded_by_its_budget() {
    let origin = recovering(503, usize::MAX).await;
    let proxy = Proxy::start(limits(), all_to(retry(5), &[origin.address])).await;
    let began = Instant::now();
    let mut client = proxy.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.unwrap().status(), 503);
    }
    // Ten, or one for every five requests: not the 250 that the route would take.
    let retries = origin.requests() - 50;
    let windows = 1 + began.elapsed().as_secs() as usize / 10;
    assert!(retries >= 10 && retries <= 10 * windows, "{retries} in {:?}", began.elapsed());
    // A new generation knows of them.
    proxy.handle.apply(Snapshot { generation: 2, ..all_to(retry(5), &[origin.address]) }).unwrap();
    let before = origin.requests();
    client.get("/").await.unwrap();
    assert!(origin.requests() - before <= 2 || windows > 1);
    proxy.stop().await;
}
