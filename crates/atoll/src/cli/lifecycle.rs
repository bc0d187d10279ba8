//! `atoll start`, `stop` and `restart`.

use std::io::Write;

use clap::Args;

use crate::api::client::Client;
use crate::api::dto::{Instance, Selection};
use crate::cli::output::{self, Format};
use crate::cli::target::Words;
use crate::cli::{Context, Failure, block_on};

#[derive(Debug, Args)]
pub struct Services {
    #[command(flatten)]
    words: Words,
}

#[derive(Clone, Copy, Debug)]
pub enum Verb {
    Start,
    Stop,
    Restart,
}

impl Services {
    pub fn run(self, context: &Context, verb: Verb) -> anyhow::Result<()> {
        let target = self.words.target()?;
        let (path, done) = match verb {
            Verb::Start => ("/v1/start", "started"),
            Verb::Stop => ("/v1/stop", "stopped"),
            Verb::Restart => ("/v1/restart", "restarted"),
        };
        let selection = Selection { services: target.services, wait: true, as_built: false };
        let what = if selection.services.is_empty() { "all services".into() } else { selection.services.join(", ") };
        let client = Client::new(&target.project);
        block_on(client.post(path, &selection))?.map_err(Failure::from)?;
        match context.format {
            Format::Table => Ok(writeln!(anstream::stderr(), "{done} {what}")?),
            Format::Json => {
                let mut instances = block_on(client.get::<Vec<Instance>>("/v1/instances"))?.map_err(Failure::from)?;
                let chosen = &selection.services;
                instances.retain(|instance| chosen.is_empty() || chosen.contains(&instance.service));
                output::json(&instances)
            }
        }
    }
}
