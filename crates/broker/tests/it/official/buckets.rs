//! Key-value buckets as async-nats makes and uses them.

use std::time::Duration;

use async_nats::jetstream::kv::{Config, Entry, Operation, Store};
use async_nats::jetstream::stream::StorageType;
use futures_util::{Stream, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::scenario::{Test, scenarios, told};
use crate::support::BOUND;

scenarios! {
    a_bucket_is_a_stream_of_its_own, values_are_put_and_got, compare_and_set, history_and_keys, a_watch_sees_what_is_and_what_comes,
    values_and_markers_end, buckets_do_not_see_each_other,
}

async fn bucket(t: &Test, name: &str, config: Config) -> Store {
    t.js.create_key_value(Config { bucket: name.to_owned(), ..config }).await.unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "what iterators give")]
fn shown(entry: Entry) -> Value {
    let operation = match entry.operation {
        Operation::Put => "put",
        Operation::Delete => "delete",
        Operation::Purge => "purge",
    };
    json!([entry.key, String::from_utf8_lossy(&entry.value), entry.revision, operation])
}

async fn entries<E: std::fmt::Debug>(stream: impl Stream<Item = Result<Entry, E>>, count: usize) -> Vec<Value> {
    timeout(BOUND, stream.take(count).map_ok(shown).try_collect()).await.expect("they come in time").unwrap()
}

async fn config(t: &Test, bucket: &str) -> Value {
    let mut config = t.request(&format!("STREAM.INFO.KV_{bucket}"), &Value::Null).await["config"].take();
    config.as_object_mut().unwrap().remove("metadata");
    config
}

async fn a_bucket_is_a_stream_of_its_own(t: Test) -> Value {
    bucket(&t, "plain", Config::default()).await;
    let full = Config {
        description: "d".to_owned(),
        history: 5,
        max_age: Duration::from_secs(60),
        max_bytes: 100_000,
        max_value_size: 1000,
        storage: StorageType::Memory,
        ..Config::default()
    };
    bucket(&t, "full", full).await;
    let missing = told(t.js.get_key_value("missing").await, |_| Value::Null);
    let seen = [config(&t, "plain").await, config(&t, "full").await];
    let removed = told(t.js.delete_key_value("full").await, |status| json!(status.success));
    json!([seen, missing, removed, told(t.js.get_key_value("full").await, |_| Value::Null)])
}

async fn values_are_put_and_got(t: Test) -> Value {
    let kv = bucket(&t, "values", Config { history: 3, ..Config::default() }).await;
    let mut seen = Vec::new();
    for (key, value) in [("a", "1"), ("b.c", "2"), ("a", "3"), ("=x/y-z_1", "")] {
        seen.push(told(kv.put(key, value.into()).await, Value::from));
    }
    for key in ["a", "b.c", "=x/y-z_1", "missing"] {
        seen.push(told(kv.entry(key).await, |entry| entry.map_or(Value::Null, shown)));
    }
    for revision in [1, 2, 9] {
        seen.push(told(kv.entry_for_revision("a", revision).await, |entry| entry.map_or(Value::Null, shown)));
    }
    json!(seen)
}

async fn compare_and_set(t: Test) -> Value {
    let kv = bucket(&t, "cas", Config { history: 5, ..Config::default() }).await;
    let mut seen = vec![
        told(kv.create("a", "1".into()).await, Value::from),
        told(kv.create("a", "2".into()).await, Value::from),
        told(kv.update("a", "3".into(), 1).await, Value::from),
        told(kv.update("a", "4".into(), 1).await, Value::from),
        told(kv.update("b", "x".into(), 9).await, Value::from),
        told(kv.delete("a").await, |()| Value::Null),
        told(kv.get("a").await, |value| json!(value.is_some())),
        told(kv.create("a", "again".into()).await, Value::from),
        told(kv.delete_expect_revision("a", Some(1)).await, |()| Value::Null),
        told(kv.purge_expect_revision("a", Some(4)).await, |()| Value::Null),
    ];
    seen.push(told(kv.create("a", "z".into()).await, Value::from));
    json!([seen, t.state("KV_cas").await])
}

async fn history_and_keys(t: Test) -> Value {
    let kv = bucket(&t, "history", Config { history: 3, ..Config::default() }).await;
    for (key, value) in [("a", "1"), ("a", "2"), ("b", "x"), ("a", "3"), ("a", "4"), ("c", "y")] {
        kv.put(key, value.into()).await.unwrap();
    }
    kv.delete("c").await.unwrap();
    let keys = async || {
        let mut keys: Vec<String> = kv.keys().await.unwrap().try_collect().await.unwrap();
        keys.sort();
        keys
    };
    let before = json!([entries(kv.history("a").await.unwrap(), 99).await, keys().await]);
    kv.purge("a").await.unwrap();
    let after = json!([entries(kv.history("a").await.unwrap(), 99).await, keys().await]);
    let status = kv.status().await.unwrap();
    json!([before, after, status.bucket(), status.values(), status.history()])
}

async fn a_watch_sees_what_is_and_what_comes(t: Test) -> Value {
    let kv = bucket(&t, "watch", Config { history: 2, ..Config::default() }).await;
    for (key, value) in [("a", "1"), ("a", "2"), ("b.x", "3")] {
        kv.put(key, value.into()).await.unwrap();
    }
    let new = kv.watch("b.>").await.unwrap();
    let all = kv.watch_all().await.unwrap();
    let history = kv.watch_with_history("a").await.unwrap();
    let from = kv.watch_all_from_revision(3).await.unwrap();
    let several = kv.watch_many(["a", "c"]).await.unwrap();
    kv.put("b.y", "4".into()).await.unwrap();
    kv.delete("b.x").await.unwrap();
    kv.put("c", "5".into()).await.unwrap();
    kv.purge("a").await.unwrap();
    json!([
        entries(new, 2).await,
        entries(all, 4).await,
        entries(history, 2).await,
        entries(from, 5).await,
        entries(several, 2).await,
    ])
}

async fn values_and_markers_end(t: Test) -> Value {
    let kv = bucket(&t, "marked", Config { limit_markers: Some(Duration::from_secs(1)), ..Config::default() }).await;
    let made = told(kv.create_with_ttl("a", "1".into(), Duration::from_secs(1)).await, Value::from);
    let after = t.state_once("KV_marked", |state| state["last_seq"] == 2).await;
    json!([config(&t, "marked").await, made, after])
}

async fn buckets_do_not_see_each_other(t: Test) -> Value {
    let (one, two) = (bucket(&t, "one", Config::default()).await, bucket(&t, "two", Config::default()).await);
    one.put("a", "1".into()).await.unwrap();
    two.put("a", "2".into()).await.unwrap();
    let got = async |kv: &Store| told(kv.entry("a").await, |entry| entry.map_or(Value::Null, shown));
    let before = [got(&one).await, got(&two).await];
    t.js.delete_key_value("one").await.unwrap();
    json!([before, got(&two).await, told(one.put("a", "x".into()).await, Value::from)])
}
