//! Context attributes: what their names and values may be (CloudEvents 1.0.2, "Context Attributes", "Type System"), and how
//! values stand in headers (HTTP Protocol Binding 1.0.2 §3.1.3.2, which the one for NATS follows).

use std::borrow::Cow;

use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use super::Malformed;
use crate::event::Event;

/// Limit: the specification wants names of at most 20; longer ones are met.
pub(crate) const NAME_BYTES_MAX: usize = 64;
/// Limit: attributes of one event. As headers they must find room in any subscriber's server.
const ATTRIBUTES_MAX: usize = 64;
/// Limit: all attributes together, as they stand in headers.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Those that must be there.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// §3.1.3.2: space, double quote, percent, and what is not printable ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Adds what may be left out. To the microsecond: not every library reads more.
pub(crate) fn fill(event: &mut Event, now: Timestamp) {
    if !event.attributes.contains_key("time") {
        event.attributes.insert("time".to_owned(), format!("{now:.6}"));
    }
}

/// Whether an event is one.
///
/// # Errors
/// What is wrong first; of required attributes all that are missing.
pub(crate) fn check(event: &Event) -> Result<(), Malformed> {
    let missing: Vec<_> = REQUIRED.into_iter().filter(|name| !event.attributes.contains_key(*name)).collect();
    if !missing.is_empty() {
        return Err(Malformed::Missing { names: missing });
    }
    if let Some(version) = event.attribute("specversion").filter(|version| *version != "1.0") {
        return Err(Malformed::Version { version: version.to_owned() });
    }
    if event.attributes.len() > ATTRIBUTES_MAX {
        return Err(Malformed::TooManyAttributes { max: ATTRIBUTES_MAX });
    }
    let mut size = 0;
    for (name, value) in &event.attributes {
        check_one(name, value)?;
        size += name.len() + encoded_len(value);
    }
    if let Some(content_type) = &event.content_type {
        check_content_type(content_type)?;
        size += content_type.len();
    }
    if size > HEAD_BYTES_MAX {
        return Err(Malformed::HeadTooLarge { max: HEAD_BYTES_MAX });
    }
    Ok(())
}

/// # Errors
/// [`Malformed::Name`], [`Malformed::Value`].
pub(crate) fn check_one(name: &str, value: &str) -> Result<(), Malformed> {
    check_name(name)?;
    check_value(name, value)
}

/// # Errors
/// [`Malformed::Name`].
pub(crate) fn check_name(name: &str) -> Result<(), Malformed> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    // They would be taken for something else in one of the formats.
    let is_taken = matches!(name, "data" | "datacontenttype");
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !is_plain || is_taken {
        let name = name.chars().take(NAME_BYTES_MAX).collect();
        return Err(Malformed::Name { name });
    }
    Ok(())
}

fn check_value(name: &str, value: &str) -> Result<(), Malformed> {
    let wrong = |reason| Err(Malformed::Value { name: name.to_owned(), reason });
    if value.chars().any(is_forbidden) {
        return wrong("has a character that no attribute may have");
    }
    if value.is_empty() && matches!(name, "id" | "source" | "type" | "subject" | "dataschema" | "time") {
        return wrong("is empty");
    }
    match name {
        "source" | "dataschema" if !is_reference(value) => wrong("is no URI reference (RFC 3986)"),
        // RFC 9557's additions are none of RFC 3339's.
        "time" if value.contains('[') || value.parse::<Timestamp>().is_err() => wrong("is no time as of RFC 3339"),
        _ => Ok(()),
    }
}

/// "Type System", String: controls and what is no character. Surrogates cannot be here.
fn is_forbidden(c: char) -> bool {
    let code = u32::from(c);
    c.is_control() || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

/// What cannot be in a URI reference, whatever its parts are. Other than RFC 3986 it may have characters beyond ASCII:
/// nothing breaks by them, and IRIs are met.
fn is_reference(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => false,
        b'%' => is_hex(at + 1) && is_hex(at + 2),
        _ => true,
    })
}

/// RFC 2045 §5.1, as far as it matters to whoever passes it on.
pub(crate) fn check_content_type(text: &str) -> Result<(), Malformed> {
    let wrong = |reason| Err(Malformed::Value { name: "datacontenttype".to_owned(), reason });
    let is_token = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    if !text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) || text.trim() != text {
        return wrong("has a character that no header may have");
    }
    match essence(text).split_once('/') {
        Some((kind, subtype)) if is_token(kind) && is_token(subtype) => Ok(()),
        _ => wrong("is no media type"),
    }
}

/// A media type without its parameters, in lower case.
pub(crate) fn essence(content_type: &str) -> String {
    let (essence, _) = content_type.split_once(';').unwrap_or((content_type, ""));
    essence.trim().to_ascii_lowercase()
}

/// Whether data of this type is JSON.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// A value as it stands in a header.
pub(crate) fn encode(value: &str) -> Cow<'_, str> {
    utf8_percent_encode(value, ENCODED).into()
}

fn encoded_len(value: &str) -> usize {
    let is_encoded = |byte: &u8| !matches!(byte, b'!'..=b'~') || matches!(byte, b'"' | b'%');
    value.len() + 2 * value.as_bytes().iter().filter(|byte| is_encoded(byte)).count()
}

/// A value from a header: quotes of older senders are taken off, then it is percent-decoded once. A percent sign that begins
/// nothing stands for itself, and so do characters beyond ASCII, as long as all of it is UTF-8.
///
/// # Errors
/// [`Malformed::Value`].
pub(crate) fn decode(name: &str, value: &[u8]) -> Result<String, Malformed> {
    let unquoted = unquote(value);
    match percent_decode(&unquoted).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Malformed::Value { name: name.to_owned(), reason: "is not UTF-8" }),
    }
}

