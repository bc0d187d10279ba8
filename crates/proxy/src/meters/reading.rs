//! What was counted, as plain data: made of the shards of all cores, sent to the daemon, added up over processes.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::counters::Counters;
use crate::guard::GuardReading;
use crate::meters::histogram::Histogram;
use crate::meters::shard::ADVISED_NANOS;
use crate::reason::Reason;
use crate::snapshot::Role;

/// What is counted on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A rule of a gateway.
    Route {
        listener: String,
        route: String,
    },
    Edge {
        caller: String,
        upstream: String,
    },
    /// What no route of a gateway took: malformed, refused at once, or for a path that nobody has.
    NoRoute,
    /// The same of all edges together, where only a malformed request has no route.
    NoEdge,
}

impl Subject {
    pub(crate) fn of(listener: &str, role: &Role, route: &str) -> Self {
        match role {
            Role::Gateway => Self::Route { listener: listener.to_owned(), route: route.to_owned() },
            Role::Edge { caller, upstream } => Self::Edge { caller: caller.clone(), upstream: upstream.clone() },
        }
    }
}

/// How requests of one series ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Outcome {
    /// One of the methods of RFC 9110 §9 and RFC 5789, else `_OTHER`.
    pub method: String,
    /// 499 where the client left before there was an answer.
    pub status: u16,
    /// [`crate::Reason::code`], where the proxy answered or the answer broke.
    pub reason: Option<String>,
    /// Stands for all outcomes that there was no room for; the rest then means nothing.
    pub is_overflow: bool,
}

impl Outcome {
    pub(crate) fn overflow() -> Self {
        Self { method: "_OTHER".to_owned(), status: 0, reason: None, is_overflow: true }
    }

    /// Whether the client got no answer of a service, or one of 500 and above. What a client did wrong is no failure.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        // A service's reason beside a good status: its answer broke after the head, or a fallback stands for it.
        let reason = self.reason.as_deref().and_then(Reason::of_code);
        let is_broken = self.status < 400 && reason.is_some_and(Reason::is_of_service);
        self.status >= 500 || is_broken
    }
}

/// Durations of the requests of one outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// All durations together.
    pub nanos: u64,
    /// By the bounds of [`bounds_seconds`], each without those before it; the last is beyond all bounds.
    pub buckets: [u64; ADVISED_NANOS.len() + 1],
}

/// Upper bounds of [`Series::buckets`]: what OpenTelemetry advises.
pub fn bounds_seconds() -> impl Iterator<Item = f64> {
    ADVISED_NANOS.iter().map(|nanos| *nanos as f64 / 1e9)
}

impl Series {
    /// How many requests.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// What was counted of one subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub begun: u64,
    /// Tries beyond the first.
    pub retries: u64,
    /// Bodies of requests, and what tunnels took from clients.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// From the sending of the last try to the head of its response.
    pub upstream_nanos: u64,
    pub upstream_count: u64,
    pub durations: Histogram,
    #[serde(with = "pairs")]
    pub series: BTreeMap<Outcome, Series>,
}

impl Reading {
    /// Requests that have ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.series.values().map(Series::count).sum()
    }

    /// Requests without a complete answer yet.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.begun.saturating_sub(self.ended())
    }

    /// Requests of which [`Outcome::is_failure`] holds.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.series.iter().filter(|(outcome, _)| outcome.is_failure()).map(|(_, series)| series.count()).sum()
    }

    /// Nothing of it is active any more: the process that counted it has ended.
    pub(crate) fn close(&mut self) {
        self.begun = self.ended();
    }
}

impl AddAssign<&Self> for Reading {
    fn add_assign(&mut self, other: &Self) {
        self.begun += other.begun;
        self.retries += other.retries;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.upstream_nanos += other.upstream_nanos;
        self.upstream_count += other.upstream_count;
        self.durations.merge(&other.durations);
        for (outcome, series) in &other.series {
            let sum = self.series.entry(outcome.clone()).or_default();
            sum.nanos += series.nanos;
            for (sum, bucket) in sum.buckets.iter_mut().zip(&series.buckets) {
                *sum += bucket;
            }
        }
    }
}

