//! What clients ask under `$JS.API`, out of JSON. Read as Go reads it: a null is a missing field, the last of two equal
//! fields counts, unknown ones mean nothing, and an empty body is an empty request.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::config::{ConsumerConfig, StreamConfig};
use super::{ApiError, Time};

/// Reads a request.
///
/// # Errors
/// 10025 with the reason, where it is no JSON object or a field has another type.
pub(crate) fn decode<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    let body = body.trim_ascii();
    match body.first() {
        None => return Ok(T::default()),
        Some(b'{') => {}
        Some(_) if body == b"null" => return Ok(T::default()),
        Some(_) => {
            serde_json::from_slice::<Value>(body).map_err(|error| ApiError::invalid_json(&error))?;
            return Err(ApiError::invalid_json(&"the request is not an object"));
        }
    }
    if let Ok(request) = serde_json::from_slice(body) {
        return Ok(request);
    }
    let mut value = serde_json::from_slice(body).map_err(|error| ApiError::invalid_json(&error))?;
    remove_nulls(&mut value);
    T::deserialize(value).map_err(|error| ApiError::invalid_json(&error))
}

/// Reads a request where another body than a JSON object or array means the same as none: descriptions, lists, purges.
///
/// # Errors
/// As those of [`decode`].
pub(crate) fn decode_optional<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    match body.trim_ascii().first() {
        Some(b'{' | b'[') => decode(body),
        _ => Ok(T::default()),
    }
}

/// Refuses a body that says something, where there is nothing to say: deletions, descriptions of consumers.
///
/// # Errors
/// 10038.
pub(crate) fn expect_empty(body: &[u8]) -> Result<(), ApiError> {
    if is_empty(body) { Ok(()) } else { Err(ApiError::NOT_EMPTY_REQUEST) }
}

fn is_empty(body: &[u8]) -> bool {
    body.is_empty() || matches!(serde_json::from_slice(body), Ok(Value::Object(fields)) if fields.is_empty())
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// Reads a nested struct out of an object only: serde alone takes an array of its fields, too.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(Object(PhantomData))
}

/// `STREAM.CREATE.*` and `STREAM.UPDATE.*`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamRequest {
    #[serde(flatten)]
    pub(crate) config: StreamConfig,
    /// Whether what would be corrected silently is refused instead.
    pub(crate) pedantic: bool,
}

/// `STREAM.NAMES` and `STREAM.LIST`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamsRequest {
    pub(crate) offset: i64,
    /// Only streams with a subject that touches this pattern; empty: all.
    pub(crate) subject: String,
}

/// `STREAM.INFO.*`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamInfoRequest {
    pub(crate) offset: i64,
    /// Whether sequences that are gone are listed.
    pub(crate) deleted_details: bool,
    /// Subjects whose counts are listed; empty: none.
    pub(crate) subjects_filter: String,
}

/// `STREAM.PURGE.*`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PurgeRequest {
    /// Up to but not including this sequence; 0: up to the end.
    pub(crate) seq: u64,
    /// Only messages that this pattern matches; empty: all.
    pub(crate) filter: String,
    /// How many of them stay.
    pub(crate) keep: u64,
}

/// Reads `STREAM.PURGE.*`.
///
/// # Errors
/// 10025; 10003 where both `seq` and `keep` are given.
pub(crate) fn purge(body: &[u8]) -> Result<PurgeRequest, ApiError> {
    let request = decode_optional::<PurgeRequest>(body)?;
    if request.seq > 0 && request.keep > 0 {
        return Err(ApiError::BAD_REQUEST);
    }
    Ok(request)
}

/// `STREAM.MSG.DELETE.*`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MessageDeleteRequest {
    pub(crate) seq: u64,
    pub(crate) no_erase: bool,
}

/// Reads `STREAM.MSG.DELETE.*`.
///
/// # Errors
/// 10025; 10003 for an empty request.
pub(crate) fn message_delete(body: &[u8]) -> Result<MessageDeleteRequest, ApiError> {
    if is_empty(body) {
        return Err(ApiError::BAD_REQUEST);
    }
    decode(body)
}

/// `STREAM.MSG.GET.*` and `DIRECT.GET.*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct MessageGetRequest {
    pub(crate) seq: u64,
    pub(crate) last_by_subj: String,
    pub(crate) next_by_subj: String,
    /// Messages at most; only `DIRECT.GET` answers with several, and so with the next five.
    pub(crate) batch: i64,
    pub(crate) max_bytes: i64,
    /// Only messages from this time on.
    pub(crate) start_time: Option<Time>,
    /// The last message of each subject that one of these patterns matches.
    pub(crate) multi_last: Vec<String>,
    /// As they were at this sequence; 0: the last.
    pub(crate) up_to_seq: u64,
    pub(crate) up_to_time: Option<Time>,
    /// Whether headers are left out.
    pub(crate) no_hdr: bool,
}

/// Reads `STREAM.MSG.GET.*`: exactly one message is asked for, in one way.
///
/// # Errors
/// 10025; 10003 for an empty or contradictory request.
pub(crate) fn message_get(body: &[u8]) -> Result<MessageGetRequest, ApiError> {
    if is_empty(body) {
        return Err(ApiError::BAD_REQUEST);
    }
    let request = decode::<MessageGetRequest>(body)?;
    if request.batch > 0 || request.max_bytes > 0 || !request.names_a_place() {
        return Err(ApiError::BAD_REQUEST);
    }
    Ok(request)
}

