//! Starts the daemon as a process of its own and learns from it whether it listens.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use crate::api::client::{Client, Error};
use crate::api::dto::{Change, Started, Status};
use crate::cli::Failure;
use crate::cli::up::watch::Interrupt;
use crate::project::{self, Project};

/// How long another daemon of this folder may take from its lock to its socket, or from its last word to its end.
pub const OTHER_DAEMON_MAX: Duration = Duration::from_secs(30);
/// How often it is looked for.
pub const OTHER_DAEMON_INTERVAL: Duration = Duration::from_millis(50);

/// Limit: how long a daemon may take from its start to its one line. It takes some twenty seconds where everything hangs
/// that it is to adopt.
const START_MAX: Duration = Duration::from_secs(60);
/// Limit: how long one that is told to end while it starts may take, before it is killed.
const END_MAX: Duration = Duration::from_secs(2);

/// Who brought the daemon up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launched {
    Here,
    /// It ran already, or another `up` was faster.
    Elsewhere,
}

/// Makes sure that a daemon runs. One that takes over from another says what has changed since. `None` when that was
/// interrupted: a daemon that was about to start has ended then.
pub async fn ensure_daemon(
    project: &Project,
    client: &Client,
    interrupt: &mut Interrupt,
) -> Result<Option<(Launched, Vec<Change>)>, Failure> {
    let mut starting = None;
    let launched = tokio::select! {
        // Order: one that listens is drained, or left, as any other.
        biased;
        launched = launch(project, client, &mut starting) => launched.map(Some),
        () = interrupt.received() => Ok(None),
    };
    if let Some(daemon) = starting {
        end(daemon).await;
    }
    launched
}

/// What is left in `starting` has not said yet how its start goes.
async fn launch(
    project: &Project,
    client: &Client,
    starting: &mut Option<Child>,
) -> Result<(Launched, Vec<Change>), Failure> {
    let deadline = Instant::now() + OTHER_DAEMON_MAX;
    loop {
        match client.get::<Status>("/v1/status").await {
            Ok(_) => return Ok((Launched::Elsewhere, Vec::new())),
            Err(Error::NotRunning { .. } | Error::Broken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(changes) = start_daemon(project, starting).await? {
            return Ok((Launched::Here, changes));
        }
        if Instant::now() >= deadline {
            return Err(Error::silent(project).into());
        }
        tokio::time::sleep(OTHER_DAEMON_INTERVAL).await;
    }
}

/// `None` when another one was faster to get the folder's lock.
async fn start_daemon(project: &Project, starting: &mut Option<Child>) -> Result<Option<Vec<Change>>, Failure> {
    project.make_folders()?;
    let path = project.daemon_log();
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.map_err(|source| project::Error::State { path: path.clone(), source })?;
    let program =
        std::env::current_exe().map_err(|error| Failure::new("cannot find atoll's own file").because(error))?;
    let mut command = Command::new(program);
    command.args(["daemon", "run", "--manifest"]).arg(&project.manifest);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir(project.root());
    // A group of its own: Ctrl-C in the terminal is for the command line, which then asks the daemon to drain.
    command.process_group(0);
    let mut command = tokio::process::Command::from(command);
    let mut child = command.spawn().map_err(|error| Failure::new("cannot start the daemon").because(error))?;
    let stdout = child.stdout.take().expect("stdout is a pipe");
    let pid = child.id();
    *starting = Some(child);
    let last_words = || format!("its last words are in {}", path.display());
    let Some(line) = first_line(stdout, START_MAX).await else {
        let pid = pid.map(|pid| format!(", pid {pid},")).unwrap_or_default();
        let message = format!("the daemon{pid} did not come up within {} s and was ended", START_MAX.as_secs());
        return Err(Failure::new(message).hint(last_words()));
    };
    let line = line.map_err(|error| Failure::new("lost the starting daemon").because(error))?;
    *starting = None;
    match serde_json::from_str(&line) {
        Ok(Started::Listening { changes }) => Ok(Some(changes)),
        Ok(Started::Locked) => Ok(None),
        Ok(Started::Failed { message, causes, hint }) => {
            let failure = Failure::new(message).hint(hint);
            Err(if causes.is_empty() { failure } else { failure.because(causes.join(": ")) })
        }
        Err(_) => {
            let failure = Failure::new("the daemon ended before it could say why");
            Err(failure.hint(last_words()))
        }
    }
}

/// Ends with the daemon's one line, or with the daemon. `None` when that takes too long.
async fn first_line(stdout: impl AsyncRead + Unpin, limit: Duration) -> Option<std::io::Result<String>> {
    let mut line = String::new();
    let read = timeout(limit, BufReader::new(stdout).read_line(&mut line)).await.ok()?;
    Some(read.map(|_| line))
}

/// Ends a daemon that is about to start. One that has just begun to listen leaves alone what it has taken over.
async fn end(mut daemon: Child) {
    let pid = daemon.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        // Order: it is not waited for yet, so that the pid is its own.
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(END_MAX, daemon.wait()).await.is_err() {
        // What holds up even this is not waited for.
        let _ = daemon.start_kill();
        let _ = timeout(END_MAX, daemon.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_daemon_that_says_nothing_is_not_waited_for_for_ever() {
        let mut sleeper = tokio::process::Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
        let stdout = sleeper.stdout.take().unwrap();
        assert!(first_line(stdout, Duration::from_millis(10)).await.is_none());
        let pid = sleeper.id().unwrap().cast_signed();
        end(sleeper).await;
        assert_eq!(crate::processes::memory_bytes(pid), None);
        assert_eq!(first_line(&b"{}\n"[..], START_MAX).await.unwrap().unwrap(), "{}\n");
    }
}
