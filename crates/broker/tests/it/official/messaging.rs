//! The client protocol as async-nats uses it. `foreign` has more of it, for the broker alone.

use std::path::PathBuf;

use async_nats::{Client, ConnectOptions, HeaderMap, Subscriber};
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::scenario::{Test, lines, scenarios, told};
use crate::support::BOUND;

scenarios! {
    headers_are_carried, wildcards_match_tokens, a_queue_group_gets_each_message_once, requests_are_answered, payloads_have_a_bound,
    a_subscription_ends_after_so_many, a_drain_ends_everything, users_prove_who_they_are, users_do_what_they_may,
    the_server_says_who_it_is,
}

async fn texts(subscriber: &mut Subscriber, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let message = timeout(BOUND, subscriber.next()).await.expect("a message in time").unwrap();
        texts.push(String::from_utf8_lossy(&message.payload).into_owned());
    }
    texts
}

/// All that is there when everything that was sent before has been seen: an answer that nobody gives comes behind it.
async fn rest(client: &Client, subscriber: &mut Subscriber) -> Vec<String> {
    assert!(client.request("nobody.gives.it", "".into()).await.is_err());
    let mut texts = Vec::new();
    while let Some(Some(message)) = subscriber.next().now_or_never() {
        texts.push(String::from_utf8_lossy(&message.payload).into_owned());
    }
    texts
}

async fn headers_are_carried(t: Test) -> Value {
    let mut subscriber = t.client.subscribe("headers").await.unwrap();
    let mut headers = HeaderMap::new();
    headers.append("Many", "a");
    headers.append("Many", "b");
    headers.insert("One", "1");
    t.client.publish_with_headers("headers", headers, "x".into()).await.unwrap();
    let message = timeout(BOUND, subscriber.next()).await.unwrap().unwrap();
    json!([lines(&message.headers.unwrap()), message.length])
}

async fn wildcards_match_tokens(t: Test) -> Value {
    let mut subscribers = Vec::new();
    for pattern in ["wild.*", "wild.>", "wild.*.b", "*.a", "wild.a"] {
        subscribers.push((pattern, t.client.subscribe(pattern).await.unwrap()));
    }
    for subject in ["wild.a", "wild.b", "wild.a.b", "wild", "wild.a.b.c"] {
        t.client.publish(subject, subject.into()).await.unwrap();
    }
    let mut seen = Vec::new();
    for (pattern, mut subscriber) in subscribers {
        seen.push(json!([pattern, rest(&t.client, &mut subscriber).await]));
    }
    json!(seen)
}

async fn a_queue_group_gets_each_message_once(t: Test) -> Value {
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(t.client.queue_subscribe("queue.work", "crew".to_owned()).await.unwrap());
    }
    for number in 0..90 {
        t.client.publish("queue.work", number.to_string().into()).await.unwrap();
    }
    let mut all: Vec<u32> = Vec::new();
    let mut worked = Vec::new();
    for mut member in members {
        let got = rest(&t.client, &mut member).await;
        worked.push(!got.is_empty());
        all.extend(got.iter().map(|text| text.parse::<u32>().unwrap()));
    }
    all.sort_unstable();
    assert_eq!(all, (0..90).collect::<Vec<_>>());
    json!([all, worked])
}

async fn requests_are_answered(t: Test) -> Value {
    let mut service = t.client.subscribe("service").await.unwrap();
    let client = t.client.clone();
    let answering = tokio::spawn(async move {
        while let Some(request) = service.next().await {
            client.publish(request.reply.unwrap(), request.payload).await.unwrap();
        }
    });
    let mut answers = Vec::new();
    for number in 0..20 {
        let answer = t.client.request("service", number.to_string().into()).await.unwrap();
        answers.push(String::from_utf8_lossy(&answer.payload).into_owned());
    }
    answering.abort();
    let nobody = told(t.client.request("nobody.here", "".into()).await, |_| Value::Null);
    json!([answers, nobody])
}

