//! Runs programs, says what runs and how many seconds it took, and turns a bad exit into an error.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Does one part of a chore and prints its seconds, also when it fails.
pub(crate) fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("xtask: {name}");
    let start = Instant::now();
    let result = work();
    eprintln!("xtask: {name} took {:.1} s", start.elapsed().as_secs_f64());
    result.with_context(|| format!("{name} failed"))
}

/// A program that runs in `folder`, without an input to wait for.
pub(crate) fn command(folder: &Path, words: &[impl AsRef<OsStr>]) -> Command {
    let (program, arguments) = words.split_first().expect("a command has a program");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

/// Runs to the end with its output passed on.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run `{program}`"))?;
    if !status.success() {
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!("`{program} {}` ended with {status}", words.join(" "));
    }
    Ok(())
}

/// Runs to the end and gives what it printed.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run `{program}`"))?;
    if !output.status.success() {
        bail!("`{program}` ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{program}` printed something that is not UTF-8"))
}

/// Whether a command can be run at all and succeeds; its output is dropped.
pub(crate) fn succeeds(mut command: Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
