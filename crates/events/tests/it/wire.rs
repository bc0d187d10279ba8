//! The HTTP of it: large bodies, slow clients, many requests at once on one connection, methods.

use std::time::Duration;

use events::{Config, Limits};
use testkit::client::Client;
use testkit::message::Message;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::support::{BOUND, Broker, Engine, config, count, json};

async fn answer(client: &mut Client) -> Message {
    timeout(BOUND, client.response()).await.expect("an answer").unwrap()
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_and_the_answer_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let body = vec![b'x'; 10 << 20];
    for fields in [
        vec![],
        vec![("content-type", "application/cloudevents+json")],
        vec![("content-type", "application/cloudevents-batch+json")],
    ] {
        let answer = engine.post("/cart/orders.placed", &fields, &body).await;
        assert_eq!(answer.status(), 413, "{answer:?}");
        assert_eq!(json(&answer)["status"], 413);
    }
    // Without a length, and on a connection that goes on.
    let mut client = Client::connect(engine.address).await;
    client.send("POST /cart/orders.placed HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    for _ in 0..20 {
        client.send([b"10000\r\n", &body[..0x10000], b"\r\n"].concat()).await.unwrap();
    }
    client.send("0\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await.status(), 413);
    client.send("POST /cart/orders.placed HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
    assert_eq!(answer(&mut client).await.status(), 202);
    // Who waits to be asked is told at once.
    let mut client = Client::connect(engine.address).await;
    let head = format!(
        "POST /cart/orders.placed HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        10 << 20
    );
    client.send(head).await.unwrap();
    assert_eq!(answer(&mut client).await.status(), 413);
    assert_eq!(count(&context, "ORDERS").await, 1);
    assert_eq!(engine.post("/cart/orders.placed", &[], &body[..1_000_000 - 300]).await.status(), 202);
    let all = engine.post("/cart/orders.placed", &[], &body[..1_000_000]).await;
    assert_eq!(all.status(), 413, "head and data count together");
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let mut client = Client::connect(engine.address).await;
    let request = |id: usize| {
        format!("POST /cart/orders.placed HTTP/1.1\r\nhost: x\r\nidempotency-key: {id}\r\ncontent-length: 2\r\n\r\nhi")
    };
    let all: String = (0..200).map(request).collect();
    // In pieces that end anywhere.
    for piece in all.as_bytes().chunks(77) {
        client.send(piece).await.unwrap();
    }
    for id in 0..200 {
        let answer = answer(&mut client).await;
        assert_eq!(
            (answer.status(), json(&answer)["events"][0]["id"].as_str()),
            (202, Some(format!("orders.placed/{id}").as_str()))
        );
    }
}

#[tokio::test]
async fn a_client_that_never_ends_its_head_is_left() {
    let engine = Engine::start(config("nats://127.0.0.1:1".to_owned()));
    let mut client = Client::connect(engine.address).await;
    client.send("POST /cart/orders.placed HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut drops = tokio::time::interval(Duration::from_millis(200));
    let drip = async {
        let mut rest = Vec::new();
        loop {
            tokio::select! {
                read = client.stream.read_buf(&mut rest) => match read { Ok(0) | Err(_) => return, Ok(_) => {} },
                _ = drops.tick() => {}
            }
            // Whether it can still be sent shows in what is read.
            let _ = client.stream.get_mut().try_write(b"x-a: b\r\n");
        }
    };
    timeout(BOUND, drip).await.expect("the connection is closed");
}

#[tokio::test]
async fn more_requests_than_may_be_are_told_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.with_stream("ORDERS", "orders.>").await;
    let limits = Limits { publishes_max: 2, ..config(String::new()).limits };
    let engine = Engine::connected(Config { limits, ..config(broker.url()) }).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(engine.address).await;
        let head = "POST /cart/orders.placed HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
        client.send(head).await.unwrap();
        // It is asked for once it is read.
        assert_eq!(timeout(BOUND, client.head()).await.unwrap().unwrap().status(), 100);
        slow.push(client);
    }
    let answer = engine.post("/cart/orders.placed", &[], b"1").await;
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    for client in &mut slow {
        client.send("hi").await.unwrap();
        assert_eq!(self::answer(client).await.status(), 202);
    }
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 202);
}

#[tokio::test]
async fn other_methods_are_told_what_is_allowed_and_senders_may_ask_whether_they_may() {
    let engine = Engine::start(config("nats://127.0.0.1:1".to_owned()));
    let mut client = Client::connect(engine.address).await;
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = client.request(method, "/cart/orders.placed", &[], &[]).await.unwrap();
        assert_eq!((answer.status(), answer.field("allow")), (405, Some("POST, OPTIONS")), "{method}");
    }
    let fields = [("webhook-request-origin", "sender.example"), ("webhook-request-rate", "120")];
    let answer = client.request("OPTIONS", "/cart/orders.placed", &fields, &[]).await.unwrap();
    assert_eq!((answer.status(), answer.field("webhook-allowed-origin")), (200, Some("sender.example")));
    assert_eq!(answer.field("webhook-allowed-rate"), Some("*"));
    let answer = client.request("OPTIONS", "/cart/payments.captured", &fields, &[]).await.unwrap();
    assert_eq!((answer.status(), answer.field("webhook-allowed-origin")), (403, None));
}

#[tokio::test]
async fn what_is_no_http_ends_its_own_connection_only() {
    let engine = Engine::start(config("nats://127.0.0.1:1".to_owned()));
    for bytes in [
        &b"\x16\x03\x01\x02"[..],
        b"GARBAGE\r\n\r\n",
        b"POST\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = Client::connect(engine.address).await;
        client.send(bytes).await.unwrap();
        client.send("\r\n\r\n").await.ok();
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = timeout(BOUND, client.stream.read_to_end(&mut rest)).await.expect("closed");
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"), "{rest:?}");
    }
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 503);
}

#[tokio::test]
async fn a_drain_ends_what_was_begun_and_takes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let mut idle = Client::connect(engine.address).await;
    assert_eq!(idle.request("POST", "/cart/orders.placed", &[], b"1").await.unwrap().status(), 202);
    let mut begun = Client::connect(engine.address).await;
    begun
        .send("POST /cart/orders.placed HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(timeout(BOUND, begun.head()).await.unwrap().unwrap().status(), 100);
    engine.drain();
    let mut rest = Vec::new();
    timeout(BOUND, idle.stream.read_to_end(&mut rest)).await.expect("closed").unwrap();
    begun.send("hi").await.unwrap();
    assert_eq!(answer(&mut begun).await.status(), 202);
    engine.ended().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let limits = Limits { drain_max: Duration::from_millis(200), ..config(String::new()).limits };
    let engine = Engine::start(Config { limits, ..config("nats://127.0.0.1:1".to_owned()) });
    let mut begun = Client::connect(engine.address).await;
    begun
        .send("POST /cart/orders.placed HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(timeout(BOUND, begun.head()).await.unwrap().unwrap().status(), 100);
    engine.ended().await;
    let mut rest = Vec::new();
    let _ = timeout(BOUND, begun.stream.read_to_end(&mut rest)).await.expect("closed");
    assert!(rest.is_empty());
}
