//! A world of lanes, with a stream, a disk, a subscriber that fails, hangs or is gone, and crashes; everything by a seed.
//! `SEED=…` runs one again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::*;
use crate::subscription::progress::Record;

const BUFFER: usize = 40;

/// What survives a crash.
#[derive(Default)]
struct Disk {
    record: Record,
    aside: BTreeMap<u64, Kept>,
    letters: BTreeMap<u64, u64>,
}

#[derive(Clone, Debug)]
struct Kept {
    attempts: u32,
    is_redriven: bool,
    held: Option<u64>,
}

/// Something that is written to the disk some time.
enum Write {
    Action(Action, Option<Kept>),
    Record(Record, u64),
}

struct World {
    random: Rng,
    rules: Rules,
    /// Sequence and key of every event; the poisoned ones.
    stream: BTreeMap<u64, Option<Arc<str>>>,
    poison: BTreeSet<u64>,
    disk: Disk,
    lanes: Lanes,
    cursor: u64,
    now: Instant,
    requests: Vec<Request>,
    writes: Vec<Write>,
    is_gone: bool,
    /// Since the last crash, the last one of each key that was asked for.
    last: HashMap<Arc<str>, u64>,
    /// Since the last crash, or set back: keys whose order began anew.
    delivered: BTreeMap<u64, u32>,
    done: BTreeSet<u64>,
    redriven: BTreeSet<u64>,
    crashes: u32,
    is_held: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let keys = random.u64(1..12);
        let is_keyed = random.u8(..) > 40;
        let mut sequence = 0;
        let mut stream = BTreeMap::new();
        let mut poison = BTreeSet::new();
        for _ in 0..random.u32(20..400) {
            sequence += random.u64(1..3);
            // Where there is a key, some events have none.
            let key = (is_keyed && random.u8(..) > 10).then(|| Arc::from(format!("k{}", random.u64(..keys))));
            stream.insert(sequence, key);
            if random.u8(..) < 6 {
                poison.insert(sequence);
            }
        }
        let batch = (random.u8(..) < 80)
            .then(|| Batch { size: random.usize(1..6), wait: Duration::from_millis(random.u64(..20)) });
        let rules = Rules {
            concurrency: random.usize(1..8),
            max_deliver: random.u32(1..6),
            backoff: vec![Duration::from_millis(random.u64(..50)), Duration::from_millis(200)],
            on_dead_letter: if random.bool() { OnDeadLetter::HoldKey } else { OnDeadLetter::Continue },
            batch,
        };
        let lanes = Lanes::new(rules.clone(), Window::new(&Record::after(0)), 1);
        let disk = Disk { record: Record::after(0), ..Disk::default() };
        Self {
            random,
            rules,
            stream,
            poison,
            disk,
            lanes,
            cursor: 0,
            now: Instant::now(),
            requests: Vec::new(),
            writes: Vec::new(),
            is_gone: false,
            last: HashMap::new(),
            delivered: BTreeMap::new(),
            done: BTreeSet::new(),
            redriven: BTreeSet::new(),
            crashes: 0,
            is_held: false,
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.is_held = false;
        self.requests.clear();
        self.writes.clear();
        self.last.clear();
        let window = Window::new(&self.disk.record);
        self.cursor = window.read();
        self.lanes = Lanes::new(self.rules.clone(), window, self.random.u64(..));
        for (sequence, kept) in &self.disk.aside {
            let parked = Parked {
                is_exhausted: kept.attempts >= self.rules.max_deliver,
                is_redriven: kept.is_redriven,
                held: kept.held,
                ..Parked::found(self.now, kept.attempts)
            };
            self.lanes.restore(*sequence, self.stream[sequence].as_ref(), parked, self.now);
        }
    }

    /// Somebody wants a replay.
    fn hold(&mut self) {
        self.lanes.hold();
        self.is_held = true;
    }

    /// What was under way when it was held has ended, or somebody waits no more.
    fn set_back(&mut self) {
        let is_quiet = self.lanes.is_quiet();
        if self.random.u8(..) < 10 {
            self.lanes.resume();
        } else if is_quiet {
            let last = self.stream.keys().next_back().copied().unwrap_or_default();
            let from = self.random.u64(1..last + 50);
            self.lanes.set_back(from, self.now);
            self.cursor = self.lanes.window.read();
            self.last.clear();
            // What is not done before it is delivered, too.
            let again = |one: &u64| !self.lanes.window.was_done(*one) && !self.lanes.is_aside(*one);
            assert!(self.stream.range(from..).all(|(one, _)| again(one) || self.lanes.is_aside(*one)));
            for (one, _) in self.stream.range(..from) {
                let is_known = self.done.contains(one) || self.lanes.is_aside(*one);
                assert!(is_known || again(one), "{one} is left out of what is delivered from {from} on");
            }
        } else {
            return;
        }
        self.is_held = false;
    }

