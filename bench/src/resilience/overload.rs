//! Five times what a service can do, for long: how much of its work is still of use, how fast is what is let in, how fast is
//! the rest refused, and does the proxy grow? Two services: one that waits, one that computes. Both work on for callers
//! that have gone. Every case has a stand of its own: what one has left undone must not burden the next.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tokio::time::interval;

use super::stand::{By, Case, Load, Service, TIMEOUT_MS, Target};
use super::{Bench, Section, Stand, float, milliseconds};
use crate::callee::Conduct;
use crate::rate::Outcome;
use crate::report::{summary_to_json, table};
use crate::statistics::Summary;
use crate::usage::Memory;
use crate::wrk;

pub(super) const ID: &str = "overload";

/// Of the peak: what is called normal, and what is too much.
const NORMAL: f64 = 0.7;
const OVERLOAD: f64 = 5.0;
/// An overload goes on so many times as long as another measurement.
const LONG: u64 = 10;
const ROUNDS_MAX: usize = 3;

/// Enough for all that is let in, and for all who wait until they give up.
const CONNECTIONS: usize = 2_048;
const NORMAL_CONNECTIONS: usize = 64;

const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Memory is called the first when connections and buffers are there: after so many of these.
const SETTLED: usize = 6;

const fn case(id: &'static str, name: &'static str, conduct: Conduct, by: By) -> Case {
    let service = Service { id: "callee", conduct: Some(conduct), replicas: 1 };
    Case { id, name, service, by }
}

const fn waits(id: &'static str, name: &'static str, by: By) -> Case {
    case(id, name, Conduct::Limited, by)
}

const fn computes(id: &'static str, name: &'static str, by: By) -> Case {
    case(id, name, Conduct::Busy, by)
}

const NOTHING: By = By::Atoll("");
const HAPROXY: By = By::Haproxy("", "");
const ATOLL_8: By = By::Atoll("concurrency_limit = { max = 8, queue = 4 }");
const ATOLL_2: By = By::Atoll("concurrency_limit = { max = 2, queue = 1 }");

const CASES: [Case; 8] = [
    waits("waits-limit", "waits: Atoll, limit 8 + 4", ATOLL_8),
    waits("waits-none", "waits: Atoll, no limit", NOTHING),
    waits("waits-haproxy-limit", "waits: HAProxy, limit 8 + 4", By::Haproxy(HAPROXY_8, "maxconn 8")),
    waits("waits-haproxy", "waits: HAProxy, no limit", HAPROXY),
    computes("computes-limit", "computes: Atoll, limit 2 + 1", ATOLL_2),
    computes("computes-none", "computes: Atoll, no limit", NOTHING),
    computes("computes-haproxy-limit", "computes: HAProxy, limit 2 + 1", By::Haproxy(HAPROXY_2, "maxconn 2")),
    computes("computes-haproxy", "computes: HAProxy, no limit", HAPROXY),
];

/// Requests that fill the limits: those that are let in and those that wait.
const fn full(case: &Case) -> usize {
    match case.service.conduct {
        Some(Conduct::Limited) => 8 + 4,
        _ => 2 + 1,
    }
}

/// HAProxy bounds how long a request waits; that so many wait at most must be said as a rule.
const HAPROXY_8: &str = "  timeout queue 100ms\n  http-request return status 503 hdr retry-after 1 if { queue ge 4 }";
const HAPROXY_2: &str = "  timeout queue 100ms\n  http-request return status 503 hdr retry-after 1 if { queue ge 1 }";

/// One round of one case.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Good answers a second, in a closed loop that just fills it.
    peak: f64,
    normal: Outcome,
    overload: Outcome,
    seconds: u64,
    memory: Growth,
}

/// Resident memory of the proxy under overload, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Growth {
    first: u64,
    last: u64,
    max: u64,
}

impl Sample {
    fn goodput(&self) -> f64 {
        float(self.overload.counted) / float(self.seconds.max(1))
    }

    fn kept(&self) -> f64 {
        100.0 * self.goodput() / self.peak.max(f64::MIN_POSITIVE)
    }
}

pub(super) async fn measure(bench: &Bench) -> Result<Section> {
    let mut samples = vec![Vec::new(); CASES.len()];
    for round in 0..bench.options.rounds.min(ROUNDS_MAX) {
        for at in super::turns(CASES.len(), round) {
            let case = CASES[at];
            let stand = Stand::open(bench, &[case]).await?;
            // None where HAProxy is not installed.
            let Some(target) = stand.targets.first() else { continue };
            let sample = load(target, bench.options.seconds).await?;
            eprintln!(
                "bench: overload round {}: {}: peak {:.0}/s, then {:.0}/s; p99 {} us, then {} us; {} KiB, then {} KiB",
                round + 1,
                case.name,
                sample.peak,
                sample.goodput(),
                sample.normal.p99,
                sample.overload.p99,
                sample.memory.first,
                sample.memory.last
            );
            samples[at].push(sample);
        }
    }
    Ok(section(&samples))
}

