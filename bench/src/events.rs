//! `bench events`: events between services, through the real binary. Whether all come in order under kills (`check`), whether
//! a database and what it tells stay one (`outbox`), how fast they are (`deliver`), and what a replay takes (`replay`).

mod check;
mod deliver;
pub(crate) mod ledger;
mod outbox;
pub(crate) mod publisher;
mod record;
mod stand;
pub(crate) mod subscriber;
mod verify;
mod wire;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::machine;
use crate::options::Events;
use crate::report::save;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Nothing lost and all in order, while everything is killed
    Check,
    /// State and events agree, while service, daemon and broker are killed
    Outbox,
    /// Deliveries a second, how long they take, what they cost
    Deliver,
    /// Memory of a replay
    Replay,
}

pub(crate) async fn run(options: Events) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    fastrand::seed(seed);
    eprintln!("bench: events: seed {seed}");
    let temporary = tempfile::Builder::new().prefix("atoll-bench-").tempdir().context("cannot make a folder")?;
    let place = |part: &str| options.keep.as_deref().unwrap_or(temporary.path()).join(part);
    let mut results = json!({
        "bench": "events", "date": Timestamp::now().strftime("%Y-%m-%d").to_string(), "machine": machine::describe(),
        "seed": seed,
    });
    let mut bad = Vec::new();
    if options.has(Part::Check) {
        let outcome = check::run(&options, &whole(&place("check"))?, seed).await?;
        results["check"] = outcome.to_json();
        bad.extend((!outcome.is_good()).then_some("events were lost or came out of order"));
    }
    for broker in outbox::Broker::value_variants().iter().filter(|_| options.has(Part::Outbox)) {
        if *broker == outbox::Broker::NatsServer && !options.nats_server.exists() {
            eprintln!("bench: outbox: nats-server is not there, and is left out");
            continue;
        }
        let folder = whole(&place(&format!("outbox-{}", broker.id())))?;
        let (verdict, json) = Box::pin(outbox::run(&options, *broker, &folder)).await?;
        results["outbox"][broker.id()] = json;
        bad.extend((!verdict.findings.is_empty()).then_some("state and events differ"));
    }
    if options.has(Part::Deliver) {
        results["deliver"] = Box::pin(deliver::run(&options, &whole(&place("deliver"))?)).await?;
    }
    if options.has(Part::Replay) {
        let (is_flat, json): (bool, Value) = Box::pin(deliver::replay(&options, &whole(&place("replay"))?)).await?;
        results["replay"] = json;
        bad.extend((!is_flat).then_some("a replay takes ever more memory, or is out of order"));
    }
    if let Some(folder) = options.destination() {
        save(&folder, "events.json", &format!("{results:#}\n"))?;
    }
    ensure!(bad.is_empty(), "{}", bad.join("; "));
    Ok(())
}

/// The folder by its whole name, made new.
fn whole(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    folder.canonicalize().with_context(|| folder.display().to_string())
}
