//! Version 2 in folders that look like it; version 1 and the processes are in `tests/it/limits.rs`, in real groups.

use super::*;

const MIB: u64 = 1 << 20;

fn all() -> Limits {
    Limits { cpu_millis: Some(1500), memory_bytes: Some(128 * MIB), pids: Some(20) }
}

fn asked(limits: Limits) -> Asked {
    Asked { name: "atoll.0.a.0.life".to_owned(), limits }
}

/// A hierarchy of version 2 in which this process is in `/slice/scope`.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = Self { dir };
        fs::create_dir_all(fake.path("slice/scope")).unwrap();
        fake.put(
            "slice/scope",
            &[("cgroup.controllers", "cpu memory pids"), (PROCS, ""), ("cgroup.subtree_control", "")],
        );
        fake.put("slice", &[("cgroup.subtree_control", "cpu memory pids")]);
        fake
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn put(&self, path: &str, files: &[(&str, &str)]) {
        for (file, text) in files {
            fs::write(self.path(path).join(file), text).unwrap();
        }
    }

    /// As the kernel does it: a new group has its files at once.
    fn expect_group(&self, base: &str, files: &[&str]) -> String {
        let path = format!("{base}/atoll.0.a.0.life");
        fs::create_dir(self.path(&path)).unwrap();
        files.iter().for_each(|file| self.put(&path, &[(file, "")]));
        path
    }

    fn make(&self, limits: Limits) -> Groups {
        let mounts = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", self.dir.path().display());
        Groups::make_in(&asked(limits), &hierarchy::parse("0::/slice/scope\n", &mounts))
    }

    fn text(&self, path: &str, file: &str) -> String {
        fs::read_to_string(self.path(path).join(file)).unwrap()
    }
}

const FILES: [&str; 6] = [PROCS, "memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max"];

#[test]
fn a_group_of_version_2_is_made_beside_the_own_one_that_has_processes() {
    let fake = Fake::new();
    // The kernel refuses what this stands for: the own group cannot pass anything on.
    fs::remove_file(fake.path("slice/scope/cgroup.subtree_control")).unwrap();
    let path = fake.expect_group("slice", &FILES);
    let mut groups = fake.make(all());
    assert_eq!((groups.lack(), groups.paths()), (None, vec![fake.path(&path)]));
    groups.enter();
    let texts = || FILES.map(|file| fake.text(&path, file));
    assert_eq!(texts(), ["0", "134217728", "0", "1", "150000 100000", "21"]);
    groups.leave().unwrap();
    assert_eq!(fake.text("slice/scope", PROCS), "0");
    assert_eq!(fake.text(&path, "pids.max"), "20");
    for (events, expected) in [
        ("low 0\noom 3\noom_kill 0\noom_group_kill 0\n", None),
        ("low 0\noom 3\noom_kill 2\noom_group_kill 1\n", Some(128 * MIB)),
        ("", None),
    ] {
        fake.put(&path, &[("memory.events", events)]);
        assert_eq!(groups.out_of_memory(), expected, "{events}");
    }
}

#[test]
fn a_group_of_version_2_is_made_below_the_own_one_where_that_passes_the_controllers_on() {
    let fake = Fake::new();
    fake.put("slice/scope", &[("cgroup.subtree_control", "memory pids")]);
    let path = fake.expect_group("slice/scope", &FILES);
    let groups = fake.make(Limits { cpu_millis: None, ..all() });
    assert_eq!((groups.lack(), groups.paths()), (None, vec![fake.path(&path)]));
}

