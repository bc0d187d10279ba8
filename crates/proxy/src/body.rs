//! Bodies on their way through: they count, they bound, and they say how they ended. Each frame is asked for only when the
//! other side takes it, which is what keeps a slow reader from filling the memory. Nothing is kept but the beginning of a
//! request's body, where another try may follow.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::access::Record;
use crate::config::Limits;
use crate::reason::{Reason, Refusal};
use crate::upstream::Lease;
use crate::watched::Activity;

/// Why a body cannot go on. The HTTP library only needs to know that it is an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the request's body is larger than allowed")]
    TooLarge,
    #[error("the request's body stopped coming")]
    Stalled,
    #[error("the service stopped in the middle of its response")]
    Silent,
    #[error("the body broke")]
    Cut(#[source] hyper::Error),
}

// Limit: what is kept of one request's body, so that it can be sent again. A longer one is sent once.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// The body of a request. Clones are handles to the same one, each at its own place, so that an attempt can be followed by
/// another: as long as nothing was read of it, or all that was read is kept. Only one of them may be read at a time.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    source: Option<Rc<Source>>,
    /// How many bytes this handle has given.
    position: usize,
}

#[derive(Debug)]
struct Source {
    incoming: RefCell<Incoming>,
    activity: Arc<Activity>,
    bytes_max: u64,
    bytes: Cell<u64>,
    /// Whether any attempt took something of it.
    is_touched: Cell<bool>,
    /// All that was taken of it, if it may be wanted again.
    kept: RefCell<Option<Vec<u8>>>,
    failure: Cell<Option<Refusal>>,
    stall: RefCell<Stall>,
    /// When it last went on: began, gave a frame, ended.
    moved: Cell<Instant>,
    is_ended: Cell<bool>,
}

/// How far the body of a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The upstream's connection has taken all of it, at this moment.
    Ended(Instant),
    /// The client has not sent what was asked for. That wait has its own limit.
    AwaitsClient,
    /// Nobody has asked for more since then.
    AwaitsUpstream(Instant),
}

/// Bounds the wait for a frame: begins with the first poll in vain, ends with a frame.
#[derive(Debug)]
struct Stall {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    const fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Ready when it has lasted too long.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(context)
    }
}

impl Upload {
    pub(crate) const fn empty() -> Self {
        Self { source: None, position: 0 }
    }

    /// Bounded in size by `body_bytes_max`, and from frame to frame by `idle_timeout`.
    pub(crate) fn new(incoming: Incoming, activity: Arc<Activity>, limits: &Limits) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        activity.body_began();
        let source = Rc::new(Source {
            incoming: RefCell::new(incoming),
            activity,
            bytes_max: limits.body_bytes_max,
            bytes: Cell::new(0),
            is_touched: Cell::new(false),
            kept: RefCell::default(),
            failure: Cell::new(None),
            stall: RefCell::new(Stall::new(limits.idle_timeout)),
            moved: Cell::new(Instant::now()),
            is_ended: Cell::new(false),
        });
        Self { source: Some(source), position: 0 }
    }

    /// Keeps what is read from now on, unless it is or becomes too long.
    pub(crate) fn keep(&self) {
        if let Some(source) = &self.source
            && !source.is_touched.get()
            && source.incoming.borrow().size_hint().lower() <= KEPT_BYTES_MAX as u64
        {
            source.kept.replace(Some(Vec::new()));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.source.is_none()
    }

    /// Whether another attempt could still send all of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.source.as_ref().is_none_or(|source| !source.is_touched.get() || source.kept.borrow().is_some())
    }

    /// Whether all of it was read from the client.
    pub(crate) fn is_ended(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.is_ended.get())
    }

    /// Why it broke, where that was not the upstream's doing.
    pub(crate) fn failure(&self) -> Option<Refusal> {
        self.source.as_ref().and_then(|source| source.failure.get())
    }

    /// How far it has come. Without a body, the request ended when it `began`.
    pub(crate) fn progress(&self, began: Instant) -> Progress {
        let Some(source) = &self.source else { return Progress::Ended(began) };
        if source.is_ended.get() {
            Progress::Ended(source.moved.get())
        } else if source.stall.borrow().timer.is_some() {
            Progress::AwaitsClient
        } else {
            Progress::AwaitsUpstream(source.moved.get())
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.source.as_ref().map_or(0, |source| source.bytes.get())
    }
}

impl Source {
    fn fail(&self, refusal: Refusal, broken: Broken) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.failure.set(Some(refusal));
        self.kept.take();
        Poll::Ready(Some(Err(broken)))
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut incoming = self.incoming.borrow_mut();
        let polled = Pin::new(&mut *incoming).poll_frame(context);
        if polled.is_ready() {
            self.is_touched.set(true);
            self.moved.set(Instant::now());
            self.stall.borrow_mut().timer.take();
        }
        match polled {
            Poll::Pending => match self.stall.borrow_mut().poll(context) {
                Poll::Ready(()) => self.fail(STALLED, Broken::Stalled),
                Poll::Pending => Poll::Pending,
            },
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(source))) => self.fail(blame(&source), Broken::Cut(source)),
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.bytes.set(self.bytes.get() + length);
                if self.bytes.get() > self.bytes_max {
                    return self.fail(TOO_LARGE, Broken::TooLarge);
                }
                if incoming.is_end_stream() || frame.is_trailers() {
                    self.end();
                }
                self.keep(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        let mut kept = self.kept.borrow_mut();
        // Trailers are not kept: a body with them is sent once.
        *kept = kept.take().zip(frame.data_ref()).and_then(|(mut kept, data)| {
            kept.extend_from_slice(data);
            (kept.len() <= KEPT_BYTES_MAX).then_some(kept)
        });
    }

    /// What another handle has read beyond this position.
    fn kept_after(&self, position: usize) -> Option<Bytes> {
        let kept = self.kept.borrow();
        let rest = kept.as_deref()?.get(position..)?;
        (!rest.is_empty()).then(|| Bytes::copy_from_slice(rest))
    }

    fn kept_left(&self, position: usize) -> usize {
        self.kept.borrow().as_ref().map_or(0, |kept| kept.len().saturating_sub(position))
    }

    fn end(&self) {
        self.is_ended.set(true);
        self.activity.body_ended();
    }
}

