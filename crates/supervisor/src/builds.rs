//! Runs one build: its output to a log file and to the loop, its end as a report. Cancelled, it stops the whole group.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kit::Chain;
use rustix::process::Signal;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Build;
use crate::engine::Report;
use crate::logs::Limits;
use crate::logs::lines::Piece;
use crate::logs::pipe::Lines;
use crate::logs::tail::Tail;
use crate::process::{self, Output, Process, Spec};
use crate::status::Exit;

/// From SIGTERM to SIGKILL for a build that nobody wants any more.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// What cp(1) and its like say when they write into an executable that runs (ETXTBSY).
const BUSY: &str = "Text file busy";

/// What a build needs to know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) build: Build,
    pub(crate) spec: Spec,
    pub(crate) log_file: PathBuf,
    pub(crate) log: Limits,
    pub(crate) cancelled: CancellationToken,
    pub(crate) reports: mpsc::Sender<Report>,
}

/// How a build ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Duration),
    Failed { reason: String, last_lines: Vec<String> },
    Cancelled,
}

/// Runs a build and reports its output and its end.
pub(crate) async fn run(plan: Plan) {
    let outcome = build(&plan).await;
    let Plan { build, reports, .. } = plan;
    // The loop lives until every build is gone; if it does not, nobody is left to tell.
    let _ = reports.send(Report::Built { build, outcome }).await;
}

async fn build(plan: &Plan) -> Outcome {
    let start = Instant::now();
    let (process, output) = match spawn(&plan.spec).await {
        Ok(spawned) => spawned,
        Err(error) => {
            return Outcome::Failed { reason: Chain(&error).to_string(), last_lines: Vec::new() };
        }
    };
    let gone = CancellationToken::new();
    let mut lines = Lines::new(output, plan.log.line_bytes_max, gone.clone());
    let output = async {
        let mut log = Log::create(plan);
        let mut tail = Tail::default();
        while let Some(Piece { text: line, .. }) = lines.next().await {
            log.append(&line);
            tail.remember(&line);
            let _ = plan.reports.send(Report::BuildLine { build: plan.build.clone(), line }).await;
        }
        tail.lines()
    };
    let end = async {
        let exit = end(process, &plan.cancelled).await;
        gone.cancel();
        exit
    };
    let (exit, last_lines): (_, Vec<String>) = tokio::join!(end, output);
    if plan.cancelled.is_cancelled() {
        return Outcome::Cancelled;
    }
    if exit.is_success() {
        return Outcome::Done(start.elapsed());
    }
    let mut reason = format!("`{}` ended with {exit}, see {}", plan.build.shown, plan.log_file.display());
    if last_lines.iter().any(|line| line.contains(BUSY)) {
        reason +=
            "; it writes into a program that is running: let it rename a new file over it, or stop the service first";
    }
    Outcome::Failed { reason, last_lines }
}

async fn spawn(spec: &Spec) -> Result<(Process, Receiver), process::Error> {
    let (reader, output) = Output::joined()?;
    Ok((Process::spawn(spec, output).await?, reader))
}

/// Waits for the end, or brings it about when nobody wants the build any more.
async fn end(process: Process, cancelled: &CancellationToken) -> Exit {
    let group = process.group();
    tokio::select! {
        () = process.ended() => {}
        () = cancelled.cancelled() => {
            group.signal(Signal::TERM);
            let _ = timeout(CANCEL_GRACE, process.ended()).await;
        }
    }
    // Order: signal before reaping, while the group is surely still its own.
    group.signal(Signal::KILL);
    let exit = process.reap();
    group.clear().await;
    exit
}

/// The output on disk; what does not fit is left out, and a disk that is full does not fail a build.
struct Log {
    file: Option<File>,
    room: u64,
}

impl Log {
    fn create(plan: &Plan) -> Self {
        let file = File::create(&plan.log_file);
        if let Err(error) = &file {
            tracing::warn!(path = %plan.log_file.display(), %error, "a build's output is not kept");
        }
        Self { file: file.ok(), room: plan.log.file_bytes_max }
    }

    fn append(&mut self, line: &str) {
        let length = line.len() as u64 + 1;
        let Some(file) = self.file.as_mut().filter(|_| length <= self.room) else {
            return;
        };
        self.room -= length;
        if file.write_all(format!("{line}\n").as_bytes()).is_err() {
            self.file = None;
        }
    }
}
