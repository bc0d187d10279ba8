//! Which event is sent next: events of one key one after the other, keys in parallel, those behind a failed one aside.
//! Pure: time is a value, and what is to be done comes out as [`Action`]s. Called by the subscription, which has the events
//! themselves; here they are numbers, which `progress` gives them.

mod due;
mod lane;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use due::Due;
use kit::backoff::Backoff;
use lane::{Flight, State, Turn};
pub(crate) use lane::{Lane, Parked};

use super::progress::{Window, sequence_of};
use crate::{Batch, OnDeadLetter};

/// How long a head may be in flight, or wait for its next attempt, before those behind it make room for others.
const SLOW: Duration = Duration::from_secs(1);
/// As many may wait behind a slow head.
const FEW: usize = 8;
/// While the buffer is full and there is nothing to send, it must empty at a pace that takes no longer than this for all of it.
const TURNOVER: u32 = 10;
/// How long to wait before asking again whether anybody is there.
const PROBES: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

/// What is declared of the subscription.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) concurrency: usize,
    pub(crate) max_deliver: u32,
    pub(crate) backoff: Vec<Duration>,
    pub(crate) on_dead_letter: OnDeadLetter,
    pub(crate) batch: Option<Batch>,
}

impl Rules {
    /// The pause after the given number of failed attempts.
    pub(crate) fn pause(&self, attempts: u32) -> Duration {
        let at = usize::try_from(attempts).unwrap_or(usize::MAX).saturating_sub(1);
        self.backoff.get(at).or(self.backoff.last()).copied().unwrap_or_default()
    }
}

/// An event in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket {
    lane: u64,
    pub(crate) sequence: u64,
}

/// What goes into one request, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) tickets: Vec<Ticket>,
    /// How often it was tried, this time included.
    pub(crate) attempt: u32,
    /// Its event is aside, and not in memory.
    pub(crate) is_aside: bool,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// To be tried again, and not before this time is over.
    Failed {
        retry_after: Option<Duration>,
    },
    /// Never to be tried again.
    Refused,
    /// Nobody was there to be asked.
    Unreachable,
}

/// What the subscription must do. Each is answered by a call of the method that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Put it aside, with its attempts and what holds it: [`Lanes::parked`].
    Park(Ticket),
    /// Take it out of what is aside: [`Lanes::forgotten`].
    Forget(Ticket),
    /// Keep it as a dead letter: [`Lanes::buried`].
    Bury(Ticket),
}

/// Nobody is there.
#[derive(Clone, Copy, Debug)]
struct Pause {
    probe_at: Instant,
    probes: u32,
    /// Flights beyond it are probes.
    since: u64,
    is_probing: bool,
}

/// How much room there is for events in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Plenty,
    /// Who waits for one that failed goes aside at once.
    Little,
    /// Nothing more is read.
    None,
}

/// The buffer is full, and there is nothing to send.
#[derive(Clone, Copy, Debug)]
struct Stall {
    since: Instant,
    done: u64,
}

/// The way of an event:
///
/// ```text
///            arrive                 next                 finished: done
///  cursor ───────────► queue ───────────────► in flight ────────────────► window.done
///            │           │ no room behind a head    │ failed
///            │           ▼ that fails or hangs      ▼
///            └──────► aside: Writing ─parked─► Resting ─next─► in flight ─► Removing ─forgotten─► gone
///                                                   ▲ failed: Writing again     │ out of attempts
///                                                   └── redrive ── Held ◄── buried (hold_key; else Removing)
/// ```
#[derive(Debug)]
pub(crate) struct Lanes {
    rules: Rules,
    pub(crate) window: Window,
    lanes: HashMap<u64, Lane>,
    names: HashMap<Arc<str>, u64>,
    room: Room,
    /// Where each event is that is aside.
    aside: HashMap<u64, u64>,
    next_lane: u64,
    /// Lanes whose head is in memory, by when it came to be the head.
    ready: VecDeque<(Instant, u64)>,
    /// Events in memory that nobody has been asked to take.
    waiting: usize,
    due: Due,
    /// Requests, by the time at which they began.
    flights: VecDeque<(Instant, u64, u64)>,
    in_flight: usize,
    flight_number: u64,
    actions: Vec<Action>,
    paused: Option<Pause>,
    stall: Option<Stall>,
    /// Changes of the window, and how many of them are on disk.
    changes: u64,
    recorded: u64,
    /// Nothing goes on before this change is on disk: after a crash a repeat would come alone.
    begins: u64,
    /// What goes on once a change is on disk.
    recording: VecDeque<(u64, Ticket)>,
    done: u64,
    /// Whether an event that is due aside goes before one in memory.
    is_turn_of_due: bool,
    is_receding: bool,
    diverted: usize,
    held: usize,
    /// Events that go aside for the first time and are not there yet.
    parking: usize,
    random: fastrand::Rng,
}

