//! A stream as a list of messages, and how a store is compared with it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::jetstream::store::{
    Change, Config, Discard, Limits, New, Opened, Place, Purge, Report, Rollup, Store, Ttl, What,
};
use crate::subject::covers;
use kit::tasks::Tasks;

pub(super) const SUBJECTS: [&str; 6] = ["a.x", "a.y", "b.x", "b.y.z", "c", "d"];
pub(super) const FILTERS: [&[&str]; 6] = [&[], &["a.x"], &["a.*"], &["b.>", "c"], &["*.x"], &["nothing"]];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) sequence: u64,
    pub(super) subject: &'static str,
    pub(super) headers: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) time: i64,
    pub(super) ttl: Option<Ttl>,
    pub(super) rollup: Option<Rollup>,
}

impl Message {
    pub(super) fn to_new(&self) -> New<'_> {
        let Self { subject, headers, payload, time, ttl, rollup, .. } = self;
        New { subject: subject.as_bytes(), headers, payload, time: *time, ttl: *ttl, rollup: *rollup }
    }

    fn size(&self, is_memory: bool) -> u64 {
        let content = (self.subject.len() + self.headers.len() + self.payload.len()) as u64;
        match (is_memory, self.headers.is_empty()) {
            (true, _) => content + 16,
            (false, true) => content + 30,
            (false, false) => content + 34,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) live: BTreeMap<u64, Message>,
    pub(super) last: u64,
    pub(super) limits: Limits,
    pub(super) clock: i64,
    pub(super) is_memory: bool,
}

impl Model {
    fn bytes(&self) -> u64 {
        self.live.values().map(|message| message.size(self.is_memory)).sum()
    }

    pub(super) fn expire(&mut self, now: i64) {
        self.clock = self.clock.max(now);
        let (clock, max_age) = (self.clock, self.limits.max_age);
        self.live.retain(|_, message| {
            let age = clock - message.time;
            let limit = |after: Duration| age >= i64::try_from(after.as_nanos()).expect("small");
            match message.ttl {
                Some(Ttl::Never) => true,
                Some(Ttl::After(after)) => !limit(after) && !max_age.is_some_and(limit),
                None => !max_age.is_some_and(limit),
            }
        });
    }

    fn enforce(&mut self) {
        if let Some(max) = self.limits.max_msgs_per_subject {
            for subject in SUBJECTS {
                let of = self.live.values().filter(|message| message.subject == subject);
                let sequences: Vec<u64> = of.map(|message| message.sequence).collect();
                for sequence in sequences.iter().take(sequences.len().saturating_sub(max as usize)) {
                    self.live.remove(sequence);
                }
            }
        }
        let is_over = |model: &Self| {
            model.limits.max_msgs.is_some_and(|max| model.live.len() as u64 > max)
                || model.limits.max_bytes.is_some_and(|max| model.bytes() > max)
        };
        while self.limits.discard == Discard::Old && is_over(self) {
            self.live.pop_first();
        }
    }

    pub(super) fn append(&mut self, mut message: Message) {
        message.time = message.time.max(self.clock);
        self.expire(message.time);
        let (sequence, subject, rollup) = (message.sequence, message.subject, message.rollup);
        assert_eq!(sequence, self.last + 1);
        self.last = sequence;
        self.live.insert(sequence, message);
        self.enforce();
        match rollup {
            None => {}
            Some(Rollup::All) => self.live.retain(|other, _| *other >= sequence),
            Some(Rollup::Subject) => self.live.retain(|other, old| *other >= sequence || old.subject != subject),
        }
    }

    pub(super) fn remove(&mut self, ranges: &[RangeInclusive<u64>]) {
        self.live.retain(|sequence, _| !ranges.iter().any(|range| range.contains(sequence)));
    }

