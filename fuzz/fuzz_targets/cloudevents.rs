//! Any bytes as events, in JSON, in a batch, in headers, in a message of a stream: what is taken for an event comes back the
//! same out of every format, and what is in a stream is an event in any case.
#![no_main]

use bytes::Bytes;
use events::{Event, fuzzing};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

#[derive(arbitrary::Arbitrary, Debug)]
struct Input<'a> {
    headers: Vec<(Name, &'a [u8])>,
    body: &'a [u8],
}

/// Names that mean something, and some that do not.
#[derive(arbitrary::Arbitrary, Clone, Copy, Debug)]
enum Name {
    Id,
    Source,
    Type,
    Specversion,
    Time,
    Subject,
    Extension,
    ContentType,
    Wrong,
}

impl Name {
    const fn text(self) -> &'static str {
        match self {
            Self::Id => "ce-id",
            Self::Source => "ce-source",
            Self::Type => "ce-type",
            Self::Specversion => "ce-specversion",
            Self::Time => "ce-time",
            Self::Subject => "ce-subject",
            Self::Extension => "ce-extension1",
            Self::ContentType => "content-type",
            Self::Wrong => "ce-wrong-name",
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let body = Bytes::copy_from_slice(input.body);
    if let Ok(event) = fuzzing::parse(&body) {
        comes_back(&event);
    }
    if let Ok(events) = fuzzing::parse_batch(&body) {
        let printed = Bytes::from(fuzzing::print_batch(&events));
        assert_eq!(fuzzing::parse_batch(&printed).map(|events| events.len()), Ok(events.len()));
    }
    let mut headers = HeaderMap::new();
    let mut stored = async_nats::HeaderMap::new();
    for (name, value) in &input.headers {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name.text()), value);
        }
        if let Some(value) = std::str::from_utf8(value).ok().and_then(|value| value.parse::<async_nats::HeaderValue>().ok()) {
            stored.append(name.text(), value);
        }
    }
    if let Ok(event) = fuzzing::parse_binary(&headers, body.clone()) {
        comes_back(&event);
    }
    let event = fuzzing::stored(Some(&stored), &body);
    for required in ["id", "source", "type", "time", "specversion"] {
        assert!(event.attribute(required).is_some_and(|value| !value.is_empty()), "{required}");
    }
});

fn comes_back(event: &Event) {
    let binary = fuzzing::parse_binary(&fuzzing::print_binary(event), event.data.clone());
    assert_eq!(binary.as_ref(), Ok(event));
    let structured = fuzzing::parse(&fuzzing::print(event).into()).expect("what was printed is an event");
    assert_eq!(structured.attributes, event.attributes);
    let timed = event.attributes.contains_key("time");
    let over_nats = fuzzing::over_nats(event);
    assert!(!timed || over_nats == *event);
}
