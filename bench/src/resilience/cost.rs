//! What it costs to be prepared: one Atoll with a route for each policy, none of which ever has to do anything, so that
//! process, connections and instances are the same. What is told is the difference to the route without any, in turn.

use anyhow::{Result, ensure};
use serde_json::{Map, json};

use super::stand::{By, Case, Service, Target};
use super::{Bench, Section, Stand, float, turns};
use crate::report::{summary_to_json, table};
use crate::statistics::Summary;
use crate::usage::{Cpu, Look};
use crate::work::{CONNECTIONS, INSTANCES};
use crate::wrk;

const SERVICE: Service = Service { id: "well", conduct: None, replicas: INSTANCES };

/// What everything together costs is of interest most: it is measured so many times as often.
const PAIRS: usize = 12;
/// Seconds of each half of a pair: many short pairs tell more than a few long ones, as noise comes in seconds.
const SECONDS: u64 = 1;

macro_rules! policies {
    ($($id:ident, $name:literal, $lines:literal;)*) => {
        const CASES: &[Case] = &[
            Case { id: "off", name: "no policy", service: SERVICE, by: By::Atoll("") },
            Case { id: "all", name: "all of these", service: SERVICE, by: By::Atoll(concat!($($lines, "\n"),*)) },
            $(Case { id: stringify!($id), name: $name, service: SERVICE, by: By::Atoll($lines) },)*
        ];
    };
}

policies! {
    ewma, "peak_ewma", "load_balancing = { policy = \"peak_ewma\" }";
    ejection, "outlier_ejection", "outlier_ejection = { failure_rate = 0.5 }";
    breaker, "circuit_breaker", "circuit_breaker = { slow_call = \"900ms\" }";
    concurrency, "concurrency_limit", "concurrency_limit = { max = 10000, queue = 100 }";
    rate, "rate_limit", "rate_limit = { requests = 1000000, per = \"1s\" }";
    retry, "retry", "retry = { attempts = 3 }";
    fallback, "fallback", "fallback = { status = 200, body = \"[]\" }";
}

/// Microseconds a request, with a policy and without any, measured one after the other.
#[derive(Clone, Copy, Debug)]
struct Pair {
    with: Cpu,
    without: Cpu,
}

pub(super) async fn measure(bench: &Bench) -> Result<Section> {
    let stand = Stand::open(bench, CASES).await?;
    let (off, others) = stand.targets.split_first().expect("the first case is Atoll's");
    for target in &stand.targets {
        cpu(target).await?;
    }
    let mut pairs = vec![Vec::new(); others.len()];
    for round in 0..bench.options.rounds * PAIRS {
        let pair = pair(&others[0], off, round).await?;
        eprintln!("bench: cost pair {}: {:.2} us, {:.2} us without", round + 1, pair.with.total, pair.without.total);
        pairs[0].push(pair);
    }
    for round in 0..bench.options.rounds {
        for at in turns(others.len() - 1, round).map(|at| at + 1) {
            let pair = pair(&others[at], off, round).await?;
            let name = others[at].case.name;
            eprintln!(
                "bench: cost round {}: {name}: {:.2} us, {:.2} us without",
                round + 1,
                pair.with.total,
                pair.without.total
            );
            pairs[at].push(pair);
        }
    }
    let cases: Vec<Case> = others.iter().map(|target| target.case).collect();
    Ok(section(&cases, &pairs))
}

/// The other one first in every second round.
async fn pair(with: &Target, without: &Target, round: usize) -> Result<Pair> {
    if round.is_multiple_of(2) {
        let with = cpu(with).await?;
        return Ok(Pair { with, without: cpu(without).await? });
    }
    let without = cpu(without).await?;
    Ok(Pair { with: cpu(with).await?, without })
}

/// Microseconds of the data plane for a request.
async fn cpu(target: &Target) -> Result<Cpu> {
    let before = Look::at(&target.pids)?;
    let outcome = wrk::load(&target.url(), CONNECTIONS, SECONDS, None).await?;
    let Cpu { total, user, system } = Look::at(&target.pids)?.since(&before);
    ensure!(outcome.errors == 0, "{}: {} requests failed", target.case.name, outcome.errors);
    let requests = float(outcome.requests.max(1));
    Ok(Cpu { total: total / requests, user: user / requests, system: system / requests })
}

fn section(cases: &[Case], pairs: &[Vec<Pair>]) -> Section {
    let (mut rows, mut json) = (Vec::new(), Map::new());
    for (case, pairs) in cases.iter().zip(pairs) {
        let of = |figure: fn(&Pair) -> f64| Summary::of(pairs.iter().map(figure));
        let (with, without) = (of(|pair| pair.with.total), of(|pair| pair.without.total));
        let more = of(|pair| pair.with.total - pair.without.total);
        let more_user = of(|pair| pair.with.user - pair.without.user);
        let mean: f64 =
            pairs.iter().map(|pair| pair.with.total - pair.without.total).sum::<f64>() / float(pairs.len() as u64);
        let error = standard_error(pairs.iter().map(|pair| pair.with.total - pair.without.total), mean);
        rows.push(vec![
            case.name.to_owned(),
            table::median(without, 1),
            table::median(with, 1),
            table::median(more, 2),
            table::spread(more, 1),
            format!("{mean:.2} ± {error:.2}"),
            table::median(more_user, 2),
        ]);
        json.insert(
            case.id.to_owned(),
            json!({
                "name": case.name, "without_us": summary_to_json(without), "with_us": summary_to_json(with),
                "more_us": summary_to_json(more), "more_user_us": summary_to_json(more_user),
                "more_mean_us": (mean * 1_000.0).round() / 1_000.0,
                "more_standard_error_us": (error * 1_000.0).round() / 1_000.0, "pairs": pairs.len(),
            }),
        );
    }
    Section {
        id: "cost",
        title: format!("CPU us a request with policies that have nothing to do, small GET, {CONNECTIONS} connections"),
        header: vec!["", "without", "with", "more", "min..max", "mean", "of it user"],
        rows,
        json: json.into(),
    }
}

/// Of a mean.
fn standard_error(figures: impl ExactSizeIterator<Item = f64>, mean: f64) -> f64 {
    let count = float(figures.len() as u64);
    let squares: f64 = figures.map(|figure| (figure - mean).powi(2)).sum();
    if count > 1.0 { (squares / (count - 1.0) / count).sqrt() } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_these_has_each_of_them_once() {
        let lines = |case: &Case| match case.by {
            By::Atoll(lines) => lines,
            By::Haproxy(..) => unreachable!("all cases are Atoll's"),
        };
        let [_, all, each @ ..] = CASES else { unreachable!("there are cases") };
        assert!(each.len() == 7 && each.iter().all(|case| lines(all).matches(lines(case)).count() == 1));
        assert!(lines(all).parse::<toml::Table>().is_ok_and(|table| table.len() == each.len()));
    }

    #[test]
    fn the_error_of_a_mean_shrinks_with_what_it_is_of() {
        let of = |figures: Vec<f64>| standard_error(figures.into_iter(), 2.0);
        assert!((of(vec![1.0, 3.0]) - 1.0).abs() < 1e-9);
        assert!(of(vec![1.0, 3.0, 1.0, 3.0]) < 0.6 && of(vec![2.0]).is_nan());
    }
}
