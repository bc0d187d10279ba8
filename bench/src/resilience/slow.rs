//! One of three instances takes 50 ms, the others answer at once: how many requests meet it, and what does that do to the
//! slowest of them?

use anyhow::Result;
use serde_json::{Map, json};

use super::stand::{By, Case, Load, Service};
use super::{Bench, Section, Stand, float, milliseconds, turns};
use crate::callee::{Conduct, SLOW};
use crate::rate::Outcome;
use crate::report::{summary_to_json, table};
use crate::statistics::Summary;

const SERVICE: Service = Service { id: "three", conduct: Some(Conduct::Slow), replicas: 3 };

/// Requests a second.
const RATE: u32 = 1_000;
/// Many more than are under way when a third of them is slow.
const CONNECTIONS: usize = 256;

/// A try that takes too long is broken off and counts as a failure, and who fails often is left alone for a time.
const GUARDED: &str = "\
load_balancing = { policy = \"round_robin\" }
retry = { attempts = 2, backoff = \"1ms\", try_timeout = \"20ms\" }
outlier_ejection = {}";

const fn case(id: &'static str, name: &'static str, by: By) -> Case {
    Case { id, name, service: SERVICE, by }
}

const CASES: [Case; 6] = [
    case("least-requests", "Atoll least_requests (default)", By::Atoll("")),
    case("peak-ewma", "Atoll peak_ewma", By::Atoll("load_balancing = { policy = \"peak_ewma\" }")),
    case("round-robin", "Atoll round_robin", By::Atoll("load_balancing = { policy = \"round_robin\" }")),
    case("guarded", "Atoll round_robin, try_timeout 20 ms, ejection", By::Atoll(GUARDED)),
    case("haproxy-leastconn", "HAProxy leastconn", By::Haproxy("  balance leastconn", "")),
    case("haproxy-roundrobin", "HAProxy roundrobin", By::Haproxy("  balance roundrobin", "")),
];

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Sample {
    outcome: Outcome,
    /// Of what all instances were asked, what the slow one was.
    share: f64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Section> {
    let stand = Stand::open(bench, &CASES).await?;
    let load = Load { rate: RATE, seconds: bench.options.seconds, connections: CONNECTIONS };
    let mut samples = vec![Vec::new(); stand.targets.len()];
    for round in 0..bench.options.rounds {
        for at in turns(stand.targets.len(), round) {
            let target = &stand.targets[at];
            let before = target.counts();
            let outcome = target.load(load).await?;
            let asked: Vec<u64> = target.counts().iter().zip(before).map(|(after, before)| after - before).collect();
            let share = float(asked[0]) / float(asked.iter().sum::<u64>().max(1));
            eprintln!(
                "bench: slow round {}: {}: p50 {} us, p99 {} us, {share:.3} to the slow one, {} errors",
                round + 1,
                target.case.name,
                outcome.p50,
                outcome.p99,
                outcome.errors
            );
            samples[at].push(Sample { outcome, share });
        }
    }
    let cases: Vec<Case> = stand.targets.iter().map(|target| target.case).collect();
    Ok(section(&cases, &samples))
}

fn section(cases: &[Case], samples: &[Vec<Sample>]) -> Section {
    let (mut rows, mut json) = (Vec::new(), Map::new());
    for (case, samples) in cases.iter().zip(samples) {
        let of = |figure: fn(&Sample) -> f64| Summary::of(samples.iter().map(figure));
        let p50 = of(|sample| milliseconds(float(sample.outcome.p50)));
        let p95 = of(|sample| milliseconds(float(sample.outcome.p95)));
        let p99 = of(|sample| milliseconds(float(sample.outcome.p99)));
        let share = of(|sample| 100.0 * sample.share);
        let errors: u64 = samples.iter().map(|sample| sample.outcome.errors).sum();
        rows.push(vec![
            case.name.to_owned(),
            table::median(p50, 2),
            table::median(p95, 2),
            table::median(p99, 1),
            table::spread(p99, 1),
            table::median(share, 1),
            errors.to_string(),
        ]);
        json.insert(
            case.id.to_owned(),
            json!({
                "name": case.name, "p50_ms": summary_to_json(p50), "p95_ms": summary_to_json(p95), "p99_ms": summary_to_json(p99),
                "to_slow_percent": summary_to_json(share), "errors": errors,
            }),
        );
    }
    Section {
        id: "slow",
        title: format!("One of three instances takes {} ms, {RATE} requests/s", SLOW.as_millis()),
        header: vec!["", "p50 ms", "p95 ms", "p99 ms", "min..max", "% to it", "errors"],
        rows,
        json: json.into(),
    }
}
