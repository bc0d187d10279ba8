//! `cargo xtask bench proxy|resilience|soak|broker|crash|events`: installs the peers, builds what is measured and the bench, and
//! becomes the bench. What it measures and how is the affair of the package `bench`.

use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::phase::{self, command, timed};
use crate::setup;

/// CPUs that everything shares, on machines that have more: figures then compare with those of a small machine.
const CPUS: &str = "0,1";

/// Returns only with an error: this process goes on as the bench, so that a signal that is meant for it reaches it.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<()> {
    let is_help = arguments.iter().any(|argument| matches!(*argument, "--help" | "-h" | "help"));
    let is_broker = matches!(arguments.first(), Some(&("broker" | "crash")));
    let is_events = matches!(arguments.first(), Some(&"events"));
    let build: &[&str] = match (is_help, is_broker) {
        (true, _) => &["--package", "bench", "--bins"],
        (false, true) => &["--package", "bench", "--package", "broker", "--bins", "--example", "serve"],
        (false, false) => &["--package", "bench", "--package", "atoll", "--bins"],
    };
    if !is_help {
        timed("setup", || match () {
            () if is_broker => setup::bench_broker(root),
            () if is_events => setup::install_tools(root),
            () => setup::bench(root),
        })?;
    }
    let build = [&["cargo", "build", "--release", "--quiet"], build].concat();
    timed("build", || phase::run(command(root, &build)))?;
    let programs = setup::target_folder(root)?.join("release");
    let has_more = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 2);
    let mut bench = match has_more {
        true => command(root, &["taskset", "--cpu-list", CPUS]),
        false => command(root, &["env"]),
    };
    bench.arg(programs.join("bench")).args(arguments);
    if !is_help && is_broker {
        bench.arg("--broker").arg(programs.join("examples").join("serve"));
        bench.arg("--nats-server").arg(setup::nats_server(root)?);
    } else if !is_help {
        bench.arg("--atoll").arg(programs.join("atoll")).arg("--tools").arg(setup::peers_folder(root)?);
    }
    if !is_help && is_events {
        bench.arg("--nats-server").arg(setup::nats_server(root)?);
    }
    if !is_help {
        bench.arg("--results").arg(root.join("bench").join("results"));
    }
    Err(bench.exec()).context("cannot run the bench")
}
