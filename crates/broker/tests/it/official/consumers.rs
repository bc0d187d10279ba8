//! Consumers as async-nats manages and uses them, and what a pull is told to the byte.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, FromConsumer, PullConsumer, ReplayPolicy, pull, push};
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{AckKind, Message};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::scenario::{Test, lines, nanos, scenarios, shown, told};
use crate::support::BOUND;

scenarios! {
    a_consumer_lives, every_field_of_a_config_is_kept, fetches_batches_and_streams_give_messages, a_pull_ends_as_it_was_asked_to,
    pulls_have_bounds, acks_move_the_floor, every_kind_of_ack_does_its_own, what_is_not_acked_comes_again,
    deliveries_have_a_bound_and_it_is_told, what_may_be_pending_has_a_bound, a_consumer_begins_where_it_is_told_to,
    filters_let_through_what_matches, headers_may_be_all_that_comes, idle_consumers_go, a_paused_consumer_waits,
    ordered_consumers_see_everything_in_order, a_push_consumer_sends_to_its_subject, several_pull_from_one,
    what_was_removed_is_not_delivered,
}

/// Five messages and a consumer.
async fn ready(t: &Test, name: &str, config: Value) -> Stream {
    let stream = t.stream(name, Config::default()).await;
    t.publish(name, &["a", "b", "a", "c", "a"]).await;
    t.add(name, "c", config).await;
    stream
}

/// As the client has read it, without what a server adds by its version.
fn shown_config(consumer: &PullConsumer) -> Value {
    let config = pull::Config::try_from_consumer_config(consumer.cached_info().config.clone()).unwrap();
    let mut config = serde_json::to_value(config).unwrap();
    if let Some(metadata) = config["metadata"].as_object_mut() {
        metadata.retain(|key, _| !key.starts_with("_nats."));
    }
    config
}

async fn take(
    messages: impl futures_util::Stream<Item = Result<Message, impl std::fmt::Debug>>,
    count: usize,
) -> Vec<Message> {
    timeout(BOUND, messages.take(count).try_collect()).await.expect("they come in time").unwrap()
}

fn sequences(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.info().unwrap().stream_sequence).collect()
}

async fn a_consumer_lives(t: Test) -> Value {
    let stream = t.stream("LIFE", Config::default()).await;
    t.publish("LIFE", &["a", "b"]).await;
    let config = pull::Config {
        durable_name: Some("one".to_owned()),
        description: Some("d".to_owned()),
        ..pull::Config::default()
    };
    let made: PullConsumer = stream.create_consumer(config.clone()).await.unwrap();
    let own = shown_config(&made);
    let strict = told(stream.create_consumer_strict(config.clone()).await, |_| Value::Null);
    let changed = pull::Config { max_ack_pending: 7, ..config };
    let other = told(stream.create_consumer_strict(changed.clone()).await, |_| Value::Null);
    let updated =
        told(stream.update_consumer(changed).await, |consumer| json!(consumer.cached_info().config.max_ack_pending));
    let unknown = pull::Config { durable_name: Some("none".to_owned()), ..pull::Config::default() };
    let absent = told(stream.update_consumer(unknown).await, |_| Value::Null);
    let names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
    let count = stream.consumers().count().await;
    let info = t.consumer("LIFE", "one").await;
    let removed = told(stream.delete_consumer("one").await, |status| json!(status.success));
    let gone = [
        told(stream.delete_consumer("one").await, |_| Value::Null),
        told(stream.get_consumer::<pull::Config>("one").await, |_| Value::Null),
    ];
    json!([own, strict, other, updated, absent, names, count, info, removed, gone])
}

