//! What others see: an immutable snapshot of every service and instance. Made by the loop, never read back by it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// All services at one moment, ordered by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub services: Vec<ServiceStatus>,
}

impl Snapshot {
    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceStatus> {
        self.services.iter().find(|service| service.name == name)
    }
}

/// A service as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStatus {
    pub name: String,
    pub wanted: Wanted,
    /// Grows with every `restart`; an instance of an older one has not been restarted yet.
    pub generation: u64,
    pub build: BuildStatus,
    /// Why the service as a whole does not come up: its build or its preparation failed.
    pub reason: Option<String>,
    /// Ordered by index.
    pub instances: Vec<InstanceStatus>,
}

/// What was asked for last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Running,
    Stopped,
}

/// Where a build stands.
#[derive(Clone, Debug, PartialEq)]
pub enum BuildStatus {
    /// The service has no build.
    None,
    /// Not run since it was last asked for.
    Waiting,
    Running,
    Done,
    Failed {
        reason: String,
        /// The end of its output, oldest first.
        last_lines: Vec<String>,
    },
}

/// An instance as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceStatus {
    pub index: u32,
    pub pid: Option<u32>,
    pub state: InstanceState,
    /// Takes requests.
    pub ready: bool,
    pub port: u16,
    /// Times it was started again after it had ended by itself, since the last `start` or `restart`.
    pub restarts: u32,
    /// The service's generation when it was started.
    pub generation: u64,
    pub started_at: Option<Timestamp>,
    pub last_exit: Option<Exit>,
    /// Why it is not running and ready, in words.
    pub reason: Option<String>,
    /// What it wrote last before it ended, oldest first.
    pub last_lines: Vec<String>,
}

/// Where an instance stands.
///
/// ```text
///             ┌────────────────────── start, restart ───────────────────────┐
///             ▼                                                             │
/// Stopped → Pending → Building → Preparing → Starting → Running → Stopping ─┤
///                                               │ ▲         │               ▼
///                                               ▼ │         ▼            Stopped
///                       delay over ── Backoff / CrashLoop ◄─┤
///                                                           ▼
///                                                 Exited (status 0) / Failed
/// ```
/// Pending waits for dependencies. Exited and Failed are where the restart policy leaves an instance; a service whose
/// build or preparation failed has Failed instances too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceState {
    Pending,
    Building,
    Preparing,
    /// The process runs and was never ready.
    Starting,
    /// The process runs and was ready at least once.
    Running,
    /// Ended by itself, and starts again at `until`.
    Backoff {
        attempt: u32,
        until: Timestamp,
    },
    /// The same, for the fifth time in a row or more.
    CrashLoop {
        attempt: u32,
        until: Timestamp,
    },
    Stopping,
    Stopped,
    Exited,
    Failed,
}

impl InstanceState {
    /// The name in lower case, as `ps` shows it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Building => "building",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Backoff { .. } => "backoff",
            Self::CrashLoop { .. } => "crash_loop",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Exited => "exited",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Status(i32),
    Signal(i32),
}

impl Exit {
    /// Whether it ended with status 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Status(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => f.write_str(name),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

/// The names of signal(7) for those that end a process.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}
