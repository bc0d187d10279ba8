//! `atoll run`: one more copy of a service in the foreground, beside the instances and out of rotation.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, TcpListener};

use clap::Args;
use kit::Chain;

use crate::api::dto::{Program, ProgramQuery, Subject};
use crate::cli::target::Place;
use crate::cli::{Failure, block_on, program, subject};
use crate::project::Project;

/// The copy has the service's environment, a free port of its own as PORT, this terminal, and its databases prepared. It
/// gets no requests through the gateway, is not restarted, and ends with Ctrl-C. Its exit code is passed on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll run orders\n  atoll run orders -- python3 manage.py import items.csv")]
pub struct Run {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = subject::parse)]
    subject: Subject,
    /// Another command instead of the service's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
    #[command(flatten)]
    place: Place,
}

impl Run {
    pub fn run(self) -> anyhow::Result<()> {
        if self.subject.instance.is_some() {
            let hint = format!("name the service alone, as in `atoll run {}`", self.subject.service);
            return Err(Failure::new("a one-off is a further copy, and no instance").hint(hint).into());
        }
        let target = self.place.target(&[])?;
        let query = ProgramQuery { instance: None, one_off: Some(free_port()?) };
        let program = program::find(&target, &self.subject.service, &query)?;
        prepare(&target.project, &program)?;
        let words = if self.command.is_empty() { own_command(&program) } else { self.command };
        Err(program::become_command(&words, &program).into())
    }
}

/// A port of the kernel's ephemeral range, where no instance and no edge ever listens.
fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| Failure::new("there is no free port").because(error))
}

/// The service's command, with what its environment says in place of `${NAME}`.
fn own_command(program: &Program) -> Vec<OsString> {
    let environment: supervisor::Environment =
        program.environment.iter().map(|(name, value)| (OsStr::new(name).into(), OsStr::new(value).into())).collect();
    program.command.iter().map(|word| supervisor::expand(word, &environment).into()).collect()
}

/// Applies pending migrations. A daemon that does the same at this moment is waited for.
fn prepare(project: &Project, program: &Program) -> Result<(), Failure> {
    if program.databases.is_empty() {
        return Ok(());
    }
    // The folder of the databases is private to this user whoever makes it first.
    project.make_folders()?;
    for file in &program.databases {
        let database = database::Database {
            name: file.name.clone(),
            path: file.path.clone(),
            migrations: file.migrations.clone(),
        };
        let prepared = block_on(database::prepare(&database)).map_err(|error| Failure::new(error.to_string()))?;
        prepared.map_err(|error| {
            let failure = Failure::new(format!("database {}: {}", file.name, Chain(&error)));
            failure.hint(error.hint())
        })?;
    }
    Ok(())
}
