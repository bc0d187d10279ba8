//! `atoll down`: stops everything in order and waits until nothing is left.

use std::fs;
use std::io::{self, Write};

use clap::Args;

use crate::api::client::{Client, Error};
use crate::cli::target::Folder;
use crate::cli::{Failure, block_on};
use crate::project::Project;

#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    folder: Folder,
    /// Delete its databases too
    #[arg(short = 'v', long)]
    volumes: bool,
}

impl Down {
    pub fn run(self) -> anyhow::Result<()> {
        let project = self.folder.target()?.project;
        let said = match block_on(stop(&project))? {
            Ok(()) => "stopped",
            Err(Error::NotRunning { .. }) => clean_up(&project)?,
            Err(error) => return Err(Failure::from(error).into()),
        };
        writeln!(anstream::stderr(), "{said}")?;
        if self.volumes {
            delete_data(&project)?;
            writeln!(anstream::stderr(), "deleted the databases")?;
        }
        Ok(())
    }
}

/// Asks the daemon to stop everything, and returns when it is gone.
pub async fn stop(project: &Project) -> Result<(), Error> {
    Client::new(project).post("/v1/down", &()).await?;
    let project = project.clone();
    let gone = tokio::task::spawn_blocking(move || project.wait_unlocked()).await;
    gone.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(|source| Error::Connect { source })
}

/// Ends what a killed daemon left behind.
fn clean_up(project: &Project) -> Result<&'static str, Failure> {
    if !project.state.exists() {
        return Ok("was not running");
    }
    let _lock = project.lock()?;
    let stopped = block_on(supervisor::stop_leftovers(&project.instances_file()))
        .map_err(|error| Failure::new("cannot stop what a killed daemon left").because(error))?;
    Ok(match stopped.processes.len() {
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
