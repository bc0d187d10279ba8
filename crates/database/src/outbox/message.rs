//! A row of an outbox as the event that it says, or why it is none. Pure.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use sha2::{Digest, Sha256};

/// Limit: bytes of any column but the data.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Where a row says nothing about it.
const CONTENT_TYPE: &str = "application/json";

/// An event as a row says it, not yet in anybody's format. What is none is left to whoever publishes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The same whenever this row is relayed, and never another's.
    pub id: String,
    /// CloudEvents' `type`.
    pub kind: Option<String>,
    pub subject: Option<String>,
    /// As it was written; meant to be RFC 3339.
    pub time: Option<String>,
    pub content_type: String,
    /// Extension attributes by name, each in its canonical text (CloudEvents 1.0.2, "Type System").
    pub extensions: BTreeMap<String, String>,
    /// W3C Trace Context.
    pub traceparent: Option<String>,
    pub data: Vec<u8>,
}

impl Message {
    /// How much memory it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let optional = [&self.kind, &self.subject, &self.time, &self.traceparent];
        let optional: usize = optional.into_iter().flatten().map(String::len).sum();
        let extensions: usize = self.extensions.iter().map(|(name, value)| name.len() + value.len()).sum();
        size_of::<Self>() + self.id.len() + optional + extensions + self.content_type.len() + self.data.len()
    }
}

/// A row as it was read.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: i64,
    /// How much of the window it takes.
    pub(super) bytes: usize,
    /// The topic and the event, or why it can never be published.
    pub(super) event: Result<(String, Message), String>,
}

/// The columns of a row, as SQLite gives them. A column that the table lacks is NULL.
pub(super) struct Columns<'a> {
    pub(super) topic: ValueRef<'a>,
    /// NULL where it is larger than what may be read.
    pub(super) data: ValueRef<'a>,
    pub(super) kind: ValueRef<'a>,
    pub(super) subject: ValueRef<'a>,
    pub(super) event_id: ValueRef<'a>,
    pub(super) time: ValueRef<'a>,
    pub(super) content_type: ValueRef<'a>,
    pub(super) traceparent: ValueRef<'a>,
    pub(super) extensions: ValueRef<'a>,
}

/// Makes the event of a row. `identity` is the outbox's own.
pub(super) fn parse(id: i64, identity: &str, columns: &Columns<'_>) -> Result<(String, Message), String> {
    let topic = text("topic", columns.topic)?.unwrap_or_default();
    if topic.is_empty() {
        return Err("topic is empty".to_owned());
    }
    let data = match columns.data {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
        other => return Err(format!("data is {}, not text or a blob", other.data_type())),
    };
    let event_id = text("event_id", columns.event_id)?.filter(|id| !id.is_empty());
    let message = Message {
        id: event_id.unwrap_or_else(|| stable_id(identity, id, &topic, &data)),
        kind: text("type", columns.kind)?,
        subject: text("subject", columns.subject)?,
        time: text("time", columns.time)?,
        content_type: text("content_type", columns.content_type)?.unwrap_or_else(|| CONTENT_TYPE.to_owned()),
        extensions: text("extensions", columns.extensions)?
            .map_or_else(|| Ok(BTreeMap::new()), |it| extensions(&it))?,
        traceparent: text("traceparent", columns.traceparent)?,
        data,
    };
    Ok((topic, message))
}

/// The number of a row alone would come again where a database is restored from a backup, for another event: what it
/// says is part of its id.
fn stable_id(identity: &str, id: i64, topic: &str, data: &[u8]) -> String {
    let digest = Sha256::new().chain_update(topic).chain_update([0]).chain_update(data).finalize();
    let sum = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    format!("{identity}-{id}-{sum:08x}")
}

