//! The control groups of instances, on cgroup v1 and v2 (cgroups(7), and the kernel's cgroup-v2.rst and cgroup-v1/): made,
//! entered and removed by the shim, and cleared by a daemon where that shim was killed. They hold limits; an instance
//! without any has one all the same, where that is permitted: nobody leaves a group by a fork, a session or another
//! environment, so whatever belongs to it is found. Blocking, microseconds; no process is waited for here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Limits;
use crate::remains;

mod hierarchy;

use hierarchy::{Controller, Hierarchy, Version};

/// What the name of every group of ours begins with: `atoll.<run folder>.<service>.<index>.<life>`.
const PREFIX: &str = "atoll.";

/// The file that lists the processes of a group, and takes a new one; `0` is whoever writes.
const PROCS: &str = "cgroup.procs";

/// Limit: the least memory a group has while the shim is in it: a limit that kills the shim would end the wrong one.
const ROOM_BYTES: u64 = 8 << 20;

/// In how many microseconds a share of CPU time is to be used, and the least share that the kernel takes.
const CPU_PERIOD_US: u64 = 100_000;
const CPU_QUOTA_US_MIN: u64 = 1_000;

/// Limit: groups that are looked at below one of ours, for an instance may make some of its own.
const NESTED_MAX: usize = 1024;

/// What helps where limits cannot hold.
const HINT: &str = "start Atoll where it may make control groups: as root, or by `systemd-run --user --scope`";

/// The group that an instance shall be in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    name: String,
    limits: Limits,
}

impl Asked {
    pub(crate) fn new(run_dir: &Path, (service, instance): (&str, u32), life: &str, limits: Limits) -> Self {
        Self { name: format!("{}{service}.{instance}.{life}", prefix(run_dir)), limits }
    }

    /// Where it was made by this process or by one that is in the same groups.
    pub(crate) fn find(&self) -> Vec<PathBuf> {
        named(&self.name)
    }
}

/// The groups of one instance: one in each hierarchy that a limit of it needs, which is a single one on v2; and one in any
/// hierarchy where there would be none.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    /// Why limits do not hold.
    lacks: Vec<String>,
}

#[derive(Debug)]
struct Group {
    version: Version,
    controllers: Vec<Controller>,
    path: PathBuf,
    /// Where the shim is at home.
    home: PathBuf,
    settings: Vec<Setting>,
    memory_bytes: Option<u64>,
}

/// What is written to a file of a group.
#[derive(Debug)]
struct Setting {
    file: &'static str,
    /// While the shim is in the group as well.
    during: String,
    after: String,
    need: Need,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Needed,
    /// Not every kernel has it.
    Welcome,
}

impl Groups {
    /// Makes what is asked for as far as that is permitted.
    pub(crate) fn make(asked: &Asked) -> Self {
        Self::make_in(asked, &hierarchy::load())
    }

    fn make_in(asked: &Asked, hierarchies: &[Hierarchy]) -> Self {
        let mut made = Self::default();
        let mut wanted: Vec<Controller> = Controller::ALL.into_iter().filter(|c| has(asked.limits, *c)).collect();
        for hierarchy in hierarchies {
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                wanted.into_iter().partition(|c| hierarchy.controllers.contains(c));
            wanted = elsewhere;
            if here.is_empty() {
                continue;
            }
            match Group::make(asked, hierarchy, &here) {
                Ok(group) => made.groups.push(group),
                Err(why) => made.lacks.push(why),
            }
        }
        if !wanted.is_empty() {
            made.lacks.push(format!("no hierarchy that can be reached controls {}", names(&wanted)));
        }
        if made.groups.is_empty() {
            // Nobody has asked for it: what is not permitted is not said.
            made.groups.extend(by_cost(hierarchies).find_map(|hierarchy| Group::make(asked, hierarchy, &[]).ok()));
        }
        made
    }

    /// Moves this process, which has one thread, into the groups, so that whoever it spawns begins there. What the kernel
    /// keeps for it meanwhile, some KiB, stays on the account of the groups.
    pub(crate) fn enter(&mut self) {
        let Self { groups, lacks } = self;
        groups.retain(|group| match write(&group.path, PROCS, "0") {
            Ok(()) => true,
            Err(why) => {
                let _ = fs::remove_dir(&group.path);
                if !group.controllers.is_empty() {
                    lacks.push(format!("{}: {why}", names(&group.controllers)));
                }
                false
            }
        });
    }

