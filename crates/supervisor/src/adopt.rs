//! What a daemon finds in the folder of the one before it: instances that go on beside their shims, the ends of those
//! that did not, and what cannot be taken over and is stopped. Called by whoever holds the folder's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use kit::Chain;
use kit::tasks::Tasks;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, timeout_at};

use crate::cgroup;
use crate::event::{Events, Kind};
use crate::link::{self, Link};
use crate::procfs;
use crate::remains::{self, Remains};
use crate::shim::folder::{Folder, Past, Stored};
use crate::shim::wire::{Order, ProcessId, Said, State};

/// From SIGTERM to SIGKILL where no daemon is there to say how long: nobody sends requests to these any more.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// Why something is stopped of which no file tells.
const UNKNOWN: &str = "the daemon that started it is gone";

/// Limit: from SIGKILL until a shim has said that nothing is left.
const KILL_MAX: Duration = Duration::from_secs(5);

/// What [`adopt`] found, for [`crate::Config::adopted`]. Dropped, every instance goes on as it is.
#[derive(Debug, Default)]
pub struct Adopted {
    pub(crate) links: Vec<Link>,
    pub(crate) pasts: Vec<(Folder, Past)>,
    stopped: Vec<Stopped>,
    /// Shims that did not answer before they were told to go on.
    woken: Vec<Woken>,
    damages: Vec<String>,
}

/// The shim of an instance, by its pid.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Woken {
    service: String,
    instance: u32,
    shim: u32,
}

/// A process that could not be taken over, or was not to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    pub service: String,
    pub instance: u32,
    pub pid: u32,
    /// In words.
    pub why: String,
}

/// What one folder holds.
#[derive(Debug, Default)]
struct Found {
    link: Option<Link>,
    past: Option<(Folder, Past)>,
    stopped: Option<Stopped>,
    woken: Option<Woken>,
    damages: Vec<String>,
}

/// Looks at everything that a former daemon left in this folder, connects to the shims that answer, and stops what
/// nobody looks after. Takes a few milliseconds where all is well; where shims hang or processes have to be stopped,
/// some seconds.
pub async fn adopt(run_dir: &Path) -> Adopted {
    let tasks = Tasks::default();
    Folder::tidy_all(run_dir);
    let folders = Folder::load_all(run_dir).into_iter();
    let looks: Vec<_> =
        folders.map(|(folder, service, instance)| tasks.spawn(look_at(folder, service, instance))).collect();
    let mut adopted = Adopted::default();
    for look in looks {
        // One that panicked is a defect, which the panic hook has said; the marks below find what it was about.
        let Ok(found) = look.await else { continue };
        adopted.links.extend(found.link);
        adopted.pasts.extend(found.past);
        adopted.stopped.extend(found.stopped);
        adopted.woken.extend(found.woken);
        adopted.damages.extend(found.damages);
    }
    adopted.links.sort_by(|a, b| key(a).cmp(&key(b)));
    let shims: Vec<i32> = adopted.links.iter().map(|link| link.hello.shim.pid).collect();
    let marked = remains::marked(&remains::mark(run_dir), &shims);
    remains::stop(&marked, GRACE).await;
    adopted.stopped.extend(marked.into_iter().map(|marked| Stopped {
        service: marked.service,
        instance: marked.instance,
        pid: marked.pid,
        why: UNKNOWN.to_owned(),
    }));
    let stopped = clear_groups(run_dir, &adopted.links).await;
    adopted.stopped.extend(stopped);
    adopted
}

/// Clears and removes the control groups that no shim looks after: of those that were killed, and whose files are gone.
async fn clear_groups(run_dir: &Path, links: &[Link]) -> Vec<Stopped> {
    let is_kept = |name: &cgroup::Name| links.iter().any(|link| link.hello.identity.life == name.life);
    let mut left: BTreeMap<cgroup::Name, Vec<PathBuf>> = BTreeMap::new();
    for path in cgroup::of_folder(run_dir) {
        if let Some(name) = cgroup::Name::parse(&path).filter(|name| !is_kept(name)) {
            left.entry(name).or_default().push(path);
        }
    }
    let mut stopped = Vec::new();
    for (cgroup::Name { service, instance, life }, groups) in left {
        let first = cgroup::members(&groups).first().copied();
        Remains { life, session: 0, child: None, groups }.clear().await;
        stopped.extend(first.map(|pid| Stopped {
            service,
            instance,
            pid: pid.unsigned_abs(),
            why: UNKNOWN.to_owned(),
        }));
    }
    stopped
}

