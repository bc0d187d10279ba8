//! Processes that nobody looks after: of a shim that was killed, and builds and probes of a daemon that was. Found by
//! what they were given ([`RUN`], [`LIFE`]) and by their session, and stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use crate::cgroup;
use crate::environment::{INSTANCE, LIFE, RUN, SERVICE};
use crate::process::Group;
use crate::procfs::{self, Stat};
use crate::shim::wire::ProcessId;

/// Limit: how long SIGKILL may take to clear everything. Longer only in an uninterruptible system call.
const CLEAR_MAX: Duration = Duration::from_secs(2);

/// How often is looked: the kernel reports the end of no stranger's process that is not known yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What was left of a life whose shim is gone.
#[derive(Clone, Debug)]
pub(crate) struct Remains {
    pub(crate) life: String,
    /// That of the shim; 0 where its number may be another's by now.
    pub(crate) session: i32,
    pub(crate) child: Option<ProcessId>,
    /// Its control groups, as far as they are of this life.
    pub(crate) groups: Vec<PathBuf>,
}

impl Remains {
    /// Kills until nobody is left, and no group; gives up after two seconds. Says how many were seen.
    pub(crate) async fn clear(&self) -> usize {
        let groups = cgroup::of_life(&self.groups, &self.life);
        let start = Instant::now();
        let mut seen = BTreeSet::new();
        loop {
            let found = self.find(&groups);
            for pid in &found {
                seen.insert(*pid);
                if let Some(pid) = Pid::from_raw(*pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            cgroup::kill(&groups);
            if (found.is_empty() && cgroup::remove(&groups)) || start.elapsed() >= CLEAR_MAX {
                return seen.len();
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    fn find(&self, groups: &[PathBuf]) -> Vec<i32> {
        let members = cgroup::members(groups);
        let child = self.child.filter(|child| child.is_running());
        // A group keeps its number as long as it has members; they count as its own when its leader is the one we know.
        let is_ours = |pid: i32, stat: &Stat| {
            (self.session > 1 && stat.session == self.session)
                || child.is_some_and(|child| child.pid == pid || child.pid == stat.group)
                || members.contains(&pid)
                || value(&procfs::environment(pid), LIFE) == Some(self.life.as_bytes())
        };
        let running = procfs::pids().filter_map(|pid| Some((pid, procfs::stat(pid).filter(|stat| !stat.is_zombie)?)));
        running.filter(|(pid, stat)| is_ours(*pid, stat)).map(|(pid, _)| pid).collect()
    }
}

/// A group of processes that a daemon which died has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) service: String,
    pub(crate) instance: u32,
    /// Of its first process.
    pub(crate) pid: u32,
    group: i32,
}

/// The value of [`RUN`]: the same text for the same folder, however that is reached.
pub(crate) fn mark(run_dir: &Path) -> OsString {
    let path = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
    path.canonicalize().unwrap_or(path).into()
}

/// What runs, was marked by a supervisor of this folder, and descends from none of these shims: builds, exec probes, and
/// what was left of instances. Of each group its first process. A process of a build that began a session of its own is
/// left alone: a compiler's cache server, say, which is meant to outlive the build that happened to start it.
pub(crate) fn marked(mark: &OsStr, shims: &[i32]) -> Vec<Marked> {
    let ours = rustix::process::getpgrp().as_raw_nonzero().get();
    let own_pid = i32::try_from(std::process::id()).unwrap_or_default();
    let all: BTreeMap<i32, Stat> = procfs::pids().filter_map(|pid| Some((pid, procfs::stat(pid)?))).collect();
    let is_looked_after = |mut pid: i32| {
        // Limit: a chain of parents is no longer than the list.
        for _ in 0..all.len() {
            if shims.contains(&pid) {
                return true;
            }
            let Some(stat) = all.get(&pid) else { return false };
            pid = stat.parent;
        }
        false
    };
    let mut found: Vec<Marked> = Vec::new();
    for (&pid, stat) in &all {
        let is_known = found.iter().any(|known| known.group == stat.group);
        if pid <= 1 || pid == own_pid || stat.is_zombie || is_known || stat.group <= 1 || stat.group == ours {
            continue;
        }
        let environment = procfs::environment(pid);
        let is_apart = stat.group == stat.session && value(&environment, LIFE).is_none();
        if is_apart || value(&environment, RUN) != Some(mark.as_encoded_bytes()) || is_looked_after(pid) {
            continue;
        }
        let text = |name| String::from_utf8_lossy(value(&environment, name).unwrap_or_default()).into_owned();
        let instance = text(INSTANCE).rsplit('.').next().and_then(|index| index.parse().ok()).unwrap_or_default();
        found.push(Marked { service: text(SERVICE), instance, pid: pid.unsigned_abs(), group: stat.group });
    }
    found
}

/// Stops groups, all at the same time: SIGTERM, `grace`, SIGKILL.
pub(crate) async fn stop(marked: &[Marked], grace: Duration) {
    let groups: Vec<Group> = marked.iter().filter_map(|marked| Group::from_id(marked.group)).collect();
    for group in &groups {
        group.signal(Signal::TERM);
        group.signal(Signal::CONT);
    }
    let all_ended = async {
        for group in &groups {
            group.ended().await;
        }
    };
    let _ = timeout(grace, all_ended).await;
    for group in groups {
        group.clear().await;
    }
}

fn value<'a>(environment: &'a [OsString], name: &str) -> Option<&'a [u8]> {
    let entries = environment.iter().map(|entry| entry.as_encoded_bytes());
    entries.filter_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next()
}
