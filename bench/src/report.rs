//! What the figures say: as a table for people, as JSON to be kept. Ratios are medians of the rounds' own ratios, so that
//! what slowed a whole round down falls out.

pub(crate) mod table;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::peers::{Kind, Peer, Running};
use crate::statistics::Summary;
use crate::usage::{Cpu, Memory};
use crate::work::{
    ANSWER, CONNECT, CONNECTIONS, HEAD, IDLE_CONNECTIONS, INSTANCES, KEEP_ALIVE, Logs, RATE, ROUTES, THREADS, Work,
};
use crate::{rate, wrk};

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    requests: u64,
    requests_per_second: f64,
    errors: u64,
    /// Microseconds a request.
    cpu: Cpu,
    /// The same of what works beside the requests' path.
    beside: f64,
    /// p50 and p99 in microseconds.
    latency: Option<(u64, u64)>,
}

/// All measurements of one peer, in the order of the rounds.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) name: String,
    remark: Option<&'static str>,
    pub(crate) samples: Vec<Sample>,
}

/// What is compared with each other.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) work: Work,
    /// Within the work.
    pub(crate) id: &'static str,
    pub(crate) title: String,
    pub(crate) entries: Vec<Entry>,
}

/// Memory of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    pub(crate) id: String,
    pub(crate) name: String,
    /// In all, with busy connections.
    pub(crate) busy: Memory,
    /// More than before, with idle connections.
    pub(crate) grown: Memory,
    pub(crate) connections: usize,
    /// Why there are none.
    pub(crate) failure: Option<String>,
    pub(crate) errors: u64,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    rounds: usize,
    seconds: u64,
    date: Timestamp,
    peers: Vec<(Kind, String)>,
    left_out: Vec<(String, String)>,
    pub(crate) figures: Vec<Figures>,
    pub(crate) spaces: Vec<Space>,
}

impl From<wrk::Outcome> for Sample {
    #[expect(clippy::cast_precision_loss)]
    fn from(outcome: wrk::Outcome) -> Self {
        let wrk::Outcome { requests, seconds, errors } = outcome;
        Self { requests, errors, requests_per_second: requests as f64 / seconds, ..Self::default() }
    }
}

impl From<rate::Outcome> for Sample {
    fn from(outcome: rate::Outcome) -> Self {
        let rate::Outcome { requests, p50, p99, errors, .. } = outcome;
        Self { requests, errors, requests_per_second: f64::from(RATE), latency: Some((p50, p99)), ..Self::default() }
    }
}

impl Sample {
    /// Divides CPU time among its requests.
    #[expect(clippy::cast_precision_loss)]
    pub(crate) fn charge(&mut self, cpu: Cpu, beside: Cpu) {
        let requests = self.requests.max(1) as f64;
        self.cpu = Cpu { total: cpu.total / requests, user: cpu.user / requests, system: cpu.system / requests };
        self.beside = beside.total / requests;
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} us, {:.0} requests/s", self.cpu.total, self.requests_per_second)?;
        if let Some((p50, p99)) = self.latency {
            write!(f, ", p50 {p50} us, p99 {p99} us")?;
        }
        match self.errors {
            0 => Ok(()),
            errors => write!(f, ", {errors} ERRORS"),
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, busy, grown, connections, failure, .. } = self;
        write!(f, "{name}: {} KiB busy, {} KiB more for {connections} idle connections", busy.rss, grown.rss)?;
        failure.as_ref().map_or(Ok(()), |failure| write!(f, ": {failure}"))
    }
}

impl Entry {
    pub(crate) fn new(id: &str, proxy: &Running) -> Self {
        Self { id: id.to_owned(), name: proxy.name.clone(), remark: proxy.remark, samples: Vec::new() }
    }

    fn series(&self, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(of).collect()
    }

    fn summary(&self, of: impl Fn(&Sample) -> f64) -> Option<Summary> {
        Summary::of(self.series(of))
    }

