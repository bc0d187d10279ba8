//! What others see: an immutable snapshot of every service and instance. Made by the loop, never read back by it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::reconcile::Course;
use crate::standing::Failure;

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
    /// That of what is wanted: a new one with every `restart` and change, the former one when that is taken back. An
    /// instance of another one has not been replaced yet.
    pub generation: u64,
    pub build: BuildStatus,
    /// Why the service as a whole is not what was asked for: its build or its preparation failed, or its last rollout,
    /// and it was reverted or halted.
    pub reason: Option<String>,
    /// Names what it ran before a rollout that is under way or was taken back.
    pub former: Option<String>,
    /// How its last rollout failed, if it did; `reason` says it in words.
    pub failure: Option<Failure>,
    /// Where a change from one generation to another goes, while there is one.
    pub rollout: Option<Course>,
    /// Ordered by index. Those that run only during a rollout are in it while they have a process.
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
    /// SIGKILL, or a shell's status for it, by the kernel: it used more than it may.
    OutOfMemory {
        limit_bytes: u64,
    },
}

impl Exit {
    /// Whether it ended with status 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Status(0)
    }

    /// Why an instance that ended like this does not run, in words.
    #[must_use]
    pub fn reason(self) -> String {
        match self {
            Self::OutOfMemory { limit_bytes } => format!("killed: out of memory (its limit is {})", size(limit_bytes)),
            _ => format!("ended with {self}"),
        }
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
            Self::OutOfMemory { limit_bytes } => {
                write!(f, "SIGKILL, out of memory (its limit is {})", size(*limit_bytes))
            }
        }
    }
}

/// As it would be written in a manifest, with a space.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = units.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{bytes} B"), |(name, unit)| format!("{} {name}", bytes / unit))
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