/// The services of which instances go on, as far as their files say. Blocking, for a moment; changes nothing, so it is for
/// those who do not hold the folder's lock.
#[must_use]
pub fn left_running(run_dir: &Path) -> BTreeSet<String> {
    let runs = |folder: &Folder| {
        let state = folder.peek_state();
        state.is_some_and(|state| state.boot_id == procfs::boot_id() && state.started.process.is_running())
    };
    let folders = Folder::load_all(run_dir).into_iter();
    folders.filter(|(folder, ..)| runs(folder)).map(|(_, service, _)| service).collect()
}

/// Stops everything that was found: SIGTERM, three seconds, SIGKILL, with whatever descends from it. Gives every process
/// that was stopped, by this or before.
pub async fn stop_all(adopted: Adopted) -> Vec<Stopped> {
    let Adopted { links, pasts, mut stopped, .. } = adopted;
    for (folder, _) in pasts {
        folder.clear();
    }
    let tasks = Tasks::default();
    for link in links {
        stopped.extend(describe(&link, "asked to stop"));
        tasks.spawn(stop(link, Signal::TERM, GRACE));
    }
    tasks.finished().await;
    stopped
}

impl Adopted {
    /// The ports that the instances which go on were given: taken, and by whom they are meant for.
    #[must_use]
    pub fn ports(&self) -> BTreeSet<u16> {
        self.links.iter().map(|link| link.hello.identity.address.port()).collect()
    }

    /// Where those instances listen, with service and index.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, u32, SocketAddr)> {
        let identities = self.links.iter().map(|link| &link.hello.identity);
        identities.map(|identity| (identity.service.clone(), identity.instance, identity.address)).collect()
    }

    /// Says what is not taken over, and why, and what had to be woken for it.
    pub(crate) fn tell(&mut self, events: &Events) {
        for why in std::mem::take(&mut self.damages) {
            tracing::warn!(why, "the state of an instance cannot be read");
            events.emit("", None, Kind::StateFileDamaged { why });
        }
        for Woken { service, instance, shim } in std::mem::take(&mut self.woken) {
            tracing::warn!(service, instance, shim, "its shim did not answer and was told to go on");
            events.emit(&service, Some(instance), Kind::ShimFrozen { pid: shim });
            events.emit(&service, Some(instance), Kind::ShimAnswers { pid: shim });
        }
        for Stopped { service, instance, pid, why } in std::mem::take(&mut self.stopped) {
            tracing::warn!(service, instance, pid, why, "stopped what a former daemon left");
            events.emit(&service, Some(instance), Kind::LeftoverStopped { pid, why });
        }
        for (_, past) in &self.pasts {
            let (identity, exit) = (&past.identity, past.ended.exit());
            tracing::info!(service = identity.service, instance = identity.instance, %exit, "exited while no daemon was there");
            let kind = Kind::ExitedUnseen { exit, after_ms: lived_ms(past.started.at, past.ended.at) };
            events.emit_at(past.ended.at, &identity.service, Some(identity.instance), kind);
        }
    }
}

/// Stops one instance that nobody wants: the signal, the grace period, SIGKILL.
pub(crate) async fn stop(mut link: Link, signal: Signal, grace: Duration) {
    link.order(Order::Stop(signal.as_raw()));
    if hear_out(&mut link, Instant::now() + grace).await {
        return link.finish().await;
    }
    link.order(Order::Kill);
    if hear_out(&mut link, Instant::now() + KILL_MAX).await {
        return link.finish().await;
    }
    link.kill().await;
}

/// Whether it said in time that nothing is left.
async fn hear_out(link: &mut Link, deadline: Instant) -> bool {
    if matches!(link.hello.state, State::Gone { .. } | State::Failed { .. }) {
        return true;
    }
    loop {
        match timeout_at(deadline, link.next(|| false)).await {
            Ok(Ok(Said::Gone { .. })) => return true,
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return false,
        }
    }
}

