//! Whose time runs: a client's while it sends, a service's once it has everything, a caller's from the head.

use std::time::Duration;

use proxy::{Limits, Policy, Route};
use testkit::client::Client;
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{BOUND, Proxy, limits, problem, route, snapshot};

/// What the service has for its answer, and what a client or a service has to go on.
const TIMEOUT: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_millis(400);

const HALF: &str = "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\nhello";

async fn impatient(origin: &Server) -> Proxy {
    let quick = Route { policy: Policy::plain(TIMEOUT), ..route("quick", "/", "a") };
    let limits = Limits { idle_timeout: IDLE, ..limits() };
    Proxy::start(limits, snapshot(1, vec![quick], &[origin.address])).await
}

async fn echo() -> Server {
    Server::http(|request| Answer::ok(request.text())).await
}

/// Longer than the service has, shorter than the client has.
async fn time_is_over() {
    let began = Instant::now();
    let look = || async { (began.elapsed() > TIMEOUT * 3).then_some(()) };
    wait::until("the service's time to be over", BOUND, look).await;
}

#[tokio::test]
async fn the_time_of_an_upload_is_not_the_services() {
    let origin = echo().await;
    let proxy = impatient(&origin).await;
    let mut client = proxy.client().await;
    client.send(HALF).await.unwrap();
    time_is_over().await;
    client.send("world").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "helloworld");
    proxy.stop().await;
}

#[tokio::test]
async fn an_upload_that_stalls_is_the_clients_fault() {
    let origin = echo().await;
    let proxy = impatient(&origin).await;
    let mut client = proxy.client().await;
    client.send(HALF).await.unwrap();
    assert_eq!(problem(&client.response().await.unwrap()), (408, "request_timeout".to_owned()));
    assert_eq!(proxy.lines(1).await[0]["reason"], "request_timeout");
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_that_has_everything_has_its_timeout_and_no_more() {
    let origin =
        Server::raw(
            |mut stream: TcpStream| async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} },
        )
        .await;
    let proxy = impatient(&origin).await;
    let mut client = proxy.client().await;
    client.send(HALF).await.unwrap();
    time_is_over().await;
    client.send("world").await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!(problem(&answer), (504, "upstream_timeout".to_owned()));
    assert!(answer.text().contains("did not answer in time"), "{}", answer.text());
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_that_takes_nothing_of_a_body_is_not_waited_for_for_ever() {
    let (_held, holds) = tokio::sync::watch::channel(());
    let origin = Server::raw(move |stream: TcpStream| {
        let mut holds = holds.clone();
        async move {
            let _ = holds.changed().await;
            drop(stream);
        }
    })
    .await;
    let proxy = impatient(&origin).await;
    let mut client = proxy.client().await;
    let length = 64 * 1024 * 1024;
    client.send(format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {length}\r\n\r\n")).await.unwrap();
    let (read, mut write) = client.stream.into_inner().into_split();
    let upload = tokio::spawn(async move {
        let piece = vec![b'x'; 64 * 1024];
        while tokio::io::AsyncWriteExt::write_all(&mut write, &piece).await.is_ok() {}
    });
    let mut read = BufReader::new(read);
    let mut status = [0; 12];
    read.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 504");
    upload.abort();
    proxy.stop().await;
}

#[tokio::test]
async fn a_callers_deadline_bounds_its_upload_too() {
    let origin = echo().await;
    let proxy = impatient(&origin).await;
    let mut caller = Client::connect(proxy.edge).await;
    caller.send(HALF.replace("host: t\r\n", "host: t\r\natoll-deadline: 100\r\n")).await.unwrap();
    let answer = caller.response().await.unwrap();
    assert_eq!(problem(&answer), (504, "upstream_timeout".to_owned()));
    proxy.stop().await;
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_begun() {
    let origin = echo().await;
    let proxy = Proxy::start(limits(), crate::support::all_to(&[origin.address])).await;
    let mut caller = Client::connect(proxy.edge).await;
    let answer = caller.request("POST", "/", &[("atoll-deadline", "0")], b"order").await.unwrap();
    assert_eq!(problem(&answer), (504, "deadline_passed".to_owned()));
    assert_eq!((origin.connections(), proxy.lines(1).await[0]["attempts"].as_u64()), (0, Some(0)));
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_that_falls_silent_in_its_answer_is_given_up() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await.unwrap();
        let _ = client.stream.read_u8().await;
    })
    .await;
    let limits = Limits { upstream_body_timeout: IDLE, ..limits() };
    let proxy = Proxy::start(limits, crate::support::all_to(&[origin.address])).await;
    assert!(proxy.client().await.get("/").await.is_err());
    let line = &proxy.lines(1).await[0];
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(200), Some("upstream_timeout")));
    proxy.stop().await;
}
