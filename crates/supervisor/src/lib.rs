//! Builds, starts, probes, restarts and stops instances, writes their readiness to the registry and captures their logs.
//! [`reconcile`] decides, the loop in `engine` acts, a life per process touches it. The daemon binds and runs it; it
//! knows no manifest, no database and no proxy.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, watch};

mod builds;
mod config;
mod engine;
mod environment;
mod event;
mod handle;
mod leftovers;
mod life;
pub mod logs;
mod probe;
mod process;
mod procfs;
mod program;
pub mod reconcile;
mod status;

pub use config::{
    Build, Check, Condition, Config, Drain, Instance, Preparation, Prepare, Probe, Probes, RESTART_BACKOFF, Restart,
    STABLE_AFTER, Service,
};
pub use environment::{PASSED, PASSED_PREFIX, RUN};
pub use event::{Event, Kind};
pub use handle::Handle;
pub use leftovers::{Stopped, stop_leftovers};
pub use procfs::{holder as port_holder, listening_ports};
pub use program::{Error as ProgramError, find as find_program};
pub use reconcile::reconcile;
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

/// Checks the configuration, makes the folders and tells what a former daemon left. Starts no process. Blocking.
///
/// # Errors
/// A configuration that could not run, or a folder that cannot be made.
pub fn bind(mut config: Config) -> Result<Bound, Error> {
    config::check(&config)?;
    for path in [Some(config.log_dir.as_path()), config.state_file.parent()].into_iter().flatten() {
        std::fs::create_dir_all(path).map_err(|source| Error::Folder { path: path.to_owned(), source })?;
    }
    let (commands, obeyed) = mpsc::channel(handle::COMMANDS_MAX);
    let events = event::Events::default();
    std::mem::take(&mut config.leftovers).tell(&events);
    let lines = broadcast::Sender::new(FOLLOWERS_BEHIND_MAX);
    let published = watch::Sender::new(Arc::default());
    let handle = Handle { commands, snapshot: published.subscribe(), events: events.clone(), lines: lines.clone() };
    let (engine, inbox) = engine::Engine::new(config, engine::Outward { events, lines, published }, obeyed);
    Ok(Bound { engine, inbox, handle })
}

impl Bound {
    /// The way in. Commands sent before [`Bound::run`] wait for it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs what it is asked to until the drain; returns when everything is stopped, dependents before what they depend
    /// on. No service is started before [`Handle::start`] asks for it.
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
