//! `atoll edges`: how each route of the gateway and each edge between services fares, measured between two looks at what
//! the data plane counts. Nothing is counted for the sake of this command.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use crate::api::client::Client;
use crate::api::dto::{self, BreakerState, Concurrency, Edge, Ejected, RetryBudget, Service};
use crate::cli::output::{self, Format};
use crate::cli::target::{Target, Words};
use crate::cli::{Context, Failure, block_on, breaker, screen};

/// Over which time things are measured.
const INTERVAL: Duration = Duration::from_secs(1);

const HEADINGS: [&str; 9] = ["edge", "requests/s", "p50", "p99", "errors", "tries", "active", "requests", "failed"];

/// A column that is shown where any row has something to say in it.
type Extra = (&'static str, fn(&Row) -> Option<String>);

const EXTRAS: [Extra; 3] = [
    ("breaker", |row| row.breaker.as_ref().map(breaker::in_words)),
    ("ejected", |row| (!row.ejected.is_empty()).then(|| ejected(&row.ejected, row.ready))),
    ("queue", |row| row.concurrency.map(|gate| format!("{}/{}/{}", gate.waiting, gate.running, gate.max))),
];

/// One row a route of the gateway and a row an edge. Rate, durations, errors and tries are those of the second in which
/// this was measured; requests and failed those since counting began. Errors are answers of 500 and above, and those that
/// broke off. Durations are exact to an eighth. Where the manifest asks for them: the state of the circuit breaker, instances
/// that are ejected, and the concurrency limit as waiting/running/most.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll edges\n  atoll edges -w cart\n  atoll edges -o json")]
pub struct Edges {
    #[command(flatten)]
    words: Words,
    /// Measure again and again
    #[arg(short, long)]
    watch: bool,
}

/// One line. What nobody asked for in the time that was measured is absent.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    name: String,
    from: String,
    to: Vec<String>,
    route: Option<String>,
    requests_per_second: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// From 0 to 1.
    error_share: Option<f64>,
    tries_per_request: Option<f64>,
    active: u64,
    /// Since counting began, as the rest.
    requests: u64,
    failed: u64,
    bytes_in: u64,
    bytes_out: u64,
    breaker: Option<BreakerState>,
    concurrency: Option<Concurrency>,
    ready: u32,
    ejected: Vec<Ejected>,
    retry_budget: RetryBudget,
}

impl Edges {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = self.words.target()?;
        block_on(self.show(&target, context.format))?
    }

    async fn show(&self, target: &Target, format: Format) -> anyhow::Result<()> {
        let client = Client::new(&target.project);
        let services: Vec<Service> = client.get("/v1/services").await.map_err(Failure::from)?;
        target.check_names(services.iter().map(|service| &service.service))?;
        let mut sampler = Sampler { client, target, before: Vec::new(), at: Instant::now() };
        sampler.sample().await?;
        if self.watch && format == Format::Table && std::io::stdout().is_terminal() {
            let lines = async || {
                let rows = sampler.sample().await?;
                let (headings, cells) = table(&rows);
                Ok(output::table_lines(&headings, cells))
            };
            return screen::watch(INTERVAL, INTERVAL, lines).await;
        }
        loop {
            tokio::time::sleep(INTERVAL).await;
            let rows = sampler.sample().await?;
            match format {
                Format::Table => {
                    let (headings, cells) = table(&rows);
                    output::table(&headings, cells)?;
                }
                Format::Json if self.watch => output::line(&serde_json::to_string(&rows)?)?,
                Format::Json => output::json(&rows)?,
            }
            if !self.watch {
                return Ok(());
            }
        }
    }
}

/// Remembers the last look, so that the next one has rates.
struct Sampler<'t> {
    client: Client,
    target: &'t Target,
    before: Vec<Edge>,
    at: Instant,
}

impl Sampler<'_> {
    async fn sample(&mut self) -> Result<Vec<Row>, Failure> {
        let mut edges: Vec<Edge> = self.client.get("/v1/edges").await?;
        let seconds = self.at.elapsed().as_secs_f64();
        self.at = Instant::now();
        let chosen = &self.target.services;
        let is_chosen = |edge: &Edge| chosen.iter().any(|name| *name == edge.from || edge.to.contains(name));
        edges.retain(|edge| chosen.is_empty() || is_chosen(edge));
        let rows = edges.iter().map(|edge| {
            let is_same =
                |before: &&Edge| (&before.from, &before.to, &before.route) == (&edge.from, &edge.to, &edge.route);
            row(edge, self.before.iter().find(is_same), seconds)
        });
        let rows = rows.collect();
        self.before = edges;
        Ok(rows)
    }
}

/// What became of an edge between two looks. Where something is smaller than it was, counting has begun anew.
fn row(edge: &Edge, before: Option<&Edge>, seconds: f64) -> Row {
    let before = before.filter(|before| before.requests <= edge.requests);
    let since = |of: fn(&Edge) -> u64| of(edge).saturating_sub(before.map_or(0, of));
    let (requests, failed, retries) = (since(|e| e.requests), since(|e| e.failed), since(|e| e.retries));
    let durations = before.map_or_else(|| histogram(edge), |before| histogram(edge).since(&histogram(before)));
    let quantile = |q| durations.quantile(q).map(|duration| duration.as_secs_f64() * 1000.0);
    let share = |part: u64| (requests > 0).then(|| part as f64 / requests as f64);
    Row {
        name: dto::edge_name(&edge.from, &edge.to, edge.route.as_deref()),
        from: edge.from.clone(),
        to: edge.to.clone(),
        route: edge.route.clone(),
        requests_per_second: requests as f64 / seconds,
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        error_share: share(failed),
        tries_per_request: share(requests + retries),
        active: edge.active,
        requests: edge.requests,
        failed: edge.failed,
        bytes_in: edge.bytes_in,
        bytes_out: edge.bytes_out,
        breaker: edge.breaker.clone(),
        concurrency: edge.concurrency,
        ready: edge.ready,
        ejected: edge.ejected.clone(),
        retry_budget: edge.retry_budget,
    }
}

