//! Formats of events for the fuzz target and for tests with other peoples' libraries. Nobody else may call it, and it promises
//! nothing to anybody.

use async_nats::HeaderMap;
use bytes::Bytes;
use jiff::Timestamp;

use crate::cloudevent::nats::{self, Stored};
use crate::cloudevent::{Malformed, attribute, http, json};
use crate::event::Event;

/// One event as JSON that was checked.
///
/// # Errors
/// [`Malformed`].
pub fn parse(text: &Bytes) -> Result<Event, Malformed> {
    let event = json::parse(text)?;
    attribute::check(&event)?;
    Ok(event)
}

/// An array of them, unchecked.
///
/// # Errors
/// [`Malformed`].
pub fn parse_batch(text: &Bytes) -> Result<Vec<Event>, Malformed> {
    json::parse_batch(text, 1000).map_err(|(_, error)| error)
}

/// An event in headers that was checked.
///
/// # Errors
/// [`Malformed`].
pub fn parse_binary(headers: &::http::HeaderMap, body: Bytes) -> Result<Event, Malformed> {
    let event = http::parse(headers, body)?;
    attribute::check(&event)?;
    Ok(event)
}

#[must_use]
pub fn print_batch(events: &[Event]) -> Vec<u8> {
    json::print_batch(events)
}

#[must_use]
pub fn print(event: &Event) -> Vec<u8> {
    let mut text = Vec::new();
    json::print(event, &mut text);
    text
}

#[must_use]
pub fn print_binary(event: &Event) -> ::http::HeaderMap {
    let mut headers = ::http::HeaderMap::new();
    http::print(event, &mut headers);
    headers
}

/// There and back over NATS.
#[must_use]
pub fn over_nats(event: &Event) -> Event {
    let (headers, payload) = nats::encode(event);
    stored(Some(&headers), &payload)
}

/// What a message of a stream becomes.
#[must_use]
pub fn stored(headers: Option<&HeaderMap>, payload: &Bytes) -> Event {
    let time = Timestamp::UNIX_EPOCH;
    nats::decode(&Stored { stream: "S", sequence: 1, subject: "s", time, headers, payload })
}
