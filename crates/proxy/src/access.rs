//! The access log: one JSON line for every request, written when its answer has ended or broken. A head that could not
//! be read has a line, too, in which what is not known is null: malformed (400), too large (414, 431), never ended (408),
//! HTTP/2 (505). Lines gather in a buffer of the core and leave it in batches; a request never waits for its log.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::counters::Counts;
use crate::reason::Reason;

// Limit: a batch leaves at this size or with the next tick, whichever comes first.
const BATCH_BYTES: usize = 32 * 1024;

/// How often a core gives away what it has gathered.
pub(crate) const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// The lines of one core.
#[derive(Debug)]
pub(crate) struct Log {
    batch: RefCell<Batch>,
    sender: Option<mpsc::Sender<Vec<u8>>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

impl Log {
    pub(crate) fn new(sender: Option<mpsc::Sender<Vec<u8>>>, counts: Arc<Counts>) -> Self {
        Self { batch: RefCell::default(), sender, counts }
    }

    /// Gives the batch away, or drops it when nobody takes it.
    pub(crate) fn flush(&self) {
        let Batch { bytes, lines } = self.batch.take();
        if let Some(sender) = &self.sender
            && lines > 0
            && sender.try_send(bytes).is_err()
        {
            self.counts.access_lines_dropped.add(lines);
        }
    }

    /// Writes down a head that could not be read: not a request, but somebody who may wonder why there is no answer.
    pub(crate) fn refuse_head(&self, listener: &str, caller: Option<&str>, client: SocketAddr, reason: Reason) {
        self.append(&Line {
            ts: Time(Timestamp::now()),
            listener,
            role: caller.unwrap_or("gateway"),
            client,
            method: None,
            host: None,
            path: None,
            route: None,
            service: None,
            instance: None,
            status: reason.status().as_u16(),
            reason: Some(reason.code()),
            fallback: None,
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration_ms: 0.0,
            upstream_ms: None,
            request_id: None,
            trace_id: None,
        });
    }

    /// Whether anybody reads it.
    pub(crate) fn is_on(&self) -> bool {
        self.sender.is_some()
    }

    pub(crate) fn append(&self, line: &Line<'_>) {
        if !self.is_on() {
            return;
        }
        let mut batch = self.batch.borrow_mut();
        serde_json::to_writer(&mut batch.bytes, line).expect("a line is JSON and a vector takes it");
        batch.bytes.push(b'\n');
        batch.lines += 1;
        let is_full = batch.bytes.len() >= BATCH_BYTES;
        drop(batch);
        if is_full {
            self.flush();
        }
    }
}

/// Milliseconds to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// A moment, RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Timestamp);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.3}", self.0))
    }
}

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    /// When the head was read.
    pub(crate) ts: Time,
    pub(crate) listener: &'a str,
    /// `gateway`, or the caller of an edge.
    pub(crate) role: &'a str,
    pub(crate) client: SocketAddr,
    pub(crate) method: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
    /// Without its query, which may carry secrets.
    pub(crate) path: Option<&'a str>,
    pub(crate) route: Option<&'a str>,
    pub(crate) service: Option<&'a str>,
    pub(crate) instance: Option<u32>,
    pub(crate) status: u16,
    pub(crate) reason: Option<&'a str>,
    /// Who answered instead of the service: `static`, or another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fallback: Option<&'a str>,
    pub(crate) attempts: u32,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration_ms: f64,
    /// From the sending of the last attempt to the head of its response.
    pub(crate) upstream_ms: Option<f64>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) trace_id: Option<String>,
}
