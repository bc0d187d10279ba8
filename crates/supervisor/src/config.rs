//! What the supervisor is told to run: plain data, complete, made by `atoll::lower`. Nothing here is chosen by default.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kit::backoff::Backoff;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{Adopted, Before, Error, logs};

/// The delays before a restart, for [`Config::backoff`].
pub const RESTART_BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(30) };

/// A life of this length ends a series of failures, for [`Config::stable_after`].
pub const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Everything that the supervisor needs.
#[derive(Debug)]
pub struct Config {
    pub services: Vec<Service>,
    /// Folder of the instances' and builds' logs; made when it is absent.
    pub log_dir: PathBuf,
    /// Where each instance has a folder, for the daemon after this one; made when it is absent.
    pub run_dir: PathBuf,
    /// What [`crate::adopt`] found there: told as the first events, and taken over.
    pub adopted: Adopted,
    /// What the supervisor that left that knew of it.
    pub before: Before,
    /// How the process beside each instance is started.
    pub shim: Shim,
    /// Where readiness is written.
    pub registry: registry::Handle,
    /// Asked before the first start of a service with [`Preparation::Required`].
    pub prepare: mpsc::Sender<Prepare>,
    /// Asked before the stop signal of an instance that may have requests in flight.
    pub drain: mpsc::Sender<Drain>,
    pub log: logs::Limits,
    /// Delays between the restarts of an instance that keeps ending.
    pub backoff: Backoff,
    /// An instance that lived this long starts its series of restarts anew.
    pub stable_after: Duration,
    /// How many builds run at the same time, at least 1.
    pub builds_max: usize,
    /// The soft limit of open files (RLIMIT_NOFILE) that processes are given; `None`: that of this process. For a daemon
    /// that has raised its own: programs that use select(2) or close every possible descriptor break under a high one.
    pub open_files_soft: Option<u64>,
}

/// The program that is a shim when it is given [`crate::shim::WORD`] and the name of an instance. Its `main` asks [`crate::shim::is_asked`] before it does anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shim {
    /// Absolute. `/proc/self/exe` is the same version as this process, also once its file was replaced.
    pub program: PathBuf,
    /// The name that it is shown by.
    pub name: String,
}

/// A declared unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: String,
    /// Services with an equal build share one run of it.
    pub build: Option<Build>,
    /// Words, never given to a shell. `${NAME}` expands from the instance's environment when it starts.
    pub command: Vec<String>,
    /// Absolute; where the command runs, and what a relative program is relative to.
    pub working_dir: PathBuf,
    /// Complete but for what differs between instances.
    pub environment: BTreeMap<String, String>,
    /// Ordered by index; these always run. None means that nothing of it does.
    pub instances: Vec<Instance>,
    /// Those that run only while others are replaced; their indices are none of `instances`. Without any, at least one
    /// of `instances` may be missing at a time.
    pub surge: Vec<Instance>,
    /// Other services that must have come so far before an instance starts.
    pub depends_on: BTreeMap<String, Condition>,
    /// Services that it sends requests to. When everything stops it does so before them; nothing else follows from it,
    /// and calls in a circle order nothing. Names that are not declared are ignored.
    pub calls: Vec<String>,
    pub probes: Probes,
    pub restart: Restart,
    /// Number of a named signal, as in signal(7).
    pub stop_signal: i32,
    /// From the stop signal to SIGKILL, and the longest wait for requests in flight before that signal: a stop takes at
    /// most twice this.
    pub stop_grace_period: Duration,
    pub prepare: Preparation,
    pub update: Update,
    /// Held by control groups where this process may make them; where not, there is a [`crate::Kind::LimitsUnavailable`].
    pub limits: Limits,
}

/// What an instance, with all that descends from it, may use at most. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a core, at least 1.
    pub cpu_millis: Option<u32>,
    /// With swap. Beyond it, processes are killed.
    pub memory_bytes: Option<u64>,
    /// Processes and threads, at least 1.
    pub pids: Option<u32>,
}

/// How instances are replaced by those of a newer generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub strategy: Strategy,
    /// How many of `Service::instances` may be missing at a time.
    pub max_unavailable: u32,
    /// How long an instance must have been ready to count as available; less than `progress_deadline`.
    pub min_ready: Duration,
    /// Whether a rollout that has failed is taken back; one that is not stays where it is.
    pub auto_revert: bool,
    /// A rollout has failed when it waits for its new instances so long and not one more is available.
    pub progress_deadline: Duration,
}

/// In which order instances are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// A few at a time, so that others serve meanwhile.
    Rolling,
    /// All old ones stop before a new one starts.
    Recreate,
}

