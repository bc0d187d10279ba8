//! What lanes decide is done here, and what came of it is told to them.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Body, Delivering, Happening, Place, Work};
use crate::link::Session;
use crate::subscription::courier::{Courier, Delivery, Marks};
use crate::subscription::kept::{GONE, Kept};
use crate::subscription::lanes::{Action, Outcome, Request, Room, Ticket};

impl Delivering {
    /// Does all that can be done now.
    pub(super) async fn act(&mut self, session: &Session, now: Instant) {
        let time = now.into_std();
        self.lanes.tick(time);
        while let Some(request) = self.lanes.next(time) {
            self.send(request);
        }
        // Actions of a kind come in the order of the events, and are begun in it.
        for action in self.lanes.take_actions() {
            match action {
                Action::Park(ticket) => self.park(ticket, now),
                Action::Forget(ticket) => self.forget(ticket),
                Action::Bury(ticket) => self.bury(ticket),
            }
        }
        self.record(now);
        self.go_on_reading(session, now).await;
        self.set_back(now);
    }

    async fn go_on_reading(&mut self, session: &Session, now: Instant) {
        if !self.is_reading() {
            return;
        }
        let limits = &self.surroundings.limits;
        let (events, bytes) = (limits.buffer_events_max, limits.buffer_bytes_max);
        // What is aside may wait for the cursor.
        let is_parked_full = self.lanes.parked().0 >= limits.parked_max && !self.lanes.is_gated();
        let room =
            if is_parked_full || !self.lanes.window.has_room() { 0 } else { events.saturating_sub(self.bodies.len()) };
        let room_bytes = bytes.saturating_sub(self.bytes);
        let left = match (room, room_bytes) {
            (0, _) | (_, 0) => Room::None,
            (room, left) if room < events / 2 || left < bytes / 2 || self.lanes.window.is_half_full() => Room::Little,
            _ => Room::Plenty,
        };
        self.lanes.room(left, now.into_std());
        self.counting.is_parked_full = is_parked_full;
        if let Place::Open(cursor) = &mut self.cursor {
            if cursor.pull(room, room_bytes).await.is_err() {
                self.close();
            }
        } else if matches!(self.cursor, Place::None(at) if at <= now) && !session.is_lost() {
            self.open(session);
        }
    }

    fn record(&mut self, now: Instant) {
        let (change, at) = (self.lanes.changes(), self.record_at());
        let recording = &mut self.recording;
        if recording.is_on || change <= recording.recorded || now < at {
            return;
        }
        (recording.is_on, recording.since) = (true, now);
        let (store, record) = (self.store.clone(), self.lanes.window.record());
        self.work.push(Box::pin(async move {
            store.record(&record).await;
            Happening::Recorded { change }
        }));
    }

    fn send(&mut self, request: Request) {
        let connection = self.idle.pop();
        let courier = Arc::clone(&self.compiled.courier);
        let work: Work = if request.is_aside {
            let sequence = request.tickets[0].sequence;
            let (store, stored) = (self.store.clone(), self.stored[&sequence]);
            let in_memory = self.bodies.get(&sequence);
            let in_memory = in_memory.and_then(|body| Some((body.kept.as_deref()?.clone(), body.event.clone())));
            let is_batch = self.compiled.config.batch.is_some();
            Box::pin(async move {
                let fetched = if in_memory.is_some() { in_memory } else { store.fetch(stored).await };
                let Some(fetched) = fetched else { return Happening::Gone { request } };
                let (kept, event) = &fetched;
                if event.attributes.is_empty() {
                    let delivery = Delivery::refused(GONE, connection);
                    return Happening::Delivered { request, delivery, fetched: Some(Box::new(fetched)) };
                }
                let marks = Marks {
                    attempt: request.attempt,
                    is_redriven: kept.is_redriven,
                    is_replayed: kept.is_replayed,
                    is_out_of_order: kept.is_out_of_order,
                };
                let (headers, body) = compose(&courier, &[event], is_batch, marks);
                let delivery = courier.deliver(connection, headers, body).await;
                Happening::Delivered { request, delivery, fetched: Some(Box::new(fetched)) }
            })
        } else {
            let events: Vec<_> = request.tickets.iter().map(|ticket| &self.bodies[&ticket.sequence].event).collect();
            let is_replayed = request.tickets.iter().all(|ticket| self.lanes.window.is_replayed(ticket.sequence));
            let marks = Marks { attempt: request.attempt, is_replayed, ..Marks::default() };
            let (headers, body) = compose(&courier, &events, self.compiled.config.batch.is_some(), marks);
            Box::pin(async move {
                let delivery = courier.deliver(connection, headers, body).await;
                Happening::Delivered { request, delivery, fetched: None }
            })
        };
        self.work.push(work);
    }

