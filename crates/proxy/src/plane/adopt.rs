//! Finds the processes that a daemon before this one has left. A process belongs to a folder when its environment names a
//! socket there, or one of that name is there now: a folder may have been moved.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::Chain;
use kit::tasks::Tasks;
use rustix::process::Pid;

use crate::plane::handle::Loss;
use crate::plane::process::{Link, MARK, Process, SOCKET_NAME};

/// How long a process that was found may take to say who it is.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long one that cannot be adopted may take to end.
const STOP_MAX: Duration = Duration::from_secs(2);

/// A process that can be adopted.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) process: Process,
    pub(crate) link: Link,
}

/// The processes that can be adopted, for [`crate::plane::bind`]. Dropped, they go on as they are.
#[derive(Debug, Default)]
pub struct Adopted {
    /// The one that serves first, if one does.
    pub(crate) found: Vec<Found>,
    pub(crate) lost: Vec<Loss>,
}

impl Adopted {
    /// Names and addresses of their listeners; of the one that serves, where several have one.
    #[must_use]
    pub fn listeners(&self) -> BTreeMap<String, SocketAddr> {
        self.found.iter().rev().flat_map(|found| found.link.held.addresses()).collect()
    }

    /// Those that could not be adopted, and were stopped.
    #[must_use]
    pub fn lost(&self) -> &[Loss] {
        &self.lost
    }

    /// The ports on which they listen: taken, and by whom they are meant for.
    #[must_use]
    pub fn ports(&self) -> BTreeSet<u16> {
        self.listeners().values().map(SocketAddr::port).collect()
    }
}

impl Found {
    /// Whether it is the data plane, and not one that had just been started for it or has been replaced.
    pub(crate) fn serves(&self) -> bool {
        !self.link.hello.is_retiring && !self.link.hello.listeners.is_empty()
    }
}

/// Finds every process of this folder that answers, the newest first. What does not answer, or says what cannot be
/// understood, is stopped, and the log and [`Adopted::lost`] say why. For whoever holds the folder's lock.
pub async fn adopt(folder: &Path) -> Adopted {
    let (mut adopted, mut lost) = (Vec::new(), Vec::new());
    for process in discover(folder) {
        match process.connect(ANSWER_MAX).await {
            Ok(link) => adopted.push(Found { process, link }),
            Err(why) => {
                let pid = process.pid.as_raw_nonzero().get();
                let how = Chain(&why).to_string();
                tracing::warn!(pid, how, "a data plane that cannot be adopted is stopped");
                process.stop(STOP_MAX).await;
                lost.push(Loss { pid: pid.unsigned_abs(), how });
            }
        }
    }
    if let Some(position) = adopted.iter().position(Found::serves) {
        adopted.swap(0, position);
    }
    Adopted { found: adopted, lost }
}

/// Stops every data plane that was left in this folder, giving its requests `grace` to end; then they are cut. For
/// whoever holds the folder's lock. Returns how many there were.
pub async fn stop(folder: &Path, grace: Duration) -> usize {
    let found = discover(folder);
    let count = found.len();
    let tasks = Tasks::default();
    for process in found {
        tasks.spawn(process.stop(grace));
    }
    tasks.finished().await;
    count
}

/// Blocking, for a moment: looks at the environment of every process of this user.
fn discover(folder: &Path) -> Vec<Process> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let is_name = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        name.starts_with(SOCKET_NAME.0.as_bytes()) && name.ends_with(SOCKET_NAME.1.as_bytes())
    };
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let sockets: BTreeSet<OsString> = entries.map(|entry| entry.file_name()).filter(|name| is_name(name)).collect();
    let mut found: Vec<Process> = pids().filter_map(|pid| belonging(pid, &folder, &sockets)).collect();
    for stale in sockets.iter().map(|name| folder.join(name)) {
        if found.iter().all(|process| process.socket != stale) {
            let _ = fs::remove_file(stale);
        }
    }
    found.sort_by(|one, other| other.socket.cmp(&one.socket));
    found
}

fn belonging(pid: Pid, folder: &Path, sockets: &BTreeSet<OsString>) -> Option<Process> {
    let socket = marked(pid)?;
    let name = socket.file_name()?;
    if socket.parent() != Some(folder) && !sockets.contains(name) {
        return None;
    }
    let process = Process::found(pid, folder.join(name)).ok()?;
    // Order: looked at once more when it can be no other any longer.
    (marked(pid)? == socket).then_some(process)
}

/// The path that a process carries in its environment. A zombie has none.
fn marked(pid: Pid) -> Option<PathBuf> {
    let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
    let entries = environment.split(|byte| *byte == 0);
    let mut paths = entries.filter_map(|entry| entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="));
    paths.next().map(|path| PathBuf::from(OsStr::from_bytes(path)))
}

fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| pid.as_raw_nonzero().get().unsigned_abs() != std::process::id())
}
