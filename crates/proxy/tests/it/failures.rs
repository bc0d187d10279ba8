//! What happens when instances are dead, die, hang or talk nonsense: which requests are tried again and which are not.

use std::time::Duration;

use proxy::{Absence, Policy, Route};
use testkit::client::Client;
use testkit::message::Message;
use testkit::server::{Answer, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{Proxy, all_to, limits, nowhere, problem, route, snapshot};

async fn healthy() -> Server {
    Server::http(|_| Answer::ok("fine")).await
}

/// Reads a request's head, then breaks the connection with a reset.
async fn resetting() -> Server {
    Server::raw(|stream| async move {
        stream.set_zero_linger().unwrap();
        let mut client = Client { stream: BufReader::new(stream) };
        let _ = client.head().await;
    })
    .await
}

/// Says these bytes to whatever comes and closes.
async fn saying(words: &'static str) -> Server {
    Server::raw(move |mut stream: TcpStream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(words.as_bytes()).await;
    })
    .await
}

/// Reads and never answers.
async fn hanging() -> Server {
    Server::raw(|mut stream: TcpStream| async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} })
        .await
}

/// Asks often enough that the bad instance is chosen many times; every request has the same outcome.
async fn ask(proxy: &Proxy, method: &str, body: &[u8]) -> Vec<Message> {
    let mut client = proxy.client().await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(client.request(method, "/", &[], body).await.unwrap());
    }
    answers
}

#[tokio::test]
async fn a_dead_instance_costs_no_request_of_any_method() {
    let good = healthy().await;
    let proxy = Proxy::start(limits(), all_to(&[nowhere(), good.address])).await;
    for (method, body) in [("GET", ""), ("POST", "body"), ("PATCH", "body"), ("DELETE", "")] {
        for answer in ask(&proxy, method, body.as_bytes()).await {
            assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"), "{method}");
        }
    }
    let lines = proxy.lines(80).await;
    assert!(lines.iter().any(|line| line["attempts"] == 2), "the dead one was chosen, too");
    assert!(lines.iter().all(|line| line["instance"] == 1 && line["reason"].is_null()));
    proxy.stop().await;
}