const STALLED: Refusal = Refusal::new(Reason::RequestTimeout, "The body stopped coming.");
const TOO_LARGE: Refusal = Refusal::new(Reason::BodyTooLarge, "The body is larger than this listener takes.");
const MALFORMED: Refusal = Refusal::new(Reason::BadRequest, "The chunks of the body are malformed.");
const INCOMPLETE: Refusal = Refusal::new(Reason::BadRequest, "The body ended before its announced length.");
const GONE: Refusal = Refusal::new(Reason::ClientClosed, "The client went away.");

/// Tells chunks that break the rules (RFC 9112 §7.1) and a body whose client has ended its half too early (RFC 9112 §8)
/// from a connection that broke.
fn blame(error: &hyper::Error) -> Refusal {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => MALFORMED,
                io::ErrorKind::UnexpectedEof => INCOMPLETE,
                _ => GONE,
            };
        }
        source = cause.source();
    }
    GONE
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(source) = &self.source else { return Poll::Ready(None) };
        let polled = match source.kept_after(self.position) {
            Some(kept) => Poll::Ready(Some(Ok(Frame::data(kept)))),
            None => source.poll(context),
        };
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.position += frame.data_ref().map_or(0, Bytes::len);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let is_end =
            |source: &Rc<Source>| source.kept_left(self.position) == 0 && source.incoming.borrow().is_end_stream();
        self.source.as_ref().is_none_or(is_end)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(source) = &self.source else { return SizeHint::with_exact(0) };
        let (rest, kept) = (source.incoming.borrow().size_hint(), source.kept_left(self.position) as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

/// The body of an answer, with everything that must end when it does: the record, and the lease of the connection.
#[derive(Debug)]
pub(crate) struct Reply {
    content: Content,
    record: Option<Box<Record>>,
    activity: Arc<Activity>,
    silence: Stall,
}

#[derive(Debug)]
enum Content {
    /// Made here.
    Own(Bytes),
    Upstream(Incoming, Option<Lease>),
}

impl Reply {
    pub(crate) fn own(content: Bytes, record: Box<Record>, activity: Arc<Activity>) -> Self {
        Self { content: Content::Own(content), record: Some(record), activity, silence: Stall::new(Duration::MAX) }
    }

    /// An answer whose record somebody else finishes.
    pub(crate) fn unrecorded(activity: Arc<Activity>) -> Self {
        Self { content: Content::Own(Bytes::new()), record: None, activity, silence: Stall::new(Duration::MAX) }
    }

    /// The answer of a service, which may be silent for as long as `silence` in the middle of it.
    pub(crate) fn upstream(
        incoming: Incoming,
        lease: Lease,
        record: Box<Record>,
        activity: Arc<Activity>,
        silence: Duration,
    ) -> Self {
        let content = Content::Upstream(incoming, Some(lease));
        Self { content, record: Some(record), activity, silence: Stall::new(silence) }
    }

    fn count(&mut self, data: Option<&Bytes>) {
        if let (Some(record), Some(data)) = (&mut self.record, data) {
            record.bytes_out += data.len() as u64;
        }
    }

    /// The upstream has said all it had to: its connection may serve the next request.
    fn complete(&mut self) {
        if let Content::Upstream(_, lease) = &mut self.content
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
        if let Some(mut record) = self.record.take() {
            record.is_complete = true;
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let incoming = match &mut self.content {
            Content::Own(content) if content.is_empty() => return Poll::Ready(None),
            Content::Own(content) => {
                let content = std::mem::take(content);
                self.count(Some(&content));
                return Poll::Ready(Some(Ok(Frame::data(content))));
            }
            Content::Upstream(incoming, _) => incoming,
        };
        let polled = Pin::new(incoming).poll_frame(context);
        if polled.is_ready() {
            self.silence.timer.take();
        }
        match polled {
            Poll::Pending => match self.silence.poll(context) {
                Poll::Ready(()) => {
                    if let Some(record) = &mut self.record {
                        record.reason = Some(Reason::UpstreamTimeout);
                    }
                    Poll::Ready(Some(Err(Broken::Silent)))
                }
                Poll::Pending => Poll::Pending,
            },
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.count(frame.data_ref());
                // Nobody asks again after the last frame of a body of known length.
                if self.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(source))) => {
                if let Some(record) = &mut self.record {
                    let upload = record.upload.failure().map(|refusal| refusal.reason);
                    record.reason = upload.or(Some(Reason::UpstreamBroken));
                }
                Poll::Ready(Some(Err(Broken::Cut(source))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(content) => content.is_empty(),
            Content::Upstream(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(content) => SizeHint::with_exact(content.len() as u64),
            Content::Upstream(incoming, _) => incoming.size_hint(),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // The answer to a HEAD, a 204 and a 304 are dropped without being asked for anything.
        if matches!(self.content, Content::Own(_)) || self.is_end_stream() {
            self.complete();
        }
        self.activity.answered();
    }
}
