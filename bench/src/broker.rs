//! `bench broker`: what a message costs, and how fast it is, beside nats-server: the same clients to each server in turn. One
//! work after the other, each in rounds; in a round every server is measured once.

mod durable;
mod messaging;
mod raw;
mod report;
mod server;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::machine;
use crate::options::Broker as Options;
use crate::report::{save, table};
use crate::statistics::percentile;
use crate::usage::{Cpu, Memory};

use messaging::Shape;
use server::{Disk, Kind, Server};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Work {
    /// 128 bytes, one publisher, one subscriber
    Core128,
    /// 1 KiB, one publisher, one subscriber
    Core1k,
    /// 128 bytes, four publishers, each with a subscriber
    Core4,
    /// 128 bytes, one publisher, sixteen subscribers
    Fanout,
    /// One request after the other
    Request,
    /// 64 requests in flight
    Requests,
    /// 1,000 durable publishes in flight through async-nats
    Publish,
    /// 1,000 durable publishes in flight as bytes
    PublishRaw,
    /// One durable publish after the other
    PublishOne,
    /// Pulls of 500, each message acknowledged
    Pull,
    /// `publish` on a disk whose syncs take 5 ms longer
    PublishSlow,
    /// `publish-raw` on that disk
    PublishRawSlow,
    /// `publish-one` on that disk
    PublishOneSlow,
    /// A million retained messages of 1 KiB
    Retain,
    /// A restart with 10 GB of messages; only if it is named, or with --big
    Restart,
}

/// What the goal of a work is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Cpu,
    Rate,
    Latency,
}

/// What Atoll's figure is compared with, and how that ratio may be at most or at least.
#[derive(Clone, Copy, Debug)]
struct Goal {
    figure: Figure,
    base: Kind,
    bound: f64,
}

/// One measurement.
#[derive(Clone, Debug, Default)]
struct Measured {
    messages: u64,
    per_second: f64,
    seconds: f64,
    /// Microseconds a message.
    cpu: Cpu,
    /// p50 and p99 in microseconds.
    latency: Option<(f64, f64)>,
    memory: Option<Memory>,
}

/// All measurements of one server in the order of the rounds.
#[derive(Debug)]
struct Series {
    kind: Kind,
    measured: Vec<Measured>,
}

#[derive(Debug)]
struct Section {
    work: Work,
    series: Vec<Series>,
    /// Why there is nothing, or not all.
    failure: Option<String>,
}

impl Work {
    fn title(self) -> &'static str {
        match self {
            Self::Core128 => "1 to 1, 128 bytes",
            Self::Core1k => "1 to 1, 1 KiB",
            Self::Core4 => "4 to 4, 128 bytes",
            Self::Fanout => "1 to 16, 128 bytes",
            Self::Request => "request and reply, one in flight",
            Self::Requests => "request and reply, 64 in flight",
            Self::Publish => "durable publish, 1,000 in flight, async-nats",
            Self::PublishRaw => "durable publish, 1,000 in flight, raw",
            Self::PublishOne => "durable publish, one in flight",
            Self::Pull => "pull of 500, explicit acks",
            Self::PublishSlow => "durable publish, async-nats, syncs + 5 ms",
            Self::PublishRawSlow => "durable publish, raw, syncs + 5 ms",
            Self::PublishOneSlow => "durable publish, one in flight, syncs + 5 ms",
            Self::Retain => "a million retained messages of 1 KiB",
            Self::Restart => "restart with 10 GB of messages",
        }
    }

    fn id(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    const fn is_core(self) -> bool {
        matches!(self, Self::Core128 | Self::Core1k | Self::Core4 | Self::Fanout | Self::Request | Self::Requests)
    }

    const fn disk(self) -> Disk {
        match self {
            Self::PublishSlow | Self::PublishRawSlow | Self::PublishOneSlow => Disk::Slow,
            _ => Disk::Own,
        }
    }

    /// Of the project; the others have a goal in absolute figures, or none.
    const fn goal(self) -> Option<Goal> {
        let (figure, base, bound) = match self {
            Self::Core128 | Self::Core1k | Self::Core4 | Self::Fanout | Self::Request | Self::Requests | Self::Pull => {
                (Figure::Cpu, Kind::Nats, 1.0)
            }
            Self::Publish | Self::PublishSlow => (Figure::Rate, Kind::Nats, 1.0),
            Self::PublishRaw | Self::PublishRawSlow => (Figure::Rate, Kind::Synced, 15.0),
            Self::PublishOne | Self::PublishOneSlow => (Figure::Latency, Kind::Synced, 0.9),
            Self::Retain | Self::Restart => return None,
        };
        Some(Goal { figure, base, bound })
    }

    /// Without streams both modes of nats-server are the same. One sync a message is too slow to fill a stream with a million,
    /// and on a slow disk for the patience of async-nats.
    const fn kinds(self) -> &'static [Kind] {
        match self {
            Self::PublishSlow | Self::Retain | Self::Restart => &[Kind::Atoll, Kind::Nats],
            _ if self.is_core() => &[Kind::Atoll, Kind::Nats],
            _ => &[Kind::Atoll, Kind::Nats, Kind::Synced],
        }
    }

    /// How often it is measured at most: what takes long tells little more the second time.
    const fn rounds_max(self) -> usize {
        match self {
            Self::Retain | Self::Restart => 1,
            _ => usize::MAX,
        }
    }

    async fn measure(self, server: &mut Server, time: Duration) -> Result<Measured> {
        let shape = |publishers, subscribers, bytes| Shape { publishers, subscribers, bytes };
        match self {
            Self::Core128 => messaging::flow(server, shape(1, 1, 128), time).await,
            Self::Core1k => messaging::flow(server, shape(1, 1, 1024), time).await,
            Self::Core4 => messaging::flow(server, shape(4, 1, 128), time).await,
            Self::Fanout => messaging::flow(server, shape(1, 16, 128), time).await,
            Self::Request => messaging::requests(server, 1, time).await,
            Self::Requests => messaging::requests(server, 64, time).await,
            Self::Publish | Self::PublishSlow => durable::publish_async_nats(server, time).await,
            Self::PublishRaw | Self::PublishRawSlow => durable::publish_raw(server, durable::IN_FLIGHT, time).await,
            Self::PublishOne | Self::PublishOneSlow => durable::publish_raw(server, 1, time).await,
            Self::Pull => durable::pull(server).await,
            Self::Retain | Self::Restart => durable::retain(server).await,
        }
    }
}

