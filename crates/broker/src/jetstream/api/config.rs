//! What a stream and a consumer are, as clients write it and as it is stored and shown. Everything in nanoseconds and bytes,
//! as numbers with a sign, because what is wrong with them must be said by `check` and not by the reader of JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Time;
use super::request::object;

/// A stream: which subjects it keeps, for how long, and what may be done with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StreamConfig {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) description: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) subjects: Vec<String>,
    pub(crate) retention: Retention,
    /// -1: no limit; so with every limit of this struct.
    pub(crate) max_consumers: i64,
    pub(crate) max_msgs: i64,
    pub(crate) max_bytes: i64,
    /// Nanoseconds; 0: no limit.
    pub(crate) max_age: i64,
    pub(crate) max_msgs_per_subject: i64,
    /// Bytes of one message, headers included.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_msg_size: i32,
    pub(crate) discard: Discard,
    pub(crate) storage: Storage,
    pub(crate) num_replicas: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_ack: bool,
    /// Nanoseconds in which a message id is known again.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) duplicate_window: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) placement: Option<Placement>,
    /// Refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mirror: Option<Value>,
    /// Refused unless empty.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) sources: Vec<Value>,
    /// Kept and shown; messages are stored as they are.
    pub(crate) compression: Compression,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) first_seq: u64,
    /// Refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject_transform: Option<Value>,
    /// Refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) republish: Option<Value>,
    pub(crate) allow_direct: bool,
    pub(crate) mirror_direct: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) discard_new_per_subject: bool,
    pub(crate) sealed: bool,
    pub(crate) deny_delete: bool,
    pub(crate) deny_purge: bool,
    pub(crate) allow_rollup_hdrs: bool,
    #[serde(deserialize_with = "object")]
    pub(crate) consumer_limits: ConsumerLimits,
    pub(crate) allow_msg_ttl: bool,
    /// Nanoseconds that a marker of a deletion is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) subject_delete_marker_ttl: i64,
    /// Refused, as are the next four.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) allow_msg_counter: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) allow_atomic: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) allow_msg_schedules: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) persist_mode: PersistMode,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) allow_batched: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Defaults and bounds that a stream has for its consumers; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConsumerLimits {
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) inactive_threshold: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_ack_pending: i64,
}

/// Where a cluster should put a stream. Means nothing to one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Placement {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) cluster: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) tags: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) preferred: String,
}

/// A consumer: which messages of a stream somebody wants, and how they are acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConsumerConfig {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) durable_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) description: String,
    pub(crate) deliver_policy: DeliverPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) opt_start_seq: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) opt_start_time: Option<Time>,
    pub(crate) ack_policy: AckPolicy,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) ack_wait: i64,
    /// -1: no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_deliver: i64,
    /// Nanoseconds before the second, third, … delivery.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) backoff: Vec<i64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) filter_subject: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) filter_subjects: Vec<String>,
    pub(crate) replay_policy: ReplayPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) rate_limit_bps: u64,
    /// Percent, with or without the sign.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) sample_freq: String,
    /// Pull requests that may wait.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_waiting: i64,
    /// -1: no limit. 0, which only consumers without acknowledgements have: likewise.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_ack_pending: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) flow_control: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) headers_only: bool,
    /// Of one pull request; 0: no limit. So with the next two.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_batch: i64,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_expires: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_bytes: i64,
    /// Where messages are pushed; empty: they are pulled.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) deliver_subject: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) deliver_group: String,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) idle_heartbeat: i64,
    /// Nanoseconds after which a consumer that nobody uses is removed; 0: never.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) inactive_threshold: i64,
    pub(crate) num_replicas: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mem_storage: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) direct: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) sourcing: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pause_until: Option<Time>,
    /// Refused, as are the next two.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) priority_groups: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) priority_policy: PriorityPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) priority_timeout: i64,
}

impl ConsumerConfig {
    /// Whether it outlives its use.
    pub(crate) fn is_durable(&self) -> bool {
        !self.durable_name.is_empty()
    }

    /// Whether messages are sent without being asked for.
    pub(crate) fn is_push(&self) -> bool {
        !self.deliver_subject.is_empty()
    }

    /// The patterns of which at least one must match; none: every message.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &str> {
        let single = Some(self.filter_subject.as_str()).filter(|filter| !filter.is_empty());
        self.filter_subjects.iter().map(String::as_str).chain(single)
    }
}

/// What lets a message go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Retention {
    #[default]
    Limits,
    Interest,
    WorkQueue,
}

/// What happens at a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Discard {
    /// The oldest message goes.
    #[default]
    #[serde(alias = "Old", alias = "OLD")]
    Old,
    /// The new message is refused.
    #[serde(alias = "New", alias = "NEW")]
    New,
}

/// Where messages are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Storage {
    #[default]
    File,
    Memory,
}

/// How files are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    #[default]
    None,
    S2,
}

/// When a publish is acknowledged, as the stream asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PersistMode {
    #[default]
    #[serde(alias = "")]
    Default,
    Async,
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeliverPolicy {
    #[default]
    #[serde(alias = "undefined")]
    All,
    Last,
    New,
    ByStartSequence,
    ByStartTime,
    LastPerSubject,
}

/// Which acknowledgements a consumer waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AckPolicy {
    #[default]
    None,
    /// One for everything up to a message.
    All,
    /// One for each message.
    Explicit,
    /// Refused.
    FlowControl,
}

/// How fast old messages are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReplayPolicy {
    #[default]
    Instant,
    /// As far apart as they were published.
    Original,
}

/// Which of several clients is served first. All but `None` are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PriorityPolicy {
    #[default]
    None,
    Overflow,
    PinnedClient,
    Prioritized,
}

/// Whether a field is left out, as Go's `omitempty` does.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
