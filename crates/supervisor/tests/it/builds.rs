//! Builds and preparations.

use supervisor::{Build, BuildStatus, Kind, Preparation};
use testkit::wait::until;

use crate::fixture::{BOUND, World, sh, words};

#[tokio::test]
async fn services_with_an_equal_build_share_one_run() {
    let world = World::new();
    let build = world.build("echo run >> runs; echo compiling; echo careful >&2");
    let mut services = vec![world.service("a", sh("sleep 1000")), world.service("b", sh("sleep 1000"))];
    for service in &mut services {
        service.build.clone_from(&build);
    }
    let running = world.run(services);
    running.start().await;
    running.ready("a").await;
    running.ready("b").await;
    assert_eq!(world.text("runs").as_deref(), Some("run\n"));
    let log = world.text("logs/build-a.log").unwrap();
    assert!(log.contains("compiling\n") && log.contains("careful\n"), "{log}");
    assert!(running.events().iter().any(|event| matches!(event.kind, Kind::BuildFinished { .. })));
    running.drain().await;
}

#[tokio::test]
async fn a_failed_build_fails_only_those_who_need_it() {
    let world = World::new();
    let mut broken = world.service("broken", sh("sleep 1000"));
    broken.build = world.build("for i in 1 2 3; do echo line $i; done; echo 'error: no' >&2; exit 101");
    let mut missing = world.service("missing", sh("sleep 1000"));
    missing.build = Some(Build {
        command: words(&["no-such-tool", "build"]),
        shown: "no-such-tool build".into(),
        working_dir: world.dir.path().to_owned(),
    });
    let mut waiting = world.service("waiting", sh("sleep 1000"));
    waiting.depends_on.insert("broken".to_owned(), supervisor::Condition::Healthy);
    let running = world.run(vec![broken, missing, waiting, world.service("well", sh("sleep 1000"))]);
    running.start().await;
    running.ready("well").await;
    running.state("broken", "failed").await;
    running.state("missing", "failed").await;
    let pending =
        running.first("waiting", "told why", |i| i.reason.as_ref().is_some_and(|r| r.contains("failed"))).await;
    assert_eq!(pending.state.name(), "pending");
    assert_eq!(pending.reason.as_deref(), Some("needs `broken` to be healthy, but its build failed"));
    let snapshot = running.handle.snapshot();
    let BuildStatus::Failed { reason, last_lines } = &snapshot.service("broken").unwrap().build else { panic!() };
    assert!(reason.contains("ended with status 101, see ") && reason.contains("logs/build-broken.log"), "{reason}");
    assert_eq!(last_lines.len(), 4);
    let reason = snapshot.service("missing").unwrap().reason.clone().unwrap();
    let expected = "its build failed: cannot run `no-such-tool`: not found in PATH; install it, or write its full path";
    assert_eq!(reason, expected);
    running.drain().await;
}

#[tokio::test]
async fn the_output_of_a_build_keeps_its_order() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.build = world.build("for i in $(seq 9); do echo out $i; echo error $i >&2; done; exit 1");
    let running = world.run(vec![service]);
    running.start().await;
    running.state("a", "failed").await;
    let expected: Vec<String> = (1..=9).flat_map(|i| [format!("out {i}"), format!("error {i}")]).collect();
    assert_eq!(world.text("logs/build-a.log").unwrap().lines().collect::<Vec<_>>(), expected);
    let BuildStatus::Failed { last_lines, .. } = &running.handle.snapshot().services[0].build else { panic!() };
    assert_eq!(*last_lines, expected);
    running.drain().await;
}

#[tokio::test]
async fn a_build_that_writes_into_what_runs_is_told_so() {
    let world = World::new();
    std::fs::copy("/bin/sleep", world.path("program")).unwrap();
    let mut service = world.service("a", words(&["./program", "1000"]));
    service.build = world.build("test ! -e again || cp /bin/sleep program");
    let running = world.run(vec![service]);
    running.start().await;
    let first = running.ready("a").await;
    std::fs::write(world.path("again"), "").unwrap();
    running.handle.restart(vec!["a".to_owned()]).await.unwrap();
    let reason = running.see("the failure", |snapshot| snapshot.services[0].reason.clone()).await;
    assert!(reason.contains("it writes into a program that is running: "), "{reason}");
    assert_eq!(running.ready("a").await.pid, first.pid);
    running.drain().await;
}