    pub(super) fn purge(&mut self, purge: &Purge) {
        let matches =
            |message: &Message| purge.filter.as_ref().is_none_or(|filter| covers(filter, message.subject.as_bytes()));
        let of = self.live.values().filter(|message| matches(message)).map(|message| message.sequence);
        let sequences: Vec<u64> = of.collect();
        let most = if purge.keep == 0 { usize::MAX } else { sequences.len().saturating_sub(purge.keep as usize) };
        for sequence in sequences.into_iter().take(most) {
            if purge.up_to == 0 || sequence < purge.up_to {
                self.live.remove(&sequence);
            }
        }
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.enforce();
        self.expire(self.clock);
    }

    /// As the store applies it.
    pub(super) fn change(&mut self, change: &Change) {
        self.expire(change.time);
        match &change.what {
            What::Opened | What::Snapshot { .. } => {}
            What::Removed(ranges) => self.remove(ranges),
            What::Purged(purge) => self.purge(purge),
            What::Limits(limits) => self.set_limits(limits.clone()),
        }
    }

    pub(super) fn wanted(&self, filters: &[&str], from: u64) -> Vec<u64> {
        let wanted = |message: &Message| {
            filters.is_empty() || filters.iter().any(|filter| covers(filter.as_bytes(), message.subject.as_bytes()))
        };
        self.live.range(from..).filter(|(_, message)| wanted(message)).map(|(sequence, _)| *sequence).collect()
    }

    /// Compares all that a store shows.
    pub(super) async fn check(&self, store: &mut Store) {
        let state = store.index.state();
        let first = self.live.keys().next().copied();
        let live: Vec<u64> = (state.first..=state.last).filter(|sequence| store.index.is_live(*sequence)).collect();
        assert_eq!(live, self.live.keys().copied().collect::<Vec<u64>>());
        assert_eq!(state.messages, self.live.len() as u64);
        assert_eq!(state.bytes, self.bytes());
        assert_eq!((state.last, store.visible()), (self.last, self.last));
        assert_eq!(state.first, first.unwrap_or(if self.last == 0 { 0 } else { self.last + 1 }));
        assert_eq!(state.first_time, self.live.values().next().map(|message| message.time));
        let deleted: Vec<u64> = first.map_or(Vec::new(), |first| {
            (first..=self.last).filter(|sequence| !self.live.contains_key(sequence)).collect()
        });
        assert_eq!((state.deleted, &store.index.deleted(usize::MAX)), (deleted.len() as u64, &deleted));
        for filters in FILTERS {
            let owned: Vec<Vec<u8>> = filters.iter().map(|filter| filter.as_bytes().to_vec()).collect();
            assert_eq!(store.index.count(&owned, 0), self.wanted(filters, 0).len() as u64);
            let middle = self.last / 2;
            assert_eq!(store.index.count(&owned, middle), self.wanted(filters, middle).len() as u64);
            let mut lasts: BTreeMap<&str, u64> = BTreeMap::new();
            for sequence in self.wanted(filters, 0).into_iter().filter(|sequence| *sequence <= middle) {
                lasts.insert(self.live[&sequence].subject, sequence);
            }
            let mut lasts: Vec<u64> = lasts.into_values().collect();
            lasts.sort_unstable();
            assert_eq!(store.index.last_by_filter(&owned, middle, 100), Some(lasts));
        }
        let mut subjects = 0;
        for subject in SUBJECTS {
            let of: Vec<u64> = self.wanted(&[subject], 0);
            subjects += u64::from(!of.is_empty());
            assert_eq!(store.index.last_by_subject(subject.as_bytes()), of.last().copied(), "{subject}");
            assert_eq!(store.index.first_match(subject.as_bytes(), 0), of.first().copied());
            let (page, total) = store.index.subjects(subject.as_bytes(), 0, 10);
            assert_eq!(
                (page.first().map(|(_, count)| *count), total),
                match of.len() {
                    0 => (None, 0),
                    count => (Some(count as u64), 1),
                }
            );
        }
        assert_eq!(state.subjects, subjects);
        for time in [self.clock / 2, self.clock - 20, self.clock] {
            let expected = self.live.values().find(|message| message.time >= time).map(|message| message.sequence);
            assert_eq!(store.index.first_after(time), expected);
        }
        for sequence in state.first.saturating_sub(3)..=self.last + 2 {
            let loaded = store.load(sequence).await.expect("readable");
            let expected = self.live.get(&sequence);
            assert_eq!(loaded.is_some(), expected.is_some(), "{sequence}");
            if let (Some(loaded), Some(expected)) = (loaded, expected) {
                assert_eq!((loaded.sequence, loaded.time), (sequence, expected.time));
                assert_eq!(loaded.subject, expected.subject);
                assert_eq!((&*loaded.headers, &*loaded.payload), (&*expected.headers, &*expected.payload));
            }
        }
    }
}

