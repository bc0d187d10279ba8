//! The process beside each instance: what it is, and what the worst of children can do to it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use supervisor::{Exit, Kind, Restart};
use testkit::wait::until;

use crate::fixture::{World, ended, instance, is_running, kill, sh, signal, words};

/// Limit: what a shim may keep for itself.
const PRIVATE_KIB_MAX: u64 = 2048;

/// The sum of what only this process has in memory.
fn private_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let private = text.lines().filter(|line| line.starts_with("Private_Clean") || line.starts_with("Private_Dirty"));
    private.map(|line| line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number")).sum()
}

fn descriptors(pid: i32) -> Vec<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").flatten();
    files.filter_map(|file| Some(std::fs::read_link(file.path()).ok()?.to_string_lossy().into_owned())).collect()
}

#[tokio::test]
async fn it_is_small_named_and_shows_nobody_what_it_was_told() {
    let world = World::new();
    let mut service = world.service("a", sh("echo up; exec sleep 1000"));
    service.environment.insert("KEY".to_owned(), "secret-value".to_owned());
    service.instances = (0..4).map(instance).collect();
    let running = world.run(vec![service]);
    running.start().await;
    running.ready("a").await;
    for index in 0..4 {
        let shim = running.shim(&world, &format!("a.{index}")).await;
        let words = std::fs::read_to_string(format!("/proc/{shim}/cmdline")).unwrap();
        assert_eq!(words, format!("supervisor\0shim\0a.{index}\0"));
        assert_eq!(std::fs::read(format!("/proc/{shim}/environ")).unwrap(), b"");
        assert_eq!(std::fs::read_to_string(format!("/proc/{shim}/comm")).unwrap(), "atoll-shim\n");
        let private = private_kib(shim);
        assert!(private <= PRIVATE_KIB_MAX, "{private} KiB");
        eprintln!("{private} KiB are private to a shim");
        // Two sockets, its pidfd, two pipes, its log: nothing of the supervisor came along, nor what it was told.
        let files = descriptors(shim);
        let count = |kind: &str| files.iter().filter(|file| file.contains(kind)).count();
        assert!((count("socket:"), count("pidfd")) == (2, 1) && count("memfd") == 0, "{files:?}");
    }
    running.drain().await;
}

#[tokio::test]
async fn one_that_is_killed_takes_its_instance_along_and_both_come_back() {
    let world = World::new();
    let script =
        "setsid sleep 1000 & (sleep 1000 & echo $! >> pids) & echo $$ >> pids; echo $! >> pids; exec sleep 1000";
    let running = world.run(vec![world.service("a", sh(script))]);
    running.start().await;
    running.ready("a").await;
    let pids = world.numbers("pids", 3).await;
    kill(running.shim(&world, "a.0").await.unsigned_abs());
    let lost = running.event("the loss", |event| matches!(event.kind, Kind::ShimLost { .. })).await;
    assert_eq!(lost.kind, Kind::ShimLost { why: "its shim was killed".to_owned() });
    assert_eq!(pids.iter().filter(|pid| is_running(**pid)).count(), 0);
    let again = running.first("a", "back", |i| i.ready && i.restarts == 1).await;
    assert!(is_running(i32::try_from(again.pid.unwrap()).unwrap()));
    running.drain().await;
    assert_eq!(world.folders(), [""; 0]);
}

#[tokio::test]
async fn one_that_hangs_holds_no_stop_up_for_ever() {
    let world = World::new();
    let mut service = world.service("a", sh("echo $$ > pids; exec sleep 1000"));
    service.stop_grace_period = Duration::from_millis(100);
    let running = world.run(vec![service]);
    running.start().await;
    running.ready("a").await;
    let pids = world.numbers("pids", 1).await;
    let shim = running.shim(&world, "a.0").await;
    signal(shim, Signal::STOP);
    running.drain().await;
    assert!(!is_running(pids[0]) && !is_running(shim));
}