fn histogram(edge: &Edge) -> proxy::Histogram {
    let mut histogram = proxy::Histogram::default();
    for (micros, count) in &edge.durations_us {
        histogram.add(Duration::from_micros(*micros), *count);
    }
    histogram
}

/// Headings and cells: terminals are narrow, and what nobody has is left out.
fn table(rows: &[Row]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let extras: Vec<Extra> =
        EXTRAS.into_iter().filter(|(_, cell)| rows.iter().any(|row| cell(row).is_some())).collect();
    let headings = HEADINGS.into_iter().chain(extras.iter().map(|(heading, _)| *heading)).collect();
    let all = rows.iter().map(|row| {
        let more = extras.iter().map(|(_, cell)| cell(row).unwrap_or_else(|| "-".to_owned()));
        cells(row).into_iter().chain(more).collect()
    });
    (headings, all.collect())
}

/// As in "2 of 3: back.1 4.2 s, back.0 0.10 ms".
fn ejected(ejected: &[Ejected], ready: u32) -> String {
    let left = |ejected: &Ejected| {
        format!("{}.{} {}", ejected.service, ejected.instance, output::milliseconds(ejected.left_ms as f64))
    };
    let all: Vec<String> = ejected.iter().map(left).collect();
    format!("{} of {ready}: {}", ejected.len(), all.join(", "))
}

fn cells(row: &Row) -> Vec<String> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    vec![
        row.name.clone(),
        format!("{:.1}", row.requests_per_second),
        or_dash(row.p50_ms.map(output::milliseconds)),
        or_dash(row.p99_ms.map(output::milliseconds)),
        or_dash(row.error_share.map(|share| format!("{:.1} %", share * 100.0))),
        or_dash(row.tries_per_request.map(|tries| format!("{tries:.2}"))),
        row.active.to_string(),
        row.requests.to_string(),
        row.failed.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(requests: u64, failed: u64, retries: u64, durations_us: &[(u64, u64)]) -> Edge {
        Edge {
            from: "gateway".into(),
            to: vec!["catalog".into()],
            route: Some("products".into()),
            requests,
            failed,
            retries,
            active: 1,
            bytes_in: 0,
            bytes_out: 0,
            durations_us: durations_us.to_vec(),
            breaker: None,
            concurrency: None,
            ready: 2,
            ejected: Vec::new(),
            retry_budget: RetryBudget::default(),
        }
    }

    #[test]
    fn a_row_tells_what_came_between_two_looks() {
        let before = edge(100, 50, 0, &[(64, 100)]);
        let after = edge(120, 55, 10, &[(64, 100), (1024, 19), (65_536, 1)]);
        let shown = cells(&row(&after, Some(&before), 2.0));
        let expected =
            ["gateway → catalog (route products)", "10.0", "1.15 ms", "73.7 ms", "25.0 %", "1.50", "1", "120", "55"];
        assert_eq!(shown, expected);
        let quiet = cells(&row(&after, Some(&after), 2.0));
        assert_eq!(quiet[1..6], ["0.0", "-", "-", "-", "-"]);
        // Another process began to count.
        assert_eq!(row(&edge(8, 0, 0, &[(1, 8)]), Some(&before), 2.0).requests_per_second, 4.0);
    }

    #[test]
    fn what_no_edge_has_is_no_column() {
        let plain = row(&edge(1, 0, 0, &[]), None, 1.0);
        assert_eq!(table(&[plain]).0, HEADINGS);
        let breaker = BreakerState { state: "half_open".into(), failures: 1, slow: 0, calls: 2, open_left_ms: 0 };
        let broken = Edge { breaker: Some(breaker), ..edge(1, 0, 0, &[]) };
        let aside = Ejected { service: "catalog".into(), instance: 1, left_ms: 4200 };
        let full = Edge {
            concurrency: Some(Concurrency { running: 8, waiting: 2, max: 8 }),
            ejected: vec![aside],
            ..edge(1, 0, 0, &[])
        };
        let rows = [broken, full].map(|edge| row(&edge, None, 1.0));
        let (headings, cells) = table(&rows);
        assert_eq!(headings[9..], ["breaker", "ejected", "queue"]);
        assert_eq!(cells[0][9..], ["half open", "-", "-"]);
        assert_eq!(cells[1][9..], ["-", "1 of 2: catalog.1 4.2 s", "2/8/8"]);
    }

    #[test]
    fn a_name_says_who_calls_whom() {
        let named = |to: &[&str], route: Option<&str>| {
            let to = to.iter().map(|name| (*name).to_owned()).collect();
            row(&Edge { from: "a".into(), to, route: route.map(str::to_owned), ..edge(0, 0, 0, &[]) }, None, 1.0).name
        };
        assert_eq!(named(&["b", "c"], Some("r")), "a → b, c (route r)");
        assert_eq!(named(&[], Some("old")), "a (route old)");
        assert_eq!(named(&["b"], None), "a → b");
        assert_eq!(named(&[], None), "a (no route)");
    }
}
