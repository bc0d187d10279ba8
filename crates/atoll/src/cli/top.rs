//! `atoll top`: what every instance costs and does, measured again every second. The daemon is only asked what runs: CPU
//! and memory come from /proc, requests from the access log, so that nobody who does not look pays for it.

mod requests;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use crate::api::client::Client;
use crate::api::dto::{Instance, Status};
use crate::cli::output::{self, Format};
use crate::cli::target::{Target, Words};
use crate::cli::{Context, Failure, block_on, screen};
use requests::{Count, Requests};
use usage::{Meter, Owner};

/// Over which time things are measured.
const INTERVAL: Duration = Duration::from_secs(1);
/// The first screen comes sooner.
const INTERVAL_FIRST: Duration = Duration::from_millis(250);

const HEADINGS: [&str; 11] =
    ["name", "state", "pid", "cpu %", "memory", "processes", "restarts", "requests/s", "p50", "p99", "errors"];

/// CPU in percent of one core and resident memory, both added up over the processes of an instance's group. Errors are
/// answers of 500 and above, durations those of whole requests, exact to an eighth;
/// both are read from the access log, and unknown where `[gateway] access_log = false`: `atoll edges` has them by service. On a terminal, q or Ctrl-C leaves; elsewhere one table is printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll top\n  atoll top --once -o json web")]
pub struct Top {
    #[command(flatten)]
    words: Words,
    /// Measure for one second, print, and end
    #[arg(long)]
    once: bool,
}

/// One line. What is not known is absent: there is no CPU time without a process.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    service: Option<String>,
    instance: Option<u32>,
    pid: Option<u32>,
    state: Option<String>,
    cpu_percent: Option<f64>,
    memory_bytes: Option<u64>,
    processes: Option<u32>,
    restarts: Option<u32>,
    requests_per_second: Option<f64>,
    errors_per_second: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// From 0 to 1.
    error_share: Option<f64>,
}

impl Top {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = self.words.target()?;
        block_on(self.show(&target, context.format))?
    }

    async fn show(&self, target: &Target, format: Format) -> anyhow::Result<()> {
        let mut sampler = Sampler::open(target);
        // Learns what runs, and that it does, before the screen is taken.
        sampler.sample().await?;
        let is_screen = format == Format::Table && !self.once && std::io::stdout().is_terminal();
        if is_screen {
            let lines = async || Ok(output::table_lines(&HEADINGS, sampler.sample().await?.iter().map(cells)));
            return screen::watch(INTERVAL_FIRST, INTERVAL, lines).await;
        }
        loop {
            tokio::time::sleep(INTERVAL).await;
            let rows = sampler.sample().await?;
            match format {
                Format::Table => return output::table(&HEADINGS, rows.iter().map(cells)),
                Format::Json if self.once => return output::json(&rows),
                Format::Json => output::line(&serde_json::to_string(&rows)?)?,
            }
        }
    }
}

/// Remembers the last measurement, so that the next one has rates.
struct Sampler<'t> {
    client: Client,
    target: &'t Target,
    meter: Meter,
    requests: Requests,
    at: Instant,
}

impl<'t> Sampler<'t> {
    fn open(target: &'t Target) -> Self {
        let requests = Requests::follow(target.project.logs().join("access.jsonl"));
        Self { client: Client::new(&target.project), target, meter: Meter::default(), requests, at: Instant::now() }
    }

    async fn sample(&mut self) -> Result<Vec<Row>, Failure> {
        let status: Status = self.client.get("/v1/status").await?;
        let mut instances: Vec<Instance> = self.client.get("/v1/instances").await?;
        let names: BTreeSet<String> = instances.iter().map(|instance| instance.service.clone()).collect();
        self.target.check_names(names.iter())?;
        let chosen = &self.target.services;
        instances.retain(|instance| chosen.is_empty() || chosen.contains(&instance.service));

        let seconds = self.at.elapsed().as_secs_f64();
        self.at = Instant::now();
        let mut own: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for process in &status.processes {
            own.entry(&process.name).or_default().push(process.pid);
        }
        let groups = instances.iter().map(|instance| instance.pid.map(Owner::Group).into_iter().collect());
        let processes = own.values().map(|pids| pids.iter().copied().map(Owner::Process).collect());
        let totals = self.meter.measure(&groups.chain(processes).collect::<Vec<_>>(), seconds);
        let counts = self.requests.counts();
        let none = Count::default();

        let mut rows = Vec::new();
        for (instance, total) in instances.iter().zip(&totals) {
            let count = counts.get(&(instance.service.clone(), Some(instance.instance))).unwrap_or(&none);
            let row = row_of(instance).with(total.as_ref());
            rows.push(if status.access_log { row.counted(count, seconds) } else { row });
        }
        for ((service, instance), count) in &counts {
            // Answered on behalf of a service of which no instance was there.
            if instance.is_none() && (chosen.is_empty() || chosen.contains(service)) {
                let row = Row::named(format!("{service} (no instance)"));
                rows.push(Row { service: Some(service.clone()), ..row }.counted(count, seconds));
            }
        }
        for ((name, pids), total) in own.iter().zip(totals.iter().skip(instances.len())) {
            let pid = if let [pid] = pids.as_slice() { Some(*pid) } else { None };
            rows.push(Row { pid, ..Row::named(format!("atoll ({name})")) }.with(total.as_ref()));
        }
        Ok(rows)
    }
}

impl Row {
    fn named(name: String) -> Self {
        Self {
            name,
            service: None,
            instance: None,
            pid: None,
            state: None,
            cpu_percent: None,
            memory_bytes: None,
            processes: None,
            restarts: None,
            requests_per_second: None,
            errors_per_second: None,
            p50_ms: None,
            p99_ms: None,
            error_share: None,
        }
    }

    fn counted(self, count: &Count, seconds: f64) -> Self {
        let quantile = |q| count.durations.quantile(q).map(|duration| duration.as_secs_f64() * 1000.0);
        Self {
            requests_per_second: Some(count.requests as f64 / seconds),
            errors_per_second: Some(count.errors as f64 / seconds),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            error_share: (count.requests > 0).then(|| count.errors as f64 / count.requests as f64),
            ..self
        }
    }

    fn with(self, total: Option<&usage::Total>) -> Self {
        Self {
            cpu_percent: total.map(|total| total.cpu_percent),
            memory_bytes: total.map(|total| total.memory_bytes),
            processes: total.map(|total| total.processes),
            ..self
        }
    }
}

fn row_of(instance: &Instance) -> Row {
    Row {
        service: Some(instance.service.clone()),
        instance: Some(instance.instance),
        pid: instance.pid,
        state: Some(instance.state.clone()),
        restarts: Some(instance.restarts),
        ..Row::named(format!("{}.{}", instance.service, instance.instance))
    }
}

fn cells(row: &Row) -> Vec<String> {
    fn or_dash<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
        value.map_or_else(|| "-".to_owned(), show)
    }
    let one_decimal = |value: f64| format!("{value:.1}");
    vec![
        row.name.clone(),
        or_dash(row.state.clone(), |state| state),
        or_dash(row.pid, |pid| pid.to_string()),
        or_dash(row.cpu_percent, one_decimal),
        or_dash(row.memory_bytes, output::bytes_shown),
        or_dash(row.processes, |count| count.to_string()),
        or_dash(row.restarts, |count| count.to_string()),
        or_dash(row.requests_per_second, one_decimal),
        or_dash(row.p50_ms, output::milliseconds),
        or_dash(row.p99_ms, output::milliseconds),
        or_dash(row.error_share, |share| format!("{:.1} %", share * 100.0)),
    ]
}
