//! `atoll up`: builds and starts the application, shows how it goes, and stays with it unless told otherwise.

mod launch;
mod progress;
mod watch;

use std::time::Duration;

use clap::Args;
use manifest::Plan;

use crate::api::client::Client;
use crate::api::dto::{Selection, Status};
use crate::cli::target::Words;
use crate::cli::{Failure, block_on, down};
use crate::project::Project;
use watch::{Goal, Outcome, Watch};

#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    words: Words,
    /// Return once everything was started, and leave it running
    #[arg(short, long)]
    detach: bool,
    /// With --detach: return once everything is ready; exit code 3 if that fails
    #[arg(long, requires = "detach")]
    wait: bool,
    /// With --wait: how many seconds at most, builds included
    #[arg(long, requires = "wait", value_name = "SECONDS", default_value = "600")]
    wait_timeout: u64,
}

impl Up {
    pub fn run(self) -> anyhow::Result<()> {
        let target = self.words.target()?;
        let plan = target.plan()?;
        let goal = match (self.detach, self.wait) {
            (false, _) => Goal::Stay,
            (true, false) => Goal::Started,
            (true, true) => Goal::Ready(Duration::from_secs(self.wait_timeout)),
        };
        block_on(up(&target.project, &plan, target.services, goal))?
    }
}

async fn up(project: &Project, plan: &Plan, services: Vec<String>, goal: Goal) -> anyhow::Result<()> {
    let client = Client::new(project);
    let mut interrupt = watch::Interrupt::new()?;
    let launched = launch::ensure_daemon(project, &client).await?;
    let status: Status = client.get("/v1/status").await.map_err(Failure::from)?;
    let mut watch = Watch::open(&client, &plan.name, &services, &status.gateway).await.map_err(Failure::from)?;
    // A daemon that was started just now has compiled the same files.
    let plan = (!launched).then(|| plan.to_toml());
    if let Err(error) = client.post("/v1/start", &Selection { services, wait: false, plan }).await {
        if launched {
            // Nobody else knows of this daemon; it must not stay behind with nothing to run.
            let _ = down::stop(project).await;
        }
        return Err(Failure::from(error).into());
    }
    match watch.follow(goal, &mut interrupt).await? {
        Outcome::Reached => Ok(()),
        Outcome::Interrupted => watch.drain(project, &mut interrupt).await,
        Outcome::DaemonGone => Err(Failure::not_reached("the daemon has ended").into()),
        Outcome::Failed { what, output } => {
            let hint = "`atoll ps` shows the state, `atoll logs` what the services wrote".to_owned();
            Err(Failure::not_reached(what).output(output).hint(hint).into())
        }
    }
}
