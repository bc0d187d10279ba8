//! The JSON event format and its batch (CloudEvents JSON 1.0.2). Data passes through as it is written: numbers, spaces and
//! the order of members stay, however deep it is.

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Malformed, attribute};
use crate::event::Event;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Limit: members of one event.
const MEMBERS_MAX: usize = 256;

/// One event.
///
/// # Errors
/// [`Malformed`].
pub(crate) fn parse(text: &Bytes) -> Result<Event, Malformed> {
    read(text, serde_json::from_slice(text).map_err(|error| not_json(&error))?)
}

/// An array of events, with at most one more than `max`: the caller looks.
///
/// # Errors
/// [`Malformed`], of the event with that number where it is one's.
pub(crate) fn parse_batch(text: &Bytes, max: usize) -> Result<Vec<Event>, (Option<usize>, Malformed)> {
    let mut elements = serde_json::Deserializer::from_slice(text);
    let found = elements.deserialize_seq(Elements { max }).and_then(|found| elements.end().map(|()| found));
    let elements = found.map_err(|error| (None, not_json(&error)))?;
    let events = elements.into_iter().enumerate().map(|(at, element)| {
        let members = serde_json::from_str(element.get()).map_err(|error| (Some(at), not_json(&error)))?;
        read(text, members).map_err(|error| (Some(at), error))
    });
    events.collect()
}

/// Appends one event.
pub(crate) fn print(event: &Event, text: &mut Vec<u8>) {
    text.push(b'{');
    for (name, value) in &event.attributes {
        write_text(text, name);
        text.push(b':');
        write_text(text, value);
        text.push(b',');
    }
    if let Some(content_type) = &event.content_type {
        text.extend_from_slice(b"\"datacontenttype\":");
        write_text(text, content_type);
        text.push(b',');
    }
    print_data(event, text);
    if text.last() == Some(&b',') {
        text.pop();
    }
    text.push(b'}');
}

/// The array of these events.
pub(crate) fn print_batch<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<u8> {
    let mut text = vec![b'['];
    for event in events {
        if text.len() > 1 {
            text.push(b',');
        }
        print(event, &mut text);
    }
    text.push(b']');
    text
}

/// §3.1.1: JSON as JSON, text as a string, anything else as base64.
fn print_data(event: &Event, text: &mut Vec<u8>) {
    if event.data.is_empty() {
        return;
    }
    let is_json = event.content_type.as_deref().is_none_or(attribute::is_json);
    let raw = is_json.then(|| serde_json::from_slice::<&RawValue>(&event.data).ok()).flatten();
    match (raw, std::str::from_utf8(&event.data)) {
        (Some(raw), _) => {
            text.extend_from_slice(b"\"data\":");
            text.extend_from_slice(raw.get().as_bytes());
        }
        (None, Ok(data)) if !is_json => {
            text.extend_from_slice(b"\"data\":");
            write_text(text, data);
        }
        _ => {
            text.extend_from_slice(b"\"data_base64\":\"");
            text.extend_from_slice(BASE64.encode(&event.data).as_bytes());
            text.push(b'"');
        }
    }
}

fn write_text(text: &mut Vec<u8>, value: &str) {
    // A string can be written to memory.
    let _ = serde_json::to_writer(text, value);
}

fn not_json(error: &serde_json::Error) -> Malformed {
    Malformed::Json { reason: error.to_string() }
}

/// The members of an object as they are written. A name that comes twice stays so.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                    if members.len() > MEMBERS_MAX {
                        return Err(serde::de::Error::custom(format_args!("more than {MEMBERS_MAX} members")));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

struct Elements {
    max: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element::<&'de RawValue>()? {
            if elements.len() <= self.max {
                elements.push(element);
            }
        }
        Ok(elements)
    }
}

fn read(text: &Bytes, Members(members): Members<'_>) -> Result<Event, Malformed> {
    let mut event = Event::default();
    let (mut data, mut base64) = (None, None);
    for (name, value) in members {
        let is_twice = match name.as_str() {
            "data" => data.replace(value).is_some(),
            "data_base64" if value.get() == "null" => false,
            "data_base64" => base64.replace(value).is_some(),
            _ => {
                let Some(value) = scalar(&name, value)? else { continue };
                if name == "datacontenttype" {
                    event.content_type.replace(value).is_some()
                } else {
                    attribute::check_name(&name)?;
                    event.attributes.insert(name.clone(), value).is_some()
                }
            }
        };
        if is_twice {
            return Err(Malformed::Twice { name });
        }
    }
    match (data, base64) {
        (Some(_), Some(_)) => return Err(Malformed::DataTwice),
        (Some(value), None) => read_data(text, &mut event, value)?,
        (None, Some(value)) => {
            let encoded: String = serde_json::from_str(value.get()).map_err(|_| Malformed::Base64)?;
            event.data = BASE64.decode(encoded).map_err(|_| Malformed::Base64)?.into();
        }
        (None, None) => {}
    }
    Ok(event)
}

