//! A service's answer on its way to the client, while the request's body may still flow the other way; and what becomes of
//! both connections when it has ended.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWrite;

use crate::attempt::refused;
use crate::exchange::{Exchange, Fate};
use crate::headers::{self, Persistence};
use crate::http1::chunk::Malformed;
use crate::http1::pipe::{Cut, Sink, Waits};
use crate::limit::Limit;
use crate::message::{Length, Version};
use crate::reason::{Reason, Refusal};
use crate::retry::Failure;
use crate::sockets;
use crate::stock::Slate;
use crate::timers::Moment;
use crate::tunnel;
use crate::upstream::Line;

// Limit: how long the rest of a request's body may take that a service has answered already.
const REST_MAX: Duration = Duration::from_secs(2);

/// How often an answer that a fault holds back is given a little more.
const HELD_BACK: Duration = Duration::from_millis(20);

/// An answer broke.
enum Broken {
    /// Nothing more can be said to the client.
    Underway,
    /// Nothing of it was said yet.
    Unsaid(Failure),
}

/// The time of an answer on its way is over.
struct Expired {
    /// Of the listener, if it is one of its limits.
    limit: Option<Limit>,
    /// `None`: the client's fault.
    reason: Option<Reason>,
}

impl Exchange<'_> {
    /// Passes the service's answer on.
    pub(crate) async fn pass_on(mut self) -> Fate {
        let persistence = self.begin_answer();
        if self.slate.response.status == 101 {
            tunnel::run(&mut self).await;
            return Fate::Gone;
        }
        match poll_fn(|context| self.poll_answer(context)).await {
            Ok(()) => {}
            Err(Broken::Unsaid(failure)) => return self.refuse(&refused(failure)).await,
            Err(Broken::Underway) => {
                if self.is_open_ended && self.slate.request.version < Version::Http11 {
                    // Where only the end of the connection ends the content, an orderly one would call it whole.
                    let _ = SockRef::from(&self.client.stream).set_linger(Some(Duration::ZERO));
                }
                return Fate::Gone;
            }
        }
        self.record.completed = Some(self.now());
        if persistence != Persistence::Closed && !self.slate.upload.has_ended() && !self.is_refused {
            self.finish_upload().await;
        }
        self.give_back();
        self.fate(persistence != Persistence::Closed)
    }

    /// Writes the head that the client is to see.
    fn begin_answer(&mut self) -> Persistence {
        let now = self.now();
        let Slate { request, response, download, .. } = &mut *self.slate;
        self.record.status = response.status;
        self.is_open_ended = matches!(response.content, Length::UntilClose | Length::Chunked);
        if response.content != Length::None && self.answer.len() == response.length {
            // Many servers write head and content apart, and hold the second until the first is acknowledged (RFC 896).
            // The kernel would wait some 40 ms with that (RFC 1122 §4.2.3.2).
            self.line.iter().for_each(Line::acknowledge);
        }
        let is_chunked = self.is_open_ended && request.version >= Version::Http11;
        // A client of 1.0 knows no chunks: only the end of the connection ends the content (RFC 9112 §6.3).
        let is_usable = is_chunked || !self.is_open_ended;
        if response.status == 101 || headers::is_event_stream(&response.fields, &self.answer) {
            // It has no end of its own: nobody who drains the endpoint waits for it.
            if let Some(occupied) = &mut self.occupied {
                occupied.become_endless();
            }
            self.is_endless = true;
            self.client.core.counts.endless.add(1);
        }
        download.begin(response.content, 0, response.length, u64::MAX, now);
        let persistence = self.persistence(is_usable);
        let date = self.client.core.date();
        let filters = self.view.table.as_deref().zip(self.rule).map(|(table, rule)| &table.rules[rule].route.filters);
        let Slate { inbound, request, response, download, marks, .. } = &mut *self.slate;
        let out = download.begin_again(if is_chunked { Sink::Chunked } else { Sink::Plain });
        out.append(&mut self.interim);
        let answer = headers::Answer {
            client: request.version,
            is_chunked,
            persistence: if response.status == 101 { Persistence::Kept } else { persistence },
            request_id: self.identity.request_id.get(inbound),
            date: &date,
            marks,
        };
        if let Some(filters) = filters {
            headers::write_response(out, response, &self.answer, filters, &answer);
        }
        persistence
    }

    /// Goes on with both directions until the answer has ended.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let now = self.now();
        if let Err(refusal) = self.poll_upload(context) {
            return Poll::Ready(Err(self.breaks_off(refusal)));
        }
        let Some(line) = &mut self.line else { return Poll::Ready(Err(Broken::Underway)) };
        let core = &self.client.core;
        let download = &mut self.slate.download;
        if let Some(throttle) = self.bandwidth {
            // Not those of the request's snapshot: a fault may be cleared while its answer runs.
            if throttle.is_on(&core.shared.current.load().switches, core.timers.clock.unix()) {
                let elapsed = now.since(self.record.began).as_secs_f64();
                download.quota = (elapsed * throttle.rate as f64) as u64;
            } else {
                (self.bandwidth, download.quota) = (None, u64::MAX);
            }
        }
        let sockets = (&mut line.stream, &mut self.client.stream);
        let polled = download.poll(context, now, sockets, &mut self.answer, &core.stock);
        self.record.bytes_out = download.bytes;
        match polled {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(Cut::SinkLost)) => return Poll::Ready(Err(Broken::Underway)),
            Poll::Ready(Err(cut)) => {
                let flaw = if let Cut::Malformed(flaw) = cut { Some(flaw) } else { None };
                core.counts.reach(flaw.and_then(Malformed::limit));
                if !download.has_sent() {
                    let failure = if flaw.is_some() { Failure::Invalid } else { Failure::Broken };
                    return Poll::Ready(Err(Broken::Unsaid(failure)));
                }
                self.record.reason = Some(Reason::UpstreamBroken);
                return Poll::Ready(Err(Broken::Underway));
            }
            Poll::Pending => {}
        }
        if self.client.has_ended && download.has_sent() && download.moved == now {
            self.parting.is_tested = true;
            self.parting.since = Some(now);
        }
        let waits = download.waits;
        if self.answer.is_empty() {
            self.client.core.stock.give_buffer(&mut self.answer);
        }
        self.wait(context, waits)
    }

    /// The client spoils an answer on its way.
    fn breaks_off(&mut self, refusal: Refusal) -> Broken {
        self.client.core.counts.reach(refusal.limit);
        self.record.reason = Some(refusal.reason);
        Broken::Underway
    }

    /// What bounds an answer on its way.
    fn wait(&mut self, context: &mut Context<'_>, waits: Waits) -> Poll<Result<(), Broken>> {
        let now = self.now();
        let end = match self.answer_end(now, waits) {
            Ok(end) => end,
            Err(Expired { limit, reason }) => {
                self.client.core.counts.reach(limit);
                self.record.reason = reason;
                if reason.is_none() {
                    // What the kernel still has for a client that does not take it would stay for minutes.
                    let _ = SockRef::from(&self.client.stream).set_linger(Some(Duration::ZERO));
                }
                return Poll::Ready(Err(Broken::Underway));
            }
        };
        if let Err(refusal) = self.watch(context).and_then(|()| self.check_upload(now)) {
            return Poll::Ready(Err(self.breaks_off(refusal)));
        }
        self.client.timer.set(end.min(self.upload_end()).min(self.parting_end()));
        Poll::Pending
    }

    /// When whoever is waited for has had its time.
    fn answer_end(&mut self, now: Moment, waits: Waits) -> Result<Moment, Expired> {
        let limits = &self.client.core.limits;
        let policy = self.route().map(|route| &route.policy);
        let idle = policy.and_then(|policy| policy.idle_timeout);
        let total = policy.and_then(|policy| policy.total_timeout).filter(|_| !self.is_endless);
        let whole = total.map_or(Moment::NEVER, |total| self.record.began.after(total));
        let late = |limit| Expired { limit, reason: Some(Reason::UpstreamTimeout) };
        if whole <= now {
            return Err(late(None));
        }
        let end = match waits {
            Waits::Source(since) => {
                self.pace.leave(since);
                let end = since.after(idle.unwrap_or(limits.upstream_body_timeout));
                if end <= now {
                    return Err(late(idle.is_none().then_some(Limit::ResponseIdleTimeout)));
                }
                end
            }
            Waits::Sink(since) => {
                let (sent, stream) = (self.slate.download.sent, &self.client.stream);
                let taken = || sent.cast_signed() - sockets::unacknowledged(stream);
                let slow = |limit| Expired { limit: Some(limit), reason: None };
                self.pace.check(since, now, limits, taken).map_err(slow)?
            }
            // Only a fault holds an answer back.
            Waits::Nobody => {
                self.pace.leave(now);
                if self.bandwidth.is_some() { now.after(HELD_BACK) } else { Moment::NEVER }
            }
        };
        Ok(end.min(whole))
    }

    /// The service answered before it had everything: what is on its way may still arrive, so that both connections serve
    /// on.
    async fn finish_upload(&mut self) {
        let end = self.now().after(REST_MAX);
        poll_fn(|context| {
            let polled = self.poll_upload(context);
            self.client.core.counts.reach(polled.err().and_then(|refusal| refusal.limit));
            let is_over = polled.is_err() || self.is_refused || self.slate.upload.is_done();
            if is_over || self.now() >= end || !self.slate.response.keeps_alive {
                return Poll::Ready(());
            }
            self.client.timer.set(end);
            Poll::Pending
        })
        .await;
    }

    /// Keeps the service's connection for the next request, if nothing is left on it of this one.
    fn give_back(&mut self) {
        let (Some(line), Some(occupied)) = (self.line.take(), self.occupied.take()) else { return };
        let Slate { upload, download, response, .. } = &*self.slate;
        // What is behind a response was not asked for: it would be taken for the next one (RFC 9112 §9.2).
        let is_clean = download.rest() == self.answer.len() || self.answer.is_empty();
        if response.keeps_alive && is_clean && upload.is_done() && !self.is_refused {
            self.client.core.pool.put(occupied.endpoint(), line);
        }
    }

    /// Writes an answer of our own.
    pub(crate) fn poll_own(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = self.now();
        let end = self.client.core.limits.idle_timeout;
        let download = &mut self.slate.download;
        match download.poll_lead(context, now, &mut self.client.stream) {
            Poll::Pending => {}
            ready => return ready,
        }
        let Waits::Sink(since) = download.waits else { return Poll::Pending };
        if since.after(end) <= now {
            self.client.core.counts.reach(Limit::IdleTimeout);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.client.timer.set(since.after(end));
        Poll::Pending
    }
}

/// Ends our half of a socket.
pub(crate) fn poll_end(stream: &mut tokio::net::TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
    ready!(Pin::new(stream).poll_shutdown(context))?;
    Poll::Ready(Ok(()))
}
