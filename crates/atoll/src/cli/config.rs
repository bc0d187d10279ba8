//! `atoll config schema`: what an editor needs to complete and check a manifest.

use clap::Subcommand;

use crate::cli::output;

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print the JSON Schema of the manifest, for editors
    Schema,
}

impl Config {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Schema => output::json(&manifest::schema()),
        }
    }
}
