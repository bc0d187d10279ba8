//! The tries of one request: who gets it, what goes wrong with it, what becomes of an answer that another try is to
//! replace. Whether there is another is `retry`'s to decide.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::balance::{Endpoint, Occupied};
use crate::exchange::Exchange;
use crate::handle::Current;
use crate::headers;
use crate::http1::framing;
use crate::http1::parse::{self, Parsed, Unfit};
use crate::http1::pipe::{Cut, Sink, Waits};
use crate::message::{Length, Version};
use crate::reason::{Reason, Refusal};
use crate::retry::{self, Failure, Next, Outcome};
use crate::stock::Slate;
use crate::timers::Moment;
use crate::upstream::{Line, Trust};

// Limit: what is read of an answer that nobody wants, and for how long, to keep its connection. Beyond either, closing
// it is cheaper.
const UNWANTED_BYTES_MAX: u64 = 64 * 1024;
const UNWANTED_TIMEOUT: Duration = Duration::from_millis(100);

// Limit: interim responses before the final one.
const INTERIMS_MAX: u32 = 32;

// Limit: what is read of a client while it waits for its answer. With more behind its request, its leaving is noticed
// only when the answer is written.
const AHEAD_BYTES_MAX: usize = 4096;

// Limit: how long an answer may be silent after the client has ended its half, until we look whether it is still there.
const PARTING: Duration = Duration::from_millis(500);

/// Why an attempt gave no response.
enum Fault {
    Failed(Failure),
    /// The whole request is over.
    Over(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Over(refusal)
    }
}

/// Who may get the request next.
struct Candidates {
    current: Option<Arc<Current>>,
    /// In order.
    tried: Vec<u64>,
    /// Taken when there is nobody else.
    again: Option<Occupied>,
    /// Whether those who were tried may be once more.
    may_repeat: bool,
}