pub(super) fn config(place: Place) -> Config {
    Config {
        place,
        first_sequence: 0,
        cache_bytes: 4 << 10,
        segment_bytes: 4 << 10,
        queue_bytes: 256 << 10,
        record_bytes: 64 << 10,
        sync: journal::Sync::Always,
    }
}

pub(super) async fn open(place: Place, limits: &Limits, changes: &[Change], tasks: &Tasks) -> (Store, Report) {
    let opened = Store::open(config(place), limits.clone(), changes.to_vec(), tasks).await.expect("opens");
    let Opened { store, report } = opened;
    (store, report)
}

pub(super) fn limits(random: &mut fastrand::Rng) -> Limits {
    let some = |random: &mut fastrand::Rng, max| (random.u8(..3) == 0).then(|| random.u64(1..max));
    Limits {
        max_msgs: some(random, 60),
        max_bytes: some(random, 6000).map(|bytes| bytes + 1000),
        max_age: some(random, 400).map(Duration::from_nanos),
        max_msgs_per_subject: some(random, 6),
        discard: [Discard::Old, Discard::Old, Discard::New, Discard::NewPerSubject][random.usize(..4)],
    }
}

pub(super) fn message(random: &mut fastrand::Rng, sequence: u64, time: i64) -> Message {
    let ttl = match random.u8(..12) {
        0 => Some(Ttl::Never),
        1 | 2 => Some(Ttl::After(Duration::from_nanos(random.u64(1..300)))),
        _ => None,
    };
    let rollup = match random.u8(..60) {
        0 => Some(Rollup::All),
        1 | 2 => Some(Rollup::Subject),
        _ => None,
    };
    // Some subjects are written often.
    let subject = SUBJECTS[random.usize(..SUBJECTS.len()).min(random.usize(..SUBJECTS.len()))];
    let headers = if random.bool() { Vec::new() } else { b"NATS/1.0\r\nA: b\r\n\r\n".to_vec() };
    let most = [20, 20, 200, 1500][random.usize(..4)];
    let mut payload = vec![0; random.usize(..most)];
    random.fill(&mut payload);
    Message { sequence, subject, headers, payload, time, ttl, rollup }
}

pub(super) fn purge(random: &mut fastrand::Rng, last: u64) -> Purge {
    let filter = match random.u8(..4) {
        0 => None,
        1 => Some(b">".to_vec()),
        2 => Some(b"a.*".to_vec()),
        _ => Some(SUBJECTS[random.usize(..SUBJECTS.len())].as_bytes().to_vec()),
    };
    let keep = if random.bool() { 0 } else { random.u64(..8) };
    let up_to = if keep > 0 || random.bool() { 0 } else { random.u64(..=last + 3) };
    Purge { filter, keep, up_to }
}

/// The seed of a run: given by `STORE_SEED`, or a new one. Printed when a test fails, as all output is.
pub(super) fn seed() -> u64 {
    let given = std::env::var("STORE_SEED").ok().map(|text| text.parse().expect("STORE_SEED is a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("STORE_SEED={seed}");
    seed
}
