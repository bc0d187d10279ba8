//! What outlives a supervisor, and what the next one makes of it.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use registry::State;
use supervisor::{Exit, Kind, RUN, Restart, Service, adopt, stop_all};
use testkit::wait::until;

use crate::fixture::{BOUND, Running, World, ended, instance, is_running, kill, sh};

fn pid(status: &supervisor::InstanceStatus) -> i32 {
    i32::try_from(status.pid.expect("a pid")).expect("a pid")
}

/// Waits until a life has ended beside its shim, and that with it.
async fn told_on_disk(world: &World, name: &str) {
    until("the exit on disk", BOUND, || async { world.text(&format!("run/instances/{name}/exit.json")) }).await;
}

#[tokio::test]
async fn an_instance_outlives_its_supervisor_and_is_taken_over_as_it_is() {
    let world = World::new();
    let services = vec![world.server("a")];
    let running = world.run(services.clone());
    running.start().await;
    kill(running.ready("a").await.pid.unwrap());
    let before = running.first("a", "ready again", |i| i.ready && i.restarts == 1).await;
    running.leave().await;
    assert!(is_running(pid(&before)));

    let mut expected = before.clone();
    for _ in 0..3 {
        let running = world.run_after_death(services.clone()).await;
        // At once, and not only when a probe has succeeded.
        let snapshot = running.handle.snapshot();
        let after = &snapshot.service("a").unwrap().instances[0];
        // Which end its last life had is not kept.
        expected.last_exit = None;
        expected.last_lines.clear();
        assert_eq!(*after, expected);
        assert_eq!(running.registry.snapshot().services["a"][0].state, State::Ready);
        running.start().await;
        running.event("the adoption", |event| matches!(event.kind, Kind::Adopted { .. })).await;
        assert!(
            !running.events().iter().any(|event| matches!(event.kind, Kind::Started { .. } | Kind::Unready { .. }))
        );
        running.leave().await;
    }
    let running = world.run_after_death(services).await;
    running.drain().await;
    assert!(!is_running(pid(&before)) && world.folders().is_empty());
}

#[test]
fn a_supervisor_that_is_gone_without_a_word_is_followed_by_the_next() {
    let world = World::new();
    let services = vec![world.server("a")];
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let (first_running, before) = first.block_on(async {
        let running = world.run(services.clone());
        running.start().await;
        let before = running.ready("a").await;
        (running, before)
    });
    // A process that is killed has nothing left that acts; this waits for the same. Order: a handle that is let go of
    // before asks the supervisor to drain.
    first.shutdown_timeout(BOUND);
    drop(first_running);
    runtime().block_on(async {
        let running = world.run_after_death(services).await;
        let after = running.ready("a").await;
        assert_eq!((after.pid, after.started_at, after.restarts), (before.pid, before.started_at, 0));
        kill(after.pid.unwrap());
        running.first("a", "restarted", |i| i.ready && i.restarts == 1).await;
        running.drain().await;
    });
}

#[tokio::test]
async fn what_is_written_and_how_it_ends_while_nobody_is_there_is_kept() {
    let world = World::new();
    let script = "echo here; while ! test -e end; do sleep 0.01; done; echo alone; exit 7";
    let mut once = world.service("once", sh(script));
    once.restart = Restart::No;
    let services = vec![once, world.service("again", sh(script))];
    let running = world.run(services.clone());
    running.start().await;
    running.ready("once").await;
    running.ready("again").await;
    running.leave().await;
    std::fs::write(world.path("end"), "").unwrap();
    told_on_disk(&world, "once.0").await;
    told_on_disk(&world, "again.0").await;
    let lines = world.lines();
    assert_eq!(lines.iter().filter(|line| *line == "alone").count(), 2, "{lines:?}");
    std::fs::remove_file(world.path("end")).unwrap();

    let back = Timestamp::now();
    let running = world.run_after_death(services).await;
    let failed = running.state("once", "failed").await;
    assert_eq!((failed.last_exit, failed.restarts), (Some(Exit::Status(7)), 0));
    assert_eq!(
        (failed.reason.as_deref(), failed.last_lines),
        (Some("ended with status 7"), vec!["here".to_owned(), "alone".to_owned()])
    );
    let told =
        running.event("the exit", |event| matches!(event.kind, Kind::ExitedUnseen { exit: Exit::Status(7), .. })).await;
    assert!(told.ts <= back);
    // The policy goes on where it stood, and nobody had to ask for it.
    let again = running.ready("again").await;
    assert_eq!((again.restarts, again.last_exit), (1, Some(Exit::Status(7))));
    running.drain().await;
    assert_eq!(world.folders(), [""; 0]);
}