#[test]
fn what_cannot_be_had_is_said_with_what_to_do() {
    let fake = Fake::new();
    fake.put("slice/scope", &[("cgroup.controllers", "memory")]);
    fs::remove_file(fake.path("slice/scope/cgroup.subtree_control")).unwrap();
    fs::remove_file(fake.path("slice/cgroup.subtree_control")).unwrap();
    let groups = fake.make(all());
    let to_be_found_by = |fake: &Fake| vec![fake.path("slice/scope/atoll.0.a.0.life")];
    assert_eq!(groups.paths(), to_be_found_by(&fake));
    let why = groups.lack().unwrap();
    let expected = "slice is not given the controller; no hierarchy that can be reached controls cpu, pids; ";
    assert!(why.contains(expected) && why.ends_with(HINT), "{why}");
    // No group at all, and one whose files are not what they should be.
    let nowhere = Groups::make_in(&asked(all()), &[]);
    assert!(nowhere.lack().unwrap().starts_with("no hierarchy that can be reached controls cpu, memory, pids; "));
    let fake = Fake::new();
    fake.put("slice/scope", &[("cgroup.subtree_control", "cpu memory pids")]);
    let groups = fake.make(all());
    assert!(groups.lack().unwrap().contains("No such file"));
    assert_eq!(groups.paths(), to_be_found_by(&fake));
    assert!(!fake.path("slice/atoll.0.a.0.life").exists());
}

#[test]
fn one_without_limits_has_a_group_where_it_may_and_nobody_hears_where_it_may_not() {
    let fake = Fake::new();
    let path = fake.expect_group("slice/scope", &[PROCS]);
    let mut groups = fake.make(Limits::default());
    assert_eq!((groups.lack(), groups.paths()), (None, vec![fake.path(&path)]));
    groups.enter();
    assert_eq!(fake.text(&path, PROCS), "0");
    groups.leave().unwrap();
    assert_eq!((groups.out_of_memory(), fake.text("slice/scope", PROCS).as_str()), (None, "0"));
    // Not entered: as if it had never been there.
    let fake = Fake::new();
    let mut groups = fake.make(Limits::default());
    groups.enter();
    assert_eq!((groups.lack(), groups.paths()), (None, Vec::new()));
    assert!(!fake.path("slice/scope/atoll.0.a.0.life").exists());
    let nowhere = Groups::make_in(&asked(Limits::default()), &[]);
    assert_eq!((nowhere.lack(), nowhere.paths()), (None, Vec::new()));
}

#[test]
fn the_name_of_a_group_tells_whose_it_is() {
    let name = Asked::new(Path::new("/run"), ("a", 0), "life", all()).name;
    let expected = Name { service: "a".to_owned(), instance: 0, life: "life".to_owned() };
    assert_eq!(Name::parse(&Path::new("/sys/fs/cgroup").join(&name)), Some(expected));
    assert!(name.starts_with(&prefix(Path::new("/run"))) && !name.starts_with(&prefix(Path::new("/run2"))));
}

#[test]
fn only_the_groups_of_a_life_are_taken_for_those() {
    let good = PathBuf::from("/sys/fs/cgroup/atoll.0.a.0.life");
    let bad = [
        "/sys/fs/cgroup",
        "/",
        "atoll.0.a.0.life",
        "/x/../atoll.0.a.0.life",
        "/x/atoll.0.a.0.other",
        "/x/atoll.0.a.0.",
    ];
    let all: Vec<PathBuf> = bad.iter().map(PathBuf::from).chain([good.clone()]).collect();
    assert_eq!(of_life(&all, "life"), [good]);
    assert!(of_life(&all, "").is_empty());
}

#[test]
fn a_limit_is_written_as_each_version_wants_it() {
    let written = |version, controller, limits| {
        let settings = settings(version, controller, limits).into_iter();
        settings.map(|s| format!("{}={} then {}", s.file, s.during, s.after)).collect::<Vec<_>>()
    };
    let share = |cpu_millis| written(Version::V2, Controller::Cpu, Limits { cpu_millis: Some(cpu_millis), ..all() });
    // No less than a millisecond of each period.
    for (millis, expected) in [(1, "1000 1000000"), (9, "9000 1000000"), (10, "1000 100000"), (2500, "250000 100000")] {
        assert_eq!(share(millis), [format!("cpu.max={expected} then {expected}")]);
    }
    let expected = ["cpu.cfs_period_us=100000 then 100000", "cpu.cfs_quota_us=150000 then 150000"];
    assert_eq!(written(Version::V1, Controller::Cpu, all()), expected);
    let small = Limits { memory_bytes: Some(MIB), ..all() };
    let expected = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
    assert_eq!(
        written(Version::V1, Controller::Memory, small),
        expected.map(|file| format!("{file}=8388608 then 1048576"))
    );
}