impl MessageGetRequest {
    /// Whether it says where to look, and in one way only.
    fn names_a_place(&self) -> bool {
        let ways = [self.seq > 0, self.start_time.is_some(), !self.last_by_subj.is_empty()];
        let ways = ways.into_iter().filter(|is_given| *is_given).count();
        let has_next = !self.next_by_subj.is_empty();
        (ways == 1 || ways == 0 && has_next) && (!has_next || self.last_by_subj.is_empty())
    }
}

/// Reads `DIRECT.GET.*`.
///
/// # Errors
/// The status line behind `NATS/1.0 `.
pub(crate) fn direct_get(body: &[u8]) -> Result<MessageGetRequest, &'static str> {
    if body.is_empty() {
        return Err(EMPTY_REQUEST);
    }
    let request = decode::<MessageGetRequest>(body).map_err(|_| MALFORMED_REQUEST)?;
    let (has_last, has_multi) = (!request.last_by_subj.is_empty(), !request.multi_last.is_empty());
    if !has_multi && request.seq == 0 && !has_last && request.next_by_subj.is_empty() && request.start_time.is_none() {
        return Err(EMPTY_REQUEST);
    }
    let names_a_place = has_multi || request.names_a_place();
    let is_doubled = has_last && (has_multi || request.batch > 0)
        || has_multi && (!request.next_by_subj.is_empty() || request.seq > 0 && request.start_time.is_some())
        || request.up_to_seq > 0 && request.up_to_time.is_some();
    if is_doubled || !names_a_place { Err(BAD_REQUEST) } else { Ok(request) }
}

/// Reads `DIRECT.GET.*.<subject>`: the last message of that subject.
///
/// # Errors
/// The status line behind `NATS/1.0 `.
pub(crate) fn direct_get_last(subject: &str, body: &[u8]) -> Result<MessageGetRequest, &'static str> {
    let request = decode::<MessageGetRequest>(body).map_err(|_| MALFORMED_REQUEST)?;
    let MessageGetRequest { max_bytes, no_hdr, .. } = request;
    let allowed = MessageGetRequest { max_bytes, no_hdr, ..MessageGetRequest::default() };
    if subject.is_empty() || request != allowed {
        return Err(BAD_REQUEST);
    }
    Ok(MessageGetRequest { last_by_subj: subject.into(), ..allowed })
}

const EMPTY_REQUEST: &str = "408 Empty Request";
const MALFORMED_REQUEST: &str = "408 Malformed Request";
const BAD_REQUEST: &str = "408 Bad Request";

/// `CONSUMER.CREATE.…` and `CONSUMER.DURABLE.CREATE.…`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConsumerRequest {
    pub(crate) stream_name: String,
    #[serde(deserialize_with = "object")]
    pub(crate) config: ConsumerConfig,
    pub(crate) action: Action,
    pub(crate) pedantic: bool,
}

/// What is to be done about a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    #[default]
    #[serde(rename = "")]
    CreateOrUpdate,
    Create,
    Update,
}

/// `CONSUMER.NAMES.*` and `CONSUMER.LIST.*`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConsumersRequest {
    pub(crate) offset: i64,
}

/// `CONSUMER.PAUSE.*.*`; without a time, or with one that is past, the consumer goes on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PauseRequest {
    pub(crate) pause_until: Time,
}

/// `CONSUMER.MSG.NEXT.*.*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NextRequest {
    /// Nanoseconds; 0: until it is served or nobody listens any more.
    pub(crate) expires: i64,
    pub(crate) batch: i64,
    /// 0: no limit.
    pub(crate) max_bytes: i64,
    pub(crate) no_wait: bool,
    /// Nanoseconds; 0: none.
    pub(crate) idle_heartbeat: i64,
}

/// Reads `CONSUMER.MSG.NEXT.*.*`: nothing (one message), a number (so many), or an object. What is none of these is one.
///
/// # Errors
/// The text behind `400 Bad Request - `.
pub(crate) fn next(body: &[u8]) -> Result<NextRequest, String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Written {
        expires: i64,
        batch: i64,
        max_bytes: i64,
        no_wait: bool,
        idle_heartbeat: i64,
        min_pending: i64,
        min_ack_pending: i64,
        id: String,
        priority: i64,
    }
    let body = body.trim_ascii();
    if body.first() != Some(&b'{') {
        let batch = std::str::from_utf8(body).ok().and_then(|number| number.parse().ok()).unwrap_or(1);
        return Ok(NextRequest { batch, ..NextRequest::default() });
    }
    let written = decode::<Written>(body).map_err(|error| error.description.into_owned())?;
    let Written { expires, batch, max_bytes, no_wait, idle_heartbeat, .. } = written;
    // No consumer here has priorities.
    if idle_heartbeat > 0 && idle_heartbeat.saturating_mul(2) > expires {
        Err("heartbeat value too large".into())
    } else if written.min_pending != 0 || written.min_ack_pending != 0 {
        Err("Not a Overflow Priority consumer".into())
    } else if !written.id.is_empty() {
        Err("Not a Pinned Client Priority consumer".into())
    } else if !(0..=9).contains(&written.priority) {
        Err("Priority must be between 0 and 9".into())
    } else {
        Ok(NextRequest { expires, batch, max_bytes, no_wait, idle_heartbeat })
    }
}
