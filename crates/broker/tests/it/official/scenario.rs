//! What a scenario is, how those of Rust are run in this process and those of other languages in one of theirs, what they
//! are given, and how two observations differ.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;

use async_nats::jetstream::{self, Context, stream};
use async_nats::{Client, HeaderMap, Message};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Language;
use super::servers::{Servers, tools};
use crate::support::BOUND;

/// What was seen, without anything random.
#[derive(Debug, PartialEq)]
pub(super) enum Observed {
    Result(Value),
    Failed(String),
}

pub(super) type Scenario = (&'static str, fn(Test) -> Pin<Box<dyn Future<Output = Value> + Send>>);

/// The list of a file's scenarios, by their names.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        pub(super) const SCENARIOS: &[crate::official::scenario::Scenario] =
            &[$((stringify!($name), |test| Box::pin($name(test)))),*];
    };
}
pub(super) use scenarios;

/// A connection of its own to a server, for one scenario.
#[derive(Clone)]
pub(super) struct Test {
    pub(super) client: Client,
    pub(super) js: Context,
    pub(super) servers: Arc<Value>,
}

pub(super) async fn run(scenarios: &'static [Scenario], servers: &Servers) -> BTreeMap<String, Observed> {
    let given = Arc::new(servers.given.clone());
    let mut running = Vec::new();
    for (name, scenario) in scenarios {
        let test = Test::open(&given).await;
        running.push((*name, tokio::spawn(timeout(BOUND, scenario(test)))));
    }
    let mut observed = BTreeMap::new();
    for (name, scenario) in running {
        let result = match scenario.await {
            Ok(Ok(result)) => Observed::Result(result),
            Ok(Err(_late)) => Observed::Failed("it took too long".to_owned()),
            Err(panicked) => Observed::Failed(panicked.to_string()),
        };
        observed.insert(name.to_owned(), result);
    }
    observed
}

pub(super) async fn run_script(language: Language, area: &str, servers: &Servers) -> BTreeMap<String, Observed> {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = match language {
        Language::JavaScript => {
            let mut node = tokio::process::Command::new("node");
            node.env("NODE_PATH", tools().join("node_modules")).arg(clients.join("js/run.cjs"));
            node
        }
        Language::Python => {
            let mut python = tokio::process::Command::new(tools().join("python/bin/python3"));
            python.arg("-B").arg(clients.join("python/run.py"));
            python
        }
    };
    command.arg(area).arg(servers.given.to_string()).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(BOUND * 2, command.output()).await.expect("the scenarios end").unwrap();
    let (out, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {errors}", output.status);
    let lines = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    let observe = |line: Value| {
        let result = match line.get("failed") {
            Some(why) => Observed::Failed(why.as_str().unwrap().to_owned()),
            None => Observed::Result(line["result"].clone()),
        };
        (line["name"].as_str().unwrap().to_owned(), result)
    };
    lines.map(observe).collect()
}

/// One line for each place where they differ.
pub(super) fn put_differences(place: &str, right: &Value, seen: &Value, text: &mut String) {
    match (right, seen) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                put_differences(&format!("{place}.{key}"), a, b, text);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                put_differences(&format!("{place}[{at}]"), a, b, text);
            }
        }
        _ if right == seen => {}
        _ => {
            let _ = writeln!(text, "{place}\n  nats-server: {right}\n  the broker:  {seen}");
        }
    }
}

impl Test {
    async fn open(servers: &Arc<Value>) -> Self {
        let client = async_nats::connect(servers["plain"].as_str().unwrap()).await.unwrap();
        Self { js: jetstream::new(client.clone()), client, servers: servers.clone() }
    }

    pub(super) fn server(&self, name: &str) -> &str {
        self.servers[name].as_str().unwrap()
    }

    /// A stream of a name, with the subjects below it in lower case unless it has its own.
    pub(super) async fn stream(&self, name: &str, mut config: stream::Config) -> stream::Stream {
        config.name = name.to_owned();
        if config.subjects.is_empty() {
            config.subjects = vec![format!("{}.>", name.to_lowercase())];
        }
        self.js.create_stream(config).await.unwrap()
    }

    /// Publishes `1`, `2`, … to subjects below the stream's.
    pub(super) async fn publish(&self, name: &str, subjects: &[&str]) {
        for (at, subject) in subjects.iter().enumerate() {
            let subject = format!("{}.{subject}", name.to_lowercase());
            self.js.publish(subject, (at + 1).to_string().into()).await.unwrap().await.unwrap();
        }
    }

    /// A request to the API, of JSON or of text as it is.
    pub(super) async fn request(&self, subject: &str, body: &Value) -> Value {
        let body = match body {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            body => body.to_string(),
        };
        match self.client.request(format!("$JS.API.{subject}"), body.into()).await {
            Ok(answer) => serde_json::from_slice(&answer.payload).unwrap_or_else(|_| json!(shown(&answer))),
            Err(error) => json!({ "unanswered": error.to_string() }),
        }
    }

