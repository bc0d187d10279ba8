//! Any calls of JetStream's API, messages with headers and acknowledgements, against a broker with streams in memory and in
//! files. Nothing may panic or stop answering, and every answer of the API is JSON of the type that it says.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use broker::{Config, Handle, JetStream, JetStreamLimits, LameDuck, Limits, Outgoing, Sync};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(20);

/// Most need a body, some a part of the subject.
const CALLS: [&str; 22] = [
    "STREAM.CREATE.A",
    "STREAM.CREATE.B",
    "STREAM.UPDATE.A",
    "STREAM.INFO.A",
    "STREAM.NAMES",
    "STREAM.LIST",
    "STREAM.PURGE.A",
    "STREAM.DELETE.A",
    "STREAM.MSG.GET.A",
    "STREAM.MSG.DELETE.A",
    "DIRECT.GET.A",
    "DIRECT.GET.A.a.b",
    "CONSUMER.CREATE.A",
    "CONSUMER.CREATE.A.c",
    "CONSUMER.CREATE.A.c.a.*",
    "CONSUMER.DURABLE.CREATE.A.c",
    "CONSUMER.INFO.A.c",
    "CONSUMER.NAMES.A",
    "CONSUMER.LIST.A",
    "CONSUMER.DELETE.A.c",
    "CONSUMER.PAUSE.A.c",
    "INFO",
];

/// One thing that a client does.
#[derive(Debug, Arbitrary)]
enum Act<'a> {
    /// A call with any body.
    Call(u8, &'a [u8]),
    /// Any call.
    Other(&'a str, &'a [u8]),
    /// A stream that can be made, with more fields.
    Make(&'a str),
    /// A consumer that can be made, with more fields.
    Follow(&'a str),
    Next(&'a [u8]),
    Publish(u8, &'a [u8], &'a [u8]),
    Ack(u8, u8, &'a [u8]),
    AckSubject(&'a str, &'a [u8]),
}

static BROKER: LazyLock<(Runtime, Handle)> = LazyLock::new(|| {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    // The process ends with the fuzzer, which says nothing: what is left is in the temporary folder.
    let folder = std::env::temp_dir().join(format!("fuzz-{}", std::process::id()));
    let guard = runtime.enter();
    let bound = broker::bind(&config(folder)).expect("bound");
    drop(guard);
    let handle = bound.handle();
    let (token, readiness) = kit::readiness::channel();
    let (trigger, drain) = kit::drain::channel();
    runtime.spawn(async move {
        let ended = bound.run(token, drain).await;
        drop((trigger, readiness));
        panic!("the broker ended: {ended:?}");
    });
    runtime.block_on(async {
        while call(&handle, "INFO", b"").await.is_none() {
            tokio::task::yield_now().await;
        }
    });
    (runtime, handle)
});

fn config(folder: std::path::PathBuf) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        monitor: None,
        name: "fuzz".to_owned(),
        users: Vec::new(),
        tls: None,
        jetstream: Some(JetStream {
            folder,
            sync: Sync::Interval(Duration::from_secs(10)),
            limits: JetStreamLimits {
                streams_max: 4,
                consumers_max: 8,
                store_bytes_max: 16 << 20,
                memory_bytes_max: 16 << 20,
                segment_bytes: 8 << 10,
                queue_bytes: 1 << 20,
                cache_bytes: 64 << 10,
                message_ids_max: 64,
            },
        }),
        limits: Limits {
            connections_max: 10,
            subscriptions_max: 1000,
            subject_tokens_max: 32,
            control_line_max: 4096,
            payload_max: 64 << 10,
            pending_max: 16 << 20,
            write_deadline: PATIENCE,
            auth_timeout: PATIENCE,
            tls_timeout: PATIENCE,
            ping_interval: PATIENCE,
            pings_outstanding_max: 2,
            closed_connections_max: 1,
        },
        lame_duck: LameDuck { grace: Duration::ZERO, duration: Duration::from_millis(1) },
    }
}

fuzz_target!(|acts: Vec<Act<'_>>| {
    let (runtime, handle) = &*BROKER;
    runtime.block_on(async {
        for act in acts.iter().take(24) {
            perform(handle, act).await;
        }
        // Whoever did all that must not have stopped it.
        call(handle, "INFO", b"").await.expect("it answers");
        for stream in ["A", "B"] {
            let answer = call(handle, &format!("STREAM.DELETE.{stream}"), b"").await.expect("it answers");
            assert!(answer.get("success").is_some() || answer["error"]["code"] == 404, "{answer}");
        }
    });
});

async fn perform(handle: &Handle, act: &Act<'_>) {
    match act {
        Act::Call(number, body) => {
            let name = CALLS[usize::from(*number) % CALLS.len()];
            if name.starts_with("DIRECT") {
                send(handle, &format!("$JS.API.{name}"), b"", body);
            } else if let Some(answer) = call(handle, name, body).await {
                assert!(answer["type"].is_string(), "{name}: {answer}");
            }
        }
        Act::Other(name, body) => send(handle, &format!("$JS.API.{name}"), b"", body),
        Act::Make(more) => {
            let body = format!("{{\"name\":\"A\",\"subjects\":[\"a.>\"],\"storage\":\"memory\",{more}}}");
            call(handle, "STREAM.CREATE.A", body.as_bytes()).await;
        }
        Act::Follow(more) => {
            let body = format!("{{\"stream_name\":\"A\",\"config\":{{\"durable_name\":\"c\",{more}}}}}");
            call(handle, "CONSUMER.DURABLE.CREATE.A.c", body.as_bytes()).await;
        }
        Act::Next(body) => send(handle, "$JS.API.CONSUMER.MSG.NEXT.A.c", b"", body),
        Act::Publish(subject, headers, payload) => {
            let block = [b"NATS/1.0\r\n", *headers, b"\r\n\r\n"].concat();
            let headers: &[u8] = if headers.is_empty() { b"" } else { &block };
            send(handle, &format!("a.{}", subject % 4), headers, payload);
        }
        Act::Ack(sequence, delivered, payload) => {
            send(handle, &format!("$JS.ACK.A.c.{delivered}.{sequence}.{sequence}.1.0"), b"", payload);
        }
        Act::AckSubject(rest, payload) => send(handle, &format!("$JS.ACK.{rest}"), b"", payload),
    }
}

/// Publishes with somewhere to answer to, and waits for nothing.
fn send(handle: &Handle, subject: &str, headers: &[u8], payload: &[u8]) {
    if subject.len() > 2048 || !broker::subject::is_publishable(subject.as_bytes()) {
        return;
    }
    let reply = Some(&b"answers"[..]);
    handle.publish(&Outgoing { subject: subject.as_bytes(), reply, headers, payload, ..Outgoing::default() });
}

async fn call(handle: &Handle, name: &str, body: &[u8]) -> Option<serde_json::Value> {
    let subject = format!("$JS.API.{name}");
    let asked = Outgoing { subject: subject.as_bytes(), payload: body, ..Outgoing::default() };
    match handle.request(&asked, PATIENCE).await {
        Ok(answer) => {
            let payload = answer.payload();
            Some(serde_json::from_slice(&payload).unwrap_or_else(|error| panic!("{name}: {error}: {payload:?}")))
        }
        // A stream that is not there has nobody who listens.
        Err(broker::Error::NoResponders { .. }) => None,
        Err(error) => panic!("{name}: {error}"),
    }
}