async fn every_field_of_a_config_is_kept(t: Test) -> Value {
    let stream = t.stream("FIELDS", Config::default()).await;
    let config = pull::Config {
        durable_name: Some("c".to_owned()),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: 3 },
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(5),
        max_deliver: 4,
        filter_subjects: vec!["fields.a".to_owned(), "fields.b.>".to_owned()],
        replay_policy: ReplayPolicy::Original,
        sample_frequency: 50,
        max_waiting: 9,
        max_ack_pending: 11,
        headers_only: true,
        max_batch: 13,
        max_bytes: 1500,
        max_expires: Duration::from_secs(14),
        inactive_threshold: Duration::from_secs(100),
        num_replicas: 1,
        memory_storage: true,
        backoff: vec![Duration::from_millis(100), Duration::from_secs(2)],
        ..pull::Config::default()
    };
    told(stream.create_consumer(config).await, |consumer| shown_config(&consumer))
}

async fn fetches_batches_and_streams_give_messages(t: Test) -> Value {
    let stream = ready(&t, "WAYS", json!({})).await;
    let consumer: PullConsumer = stream.get_consumer("c").await.unwrap();
    let first = take(consumer.fetch().max_messages(2).messages().await.unwrap(), 2).await;
    let next =
        take(consumer.batch().max_messages(1).expires(Duration::from_secs(5)).messages().await.unwrap(), 1).await;
    let rest = take(consumer.messages().await.unwrap(), 2).await;
    for message in first.iter().chain(&next).chain(&rest) {
        message.double_ack().await.unwrap();
    }
    let nothing = take(consumer.fetch().max_messages(5).messages().await.unwrap(), 5).await;
    let late = consumer.batch().max_messages(5).expires(Duration::from_millis(100)).messages().await.unwrap();
    let late: Vec<_> = timeout(BOUND, late.collect::<Vec<_>>()).await.unwrap();
    let floor = t.consumer("WAYS", "c").await["ack_floor"].clone();
    json!([sequences(&first), sequences(&next), sequences(&rest), nothing.len(), late.len(), floor])
}

async fn a_pull_ends_as_it_was_asked_to(t: Test) -> Value {
    ready(&t, "PULL", json!({})).await;
    let mut seen = Vec::new();
    for request in [
        json!(2),
        json!({ "batch": 10, "no_wait": true }),
        json!({ "batch": 1, "no_wait": true }),
        json!({ "batch": 3, "expires": nanos(100) }),
        json!({ "batch": 1, "expires": nanos(100), "no_wait": true }),
        json!({ "batch": 1, "expires": nanos(100), "idle_heartbeat": nanos(90) }),
        json!({ "batch": 1, "no_wait": true, "max_bytes": -1 }),
        json!({ "batch": 1, "no_wait": true, "unknown": [] }),
        json!({ "batch": "x" }),
        json!({ "batch": 5, "expires": nanos(700), "idle_heartbeat": nanos(300) }),
    ] {
        let (mut lines, _) = t.pull("PULL", "c", request).await;
        lines.dedup();
        // The words about JSON are those of a library.
        lines.iter_mut().filter(|line| line.to_lowercase().contains("json")).for_each(|line| line.truncate(3));
        seen.push(lines);
    }
    let sized = PublishedSize { bytes: 200, count: 3 };
    sized.publish(&t, "pull.big").await;
    let counted = || async { (t.consumer("PULL", "c").await["num_pending"] == 3).then_some(()) };
    testkit::wait::until("the consumer's count", BOUND, counted).await;
    for (batch, max_bytes) in [(10, 700), (10, 20)] {
        let request = json!({ "batch": batch, "max_bytes": max_bytes, "expires": nanos(200) });
        seen.push(t.pull("PULL", "c", request).await.0.iter().map(|line| line.replace('x', "")).collect());
    }
    json!(seen)
}

/// Messages of a size.
struct PublishedSize {
    bytes: usize,
    count: usize,
}

impl PublishedSize {
    async fn publish(&self, t: &Test, subject: &str) {
        for _ in 0..self.count {
            t.js.publish(subject.to_owned(), vec![b'x'; self.bytes].into()).await.unwrap().await.unwrap();
        }
    }
}

