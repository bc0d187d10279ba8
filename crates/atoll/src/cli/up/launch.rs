//! Starts the daemon as a process of its own and learns from it whether it listens.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::api::client::{Client, Error};
use crate::api::dto::{Change, Started, Status};
use crate::cli::Failure;
use crate::project::{self, Project};

/// How long another daemon of this folder may take from its lock to its socket, or from its last word to its end.
pub const OTHER_DAEMON_MAX: Duration = Duration::from_secs(30);
/// How often it is looked for.
pub const OTHER_DAEMON_INTERVAL: Duration = Duration::from_millis(50);

/// Who brought the daemon up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launched {
    Here,
    /// It ran already, or another `up` was faster.
    Elsewhere,
}

/// Makes sure that a daemon runs. One that takes over from another says what has changed since.
pub async fn ensure_daemon(project: &Project, client: &Client) -> Result<(Launched, Vec<Change>), Failure> {
    let deadline = Instant::now() + OTHER_DAEMON_MAX;
    loop {
        match client.get::<Status>("/v1/status").await {
            Ok(_) => return Ok((Launched::Elsewhere, Vec::new())),
            Err(Error::NotRunning { .. } | Error::Broken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(changes) = start_daemon(project).await? {
            return Ok((Launched::Here, changes));
        }
        if Instant::now() >= deadline {
            return Err(project::Error::Locked.into());
        }
        tokio::time::sleep(OTHER_DAEMON_INTERVAL).await;
    }
}

/// `None` when another one was faster to get the folder's lock.
async fn start_daemon(project: &Project) -> Result<Option<Vec<Change>>, Failure> {
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
    let mut line = String::new();
    // Ends with the daemon's one line, or with the daemon.
    let read = BufReader::new(stdout).read_line(&mut line).await;
    read.map_err(|error| Failure::new("lost the starting daemon").because(error))?;
    match serde_json::from_str(&line) {
        Ok(Started::Listening { changes }) => Ok(Some(changes)),
        Ok(Started::Locked) => Ok(None),
        Ok(Started::Failed { message, causes, hint }) => {
            let failure = Failure::new(message).hint(hint);
            Err(if causes.is_empty() { failure } else { failure.because(causes.join(": ")) })
        }
        Err(_) => {
            let failure = Failure::new("the daemon ended before it could say why");
            Err(failure.hint(format!("its last words are in {}", path.display())))
        }
    }
}
