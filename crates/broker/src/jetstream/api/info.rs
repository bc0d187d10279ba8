//! What clients are answered under `$JS.API`, into JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::config::is_default;
use super::{ApiError, ConsumerConfig, StreamConfig, Time};
use crate::JetStreamLimits;

/// Which answer it is; clients choose by it how to read the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No request that is known.
    System,
    AccountInfo,
    StreamCreate,
    StreamUpdate,
    StreamInfo,
    StreamNames,
    StreamList,
    StreamDelete,
    StreamPurge,
    MessageGet,
    MessageDelete,
    /// Not served.
    StreamSnapshot,
    /// Not served.
    StreamRestore,
    ConsumerCreate,
    ConsumerInfo,
    ConsumerNames,
    ConsumerList,
    ConsumerDelete,
    ConsumerPause,
}

impl Kind {
    /// The answer's `type`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::System => "io.nats.jetstream.api.v1.system_response",
            Self::AccountInfo => "io.nats.jetstream.api.v1.account_info_response",
            Self::StreamCreate => "io.nats.jetstream.api.v1.stream_create_response",
            Self::StreamUpdate => "io.nats.jetstream.api.v1.stream_update_response",
            Self::StreamInfo => "io.nats.jetstream.api.v1.stream_info_response",
            Self::StreamNames => "io.nats.jetstream.api.v1.stream_names_response",
            Self::StreamList => "io.nats.jetstream.api.v1.stream_list_response",
            Self::StreamDelete => "io.nats.jetstream.api.v1.stream_delete_response",
            Self::StreamPurge => "io.nats.jetstream.api.v1.stream_purge_response",
            Self::MessageGet => "io.nats.jetstream.api.v1.stream_msg_get_response",
            Self::MessageDelete => "io.nats.jetstream.api.v1.stream_msg_delete_response",
            Self::StreamSnapshot => "io.nats.jetstream.api.v1.stream_snapshot_response",
            Self::StreamRestore => "io.nats.jetstream.api.v1.stream_restore_response",
            Self::ConsumerCreate => "io.nats.jetstream.api.v1.consumer_create_response",
            Self::ConsumerInfo => "io.nats.jetstream.api.v1.consumer_info_response",
            Self::ConsumerNames => "io.nats.jetstream.api.v1.consumer_names_response",
            Self::ConsumerList => "io.nats.jetstream.api.v1.consumer_list_response",
            Self::ConsumerDelete => "io.nats.jetstream.api.v1.consumer_delete_response",
            Self::ConsumerPause => "io.nats.jetstream.api.v1.consumer_pause_response",
        }
    }
}

/// The JSON of an answer: `body`'s fields, or the error.
pub(crate) fn answer<T: Serialize>(kind: Kind, body: &Result<T, ApiError>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Answer<'a, T> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a ApiError>,
        #[serde(flatten)]
        body: Option<&'a T>,
    }
    let answer = Answer { r#type: kind.name(), error: body.as_ref().err(), body: body.as_ref().ok() };
    serde_json::to_vec(&answer).expect("answers are structs of plain fields and maps with strings as keys")
}

/// Body of an answer that has nothing to say but that it is done.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Success {
    success: bool,
}

impl Success {
    pub(crate) const DONE: Self = Self { success: true };
}

/// Where a page lies in a list.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Page {
    pub(crate) total: usize,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
}

impl Page {
    /// The page that begins at `offset` as a client wrote it: below the list's begin is its begin, behind its end its end.
    /// With it, which entries it holds.
    pub(crate) fn of(total: usize, offset: i64, limit: usize) -> (Self, std::ops::Range<usize>) {
        let offset = usize::try_from(offset.max(0)).unwrap_or(usize::MAX).min(total);
        (Self { total, offset, limit }, offset..total.min(offset.saturating_add(limit)))
    }
}

/// Body of `STREAM.NAMES`. None is null, as nats-server has it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct StreamNames {
    #[serde(flatten)]
    pub(crate) page: Page,
    #[serde(serialize_with = "null_if_empty")]
    pub(crate) streams: Vec<String>,
}

/// Body of `STREAM.LIST`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct StreamList {
    #[serde(flatten)]
    pub(crate) page: Page,
    pub(crate) streams: Vec<StreamInfo>,
}

/// Body of `CONSUMER.NAMES.*`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ConsumerNames {
    #[serde(flatten)]
    pub(crate) page: Page,
    pub(crate) consumers: Vec<String>,
}

/// Body of `CONSUMER.LIST.*`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ConsumerList {
    #[serde(flatten)]
    pub(crate) page: Page,
    pub(crate) consumers: Vec<ConsumerInfo>,
}

/// Body of `STREAM.CREATE.*`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StreamCreated {
    #[serde(flatten)]
    pub(crate) info: StreamInfo,
    pub(crate) did_create: bool,
}

/// Body of `STREAM.INFO.*`; the page is that of the subjects.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StreamDescription {
    #[serde(flatten)]
    pub(crate) page: Page,
    #[serde(flatten)]
    pub(crate) info: StreamInfo,
}