async fn pulls_have_bounds(t: Test) -> Value {
    let bounds = json!({ "max_waiting": 1, "max_batch": 2, "max_expires": nanos(1000), "max_bytes": 500 });
    ready(&t, "BOUNDS", bounds).await;
    let mut seen = Vec::new();
    for request in [
        json!({ "batch": 3 }),
        json!({ "batch": 1, "expires": nanos(2000) }),
        json!({ "batch": 1, "max_bytes": 600 }),
        json!({ "batch": 2 }),
    ] {
        seen.push(t.pull("BOUNDS", "c", request).await.0);
    }
    t.add("BOUNDS", "w", json!({ "max_waiting": 1, "filter_subject": "bounds.none" })).await;
    let request = json!({ "batch": 1, "expires": nanos(600) });
    let (one, two) = tokio::join!(t.pull("BOUNDS", "w", request.clone()), t.pull("BOUNDS", "w", request));
    let mut waited = [one.0, two.0];
    waited.sort();
    json!([seen, waited])
}

async fn acks_move_the_floor(t: Test) -> Value {
    let mut seen = Vec::new();
    for (policy, order) in [("none", &[][..]), ("all", &[2, 1]), ("explicit", &[1, 3, 0, 0])] {
        let name = format!("FLOOR{}", policy.to_uppercase());
        ready(&t, &name, json!({ "ack_policy": policy })).await;
        let (_, messages) = t.pull(&name, "c", json!({ "batch": 4 })).await;
        seen.push(t.consumer(&name, "c").await);
        for at in order {
            let message: &async_nats::Message = &messages[*at];
            t.ack(message, "+ACK").await;
            seen.push(t.consumer(&name, "c").await);
        }
    }
    json!(seen)
}

async fn every_kind_of_ack_does_its_own(t: Test) -> Value {
    let stream = ready(&t, "KINDS", json!({ "ack_wait": nanos(30_000) })).await;
    let consumer: PullConsumer = stream.get_consumer("c").await.unwrap();
    let mut messages = take(consumer.fetch().max_messages(5).messages().await.unwrap(), 5).await.into_iter();
    let mut next = || messages.next().unwrap();
    next().double_ack().await.unwrap();
    next().double_ack_with(AckKind::Term).await.unwrap();
    next().double_ack_with(AckKind::Nak(None)).await.unwrap();
    let mut seen = vec![json!(t.pull("KINDS", "c", json!({ "batch": 1, "expires": nanos(9000) })).await.0)];
    let fourth = next();
    fourth.double_ack_with(AckKind::Progress).await.unwrap();
    fourth.double_ack_with(AckKind::Nak(Some(Duration::from_millis(100)))).await.unwrap();
    seen.push(json!(t.pull("KINDS", "c", json!({ "batch": 1, "expires": nanos(9000) })).await.0));
    seen.push(t.consumer("KINDS", "c").await);
    json!(seen)
}

async fn what_is_not_acked_comes_again(t: Test) -> Value {
    ready(&t, "AGAIN", json!({ "ack_wait": nanos(150) })).await;
    let first = t.pull("AGAIN", "c", json!({ "batch": 5 })).await.0;
    let second = t.pull("AGAIN", "c", json!({ "batch": 5, "expires": nanos(9000) })).await.0;
    let backoff = json!({ "backoff": [nanos(50), nanos(100)], "max_deliver": 3, "filter_subject": "back.b" });
    ready(&t, "BACK", backoff).await;
    let mut back = Vec::new();
    for _ in 0..3 {
        back.push(t.pull("BACK", "c", json!({ "batch": 1, "expires": nanos(9000) })).await.0);
    }
    assert_eq!(second.len(), 5);
    json!([first, second, back])
}

