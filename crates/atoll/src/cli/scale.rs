//! `atoll scale`: another number of instances, until the manifest's own number changes.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;

use crate::api::client::Client;
use crate::api::dto::{Change, Instance, Scale as Wish, Selection};
use crate::cli::output::{self, Format};
use crate::cli::target::Words;
use crate::cli::{Context, Failure, block_on};

/// As in the manifest.
const REPLICAS_MAX: u32 = 100;

#[derive(Debug, Args)]
pub struct Scale {
    #[command(flatten)]
    words: Words,
    /// Return at once, and not when the instances are ready
    #[arg(long)]
    no_wait: bool,
}

impl Scale {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = self.words.target()?;
        let replicas = target.services.iter().map(|word| parse(word)).collect::<Result<BTreeMap<_, _>, _>>()?;
        if replicas.is_empty() {
            return Err(Failure::new("nothing is to be scaled")
                .hint("write `atoll scale catalog=3`".to_owned())
                .into());
        }
        let client = Client::new(&target.project);
        let services: Vec<String> = replicas.keys().cloned().collect();
        let changes: Vec<Change> =
            block_on(client.ask("/v1/scale", &Wish { replicas: replicas.clone() }))?.map_err(Failure::from)?;
        if context.format == Format::Table {
            for change in &changes {
                writeln!(anstream::stderr(), "{change}")?;
            }
        }
        if !self.no_wait {
            let running = replicas.iter().filter(|(_, count)| **count > 0).map(|(name, _)| name.clone()).collect();
            let selection = Selection { services: running, wait: true, ..Selection::default() };
            if !selection.services.is_empty() {
                block_on(client.post("/v1/start", &selection))?.map_err(Failure::from)?;
            }
        }
        match context.format {
            Format::Table => {
                let scaled: Vec<String> = replicas.iter().map(|(name, count)| format!("{name} to {count}")).collect();
                Ok(writeln!(anstream::stderr(), "scaled {}", scaled.join(", "))?)
            }
            Format::Json => {
                let mut instances = block_on(client.get::<Vec<Instance>>("/v1/instances"))?.map_err(Failure::from)?;
                instances.retain(|instance| services.contains(&instance.service));
                output::json(&instances)
            }
        }
    }
}

fn parse(word: &str) -> Result<(String, u32), Failure> {
    let wrong = || {
        Failure::new(format!("`{word}` does not say how many instances of what"))
            .hint(format!("write SERVICE=NUMBER with 0 to {REPLICAS_MAX}, as in `catalog=3`"))
    };
    let (service, count) = word.split_once('=').ok_or_else(wrong)?;
    let count = count.parse().ok().filter(|count| *count <= REPLICAS_MAX).ok_or_else(wrong)?;
    Ok((service.to_owned(), count))
}
