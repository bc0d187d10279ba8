//! How fast events are delivered: broker, engine and a service in one process. Says deliveries a second of a backlog with
//! order for each key, and how long it takes from a publish to its delivery at a low rate.
//! `cargo run --release -p events --example deliver -- [events] [keys] [concurrency]`

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use broker::{JetStream, JetStreamLimits, LameDuck, Sync};
use events::{Config, Limits, OnDeadLetter, Publisher, Server, Since, Start, Subscription, Topic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the service has seen.
#[derive(Default)]
struct Seen {
    count: AtomicU64,
    disorder: AtomicU64,
    last: Mutex<HashMap<u64, u64>>,
    late: Mutex<Vec<Duration>>,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let number =
        |at: usize, default: u64| std::env::args().nth(at).map_or(default, |text| text.parse().expect("a number"));
    let (events, keys, concurrency) = (number(1, 200_000), number(2, 500), number(3, 64));
    let folder = tempfile::tempdir().expect("a folder");
    let url = start_broker(folder.path());
    let context = jetstream::new(async_nats::connect(&url).await.expect("a broker"));
    let config = stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default() };
    context.create_stream(config).await.expect("a stream");
    let (seen, epoch) = (Arc::new(Seen::default()), Instant::now());
    let edge = serve(Arc::clone(&seen), epoch).await;
    publish(&context, 0..events, keys).await;

    let bound = events::bind(engine(url, edge, usize::try_from(concurrency).expect("it fits"))).expect("an engine");
    let (handle, (_trigger, drain)) = (bound.handle(), kit::drain::channel());
    let (token, _readiness) = kit::readiness::channel();
    tokio::spawn(bound.run(token, drain));
    let began = Instant::now();
    until(&seen, events).await;
    report("backlog", events, began);

    let began = Instant::now();
    handle.replay("bench", Since::First).await.expect("a replay");
    seen.last.lock().expect("no panic").clear();
    until(&seen, 2 * events).await;
    report("replay", events, began);
    println!("out of order: {}", seen.disorder.load(Ordering::Relaxed));

    seen.late.lock().expect("no panic").clear();
    for at in 0..1000 {
        let now = u64::try_from(epoch.elapsed().as_nanos()).expect("it fits");
        let data = format!("{{\"k\":{},\"n\":{},\"at\":{now}}}", at % keys, events + at);
        context.publish("orders.placed", data.into()).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    until(&seen, 2 * events + 1000).await;
    let mut late = std::mem::take(&mut *seen.late.lock().expect("no panic"));
    late.sort();
    let of = |percent: usize| late[late.len() * percent / 100];
    println!("publish to delivery: p50 {:?}, p90 {:?}, p99 {:?}", of(50), of(90), of(99));
    println!("resident: {} MiB", resident() >> 10);
}

fn report(what: &str, events: u64, began: Instant) {
    #[allow(clippy::cast_precision_loss)]
    let rate = events as f64 / began.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} deliveries/s; resident {} MiB", resident() >> 10);
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or_default()
}