async fn deliveries_have_a_bound_and_it_is_told(t: Test) -> Value {
    let mut told = t.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>").await.unwrap();
    ready(&t, "DELIVER", json!({ "max_deliver": 2, "ack_wait": nanos(100), "filter_subject": "deliver.b" })).await;
    let mut seen = Vec::new();
    for expires in [9000, 9000, 400] {
        seen.push(t.pull("DELIVER", "c", json!({ "batch": 1, "expires": nanos(expires) })).await.0);
    }
    // Other scenarios have deliveries of their own.
    let event = loop {
        let message = timeout(BOUND, told.next()).await.expect("it is told").unwrap();
        if message.subject.ends_with(".DELIVER.c") {
            break serde_json::from_slice::<Value>(&message.payload).unwrap();
        }
    };
    json!([seen, event["type"], event["stream_seq"], event["deliveries"], t.consumer("DELIVER", "c").await])
}

async fn what_may_be_pending_has_a_bound(t: Test) -> Value {
    ready(&t, "PENDING", json!({ "max_ack_pending": 2 })).await;
    let (seen, messages) = t.pull("PENDING", "c", json!({ "batch": 4, "expires": nanos(300) })).await;
    t.ack(&messages[1], "+ACK").await;
    let more = t.pull("PENDING", "c", json!({ "batch": 4, "expires": nanos(300) })).await.0;
    json!([seen, more, t.consumer("PENDING", "c").await])
}

async fn a_consumer_begins_where_it_is_told_to(t: Test) -> Value {
    t.stream("BEGIN", Config::default()).await;
    t.publish("BEGIN", &["a", "b", "a"]).await;
    let third = t.request("STREAM.MSG.GET.BEGIN", &json!({ "seq": 3 })).await["message"]["time"].clone();
    t.publish("BEGIN", &["b", "c"]).await;
    let policies = [
        ("all", json!({})),
        ("last", json!({ "deliver_policy": "last" })),
        ("new", json!({ "deliver_policy": "new" })),
        ("sequence", json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 4 })),
        ("beyond", json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 40 })),
        ("time", json!({ "deliver_policy": "by_start_time", "opt_start_time": third })),
        ("subjects", json!({ "deliver_policy": "last_per_subject", "filter_subject": "begin.>" })),
        ("some", json!({ "deliver_policy": "last_per_subject", "filter_subjects": ["begin.a", "begin.c"] })),
    ];
    let mut seen = Vec::new();
    for (name, policy) in &policies {
        t.add("BEGIN", name, policy.clone()).await;
        seen.push(json!([name, t.consumer("BEGIN", name).await]));
    }
    t.publish("BEGIN", &["a"]).await;
    for (name, _) in &policies {
        let (mut lines, _) = t.pull("BEGIN", name, json!({ "batch": 10, "no_wait": true })).await;
        // nats-server counts what is pending a little later than it delivers it.
        lines.iter_mut().for_each(|line| line.truncate(line.find(" +").unwrap_or(line.len())));
        seen.push(json!([name, lines]));
    }
    json!(seen)
}

async fn filters_let_through_what_matches(t: Test) -> Value {
    ready(&t, "FILTER", json!({ "filter_subjects": ["filter.a", "filter.c"] })).await;
    t.add("FILTER", "one", json!({ "filter_subject": "filter.b" })).await;
    t.add("FILTER", "wild", json!({ "filter_subject": "*.c" })).await;
    let mut seen = Vec::new();
    for name in ["c", "one", "wild"] {
        let lines = t.pull("FILTER", name, json!({ "batch": 10, "no_wait": true })).await.0;
        seen.push(json!([lines, t.consumer("FILTER", name).await]));
    }
    json!(seen)
}

async fn headers_may_be_all_that_comes(t: Test) -> Value {
    ready(&t, "HEADERS", json!({ "headers_only": true })).await;
    let (_, messages) = t.pull("HEADERS", "c", json!({ "batch": 1 })).await;
    json!([messages[0].payload.len(), messages[0].headers.as_ref().map(lines)])
}

async fn idle_consumers_go(t: Test) -> Value {
    t.stream("IDLE", Config::default()).await;
    t.add("IDLE", "c", json!({ "inactive_threshold": nanos(200) })).await;
    let gone = || async { Some(t.consumer("IDLE", "c").await).filter(|answer| answer.get("err_code").is_some()) };
    testkit::wait::until("the consumer's end", BOUND, gone).await
}

