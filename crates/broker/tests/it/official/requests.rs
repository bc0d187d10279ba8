//! Requests of the API as bytes, right and wrong ones: what is answered, field by field, without dates and versions.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::scenario::{Test, nanos, scenarios};

/// How long an answer is waited for where none is expected.
const SILENCE: Duration = Duration::from_secs(2);

scenarios! { what_streams_are_asked, what_consumers_are_asked, what_is_no_json, what_nobody_knows, what_is_published_oddly }

/// Without what depends on time, chance and version.
fn steady(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(fields) => {
            // Beside an error, nats-server also sends what is zero.
            if fields.contains_key("error") {
                fields.retain(|key, _| matches!(key.as_str(), "error" | "type"));
            }
            if fields.get("description").and_then(Value::as_str).is_some_and(|words| words.starts_with("invalid JSON"))
            {
                fields["description"] = json!("invalid JSON");
            }
            for volatile in
                ["created", "ts", "first_ts", "last_ts", "time", "cluster", "last_active", "pause_remaining"]
            {
                fields.remove(volatile);
            }
            if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|key, _| !key.starts_with("_nats."));
            }
            fields
                .retain(|key, value| !(key == "metadata" && value.as_object().is_some_and(serde_json::Map::is_empty)));
            fields.values_mut().for_each(|value| *value = steady(value.take()));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| *value = steady(value.take())),
        _ => {}
    }
    answer
}

async fn ask(t: &Test, table: Vec<(&str, Value)>) -> Value {
    let mut answers = Vec::new();
    for (subject, body) in table {
        let answer = steady(t.request(subject, &body).await);
        answers.push(json!([subject, body, answer]));
    }
    json!(answers)
}

async fn what_streams_are_asked(t: Test) -> Value {
    t.stream("ASKED", Config { allow_direct: true, ..Config::default() }).await;
    t.publish("ASKED", &["a", "b", "a", "c"]).await;
    ask(
        &t,
        vec![
            ("STREAM.CREATE.NEW", json!({ "name": "NEW" })),
            ("STREAM.CREATE.NEW", json!({ "name": "NEW", "subjects": ["NEW"] })),
            ("STREAM.CREATE.NEW", json!({ "name": "OTHER" })),
            ("STREAM.CREATE.NAME", json!({})),
            (
                "STREAM.UPDATE.NEW",
                json!({ "name": "NEW", "subjects": ["new.>"], "max_msgs": 7, "metadata": { "a": "b" } }),
            ),
            ("STREAM.UPDATE.MISSING", json!({ "name": "MISSING" })),
            ("STREAM.INFO.ASKED", Value::Null),
            ("STREAM.INFO.ASKED", json!({ "subjects_filter": "asked.*", "deleted_details": true })),
            ("STREAM.INFO.ASKED", json!({ "subjects_filter": "asked.>", "offset": 2 })),
            ("STREAM.INFO.MISSING", Value::Null),
            ("STREAM.NAMES", json!({ "subject": "asked.a" })),
            ("STREAM.NAMES", json!({ "subject": "nobody.has.it" })),
            ("STREAM.NAMES", json!({ "subject": "asked.>", "offset": 5 })),
            ("STREAM.LIST", json!({ "subject": "asked.a" })),
            ("STREAM.MSG.GET.ASKED", json!({ "seq": 1 })),
            ("STREAM.MSG.GET.ASKED", json!({ "last_by_subj": "asked.a" })),
            ("STREAM.MSG.GET.ASKED", json!({ "next_by_subj": "asked.a", "seq": 2 })),
            ("STREAM.MSG.GET.ASKED", json!({ "next_by_subj": "asked.a", "seq": 4 })),
            ("STREAM.MSG.GET.ASKED", json!({ "seq": 99 })),
            ("STREAM.MSG.GET.MISSING", json!({ "seq": 1 })),
            ("STREAM.MSG.GET.ASKED", json!({ "batch": 2, "seq": 1 })),
            ("STREAM.MSG.DELETE.ASKED", json!({ "seq": 2 })),
            ("STREAM.MSG.DELETE.ASKED", json!({ "seq": 2 })),
            ("STREAM.MSG.DELETE.ASKED", json!({ "seq": 0 })),
            ("STREAM.MSG.DELETE.MISSING", json!({ "seq": 1 })),
            ("STREAM.INFO.ASKED", json!({ "deleted_details": true })),
            ("STREAM.PURGE.ASKED", json!({ "filter": "asked.c" })),
            ("STREAM.PURGE.ASKED", json!({ "seq": 2, "keep": 2 })),
            ("STREAM.PURGE.ASKED", Value::Null),
            ("STREAM.PURGE.MISSING", Value::Null),
            ("STREAM.INFO.ASKED", Value::Null),
            ("DIRECT.GET.ASKED", json!({ "seq": 1 })),
            ("DIRECT.GET.ASKED", json!({})),
            ("DIRECT.GET.ASKED", Value::Null),
            ("DIRECT.GET.ASKED", json!("{")),
            ("DIRECT.GET.MISSING", json!({ "seq": 1 })),
            ("STREAM.DELETE.NEW", Value::Null),
            ("STREAM.DELETE.NEW", Value::Null),
        ],
    )
    .await
}

