//! What users may read of streams whose subjects they may not all subscribe to, and batches of single messages.

use std::path::Path;

use async_nats::{Client, ConnectOptions};
use broker::{Config, Permissions, User};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::streams::jetstream;
use crate::support::{BOUND, Running, config, rules, start, user};

fn reader(allow: &[&str], deny: &[&str]) -> Permissions {
    let asks = [
        "$JS.API.CONSUMER.CREATE.ORDERS.>",
        "$JS.API.CONSUMER.MSG.NEXT.ORDERS.*",
        "$JS.API.DIRECT.GET.>",
        "$JS.API.STREAM.MSG.GET.ORDERS",
    ];
    Permissions { publish: rules(Some(&asks), &[]), subscribe: rules(Some(allow), deny) }
}

fn users() -> [User; 4] {
    [
        user("root", Permissions::default()),
        user("clerk", reader(&["orders.placed", "_INBOX.>"], &[])),
        user("audit", reader(&["orders.*", "_INBOX.>"], &["orders.refunded"])),
        user("boss", reader(&["orders.*", "_INBOX.>"], &[])),
    ]
}

fn started(folder: &Path) -> Running {
    start(&Config { users: users().to_vec(), jetstream: Some(jetstream(folder)), ..config() })
}

async fn client(running: &Running, name: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(name.into(), name.into());
    options.connect(running.url()).await.unwrap()
}

