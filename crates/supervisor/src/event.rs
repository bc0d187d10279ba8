//! What happened to builds and instances, in order, with a bounded history for those who come later.
//! Serialisable, because the API sends events as JSON lines.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::status::Exit;

/// Limit: events kept for late subscribers; the oldest go first.
const HISTORY_MAX: usize = 1000;

/// Limit: events a slow subscriber may fall behind before it is told `Lagged` and misses the oldest.
const BEHIND_MAX: usize = 1024;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with every event of this daemon.
    pub id: u64,
    pub ts: Timestamp,
    /// Empty where no service is meant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// Absent where the service as a whole is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    #[serde(flatten)]
    pub kind: Kind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    BuildStarted {
        command: String,
    },
    /// One line of a build's output. Not kept in the history: it is in the build's log.
    BuildOutput {
        line: String,
    },
    BuildFinished {
        seconds: f64,
    },
    BuildFailed {
        reason: String,
        last_lines: Vec<String>,
    },
    BuildCancelled,
    Prepared,
    PreparationFailed {
        reason: String,
    },
    Started {
        pid: u32,
    },
    /// It could not be started at all.
    StartFailed {
        reason: String,
    },
    Ready {
        after_ms: u64,
    },
    Unready {
        why: String,
    },
    /// A probe failed: once for each series of failures, and from time to time while an instance never gets ready.
    ProbeFailed {
        why: String,
    },
    /// The liveness or startup probe failed for good; a restart follows.
    Unhealthy {
        why: String,
    },
    Exited {
        exit: Exit,
        after_ms: u64,
    },
    Restarting {
        in_ms: u64,
        attempt: u32,
    },
    CrashLoop {
        attempt: u32,
        last_lines: Vec<String>,
    },
    /// The restart policy leaves it ended.
    Failed {
        why: String,
    },
    /// A new list of services differs in this one.
    Changed {
        how: String,
    },
    /// Every instance has been replaced by one of the newest generation.
    RolledOut,
    /// A rollout has failed, and what ran before runs again.
    Reverted {
        why: String,
        last_lines: Vec<String>,
    },
    /// A rollout has failed and stays where it is.
    RolloutHalted {
        why: String,
        last_lines: Vec<String>,
    },
    /// It was sent a signal that somebody asked for.
    Signalled {
        signal: i32,
    },
    Stopping {
        why: String,
    },
    Stopped,
    /// The grace period was over.
    Killed,
    /// Lines are not written to the log file from now on.
    LogsLost {
        why: String,
    },
    /// They are written again.
    LogsResumed {
        lines_lost: u64,
    },
    /// It went on without a daemon, and this one took it over as it is.
    Adopted {
        pid: u32,
    },
    /// It ended while no daemon was there; the event has the time of that.
    ExitedUnseen {
        exit: Exit,
        after_ms: u64,
    },
    /// Its shim does not answer; the instance goes on, and what it writes waits.
    ShimFrozen {
        pid: u32,
    },
    /// Its shim answers again.
    ShimAnswers {
        pid: u32,
    },
    /// Its shim was killed, and with that nobody looked after it: it was killed as well.
    ShimLost {
        why: String,
    },
    /// Its lines came too fast to follow them; they are in the log.
    LinesSkipped {
        lines: u64,
    },
    /// A process of a daemon that is gone was found, could not be taken over, and is stopped.
    LeftoverStopped {
        pid: u32,
        why: String,
    },
    /// The limits of this instance do not hold, or not all of them; said once for all instances.
    LimitsUnavailable {
        why: String,
    },
    /// What the daemon before this one left could not be read.
    StateFileDamaged {
        why: String,
    },
}

/// History and subscription in one, so that a subscriber misses nothing between the two.
#[derive(Clone, Debug)]
pub(crate) struct Events(Arc<Mutex<Ring>>);

#[derive(Debug)]
struct Ring {
    id: u64,
    recent: VecDeque<Arc<Event>>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        let ring = Ring { id: 0, recent: VecDeque::new(), live: broadcast::Sender::new(BEHIND_MAX) };
        Self(Arc::new(Mutex::new(ring)))
    }
}

impl Events {
    pub(crate) fn emit(&self, service: &str, instance: Option<u32>, kind: Kind) {
        self.emit_at(Timestamp::now(), service, instance, kind);
    }

    /// The same for what is known only now.
    pub(crate) fn emit_at(&self, ts: Timestamp, service: &str, instance: Option<u32>, kind: Kind) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.id += 1;
        let event = Arc::new(Event { id: ring.id, ts, service: service.to_owned(), instance, kind });
        if !matches!(event.kind, Kind::BuildOutput { .. }) {
            if ring.recent.len() == HISTORY_MAX {
                ring.recent.pop_front();
            }
            ring.recent.push_back(Arc::clone(&event));
        }
        // Without a subscriber there is nobody to tell.
        let _ = ring.live.send(event);
    }

    pub(crate) fn subscribe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (ring.recent.iter().cloned().collect(), ring.live.subscribe())
    }
}
