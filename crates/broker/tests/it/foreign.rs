//! The official Rust client: what it relies on is there.

use std::time::Duration;

use async_nats::{ConnectOptions, HeaderMap};
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::support::{BOUND, Running, config, start};

async fn client(running: &Running) -> async_nats::Client {
    async_nats::connect(running.url()).await.unwrap()
}

async fn next(subscriber: &mut async_nats::Subscriber) -> async_nats::Message {
    timeout(BOUND, subscriber.next()).await.expect("a message in time").expect("a message")
}

#[tokio::test]
async fn messages_reach_literal_and_wildcard_subscriptions() {
    let running = start(&config());
    let (one, two) = (client(&running).await, client(&running).await);
    let mut literal = one.subscribe("orders.placed").await.unwrap();
    let mut token = one.subscribe("orders.*").await.unwrap();
    let mut rest = one.subscribe("orders.>").await.unwrap();
    one.flush().await.unwrap();
    two.publish("orders.placed", "1".into()).await.unwrap();
    two.publish("orders.placed.late", "2".into()).await.unwrap();
    for subscriber in [&mut literal, &mut token, &mut rest] {
        assert_eq!(next(subscriber).await.payload, "1");
    }
    assert_eq!(next(&mut rest).await.payload, "2");
}

#[tokio::test]
async fn a_request_is_answered_with_headers_and_without_a_responder_at_once() {
    let running = start(&config());
    let (asking, answering) = (client(&running).await, client(&running).await);
    let mut requests = answering.subscribe("price").await.unwrap();
    answering.flush().await.unwrap();
    let answers = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let mut headers = HeaderMap::new();
            headers.insert("Currency", "EUR");
            let reply = request.reply.unwrap();
            answering.publish_with_headers(reply, headers, request.payload).await.unwrap();
        }
    });
    for round in 0..100 {
        let answer = asking.request("price", format!("{round}").into()).await.unwrap();
        assert_eq!(answer.payload, format!("{round}"));
        assert_eq!(answer.headers.unwrap().get("Currency").unwrap().as_str(), "EUR");
    }
    let nobody = asking.request("nobody", "?".into()).await.unwrap_err();
    assert_eq!(nobody.kind(), async_nats::RequestErrorKind::NoResponders);
    answers.abort();
}

#[tokio::test]
async fn one_member_of_a_queue_group_gets_each_message() {
    let running = start(&config());
    let publisher = client(&running).await;
    let mut members = Vec::new();
    for pattern in ["work.*", "work.>", "work.item"] {
        let member = client(&running).await;
        members.push(member.queue_subscribe(pattern, "crew".to_owned()).await.unwrap());
        member.flush().await.unwrap();
    }
    for _ in 0..300 {
        publisher.publish("work.item", "x".into()).await.unwrap();
    }
    publisher.flush().await.unwrap();
    let mut counts = [0; 3];
    while counts.iter().sum::<i32>() < 300 {
        let [one, two, three] = members.as_mut_slice() else { unreachable!() };
        tokio::select! {
            _ = next(one) => counts[0] += 1,
            _ = next(two) => counts[1] += 1,
            _ = next(three) => counts[2] += 1,
        }
    }
    assert!(counts.iter().all(|count| *count > 30), "{counts:?}");
    assert_eq!(running.handle.counts().out_messages, 300);
}

#[tokio::test]
async fn a_drained_subscription_gets_what_was_sent_before() {
    let running = start(&config());
    let (one, two) = (client(&running).await, client(&running).await);
    let mut subscriber = one.subscribe("a").await.unwrap();
    one.flush().await.unwrap();
    for _ in 0..10 {
        two.publish("a", "x".into()).await.unwrap();
    }
    two.flush().await.unwrap();
    one.drain().await.unwrap();
    let mut count = 0;
    while let Some(_message) = timeout(BOUND, subscriber.next()).await.unwrap() {
        count += 1;
    }
    assert_eq!(count, 10);
}

#[tokio::test]
async fn a_client_comes_back_to_a_broker_that_was_away() {
    let running = start(&config());
    let address = running.address;
    let options = ConnectOptions::new().reconnect_delay_callback(|_| Duration::from_millis(20));
    let client = options.connect(running.url()).await.unwrap();
    let mut subscriber = client.subscribe("a").await.unwrap();
    client.flush().await.unwrap();
    running.ended().await;
    let again = start(&broker::Config { listen: address, ..config() });
    let arrived = || async {
        again.handle.publish(&broker::Outgoing { subject: b"a", payload: b"back", ..broker::Outgoing::default() }) > 0
    };
    testkit::wait::until("the subscription", BOUND, || async { arrived().await.then_some(()) }).await;
    assert_eq!(next(&mut subscriber).await.payload, "back");
}

#[tokio::test]
async fn a_message_of_the_largest_size_passes_and_a_larger_one_does_not() {
    let running = start(&config());
    let client = client(&running).await;
    let mut subscriber = client.subscribe("a").await.unwrap();
    let max = client.server_info().max_payload;
    assert_eq!(max, 1024 * 1024);
    client.publish("a", vec![7; max].into()).await.unwrap();
    assert_eq!(next(&mut subscriber).await.payload.len(), max);
    let error = client.publish("a", vec![7; max + 1].into()).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::PublishErrorKind::MaxPayloadExceeded);
}

#[tokio::test]
async fn a_hundred_connections_get_every_message_in_order() {
    let running = start(&config());
    let mut subscribers = Vec::new();
    for _ in 0..100 {
        let client = client(&running).await;
        let subscriber = client.subscribe("news.>").await.unwrap();
        client.flush().await.unwrap();
        subscribers.push((client, subscriber));
    }
    let publisher = client(&running).await;
    for number in 0..200 {
        publisher.publish(format!("news.{}", number % 7), format!("{number}").into()).await.unwrap();
    }
    publisher.flush().await.unwrap();
    for (_client, subscriber) in &mut subscribers {
        for number in 0..200 {
            assert_eq!(next(subscriber).await.payload, format!("{number}"));
        }
    }
}