fn text(name: &str, value: ValueRef<'_>) -> Result<Option<String>, String> {
    let bytes = match value {
        ValueRef::Null => return Ok(None),
        ValueRef::Integer(number) => return Ok(Some(number.to_string())),
        ValueRef::Text(bytes) => bytes,
        other => return Err(format!("{name} is {}, not text", other.data_type())),
    };
    if bytes.len() > HEAD_BYTES_MAX {
        return Err(format!("{name} is larger than {HEAD_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| format!("{name} is not UTF-8 text"))
}

fn extensions(text: &str) -> Result<BTreeMap<String, String>, String> {
    let Ok(serde_json::Value::Object(members)) = serde_json::from_str(text) else {
        return Err("extensions is not a JSON object".to_owned());
    };
    let mut extensions = BTreeMap::new();
    for (name, value) in members {
        if !is_extension(&name) {
            return Err(format!("extensions: {name:?} cannot be the name of an extension attribute"));
        }
        let value = match value {
            serde_json::Value::String(text) => text,
            serde_json::Value::Bool(truth) => truth.to_string(),
            serde_json::Value::Number(number) if is_integer(&number) => number.to_string(),
            serde_json::Value::Null => continue,
            _ => {
                return Err(format!("extensions: {name} is neither text, a whole number of 32 bits nor a truth value"));
            }
        };
        extensions.insert(name, value);
    }
    Ok(extensions)
}

/// CloudEvents 1.0.2, "Naming Conventions"; what has a column of its own, or is said by who publishes, is none.
fn is_extension(name: &str) -> bool {
    const TAKEN: &[&str] =
        &["id", "source", "type", "specversion", "subject", "time", "datacontenttype", "data", "traceparent"];
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && !TAKEN.contains(&name)
}

fn is_integer(number: &serde_json::Number) -> bool {
    number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>() -> Columns<'a> {
        Columns {
            topic: ValueRef::Text(b"orders.placed"),
            data: ValueRef::Text(b"{}"),
            kind: ValueRef::Null,
            subject: ValueRef::Null,
            event_id: ValueRef::Null,
            time: ValueRef::Null,
            content_type: ValueRef::Null,
            traceparent: ValueRef::Null,
            extensions: ValueRef::Null,
        }
    }

    fn refusal(columns: &Columns<'_>) -> String {
        parse(1, "me", columns).expect_err("refused")
    }

    #[test]
    fn a_row_of_topic_and_data_is_an_event() {
        let (topic, message) = parse(7, "me", &row()).expect("an event");
        assert_eq!(topic, "orders.placed");
        assert_eq!((message.content_type.as_str(), message.data.as_slice()), ("application/json", &b"{}"[..]));
        assert!(message.id.starts_with("me-7-") && message.id.len() == 13, "{}", message.id);
        let other = Columns { data: ValueRef::Text(b"[]"), ..row() };
        assert_ne!(parse(7, "me", &other).expect("an event").1.id, message.id);
        let own = Columns { event_id: ValueRef::Text(b"order-7"), subject: ValueRef::Integer(7), ..row() };
        let (_, message) = parse(7, "me", &own).expect("an event");
        assert_eq!((message.id.as_str(), message.subject.as_deref()), ("order-7", Some("7")));
    }

    #[test]
    fn extensions_are_text_by_lower_case_names() {
        let given = br#"{"tenant":"a","rank":-3,"trial":true,"none":null}"#;
        let (_, message) = parse(1, "me", &Columns { extensions: ValueRef::Text(given), ..row() }).expect("an event");
        let seen: Vec<_> = message.extensions.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(seen, ["rank=-3", "tenant=a", "trial=true"]);
        for bad in
            [r#"{"Tenant":"a"}"#, r#"{"id":"a"}"#, r#"{"a":[]}"#, r#"{"a":1.5}"#, r#"{"a":4294967296}"#, "[]", "{"]
        {
            assert!(
                refusal(&Columns { extensions: ValueRef::Text(bad.as_bytes()), ..row() }).starts_with("extensions")
            );
        }
    }

    #[test]
    fn what_is_no_event_says_why() {
        assert_eq!(refusal(&Columns { topic: ValueRef::Text(b""), ..row() }), "topic is empty");
        assert_eq!(refusal(&Columns { topic: ValueRef::Null, ..row() }), "topic is empty");
        assert_eq!(refusal(&Columns { data: ValueRef::Null, ..row() }), "data is Null, not text or a blob");
        assert_eq!(refusal(&Columns { time: ValueRef::Blob(b"x"), ..row() }), "time is Blob, not text");
        assert_eq!(refusal(&Columns { subject: ValueRef::Text(b"\xff"), ..row() }), "subject is not UTF-8 text");
        let long = vec![b'x'; HEAD_BYTES_MAX + 1];
        assert_eq!(refusal(&Columns { subject: ValueRef::Text(&long), ..row() }), "subject is larger than 65536 bytes");
    }
}