    /// Microseconds a request, in user mode and in the kernel. Together they are the median of the whole, divided as the
    /// medians of both are: those alone would add up to something else.
    pub(crate) fn halves(&self) -> Option<(f64, f64)> {
        let median = |of: fn(&Cpu) -> f64| Some(self.summary(|sample| of(&sample.cpu))?.median);
        let (total, user, system) = (median(|cpu| cpu.total)?, median(|cpu| cpu.user)?, median(|cpu| cpu.system)?);
        let whole = user + system;
        Some(if whole > 0.0 { (total * user / whole, total * system / whole) } else { (0.0, total) })
    }

    fn errors(&self) -> u64 {
        self.samples.iter().map(|sample| sample.errors).sum()
    }
}

/// A latency that was measured, as a figure.
#[expect(clippy::cast_precision_loss)]
fn latency(sample: &Sample, pick: impl Fn((u64, u64)) -> u64) -> f64 {
    sample.latency.map_or(f64::NAN, |latency| pick(latency) as f64)
}

impl Figures {
    fn find(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// CPU time of an entry by that of another one.
    fn ratio(&self, entry: &Entry, base: &str) -> Option<Summary> {
        let cpu = |entry: &Entry| entry.series(|sample| sample.cpu.total);
        Summary::of_ratios(&cpu(entry), &cpu(self.find(base)?))
    }

    /// What others are compared with.
    fn bases(&self) -> Vec<String> {
        match self.work {
            Work::Routes => vec!["few".to_owned()],
            _ => vec![Kind::Haproxy28.id(), Kind::Nginx.id()],
        }
    }

    fn to_json(&self) -> Value {
        let entries = self.entries.iter().map(|entry| (entry.id.clone(), self.entry_to_json(entry)));
        Value::Object(entries.collect())
    }

    fn entry_to_json(&self, entry: &Entry) -> Value {
        let mut value = Map::new();
        value.insert("name".to_owned(), json!(entry.name));
        let mut put = |key: &str, summary: Option<Summary>| {
            value.insert(key.to_owned(), summary_to_json(summary));
        };
        if entry.id != "direct" {
            put("cpu_us", entry.summary(|sample| sample.cpu.total));
            put("cpu_user_us", entry.summary(|sample| sample.cpu.user));
            put("cpu_system_us", entry.summary(|sample| sample.cpu.system));
            put("cpu_beside_us", entry.summary(|sample| sample.beside));
            for base in self.bases() {
                put(&format!("ratio_to_{base}"), self.ratio(entry, &base));
            }
        }
        put("requests_per_second", entry.summary(|sample| sample.requests_per_second));
        if self.work == Work::Rate {
            put("p50_us", entry.summary(|sample| latency(sample, |(p50, _)| p50)));
            put("p99_us", entry.summary(|sample| latency(sample, |(_, p99)| p99)));
        }
        value.insert("errors".to_owned(), json!(entry.errors()));
        if let Some(remark) = entry.remark {
            value.insert("remark".to_owned(), json!(remark));
        }
        Value::Object(value)
    }
}

/// Rounded to thousandths: more is noise.
pub(crate) fn summary_to_json(summary: Option<Summary>) -> Value {
    let rounded = |figure: f64| (figure * 1_000.0).round() / 1_000.0;
    summary.map_or(
        Value::Null,
        |Summary { median, min, max }| json!({ "median": rounded(median), "min": rounded(min), "max": rounded(max) }),
    )
}

impl Space {
    /// KiB for each connection, resident and proportional.
    #[expect(clippy::cast_precision_loss)]
    fn each(&self) -> Option<(f64, f64)> {
        let connections = Some(self.connections as f64).filter(|count| *count > 0.0)?;
        Some((self.grown.rss as f64 / connections, self.grown.pss as f64 / connections))
    }

