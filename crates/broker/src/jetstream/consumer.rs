//! One consumer as a state machine: what is to be delivered next and to whom, what is waited for, what is due again. Pure:
//! the stream that owns it gives it time, messages and acknowledgements, sends what comes out, and keeps its records.
//! Never waits, never reads a message. Follows nats-server where clients can tell.

pub(crate) mod ack;
mod config;
mod pace;
mod push;
mod ranges;
mod record;
mod requests;
mod schedule;
mod serve;
mod state;
mod status;

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};

use config::Pull;
pub(crate) use config::{Config, Mode};
use pace::Pace;
pub(crate) use push::Interest;
use push::Listener;
use requests::Requests;
use schedule::{Due, Schedule};
pub(crate) use serve::{Message, Next};
pub(crate) use state::{Start, State};
pub(crate) use status::{Advisory, Effects, Reply};

use super::api::{AckPolicy, SequenceInfo, Time};

/// What a consumer sees of its stream: the messages that its filters match.
pub(crate) trait Source {
    /// The next that is there, at or behind the position, which moves behind it.
    fn next(&mut self) -> Option<u64>;
    /// How many are there, at or behind the position.
    fn pending(&self) -> u64;
    fn is_live(&self, sequence: u64) -> bool;
    /// The last sequence of the stream, whatever matches.
    fn last(&self) -> u64;
}

/// Whether a subject has a subscriber now.
pub(crate) type Listens<'a> = &'a dyn Fn(&[u8]) -> bool;

/// See the module. Whoever calls takes [`Effects`] out afterwards.
#[derive(Debug)]
pub(crate) struct Consumer {
    config: Config,
    state: State,
    schedule: Schedule,
    requests: Requests,
    /// Of a consumer that pushes.
    listener: Option<Listener>,
    pace: Pace,
    /// Taken from the stream, and not delivered yet.
    fresh: Option<u64>,
    /// How many of the list's first are not there any more, and how many behind those.
    listed_dead: usize,
    listed_gaps: usize,
    /// The end of the stream, when it was last come to.
    reached: u64,
    delivered_at: Option<i64>,
    acknowledged_at: Option<i64>,
    /// When requests without listeners were last looked for, because there were too many.
    pruned_at: i64,
    /// From when it counts as unused.
    idle_from: i64,
    /// Until when it is paused, if that was not over at the last tick.
    paused_until: Option<i64>,
    buffer: BytesMut,
    pub(crate) effects: Effects,
}

/// How an acknowledgement is answered, if its sender expects an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// With an empty message, once the changes are kept.
    Reply,
    /// Not at all.
    Silence,
    /// With messages: this is the request for them.
    Next(&'a [u8]),
}

/// Why a consumer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    Deleted,
    Shutdown,
}

/// How a consumer stands, as `CONSUMER.INFO` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) delivered: SequenceInfo,
    pub(crate) ack_floor: SequenceInfo,
    pub(crate) num_ack_pending: usize,
    pub(crate) num_redelivered: usize,
    pub(crate) num_waiting: usize,
    pub(crate) num_pending: u64,
    pub(crate) push_bound: bool,
    /// Nanoseconds until it goes on.
    pub(crate) pause_remaining: Option<i64>,
}

/// As nats-server says it when a message goes before it was acknowledged.
const DELETED: &str = "Unacknowledged message was deleted";

impl Consumer {
    /// A new consumer.
    pub(crate) fn new(config: Config, start: Start, now: i64) -> Self {
        Self::with_state(config, State::new(start), now)
    }

    /// A consumer of before, on a stream whose last sequence is `last`. What was pending is due after the usual time, or
    /// when a client has asked for it. Its source begins at [`rewind`](Self::rewind), and is then given to
    /// [`forget_gone`](Self::forget_gone).
    pub(crate) fn recovered(config: Config, mut state: State, last: u64, now: i64) -> Self {
        // What was never delivered, because the first is still to come, is not lost.
        state.clamp(last.max(config.start_sequence.saturating_sub(1)));
        let mut consumer = Self::with_state(config, state, now);
        for (sequence, pending) in &mut consumer.state.pending {
            let at = now.saturating_add(consumer.config.wait(pending.deliveries)).max(pending.until);
            pending.due = consumer.schedule.arm(*sequence, at);
        }
        consumer
    }