    fn read(&mut self) {
        if self.is_held {
            return self.set_back();
        }
        if self.lanes.is_standing() {
            return;
        }
        let room = match self.lanes.window.open() {
            BUFFER.. => Room::None,
            open if open >= BUFFER / 2 => Room::Little,
            _ => Room::Plenty,
        };
        self.lanes.room(room, self.now);
        if room == Room::None {
            return;
        }
        let Some((sequence, key)) = self.stream.range(self.cursor + 1..).next() else { return };
        self.cursor = *sequence;
        self.lanes.arrive(*sequence, key.as_ref(), self.now);
    }

    fn send(&mut self) {
        while let Some(request) = self.lanes.next(self.now) {
            assert!(self.lanes.in_flight() <= self.rules.concurrency);
            assert!(request.attempt <= self.rules.max_deliver, "attempts have a bound");
            let together: Vec<u64> = request.tickets.iter().map(|ticket| ticket.sequence).collect();
            for sequence in together.iter().copied() {
                let Some(key) = self.stream[&sequence].clone() else { continue };
                let others = self.requests.iter().flat_map(|request| &request.tickets);
                let is_alone = others.into_iter().all(|other| self.stream[&other.sequence].as_ref() != Some(&key));
                assert!(is_alone, "one request at once of {key}");
                if self.redriven.contains(&sequence) {
                    continue;
                }
                let before = self.stream.range(..sequence).filter(|(_, other)| other.as_ref() == Some(&key));
                let lost: Vec<_> = before
                    .map(|(before, _)| *before)
                    .filter(|one| !self.done.contains(one) && !together.contains(one))
                    .collect();
                assert!(lost.is_empty(), "{lost:?}: all of {key} before {sequence} were done");
                // After a crash there is a run from an older point, with none left out.
                if let Some(last) = self.last.insert(key.clone(), sequence) {
                    assert!(last <= sequence, "{sequence} of {key} after {last}");
                    let between = self
                        .stream
                        .range(last + 1..sequence.max(last + 1))
                        .filter(|(_, other)| other.as_ref() == Some(&key));
                    let skipped: Vec<_> = between.map(|(one, _)| *one).filter(|one| !self.is_dead(*one)).collect();
                    assert!(
                        skipped.is_empty(),
                        "{skipped:?}: a run of {key} from {last} on has no holes before {sequence}"
                    );
                }
            }
            self.requests.push(request);
        }
    }

    fn is_dead(&self, sequence: u64) -> bool {
        self.disk.letters.values().any(|dead| *dead == sequence) || self.redriven.contains(&sequence)
    }

    fn answer(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let at = self.random.usize(..self.requests.len());
        let request = self.requests.swap_remove(at);
        let is_poisoned = request.tickets.iter().any(|ticket| self.poison.contains(&ticket.sequence));
        let outcome = match self.random.u8(..100) {
            _ if self.is_gone => Outcome::Unreachable,
            0..10 => Outcome::Failed { retry_after: None },
            10 => Outcome::Failed { retry_after: Some(Duration::from_millis(self.random.u64(300..3_000))) },
            11..13 => Outcome::Refused,
            _ if is_poisoned => Outcome::Failed { retry_after: None },
            _ => Outcome::Done,
        };
        if outcome == Outcome::Done {
            for ticket in &request.tickets {
                *self.delivered.entry(ticket.sequence).or_default() += 1;
                self.done.insert(ticket.sequence);
            }
        } else if request.tickets.len() > 1 {
            // A failed request of several is a run that begins again.
            for ticket in request.tickets.iter().rev() {
                let Some(key) = self.stream[&ticket.sequence].clone() else { continue };
                self.last.insert(key, ticket.sequence);
            }
        }
        self.lanes.finished(&request.tickets, outcome, self.now);
    }

    fn take_actions(&mut self) {
        for action in self.lanes.take_actions() {
            let kept = match action {
                Action::Park(ticket) => {
                    let parked = self.lanes.parked_event(ticket).expect("what is put aside is known");
                    Some(Kept { attempts: parked.attempts, is_redriven: parked.is_redriven, held: parked.held })
                }
                _ => None,
            };
            self.writes.push(Write::Action(action, kept));
        }
        let is_writing = self.writes.iter().any(|write| matches!(write, Write::Record(..)));
        if !is_writing && self.lanes.changes() > 0 && self.random.u8(..) < 60 {
            self.writes.push(Write::Record(self.lanes.window.record(), self.lanes.changes()));
        }
    }

