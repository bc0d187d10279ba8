//! One lane: the events of one key, or one event without a key; and how it moves on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Action, FEW, Lanes, Request, Room, SLOW, Ticket};

/// What has the lowest number goes next, from the queue or from aside.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(super) key: Option<Arc<str>>,
    /// What is in memory, oldest first.
    pub(super) queue: VecDeque<u64>,
    pub(super) flight: Flight,
    pub(super) flight_number: u64,
    /// The head has been in flight for long.
    pub(super) is_slow: bool,
    /// So many of the queue go alone.
    pub(super) alone: usize,
    pub(super) aside: BTreeMap<u64, Parked>,
    /// It is in `ready`.
    pub(super) is_ready: bool,
    /// It is in `due` at this time.
    pub(super) due: Option<Instant>,
    /// Events that are to come before whatever begins next.
    pub(super) reserved: usize,
}

/// What is next in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Nobody,
    /// The first so many of the queue.
    Queue(usize),
    /// One that is aside.
    Aside(u64),
}

/// What is under way of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flight {
    None,
    /// The first so many of the queue.
    Queue(usize),
    /// One that is aside.
    Aside(u64),
    /// It becomes a dead letter.
    Burying(u64),
    /// It was done aside, and is being removed.
    Removing(u64),
    /// The last of the queue was done, and what is aside goes on once that is on record.
    Recording,
}

/// An event aside.
#[derive(Clone, Debug)]
pub(crate) struct Parked {
    pub(super) state: State,
    pub(crate) attempts: u32,
    pub(super) due: Instant,
    /// It is to become a dead letter.
    pub(crate) is_exhausted: bool,
    pub(crate) is_redriven: bool,
    /// The dead letter that it is.
    pub(crate) held: Option<u64>,
    /// The change of the window by which it was done there; nothing where that was before, or is still to come.
    pub(super) change: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Writing,
    Resting,
}

impl Parked {
    pub(super) fn new(due: Instant) -> Self {
        Self {
            state: State::Writing,
            attempts: 0,
            due,
            is_exhausted: false,
            is_redriven: false,
            held: None,
            change: None,
        }
    }

    /// Whether others may wait for it in memory.
    fn is_soon(&self, now: Instant) -> bool {
        self.held.is_none() && !self.is_exhausted && self.due <= now + SLOW
    }

    /// As it was found.
    pub(crate) fn found(due: Instant, attempts: u32) -> Self {
        Self { state: State::Resting, attempts, ..Self::new(due) }
    }
}

impl Lane {
    pub(super) fn new(key: Option<Arc<str>>) -> Self {
        Self {
            key,
            queue: VecDeque::new(),
            flight: Flight::None,
            flight_number: 0,
            is_slow: false,
            alone: 0,
            aside: BTreeMap::new(),
            is_ready: false,
            due: None,
            reserved: 0,
        }
    }

    pub(super) fn turn(&self) -> Turn {
        let aside = self.aside.first_key_value().map(|(sequence, _)| *sequence);
        match (self.queue.front(), aside) {
            (None, None) => Turn::Nobody,
            (Some(first), Some(aside)) if aside < *first => Turn::Aside(aside),
            (None, Some(aside)) => Turn::Aside(aside),
            (Some(_), None) => Turn::Queue(self.queue.len()),
            (Some(_), Some(aside)) => Turn::Queue(self.queue.partition_point(|one| *one < aside)),
        }
    }

    /// Those of the queue that something happens to.
    pub(super) fn kept(&self) -> usize {
        match self.flight {
            Flight::Queue(count) => count,
            Flight::Burying(one) => usize::from(self.queue.front() == Some(&one)),
            _ => 0,
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.flight == Flight::None && self.aside.values().all(|parked| parked.state == State::Resting)
    }
}

impl Lanes {
    pub(super) fn lane_of(&mut self, key: Option<&Arc<str>>) -> u64 {
        if let Some(id) = key.and_then(|key| self.names.get(key)) {
            return *id;
        }
        let id = self.next_lane;
        self.next_lane += 1;
        self.lanes.insert(id, Lane::new(key.cloned()));
        if let Some(key) = key {
            self.names.insert(Arc::clone(key), id);
        }
        id
    }

    pub(super) fn lane(&mut self, id: u64) -> &mut Lane {
        self.lanes.get_mut(&id).expect("a lane with anything in it is there")
    }

