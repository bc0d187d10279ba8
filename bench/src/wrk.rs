//! Drives wrk, one thread and a closed loop, and reads what it prints.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::peers::Running;
use crate::work::{BIG_BYTES, CONNECTIONS, Work, path};

/// What one run of it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Connections that broke, timeouts, and answers that were not 2xx or 3xx.
    pub(crate) errors: u64,
}

/// The script that makes wrk send bodies.
const POST: &str = "post.lua";

/// Writes the script for [`Work::Post`] into a folder.
pub(crate) fn prepare(folder: &Path) -> Result<()> {
    let script = format!(
        "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {BIG_BYTES})\nwrk.headers[\"content-type\"] = \"text/plain\"\n"
    );
    std::fs::write(folder.join(POST), script).with_context(|| format!("cannot write {POST}"))
}

/// Loads a proxy for so many seconds.
pub(crate) async fn run(folder: &Path, proxy: &Running, work: Work, seconds: u64) -> Result<Outcome> {
    let script = (work == Work::Post).then(|| folder.join(POST));
    load(&format!("http://{}{}", proxy.address, path(work, proxy.routes)), CONNECTIONS, seconds, script.as_deref())
        .await
}

/// Loads an address, with GETs where no script says otherwise.
pub(crate) async fn load(url: &str, connections: usize, seconds: u64, script: Option<&Path>) -> Result<Outcome> {
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]).kill_on_drop(true);
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    let output = command.arg(url).output().await.context("cannot run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("wrk ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    parse(&text).with_context(|| format!("cannot read what wrk printed: {text}"))
}

fn parse(text: &str) -> Option<Outcome> {
    let summary = text.lines().find(|line| line.contains(" requests in "))?;
    let (requests, rest) = summary.trim().split_once(" requests in ")?;
    let seconds = parse_duration(rest.split(',').next()?)?;
    let refused = text.lines().find_map(|line| line.trim().strip_prefix("Non-2xx or 3xx responses:"));
    let broken = text.lines().find_map(|line| line.trim().strip_prefix("Socket errors:"));
    let broken = broken.unwrap_or("").split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
    let errors = broken.sum::<u64>() + refused.map_or(Some(0), |count| count.trim().parse().ok())?;
    Some(Outcome { requests: requests.parse().ok()?, seconds, errors })
}

/// wrk writes `900.11ms`, `3.00s`, `1.50m` or `1.00h`.
fn parse_duration(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match &text[unit..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "\
Running 3s test @ http://127.0.0.1:27000/r50/small
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.52ms    1.16ms  22.71ms   90.49%
    Req/Sec    44.81k     4.09k   51.93k    70.00%
  133772 requests in 3.00s, 29.72MB read
Requests/sec:  44565.20
Transfer/sec:      9.90MB
";

    #[test]
    fn requests_and_seconds_are_read() {
        assert_eq!(parse(PLAIN), Some(Outcome { requests: 133_772, seconds: 3.0, errors: 0 }));
        let minutes = PLAIN.replace("3.00s", "1.50m");
        assert_eq!(parse(&minutes).map(|outcome| outcome.seconds), Some(90.0));
        assert_eq!(parse("unable to connect to 127.0.0.1:1 Connection refused\n"), None);
        assert_eq!(parse("x requests in 3.00s, 1MB read\n"), None);
        assert_eq!(parse("5 requests in 3.00, 1MB read\n"), None);
    }

    #[test]
    fn every_kind_of_error_counts() {
        let bad = PLAIN.replace(
            "Requests/sec",
            "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000\nRequests/sec",
        );
        assert_eq!(parse(&bad).map(|outcome| outcome.errors), Some(54_321));
    }
}