async fn load(target: &Target, seconds: u64) -> Result<Sample> {
    let wrk::Outcome { requests, seconds: took, errors } =
        wrk::load(&target.url(), full(&target.case), seconds + 1, None).await?;
    let peak = float(requests.saturating_sub(errors)) / took;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = |times: f64| (peak * times).max(1.0) as u32;
    let normal = Load { rate: rate(NORMAL), seconds: seconds + 1, connections: NORMAL_CONNECTIONS };
    let normal = target.load(normal).await?;
    let seconds = seconds * LONG;
    let overload = Load { rate: rate(OVERLOAD), seconds, connections: CONNECTIONS };
    let mut memory = Vec::new();
    let watch = async {
        let mut tick = interval(SAMPLE_INTERVAL);
        loop {
            tick.tick().await;
            match Memory::at(&target.pids) {
                Ok(now) => memory.push(now.rss),
                Err(error) => return error,
            }
        }
    };
    let overload = tokio::select! {
        outcome = target.load(overload) => outcome?,
        error = watch => return Err(error).context(target.case.name),
    };
    Ok(Sample { peak, normal, overload, seconds, memory: Growth::of(&memory) })
}

impl Growth {
    fn of(memory: &[u64]) -> Self {
        let first = memory.get(SETTLED).or(memory.last()).copied().unwrap_or_default();
        let last = memory.last().copied().unwrap_or_default();
        Self { first, last, max: memory.iter().copied().max().unwrap_or_default() }
    }
}

fn section(samples: &[Vec<Sample>]) -> Section {
    let (mut rows, mut json) = (Vec::new(), Map::new());
    for (case, samples) in CASES.iter().zip(samples).filter(|(_, samples)| !samples.is_empty()) {
        let (row, value) = line(case, samples);
        rows.push(row);
        json.insert(case.id.to_owned(), value);
    }
    Section {
        id: ID,
        title: format!("{OVERLOAD} times the peak; an answer is good within {TIMEOUT_MS} ms"),
        header: vec![
            "",
            "peak/s",
            "good/s",
            "% of peak",
            "min..max",
            "p99 ms at 70 %",
            "p99 ms",
            "ratio",
            "% refused",
            "p50 ms",
            "p99 ms",
            "MiB",
            "MiB more",
        ],
        rows,
        json: json.into(),
    }
}

fn line(case: &Case, samples: &[Sample]) -> (Vec<String>, Value) {
    let of = |figure: fn(&Sample) -> f64| Summary::of(samples.iter().map(figure));
    let (peak, goodput, kept) = (of(|sample| sample.peak), of(Sample::goodput), of(Sample::kept));
    let normal = of(|sample| milliseconds(float(sample.normal.p99)));
    let p99 = of(|sample| milliseconds(float(sample.overload.p99)));
    let ratio = of(|sample| float(sample.overload.p99) / float(sample.normal.p99.max(1)));
    let refused =
        of(|sample| 100.0 * float(sample.overload.refused.requests) / OVERLOAD / sample.peak / float(sample.seconds));
    let refused_p50 = of(|sample| milliseconds(float(sample.overload.refused.p50)));
    let refused_p99 = of(|sample| milliseconds(float(sample.overload.refused.p99)));
    let mib = |kib: u64| float(kib) / 1_024.0;
    let memory = Summary::of(samples.iter().map(|sample| mib(sample.memory.max)));
    let grown = Summary::of(samples.iter().map(|sample| mib(sample.memory.last) - mib(sample.memory.first)));
    let row = vec![
        case.name.to_owned(),
        table::median(peak, 0),
        table::median(goodput, 0),
        table::median(kept, 0),
        table::spread(kept, 0),
        table::median(normal, 1),
        table::median(p99, 1),
        table::median(ratio, 2),
        table::median(refused, 0),
        table::median(refused_p50, 2),
        table::median(refused_p99, 1),
        table::median(memory, 1),
        table::median(grown, 1),
    ];
    let value = json!({
        "name": case.name, "peak_per_second": summary_to_json(peak), "good_per_second": summary_to_json(goodput),
        "good_percent_of_peak": summary_to_json(kept), "normal_p99_ms": summary_to_json(normal),
        "p99_ms": summary_to_json(p99), "p99_ratio": summary_to_json(ratio), "refused_percent": summary_to_json(refused),
        "refused_p50_ms": summary_to_json(refused_p50), "refused_p99_ms": summary_to_json(refused_p99),
        "memory_max_mib": summary_to_json(memory), "memory_more_mib": summary_to_json(grown),
    });
    (row, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_begins_when_connections_are_there() {
        let memory: Vec<u64> = vec![10, 20, 30, 40, 50, 60, 70, 90, 80];
        assert_eq!(Growth::of(&memory), Growth { first: 70, last: 80, max: 90 });
        assert_eq!(Growth::of(&memory[..2]), Growth { first: 20, last: 20, max: 20 });
        assert_eq!(Growth::of(&[]), Growth::default());
    }

    #[test]
    fn goodput_is_what_came_in_time_of_the_peak() {
        let overload = Outcome { requests: 999, counted: 180, p99: 30_000, ..Outcome::default() };
        let normal = Outcome { p99: 20_000, ..Outcome::default() };
        let sample = Sample { peak: 10.0, normal, overload, seconds: 20, memory: Growth::default() };
        assert!((sample.goodput() - 9.0).abs() < 1e-9 && (sample.kept() - 90.0).abs() < 1e-9);
        let (_, json) = line(&CASES[0], &[sample]);
        assert_eq!(json["p99_ratio"]["median"], json!(1.5));
    }
}
