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
use crate::subscription::progress::sequence_of;

const HEADER: &str = "atoll-kept";
/// The version of [`Kept`]; a newer one is refused.
const VERSION: u32 = 1;
/// Limit: attempts that are kept of an event, the last ones; as many as the manifest lets it have.
const ATTEMPTS_KEPT: usize = 100;
/// Limit: headers of one message; servers take less than 64 KiB.
const HEADERS_BYTES_MAX: usize = 63 << 10;
/// What a redriven event may grow by until it is a dead letter again, without its attempts.
const GROWTH: usize = 4096;
/// Characters of a reason where there is little room.
const REASON_CHARACTERS: usize = 200;
/// What a server takes beside headers and data: subject and line.
const OVERHEAD: usize = 1024;

/// What is known of an event beside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    version: u32,
    pub(crate) service: String,
    pub(crate) topic: String,
    pub(crate) stream: String,
    /// Its number: see [`sequence_of`].
    #[serde(alias = "sequence")]
    pub(crate) number: u64,
    /// When its stream took it.
    #[serde(default)]
    pub(crate) published: Timestamp,
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
    /// The event is another one than in its stream.
    #[serde(default)]
    pub(crate) is_edited: bool,
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
    /// Of an event that was never tried, which its subscription knows by a number.
    pub(crate) fn new(service: &str, stream: &str, number: u64) -> Self {
        Self { version: VERSION, service: service.to_owned(), stream: stream.to_owned(), number, ..Self::default() }
    }

    /// That of the event in its stream.
    pub(crate) fn sequence(&self) -> u64 {
        sequence_of(self.number)
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

    /// For whoever needs to know where it is, and not what became of it.
    pub(crate) fn without_attempts(self) -> Self {
        Self { attempts: Vec::new(), reason: String::new(), ..self }
    }

    /// Where its event is gone: says so.
    pub(crate) fn without_event(self) -> Self {
        let is_said = self.reason.contains(GONE);
        Self { reason: if is_said { self.reason } else { format!("{}; {GONE}", self.reason) }, ..self }
    }

    /// Headers and payload that a server takes which allows for `bytes_max`. What does not fit is left out: answers first,
    /// those of the oldest attempts before others; then the event, which is in its stream.
    pub(crate) fn encode(&self, event: &Event, bytes_max: usize) -> (HeaderMap, Bytes) {
        let (mut headers, payload) = nats::encode(event);
        let room = room(&headers, &payload, bytes_max);
        let mut kept = Self { is_reference: false, ..self.clone() };
        let mut text = kept.text();
        let mut excess = text.len().saturating_sub(room);
        if excess > 0 {
            for attempt in &mut kept.attempts {
                if excess > 0 {
                    let answer = std::mem::take(&mut attempt.answer);
                    excess = excess.saturating_sub(ascii(&answer).len() - ascii("").len());
                }
            }
            text = kept.text();
        }
        if text.len() > room && self.is_edited {
            // It is nowhere else.
            kept.attempts.clear();
            kept.reason = kept.reason.chars().take(REASON_CHARACTERS).collect();
            text = kept.text();
        } else if text.len() > room || event.attributes.is_empty() {
            kept.is_reference = true;
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, kept.text());
            return (headers, Bytes::new());
        }
        headers.insert(HEADER, text);
        (headers, payload)
    }

    /// Whether an event finds room with it, also once it has failed again.
    pub(crate) fn has_room_for(&self, event: &Event, bytes_max: usize) -> bool {
        let (headers, payload) = nats::encode(event);
        self.text().len() + GROWTH <= room(&headers, &payload, bytes_max)
    }

    fn text(&self) -> String {
        ascii(self)
    }

    /// Nothing where it is none of ours.
    pub(crate) fn decode(headers: &HeaderMap) -> Option<Self> {
        let kept: Self = serde_json::from_str(headers.get(HEADER)?.as_str()).ok()?;
        (kept.version == VERSION).then_some(kept)
    }

    /// The same with its event.
    pub(crate) fn decode_all(headers: &HeaderMap, payload: &Bytes) -> Option<Found> {
        let kept = Self::decode(headers)?;
        if kept.is_reference {
            return Some(Found { kept, event: None });
        }
        let stored = nats::Stored {
            stream: &kept.stream,
            sequence: kept.sequence(),
            subject: &kept.topic,
            time: kept.published,
            headers: Some(headers),
            payload,
        };
        let event = nats::decode(&stored);
        Some(Found { kept, event: Some(event) })
    }

    /// The same where the data was not read, and without what the attempts were: the event's attributes, as far as they are
    /// there.
    pub(crate) fn decode_head(headers: &HeaderMap) -> Option<(Self, Event)> {
        let Found { kept, event } = Self::decode_all(headers, &Bytes::new())?;
        Some((Self { attempts: Vec::new(), ..kept }, event.unwrap_or_default()))
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
            sequence: self.sequence(),
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

/// What is said where only a reference is left.
pub(crate) const GONE: &str = "its event is gone from its stream";

/// What is left for one header beside an event.
fn room(headers: &HeaderMap, payload: &Bytes, bytes_max: usize) -> usize {
    let of_event: usize = headers.iter().map(|(name, values)| name_bytes(name) + values_bytes(values)).sum();
    bytes_max.saturating_sub(OVERHEAD + payload.len()).min(HEADERS_BYTES_MAX).saturating_sub(of_event)
}

/// JSON in ASCII: some who read headers take nothing else.
fn ascii(value: &(impl Serialize + ?Sized)) -> String {
    let text = serde_json::to_string(value).expect("texts and numbers are JSON");
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
        let attributes =
            [("id", "1"), ("source", "/a"), ("type", "t"), ("specversion", "1.0"), ("time", "2026-01-01T00:00:00Z")];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Event { attributes, content_type: None, data: vec![b'x'; bytes].into() }
    }

    fn kept(attempts: i64) -> Kept {
        let kept = Kept::new("warehouse", "ORDERS", 7);
        let mut kept = Kept { topic: "orders.placed".to_owned(), key: Some("k€".into()), ..kept };
        for at in 0..attempts {
            let answer = format!("no\r\n{at} 😀") + &"\u{1}".repeat(900);
            let at = Timestamp::from_second(at).unwrap();
            let took = Duration::from_millis(5);
            kept.add(Attempt { at, took, status: Some(500), answer, request_id: "r".to_owned() });
        }
        kept
    }

    #[test]
    fn what_is_kept_is_found() {
        let (headers, payload) = kept(8).encode(&event(100), 1 << 20);
        assert!(headers.get(HEADER).unwrap().as_str().is_ascii());
        let found = Kept::decode_all(&headers, &payload).unwrap();
        assert_eq!((found.kept, found.event), (kept(8), Some(event(100))));
    }

    #[test]
    fn each_attempt_is_kept_and_the_oldest_lose_their_answers() {
        let (headers, payload) = kept(100).encode(&event(100), 1 << 20);
        assert!(headers.get(HEADER).unwrap().as_str().len() < 64 << 10, "a server takes no larger head");
        let found = Kept::decode_all(&headers, &payload).unwrap();
        let letter = found.kept.dead_letter(1, "s", event(100), Timestamp::UNIX_EPOCH);
        assert_eq!((letter.attempts.len(), letter.attempts_count), (100, 100));
        assert!(letter.attempts.iter().all(|attempt| attempt.status == Some(500) && attempt.request_id == "r"));
        assert!(letter.attempts[0].answer.is_empty() && !letter.attempts[99].answer.is_empty());
        assert!(letter.attempts.is_sorted_by_key(|attempt| !attempt.answer.is_empty()));
    }

    #[test]
    fn an_edited_event_is_never_replaced_by_the_one_of_its_stream() {
        let edited = Kept { is_edited: true, reason: "r".repeat(1000), ..kept(100) };
        let bytes_max = 1 << 20;
        let fits = |bytes| Kept { is_edited: true, ..kept(0) }.has_room_for(&event(bytes), bytes_max);
        let largest = (bytes_max - 10_000..bytes_max).rev().find(|bytes| fits(*bytes)).unwrap();
        let (headers, payload) = edited.encode(&event(largest), bytes_max);
        let found = Kept::decode_all(&headers, &payload).unwrap();
        assert_eq!(found.event, Some(event(largest)));
        assert!(payload.len() + headers.get(HEADER).unwrap().as_str().len() < bytes_max);
    }

    #[test]
    fn a_dead_letter_without_its_event_says_so() {
        let (headers, payload) = kept(1).encode(&Event::default(), 1 << 20);
        let found = Kept::decode_all(&headers, &payload).unwrap();
        assert_eq!(found.event, None);
        let letter = found.kept.without_event().dead_letter(1, "s", Event::default(), Timestamp::UNIX_EPOCH);
        assert!(letter.reason.ends_with(GONE));
    }

    #[test]
    fn what_a_server_would_not_take_is_left_out() {
        let (headers, payload) = kept(20).encode(&event(100_000), 104_000);
        assert!(payload.len() + headers.get(HEADER).unwrap().as_str().len() < 103_000);
        let found = Kept::decode_all(&headers, &payload).unwrap();
        assert_eq!((found.event, found.kept.attempts.len()), (Some(event(100_000)), 20));
        assert!(found.kept.attempts[0].answer.is_empty(), "the oldest have lost their answers");
        let (headers, payload) = kept(20).encode(&event(100_000), 100_500);
        let found = Kept::decode_all(&headers, &payload).unwrap();
        assert_eq!((found.event, found.kept.sequence(), payload.len()), (None, 7, 0));
    }
}
