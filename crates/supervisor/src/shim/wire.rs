//! What a shim is told and what it says: lines of JSON. Every form has a version; what is newer is never guessed at.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::cgroup::Asked;
use crate::environment::Environment;
use crate::logs::{Limits, Line};
use crate::process::{Group, Spec};
use crate::status::Exit;

/// Version of instructions, messages and files alike.
pub(crate) const VERSION: u32 = 1;

/// Limit: bytes of one message. JSON makes six of one byte of a line at most.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Limit: bytes of one order.
pub(crate) const ORDER_BYTES_MAX: usize = 4 << 10;

/// Which life of which instance this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) service: String,
    pub(crate) instance: u32,
    /// Unique among all lives.
    pub(crate) life: String,
    /// Equal for lives that were started from the same declaration.
    pub(crate) revision: String,
    pub(crate) address: SocketAddr,
    /// How often the instance was started again before this life, for whoever shows it.
    pub(crate) restarts: u32,
}

/// A process of this boot: a pid alone could be another's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks since boot, field 22 of /proc/pid/stat.
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// Names a process that is there now, alive or a zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start_time: crate::procfs::stat(pid)?.start_time })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_running(self) -> bool {
        crate::procfs::stat(self.pid).is_some_and(|stat| stat.start_time == self.start_time && !stat.is_zombie)
    }

    /// Signals the group that it leads, while it runs: then the number of the group is its own.
    pub(crate) fn signal_group(self, number: i32) {
        let group = Group::from_id(self.pid).filter(|_| self.is_running());
        if let (Some(group), Some(signal)) = (group, Signal::from_named_raw(number)) {
            group.signal(signal);
            // A stopped process acts on no signal but SIGKILL before it is continued.
            group.signal(Signal::CONT);
        }
    }

    /// Lets this very process go on if somebody has stopped it.
    pub(crate) fn wake(self) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_running()) {
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

/// Everything that a shim must know. It comes over standard input: an environment may hold secrets, which an argument
/// vector shows to everybody.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Instructions {
    pub(crate) version: u32,
    pub(crate) identity: Identity,
    /// The instance's folder; absolute.
    pub(crate) folder: OsString,
    pub(crate) log_file: OsString,
    pub(crate) log: Limits,
    pub(crate) words: Vec<String>,
    pub(crate) working_dir: OsString,
    /// Not always UTF-8, hence no map: a key of JSON is.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) open_files_soft: Option<u64>,
    #[serde(default)]
    pub(crate) group: Option<Asked>,
}

impl Instructions {
    pub(crate) fn new(
        identity: Identity,
        spec: &Spec,
        log_file: PathBuf,
        log: Limits,
        folder: PathBuf,
        group: Option<Asked>,
    ) -> Self {
        Self {
            version: VERSION,
            identity,
            folder: folder.into(),
            log_file: log_file.into(),
            log,
            words: spec.words.clone(),
            working_dir: spec.working_dir.clone().into(),
            environment: spec.environment.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            open_files_soft: spec.open_files_soft,
            group,
        }
    }

    /// What to run; it is not needed any more once that runs.
    pub(crate) fn take_spec(&mut self) -> Spec {
        Spec {
            words: std::mem::take(&mut self.words),
            working_dir: std::mem::take(&mut self.working_dir).into(),
            environment: std::mem::take(&mut self.environment).into_iter().collect::<Environment>(),
            open_files_soft: self.open_files_soft,
        }
    }
}

/// What a shim says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// First of all, to everyone who connects.
    Hello(Box<Hello>),
    Line(Line),
    /// Lines that are in the file and were too many for this connection.
    LinesSkipped {
        count: u64,
    },
    LogLost {
        why: String,
    },
    LogResumed {
        lines_lost: u64,
    },
    /// The leader has ended.
    Exited(Ended),
    /// Nothing of it is left, its output is read, and its end is on disk.
    Gone {
        last_lines: Vec<String>,
    },
    /// Somebody else has connected: a newer daemon wins.
    Replaced {},
    /// To [`Order::Ping`].
    Pong {
        id: u64,
    },
}

/// Who answers, and how it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) identity: Identity,
    pub(crate) shim: ProcessId,
    pub(crate) state: State,
    /// What the last daemon said of it.
    pub(crate) ready: Readiness,
    /// Where its control groups are.
    #[serde(default)]
    pub(crate) groups: Vec<PathBuf>,
    /// Why its limits do not hold, or not all of them.
    #[serde(default)]
    pub(crate) unlimited: Option<String>,
    /// Whether it knows [`Order::Ping`]: one of an older version would take it for nonsense.
    #[serde(default)]
    pub(crate) answers: bool,
}

/// What the probes of a daemon have found; a shim only remembers it for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Readiness {
    #[default]
    Never,
    Ready,
    Unready,
}

/// How a life stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It could not be started.
    Failed {
        reason: String,
    },
    Running {
        started: Started,
    },
    /// Its leader has ended; what that left behind is being cleared.
    Leaving {
        started: Started,
        ended: Ended,
    },
    Gone {
        started: Started,
        ended: Ended,
        last_lines: Vec<String>,
    },
}

impl State {
    pub(crate) fn started(&self) -> Option<Started> {
        match self {
            Self::Failed { .. } => None,
            Self::Running { started } | Self::Leaving { started, .. } | Self::Gone { started, .. } => Some(*started),
        }
    }
}

/// The leader of an instance and its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) process: ProcessId,
    pub(crate) at: Timestamp,
}

/// The end of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// As the kernel says it.
    pub(super) exit: Exit,
    pub(crate) at: Timestamp,
    pub(crate) cause: Cause,
    /// The limit in bytes that it was killed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) memory_limit: Option<u64>,
}

impl Ended {
    /// How, for people.
    pub(crate) fn exit(self) -> Exit {
        self.memory_limit.map_or(self.exit, |limit_bytes| Exit::OutOfMemory { limit_bytes })
    }
}

/// Whether a life ended because it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    ByItself,
    Asked,
}

/// What a shim can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Asks it to stop: signals the group with this number of signal(7), and lets what is left of the group finish.
    Stop(i32),
    /// Signals the group, as anybody could; if it ends, nobody has asked it to.
    Signal(i32),
    /// Kills the group and whatever else descends from it.
    Kill,
    /// To be remembered.
    Readiness(Readiness),
    /// To be answered by [`Said::Pong`], which says that what came before was heard.
    Ping(u64),
}

/// One message as a line.
pub(crate) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages have only strings and numbers");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_knows_of_no_groups_is_understood_and_one_that_does_is_by_who_knows_none() {
        let before = r#"{"exit":{"signal":9},"at":"2026-01-01T00:00:00Z","cause":"by_itself"}"#;
        let ended: Ended = serde_json::from_str(before).unwrap();
        assert_eq!((ended.exit(), line(&ended)), (Exit::Signal(9), format!("{before}\n").into_bytes()));
        let after = Ended { memory_limit: Some(3 << 29), ..ended };
        let exit = after.exit();
        assert_eq!(exit.reason(), "killed: out of memory (its limit is 1536 MiB)");
        assert_eq!(exit.to_string(), "SIGKILL, out of memory (its limit is 1536 MiB)");
        // What is new stands beside what is old.
        let text = String::from_utf8(line(&after)).unwrap();
        assert!(text.starts_with(&before[..before.len() - 1]), "{text}");
    }
}
