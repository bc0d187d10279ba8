//! Counts of one core, added up over all cores when somebody asks. Nothing on the request's path is shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

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
}

/// The part of one core. Only its own core writes.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: Count,
    pub(crate) connections_closed: Count,
    pub(crate) requests: Count,
    pub(crate) requests_ended: Count,
    pub(crate) heads_refused: Count,
    pub(crate) upstream_connections: Count,
    pub(crate) access_lines_dropped: Count,
}

#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
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
    }
}
