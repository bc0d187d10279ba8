//! What of a consumer outlives a restart: how far it has delivered, what it waits for, what it has given up. Every change
//! goes through here and is remembered until `record` writes it down. Knows no clock and no client.

use std::collections::{BTreeMap, VecDeque};

use super::ranges::Ranges;
use super::schedule::Due;

/// Which first deliveries there are to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Whatever matches, from this sequence on.
    At(u64),
    /// These, ascending, and then whatever matches from `resume` on.
    Listed { sequences: Vec<u64>, resume: u64 },
}

/// A place in what was delivered: the consumer's own count, and the stream's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) consumer: u64,
    pub(super) stream: u64,
}

/// A message that was delivered and not acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Of its first delivery.
    pub(super) consumer_sequence: u64,
    pub(super) deliveries: u64,
    /// Not to be delivered again before this time, because a client has asked so; 0: nobody has.
    pub(super) until: i64,
    /// Not kept.
    pub(super) due: Due,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        let kept = |pending: &Self| (pending.consumer_sequence, pending.deliveries, pending.until);
        kept(self) == kept(other)
    }
}

/// See the module. Equal are those that a restart could not tell apart.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(super) delivered: Place,
    pub(super) floor: Place,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// Delivered as often as may be, and not acknowledged.
    pub(super) exhausted: Ranges,
    /// To be delivered before the cursor moves.
    pub(super) listed: VecDeque<u64>,
    /// Where the cursor begins, if it has not come farther.
    pub(super) resume: u64,
    /// How many of `pending` were delivered more than once.
    pub(super) redelivered: usize,
    pub(super) changed: Changed,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        (self.delivered, self.floor, self.resume) == (other.delivered, other.floor, other.resume)
            && (&self.pending, &self.exhausted, &self.listed) == (&other.pending, &other.exhausted, &other.listed)
    }
}

/// What was not yet written down.
#[derive(Debug, Default)]
pub(super) enum Changed {
    #[default]
    Nothing,
    /// The places, and these sequences; some more than once.
    Sequences(Vec<u64>),
    Everything,
}

/// Beyond so many changes, all is written anew.
const CHANGES_MAX: usize = 1 << 16;

impl State {
    pub(super) fn new(start: Start) -> Self {
        let (first, listed, resume) = match start {
            Start::At(first) => (first.max(1), VecDeque::new(), first.max(1)),
            Start::Listed { sequences, resume } => {
                (sequences.first().copied().unwrap_or(resume).max(1), VecDeque::from(sequences), resume)
            }
        };
        let place = Place { consumer: 0, stream: first - 1 };
        Self { delivered: place, floor: place, listed, resume, changed: Changed::Everything, ..Self::default() }
    }

    /// Where the cursor begins.
    pub(super) fn position(&self) -> u64 {
        self.resume.max(self.delivered.stream + 1)
    }

    /// Whether it was delivered, and is neither acknowledged nor gone; or is still to be delivered, where it matches.
    pub(super) fn needs(&self, sequence: u64) -> bool {
        if sequence <= self.delivered.stream {
            return self.pending.contains_key(&sequence) || self.exhausted.contains(sequence);
        }
        sequence >= self.resume || self.listed.binary_search(&sequence).is_ok()
    }

    /// A first delivery. It is done with at once if nothing is acknowledged.
    pub(super) fn deliver(&mut self, sequence: u64, due: Option<Due>) {
        self.delivered.consumer += 1;
        self.advance(sequence);
        match due {
            Some(due) => {
                let consumer_sequence = self.delivered.consumer;
                self.pending.insert(sequence, Pending { consumer_sequence, deliveries: 1, until: 0, due });
                self.touch(sequence);
            }
            None => {
                self.floor = self.delivered;
                self.touch_places();
            }
        }
    }

    /// One more delivery of what is pending; how many it makes.
    pub(super) fn redeliver(&mut self, sequence: u64, due: Due) -> Option<u64> {
        let pending = self.pending.get_mut(&sequence)?;
        self.delivered.consumer += 1;
        pending.deliveries += 1;
        pending.until = 0;
        pending.due = due;
        let deliveries = pending.deliveries;
        self.redelivered += usize::from(deliveries == 2);
        self.touch(sequence);
        Some(deliveries)
    }

