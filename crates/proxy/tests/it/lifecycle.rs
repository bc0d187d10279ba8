//! Start, change and end: taken ports, new snapshots under load, drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kit::{drain, readiness};
use proxy::{Config, Error, Snapshot, State, bind};
use testkit::client::Client;
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::sync::Notify;

use crate::support::{BOUND, Proxy, all_to, limits, route, snapshot};

fn config(listeners: &[(&str, SocketAddr)]) -> Config {
    let listeners = listeners.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
    Config { cores: 2, listeners, limits: limits(), access: None }
}

#[tokio::test]
async fn a_taken_port_is_an_error_even_when_the_taker_shares_it() {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = bind(config(&[("gateway", local)])).unwrap();
    let taken = first.addresses()["gateway"];
    match bind(config(&[("gateway", taken)])).unwrap_err() {
        Error::Listen { listener, address, source } => {
            assert_eq!((listener.as_str(), address), ("gateway", taken));
            assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
        }
        other => panic!("{other}"),
    }
    drop(first);
    bind(config(&[("gateway", taken)])).expect("free again");
    let twice = bind(config(&[("x", local), ("x", local)])).unwrap_err();
    assert_eq!(twice.to_string(), "two listeners have the name `x`");
}

#[tokio::test]
async fn a_run_that_is_given_up_stops_at_once() {
    let bound = bind(config(&[("gateway", SocketAddr::from(([127, 0, 0, 1], 0)))])).unwrap();
    let address = bound.addresses()["gateway"];
    let (token, mut ready) = readiness::channel();
    let (_trigger, watch) = drain::channel();
    let run = tokio::spawn(bound.run(token, watch));
    assert_eq!(ready.settled().await, readiness::State::Ready);
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/").await.unwrap().status(), 404, "no snapshot, no route");
    run.abort();
    let refused = || async { std::net::TcpStream::connect(address).is_err().then_some(()) };
    wait::until("the listeners to close", BOUND, refused).await;
}

#[tokio::test]
async fn a_drain_finishes_what_has_begun_and_takes_nothing_new() {
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let origin = Server::raw(move |stream| {
        let released = Arc::clone(&released);
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nbe").await.unwrap();
            released.notified().await;
            client.send("gun!").await.unwrap();
            let _ = client.head().await;
        }
    })
    .await;
    let mut proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let (mut busy, mut idle) = (proxy.client().await, proxy.client().await);
    busy.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    assert_eq!(busy.head().await.unwrap().status(), 200);
    idle.request("OPTIONS", "*", &[], &[]).await.unwrap();
    proxy.trigger.start();
    assert_eq!(idle.stream.read(&mut [0; 8]).await.unwrap(), 0, "idle connections are closed");
    let refused = || async { std::net::TcpStream::connect(proxy.gateway).is_err().then_some(()) };
    wait::until("the listeners to close", BOUND, refused).await;
    assert!(!proxy.run.is_finished());
    release.notify_one();
    let mut body = [0; 6];
    busy.stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"begun!");
    tokio::time::timeout(BOUND, &mut proxy.run).await.expect("the drain ends").unwrap().unwrap();
    // Each core writes its own lines, in no order between them.
    let lines = proxy.lines(2).await;
    assert!(lines.iter().any(|line| line["status"] == 200 && line["reason"].is_null()), "{lines:?}");
}

