//! `atoll ps`: every instance and how it is.

use std::collections::BTreeSet;

use clap::Args;
use jiff::Timestamp;

use crate::api::client::Client;
use crate::api::dto::{Instance, Status};
use crate::cli::output::{self, Format};
use crate::cli::target::Words;
use crate::cli::{Context, Failure, block_on};

#[derive(Debug, Args)]
pub struct Ps {
    #[command(flatten)]
    words: Words,
}

impl Ps {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = self.words.target()?;
        let client = Client::new(&target.project);
        let asked = block_on(client.get::<Vec<Instance>>("/v1/instances"))?;
        if asked.is_err() && context.format == Format::Json {
            // Nothing runs: that is an empty list as well as an exit code.
            output::json::<Vec<Instance>>(&Vec::new())?;
        }
        let mut instances = asked.map_err(Failure::from)?;
        let names: BTreeSet<String> = instances.iter().map(|instance| instance.service.clone()).collect();
        target.check_names(names.iter())?;
        instances.retain(|instance| target.services.is_empty() || target.services.contains(&instance.service));
        match context.format {
            Format::Json => output::json(&instances),
            Format::Table => {
                print_table(&instances)?;
                if target.services.is_empty() { print_broker(&client) } else { Ok(()) }
            }
        }
    }
}

/// Where the broker is. It is no instance, and no element of the list that programs read.
fn print_broker(client: &Client) -> anyhow::Result<()> {
    let status: Status = block_on(client.get("/v1/status"))?.map_err(Failure::from)?;
    status.broker.map_or(Ok(()), |broker| output::line(&format!("\nbroker  {broker}")))
}

fn print_table(instances: &[Instance]) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let rows = instances.iter().map(|instance| {
        let age = instance.started_at.map(|start| output::age(now.duration_since(start).as_secs_f64()));
        vec![
            format!("{}.{}", instance.service, instance.instance),
            instance.state.clone(),
            if instance.ready { "yes" } else { "no" }.to_owned(),
            instance.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            instance.port.to_string(),
            instance.restarts.to_string(),
            age.unwrap_or_else(|| "-".to_owned()),
            instance.reason.clone().unwrap_or_default(),
        ]
    });
    output::table(&["instance", "state", "ready", "pid", "port", "restarts", "age", "reason"], rows)?;
    for instance in instances.iter().filter(|instance| !instance.last_lines.is_empty()) {
        output::line(&format!("\nlast lines of {}.{}:", instance.service, instance.instance))?;
        for line in &instance.last_lines {
            output::line(&format!("  {}", output::printable(line)))?;
        }
    }
    Ok(())
}
