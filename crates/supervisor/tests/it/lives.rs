//! How an instance is started, asked and restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use registry::State;
use supervisor::{Check, Exit, Kind, LIFE, PASSED, PASSED_PREFIX, RUN, Restart};
use testkit::wait::until;

use crate::fixture::{BOUND, World, instance, kill, probe, sh, words};

#[tokio::test]
async fn an_instance_is_given_only_what_is_declared() {
    let world = World::new();
    let mut service = world.service("a", words(&["env"]));
    service.restart = Restart::No;
    service.environment = BTreeMap::from([("GREETING", "hello"), ("PORT", "lost")].map(|(k, v)| (k.into(), v.into())));
    let port = service.instances[0].address.port();
    let running = world.run(vec![service]);
    running.start().await;
    running.state("a", "exited").await;
    running.drain().await;
    let is_passed = |name: &str| PASSED.contains(&name) || name.starts_with(PASSED_PREFIX);
    let passed = std::env::vars().filter(|(name, _)| is_passed(name)).map(|(name, value)| format!("{name}={value}"));
    let run = world.path("run").canonicalize().unwrap();
    let declared = [format!("PORT={port}"), "GREETING=hello".to_owned(), format!("{RUN}={}", run.display())];
    let expected: BTreeSet<String> = passed.chain(declared).collect();
    // Each life has its own.
    let (life, given): (Vec<String>, _) = world.lines().into_iter().partition(|line| line.starts_with(LIFE));
    assert_eq!((given.into_iter().collect::<BTreeSet<_>>(), life.len()), (expected, 1));
}

#[tokio::test]
async fn words_expand_and_no_shell_is_asked() {
    let world = World::new();
    let mut service = world.service("a", words(&["printf", "%s\n", "${WORD} $HOME `id` *"]));
    service.restart = Restart::No;
    service.environment.insert("WORD".to_owned(), "a b".to_owned());
    let running = world.run(vec![service]);
    running.start().await;
    running.state("a", "exited").await;
    running.drain().await;
    assert_eq!(world.lines(), ["a b $HOME `id` *"]);
}

#[tokio::test]
async fn a_killed_instance_leaves_the_registry_and_comes_back() {
    let world = World::new();
    let mut service = world.server("a");
    service.instances.push(instance(1));
    let addresses: Vec<_> = service.instances.iter().map(|instance| instance.address).collect();
    let running = world.run(vec![service]);
    running.start().await;
    let endpoints = || running.registry.snapshot().services.get("a").cloned().unwrap_or_default();
    let all_ready = || async { (endpoints().iter().filter(|e| e.state == State::Ready).count() == 2).then_some(()) };
    until("two ready endpoints", BOUND, all_ready).await;
    assert_eq!(endpoints().iter().map(|e| e.address).collect::<Vec<_>>(), addresses);

    let mut watcher = running.registry.watch();
    watcher.current();
    let pid = running.handle.snapshot().services[0].instances[0].pid.unwrap();
    kill(pid);
    // The very next change is its removal: nothing else is told before.
    let removed = watcher.changed().await.unwrap();
    assert_eq!(removed.services["a"].iter().map(|e| e.instance).collect::<Vec<_>>(), [1]);
    until("two ready endpoints again", BOUND, all_ready).await;
    let status = running.ready("a").await;
    assert_eq!((status.restarts, status.last_exit, status.reason), (1, Some(Exit::Signal(9)), None));
    assert_ne!(status.pid, Some(pid));
    let exited = running.position("a", |kind| matches!(kind, Kind::Exited { .. }));
    let restarting = running.position("a", |kind| matches!(kind, Kind::Restarting { attempt: 1, .. }));
    assert!(exited < restarting);
    running.drain().await;
}

#[tokio::test]
async fn a_restart_leaves_one_of_two_ready() {
    let world = World::new();
    let mut service = world.server("a");
    service.instances.push(instance(1));
    let running = world.run(vec![service]);
    running.start().await;
    let ready = |registry: &registry::Snapshot| {
        registry.services.get("a").map_or(0, |all| all.iter().filter(|e| e.state == State::Ready).count())
    };
    until("two ready", BOUND, || async { (ready(&running.registry.snapshot()) == 2).then_some(()) }).await;
    let mut watcher = running.registry.watch();
    watcher.current();
    running.handle.restart(vec!["a".to_owned()]).await.unwrap();
    let renewed = async {
        running
            .see("two renewed", |snapshot| {
                snapshot.services[0].instances.iter().all(|i| i.ready && i.generation == 1).then_some(())
            })
            .await;
    };
    let watched = async {
        while let Some(snapshot) = watcher.changed().await {
            assert!(ready(&snapshot) >= 1, "{snapshot:?}");
        }
    };
    tokio::select! {
        biased;
        () = watched => {}
        () = renewed => {}
    }
    running.drain().await;
}

#[tokio::test]
async fn readiness_goes_and_comes_with_the_probe() {
    let world = World::new();
    let running = world.run(vec![world.server("a")]);
    running.start().await;
    running.ready("a").await;
    std::fs::write(world.path("status"), "503").unwrap();
    let status = running.first("a", "unready", |i| !i.ready && i.state.name() == "running").await;
    assert_eq!(status.reason, Some(format!("GET http://127.0.0.1:{}/readyz: 503", status.port)));
    assert_eq!(running.registry.snapshot().services["a"][0].state, State::Unready);
    std::fs::remove_file(world.path("status")).unwrap();
    assert_eq!(running.ready("a").await.restarts, 0);
    running.drain().await;
}

#[tokio::test]
async fn a_service_without_readyz_is_asked_by_a_connection() {
    let world = World::new();
    std::fs::write(world.path("status"), "404").unwrap();
    let running = world.run(vec![world.server("a")]);
    running.start().await;
    running.ready("a").await;
    running.drain().await;
}