async fn payloads_have_a_bound(t: Test) -> Value {
    let max = t.client.server_info().max_payload;
    let mut subscriber = t.client.subscribe("big").await.unwrap();
    t.client.publish("big", vec![0; max].into()).await.unwrap();
    let got = timeout(BOUND, subscriber.next()).await.unwrap().unwrap().payload.len();
    json!([max, got, told(t.client.publish("big", vec![0; max + 1].into()).await, |()| Value::Null)])
}

async fn a_subscription_ends_after_so_many(t: Test) -> Value {
    let (mut early, mut late) = (t.client.subscribe("ends").await.unwrap(), t.client.subscribe("ends").await.unwrap());
    early.unsubscribe_after(2).await.unwrap();
    for text in ["1", "2", "3"] {
        t.client.publish("ends", text.into()).await.unwrap();
    }
    let got = texts(&mut early, 2).await;
    json!([got, timeout(BOUND, early.next()).await.unwrap().is_none(), texts(&mut late, 3).await])
}

/// Of what is still on its way this client's drain may lose some, whatever the server does.
async fn a_drain_ends_everything(t: Test) -> Value {
    let other = async_nats::connect(t.server("plain")).await.unwrap();
    let mut subscriber = other.subscribe("drained").await.unwrap();
    for text in ["1", "2", "3"] {
        other.publish("drained", text.into()).await.unwrap();
    }
    let got = texts(&mut subscriber, 3).await;
    other.drain().await.unwrap();
    json!([got, timeout(BOUND, subscriber.next()).await.unwrap().is_none()])
}

async fn users_prove_who_they_are(t: Test) -> Value {
    let with =
        |name: &str, password: &str| ConnectOptions::with_user_and_password(name.to_owned(), password.to_owned());
    let nkey = |seed: &str| ConnectOptions::with_nkey(t.server(seed).to_owned());
    let token = |text: &str| ConnectOptions::with_token(text.to_owned());
    let tls = ConnectOptions::new().add_root_certificates(PathBuf::from(t.server("ca"))).require_tls(true);
    let tries = [
        ("password", "users", with("cart", "cart")),
        ("wrong", "users", with("cart", "x")),
        ("unknown", "users", with("nobody", "x")),
        ("nothing", "users", ConnectOptions::new()),
        ("nkey", "users", nkey("seed")),
        ("stranger", "users", nkey("stranger")),
        ("token", "token", token("open")),
        ("shut", "token", token("shut")),
        ("tls", "tls", tls),
        ("untrusted", "tls", ConnectOptions::new().require_tls(true)),
    ];
    let mut seen = Vec::new();
    for (name, server, options) in tries {
        let connected = options.connect(t.server(server)).await;
        let proved = match &connected {
            Ok(client) => {
                let mut subscriber = client.subscribe("proof").await.unwrap();
                client.publish("proof", name.into()).await.unwrap();
                texts(&mut subscriber, 1).await
            }
            Err(_) => Vec::new(),
        };
        // The words about an untrusted certificate are the client's, and tell when it was made.
        let kind = connected.err().map(|error| error.kind().to_string());
        seen.push(json!([name, proved, kind]));
    }
    json!(seen)
}

async fn users_do_what_they_may(t: Test) -> Value {
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let options = ConnectOptions::with_user_and_password("cart".to_owned(), "cart".to_owned());
    let options = options.event_callback(move |event| {
        let told = told.clone();
        async move { drop(told.send(event.to_string())) }
    });
    let client = options.connect(t.server("users")).await.unwrap();
    let _allowed = client.subscribe("events.in").await.unwrap();
    let _refused = client.subscribe("salaries.*").await.unwrap();
    client.publish("events.out", "".into()).await.unwrap();
    client.publish("events.other", "".into()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let event = timeout(BOUND, events.recv()).await.expect("it is told").unwrap();
        if event.to_lowercase().contains("permission") {
            seen.push(event);
        }
    }
    json!(seen)
}

async fn the_server_says_who_it_is(t: Test) -> Value {
    let info = t.client.server_info();
    json!([
        info.max_payload,
        info.proto,
        info.headers,
        info.auth_required,
        info.tls_required,
        info.lame_duck_mode,
        info.jetstream
    ])
}
