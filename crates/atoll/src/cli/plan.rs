//! `atoll plan`: what the manifest means, with everything chosen.

use clap::Args;

use crate::cli::Context;
use crate::cli::output::{self, Format};
use crate::cli::target::Folder;

#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    folder: Folder,
}

impl Plan {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let plan = self.folder.target()?.plan()?;
        match context.format {
            Format::Table => output::bytes(plan.to_toml().as_bytes()),
            Format::Json => output::json(&plan),
        }
    }
}