async fn ask(client: &Client, subject: &str, body: Value) -> Value {
    let answer = client.request(subject.to_owned(), body.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// The stream ORDERS with a message of each subject, from 1 on.
async fn begun(running: &Running, subjects: &[&str]) -> Client {
    let root = client(running, "root").await;
    let stream = json!({ "name": "ORDERS", "subjects": ["orders.*"], "allow_direct": true });
    let made = ask(&root, "$JS.API.STREAM.CREATE.ORDERS", stream).await;
    assert!(made["error"].is_null(), "{made}");
    for (subject, sequence) in subjects.iter().zip(1..) {
        let stored = ask(&root, subject, json!({})).await;
        assert_eq!(stored["seq"], sequence, "{stored}");
    }
    root
}

/// What comes up to the end of a batch: sequences, and the last status with its headers.
async fn batch(client: &Client, body: Value) -> (Vec<u64>, String) {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply("$JS.API.DIRECT.GET.ORDERS", inbox, body.to_string().into()).await.unwrap();
    let mut sequences = Vec::new();
    loop {
        let message = tokio::time::timeout(BOUND, answers.next()).await.unwrap().unwrap();
        let headers = message.headers.unwrap();
        let header = |name: &str| headers.get(name).map_or_else(String::new, ToString::to_string);
        match message.status {
            None => sequences.push(header("Nats-Sequence").parse().unwrap()),
            Some(status) => return (sequences, format!("{} {}", status.as_u16(), header("Nats-Num-Pending"))),
        }
    }
}

/// The status of what a consumer gives, none for a message.
async fn next(client: &Client, consumer: &str) -> Option<u16> {
    let (inbox, subject) = (client.new_inbox(), format!("$JS.API.CONSUMER.MSG.NEXT.ORDERS.{consumer}"));
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply(subject, inbox, r#"{"batch":1,"no_wait":true}"#.into()).await.unwrap();
    let message = tokio::time::timeout(BOUND, answers.next()).await.unwrap().unwrap();
    message.status.map(|status| status.as_u16())
}

#[tokio::test]
async fn nobody_reads_through_a_stream_what_it_may_not_subscribe_to() {
    let folder = tempfile::tempdir().unwrap();
    let running = started(folder.path());
    begun(&running, &["orders.placed", "orders.refunded"]).await;
    let create = |filters: &[&str]| json!({ "stream_name": "ORDERS", "config": { "filter_subjects": filters } });
    let cases: [(&str, &[&str], bool); 10] = [
        ("clerk", &["orders.placed"], true),
        ("clerk", &["orders.placed", "orders.refunded"], false),
        ("clerk", &["orders.*"], false),
        ("clerk", &[">"], false),
        ("clerk", &[], false),
        ("audit", &["orders.placed"], true),
        ("audit", &[], false),
        ("boss", &[], true),
        ("boss", &[">"], true),
        ("boss", &["other"], false),
    ];
    for ((name, filters, is_allowed), at) in cases.iter().zip(1..) {
        let client = client(&running, name).await;
        let made = ask(&client, &format!("$JS.API.CONSUMER.CREATE.ORDERS.c{at}"), create(filters)).await;
        let code = if *is_allowed { Value::Null } else { json!(10093) };
        assert_eq!(made["error"]["err_code"], code, "{name} {filters:?}: {made}");
    }
    // What was allowed once is not for ever.
    let boss = client(&running, "boss").await;
    assert_eq!((next(&boss, "c8").await, next(&boss, "c8").await), (None, None));
    let users = users()
        .map(|user| if user.name == "boss" { User { permissions: reader(&["_INBOX.>"], &[]), ..user } } else { user });
    running.handle.set_users(&users).unwrap();
    assert_eq!(next(&boss, "c9").await, Some(503));
    // A consumer that is there is not widened.
    let clerk = client(&running, "clerk").await;
    let widened = ask(&clerk, "$JS.API.CONSUMER.CREATE.ORDERS.c1", create(&["orders.*"])).await;
    assert_eq!(widened["error"]["err_code"], 10093, "{widened}");
}

#[tokio::test]
async fn single_messages_of_other_subjects_are_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let running = started(folder.path());
    begun(&running, &["orders.placed", "orders.refunded"]).await;
    for name in ["clerk", "audit"] {
        let client = client(&running, name).await;
        let get = |body| ask(&client, "$JS.API.STREAM.MSG.GET.ORDERS", body);
        assert_eq!(get(json!({ "seq": 1 })).await["message"]["subject"], "orders.placed");
        for body in
            [json!({ "seq": 2 }), json!({ "last_by_subj": "orders.*" }), json!({ "last_by_subj": "orders.refunded" })]
        {
            assert_eq!(get(body).await["error"]["err_code"], 10037);
        }
        let cases = [
            (json!({ "seq": 1 }), true),
            (json!({ "seq": 2 }), false),
            (json!({ "last_by_subj": "orders.refunded" }), false),
        ];
        for (body, is_found) in cases {
            let answer = client.request("$JS.API.DIRECT.GET.ORDERS", body.to_string().into()).await.unwrap();
            assert_eq!(answer.status.is_none(), is_found, "{name}: {body}");
        }
        let last = client.request("$JS.API.DIRECT.GET.ORDERS.orders.refunded", "".into()).await.unwrap();
        assert_eq!(last.status.unwrap().as_u16(), 404);
        assert_eq!(batch(&client, json!({ "batch": 9, "seq": 1 })).await, (vec![], "404 ".to_owned()));
        let only = batch(&client, json!({ "batch": 9, "next_by_subj": "orders.placed" })).await;
        assert_eq!(only, (vec![1], "204 0".to_owned()));
        let multi = json!({ "multi_last": ["orders.*"] });
        assert_eq!(batch(&client, multi).await, (vec![1], "204 0".to_owned()));
    }
    let boss = client(&running, "boss").await;
    assert_eq!(batch(&boss, json!({ "batch": 9, "seq": 1 })).await, (vec![1, 2], "204 0".to_owned()));
}

#[tokio::test]
async fn a_batch_gives_what_matches_in_order_and_says_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let running = started(folder.path());
    let subjects = ["orders.placed", "orders.refunded"].repeat(400);
    let root = begun(&running, &subjects).await;
    let all = batch(&root, json!({ "batch": 700, "next_by_subj": "orders.*", "seq": 11 })).await;
    assert_eq!(all, ((11..=710).collect(), "204 90".to_owned()));
    let half = batch(&root, json!({ "batch": 1000, "next_by_subj": "*.refunded" })).await;
    assert_eq!(half, ((1..=400).map(|at| 2 * at).collect(), "204 0".to_owned()));
    let bytes = batch(&root, json!({ "batch": 1000, "seq": 1, "max_bytes": 20 })).await;
    assert_eq!(bytes, (vec![1, 2], "204 798".to_owned()));
}
