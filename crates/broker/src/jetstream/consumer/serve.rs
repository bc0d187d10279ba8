//! The serving side of a consumer: what is asked for, what is next, who gets it.

use bytes::Bytes;

use super::config::HEARTBEAT_MIN;
use super::requests::Request;
use super::status::Reply;
use super::{Consumer, Interest, Listens, Mode, Pull, Source, ack};
use crate::jetstream::api::{self, AckPolicy};
use crate::jetstream::duration;

/// What is to be delivered next, if somebody takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) sequence: u64,
    /// The how-manieth delivery it is; 1 for the first.
    pub(crate) delivered: u64,
}

/// What must be known of a message to deliver it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// When it was published.
    pub(crate) time: i64,
    pub(crate) subject_len: usize,
    /// Headers and payload, as they are sent.
    pub(crate) content_len: usize,
}

/// A delivery that counts from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) sequence: u64,
    /// Whom it goes to.
    pub(crate) to: Bytes,
    /// Where it is acknowledged.
    pub(crate) reply: Bytes,
}

/// So that whoever asks too often does not cost a search each time; nanoseconds.
const PRUNE_EVERY: i64 = 100_000_000;
/// More than is ever asked for; a sum of such still fits.
const BATCH_MAX: u64 = 1 << 48;

impl Consumer {
    /// A pull request: the body of `CONSUMER.MSG.NEXT`, or what follows `+NXT`.
    pub(crate) fn pull(&mut self, inbox: Bytes, body: &[u8], source: &impl Source, listens: Listens<'_>, now: i64) {
        match self.check_pull(&inbox, body, source, listens, now) {
            Ok(request) => self.requests.add(request),
            Err(line) if line.is_empty() => {}
            Err(line) => self.effects.replies.push(Reply::status(inbox, &line)),
        }
    }

    /// Makes a request of it, or the status line that refuses it; an empty one refuses in silence.
    fn check_pull(
        &mut self,
        inbox: &Bytes,
        body: &[u8],
        source: &impl Source,
        listens: Listens<'_>,
        now: i64,
    ) -> Result<Request, String> {
        let Mode::Pull(bounds) = self.config.mode else { return Err("409 Consumer is push based".into()) };
        let asked = api::next(body).map_err(|error| format!("400 Bad Request - {error}"))?;
        check_bounds(bounds, &asked)?;
        self.idle_from = now;
        let (consumer, stream) = (self.state.delivered.consumer, self.reached.max(self.state.delivered.stream));
        self.requests.tick(now, consumer, stream, &mut self.effects.replies);
        if self.requests.len() >= bounds.max_waiting && self.pruned_at.saturating_add(PRUNE_EVERY) <= now {
            self.pruned_at = now;
            self.requests.prune(listens);
        }
        let has_expiry = asked.expires != 0;
        if asked.no_wait {
            let available = self.pending(source) + self.schedule.queued() as u64;
            if available == 0 && !has_expiry {
                return Err("404 No Messages".into());
            }
            if available > 0 && available < self.requests.wanted() {
                return Err("408 Requests Pending".into());
            }
        }
        let heartbeat = Some(asked.idle_heartbeat).filter(|heartbeat| *heartbeat > 0);
        let heartbeat = heartbeat.map(|heartbeat| heartbeat.max(HEARTBEAT_MIN));
        if self.requests.len() >= bounds.max_waiting {
            // Whoever has heartbeats misses them; told at once, it would ask again at once.
            return Err(if heartbeat.is_some() { String::new() } else { "409 Exceeded MaxWaiting".into() });
        }
        Ok(Request {
            inbox: inbox.clone(),
            left: u64::try_from(asked.batch).unwrap_or(1).clamp(1, BATCH_MAX),
            bytes: u64::try_from(asked.max_bytes).ok().filter(|bytes| *bytes > 0),
            expires: has_expiry.then(|| now.saturating_add(asked.expires)),
            heartbeat,
            is_no_wait: asked.no_wait,
            is_served: false,
            beat_at: now.saturating_add(heartbeat.unwrap_or(0)),
            timer: None,
        })
    }

    /// What is to be delivered next: what is due again, then what is new. `None` when nobody asks, or nothing may be
    /// delivered now. Asked again it says the same, until [`deliver`](Self::deliver) has taken it.
    pub(crate) fn next(&mut self, source: &mut impl Source, now: i64) -> Option<Next> {
        let is_asked = self.listener.as_ref().map_or(!self.requests.is_empty(), super::Listener::is_ready);
        if !is_asked || !self.pace.is_open(now) {
            return None;
        }
        if self.config.pause_until.is_some_and(|until| until > now) {
            self.requests.exhaust(&mut self.effects.replies);
            return None;
        }
        if let Some(sequence) = self.schedule.front() {
            let pending = self.state.pending.get(&sequence)?;
            return Some(Next { sequence, delivered: pending.deliveries + 1 });
        }
        if self.is_full() {
            return None;
        }
        let Some(sequence) = self.look(source) else {
            self.reached = source.last();
            self.requests.exhaust(&mut self.effects.replies);
            return None;
        };
        Some(Next { sequence, delivered: 1 })
    }

