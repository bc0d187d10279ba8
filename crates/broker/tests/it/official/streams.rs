//! Streams as async-nats manages them. What an answer holds to the byte is seen by `requests`.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, ConsumerLimits, DiscardPolicy, RetentionPolicy, StorageType};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use super::scenario::{Test, lines, scenarios, told};

scenarios! {
    a_stream_lives, every_field_of_a_config_is_kept, wrong_streams_are_refused, publishes_are_acknowledged, a_purge_takes_what_it_names,
    messages_are_read_back, messages_are_removed, old_messages_go_or_new_ones_are_refused, messages_age, interest_and_work_queues,
    an_id_is_taken_once, expectations_are_checked, messages_live_as_long_as_they_say, many_subjects_are_paged,
    what_is_acknowledged_is_there,
}

/// Without what a server adds by its version.
fn shown(config: &Config) -> Value {
    let mut config = serde_json::to_value(config).unwrap();
    if let Some(metadata) = config["metadata"].as_object_mut() {
        metadata.retain(|key, _| !key.starts_with("_nats."));
    }
    config
}

#[expect(clippy::needless_pass_by_value, reason = "what `told` gives")]
fn ack(ack: PublishAck) -> Value {
    json!([ack.stream, ack.sequence, ack.duplicate])
}

#[expect(clippy::needless_pass_by_value, reason = "what `told` gives")]
fn message(message: StreamMessage) -> Value {
    json!([
        message.sequence,
        message.subject.as_str(),
        String::from_utf8_lossy(&message.payload),
        lines(&message.headers)
    ])
}

async fn publish(t: &Test, subject: &str, message: PublishMessage) -> Value {
    let sent = t.js.send_publish(subject.to_owned(), message).await.unwrap();
    told(sent.await, ack)
}

fn is_empty(state: &Value) -> bool {
    state["messages"] == 0
}

async fn a_stream_lives(t: Test) -> Value {
    let config = Config {
        description: Some("d".to_owned()),
        metadata: HashMap::from([("a".to_owned(), "b".to_owned())]),
        ..Config::default()
    };
    let mut stream = t.stream("LIFE", config.clone()).await;
    let made = shown(&stream.cached_info().config);
    let named = Config { name: "LIFE".to_owned(), subjects: vec!["life.>".to_owned()], ..config };
    let again = told(t.js.create_stream(named.clone()).await, |stream| shown(&stream.cached_info().config));
    let other = told(t.js.create_stream(Config { max_messages: 5, ..named.clone() }).await, |_| Value::Null);
    t.publish("LIFE", &["a", "b"]).await;
    let updated = told(t.js.update_stream(Config { max_messages: 10, ..named }).await, |info| shown(&info.config));
    let info = stream.info().await.unwrap();
    let state = json!([
        info.state.messages,
        info.state.first_sequence,
        info.state.last_sequence,
        info.state.subjects_count,
        info.state.consumer_count
    ]);
    let names: Vec<String> =
        t.js.stream_names().try_filter(|name| std::future::ready(name == "LIFE")).try_collect().await.unwrap();
    let by_subject = [t.js.stream_by_subject("life.x").await.ok(), t.js.stream_by_subject("nobody.has.it").await.ok()];
    let listed =
        t.js.streams()
            .filter(|info| std::future::ready(info.as_ref().is_ok_and(|info| info.config.name == "LIFE")))
            .count()
            .await;
    let removed = t.js.delete_stream("LIFE").await.unwrap().success;
    let gone =
        [told(t.js.get_stream("LIFE").await, |_| Value::Null), told(t.js.delete_stream("LIFE").await, |_| Value::Null)];
    json!([made, again, other, updated, state, names, by_subject, listed, removed, gone])
}

async fn every_field_of_a_config_is_kept(t: Test) -> Value {
    let config = Config {
        subjects: vec!["fields.*".to_owned(), "fields.*.x".to_owned()],
        retention: RetentionPolicy::WorkQueue,
        max_consumers: 7,
        max_messages: 1000,
        max_bytes: 1 << 20,
        max_age: Duration::from_secs(3600),
        max_messages_per_subject: 5,
        max_message_size: 1000,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        duplicate_window: Duration::from_secs(60),
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        storage: StorageType::Memory,
        first_sequence: Some(10),
        allow_message_ttl: true,
        consumer_limits: Some(ConsumerLimits { inactive_threshold: Duration::from_secs(10), max_ack_pending: 5 }),
        ..Config::default()
    };
    let stream = t.stream("FIELDS", config).await;
    t.publish("FIELDS", &["a"]).await;
    json!([shown(&stream.cached_info().config), t.state("FIELDS").await])
}

