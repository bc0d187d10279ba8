//! Limits in real control groups, where this machine lets us make them; where it does not, each test asserts that this is
//! said and that the instance runs without.

use std::fs;
use std::path::PathBuf;

use supervisor::{Change, Effect, Exit, Kind, Limits, Restart, Service, adopt, stop_all};

use crate::fixture::{Running, World, ended, instance, is_running, kill, sh, words};

const MIB: u64 = 1 << 20;

/// Takes more than 64 MiB, in small steps, and ends with a status of its own if it gets them.
const HUNGRY: &str = "
held = []
for _ in range(64):
    held.append(bytearray(b'x' * (1 << 20)))
raise SystemExit(3)
";

fn limits() -> Limits {
    Limits { cpu_millis: Some(500), memory_bytes: Some(32 * MIB), pids: Some(12) }
}

/// A service with a name of its own: groups are looked for by it.
fn limited(world: &World, name: &str, command: Vec<String>) -> Service {
    let mut service = world.service(&format!("{name}-{}", std::process::id()), command);
    service.limits = limits();
    service
}

/// All groups on this machine that belong to a service.
fn groups(service: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut next = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("atoll.") && name.contains(&format!(".{service}.")) {
                    found.push(entry.path());
                }
                next.push(entry.path());
            }
        }
    }
    found
}