    /// Writes come to the disk in any order, and a crash may come before the answer.
    fn write(&mut self) {
        if self.writes.is_empty() {
            return;
        }
        let at = self.random.usize(..self.writes.len());
        let write = self.writes.swap_remove(at);
        let is_answered = self.random.u16(..) > 60;
        match write {
            Write::Record(record, change) => {
                self.disk.record = Record::decode(&record.encode()).expect("it is a record");
                if is_answered {
                    self.lanes.was_recorded(change, self.now);
                }
            }
            Write::Action(Action::Park(ticket), kept) => {
                self.disk.aside.insert(ticket.sequence, kept.expect("it was taken along"));
                if is_answered {
                    self.lanes.was_parked(ticket, self.now);
                }
            }
            Write::Action(Action::Forget(ticket), _) => {
                self.disk.aside.remove(&ticket.sequence);
                if is_answered {
                    self.lanes.was_forgotten(ticket, self.now);
                }
            }
            Write::Action(Action::Bury(ticket), _) => {
                let id = self.disk.letters.last_key_value().map_or(1, |(id, _)| id + 1);
                self.disk.letters.retain(|_, dead| *dead != ticket.sequence);
                self.disk.letters.insert(id, ticket.sequence);
                self.done.insert(ticket.sequence);
                if is_answered {
                    self.lanes.was_buried(ticket, id, self.now);
                }
            }
        }
        if !is_answered {
            self.crash();
        }
    }

    /// Somebody redrives a dead letter.
    fn redrive(&mut self) {
        let Some(sequence) = self.disk.letters.values().next().copied() else { return };
        if !self.lanes.is_resting(sequence) {
            return;
        }
        self.poison.remove(&sequence);
        self.disk.aside.insert(sequence, Kept { attempts: 0, is_redriven: true, held: None });
        self.disk.letters.retain(|_, dead| *dead != sequence);
        self.redriven.insert(sequence);
        let key = self.stream[&sequence].clone();
        self.lanes.redrive(sequence, key.as_ref(), self.now);
    }

    fn step(&mut self, is_rough: bool) {
        match self.random.u8(..100) {
            0..30 => self.read(),
            30..55 => self.send(),
            55..75 => self.answer(),
            75..90 => self.write(),
            90..96 => self.now += Duration::from_millis(self.random.u64(..60)),
            96 => self.now += Duration::from_millis(1_100),
            97 => self.is_gone = is_rough && self.random.bool(),
            98 if is_rough => {
                if self.random.u8(..) < 30 {
                    self.crash();
                }
            }
            99 if is_rough && !self.is_held && self.random.u8(..) < 30 => self.hold(),
            _ => self.redrive(),
        }
        self.lanes.tick(self.now);
        self.take_actions();
        assert!(self.lanes.window.open() <= BUFFER, "what is in memory has a bound");
    }

    fn is_settled(&self) -> bool {
        let is_read = self.stream.keys().next_back().is_none_or(|last| *last <= self.cursor);
        is_read && self.lanes.is_quiet() && self.lanes.parked().0 == 0 && self.lanes.window.open() == 0
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..4_000 {
        world.step(true);
    }
    world.is_gone = false;
    let mut left = 200_000;
    while !world.is_settled() || !world.disk.letters.is_empty() {
        world.step(false);
        left -= 1;
        assert!(left > 0, "it comes to an end: {:?}", world.lanes.parked());
    }
    let all: BTreeSet<u64> = world.stream.keys().copied().collect();
    let missing: Vec<_> = all.iter().filter(|one| !world.delivered.contains_key(one)).collect();
    assert!(missing.is_empty(), "none is lost: {missing:?}");
    assert!(world.disk.aside.is_empty(), "nothing is left aside");
    assert_eq!(world.lanes.lanes.len(), 0, "a lane with nothing in it is forgotten");
    assert_eq!((world.lanes.waiting, world.lanes.diverted, world.lanes.held), (0, 0, 0));
    assert_eq!(world.lanes.parking, 0);
}

#[test]
fn whatever_happens_none_is_lost_and_each_key_is_in_order() {
    if let Ok(seed) = std::env::var("SEED") {
        return run(seed.parse().expect("a number"));
    }
    let count = std::env::var("SEEDS").ok().map_or(60, |count| count.parse().expect("a number"));
    for _ in 0..count {
        let seed = fastrand::u64(..);
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "run it again with SEED={seed}");
    }
}
