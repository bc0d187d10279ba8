//! How an event is kept that was not delivered at once: the message of the aside, and that of a dead letter. It is the event
//! in NATS headers as it was published, and one header more that says what became of it. Pure.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cloudevent::nats;
use crate::event::Event;
use crate::reading::{Attempt, DeadLetter};

const HEADER: &str = "atoll-kept";
/// The version of [`Kept`]; a newer one is refused.
const VERSION: u32 = 1;
/// Attempts that are kept of an event, the last ones.
const ATTEMPTS_KEPT: usize = 8;
/// What a server takes beside headers and data: subject and line.
const OVERHEAD: usize = 1024;

/// What is known of an event beside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    version: u32,
    pub(crate) service: String,
    pub(crate) topic: String,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) attempts_count: u32,
    attempts: Vec<KeptAttempt>,
    /// When it is tried again.
    pub(crate) due: Option<Timestamp>,
    pub(crate) is_exhausted: bool,
    pub(crate) is_redriven: bool,
    pub(crate) is_replayed: bool,
    pub(crate) is_out_of_order: bool,
    /// The dead letter for which its key waits.
    pub(crate) held: Option<u64>,
    /// Why it was given up.
    pub(crate) reason: String,
    pub(crate) is_holding: bool,
    /// It was too large to be kept with all this: it is where it was published.
    is_reference: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptAttempt {
    at: Timestamp,
    took_ms: u64,
    status: Option<u16>,
    answer: String,
    request_id: String,
}

/// What a message was.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) kept: Kept,
    /// None where it must be looked up in its stream.
    pub(crate) event: Option<Event>,
}

impl Kept {
    pub(crate) fn new(service: &str, topic: &str, stream: &str, sequence: u64, key: Option<Arc<str>>) -> Self {
        Self {
            version: VERSION,
            service: service.to_owned(),
            topic: topic.to_owned(),
            stream: stream.to_owned(),
            sequence,
            key,
            ..Self::default()
        }
    }

    /// One more attempt has come to its end.
    pub(crate) fn add(&mut self, attempt: Attempt) {
        self.attempts_count += 1;
        if self.attempts.len() >= ATTEMPTS_KEPT {
            self.attempts.remove(0);
        }
        let Attempt { at, took, status, answer, request_id } = attempt;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.attempts.push(KeptAttempt { at, took_ms, status, answer, request_id });
    }

    pub(crate) fn last_attempt(&self) -> Option<&str> {
        self.attempts.last().map(|attempt| attempt.request_id.as_str())
    }

    /// As if it had never been tried.
    pub(crate) fn renew(&mut self) {
        (self.attempts_count, self.due, self.held) = (0, None, None);
        (self.is_exhausted, self.is_holding) = (false, false);
        self.attempts.clear();
        self.reason.clear();
    }

    /// Headers and payload that a server takes which allows for `bytes_max`.
    pub(crate) fn encode(&self, event: &Event, bytes_max: usize) -> (HeaderMap, Bytes) {
        let (mut headers, payload) = nats::encode(event);
        let of_event: usize = headers.iter().map(|(name, values)| name_bytes(name) + values_bytes(values)).sum();
        let room = bytes_max.saturating_sub(OVERHEAD + of_event + payload.len());
        let mut kept = self.clone();
        let mut text = kept.text();
        if text.len() > room {
            kept.attempts.iter_mut().for_each(|attempt| attempt.answer.clear());
            text = kept.text();
        }
        if text.len() > room {
            kept.is_reference = true;
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, kept.text());
            return (headers, Bytes::new());
        }
        headers.insert(HEADER, text);
        (headers, payload)
    }

    /// In ASCII: some who read headers take nothing else.
    fn text(&self) -> String {
        let text = serde_json::to_string(self).expect("a struct of texts and numbers is JSON");
        if text.is_ascii() {
            return text;
        }
        let mut ascii = String::with_capacity(text.len() * 2);
        for c in text.chars() {
            if c.is_ascii() {
                ascii.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        ascii
    }

    /// Nothing where it is none of ours.
    pub(crate) fn decode(headers: &HeaderMap) -> Option<Self> {
        let kept: Self = serde_json::from_str(headers.get(HEADER)?.as_str()).ok()?;
        (kept.version == VERSION).then_some(kept)
    }

    /// The same with its event.
    pub(crate) fn decode_all(headers: &HeaderMap, payload: &Bytes, time: Timestamp) -> Option<Found> {
        let kept = Self::decode(headers)?;
        if kept.is_reference {
            return Some(Found { kept, event: None });
        }
        let stored = nats::Stored {
            stream: &kept.stream,
            sequence: kept.sequence,
            subject: &kept.topic,
            time,
            headers: Some(headers),
            payload,
        };
        let event = nats::decode(&stored);
        Some(Found { kept, event: Some(event) })
    }

    pub(crate) fn dead_letter(&self, id: u64, subscription: &str, event: Event, at: Timestamp) -> DeadLetter {
        let attempts = self.attempts.iter().cloned().map(|attempt| Attempt {
            at: attempt.at,
            took: Duration::from_millis(attempt.took_ms),
            status: attempt.status,
            answer: attempt.answer,
            request_id: attempt.request_id,
        });
        DeadLetter {
            id,
            subscription: subscription.to_owned(),
            service: self.service.clone(),
            topic: self.topic.clone(),
            sequence: self.sequence,
            key: self.key.as_deref().map(str::to_owned),
            event,
            attempts: attempts.collect(),
            attempts_count: self.attempts_count,
            reason: self.reason.clone(),
            at,
            is_holding: self.is_holding,
        }
    }
}

fn name_bytes(name: &async_nats::header::HeaderName) -> usize {
    AsRef::<str>::as_ref(name).len() + 4
}

fn values_bytes(values: &[async_nats::header::HeaderValue]) -> usize {
    values.iter().map(|value| value.as_str().len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize) -> Event {
        let attributes = [("id", "1"), ("source", "/a"), ("type", "t"), ("specversion", "1.0"), ("time", "2026-01-01T00:00:00Z")];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Event { attributes, content_type: None, data: vec![b'x'; bytes].into() }
    }

    fn kept() -> Kept {
        let mut kept = Kept::new("warehouse", "orders.placed", "ORDERS", 7, Some("k€".into()));
        for at in 0..20 {
            let answer = format!("no\r\n{at} 😀") + &"\u{1}".repeat(900);
            let at = Timestamp::from_second(at).unwrap();
            let took = Duration::from_millis(5);
            kept.add(Attempt { at, took, status: Some(500), answer, request_id: "r".to_owned() });
        }
        kept
    }

    #[test]
    fn what_is_kept_is_found() {
        let (headers, payload) = kept().encode(&event(100), 1 << 20);
        assert!(headers.get(HEADER).unwrap().as_str().is_ascii());
        let found = Kept::decode_all(&headers, &payload, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((found.kept, found.event), (kept(), Some(event(100))));
        assert_eq!((kept().attempts_count, kept().attempts.len()), (20, 8));
    }

    #[test]
    fn what_a_server_would_not_take_is_left_out() {
        let (headers, payload) = kept().encode(&event(100_000), 104_000);
        assert!(payload.len() + headers.get(HEADER).unwrap().as_str().len() < 103_000);
        let found = Kept::decode_all(&headers, &payload, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(found.event, Some(event(100_000)));
        let (headers, payload) = kept().encode(&event(100_000), 100_500);
        let found = Kept::decode_all(&headers, &payload, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((found.event, found.kept.sequence, payload.len()), (None, 7, 0));
    }
}