    /// Moves this process back to where it came from, and lets the limits hold as they are meant.
    ///
    /// # Errors
    /// What was spawned is beyond a limit already, and the kernel does not set it.
    pub(crate) fn leave(&self) -> Result<(), String> {
        for group in &self.groups {
            // That it may was looked at before. If it fails all the same, it stays in: it is never killed with the group.
            let _ = write(&group.home, PROCS, "0");
        }
        let late = |setting: &&Setting| setting.during != setting.after;
        for (group, setting) in self.groups.iter().flat_map(|g| g.settings.iter().filter(late).map(move |s| (g, s))) {
            match write(&group.path, setting.file, &setting.after) {
                Err(why) if setting.need == Need::Needed => {
                    return Err(format!("its limit is too low for it to start: {why}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Why not every limit holds, with what to do; `None` when all do.
    pub(crate) fn lack(&self) -> Option<String> {
        (!self.lacks.is_empty()).then(|| format!("{}; {HINT}", self.lacks.join("; ")))
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.groups.iter().map(|group| group.path.clone()).collect()
    }

    /// The limit of memory in bytes, if a process was killed for it.
    pub(crate) fn out_of_memory(&self) -> Option<u64> {
        let group = self.groups.iter().find(|group| group.memory_bytes.is_some())?;
        let text = |file| fs::read_to_string(group.path.join(file)).unwrap_or_default();
        let kills = match group.version {
            Version::V1 => field(&text("memory.oom_control"), "oom_kill")
                // Before Linux 4.13: how often the limit was hit.
                .or_else(|| text("memory.failcnt").trim().parse().ok()),
            Version::V2 => field(&text("memory.events"), "oom_kill"),
        };
        group.memory_bytes.filter(|_| kills.is_some_and(|kills| kills > 0))
    }
}

impl Group {
    fn make(asked: &Asked, hierarchy: &Hierarchy, wanted: &[Controller]) -> Result<Self, String> {
        let mut why = String::new();
        for base in &hierarchy.bases {
            match Self::make_below(base, asked, hierarchy, wanted) {
                Ok(group) => return Ok(group),
                Err(error) => why = error,
            }
        }
        Err(format!("{}: {why}", names(wanted)))
    }

    fn make_below(base: &Path, asked: &Asked, from: &Hierarchy, wanted: &[Controller]) -> Result<Self, String> {
        let procs = from.own.join(PROCS);
        access(&procs, Access::WRITE_OK).map_err(|errno| said(&procs, &errno.into()))?;
        if from.version == Version::V2 {
            pass_on(base, from, wanted)?;
        }
        let path = base.join(&asked.name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(said(&path, &error)),
            _ => {}
        }
        let settings: Vec<Setting> =
            wanted.iter().flat_map(|controller| settings(from.version, *controller, asked.limits)).collect();
        for setting in &settings {
            match write(&path, setting.file, &setting.during) {
                Err(why) if setting.need == Need::Needed => {
                    let _ = fs::remove_dir(&path);
                    return Err(why);
                }
                _ => {}
            }
        }
        let memory_bytes = asked.limits.memory_bytes.filter(|_| wanted.contains(&Controller::Memory));
        let (version, controllers, home) = (from.version, wanted.to_vec(), from.own.clone());
        Ok(Self { version, controllers, path, home, settings, memory_bytes })
    }
}

/// Those in which a group without limits costs least first: one of v2 is killed as one, and one that counts nothing but
/// processes takes no account of memory.
fn by_cost(hierarchies: &[Hierarchy]) -> impl Iterator<Item = &Hierarchy> {
    let is_small = |hierarchy: &Hierarchy| hierarchy.controllers == [Controller::Pids];
    let mut all: Vec<&Hierarchy> = hierarchies.iter().collect();
    all.sort_by_key(|hierarchy| (hierarchy.version != Version::V2, !is_small(hierarchy)));
    all.into_iter()
}

/// Sees to it that groups below `base` get the controllers. Of v2.
fn pass_on(base: &Path, from: &Hierarchy, wanted: &[Controller]) -> Result<(), String> {
    const FILE: &str = "cgroup.subtree_control";
    let given = hierarchy::list(&base.join(FILE));
    let lacking = wanted.iter().filter(|controller| given.iter().all(|name| name != controller.name()));
    for controller in lacking {
        if base != from.own {
            return Err(format!("{} is not given the controller", base.display()));
        }
        // No group but the root can pass on while it has processes, as this one has us.
        write(base, FILE, &format!("+{}", controller.name()))?;
    }
    Ok(())
}

fn has(limits: Limits, controller: Controller) -> bool {
    match controller {
        Controller::Cpu => limits.cpu_millis.is_some(),
        Controller::Memory => limits.memory_bytes.is_some(),
        Controller::Pids => limits.pids.is_some(),
    }
}

/// How a limit is written down.
fn settings(version: Version, controller: Controller, limits: Limits) -> Vec<Setting> {
    let both = |file, value: String, need| Setting { file, during: value.clone(), after: value, need };
    match controller {
        Controller::Cpu => {
            let millis = u64::from(limits.cpu_millis.unwrap_or_default());
            let share = |period_us: u64| period_us * millis / 1000;
            let period_us = if share(CPU_PERIOD_US) < CPU_QUOTA_US_MIN { CPU_PERIOD_US * 10 } else { CPU_PERIOD_US };
            let quota_us = share(period_us).max(CPU_QUOTA_US_MIN);
            match version {
                Version::V1 => vec![
                    both("cpu.cfs_period_us", period_us.to_string(), Need::Needed),
                    both("cpu.cfs_quota_us", quota_us.to_string(), Need::Needed),
                ],
                Version::V2 => vec![both("cpu.max", format!("{quota_us} {period_us}"), Need::Needed)],
            }
        }
        Controller::Memory => {
            let bytes = limits.memory_bytes.unwrap_or_default();
            let (during, after) = (bytes.max(ROOM_BYTES).to_string(), bytes.to_string());
            let limit = |file, need| Setting { file, during: during.clone(), after: after.clone(), need };
            match version {
                // Order: memory and swap together must never be below memory alone.
                Version::V1 => vec![
                    limit("memory.limit_in_bytes", Need::Needed),
                    limit("memory.memsw.limit_in_bytes", Need::Welcome),
                ],
                Version::V2 => vec![
                    limit("memory.max", Need::Needed),
                    both("memory.swap.max", "0".to_owned(), Need::Welcome),
                    both("memory.oom.group", "1".to_owned(), Need::Welcome),
                ],
            }
        }
        Controller::Pids => {
            let pids = u64::from(limits.pids.unwrap_or_default());
            let (during, after) = ((pids + 1).to_string(), pids.to_string());
            vec![Setting { file: "pids.max", during, after, need: Need::Needed }]
        }
    }
}

/// Those paths that can be groups of this life; what stands in a file or a message is not believed.
pub(crate) fn of_life(paths: &[PathBuf], life: &str) -> Vec<PathBuf> {
    let is_plain = |path: &Path| path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    let is_of = |path: &Path| Name::parse(path).is_some_and(|name| name.life == life);
    paths.iter().filter(|path| is_plain(path) && is_of(path)).cloned().collect()
}

/// The groups of this folder's instances in the places where they would be made by this process.
pub(crate) fn of_folder(run_dir: &Path) -> Vec<PathBuf> {
    named(&prefix(run_dir))
}

fn named(prefix: &str) -> Vec<PathBuf> {
    let bases: Vec<PathBuf> = hierarchy::load().into_iter().flat_map(|hierarchy| hierarchy.bases).collect();
    let entries = bases.iter().flat_map(|base| fs::read_dir(base).into_iter().flatten().flatten());
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path()).collect()
}

/// The processes in these groups, and in those that an instance made below them; never this one.
pub(crate) fn members(paths: &[PathBuf]) -> BTreeSet<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut members: BTreeSet<i32> = paths.iter().flat_map(|path| tree(path)).flat_map(|path| listed(&path)).collect();
    members.remove(&own);
    // 0 is one of another namespace of pids.
    members.remove(&0);
    members
}

/// Kills every process in these groups that is there now; more may come where nothing holds forks up.
pub(crate) fn kill(paths: &[PathBuf]) {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    for path in paths {
        // Where there are such files: nobody forks any more, and whoever ends has the time to do it.
        for (file, text) in [("pids.max", "0"), ("cpu.max", "max"), ("cpu.cfs_quota_us", "-1")] {
            let _ = write(path, file, text);
        }
        // v2 since Linux 5.14: all at once.
        let is_inside = tree(path).iter().any(|path| listed(path).contains(&own));
        if !is_inside && write(path, "cgroup.kill", "1").is_ok() {
            continue;
        }
        for pid in members(std::slice::from_ref(path)).into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Removes groups in which nobody is left; says whether none is there any more.
pub(crate) fn remove(paths: &[PathBuf]) -> bool {
    for path in paths.iter().flat_map(|path| tree(path).into_iter().rev()) {
        // Busy as long as a process of it is about to end.
        let _ = fs::remove_dir(path);
    }
    !paths.iter().any(|path| path.exists())
}

/// What the name of a group says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) service: String,
    pub(crate) instance: u32,
    pub(crate) life: String,
}

impl Name {
    pub(crate) fn parse(path: &Path) -> Option<Self> {
        let mut parts = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').skip(1);
        let (service, instance, life) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        let is_whole = parts.next().is_none() && !service.is_empty() && !life.is_empty();
        is_whole.then(|| Self { service: service.to_owned(), instance, life: life.to_owned() })
    }
}

/// A short name of the folder: a path may be longer than the name of a group can be.
fn prefix(run_dir: &Path) -> String {
    let digest = Sha256::digest(remains::mark(run_dir).as_encoded_bytes());
    let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{short}.")
}

/// A group and those below it, each before those below it.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while next < found.len() && found.len() < NESTED_MAX {
        let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let folders: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
        found.extend(folders);
        next += 1;
    }
    found
}

fn listed(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join(PROCS)).unwrap_or_default();
    text.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// The number of a line `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Never makes a file: what is no control group has none of these.
fn write(group: &Path, file: &str, text: &str) -> Result<(), String> {
    let path = group.join(file);
    let written = File::options().write(true).open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| said(&path, &error))
}

fn said(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn names(controllers: &[Controller]) -> String {
    controllers.iter().map(|controller| controller.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