pub(crate) fn describe(link: &Link, why: &str) -> Option<Stopped> {
    let identity = &link.hello.identity;
    let pid = link.hello.state.started()?.process.pid.unsigned_abs();
    Some(Stopped { service: identity.service.clone(), instance: identity.instance, pid, why: why.to_owned() })
}

pub(crate) fn lived_ms(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_millisecond().saturating_sub(from.as_millisecond())).unwrap_or(0)
}

fn key(link: &Link) -> (&str, u32) {
    (&link.hello.identity.service, link.hello.identity.instance)
}

/// Finds the shim of a folder; one that somebody has stopped goes on first, and is given by its pid then.
async fn find(folder: &Folder) -> Result<(Link, Option<u32>), link::Error> {
    match Link::find(folder.clone()).await {
        Err(link::Error::Silent) => {
            let state = folder.peek_state().filter(|state| state.boot_id == procfs::boot_id());
            let Some(state) = state else { return Err(link::Error::Silent) };
            state.shim.wake();
            let link = Link::find(folder.clone()).await?;
            Ok((link, Some(state.shim.pid.unsigned_abs())))
        }
        found => found.map(|link| (link, None)),
    }
}

async fn look_at(folder: Folder, service: String, instance: u32) -> Found {
    let mut found = Found::default();
    let link = find(&folder).await.map(|(link, woken)| {
        found.woken = woken.map(|shim| Woken { service: service.clone(), instance, shim });
        link
    });
    let why = match link {
        Ok(link) if key(&link) != (service.as_str(), instance) => {
            let why = format!("it is in the folder {}", folder.path().display());
            found.stopped = describe(&link, &why);
            stop(link, Signal::TERM, GRACE).await;
            return found;
        }
        Ok(link) => match &link.hello.state {
            State::Running { .. } | State::Leaving { .. } => {
                check(folder.load_state(), &mut found.damages);
                found.link = Some(link);
                return found;
            }
            State::Failed { .. } => {
                link.finish().await;
                return found;
            }
            // Its end is on disk, or will be nowhere: the shim ends with this.
            State::Gone { started, ended, last_lines } => {
                let past = Past {
                    version: crate::shim::wire::VERSION,
                    boot_id: procfs::boot_id(),
                    identity: link.hello.identity.clone(),
                    started: *started,
                    ended: *ended,
                    last_lines: last_lines.clone(),
                };
                link.finish().await;
                found.past = Some((folder, past));
                return found;
            }
        },
        Err(link::Error::Connect { .. } | link::Error::Closed) => "its shim was killed".to_owned(),
        Err(error) => Chain(&error).to_string(),
    };
    look_at_files(folder, (service, instance), why, found).await
}

/// There is no shim to talk to: what is left are files, and maybe processes.
async fn look_at_files(folder: Folder, (service, instance): (String, u32), why: String, mut found: Found) -> Found {
    if let Some(past) = check(folder.load_exit(), &mut found.damages) {
        found.past = Some((folder, past));
        return found;
    }
    if let Some(state) = check(folder.load_state(), &mut found.damages)
        && state.boot_id == procfs::boot_id()
    {
        // A shim that does not answer is of no use. The number of one that is gone may be another's session by now.
        let shim = state.shim;
        let session = if ProcessId::of(shim.pid) == Some(shim) { shim.pid } else { 0 };
        if let Some(pid) = Pid::from_raw(session) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let child = state.started.process;
        let remains = Remains { life: state.identity.life, session, child: Some(child), groups: state.groups };
        if remains.clear().await > 0 {
            found.stopped = Some(Stopped { service, instance, pid: child.pid.unsigned_abs(), why });
        }
    }
    folder.clear();
    found
}

fn check<T>(stored: Stored<T>, damages: &mut Vec<String>) -> Option<T> {
    match stored {
        Stored::Valid(content) => return Some(content),
        Stored::Damaged(why) => damages.push(why),
        Stored::Absent => {}
    }
    None
}
