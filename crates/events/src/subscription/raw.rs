//! Fetches one message whose headers the client of NATS may not be able to read: anybody who publishes over NATS can store
//! one, and the client ends its connection at it. What of its headers is right counts.

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::{HeaderMap, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::cursor::Read;
use crate::error::Error;
use crate::link::Session;

#[derive(Debug, Deserialize)]
struct Answer {
    message: Option<Stored>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Stored {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
    time: Timestamp,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    code: u16,
    #[serde(default)]
    description: String,
}

/// The next message of a subject from a sequence on.
///
/// # Errors
/// [`Error::Broker`], [`Error::Away`].
pub(super) async fn next(session: &Session, stream: &str, filter: &str, from: u64) -> Result<Option<Read>, Error> {
    let failed = |error| Error::Broker { operation: "read one message", source: Box::new(error) };
    let request = json!({ "seq": from, "next_by_subj": filter });
    let answer: Answer =
        session.jetstream.request(format!("STREAM.MSG.GET.{stream}"), &request).await.map_err(failed)?;
    match (answer.message, answer.error) {
        (Some(stored), _) => Ok(Some(read(stored))),
        (None, Some(Refusal { code: 404, .. })) => Ok(None),
        (None, refusal) => Err(Error::Away { reason: refusal.map(|refusal| refusal.description).unwrap_or_default() }),
    }
}

fn read(stored: Stored) -> Read {
    let payload = Bytes::from(STANDARD.decode(&stored.data).unwrap_or_default());
    let headers = headers(&STANDARD.decode(&stored.hdrs).unwrap_or_default());
    let length = payload.len() + stored.hdrs.len();
    let message = Message {
        subject: stored.subject.into(),
        reply: None,
        payload,
        headers: Some(headers),
        status: None,
        description: None,
        length,
    };
    Read { sequence: stored.seq, time: stored.time, message }
}

/// Those lines that are headers.
fn headers(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').skip(1) {
        let line = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':'));
        let Some((name, value)) = line.filter(|(name, _)| !name.trim().is_empty()) else { continue };
        if let (Ok(name), Ok(value)) = (name.trim().parse::<HeaderName>(), value.trim().parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_of_headers_counts() {
        let all = headers(b"NATS/1.0\r\nce-id: 5\r\nnonsense\r\nx: \xff\r\n: y\r\nce-source:/a\r\n\r\n");
        assert_eq!(all.get("ce-id").map(HeaderValue::as_str), Some("5"));
        assert_eq!(all.get("ce-source").map(HeaderValue::as_str), Some("/a"));
        assert_eq!(all.len(), 2);
        assert_eq!(headers(b"").len(), 0);
    }
}
