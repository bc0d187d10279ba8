//! What is counted of routes and edges, to the last request.

use std::time::Duration;

use proxy::{Handle, Reading, Subject};
use testkit::client::{Client, get};
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::time::Instant;

use crate::support::{BOUND, Proxy, limits, route, snapshot};

fn of_route(name: &str) -> Subject {
    Subject::Route { listener: "gateway".into(), route: name.into() }
}

fn edge() -> Subject {
    Subject::Edge { caller: "cart".into(), upstream: "a".into() }
}

/// The reading of a subject once so many of its requests have ended.
async fn ended(handle: &Handle, subject: Subject, count: u64) -> Reading {
    let look = || async {
        let reading = handle.read().meters.remove(&subject).unwrap_or_default();
        assert!(reading.ended() <= count, "{} of {count}", reading.ended());
        (reading.ended() == count).then_some(reading)
    };
    wait::until("requests to be counted", BOUND, look).await
}

fn outcomes(reading: &Reading) -> Vec<(&str, u16, Option<&str>, u64)> {
    let all = reading.series.iter();
    all.map(|(o, series)| (o.method.as_str(), o.status, o.reason.as_deref(), series.count())).collect()
}

#[tokio::test]
async fn as_many_requests_are_counted_as_there_were_on_every_core() {
    let origin = Server::http(|_| Answer::ok("12345")).await;
    let routes = vec![route("one", "/one", "a"), route("two", "/two", "a"), route("none", "/none", "nobody")];
    let proxy = Proxy::start(limits(), snapshot(1, routes, &[origin.address])).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push((proxy.client().await, Client::connect(proxy.edge).await));
    }
    for (gateway, edge) in &mut clients {
        for _ in 0..5 {
            gateway.request("GET", "/one/x", &[], &[]).await.unwrap();
            edge.request("POST", "/pay", &[], b"abc").await.unwrap();
        }
        gateway.request("GET", "/two", &[], &[]).await.unwrap();
        gateway.request("GET", "/none", &[], &[]).await.unwrap();
        gateway.request("GET", "/elsewhere", &[], &[]).await.unwrap();
    }
    let one = ended(&proxy.handle, of_route("one"), 100).await;
    assert_eq!(outcomes(&one), [("GET", 200, None, 100)]);
    assert_eq!((one.active(), one.bytes_in, one.bytes_out, one.retries, one.failed()), (0, 0, 500, 0, 0));
    assert_eq!((one.upstream_count, one.durations.count()), (100, 100));
    let median = one.durations.quantile(0.5).unwrap();
    assert!(median > Duration::ZERO && median < BOUND, "{median:?}");
    let edge = ended(&proxy.handle, edge(), 100).await;
    assert_eq!((outcomes(&edge), edge.bytes_in), (vec![("POST", 200, None, 100)], 300));
    assert_eq!(ended(&proxy.handle, of_route("two"), 20).await.ended(), 20);
    let none = ended(&proxy.handle, of_route("none"), 20).await;
    assert_eq!((outcomes(&none), none.failed()), (vec![("GET", 503, Some("no_endpoint"), 20)], 20));
    let stray = ended(&proxy.handle, Subject::NoRoute, 20).await;
    assert_eq!(outcomes(&stray), [("GET", 404, Some("no_route"), 20)]);
    let readings = proxy.handle.read();
    assert_eq!((readings.refused["no_route"], readings.refused["no_endpoint"]), (20, 20));
    assert_eq!(readings.refused.values().sum::<u64>(), 40);
    assert_eq!((readings.counters.requests, readings.counters.requests_active), (260, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn tries_failures_and_clients_that_leave_are_told_apart() {
    let broken = Server::raw(|mut stream| async move { drop(stream.read(&mut [0; 4096]).await) }).await;
    let silent =
        Server::raw(|mut stream| async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} });
    let silent = silent.await;
    let routes = vec![route("broken", "/broken", "a"), route("silent", "/silent", "a")];
    let proxy = Proxy::start(limits(), snapshot(1, routes.clone(), &[broken.address])).await;
    assert_eq!(get(proxy.gateway, "/broken").await.unwrap().status(), 502);
    let reading = ended(&proxy.handle, of_route("broken"), 1).await;
    assert_eq!(outcomes(&reading), [("GET", 502, Some("upstream_broken"), 1)]);
    proxy.handle.apply(snapshot(2, routes, &[silent.address])).unwrap();
    let mut client = proxy.client().await;
    client.send(b"GET /silent HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let look = || async { (proxy.handle.read().meters[&of_route("silent")].active() == 1).then_some(()) };
    wait::until("the request to be active", BOUND, look).await;
    // The end of its half alone would not say that nobody waits.
    client.stream.get_ref().set_zero_linger().unwrap();
    drop(client);
    let reading = ended(&proxy.handle, of_route("silent"), 1).await;
    assert_eq!(outcomes(&reading), [("GET", 499, Some("client_closed"), 1)]);
    assert_eq!((reading.active(), reading.failed()), (0, 0));
    proxy.stop().await;
}

/// A service that answers as soon as it has the head, with ten bytes of which it says five, and then takes what comes.
async fn hasty() -> Server {
    Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await.unwrap();
        while client.stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
    })
    .await
}

#[tokio::test]
async fn what_a_client_does_wrong_after_the_head_of_its_answer_is_no_failure_of_the_service() {
    let origin = hasty().await;
    let proxy = Proxy::start(limits(), snapshot(1, vec![route("all", "/", "a")], &[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), 200);
    client.stream.read_exact(&mut [0; 5]).await.unwrap();
    client.send("no size\r\n").await.unwrap();
    // A reset is an end as well.
    assert_eq!(client.stream.read(&mut [0; 5]).await.unwrap_or(0), 0, "the answer breaks off");
    let reading = ended(&proxy.handle, of_route("all"), 1).await;
    assert_eq!((outcomes(&reading), reading.failed()), (vec![("POST", 200, Some("bad_request"), 1)], 0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_duration_ends_with_the_answer_and_not_with_the_upload() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await.unwrap();
        while client.stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
    })
    .await;
    let proxy = Proxy::start(limits(), snapshot(1, vec![route("all", "/", "a")], &[origin.address])).await;
    let mut client = proxy.client().await;
    let began = Instant::now();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\nhello").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "early");
    let answered = began.elapsed();
    let pause = Duration::from_millis(300);
    wait::until("the upload to last", BOUND, || async { (began.elapsed() > answered + pause).then_some(()) }).await;
    assert_eq!(proxy.handle.counters().requests_active, 1, "the upload goes on");
    client.send("world").await.unwrap();
    let millis = proxy.lines(1).await[0]["duration_ms"].as_f64().unwrap();
    assert!(millis < (answered + pause).as_secs_f64() * 1e3, "{millis} ms");
    proxy.stop().await;
}
