//! Random use beside a naive model that is told what came out and says whether that may be.

use std::collections::BTreeMap;

use super::super::{Advisory, Start};
use super::world::{Out, SECOND, World};

/// What the model knows of a message that was delivered.
#[derive(Clone, Debug)]
struct Seen {
    deliveries: u64,
    /// Earliest time of the next delivery.
    due: i64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Settled,
    GivenUp,
}

#[derive(Debug, Default)]
struct Model {
    messages: BTreeMap<u64, Seen>,
    consumer_sequence: u64,
    first_deliveries: u64,
    /// What each inbox still may get.
    wanted: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    waits: &'static [i64],
    max_deliver: u64,
    max_pending: usize,
    is_all: bool,
}

impl Rules {
    fn wait(&self, deliveries: u64) -> i64 {
        let at = (deliveries as usize - 1).min(self.waits.len() - 1);
        self.waits[at] * SECOND
    }

    fn json(&self) -> String {
        let backoff: Vec<_> = self.waits.iter().map(|wait| wait * SECOND).collect();
        let policy = if self.is_all { "all" } else { "explicit" };
        format!(
            r#"{{"ack_policy": "{policy}", "max_deliver": {}, "max_ack_pending": {}, "backoff": {backoff:?}}}"#,
            self.max_deliver, self.max_pending
        )
    }
}

impl Model {
    fn pending(&self) -> Vec<u64> {
        let pending = self.messages.iter().filter(|(_, seen)| seen.fate == Fate::Pending);
        pending.map(|(sequence, _)| *sequence).collect()
    }

    fn observe(&mut self, world: &mut World, rules: &Rules) {
        let now = world.now;
        for out in std::mem::take(&mut world.out) {
            match out {
                Out::Message { at, to, sequence, delivered, consumer_sequence, .. } => {
                    self.consumer_sequence += 1;
                    assert_eq!(consumer_sequence, self.consumer_sequence);
                    assert!(world.stream.live.contains_key(&sequence), "{sequence} is gone");
                    let wanted = self.wanted.get_mut(&*String::from_utf8_lossy(&to)).expect("somebody has asked");
                    *wanted = wanted.checked_sub(1).expect("no more comes than was asked for");
                    self.deliver(sequence, delivered, rules, at);
                }
                Out::Status { to, line } => {
                    assert!(line.starts_with("40"), "{line}");
                    self.wanted.remove(&*String::from_utf8_lossy(&to));
                }
                Out::Advisory(Advisory::MaxDeliver { sequence, deliveries }) => {
                    let seen = self.messages.get_mut(&sequence).unwrap();
                    assert_eq!((seen.fate, seen.deliveries), (Fate::Pending, deliveries));
                    assert!(deliveries == rules.max_deliver && seen.due <= now);
                    seen.fate = Fate::GivenUp;
                }
                Out::Settled(sequence) => {
                    let seen = self.messages.get_mut(&sequence).unwrap();
                    assert_ne!(seen.fate, Fate::Settled, "{sequence} is settled once");
                    seen.fate = Fate::Settled;
                }
                Out::Advisory(_) => {}
            }
        }
    }

    fn deliver(&mut self, sequence: u64, delivered: u64, rules: &Rules, now: i64) {
        assert!(delivered <= rules.max_deliver, "{sequence} for the {delivered}th time");
        let due = now + rules.wait(delivered);
        if let Some(seen) = self.messages.get_mut(&sequence) {
            assert_eq!((seen.fate, seen.deliveries + 1), (Fate::Pending, delivered), "{sequence}");
            assert!(seen.due <= now, "{sequence} comes too early");
            (seen.deliveries, seen.due) = (delivered, due);
            return;
        }
        assert_eq!(delivered, 1);
        assert!(self.messages.last_key_value().is_none_or(|(last, _)| *last < sequence), "first deliveries ascend");
        assert!(self.pending().len() < rules.max_pending, "too many are pending");
        self.first_deliveries += 1;
        self.messages.insert(sequence, Seen { deliveries: 1, due, fate: Fate::Pending });
    }

    fn check(&self, world: &World) {
        let pending = self.pending();
        let info = world.consumer.info(&world.stream, world.now);
        assert_eq!(info.num_ack_pending, pending.len());
        assert!(world.consumer.state.pending.keys().eq(pending.iter()));
        assert_eq!(info.delivered.consumer_seq, self.consumer_sequence);
        let last = self.messages.last_key_value().map_or(0, |(last, _)| *last);
        let new = world.stream.live.range(last.max(info.delivered.stream_seq) + 1..).count();
        assert_eq!(info.num_pending, new as u64);
        let floor = info.ack_floor;
        assert!(floor.stream_seq <= info.delivered.stream_seq && floor.consumer_seq <= info.delivered.consumer_seq);
        assert!(pending.first().is_none_or(|first| *first > floor.stream_seq), "the floor covers what is pending");
        for (sequence, _) in world.stream.live.range(..) {
            let needed = self.messages.get(sequence).is_none_or(|seen| seen.fate != Fate::Settled);
            assert_eq!(world.consumer.needs(*sequence), needed, "{sequence}");
        }
    }