async fn until(seen: &Seen, count: u64) {
    while seen.count.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn publish(context: &jetstream::Context, events: std::ops::Range<u64>, keys: u64) {
    let mut acks = Vec::new();
    for at in events {
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in [("ce-specversion", "1.0"), ("ce-source", "/bench"), ("ce-type", "orders.placed")] {
            headers.insert(name, value);
        }
        headers.insert("ce-id", at.to_string());
        headers.insert("ce-time", "2026-01-01T00:00:00Z");
        headers.insert("content-type", "application/json");
        let data = format!("{{\"k\":{},\"n\":{at},\"text\":\"{}\"}}", at % keys, "x".repeat(150));
        acks.push(context.publish_with_headers("orders.placed", headers, data.into()).await.expect("sent"));
        if acks.len() == 4096 {
            for ack in acks.drain(..) {
                ack.await.expect("stored");
            }
        }
    }
    for ack in acks {
        ack.await.expect("stored");
    }
}

async fn serve(seen: Arc<Seen>, epoch: Instant) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&seen), epoch));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, seen: Arc<Seen>, epoch: Instant) {
    stream.set_nodelay(true).expect("a TCP socket takes it");
    let mut buffer = Vec::with_capacity(4096);
    loop {
        buffer.clear();
        let body = loop {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
            let text = String::from_utf8_lossy(&buffer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if length.is_some_and(|length| length.parse() == Ok(body.len())) {
                    break body.to_owned();
                }
            }
        };
        note(&body, &seen, epoch);
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}

fn note(body: &str, seen: &Seen, epoch: Instant) {
    let number = |name: &str| {
        let (_, rest) = body.split_once(&format!("\"{name}\":"))?;
        rest.split([',', '}']).next()?.parse::<u64>().ok()
    };
    if let Some(at) = number("at") {
        let late = epoch.elapsed().saturating_sub(Duration::from_nanos(at));
        seen.late.lock().expect("no panic").push(late);
    }
    if let (Some(key), Some(number)) = (number("k"), number("n")) {
        let last = seen.last.lock().expect("no panic").insert(key, number);
        seen.disorder.fetch_add(u64::from(last.is_some_and(|last| last >= number)), Ordering::Relaxed);
    }
    seen.count.fetch_add(1, Ordering::Relaxed);
}

fn engine(url: String, edge: SocketAddr, concurrency: usize) -> Config {
    let subscription = Subscription {
        name: "bench".to_owned(),
        topic: "orders.>".to_owned(),
        stream: "ORDERS".to_owned(),
        service: "bench".to_owned(),
        edge,
        path: "/events".to_owned(),
        filter: None,
        key: Some("k".to_owned()),
        concurrency,
        max_deliver: 5,
        backoff: vec![Duration::from_secs(1)],
        ack_wait: Duration::from_secs(30),
        dead_letter_topic: None,
        on_dead_letter: OnDeadLetter::Continue,
        batch: None,
        start: Start::First,
    };
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        server: Some(Server { url }),
        application: "bench".to_owned(),
        topics: vec![Topic { subject: "orders.>".to_owned(), stream: "ORDERS".to_owned(), schema: None }],
        publishers: vec![Publisher { service: "bench".to_owned(), publishes: vec!["orders.>".to_owned()] }],
        subscriptions: vec![subscription],
        limits: Limits::standard(),
    }
}

fn start_broker(folder: &Path) -> String {
    let config = broker::Config {
        listen: ([127, 0, 0, 1], 0).into(),
        monitor: None,
        name: "bench".to_owned(),
        users: Vec::new(),
        tls: None,
        jetstream: Some(JetStream {
            folder: folder.to_owned(),
            sync: Sync::Always,
            limits: JetStreamLimits {
                streams_max: 100,
                consumers_max: 1000,
                store_bytes_max: 16 << 30,
                memory_bytes_max: 256 << 20,
                segment_bytes: 64 << 20,
                queue_bytes: 8 << 20,
                cache_bytes: 8 << 20,
                message_ids_max: 1 << 20,
            },
        }),
        limits: broker::Limits {
            connections_max: 1000,
            subscriptions_max: 10_000,
            subject_tokens_max: 32,
            control_line_max: 4096,
            payload_max: 1024 * 1024,
            pending_max: 64 * 1024 * 1024,
            write_deadline: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(10),
            tls_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(60),
            pings_outstanding_max: 2,
            closed_connections_max: 100,
        },
        lame_duck: LameDuck { grace: Duration::ZERO, duration: Duration::from_millis(50) },
    };
    let bound = broker::bind(&config).expect("a broker");
    let url = format!("nats://{}", bound.address());
    let (token, _readiness) = kit::readiness::channel();
    let (trigger, drain) = kit::drain::channel();
    tokio::spawn(async move {
        let _trigger = trigger;
        bound.run(token, drain).await
    });
    url
}
