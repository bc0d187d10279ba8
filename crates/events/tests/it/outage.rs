//! A broker that is away: at the start, for a while, for good, and in the middle of a publish.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use events::{Config, Limits};
use testkit::client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::{BOUND, Broker, Engine, config, count, delivering, json};

#[tokio::test]
async fn without_a_broker_publishers_are_told_to_come_again() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let engine = Engine::start(config(format!("nats://{nobody}")));
    let answer = engine.post("/cart/orders.placed", &[], b"1").await;
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_at(folder.path(), nobody);
    broker.with_stream("ORDERS", "orders.>").await;
    engine.is_connected(true).await;
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 202);
    engine.ended().await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_a_broker_that_is_away() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let engine = Engine::start(config(format!("nats://{}", silent.local_addr().unwrap())));
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 503);
    engine.ended().await;
}

#[tokio::test]
async fn another_server_is_used_once_it_is_given() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let brokers = [Broker::start(folders[0].path()), Broker::start(folders[1].path())];
    for broker in &brokers {
        broker.with_stream("ORDERS", "orders.>").await;
    }
    let engine = Engine::connected(config(brokers[0].url())).await;
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 202);
    engine.handle.apply(config(brokers[1].url())).unwrap();
    let second = brokers[1].jetstream().await;
    testkit::wait::until("the second broker", BOUND, || async {
        engine.post("/cart/orders.placed", &[], b"1").await;
        (count(&second, "ORDERS").await > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_broker_goes_and_comes() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path());
    broker.with_stream("ORDERS", "orders.>").await;
    let engine = Arc::new(Engine::connected(config(broker.url())).await);
    let over = Arc::new(AtomicBool::new(false));
    let publishers = (0..8).map(|publisher| {
        let (engine, over) = (Arc::clone(&engine), Arc::clone(&over));
        tokio::spawn(async move {
            let (mut accepted, mut refused) = (BTreeSet::new(), 0);
            let mut client = Client::connect(engine.address).await;
            for at in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("{publisher}-{at}");
                let began = Instant::now();
                let fields = [("idempotency-key", id.as_str())];
                let request = client.request("POST", "/cart/orders.placed", &fields, b"x");
                let answer = timeout(BOUND, request).await.expect("an answer").unwrap();
                // Told at once, not after a timeout.
                assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
                match answer.status() {
                    202 => {
                        let sequence = json(&answer)["events"][0]["sequence"].as_u64().unwrap();
                        accepted.insert((sequence, id));
                    }
                    503 => {
                        assert_eq!(answer.field("retry-after"), Some("1"));
                        refused += 1;
                        tokio::task::yield_now().await;
                    }
                    other => panic!("{other}"),
                }
            }
            (accepted, refused)
        })
    });
    let publishers: Vec<_> = publishers.collect();
    for _ in 0..3 {
        let before = engine.handle.read().topics["orders.>"].published;
        testkit::wait::until("events", BOUND, || async {
            (engine.handle.read().topics["orders.>"].published > before + 200).then_some(())
        })
        .await;
        let address = broker.ended().await;
        engine.is_connected(false).await;
        let failed = engine.handle.read().topics["orders.>"].failed;
        testkit::wait::until("refusals", BOUND, || async {
            (engine.handle.read().topics["orders.>"].failed > failed + 20).then_some(())
        })
        .await;
        broker = Broker::start_at(folder.path(), address);
        engine.is_connected(true).await;
    }
    over.store(true, Ordering::Relaxed);
    let stream = broker.jetstream().await.get_stream("ORDERS").await.unwrap();
    let (mut accepted, mut refused) = (BTreeSet::new(), 0);
    for publisher in publishers {
        let (some, count) = publisher.await.unwrap();
        accepted.extend(some);
        refused += count;
    }
    assert!(accepted.len() >= 600 && refused >= 60, "{} {refused}", accepted.len());
    for (sequence, id) in accepted {
        let message = stream.get_raw_message(sequence).await.unwrap();
        assert_eq!(message.headers.get("ce-id").unwrap().as_str(), format!("orders.placed/{id}"));
    }
}

