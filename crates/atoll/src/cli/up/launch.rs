//! Starts the daemon as a process of its own and learns from it whether it listens.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::api::client::{Client, Error};
use crate::api::dto::{Started, Status};
use crate::cli::Failure;
use crate::project::{self, Project};

/// Makes sure that a daemon runs; says whether this call started it.
pub async fn ensure_daemon(project: &Project, client: &Client) -> Result<bool, Failure> {
    match client.get::<Status>("/v1/status").await {
        Ok(_) => Ok(false),
        Err(Error::NotRunning { .. }) => start_daemon(project).await.map(|()| true),
        Err(error) => Err(error.into()),
    }
}

async fn start_daemon(project: &Project) -> Result<(), Failure> {
    project.prepare_state()?;
    let path = project.daemon_log();
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.map_err(|source| project::Error::State { path: path.clone(), source })?;
    let program =
        std::env::current_exe().map_err(|error| Failure::new("cannot find atoll's own file").because(error))?;
    let mut command = Command::new(program);
    command.arg("daemon").arg("--manifest").arg(&project.manifest);
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
        Ok(Started::Listening) => Ok(()),
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