#[tokio::test]
async fn who_waits_in_the_queue_when_the_drain_begins_is_served() {
    let bound = bind(config(&[("gateway", SocketAddr::from(([127, 0, 0, 1], 0)))])).unwrap();
    let origin = Server::http(|_| Answer::ok("x")).await;
    bound.handle().apply(all_to(&[origin.address])).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(bound.addresses()["gateway"]).await;
        client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        waiting.push(client);
    }
    let (trigger, watch) = drain::channel();
    let (token, _ready) = readiness::channel();
    trigger.start();
    let run = tokio::spawn(bound.run(token, watch));
    for mut client in waiting {
        let answer = client.response().await.unwrap();
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("x", Some("close")));
    }
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_answer_given_while_draining_says_that_the_connection_closes() {
    let (seen, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (seeing, released) = (Arc::clone(&seen), Arc::clone(&release));
    let origin = Server::raw(move |stream| {
        let (seeing, released) = (Arc::clone(&seeing), Arc::clone(&released));
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            seeing.notify_one();
            released.notified().await;
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    seen.notified().await;
    proxy.trigger.start();
    let refused = || async { std::net::TcpStream::connect(proxy.gateway).is_err().then_some(()) };
    wait::until("the listeners to close", BOUND, refused).await;
    release.notify_one();
    let answer = client.response().await.unwrap();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("ok", Some("close")));
    proxy.stop().await;
}

#[tokio::test]
async fn snapshots_change_under_load_without_a_lost_request() {
    let origins = [Server::http(|_| Answer::ok("x")).await, Server::http(|_| Answer::ok("x")).await];
    let proxy = Proxy::start(limits(), all_to(&[origins[0].address])).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (address, stopped) = (proxy.gateway, stopped.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                while !*stopped.borrow() {
                    let answer = client.request("POST", "/", &[], b"body").await.unwrap();
                    assert_eq!((answer.status(), answer.text().as_str()), (200, "x"));
                }
            })
        })
        .collect();
    for generation in 2..200 {
        let present = &origins[generation as usize % 2];
        proxy.handle.apply(snapshot(generation, vec![route("all", "/", "a")], &[present.address])).unwrap();
        let target = generation * 5;
        let served = || async { (proxy.handle.counters().requests >= target).then_some(()) };
        wait::until("load", BOUND, served).await;
    }
    stop.send(true).unwrap();
    for client in load {
        client.await.unwrap();
    }
    assert!(origins.iter().all(|origin| origin.requests() > 0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_change_of_endpoints_compiles_nothing() {
    let origin = Server::http(|_| Answer::ok("x")).await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let before = proxy.handle.tables();
    let table = |tables: &proxy::Tables| Arc::clone(tables.listener("gateway").unwrap());
    proxy.handle.apply(snapshot(2, vec![route("all", "/", "a")], &[])).unwrap();
    assert!(Arc::ptr_eq(&table(&before), &table(&proxy.handle.tables())));
    assert_eq!(proxy.client().await.get("/").await.unwrap().status(), 503, "the endpoints have changed");
    proxy.handle.apply(snapshot(3, vec![route("all", "/x", "a")], &[])).unwrap();
    assert_eq!(proxy.client().await.get("/").await.unwrap().status(), 404, "the routes have changed");
    proxy.stop().await;
}

#[tokio::test]
async fn older_and_broken_snapshots_change_nothing() {
    let origin = Server::http(|_| Answer::ok("x")).await;
    let serving = |generation| snapshot(generation, vec![route("all", "/", "a")], &[origin.address]);
    let proxy = Proxy::start(limits(), serving(5)).await;
    for generation in [4, 5] {
        proxy.handle.apply(Snapshot { generation, ..Snapshot::default() }).unwrap();
        assert_eq!(proxy.client().await.get("/").await.unwrap().text(), "x");
    }
    let mut broken = serving(6);
    let gateway = broken.listeners.get_mut("gateway").unwrap();
    gateway.routes[0].matches[0].path = proxy::PathMatch::Regex("(".to_owned());
    let error = proxy.handle.apply(broken).unwrap_err();
    assert_eq!(error.to_string(), "route `all` has an invalid regular expression");
    assert_eq!(proxy.handle.snapshot().unwrap().generation, 5);
    assert_eq!(proxy.client().await.get("/").await.unwrap().text(), "x");
    proxy.stop().await;
}

#[tokio::test]
async fn a_draining_endpoint_gets_nothing_new_and_loses_its_idle_connections() {
    let origins = [Server::http(|_| Answer::ok("0")).await, Server::http(|_| Answer::ok("1")).await];
    let both = all_to(&[origins[0].address, origins[1].address]);
    let proxy = Proxy::start(limits(), both.clone()).await;
    let mut client = proxy.client().await;
    let reached = || async { origins.iter().all(|origin| origin.requests() > 0).then_some(()) };
    while reached().await.is_none() {
        client.get("/").await.unwrap();
    }
    let mut draining = Snapshot { generation: 2, ..both };
    draining.services.get_mut("a").unwrap()[0].state = State::Draining;
    proxy.handle.apply(draining.clone()).unwrap();
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().text(), "1");
    }
    wait::until("idle connections to close", BOUND, || async { (origins[0].open() == 0).then_some(()) }).await;
    draining.generation = 3;
    draining.services.get_mut("a").unwrap().remove(1);
    proxy.handle.apply(draining).unwrap();
    assert_eq!(client.get("/").await.unwrap().status(), 503);
    proxy.stop().await;
}

#[tokio::test]
async fn an_endpoint_is_drained_when_its_last_answer_has_ended_whatever_streams_are_left() {
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let origin = Server::raw(move |stream| {
        let released = Arc::clone(&released);
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            let request = client.head().await.unwrap();
            let head = match request.second() {
                "/tunnel" => "101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                "/events" => "200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n",
                _ => "200 OK\r\ncontent-length: 1\r\n\r\n",
            };
            client.send(format!("HTTP/1.1 {head}")).await.unwrap();
            if request.second() == "/" {
                released.notified().await;
                client.send("x").await.unwrap();
            }
            let _ = client.head().await;
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let begin = async |target: &str, fields: &str| {
        let mut client = proxy.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nhost: t\r\n{fields}\r\n")).await.unwrap();
        let status = client.head().await.unwrap().status();
        (client, status)
    };
    let (mut plain, _) = begin("/", "").await;
    let (_events, _) = begin("/events", "").await;
    let (_tunnel, status) = begin("/tunnel", "connection: upgrade\r\nupgrade: websocket\r\n").await;
    assert_eq!(status, 101);
    let bounded = |drained| tokio::time::timeout(BOUND, drained);
    bounded(proxy.handle.drained("a", 7, origin.address)).await.expect("nobody knows it");
    let before = tokio::spawn(proxy.handle.drained("a", 0, origin.address));
    proxy.handle.apply(snapshot(2, vec![route("all", "/", "a")], &[])).unwrap();
    proxy.handle.apply(snapshot(3, vec![route("all", "/", "a")], &[])).unwrap();
    let after = tokio::spawn(proxy.handle.drained("a", 0, origin.address));
    assert_eq!(proxy.client().await.get("/").await.unwrap().status(), 503);
    assert!(!before.is_finished() && !after.is_finished(), "one answer is left");
    release.notify_one();
    assert_eq!(plain.stream.read_u8().await.unwrap(), b'x');
    for drained in [before, after] {
        tokio::time::timeout(BOUND, drained).await.expect("the endpoint is drained").unwrap();
    }
    proxy.run.abort();
}
