//! `cargo xtask bench proxy|resilience|soak|crash`: installs the peers, builds what is measured and the bench, and becomes the bench.
//! What it measures and how is the affair of the package `bench`.

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
    let is_crash = arguments.first() == Some(&"crash");
    if !is_help && !is_crash {
        timed("setup", || setup::bench(root))?;
    }
    let packages = ["--package", "atoll", "--package", "bench"];
    let packages = if is_help { &packages[2..] } else { &packages[..] };
    let build = [&["cargo", "build", "--release", "--quiet"], packages].concat();
    timed("build", || phase::run(command(root, &build)))?;
    if is_crash && !is_help {
        let build = ["cargo", "build", "--release", "--quiet", "--package", "broker", "--example", "serve"];
        timed("build", || phase::run(command(root, &build)))?;
    }
    let target = setup::target_folder(root)?;
    let programs = target.join("release");
    let has_more = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 2);
    let mut bench = match has_more {
        true => command(root, &["taskset", "--cpu-list", CPUS]),
        false => command(root, &["env"]),
    };
    bench.arg(programs.join("bench")).args(arguments);
    if !is_help {
        bench.arg("--atoll").arg(programs.join("atoll")).arg("--tools").arg(setup::peers_folder(root)?);
        bench.arg("--results").arg(root.join("bench").join("results"));
    }
    Err(bench.exec()).context("cannot run the bench")
}
