//! What the broker does not have, and nats-server has: it is refused with an error of NATS, and nothing of it is left.

use async_nats::jetstream::{self, Context};
use broker::Config;
use serde_json::{Value, json};

use super::servers::jetstream;
use crate::support::{Running, config, start};

async fn running(folder: &tempfile::TempDir) -> (Running, Context) {
    let running = start(&Config { jetstream: Some(jetstream(&folder.path().join("streams"))), ..config() });
    let client = async_nats::connect(running.url()).await.unwrap();
    (running, jetstream::new(client))
}

/// Nothing where nobody answers, which the client is told.
async fn ask(js: &Context, subject: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    match js.client().request(format!("$JS.API.{subject}"), body.into()).await {
        Ok(answer) => serde_json::from_slice(&answer.payload).unwrap(),
        Err(error) => {
            assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders, "{subject}");
            Value::Null
        }
    }
}

fn check_refused(what: &str, answer: &Value) {
    let error = &answer["error"];
    let is_told = error["code"].as_u64().is_some_and(|code| code >= 400)
        && error["err_code"].as_u64().is_some_and(|code| code >= 10_000)
        && error["description"].as_str().is_some_and(|text| !text.is_empty());
    assert!(is_told, "{what}: {answer}");
}

#[tokio::test]
async fn streams_that_ask_for_more_than_there_is_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_running, js) = running(&folder).await;
    let plain = json!({ "name": "PLAIN", "subjects": ["plain.>"] });
    assert_eq!(ask(&js, "STREAM.CREATE.PLAIN", &plain).await.get("error"), None);
    let more = [
        json!({ "mirror": { "name": "PLAIN" }, "subjects": [] }),
        json!({ "sources": [{ "name": "PLAIN" }] }),
        json!({ "republish": { "src": ">", "dest": "again.>" } }),
        json!({ "subject_transform": { "src": "more.*", "dest": "less.{{wildcard(1)}}" } }),
        json!({ "allow_msg_counter": true }),
        json!({ "allow_msg_schedules": true }),
        json!({ "allow_atomic": true }),
        json!({ "num_replicas": 3 }),
        json!({ "persist_mode": "async" }),
    ];
    for fields in more {
        let mut wanted = json!({ "name": "MORE", "subjects": ["more.>"] });
        let Value::Object(fields) = fields else { unreachable!() };
        wanted.as_object_mut().unwrap().extend(fields.clone());
        let answer = ask(&js, "STREAM.CREATE.MORE", &wanted).await;
        check_refused(&format!("{fields:?}"), &answer);
        let mut changed = plain.clone();
        changed.as_object_mut().unwrap().extend(fields.clone());
        if !fields.contains_key("mirror") {
            check_refused(&format!("update: {fields:?}"), &ask(&js, "STREAM.UPDATE.PLAIN", &changed).await);
        }
    }
    let names = ask(&js, "STREAM.NAMES", &Value::Null).await;
    assert_eq!(names["streams"], json!(["PLAIN"]));
}

#[tokio::test]
async fn consumers_that_ask_for_more_than_there_is_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_running, js) = running(&folder).await;
    ask(&js, "STREAM.CREATE.PLAIN", &json!({ "name": "PLAIN", "subjects": ["plain.>"] })).await;
    for fields in [
        json!({ "priority_groups": ["a"], "priority_policy": "overflow" }),
        json!({ "priority_groups": ["a"], "priority_policy": "pinned_client" }),
    ] {
        let mut wanted = json!({ "name": "c", "ack_policy": "explicit" });
        wanted.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let body = json!({ "stream_name": "PLAIN", "config": wanted });
        check_refused(&fields.to_string(), &ask(&js, "CONSUMER.CREATE.PLAIN.c", &body).await);
    }
    let names = ask(&js, "CONSUMER.NAMES.PLAIN", &Value::Null).await;
    assert_eq!(names["total"], 0);
}

#[tokio::test]
async fn requests_of_a_cluster_and_of_backups_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_running, js) = running(&folder).await;
    ask(&js, "STREAM.CREATE.PLAIN", &json!({ "name": "PLAIN", "subjects": ["plain.>"] })).await;
    for (subject, body) in [
        ("STREAM.SNAPSHOT.PLAIN", json!({ "deliver_subject": "to.here" })),
        ("STREAM.RESTORE.BACK", json!({ "config": { "name": "BACK", "subjects": ["back.>"] }, "state": {} })),
        ("STREAM.LEADER.STEPDOWN.PLAIN", Value::Null),
        ("STREAM.PEER.REMOVE.PLAIN", json!({ "peer": "x" })),
        ("META.LEADER.STEPDOWN", Value::Null),
    ] {
        let answer = ask(&js, subject, &body).await;
        if !answer.is_null() {
            check_refused(subject, &answer);
        }
    }
    assert_eq!(ask(&js, "STREAM.NAMES", &Value::Null).await["streams"], json!(["PLAIN"]));
}