#[tokio::test]
async fn what_was_changed_is_replaced_and_what_is_not_declared_is_stopped() {
    let world = World::new();
    let mut changed = world.server("changed");
    let (mut scaled, mut moved) = (world.server("scaled"), world.server("moved"));
    scaled.instances.push(instance(1));
    let services = vec![changed.clone(), scaled.clone(), moved.clone(), world.server("gone"), world.server("same")];
    let running = world.run(services.clone());
    running.start().await;
    let mut pids = std::collections::BTreeMap::new();
    for service in &services {
        let ready = running.ready(&service.name).await;
        pids.insert(service.name.as_str(), pid(&ready));
    }
    let second = running.see("two", |s| s.service("scaled")?.instances[1].pid).await;
    running.leave().await;

    changed.environment.insert("NEW".to_owned(), "1".to_owned());
    scaled.instances.pop();
    moved.instances = vec![instance(0)];
    let services = vec![changed, scaled, moved, services[4].clone()];
    let running = world.run_after_death(services).await;
    ended(pids["gone"]).await;
    ended(i32::try_from(second).unwrap()).await;
    ended(pids["moved"]).await;
    let why = |service: &str| {
        running.events().iter().find_map(|event| match &event.kind {
            Kind::LeftoverStopped { why, .. } if event.service == service => Some(why.clone()),
            _ => None,
        })
    };
    assert_eq!(why("gone").as_deref(), Some("it is not declared any more"));
    assert_eq!(why("moved").as_deref(), Some("it listens on an address that is not its own any more"));
    let renewed = running.first("changed", "replaced", |i| i.ready && i.generation == 1).await;
    assert_ne!(pid(&renewed), pids["changed"]);
    for service in ["scaled", "same"] {
        let kept = running.ready(service).await;
        assert_eq!((pid(&kept), kept.generation), (pids[service], 0), "{service}");
    }
    running.drain().await;
    assert_eq!(world.folders(), [""; 0]);
}

async fn left(world: &World, services: &[Service]) -> (i32, i32) {
    let running = world.run(services.to_vec());
    running.start().await;
    let before = running.ready("a").await;
    let shim = running.shim(world, "a.0").await;
    running.leave().await;
    (pid(&before), shim)
}

#[tokio::test]
async fn a_state_file_that_cannot_be_read_is_said_and_a_living_shim_needs_none() {
    let world = World::new();
    let services = [world.server("a")];
    let (before, _) = left(&world, &services).await;
    let path = world.path("run/instances/a.0/state.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    let newer = whole.replace("\"version\": 1", "\"version\": 99");
    for content in ["", &whole[..whole.len() / 2], &newer, "\u{0}\u{0}"] {
        std::fs::write(&path, content).unwrap();
        let adopted = adopt(&world.path("run")).await;
        // The shim writes it once more for everyone who connects: what is damaged is damaged behind its back.
        std::fs::write(&path, content).unwrap();
        drop(adopted);
        let running = world.run_after_death(services.to_vec()).await;
        assert_eq!(pid(&running.ready("a").await), before, "{content}");
        running.leave().await;
    }
    let running = world.run_after_death(services.to_vec()).await;
    running.drain().await;
    assert!(!is_running(before));
}

