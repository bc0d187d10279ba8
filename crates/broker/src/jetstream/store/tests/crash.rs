//! Random lives on a disk that crashes or fails, each time at another of its operations. What was acknowledged is there
//! afterwards, what was removed is not, and everything is as if nothing had happened.

use std::sync::Arc;

use journal::sim::{Fault, SimDisk};
use journal::{Journal, Visible};
use kit::tasks::Tasks;

use super::model::{Message, Model, config, limits, message, purge, seed};
use crate::jetstream::store::{Change, Limits, Place, Result, Store};

/// What happened, in the order in which it was applied.
#[derive(Clone, Debug)]
enum Event {
    Message(Message),
    Change(Change),
    Expire(i64),
}

struct World {
    disk: SimDisk,
    sync: journal::Sync,
    initial: Limits,
    events: Vec<Event>,
    /// What somebody was told of.
    messages: u64,
    changes: usize,
    time: i64,
    random: fastrand::Rng,
    moved: u64,
}

struct Life {
    store: Store,
    ledger: Journal,
}

impl World {
    fn new(seed: u64, sync: journal::Sync) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let initial = limits(&mut random);
        let disk = SimDisk::new(seed);
        Self { disk, sync, initial, events: Vec::new(), messages: 0, changes: 0, time: 1000, random, moved: 0 }
    }

    /// Opens everything. What is there must be what was acknowledged, and nothing that never was.
    async fn open(&mut self) -> Result<Life> {
        let tasks = Tasks::default();
        let ledger = journal::Config {
            folder: "/stream/ledger".into(),
            sync: journal::Sync::Always,
            segment_bytes: 1 << 20,
            record_bytes: 1 << 16,
            queue_bytes: 1 << 20,
            queue_records: 100,
            open_files: 1,
        };
        let ledger = Journal::open_on(Arc::new(self.disk.clone()), ledger, &tasks).await?.journal;
        let mut changes = Vec::new();
        let mut reader = ledger.read(1, Visible::Synced);
        while let Some(record) = reader.next().await? {
            changes.push(Change::decode(&record.payload).expect("a change"));
        }
        let mut config = config(Place::On(Arc::new(self.disk.clone()), "/stream".into()));
        config.sync = self.sync;
        let count = changes.len();
        let opened = Store::open(config, self.initial.clone(), changes, &tasks).await?;
        let mut store = opened.store;
        assert_eq!(opened.report.damage, []);
        let last = store.last();
        if self.sync == journal::Sync::Always {
            assert!(opened.report.change.is_none(), "no change is ahead of its messages");
            assert!(last >= self.messages, "{} was acknowledged, {last} is the last", self.messages);
        }
        assert!(count >= self.changes, "{} changes were acknowledged, {count} are there", self.changes);
        self.forget(last, count);
        (self.messages, self.changes) = (last, count);
        let mut model = Model { limits: self.initial.clone(), ..Model::default() };
        for event in &self.events {
            match event {
                Event::Message(message) => model.append(message.clone()),
                Event::Change(change) => model.change(change),
                Event::Expire(now) => model.expire(*now),
            }
        }
        store.remove_expired(self.time.max(model.clock));
        model.expire(self.time.max(model.clock));
        self.events.push(Event::Expire(model.clock));
        self.time = model.clock;
        model.check(&mut store).await;
        let life = Life { store, ledger };
        self.record(&life, opened.report.change).await?;
        Ok(life)
    }

    /// What was lost in the last crash never happened.
    fn forget(&mut self, last: u64, changes: usize) {
        let mut left = changes;
        self.events.retain(|event| match event {
            Event::Message(message) => message.sequence <= last,
            Event::Expire(_) => true,
            Event::Change(_) => {
                let is_there = left > 0;
                left = left.saturating_sub(1);
                is_there
            }
        });
    }

    async fn live(&mut self, life: &mut Life, steps: usize) -> Result<()> {
        for _ in 0..steps {
            self.time += self.random.i64(0..20);
            match self.random.u8(..30) {
                0 => {
                    let purge = purge(&mut self.random, life.store.visible());
                    let (_, change) = life.store.purge(&purge, self.time);
                    self.record(life, change).await?;
                }
                1..=6 => {
                    let first = self.random.u64(..=life.store.visible() + 2);
                    let change = life.store.remove_ranges(&[first..=first + self.random.u64(..6)], self.time);
                    self.record(life, change).await?;
                }
                7 if self.random.u8(..4) == 0 => {
                    let change = life.store.set_limits(limits(&mut self.random), self.time);
                    self.record(life, Some(change)).await?;
                }
                8 => {
                    let change = life.store.snapshot().await?;
                    self.record(life, Some(change)).await?;
                }
                9 => {
                    life.store.remove_expired(self.time);
                    self.events.push(Event::Expire(self.time));
                }
                _ => self.append(life).await?,
            }
            life.store.maintain().await?;
            if self.random.u8(..4) == 0 {
                life.store.settle().await?;
            }
            self.moved = self.moved.max(life.store.index.kept_until);
        }
        Ok(())
    }

    async fn record(&mut self, life: &Life, change: Option<Change>) -> Result<()> {
        let Some(change) = change else { return Ok(()) };
        let bytes = change.encode();
        self.events.push(Event::Change(change));
        life.ledger.append(&bytes).await?;
        self.changes += 1;
        Ok(())
    }

    async fn append(&mut self, life: &mut Life) -> Result<()> {
        for _ in 0..self.random.usize(1..8) {
            let mut message = message(&mut self.random, life.store.last() + 1, self.time);
            message.rollup = message.rollup.filter(|_| self.random.u8(..4) == 0);
            if life.store.stage(&message.to_new()).is_ok() {
                self.events.push(Event::Message(message));
            }
        }
        if let Some(pending) = life.store.commit().await? {
            let last = life.store.sequence_of(pending.await?);
            life.store.synced(last);
            self.messages = last;
        }
        Ok(())
    }

    async fn run(&mut self, steps: usize) -> Result<()> {
        let mut life = self.open().await?;
        self.live(&mut life, steps).await
    }

    fn end(&mut self) {
        if self.random.bool() {
            self.disk.power_cut();
        } else {
            self.disk.kill();
        }
    }
}