#[tokio::test]
async fn one_that_somebody_stopped_is_told_and_its_instance_goes_on() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("exec sleep 1000"))]);
    running.start().await;
    let pid = running.ready("a").await.pid;
    let shim = running.shim(&world, "a.0").await;
    signal(shim, Signal::STOP);
    let told = running.event("the silence", |event| matches!(event.kind, Kind::ShimFrozen { .. })).await;
    assert_eq!(told.kind, Kind::ShimFrozen { pid: shim.unsigned_abs() });
    let why = format!("its shim, pid {shim}, does not answer");
    let seen = running.first("a", "neglected", |i| i.reason.as_deref() == Some(why.as_str())).await;
    assert!(seen.ready && seen.pid == pid);
    signal(shim, Signal::CONT);
    running.event("the answer", |event| matches!(event.kind, Kind::ShimAnswers { .. })).await;
    let seen = running.first("a", "as before", |i| i.reason.is_none()).await;
    assert!(seen.ready && seen.pid == pid && seen.restarts == 0);

    // Whoever must act through it lets it go on, whether the silence was noticed or not.
    signal(shim, Signal::STOP);
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    assert_eq!(running.state("a", "stopped").await.last_exit, Some(Exit::Signal(15)));
    assert!(!running.events().iter().any(|event| matches!(event.kind, Kind::ShimLost { .. } | Kind::Killed)));
    running.drain().await;
}

#[tokio::test]
async fn an_instance_that_ends_while_its_shim_is_stopped_is_started_again() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("exec sleep 1000"))]);
    running.start().await;
    let pid = running.ready("a").await.pid.unwrap();
    signal(running.shim(&world, "a.0").await, Signal::STOP);
    kill(pid);
    let again = running.first("a", "back", |i| i.ready && i.restarts == 1).await;
    assert_eq!(again.last_exit, Some(Exit::Signal(9)));
    let exits = running.events().iter().filter(|event| matches!(event.kind, Kind::Exited { .. })).count();
    assert_eq!(exits, 1);
    running.drain().await;
}

#[tokio::test]
async fn one_that_somebody_stopped_is_adopted_with_its_instance() {
    let world = World::new();
    let services = vec![world.service("a", sh("exec sleep 1000"))];
    let running = world.run(services.clone());
    running.start().await;
    let pid = running.ready("a").await.pid;
    let shim = running.shim(&world, "a.0").await;
    running.leave().await;
    signal(shim, Signal::STOP);
    let running = world.run_after_death(services).await;
    assert_eq!(running.ready("a").await.pid, pid);
    let pid = shim.unsigned_abs();
    let told: Vec<Kind> = running.events().into_iter().map(|event| event.kind.clone()).take(2).collect();
    assert_eq!(told, [Kind::ShimFrozen { pid }, Kind::ShimAnswers { pid }]);
    running.drain().await;
    ended(shim).await;
}

/// Holds a process up so that no signal lets it go on, where this machine lets us: a control group of version 1 that is
/// frozen. It goes on when this is dropped.
struct Freezer(std::path::PathBuf);

impl Freezer {
    fn hold(pid: i32) -> Option<Self> {
        let group = std::path::Path::new("/sys/fs/cgroup/freezer").join(format!("test.{pid}"));
        std::fs::create_dir(&group).ok()?;
        let freezer = Self(group);
        freezer.put("cgroup.procs", &pid.to_string())?;
        freezer.put("freezer.state", "FROZEN")?;
        Some(freezer)
    }

    fn put(&self, file: &str, text: &str) -> Option<()> {
        std::fs::write(self.0.join(file), text).ok()
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.put("freezer.state", "THAWED");
        let start = Instant::now();
        while std::fs::remove_dir(&self.0).is_err() && start.elapsed() < crate::fixture::BOUND {
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn what_one_that_hangs_does_not_do_is_done_without_it() {
    let world = World::new();
    let script = "trap 'echo asked > asked; exit 3' TERM; echo up > up; while :; do sleep 0.01; done";
    let services = vec![world.service("a", sh(script)), world.service("b", sh("exec sleep 1000"))];
    let running = world.run(services.clone());
    running.start().await;
    let (_, other) = (running.ready("a").await, running.ready("b").await.pid.unwrap());
    until("the trap", crate::fixture::BOUND, || async { world.text("up") }).await;
    let (shim, beside) = (running.shim(&world, "a.0").await, running.shim(&world, "b.0").await);
    let (Some(held), Some(_beside)) = (Freezer::hold(shim), Freezer::hold(beside)) else {
        eprintln!("nothing can be frozen on this machine");
        return running.drain().await;
    };
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    let stopped = running.state("a", "stopped").await;
    assert_eq!((stopped.last_exit, world.text("asked").as_deref()), (Some(Exit::Status(3)), Some("asked\n")));
    assert!(!running.events().iter().any(|event| event.service == "a" && matches!(event.kind, Kind::Killed)));
    drop(held);
    ended(shim).await;
    // One that is found hanging is of no use.
    running.leave().await;
    let running = world.run_after_death(services).await;
    assert!(!is_running(other.cast_signed()));
    let why = |event: &supervisor::Event| matches!(&event.kind, Kind::LeftoverStopped { why, .. } if why == "its shim does not answer");
    assert!(running.events().iter().any(|event| why(event)), "{:?}", running.events());
    running.drain().await;
}

#[tokio::test]
async fn one_whose_folder_was_removed_ends_with_its_instance() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("exec sleep 1000"))]);
    running.start().await;
    let pid = running.ready("a").await.pid.unwrap();
    let shim = running.shim(&world, "a.0").await;
    running.leave().await;
    std::fs::remove_dir_all(world.path("run")).unwrap();
    kill(pid);
    ended(shim).await;
}

