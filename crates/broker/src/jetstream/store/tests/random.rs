//! Random lives without crashes, in memory and in files, with cursors that read along.

use std::ops::RangeInclusive;

use kit::tasks::Tasks;

use super::model::{FILTERS, Message, Model, limits, message, open, purge, seed};
use crate::jetstream::store::{Change, CursorId, Limits, Place, Store};

/// A reader, and where it should be.
struct Reader {
    id: CursorId,
    filters: &'static [&'static str],
    position: u64,
}

struct Life {
    store: Store,
    model: Model,
    readers: Vec<Reader>,
    changes: Vec<Change>,
    initial: Limits,
    time: i64,
    random: fastrand::Rng,
}

impl Life {
    async fn append(&mut self) {
        let mut staged: Vec<Message> = Vec::new();
        for _ in 0..self.random.usize(1..6) {
            self.time += self.random.i64(-5..30);
            let mut message = message(&mut self.random, self.store.last() + 1, self.time);
            message.time = self.time.max(staged.last().map_or(0, |before| before.time));
            if self.store.stage(&message.to_new()).is_ok() {
                message.time = message.time.max(self.model.clock);
                staged.push(message);
            }
        }
        let pending = self.store.commit().await.expect("commits");
        if let Some(pending) = pending {
            let last = self.store.sequence_of(pending.await.expect("synced"));
            assert_eq!(last, self.store.last());
            // Some now, some later.
            let part = self.random.u64(self.store.visible()..=last);
            self.store.synced(part);
            assert_eq!(self.store.visible(), part);
            self.store.synced(last);
        }
        let discard = self.model.limits.discard;
        for message in staged {
            self.model.append(message);
        }
        assert_eq!(discard, self.model.limits.discard);
    }

    async fn act(&mut self) {
        let now = self.time;
        match self.random.u8(..40) {
            0 => {
                let purge = purge(&mut self.random, self.model.last);
                self.model.expire(now);
                let before = self.model.live.len();
                self.model.purge(&purge);
                let (purged, change) = self.store.purge(&purge, now);
                assert_eq!(purged, (before - self.model.live.len()) as u64);
                self.changes.extend(change);
            }
            1..=6 => {
                let first = self.random.u64(..=self.model.last + 2);
                let ranges: [RangeInclusive<u64>; 2] =
                    [first..=first + self.random.u64(..3), first + 5..=first + 5 + self.random.u64(..3)];
                self.model.expire(now);
                let before = self.model.live.len();
                self.model.remove(&ranges);
                let change = self.store.remove_ranges(&ranges, now);
                assert_eq!(change.is_some(), before > self.model.live.len());
                self.changes.extend(change);
            }
            7 => {
                let limits = limits(&mut self.random);
                self.model.expire(now);
                self.model.set_limits(limits.clone());
                self.changes.push(self.store.set_limits(limits, now));
            }
            8..=10 => {
                self.time += self.random.i64(0..100);
                let is_due = self.store.next_expiry().is_some_and(|at| at <= self.time);
                assert!(self.store.remove_expired(self.time) == 0 || is_due);
                self.model.expire(self.time);
            }
            11 => self.changes = vec![self.store.snapshot().await.expect("synced")],
            12 => self.seek(),
            13 => {
                self.store.maintain().await.expect("maintains");
            }
            _ => self.append().await,
        }
    }

    fn seek(&mut self) {
        let from = self.random.u64(..=self.model.last + 3);
        let at = self.random.usize(..self.readers.len());
        let reader = &mut self.readers[at];
        if self.random.bool() {
            self.store.index.seek(reader.id, from);
        } else {
            self.store.index.close_cursor(reader.id);
            reader.filters = FILTERS[self.random.usize(..FILTERS.len())];
            reader.id = open_cursor(&mut self.store, reader.filters, from);
        }
        reader.position = from;
    }

    fn read(&mut self) {
        for reader in &mut self.readers {
            let wanted = self.model.wanted(reader.filters, reader.position);
            assert_eq!(self.store.index.pending(reader.id), wanted.len() as u64, "{:?}", reader.filters);
            for sequence in wanted.into_iter().take(self.random.usize(..4)) {
                assert_eq!(self.store.index.next(reader.id), Some(sequence));
                reader.position = sequence + 1;
            }
            if self.model.wanted(reader.filters, reader.position).is_empty() {
                assert_eq!(self.store.index.next(reader.id), None);
                reader.position = reader.position.max(self.model.last + 1);
            }
            assert_eq!(self.store.index.position(reader.id), reader.position);
        }
    }

    async fn check(&mut self) {
        self.model.check(&mut self.store).await;
        self.read();
        for range in self.store.take_removed() {
            for sequence in range {
                assert!(!self.model.live.contains_key(&sequence));
            }
        }
    }
}

fn open_cursor(store: &mut Store, filters: &[&str], from: u64) -> CursorId {
    let filters: Vec<Vec<u8>> = filters.iter().map(|filter| filter.as_bytes().to_vec()).collect();
    store.index.open_cursor(&filters, from)
}

fn readers(store: &mut Store) -> Vec<Reader> {
    let reader = |filters: &'static [&'static str]| Reader { id: open_cursor(store, filters, 0), filters, position: 0 };
    FILTERS.into_iter().map(reader).collect()
}

async fn run(place: Place, seed: u64) {
    println!("life {seed}");
    let tasks = Tasks::default();
    let mut random = fastrand::Rng::with_seed(seed);
    let is_memory = matches!(place, Place::Memory);
    let initial = limits(&mut random);
    let (mut store, _) = open(place.clone(), &initial, &[], &tasks).await;
    let model = Model { limits: initial.clone(), is_memory, ..Model::default() };
    let readers_now = readers(&mut store);
    let mut life = Life { store, model, readers: readers_now, changes: Vec::new(), initial, time: 1000, random };
    for step in 0..300 {
        life.act().await;
        if step % 7 == 0 {
            life.check().await;
        }
        if !is_memory && life.random.u8(..60) == 0 {
            let Life { store, model, readers: at, changes, initial, time, random } = life;
            println!("step {step}: opened again after {}", model.last);
            store.close().await.expect("closes");
            let (mut store, report) = open(place.clone(), &initial, &changes, &tasks).await;
            assert!(report.damage.is_empty() && report.change.is_none(), "{report:?}");
            store.remove_expired(model.clock);
            let mut readers = readers(&mut store);
            for (reader, before) in readers.iter_mut().zip(at) {
                store.index.close_cursor(reader.id);
                *reader = Reader { id: open_cursor(&mut store, before.filters, before.position), ..before };
            }
            life = Life { store, model, readers, changes, initial, time, random };
            life.check().await;
        }
    }
    life.check().await;
}

#[tokio::test]
async fn a_store_in_memory_agrees_with_the_model() {
    let seed = seed();
    for life in 0..40 {
        run(Place::Memory, seed.wrapping_add(life)).await;
    }
}

#[tokio::test]
async fn a_store_in_files_agrees_with_the_model_also_after_it_was_opened_again() {
    let seed = seed();
    for life in 0..40 {
        let disk = journal::sim::SimDisk::new(life);
        run(Place::On(std::sync::Arc::new(disk), "/stream".into()), seed.wrapping_add(life)).await;
    }
}