/// The controllers, as the kernel names them, of which a process is in a group of ours; `""` for all those of v2.
fn controllers(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
    let ours = text.lines().filter(|line| line.contains("/atoll."));
    ours.flat_map(|line| line.split(':').nth(1).unwrap_or_default().split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Whether all limits of a process hold. If not, that must have been said, once.
async fn holds(running: &Running, pid: u32) -> bool {
    let held = controllers(pid.cast_signed());
    let has_all =
        held.iter().any(String::is_empty) || ["cpu", "memory", "pids"].iter().all(|c| held.iter().any(|h| h == c));
    if !has_all {
        let is_lack =
            |kind: &Kind| matches!(kind, Kind::LimitsUnavailable { why } if why.contains("start Atoll where it may"));
        running.event("what is lacking", |event| is_lack(&event.kind)).await;
        assert_eq!(running.events().iter().filter(|event| is_lack(&event.kind)).count(), 1);
        eprintln!("not every limit holds on this machine: {held:?}");
    }
    has_all
}

fn text(folders: &[PathBuf], files: &[&str]) -> String {
    let mut paths = folders.iter().flat_map(|folder| files.iter().map(|file| folder.join(file)));
    paths.find_map(|path| fs::read_to_string(path).ok()).expect("a limit").trim().to_owned()
}

#[tokio::test]
async fn each_instance_has_its_groups_from_its_first_moment_and_its_shim_is_in_none() {
    let world = World::new();
    let script = "cat /proc/self/cgroup > born.$PORT; exec sleep 1000";
    let mut service = limited(&world, "born", sh(script));
    service.instances = vec![instance(0), instance(1)];
    let name = service.name.clone();
    let ports: Vec<u16> = service.instances.iter().map(|instance| instance.address.port()).collect();
    let running = world.run(vec![service, world.service("free", sh("exec sleep 1000"))]);
    running.start().await;
    let (first, free) = (running.ready(&name).await.pid.unwrap(), running.ready("free").await.pid.unwrap());
    let second = running.see("the other", |snapshot| snapshot.service(&name)?.instances[1].pid).await;
    assert_eq!(controllers(running.shim(&world, &format!("{name}.0")).await), [""; 0]);
    if holds(&running, first).await {
        assert_eq!(controllers(free.cast_signed()).len(), 1, "without limits one to be found by");
        assert!(holds(&running, second).await);
        assert!(!running.events().iter().any(|event| matches!(event.kind, Kind::LimitsUnavailable { .. })));
        for (port, pid) in ports.iter().zip([first, second]) {
            let now = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let born =
                || world.text(&format!("born.{port}")).filter(|text| text.lines().count() == now.lines().count());
            assert_eq!(testkit::wait::until("its first look", crate::fixture::BOUND, || async { born() }).await, now);
        }
        let groups: Vec<PathBuf> =
            groups(&name).into_iter().filter(|path| path.to_string_lossy().contains(&format!("{name}.0."))).collect();
        assert_eq!(text(&groups, &["memory.max", "memory.limit_in_bytes"]), (32 * MIB).to_string());
        assert_eq!(text(&groups, &["pids.max"]), "12");
        assert!(["50000", "50000 100000"].contains(&text(&groups, &["cpu.max", "cpu.cfs_quota_us"]).as_str()));
        // An instance may make groups of its own, and be in one.
        for group in groups {
            fs::create_dir_all(group.join("inner/deeper")).unwrap();
            fs::write(group.join("inner/deeper/cgroup.procs"), first.to_string()).unwrap();
        }
    }
    running.drain().await;
    assert!(groups(&name).is_empty());
}

#[tokio::test]
async fn one_that_is_killed_for_its_memory_is_named_as_such() {
    // A leader, and a shell that says what became of its last command.
    for (name, command) in [
        ("hungry", words(&["python3", "-c", HUNGRY])),
        ("fed", words(&["sh", "-c", "python3 -c \"$1\"; exit $?", "sh", HUNGRY])),
    ] {
        let world = World::new();
        let mut service = limited(&world, name, command);
        service.restart = Restart::No;
        let name = service.name.clone();
        let idle = limited(&world, "idle", sh("exec sleep 1000"));
        let idle_name = idle.name.clone();
        let running = world.run(vec![service, idle]);
        running.start().await;
        let idle = running.ready(&idle_name).await.pid.unwrap();
        let status = running.state(&name, "failed").await;
        let (exit, reason) = match holds(&running, idle).await {
            true => (Exit::OutOfMemory { limit_bytes: 32 * MIB }, "killed: out of memory (its limit is 32 MiB)"),
            false => (Exit::Status(3), "ended with status 3"),
        };
        assert_eq!((status.last_exit, status.reason.as_deref()), (Some(exit), Some(reason)));
        running.event("the end", |event| matches!(event.kind, Kind::Exited { exit: of, .. } if of == exit)).await;
        running.drain().await;
        assert!(groups(&name).is_empty());
    }
}

#[tokio::test]
async fn one_that_was_killed_for_its_memory_while_nobody_was_there_is_named_as_such() {
    let world = World::new();
    let script = "while ! test -e end; do sleep 0.01; done; exec python3 -c \"$1\"";
    let mut service = limited(&world, "unseen", words(&["sh", "-c", script, "sh", HUNGRY]));
    service.restart = Restart::No;
    let name = service.name.clone();
    let running = world.run(vec![service.clone()]);
    running.start().await;
    let pid = running.ready(&name).await.pid.unwrap();
    let is_held = holds(&running, pid).await;
    let shim = running.shim(&world, &format!("{name}.0")).await;
    running.leave().await;
    fs::write(world.path("end"), "").unwrap();
    ended(shim).await;
    assert!(groups(&name).is_empty());
    let running = world.run_after_death(vec![service]).await;
    let exit = if is_held { Exit::OutOfMemory { limit_bytes: 32 * MIB } } else { Exit::Status(3) };
    assert_eq!(running.state(&name, "failed").await.last_exit, Some(exit));
    running.event("the end", |event| matches!(event.kind, Kind::ExitedUnseen { exit: of, .. } if of == exit)).await;
    running.drain().await;
}

#[tokio::test]
async fn one_that_is_killed_from_outside_is_not_said_to_have_run_out_of_memory() {
    let world = World::new();
    let mut service = limited(&world, "murdered", sh("exec sleep 1000"));
    service.restart = Restart::No;
    let name = service.name.clone();
    let running = world.run(vec![service]);
    running.start().await;
    kill(running.ready(&name).await.pid.unwrap());
    let status = running.state(&name, "failed").await;
    assert_eq!((status.last_exit, status.reason), (Some(Exit::Signal(9)), Some("ended with SIGKILL".to_owned())));
    running.drain().await;
}

#[tokio::test]
async fn the_least_limits_end_the_instance_and_never_its_shim() {
    let world = World::new();
    let mut service = limited(&world, "least", words(&["python3", "-c", HUNGRY]));
    service.restart = Restart::No;
    service.limits = Limits { cpu_millis: Some(1000), memory_bytes: Some(MIB), pids: Some(64) };
    let name = service.name.clone();
    let running = world.run(vec![service]);
    running.start().await;
    let status = running.state(&name, "failed").await;
    let reason = status.reason.unwrap();
    let is_unheld = running.events().iter().any(|event| matches!(event.kind, Kind::LimitsUnavailable { .. }));
    let is_named =
        reason == "killed: out of memory (its limit is 1 MiB)" || reason.contains("its limit is too low for it");
    assert!(is_named || (is_unheld && reason == "ended with status 3"), "{reason}");
    assert!(!running.events().iter().any(|event| matches!(event.kind, Kind::ShimLost { .. })));
    running.drain().await;
    assert!(groups(&name).is_empty());
}

#[tokio::test]
async fn one_that_forks_without_end_stays_within_its_number_and_leaves_nothing() {
    let world = World::new();
    let script = "
import os, time
for _ in range(100):
    try:
        if not os.fork():
            os.setsid()
            break
    except BlockingIOError:
        pass
time.sleep(1000)
";
    let service = limited(&world, "many", words(&["python3", "-c", script]));
    let name = service.name.clone();
    let running = world.run(vec![service]);
    running.start().await;
    let pid = running.ready(&name).await.pid.unwrap();
    let members = || -> Vec<i32> {
        let texts = groups(&name).into_iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
        texts.flat_map(|text| text.lines().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
    };
    let is_held = holds(&running, pid).await;
    let of = |pids: &[i32]| pids.iter().filter(|pid| is_running(**pid)).count();
    let full = testkit::wait::until("a full group", crate::fixture::BOUND, || async {
        let mut pids = members();
        pids.sort_unstable();
        pids.dedup();
        (!is_held || pids.len() == 12).then_some(pids)
    })
    .await;
    assert!(of(&full) <= 12);
    running.drain().await;
    assert_eq!((of(&full), groups(&name)), (0, Vec::new()));
}

/// One of whom nothing tells but its group.
const ESCAPING: &str = "(setsid env -i sh -c 'echo $$ > pids; exec sleep 1000' &); exec sleep 1000";

#[tokio::test]
async fn what_a_killed_shim_looked_after_is_found_by_its_group() {
    let world = World::new();
    let service = limited(&world, "stray", sh(ESCAPING));
    let name = service.name.clone();
    // Under the eyes of a supervisor.
    let running = world.run(vec![service.clone()]);
    running.start().await;
    let pid = running.ready(&name).await.pid.unwrap();
    let is_held = holds(&running, pid).await;
    let escaped = world.numbers("pids", 1).await[0];
    fs::remove_file(world.path("pids")).unwrap();
    kill(running.shim(&world, &format!("{name}.0")).await.unsigned_abs());
    running.event("the loss", |event| matches!(event.kind, Kind::ShimLost { .. })).await;
    let left = |pid: i32| match is_held {
        true => assert!(!is_running(pid)),
        // The limit of what can be found without.
        false if is_running(pid) => kill(pid.unsigned_abs()),
        false => {}
    };
    left(escaped);
    running.first(&name, "ready again", |i| i.ready && i.restarts == 1).await;
    running.leave().await;
    // While none was there, with its state and without it.
    for has_state in [true, false] {
        let escaped = world.numbers("pids", 1).await[0];
        fs::remove_file(world.path("pids")).unwrap();
        let running = match has_state {
            true => break_off(&world, &service, None).await,
            false => break_off(&world, &service, Some("state.json")).await,
        };
        left(escaped);
        running.start().await;
        running.ready(&name).await;
        running.leave().await;
    }
    let last = world.numbers("pids", 1).await[0];
    stop_all(adopt(&world.path("run")).await).await;
    assert!(!is_running(last));
    assert!(groups(&name).is_empty());
}

/// Kills the shim while no supervisor is there, and removes a file of it.
async fn break_off(world: &World, service: &Service, file: Option<&str>) -> Running {
    let running = world.run_after_death(vec![service.clone()]).await;
    running.ready(&service.name).await;
    let shim = running.shim(world, &format!("{}.0", service.name)).await;
    running.leave().await;
    kill(shim.unsigned_abs());
    ended(shim).await;
    if let Some(file) = file {
        fs::remove_file(world.path(&format!("run/instances/{}.0/{file}", service.name))).expect("removed");
    }
    world.run_after_death(vec![service.clone()]).await
}

#[tokio::test]
async fn changed_limits_replace_what_runs_now_or_at_the_next_start() {
    let world = World::new();
    let service = limited(&world, "changed", sh("exec sleep 1000"));
    let name = service.name.clone();
    let running = world.run(vec![service.clone()]);
    running.start().await;
    let before = running.ready(&name).await.pid;
    let mut other = service.clone();
    other.limits.memory_bytes = Some(64 * MIB);
    let changes =
        running.handle.apply(vec![other.clone()], [name.clone()].into(), supervisor::Refused::Retry).await.unwrap();
    assert_eq!(changes, [Change { service: name.clone(), effect: Effect::Restarted { why: vec!["limits"] } }]);
    let after = running.first(&name, "replaced", |i| i.ready && i.pid != before).await;
    running.leave().await;
    let running = world.run_after_death(vec![other]).await;
    assert_eq!(running.ready(&name).await.pid, after.pid);
    running.leave().await;
    let running = world.run_after_death(vec![service]).await;
    running.first(&name, "replaced", |i| i.ready && i.pid != after.pid).await;
    running.drain().await;
    assert!(groups(&name).is_empty());
}
