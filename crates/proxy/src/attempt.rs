//! One try of a request, over both sockets: faults that are set for it, a connection, the request, the head of the answer;
//! and what becomes of an answer that another try is to replace. Whether there is one is decided in `tries`.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::endpoint::Endpoint;
use crate::exchange::Exchange;
use crate::headers;
use crate::http1::chunk::Malformed;
use crate::http1::framing;
use crate::http1::parse::{self, Parsed, Unfit};
use crate::http1::pipe::{Cut, Sink, Waits};
use crate::limit::Limit;
use crate::message::{Length, Version};
use crate::reason::{Reason, Refusal};
use crate::retry::{Failure, Unsent};
use crate::stock::Slate;
use crate::story::Event;
use crate::switches::{self, Effect, FaultTarget, Throttle};
use crate::timers::Moment;
use crate::tries::no_endpoint;
use crate::upstream::{Line, Trust};

// Limit: what is read of an answer that nobody wants, and for how long, to keep its connection. Beyond either, closing
// it is cheaper.
const UNWANTED_BYTES_MAX: u64 = 64 * 1024;
const UNWANTED_TIMEOUT: Duration = Duration::from_millis(100);

// Limit: what is read of a client while it waits for its answer. With more behind its request, its leaving is noticed
// only when the answer is written.
const AHEAD_BYTES_MAX: usize = 4096;

// Limit: how long an answer may be silent after the client has ended its half, until we look whether it is still there.
const PARTING: Duration = Duration::from_millis(500);

/// Why an attempt gave no response.
pub(crate) enum Fault {
    Failed(Failure),
    /// The whole request is over.
    Over(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Over(refusal)
    }
}

