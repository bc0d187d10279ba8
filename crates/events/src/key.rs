//! The key of an event: the value at a path of its data, or an attribute. Pure. And the data as JSON, which is parsed once
//! for whoever needs it, filter or key, and not at all where nobody does.

use std::cell::OnceCell;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde_json::Value;

use crate::cloudevent::attribute;
use crate::event::Event;

/// Limit: of a longer value its digest is the key, as keys stay in memory.
const KEY_BYTES_MAX: usize = 256;
/// Limit: parts of a path.
const PARTS_MAX: usize = 32;
const ATTRIBUTES: &str = "attributes.";

/// An event whose data is parsed when somebody asks for it.
pub(crate) struct Parsed<'a> {
    pub(crate) event: &'a Event,
    json: OnceCell<Option<Value>>,
}

impl<'a> Parsed<'a> {
    pub(crate) fn new(event: &'a Event) -> Self {
        Self { event, json: OnceCell::new() }
    }

    /// The data, where it is JSON: it says so, or says nothing.
    pub(crate) fn json(&self) -> Option<&Value> {
        let parse = || {
            let is_json = self.event.content_type.as_deref().is_none_or(attribute::is_json);
            is_json.then(|| serde_json::from_slice(&self.event.data).ok()).flatten()
        };
        self.json.get_or_init(parse).as_ref()
    }
}

/// Where the key of an event is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Attribute(String),
    /// Names of members, or numbers of elements.
    Path(Vec<String>),
}

impl Key {
    /// # Errors
    /// Why it is no path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix(ATTRIBUTES) {
            let checked = attribute::check_name(name).map(|()| Self::Attribute(name.to_owned()));
            return checked.map_err(|error| format!("key {text:?}: {error}"));
        }
        let parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) || parts.len() > PARTS_MAX {
            return Err(format!("key {text:?} is no path: names with dots between them, at most {PARTS_MAX}"));
        }
        Ok(Self::Path(parts))
    }

    /// The key of an event. None where there is no such value, or where it is null.
    pub(crate) fn of(&self, parsed: &Parsed<'_>) -> Option<Arc<str>> {
        let value = match self {
            Self::Attribute(name) => return parsed.event.attribute(name).map(shorten),
            Self::Path(parts) => parts.iter().try_fold(parsed.json()?, |value, part| match value {
                Value::Object(members) => members.get(part),
                Value::Array(elements) => elements.get(part.parse::<usize>().ok()?),
                _ => None,
            })?,
        };
        match value {
            Value::Null => None,
            Value::String(text) => Some(shorten(text)),
            other => Some(shorten(&other.to_string())),
        }
    }
}

fn shorten(text: &str) -> Arc<str> {
    if text.len() <= KEY_BYTES_MAX {
        return Arc::from(text);
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Arc::from(format!("sha256:{hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str, data: &str) -> Option<String> {
        let attributes = [("subject".to_owned(), "s".to_owned())].into();
        let event = Event { attributes, content_type: None, data: data.to_owned().into() };
        Key::parse(path).unwrap().of(&Parsed::new(&event)).map(|key| key.to_string())
    }

    #[test]
    fn a_key_is_a_value_of_the_data_or_an_attribute() {
        let data = r#"{"order": {"id": 7, "lines": [{"sku": "a"}]}, "none": null, "yes": true, "é": "€"}"#;
        for (path, expected) in [
            ("order.id", Some("7")),
            ("order.lines.0.sku", Some("a")),
            ("order.lines.1.sku", None),
            ("order.lines.x", None),
            ("order.id.deeper", None),
            ("none", None),
            ("yes", Some("true")),
            ("é", Some("€")),
            ("order.lines", Some(r#"[{"sku":"a"}]"#)),
            ("attributes.subject", Some("s")),
            ("attributes.missing", None),
        ] {
            assert_eq!(key(path, data).as_deref(), expected, "{path}");
        }
        assert_eq!(key("order.id", "no json"), None);
        assert_eq!(key("order", &"[".repeat(100_000)), None);
    }

    #[test]
    fn a_long_key_is_a_digest_and_others_differ_still() {
        let (a, b) = ("a".repeat(1000), "a".repeat(999));
        let of = |text: &str| key("k", &format!(r#"{{"k":"{text}"}}"#)).unwrap();
        assert_eq!(of(&a).len(), 71);
        assert_ne!(of(&a), of(&b));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in ["", ".", "a..b", "a.", "attributes.", "attributes.A-b", &"a.".repeat(40)] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
    }
}
