//! Counts of one core, added up over all cores when somebody asks. Nothing on the request's path is shared.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::limit::Limit;
use crate::meters::{Readings, Shard};
use crate::reason::Reason;

/// What the whole process has counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Clients' connections accepted.
    pub connections: u64,
    /// Of them, those open now.
    pub connections_active: u64,
    /// Requests whose head was read.
    pub requests: u64,
    /// Of them, those without a complete answer yet; tunnels included.
    pub requests_active: u64,
    /// Heads that could not be read: malformed, too large, or never ended. They are not among the requests.
    pub heads_refused: u64,
    /// Connections to endpoints opened.
    pub upstream_connections: u64,
    /// Records of the access log lost because nobody took them in time.
    pub access_lines_dropped: u64,
    /// Requests that failed or were unusual and of which nothing is remembered: there were too many in their second.
    // A process of an older version does not know it.
    #[serde(default)]
    pub stories_skipped: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.connections_active += other.connections_active;
        self.requests += other.requests;
        self.requests_active += other.requests_active;
        self.heads_refused += other.heads_refused;
        self.upstream_connections += other.upstream_connections;
        self.access_lines_dropped += other.access_lines_dropped;
        self.stories_skipped += other.stories_skipped;
    }
}

/// The part of one core. Only its own core writes.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Its number.
    pub(crate) core: usize,
    pub(crate) connections: Count,
    pub(crate) connections_closed: Count,
    pub(crate) requests: Count,
    pub(crate) requests_ended: Count,
    pub(crate) heads_refused: Count,
    pub(crate) upstream_connections: Count,
    pub(crate) access_lines_dropped: Count,
    pub(crate) stories_skipped: Count,
    /// Tunnels and event streams that have begun, and of them those that are over.
    pub(crate) endless: Count,
    pub(crate) endless_ended: Count,
    /// Requests that no route of a gateway took.
    pub(crate) no_route: Shard,
    /// The same before edges.
    pub(crate) no_edge: Shard,
    refused: [Count; Reason::ALL.len()],
    limits: [Count; Limit::ALL.len()],
}

impl Counts {
    pub(crate) fn of(core: usize) -> Self {
        Self {
            core,
            connections: Count::default(),
            connections_closed: Count::default(),
            requests: Count::default(),
            requests_ended: Count::default(),
            heads_refused: Count::default(),
            upstream_connections: Count::default(),
            access_lines_dropped: Count::default(),
            stories_skipped: Count::default(),
            endless: Count::default(),
            endless_ended: Count::default(),
            no_route: Shard::default(),
            no_edge: Shard::default(),
            refused: Default::default(),
            limits: Default::default(),
        }
    }

    /// Requests without a complete answer. Exact for its own core.
    pub(crate) fn active(&self) -> u64 {
        let ended = self.requests_ended.get();
        self.requests.get().saturating_sub(ended)
    }

    /// Of these, those whose answer has an end of its own.
    pub(crate) fn finite(&self) -> u64 {
        let over = self.endless_ended.get();
        let endless = self.endless.get().saturating_sub(over);
        self.active().saturating_sub(endless)
    }

    /// A request, or a head that could not be read, was refused or broke off.
    pub(crate) fn refuse(&self, reason: Reason) {
        self.refused[reason as usize].add(1);
    }

    /// A limit was met, if it was one: something is refused, cut, closed or tried elsewhere for it.
    pub(crate) fn reach(&self, limit: impl Into<Option<Limit>>) {
        if let Some(limit) = limit.into() {
            self.limits[limit as usize].add(1);
        }
    }
}

/// Written by one thread alone, which spares it the lock prefix of an atomic addition.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Adds up all cores. What has ended is read first, so that nothing ever seems to end before it begins.
pub(crate) fn sum(cores: &[Arc<Counts>]) -> Counters {
    let total = |count: fn(&Counts) -> &Count| cores.iter().map(|core| count(core).get()).sum::<u64>();
    let (closed, ended) = (total(|core| &core.connections_closed), total(|core| &core.requests_ended));
    let (connections, requests) = (total(|core| &core.connections), total(|core| &core.requests));
    Counters {
        connections,
        connections_active: connections.saturating_sub(closed),
        requests,
        requests_active: requests.saturating_sub(ended),
        heads_refused: total(|core| &core.heads_refused),
        upstream_connections: total(|core| &core.upstream_connections),
        access_lines_dropped: total(|core| &core.access_lines_dropped),
        stories_skipped: total(|core| &core.stories_skipped),
    }
}

/// Fills in what is counted of whole processes.
pub(crate) fn read(cores: &[Arc<Counts>], readings: &mut Readings) {
    readings.counters = sum(cores);
    for reason in Reason::ALL {
        let count = cores.iter().map(|core| core.refused[reason as usize].get()).sum();
        readings.refused.insert(reason.code().to_owned(), count);
    }
    for limit in Limit::ALL {
        let count = cores.iter().map(|core| core.limits[limit as usize].get()).sum();
        readings.limits.insert(limit.code().to_owned(), count);
    }
}
