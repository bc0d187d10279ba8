//! `atoll daemon`: the process behind an application. `run` is how `up` starts it.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use crate::api::client::{Client, Error};
use crate::api::dto::Status;
use crate::cli::output::{self, Format};
use crate::cli::target::Folder;
use crate::cli::{Context, Failure, block_on, down};
use crate::processes;
use crate::project::Project;

#[derive(Debug, Subcommand)]
pub enum Daemon {
    /// Show its pid, version, age and memory; exit code 3 when it is not running
    Status {
        #[command(flatten)]
        folder: Folder,
    },
    /// Stop it and everything that it runs, as `atoll down` does
    Stop {
        #[command(flatten)]
        folder: Folder,
        /// Stop the daemon alone: services go on, and the next `atoll up` takes them over
        #[arg(long)]
        keep: bool,
    },
    /// Run it in the foreground; `up` does so in the background
    #[command(hide = true)]
    Run {
        /// The root manifest
        #[arg(long)]
        manifest: PathBuf,
    },
}

/// What `status` shows.
#[derive(Debug, Serialize)]
struct Shown {
    pid: u32,
    version: String,
    /// In seconds.
    uptime: f64,
    application: String,
    manifest: String,
    gateway: String,
    dashboard: Option<String>,
    broker: Option<String>,
    started_at: jiff::Timestamp,
    memory_bytes: Option<u64>,
}

impl Daemon {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Status { folder } => status(&folder.target()?.project, context.format),
            Self::Stop { folder, keep } => {
                let project = folder.target()?.project;
                let said = match keep {
                    true => block_on(leave(&project))??,
                    false => block_on(down::stop_or_clean_up(&project))??,
                };
                match context.format {
                    Format::Table => Ok(writeln!(anstream::stderr(), "{said}")?),
                    Format::Json => output::json(&serde_json::json!({ "result": said, "services_kept": keep })),
                }
            }
            Self::Run { manifest } => crate::daemon::main(&manifest),
        }
    }
}

fn status(project: &Project, format: Format) -> anyhow::Result<()> {
    let status: Status = block_on(Client::new(project).get("/v1/status"))?.map_err(Failure::from)?;
    let shown = Shown {
        memory_bytes: i32::try_from(status.pid).ok().and_then(processes::memory_bytes),
        pid: status.pid,
        version: status.version,
        uptime: status.uptime_seconds,
        application: status.application,
        manifest: status.manifest,
        gateway: status.gateway,
        dashboard: status.dashboard,
        broker: status.broker,
        started_at: status.started_at,
    };
    if format == Format::Json {
        return output::json(&shown);
    }
    let memory = shown.memory_bytes.map_or_else(|| "-".to_owned(), output::bytes_shown);
    let unknown = "-".to_owned();
    for (key, value) in [
        ("application", &shown.application),
        ("pid", &shown.pid.to_string()),
        ("version", &shown.version),
        ("uptime", &output::age(shown.uptime)),
        ("manifest", &shown.manifest),
        ("gateway", &shown.gateway),
        ("dashboard", shown.dashboard.as_ref().unwrap_or(&unknown)),
        ("broker", shown.broker.as_ref().unwrap_or(&unknown)),
        ("memory", &memory),
    ] {
        output::line(&format!("{key:12}  {value}"))?;
    }
    Ok(())
}

/// Ends the daemon and nothing else.
async fn leave(project: &Project) -> Result<&'static str, Failure> {
    match down::end(project, "/v1/leave").await {
        Ok(()) => Ok("the daemon has stopped; its services go on, and the next `atoll up` takes them over"),
        Err(Error::NotRunning { .. }) => Ok("was not running"),
        Err(error) => Err(error.into()),
    }
}