    /// What is kept of an event that is in memory.
    fn kept(&mut self, ticket: Ticket) -> Option<(Kept, &Body)> {
        let is_replayed = self.lanes.window.is_replayed(ticket.sequence);
        let parked = self.lanes.parked_event(ticket).cloned();
        let config = &self.compiled.config;
        let body = self.bodies.get_mut(&ticket.sequence)?;
        let kept = body.kept.get_or_insert_with(|| {
            let mut kept = Kept::new(&config.service, &config.stream, ticket.sequence);
            (kept.topic, kept.key, kept.published) = (body.topic.to_string(), body.key.clone(), body.published);
            kept.is_replayed = is_replayed;
            Box::new(kept)
        });
        if let Some(parked) = parked {
            kept.is_exhausted = parked.is_exhausted;
            kept.held = parked.held;
        }
        Some(((**kept).clone(), body))
    }

    fn park(&mut self, ticket: Ticket, now: Instant) {
        let wait = self.lanes.due_of(ticket).map(|due| due.saturating_duration_since(now.into_std()));
        let store = self.store.clone();
        let is_there = self.stored.contains_key(&ticket.sequence);
        let Some((mut kept, body)) = self.kept(ticket) else { return };
        let wait = wait.filter(|wait| !wait.is_zero()).and_then(|wait| jiff::SignedDuration::try_from(wait).ok());
        kept.due = wait.map(|wait| jiff::Timestamp::now().saturating_add(wait).unwrap_or(jiff::Timestamp::MAX));
        let event = body.event.clone();
        self.work.push(Box::pin(async move {
            let stored = match is_there {
                true => store.put_aside_again(&kept, &event).await,
                false => Some(store.put_aside(&kept, &event).await),
            };
            Happening::Parked { ticket, stored }
        }));
    }

    fn forget(&mut self, ticket: Ticket) {
        let (store, stored) = (self.store.clone(), self.stored.get(&ticket.sequence).copied());
        self.work.push(Box::pin(async move {
            if let Some(stored) = stored {
                store.forget(stored).await;
            }
            Happening::Forgotten { ticket }
        }));
    }

    fn bury(&mut self, ticket: Ticket) {
        let store = self.store.clone();
        let is_holding = self.lanes.is_holding(ticket);
        let stored = self.stored.get(&ticket.sequence).copied();
        let of_memory = self.kept(ticket).map(|(kept, body)| (kept, body.event.clone()));
        self.work.push(Box::pin(async move {
            let (known, is_fetched) = match (of_memory, stored) {
                (Some(known), _) => (Some(known), false),
                // It was aside when the subscription began, with its last attempt behind it.
                (None, Some(stored)) => (store.fetch(stored).await, true),
                (None, None) => (None, false),
            };
            let Some((mut kept, event)) = known else { return Happening::Forgotten { ticket } };
            kept.is_holding = is_holding;
            (kept.held, kept.due) = (None, None);
            let letter = store.bury(&kept, &event).await;
            let fetched = is_fetched.then(|| Box::new((kept, event)));
            Happening::Buried { ticket, letter, fetched }
        }));
    }