impl Exchange<'_> {
    /// Sends the request to one endpoint after another, as long as that is safe and wanted, until the head of a response
    /// is there. Its connection is then in `line`, and what was read in `answer`.
    pub(crate) async fn attempts(&mut self, is_repeatable: bool) -> Result<(), Refusal> {
        let target = self.route().and_then(|route| route.backend(fastrand::f64));
        let slot = target.ok_or_else(no_endpoint)?.slot;
        self.record.service = Some(slot);
        let mut candidates = Candidates { current: None, tried: Vec::new(), again: None, may_repeat: false };
        if self.policy().is_on()
            && is_repeatable
            && let Some(service) = &self.view.current.slots[slot]
        {
            service.budget.add_request();
        }
        let (mut exchanges, mut failure, mut is_kept) = (0, None, false);
        loop {
            let in_time = self.patience.check(&self.slate.upload, self.now());
            let chosen =
                in_time.and_then(|()| candidates.choose(self).ok_or_else(|| failure.map_or_else(no_endpoint, refused)));
            match (chosen, is_kept) {
                (Ok(occupied), _) => {
                    if is_kept {
                        self.discard().await;
                    }
                    self.occupied = Some(occupied);
                }
                // The client's if no other try comes about.
                (Err(_), true) => return Ok(()),
                (Err(refusal), false) => return Err(refusal),
            }
            let Some(endpoint) = self.occupied.as_ref().map(|occupied| Arc::clone(occupied.endpoint())) else {
                return Err(no_endpoint());
            };
            let outcome = match self.attempt(&endpoint).await {
                Ok(status) => Outcome::Answered(status),
                Err(Fault::Failed(failure)) => Outcome::Failed(failure),
                Err(Fault::Over(refusal)) => return Err(refusal),
            };
            exchanges += u32::from(outcome != Outcome::Failed(Failure::Unsent));
            let mut next =
                retry::next(self.policy(), self.as_tried(is_repeatable, exchanges), outcome, fastrand::f64());
            if matches!(next, Next::After(_)) && !self.takes_from_budget(slot) {
                next = Next::Keep;
            }
            match outcome {
                Outcome::Answered(_) if next == Next::Keep => return Ok(()),
                Outcome::Answered(_) => is_kept = true,
                Outcome::Failed(failed) => {
                    is_kept = false;
                    self.line = None;
                    if next == Next::Keep {
                        return Err(refused(failed));
                    }
                    failure = Some(failed);
                    // It may only have been closed for its idleness: a new connection to the same instance is worth a try.
                    if failed == Failure::BrokenReused {
                        self.client.core.pool.forget(endpoint.id);
                        candidates.again = self.occupied.take();
                    }
                    self.occupied = None;
                }
            }
            candidates.tried.push(endpoint.id);
            if let Next::After(pause) = next {
                candidates.may_repeat = true;
                self.pause(pause).await?;
            }
        }
    }

    fn policy(&self) -> &crate::policy::Retry {
        const NONE: &crate::policy::Retry = &crate::policy::Retry::NONE;
        self.route().map_or(NONE, |route| &route.policy.retry)
    }

    fn as_tried(&self, is_repeatable: bool, exchanges: u32) -> retry::Request {
        let upload = &self.slate.upload;
        retry::Request {
            is_repeatable: is_repeatable && upload.is_whole(),
            exchanges,
            left: self.patience.left(upload, self.now()),
        }
    }

    fn takes_from_budget(&self, slot: usize) -> bool {
        self.view.current.slots[slot].as_ref().is_some_and(|service| service.budget.take())
    }

    /// One try: over the connections that wait, as long as these turn out to be closed, then over a new one.
    async fn attempt(&mut self, endpoint: &Endpoint) -> Result<u16, Fault> {
        self.record.attempts += 1;
        self.record.instance = Some(endpoint.instance);
        self.record.upstream = None;
        loop {
            let trust = match retry::sends_again(self.policy(), self.head().method()) {
                true => Trust::Reactor,
                false => Trust::Nobody,
            };
            let waiting = self.client.core.pool.take(endpoint.id, trust);
            let is_reused = waiting.is_some();
            let line = match waiting {
                Some(line) => line,
                None => self.connect(endpoint).await?,
            };
            self.begin(line)?;
            let began = self.now();
            match poll_fn(|context| self.poll_response(context)).await {
                Ok(()) => {
                    self.record.upstream = Some(self.now().since(began));
                    return Ok(self.slate.response.status);
                }
                Err(Fault::Failed(Failure::Unsent)) if is_reused => self.line = None,
                Err(fault) => {
                    self.line = None;
                    return Err(fault);
                }
            }
        }
    }

    async fn connect(&mut self, endpoint: &Endpoint) -> Result<Line, Fault> {
        let mut connecting = Box::pin(TcpStream::connect(endpoint.address));
        let deadline = self.now().after(self.client.core.limits.connect_timeout);
        let connected = poll_fn(|context| {
            if let Poll::Ready(connected) = connecting.as_mut().poll(context) {
                return Poll::Ready(Ok(Some(connected)));
            }
            if self.now() >= deadline {
                return Poll::Ready(Ok(None));
            }
            self.poll_bounds(context, deadline).map(Err)
        });
        let connected = connected.await?;
        match &connected {
            Some(Ok(_)) => endpoint.welcomed(),
            // What this process lacks (files, ports) says nothing of the endpoint.
            Some(Err(error)) if error.kind() != std::io::ErrorKind::ConnectionRefused => {}
            _ => endpoint.refused(),
        }
        let line = connected.and_then(|connected| self.client.core.pool.welcome(connected.ok()?).ok());
        line.ok_or(Fault::Failed(Failure::Unsent))
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

    /// Goes on with everything until the head of a final response is there.
    fn poll_response(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.poll_interim(context)?;
        self.poll_upload(context)?;
        if self.is_refused && !self.slate.upload.has_sent() {
            return Poll::Ready(Err(Fault::Failed(Failure::Unsent)));
        }
        if let Poll::Ready(head) = self.poll_head(context) {
            return Poll::Ready(head.map_err(Fault::Failed));
        }
        self.poll_bounds(context, Moment::NEVER).map(|refusal| Err(refusal.into()))
    }

    /// What bounds every wait for a response: the client, who may leave or stall, and the time. `deadline` is the wait's
    /// own.
    fn poll_bounds(&mut self, context: &mut Context<'_>, deadline: Moment) -> Poll<Refusal> {
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
                Cut::Malformed => Err(MALFORMED),
                Cut::TooLarge => Err(TOO_LARGE),
                Cut::Incomplete => {
                    self.client.has_ended = true;
                    Err(INCOMPLETE)
                }
                Cut::SourceLost => Err(GONE),
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
            Err(Unfit::TooLarge) => Err(Failure::HeadTooLarge),
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
        if self.interims > INTERIMS_MAX {
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
        if self.upload_end() <= now { Err(STALLED) } else { Ok(()) }
    }

    /// Waits between two tries.
    async fn pause(&mut self, pause: Duration) -> Result<(), Refusal> {
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
    async fn discard(&mut self) {
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

impl Candidates {
    /// Somebody who was not tried; else, where that is allowed, any but the last; else the last.
    fn choose(&mut self, exchange: &Exchange<'_>) -> Option<Occupied> {
        let mut chosen = self.untried(exchange);
        if chosen.is_none() && std::mem::take(&mut self.may_repeat) {
            let last = self.tried.pop();
            self.tried = last.into_iter().collect();
            chosen = self.untried(exchange);
            if chosen.is_none() {
                self.tried.clear();
                chosen = self.untried(exchange);
            }
        }
        chosen.or_else(|| self.again.take())
    }

    /// Picks an endpoint from the snapshot of the request. Where that knows nobody, the one that is served now may.
    fn untried(&mut self, exchange: &Exchange<'_>) -> Option<Occupied> {
        let view = &exchange.view;
        let slot = exchange.record.service?;
        let random = |count| fastrand::usize(..count);
        loop {
            let service = match &self.current {
                None => view.current.slots[slot].as_ref(),
                Some(current) => current.services.get(&*view.current.tables.services[slot]),
            };
            let chosen = service.and_then(|service| service.choose(&self.tried, random));
            if chosen.is_some() {
                return chosen;
            }
            let newest = exchange.client.core.shared.current.load_full();
            if Arc::ptr_eq(&newest, self.current.as_ref().unwrap_or(&view.current)) {
                return None;
            }
            self.current = Some(newest);
        }
    }
}

const STALLED: Refusal = Refusal::new(Reason::RequestTimeout, "The body stopped coming.");
const TOO_LARGE: Refusal = Refusal::new(Reason::BodyTooLarge, "The body is larger than this listener takes.");
const MALFORMED: Refusal = Refusal::new(Reason::BadRequest, "The chunks of the body are malformed.");
const INCOMPLETE: Refusal = Refusal::new(Reason::BadRequest, "The body ended before its announced length.");
const GONE: Refusal = Refusal::new(Reason::ClientClosed, "The client went away.");

pub(crate) fn refused(failure: Failure) -> Refusal {
    let detail = match failure {
        Failure::Unsent => "No instance of the service could be connected to.",
        Failure::Broken | Failure::BrokenReused => "The service broke the connection before it answered.",
        Failure::Invalid => "The service gave an answer that is no HTTP response.",
        Failure::HeadTooLarge => "The head of the service's answer is larger than allowed, or has too many fields.",
    };
    Refusal::new(failure.reason(), detail)
}

/// There is nobody to ask.
fn no_endpoint() -> Refusal {
    Refusal::new(Reason::NoEndpoint, "No instance of the service is ready.")
}