async fn what_consumers_are_asked(t: Test) -> Value {
    t.stream("ASKED2", Config::default()).await;
    t.publish("ASKED2", &["a", "b"]).await;
    let create = |config: Value| json!({ "stream_name": "ASKED2", "config": config });
    ask(
        &t,
        vec![
            ("CONSUMER.CREATE.ASKED2.c", create(json!({ "name": "c", "ack_policy": "explicit" }))),
            ("CONSUMER.CREATE.ASKED2.c", create(json!({ "name": "c", "ack_policy": "none" }))),
            ("CONSUMER.CREATE.ASKED2.f.asked2.a", create(json!({ "name": "f", "filter_subject": "asked2.a" }))),
            ("CONSUMER.CREATE.ASKED2.g.asked2.b", create(json!({ "name": "g", "filter_subject": "asked2.a" }))),
            (
                "CONSUMER.DURABLE.CREATE.ASKED2.d",
                create(json!({ "durable_name": "d", "ack_policy": "all", "ack_wait": nanos(1000) })),
            ),
            ("CONSUMER.DURABLE.CREATE.ASKED2.d", create(json!({ "durable_name": "e" }))),
            ("CONSUMER.DURABLE.CREATE.ASKED2.d", create(json!({}))),
            (
                "CONSUMER.CREATE.ASKED2.p",
                create(json!({ "name": "p", "deliver_subject": "to.p", "ack_policy": "none" })),
            ),
            ("CONSUMER.INFO.ASKED2.c", Value::Null),
            ("CONSUMER.INFO.ASKED2.missing", Value::Null),
            ("CONSUMER.INFO.MISSING.c", Value::Null),
            ("CONSUMER.NAMES.ASKED2", Value::Null),
            ("CONSUMER.NAMES.ASKED2", json!({ "offset": 2 })),
            ("CONSUMER.NAMES.ASKED2", json!({ "offset": 100 })),
            ("CONSUMER.NAMES.MISSING", Value::Null),
            ("CONSUMER.LIST.ASKED2", json!({ "offset": 3 })),
            ("CONSUMER.LIST.MISSING", Value::Null),
            ("CONSUMER.PAUSE.ASKED2.c", json!({ "pause_until": "2124-01-01T00:00:00Z" })),
            ("CONSUMER.PAUSE.ASKED2.c", json!({ "pause_until": "2024-01-01T00:00:00Z" })),
            ("CONSUMER.PAUSE.ASKED2.c", json!({ "pause_until": "soon" })),
            ("CONSUMER.PAUSE.ASKED2.missing", json!({})),
            ("CONSUMER.DELETE.ASKED2.c", Value::Null),
            ("CONSUMER.DELETE.ASKED2.c", Value::Null),
            ("CONSUMER.DELETE.MISSING.c", Value::Null),
            ("STREAM.INFO.ASKED2", Value::Null),
        ],
    )
    .await
}

