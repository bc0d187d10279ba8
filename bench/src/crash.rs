//! `bench crash`: a broker under load is killed, its disk's power is cut, its files are damaged. What it acknowledged must
//! be there, once and unaltered, and what it was told to remove must be gone; what cannot be must be said.

mod broker;
mod client;
mod damage;
mod known;
mod load;
mod power;
mod verify;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::machine;
use crate::options::Crash;
use broker::{Broker, Program};
use client::{Client, lock};
use known::{Fault, Finding, Known};
use power::{Cache, Disk};
use verify::{drain, publish_again, verify};

/// Milliseconds of load until the crash, and until a power cut, as a disk of three layers is slow.
const LIFE: std::ops::Range<u64> = 20..600;
const LIFE_ON_DISK: std::ops::Range<u64> = 50..2500;
/// Of a segment: small, so that there are many.
const SEGMENT_BYTES: u64 = 256 << 10;
/// One in so many crashes comes while the broker starts, that many milliseconds after it was started at most.
const EARLY_ONE_IN: u32 = 8;
const EARLY_MAX: u64 = 30;
/// One in so many times publishes are repeated while nothing else happens.
const AGAIN_ONE_IN: u32 = 4;
/// Messages of one stream from which on it is purged.
const MESSAGES_MAX: usize = 6_000;
/// Findings that are shown.
const SHOWN_MAX: usize = 12;

/// What came of a series.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    acknowledged: u64,
    confirmed: u64,
    steps: u64,
    checked: u64,
    refused: u64,
    findings: Vec<Finding>,
}

impl Tally {
    fn add(&mut self, series: &str, seen: verify::Seen) {
        self.checked += seen.checked;
        self.find(series, seen.findings);
    }

    fn find(&mut self, series: &str, findings: Vec<Finding>) {
        for finding in findings {
            if self.findings.len() < SHOWN_MAX {
                eprintln!("bench: crash: {series}, round {}: {:?}: {}", self.rounds, finding.fault, finding.what);
            }
            self.findings.push(finding);
        }
    }

    /// Counts what is about to be forgotten.
    fn settle(&mut self, known: &Known) {
        for log in &known.logs {
            self.acknowledged += log.acked.len() as u64;
            self.confirmed += log.acks.values().map(|acks| acks.done.len() as u64).sum::<u64>();
        }
    }

    fn count(&self, fault: Fault) -> usize {
        self.findings.iter().filter(|finding| finding.fault == fault).count()
    }

    fn json(&self) -> Value {
        let faults: serde_json::Map<String, Value> =
            Fault::ALL.iter().map(|(fault, name)| ((*name).to_owned(), self.count(*fault).into())).collect();
        json!({
            "rounds": self.rounds, "acknowledged": self.acknowledged, "acks_confirmed": self.confirmed,
            "steps": self.steps, "refused": self.refused, "checked": self.checked, "faults": faults,
        })
    }

    fn line(&self) -> String {
        let faults = Fault::ALL.map(|(fault, name)| format!("{name} {}", self.count(fault))).join(", ");
        let Self { rounds, acknowledged, confirmed, steps, checked, .. } = self;
        format!(
            "{rounds} rounds, {acknowledged} publishes, {confirmed} acks and {steps} changes acknowledged, {checked} compared: {faults}"
        )
    }
}