/// The canonical text of an attribute ("Type System"); none for one that is unset (§2.2).
fn scalar(name: &str, value: &RawValue) -> Result<Option<String>, Malformed> {
    let wrong =
        || Malformed::Value { name: name.to_owned(), reason: "is neither a string nor a boolean nor an integer" };
    match value.get().as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b't' | b'f') => Ok(Some(value.get().to_owned())),
        Some(b'"') => serde_json::from_str(value.get()).map(Some).map_err(|error| not_json(&error)),
        _ => value.get().parse::<i32>().map(|number| Some(number.to_string())).map_err(|_| wrong()),
    }
}

/// §3.1: a string is text where the type is not JSON; anything else is JSON, which is also meant where there is no type.
fn read_data(text: &Bytes, event: &mut Event, value: &RawValue) -> Result<(), Malformed> {
    let is_json = event.content_type.as_deref().is_none_or(attribute::is_json);
    if !is_json && value.get().starts_with('"') {
        let data: String = serde_json::from_str(value.get()).map_err(|error| not_json(&error))?;
        event.data = data.into();
        return Ok(());
    }
    event.content_type.get_or_insert_with(|| "application/json".to_owned());
    event.data = text.slice_ref(value.get().as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#""specversion":"1.0","id":"1","source":"/a","type":"t""#;

    fn with(rest: &str) -> Result<Event, Malformed> {
        parse(&Bytes::from(format!("{{{HEAD}{rest}}}")))
    }

    fn printed(event: &Event) -> String {
        let mut text = Vec::new();
        print(event, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn data_is_read_as_its_type_says() {
        for (rest, content_type, data) in [
            ("", None, ""),
            (
                r#","data":{"a": 1e400,"b":12345678901234567890123}"#,
                Some("application/json"),
                r#"{"a": 1e400,"b":12345678901234567890123}"#,
            ),
            (r#","data":"text""#, Some("application/json"), r#""text""#),
            (r#","data":null"#, Some("application/json"), "null"),
            (r#","datacontenttype":"text/plain","data":"a\nb""#, Some("text/plain"), "a\nb"),
            (r#","data":"a\u00e4","datacontenttype":"text/xml""#, Some("text/xml"), "aä"),
            (r#","data":{"a":1},"datacontenttype":"text/xml""#, Some("text/xml"), r#"{"a":1}"#),
            (r#","data":"x","datacontenttype":"application/vnd.a+json""#, Some("application/vnd.a+json"), r#""x""#),
            (r#","data_base64":"aGk=""#, None, "hi"),
            (r#","data_base64":"aGk","datacontenttype":"text/plain""#, Some("text/plain"), "hi"),
            (r#","data_base64":null,"data":1"#, Some("application/json"), "1"),
            (r#","datacontenttype":null,"data":1"#, Some("application/json"), "1"),
        ] {
            let event = with(rest).unwrap_or_else(|error| panic!("{rest}: {error}"));
            assert_eq!((event.content_type.as_deref(), &event.data[..]), (content_type, data.as_bytes()), "{rest}");
            // What was read is written so that it is read as the same, but for the type that JSON has anyway.
            let again = parse(&printed(&event).into()).unwrap();
            assert_eq!((&again.data, &again.attributes), (&event.data, &event.attributes), "{rest}");
        }
    }

    #[test]
    fn attributes_are_strings_booleans_and_integers() {
        let event = with(r#","a":true,"b":-7,"c":"x\u0000","d":null,"e":false"#).unwrap();
        let of = |name| event.attribute(name);
        assert_eq!(
            (of("a"), of("b"), of("c"), of("d"), of("e")),
            (Some("true"), Some("-7"), Some("x\0"), None, Some("false"))
        );
        for bad in [r#","a":1.5"#, r#","a":3000000000"#, r#","a":{}"#, r#","a":[1]"#, r#","a":1e2"#] {
            assert!(matches!(with(bad), Err(Malformed::Value { .. })), "{bad}");
        }
    }

    #[test]
    fn what_is_no_event_is_told_so() {
        for (rest, expected) in [
            (r#","id":"2""#, "attribute id is given twice"),
            (r#","data":1,"data":2"#, "attribute data is given twice"),
            (r#","data":1,"data_base64":"""#, "both data and data_base64 are given"),
            (r#","data_base64":7"#, "data_base64 is not base64"),
            (r#","data_base64":"*""#, "data_base64 is not base64"),
            (r#","Big":1"#, "\"Big\" is no name of an attribute: lower-case letters and digits only, at most 64"),
            (r#","":1"#, "\"\" is no name of an attribute: lower-case letters and digits only, at most 64"),
        ] {
            assert_eq!(with(rest).unwrap_err().to_string(), expected);
        }
        for bad in ["", "{", "[]", "1", "null", "\"a\"", "{}x", "\u{feff}{}", "{\"a\":}"] {
            assert!(matches!(parse(&Bytes::from(bad)), Err(Malformed::Json { .. })), "{bad:?}");
        }
        assert!(parse(&Bytes::from_static(b"{\"id\":\"\xff\"}")).is_err());
        let many: String = (0..300).map(|at| format!(",\"x{at}\":1")).collect();
        assert!(matches!(with(&many), Err(Malformed::Json { .. })));
    }

    #[test]
    fn depth_does_no_harm() {
        let deep = format!(",\"data\":{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let event = with(&deep).unwrap();
        assert_eq!(event.data.len(), 400_000);
        assert_eq!(parse(&printed(&event).into()), Ok(event));
        assert!(with(&format!(",\"a\":{}{}", "[".repeat(200_000), "]".repeat(200_000))).is_err());
    }

    #[test]
    fn binary_data_is_written_as_base64() {
        let data = Bytes::from_static(b"\xff\x00");
        let event = Event { data, content_type: Some("image/png".to_owned()), ..with("").unwrap() };
        assert!(printed(&event).ends_with(r#""datacontenttype":"image/png","data_base64":"/wA="}"#));
        // Which says that it is JSON and is not.
        let data = Bytes::from_static(b"{nothing");
        let event = Event { data, content_type: Some("application/json".to_owned()), ..with("").unwrap() };
        assert_eq!(parse(&printed(&event).into()), Ok(event));
        assert_eq!(printed(&Event::default()), "{}");
    }

    #[test]
    fn batches_say_which_event_is_wrong() {
        let batch = |text: &str| parse_batch(&Bytes::from(text.to_owned()), 3);
        assert_eq!(batch("[]").unwrap().len(), 0);
        let one = format!("{{{HEAD}}}");
        let two = format!(" [ {one} , {one} ] ");
        assert_eq!(batch(&two).unwrap().len(), 2);
        assert_eq!(batch(&format!("[{}]", [one.as_str(); 9].join(","))).unwrap().len(), 4);
        for (text, at) in [
            (format!("[{one},[{one}]]"), Some(1)),
            (format!("[{one},{{\"a\":[]}}]"), Some(1)),
            (format!("[{one},null]"), Some(1)),
            (one.clone(), None),
            (format!("[{one}"), None),
            (format!("[{one}]]"), None),
            (format!("[{one},]"), None),
        ] {
            assert_eq!(batch(&text).unwrap_err().0, at, "{text}");
        }
        let events = batch(&two).unwrap();
        assert_eq!(parse_batch(&print_batch(&events).into(), 3).unwrap(), events);
        assert_eq!(print_batch(&[]), b"[]");
    }

    #[test]
    fn truncated_and_mutated_input_is_an_event_or_an_error() {
        let whole = format!("{{{HEAD},\"time\":\"2026-11-21T10:00:00Z\",\"x\":7,\"data\":{{\"a\":[1,\"\\u00e4€\"]}}}}");
        for end in 0..whole.len() {
            assert!(parse(&Bytes::copy_from_slice(&whole.as_bytes()[..end])).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            for byte in [0, b'"', b'\\', b'{', b'}', b'[', b',', b'0', 0x80, 0xff] {
                let mut mutated = whole.clone().into_bytes();
                mutated[at] = byte;
                let mutated = Bytes::from(mutated);
                if let Ok(event) = parse(&mutated) {
                    // The name of a type may have been made another: then text and JSON are told apart otherwise.
                    assert_eq!(parse(&printed(&event).into()).unwrap().attributes, event.attributes);
                }
                let _ = parse_batch(&mutated, 2);
            }
        }
    }
}
