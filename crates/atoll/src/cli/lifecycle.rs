//! `atoll start`, `stop` and `restart`.

use std::io::Write;

use clap::Args;

use crate::api::client::Client;
use crate::api::dto::Selection;
use crate::cli::target::Words;
use crate::cli::{Failure, block_on};

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
    pub fn run(self, verb: Verb) -> anyhow::Result<()> {
        let target = self.words.target()?;
        let (path, done) = match verb {
            Verb::Start => ("/v1/start", "started"),
            Verb::Stop => ("/v1/stop", "stopped"),
            Verb::Restart => ("/v1/restart", "restarted"),
        };
        let selection = Selection { services: target.services, wait: true, plan: None };
        let what = if selection.services.is_empty() { "all services".into() } else { selection.services.join(", ") };
        block_on(Client::new(&target.project).post(path, &selection))?.map_err(Failure::from)?;
        writeln!(anstream::stderr(), "{done} {what}")?;
        Ok(())
    }
}