#[tokio::test]
async fn a_broken_exchange_is_repeated_only_where_that_is_safe() {
    let (good, bad) = (healthy().await, resetting().await);
    for (method, body) in
        [("GET", ""), ("DELETE", ""), ("OPTIONS", ""), ("PUT", ""), ("PUT", "body"), ("DELETE", "body")]
    {
        // As many as the budget allows in any case.
        let proxy = Proxy::start(limits(), all_to(&[bad.address, good.address])).await;
        let mut client = proxy.client().await;
        for _ in 0..10 {
            let answer = client.request(method, "/", &[], body.as_bytes()).await.unwrap();
            assert_eq!(answer.status(), 200, "{method}");
        }
        proxy.stop().await;
    }
    let proxy = Proxy::start(limits(), all_to(&[bad.address, good.address])).await;
    for (method, body) in [("POST", ""), ("POST", "body")] {
        let answers = ask(&proxy, method, body.as_bytes()).await;
        let broken: Vec<_> = answers.iter().filter(|answer| answer.status() != 200).map(problem).collect();
        assert!(!broken.is_empty() && broken.len() < answers.len(), "{method}: {} broken", broken.len());
        assert!(broken.iter().all(|broken| *broken == (502, "upstream_broken".to_owned())), "{broken:?}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn with_no_other_instance_the_reason_is_told() {
    let (mute, hanging) = (saying("").await, hanging().await);
    for (address, fields, expected) in [
        (nowhere(), "", (502, "connect_failed")),
        (resetting().await.address, "", (502, "upstream_broken")),
        (mute.address, "", (502, "upstream_broken")),
        (saying("no http\r\n\r\n").await.address, "", (502, "upstream_invalid")),
        (saying("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n").await.address, "", (502, "upstream_invalid")),
        (saying("HTTP/1.1 101 Go\r\nupgrade: x\r\n\r\n").await.address, "", (502, "upstream_invalid")),
        (hanging.address, "50", (504, "upstream_timeout")),
        (hanging.address, "0", (504, "deadline_passed")),
    ] {
        let proxy = Proxy::start(limits(), all_to(&[address])).await;
        let fields: &[(&str, &str)] = if fields.is_empty() { &[] } else { &[("atoll-deadline", fields)] };
        let answer = Client::connect(proxy.edge).await.request("GET", "/", fields, &[]).await.unwrap();
        let (status, reason) = problem(&answer);
        assert_eq!((status, reason.as_str()), expected);
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_part_of_the_platform_that_is_absent_is_about_to_come_back() {
    for (address, expected) in [
        (nowhere(), (503, "connect_failed", Some("1"))),
        (resetting().await.address, (503, "upstream_broken", Some("1"))),
        (saying("no http\r\n\r\n").await.address, (502, "upstream_invalid", None)),
    ] {
        let policy = Policy { absence: Absence::Passing, ..Policy::plain(Duration::from_secs(9)) };
        let passing = Route { policy, ..route("passing", "/", "a") };
        let proxy = Proxy::start(limits(), snapshot(1, vec![passing], &[address])).await;
        let answer = proxy.client().await.request("POST", "/", &[], b"event").await.unwrap();
        let (status, reason) = problem(&answer);
        assert_eq!((status, reason.as_str(), answer.field("retry-after")), expected);
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_timeout_is_never_repeated() {
    let (first, second) = (hanging().await, hanging().await);
    let slow = Route { policy: Policy::plain(Duration::from_millis(50)), ..route("slow", "/", "a") };
    let proxy = Proxy::start(limits(), snapshot(1, vec![slow], &[first.address, second.address])).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!(problem(&answer), (504, "upstream_timeout".to_owned()));
    assert_eq!(first.connections() + second.connections(), 1);
    assert_eq!(proxy.lines(1).await[0]["attempts"], 1);
    proxy.stop().await;
}

#[tokio::test]
async fn without_route_or_endpoint_the_answer_says_so() {
    let proxy = Proxy::start(limits(), snapshot(1, vec![route("api", "/api", "a")], &[])).await;
    let mut client = proxy.client().await;
    let empty = client.get("/api").await.unwrap();
    assert_eq!(problem(&empty), (503, "no_endpoint".to_owned()));
    assert_eq!(empty.field("retry-after"), Some("1"));
    assert!(empty.text().contains("\"service\":\"a\""), "{}", empty.text());
    let unknown = client.get("/other").await.unwrap();
    assert_eq!(problem(&unknown), (404, "no_route".to_owned()));
    proxy.stop().await;
}

#[tokio::test]
async fn a_connection_closed_for_its_idleness_costs_no_request() {
    // Answers one request, then closes without having said so.
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        if client.head().await.is_ok() {
            let _ = client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nonce").await;
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    for method in ["GET", "POST"] {
        for answer in ask(&proxy, method, b"").await {
            assert_eq!(answer.text(), "once", "{method}");
        }
    }
    assert_eq!(origin.connections(), 40);
    proxy.stop().await;
}

#[tokio::test]
async fn a_connection_that_dies_with_its_second_request_costs_none_that_may_be_repeated() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        if client.head().await.is_ok() {
            let _ = client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nonce").await;
        }
        let _ = client.head().await;
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    for (method, body) in [("GET", ""), ("PUT", "x"), ("DELETE", "x")] {
        for answer in ask(&proxy, method, body.as_bytes()).await {
            assert_eq!(answer.status(), 200, "{method}");
        }
    }
    // Whoever hangs up is given new connections: of the sixty requests, one a client at most was sent twice.
    let lines = proxy.lines(60).await;
    let twice = lines.iter().filter(|line| line["attempts"] != 1).count();
    assert!((1..=3).contains(&twice), "{twice}");
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    for head in ["content-length: 100\r\n", "transfer-encoding: chunked\r\n"] {
        let origin = Server::raw(move |stream| async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            client.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n5\r\nhello\r\n")).await.unwrap();
        })
        .await;
        let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
        assert!(proxy.client().await.get("/").await.is_err(), "{head}");
        let line = &proxy.lines(1).await[0];
        assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(200), Some("upstream_broken")));
        proxy.stop().await;
    }
}

#[tokio::test]
async fn killing_one_of_two_instances_under_load_loses_no_get() {
    let (good, victim) = (healthy().await, healthy().await);
    let proxy = Proxy::start(limits(), all_to(&[victim.address, good.address])).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load: Vec<_> = (0..16)
        .map(|_| {
            let (address, stopped) = (proxy.gateway, stopped.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut count = 0;
                while !*stopped.borrow() {
                    assert_eq!(client.get("/").await.unwrap().text(), "fine");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let after = |count: u64| {
        let handle = &proxy.handle;
        testkit::wait::until("load", crate::support::BOUND, move || async move {
            (handle.counters().requests >= count).then_some(())
        })
    };
    after(500).await;
    assert!(victim.requests() > 0);
    victim.kill().await;
    after(2_000).await;
    stop.send(true).unwrap();
    for client in load {
        assert!(client.await.unwrap() > 0);
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_that_refuses_an_upload_in_its_middle_is_heard() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        // Closing with unread bytes in the socket resets the connection.
        let answer = "HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge";
        client.send(answer).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    for _ in 0..20 {
        let mut client = proxy.client().await;
        client.send("PUT / HTTP/1.1\r\nhost: t\r\ncontent-length: 4000000\r\n\r\n").await.unwrap();
        let sent = client.send(vec![b'x'; 4_000_000]).await;
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (413, "large"));
        drop(sent);
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_head_of_an_answer_beyond_the_limits_has_a_reason_of_its_own() {
    for field in ["x: y\r\n".repeat(200), format!("x: {}\r\n", "y".repeat(100_000))] {
        let origin = Server::raw(move |stream| {
            let field = field.clone();
            async move {
                let mut client = Client { stream: BufReader::new(stream) };
                client.head().await.unwrap();
                let _ = client.send(format!("HTTP/1.1 200 OK\r\n{field}content-length: 0\r\n\r\n")).await;
                let _ = client.head().await;
            }
        })
        .await;
        let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
        let answer = proxy.client().await.get("/").await.unwrap();
        assert_eq!(problem(&answer), (502, "upstream_head_too_large".to_owned()));
        proxy.stop().await;
    }
}