/// RFC 9110 §5.6.4.
fn unquote(value: &[u8]) -> Cow<'_, [u8]> {
    let [b'"', inner @ .., b'"'] = value else { return Cow::Borrowed(value) };
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        text.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(changes: &[(&str, &str)]) -> Event {
        let base = [("specversion", "1.0"), ("id", "1"), ("source", "/a"), ("type", "t")];
        let attributes = base.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Event { attributes: attributes.collect(), ..Event::default() }
    }

    fn said(event: &Event) -> String {
        check(event).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn headers_are_decoded_as_the_binding_says() {
        for (header, value) in [
            ("plain", "plain"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            // What need not have been encoded, is decoded, once.
            ("%41%2542", "A%42"),
            (r#""a \"b\" \\ c""#, r#"a "b" \ c"#),
            (r#""a%20b""#, "a b"),
            (r#"a"b"#, r#"a"b"#),
            (r#"""#, r#"""#),
            (r#""\""#, r"\"),
            ("100%", "100%"),
            ("100%zz %2", "100%zz %2"),
            ("a b", "a b"),
            ("grün", "grün"),
            ("", ""),
        ] {
            assert_eq!(decode("x", header.as_bytes()).as_deref(), Ok(value), "{header}");
        }
        // An overlong space, a lone continuation byte, half of a surrogate pair.
        for header in [&b"%C0%A0"[..], b"%80", b"\xff", b"%ED%A0%80", b"gr\xfcn"] {
            assert!(decode("x", header).is_err(), "{header:?}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        for value in ["", "a", "Euro € 😀", "100%", r#"a "quoted" b"#, "%41", " lead and trail ", "\u{7f}"] {
            let header = encode(value);
            assert!(header.bytes().all(|byte| matches!(byte, b'!'..=b'~')), "{header}");
            assert_eq!(decode("x", header.as_bytes()).as_deref(), Ok(value));
            assert_eq!(header.len(), encoded_len(value));
        }
        assert_eq!(encode("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(said(&Event::default()), "attributes are missing: specversion, id, source, type");
        let mut event = event(&[]);
        event.attributes.remove("source");
        assert_eq!(said(&event), "an attribute is missing: source");
    }

    #[test]
    fn values_are_of_their_types() {
        for (name, value, expected) in [
            ("subject", "a", "fine"),
            ("time", "2026-11-21T10:00:00Z", "fine"),
            ("time", "2026-11-21T10:00:00.123456789+05:30", "fine"),
            ("time", "2026-11-21", "attribute time is no time as of RFC 3339"),
            ("time", "yesterday", "attribute time is no time as of RFC 3339"),
            ("time", "2026-11-21T10:00:00+01:00[Europe/Berlin]", "attribute time is no time as of RFC 3339"),
            ("source", "urn:uuid:1", "fine"),
            ("source", "//example.com/a?b#c", "fine"),
            ("source", "https://exämple.com/ü", "fine"),
            ("source", "a b", "attribute source is no URI reference (RFC 3986)"),
            ("source", "/100%", "attribute source is no URI reference (RFC 3986)"),
            ("source", "", "attribute source is empty"),
            ("id", "", "attribute id is empty"),
            ("subject", "", "attribute subject is empty"),
            ("extension", "", "fine"),
            ("subject", "a\nb", "attribute subject has a character that no attribute may have"),
            ("subject", "\u{85}", "attribute subject has a character that no attribute may have"),
            ("subject", "\u{fffe}", "attribute subject has a character that no attribute may have"),
            ("specversion", "0.3", "specversion is \"0.3\", and only 1.0 is known"),
            ("Subject", "a", "\"Subject\" is no name of an attribute: lower-case letters and digits only, at most 64"),
            ("a-b", "a", "\"a-b\" is no name of an attribute: lower-case letters and digits only, at most 64"),
            ("data", "a", "\"data\" is no name of an attribute: lower-case letters and digits only, at most 64"),
        ] {
            assert_eq!(said(&event(&[(name, value)])), expected, "{name} {value:?}");
        }
    }

    #[test]
    fn large_attributes_are_taken_up_to_a_bound() {
        for (kib, is_fine) in [(2, true), (16, true), (63, true), (64, false), (1024, false)] {
            assert_eq!(check(&event(&[("subject", &"a".repeat(kib << 10))])).is_ok(), is_fine, "{kib} KiB");
        }
        // What counts is the size that they have in headers.
        assert!(check(&event(&[("subject", &"€".repeat(8 << 10))])).is_err());
        let many: Vec<(String, String)> = (0..100).map(|at| (format!("x{at}"), "1".to_owned())).collect();
        let mut event = event(&[]);
        event.attributes.extend(many);
        assert_eq!(said(&event), "more than 64 attributes");
    }

    #[test]
    fn content_types_are_media_types() {
        for (content_type, is_fine) in [
            ("application/json", true),
            ("text/plain; charset=utf-8", true),
            ("Application/Vnd.x+JSON;v=\"1\"", true),
            ("json", false),
            ("/", false),
            ("a/b\r\nx: y", false),
            ("a/ü", false),
            (" a/b", false),
            ("a b/c", false),
            ("", false),
        ] {
            let event = Event { content_type: Some(content_type.to_owned()), ..event(&[]) };
            assert_eq!(check(&event).is_ok(), is_fine, "{content_type:?}");
        }
    }
}
