//! The access log: one JSON line for every request, written when its answer has ended or broken. A head that could not
//! be read has a line, too, in which what is not known is null: what the HTTP library cannot parse (its bare 400) or take
//! in (its bare 414 and 431), a head that never ends (408), and HTTP/2 (505). Lines gather in a buffer of the core and
//! leave it in batches; a request never waits for its log.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::body::Upload;
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
        self.counts.heads_refused.add(1);
        self.append(&Line {
            ts: format_args!("{:.3}", jiff::Timestamp::now()),
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
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration_ms: 0.0,
            upstream_ms: None,
            request_id: None,
            trace_id: None,
        });
    }

    fn append(&self, line: &Line<'_>) {
        if self.sender.is_none() {
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

/// What is known of one request; it grows as the request proceeds and is written when it is dropped.
#[derive(Debug)]
pub(crate) struct Record {
    log: Rc<Log>,
    counts: Arc<Counts>,
    listener: Rc<str>,
    began: jiff::Timestamp,
    began_instant: Instant,
    pub(crate) client: SocketAddr,
    pub(crate) method: Method,
    /// Without its query, which may carry secrets.
    pub(crate) path: String,
    pub(crate) host: String,
    /// Who stands before an edge; nobody before a gateway.
    pub(crate) caller: Option<Arc<str>>,
    pub(crate) request_id: String,
    pub(crate) trace_id: u128,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) service: Option<Arc<str>>,
    pub(crate) instance: Option<u32>,
    pub(crate) attempts: u32,
    /// From the sending of the last attempt to the head of its response.
    pub(crate) upstream: Option<Duration>,
    pub(crate) status: StatusCode,
    /// The request's body, which counts itself.
    pub(crate) upload: Upload,
    /// Bytes that a tunnel took from the client.
    pub(crate) tunnelled_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) reason: Option<Reason>,
    /// Set by whoever gave the whole answer away; without it the client left early.
    pub(crate) is_complete: bool,
}

impl Record {
    pub(crate) fn new(log: Rc<Log>, counts: Arc<Counts>, listener: Rc<str>) -> Box<Self> {
        counts.requests.add(1);
        Box::new(Self {
            log,
            counts,
            listener,
            client: SocketAddr::from(([0, 0, 0, 0], 0)),
            method: Method::GET,
            began: jiff::Timestamp::now(),
            began_instant: Instant::now(),
            path: String::new(),
            host: String::new(),
            caller: None,
            request_id: String::new(),
            trace_id: 0,
            route: None,
            service: None,
            instance: None,
            attempts: 0,
            upstream: None,
            status: Reason::ClientClosed.status(),
            upload: Upload::empty(),
            tunnelled_in: 0,
            bytes_out: 0,
            reason: None,
            is_complete: false,
        })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.counts.requests_ended.add(1);
        let reason = if self.is_complete { self.reason } else { self.reason.or(Some(Reason::ClientClosed)) };
        self.log.append(&Line {
            ts: format_args!("{:.3}", self.began),
            listener: &self.listener,
            role: self.caller.as_deref().unwrap_or("gateway"),
            client: self.client,
            method: Some(self.method.as_str()),
            host: Some(&self.host),
            path: Some(&self.path),
            route: self.route.as_deref(),
            service: self.service.as_deref(),
            instance: self.instance,
            status: self.status.as_u16(),
            reason: reason.map(Reason::code),
            attempts: self.attempts,
            bytes_in: self.upload.bytes() + self.tunnelled_in,
            bytes_out: self.bytes_out,
            duration_ms: milliseconds(self.began_instant.elapsed()),
            upstream_ms: self.upstream.map(milliseconds),
            request_id: Some(&self.request_id),
            trace_id: (self.trace_id != 0).then(|| format!("{:032x}", self.trace_id)),
        });
    }
}

/// Milliseconds to the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[derive(Serialize)]
struct Line<'a> {
    /// When the head was read, RFC 3339 with milliseconds.
    ts: std::fmt::Arguments<'a>,
    listener: &'a str,
    /// `gateway`, or the caller of an edge.
    role: &'a str,
    client: SocketAddr,
    method: Option<&'a str>,
    host: Option<&'a str>,
    path: Option<&'a str>,
    route: Option<&'a str>,
    service: Option<&'a str>,
    instance: Option<u32>,
    status: u16,
    reason: Option<&'a str>,
    attempts: u32,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    upstream_ms: Option<f64>,
    request_id: Option<&'a str>,
    trace_id: Option<String>,
}
