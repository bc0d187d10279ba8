//! Routes and edges with what the data plane counts and knows of each → what the API shows. Pure.

use std::time::Duration;

use manifest::Plan;
use proxy::{GuardReading, Reading, Readings, Subject};

use crate::api::dto;
use crate::lower::GATEWAY;
use crate::lower::drills::breaker_state;
use crate::lower::names::named;

/// The routes and edges of a plan with what was counted of each; last what no route took, if anything.
pub fn edges(plan: &Plan, readings: &Readings) -> Vec<dto::Edge> {
    let (nothing, unguarded) = (Reading::default(), GuardReading::default());
    let all = named(plan).map(|named| {
        let reading = readings.meters.get(&named.subject).unwrap_or(&nothing);
        let guard = readings.guards.get(&named.subject).unwrap_or(&unguarded);
        let mut edge = edge(named.from, named.to, named.route, (reading, guard));
        edge.breaker = named.policy.circuit_breaker.as_ref().map(|_| breaker_state(guard.breaker.as_ref()));
        edge
    });
    let strays = readings.meters.get(&Subject::NoRoute).filter(|reading| reading.ended() > 0);
    let stray = strays.map(|reading| edge(GATEWAY, Vec::new(), None, (reading, &unguarded)));
    all.chain(stray).collect()
}

fn edge(from: &str, to: Vec<String>, route: Option<&str>, (reading, guard): (&Reading, &GuardReading)) -> dto::Edge {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let ejected = guard.ejected.iter().map(|ejected| dto::Ejected {
        service: ejected.service.clone(),
        instance: ejected.instance,
        left_ms: millis(ejected.left),
    });
    let proxy::BudgetReading { requests, retries, retries_max } = guard.budget;
    dto::Edge {
        from: from.to_owned(),
        to,
        route: route.map(str::to_owned),
        requests: reading.ended(),
        failed: reading.failed(),
        retries: reading.retries,
        active: reading.active(),
        bytes_in: reading.bytes_in,
        bytes_out: reading.bytes_out,
        durations_us: reading.durations.buckets().map(|(least, count)| (micros(least), count)).collect(),
        breaker: None,
        concurrency: guard.gate.map(|gate| dto::Concurrency {
            running: gate.running,
            waiting: gate.waiting,
            max: gate.max,
        }),
        ready: guard.ready,
        ejected: ejected.collect(),
        retry_budget: dto::RetryBudget { requests, retries, retries_max },
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
