//! The SDKs that others have written for CloudEvents: what they publish is in the stream as they meant it, and they read what
//! is delivered as what it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use events::{Event, fuzzing};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{BOUND, Broker, Engine, config, raw};

/// An event as an SDK sees it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Seen {
    mode: String,
    attributes: BTreeMap<String, String>,
    /// Base64.
    data: String,
}

#[derive(Clone, Copy)]
enum Language {
    JavaScript,
    Python,
}

/// Where `cargo xtask test` installs what tests need.
fn tools() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(3).unwrap().join("test-tools")
}

async fn run(language: Language, arguments: &[&str], input: &str) -> Vec<Seen> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdks");
    let mut command = match language {
        Language::JavaScript => {
            let mut node = Command::new("node");
            node.env("NODE_PATH", tools().join("node_modules")).arg(scripts.join("sdk.cjs"));
            node
        }
        Language::Python => {
            let mut python = Command::new(tools().join("python/bin/python3"));
            python.arg("-B").arg(scripts.join("sdk.py"));
            python
        }
    };
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("cargo xtask test installs it");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = timeout(BOUND, child.wait_with_output()).await.expect("it ends").unwrap();
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// So that what means the same is the same: time as a time, JSON without spaces, the type that JSON has anyway.
fn normal(mut seen: Seen) -> Seen {
    if let Some(time) = seen.attributes.get_mut("time") {
        *time = time.parse::<jiff::Timestamp>().unwrap().to_string();
    }
    let data = STANDARD.decode(&seen.data).unwrap();
    if let Ok(value) = serde_json::from_slice::<Value>(&data) {
        seen.data = STANDARD.encode(value.to_string());
    }
    seen
}

fn seen(mode: &str, event: &Event) -> Seen {
    let mut attributes = event.attributes.clone();
    attributes.extend(event.content_type.clone().map(|content_type| ("datacontenttype".to_owned(), content_type)));
    normal(Seen { mode: mode.to_owned(), attributes, data: STANDARD.encode(&event.data) })
}

/// A line for `parse`: an event as it is delivered.
fn delivered(mode: &str, event: &Event) -> String {
    let (headers, body) = match mode {
        "binary" => {
            let headers = fuzzing::print_binary(event);
            let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                (name.to_string(), Value::from(value.to_str().unwrap()))
            };
            (headers.iter().map(text).collect(), event.data.to_vec())
        }
        "structured" => (json!({ "content-type": "application/cloudevents+json" }), fuzzing::print(event)),
        _ => {
            let batch = fuzzing::print_batch(std::slice::from_ref(event));
            (json!({ "content-type": "application/cloudevents-batch+json" }), batch)
        }
    };
    format!("{}\n", json!({ "mode": mode, "headers": headers, "body": STANDARD.encode(body) }))
}

async fn publishes_and_reads(language: Language) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let url = format!("http://{}/cart/orders.placed", engine.address);
    let meant: Vec<Seen> = run(language, &["publish", &url], "").await.into_iter().map(normal).collect();
    assert!(meant.len() >= 13, "{meant:?}");
    let mut input = String::new();
    let mut expected = Vec::new();
    let mut stored: BTreeMap<String, Event> = BTreeMap::new();
    for sequence in 1..=meant.len() as u64 {
        let (headers, payload) = raw(&context, "ORDERS", sequence).await;
        let event = fuzzing::stored(Some(&headers), &Bytes::from(payload));
        stored.insert(event.id().to_owned(), event);
    }
    for meant in &meant {
        let event = &stored[&meant.attributes["id"]];
        let mut without_type = seen(&meant.mode, event);
        if !meant.attributes.contains_key("datacontenttype") {
            without_type.attributes.remove("datacontenttype");
        }
        assert_eq!(&without_type, meant);
        input.push_str(&delivered(&meant.mode, event));
        expected.push(seen(&meant.mode, event));
    }
    let read: Vec<Seen> = run(language, &["parse"], &input).await.into_iter().map(normal).collect();
    assert_eq!(read.len(), expected.len());
    for (read, expected) in read.iter().zip(&expected) {
        assert_eq!(read, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_for_python_publishes_and_reads() {
    publishes_and_reads(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_for_javascript_publishes_and_reads() {
    publishes_and_reads(Language::JavaScript).await;
}
