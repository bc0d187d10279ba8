//! What was sent and what was acknowledged, kept outside of the broker: what must be there after a crash, and what may be.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How a stream keeps its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    All,
    /// This many.
    Last(u64),
    /// Until one consumer has acknowledged it.
    Work,
    /// Until all have.
    Interest,
}

/// A stream of the load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) prefix: &'static str,
    pub(crate) keeping: Keeping,
    pub(crate) consumers: &'static [&'static str],
}

pub(crate) const SHAPES: [Shape; 4] = [
    Shape { name: "LOG", prefix: "log", keeping: Keeping::All, consumers: &["reader"] },
    Shape { name: "RECENT", prefix: "recent", keeping: Keeping::Last(500), consumers: &[] },
    Shape { name: "WORK", prefix: "work", keeping: Keeping::Work, consumers: &["worker"] },
    Shape { name: "INTEREST", prefix: "interest", keeping: Keeping::Interest, consumers: &["left", "right"] },
];

/// Keys of the bucket, and streams and consumers that come and go.
pub(crate) const KEYS: usize = 40;
pub(crate) const STREAMS: usize = 3;
pub(crate) const CONSUMERS: usize = 3;

/// What a consumer was told, and what it said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acks {
    /// Acknowledgements that were sent.
    pub(crate) sent: BTreeSet<u64>,
    /// Those whose receipt was confirmed, and during which fetch.
    pub(crate) done: BTreeMap<u64, u64>,
    pub(crate) fetches: u64,
}

/// What is known of one stream whose messages all have ids.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) shape: Shape,
    /// Ids from 1 up to this one were sent.
    pub(crate) sent: u64,
    /// The first that was not purged.
    first: u64,
    /// Sequence to id.
    pub(crate) acked: BTreeMap<u64, u64>,
    /// Id to sequence.
    pub(crate) places: HashMap<u64, u64>,
    /// Id to sequence, as consumers were given them.
    given: HashMap<u64, u64>,
    /// Everything below was purged.
    pub(crate) floor: u64,
    pub(crate) acks: BTreeMap<&'static str, Acks>,
}

impl Log {
    pub(crate) fn new(shape: Shape) -> Self {
        let acks = shape.consumers.iter().map(|name| (*name, Acks::default())).collect();
        Self {
            shape,
            sent: 0,
            first: 1,
            acked: BTreeMap::new(),
            places: HashMap::new(),
            given: HashMap::new(),
            floor: 1,
            acks,
        }
    }

    pub(crate) fn subject(&self, id: u64) -> String {
        format!("{}.{}", self.shape.prefix, id % 7)
    }

    /// The content of a message: its id says it all.
    pub(crate) fn payload(&self, id: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(id ^ (self.shape.name.len() as u64) << 56);
        let length = match random.u8(..) {
            0..200 => random.usize(0..200),
            200..254 => random.usize(0..4000),
            _ => random.usize(0..150_000),
        };
        std::iter::repeat_with(|| random.u8(..)).take(length).collect()
    }

    /// A publish was acknowledged. What contradicts what was acknowledged before is given as text.
    pub(crate) fn acknowledged(&mut self, id: u64, sequence: u64) -> Option<(Fault, String)> {
        let name = self.shape.name;
        let place = self.places.get(&id).or(self.given.get(&id)).copied();
        let is_gone = |place: u64| {
            let is_replaced = matches!(self.shape.keeping, Keeping::Last(count) if place + count <= sequence);
            is_replaced || self.may_be_removed(place)
        };
        let fault = if place.is_some_and(is_gone) { Fault::Forgotten } else { Fault::Duplicate };
        let contradiction = self.contradiction(id, sequence);
        contradiction.map(|what| (fault, format!("{name}: {what}")))
    }

    fn contradiction(&mut self, id: u64, sequence: u64) -> Option<String> {
        if let Some(given) = self.given.get(&id).filter(|given| **given != sequence) {
            return Some(format!("id {id} was given to a consumer as {given}, and is {sequence}"));
        }
        match (self.places.insert(id, sequence), self.acked.insert(sequence, id)) {
            (Some(before), _) if before != sequence => Some(format!("id {id} is {before} and {sequence}")),
            (_, Some(other)) if other != id => Some(format!("sequence {sequence} is id {other} and id {id}")),
            _ => None,
        }
    }

    /// A consumer was given a message. What contradicts what it was given before is given as text.
    pub(crate) fn given(&mut self, id: u64, sequence: u64) -> Option<(Fault, String)> {
        let before = self.given.insert(id, sequence).filter(|before| *before != sequence)?;
        let fault = if self.may_be_removed(before) { Fault::Forgotten } else { Fault::Duplicate };
        Some((fault, format!("{}: id {id} is given as {before} and as {sequence}", self.shape.name)))
    }

    /// Ids without an acknowledgement.
    pub(crate) fn open(&self) -> Vec<u64> {
        (self.first..=self.sent).filter(|id| !self.places.contains_key(id)).collect()
    }

    /// Whether consumers may have removed a message: they have said so.
    pub(crate) fn may_be_removed(&self, sequence: u64) -> bool {
        self.is_removed_by(|acks| acks.sent.contains(&sequence))
    }

    /// Whether they have: that was confirmed.
    pub(crate) fn is_removed(&self, sequence: u64) -> bool {
        self.is_removed_by(|acks| acks.done.contains_key(&sequence))
    }