    pub(super) async fn state(&self, name: &str) -> Value {
        let asked = json!({ "deleted_details": true, "subjects_filter": ">" });
        let mut state = self.request(&format!("STREAM.INFO.{name}"), &asked).await["state"].take();
        for volatile in ["bytes", "first_ts", "last_ts"] {
            state.as_object_mut().unwrap().remove(volatile);
        }
        state
    }

    pub(super) async fn consumer(&self, stream: &str, name: &str) -> Value {
        let info = self.request(&format!("CONSUMER.INFO.{stream}.{name}"), &Value::Null).await;
        if let Some(error) = info.get("error") {
            return error.clone();
        }
        let pair = |key: &str| format!("{}/{}", info[key]["consumer_seq"], info[key]["stream_seq"]);
        json!({
            "delivered": pair("delivered"), "ack_floor": pair("ack_floor"), "num_ack_pending": info["num_ack_pending"],
            "num_redelivered": info["num_redelivered"], "num_waiting": info["num_waiting"], "num_pending": info["num_pending"],
            "push_bound": info["push_bound"], "paused": info["paused"],
        })
    }

    /// A consumer as bytes; `ack_policy` is explicit unless it is given.
    pub(super) async fn add(&self, stream: &str, name: &str, mut config: Value) {
        config["durable_name"] = json!(name);
        if config["ack_policy"].is_null() {
            config["ack_policy"] = json!("explicit");
        }
        let body = json!({ "stream_name": stream, "config": config });
        let answer = self.request(&format!("CONSUMER.DURABLE.CREATE.{stream}.{name}"), &body).await;
        assert!(answer.get("error").is_none(), "{answer}");
    }

    /// A pull request as bytes: what comes until a status other than 100, or until the batch is there.
    pub(super) async fn pull(&self, stream: &str, consumer: &str, request: Value) -> (Vec<String>, Vec<Message>) {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.unwrap();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let batch = request["batch"].as_u64().or(request.as_u64()).unwrap_or(1);
        self.client.publish_with_reply(subject, inbox, request.to_string().into()).await.unwrap();
        let (mut seen, mut messages) = (Vec::new(), Vec::new());
        while (messages.len() as u64) < batch {
            let message = timeout(BOUND, answers.next()).await.expect("an answer in time").unwrap();
            seen.push(shown(&message));
            match message.status.map(|status| status.as_u16()) {
                None => messages.push(message),
                Some(100) => {}
                Some(_) => break,
            }
        }
        (seen, messages)
    }

    /// Says something to a delivered message's reply subject and waits until it was heard.
    pub(super) async fn ack(&self, message: &Message, words: &'static str) {
        let reply = message.reply.clone().expect("it is acknowledged somewhere");
        self.client.request(reply, words.into()).await.unwrap();
    }

    /// The state of a stream, once it is as it should be.
    pub(super) async fn state_once(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        testkit::wait::until("the stream's state", BOUND, || async { Some(self.state(name).await).filter(&holds) })
            .await
    }
}

/// `subject payload @stream/consumer xdelivered +pending`, or a status with its headers.
pub(super) fn shown(message: &Message) -> String {
    let payload = String::from_utf8_lossy(&message.payload);
    if let Some(status) = message.status {
        let said = message.description.as_deref().unwrap_or_default();
        let more = message.headers.as_ref().map(lines).unwrap_or_default();
        return std::iter::once(format!("{} {said}", status.as_u16())).chain(more).collect::<Vec<_>>().join("; ");
    }
    let tokens: Vec<&str> = message.reply.as_deref().unwrap_or_default().split('.').collect();
    match tokens.as_slice() {
        ["$JS", "ACK", .., delivered, stream, consumer, _time, pending] => {
            format!("{} {payload} @{stream}/{consumer} x{delivered} +{pending}", message.subject)
        }
        _ => format!("{} {payload}", message.subject),
    }
}

/// Headers as lines; of a time only that it is one.
pub(super) fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, values) in headers.iter() {
        let name: &str = name.as_ref();
        let is_time = name == "Nats-Time-Stamp";
        lines.extend(values.iter().map(|value| format!("{name}: {}", if is_time { "TIME" } else { value.as_str() })));
    }
    lines.sort();
    lines
}

/// What came of it; of an error its words.
pub(super) fn told<T, E: Display>(result: Result<T, E>, show: impl FnOnce(T) -> Value) -> Value {
    match result {
        Ok(value) => json!({ "ok": show(value) }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

pub(super) fn nanos(milliseconds: u64) -> u64 {
    milliseconds * 1_000_000
}
