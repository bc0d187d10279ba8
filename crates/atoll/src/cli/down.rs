//! `atoll down`: stops everything in order and waits until nothing is left.

use std::fs;
use std::io::{self, Write};
use std::time::Instant;

use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::oneshot;

use crate::api::client::{Client, Error};
use crate::api::dto::Status;
use crate::cli::output::{self, Format};
use crate::cli::target::Folder;
use crate::cli::up::{OTHER_DAEMON_INTERVAL, OTHER_DAEMON_MAX};
use crate::cli::{Context, Failure, block_on};
use crate::daemon::plane::DRAIN_MAX;
use crate::project::{self, Project};

#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    folder: Folder,
    /// Delete its data too: databases, and what the broker keeps
    #[arg(short = 'v', long)]
    volumes: bool,
}

impl Down {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let project = self.folder.target()?.project;
        let said = block_on(stop_or_clean_up(&project))??;
        if self.volumes {
            delete_data(&project)?;
        }
        let deleted = if self.volumes { ", and deleted its data" } else { "" };
        match context.format {
            Format::Table => Ok(writeln!(anstream::stderr(), "{said}{deleted}")?),
            Format::Json => output::json(&serde_json::json!({ "result": said, "databases_deleted": self.volumes })),
        }
    }
}

/// Asks the daemon to stop everything, and returns when its process has ended.
pub async fn stop(project: &Project) -> Result<(), Error> {
    end(project, "/v1/down").await
}

/// Sends the daemon an order that ends it, and returns when its process has ended.
pub async fn end(project: &Project, order: &str) -> Result<(), Error> {
    begin(project, order).await?.await
}

/// Sends the daemon an order that ends it; what is given back waits for the end of its process.
pub async fn begin(project: &Project, order: &str) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
    let client = Client::new(project);
    let status: Status = client.get("/v1/status").await?;
    let unknown = move |source: io::Error| Error::Connect { source };
    // Before the request, so that the pid cannot be another's.
    let pid = Pid::from_raw(status.pid.cast_signed()).ok_or_else(|| unknown(io::Error::other("it has no pid")))?;
    let daemon = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|errno| unknown(errno.into()))?;
    client.post(order, &()).await?;
    // A thread that nobody joins: a second Ctrl-C must not wait for it, as it would for one of the runtime's.
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let mut watched = [PollFd::new(&daemon, PollFlags::IN)];
        let _ = ended.send(rustix::io::retry_on_intr(|| poll(&mut watched, None)));
    });
    Ok(async move { end.await.unwrap_or(Ok(0)).map(drop).map_err(|errno| unknown(errno.into())) })
}

/// Stops the daemon, or what a killed one left behind. One that holds the folder's lock without answering is about to
/// listen, or about to end: that is waited for.
pub async fn stop_or_clean_up(project: &Project) -> Result<&'static str, Failure> {
    let deadline = Instant::now() + OTHER_DAEMON_MAX;
    loop {
        match stop(project).await {
            Ok(()) => return Ok("stopped"),
            Err(Error::NotRunning { .. } | Error::Broken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match clean_up(project).await {
            Err(project::Error::Locked) if Instant::now() < deadline => {
                tokio::time::sleep(OTHER_DAEMON_INTERVAL).await;
            }
            // It neither listens nor ends.
            Err(project::Error::Locked) => return Err(Error::silent(project).into()),
            done => return Ok(done?),
        }
    }
}

async fn clean_up(project: &Project) -> Result<&'static str, project::Error> {
    if !project.state.exists() {
        return Ok("was not running");
    }
    let _lock = project.lock()?;
    let stopped = supervisor::stop_all(supervisor::adopt(&project.run()).await).await;
    let data_planes = proxy::plane::stop(&project.run(), DRAIN_MAX).await;
    // Nothing of what it tells is left, and nobody listens: the lock is ours.
    project.remove_record();
    project.remove_switches();
    let _ = fs::remove_file(project.socket());
    Ok(match stopped.len() + data_planes {
        0 => "was not running",
        _ => "the daemon was gone; stopped what it had left",
    })
}

fn delete_data(project: &Project) -> Result<(), Failure> {
    let _lock = match project.state.exists() {
        true => project.lock()?,
        false => return Ok(()),
    };
    match fs::remove_dir_all(project.data()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::new(format!("cannot delete {}", project.data().display())).because(error))
        }
        _ => Ok(()),
    }
}