/// What makes a service's program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Build {
    /// Words, never given to a shell.
    pub command: Vec<String>,
    /// The command as people may see it: without what could be secret.
    pub shown: String,
    /// Absolute.
    pub working_dir: PathBuf,
}

/// One copy of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub index: u32,
    pub address: SocketAddr,
    /// `HOST`, `PORT`, `ATOLL_INSTANCE` and the like; wins over the service's.
    pub environment: BTreeMap<String, String>,
}

/// When a dependency counts as fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every process of it runs.
    Started,
    /// Every instance of it is ready.
    Healthy,
    /// Every instance of it exited with status 0. Such a success is not restarted, whatever the policy: it is awaited.
    Completed,
}

/// What is asked of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    /// While it has not succeeded the other two do not run. Not passed within `interval * failure_threshold`, the
    /// instance is restarted.
    pub startup: Option<Probe>,
    /// Decides whether an instance takes requests. Asked every 50 ms until it succeeds for the first time.
    pub readiness: Probe,
    /// An instance that fails it is restarted.
    pub liveness: Option<Probe>,
}

/// A question and how often it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub check: Check,
    /// From the end of one check to the start of the next.
    pub interval: Duration,
    pub timeout: Duration,
    /// Consecutive failures until the probe has failed.
    pub failure_threshold: u32,
}

/// How an instance is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// `GET /readyz`. An instance that answers with 404, 405 or 501, or with bytes that are no HTTP, three times in a row
    /// before it was ever ready is asked by a TCP connect from then on. One that accepts and stays silent, or closes
    /// without a byte, never gets ready by this: it may be booting. A server of that kind needs [`Check::Tcp`].
    Default,
    /// Path of a GET; 200–399 is a success.
    Http(String),
    /// A connection is accepted.
    Tcp,
    /// Words of a command with the instance's environment; status 0 is a success.
    Exec(Vec<String>),
}

/// What happens when an instance ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    No,
    /// After a status other than 0, a signal, or a program that could not be run.
    OnFailure,
    Always,
}

/// Whether someone has work to do before a service may start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preparation {
    #[default]
    None,
    /// [`Config::prepare`] is asked once for each `start` or `restart`.
    Required,
}

/// The request to prepare a service. A dropped reply counts as a failure; failures are retried only by `start` or `restart`.
#[derive(Debug)]
pub struct Prepare {
    pub service: String,
    /// `Err` is shown as the reason why the service does not start.
    pub reply: oneshot::Sender<Result<(), String>>,
}

/// The request to say when an endpoint has no request in flight any more. The registry has it as `Draining` before this
/// is asked; the answer also covers what was routed by an older snapshot. A dropped reply and a closed channel count as
/// drained. `reply` is closed when nobody waits any more: `stop_grace_period` after the stop began.
#[derive(Debug)]
pub struct Drain {
    pub service: String,
    pub instance: u32,
    pub address: SocketAddr,
    pub reply: oneshot::Sender<()>,
}

/// Refuses what would make the loop wait for ever or write outside its folders.
pub(crate) fn check(services: &[Service]) -> Result<(), Error> {
    let mut known = BTreeMap::new();
    for service in services {
        let name = &service.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::Name { service: name.clone() });
        }
        if service.command.is_empty() || service.build.as_ref().is_some_and(|build| build.command.is_empty()) {
            return Err(Error::NoCommand { service: name.clone() });
        }
        if rustix::process::Signal::from_named_raw(service.stop_signal).is_none() {
            return Err(Error::StopSignal { service: name.clone(), signal: service.stop_signal });
        }
        let mut indices = BTreeSet::new();
        let mut all = service.instances.iter().chain(&service.surge);
        if !all.all(|instance| indices.insert(instance.index)) {
            return Err(Error::Instances { service: name.clone() });
        }
        if known.insert(name.as_str(), service).is_some() {
            return Err(Error::Twice { service: name.clone() });
        }
    }
    for service in services {
        if let Some(missing) = service.depends_on.keys().find(|name| !known.contains_key(name.as_str())) {
            return Err(Error::UnknownService { service: missing.clone() });
        }
    }
    check_cycles(&known)
}

/// Takes away what depends on nothing that is left; what cannot be taken away is a cycle.
fn check_cycles(known: &BTreeMap<&str, &Service>) -> Result<(), Error> {
    let mut left: BTreeSet<&str> = known.keys().copied().collect();
    loop {
        let free = |name: &&&str| !known[**name].depends_on.keys().any(|needed| left.contains(needed.as_str()));
        let Some(next) = left.iter().find(free).copied() else {
            break;
        };
        left.remove(next);
    }
    match left.is_empty() {
        true => Ok(()),
        false => Err(Error::Cycle { services: left.into_iter().map(str::to_owned).collect() }),
    }
}