pub(crate) async fn run(options: Crash) -> Result<()> {
    let atoll = Program::Atoll(options.broker.clone(), SEGMENT_BYTES);
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    fastrand::seed(seed);
    eprintln!("bench: crash: seed {seed}");
    let work = tempfile::tempdir().context("cannot make a folder")?;
    let mut results = json!({ "machine": machine::describe(), "seed": seed });
    let mut is_good = true;
    if options.kills > 0 {
        let tally = lives(&atoll, work.path(), None, options.kills).await?;
        println!("kill -9: {}", tally.line());
        is_good &= tally.findings.is_empty();
        results["kills"] = tally.json();
    }
    for (cache, cuts) in [(Cache::Volatile, options.cuts.div_ceil(2)), (Cache::Through, options.cuts / 2)] {
        let nats = Program::Nats(options.nats_server.clone());
        let nats_cuts = if options.nats_server.exists() { cuts.div_ceil(10) } else { 0 };
        for (program, cuts) in [(&atoll, cuts), (&nats, nats_cuts)].into_iter().filter(|(_, cuts)| *cuts > 0) {
            let folder = tempfile::tempdir_in(work.path())?;
            let tally = lives(program, folder.path(), Some(cache), cuts).await?;
            println!("power cuts, {}, {}: {}", cache.name(), program.name(), tally.line());
            is_good &= tally.findings.is_empty() || matches!(program, Program::Nats(_));
            results["cuts"][program.name()][cache.name()] = tally.json();
        }
    }
    if options.damages > 0 {
        let table = damage::run(&options.broker, work.path(), options.damages).await?;
        println!("{table}");
        is_good &= table.is_good();
        results["damages"] = table.json();
    }
    if let Some(folder) = options.destination() {
        let path = folder.join("crash.json");
        std::fs::write(&path, format!("{results:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(is_good, "something was lost, altered, doubled or came back");
    Ok(())
}

/// A broker that lives many times, each time until it is killed. With a disk its power is cut before each death, and what
/// was on it is looked at.
async fn lives(program: &Program, work: &Path, cache: Option<Cache>, rounds: u64) -> Result<Tally> {
    let disk = match cache {
        Some(cache) => Some(Disk::make(work, cache).await?),
        None => None,
    };
    let folder = disk.as_ref().map_or_else(|| work.join("killed"), Disk::folder);
    let log = work.join("log");
    let known = load::Shared::default();
    let mut tally = Tally::default();
    while tally.rounds < rounds {
        tally.rounds += 1;
        let mut broker = Broker::start(program, &folder, &log)?;
        if disk.is_none() && fastrand::u32(..EARLY_ONE_IN) == 0 {
            sleep(Duration::from_millis(fastrand::u64(..EARLY_MAX))).await;
            continue;
        }
        let client = Arc::new(broker.client().await.with_context(|| said(&log))?);
        begin(&client, &known, &mut tally).await.with_context(|| said(&log))?;
        let loading = tokio::spawn(load::run(Arc::new(Client::connect(broker.address).await?), Arc::clone(&known)));
        sleep(Duration::from_millis(fastrand::u64(if disk.is_some() { LIFE_ON_DISK } else { LIFE }))).await;
        let must = lock(&known).clone();
        if let Some(disk) = &disk {
            disk.cut().await?;
        }
        let may = lock(&known).clone();
        ensure!(!loading.is_finished(), "the broker has gone: {}", said(&log));
        broker.kill();
        loading.await?;
        if let Some(disk) = &disk {
            look(program, disk, must, &may, &mut tally).await.with_context(|| said(&log))?;
        }
        tally.find("load", std::mem::take(&mut lock(&known).findings));
    }
    let mut broker = Broker::start(program, &folder, &log)?;
    let client = Arc::new(broker.client().await.with_context(|| said(&log))?);
    begin(&client, &known, &mut tally).await?;
    let all = lock(&known).clone();
    tally.add("the end", drain(&client, &all, &all).await?);
    (tally.steps, tally.refused) = (all.steps, all.refused);
    tally.settle(&all);
    Ok(tally)
}

/// Compares what is there with what is known, then makes room.
async fn begin(client: &Client, known: &load::Shared, tally: &mut Tally) -> Result<()> {
    if tally.rounds == 1 || client.call("STREAM.INFO.LOG", &Value::Null).await?["error"]["code"] == 404 && is_new(known)
    {
        return load::prepare(client).await;
    }
    let mut now = lock(known).clone();
    let seen = verify(client, &now, &now).await?;
    seen.resolve(&mut now);
    tally.add("after a kill", seen);
    let is_large = now.logs.iter().any(|log| log.acked.len() > MESSAGES_MAX);
    if is_large || fastrand::u32(..AGAIN_ONE_IN) == 0 {
        publish_again(client, &mut now).await?;
        tally.add("after publishing again", verify(client, &now, &now).await?);
    }
    if is_large {
        tally.settle(&now);
        for log in &mut now.logs {
            let name = log.shape.name;
            client.expect(&format!("STREAM.PURGE.{name}"), &Value::Null).await?;
            let info = client.expect(&format!("STREAM.INFO.{name}"), &Value::Null).await?;
            log.purged(info["state"]["last_seq"].as_u64().context("a last sequence")? + 1);
        }
    }
    tally.find("again", std::mem::take(&mut now.findings));
    *lock(known) = now;
    Ok(())
}

/// Whether nothing was ever acknowledged.
fn is_new(known: &load::Shared) -> bool {
    lock(known).logs.iter().all(|log| log.sent == 0)
}

/// Starts a broker on what a cut has left.
async fn look(program: &Program, disk: &Disk, mut must: Known, may: &Known, tally: &mut Tally) -> Result<()> {
    let remains = disk.remains().await?;
    let log = remains.folder.with_file_name("log");
    let mut broker = Broker::start(program, &remains.folder, &log)?;
    let client = Arc::new(broker.client().await.with_context(|| said(&log))?);
    let series = format!("after a power cut, {}", disk.cache().name());
    tally.add(&series, verify(&client, &must, may).await.with_context(|| said(&log))?);
    let before = must.clone();
    // What was sent until the disk was whole again may have removed messages.
    for (must, may) in must.logs.iter_mut().zip(&may.logs) {
        must.acks.clone_from(&may.acks);
    }
    publish_again(&client, &mut must).await.with_context(|| said(&log))?;
    for (must, before) in must.logs.iter_mut().zip(&before.logs) {
        must.acks.clone_from(&before.acks);
    }
    // Where ids are that were acknowledged meanwhile is only true of the disk that went on.
    let mut may = may.clone();
    for (must, may) in must.logs.iter().zip(&mut may.logs) {
        may.places.clone_from(&must.places);
    }
    tally.add(&series, verify(&client, &must, &may).await.with_context(|| said(&log))?);
    tally.find(&series, std::mem::take(&mut must.findings));
    tally.add(&series, drain(&client, &before, &may).await.with_context(|| said(&log))?);
    broker.kill();
    Ok(())
}

/// The end of a log.
fn said(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
