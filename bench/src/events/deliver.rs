//! `bench events --only deliver,replay`: how fast events come to a subscriber, in order by key, how long they take from
//! publishing, what they cost each process, and how much memory a replay takes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::publisher::{TOPIC, Wish};
use super::stand::{Stand, command};
use crate::options::Events;
use crate::report::table;
use crate::statistics::Summary;
use crate::usage::{Look, Memory};

const SUBSCRIPTION: &str = "delivered";
const ROUNDS: u64 = 3;
/// Of a second.
const GOAL: f64 = 15_000.0;
const GOAL_P50_US: f64 = 1_000.0;
/// How latencies are measured: events a second, and for how many seconds.
const RATE: u32 = 200;
const SECONDS: u64 = 10;
/// Of the events that are there before anything is delivered, so many times fewer are published while others are delivered.
const LIVE_ONE_OF: u64 = 5;
const BATCH: u32 = 500;
/// How long it may be that nothing comes.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
/// How often what was counted is asked for: that takes a command and a connection.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);
/// How much more memory the second half of a replay may take than the first.
const GROWTH_MAX_KIB: u64 = 8 * 1024;

/// The processes whose time is counted.
const PROCESSES: [(&str, &str); 4] = [
    ("daemon", "daemon"),
    ("data plane", "proxy"),
    ("subscriber", "event-subscriber"),
    ("publisher", "event-publisher"),
];

/// What one round gave.
#[derive(Debug, Default)]
struct Round {
    per_second: f64,
    /// Microseconds for one event, in the order of [`PROCESSES`].
    cpu: [f64; 4],
    latency_us: Option<[f64; 2]>,
    out_of_order: u64,
}

#[derive(Debug)]
struct Bench {
    stand: Stand,
    keys: u32,
    /// So far.
    published: u64,
}

pub(crate) async fn run(options: &Events, folder: &Path) -> Result<Value> {
    let mut bench = Bench::open(options, folder).await?;
    let works = [
        ("at 200 a second", Work::Paced),
        ("ahead", Work::Ahead(options.ahead)),
        ("live", Work::Live(options.ahead / LIVE_ONE_OF)),
    ];
    let mut rows = Vec::new();
    let mut json = serde_json::Map::new();
    let mut out_of_order = 0;
    // What is first of its kind takes longer.
    bench.round(Work::Warm).await?;
    for (name, work) in works {
        let mut rounds = Vec::new();
        for number in 0..ROUNDS {
            let round = bench.round(work).await.with_context(|| name)?;
            eprintln!("bench: deliver: {name}, round {}: {round:?}", number + 1);
            out_of_order += round.out_of_order;
            rounds.push(round);
        }
        rows.push(row(name, &rounds));
        json.insert(name.replace(' ', "_"), to_json(&rounds));
    }
    let header =
        ["", "per second", "min..max", "p50 us", "p99 us", "CPU us: daemon", "data plane", "subscriber", "publisher"];
    let mut text = String::new();
    let title = format!("deliveries (goal: {GOAL:.0}/s, p50 under {GOAL_P50_US:.0} us)");
    table::put(&mut text, &title, &header.map(str::to_owned), &rows);
    println!("{text}");
    ensure!(out_of_order == 0, "{out_of_order} deliveries were not the next of their key");
    Ok(json.into())
}

fn row(name: &str, rounds: &[Round]) -> Vec<String> {
    let summary = |of: &dyn Fn(&Round) -> Option<f64>| Summary::of(rounds.iter().filter_map(of));
    let rate = summary(&|round| Some(round.per_second));
    let mut row = vec![name.to_owned(), table::median(rate, 0), table::spread(rate, 0)];
    row.extend((0..2).map(|at| table::median(summary(&|round| Some(round.latency_us?[at])), 0)));
    row.extend((0..4).map(|at| table::median(summary(&|round| Some(round.cpu[at])), 1)));
    row
}