impl Measured {
    #[expect(clippy::cast_precision_loss)]
    fn new(messages: u64, took: Duration, cpu: Cpu) -> Self {
        let each = messages.max(1) as f64;
        let seconds = took.as_secs_f64();
        let cpu = Cpu { total: cpu.total / each, user: cpu.user / each, system: cpu.system / each };
        Self { messages, per_second: messages as f64 / seconds, seconds, cpu, latency: None, memory: None }
    }

    /// In nanoseconds; of none nothing is told.
    #[expect(clippy::cast_precision_loss)]
    fn with_latencies(mut self, mut latencies: Vec<u64>) -> Self {
        latencies.sort_unstable();
        let at = |percent| Some(percentile(&latencies, percent)? as f64 / 1_000.0);
        self.latency = at(50.0).zip(at(99.0));
        self
    }

    fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = Some(memory);
        self
    }

    fn figure(&self, figure: Figure) -> f64 {
        match figure {
            Figure::Cpu => self.cpu.total,
            Figure::Rate => self.per_second,
            Figure::Latency => self.latency.map_or(f64::NAN, |(p50, _)| p50),
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, per_second, seconds, cpu, .. } = self;
        write!(f, "{messages} in {seconds:.2} s, {per_second:.0}/s, {:.2} us of CPU each", cpu.total)?;
        if let Some((p50, p99)) = self.latency {
            write!(f, ", p50 {p50:.0} us, p99 {p99:.0} us")?;
        }
        match self.memory {
            Some(memory) => write!(f, ", {} KiB resident", memory.rss),
            None => Ok(()),
        }
    }
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let machine = machine::describe();
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("atoll-bench-");
    let folder = match &options.disk {
        Some(disk) => builder.tempdir_in(disk),
        None => builder.tempdir(),
    };
    let folder = folder.context("cannot make a folder")?;
    let mut sections = Vec::new();
    for work in Work::value_variants().iter().filter(|work| options.has(**work)) {
        let mut section = Section { work: *work, series: Vec::new(), failure: None };
        // What one work cannot do does not take the others away.
        if let Err(error) = measure(&mut section, &options, folder.path()).await {
            eprintln!("bench: {}: {error:#}", work.title());
            section.failure = Some(format!("{error:#}"));
        }
        let (header, rows) = section.table();
        let mut text = String::new();
        table::put(&mut text, &section.title(), &header, &rows);
        println!("{text}");
        sections.push(section);
    }
    if let Some(folder) = options.destination() {
        let json = report::to_json(&machine, &options, &sections);
        save(&folder, "broker.json", &(serde_json::to_string_pretty(&json)? + "\n"))?;
        save(&folder, "broker.svg", &report::draw(&sections))?;
    }
    Ok(())
}

async fn measure(section: &mut Section, options: &Options, folder: &Path) -> Result<()> {
    let work = section.work;
    let kinds = work.kinds();
    section.series = kinds.iter().map(|kind| Series { kind: *kind, measured: Vec::new() }).collect();
    let place = |kind: Kind| folder.join(work.id()).join(kind.id());
    if work == Work::Restart {
        for series in &mut section.series {
            let measured = durable::restart(series.kind, &place(series.kind), options).await?;
            eprintln!("bench: {}: {}: {measured}", work.title(), series.kind.title());
            series.measured.push(measured);
        }
        return Ok(());
    }
    let mut servers = Vec::new();
    for kind in kinds {
        servers.push(Server::start(*kind, work.disk(), &place(*kind), options).await?);
    }
    let time = Duration::from_secs(options.seconds);
    let rounds = options.rounds.min(work.rounds_max());
    for round in 0..rounds {
        for at in (0..kinds.len()).map(|offset| (round + offset) % kinds.len()) {
            let kind = kinds[at];
            let measured = work.measure(&mut servers[at], time).await.with_context(|| kind.title())?;
            eprintln!("bench: {}, round {}: {}: {measured}", work.title(), round + 1, kind.title());
            section.series[at].measured.push(measured);
        }
    }
    Ok(())
}