#[tokio::test]
async fn files_of_a_dead_shim_that_cannot_be_read_are_moved_aside_and_nothing_runs_on() {
    let world = World::new();
    let services = [world.server("a")];
    for content in ["", "{\"version\": 99}", "{\"version\": 1, \"boot"] {
        let (before, shim) = left(&world, &services).await;
        kill(shim.unsigned_abs());
        ended(shim).await;
        assert!(is_running(before));
        for file in ["state.json", "exit.json"] {
            std::fs::write(world.path(&format!("run/instances/a.0/{file}")), content).unwrap();
        }
        let running = world.run_after_death(services.to_vec()).await;
        assert!(!is_running(before), "found by what it was given");
        let damages = running.events().into_iter().filter(|e| matches!(e.kind, Kind::StateFileDamaged { .. })).count();
        assert_eq!(damages, 2);
        assert!(world.path("run/instances/a.0/state.json.damaged").exists());
        running.start().await;
        running.ready("a").await;
        running.drain().await;
    }
    // It was told; whoever comes next has no use for it.
    for stray in ["a.1", "gone.0", "nobody"] {
        std::fs::create_dir(world.path(&format!("run/instances/{stray}"))).unwrap();
    }
    std::fs::write(world.path("run/instances/gone.0/state.json.new"), "{").unwrap();
    world.run_after_death(services.to_vec()).await.drain().await;
    assert_eq!(world.folders(), [""; 0]);
}

#[tokio::test]
async fn what_a_dead_shim_looked_after_is_stopped_with_the_reason() {
    let world = World::new();
    let script = "setsid env -i sleep 1000 & echo $! > pids; exec sleep 1000";
    let services = [world.service("a", sh(script))];
    let (before, shim) = left(&world, &services).await;
    let escaped = world.numbers("pids", 1).await[0];
    kill(shim.unsigned_abs());
    ended(shim).await;
    let running = world.run_after_death(services.to_vec()).await;
    assert!(!is_running(before));
    let told = |event: &supervisor::Event| matches!(&event.kind, Kind::LeftoverStopped { pid, why } if pid.cast_signed() == before && why == "its shim was killed");
    assert!(running.events().iter().any(|event| told(event)), "{:?}", running.events());
    running.drain().await;
    // The limit of what can be found: it left group, session, environment and its shim.
    kill(escaped.unsigned_abs());
}