    fn with_state(config: Config, state: State, now: i64) -> Self {
        let listener = match &config.mode {
            Mode::Pull(_) => None,
            Mode::Push(push) => Some(Listener::new(push.heartbeat.map(|heartbeat| now.saturating_add(heartbeat)))),
        };
        Self {
            pace: Pace::new(config.replay),
            paused_until: config.pause_until.filter(|until| *until > now),
            listener,
            reached: state.delivered.stream,
            config,
            state,
            schedule: Schedule::default(),
            requests: Requests::default(),
            fresh: None,
            listed_dead: 0,
            listed_gaps: 0,
            delivered_at: None,
            acknowledged_at: None,
            pruned_at: i64::MIN,
            idle_from: now,
            buffer: BytesMut::new(),
            effects: Effects::default(),
        }
    }

    /// Forgets what was only looked at; returns where its source must begin. To be asked when the source is made, and
    /// when its filters change.
    pub(crate) fn rewind(&mut self) -> u64 {
        self.fresh = None;
        self.state.position()
    }

    /// What has changed since the last call, as records that belong together, in order; mostly none or one.
    pub(crate) fn changes(&mut self) -> Vec<Vec<u8>> {
        self.state.changes()
    }

    /// Everything, as records that belong together, in order. The first one begins anew.
    pub(crate) fn snapshot(&self) -> Vec<Vec<u8>> {
        self.state.snapshot()
    }

    /// Goes by other rules, which were checked to be an allowed change.
    pub(crate) fn update(&mut self, config: Config, now: i64) {
        let before = std::mem::replace(&mut self.config, config);
        self.idle_from = now;
        self.paused_until = self.config.pause_until.filter(|until| *until > now);
        let waits = |config: &Config| (config.ack_wait, config.backoff.clone());
        if waits(&before) != waits(&self.config) {
            self.rearm(&before);
        }
        if let (Mode::Push(old), Mode::Push(new)) = (&before.mode, &self.config.mode)
            && old.subject != new.subject
        {
            self.listener = Some(Listener::new(new.heartbeat.map(|heartbeat| now.saturating_add(heartbeat))));
            self.expire(&self.state.pending.keys().copied().collect::<Vec<_>>());
        }
    }

    /// Moves the timers by as much as waiting is longer or shorter now.
    fn rearm(&mut self, before: &Config) {
        for (sequence, pending) in &mut self.state.pending {
            if let Due::At(at) = pending.due
                && pending.until == 0
            {
                let moved = self.config.wait(pending.deliveries).saturating_sub(before.wait(pending.deliveries));
                self.schedule.remove(*sequence, pending.due);
                pending.due = self.schedule.arm(*sequence, at.saturating_add(moved));
            }
        }
    }

    /// Delivers nothing until then.
    pub(crate) fn pause(&mut self, until: Option<i64>, now: i64) {
        self.config.pause_until = until;
        self.paused_until = until.filter(|until| *until > now);
    }

    /// Tells those who wait that nothing will come.
    pub(crate) fn close(&mut self, closing: Closing) {
        let replies = &mut self.effects.replies;
        match closing {
            Closing::Deleted => self.requests.close(|to, _| Reply::status(to, "409 Consumer Deleted"), replies),
            Closing::Shutdown => {
                self.requests.close(|to, remaining| Reply::end(to, "409 Server Shutdown", remaining), replies);
            }
        }
    }

