//! Everything that descends from an instance. The shim is its subreaper: who loses its parent becomes the shim's child,
//! so that whoever has no child left has no descendant left.

use std::fs;

use rustix::process::{Pid, Signal, WaitOptions, getpgrp, getpid, kill_process, wait};

use crate::process::Group;
use crate::procfs;
use crate::status::Exit;

/// Limit: ends that are taken in before the loop looks at something else.
const REAPED_MAX: usize = 1024;

/// Limit: rounds of a sweep before the loop looks at something else.
const ROUNDS_MAX: usize = 64;

/// What was found to have ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reaped {
    /// How the leader ended, if it did.
    pub(super) leader: Option<Exit>,
    pub(super) count: usize,
    /// Nobody is left.
    pub(super) is_alone: bool,
}

/// Takes in the ends of all children that have ended; does not wait.
pub(super) fn reap(leader: Pid) -> Reaped {
    let mut reaped = Reaped::default();
    while reaped.count < REAPED_MAX {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                reaped.count += 1;
                if pid == leader {
                    let signal = || Exit::Signal(status.terminating_signal().unwrap_or_default());
                    reaped.leader = Some(status.exit_status().map_or_else(signal, Exit::Status));
                }
            }
            Err(rustix::io::Errno::CHILD) => {
                reaped.is_alone = true;
                break;
            }
            Err(rustix::io::Errno::INTR) => {}
            _ => break,
        }
    }
    reaped
}

/// Kills the children and their groups, and those who become children by that, until nobody is left or this has gone on
/// for long: one that forks without end is caught by being faster, and in a group that is killed as one nobody escapes.
pub(super) fn sweep() {
    let ours = getpgrp();
    for _ in 0..ROUNDS_MAX {
        let children = children();
        if children.is_empty() {
            return;
        }
        for child in children {
            // A child that was not reaped keeps its number, and that of its group.
            let group = procfs::stat(child).and_then(|stat| Group::from_id(stat.group));
            if let Some(group) = group.filter(|group| group.leader() != ours) {
                group.signal(Signal::KILL);
            }
            if let Some(child) = Pid::from_raw(child) {
                let _ = kill_process(child, Signal::KILL);
            }
        }
    }
}

/// The children that run.
fn children() -> Vec<i32> {
    let is_running = |pid: &i32| procfs::stat(*pid).is_some_and(|stat| !stat.is_zombie);
    // Not every kernel has it (CONFIG_PROC_CHILDREN).
    if let Ok(list) = fs::read_to_string("/proc/thread-self/children") {
        return list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_running).collect();
    }
    let own = getpid().as_raw_nonzero().get();
    let is_child = |pid: &i32| procfs::stat(*pid).is_some_and(|stat| stat.parent == own && !stat.is_zombie);
    procfs::pids().filter(is_child).collect()
}