    pub(super) fn insert_aside(&mut self, id: u64, sequence: u64, parked: Parked) {
        self.held += usize::from(parked.held.is_some());
        let lane = self.lane(id);
        let is_first = lane.aside.is_empty();
        lane.aside.insert(sequence, parked);
        self.diverted += usize::from(is_first);
        self.aside.insert(sequence, id);
    }

    pub(super) fn remove_aside(&mut self, ticket: Ticket) {
        let lane = self.lane(ticket.lane);
        if let Some(parked) = lane.aside.remove(&ticket.sequence) {
            let is_last = lane.aside.is_empty();
            self.diverted -= usize::from(is_last);
            self.held -= usize::from(parked.held.is_some());
            self.aside.remove(&ticket.sequence);
        }
    }

    /// Something of memory goes aside.
    pub(super) fn park(&mut self, id: u64, sequence: u64, parked: Parked) {
        self.parking += 1;
        self.insert_aside(id, sequence, parked);
        self.actions.push(Action::Park(Ticket { lane: id, sequence }));
    }

    /// Puts everything of the queue aside to which nothing happens, but for the head where its turn is now.
    pub(super) fn divert(&mut self, id: u64, now: Instant) {
        let lane = self.lane(id);
        let is_head_free = lane.flight == Flight::None && matches!(lane.turn(), Turn::Queue(_));
        self.divert_behind(id, usize::from(is_head_free), now);
    }

    /// Puts all but the first so many aside, and those to which something happens.
    pub(super) fn divert_behind(&mut self, id: u64, first: usize, now: Instant) {
        let lane = self.lane(id);
        if lane.key.is_none() {
            return;
        }
        let kept = lane.kept().max(first).min(lane.queue.len());
        let rest = lane.queue.split_off(kept);
        lane.alone = lane.alone.min(kept);
        self.waiting -= rest.len();
        for sequence in rest {
            self.park(id, sequence, Parked::new(now));
        }
    }

    /// Those that wait in memory for a head that is slow, or for one aside that is not tried again soon, go aside.
    pub(super) fn make_room_behind(&mut self, id: u64, now: Instant) {
        let room = self.room;
        let lane = self.lane(id);
        if lane.is_slow && lane.queue.len() > lane.kept() + FEW {
            return self.divert(id, now);
        }
        if let Some((sequence, parked)) = lane.aside.first_key_value()
            && (room != Room::Plenty || !parked.is_soon(now))
        {
            let before = lane.queue.partition_point(|one| one < sequence);
            self.divert_behind(id, before, now);
        }
    }

    /// The attempt failed.
    pub(super) fn failed(&mut self, ticket: Ticket, retry_after: Option<Duration>, now: Instant) {
        let attempts = self.parked_event(ticket).map_or(0, |parked| parked.attempts) + 1;
        if attempts >= self.rules.max_deliver {
            return self.exhausted(ticket, now);
        }
        let due = now + self.rules.pause(attempts).max(retry_after.unwrap_or_default());
        if let Some(parked) = self.lane(ticket.lane).aside.get_mut(&ticket.sequence) {
            (parked.attempts, parked.due, parked.state) = (attempts, due, State::Writing);
            self.actions.push(Action::Park(ticket));
            self.make_room_behind(ticket.lane, now);
        } else {
            self.put_head_aside(ticket, Parked { attempts, ..Parked::new(due) }, now);
        }
    }

    /// It is not to be tried again.
    pub(super) fn exhausted(&mut self, ticket: Ticket, now: Instant) {
        let is_holding = self.is_holding(ticket);
        let lane = self.lane(ticket.lane);
        if let Some(parked) = lane.aside.get_mut(&ticket.sequence) {
            parked.attempts += 1;
            parked.is_exhausted = true;
        } else if is_holding {
            // What holds a key is aside.
            let parked = Parked { attempts: 1, is_exhausted: true, ..Parked::new(now) };
            return self.put_head_aside(ticket, parked, now);
        }
        lane.flight = Flight::Burying(ticket.sequence);
        self.actions.push(Action::Bury(ticket));
        self.make_room_behind(ticket.lane, now);
    }