    fn forget(&mut self, is_gone: impl Fn(u64) -> bool) {
        for (_, seen) in self.messages.iter_mut().filter(|(sequence, _)| is_gone(**sequence)) {
            seen.fate = Fate::Settled;
        }
    }
}

fn step(world: &mut World, model: &mut Model, rules: &Rules, random: &mut fastrand::Rng) {
    let pending = model.pending();
    let target = random.choice(&pending).copied();
    match (random.u8(0..20), target) {
        (0..=3, _) => world.publish(random.u64(1..6), 10),
        (4..=7, _) => {
            let inbox = format!("i{}", random.u32(..));
            let batch = random.u64(1..8);
            let expires = random.i64(0..3) * 20 * SECOND;
            let is_no_wait = random.u8(0..4) == 0;
            model.wanted.insert(inbox.clone(), batch);
            let body = format!(r#"{{"batch": {batch}, "expires": {expires}, "no_wait": {is_no_wait}}}"#);
            world.pull(&inbox, &body);
        }
        (8..=10, Some(sequence)) => _ = world.ack(sequence, "+ACK"),
        (11, Some(sequence)) => {
            model.messages.get_mut(&sequence).unwrap().due = world.now;
            world.ack(sequence, "-NAK");
        }
        (12, Some(sequence)) => {
            model.messages.get_mut(&sequence).unwrap().due = world.now + 7 * SECOND;
            world.ack(sequence, "-NAK 7s");
        }
        (13, Some(sequence)) => _ = world.ack(sequence, if rules.is_all { "+ACK" } else { "+TERM" }),
        (14, Some(sequence)) => {
            // It also takes back a delay that was longer.
            let seen = model.messages.get_mut(&sequence).unwrap();
            seen.due = seen.due.min(world.now + rules.wait(seen.deliveries));
            world.ack(sequence, "+WPI");
        }
        (15 | 16, _) => {
            // In small steps, so that the model can say what was due when.
            for _ in 0..random.u8(1..30) {
                world.wait(SECOND);
                model.observe(world, rules);
            }
        }
        (17, _) if world.stream.last > 0 => {
            let sequence = random.u64(1..=world.stream.last);
            model.forget(|at| at == sequence);
            world.remove(sequence);
        }
        (18, _) if random.u8(0..10) == 0 => {
            let first = random.u64(1..=world.stream.last + 1);
            model.forget(|at| at < first);
            world.purge(first);
        }
        (19, _) if random.u8(0..3) == 0 => {
            world.restart();
            model.wanted.clear();
        }
        _ => {}
    }
    model.observe(world, rules);
}

/// Everybody does what is asked of them: in the end everything is acknowledged.
fn finish(world: &mut World, model: &mut Model, rules: &Rules) {
    world.wait(60 * SECOND);
    model.observe(world, rules);
    model.wanted.insert("end".into(), 100_000);
    world.pull("end", "100000");
    model.observe(world, rules);
    for _ in 0..10_000 {
        let pending = model.pending();
        if pending.is_empty() && world.consumer.info(&world.stream, world.now).num_pending == 0 {
            break;
        }
        for sequence in pending {
            world.ack(sequence, "");
        }
        model.observe(world, rules);
        world.wait(60 * SECOND);
        model.observe(world, rules);
    }
    for sequence in world.stream.live.keys() {
        assert_ne!(model.messages.get(sequence).expect("everything is delivered").fate, Fate::Pending, "{sequence}");
    }
    model.check(world);
    let state = &world.consumer.state;
    if rules.max_deliver > 10 && !rules.is_all {
        assert_eq!(state.delivered, state.floor);
    }
    assert_eq!(world.consumer.schedule.wake_at(), None);
    assert_eq!(world.consumer.schedule.queued(), 0);
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let rules = Rules {
        waits: [&[10][..], &[5, 20], &[1, 2, 30]][random.usize(0..3)],
        max_deliver: [2, 4, 1_000_000][random.usize(0..3)],
        max_pending: [1, 3, 20, 1000][random.usize(0..4)],
        is_all: random.u8(0..4) == 0,
    };
    let mut world = World::new(&rules.json(), Start::At(1));
    let mut model = Model::default();
    for _ in 0..400 {
        step(&mut world, &mut model, &rules, &mut random);
        model.check(&world);
    }
    finish(&mut world, &mut model, &rules);
}

#[test]
fn random_use_keeps_every_promise() {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = given.map_or_else(|| (0..20).map(|_| fastrand::u64(..)).collect(), |seed| vec![seed]);
    for seed in seeds {
        println!("SEED={seed}");
        run(seed);
    }
}
