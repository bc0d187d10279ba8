//! What a consumer says beside messages: status lines to those who asked, advisories to those who watch. As data; the
//! stream that owns the consumer sends it.

use bytes::Bytes;

/// What came out of a call beside its result. Whoever calls a consumer takes it out afterwards; a delivery goes first.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) replies: Vec<Reply>,
    pub(crate) advisories: Vec<Advisory>,
    /// Sequences that this consumer needs no more: acknowledged, terminated, or delivered where nothing is acknowledged.
    pub(crate) settled: Vec<u64>,
}

/// A message without payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) to: Bytes,
    /// Where an answer is expected.
    pub(crate) reply: Option<Bytes>,
    /// The whole block.
    pub(crate) headers: Bytes,
}

/// What watchers are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Advisory {
    /// Was delivered as often as may be, and not acknowledged.
    MaxDeliver {
        sequence: u64,
        deliveries: u64,
    },
    Nak {
        sequence: u64,
        consumer_sequence: u64,
        deliveries: u64,
    },
    Terminated {
        sequence: u64,
        consumer_sequence: u64,
        deliveries: u64,
        reason: String,
    },
}

/// What a pull request has not got when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remaining {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Reply {
    /// A status line alone.
    pub(super) fn status(to: Bytes, line: &str) -> Self {
        Self { to, reply: None, headers: format!("NATS/1.0 {line}\r\n\r\n").into() }
    }

    /// The end of a pull request, with what it has not got.
    pub(super) fn end(to: Bytes, line: &str, remaining: Remaining) -> Self {
        let Remaining { messages, bytes } = remaining;
        let headers =
            format!("NATS/1.0 {line}\r\nNats-Pending-Messages: {messages}\r\nNats-Pending-Bytes: {bytes}\r\n\r\n");
        Self { to, reply: None, headers: headers.into() }
    }

    /// Says that the consumer lives and how far it has come.
    pub(super) fn heartbeat(to: Bytes, consumer: u64, stream: u64, stalled: Option<&Bytes>) -> Self {
        let mut headers =
            format!("NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: {consumer}\r\nNats-Last-Stream: {stream}\r\n")
                .into_bytes();
        if let Some(stalled) = stalled {
            headers.extend_from_slice(&[b"Nats-Consumer-Stalled: ", &stalled[..], b"\r\n"].concat());
        }
        headers.extend_from_slice(b"\r\n");
        Self { to, reply: None, headers: headers.into() }
    }

    /// Asks whether what was pushed has arrived.
    pub(super) fn flow_control(to: Bytes, reply: Bytes) -> Self {
        Self { to, reply: Some(reply), headers: Bytes::from_static(b"NATS/1.0 100 FlowControl Request\r\n\r\n") }
    }
}
