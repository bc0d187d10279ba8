//! What `exec` and `run` have in common: learn what a copy of a service is started with, and become that process.
//! The environment may hold secrets: it goes from the daemon's socket into the process, and is never printed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::api::client::{Client, Error};
use crate::api::dto::{Program, ProgramQuery};
use crate::cli::target::Target;
use crate::cli::{Failure, block_on};
use crate::lower;
use crate::project::Credentials;

/// What the terminal says of itself: given to a program that has one, where the service does not declare it.
const TERMINAL: [&str; 2] = ["TERM", "COLORTERM"];

/// Asks the daemon; without one, compiles the manifest and says that nothing runs.
pub fn find(target: &Target, service: &str, query: &ProgramQuery) -> Result<Program, Failure> {
    let mut path = format!("/v1/services/{service}/program");
    match (query.instance, query.one_off) {
        (Some(instance), _) => path.push_str(&format!("?instance={instance}")),
        (None, Some(port)) => path.push_str(&format!("?one_off={port}")),
        (None, None) => {}
    }
    let asked = block_on(Client::new(&target.project).get::<Program>(&path));
    match asked.map_err(|error| Failure::new(error.to_string()))? {
        Ok(program) => return Ok(program),
        Err(Error::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let plan = target.plan()?;
    // Only said: what needs no other service works all the same.
    let _ = writeln!(
        anstream::stderr(),
        "atoll is not running: the environment is that of the manifest, and nobody answers at its addresses"
    );
    let credentials = Credentials::load(&target.project);
    lower::program(&plan, service, query.which(), &credentials, std::env::vars_os()).ok_or_else(|| {
        let known: Vec<&str> = plan.services.keys().map(String::as_str).collect();
        let index = query.instance.map(|index| format!(".{index}")).unwrap_or_default();
        let failure = Failure::new(format!("there is no `{service}{index}` in this application"));
        failure.hint(format!("its services are {}", known.join(", ")))
    })
}

/// Replaces this process by the command: terminal, signals and exit code are then its own. Returns only what went wrong.
pub fn become_command(words: &[OsString], program: &Program) -> Failure {
    let Some((name, arguments)) = words.split_first() else {
        return Failure::new("the command is empty");
    };
    if !program.working_dir.is_dir() {
        return Failure::new(format!("its working_dir {} is no directory", program.working_dir.display()));
    }
    let environment = with_terminal(&program.environment);
    let path = environment.get("PATH").map(OsStr::new);
    let found = match supervisor::find_program(&name.to_string_lossy(), &program.working_dir, path) {
        Ok(found) => found,
        Err(error) => return Failure::new(error.to_string()),
    };
    let mut command = Command::new(&found);
    command.arg0(name).args(arguments).current_dir(&program.working_dir).env_clear().envs(&environment);
    let error = command.exec();
    Failure::new(format!("cannot run `{}`", found.display())).because(error)
}

fn with_terminal(declared: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut environment = declared.clone();
    if std::io::stdout().is_terminal() {
        for name in TERMINAL {
            if let (false, Ok(value)) = (environment.contains_key(name), std::env::var(name)) {
                environment.insert(name.to_owned(), value);
            }
        }
    }
    environment
}
