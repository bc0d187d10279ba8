//! The pull requests that wait: served in turn, ended by their time, by what they asked for, or because nobody listens for
//! the answer. Bounded by `max_waiting`. Statuses, their order and texts are those of nats-server.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use hashbrown::HashMap;

use super::Listens;
use super::status::{Remaining, Reply};

/// One pull request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) inbox: Bytes,
    /// How many messages it still wants; at least one.
    pub(super) left: u64,
    /// How many bytes it still takes.
    pub(super) bytes: Option<u64>,
    pub(super) expires: Option<i64>,
    /// Nanoseconds between heartbeats.
    pub(super) heartbeat: Option<i64>,
    pub(super) is_no_wait: bool,
    pub(super) is_served: bool,
    /// When the next heartbeat is due. A delivery puts it off without moving the timer.
    pub(super) beat_at: i64,
    pub(super) timer: Option<i64>,
}

impl Request {
    fn remaining(&self) -> Remaining {
        Remaining { messages: self.left, bytes: self.bytes.unwrap_or(0) }
    }

    fn wake_at(&self) -> Option<i64> {
        let beat_at = self.heartbeat.map(|_| self.beat_at);
        self.expires.into_iter().chain(beat_at).min()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Requests {
    by_id: HashMap<u64, Request>,
    /// In turn. Those that have ended are skipped and, if they are many, swept.
    order: VecDeque<u64>,
    timers: BTreeSet<(i64, u64)>,
    /// Those that end where there is nothing more to deliver.
    no_wait: BTreeSet<u64>,
    id_last: u64,
    /// Sum of what all still want.
    wanted: u64,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn wanted(&self) -> u64 {
        self.wanted
    }

    pub(super) fn wake_at(&self) -> Option<i64> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(super) fn add(&mut self, mut request: Request) {
        self.id_last += 1;
        let id = self.id_last;
        request.timer = request.wake_at();
        self.timers.extend(request.timer.map(|at| (at, id)));
        if request.is_no_wait {
            self.no_wait.insert(id);
        }
        self.wanted = self.wanted.saturating_add(request.left);
        self.order.push_back(id);
        self.by_id.insert(id, request);
    }

    /// Gives a message of `size` bytes to the next one that takes it; where it goes, and what is to be said behind it.
    pub(super) fn take(
        &mut self,
        size: u64,
        now: i64,
        listens: Listens<'_>,
        replies: &mut Vec<Reply>,
    ) -> Option<(Bytes, Option<Reply>)> {
        while let Some(id) = self.order.front().copied() {
            let Some(request) = self.by_id.get_mut(&id) else {
                self.order.pop_front();
                continue;
            };
            let reason = if request.expires.is_some_and(|expires| expires <= now) {
                Some(TIMEOUT)
            } else if request.bytes.is_some_and(|bytes| bytes < size) {
                Some("409 Message Size Exceeds MaxBytes")
            } else {
                None
            };
            if reason.is_some() || !listens(&request.inbox) {
                let ended = self.remove(id);
                if let (Some(request), Some(line)) = (ended, reason) {
                    let remaining = request.remaining();
                    replies.push(Reply::end(request.inbox, line, remaining));
                }
                continue;
            }
            return Some(self.serve(id, size, now));
        }
        None
    }

    /// The first in turn gets a message.
    fn serve(&mut self, id: u64, size: u64, now: i64) -> (Bytes, Option<Reply>) {
        self.order.pop_front();
        let request = self.by_id.get_mut(&id).expect("it is the first in turn");
        request.bytes = request.bytes.map(|bytes| bytes - size);
        let is_last = request.left == 1 || request.bytes == Some(0);
        if !is_last {
            request.left -= 1;
            self.wanted = self.wanted.saturating_sub(1);
            request.is_served = true;
            request.beat_at = now.saturating_add(request.heartbeat.unwrap_or(0));
            self.order.push_back(id);
            return (request.inbox.clone(), None);
        }
        let request = self.remove(id).expect("it is the first in turn");
        let completed = request
            .bytes
            .filter(|bytes| *bytes > 0)
            .map(|bytes| Reply::end(request.inbox.clone(), "409 Batch Completed", Remaining { messages: 0, bytes }));
        (request.inbox, completed)
    }

    /// Ends those that would not wait, now that there is nothing more to deliver.
    pub(super) fn exhaust(&mut self, replies: &mut Vec<Reply>) {
        let is_done = |request: &Request| request.expires.is_none() || request.is_served;
        let done = self.no_wait.iter().copied().filter(|id| self.by_id.get(id).is_some_and(is_done));
        for id in done.collect::<Vec<_>>() {
            let ended = self.remove(id);
            replies.extend(ended.map(|request| Reply::status(request.inbox, "404 No Messages")));
        }
    }

    /// Ends those whose time has come, and sends heartbeats to others: `consumer` and `stream` are the last sequences.
    pub(super) fn tick(&mut self, now: i64, consumer: u64, stream: u64, replies: &mut Vec<Reply>) {
        while let Some((_, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            let Some(request) = self.by_id.get_mut(&id) else { continue };
            request.timer = None;
            if request.expires.is_some_and(|expires| expires <= now) {
                let ended = self.remove(id);
                replies.extend(ended.map(|request| {
                    let remaining = request.remaining();
                    Reply::end(request.inbox, TIMEOUT, remaining)
                }));
                continue;
            }
            if let Some(heartbeat) = request.heartbeat.filter(|_| request.beat_at <= now) {
                replies.push(Reply::heartbeat(request.inbox.clone(), consumer, stream, None));
                request.beat_at = now.saturating_add(heartbeat);
            }
            request.timer = request.wake_at();
            self.timers.extend(request.timer.map(|at| (at, id)));
        }
    }

    /// Ends those that nobody listens for.
    pub(super) fn prune(&mut self, listens: Listens<'_>) {
        let unheard = self.by_id.iter().filter(|(_, request)| !listens(&request.inbox)).map(|(id, _)| *id);
        for id in unheard.collect::<Vec<_>>() {
            self.remove(id);
        }
    }

    /// Ends all, in the order in which they would have been served.
    pub(super) fn close(&mut self, end: impl Fn(Bytes, Remaining) -> Reply, replies: &mut Vec<Reply>) {
        while let Some(id) = self.order.pop_front() {
            let ended = self.remove(id);
            replies.extend(ended.map(|request| {
                let remaining = request.remaining();
                end(request.inbox, remaining)
            }));
        }
    }

    fn remove(&mut self, id: u64) -> Option<Request> {
        let request = self.by_id.remove(&id)?;
        if let Some(at) = request.timer {
            self.timers.remove(&(at, id));
        }
        self.no_wait.remove(&id);
        self.wanted = self.wanted.saturating_sub(request.left);
        /// So that a short queue is not swept each time.
        const SWEPT_MIN: usize = 16;
        if self.order.len() > 2 * self.by_id.len() + SWEPT_MIN {
            self.order.retain(|id| self.by_id.contains_key(id));
        }
        Some(request)
    }
}

const TIMEOUT: &str = "408 Request Timeout";
