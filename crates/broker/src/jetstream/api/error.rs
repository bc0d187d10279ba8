//! What a client is told when something cannot be done: NATS's codes and NATS's words, which clients compare.

use std::borrow::Cow;
use std::fmt::Display;

use serde::Serialize;

/// The `error` of an answer. `code` is like a status of HTTP, `err_code` names the error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    pub(crate) err_code: u16,
    pub(crate) description: Cow<'static, str>,
}

impl ApiError {
    const fn new(code: u16, err_code: u16, description: &'static str) -> Self {
        Self { code, err_code, description: Cow::Borrowed(description) }
    }

    fn say(code: u16, err_code: u16, description: String) -> Self {
        Self { code, err_code, description: Cow::Owned(description) }
    }
}

/// Those that depend on what there is.
impl ApiError {
    /// Why a message cannot be deleted that is not there, in a stream that reaches from `first` to `last`.
    pub(crate) fn not_deletable(seq: u64, first: u64, last: u64) -> Self {
        if seq > last {
            Self::message_delete_failed(&"stream store EOF")
        } else if seq < first || seq == 0 {
            Self::message_delete_failed(&"no message found")
        } else {
            Self::sequence_not_found(seq)
        }
    }
}

/// Those without a parameter.
impl ApiError {
    pub(crate) const BAD_REQUEST: Self = Self::new(400, 10003, "bad request");
    pub(crate) const CONSUMER_NAME_EXIST: Self = Self::new(400, 10013, "consumer name already in use");
    pub(crate) const CONSUMER_NOT_FOUND: Self = Self::new(404, 10014, "consumer not found");
    pub(crate) const CONSUMER_DURABLE_NAME_NOT_IN_SUBJECT: Self =
        Self::new(400, 10016, "consumer expected to be durable but no durable name set in subject");
    pub(crate) const CONSUMER_DURABLE_NAME_NOT_MATCH_SUBJECT: Self =
        Self::new(400, 10017, "consumer name in subject does not match durable name in request");
    pub(crate) const CONSUMER_DURABLE_NAME_NOT_SET: Self =
        Self::new(400, 10018, "consumer expected to be durable but a durable name was not set");
    pub(crate) const CONSUMER_EPHEMERAL_WITH_DURABLE_NAME: Self =
        Self::new(400, 10020, "consumer expected to be ephemeral but a durable name was set in request");
    pub(crate) const MAXIMUM_CONSUMERS_LIMIT: Self = Self::new(400, 10026, "maximum consumers limit reached");
    pub(crate) const MAXIMUM_STREAMS_LIMIT: Self = Self::new(400, 10027, "maximum number of streams reached");
    pub(crate) const MEMORY_RESOURCES_EXCEEDED: Self = Self::new(500, 10028, "insufficient memory resources available");
    pub(crate) const NO_MESSAGE_FOUND: Self = Self::new(404, 10037, "no message found");
    pub(crate) const NOT_EMPTY_REQUEST: Self = Self::new(400, 10038, "expected an empty request payload");
    pub(crate) const STORAGE_RESOURCES_EXCEEDED: Self =
        Self::new(500, 10047, "insufficient storage resources available");
    pub(crate) const STREAM_MESSAGE_EXCEEDS_MAXIMUM: Self =
        Self::new(400, 10054, "message size exceeds maximum allowed");
    pub(crate) const STREAM_MISMATCH: Self = Self::new(400, 10056, "stream name in subject does not match request");
    pub(crate) const STREAM_NAME_EXIST: Self =
        Self::new(400, 10058, "stream name already in use with a different configuration");
    pub(crate) const STREAM_NOT_FOUND: Self = Self::new(404, 10059, "stream not found");
    pub(crate) const STREAM_NOT_MATCH: Self = Self::new(400, 10060, "expected stream does not match");
    pub(crate) const STREAM_SUBJECT_OVERLAP: Self = Self::new(400, 10065, "subjects overlap with an existing stream");
    pub(crate) const STREAM_REPLICAS_NOT_SUPPORTED: Self =
        Self::new(500, 10074, "replicas > 1 not supported in non-clustered mode");
    pub(crate) const CONSUMER_DELIVER_TO_WILDCARDS: Self =
        Self::new(400, 10079, "consumer deliver subject has wildcards");
    pub(crate) const CONSUMER_PUSH_MAX_WAITING: Self =
        Self::new(400, 10080, "consumer in push mode can not set max waiting");
    pub(crate) const CONSUMER_DELIVER_CYCLE: Self = Self::new(400, 10081, "consumer deliver subject forms a cycle");
    pub(crate) const CONSUMER_MAX_PENDING_ACK_POLICY_REQUIRED: Self =
        Self::new(400, 10082, "consumer requires ack policy for max ack pending");
    pub(crate) const CONSUMER_SMALL_HEARTBEAT: Self =
        Self::new(400, 10083, "consumer idle heartbeat needs to be >= 100ms");
    pub(crate) const CONSUMER_PULL_REQUIRES_ACK: Self =
        Self::new(400, 10084, "consumer in pull mode requires explicit ack policy on workqueue stream");
    pub(crate) const CONSUMER_PULL_WITH_RATE_LIMIT: Self =
        Self::new(400, 10086, "consumer in pull mode can not have rate limit set");
    pub(crate) const CONSUMER_HB_REQUIRES_PUSH: Self =
        Self::new(400, 10088, "consumer idle heartbeat requires a push based consumer");
    pub(crate) const CONSUMER_FC_REQUIRES_PUSH: Self =
        Self::new(400, 10089, "consumer flow control requires a push based consumer");
    pub(crate) const CONSUMER_DIRECT_REQUIRES_PUSH: Self =
        Self::new(400, 10090, "consumer direct requires a push based consumer");
    pub(crate) const CONSUMER_DIRECT_REQUIRES_EPHEMERAL: Self =
        Self::new(400, 10091, "consumer direct requires an ephemeral consumer");
    pub(crate) const CONSUMER_FILTER_NOT_SUBSET: Self =
        Self::new(400, 10093, "consumer filter subject is not a valid subset of the interest subjects");
    pub(crate) const STREAM_HEADER_EXCEEDS_MAXIMUM: Self =
        Self::new(400, 10097, "header size exceeds maximum allowed of 64k");
    pub(crate) const CONSUMER_WQ_REQUIRES_EXPLICIT_ACK: Self =
        Self::new(400, 10098, "workqueue stream requires explicit ack");
    pub(crate) const CONSUMER_WQ_MULTIPLE_UNFILTERED: Self =
        Self::new(400, 10099, "multiple non-filtered consumers not allowed on workqueue stream");
    pub(crate) const CONSUMER_WQ_CONSUMER_NOT_UNIQUE: Self =
        Self::new(400, 10100, "filtered consumer not unique on workqueue stream");
    pub(crate) const CONSUMER_WQ_CONSUMER_NOT_DELIVER_ALL: Self =
        Self::new(400, 10101, "consumer must be deliver all on workqueue stream");
    pub(crate) const CONSUMER_WITH_FLOW_CONTROL_NEEDS_HEARTBEATS: Self =
        Self::new(400, 10108, "consumer with flow control also needs heartbeats");
    pub(crate) const STREAM_SEALED: Self = Self::new(400, 10109, "invalid operation on sealed stream");
    pub(crate) const CONSUMER_INVALID_DELIVER_SUBJECT: Self =
        Self::new(400, 10112, "invalid push consumer deliver subject");
    pub(crate) const STREAM_MAX_BYTES_REQUIRED: Self =
        Self::new(400, 10113, "account requires a stream config to have max bytes set");
    pub(crate) const CONSUMER_MAX_REQUEST_EXPIRES_TOO_SMALL: Self =
        Self::new(400, 10115, "consumer max request expires needs to be >= 1ms");
    pub(crate) const CONSUMER_MAX_DELIVER_BACKOFF: Self =
        Self::new(400, 10116, "max deliver is required to be > length of backoff values");
    pub(crate) const STREAM_MAX_STREAM_BYTES_EXCEEDED: Self =
        Self::new(400, 10122, "stream max bytes exceeds account limit max stream bytes");
    pub(crate) const CONSUMER_REPLICAS_EXCEEDS_STREAM: Self =
        Self::new(400, 10126, "consumer config replica count exceeds parent stream");
    pub(crate) const CONSUMER_NAME_CONTAINS_PATH_SEPARATORS: Self =
        Self::new(400, 10127, "Consumer name can not contain path separators");
    pub(crate) const STREAM_NAME_CONTAINS_PATH_SEPARATORS: Self =
        Self::new(400, 10128, "Stream name can not contain path separators");
    pub(crate) const CONSUMER_CREATE_FILTER_SUBJECT_MISMATCH: Self =
        Self::new(400, 10131, "Consumer create request did not match filtered subject from create subject");
    pub(crate) const CONSUMER_CREATE_DURABLE_AND_NAME_MISMATCH: Self =
        Self::new(400, 10132, "Consumer Durable and Name have to be equal if both are provided");
    pub(crate) const REPLICAS_COUNT_CANNOT_BE_NEGATIVE: Self =
        Self::new(400, 10133, "replicas count cannot be negative");
    pub(crate) const CONSUMER_REPLICAS_SHOULD_MATCH_STREAM: Self =
        Self::new(400, 10134, "consumer config replicas must match interest retention stream's replicas");
    pub(crate) const CONSUMER_DUPLICATE_FILTER_SUBJECTS: Self =
        Self::new(400, 10136, "consumer cannot have both FilterSubject and FilterSubjects specified");
    pub(crate) const CONSUMER_MULTIPLE_FILTERS_NOT_ALLOWED: Self =
        Self::new(400, 10137, "consumer with multiple subject filters cannot use subject based API");
    pub(crate) const CONSUMER_OVERLAPPING_SUBJECT_FILTERS: Self =
        Self::new(400, 10138, "consumer subject filters cannot overlap");
    pub(crate) const CONSUMER_EMPTY_FILTER: Self =
        Self::new(400, 10139, "consumer filter in FilterSubjects cannot be empty");
    pub(crate) const CONSUMER_ALREADY_EXISTS: Self = Self::new(400, 10148, "consumer already exists");
    pub(crate) const CONSUMER_DOES_NOT_EXIST: Self = Self::new(400, 10149, "consumer does not exist");
    pub(crate) const MESSAGE_TTL_INVALID: Self = Self::new(400, 10165, "invalid per-message TTL");
    pub(crate) const MESSAGE_TTL_DISABLED: Self = Self::new(400, 10166, "per-message TTL is disabled");
    pub(crate) const MESSAGE_COUNTERS_DISABLED: Self = Self::new(400, 10168, "message counters is disabled");
    pub(crate) const ATOMIC_PUBLISH_DISABLED: Self = Self::new(400, 10174, "atomic publish is disabled");
    pub(crate) const MESSAGE_SCHEDULES_DISABLED: Self = Self::new(400, 10188, "message schedules is disabled");
    pub(crate) const TEMPORARILY_UNAVAILABLE: Self = Self::new(503, 10008, "JetStream system temporarily unavailable");
    /// Of features that are not there.
    pub(crate) const NOT_SUPPORTED: Self = Self::new(500, 10051, "not supported by this server");
    pub(crate) const INSUFFICIENT_RESOURCES: Self = Self::new(503, 10023, "insufficient resources");
    pub(crate) const STREAM_TOO_MANY_REQUESTS: Self = Self::new(429, 10167, "too many requests");
    pub(crate) const CONSUMER_ACK_WAIT_NEGATIVE: Self = Self::new(400, 10183, "consumer ack wait needs to be positive");
    pub(crate) const CONSUMER_BACK_OFF_NEGATIVE: Self = Self::new(400, 10184, "consumer backoff needs to be positive");
    pub(crate) const REQUIRED_API_LEVEL: Self = Self::new(412, 10185, "JetStream minimum api level required");
    pub(crate) const STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_INVALID: Self =
        Self::new(400, 10193, "missing sequence for expected last sequence per subject");
}

