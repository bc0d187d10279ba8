//! `run/instances.json`: which processes run, for the daemon after this one. What a daemon that died has left behind is
//! stopped before anything is started, so that its ports and locks are free.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::environment::{INSTANCE, RUN, SERVICE};
use crate::event::{Events, Kind};
use crate::process::Group;
use crate::procfs;

/// Version of the file's form. A file of a newer one is moved aside, never guessed at.
const VERSION: u32 = 1;

/// From SIGTERM to SIGKILL: nobody sends requests to these any more.
const GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// A pid and a start time mean nothing after a reboot.
    boot_id: String,
    instances: Vec<Record>,
}

/// A process that runs. Its pid alone could be another's by now; with its start time it is the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) service: String,
    pub(crate) instance: u32,
    pub(crate) pid: u32,
    pub(crate) pgid: i32,
    /// Clock ticks since boot, field 22 of /proc/pid/stat.
    pub(crate) start_time: u64,
}

impl Record {
    /// Describes a process that was just started as the leader of a group of its own; `None` when it is gone already.
    pub(crate) fn of(service: &str, instance: u32, pid: u32) -> Option<Self> {
        let pgid = i32::try_from(pid).ok()?;
        let start_time = procfs::stat(pgid)?.start_time;
        Some(Self { service: service.to_owned(), instance, pid, pgid, start_time })
    }

    /// Whether it or, once it is gone, a child in its group still runs. While a group has members the kernel gives its
    /// number to no other process; that the members are ours is seen by what they were given.
    fn is_running(&self) -> bool {
        match procfs::stat(i32::try_from(self.pid).unwrap_or_default()) {
            Some(leader) => {
                let is_same = leader.start_time == self.start_time && leader.group == self.pgid;
                is_same && procfs::has_running_members(self.pgid)
            }
            None => procfs::has_member_with(self.pgid, &format!("ATOLL_SERVICE={}", self.service)),
        }
    }
}

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Leftovers {
    running: Vec<Record>,
    /// Why the file was moved aside.
    damage: Option<String>,
}

/// Reads the file of the daemon before. Blocking. Never fails: a file that cannot be understood is moved aside.
fn load(path: &Path) -> Leftovers {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Leftovers::default(),
        Err(error) => return aside(path, &error.to_string()),
    };
    match serde_json::from_slice::<Content>(&content) {
        Ok(Content { version, .. }) if version != VERSION => aside(path, &format!("its version {version} is unknown")),
        Ok(content) => {
            let same_boot = content.boot_id == procfs::boot_id();
            let running = content.instances.into_iter().filter(|record| same_boot && record.is_running()).collect();
            Leftovers { running, damage: None }
        }
        Err(error) => aside(path, &error.to_string()),
    }
}

/// The value of [`RUN`]: the same text for the same file, however its folder is reached.
pub(crate) fn mark(state_file: &Path) -> OsString {
    let path = std::path::absolute(state_file).unwrap_or_else(|_| state_file.to_owned());
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name).into(),
        _ => path.into(),
    }
}

/// What runs and was marked by a daemon of this state file: instances of which it was killed before it had written them
/// down, builds and exec probes. Of each group its first process. What began a session of its own is left alone: a
/// compiler's cache server, say, which is meant to outlive the build that happened to start it.
fn marked(mark: &OsStr) -> Vec<Record> {
    let ours = rustix::process::getpgrp().as_raw_nonzero().get();
    let own_pid = i32::try_from(std::process::id()).unwrap_or_default();
    let mut found: Vec<Record> = Vec::new();
    for pid in procfs::pids().filter(|pid| *pid > 1 && *pid != own_pid) {
        let Some(stat) = procfs::stat(pid).filter(|stat| !stat.is_zombie) else { continue };
        let is_known = found.iter().any(|record| record.pgid == stat.group);
        if is_known || stat.group <= 1 || stat.group == ours || stat.group == stat.session {
            continue;
        }
        let environment = procfs::environment(pid);
        let value = |name: &str| {
            let entries = environment.iter().map(|entry| entry.as_encoded_bytes());
            entries.filter_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next()
        };
        if value(RUN) != Some(mark.as_encoded_bytes()) {
            continue;
        }
        let text = |name| String::from_utf8_lossy(value(name).unwrap_or_default()).into_owned();
        let instance = text(INSTANCE).rsplit('.').next().and_then(|index| index.parse().ok()).unwrap_or_default();
        let (service, start_time) = (text(SERVICE), stat.start_time);
        found.push(Record { service, instance, pid: pid.unsigned_abs(), pgid: stat.group, start_time });
    }
    found
}

