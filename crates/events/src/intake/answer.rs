//! What publishers are answered: 202 with what is durable, or a problem (RFC 9457).

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Value, json};

use super::body::Unread;
use crate::publishing::{PublishError, Published};

pub(super) type Answer = Response<Full<Bytes>>;

/// What is allowed.
const METHODS: HeaderValue = HeaderValue::from_static("POST, OPTIONS");
/// Limit: what is said of one problem, in bytes: what it is about may be in it.
const DETAIL_BYTES_MAX: usize = 2000;

/// Why a request is not answered 202.
#[derive(Debug)]
pub(super) enum Refusal {
    NoTopic,
    Method,
    Format {
        content_type: String,
    },
    /// The body is compressed: what receivers are given would be, too, and not say so.
    Coding,
    Publish(PublishError),
    Body(Unread),
    /// As many requests are served as may be.
    Busy,
}

impl<E: Into<PublishError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Publish(error.into())
    }
}

impl Refusal {
    /// Whether it was refused for what it is, and would be again.
    pub(super) fn is_lasting(&self) -> bool {
        self.status() != StatusCode::SERVICE_UNAVAILABLE
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoTopic => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Format { .. } | Self::Coding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Publish(error) => status(error),
            Self::Body(Unread::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(Unread::TimedOut) => StatusCode::REQUEST_TIMEOUT,
            Self::Body(Unread::Broken) => StatusCode::BAD_REQUEST,
            Self::Body(Unread::NoMemory) | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::NoTopic => "events are published with POST /<topic>".to_owned(),
            Self::Method => "events are published with POST".to_owned(),
            Self::Format { content_type } => format!(
                "{content_type:?} is no event format that is known; application/cloudevents+json and \
                 application/cloudevents-batch+json are, in UTF-8, and binary mode"
            ),
            Self::Coding => "bodies with a content-encoding are not taken".to_owned(),
            Self::Publish(error) => kit::Chain(error).to_string(),
            Self::Body(Unread::TooLarge { max }) => format!("the body is larger than {max} bytes"),
            Self::Body(Unread::TimedOut) => "the body did not come in time".to_owned(),
            Self::Body(Unread::Broken) => "the body ended early".to_owned(),
            Self::Body(Unread::NoMemory) | Self::Busy => "too many events are being published at once".to_owned(),
        }
    }

    /// As a problem.
    pub(super) fn answer(&self) -> Answer {
        let status = self.status();
        let mut detail = self.detail();
        if detail.len() > DETAIL_BYTES_MAX {
            detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
            detail.push('…');
        }
        let mut problem = json!({
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": detail,
        });
        if let Self::Publish(error) = self {
            explain(error, &mut problem);
        }
        let mut answer = answer(status, "application/problem+json", problem.to_string().into());
        let headers = answer.headers_mut();
        if matches!(self, Self::Coding) {
            // RFC 9110 §15.5.16.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        match status {
            StatusCode::METHOD_NOT_ALLOWED => headers.insert(ALLOW, METHODS),
            StatusCode::SERVICE_UNAVAILABLE => headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            StatusCode::REQUEST_TIMEOUT => headers.insert(CONNECTION, HeaderValue::from_static("close")),
            _ => None,
        };
        answer
    }
}

fn status(error: &PublishError) -> StatusCode {
    match error {
        PublishError::NoService { .. } => StatusCode::NOT_FOUND,
        PublishError::Undeclared { .. } => StatusCode::FORBIDDEN,
        PublishError::Malformed { .. } => StatusCode::BAD_REQUEST,
        PublishError::InBatch { source, .. } => status(source),
        PublishError::TooLarge { .. }
        | PublishError::AttributesTooLarge { .. }
        | PublishError::TooLargeForStream
        | PublishError::TooMany { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        PublishError::Schema { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        PublishError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// What a program wants to know of it: which event of a batch, and where in its data (RFC 9457 §3, JSON Pointers as URI
/// fragments).
fn explain(error: &PublishError, problem: &mut Value) {
    match error {
        PublishError::InBatch { at, source } => {
            problem["event"] = (*at).into();
            explain(source, problem);
        }
        PublishError::Schema { violations } => {
            let errors = violations.iter().map(|violation| {
                json!({ "detail": violation.detail, "pointer": format!("#{}", fragment(&violation.pointer)) })
            });
            problem["errors"] = errors.collect();
        }
        PublishError::Undeclared { declared, .. } => problem["publishes"] = declared.clone().into(),
        _ => {}
    }
}

/// RFC 6901 §6.
fn fragment(pointer: &str) -> String {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
    const ENCODED: &AsciiSet =
        &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'[').add(b'\\');
    const ALL: &AsciiSet = &ENCODED.add(b']').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');
    utf8_percent_encode(pointer, ALL).to_string()
}

/// 202.
pub(super) fn accepted(published: &[Published]) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        events: Vec<Event<'a>>,
    }
    #[derive(Serialize)]
    struct Event<'a> {
        id: &'a str,
        source: &'a str,
        stream: &'a str,
        sequence: u64,
        duplicate: bool,
    }
    let events = published.iter().map(|Published { id, source, stream, sequence, is_duplicate }| Event {
        id,
        source,
        stream,
        sequence: *sequence,
        duplicate: *is_duplicate,
    });
    let body = Body { events: events.collect() };
    let text = serde_json::to_vec(&body).expect("text and numbers can be written");
    answer(StatusCode::ACCEPTED, "application/json", text.into())
}

/// The answer to a validation request (CloudEvents HTTP WebHook 1.0.2 §4): anybody who may publish may.
pub(super) fn allowed(headers: &HeaderMap) -> Answer {
    let mut answer = Response::new(Full::default());
    let allowed = answer.headers_mut();
    allowed.insert(ALLOW, METHODS);
    if let Some(origin) = headers.get("webhook-request-origin") {
        allowed.insert(HeaderName::from_static("webhook-allowed-origin"), origin.clone());
    }
    allowed.insert(HeaderName::from_static("webhook-allowed-rate"), HeaderValue::from_static("*"));
    answer
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