/// Passes everything on in both directions, until it is told to be silent: then only what clients say.
async fn relay(listener: TcpListener, target: SocketAddr, silent: Arc<AtomicBool>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = TcpStream::connect(target).await.unwrap().into_split();
        let silent = Arc::clone(&silent);
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                if !silent.load(Ordering::Relaxed) && to_client.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn a_broker_that_does_not_answer_in_time_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.with_stream("ORDERS", "orders.>").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let silent = Arc::new(AtomicBool::new(false));
    let relay = tokio::spawn(relay(listener, broker.address, Arc::clone(&silent)));
    let limits = Limits { publish_timeout: Duration::from_millis(300), ..config(String::new()).limits };
    let engine = Engine::connected(Config { limits, ..config(url) }).await;
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 202);
    silent.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let answer = engine.post("/cart/orders.placed", &[], b"1").await;
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(3));
    assert!(json(&answer)["detail"].as_str().unwrap().contains("in time"), "{answer:?}");
    relay.abort();
}

#[tokio::test]
async fn the_streams_of_the_engine_are_made_and_changed_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.jetstream().await;
    broker.with_stream("ORDERS", "orders.>").await;
    let config = || delivering(config(broker.url()), "orders.none");
    let engine = Engine::connected(config()).await;
    let of = async |name: &str| context.get_stream(name).await.unwrap().cached_info().config.clone();
    let aside = of("ATOLL_SHOP_ASIDE").await;
    assert_eq!((aside.subjects, aside.max_bytes), (vec!["atoll.shop.aside.>".to_owned()], 1 << 30));
    assert_eq!(of("ATOLL_SHOP_PROGRESS").await.max_messages_per_subject, 1);
    context.publish("atoll.shop.dead.x", "kept".into()).await.unwrap().await.unwrap();
    let limits = Limits { dead_letters_bytes_max: 1 << 20, ..config().limits };
    engine.handle.apply(Config { limits, ..config() }).unwrap();
    testkit::wait::until("the limit", BOUND, || async {
        (of("ATOLL_SHOP_DEAD").await.max_bytes == 1 << 20).then_some(())
    })
    .await;
    assert_eq!(count(&context, "ATOLL_SHOP_DEAD").await, 1);
    engine.ended().await;
    // Once more with nothing to do.
    Engine::connected(config()).await.ended().await;
    assert_eq!(count(&context, "ATOLL_SHOP_DEAD").await, 1);
}

/// A message as no client of the official libraries would send it: its header is not UTF-8, and async-nats gives up the
/// connection on which it comes.
async fn publish_unreadable(broker: &Broker, subject: &str) {
    let head = b"NATS/1.0\r\nA: \xff\r\n\r\n";
    let mut socket = TcpStream::connect(broker.address).await.unwrap();
    let connect = "CONNECT {\"verbose\":false,\"headers\":true}\r\n";
    let publish = format!("HPUB {subject} {} {}\r\n", head.len(), head.len() + 1);
    socket.write_all(&[connect.as_bytes(), publish.as_bytes(), head, b"x\r\nPING\r\n"].concat()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"PONG\r\n") {
        assert!(timeout(BOUND, socket.read_buf(&mut said)).await.expect("an answer").unwrap() > 0);
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_read_does_not_stop_publishers() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let config = delivering(config(broker.url()), "orders.>");
    let engine = Engine::connected(config).await;
    publish_unreadable(&broker, "orders.placed").await;
    testkit::wait::until("it", BOUND, || async { (count(&context, "ORDERS").await == 1).then_some(()) }).await;
    let since = Instant::now();
    for at in 2..40 {
        let answer = engine.post("/cart/orders.placed", &[], b"1").await;
        assert_eq!((answer.status(), &json(&answer)["events"][0]["sequence"]), (202, &at.into()));
    }
    assert!(since.elapsed() < BOUND);
}