/// A stream and how it stands. Body of `STREAM.UPDATE.*`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StreamInfo {
    pub(crate) config: StreamConfig,
    pub(crate) created: Time,
    pub(crate) state: StreamState,
    /// When this was so.
    pub(crate) ts: Time,
}

impl StreamInfo {
    /// As it is shown in every answer but a list.
    pub(crate) fn shown(mut self) -> Self {
        self.config = self.config.shown();
        self
    }
}

/// What a stream holds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct StreamState {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) first_seq: u64,
    pub(crate) first_ts: Time,
    pub(crate) last_seq: u64,
    pub(crate) last_ts: Time,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) num_subjects: usize,
    /// Messages of each subject that was asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) subjects: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) num_deleted: u64,
    /// Sequences between the first and the last that are gone.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) deleted: Vec<u64>,
    pub(crate) consumer_count: usize,
}

/// A consumer and how it stands. Body of `CONSUMER.CREATE.…` and `CONSUMER.INFO.*.*`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConsumerInfo {
    pub(crate) stream_name: String,
    pub(crate) name: String,
    pub(crate) created: Time,
    pub(crate) config: ConsumerConfig,
    pub(crate) delivered: SequenceInfo,
    pub(crate) ack_floor: SequenceInfo,
    pub(crate) num_ack_pending: usize,
    pub(crate) num_redelivered: usize,
    pub(crate) num_waiting: usize,
    pub(crate) num_pending: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) push_bound: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) paused: bool,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pause_remaining: i64,
    pub(crate) ts: Time,
}

/// A place in a consumer's deliveries and in its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct SequenceInfo {
    pub(crate) consumer_seq: u64,
    pub(crate) stream_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_active: Option<Time>,
}

/// Body of `STREAM.PURGE.*`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Purged {
    success: bool,
    purged: u64,
}

impl Purged {
    pub(crate) fn new(purged: u64) -> Self {
        Self { success: true, purged }
    }
}

/// Body of `CONSUMER.PAUSE.*.*`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Paused {
    pub(crate) paused: bool,
    pub(crate) pause_until: Time,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pause_remaining: i64,
}

/// Body of `STREAM.MSG.GET.*`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MessageFound {
    pub(crate) message: StoredMessage,
}

/// A message of a stream.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StoredMessage {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    /// The whole block, `NATS/1.0` included.
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "base64")]
    pub(crate) hdrs: Bytes,
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "base64")]
    pub(crate) data: Bytes,
    pub(crate) time: Time,
}

/// Body of `INFO`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct AccountInfo {
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) storage: u64,
    pub(crate) reserved_memory: u64,
    pub(crate) reserved_storage: u64,
    pub(crate) streams: usize,
    pub(crate) consumers: usize,
    pub(crate) limits: AccountLimits,
    pub(crate) api: ApiStats,
}

/// What an account may have; -1: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AccountLimits {
    /// Bytes.
    pub(crate) max_memory: i64,
    pub(crate) max_storage: i64,
    pub(crate) max_streams: i64,
    /// Of one stream.
    pub(crate) max_consumers: i64,
    pub(crate) max_ack_pending: i64,
    pub(crate) memory_max_stream_bytes: i64,
    pub(crate) storage_max_stream_bytes: i64,
    pub(crate) max_bytes_required: bool,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            max_memory: -1,
            max_storage: -1,
            max_streams: -1,
            max_consumers: -1,
            max_ack_pending: -1,
            memory_max_stream_bytes: -1,
            storage_max_stream_bytes: -1,
            max_bytes_required: false,
        }
    }
}

impl From<&JetStreamLimits> for AccountLimits {
    fn from(limits: &JetStreamLimits) -> Self {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Self {
            max_memory: bytes(limits.memory_bytes_max),
            max_storage: bytes(limits.store_bytes_max),
            max_streams: count(limits.streams_max),
            max_consumers: count(limits.consumers_max),
            ..Self::default()
        }
    }
}

/// Requests since the start.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ApiStats {
    pub(crate) level: u32,
    pub(crate) total: u64,
    pub(crate) errors: u64,
}

impl Default for ApiStats {
    fn default() -> Self {
        Self { level: super::LEVEL, total: 0, errors: 0 }
    }
}

/// What a publisher is answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PubAck {
    pub(crate) stream: String,
    pub(crate) seq: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) duplicate: bool,
}

/// The JSON that a publisher is answered. With an error nats-server names the stream, too.
pub(crate) fn publish_answer(stream: &str, outcome: Result<PubAck, ApiError>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Refused<'a> {
        error: ApiError,
        stream: &'a str,
        seq: u64,
    }
    match outcome {
        Ok(ack) => serde_json::to_vec(&ack),
        Err(error) => serde_json::to_vec(&Refused { error, stream, seq: 0 }),
    }
    .expect("both are structs of plain fields")
}

fn null_if_empty<S: Serializer>(names: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    if names.is_empty() { serializer.serialize_none() } else { names.serialize(serializer) }
}

/// RFC 4648 §4, with padding.
fn base64<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().chain([&0, &0]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for place in 0..4 {
            let digit = ALPHABET[bits >> (18 - 6 * place) & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    serializer.serialize_str(&text)
}