impl Exchange<'_> {
    /// One try: over the connections that wait, as long as these turn out to be closed, then over a new one.
    pub(crate) async fn attempt(&mut self) -> Result<(), Fault> {
        let Some(endpoint) = self.occupied.as_ref().map(|occupied| Arc::clone(occupied.endpoint())) else {
            return Err(no_endpoint().into());
        };
        self.record.attempts += 1;
        self.record.instance = Some(endpoint.instance);
        self.record.upstream = None;
        // A fault of the try before was that one's.
        self.bandwidth = None;
        let began = self.now();
        self.meet_faults(&endpoint, began).await?;
        loop {
            let trust = if self.is_repeatable { Trust::Reactor } else { Trust::Nobody };
            let waiting = self.client.core.pool.take(endpoint.id, trust);
            let is_reused = waiting.is_some();
            let line = match waiting {
                Some(line) => line,
                None => self.connect(&endpoint).await?,
            };
            self.begin(line)?;
            let sent = self.now();
            match poll_fn(|context| self.poll_response(context, began)).await {
                Ok(()) => {
                    self.record.upstream = Some(self.now().since(sent));
                    return Ok(());
                }
                Err(Fault::Failed(Failure::Unsent(_))) if is_reused => self.line = None,
                Err(fault) => {
                    self.line = None;
                    return Err(fault);
                }
            }
        }
    }

    /// What somebody has set to go wrong.
    async fn meet_faults(&mut self, endpoint: &Endpoint, began: Moment) -> Result<(), Fault> {
        let view = Rc::clone(&self.view);
        for fault in &view.current.switches.faults {
            if !self.is_met(fault, endpoint.instance) {
                continue;
            }
            self.note(Event::Fault { id: fault.id, effect: fault.effect });
            match fault.effect {
                Effect::Delay(time) => {
                    let end = self.try_end(began);
                    let now = self.now();
                    self.pause(time.min(end.since(now))).await?;
                    if end <= self.now() {
                        return Err(Fault::Failed(Failure::TimedOut));
                    }
                }
                Effect::Abort(status) => return Err(Fault::Failed(Failure::Fault(status))),
                Effect::Drop => return Err(Fault::Failed(Failure::Broken)),
                Effect::Bandwidth(rate) => self.bandwidth = Some(Throttle::of(fault, rate)),
            }
        }
        Ok(())
    }

    fn is_met(&self, fault: &switches::Fault, tried: u32) -> bool {
        let is_over = || fault.is_over(self.client.core.timers.clock.unix());
        let is_target = match &fault.target {
            // Who answers instead is another edge's matter.
            FaultTarget::Subject(subject) => {
                !self.is_fallback && self.guard().is_some_and(|guard| guard.subject == *subject)
            }
            FaultTarget::Service { service, instance } => {
                self.service() == Some(service) && instance.is_none_or(|instance| instance == tried)
            }
        };
        is_target && !is_over() && fastrand::f64() < fault.share.part()
    }

    /// When a try that began then has had its time; never while the client is waited for.
    fn try_end(&self, began: Moment) -> Moment {
        let policy = self.retry_policy();
        match policy.try_timeout.filter(|_| policy.is_on()) {
            Some(timeout) if self.slate.upload.has_ended() => began.max(self.slate.upload.ended).after(timeout),
            _ => Moment::NEVER,
        }
    }

    async fn connect(&mut self, endpoint: &Endpoint) -> Result<Line, Fault> {
        let mut connecting = Box::pin(TcpStream::connect(endpoint.address));
        let own = self.route().and_then(|route| route.policy.connect_timeout);
        let deadline = self.now().after(own.unwrap_or(self.client.core.limits.connect_timeout));
        let connected = poll_fn(|context| {
            if let Poll::Ready(connected) = connecting.as_mut().poll(context) {
                return Poll::Ready(Ok(Some(connected)));
            }
            if self.now() >= deadline {
                self.client.core.counts.reach(own.is_none().then_some(Limit::ConnectTimeout));
                return Poll::Ready(Ok(None));
            }
            self.poll_bounds(context, deadline).map(Err)
        });
        let connected = connected.await?;
        let why = match &connected {
            Some(Ok(_)) => {
                endpoint.welcomed();
                Unsent::Own
            }
            Some(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                endpoint.refused(self.now());
                Unsent::Refused
            }
            Some(Err(error)) if is_own(error) => Unsent::Own,
            Some(Err(_)) => Unsent::Other,
            None => {
                endpoint.refused(self.now());
                Unsent::TimedOut
            }
        };
        let line = connected.and_then(|connected| self.client.core.pool.welcome(connected.ok()?).ok());
        line.ok_or(Fault::Failed(Failure::Unsent(why)))
    }

    /// Makes everything ready for this connection.
    fn begin(&mut self, line: Line) -> Result<(), Refusal> {
        let left = self.patience.left(&self.slate.upload, self.now());
        self.line = Some(line);
        self.is_refused = false;
        self.answer.clear();
        let is_edge = self.is_edge();
        let Some(route) = self.view.table.as_deref().and_then(|table| Some(&table.rules.get(self.rule?)?.route)) else {
            return Err(no_endpoint());
        };
        let Slate { inbound, request, upload, .. } = &mut *self.slate;
        let sink = if request.content == Length::Chunked { Sink::Chunked } else { Sink::Plain };
        let out = upload.begin_again(sink);
        let is_written = headers::write_request(
            out,
            &headers::Request {
                head: crate::message::Head { bytes: inbound, request },
                origin: self.client.origin(),
                is_edge,
                identity: &self.identity,
                filters: &route.filters,
                matched: self.matched,
                is_upgrade: self.is_upgrade,
                left,
            },
        );
        if !is_written {
            return Err(Refusal::new(Reason::UriTooLong, "The request target is too long."));
        }
        if std::mem::take(&mut self.is_expected) && inbound.len() == upload.rest() {
            self.interim.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        Ok(())
    }

    /// Goes on with everything until the head of a final response is there. `began` is when the try did.
    fn poll_response(&mut self, context: &mut Context<'_>, began: Moment) -> Poll<Result<(), Fault>> {
        self.poll_interim(context)?;
        self.poll_upload(context)?;
        if self.is_refused && !self.slate.upload.has_sent() {
            return Poll::Ready(Err(Fault::Failed(Failure::Unsent(Unsent::Other))));
        }
        if let Poll::Ready(head) = self.poll_head(context) {
            return Poll::Ready(head.map_err(Fault::Failed));
        }
        let end = self.try_end(began);
        if end <= self.now() && self.patience.end(&self.slate.upload) > self.now() {
            return Poll::Ready(Err(Fault::Failed(Failure::TimedOut)));
        }
        self.poll_bounds(context, end).map(|refusal| Err(refusal.into()))
    }

    /// What bounds every wait for a response: the client, who may leave or stall, and the time. `deadline` is the wait's
    /// own.
    pub(crate) fn poll_bounds(&mut self, context: &mut Context<'_>, deadline: Moment) -> Poll<Refusal> {
        if let Err(refusal) = self.watch(context) {
            return Poll::Ready(refusal);
        }
        let now = self.now();
        if let Err(refusal) = self.patience.check(&self.slate.upload, now).and_then(|()| self.check_upload(now)) {
            return Poll::Ready(refusal);
        }
        let end = self.patience.end(&self.slate.upload).min(self.upload_end()).min(self.parting_end());
        self.client.timer.set(end.min(deadline));
        Poll::Pending
    }

    /// Writes interim responses to the client.
    fn poll_interim(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        while !self.interim.is_empty() {
            match Pin::new(&mut self.client.stream).poll_write(context, &self.interim) {
                Poll::Ready(Ok(count @ 1..)) => drop(self.interim.drain(..count)),
                Poll::Ready(_) => return Err(GONE),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Sends of the request what can be sent.
    pub(crate) fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        let Some(line) = &mut self.line else { return Ok(()) };
        let Slate { inbound, upload, .. } = &mut *self.slate;
        if self.is_refused || upload.is_done() {
            return Ok(());
        }
        let core = &self.client.core;
        let sockets = (&mut self.client.stream, &mut line.stream);
        match upload.poll(context, core.timers.clock.now(), sockets, inbound, &core.stock) {
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
            Poll::Ready(Err(cut)) => match cut {
                // A service that refuses an upload (401, 413) answers and closes while the upload still flows, and what
                // it said is there to be read. The upload stands still; the read side tells how the exchange ends.
                Cut::SinkLost => {
                    self.is_refused = true;
                    Ok(())
                }
                Cut::Incomplete => {
                    self.client.has_ended = true;
                    Err(unfit(&cut))
                }
                cut => Err(unfit(&cut)),
            },
        }
    }

    /// Reads the head of the final response, and passes interim ones on.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            while !self.answer.is_empty() {
                match self.take_head()? {
                    Parsed::Complete if self.slate.response.status >= 200 || self.slate.response.status == 101 => {
                        return Poll::Ready(Ok(()));
                    }
                    Parsed::Complete => self.pass_interim()?,
                    Parsed::Partial => break,
                }
            }
            // Who does not take them gets no more.
            if self.poll_interim(context).is_ok() && !self.interim.is_empty() {
                return Poll::Pending;
            }
            let Some(line) = &mut self.line else { return Poll::Ready(Err(Failure::Broken)) };
            if self.answer.capacity() == 0 {
                match line.stream.poll_read_ready(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(_) => self.answer = self.client.core.stock.buffer(),
                }
            }
            match poll_read_buf(Pin::new(&mut line.stream), context, &mut self.answer) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => {
                    let is_silent = self.answer.is_empty() && self.interims == 0;
                    let broken = if line.is_reused && is_silent { Failure::BrokenReused } else { Failure::Broken };
                    return Poll::Ready(Err(broken));
                }
                Poll::Pending => {
                    if self.answer.is_empty() {
                        self.client.core.stock.give_buffer(&mut self.answer);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn take_head(&mut self) -> Result<Parsed, Failure> {
        let Slate { request, response, .. } = &mut *self.slate;
        match parse::response(&self.answer, &self.client.core.limits, response) {
            Ok(Parsed::Partial) => Ok(Parsed::Partial),
            Err(Unfit::Beyond(limit)) => {
                self.client.core.counts.reach(limit);
                Err(Failure::HeadTooLarge)
            }
            // A change of protocol that nobody asked for is no answer.
            Ok(Parsed::Complete) if response.status == 101 && !self.is_upgrade => Err(Failure::Invalid),
            Ok(Parsed::Complete) if framing::check_response(response, &self.answer, &request.method) => {
                Ok(Parsed::Complete)
            }
            _ => Err(Failure::Invalid),
        }
    }

    /// RFC 9110 §15.2: all are for the client, but for those that we have asked for, or that it cannot understand.
    fn pass_interim(&mut self) -> Result<(), Failure> {
        let Slate { request, response, .. } = &mut *self.slate;
        self.interims += 1;
        let core = &self.client.core;
        if self.interims > core.limits.interim_responses_max {
            core.counts.reach(Limit::InterimResponses);
            return Err(Failure::Invalid);
        }
        if request.version >= Version::Http11 && response.status != 100 {
            headers::write_interim(&mut self.interim, response, &self.answer);
        }
        self.answer.drain(..response.length);
        Ok(())
    }

    /// Looks whether a client that waits for its answer is still there. A reset says that it is not; the end of its half
    /// does not ([`crate::exchange::Parting`]). So an answer that is awaited for a client that is gone ends by the
    /// timeout of its route at the latest, and no drain waits for it. Answers without a known length may be quiet for
    /// hours: there an end that is followed by silence is taken for a goodbye.
    ///
    /// What it sends is read ahead, because an end behind unread bytes is not seen.
    pub(crate) fn watch(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        let now = self.now();
        let Slate { inbound, upload, .. } = &mut *self.slate;
        while upload.has_ended() && !self.client.has_ended && inbound.len() - upload.rest() < AHEAD_BYTES_MAX {
            if self.client.stream.poll_read_ready(context).is_pending() {
                break;
            }
            match poll_read_buf(Pin::new(&mut self.client.stream), context, inbound) {
                Poll::Ready(Ok(0)) => {
                    self.client.has_ended = true;
                    self.parting.since = Some(now);
                    if let Some(occupied) = &mut self.occupied {
                        occupied.become_endless();
                    }
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Err(GONE),
                Poll::Pending => break,
            }
        }
        if self.parting_end() <= now {
            let is_reset = self
                .client
                .stream
                .try_read(&mut [0])
                .is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock);
            if is_reset || !self.parting.is_tested {
                return Err(GONE);
            }
            // What was written to it was not replied to with a reset: it waits.
            self.parting.since = None;
        }
        Ok(())
    }

    /// When a client that ended its half should have shown that it is still there. One that never gets anything written
    /// is missed only where the answer could go on for ever.
    pub(crate) fn parting_end(&self) -> Moment {
        let is_asked = self.parting.is_tested || self.is_open_ended;
        let is_blocked = matches!(self.slate.download.waits, Waits::Sink(_));
        match self.parting.since {
            Some(since) if is_asked && !is_blocked => since.after(PARTING),
            _ => Moment::NEVER,
        }
    }

    /// When a client that sends its body has had its time.
    pub(crate) fn upload_end(&self) -> Moment {
        let (limits, upload) = (&self.client.core.limits, &self.slate.upload);
        if upload.has_ended() {
            return Moment::NEVER;
        }
        let whole = self.record.began.after(limits.body_timeout);
        match upload.waits {
            Waits::Source(since) => whole.min(since.after(limits.idle_timeout)),
            _ => whole,
        }
    }

    pub(crate) fn check_upload(&self, now: Moment) -> Result<(), Refusal> {
        if self.upload_end() > now {
            return Ok(());
        }
        let whole = self.record.began.after(self.client.core.limits.body_timeout);
        Err(STALLED.by(if whole <= now { Limit::RequestBodyTimeout } else { Limit::IdleTimeout }))
    }

    /// Waits between two tries.
    pub(crate) async fn pause(&mut self, pause: Duration) -> Result<(), Refusal> {
        let end = self.now().after(pause);
        poll_fn(|context| {
            if self.now() >= end {
                return Poll::Ready(Ok(()));
            }
            self.poll_bounds(context, end).map(Err)
        })
        .await
    }

    /// Lets go of an answer that another try replaces: its connection is kept if the rest comes at once and is short.
    pub(crate) async fn discard(&mut self) {
        let (Some(mut line), Some(occupied)) = (self.line.take(), self.occupied.take()) else { return };
        let (now, deadline) = (self.now(), self.now().after(UNWANTED_TIMEOUT));
        let Slate { upload, download, response, .. } = &mut *self.slate;
        // A connection that still takes the body would take it from the next try.
        if !upload.is_done() || !response.keeps_alive {
            return;
        }
        download.begin(response.content, 0, response.length, UNWANTED_BYTES_MAX, now);
        let core = &self.client.core;
        let is_read = poll_fn(|context| {
            let polled = download.poll_drain(context, &mut line.stream, &mut self.answer, &core.stock);
            if polled.is_pending() && core.timers.clock.now() < deadline {
                self.client.timer.set(deadline);
                return Poll::Pending;
            }
            Poll::Ready(matches!(polled, Poll::Ready(Ok(()))))
        });
        if is_read.await && download.rest() == self.answer.len() {
            core.pool.put(occupied.endpoint(), line);
        }
    }
}

/// Whether a connection failed for what this process lacks.
fn is_own(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| lacks.contains(&errno))
}

const STALLED: Refusal = Refusal::new(Reason::RequestTimeout, "The body stopped coming.");
const INCOMPLETE: Refusal = Refusal::new(Reason::BadRequest, "The body ended before its announced length.");
const GONE: Refusal = Refusal::new(Reason::ClientClosed, "The client went away.");

/// What is wrong with a request whose content cannot be read.
pub(crate) fn unfit(cut: &Cut) -> Refusal {
    match cut {
        Cut::Malformed(flaw) => malformed(*flaw),
        Cut::TooLarge => framing::TOO_LARGE,
        Cut::Incomplete => INCOMPLETE,
        Cut::SourceLost | Cut::SinkLost => GONE,
    }
}

fn malformed(flaw: Malformed) -> Refusal {
    let detail = match flaw {
        Malformed::Syntax => "The chunks of the body are malformed.",
        Malformed::Beyond(_) => "The chunks of the body have more extensions or trailers than this listener takes.",
    };
    Refusal::new(Reason::BadRequest, detail).with_limit(flaw.limit())
}

pub(crate) fn refused(failure: Failure) -> Refusal {
    let detail = match failure {
        Failure::Unsent(_) => "No instance of the service could be connected to.",
        Failure::Broken | Failure::BrokenReused => "The service broke the connection before it answered.",
        Failure::TimedOut => "The service did not answer in the time of one try.",
        Failure::Invalid => "The service gave an answer that is no HTTP response.",
        Failure::HeadTooLarge => "The head of the service's answer is larger than allowed, or has too many fields.",
        Failure::Fault(_) => "A fault that was set for a drill.",
    };
    let refusal = Refusal::new(failure.reason(), detail);
    match failure {
        Failure::Fault(status) => {
            http::StatusCode::from_u16(status).map_or(refusal, |status| refusal.with_status(status))
        }
        _ => refusal,
    }
}