/// Fields that it does not know are refused by nats-server of late, and not by the broker.
async fn what_is_no_json(t: Test) -> Value {
    t.stream("ODD", Config::default()).await;
    t.add("ODD", "c", json!({})).await;
    let subjects = [
        ("STREAM.CREATE.ODD", r#"{"name": 7}"#),
        ("STREAM.UPDATE.ODD", r#"{"name": "ODD", "subjects": "odd"}"#),
        ("STREAM.INFO.ODD", r#"{"offset": "x"}"#),
        ("STREAM.NAMES", r#"{"subject": 7}"#),
        ("STREAM.PURGE.ODD", r#"{"seq": -1}"#),
        ("STREAM.MSG.GET.ODD", r#"{"seq": "1"}"#),
        ("STREAM.MSG.DELETE.ODD", r#"{"seq": 1.5}"#),
        ("CONSUMER.CREATE.ODD", r#"{"stream_name": "ODD", "config": []}"#),
        ("CONSUMER.CREATE.ODD.x", r#"{"stream_name": "ODD", "config": {"name": "x", "ack_wait": "1s"}}"#),
        (
            "CONSUMER.DURABLE.CREATE.ODD.x",
            r#"{"stream_name": "ODD", "config": {"durable_name": "x", "max_deliver": 1e99}}"#,
        ),
        ("CONSUMER.NAMES.ODD", r#"{"offset": "x"}"#),
        ("CONSUMER.LIST.ODD", r#"{"offset": {}}"#),
        ("CONSUMER.PAUSE.ODD.c", r#"{"pause_until": 7}"#),
    ];
    let mut answers = Vec::new();
    for (subject, wrong) in subjects {
        for body in ["{", "[]", "null", "7", "\"x\"", "{}", wrong, "\u{0}"] {
            let error = steady(t.request(subject, &json!(body)).await)["error"].take();
            answers
                .push(format!("{subject} {body:?}: {} {} {}", error["code"], error["err_code"], error["description"]));
        }
    }
    json!(answers)
}

/// Some of these are answered by nobody: nats-server is silent, the broker has the client told so.
async fn what_nobody_knows(t: Test) -> Value {
    let table = [
        ("NOTHING", Value::Null),
        ("STREAM", Value::Null),
        ("STREAM.NOTHING.X", Value::Null),
        ("STREAM.INFO", Value::Null),
        ("STREAM.INFO.A.B", Value::Null),
        ("STREAM.CREATE.A>", json!({ "name": "A>" })),
        ("STREAM.CREATE.x/y", json!({ "name": "x/y" })),
        ("STREAM.CREATE.ü", json!({ "name": "ü" })),
        ("CONSUMER.INFO.A", Value::Null),
        ("CONSUMER.MSG.NEXT.A.B", Value::Null),
    ];
    let asked = table.iter().map(async |(subject, body)| {
        let answer = timeout(SILENCE, t.request(subject, body)).await.ok();
        let answer = answer.filter(|answer| answer.get("unanswered").is_none());
        json!([subject, answer.map(steady)])
    });
    json!(futures_util::future::join_all(asked).await)
}

async fn what_is_published_oddly(t: Test) -> Value {
    t.stream("PUBLISHED", Config { allow_rollup: true, allow_message_ttl: true, ..Config::default() }).await;
    let tries = [
        ("Nats-Expected-Stream", "OTHER"),
        ("Nats-Expected-Stream", ""),
        ("Nats-Expected-Last-Sequence", "x"),
        ("Nats-Expected-Last-Sequence", "-1"),
        ("Nats-Expected-Last-Sequence", "18446744073709551616"),
        ("Nats-Expected-Last-Subject-Sequence", "x"),
        ("Nats-Expected-Last-Subject-Sequence", "7"),
        ("Nats-Expected-Last-Msg-Id", "none"),
        ("Nats-Rollup", "SUB"),
        ("Nats-Rollup", "all"),
        ("Nats-Rollup", "nothing"),
        ("Nats-TTL", "1h"),
        ("Nats-TTL", "60"),
        ("Nats-TTL", "never"),
        ("Nats-TTL", "1ms"),
        ("Nats-TTL", "-1s"),
        ("Nats-TTL", "soon"),
        ("Nats-TTL", ""),
        ("Nats-Msg-Id", ""),
        ("nats-msg-id", "lower"),
        ("nats-msg-id", "lower"),
    ];
    let mut answers = Vec::new();
    for (name, value) in tries {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(name, value);
        let answer = t.client.request_with_headers("published.a", headers, "x".into()).await.unwrap();
        answers.push(json!([name, value, serde_json::from_slice::<Value>(&answer.payload).unwrap()]));
    }
    json!([answers, t.state("PUBLISHED").await])
}
