//! What `cargo xtask bench` runs: the chores that measure (`proxy`, `resilience`, `broker`), those that look for what fails,
//! grows (`soak`) or is lost (`crash`, `events`), and the programs that they start for that, services that behave (`upstream`)
//! and that do not (`callee`, `event-…`) and an open-loop load (`rate`). It knows the product by its command line alone.

mod broker;
mod callee;
mod chart;
mod client;
mod crash;
mod events;
mod idle;
mod machine;
mod options;
mod peers;
mod proxy;
mod rate;
mod report;
mod resilience;
mod running;
mod soak;
mod statistics;
mod upstream;
mod usage;
mod work;
mod wrk;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::options::{Command, Options};

fn main() -> ExitCode {
    let result = match Options::parse().command {
        Command::Proxy(options) => run(async move { until_signalled(proxy::run(options)).await }),
        Command::Soak(options) => run(async move { until_signalled(soak::run(options)).await }),
        Command::Resilience(options) => run(async move { until_signalled(resilience::run(options)).await }),
        Command::Crash(options) => run(async move { until_signalled(crash::run(options)).await }),
        Command::Broker(options) => run(until_signalled(Box::pin(broker::run(options)))),
        Command::Events(options) => run(until_signalled(Box::pin(events::run(options)))),
        Command::EventPublisher(options) => run(events::publisher::run(options)),
        Command::EventSubscriber(options) => run(events::subscriber::run(options)),
        Command::EventLedger(options) => run(events::ledger::run(options)),
        Command::Callee(options) => run(callee::run(options)),
        Command::Upstream => run(upstream::run()),
        Command::Rate(options) => run(rate::main(options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread for each program: on machines with two cores a second one would only be in the way.
fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Drops the work at Ctrl-C or SIGTERM, and with it everything that it has started.
async fn until_signalled(work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    }
}
