//! One request of a publisher, from its path to its answer.

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method, Request};
use hyper::body::Incoming;
use jiff::Timestamp;
use kit::trace::TraceContext;
use percent_encoding::percent_decode_str;

use super::answer::{self, Answer, Refusal};
use super::{Intake, Share, body};
use crate::cloudevent::http::{Mode, Unreadable};
use crate::cloudevent::{Malformed, attribute, http as binary, json};
use crate::config::Limits;
use crate::event::Event;
use crate::publishing::{Destination, PublishError, Published};

/// Limit: what JSON may add around one event: names, escapes, attributes.
const STRUCTURED_EXTRA_BYTES: usize = 64 << 10;
/// Limit: a batch is at most as large as this many of the largest event.
const BATCH_FACTOR: usize = 8;

/// Answers it.
pub(super) async fn answer(intake: &Intake, request: Request<Incoming>) -> Answer {
    let (parts, mut body) = request.into_parts();
    let published = match (&parts.method, target(parts.uri.path())) {
        (_, None) => Err(Refusal::NoTopic),
        (&Method::POST, Some(target)) => publish(intake, &target, &parts.headers, &mut body).await,
        (&Method::OPTIONS, Some(target)) if parts.headers.contains_key("webhook-request-origin") => {
            match Destination::find(intake.shared.compiled(), &target.service, &target.topic) {
                Ok(_) => return answer::allowed(&parts.headers),
                Err(error) => Err(error.into()),
            }
        }
        _ => Err(Refusal::Method),
    };
    match published {
        Ok(published) => answer::accepted(&published),
        Err(refusal) => {
            body::discard(&mut body, &parts.headers).await;
            refusal.answer()
        }
    }
}

struct Target {
    service: String,
    topic: String,
}

/// `/<service>/<topic>`.
fn target(path: &str) -> Option<Target> {
    let (service, topic) = path.strip_prefix('/')?.split_once('/')?;
    let decode = |part| percent_decode_str(part).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    let is_one = !service.is_empty() && !topic.is_empty() && !topic.contains('/');
    is_one.then_some(Target { service: decode(service)?, topic: decode(topic)? })
}

async fn publish(
    intake: &Intake,
    target: &Target,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Result<Vec<Published>, Refusal> {
    let compiled = intake.shared.compiled();
    let limits = &compiled.config.limits;
    let destination = Destination::find(compiled.clone(), &target.service, &target.topic)?;
    let (mut room, mut memory) = (Share::new(&intake.requests), Share::new(&intake.body_bytes));
    let read = async {
        if !room.take(1, limits.publishes_max) {
            return Err(Refusal::Busy);
        }
        if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(Refusal::Coding);
        }
        let mode = binary::mode(headers).map_err(|unreadable| match unreadable {
            Unreadable::Format(content_type) => Refusal::Format { content_type },
            Unreadable::Malformed(error) => error.into(),
        })?;
        let bytes = body::read(body, body_max(mode, limits), &mut memory).await.map_err(Refusal::Body)?;
        Ok(events(mode, target, headers, bytes, limits)?)
    };
    match read.await {
        Ok(events) => Ok(destination.publish(&intake.shared, &events).await?),
        Err(refusal) => {
            if refusal.is_lasting() {
                destination.count_refused();
            } else {
                destination.count_failed();
            }
            Err(refusal)
        }
    }
}

fn body_max(mode: Mode, limits: &Limits) -> usize {
    let max = limits.event_bytes_max;
    match mode {
        Mode::Binary | Mode::Plain => max,
        // Base64 is a third larger.
        Mode::Structured => max.saturating_mul(4) / 3 + STRUCTURED_EXTRA_BYTES,
        Mode::Batch => max.saturating_mul(BATCH_FACTOR),
    }
}

/// The events that a request has, with what may be left out.
fn events(
    mode: Mode,
    target: &Target,
    headers: &HeaderMap,
    body: Bytes,
    limits: &Limits,
) -> Result<Vec<Event>, PublishError> {
    let mut events = match mode {
        Mode::Binary => vec![binary::parse(headers, body)?],
        Mode::Structured => vec![json::parse(&body)?],
        Mode::Plain => vec![plain(target, headers, body)?],
        Mode::Batch => json::parse_batch(&body, limits.batch_events_max).map_err(|(at, error)| match at {
            Some(at) => PublishError::InBatch { at, source: Box::new(error.into()) },
            None => error.into(),
        })?,
    };
    let now = Timestamp::now();
    for event in &mut events {
        attribute::fill(event, now);
        trace(event, headers);
    }
    Ok(events)
}

/// The event that is made of a body that claims to be none.
fn plain(target: &Target, headers: &HeaderMap, body: Bytes) -> Result<Event, Malformed> {
    let id = match headers.get("idempotency-key").filter(|key| !key.is_empty()) {
        // The topic is part of it: the same key in two topics of one stream is two events.
        Some(key) => format!("{}/{}", target.topic, attribute::decode("id", key.as_bytes())?),
        None => kit::ids::unique(),
    };
    let source = format!("/services/{}", target.service);
    let attributes = [("specversion", "1.0"), ("id", &id), ("source", &source), ("type", &target.topic)];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Ok(Event { attributes, content_type: binary::content_type(headers)?, data: body })
}

/// The request's trace becomes the event's (extension "Distributed Tracing"), where it has none of its own.
fn trace(event: &mut Event, headers: &HeaderMap) {
    if event.attributes.contains_key("traceparent") {
        return;
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let Some(parent) = text("traceparent").filter(|text| TraceContext::parse(text.as_bytes()).is_some()) else {
        return;
    };
    event.attributes.insert("traceparent".to_owned(), parent);
    if let Some(state) = text("tracestate").filter(|state| attribute::check_one("tracestate", state).is_ok()) {
        event.attributes.insert("tracestate".to_owned(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_in_two_topics_is_two_events() {
        let headers = [("idempotency-key".parse().unwrap(), "k 1".parse().unwrap())].into_iter().collect();
        let id = |topic: &str| {
            let target = Target { service: "cart".to_owned(), topic: topic.to_owned() };
            plain(&target, &headers, Bytes::new()).unwrap().id().to_owned()
        };
        assert_eq!(
            (id("orders.placed").as_str(), id("orders.paid").as_str()),
            ("orders.placed/k 1", "orders.paid/k 1")
        );
    }

    #[test]
    fn paths_name_a_service_and_a_topic() {
        let of = |path| target(path).map(|target| (target.service, target.topic));
        let some = |service: &str, topic: &str| Some((service.to_owned(), topic.to_owned()));
        assert_eq!(of("/cart/orders.placed"), some("cart", "orders.placed"));
        assert_eq!(of("/cart/orders%2Eplaced%3f"), some("cart", "orders.placed?"));
        for bad in ["", "/", "/cart", "/cart/", "//orders", "/cart/a/b", "/cart/a/", "cart/a", "/cart/%ff", "*"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