async fn sweep(fault: Fault, sync: journal::Sync, lives: u64) -> u64 {
    let seed = seed();
    let times = std::env::var("STORE_LIVES").ok().map_or(1, |text| text.parse().expect("STORE_LIVES is a number"));
    let mut moved = 0;
    for life in 0..lives * times {
        println!("life {}", seed.wrapping_add(life));
        let mut world = World::new(seed.wrapping_add(life), sync);
        for _ in 0..8 {
            let at = world.disk.operations() + world.random.u64(1..400);
            world.disk.fault_at(at, fault);
            let _ = world.run(120).await;
            world.end();
            // Also while it is opened.
            if world.random.u8(..3) == 0 {
                let at = world.disk.operations() + world.random.u64(1..60);
                world.disk.fault_at(at, fault);
                let _ = world.run(2).await;
                world.end();
            }
        }
        world.disk.fault_at(u64::MAX, fault);
        world.run(30).await.expect("nothing fails");
        world.end();
        world.run(0).await.expect("nothing fails");
        moved += u64::from(world.moved > 0);
    }
    println!("{moved} moved messages");
    moved
}

#[tokio::test]
async fn a_crash_at_any_operation_loses_nothing_and_brings_nothing_back() {
    assert!(sweep(Fault::Crash, journal::Sync::Always, 30).await > 3);
}

#[tokio::test]
async fn an_error_of_the_disk_at_any_operation_loses_nothing_and_brings_nothing_back() {
    sweep(Fault::Io, journal::Sync::Always, 15).await;
}

#[tokio::test]
async fn what_a_power_cut_takes_within_the_interval_is_given_again_and_nothing_else_is_touched() {
    sweep(Fault::Crash, journal::Sync::Interval(std::time::Duration::from_millis(3)), 30).await;
}
