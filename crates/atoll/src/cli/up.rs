//! `atoll up`: builds and starts the application, shows how it goes, and stays with it unless told otherwise.

mod files;
mod launch;
mod progress;
mod watch;

use std::collections::HashSet;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use manifest::Plan;

use crate::api::client::{self, Client};
use crate::api::dto::{Apply, Broker, Change, Instance, Selection, Status};
use crate::cli::output::{self, Format};
use crate::cli::target::{Target, Words};
use crate::cli::{Context, Failure, block_on, down};
use crate::project;
use files::Files;
use launch::Launched;
pub use launch::{OTHER_DAEMON_INTERVAL, OTHER_DAEMON_MAX};
use watch::{Goal, Outcome, Watch};

#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    words: Words,
    /// Return once everything was started, and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Rebuild or restart a service when a file changes that its `watch` names
    #[arg(long, conflicts_with = "detach")]
    watch: bool,
    /// With --detach: return once everything is ready; exit code 3 if that fails
    #[arg(long, requires = "detach")]
    wait: bool,
    /// With --wait: how many seconds at most, builds included
    #[arg(long, requires = "wait", value_name = "SECONDS", default_value = "600")]
    wait_timeout: u64,
}

impl Up {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = self.words.target()?;
        let plan = target.plan()?;
        let goal = match (self.detach, self.wait) {
            (false, _) => Goal::Stay,
            (true, false) => Goal::Started,
            (true, true) => Goal::Ready(Duration::from_secs(self.wait_timeout)),
        };
        let files = self.watch.then(|| Files::watch(&plan)).transpose()?;
        block_on(up(&target, &plan, goal, files, context.format))?
    }
}

async fn up(target: &Target, plan: &Plan, goal: Goal, files: Option<Files>, format: Format) -> anyhow::Result<()> {
    let project = &target.project;
    let client = Client::new(project);
    let mut interrupt = watch::Interrupt::new()?;
    let Some((launched, changes)) = launch::ensure_daemon(project, &client, &mut interrupt).await? else {
        return interrupted(goal);
    };
    let status: Status = client.get("/v1/status").await.map_err(Failure::from)?;
    let asked = with_dependencies(plan, &target.services);
    let mut watch = Watch::open(&client, asked, &status, launched, format).await.map_err(Failure::from)?;
    changes.iter().for_each(|change| watch.say(&change.to_string()));
    if let Err(error) = go_over(&client, &target.services, launched, &watch).await {
        if launched == Launched::Here {
            // Nobody else knows of this daemon; it must not stay behind with nothing to run. What it has taken over goes on.
            let instances = client.get::<Vec<Instance>>("/v1/instances").await.unwrap_or_default();
            let order = if instances.iter().any(|i| i.pid.is_some()) { "/v1/leave" } else { "/v1/down" };
            let _ = down::end(project, order).await;
        }
        return Err(Failure::from(error).into());
    }
    watch.look_again().await.map_err(Failure::from)?;
    if let Some(files) = &files {
        watch.say(&format!("watching the files of {}", files.services().join(", ")));
    }
    match (watch.follow(goal, files, &mut interrupt).await?, launched) {
        (Outcome::Reached, _) if matches!(goal, Goal::Ready(_)) && plan.broker.is_some() => {
            let broker: Broker = client
                .get("/v1/broker")
                .await
                .map_err(|error| Failure::not_reached(format!("the broker does not run: {}", kit::Chain(&error))))?;
            if let Some(stream) = broker.streams.iter().find(|stream| stream.refused.is_some()) {
                let what = format!("the stream {} is not as the manifest wants it", stream.name);
                return Err(Failure::not_reached(what).hint("`atoll doctor` says why".to_owned()).into());
            }
            finished(&client, format).await
        }
        (Outcome::Reached, _) => finished(&client, format).await,
        (Outcome::Interrupted, Launched::Here) => watch.drain(project, &mut interrupt).await,
        (Outcome::Interrupted, Launched::Elsewhere) => watch.detach(goal),
        (Outcome::DaemonGone, _) => Err(Failure::not_reached("the daemon has ended").into()),
        (Outcome::Failed { what, output, outlook }, _) => {
            let hint = format!(
                "{outlook}: `atoll ps` shows the state, `atoll logs` what the services wrote, `atoll down` stops everything"
            );
            Err(Failure::not_reached(what).output(output).hint(hint).into())
        }
    }
}

async fn finished(client: &Client, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Table => Ok(()),
        Format::Json => output::json(&client.get::<Vec<Instance>>("/v1/instances").await.map_err(Failure::from)?),
    }
}

/// There was no daemon yet that could have done anything.
fn interrupted(goal: Goal) -> anyhow::Result<()> {
    let what = "interrupted before the daemon was up";
    match goal {
        Goal::Stay => Ok(writeln!(anstream::stderr(), "{what}")?),
        Goal::Started | Goal::Ready(_) => Err(Failure::not_reached(what).into()),
    }
}

/// Has the daemon take over the manifest as it is now, says what that changes, and starts what was asked for.
async fn go_over(client: &Client, services: &[String], launched: Launched, watch: &Watch) -> Result<(), client::Error> {
    // A daemon that was started just now has compiled the same files.
    if launched == Launched::Elsewhere {
        let wish = Apply { environment: Some(project::process()), services: services.to_vec() };
        for change in client.ask::<_, Vec<Change>>("/v1/apply", &wish).await? {
            watch.say(&change.to_string());
        }
    }
    client.post("/v1/start", &Selection { services: services.to_vec(), ..Selection::default() }).await
}

/// The named services, or all, with everything that they depend on.
fn with_dependencies(plan: &Plan, named: &[String]) -> HashSet<String> {
    let mut open: Vec<&String> = if named.is_empty() { plan.services.keys().collect() } else { named.iter().collect() };
    let mut all = HashSet::new();
    while let Some(name) = open.pop() {
        if all.insert(name.clone()) {
            open.extend(plan.services.get(name).iter().flat_map(|service| service.depends_on.keys()));
        }
    }
    all
}
