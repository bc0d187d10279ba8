//! Builds, starts, probes, restarts and stops instances, writes their readiness to the registry and captures their logs.
//! [`reconcile`] decides, the loop in `engine` acts, a life per process touches it through the [`shim`] beside it, which
//! the daemon after this one adopts. The daemon binds and runs it; it knows no manifest, no database and no proxy.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

mod adopt;
mod builds;
mod cgroup;
mod change;
mod config;
mod engine;
mod environment;
mod event;
mod handle;
mod life;
mod link;
pub mod logs;
mod probe;
mod process;
mod procfs;
mod program;
pub mod reconcile;
mod remains;
pub mod shim;
mod standing;
mod status;

pub use adopt::{Adopted, Stopped, adopt, left_running, stop_all};
pub use change::{Change, Effect};
pub use config::{
    Build, Check, Condition, Config, Drain, Instance, Limits, Preparation, Prepare, Probe, Probes, RESTART_BACKOFF,
    Restart, STABLE_AFTER, Service, Shim, Strategy, Update,
};
pub use environment::{Environment, LIFE, PASSED, PASSED_PREFIX, RUN, complete, expand, passed};
pub use event::{Event, Kind};
pub use handle::{Handle, Refused};
pub use procfs::{holder as port_holder, listening_ports};
pub use program::{Error as ProgramError, find as find_program};
pub use reconcile::{Course, reconcile};
pub use standing::{Before, Failure, Outcome, Standing};
pub use status::{BuildStatus, Exit, InstanceState, InstanceStatus, ServiceStatus, Snapshot, Wanted};

/// Limit: lines a slow follower may fall behind before it is told `Lagged` and misses the oldest.
const FOLLOWERS_BEHIND_MAX: usize = 1024;

/// What cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{service}` is no name for a service: letters, digits, `-` and `_` make one")]
    Name { service: String },
    #[error("service `{service}` has an empty command")]
    NoCommand { service: String },
    #[error("service `{service}` stops on signal {signal}, which has no name")]
    StopSignal { service: String, signal: i32 },
    #[error("service `{service}` has two instances with the same index")]
    Instances { service: String },
    #[error("{signal} is no signal that has a name")]
    Signal { signal: i32 },
    #[error("service `{service}` is declared twice")]
    Twice { service: String },
    #[error("there is no service `{service}`")]
    UnknownService { service: String },
    #[error("services depend on each other in a circle: {}", services.join(", "))]
    Cycle { services: Vec<String> },
    #[error("cannot make the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("the supervisor has stopped")]
    Stopped,
}

/// A supervisor that is ready to run.
#[derive(Debug)]
pub struct Bound {
    engine: engine::Engine,
    inbox: engine::Inbox,
    handle: Handle,
}

/// Checks the configuration, makes the folders, and takes over what a former daemon left: from here on it is in the
/// snapshot and in the registry. Starts no process. Blocking; called within a runtime.
///
/// # Errors
/// A configuration that could not run, or a folder that cannot be made.
pub fn bind(mut config: Config) -> Result<Bound, Error> {
    config::check(&config.services)?;
    for path in [&config.log_dir, &config.run_dir] {
        std::fs::create_dir_all(path).map_err(|source| Error::Folder { path: path.to_owned(), source })?;
    }
    let (commands, obeyed) = mpsc::channel(handle::COMMANDS_MAX);
    let events = event::Events::default();
    config.adopted.tell(&events);
    let lines = broadcast::Sender::new(FOLLOWERS_BEHIND_MAX);
    let published = watch::Sender::new(Arc::default());
    let leave = CancellationToken::new();
    let handle = Handle {
        commands,
        snapshot: published.subscribe(),
        events: events.clone(),
        lines: lines.clone(),
        leave: leave.clone(),
    };
    let (engine, inbox) = engine::Engine::new(config, engine::Outward { events, lines, published, leave }, obeyed);
    Ok(Bound { engine, inbox, handle })
}

impl Bound {
    /// The way in. Commands sent before [`Bound::run`] wait for it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs what it is asked to until the drain; returns when everything is stopped, dependents before what they depend
    /// on. Or until [`Handle::leave`], and then instances go on. No service is started before [`Handle::start`] asks for
    /// it, but those of which an instance was taken over.
    ///
    /// # Errors
    /// None today; an instance's troubles are its status.
    pub async fn run(self, readiness: kit::readiness::Token, drain: kit::drain::Watch) -> Result<(), Error> {
        let Self { engine, inbox, handle } = self;
        // Only those outside keep the loop's way in open.
        drop(handle);
        readiness.ready();
        engine.run(inbox, drain).await;
        Ok(())
    }
}