    #[expect(clippy::cast_precision_loss)]
    fn to_json(&self) -> Value {
        let idle = self.each().map(|(rss, pss)| {
            let many = IDLE_CONNECTIONS as f64;
            json!({
                "connections": self.connections,
                "rss_more_kib": self.grown.rss,
                "pss_more_kib": self.grown.pss,
                "rss_more_mib_for_10000": (rss * many / 1024.0).round(),
                "pss_more_mib_for_10000": (pss * many / 1024.0).round(),
            })
        });
        json!({
            "name": self.name,
            "busy": { "connections": CONNECTIONS, "rss_kib": self.busy.rss, "pss_kib": self.busy.pss },
            "idle": idle,
            "failure": self.failure,
        })
    }
}

impl Report {
    pub(crate) fn new(machine: Value, rounds: usize, seconds: u64) -> Self {
        Self {
            machine,
            rounds,
            seconds,
            date: Timestamp::now(),
            peers: Vec::new(),
            left_out: Vec::new(),
            figures: Vec::new(),
            spaces: Vec::new(),
        }
    }

    pub(crate) fn introduce(&mut self, peers: &[Peer]) {
        self.peers = peers.iter().map(|peer| (peer.kind, peer.name.clone())).collect();
    }

    pub(crate) fn leave_out(&mut self, name: &str, why: &str) {
        eprintln!("bench: {name} is left out: {why}");
        self.left_out.push((name.to_owned(), why.to_owned()));
    }

    /// Requests that failed, with any peer.
    pub(crate) fn errors(&self) -> u64 {
        let entries = self.figures.iter().flat_map(|figures| &figures.entries).map(Entry::errors);
        let spaces = self.spaces.iter().map(|space| space.errors + u64::from(space.failure.is_some()));
        entries.chain(spaces).sum()
    }

    /// What the chart shows.
    pub(crate) fn headline(&self) -> Option<&Figures> {
        let is_headline = |figures: &&Figures| figures.work == Work::Small && figures.id == Logs::Off.id();
        self.figures.iter().find(is_headline)
    }

    pub(crate) fn table(&self) -> String {
        table::print(self)
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        let mut works = Map::new();
        for figures in &self.figures {
            let work = works.entry(figures.work.id()).or_insert_with(|| json!({}));
            work[figures.id] = figures.to_json();
        }
        if !self.spaces.is_empty() {
            let spaces = self.spaces.iter().map(|space| (space.id.clone(), space.to_json()));
            works.insert("memory".to_owned(), Value::Object(spaces.collect()));
        }
        let peers = self.peers.iter().map(|(kind, name)| json!({ "id": kind.id(), "name": name, "adds": kind.adds() }));
        let left_out = self.left_out.iter().map(|(name, why)| json!({ "name": name, "why": why }));
        let value = json!({
            "bench": "proxy",
            "date": self.date.strftime("%Y-%m-%d").to_string(),
            "machine": self.machine,
            "settings": {
                "rounds": self.rounds, "seconds": self.seconds, "threads": THREADS, "connections": CONNECTIONS,
                "routes": ROUTES, "instances": INSTANCES, "rate": RATE,
                "timeouts_s": { "connect": CONNECT, "head": HEAD, "answer": ANSWER, "keep_alive": KEEP_ALIVE },
            },
            "peers": peers.collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
            "works": works,
        });
        Ok(serde_json::to_string_pretty(&value).context("the report is not JSON")? + "\n")
    }
}

pub(crate) fn save(folder: &Path, name: &str, text: &str) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("bench: wrote {}", path.display());
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn sample(total: f64, errors: u64) -> Sample {
        let cpu = Cpu { total, user: total / 4.0, system: total * 3.0 / 4.0 };
        Sample { requests: 100, requests_per_second: 50.0, errors, cpu, beside: 0.1, latency: Some((55, 240)) }
    }

    fn entry(id: &str, name: &str, totals: &[f64]) -> Entry {
        let samples = totals.iter().map(|total| sample(*total, 0)).collect();
        Entry { id: id.to_owned(), name: name.to_owned(), remark: None, samples }
    }

