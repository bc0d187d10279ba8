//! Broker and streams → what the API shows.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use manifest::Plan;
use manifest::plan;
use serde::Deserialize;
use serde_json::Value;

use crate::api::dto;

/// A stream as JetStream's API describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamSeen {
    pub config: Value,
    state: State,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    consumer_count: u64,
}

/// A consumer as JetStream's API describes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConsumerSeen {
    pub name: String,
    pub num_pending: u64,
    pub num_ack_pending: u64,
    pub num_redelivered: u64,
}

impl StreamSeen {
    pub fn bytes(&self) -> u64 {
        self.state.bytes
    }

    /// 0 where nothing bounds it alone.
    pub fn bytes_max(&self) -> u64 {
        self.config["max_bytes"].as_u64().unwrap_or_default()
    }

    pub fn name(&self) -> Option<&str> {
        self.config["name"].as_str()
    }

    pub fn messages(&self) -> u64 {
        self.state.messages
    }

    pub fn last_sequence(&self) -> u64 {
        self.state.last_seq
    }

    pub fn consumers(&self) -> u64 {
        self.state.consumer_count
    }

    pub fn is_in_memory(&self) -> bool {
        self.config["storage"] == "memory"
    }

    pub fn subjects(&self) -> impl Iterator<Item = &str> {
        self.config["subjects"].as_array().into_iter().flatten().filter_map(Value::as_str)
    }
}

/// What is known of a broker that serves.
pub struct BrokerSeen<'b> {
    pub address: SocketAddr,
    pub monitor: Option<SocketAddr>,
    pub settings: &'b plan::Broker,
    pub counts: broker::Counts,
    pub users: Vec<String>,
    pub streams: Vec<dto::Stream>,
    /// Why the streams are not known.
    pub silent: Option<String>,
}

pub fn broker_view(seen: BrokerSeen<'_>) -> dto::Broker {
    let BrokerSeen { address, monitor, settings, counts, users, streams, silent } = seen;
    let stored =
        |storage: &str| streams.iter().filter(|stream| stream.storage == storage).map(|stream| stream.bytes).sum();
    dto::Broker {
        address: format!("nats://{address}"),
        url: None,
        monitor: monitor.map(|address| format!("http://{address}")),
        sync: settings.sync.to_string(),
        warnings: weakness(settings.sync).into_iter().chain(silent).collect(),
        max_payload: settings.max_payload,
        file_bytes: stored("file"),
        file_bytes_max: settings.store.file,
        memory_bytes: stored("memory"),
        memory_bytes_max: settings.store.memory,
        connections: counts.connections,
        connections_total: counts.connections_total,
        subscriptions: counts.subscriptions,
        slow_consumers: counts.slow_consumers,
        pending_bytes: counts.pending_bytes,
        in_messages: counts.in_messages,
        in_bytes: counts.in_bytes,
        out_messages: counts.out_messages,
        out_bytes: counts.out_bytes,
        users,
        streams,
    }
}

/// Somebody else's broker: what it counts and how it keeps things is not ours to know.
pub fn nats_view(
    nats: &plan::Nats,
    users: Vec<String>,
    streams: Vec<dto::Stream>,
    silent: Option<String>,
) -> dto::Broker {
    let stored =
        |storage: &str| streams.iter().filter(|stream| stream.storage == storage).map(|stream| stream.bytes).sum();
    dto::Broker {
        address: nats.address.clone(),
        url: None,
        monitor: None,
        sync: "its own".to_owned(),
        warnings: std::iter::once(NATS_SYNC.to_owned()).chain(silent).collect(),
        max_payload: nats.max_payload,
        file_bytes: stored("file"),
        file_bytes_max: 0,
        memory_bytes: stored("memory"),
        memory_bytes_max: 0,
        connections: 0,
        connections_total: 0,
        subscriptions: 0,
        slow_consumers: 0,
        pending_bytes: 0,
        in_messages: 0,
        in_bytes: 0,
        out_messages: 0,
        out_bytes: 0,
        users,
        streams,
    }
}

/// What a nats-server does not promise unless it is told to.
pub const NATS_SYNC: &str = "it is not Atoll's: by default nats-server syncs its files every two minutes, so that a power cut \
loses what it has acknowledged since; `sync_interval: always` in its `jetstream` section makes it durable";

/// What a policy of syncing does not promise, if anything.
pub fn weakness(sync: plan::Sync) -> Option<String> {
    match sync {
        plan::Sync::Always => None,
        plan::Sync::Interval(every) => {
            let every = manifest::format_duration(every);
            Some(format!(
                "a power cut loses what streams acknowledged in the last {every}: `sync` is `{sync}`, not `always`"
            ))
        }
    }
}

/// A stream that is there.
pub fn stream_view(plan: &Plan, seen: &StreamSeen, refused: &BTreeMap<String, String>) -> dto::Stream {
    let name = seen.name().unwrap_or_default();
    let word = |key: &str| seen.config[key].as_str().unwrap_or_default().to_owned();
    dto::Stream {
        name: name.to_owned(),
        topic: topic_of(plan, name),
        subjects: seen.subjects().map(str::to_owned).collect(),
        storage: word("storage"),
        retention: word("retention"),
        messages: seen.state.messages,
        bytes: seen.state.bytes,
        first_sequence: seen.state.first_seq,
        last_sequence: seen.state.last_seq,
        consumers: seen.state.consumer_count,
        refused: refused.get(name).cloned(),
    }
}

/// One that a topic asks for and that is not there.
pub fn missing_stream(plan: &Plan, name: &str, why: &str) -> dto::Stream {
    dto::Stream {
        name: name.to_owned(),
        topic: topic_of(plan, name),
        subjects: Vec::new(),
        storage: String::new(),
        retention: String::new(),
        messages: 0,
        bytes: 0,
        first_sequence: 0,
        last_sequence: 0,
        consumers: 0,
        refused: Some(why.to_owned()),
    }
}

/// Whether the engine of events keeps things of its own in a stream.
pub fn is_engines_own(stream: &str) -> bool {
    stream.starts_with("ATOLL_")
}

fn topic_of(plan: &Plan, stream: &str) -> Option<String> {
    plan.topics.iter().find(|(_, topic)| topic.stream == stream).map(|(subject, _)| subject.clone())
}