#[tokio::test]
async fn a_failed_build_is_run_again_by_the_next_start() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.build = world.build("test -e fixed");
    let running = world.run(vec![service]);
    running.start().await;
    running.state("a", "failed").await;
    std::fs::write(world.path("fixed"), "").unwrap();
    running.start().await;
    let status = running.ready("a").await;
    assert_eq!(status.reason, None);
    running.drain().await;
}

#[tokio::test]
async fn a_restart_builds_first_and_keeps_what_runs_when_that_fails() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.build = world.build("test ! -e broken");
    let running = world.run(vec![service]);
    running.start().await;
    let first = running.ready("a").await;
    std::fs::write(world.path("broken"), "").unwrap();
    running.handle.restart(vec!["a".to_owned()]).await.unwrap();
    running.see("the failure", |snapshot| snapshot.services[0].reason.clone()).await;
    let kept = running.ready("a").await;
    assert_eq!((kept.pid, kept.generation), (first.pid, 0));
    std::fs::remove_file(world.path("broken")).unwrap();
    running.handle.restart(vec!["a".to_owned()]).await.unwrap();
    let replaced = running.first("a", "restarted", |i| i.ready && i.generation == 2).await;
    assert_ne!(replaced.pid, first.pid);
    assert_eq!(replaced.restarts, 0);
    running.drain().await;
}

#[tokio::test]
async fn a_build_that_nobody_wants_any_more_is_stopped() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.build = world.build("echo $$ > pids; sleep 1000 & wait");
    let running = world.run(vec![service]);
    running.start().await;
    let pids = world.numbers("pids", 1).await;
    assert_eq!(running.handle.snapshot().services[0].instances[0].state.name(), "building");
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    running.event("a cancelled build", |event| event.kind == Kind::BuildCancelled).await;
    assert!(!crate::fixture::is_running(pids[0]));
    running.drain().await;
}

#[tokio::test]
async fn a_service_is_prepared_before_its_first_start_only() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.prepare = Preparation::Required;
    let mut running = world.run(vec![service]);
    running.start().await;
    let asked = running.prepares.recv().await.unwrap();
    assert_eq!(asked.service, "a");
    running.state("a", "preparing").await;
    asked.reply.send(Err("migration 2 failed".to_owned())).unwrap();
    let failed = running.state("a", "failed").await;
    assert_eq!(failed.reason.as_deref(), Some("its preparation failed: migration 2 failed"));
    assert!(running.prepares.try_recv().is_err());

    running.start().await;
    running.prepares.recv().await.unwrap().reply.send(Ok(())).unwrap();
    let pid = running.ready("a").await.pid.unwrap();
    crate::fixture::kill(pid);
    running.first("a", "restarted", |i| i.ready && i.restarts == 1).await;
    assert!(running.prepares.try_recv().is_err());
    running.drain().await;
}

#[tokio::test]
async fn a_preparation_without_an_answer_holds_no_drain_up() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.prepare = Preparation::Required;
    let mut running = world.run(vec![service]);
    running.start().await;
    let _unanswered = running.prepares.recv().await.unwrap();
    running.drain().await;
}

#[tokio::test]
async fn a_build_that_floods_its_output_ends_and_its_log_is_bounded() {
    let world = World::new();
    let mut service = world.service("a", sh("sleep 1000"));
    service.build = world.build("yes 0123456789 | head -c 3000000; echo done > done");
    let (mut config, prepares) = world.config(vec![service]);
    config.log.file_bytes_max = 100_000;
    let running = crate::fixture::Running::new(config, prepares);
    running.start().await;
    until("the build", BOUND, || async { world.text("done") }).await;
    running.ready("a").await;
    assert!(std::fs::metadata(world.path("logs/build-a.log")).unwrap().len() <= 100_000);
    running.drain().await;
}