/// Those with one.
impl ApiError {
    pub(crate) fn consumer_create(reason: &dyn Display) -> Self {
        Self::say(500, 10012, format!("{reason}"))
    }

    pub(crate) fn invalid_json(reason: &dyn Display) -> Self {
        Self::say(400, 10025, format!("invalid JSON: {reason}"))
    }

    pub(crate) fn stream_create(reason: &dyn Display) -> Self {
        Self::say(500, 10049, format!("{reason}"))
    }

    pub(crate) fn stream_delete(reason: &dyn Display) -> Self {
        Self::say(500, 10050, format!("{reason}"))
    }

    pub(crate) fn stream_general(reason: &dyn Display) -> Self {
        Self::say(500, 10051, format!("{reason}"))
    }

    pub(crate) fn stream_invalid_config(reason: &dyn Display) -> Self {
        Self::say(500, 10052, format!("{reason}"))
    }

    pub(crate) fn message_delete_failed(reason: &dyn Display) -> Self {
        Self::say(500, 10057, format!("{reason}"))
    }

    pub(crate) fn stream_update(reason: &dyn Display) -> Self {
        Self::say(500, 10069, format!("{reason}"))
    }

    pub(crate) fn stream_store_failed(reason: &dyn Display) -> Self {
        Self::say(503, 10077, format!("{reason}"))
    }