    /// Stands elsewhere in the schedule; a restart need not know.
    pub(super) fn reschedule(&mut self, sequence: u64, due: Due) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.due = due;
        }
    }

    /// Not before `until`.
    pub(super) fn delay(&mut self, sequence: u64, until: i64, due: Due) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.until = until;
            pending.due = due;
            self.touch(sequence);
        }
    }

    /// Acknowledged or gone. What it was, if it was pending.
    pub(super) fn settle(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.take(sequence);
        if let Some(pending) = &pending {
            self.move_floor(pending);
        } else if self.exhausted.remove(sequence) {
            self.touch(sequence);
        }
        pending
    }

    /// Acknowledged by what was delivered as `consumer`, and with it all before. What is not needed any more.
    pub(super) fn settle_to(&mut self, sequence: u64, consumer: u64) -> Vec<(u64, Due)> {
        let pending = self.pending.range(..=sequence);
        let mut settled: Vec<_> = pending.map(|(sequence, pending)| (*sequence, pending.due)).collect();
        for (sequence, _) in &settled {
            self.take(*sequence);
        }
        if !settled.is_empty() {
            self.floor.consumer = self.floor.consumer.max(consumer.min(self.delivered.consumer));
            self.floor.stream = self.floor.stream.max(sequence.min(self.delivered.stream));
        }
        let exhausted = self.exhausted.iter().take_while(|(first, _)| *first <= sequence);
        settled.extend(exhausted.flat_map(|(first, last)| (first..=last.min(sequence)).map(|at| (at, Due::Unknown))));
        self.give_up_to(sequence);
        settled
    }

    /// Was delivered often enough.
    pub(super) fn exhaust(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.take(sequence)?;
        self.exhausted.insert(sequence);
        Some(pending)
    }

    /// Nothing before `first` is there any more; what was pending there has been settled.
    pub(super) fn skip_to(&mut self, first: u64) {
        let last = first.saturating_sub(1);
        self.give_up_to(last);
        self.advance(last);
        self.floor.stream = self.floor.stream.max(last);
        self.close_floor();
        self.touch_places();
    }

    /// Forgets which ones were exhausted, up to here.
    fn give_up_to(&mut self, last: u64) {
        let gone: Vec<_> = self.exhausted.iter().take_while(|(start, _)| *start <= last).collect();
        for (start, end) in gone {
            (start..=end.min(last)).for_each(|sequence| self.touch(sequence));
        }
        self.exhausted.remove_range(0, last);
    }

    /// Nothing behind `last` was there yet: the stream has lost what was.
    pub(super) fn clamp(&mut self, last: u64) {
        if self.delivered.stream <= last {
            return;
        }
        self.delivered.stream = last;
        self.floor.stream = self.floor.stream.min(last);
        let lost = self.pending.split_off(&(last + 1));
        self.redelivered -= lost.values().filter(|pending| pending.deliveries > 1).count();
        self.exhausted.remove_range(last + 1, u64::MAX);
        self.listed.clear();
        self.resume = self.resume.min(last + 1);
        self.close_floor();
        self.changed = Changed::Everything;
    }

    fn advance(&mut self, sequence: u64) {
        self.delivered.stream = self.delivered.stream.max(sequence);
        while self.listed.front().is_some_and(|listed| *listed <= self.delivered.stream) {
            self.listed.pop_front();
        }
    }

    fn take(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.pending.remove(&sequence)?;
        self.redelivered -= usize::from(pending.deliveries > 1);
        self.touch(sequence);
        Some(pending)
    }

    /// The floor moves when what lies at it is settled, and to the end when nothing is pending. What was given up holds
    /// it, as in NATS.
    fn move_floor(&mut self, settled: &Pending) {
        if settled.consumer_sequence == self.floor.consumer + 1
            && let Some((sequence, first)) = self.pending.first_key_value()
        {
            self.floor = Place { consumer: first.consumer_sequence - 1, stream: sequence - 1 };
        }
        self.close_floor();
    }

    fn close_floor(&mut self) {
        if self.pending.is_empty() {
            self.floor = self.delivered;
        }
    }

    fn touch(&mut self, sequence: u64) {
        self.touch_places();
        if let Changed::Sequences(sequences) = &mut self.changed {
            sequences.push(sequence);
            if sequences.len() > CHANGES_MAX {
                self.changed = Changed::Everything;
            }
        }
    }

    fn touch_places(&mut self) {
        if matches!(self.changed, Changed::Nothing) {
            self.changed = Changed::Sequences(Vec::new());
        }
    }
}