/// What [`stop_leftovers`] did, for [`crate::Config::leftovers`]: the supervisor tells it as its first events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Service, instance and pid of each process.
    pub processes: Vec<(String, u32, u32)>,
    /// Why the list of processes could not be read, and where it was moved to.
    pub damage: Option<String>,
}

/// Stops every process that a daemon which died has left, each with its whole group, all at the same time. To be called
/// by whoever holds the folder's lock, before ports are chosen: the processes of a daemon that lives stand in the same
/// file. Takes 3 s of grace at most, and a little.
pub async fn stop_leftovers(state_file: &Path) -> Stopped {
    let Leftovers { mut running, damage } = load(state_file);
    for record in marked(&mark(state_file)) {
        if !running.iter().any(|known| known.pgid == record.pgid) {
            running.push(record);
        }
    }
    let groups: Vec<(Record, Group)> =
        running.into_iter().filter_map(|record| Group::from_id(record.pgid).map(|group| (record, group))).collect();
    for (_, group) in &groups {
        group.signal(Signal::TERM);
        group.signal(Signal::CONT);
    }
    let all_ended = async {
        for (_, group) in &groups {
            group.ended().await;
        }
    };
    let _ = timeout(GRACE, all_ended).await;
    let mut processes = Vec::new();
    for (record, group) in groups {
        group.clear().await;
        processes.push((record.service, record.instance, record.pid));
    }
    Stopped { processes, damage }
}

impl Stopped {
    pub(crate) fn tell(self, events: &Events) {
        if let Some(why) = self.damage {
            tracing::warn!(why, "the list of instances cannot be read");
            events.emit("", None, Kind::StateFileDamaged { why });
        }
        for (service, instance, pid) in self.processes {
            tracing::warn!(service, instance, pid, "stopped an instance of a daemon that died");
            events.emit(&service, Some(instance), Kind::LeftoverStopped { pid });
        }
    }
}

/// Writes every change until the sender is gone. Intermediate states may be skipped, the last never is.
pub(crate) async fn keep(path: PathBuf, mut running: watch::Receiver<Vec<Record>>) {
    let boot_id = procfs::boot_id();
    while running.changed().await.is_ok() {
        let instances = running.borrow_and_update().clone();
        let content = Content { version: VERSION, boot_id: boot_id.clone(), instances };
        let path = path.clone();
        let stored = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec_pretty(&content).expect("records have only strings and numbers");
            kit::file::store_atomic(&path, &text)
        });
        if let Ok(Err(error)) = stored.await {
            // What runs goes on; the next change tries again.
            tracing::warn!(%error, "cannot store which instances run");
        }
    }
}

fn aside(path: &Path, why: &str) -> Leftovers {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".damaged");
    let moved = fs::rename(path, &beside);
    let beside = Path::new(&beside).display();
    let what = moved.map_or_else(|error| format!("not moved: {error}"), |()| format!("moved to {beside}"));
    Leftovers { running: Vec::new(), damage: Some(format!("{}: {why}; {what}", path.display())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_understood_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances.json");
        assert_eq!(load(&path), Leftovers::default());
        for content in ["", "{", "{\"version\":2,\"boot_id\":\"\",\"instances\":[]}", "[1]", "\u{0}"] {
            fs::write(&path, content).unwrap();
            let leftovers = load(&path);
            assert!(leftovers.damage.is_some_and(|why| why.contains("moved to")), "{content}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_pid_that_is_another_process_now_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances.json");
        let mut record = Record::of("a", 0, std::process::id()).unwrap();
        record.start_time += 1;
        let content = Content { version: VERSION, boot_id: procfs::boot_id(), instances: vec![record] };
        fs::write(&path, serde_json::to_vec(&content).unwrap()).unwrap();
        assert_eq!(load(&path), Leftovers::default());
    }
}