async fn a_paused_consumer_waits(t: Test) -> Value {
    ready(&t, "PAUSE", json!({})).await;
    let paused = t.request("CONSUMER.PAUSE.PAUSE.c", &json!({ "pause_until": "2124-01-01T00:00:00Z" })).await;
    let quiet = t.pull("PAUSE", "c", json!({ "batch": 1, "expires": nanos(200) })).await.0;
    let info = t.consumer("PAUSE", "c").await;
    let resumed = t.request("CONSUMER.PAUSE.PAUSE.c", &json!({})).await;
    let after = t.pull("PAUSE", "c", json!({ "batch": 1 })).await.0;
    json!([paused["paused"], paused["pause_until"], quiet, info, resumed, after])
}

async fn ordered_consumers_see_everything_in_order(t: Test) -> Value {
    let stream = t.stream("ORDERED", Config::default()).await;
    t.publish("ORDERED", &["a", "b"].repeat(50)).await;
    let pulled = stream.create_consumer(pull::OrderedConfig::default()).await.unwrap();
    let pulled = sequences(&take(pulled.messages().await.unwrap(), 100).await);
    let inbox = t.client.new_inbox();
    let filtered = push::OrderedConfig {
        deliver_subject: inbox,
        filter_subject: "ordered.b".to_owned(),
        ..push::OrderedConfig::default()
    };
    let pushed = stream.create_consumer(filtered).await.unwrap();
    let pushed = sequences(&take(pushed.messages().await.unwrap(), 50).await);
    assert_eq!(pulled, (1..=100).collect::<Vec<u64>>());
    json!([pulled, pushed])
}

async fn a_push_consumer_sends_to_its_subject(t: Test) -> Value {
    ready(&t, "PUSH", json!({ "deliver_subject": "pushed.here", "max_ack_pending": 3 })).await;
    let mut subscriber = t.client.subscribe("pushed.here").await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let message = timeout(BOUND, subscriber.next()).await.expect("it is pushed").unwrap();
        seen.push(shown(&message));
        t.ack(&message, "").await;
    }
    json!([seen, t.consumer("PUSH", "c").await])
}

async fn several_pull_from_one(t: Test) -> Value {
    let stream = t.stream("SEVERAL", Config::default()).await;
    let config = pull::Config { durable_name: Some("c".to_owned()), ..pull::Config::default() };
    let mut pulling = Vec::new();
    for _ in 0..4 {
        let consumer: PullConsumer = stream.create_consumer(config.clone()).await.unwrap();
        pulling.push(tokio::spawn(async move {
            let mut got = Vec::new();
            for _ in 0..25 {
                let batch = consumer.batch().max_messages(1).expires(Duration::from_secs(10));
                for message in take(batch.messages().await.unwrap(), 1).await {
                    message.double_ack().await.unwrap();
                    got.extend(sequences(&[message]));
                }
            }
            got
        }));
    }
    for _ in 0..100 {
        t.js.publish("several.a", "x".into()).await.unwrap().await.unwrap();
    }
    let mut got = Vec::new();
    for task in pulling {
        got.extend(task.await.unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, (1..=100).collect::<Vec<u64>>());
    json!([got.len(), t.consumer("SEVERAL", "c").await])
}

async fn what_was_removed_is_not_delivered(t: Test) -> Value {
    let stream = ready(&t, "REMOVED", json!({ "ack_wait": nanos(300) })).await;
    let first = t.pull("REMOVED", "c", json!({ "batch": 1 })).await.0;
    stream.delete_message(1).await.unwrap();
    stream.delete_message(3).await.unwrap();
    let rest = t.pull("REMOVED", "c", json!({ "batch": 10, "no_wait": true })).await.0;
    stream.purge().await.unwrap();
    let info = t.consumer("REMOVED", "c").await;
    json!([first, rest, info, t.pull("REMOVED", "c", json!({ "batch": 1, "expires": nanos(600) })).await.0])
}