    pub(super) fn happened(&mut self, happening: Happening) {
        let now = Instant::now().into_std();
        match happening {
            Happening::Delivered { request, delivery, fetched } => self.delivered(&request, delivery, fetched),
            Happening::Gone { request } => self.lanes.finished(&request.tickets, Outcome::Done, now),
            Happening::Parked { ticket, stored } => {
                self.parked(ticket.sequence, stored);
                self.lanes.was_parked(ticket, now);
            }
            Happening::Forgotten { ticket } => {
                self.stored.remove(&ticket.sequence);
                self.forget_body(ticket.sequence);
                self.lanes.was_forgotten(ticket, now);
            }
            Happening::Buried { ticket, letter, fetched } => {
                if let Some(fetched) = fetched {
                    self.remember(ticket.sequence, *fetched);
                }
                self.counting.reading.dead_lettered += 1;
                self.lanes.was_buried(ticket, letter, now);
                if self.lanes.parked_event(ticket).is_none() {
                    self.forget_body(ticket.sequence);
                }
            }
            Happening::Closed => {}
            Happening::Recorded { change } => {
                self.recording.is_on = false;
                self.recording.recorded = self.recording.recorded.max(change);
                self.lanes.was_recorded(change, now);
                let replies = std::mem::take(&mut self.recording.replies);
                for (wanted, replay, reply) in replies {
                    if wanted <= change {
                        // Whoever asked may have gone.
                        let _ = reply.send(Ok(replay));
                    } else {
                        self.recording.replies.push((wanted, replay, reply));
                    }
                }
            }
            Happening::Opened(from, opened) => self.opened(from, opened),
            Happening::Redriven { letter, kept, stored, reply } => self.redriven(letter, &kept, stored, reply),
            Happening::NotRedriven { number, key, error, reply } => {
                self.not_redriven(number, key.as_ref(), error, reply);
            }
            Happening::Dropped { letter, number, reply } => self.dropped(letter, number, reply),
            Happening::Sought(since, sought) => self.sought(since, sought),
            Happening::Rest { from, last, is_none } => self.rest(from, last, is_none),
            Happening::Pending { read, pending } => {
                self.is_asking = false;
                match (&mut self.cursor, pending) {
                    (Place::Open(cursor), Some(pending)) if read == self.lanes.window.read() => {
                        cursor.pending = pending;
                    }
                    // The server forgets a consumer from which nobody reads.
                    (Place::Open(cursor), None) if !cursor.is_waiting() => self.close(),
                    _ => {}
                }
            }
            Happening::Stepped(from, stepped) => self.stepped(from, stepped),
        }
    }

    /// Limit: what finds no room in the broker stays in memory as far as the buffer goes; beyond it what is there counts.
    fn parked(&mut self, sequence: u64, stored: Option<u64>) {
        let is_full = stored.is_none();
        if is_full && !self.counting.is_aside_full {
            let subscription = &self.compiled.config.name;
            tracing::warn!(subscription, "what waits aside has no room: newer attempts are remembered in memory only");
        }
        self.counting.is_aside_full = is_full;
        if let Some(stored) = stored {
            self.stored.insert(sequence, stored);
        }
        if !is_full || self.bytes > self.surroundings.limits.buffer_bytes_max {
            self.forget_body(sequence);
        }
    }

    fn delivered(&mut self, request: &Request, delivery: Delivery, fetched: Option<Box<(Kept, crate::Event)>>) {
        let Delivery { outcome, attempt, nobody, connection } = delivery;
        if let Some(connection) = connection
            && self.idle.len() < self.compiled.config.concurrency
        {
            self.idle.push(connection);
        }
        self.nobody = nobody;
        if let Some(fetched) = fetched
            && outcome != Outcome::Done
            && outcome != Outcome::Unreachable
        {
            self.remember(request.tickets[0].sequence, *fetched);
        }
        self.counting.attempted(request, outcome);
        if let [ticket] = &request.tickets[..]
            && matches!(outcome, Outcome::Failed { .. } | Outcome::Refused)
        {
            let max = self.compiled.config.max_deliver;
            let status = attempt.status.map_or_else(|| attempt.answer.clone(), |status| format!("status {status}"));
            if self.kept(*ticket).is_some()
                && let Some(kept) = self.bodies.get_mut(&ticket.sequence).and_then(|body| body.kept.as_deref_mut())
            {
                kept.add(attempt);
                kept.reason = match outcome {
                    Outcome::Refused => format!("refused: {status}"),
                    _ => format!("attempt {} of {max} failed: {status}", kept.attempts_count),
                };
            }
        }
        self.lanes.finished(&request.tickets, outcome, Instant::now().into_std());
        if outcome == Outcome::Done && !request.is_aside {
            for ticket in &request.tickets {
                self.forget_body(ticket.sequence);
            }
        }
    }
}

fn compose(
    courier: &Courier,
    events: &[&crate::Event],
    is_batch: bool,
    marks: Marks,
) -> (http::HeaderMap, bytes::Bytes) {
    match events {
        [event] if !is_batch => courier.single(event, marks),
        events => courier.batch(events, marks),
    }
}
