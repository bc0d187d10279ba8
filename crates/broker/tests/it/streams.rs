//! Streams and consumers through the official Rust client, what survives the process, and what a user may do with them.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::{self, consumer, stream};
use broker::{Config, JetStream, JetStreamLimits, Sync};
use futures_util::StreamExt;

use crate::support::{Raw, Running, config, start};

pub(crate) fn jetstream(folder: &Path) -> JetStream {
    JetStream {
        folder: folder.to_owned(),
        sync: Sync::Always,
        limits: JetStreamLimits {
            streams_max: 100,
            consumers_max: 1000,
            store_bytes_max: 1 << 30,
            memory_bytes_max: 256 << 20,
            segment_bytes: 8 << 20,
            queue_bytes: 8 << 20,
            cache_bytes: 8 << 20,
            message_ids_max: 1 << 20,
        },
    }
}

fn started(folder: &Path) -> Running {
    start(&Config { jetstream: Some(jetstream(folder)), ..config() })
}

async fn context(running: &Running) -> jetstream::Context {
    jetstream::new(async_nats::connect(running.url()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart_and_so_is_what_consumers_have_done() {
    let folder = tempfile::tempdir().unwrap();
    let running = started(folder.path());
    let context = context(&running).await;
    let made = context
        .create_stream(stream::Config {
            name: "ORDERS".into(),
            subjects: vec!["orders.>".into()],
            ..Default::default()
        })
        .await
        .unwrap();
    for at in 0..100 {
        let ack = context.publish(format!("orders.{}", at % 3), format!("{at}").into()).await.unwrap().await.unwrap();
        assert_eq!(ack.sequence, at + 1);
    }
    let pull = consumer::pull::Config { durable_name: Some("work".into()), ..Default::default() };
    let consumer = made.create_consumer(pull).await.unwrap();
    let mut batch = consumer.fetch().max_messages(10).messages().await.unwrap();
    let mut count = 0;
    while let Some(message) = batch.next().await {
        let message = message.unwrap();
        assert_eq!(message.payload, format!("{count}"));
        message.double_ack().await.unwrap();
        count += 1;
    }
    assert_eq!(count, 10);
    running.ended().await;

    let running = started(folder.path());
    let context = self::context(&running).await;
    let mut again = context.get_stream("ORDERS").await.unwrap();
    assert_eq!(again.info().await.unwrap().state.messages, 100);
    let mut consumer: consumer::PullConsumer = again.get_consumer("work").await.unwrap();
    let info = consumer.info().await.unwrap();
    assert_eq!((info.ack_floor.stream_sequence, info.num_pending), (10, 90));
    let mut batch = consumer.fetch().max_messages(100).expires(Duration::from_millis(500)).messages().await.unwrap();
    let mut next = 10;
    while let Some(message) = batch.next().await {
        assert_eq!(message.unwrap().payload, format!("{next}"));
        next += 1;
    }
    assert_eq!(next, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_was_worked_off_is_no_new_one_when_it_is_sent_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let running = started(folder.path());
    let context = context(&running).await;
    let config = stream::Config {
        name: "WORK".into(),
        subjects: vec!["work".into()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    let made = context.create_stream(config).await.unwrap();
    let send = async |context: &jetstream::Context, id: &str| {
        let message = jetstream::message::PublishMessage::build().message_id(id).payload("x".into());
        context.send_publish("work", message).await.unwrap().await.unwrap()
    };
    for id in ["one", "two", "three"] {
        assert!(!send(&context, id).await.duplicate);
    }
    let pull = consumer::pull::Config { durable_name: Some("work".into()), ..Default::default() };
    let consumer = made.create_consumer(pull).await.unwrap();
    let mut batch = consumer.fetch().max_messages(2).messages().await.unwrap();
    while let Some(message) = batch.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
    running.ended().await;

    let running = started(folder.path());
    let context = self::context(&running).await;
    for (at, id) in ["one", "two", "three"].into_iter().enumerate() {
        let again = send(&context, id).await;
        assert_eq!((again.duplicate, again.sequence), (true, at as u64 + 1), "{id}");
    }
    assert_eq!(context.get_stream("WORK").await.unwrap().cached_info().state.messages, 1);
    assert!(!send(&context, "four").await.duplicate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_a_long_backlog_holds_up_neither_publishers_nor_the_end() {
    const BACKLOG: usize = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let running = started(folder.path());
    let context = context(&running).await;
    let config = stream::Config {
        name: "LONG".into(),
        subjects: vec!["long".into()],
        storage: stream::StorageType::Memory,
        ..Default::default()
    };
    let made = context.create_stream(config).await.unwrap();
    let client = async_nats::connect(running.url()).await.unwrap();
    for _ in 0..BACKLOG {
        client.publish("long", "x".into()).await.unwrap();
    }
    // By the same connection: behind all of these.
    let same = jetstream::new(client.clone());
    let first = same.publish("long", "x".into()).await.unwrap().await.unwrap().sequence;
    let pull = consumer::pull::Config {
        durable_name: Some("all".into()),
        ack_policy: consumer::AckPolicy::None,
        ..Default::default()
    };
    made.create_consumer(pull).await.unwrap();
    let mut raw = Raw::connected(running.address).await;
    raw.say("SUB inbox 1\r\n").await;
    let request = format!("{{\"batch\":{first},\"expires\":60000000000}}");
    raw.send(format!("PUB $JS.API.CONSUMER.MSG.NEXT.LONG.all inbox {}\r\n{request}\r\n", request.len())).await;
    raw.until("MSG long 1 ").await;
    // Nobody reads on: what is not read fills buffers while the stream goes on sending.
    let next = context.publish("long", "x".into()).await.unwrap().await.unwrap().sequence;
    assert_eq!(next, first + 1);
    running.ended().await;
}