    fn is_removed_by(&self, is_so: impl FnMut(&Acks) -> bool) -> bool {
        match self.shape.keeping {
            Keeping::All | Keeping::Last(_) => false,
            Keeping::Work => self.acks.values().any(is_so),
            Keeping::Interest => self.acks.values().all(is_so),
        }
    }

    /// Forgets what a purge has removed. No publish may be open.
    pub(crate) fn purged(&mut self, floor: u64) {
        (self.floor, self.first) = (floor, self.sent + 1);
        self.acked = self.acked.split_off(&floor);
        self.places.clear();
        self.given.clear();
        for acks in self.acks.values_mut() {
            acks.sent = acks.sent.split_off(&floor);
            acks.done = acks.done.split_off(&floor);
        }
    }
}

/// Something that is replaced and removed, step by step: the number of a step is in what it leaves.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    /// Whether something is there after each step.
    steps: Vec<bool>,
    /// The last one that was acknowledged.
    settled: usize,
    /// Where it is, if that is known.
    pub(crate) sequence: u64,
}

impl Default for Cell {
    fn default() -> Self {
        Self { steps: vec![false], settled: 0, sequence: 0 }
    }
}

impl Cell {
    /// Begins a step that leaves something; its number.
    pub(crate) fn put(&mut self) -> usize {
        self.steps.push(true);
        self.steps.len() - 1
    }

    /// Begins a step that leaves nothing.
    pub(crate) fn remove(&mut self) {
        self.steps.push(false);
    }

    /// The last step was acknowledged.
    pub(crate) fn settle(&mut self) {
        self.settled = self.steps.len() - 1;
    }

    /// The last step was refused.
    pub(crate) fn refuse(&mut self) {
        self.steps.pop();
    }

    pub(crate) fn is_present(&self) -> bool {
        self.settled == self.steps.len() - 1 && self.steps[self.settled]
    }

    /// The step whose result this is: one that `must` have happened or was begun later.
    pub(crate) fn find(&self, must: &Self, seen: Option<usize>) -> Option<usize> {
        (must.settled..self.steps.len()).rfind(|step| match seen {
            Some(number) => number == *step && self.steps[*step],
            None => !self.steps[*step],
        })
    }

    /// This step was the last.
    pub(crate) fn resolve(&mut self, step: usize) {
        self.steps.truncate(step + 1);
        self.settled = step;
        self.sequence = 0;
    }

    pub(crate) fn describe(&self) -> String {
        format!("step {} or up to {}", self.settled, self.steps.len() - 1)
    }
}

/// Everything that is known.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) logs: Vec<Log>,
    pub(crate) keys: Vec<Cell>,
    pub(crate) streams: Vec<Cell>,
    pub(crate) consumers: Vec<Cell>,
    pub(crate) findings: Vec<Finding>,
    /// Publishes that were refused.
    pub(crate) refused: u64,
    pub(crate) steps: u64,
}

impl Default for Known {
    fn default() -> Self {
        let cells = |count| vec![Cell::default(); count];
        Self {
            logs: SHAPES.iter().copied().map(Log::new).collect(),
            keys: cells(KEYS),
            streams: cells(STREAMS),
            consumers: cells(CONSUMERS),
            findings: Vec::new(),
            refused: 0,
            steps: 0,
        }
    }
}

impl Known {
    pub(crate) fn find(&mut self, fault: Fault, what: String) {
        self.findings.push(Finding { fault, what });
    }
}

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// What was acknowledged is not there.
    Lost,
    /// It has other bytes.
    Altered,
    /// It is there twice.
    Duplicate,
    /// An id is stored again whose message was removed within the window.
    Forgotten,
    /// A sequence that nothing explains is missing.
    Gap,
    /// What was removed or acknowledged came again.
    Returned,
    /// Something else is not as it must be.
    Wrong,
}

impl Fault {
    pub(crate) const ALL: [(Self, &'static str); 7] = [
        (Self::Lost, "lost"),
        (Self::Altered, "altered"),
        (Self::Duplicate, "duplicate"),
        (Self::Forgotten, "forgotten"),
        (Self::Gap, "gap"),
        (Self::Returned, "returned"),
        (Self::Wrong, "wrong"),
    ];
}

#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) fault: Fault,
    pub(crate) what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_seen_is_what_was_settled_or_begun_since() {
        let mut cell = Cell::default();
        let first = cell.put();
        cell.settle();
        let must = cell.clone();
        let second = cell.put();
        cell.remove();
        assert_eq!(cell.find(&must, Some(first)), Some(first));
        assert_eq!(cell.find(&must, Some(second)), Some(second));
        assert_eq!(cell.find(&must, None), Some(3));
        cell.settle();
        assert_eq!(cell.find(&cell, Some(first)), None);
        assert_eq!(cell.find(&cell, None), Some(3));
    }

    #[test]
    fn an_id_or_a_sequence_that_is_acknowledged_twice_is_found() {
        let mut log = Log::new(SHAPES[0]);
        assert_eq!(log.acknowledged(1, 1), None);
        assert_eq!(log.acknowledged(1, 1), None);
        assert!(log.acknowledged(1, 2).is_some());
        assert!(log.acknowledged(3, 2).is_some());
    }
}