    /// An acknowledgement of one kind or another. What means nothing (any more) changes nothing.
    pub(crate) fn ack<'a>(&mut self, subject: &ack::Subject<'_>, payload: &'a [u8], now: i64) -> Answer<'a> {
        self.idle_from = now;
        let sequence = subject.sequence;
        let is_delivered = sequence <= self.state.delivered.stream && self.config.ack != AckPolicy::None;
        match ack::Kind::parse(payload) {
            ack::Kind::Ack | ack::Kind::Term(_) | ack::Kind::Next(_) if !is_delivered => {}
            ack::Kind::Ack | ack::Kind::Next(_) => self.acknowledge(subject, now),
            ack::Kind::Term(reason) => {
                if let Some(pending) = self.state.pending.get(&sequence) {
                    let deliveries = pending.deliveries;
                    let consumer_sequence = subject.consumer_sequence;
                    let advisory = Advisory::Terminated { sequence, consumer_sequence, deliveries, reason };
                    self.effects.advisories.push(advisory);
                }
                self.acknowledge(subject, now);
            }
            ack::Kind::Nak(delay) => self.nak(subject, delay, now),
            ack::Kind::Progress => self.progress(sequence, now),
            ack::Kind::Unknown => {}
        }
        match ack::Kind::parse(payload) {
            ack::Kind::Next(request) => Answer::Next(request),
            ack::Kind::Ack | ack::Kind::Term(_) if is_delivered => Answer::Reply,
            ack::Kind::Ack | ack::Kind::Term(_) => Answer::Silence,
            _ if sequence == 0 => Answer::Silence,
            _ => Answer::Reply,
        }
    }

    fn acknowledge(&mut self, subject: &ack::Subject<'_>, now: i64) {
        let sequence = subject.sequence;
        self.acknowledged_at = Some(now);
        if self.config.ack == AckPolicy::All {
            for (sequence, due) in self.state.settle_to(sequence, subject.consumer_sequence) {
                self.schedule.remove(sequence, due);
                self.effects.settled.push(sequence);
            }
        } else if self.state.needs(sequence) {
            if let Some(pending) = self.state.settle(sequence) {
                self.schedule.remove(sequence, pending.due);
            }
            self.effects.settled.push(sequence);
        }
    }

    fn nak(&mut self, subject: &ack::Subject<'_>, delay: i64, now: i64) {
        let sequence = subject.sequence;
        let Some(pending) = self.state.pending.get_mut(&sequence) else { return };
        let (due, deliveries) = (pending.due, pending.deliveries);
        let consumer_sequence = subject.consumer_sequence;
        self.effects.advisories.push(Advisory::Nak { sequence, consumer_sequence, deliveries });
        if delay > 0 {
            let until = now.saturating_add(delay);
            self.schedule.remove(sequence, due);
            let due = self.schedule.arm(sequence, until);
            self.state.delay(sequence, until, due);
        } else if !matches!(due, Due::Turn(_)) {
            self.schedule.remove(sequence, due);
            self.expire(&[sequence]);
        }
    }

    /// The time for an acknowledgement begins anew. What is queued already stays so.
    fn progress(&mut self, sequence: u64, now: i64) {
        let Some(pending) = self.state.pending.get(&sequence) else { return };
        let (before, wait) = (*pending, self.config.wait(pending.deliveries));
        if let Due::At(_) = before.due {
            self.schedule.remove(sequence, before.due);
            let due = self.schedule.arm(sequence, now.saturating_add(wait));
            self.state.reschedule(sequence, due);
            if before.until != 0 {
                self.state.delay(sequence, 0, due);
            }
        }
    }