/// Everything that a process, or all of them, have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings {
    pub counters: Counters,
    /// Requests and heads that were refused or broke, by [`crate::Reason::code`]. Every code is there.
    pub refused: BTreeMap<String, u64>,
    /// How often each limit was met, by [`crate::Limit::code`]. Every code is there.
    pub limits: BTreeMap<String, u64>,
    #[serde(with = "pairs")]
    pub meters: BTreeMap<Subject, Reading>,
    /// How routes and edges stand at this moment: of processes that are on their way out, only what no other one has.
    #[serde(with = "pairs")]
    pub guards: BTreeMap<Subject, GuardReading>,
}

impl Readings {
    /// Nothing is open any more: the process has ended.
    pub(crate) fn close(&mut self) {
        self.counters.connections_active = 0;
        self.counters.requests_active = 0;
        self.meters.values_mut().for_each(Reading::close);
        self.guards.clear();
    }

    /// Forgets what is too much to keep: routes come and go for as long as a daemon lives.
    pub(crate) fn bound(&mut self) {
        while self.meters.len() > super::METERS_MAX {
            self.meters.pop_first();
        }
    }
}

impl AddAssign<&Self> for Readings {
    fn add_assign(&mut self, other: &Self) {
        self.counters += other.counters;
        for (sums, counts) in [(&mut self.refused, &other.refused), (&mut self.limits, &other.limits)] {
            for (code, count) in counts {
                *sums.entry(code.clone()).or_default() += count;
            }
        }
        for (subject, reading) in &other.meters {
            *self.meters.entry(subject.clone()).or_default() += reading;
        }
        // The later process is the one that serves.
        self.guards.extend(other.guards.iter().map(|(subject, guard)| (subject.clone(), guard.clone())));
    }
}

/// Maps whose keys are no strings, as lists of pairs: JSON has no others.
mod pairs {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: DeserializeOwned + Ord,
        V: DeserializeOwned,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_travel_as_json_and_add_up_over_processes() {
        let mut readings = Readings::default();
        let outcome = Outcome { method: "GET".into(), status: 200, reason: None, is_overflow: false };
        let series = Series { nanos: 7, buckets: [1; 15] };
        let reading = Reading { begun: 20, series: [(outcome, series)].into(), ..Reading::default() };
        readings.meters.insert(Subject::NoRoute, reading.clone());
        readings.meters.insert(Subject::Edge { caller: "a".into(), upstream: "b".into() }, reading);
        readings.refused.insert("no_route".into(), 3);
        readings.counters.requests_active = 5;
        let read: Readings = serde_json::from_slice(&serde_json::to_vec(&readings).unwrap()).unwrap();
        assert_eq!(read, readings);
        readings.close();
        readings += &read;
        assert_eq!(readings.refused["no_route"], 6);
        let edge = &readings.meters[&Subject::Edge { caller: "a".into(), upstream: "b".into() }];
        // Those that were active in the process that has ended are not any more.
        assert_eq!((edge.ended(), edge.active(), readings.counters.requests_active), (30, 5, 5));
    }

    #[test]
    fn a_failure_is_one_of_the_service_or_of_the_proxy_and_not_of_the_client() {
        let of = |status, reason: Option<&str>| {
            Outcome { method: "GET".into(), status, reason: reason.map(str::to_owned), is_overflow: false }.is_failure()
        };
        let failures = [(200, Some("upstream_broken")), (500, None), (503, Some("no_endpoint"))];
        assert!(failures.into_iter().all(|(status, reason)| of(status, reason)));
        let others = [(200, None), (404, Some("no_route")), (200, Some("client_closed")), (499, Some("client_closed"))];
        assert!(!others.into_iter().any(|(status, reason)| of(status, reason)));
    }
}