#[tokio::test]
async fn a_process_that_only_has_the_same_pid_is_left_alone() {
    let world = World::new();
    let services = [world.server("a")];
    let (before, shim) = left(&world, &services).await;
    let path = world.path("run/instances/a.0/state.json");
    let state = std::fs::read_to_string(&path).unwrap();
    kill(shim.unsigned_abs());
    ended(shim).await;
    kill(before.unsigned_abs());
    ended(before).await;
    let mut other = Command::new("setsid").args(["sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
    let other_pid = other.id().to_string();
    std::fs::write(&path, state.replace(&shim.to_string(), &other_pid).replace(&before.to_string(), &other_pid))
        .unwrap();
    let running = world.run_after_death(services.to_vec()).await;
    assert!(!running.events().iter().any(|event| matches!(event.kind, Kind::LeftoverStopped { .. })));
    running.start().await;
    running.ready("a").await;
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
    running.drain().await;
}

#[tokio::test]
async fn an_exit_that_the_disk_does_not_take_waits_for_somebody_to_hear_it() {
    let world = World::new();
    let mut service = world.service("a", sh("while ! test -e end; do sleep 0.01; done; exit 7"));
    service.restart = Restart::No;
    let services = [service];
    let (before, shim) = left(&world, &services).await;
    // A folder where its new file should be: every write fails, whoever we are.
    std::fs::create_dir(world.path("run/instances/a.0/exit.json.new")).unwrap();
    std::fs::write(world.path("end"), "").unwrap();
    ended(before).await;
    let running = world.run_after_death(services.to_vec()).await;
    assert_eq!(running.state("a", "failed").await.last_exit, Some(Exit::Status(7)));
    ended(shim).await;
    running.drain().await;
}

#[tokio::test]
async fn everything_that_was_left_can_be_stopped_without_a_supervisor() {
    let world = World::new();
    let deaf = world.service("deaf", sh("trap '' TERM; echo $$ > pids; while :; do sleep 1; done"));
    let services = vec![world.server("a"), deaf];
    let running = world.run(services);
    running.start().await;
    let before = running.ready("a").await;
    let deaf = world.numbers("pids", 1).await[0];
    running.leave().await;
    let stopped = stop_all(adopt(&world.path("run")).await).await;
    let mut names: Vec<&str> = stopped.iter().map(|stopped| stopped.service.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "deaf"]);
    assert!(!is_running(pid(&before)) && !is_running(deaf) && world.folders().is_empty());
    assert_eq!(stop_all(adopt(&world.path("run")).await).await, []);
}

#[tokio::test]
async fn a_newer_supervisor_wins_and_the_older_touches_nothing_more() {
    let world = World::new();
    let services = vec![world.server("a")];
    let older = world.run(services.clone());
    older.start().await;
    let before = older.ready("a").await;
    let newer: Running = world.run_after_death(services).await;
    assert_eq!(newer.ready("a").await.pid, before.pid);
    older.leave().await;
    assert!(is_running(pid(&before)));
    newer.drain().await;
    assert!(!is_running(pid(&before)));
}

#[tokio::test]
async fn what_was_never_written_down_is_found_by_its_mark() {
    let world = World::new();
    std::fs::create_dir(world.path("run")).unwrap();
    let (mark, other) = (world.path("run"), world.path("other"));
    let leave = |name: &str, mark: &std::path::Path, setsid: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{setsid} sleep 1000 & echo $! > {}; wait", world.path(name).display())]);
        command.env("ATOLL_SERVICE", "a").env("ATOLL_INSTANCE", "a.3").env(RUN, mark).stdin(Stdio::null());
        command.process_group(0).spawn().expect("works")
    };
    let mut leader = leave("child", &mark, "");
    let mut another = leave("another", &other, "");
    let mut escaping = leave("escaped", &mark, "setsid");
    let child = world.numbers("child", 1).await[0];
    let left = [world.numbers("another", 1).await[0], world.numbers("escaped", 1).await[0]];
    until("a session of its own", BOUND, || async {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", left[1])).ok()?;
        (stat.rsplit_once(") ")?.1.split(' ').nth(3)? == left[1].to_string()).then_some(())
    })
    .await;
    let stopped = stop_all(adopt(&mark).await).await;
    let named = stopped.iter().all(|stopped| (stopped.service.as_str(), stopped.instance) == ("a", 3));
    assert!(named && stopped.len() == 2, "{stopped:?}");
    assert_eq!([&mut leader, &mut escaping].map(|shell| shell.wait().unwrap().signal()), [Some(15); 2]);
    assert!(!is_running(child));
    // Another supervisor's, and what a build began as a session of its own.
    assert!(another.try_wait().unwrap().is_none() && left.iter().all(|pid| is_running(*pid)));
    left.iter().for_each(|pid| kill(pid.unsigned_abs()));
    another.wait().unwrap();
}

#[tokio::test]
async fn a_build_ends_with_the_supervisor_that_leaves() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.build = world.build("echo $$ > pids; exec sleep 1000");
    let running = world.run(vec![service]);
    running.start().await;
    let build = world.numbers("pids", 1).await[0];
    tokio::time::timeout(Duration::from_secs(10), running.leave()).await.unwrap();
    assert!(!is_running(build));
}