impl Lanes {
    pub(crate) fn new(rules: Rules, window: Window, seed: u64) -> Self {
        Self {
            rules,
            window,
            lanes: HashMap::new(),
            names: HashMap::new(),
            room: Room::Plenty,
            aside: HashMap::new(),
            next_lane: 0,
            ready: VecDeque::new(),
            waiting: 0,
            due: Due::default(),
            flights: VecDeque::new(),
            in_flight: 0,
            flight_number: 0,
            actions: Vec::new(),
            paused: None,
            stall: None,
            changes: 0,
            recorded: 0,
            begins: 0,
            recording: VecDeque::new(),
            done: 0,
            is_turn_of_due: false,
            is_receding: false,
            diverted: 0,
            held: 0,
            parking: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// With the same rules, and another window.
    pub(crate) fn renewed(&mut self, window: Window) -> Self {
        Self::new(self.rules.clone(), window, self.random.u64(..))
    }

    /// When an event aside is tried again.
    pub(crate) fn due_of(&self, ticket: Ticket) -> Option<Instant> {
        self.parked_event(ticket).map(|parked| parked.due)
    }

    /// Read, not done, and not on its way aside.
    pub(crate) fn open_in_memory(&self) -> usize {
        self.window.open().saturating_sub(self.parking)
    }

    /// Tells of each later sequence whether it was done.
    pub(crate) fn done_beyond(&self, sequence: u64) -> impl Fn(u64) -> bool + Send + use<> {
        let aside: HashSet<u64> = self.aside.keys().copied().filter(|one| *one > sequence).collect();
        let is_done = self.window.done_then();
        move |one| is_done(one) && !aside.contains(&one)
    }

    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Events aside, keys with any, and keys that are held.
    pub(crate) fn parked(&self) -> (usize, usize, usize) {
        (self.aside.len(), self.diverted, self.held)
    }

    pub(crate) fn is_aside(&self, sequence: u64) -> bool {
        self.aside.contains_key(&sequence)
    }

    pub(crate) fn is_held(&self, sequence: u64) -> bool {
        self.held_by(sequence).is_some()
    }

    /// The dead letter for which an event waits.
    pub(crate) fn held_by(&self, sequence: u64) -> Option<u64> {
        self.aside.get(&sequence).and_then(|lane| self.lanes[lane].aside.get(&sequence))?.held
    }

    /// What is known of an event that is aside.
    pub(crate) fn parked_event(&self, ticket: Ticket) -> Option<&Parked> {
        self.lanes.get(&ticket.lane)?.aside.get(&ticket.sequence)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Nothing is under way that must end.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight == 0 && self.lanes.values().all(Lane::is_quiet)
    }

    /// Something that lay aside when the subscription began.
    pub(crate) fn restore(&mut self, sequence: u64, key: Option<&Arc<str>>, parked: Parked, now: Instant) {
        let id = self.lane_of(key);
        self.insert_aside(id, sequence, parked);
        self.settle(id, now);
    }

    /// An event was read. Its key decides where it goes.
    pub(crate) fn arrive(&mut self, sequence: u64, key: Option<&Arc<str>>, now: Instant) -> Arrival {
        if self.window.was_done(sequence) || self.is_aside(sequence) {
            self.pass(sequence, now);
            return Arrival::Known;
        }
        self.window.push(sequence);
        let id = self.lane_of(key);
        self.lane(id).queue.push_back(sequence);
        self.waiting += 1;
        self.make_room_behind(id, now);
        self.settle(id, now);
        self.release_gated(now);
        Arrival::New
    }

    /// An event was read that is not for this subscription.
    pub(crate) fn pass(&mut self, sequence: u64, now: Instant) {
        self.window.pass(sequence);
        self.changes += 1;
        self.release_gated(now);
    }

    /// What to send now, if anything.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Request> {
        if self.in_flight >= self.rules.concurrency || self.is_standing() {
            return None;
        }
        if self.paused.is_some_and(|pause| pause.is_probing || now < pause.probe_at) {
            return None;
        }
        self.is_turn_of_due = !self.is_turn_of_due;
        let next = if self.is_turn_of_due {
            self.next_due(now).or_else(|| self.next_ready(now))
        } else {
            self.next_ready(now).or_else(|| self.next_due(now))
        };
        if let Some(pause) = &mut self.paused {
            pause.is_probing = next.is_some();
        }
        next
    }

    /// When [`Self::next`] or [`Self::tick`] have something to do without anything else having happened.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let slow = self.flights.front().map(|(began, ..)| *began + SLOW);
        if self.in_flight >= self.rules.concurrency || self.is_standing() {
            return slow;
        }
        let due = self.due.first();
        let batch = self.rules.batch.and_then(|batch| Some(self.ready.front()?.0 + batch.wait));
        let something = match self.paused {
            Some(Pause { is_probing: true, .. }) => None,
            Some(pause) if !self.ready.is_empty() => Some(pause.probe_at),
            Some(pause) => due.map(|due| due.max(pause.probe_at)),
            None => due.into_iter().chain(batch).min(),
        };
        slow.into_iter().chain(something).min()
    }