async fn wrong_streams_are_refused(t: Test) -> Value {
    t.stream("RIGHT", Config::default()).await;
    let with = |subject: &str| Config { subjects: vec![subject.to_owned()], ..Config::default() };
    let tries = [
        with("right.a"),
        with(">"),
        with("$JS.API.>"),
        with("a..b"),
        Config { num_replicas: 3, ..with("wrong.a") },
        Config { discard_new_per_subject: true, ..with("wrong.b") },
        Config { max_age: Duration::from_millis(1), ..with("wrong.c") },
        Config { max_age: Duration::from_secs(1), duplicate_window: Duration::from_secs(5), ..with("wrong.d") },
    ];
    let mut seen = Vec::new();
    for (at, config) in tries.into_iter().enumerate() {
        seen.push(told(t.js.create_stream(Config { name: format!("WRONG{at}"), ..config }).await, |_| Value::Null));
    }
    let mut changed = Config { name: "RIGHT".to_owned(), ..with("right.>") };
    changed.storage = StorageType::Memory;
    json!([seen, told(t.js.update_stream(changed).await, |_| Value::Null)])
}

async fn publishes_are_acknowledged(t: Test) -> Value {
    t.stream("ACKED", Config::default()).await;
    let mut waiting = Vec::new();
    for number in 0..500 {
        waiting.push(t.js.publish("acked.a", number.to_string().into()).await.unwrap());
    }
    let mut sequences = Vec::new();
    for sent in waiting {
        sequences.push(sent.await.unwrap().sequence);
    }
    assert_eq!(sequences, (1..=500).collect::<Vec<u64>>());
    let nobody = told(t.js.publish("nobody.wants.it", "x".into()).await.unwrap().await, ack);
    json!([nobody, t.state("ACKED").await])
}

async fn a_purge_takes_what_it_names(t: Test) -> Value {
    let mut seen = Vec::new();
    for at in 0..6 {
        let name = format!("PURGE{at}");
        let stream = t.stream(&name, Config::default()).await;
        t.publish(&name, &["a", "b", "a", "c", "b", "a", "b"]).await;
        let filter = format!("purge{at}.b");
        let purged = match at {
            0 => stream.purge().await,
            1 => stream.purge().filter(filter).await,
            2 => stream.purge().sequence(4).await,
            3 => stream.purge().keep(2).await,
            4 => stream.purge().filter(filter).keep(1).await,
            _ => stream.purge().filter(filter).sequence(5).await,
        };
        seen.push(json!([told(purged, |answer| json!([answer.success, answer.purged])), t.state(&name).await]));
    }
    json!(seen)
}

async fn messages_are_read_back(t: Test) -> Value {
    let stream = t.stream("READ", Config { allow_direct: true, ..Config::default() }).await;
    let mut headers = HeaderMap::new();
    headers.insert("One", "1");
    t.js.publish_with_headers("read.a", headers, "first".into()).await.unwrap().await.unwrap();
    t.publish("READ", &["b", "a", "c"]).await;
    json!([
        told(stream.get_raw_message(1).await, message),
        told(stream.get_raw_message(9).await, message),
        told(stream.get_last_raw_message_by_subject("read.a").await, message),
        told(stream.get_last_raw_message_by_subject("read.z").await, message),
        told(stream.get_next_raw_message_by_subject("read.c").await, message),
        told(stream.get_first_raw_message_by_subject("read.a", 2).await, message),
        told(stream.direct_get(1).await, message),
        told(stream.direct_get(9).await, message),
        told(stream.direct_get_last_for_subject("read.a").await, message),
        told(stream.direct_get_last_for_subject("read.z").await, message),
        told(stream.direct_get_next_for_subject("read.a", Some(2)).await, message),
        told(stream.direct_get_first_for_subject("read.c").await, message),
    ])
}

async fn messages_are_removed(t: Test) -> Value {
    let stream = t.stream("REMOVE", Config::default()).await;
    t.publish("REMOVE", &["a", "b", "c", "d"]).await;
    let seen = [
        told(stream.delete_message(2).await, Value::Bool),
        told(stream.delete_message(2).await, Value::Bool),
        told(stream.delete_message(40).await, Value::Bool),
        t.request("STREAM.MSG.DELETE.REMOVE", &json!({ "seq": 3, "no_erase": true })).await,
    ];
    json!([seen, told(stream.get_raw_message(2).await, message), t.state("REMOVE").await])
}