    /// Delivers what [`next`](Self::next) has said. `None` when nobody takes it now: it stays the next.
    pub(crate) fn deliver(
        &mut self,
        next: Next,
        message: &Message,
        source: &impl Source,
        listens: Listens<'_>,
        now: i64,
    ) -> Option<Delivery> {
        let Next { sequence, delivered } = next;
        let is_first = delivered == 1;
        if !self.is_next(next) || !self.pace.admits(sequence, message.time, source.last(), now) {
            return None;
        }
        let numbers = ack::Numbers {
            delivered,
            sequence,
            consumer_sequence: self.state.delivered.consumer + 1,
            time: message.time,
            pending: self.pending(source).saturating_sub(u64::from(is_first)),
        };
        let reply = ack::write(&mut self.buffer, &self.config.ack_prefix, &numbers);
        let size = reply.len() + message.content_len;
        let (to, behind) = self.take(message.subject_len, size, listens, now)?;
        self.count(next, now);
        if is_first && self.config.ack == AckPolicy::None {
            self.effects.settled.push(sequence);
        }
        let rate = if let Mode::Push(push) = &self.config.mode { push.rate } else { None };
        self.pace.went(message.time, size as u64, rate, now);
        self.effects.replies.extend(behind);
        (self.delivered_at, self.idle_from) = (Some(now), now);
        Some(Delivery { sequence, to, reply })
    }

    /// Whom a message goes to, and what is to be said behind it.
    fn take(
        &mut self,
        subject_len: usize,
        size: usize,
        listens: Listens<'_>,
        now: i64,
    ) -> Option<(Bytes, Option<Reply>)> {
        let (Mode::Push(push), Some(listener)) = (&self.config.mode, &mut self.listener) else {
            return self.requests.take((subject_len + size) as u64, now, listens, &mut self.effects.replies);
        };
        let to = push.subject.clone();
        if !listens(&to) {
            self.interest(Interest::Absent, now);
            return None;
        }
        listener.beat_at = push.heartbeat.map(|heartbeat| now.saturating_add(heartbeat));
        let flow = push.flow.as_ref();
        let question = flow.and_then(|prefix| listener.pushed((to.len() + size) as u64, &to, prefix));
        Some((to, question))
    }

    /// Counts a delivery.
    fn count(&mut self, next: Next, now: i64) {
        let Next { sequence, delivered } = next;
        let at = now.saturating_add(self.config.wait(delivered));
        if delivered > 1 {
            if let Some(pending) = self.state.pending.get(&sequence) {
                self.schedule.remove(sequence, pending.due);
            }
            let due = self.schedule.arm(sequence, at);
            self.state.redeliver(sequence, due);
            return;
        }
        if self.fresh.take().is_none() {
            self.listed_dead = 0;
        }
        let due = (self.config.ack != AckPolicy::None).then(|| self.schedule.arm(sequence, at));
        self.state.deliver(sequence, due);
    }

    fn is_next(&self, next: Next) -> bool {
        if next.delivered > 1 {
            let pending = self.state.pending.get(&next.sequence);
            return self.schedule.front() == Some(next.sequence)
                && pending.is_some_and(|pending| pending.deliveries + 1 == next.delivered);
        }
        let first = self.fresh.or_else(|| self.state.listed.get(self.listed_dead).copied());
        first == Some(next.sequence) && !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.state.pending.len() >= self.config.max_ack_pending
    }

    /// The first that was never delivered.
    fn look(&mut self, source: &mut impl Source) -> Option<u64> {
        while let Some(sequence) = self.state.listed.get(self.listed_dead).copied() {
            if source.is_live(sequence) {
                return Some(sequence);
            }
            self.listed_dead += 1;
            self.listed_gaps = self.listed_gaps.saturating_sub(1);
        }
        if self.fresh.is_none() {
            self.fresh = source.next();
        }
        self.fresh
    }
}

fn check_bounds(bounds: Pull, asked: &api::NextRequest) -> Result<(), String> {
    let Pull { max_batch, max_expires, max_bytes, .. } = bounds;
    if let Some(most) = max_batch.filter(|most| u64::try_from(asked.batch).is_ok_and(|batch| batch > *most)) {
        return Err(format!("409 Exceeded MaxRequestBatch of {most}"));
    }
    if let Some(most) = max_expires.filter(|most| asked.expires > *most) {
        return Err(format!("409 Exceeded MaxRequestExpires of {}", duration::display(most)));
    }
    if let Some(most) = max_bytes.filter(|most| u64::try_from(asked.max_bytes).is_ok_and(|bytes| bytes > *most)) {
        return Err(format!("409 Exceeded MaxRequestMaxBytes of {most}"));
    }
    Ok(())
}
