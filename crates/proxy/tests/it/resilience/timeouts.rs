//! How long each part may take, and what is then said.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy::Policy;
use socket2::{Domain, Socket, Type};
use testkit::client::Client;
use testkit::server::Server;
use tokio::io::{AsyncReadExt, BufReader};

use super::{BRIEF, Held, LONG, all_to, fine, reason};
use crate::support::{Proxy, limits};

/// An address that takes no more connections without a word: with its queue full the kernel drops what asks for more.
fn deaf() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address.into());
        held.push(socket);
    }
    (address, held)
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_given_up_for_another_instance() {
    let ((deaf, _held), good) = (deaf(), fine().await);
    let quick = |policy: &mut Policy| {
        policy.timeout = LONG;
        policy.connect_timeout = Some(BRIEF);
    };
    for (addresses, expected) in [(vec![deaf, good.address], 200), (vec![deaf], 502)] {
        let patient = proxy::Limits { connect_timeout: LONG, ..limits() };
        let proxy = Proxy::start(patient, all_to(&addresses, quick)).await;
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(proxy.client().await.request("POST", "/", &[], b"order").await.unwrap());
        }
        assert!(answers.iter().all(|answer| answer.status() == expected), "{expected}");
        if expected == 502 {
            assert_eq!(reason(&answers[0]).1, "connect_failed");
        }
        proxy.stop().await;
    }
}

/// Says the head of an answer, then a byte each few milliseconds until nobody listens or enough was said.
async fn trickling(head: &'static str, bytes: usize) -> Server {
    Server::raw(move |stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        if client.head().await.is_err() {
            return;
        }
        let mut is_there = client.send(head).await.is_ok();
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..bytes {
            tick.tick().await;
            is_there = is_there && client.send("x").await.is_ok();
        }
        let _ = client.stream.read_u8().await;
    })
    .await
}

#[tokio::test]
async fn the_total_timeout_cuts_a_download_that_trickles_and_nothing_that_has_no_end() {
    let total = Duration::from_millis(300);
    let upgrade = "connection: upgrade\r\nupgrade: x\r\n";
    for (head, request, is_cut) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", "", true),
        ("HTTP/1.1 200 OK\r\n\r\n", "", true),
        ("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n", "", false),
        ("HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", upgrade, false),
    ] {
        let origin = trickling(head, usize::MAX).await;
        let all = all_to(&[origin.address], |policy| policy.total_timeout = Some(total));
        let proxy = Proxy::start(limits(), all).await;
        let (mut client, began) = (proxy.client().await, Instant::now());
        client.send(format!("GET / HTTP/1.1\r\nhost: t\r\n{request}\r\n")).await.unwrap();
        assert!(matches!(client.head().await.unwrap().status(), 200 | 101), "{head}");
        let mut said = [0; 64];
        let mut is_over = false;
        while !is_over && began.elapsed() < if is_cut { LONG } else { total * 3 } {
            is_over = !client.stream.read(&mut said).await.is_ok_and(|count| count > 0);
        }
        assert_eq!(is_over, is_cut, "{head}");
        if is_cut {
            assert!(began.elapsed() >= total, "{:?}", began.elapsed());
            assert_eq!(proxy.lines(1).await[0]["reason"], "upstream_timeout", "{head}");
        }
        drop(client);
        proxy.stop().await;
    }
}

#[tokio::test]
async fn the_total_timeout_covers_the_wait_and_the_upload_too() {
    let held = Held::new().await;
    let all = all_to(&[held.address()], |policy| {
        policy.timeout = LONG;
        policy.total_timeout = Some(BRIEF);
    });
    let proxy = Proxy::start(limits(), all).await;
    let began = Instant::now();
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!(reason(&answer), (504, "upstream_timeout".into()));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\nhello").await.unwrap();
    assert_eq!(reason(&client.response().await.unwrap()), (408, "request_timeout".into()));
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_that_falls_silent_is_given_up_after_the_routes_own_time() {
    // Fifty bytes and then nothing: slower than the whole, never as slow as the silence.
    let origin = trickling("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", 50).await;
    let idle = Duration::from_millis(400);
    let proxy = Proxy::start(limits(), all_to(&[origin.address], |policy| policy.idle_timeout = Some(idle))).await;
    let (mut client, began) = (proxy.client().await, Instant::now());
    client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    client.head().await.unwrap();
    let mut said = Vec::new();
    while let Ok(byte) = client.stream.read_u8().await {
        said.push(byte);
    }
    assert_eq!(said.len(), 50);
    assert!(began.elapsed() >= idle, "{:?}", began.elapsed());
    assert_eq!(proxy.lines(1).await[0]["reason"], "upstream_timeout");
    proxy.stop().await;
}

#[tokio::test]
async fn a_deadline_that_is_over_opens_no_connection_and_one_that_is_near_is_passed_on() {
    let origin = Server::http(|request| {
        testkit::server::Answer::ok(request.field("atoll-deadline").unwrap_or_default().to_owned())
    })
    .await;
    let mut all = all_to(&[origin.address], |_| {});
    all.listeners.get_mut("edge").unwrap().routes[0].policy = super::policy(|policy| {
        policy.retry = super::retrying(5);
        policy.fallback = Some(proxy::Fallback::Service("b".into()));
    });
    let all = super::with_service(all, "b", &[origin.address]);
    let proxy = Proxy::start(limits(), all).await;
    let mut caller = Client::connect(proxy.edge).await;
    for method in ["GET", "POST"] {
        let answer = caller.request(method, "/", &[("atoll-deadline", "0")], &[]).await.unwrap();
        assert_eq!(reason(&answer), (504, "deadline_passed".into()));
    }
    assert_eq!(origin.connections(), 0);
    for (given, most) in [("4000", 4000), ("999999", 10_000)] {
        let answer = caller.request("GET", "/", &[("atoll-deadline", given)], &[]).await.unwrap();
        let told: u64 = answer.text().parse().unwrap();
        assert!(told <= most && told > most - 3000, "{told} of {given}");
    }
    proxy.stop().await;
}