    fn put_head_aside(&mut self, ticket: Ticket, parked: Parked, now: Instant) {
        let lane = self.lane(ticket.lane);
        assert_eq!(lane.queue.pop_front(), Some(ticket.sequence), "a lane is in order");
        lane.alone = lane.alone.saturating_sub(1);
        self.park(ticket.lane, ticket.sequence, parked);
        self.make_room_behind(ticket.lane, now);
    }

    /// Finds out what comes next in a lane to which nothing happens. A lane with nothing left is forgotten.
    pub(super) fn settle(&mut self, id: u64, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if let Some(time) = lane.due.take() {
            self.due.remove(time, id);
        }
        if lane.flight != Flight::None || lane.reserved > 0 {
            return;
        }
        let sequence = match lane.turn() {
            Turn::Queue(_) => {
                if !std::mem::replace(&mut lane.is_ready, true) {
                    self.ready.push_back((now, id));
                }
                return;
            }
            Turn::Nobody => {
                if let Some(key) = self.lanes.remove(&id).and_then(|lane| lane.key) {
                    self.names.remove(&key);
                }
                return;
            }
            Turn::Aside(sequence) => sequence,
        };
        let parked = &lane.aside[&sequence];
        if parked.state == State::Writing || parked.held.is_some() {
            return;
        }
        if sequence > self.window.read() && !parked.is_redriven {
            self.due.gate(sequence, id);
        } else if parked.is_exhausted {
            lane.flight = Flight::Burying(sequence);
            self.actions.push(Action::Bury(Ticket { lane: id, sequence }));
        } else {
            lane.due = Some(parked.due);
            self.due.insert(parked.due, id);
        }
    }

    /// Events aside whose turn has come as the cursor has passed them.
    pub(super) fn release_gated(&mut self, now: Instant) {
        while let Some(id) = self.due.pop_gated(self.window.read()) {
            self.settle(id, now);
        }
    }

    pub(super) fn next_due(&mut self, now: Instant) -> Option<Request> {
        let id = self.due.pop(now)?;
        let lane = self.lane(id);
        lane.due = None;
        let (sequence, parked) = lane.aside.first_key_value().expect("who is due has something aside");
        let (sequence, attempt) = (*sequence, parked.attempts + 1);
        lane.flight = Flight::Aside(sequence);
        self.begin(id, now);
        self.in_flight += 1;
        Some(Request { tickets: vec![Ticket { lane: id, sequence }], attempt, is_aside: true })
    }

    pub(super) fn next_ready(&mut self, now: Instant) -> Option<Request> {
        let size = if self.paused.is_some() { 1 } else { self.rules.batch.map_or(1, |batch| batch.size) };
        if !self.is_batch_complete(size, now) {
            return None;
        }
        let mut tickets = Vec::with_capacity(size.min(self.waiting));
        while tickets.len() < size
            && let Some((since, id)) = self.ready.pop_front()
        {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.is_ready = false;
            let Turn::Queue(there) = lane.turn() else { continue };
            if lane.flight != Flight::None || lane.reserved > 0 {
                continue;
            }
            let is_alone = lane.alone > 0;
            if is_alone && !tickets.is_empty() {
                lane.is_ready = true;
                self.ready.push_front((since, id));
                break;
            }
            let count = if is_alone { 1 } else { (size - tickets.len()).min(there) };
            tickets.extend(lane.queue.iter().take(count).map(|sequence| Ticket { lane: id, sequence: *sequence }));
            lane.flight = Flight::Queue(count);
            self.waiting -= count;
            self.begin(id, now);
            if is_alone {
                break;
            }
        }
        if tickets.is_empty() {
            return None;
        }
        self.in_flight += 1;
        Some(Request { tickets, attempt: 1, is_aside: false })
    }

    /// Whether the first that is ready need not wait for others.
    fn is_batch_complete(&self, size: usize, now: Instant) -> bool {
        let Some((since, first)) = self.ready.front() else { return false };
        let Some(batch) = self.rules.batch.filter(|_| self.paused.is_none()) else { return true };
        now >= *since + batch.wait || self.waiting >= size || self.lanes.get(first).is_none_or(|lane| lane.alone > 0)
    }

    fn begin(&mut self, id: u64, now: Instant) {
        self.flight_number += 1;
        let number = self.flight_number;
        self.lane(id).flight_number = number;
        self.flights.push_back((now, id, number));
    }
}
