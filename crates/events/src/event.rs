//! A CloudEvent (CloudEvents 1.0.2) as it is between formats: attributes as text, and data as bytes.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::Stored;
use crate::cloudevent::{json, nats};

/// One event. Every context attribute, extensions among them, is in its canonical text (CloudEvents 1.0.2, "Type System").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// By lower-case name: `id`, `source`, `type`, `specversion`, `subject`, `time`, `dataschema`, extensions; without
    /// `datacontenttype`.
    pub attributes: BTreeMap<String, String>,
    /// `datacontenttype`; none where nothing is said.
    pub content_type: Option<String>,
    pub data: Bytes,
}

impl Event {
    /// What identifies it together with [`Self::source`]; empty where it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.attribute("id").unwrap_or_default()
    }

    /// The event that a message of a stream is, whoever has published it (CloudEvents NATS protocol binding 1.0.2); what it
    /// does not say of itself is what the stream knows of it.
    #[must_use]
    pub fn of(message: &Stored<'_>) -> Self {
        nats::decode(message)
    }

    /// In CloudEvents' JSON format.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        json::print(self, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    #[must_use]
    pub fn source(&self) -> &str {
        self.attribute("source").unwrap_or_default()
    }

    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}
