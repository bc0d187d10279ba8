//! Which hierarchies of control groups there are, and where this process is in each: /proc/self/cgroup (cgroups(7)) and
//! /proc/self/mountinfo (proc_pid_mountinfo(5)). Reads only; `cgroup` makes groups below what is found here.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::PREFIX;

/// What a limit needs the kernel's help for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Memory,
    Pids,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// One tree of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Those that groups of it can have; of v2, where v1 has them all, none.
    pub(super) controllers: Vec<Controller>,
    /// The group that this process is in.
    pub(super) own: PathBuf,
    /// Where groups may be made, the better place first: below the own one, and on v2, where a group with processes
    /// cannot pass controllers on, beside it.
    pub(super) bases: Vec<PathBuf>,
}

/// Those that can be seen from here.
pub(super) fn load() -> Vec<Hierarchy> {
    let [groups, mounts] = ["/proc/self/cgroup", "/proc/self/mountinfo"].map(fs::read_to_string);
    parse(&groups.unwrap_or_default(), &mounts.unwrap_or_default())
}

/// The same of these two texts. Where several mounts show one hierarchy, the first that shows the own group.
pub(super) fn parse(groups: &str, mounts: &str) -> Vec<Hierarchy> {
    let memberships: Vec<(Vec<&str>, &Path)> = groups.lines().filter_map(membership).collect();
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let Some((_, group)) = memberships.iter().find(|(names, _)| mount.shows(names)) else { continue };
        // A group outside of what is mounted, or outside of this namespace (`/..`), cannot be reached.
        let Ok(below) = group.strip_prefix(&mount.root) else { continue };
        if below.components().any(|part| part == Component::ParentDir) {
            continue;
        }
        let own: PathBuf = mount.point.join(below).components().collect();
        let hierarchy = match mount.version {
            Version::V1 => {
                let named = |c: &Controller| mount.options.iter().any(|option| option == c.name());
                let controllers = Controller::ALL.into_iter().filter(named).collect();
                Hierarchy { version: Version::V1, controllers, bases: vec![own.clone()], own }
            }
            Version::V2 => {
                let given = list(&own.join("cgroup.controllers"));
                let named = |c: &Controller| given.iter().any(|name| name == c.name());
                let controllers = Controller::ALL.into_iter().filter(named).collect();
                let beside = own.parent().filter(|_| own != mount.point && !is_limited(&own));
                let bases = [Some(own.as_path()), beside].into_iter().flatten().map(Path::to_owned).collect();
                Hierarchy { version: Version::V2, controllers, own, bases }
            }
        };
        let is_new =
            !found.iter().any(|known| known.version == hierarchy.version && known.controllers == hierarchy.controllers);
        // One of v1 without any of these is somebody else's: systemd's, or of a kind that groups are never made in.
        if is_new && (hierarchy.version == Version::V2 || !hierarchy.controllers.is_empty()) {
            found.push(hierarchy);
        }
    }
    found
}

/// The words of a file that lists controllers.
pub(super) fn list(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
}

/// Whether what runs beside this group would escape from what somebody has laid down for it.
fn is_limited(own: &Path) -> bool {
    let is_ours = own.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    let has_limit = |file| fs::read_to_string(own.join(file)).is_ok_and(|limit| !limit.starts_with("max"));
    is_ours || has_limit("memory.max") || has_limit("cpu.max")
}

/// A line of /proc/self/cgroup: `4:memory:/path`, or `0::/path` for v2.
fn membership(line: &str) -> Option<(Vec<&str>, &Path)> {
    let mut fields = line.splitn(3, ':');
    let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
    let names = if number == "0" { Vec::new() } else { names.split(',').collect() };
    Some((names, Path::new(path)))
}

struct Mount {
    version: Version,
    /// Which part of the hierarchy is mounted.
    root: PathBuf,
    point: PathBuf,
    /// Of v1, among others the names of its controllers.
    options: Vec<String>,
}

impl Mount {
    /// `31 23 0:28 /root /mount/point rw,relatime shared:1 - cgroup cgroup rw,memory`
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let version = match after.next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let options = after.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
        let mut before = before.split(' ').skip(3);
        let (root, point) = (unescape(before.next()?)?, unescape(before.next()?)?);
        Some(Self { version, root: root.into(), point: point.into(), options })
    }

    /// Whether a membership is one of its hierarchy.
    fn shows(&self, names: &[&str]) -> bool {
        match self.version {
            Version::V1 => names.iter().any(|name| self.options.iter().any(|option| option == name)),
            Version::V2 => names.is_empty(),
        }
    }
}

/// Spaces and the like are written as three octal digits.
fn unescape(text: &str) -> Option<String> {
    let mut pieces = text.split('\\');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(3)?;
        bytes.push(u8::from_str_radix(digits, 8).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    // Invariant: every path from here is text, so that it can be a string of JSON.
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(groups: &str, mounts: &str) -> Vec<String> {
        let show = |hierarchy: Hierarchy| {
            let names: Vec<&str> = hierarchy.controllers.iter().map(|controller| controller.name()).collect();
            format!("{:?} {} {}", hierarchy.version, names.join(","), hierarchy.own.display())
        };
        parse(groups, mounts).into_iter().map(show).collect()
    }

    #[test]
    fn the_own_group_is_found_in_each_hierarchy_of_version_1() {
        let groups = "9:name=systemd:/\n8:pids:/\n4:memory:/a/b\n2:cpu,cpuacct:/docker/x/y\n0::/\n";
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 /docker/x /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /with\\040space/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /again/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
";
        let expected =
            ["V1 cpu /sys/fs/cgroup/cpu,cpuacct/y", "V1 memory /with space/memory/a/b", "V1 pids /sys/fs/cgroup/pids"];
        assert_eq!(found(groups, mounts), expected);
    }

    #[test]
    fn a_group_that_is_not_mounted_or_not_of_this_namespace_is_not_there() {
        let mounts = "35 31 0:32 /x /m rw - cgroup cgroup rw,memory\n36 31 0:33 / /p rw - cgroup cgroup rw,pids\n";
        assert_eq!(found("4:memory:/y\n5:pids:/../z\n", mounts), [""; 0]);
        for nonsense in ["", "\n\n", "4:memory", ":::", "a b c - cgroup", "1 2 3 /\\9 /m rw - cgroup cgroup rw,memory"]
        {
            assert_eq!(found(nonsense, mounts), [""; 0]);
            assert_eq!(found("4:memory:/x\n", nonsense), [""; 0]);
        }
    }

    #[test]
    fn beside_the_own_group_is_a_place_only_where_that_has_no_limit_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", dir.path().display());
        let own = dir.path().join("slice/scope");
        fs::create_dir_all(&own).unwrap();
        let bases = || parse("0::/slice/scope\n", &mounts).into_iter().map(|found| found.bases).collect::<Vec<_>>();
        let both = vec![own.clone(), dir.path().join("slice")];
        assert_eq!(bases(), std::slice::from_ref(&both), "also without a controller");
        fs::write(own.join("cgroup.controllers"), "cpuset memory pids\n").unwrap();
        assert_eq!(bases(), std::slice::from_ref(&both));
        for (limit, expected) in [("max\n", both), ("4096\n", vec![own.clone()])] {
            fs::write(own.join("memory.max"), limit).unwrap();
            assert_eq!(bases(), [expected]);
        }
        fs::write(dir.path().join("cgroup.controllers"), "memory\n").unwrap();
        assert_eq!(parse("0::/\n", &mounts)[0].bases, [dir.path()]);
    }
}
