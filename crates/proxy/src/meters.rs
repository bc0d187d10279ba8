//! Counts a route and an edge: one meter each, with a shard a core that only this core writes, made at its first request
//! there. A meter is kept from snapshot to snapshot. The path meets it twice: [`Metered::route`] once the route is
//! known, [`Metered::end`] when the record of the request ends. Readers add the shards up; who does not read pays nothing.

mod histogram;
mod reading;
mod shard;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::counters::{self, Counts};
use crate::snapshot::Snapshot;
use crate::table::Tables;

pub use histogram::Histogram;
pub use reading::{Outcome, Reading, Readings, Series, Subject, bounds_seconds};
pub(crate) use shard::{Ended, Shard};

// Limit: meters of one process. A route beyond has none, and its requests are counted as those without a route are.
const METERS_MAX: usize = 16_384;

/// How long the meter of a route that is gone is kept: long enough for everybody who reads to have read its last counts,
/// and for a route that comes back to go on counting.
const GONE_MAX: Duration = Duration::from_secs(10 * 60);

/// One route or edge.
#[derive(Debug)]
pub(crate) struct Meter {
    /// By core.
    shards: Box<[OnceLock<Arc<Shard>>]>,
}

impl Meter {
    fn new(cores: usize) -> Self {
        Self { shards: (0..cores).map(|_| OnceLock::new()).collect() }
    }
}

/// Where the requests of a compiled route are counted; empty in tables that nobody serves.
#[derive(Debug, Default)]
pub(crate) struct Slot(OnceLock<Arc<Meter>>);

/// The meters of one process.
#[derive(Debug)]
pub(crate) struct Meters {
    cores: usize,
    known: Mutex<BTreeMap<Subject, Known>>,
}

#[derive(Debug)]
struct Known {
    meter: Arc<Meter>,
    /// When a snapshot first was without it.
    gone_at: Option<Instant>,
}

impl Meters {
    pub(crate) fn new(cores: usize) -> Self {
        Self { cores, known: Mutex::default() }
    }

    /// Gives every route of the snapshot the meter that it had, or a new one. Called before the tables are served.
    pub(crate) fn assign(&self, snapshot: &Snapshot, tables: &Tables, now: Instant) {
        let rules = |name: &str| tables.listener(name).into_iter().flat_map(|table| &table.rules);
        let all = snapshot.listeners.iter().flat_map(|(name, listener)| {
            rules(name).map(|rule| (Subject::of(name, &listener.role, rule.route.name()), &rule.route.meter))
        });
        // Rules of one route have one slot.
        let wanted: BTreeMap<Subject, &Slot> = all.collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (subject, one) in known.iter_mut() {
            one.gone_at = if wanted.contains_key(subject) { None } else { one.gone_at.or(Some(now)) };
        }
        free_old(&mut known, now);
        let new = wanted.keys().filter(|subject| !known.contains_key(subject)).count();
        if known.len() + new > METERS_MAX {
            known.retain(|_, one| one.gone_at.is_none());
        }
        for (subject, slot) in wanted {
            if known.len() < METERS_MAX || known.contains_key(&subject) {
                let new = || Known { meter: Arc::new(Meter::new(self.cores)), gone_at: None };
                let one = known.entry(subject).or_insert_with(new);
                // Tables that stay have theirs.
                let _ = slot.0.set(Arc::clone(&one.meter));
            }
        }
    }

    /// What all cores have counted.
    pub(crate) fn read(&self, counts: &[Arc<Counts>], now: Instant) -> Readings {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        free_old(&mut known, now);
        let mut readings = Readings::default();
        for (subject, Known { meter, .. }) in known.iter() {
            let reading = readings.meters.entry(subject.clone()).or_default();
            meter.shards.iter().filter_map(OnceLock::get).for_each(|shard| shard.add_to(reading));
        }
        for core in counts {
            core.no_route.add_to(readings.meters.entry(Subject::NoRoute).or_default());
            core.no_edge.add_to(readings.meters.entry(Subject::NoEdge).or_default());
        }
        counters::read(counts, &mut readings);
        readings
    }
}

fn free_old(known: &mut BTreeMap<Subject, Known>, now: Instant) {
    known.retain(|_, one| one.gone_at.is_none_or(|gone_at| now.saturating_duration_since(gone_at) < GONE_MAX));
}

/// One request on its way: where it is counted. Dropped without [`Metered::end`], it stays active for ever.
#[derive(Debug, Default)]
pub(crate) struct Metered(Option<Arc<Shard>>);

impl Metered {
    /// The route is known: the request counts as active there. Touches nothing of another core.
    pub(crate) fn route(&mut self, slot: &Slot, core: usize) {
        let Some(shard) = slot.0.get().and_then(|meter| meter.shards.get(core)) else { return };
        let shard = Arc::clone(shard.get_or_init(Arc::default));
        shard.begin();
        self.0 = Some(shard);
    }

    /// The request has ended. One that no route took is counted in `stray`.
    pub(crate) fn end(self, stray: &Shard, ended: &Ended<'_>) {
        match self.0 {
            Some(shard) => shard.end(ended),
            None => {
                stray.begin();
                stray.end(ended);
            }
        }
    }
}

#[cfg(test)]
mod tests;
