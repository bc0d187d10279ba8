//! What is counted of routes and edges, to the last request.

use std::time::Duration;

use proxy::{Handle, Limits, Reading, Subject};
use testkit::client::{Client, get};
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::AsyncReadExt;

use crate::support::{BOUND, Proxy, all_to, limits, route, snapshot};

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

#[tokio::test]
async fn who_reads_nothing_and_who_is_far_too_many_is_cut_and_counted() {
    // More than all buffers on the way hold.
    let origin = Server::http(|_| Answer::ok(vec![b'x'; 32 << 20])).await;
    let limits = Limits { idle_timeout: Duration::from_millis(200), connections_max: 1, ..limits() };
    let proxy = Proxy::start(limits, all_to(&[origin.address])).await;
    let mut deaf = proxy.client().await;
    deaf.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let cut = |code: &'static str| {
        let handle = proxy.handle.clone();
        move || {
            let count = handle.read().cut[code];
            async move { (count >= 1).then_some(()) }
        }
    };
    wait::until("the one who reads nothing to be cut", BOUND, cut("stalled")).await;
    // Beyond those that are told so there is a bound of silence.
    let mut crowd = Vec::new();
    let look = || {
        crowd.push(std::net::TcpStream::connect(proxy.gateway).unwrap());
        let count = proxy.handle.read().cut["too_many_connections"];
        async move { (count >= 1).then_some(()) }
    };
    wait::until("one too many to be cut", BOUND, look).await;
    drop((deaf, crowd));
    proxy.stop().await;
}

#[tokio::test]
async fn each_limit_that_is_met_is_counted() {
    let origin = Server::http(|_| Answer::ok("12345")).await;
    let brief = Duration::from_millis(200);
    let limits = Limits { head_bytes_max: 1000, uri_bytes_max: 100, body_bytes_max: 10, ..limits() };
    let limits = Limits { head_timeout: brief, idle_timeout: brief, ..limits };
    let proxy = Proxy::start(limits, snapshot(1, vec![route("all", "/", "a")], &[origin.address])).await;
    let long = "x".repeat(1000);
    let status = async |target: &str, fields: &[(&str, &str)], body: &[u8]| {
        let mut client = proxy.client().await;
        client.request("POST", target, fields, body).await.unwrap().status()
    };
    assert_eq!(status("/", &[("x-long", &long)], b"").await, 431);
    assert_eq!(status(&format!("/{}", &long[..200]), &[], b"").await, 414);
    assert_eq!(status("/", &[], b"more than ten bytes").await, 413);
    let mut slow = proxy.client().await;
    slow.send(b"GET / HT").await.unwrap();
    assert_eq!(slow.response().await.unwrap().status(), 408);
    let mut idle = proxy.client().await;
    assert_eq!(idle.request("GET", "/", &[], &[]).await.unwrap().status(), 200);
    let look = || async {
        let readings = proxy.handle.read();
        let met = ["head_too_large", "uri_too_long", "body_too_large", "request_timeout"];
        (met.iter().all(|code| readings.refused[*code] == 1) && readings.cut["idle"] >= 1).then_some(())
    };
    wait::until("every limit to be counted", BOUND, look).await;
    proxy.stop().await;
}