async fn old_messages_go_or_new_ones_are_refused(t: Test) -> Value {
    let new = DiscardPolicy::New;
    let limits = [
        Config { max_messages: 3, ..Config::default() },
        Config { max_bytes: 300, ..Config::default() },
        Config { max_messages_per_subject: 1, ..Config::default() },
        Config { max_messages: 3, discard: new, ..Config::default() },
        Config { max_bytes: 300, discard: new, ..Config::default() },
        Config { max_messages_per_subject: 1, discard: new, discard_new_per_subject: true, ..Config::default() },
        Config { max_message_size: 50, ..Config::default() },
        Config { max_messages: 3, storage: StorageType::Memory, ..Config::default() },
    ];
    let mut seen = Vec::new();
    for (at, limit) in limits.into_iter().enumerate() {
        let name = format!("LIMIT{at}");
        t.stream(&name, limit).await;
        let mut answers = Vec::new();
        for (subject, bytes) in [("a", 1), ("b", 60), ("a", 1), ("b", 40), ("c", 1), ("a", 1)] {
            let message = PublishMessage::build().payload(vec![b'x'; bytes].into());
            answers.push(publish(&t, &format!("limit{at}.{subject}"), message).await);
        }
        seen.push(json!([answers, t.state(&name).await]));
    }
    json!(seen)
}

async fn messages_age(t: Test) -> Value {
    t.stream("AGE", Config { max_age: Duration::from_millis(300), ..Config::default() }).await;
    t.publish("AGE", &["a", "b"]).await;
    t.state_once("AGE", is_empty).await
}

async fn interest_and_work_queues(t: Test) -> Value {
    let mut seen = Vec::new();
    for (name, retention) in [("INTEREST", RetentionPolicy::Interest), ("QUEUE", RetentionPolicy::WorkQueue)] {
        t.stream(name, Config { retention, ..Config::default() }).await;
        t.publish(name, &["early"]).await;
        t.add(name, "c", json!({})).await;
        t.publish(name, &["a", "b"]).await;
        seen.push(t.state(name).await);
        for message in t.pull(name, "c", json!({ "batch": 10, "no_wait": true })).await.1 {
            t.ack(&message, "+ACK").await;
        }
        seen.push(t.state_once(name, is_empty).await);
    }
    json!(seen)
}

async fn an_id_is_taken_once(t: Test) -> Value {
    t.stream("ONCE", Config::default()).await;
    let mut seen = Vec::new();
    for id in ["x", "x", "y", "x"] {
        seen.push(publish(&t, "once.a", PublishMessage::build().message_id(id)).await);
    }
    json!([seen, t.state("ONCE").await])
}

async fn expectations_are_checked(t: Test) -> Value {
    t.stream("EXPECT", Config::default()).await;
    let build = PublishMessage::build;
    let tries = [
        build().message_id("first"),
        build().expected_last_sequence(1),
        build().expected_last_sequence(1),
        build().expected_last_subject_sequence(2),
        build().expected_last_subject_sequence(2),
        build().expected_stream("EXPECT"),
        build().expected_stream("OTHER"),
        build().expected_last_message_id("first"),
        build().message_id("last"),
        build().expected_last_message_id("last"),
        build().header("Nats-Rollup", "all"),
    ];
    let mut seen = Vec::new();
    for message in tries {
        seen.push(publish(&t, "expect.a", message).await);
    }
    json!(seen)
}

async fn messages_live_as_long_as_they_say(t: Test) -> Value {
    t.stream("TTL", Config { allow_message_ttl: true, ..Config::default() }).await;
    t.stream("NOTTL", Config::default()).await;
    let short = || PublishMessage::build().ttl(Duration::from_secs(1));
    let seen = [
        publish(&t, "ttl.a", short()).await,
        publish(&t, "ttl.b", PublishMessage::build()).await,
        publish(&t, "nottl.a", short()).await,
    ];
    json!([seen, t.state_once("TTL", |state| state["messages"] == 1).await])
}

async fn many_subjects_are_paged(t: Test) -> Value {
    let stream = t.stream("PAGED", Config { storage: StorageType::Memory, ..Config::default() }).await;
    let mut waiting = Vec::new();
    for number in 0..2000 {
        waiting.push(t.js.publish(format!("paged.{number}.{}", number % 3), "".into()).await.unwrap());
    }
    for sent in waiting {
        sent.await.unwrap();
    }
    let mut subjects: Vec<(String, usize)> =
        stream.info_with_subjects("paged.*.1").await.unwrap().try_collect().await.unwrap();
    subjects.sort();
    json!(subjects)
}

async fn what_is_acknowledged_is_there(t: Test) -> Value {
    let stream = t.stream("THERE", Config::default()).await;
    for number in 1..=50_u64 {
        let payload = number.to_string();
        let ack = t.js.publish("there.a", payload.clone().into()).await.unwrap().await.unwrap();
        assert_eq!(ack.sequence, number);
        assert_eq!(stream.get_raw_message(number).await.unwrap().payload, payload);
    }
    t.state("THERE").await
}
