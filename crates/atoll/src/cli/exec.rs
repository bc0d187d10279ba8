//! `atoll exec`: any command with the environment of an instance, in its folder, on this terminal.

use std::ffi::OsString;

use clap::Args;

use crate::api::dto::{ProgramQuery, Subject};
use crate::cli::target::Place;
use crate::cli::{program, subject};

/// The command gets exactly what the instance was given: HOST, PORT, the URLs of its upstreams, its databases, its own
/// environment, its working directory. Its exit code is passed on. Nothing in its words is expanded: a shell does that,
/// as in the second example.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  atoll exec orders -- env\n  atoll exec orders.1 -- sh -c 'curl $CATALOG_URL/items'"
)]
pub struct Exec {
    /// The service whose first instance is meant, or one instance of it
    #[arg(value_name = "SERVICE[.INDEX]", value_parser = subject::parse)]
    subject: Subject,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
    #[command(flatten)]
    place: Place,
}

impl Exec {
    pub fn run(self) -> anyhow::Result<()> {
        let target = self.place.target(&[])?;
        let query = ProgramQuery { instance: self.subject.instance, one_off: None };
        let program = program::find(&target, &self.subject.service, &query)?;
        Err(program::become_command(&self.command, &program).into())
    }
}
