//! How routes and edges stand, as gauges: breakers, ejections, concurrency limits, retry budgets.

use proxy::{GuardReading, Readings, Subject};

use super::labels;
use super::text::{Family, Kind, Value};
use crate::lower::drills::{STATES, state_name};

/// A series for each route and edge that has the thing.
pub(super) fn families(readings: &Readings) -> Vec<Family> {
    let of = |name, help, value: fn(&GuardReading) -> Option<u64>| {
        let sample =
            |(subject, guard): (&Subject, &GuardReading)| Some((labels(subject).1, Value::Count(value(guard)?)));
        Family::new(Kind::Gauge, name, "", help).with(readings.guards.iter().filter_map(sample))
    };
    vec![
        breakers(readings),
        of("atoll_proxy_ready_instances", "Ready instances, those that are ejected included.", |guard| {
            Some(guard.ready.into())
        }),
        of("atoll_proxy_ejected_instances", "Instances that are passed over because of what they answered.", |guard| {
            Some(guard.ejected.len() as u64)
        }),
        of("atoll_proxy_concurrency_running", "Requests that have a place of the concurrency limit.", |guard| {
            Some(guard.gate?.running.into())
        }),
        of("atoll_proxy_concurrency_waiting", "Requests that wait for such a place.", |guard| {
            Some(guard.gate?.waiting.into())
        }),
        of("atoll_proxy_concurrency_limit", "Places of the concurrency limit.", |guard| Some(guard.gate?.max.into())),
        of("atoll_proxy_retry_budget_requests", "Requests of the last ten seconds.", |guard| {
            Some(guard.budget.requests)
        }),
        of("atoll_proxy_retry_budget_retries", "Retries of the last ten seconds.", |guard| Some(guard.budget.retries)),
        of("atoll_proxy_retry_budget_limit", "Retries that these requests allow.", |guard| {
            Some(guard.budget.retries_max)
        }),
    ]
}

fn breakers(readings: &Readings) -> Family {
    let help = "Whether a circuit breaker is in this state.";
    let mut family = Family::new(Kind::Gauge, "atoll_proxy_circuit_breaker_state", "", help);
    for (subject, guard) in &readings.guards {
        let Some(breaker) = &guard.breaker else { continue };
        for state in STATES {
            let labels = labels(subject).1.into_iter().chain([("state", state_name(state).to_owned())]);
            family.add(labels.collect(), Value::Count((breaker.state == state).into()));
        }
    }
    family
}
