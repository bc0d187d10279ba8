//! The NATS protocol binding (CloudEvents NATS 1.0.2), binary mode: attributes in headers, the payload is the data. And what
//! others have published, which always becomes an event: nothing in a stream may stop those who read it.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use jiff::Timestamp;

use super::{attribute, http, json};
use crate::event::Event;

const PREFIX: &str = "ce-";
const CONTENT_TYPE: &str = "content-type";

/// A message of a stream, as it came.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub stream: &'a str,
    pub sequence: u64,
    pub subject: &'a str,
    /// When the server took it.
    pub time: Timestamp,
    pub headers: Option<&'a HeaderMap>,
    pub payload: &'a Bytes,
}

/// Headers and payload of an event. What cannot stand in a header is left out; no event that was checked has such.
pub(crate) fn encode(event: &Event) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.insert(name, value);
        }
    };
    for (name, value) in &event.attributes {
        add(&[PREFIX, name].concat(), &attribute::encode(value));
    }
    if let Some(content_type) = &event.content_type {
        add(CONTENT_TYPE, content_type);
    }
    (headers, event.data.clone())
}

/// The event that a message is. What it says of itself counts as far as it is right; what is missing is what the stream
/// knows: id `<stream>/<sequence>`, source `/streams/<stream>`, the subject as its type, its time.
pub(crate) fn decode(message: &Stored<'_>) -> Event {
    let content_type = message.headers.and_then(content_type);
    let is_structured = content_type.as_deref().is_some_and(|text| attribute::essence(text) == http::STRUCTURED);
    let structured = is_structured.then(|| json::parse(message.payload)).and_then(Result::ok);
    let mut event = match structured.filter(|event| attribute::check(event).is_ok()) {
        Some(event) => event,
        None => Event {
            attributes: message.headers.into_iter().flat_map(attributes).collect(),
            content_type,
            data: message.payload.clone(),
        },
    };
    let mut default = |name: &str, value: &dyn Fn() -> String| {
        if !event.attributes.contains_key(name) {
            event.attributes.insert(name.to_owned(), value());
        }
    };
    default("id", &|| format!("{}/{}", message.stream, message.sequence));
    default("source", &|| format!("/streams/{}", message.stream));
    default("type", &|| message.subject.to_owned());
    default("time", &|| message.time.to_string());
    event.attributes.insert("specversion".to_owned(), "1.0".to_owned());
    event
}

/// Those that are right.
fn attributes(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    headers.iter().filter_map(|(name, values)| {
        let name: &str = name.as_ref();
        let prefix = name.get(..PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX))?;
        let name = name[prefix.len()..].to_ascii_lowercase();
        let value = attribute::decode(&name, values.first()?.as_str().as_bytes()).ok()?;
        attribute::check_one(&name, &value).is_ok().then_some((name, value))
    })
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let (_, values) =
        headers.iter().find(|(name, _)| AsRef::<str>::as_ref(*name).eq_ignore_ascii_case(CONTENT_TYPE))?;
    let text = values.first()?.as_str();
    attribute::check_content_type(text).is_ok().then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored<'a>(headers: Option<&'a HeaderMap>, payload: &'a Bytes) -> Stored<'a> {
        let time = "2026-11-21T10:00:00Z".parse().unwrap();
        Stored { stream: "ORDERS", sequence: 7, subject: "orders.placed", time, headers, payload }
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, *value);
        }
        headers
    }

    #[test]
    fn what_was_encoded_is_decoded_to_the_same() {
        let attributes = [
            ("specversion", "1.0"),
            ("id", "a b"),
            ("source", "/services/cart"),
            ("type", "orders.placed"),
            ("time", "2026-01-01T00:00:00Z"),
            ("subject", "Euro € 😀 100% \"x\""),
        ];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let content_type = Some("text/plain; charset=utf-8".to_owned());
        let event = Event { attributes, content_type, data: Bytes::from_static(b"\xff\x00") };
        let (headers, payload) = encode(&event);
        assert_eq!(headers.get("ce-id").map(HeaderValue::as_str), Some("a%20b"));
        assert_eq!(decode(&stored(Some(&headers), &payload)), event);
    }

    #[test]
    fn messages_of_others_become_events() {
        let payload = Bytes::from_static(b"hello");
        let plain = decode(&stored(None, &payload));
        assert_eq!((plain.id(), plain.source()), ("ORDERS/7", "/streams/ORDERS"));
        assert_eq!(plain.attribute("type"), Some("orders.placed"));
        assert_eq!(plain.attribute("time"), Some("2026-11-21T10:00:00Z"));
        assert_eq!((plain.data, plain.content_type), (payload.clone(), None));
        let lines = [("CE-Id", "5"), ("ce-Bad-Name", "x"), ("ce-subject", "%ff"), ("Content-Type", "text/plain")];
        let some = decode(&stored(Some(&headers(&lines)), &payload));
        assert_eq!((some.id(), some.attribute("subject")), ("5", None));
        assert_eq!(some.content_type.as_deref(), Some("text/plain"));
        assert!(attribute::check(&some).is_ok());
    }

    #[test]
    fn structured_messages_are_read_and_broken_ones_are_data() {
        let headers = headers(&[("content-type", "application/cloudevents+json")]);
        let text = Bytes::from_static(br#"{"specversion":"1.0","id":"1","source":"/a","type":"t","data":{"a":1}}"#);
        let event = decode(&stored(Some(&headers), &text));
        assert_eq!((event.id(), &event.data[..]), ("1", &br#"{"a":1}"#[..]));
        assert_eq!(event.content_type.as_deref(), Some("application/json"));
        for broken in [&b"{"[..], b"", b"[]", br#"{"id":"1"}"#] {
            let payload = Bytes::from_static(broken);
            let event = decode(&stored(Some(&headers), &payload));
            assert_eq!((event.id(), &event.data), ("ORDERS/7", &payload));
            assert!(attribute::check(&event).is_ok());
        }
    }
}