#[tokio::test]
async fn one_that_never_gets_ready_stays_starting_and_says_why() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.probes.readiness = probe(Check::Default);
    let running = world.run(vec![service]);
    running.start().await;
    let status = running.first("a", "with a reason", |i| i.reason.is_some()).await;
    assert_eq!(status.state.name(), "starting");
    assert_eq!(status.reason, Some(format!("GET http://127.0.0.1:{}/readyz: connection refused", status.port)));
    assert_eq!(running.registry.snapshot().services["a"][0].state, State::Unready);
    running.drain().await;
}

#[tokio::test]
async fn a_startup_probe_gates_readiness() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.probes.startup = Some(probe(Check::Exec(words(&["test", "-e", "warm"]))));
    service.probes.startup.as_mut().unwrap().interval = BOUND;
    let running = world.run(vec![service]);
    running.start().await;
    let status = running.first("a", "waiting", |i| i.reason.is_some()).await;
    assert_eq!(status.reason.as_deref(), Some("exec `test -e warm`: status 1"));
    std::fs::write(world.path("warm"), "").unwrap();
    assert_eq!(running.ready("a").await.restarts, 0);
    running.drain().await;
}

#[tokio::test]
async fn a_failed_liveness_probe_restarts() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.probes.liveness = Some(probe(Check::Exec(words(&["test", "!", "-e", "sick"]))));
    let running = world.run(vec![service]);
    running.start().await;
    let before = running.ready("a").await;
    std::fs::write(world.path("sick"), "").unwrap();
    running.event("unhealthy", |event| matches!(event.kind, Kind::Unhealthy { .. })).await;
    std::fs::remove_file(world.path("sick")).unwrap();
    let after = running.first("a", "restarted", |i| i.ready && i.restarts > 0).await;
    assert_ne!(before.pid, after.pid);
    running.drain().await;
}

#[tokio::test]
async fn a_crash_loop_is_shown_with_its_last_lines() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("echo one; echo two >&2; exit 7"))]);
    running.start().await;
    let status = running.first("a", "in a crash loop", |i| i.state.name() == "crash_loop").await;
    assert_eq!(status.last_exit, Some(Exit::Status(7)));
    assert_eq!(status.reason.as_deref(), Some("ended with status 7"));
    assert_eq!(status.last_lines.iter().collect::<BTreeSet<_>>().len(), 2, "{:?}", status.last_lines);
    running.event("a crash loop", |event| matches!(&event.kind, Kind::CrashLoop { attempt: 5, .. })).await;
    running.drain().await;
}

#[tokio::test]
async fn the_restart_policy_is_kept() {
    let world = World::new();
    let with = |name: &str, restart, script: &str| {
        let mut service = world.service(name, sh(script));
        service.restart = restart;
        service
    };
    let running = world.run(vec![
        with("never", Restart::No, "exit 3"),
        with("done", Restart::OnFailure, "exit 0"),
        with("second", Restart::OnFailure, "test -e tried || { touch tried; exit 1; }"),
    ]);
    running.start().await;
    let never = running.state("never", "failed").await;
    assert_eq!((never.restarts, never.reason.as_deref()), (0, Some("ended with status 3")));
    assert_eq!(running.state("done", "exited").await.restarts, 0);
    assert_eq!(running.state("second", "exited").await.restarts, 1);
    running.drain().await;
}

#[tokio::test]
async fn one_that_ends_well_again_and_again_is_told_what_is_expected() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("exit 0"))]);
    running.start().await;
    let looping = running.state("a", "crash_loop").await;
    let expected =
        "ended with status 0, but a service is expected to keep running; `restart = \"on-failure\"` lets it end";
    assert_eq!((looping.reason.as_deref(), looping.last_exit), (Some(expected), Some(Exit::Status(0))));
    running.drain().await;
}

#[tokio::test]
async fn a_missing_program_is_said_and_heals_when_it_appears() {
    let world = World::new();
    let mut service = world.service("a", words(&["./program"]));
    service.restart = Restart::OnFailure;
    let running = world.run(vec![service]);
    running.start().await;
    let status = running.first("a", "failing", |i| i.reason.is_some()).await;
    let reason = status.reason.unwrap();
    assert!(reason.starts_with("cannot run `./program`: ") && reason.contains("does not exist"), "{reason}");
    // Renamed into place: a file that is still open for writing cannot be run (ETXTBSY).
    std::fs::write(world.path("new"), "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(world.path("new"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(world.path("new"), world.path("program")).unwrap();
    running.ready("a").await;
    running.drain().await;
}

#[tokio::test]
async fn a_taken_port_names_who_has_it_and_heals_when_it_is_free() {
    let world = World::new();
    let service = world.server("a");
    let listener = TcpListener::bind(service.instances[0].address).unwrap();
    let running = world.run(vec![service]);
    running.start().await;
    let status = running.first("a", "without its port", |i| i.reason.is_some()).await;
    let expected = format!("port {} is taken by pid {} (", status.port, std::process::id());
    assert!(status.reason.as_ref().is_some_and(|reason| reason.starts_with(&expected)), "{status:?}");
    drop(listener);
    running.ready("a").await;
    running.drain().await;
}

#[tokio::test]
async fn a_stable_life_ends_a_series_of_failures() {
    let world = World::new();
    let (mut config, prepares) = world.config(vec![world.service("a", sh("exit 1"))]);
    config.stable_after = Duration::ZERO;
    let running = crate::fixture::Running::new(config, prepares);
    running.start().await;
    running.first("a", "restarted often", |i| i.restarts > 8).await;
    assert!(!running.events().iter().any(|event| matches!(event.kind, Kind::CrashLoop { .. })));
    running.drain().await;
}