    /// Time has passed: who is behind a slow head makes room.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some((began, id, number)) = self.flights.front().copied() {
            if began + SLOW > now {
                break;
            }
            self.flights.pop_front();
            if let Some(lane) = self.lanes.get_mut(&id)
                && lane.flight_number == number
                && matches!(lane.flight, Flight::Queue(_) | Flight::Aside(_))
            {
                lane.is_slow = true;
                self.make_room_behind(id, now);
            }
        }
    }

    /// How much room there is now.
    pub(crate) fn room(&mut self, room: Room, now: Instant) {
        let before = std::mem::replace(&mut self.room, room);
        if before == Room::Plenty && room != Room::Plenty {
            let behind: Vec<u64> =
                self.lanes.iter().filter(|(_, lane)| !lane.aside.is_empty()).map(|(id, _)| *id).collect();
            for id in behind {
                self.make_room_behind(id, now);
            }
        }
        match room {
            Room::None => self.full(now),
            Room::Plenty | Room::Little => self.stall = None,
        }
    }

    /// The buffer is full. Where nothing of it can be sent and it empties too slowly, the longest lane goes aside, for others
    /// may wait behind it.
    fn full(&mut self, now: Instant) {
        if self.in_flight >= self.rules.concurrency || self.paused.is_some() || self.is_standing() {
            self.stall = None;
            return;
        }
        let stall = *self.stall.get_or_insert(Stall { since: now, done: self.done });
        if now < stall.since + SLOW {
            return;
        }
        self.stall = None;
        let done = usize::try_from(self.done - stall.done).unwrap_or(usize::MAX);
        if done.saturating_mul(TURNOVER as usize) >= self.window.open() {
            return;
        }
        let longest = self.lanes.iter().max_by_key(|(_, lane)| lane.queue.len()).map(|(id, _)| *id);
        if let Some(id) = longest {
            self.divert(id, now);
            self.settle(id, now);
        }
    }

    /// A request has come to its end.
    pub(crate) fn finished(&mut self, tickets: &[Ticket], outcome: Outcome, now: Instant) {
        self.in_flight -= 1;
        let number = tickets.first().map_or(0, |first| self.lane(first.lane).flight_number);
        self.paused = match self.paused {
            _ if outcome != Outcome::Unreachable => None,
            // It began before, and says nothing new.
            Some(pause) if number <= pause.since => Some(pause),
            pause => {
                let probes = pause.map_or(0, |pause| pause.probes + 1);
                let probe_at = now + PROBES.delay(probes, self.random.f64());
                Some(Pause { probe_at, probes, since: self.flight_number, is_probing: false })
            }
        };
        let is_batch = tickets.len() > 1;
        let mut rest = tickets;
        while let Some(first) = rest.first() {
            let count = rest.iter().take_while(|ticket| ticket.lane == first.lane).count();
            self.finished_in_lane(&rest[..count], outcome, is_batch, now);
            rest = &rest[count..];
        }
    }

    fn finished_in_lane(&mut self, tickets: &[Ticket], outcome: Outcome, is_batch: bool, now: Instant) {
        let ticket = tickets[0];
        let lane = self.lane(ticket.lane);
        let flight = std::mem::replace(&mut lane.flight, Flight::None);
        lane.is_slow = false;
        let is_aside = matches!(flight, Flight::Aside(_));
        match outcome {
            Outcome::Done if is_aside => self.done_aside(ticket),
            Outcome::Done => {
                self.done += tickets.len() as u64;
                self.done_in_queue(tickets);
            }
            // Nobody knows which of them it was: each is asked for alone, and only that is an attempt.
            Outcome::Failed { .. } | Outcome::Refused if is_batch => {
                lane.alone = lane.alone.max(tickets.len());
                self.waiting += tickets.len();
            }
            Outcome::Unreachable if is_aside => {}
            Outcome::Unreachable => self.waiting += tickets.len(),
            Outcome::Failed { retry_after } => self.failed(ticket, retry_after, now),
            Outcome::Refused => self.exhausted(ticket, now),
        }
        // What failed while others of its lane had gone aside follows them; what nobody was there for stays.
        self.settle(ticket.lane, now);
    }

    fn done_in_queue(&mut self, tickets: &[Ticket]) {
        let lane = self.lane(tickets[0].lane);
        for ticket in tickets {
            assert_eq!(lane.queue.pop_front(), Some(ticket.sequence), "a lane is in order");
        }
        lane.alone = lane.alone.saturating_sub(tickets.len());
        let is_diverted = matches!(lane.turn(), Turn::Aside(_));
        if is_diverted {
            lane.flight = Flight::Recording;
        }
        for ticket in tickets {
            self.window.done(ticket.sequence);
        }
        self.changes += 1;
        if is_diverted {
            self.recording.push_back((self.changes, tickets[0]));
        }
    }

    fn done_aside(&mut self, ticket: Ticket) {
        self.done += 1;
        self.remove(ticket);
    }

    /// Takes it out of what is aside once it is on record that it need not be read again: a repeat would come behind others.
    fn remove(&mut self, ticket: Ticket) {
        let lane = self.lane(ticket.lane);
        lane.flight = Flight::Removing(ticket.sequence);
        let change = lane.aside.get(&ticket.sequence).and_then(|parked| parked.change);
        let change = change.unwrap_or(self.changes);
        if change <= self.recorded {
            self.actions.push(Action::Forget(ticket));
        } else {
            self.recording.push_back((change, ticket));
        }
    }

    /// The record of the window with this change is on disk.
    pub(crate) fn was_recorded(&mut self, change: u64, now: Instant) {
        self.recorded = self.recorded.max(change);
        let waiting = std::mem::take(&mut self.recording);
        let (ready, rest): (VecDeque<_>, _) = waiting.into_iter().partition(|(change, _)| *change <= self.recorded);
        self.recording = rest;
        for (_, ticket) in ready {
            let lane = self.lane(ticket.lane);
            if lane.flight == Flight::Recording {
                lane.flight = Flight::None;
                self.settle(ticket.lane, now);
            } else {
                self.actions.push(Action::Forget(ticket));
            }
        }
    }

    /// Whether something goes on only once the record says what was done.
    pub(crate) fn is_awaiting_record(&self) -> bool {
        !self.recording.is_empty() || self.recorded < self.begins
    }

    /// Counts what the record would say anew.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The event is safely aside.
    pub(crate) fn was_parked(&mut self, ticket: Ticket, now: Instant) {
        if self.window.is_open(ticket.sequence) {
            self.parking = self.parking.saturating_sub(1);
        }
        self.window.done(ticket.sequence);
        self.changes += 1;
        let change = self.changes;
        if let Some(parked) = self.lanes.get_mut(&ticket.lane).and_then(|lane| lane.aside.get_mut(&ticket.sequence)) {
            (parked.state, parked.change) = (State::Resting, Some(change));
            self.settle(ticket.lane, now);
        }
    }

    /// The event is aside no more.
    pub(crate) fn was_forgotten(&mut self, ticket: Ticket, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&ticket.lane) else { return };
        lane.flight = Flight::None;
        self.remove_aside(ticket);
        self.settle(ticket.lane, now);
    }

    /// The event is a dead letter, whose number it is.
    pub(crate) fn was_buried(&mut self, ticket: Ticket, letter: u64, now: Instant) {
        let is_holding = self.is_holding(ticket);
        let Some(lane) = self.lanes.get_mut(&ticket.lane) else { return };
        lane.flight = Flight::None;
        if let Some(parked) = lane.aside.get_mut(&ticket.sequence) {
            if is_holding {
                parked.held = Some(letter);
                parked.state = State::Writing;
                self.held += 1;
                self.actions.push(Action::Park(ticket));
                self.make_room_behind(ticket.lane, now);
            } else {
                self.remove(ticket);
            }
        } else {
            self.done_in_queue(&[ticket]);
        }
        self.settle(ticket.lane, now);
    }

    /// Whether those behind the event wait once it is a dead letter.
    pub(crate) fn is_holding(&self, ticket: Ticket) -> bool {
        let is_keyed = self.lanes.get(&ticket.lane).is_some_and(|lane| lane.key.is_some());
        is_keyed && self.rules.on_dead_letter == OnDeadLetter::HoldKey
    }

    /// A dead letter, safely aside again, is due now. What is still aside of it is replaced.
    pub(crate) fn redrive(&mut self, sequence: u64, key: Option<&Arc<str>>, now: Instant) {
        self.drop_aside(sequence, now);
        let id = self.lane_of(key);
        self.insert_aside(id, sequence, Parked { state: State::Resting, is_redriven: true, ..Parked::new(now) });
        self.make_room_behind(id, now);
        self.settle(id, now);
    }

    /// Nothing of the key begins until it is [released](Self::release) as often. Whether a later event is in flight.
    pub(crate) fn reserve(&mut self, key: &Arc<str>, sequence: u64, now: Instant) -> bool {
        let id = self.lane_of(Some(key));
        let lane = self.lane(id);
        lane.reserved += 1;
        let is_later_in_flight = match lane.flight {
            Flight::Queue(count) => lane.queue.iter().take(count).any(|one| *one > sequence),
            Flight::Aside(one) | Flight::Removing(one) => one > sequence,
            Flight::None | Flight::Burying(_) | Flight::Recording => false,
        };
        self.settle(id, now);
        is_later_in_flight
    }

    pub(crate) fn release(&mut self, key: &Arc<str>, now: Instant) {
        let id = self.lane_of(Some(key));
        let lane = self.lane(id);
        lane.reserved = lane.reserved.saturating_sub(1);
        self.settle(id, now);
    }

    /// Whether nothing happens to an event at the moment, so that it can be put aside, replaced there, or taken out.
    pub(crate) fn is_resting(&self, sequence: u64) -> bool {
        let Some(lane) = self.aside.get(&sequence).and_then(|id| self.lanes.get(id)) else {
            return !self.window.is_open(sequence);
        };
        let is_in_flight = match lane.flight {
            Flight::Aside(one) | Flight::Burying(one) | Flight::Removing(one) => one == sequence,
            Flight::None | Flight::Queue(_) | Flight::Recording => false,
        };
        !is_in_flight && lane.aside.get(&sequence).is_some_and(|parked| parked.state == State::Resting)
    }

    /// An event aside is not sent until it is [let go](Self::let_go), or redriven.
    pub(crate) fn detain(&mut self, sequence: u64, now: Instant) {
        self.mark(sequence, State::Writing, now);
    }

    pub(crate) fn let_go(&mut self, sequence: u64, now: Instant) {
        self.mark(sequence, State::Resting, now);
    }

    fn mark(&mut self, sequence: u64, state: State, now: Instant) {
        let Some(id) = self.aside.get(&sequence).copied() else { return };
        if let Some(parked) = self.lane(id).aside.get_mut(&sequence) {
            parked.state = state;
        }
        self.settle(id, now);
    }

    /// Whether it becomes a dead letter at the moment.
    pub(crate) fn is_burying(&self, sequence: u64) -> bool {
        self.lanes.values().any(|lane| lane.flight == Flight::Burying(sequence))
    }

    /// Whether something aside waits until the cursor has come to it.
    pub(crate) fn is_gated(&self) -> bool {
        self.due.is_gated()
    }

    /// Where anything of a lane is aside, what it has in memory goes there, too: the two are to have numbers of one kind.
    pub(crate) fn gather(&mut self, now: Instant) {
        let mixed = self.lanes.iter().filter(|(_, lane)| !lane.aside.is_empty() && !lane.queue.is_empty());
        for id in mixed.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.divert_behind(id, 0, now);
            self.settle(id, now);
        }
    }

    /// An event that was held is aside no more.
    pub(crate) fn drop_aside(&mut self, sequence: u64, now: Instant) {
        if let Some(lane) = self.aside.get(&sequence).copied() {
            self.remove_aside(Ticket { lane, sequence });
            self.settle(lane, now);
        }
    }

    /// It ends: what is in memory is given up, what is under way ends.
    pub(crate) fn recede(&mut self) {
        self.is_receding = true;
        for lane in self.lanes.values_mut() {
            let kept = lane.kept();
            self.waiting -= lane.queue.len() - kept;
            lane.queue.truncate(kept);
        }
    }

    /// Nothing is sent until it is [set back](Self::set_back) or [goes on](Self::resume).
    pub(crate) fn hold(&mut self) {
        self.is_receding = true;
    }

    /// Whether nothing is to be sent or read: what is under way ends, or where it begins again is not on disk yet.
    pub(crate) fn is_standing(&self) -> bool {
        self.is_receding || self.recorded < self.begins
    }

    /// Goes on where it was held.
    pub(crate) fn resume(&mut self) {
        self.is_receding = false;
    }

    /// Begins again at `from`, with nothing under way. What is not done before it is read again, too.
    pub(crate) fn set_back(&mut self, from: u64, now: Instant) {
        self.window.set_back(from);
        self.begin_again(now);
    }

    /// The stream has other events than before, and nothing is under way: those that are aside stay.
    pub(crate) fn begin_anew(&mut self, created: i64, now: Instant) {
        self.window.begin_anew(created);
        self.begin_again(now);
    }

    /// The highest sequence that the stream was ever known to have.
    pub(crate) fn last_known(&self) -> u64 {
        let base = self.window.number(0);
        let aside = self.aside.keys().copied().filter(|number| *number > base).max();
        sequence_of(aside.unwrap_or_default().max(self.window.last_known()))
    }

    /// The stream has lost what was behind `last`, and nothing is under way: what is aside stays.
    pub(crate) fn cut(&mut self, last: u64, now: Instant) {
        self.window.cut(last, self.aside.keys().copied());
        self.begin_again(now);
    }

    fn begin_again(&mut self, now: Instant) {
        self.changes += 1;
        self.begins = self.changes;
        self.is_receding = false;
        self.ready.clear();
        self.due = Due::default();
        (self.waiting, self.parking) = (0, 0);
        let ids: Vec<u64> = self.lanes.keys().copied().collect();
        for id in ids {
            let lane = self.lane(id);
            lane.queue.clear();
            lane.alone = 0;
            lane.is_ready = false;
            lane.due = None;
            lane.aside.values_mut().for_each(|parked| parked.change = None);
            self.settle(id, now);
        }
    }
}

/// Whether an event that was read is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    New,
    /// It was delivered, or is aside.
    Known,
}