    /// The time of these has come: they are queued, or given up where that was their last delivery.
    fn expire(&mut self, sequences: &[u64]) {
        for &sequence in sequences {
            let Some(pending) = self.state.pending.get(&sequence).copied() else { continue };
            if matches!(pending.due, Due::Turn(_)) {
                continue;
            }
            self.schedule.remove(sequence, pending.due);
            let deliveries = pending.deliveries;
            if self.config.max_deliver.is_some_and(|most| deliveries >= most) {
                self.state.exhaust(sequence);
                self.effects.advisories.push(Advisory::MaxDeliver { sequence, deliveries });
            } else {
                let due = self.schedule.enqueue(sequence);
                self.state.reschedule(sequence, due);
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) fn wake_at(&self) -> Option<i64> {
        let beat_at = self.listener.as_ref().filter(|listener| listener.interest == Interest::Present);
        [
            self.schedule.wake_at(),
            self.requests.wake_at(),
            beat_at.and_then(|listener| listener.beat_at),
            self.pace.not_before,
            self.paused_until,
            self.inactive_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due: redeliveries, ends of requests, heartbeats. Afterwards there may be something to deliver.
    pub(crate) fn tick(&mut self, now: i64) {
        let expired = self.schedule.expire(now);
        self.expire(&expired);
        let (consumer, stream) = (self.state.delivered.consumer, self.reached.max(self.state.delivered.stream));
        self.requests.tick(now, consumer, stream, &mut self.effects.replies);
        self.pace.tick(now);
        self.paused_until = self.paused_until.filter(|until| *until > now);
        let (Some(listener), Mode::Push(push)) = (&mut self.listener, &self.config.mode) else { return };
        if listener.beat_at.is_some_and(|at| at <= now) {
            listener.beat_at = push.heartbeat.map(|heartbeat| now.saturating_add(heartbeat));
            if listener.interest == Interest::Present {
                let beat = Reply::heartbeat(push.subject.clone(), consumer, stream, listener.stalled());
                self.effects.replies.push(beat);
            }
        }
    }

    /// When it counts as unused, as far as that is known.
    fn inactive_at(&self) -> Option<i64> {
        if self.is_bound() {
            return None;
        }
        self.config.inactive_threshold.map(|threshold| self.idle_from.saturating_add(threshold))
    }

    /// Whether nobody has used it for so long that it is to be deleted.
    pub(crate) fn is_inactive(&mut self, now: i64, listens: Listens<'_>) -> bool {
        if self.inactive_at().is_none_or(|at| at > now) {
            return false;
        }
        let Some(threshold) = self.config.inactive_threshold else { return false };
        match &self.config.mode {
            Mode::Pull(_) => {
                self.requests.prune(listens);
                // Somebody may still be at work on what was delivered last.
                let works_until = self.schedule.ends_at().filter(|at| at.saturating_add(threshold) > now);
                self.idle_from = if self.requests.is_empty() { works_until.unwrap_or(self.idle_from) } else { now };
            }
            Mode::Push(push) => {
                if listens(&push.subject) {
                    self.interest(Interest::Present, now);
                }
            }
        }
        self.inactive_at().is_some_and(|at| at <= now)
    }

    /// The deliver subject has a subscriber now, or has none.
    pub(crate) fn interest(&mut self, interest: Interest, now: i64) {
        let Some(listener) = &mut self.listener else { return };
        if std::mem::replace(&mut listener.interest, interest) == interest {
            return;
        }
        self.idle_from = now;
        if interest == Interest::Present {
            listener.restart();
        }
    }

    /// Somebody has answered on a flow-control subject.
    pub(crate) fn flow_control(&mut self, subject: &[u8]) {
        if let Some(listener) = &mut self.listener {
            listener.answered(subject);
        }
    }

    /// Whether somebody listens to what it pushes.
    pub(crate) fn is_bound(&self) -> bool {
        self.listener.as_ref().is_some_and(|listener| listener.interest == Interest::Present)
    }

    /// A message has left the stream, for whatever reason.
    pub(crate) fn removed(&mut self, sequence: u64) {
        if self.fresh == Some(sequence) {
            self.fresh = None;
        }
        if sequence > self.state.delivered.stream {
            match self.state.listed.binary_search(&sequence) {
                // It may be there and not readable: it is not to be looked at again.
                Ok(at) if at == self.listed_dead => self.listed_dead += 1,
                Ok(at) if at > self.listed_dead => self.listed_gaps += 1,
                _ => {}
            }
            return;
        }
        if let Some(pending) = self.state.settle(sequence) {
            self.schedule.remove(sequence, pending.due);
            self.effects.advisories.push(Advisory::Terminated {
                sequence,
                consumer_sequence: pending.consumer_sequence,
                deliveries: pending.deliveries,
                reason: DELETED.into(),
            });
        }
    }

    /// Whether there are messages that it would have to be told of if they left the stream.
    pub(crate) fn is_holding(&self) -> bool {
        let State { pending, exhausted, listed, .. } = &self.state;
        self.fresh.is_some() || !pending.is_empty() || exhausted.len() > 0 || !listed.is_empty()
    }

    /// Whether one of these is such a message.
    pub(crate) fn holds_any(&self, range: &RangeInclusive<u64>) -> bool {
        let State { pending, exhausted, listed, .. } = &self.state;
        let is_listed =
            || listed.get(listed.partition_point(|listed| listed < range.start())).is_some_and(|at| range.contains(at));
        self.fresh.is_some_and(|fresh| range.contains(&fresh))
            || pending.range(range.clone()).next().is_some()
            || exhausted.has_any(range)
            || is_listed()
    }

    /// Many messages have left the stream at once, which begins at `first` now.
    pub(crate) fn purged(&mut self, first: u64, source: &impl Source) {
        self.forget_gone(source);
        self.state.skip_to(first);
    }

    /// Waits for nothing that is not there any more.
    pub(crate) fn forget_gone(&mut self, source: &impl Source) {
        let pending = self.state.pending.keys().copied().filter(|sequence| !source.is_live(*sequence));
        for sequence in pending.collect::<Vec<_>>() {
            if let Some(pending) = self.state.settle(sequence) {
                self.schedule.remove(sequence, pending.due);
            }
        }
        let exhausted = self.state.exhausted.iter().flat_map(|(start, end)| start..=end);
        for sequence in exhausted.filter(|sequence| !source.is_live(*sequence)).collect::<Vec<_>>() {
            self.state.settle(sequence);
        }
        self.fresh = self.fresh.filter(|sequence| source.is_live(*sequence));
        self.listed_dead = 0;
        self.listed_gaps = self.state.listed.iter().filter(|sequence| !source.is_live(**sequence)).count();
    }

    /// Where messages are pushed to, if they are.
    pub(crate) fn push_subject(&self) -> Option<&Bytes> {
        match &self.config.mode {
            Mode::Push(push) => Some(&push.subject),
            Mode::Pull(_) => None,
        }
    }

    /// Whether a message must stay for this consumer, if its filters match: it is still to be delivered, or was and is
    /// not acknowledged.
    pub(crate) fn needs(&self, sequence: u64) -> bool {
        self.state.needs(sequence)
    }

    /// Ends requests that nobody listens for any more; to be called before they are counted.
    pub(crate) fn prune(&mut self, listens: Listens<'_>) {
        self.requests.prune(listens);
    }

    /// How it stands.
    pub(crate) fn info(&self, source: &impl Source, now: i64) -> Info {
        let sequences = |place: state::Place, at: Option<i64>| SequenceInfo {
            consumer_seq: place.consumer,
            stream_seq: place.stream,
            last_active: at.map(Time::from_nanoseconds),
        };
        let exhausted = usize::try_from(self.state.exhausted.len()).unwrap_or(usize::MAX);
        let is_once = self.config.max_deliver == Some(1);
        Info {
            delivered: sequences(self.state.delivered, self.delivered_at),
            ack_floor: sequences(self.state.floor, self.acknowledged_at),
            num_ack_pending: self.state.pending.len(),
            num_redelivered: if is_once { 0 } else { self.state.redelivered.saturating_add(exhausted) },
            num_waiting: self.requests.len(),
            num_pending: self.pending(source),
            push_bound: self.is_bound(),
            pause_remaining: self
                .config
                .pause_until
                .map(|until| until.saturating_sub(now))
                .filter(|remaining| *remaining > 0),
        }
    }

    /// How many messages are still to be delivered a first time.
    fn pending(&self, source: &impl Source) -> u64 {
        let listed = self.state.listed.len().saturating_sub(self.listed_dead + self.listed_gaps);
        source.pending() + u64::from(self.fresh.is_some()) + listed as u64
    }
}