#[tokio::test]
async fn orphans_are_reaped_while_the_instance_runs() {
    let world = World::new();
    let script = "for i in $(seq 200); do (setsid true &); done; echo done > done; exec sleep 1000";
    let running = world.run(vec![world.service("a", sh(script))]);
    running.start().await;
    running.ready("a").await;
    let shim = running.shim(&world, "a.0").await;
    let zombies = || {
        let is_orphan = |entry: &std::fs::DirEntry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(&format!("Z {shim} ")))
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter(is_orphan).count()
    };
    until("no zombie", crate::fixture::BOUND, || async {
        (world.text("done").is_some() && zombies() == 0).then_some(())
    })
    .await;
    running.drain().await;
}

/// Processes that were started by this instance and run, in whatever session.
fn of_instance(world: &World) -> usize {
    let mark = format!("{}={}", supervisor::RUN, world.path("run").canonicalize().expect("a folder").display());
    let is_ours = |entry: &std::fs::DirEntry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    std::fs::read_dir("/proc").expect("works").flatten().filter(is_ours).count()
}

#[tokio::test]
async fn one_that_forks_without_end_leaves_nothing() {
    // One that is always another process in another session, and one that becomes many.
    let chain = "
import os
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
";
    let tree = "
import os, time
for depth in range(6):
    if not os.fork():
        os.setsid()
        os.fork()
time.sleep(1000)
";
    for script in [chain, tree] {
        let world = World::new();
        // In the background: the leader stays.
        let mut service =
            world.service("a", words(&["sh", "-c", "python3 -c \"$1\" & echo up > up; exec sleep 1000", "sh", script]));
        service.stop_grace_period = Duration::from_secs(1);
        let running = world.run(vec![service]);
        running.start().await;
        running.ready("a").await;
        until("some processes", crate::fixture::BOUND, || async { (of_instance(&world) >= 2).then_some(()) }).await;
        let start = Instant::now();
        running.drain().await;
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(of_instance(&world), 0, "{script}");
    }
}

#[tokio::test]
async fn a_flood_while_nobody_is_there_is_bounded_and_holds_nothing_up() {
    let world = World::new();
    let mut service =
        world.service("a", sh("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"));
    service.restart = Restart::No;
    let (mut config, prepares) = world.config(vec![service.clone()]);
    config.log.file_bytes_max = 100_000;
    let running = crate::fixture::Running::new(config, prepares);
    running.start().await;
    running.ready("a").await;
    running.leave().await;
    let oldest = || world.path("logs/a.0.jsonl.4").exists();
    until("all the files", crate::fixture::BOUND, || async { oldest().then_some(()) }).await;
    let running = world.run_after_death(vec![service]).await;
    let shim = running.shim(&world, "a.0").await;
    let private = private_kib(shim);
    // What it reads and writes at full speed passes through buffers of a bounded size.
    assert!(private <= 2 * PRIVATE_KIB_MAX, "{private} KiB");
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    assert_eq!(running.state("a", "stopped").await.last_exit, Some(Exit::Signal(15)));
    running.drain().await;
    let files = std::fs::read_dir(world.path("logs")).unwrap().flatten();
    let bytes: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes < 5 * 200_000, "{bytes}");
    assert!(world.lines().iter().all(|line| line.len() == 52));
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_nothing_else() {
    let world = World::new();
    std::fs::create_dir(world.path("logs")).unwrap();
    std::os::unix::fs::symlink("/dev/full", world.path("logs/a.0.jsonl")).unwrap();
    let running = world.run(vec![world.service("a", sh("while :; do echo line; sleep 0.01; done"))]);
    let mut followed = running.handle.logs();
    running.start().await;
    running
        .event("lost lines", |event| matches!(&event.kind, Kind::LogsLost { why } if why.contains("No space")))
        .await;
    running.ready("a").await;
    assert_eq!(followed.recv().await.unwrap().text, "line");
    running.drain().await;
}