    pub(crate) fn figures(work: Work) -> Figures {
        let entries = vec![
            entry("atoll", "Atoll 0.1.0", &[8.0, 9.0, 8.5]),
            entry("nginx", "nginx 1.22.1", &[10.0, 12.0, 11.0]),
            entry("haproxy-2.8", "HAProxy <2.8> & \"more\"", &[16.0, 18.0, 17.0]),
        ];
        Figures { work, id: Logs::Off.id(), title: Logs::Off.title().to_owned(), entries }
    }

    pub(crate) fn report() -> Report {
        let mut report = Report::new(json!({ "cpus": 2 }), 3, 1);
        report.figures = vec![figures(Work::Small), figures(Work::Rate)];
        report.left_out.push(("envoy".to_owned(), "it is not installed".to_owned()));
        report.spaces.push(Space {
            id: "atoll".to_owned(),
            name: "Atoll 0.1.0".to_owned(),
            busy: Memory { rss: 10_240, pss: 9_216 },
            grown: Memory { rss: 20_480, pss: 20_480 },
            connections: 5_000,
            failure: None,
            errors: 0,
        });
        report
    }

    #[test]
    fn the_json_has_medians_spreads_and_ratios() {
        let value: Value = serde_json::from_str(&report().to_json().unwrap()).unwrap();
        let atoll = &value["works"]["small"]["logs_off"]["atoll"];
        assert_eq!(atoll["cpu_us"], json!({ "median": 8.5, "min": 8.0, "max": 9.0 }));
        assert_eq!(atoll["ratio_to_haproxy-2.8"]["median"], json!(0.5));
        assert_eq!(atoll["ratio_to_nginx"]["min"], json!(0.75));
        assert!(atoll["p50_us"].is_null());
        assert_eq!(value["works"]["rate"]["logs_off"]["nginx"]["p99_us"]["median"], json!(240.0));
        assert_eq!(value["works"]["memory"]["atoll"]["idle"]["rss_more_mib_for_10000"], json!(40.0));
        assert_eq!(value["left_out"][0]["name"], json!("envoy"));
    }

    #[test]
    fn both_halves_together_are_the_median_of_the_whole() {
        let parts = [(1.0, 9.0), (4.0, 2.0), (5.0, 15.0)];
        let cpu = |(user, system)| Cpu { total: user + system, user, system };
        let samples = parts.map(|parts| Sample { cpu: cpu(parts), ..Sample::default() }).to_vec();
        let entry = Entry { samples, ..entry("atoll", "Atoll", &[]) };
        let (user, system) = entry.halves().unwrap();
        // The medians are 10, 4 and 9.
        assert!((user + system - 10.0).abs() < 1e-9 && (user / system - 4.0 / 9.0).abs() < 1e-9, "{user} {system}");
        assert_eq!(Entry { samples: vec![Sample::default()], ..entry }.halves(), Some((0.0, 0.0)));
    }

    #[test]
    fn a_peer_without_a_base_has_no_ratio() {
        let mut lone = figures(Work::Small);
        lone.entries.truncate(1);
        assert!(lone.to_json()["atoll"]["ratio_to_nginx"].is_null());
    }

    #[test]
    fn requests_share_the_time_that_they_took() {
        let mut sample = Sample::from(wrk::Outcome { requests: 4, seconds: 2.0, errors: 0 });
        sample.charge(Cpu { total: 40.0, user: 10.0, system: 30.0 }, Cpu { total: 4.0, user: 4.0, system: 0.0 });
        assert_eq!(sample.cpu, Cpu { total: 10.0, user: 2.5, system: 7.5 });
        assert!((sample.beside - 1.0).abs() < 1e-9 && (sample.requests_per_second - 2.0).abs() < 1e-9);
        // Nothing was answered: nothing is divided by nothing.
        Sample::default().charge(Cpu::default(), Cpu::default());
    }

    #[test]
    fn errors_are_counted_wherever_they_were() {
        let mut report = report();
        assert_eq!(report.errors(), 0);
        report.figures[1].entries[2].samples.push(sample(9.0, 3));
        report.spaces[0].failure = Some("refused".to_owned());
        assert_eq!(report.errors(), 4);
        assert!(report.table().contains("3 ERRORS"), "{}", report.table());
    }
}
