//! The HTTP protocol binding (CloudEvents HTTP 1.0.2): which content mode a request has, and binary mode both ways.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::{Malformed, attribute};
use crate::event::Event;

const PREFIX: &str = "ce-";
pub(crate) const STRUCTURED: &str = "application/cloudevents+json";
pub(crate) const BATCH: &str = "application/cloudevents-batch+json";

/// What the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Attributes in headers, the body is the data.
    Binary,
    /// One event as JSON.
    Structured,
    /// An array of events as JSON.
    Batch,
    /// Nothing claims to be an event: the body is the data of one.
    Plain,
}

/// Why there is no telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// An event format that is not known.
    Format(String),
    Malformed(Malformed),
}

/// Tells the mode by the headers (§3: the content type first).
pub(crate) fn mode(headers: &HeaderMap) -> Result<Mode, Unreadable> {
    let content_type = content_type(headers).map_err(Unreadable::Malformed)?.unwrap_or_default();
    let essence = attribute::essence(&content_type);
    if essence.starts_with("application/cloudevents") {
        return match essence.as_str() {
            _ if !is_utf8(&content_type) => Err(Unreadable::Format(content_type)),
            STRUCTURED => Ok(Mode::Structured),
            BATCH => Ok(Mode::Batch),
            _ => Err(Unreadable::Format(content_type)),
        };
    }
    let is_binary = headers.keys().any(|name| name.as_str().starts_with(PREFIX));
    Ok(if is_binary { Mode::Binary } else { Mode::Plain })
}

/// JSON is UTF-8, and ASCII is a part of it.
fn is_utf8(content_type: &str) -> bool {
    let charset = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    charset.is_none_or(|charset| matches!(charset.as_str(), "utf-8" | "utf8" | "us-ascii"))
}

/// The content type, which becomes `datacontenttype` where the body is data.
///
/// # Errors
/// [`Malformed::Twice`], [`Malformed::Value`].
pub(crate) fn content_type(headers: &HeaderMap) -> Result<Option<String>, Malformed> {
    let name = || "datacontenttype".to_owned();
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (value, further) = (values.next(), values.next());
    if further.is_some() {
        return Err(Malformed::Twice { name: name() });
    }
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let reason = "has a character that no header may have";
    let text = value.to_str().map_err(|_| Malformed::Value { name: name(), reason })?;
    Ok(Some(text.to_owned()))
}

/// An event in binary mode. What is not there is not added.
///
/// # Errors
/// [`Malformed::Name`], [`Malformed::Twice`], [`Malformed::Value`].
pub(crate) fn parse(headers: &HeaderMap, body: Bytes) -> Result<Event, Malformed> {
    let mut event = Event { content_type: content_type(headers)?, data: body, ..Event::default() };
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else { continue };
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Malformed::Twice { name: attribute.to_owned() });
        };
        let value = attribute::decode(attribute, value.as_bytes())?;
        if attribute == "datacontenttype" {
            // It has no header of its own (§3.1.3.1), but is met in one.
            event.content_type.get_or_insert(value);
            continue;
        }
        attribute::check_name(attribute)?;
        event.attributes.insert(attribute.to_owned(), value);
    }
    Ok(event)
}

/// Adds the headers of binary mode. What cannot stand in a header is left out; no event that was checked has such.
pub(crate) fn print(event: &Event, headers: &mut HeaderMap) {
    for (name, value) in &event.attributes {
        let name = HeaderName::try_from([PREFIX, name].concat());
        let value = HeaderValue::try_from(attribute::encode(value).as_ref());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    if let Some(value) = event.content_type.as_deref().and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(CONTENT_TYPE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    const EVENT: [(&str, &str); 7] = [
        ("ce-specversion", "1.0"),
        ("CE-ID", "1"),
        ("Ce-Source", "/services/cart"),
        ("ce-type", "cart.changed"),
        ("ce-subject", "Euro%20%E2%82%AC"),
        ("content-type", "application/json"),
        ("host", "x"),
    ];

    #[test]
    fn modes_are_told_by_the_headers() {
        let of = |lines: &[(&str, &str)]| mode(&headers(lines));
        assert_eq!(of(&[]), Ok(Mode::Plain));
        assert_eq!(of(&EVENT), Ok(Mode::Binary));
        assert_eq!(of(&[("ce-id", "1")]), Ok(Mode::Binary));
        for (content_type, expected) in [
            ("application/json", Some(Mode::Plain)),
            ("application/cloudevents+json", Some(Mode::Structured)),
            ("Application/CloudEvents+JSON; charset=UTF-8", Some(Mode::Structured)),
            ("application/cloudevents+json; charset=\"utf-8\"", Some(Mode::Structured)),
            ("application/cloudevents-batch+json;charset=utf-8", Some(Mode::Batch)),
            ("application/cloudevents+json; charset=utf-16", None),
            ("application/cloudevents+avro", None),
            ("application/cloudevents", None),
            ("application/cloudevents-batch+xml", None),
        ] {
            assert_eq!(of(&[("content-type", content_type)]).ok(), expected, "{content_type}");
        }
        // The content type counts more than headers do.
        assert_eq!(of(&[("ce-id", "1"), ("content-type", STRUCTURED)]), Ok(Mode::Structured));
        let twice = of(&[("content-type", "a/b"), ("content-type", STRUCTURED)]);
        assert_eq!(twice, Err(Unreadable::Malformed(Malformed::Twice { name: "datacontenttype".to_owned() })));
    }

    #[test]
    fn an_event_in_headers_is_read_and_written_back() {
        let event = parse(&headers(&EVENT), Bytes::from_static(b"{}")).unwrap();
        assert_eq!((event.id(), event.source()), ("1", "/services/cart"));
        assert_eq!(event.attribute("subject"), Some("Euro €"));
        assert_eq!(event.content_type.as_deref(), Some("application/json"));
        assert_eq!(event.attributes.len(), 5);
        let mut printed = HeaderMap::new();
        print(&event, &mut printed);
        assert_eq!(printed["ce-subject"], "Euro%20%E2%82%AC");
        assert_eq!(parse(&printed, event.data.clone()).as_ref(), Ok(&event));
    }

    #[test]
    fn an_attribute_given_twice_is_refused() {
        let twice = parse(&headers(&[("ce-id", "1"), ("CE-Id", "1")]), Bytes::new());
        assert_eq!(twice, Err(Malformed::Twice { name: "id".to_owned() }));
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in ["ce-", "ce-a-b", "ce-a_b", "ce-data"] {
            let parsed = parse(&headers(&[(name, "1")]), Bytes::new());
            assert!(matches!(parsed, Err(Malformed::Name { .. })), "{name}");
        }
        let own = parse(&headers(&[("ce-datacontenttype", "text/plain")]), Bytes::new()).unwrap();
        assert_eq!(own.content_type.as_deref(), Some("text/plain"));
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        let parsed = parse(&headers(&[("ce-subject", "%ff")]), Bytes::new());
        assert_eq!(parsed, Err(Malformed::Value { name: "subject".to_owned(), reason: "is not UTF-8" }));
    }
}