    pub(crate) fn consumer_invalid_policy(reason: &dyn Display) -> Self {
        Self::say(400, 10094, format!("{reason}"))
    }

    pub(crate) fn consumer_invalid_sampling(reason: &dyn Display) -> Self {
        Self::say(400, 10095, format!("failed to parse consumer sampling configuration: {reason}"))
    }

    pub(crate) fn purge_failed(reason: &dyn Display) -> Self {
        Self::say(500, 10110, format!("{reason}"))
    }

    pub(crate) fn rollup_failed(reason: &dyn Display) -> Self {
        Self::say(500, 10111, format!("{reason}"))
    }

    pub(crate) fn pedantic(reason: &dyn Display) -> Self {
        Self::say(400, 10157, format!("pedantic mode: {reason}"))
    }

    pub(crate) fn sequence_not_found(seq: u64) -> Self {
        Self::say(400, 10043, format!("sequence {seq} not found"))
    }

    pub(crate) fn wrong_last_message_id(id: &str) -> Self {
        Self::say(400, 10070, format!("wrong last msg ID: {id}"))
    }

    pub(crate) fn wrong_last_sequence(seq: u64) -> Self {
        Self::say(400, 10071, format!("wrong last sequence: {seq}"))
    }

    pub(crate) fn consumer_name_too_long(max: i64) -> Self {
        Self::say(400, 10102, format!("consumer name is too long, maximum allowed is {max}"))
    }

    pub(crate) fn consumer_description_too_long(max: i64) -> Self {
        Self::say(400, 10107, format!("consumer description is too long, maximum allowed is {max}"))
    }

    pub(crate) fn consumer_max_ack_pending_excess(limit: i64) -> Self {
        Self::say(400, 10121, format!("consumer max ack pending exceeds system limit of {limit}"))
    }

    pub(crate) fn consumer_metadata_length(limit: &str) -> Self {
        Self::say(400, 10135, format!("consumer metadata exceeds maximum size of {limit}"))
    }

    pub(crate) fn consumer_inactive_threshold_excess(limit: &str) -> Self {
        Self::say(400, 10153, format!("consumer inactive threshold exceeds system limit of {limit}"))
    }
}