fn to_json(rounds: &[Round]) -> Value {
    let summary =
        |of: &dyn Fn(&Round) -> Option<f64>| crate::report::summary_to_json(Summary::of(rounds.iter().filter_map(of)));
    let cpu: serde_json::Map<String, Value> = (0..)
        .zip(PROCESSES)
        .map(|(at, (name, _)): (usize, _)| (name.to_owned(), summary(&|round| Some(round.cpu[at]))))
        .collect();
    json!({
        "per_second": summary(&|round| Some(round.per_second)), "cpu_us": cpu,
        "p50_us": summary(&|round| Some(round.latency_us?[0])), "p99_us": summary(&|round| Some(round.latency_us?[1])),
    })
}

/// A million events are there, and are delivered again.
pub(crate) async fn replay(options: &Events, folder: &Path) -> Result<(bool, Value)> {
    let mut bench = Bench::open(options, folder).await?;
    bench.publish(options.replayed, 0, BATCH).await?;
    bench.delivered(options.replayed).await?;
    bench.count_anew().await?;
    let before = bench.memory()?;
    let began = Instant::now();
    let begun = bench.stand.json(&["replay", "--since", "first", "--subscription", SUBSCRIPTION]).await?;
    let mut samples = Vec::new();
    let mut tick = interval(SAMPLE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (figures, memories) = {
        let delivered = bench.delivered(options.replayed);
        tokio::pin!(delivered);
        loop {
            tokio::select! {
                figures = &mut delivered => break (figures?, samples),
                _ = tick.tick() => samples.push(bench.memory()?),
            }
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    let (first, second) = memories.split_at(memories.len() / 2);
    let most = |samples: &[u64]| samples.iter().copied().max().unwrap_or_default();
    let growth = most(second).saturating_sub(most(first));
    #[expect(clippy::cast_precision_loss)]
    let rate = figures.count as f64 / seconds;
    println!(
        "replay: {} events in {seconds:.0} s, {rate:.0}/s; resident memory of the daemon {} KiB before, at most {} KiB in \
         its first half and {} KiB in its second",
        figures.count,
        before,
        most(first),
        most(second)
    );
    // Each key goes back once.
    let out_of_order = figures.out_of_order.saturating_sub(u64::from(options.keys));
    let json = json!({
        "events": figures.count, "asked": begun, "seconds": seconds, "per_second": rate, "rss_before_kib": before,
        "rss_first_half_kib": most(first), "rss_second_half_kib": most(second), "rss_kib": memories,
        "out_of_order": out_of_order,
    });
    Ok((growth <= GROWTH_MAX_KIB && out_of_order == 0, json))
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Warm,
    /// One now and then.
    Paced,
    /// All are there before the first is delivered.
    Ahead(u64),
    /// As fast as they can be published, each in a request of its own.
    Live(u64),
}

/// What the subscriber has counted.
#[derive(Clone, Copy, Debug)]
struct Figures {
    count: u64,
    first: u64,
    last: u64,
    latency_us: Option<[f64; 2]>,
    out_of_order: u64,
}

impl Bench {
    async fn open(options: &Events, folder: &Path) -> Result<Self> {
        let stand = Stand::open(&options.given.atoll, folder, &manifest(folder)?).await?;
        Ok(Self { stand, keys: options.keys, published: 0 })
    }

    async fn round(&mut self, work: Work) -> Result<Round> {
        let events = match work {
            Work::Warm => 5_000,
            Work::Paced => u64::from(RATE) * SECONDS,
            Work::Ahead(events) => events,
            Work::Live(events) => events,
        };
        if let Work::Ahead(events) = work {
            self.stand.atoll(&["scale", "subscriber=0"]).await?;
            self.publish(events, 0, BATCH).await?;
            self.stand.atoll(&["scale", "subscriber=1"]).await?;
        }
        if !matches!(work, Work::Ahead(_)) {
            self.count_anew().await?;
        }
        let before = self.look()?;
        match work {
            Work::Ahead(_) => (),
            Work::Paced => self.publish(events, RATE, 1).await?,
            Work::Warm | Work::Live(_) => self.publish(events, 0, 1).await?,
        }
        let figures = self.delivered(events).await?;
        let after = self.look()?;
        #[expect(clippy::cast_precision_loss)]
        let (count, nanoseconds) = (figures.count as f64, figures.last.saturating_sub(figures.first).max(1) as f64);
        let mut cpu = [0.0; 4];
        for (cpu, (before, after)) in cpu.iter_mut().zip(before.iter().zip(&after)) {
            *cpu = after.since(before).total / count;
        }
        let latency_us = figures.latency_us.filter(|_| !matches!(work, Work::Ahead(_)));
        Ok(Round { per_second: count / nanoseconds * 1e9, cpu, latency_us, out_of_order: figures.out_of_order })
    }

    /// Has so many more events published, and waits until they are.
    async fn publish(&mut self, events: u64, rate: u32, batch: u32) -> Result<()> {
        self.published += events;
        let connections = if batch > 1 { 8 } else { 64 };
        let wish = Wish { events: self.published, keys: self.keys, connections, rate, batch };
        let answer = self.stand.ask("publisher", "/publish", Some(&wish.to_json())).await?;
        ensure!(answer["acknowledged"] == events, "published {answer}, not {events}");
        Ok(())
    }

    /// Has the subscriber begin to count anew.
    async fn count_anew(&self) -> Result<()> {
        self.stand.ask("subscriber", "/figures/anew", None).await.map(drop)
    }

    /// Waits until so many were delivered since the subscriber began to count.
    async fn delivered(&self, events: u64) -> Result<Figures> {
        let (mut last, mut before) = (Instant::now(), 0);
        loop {
            let asked = self.stand.ask("subscriber", "/figures", None).await?;
            let number = |name: &str| asked[name].as_u64().unwrap_or_default();
            let count = number("count");
            if count >= events {
                ensure!(count == events, "{count} deliveries of {events} events");
                #[expect(clippy::cast_precision_loss)]
                let at = |name: &str| asked["latency_ns"][name].as_u64().map(|latency| latency as f64 / 1_000.0);
                let latency_us = at("p50").zip(at("p99")).map(<[f64; 2]>::from);
                let (first, last, out_of_order) = (number("first"), number("last"), number("out_of_order"));
                return Ok(Figures { count, first, last, latency_us, out_of_order });
            }
            if count > before {
                (last, before) = (Instant::now(), count);
            }
            ensure!(last.elapsed() < STANDSTILL_MAX, "{count} of {events} events were delivered");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn look(&self) -> Result<[Look; 4]> {
        let mut looks = [const { None }; 4];
        for (look, (name, word)) in looks.iter_mut().zip(PROCESSES) {
            let pids = self.stand.application.find(word);
            *look = Some(Look::at(&pids).with_context(|| name)?);
        }
        Ok(looks.map(Option::unwrap_or_default))
    }

    /// Of the daemon, resident, in KiB.
    fn memory(&self) -> Result<u64> {
        Ok(Memory::at(&self.stand.application.find("daemon"))?.rss)
    }
}

fn manifest(folder: &Path) -> Result<String> {
    let folder = folder.to_str().context("the folder's path is not UTF-8")?;
    let publisher = command(&["event-publisher", folder])?;
    let subscriber = command(&["event-subscriber", folder])?;
    Ok(format!(
        r#"name = "bench"

[broker]
listen = "127.0.0.1:0"

[services.publisher]
command = {publisher}
publishes = ["{TOPIC}"]
probes = {{ readiness = {{ tcp = true, interval = "100ms" }} }}

[services.subscriber]
command = {subscriber}
probes = {{ readiness = {{ tcp = true, interval = "100ms" }} }}

[topics."{TOPIC}"]
retention = {{ size = "4GiB" }}

[[subscriptions]]
name = "{SUBSCRIPTION}"
topic = "{TOPIC}"
service = "subscriber"
path = "/events"
key = "key"
concurrency = 64
"#
    ))
}
