//! From one release to the next, with real processes: new ones first, a bad one taken back, and nothing else touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use registry::State;
use supervisor::{Change, Course, Effect, Instance, InstanceStatus, Kind, Restart, Service, ServiceStatus, Strategy};
use testkit::wait::until;

use crate::fixture::{BOUND, Running, World, instance, is_running, sh, words};

/// A server with some instances and one that stands in.
fn fleet(world: &World, name: &str, replicas: u32) -> Service {
    let mut service = world.server(name);
    service.instances = (0..replicas).map(instance).collect();
    service.surge = vec![instance(replicas)];
    service
}

/// The same with other instances of it: those that are kept keep their ports.
fn scaled(service: &Service, replicas: u32) -> Service {
    let of = |index| {
        let all: Vec<&Instance> = service.instances.iter().chain(&service.surge).collect();
        all.into_iter().find(|i| i.index == index).cloned().unwrap_or_else(|| instance(index))
    };
    let mut scaled = service.clone();
    scaled.instances = (0..replicas).map(of).collect();
    scaled.surge = vec![of(replicas)];
    scaled
}

fn environment(service: &Service, value: &str) -> Service {
    let mut changed = service.clone();
    changed.environment.insert("RELEASE".to_owned(), value.to_owned());
    changed
}

fn pids(service: &ServiceStatus) -> BTreeMap<u32, Option<u32>> {
    service.instances.iter().map(|instance| (instance.index, instance.pid)).collect()
}

/// Waits until as many instances as are declared are there, ready and of one generation.
async fn settled(running: &Running, service: &str, replicas: usize) -> ServiceStatus {
    running
        .see(&format!("{service} settled with {replicas}"), |snapshot| {
            let status = snapshot.service(service)?;
            let is_new = |i: &InstanceStatus| i.ready && i.generation == status.generation;
            let is_settled = status.rollout.is_none() && status.instances.len() == replicas;
            (is_settled && status.instances.iter().all(is_new)).then(|| status.clone())
        })
        .await
}

/// Looks at every state of the registry while something happens: so many instances are ready in each.
async fn never_fewer_than<T>(running: &Running, service: &str, ready: usize, during: impl Future<Output = T>) -> T {
    let mut watcher = running.registry.watch();
    watcher.current();
    let watched = async {
        while let Some(snapshot) = watcher.changed().await {
            let endpoints = snapshot.services.get(service).map_or(&[][..], Vec::as_slice);
            let count = endpoints.iter().filter(|endpoint| endpoint.state == State::Ready).count();
            assert!(count >= ready, "{count} of {ready} are ready: {endpoints:?}");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = watched => unreachable!("it never ends"),
        outcome = during => outcome,
    }
}

async fn apply(running: &Running, services: &[&Service]) -> Vec<Effect> {
    let all = services.iter().map(|service| (*service).clone()).collect();
    let wanted = services.iter().map(|service| service.name.clone()).collect();
    let changes = running.handle.apply(all, wanted, supervisor::Refused::Retry).await.expect("a valid list");
    changes.into_iter().map(|Change { effect, .. }| effect).collect()
}

#[tokio::test]
async fn a_rollout_keeps_every_replica_served() {
    let world = World::new();
    let service = fleet(&world, "a", 2);
    let running = world.run(vec![service.clone()]);
    running.start().await;
    let before = settled(&running, "a", 2).await;
    let after = never_fewer_than(&running, "a", 2, async {
        let effects = apply(&running, &[&environment(&service, "2")]).await;
        assert_eq!(effects, [Effect::Restarted { why: vec!["environment"] }]);
        running.event("the end of the rollout", |event| event.kind == Kind::RolledOut).await;
        settled(&running, "a", 2).await
    })
    .await;
    assert_eq!((after.generation, &after.reason), (1, &None));
    assert!(pids(&after).values().all(|pid| !pids(&before).values().any(|old| old == pid)));
    // The stand-in came first and went last.
    let events = running.events();
    let started = |event: &&std::sync::Arc<supervisor::Event>| matches!(event.kind, Kind::Started { .. });
    let stopping = |event: &&std::sync::Arc<supervisor::Event>| matches!(event.kind, Kind::Stopping { .. });
    let third = events.iter().filter(started).nth(2).unwrap();
    let last = events.iter().rfind(stopping).unwrap();
    assert_eq!((third.instance, last.instance), (Some(2), Some(2)));
    running.drain().await;
}

#[tokio::test]
async fn a_restart_is_a_rollout_too() {
    let world = World::new();
    let running = world.run(vec![fleet(&world, "a", 1)]);
    running.start().await;
    let before = settled(&running, "a", 1).await;
    never_fewer_than(&running, "a", 1, async {
        running.handle.restart(vec!["a".to_owned()]).await.unwrap();
        let after = settled(&running, "a", 1).await;
        assert_ne!(pids(&after), pids(&before));
    })
    .await;
    running.drain().await;
}

#[tokio::test]
async fn a_release_that_does_not_start_is_taken_back_with_its_last_lines() {
    let world = World::new();
    let service = fleet(&world, "a", 2);
    let running = world.run(vec![service.clone()]);
    running.start().await;
    let before = settled(&running, "a", 2).await;
    let mut bad = service.clone();
    bad.command = sh("echo no such table; exit 7");
    never_fewer_than(&running, "a", 2, async {
        apply(&running, &[&bad]).await;
        let reverted = running.event("a revert", |event| matches!(event.kind, Kind::Reverted { .. })).await;
        let Kind::Reverted { why, last_lines } = &reverted.kind else { panic!() };
        assert_eq!(why, "a.2: ended with status 7");
        assert_eq!(last_lines, &["no such table"]);
        let after = settled(&running, "a", 2).await;
        assert_eq!(after.reason.as_deref(), Some("reverted: a.2: ended with status 7"));
        assert_eq!((pids(&after), after.generation), (pids(&before), 0));
    })
    .await;
    // The next change begins anew, and is not compared to what failed.
    apply(&running, &[&environment(&service, "2")]).await;
    let after = settled(&running, "a", 2).await;
    assert_eq!((after.generation, after.reason), (2, None));
    running.drain().await;
}

#[tokio::test]
async fn a_release_that_fails_late_gives_back_what_it_has_replaced() {
    let world = World::new();
    let service = fleet(&world, "a", 2);
    let running = world.run(vec![service.clone()]);
    running.start().await;
    settled(&running, "a", 2).await;
    // Only the stand-in and the first instance get along with it.
    let mut bad = service.clone();
    bad.environment.insert("RELEASE".to_owned(), "2".to_owned());
    let server = crate::fixture::SERVER.replace(
        "import",
        "import sys; sys.exit(3) if open('bad').read() == __import__('os').environ['PORT'] else 0\nimport",
    );
    std::fs::write(world.path("bad"), service.instances[1].address.port().to_string()).unwrap();
    bad.command = words(&["python3", "-c", &server]);
    never_fewer_than(&running, "a", 2, async {
        apply(&running, &[&bad]).await;
        running.event("a revert", |event| matches!(event.kind, Kind::Reverted { .. })).await;
        let after = settled(&running, "a", 2).await;
        assert_eq!(after.reason.as_deref(), Some("reverted: a.1: ended with status 3"));
        assert_eq!(after.generation, 0);
    })
    .await;
    running.drain().await;
}

#[tokio::test]
async fn a_release_that_never_gets_ready_is_taken_back_or_halted() {
    for auto_revert in [true, false] {
        let world = World::new();
        let mut service = fleet(&world, "a", 1);
        service.update.progress_deadline = Duration::from_millis(500);
        service.update.auto_revert = auto_revert;
        let running = world.run(vec![service.clone()]);
        running.start().await;
        let before = settled(&running, "a", 1).await.instances[0].pid;
        let mut bad = service.clone();
        bad.command = sh("sleep 1000");
        apply(&running, &[&bad]).await;
        let reason = running.see("a reason", |snapshot| snapshot.service("a")?.reason.clone()).await;
        assert!(reason.contains("a.1: not available after 0.5 s (GET http://127.0.0.1:"), "{reason}");
        if auto_revert {
            let after = settled(&running, "a", 1).await;
            assert_eq!(after.instances[0].pid, before);
        } else {
            let status = running.handle.snapshot().service("a").unwrap().clone();
            assert!(reason.starts_with("its rollout is halted: "), "{reason}");
            assert_eq!(
                (status.rollout, status.instances[0].pid, status.instances[0].ready),
                (Some(Course::Halted), before, true)
            );
            // Another change goes on from there.
            apply(&running, &[&service]).await;
            assert_eq!(settled(&running, "a", 1).await.instances[0].pid, before);
        }
        running.drain().await;
    }
}

#[tokio::test]
async fn recreating_never_runs_old_and_new_together() {
    let world = World::new();
    let mut service = world.service("a", sh("exec 9>lock; flock -n 9 || exit 9; exec sleep 1000"));
    service.update.strategy = Strategy::Recreate;
    let running = world.run(vec![service.clone()]);
    running.start().await;
    settled(&running, "a", 1).await;
    apply(&running, &[&environment(&service, "2")]).await;
    let after = settled(&running, "a", 1).await;
    assert_eq!((after.generation, after.instances[0].restarts), (1, 0));
    running.drain().await;
}

#[tokio::test]
async fn scaling_leaves_those_that_stay_alone() {
    let world = World::new();
    let one = fleet(&world, "a", 1);
    let four = scaled(&one, 4);
    let running = world.run(vec![one.clone()]);
    running.start().await;
    let first = settled(&running, "a", 1).await;
    never_fewer_than(&running, "a", 1, async {
        assert_eq!(apply(&running, &[&four]).await, [Effect::Scaled { from: 1, to: 4 }]);
        let all = settled(&running, "a", 4).await;
        assert_eq!(all.instances[0].pid, first.instances[0].pid);
        assert_eq!(apply(&running, &[&one]).await, [Effect::Scaled { from: 4, to: 1 }]);
        let left = settled(&running, "a", 1).await;
        assert_eq!(pids(&left), pids(&first));
        let gone = |i: &InstanceStatus| i.index > 0 && is_running(i.pid.unwrap().try_into().unwrap());
        assert!(!all.instances.iter().any(gone));
    })
    .await;
    assert_eq!(running.registry.snapshot().services["a"].len(), 1);
    running.drain().await;
}

#[tokio::test]
async fn a_change_of_one_service_leaves_the_others_alone() {
    let world = World::new();
    let (a, b, old) = (fleet(&world, "a", 1), fleet(&world, "b", 2), fleet(&world, "old", 1));
    let mut user = fleet(&world, "user", 1);
    user.depends_on.insert("a".to_owned(), supervisor::Condition::Healthy);
    let running = world.run(vec![a.clone(), b.clone(), old, user.clone()]);
    running.start().await;
    let mut before = BTreeMap::new();
    for (service, replicas) in [("a", 1), ("b", 2), ("old", 1), ("user", 1)] {
        before.insert(service, pids(&settled(&running, service, replicas).await));
    }
    let added = fleet(&world, "new", 1);
    let idle = fleet(&world, "idle", 1);
    let mut b = b;
    b.probes.readiness.failure_threshold += 1;
    let all = [environment(&a, "2"), b, user, added, idle];
    let wanted = BTreeSet::from(["new".to_owned()]);
    let changes = running.handle.apply(all.to_vec(), wanted, supervisor::Refused::Retry).await.unwrap();
    let expected = [
        ("a", Effect::Restarted { why: vec!["environment"] }),
        ("b", Effect::Updated { what: vec!["probes"] }),
        ("idle", Effect::Added),
        ("new", Effect::Added),
        ("old", Effect::Removed),
        ("user", Effect::Unchanged),
    ];
    assert_eq!(changes, expected.map(|(service, effect)| Change { service: service.to_owned(), effect }));
    settled(&running, "new", 1).await;
    let gone = |snapshot: &supervisor::Snapshot| snapshot.service("old").is_none().then_some(());
    running.see("the removed one gone", gone).await;
    assert!(running.handle.stop(vec!["old".to_owned()]).await.is_err());
    running.event("the end of the rollout", |event| event.kind == Kind::RolledOut).await;
    assert_ne!(pids(&settled(&running, "a", 1).await), before["a"]);
    assert_eq!(pids(&settled(&running, "b", 2).await), before["b"]);
    assert_eq!(pids(&settled(&running, "user", 1).await), before["user"]);
    assert_eq!(running.state("idle", "stopped").await.pid, None);
    running.drain().await;
}

#[tokio::test]
async fn a_list_that_cannot_run_is_refused_and_nothing_changes() {
    let world = World::new();
    let (a, b) = (fleet(&world, "a", 1), fleet(&world, "b", 1));
    let running = world.run(vec![a.clone(), b.clone()]);
    running.start().await;
    let before = (pids(&settled(&running, "a", 1).await), pids(&settled(&running, "b", 1).await));
    let mut circle = [environment(&a, "2"), environment(&b, "2")];
    circle[0].depends_on.insert("b".to_owned(), supervisor::Condition::Started);
    circle[1].depends_on.insert("a".to_owned(), supervisor::Condition::Started);
    let mut twice = scaled(&a, 2);
    twice.surge[0].index = 0;
    for (list, wanted) in [
        (circle.to_vec(), BTreeSet::new()),
        (vec![a.clone(), a.clone()], BTreeSet::new()),
        (vec![twice], BTreeSet::new()),
        (vec![environment(&a, "2")], BTreeSet::from(["b".to_owned()])),
    ] {
        assert!(running.handle.apply(list, wanted, supervisor::Refused::Retry).await.is_err());
    }
    let after = (pids(&settled(&running, "a", 1).await), pids(&settled(&running, "b", 1).await));
    assert_eq!(after, before);
    running.drain().await;
}

#[tokio::test]
async fn whom_the_old_release_needs_goes_after_it() {
    let world = World::new();
    let mut a = fleet(&world, "a", 1);
    a.calls = vec!["gone".to_owned()];
    let running = world.run(vec![a.clone(), fleet(&world, "gone", 1)]);
    running.start().await;
    settled(&running, "a", 1).await;
    settled(&running, "gone", 1).await;
    a.calls.clear();
    apply(&running, &[&environment(&a, "2")]).await;
    running.see("it gone", |snapshot| snapshot.service("gone").is_none().then_some(())).await;
    let stopped = running.position("gone", |kind| matches!(kind, Kind::Stopping { .. }));
    assert!(running.position("a", |kind| *kind == Kind::RolledOut) < stopped);
    running.drain().await;
}

#[tokio::test]
async fn a_service_removed_and_declared_again_comes_back() {
    let world = World::new();
    let (a, b) = (fleet(&world, "a", 1), fleet(&world, "b", 1));
    let running = world.run(vec![a.clone(), b.clone()]);
    running.start().await;
    let before = settled(&running, "b", 1).await;
    apply(&running, &[&a]).await;
    assert_eq!(apply(&running, &[&a, &b]).await, [Effect::Unchanged, Effect::Added]);
    let after = running.see("another b", |snapshot| {
        let b = snapshot.service("b")?;
        b.instances.first().filter(|i| i.ready && i.pid != before.instances[0].pid).map(|_| ())
    });
    after.await;
    running.drain().await;
}

#[tokio::test]
async fn a_change_before_the_first_success_is_just_tried() {
    let world = World::new();
    let mut service = fleet(&world, "a", 1);
    service.command = sh("exit 1");
    let running = world.run(vec![service.clone()]);
    running.start().await;
    running.first("a", "failing", |i| i.restarts > 0).await;
    // Neither is taken back: what was there before was no better.
    service.command = sh("exit 2");
    apply(&running, &[&service]).await;
    running.first("a", "failing otherwise", |i| i.reason.as_deref() == Some("ended with status 2")).await;
    service.command = world.server("a").command;
    apply(&running, &[&service]).await;
    assert_eq!(settled(&running, "a", 1).await.reason, None);
    running.drain().await;
}

#[tokio::test]
async fn a_change_is_built_first_and_what_runs_stays_what_it_was() {
    let world = World::new();
    let mut service = world.service("a", sh("echo $RELEASE; exec sleep 1000"));
    service.environment.insert("RELEASE".to_owned(), "1".to_owned());
    service.restart = Restart::Always;
    let running = world.run(vec![service.clone()]);
    running.start().await;
    let before = settled(&running, "a", 1).await;
    let mut next = environment(&service, "2");
    next.build = world.build("touch building; while ! test -e finish; do sleep 0.01; done; exit $(cat finish)");
    apply(&running, &[&next]).await;
    until("the build", BOUND, || async { world.text("building") }).await;
    // Killed meanwhile, it comes back as what it was.
    running.handle.kill(vec![("a".to_owned(), None)], 9).await.unwrap();
    running.first("a", "back", |i| i.ready && i.restarts == 1 && i.pid != before.instances[0].pid).await;
    until("its line", BOUND, || async { (world.lines() == ["1", "1"]).then_some(()) }).await;
    std::fs::write(world.path("finish"), "1").unwrap();
    let reason = running.see("the failure", |snapshot| snapshot.service("a")?.reason.clone()).await;
    assert!(reason.starts_with("reverted: its build failed: "), "{reason}");
    std::fs::write(world.path("finish"), "0").unwrap();
    apply(&running, &[&next]).await;
    until("the next line", BOUND, || async { (world.lines() == ["1", "1", "2"]).then_some(()) }).await;
    running.drain().await;
}

#[tokio::test]
async fn a_signal_is_passed_on_and_is_no_stop() {
    let world = World::new();
    let service = world.service("a", sh("trap 'echo told' HUP; echo up; while :; do sleep 0.01; done"));
    let running = world.run(vec![service]);
    running.start().await;
    let before = running.ready("a").await;
    until("its first line", BOUND, || async { (world.lines() == ["up"]).then_some(()) }).await;
    running.handle.kill(vec![("a".to_owned(), None)], 1).await.unwrap();
    until("the signal", BOUND, || async { world.lines().contains(&"told".to_owned()).then_some(()) }).await;
    assert_eq!(running.ready("a").await.pid, before.pid);
    running.handle.kill(vec![("a".to_owned(), None)], 9).await.unwrap();
    let after = running.first("a", "restarted", |i| i.ready && i.restarts == 1).await;
    assert_ne!(after.pid, before.pid);
    assert!(running.handle.kill(vec![("a".to_owned(), None)], 12345).await.is_err());
    assert!(running.handle.kill(vec![("b".to_owned(), None)], 9).await.is_err());
    running.drain().await;
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_rollout_stops_everything() {
    let world = World::new();
    let mut service = fleet(&world, "a", 2);
    service.update.min_ready = BOUND / 2;
    service.update.progress_deadline = BOUND;
    let running = world.run(vec![service.clone()]);
    running.start().await;
    settled(&running, "a", 2).await;
    running.handle.restart(vec!["a".to_owned()]).await.unwrap();
    running.see("three", |snapshot| (snapshot.service("a")?.instances.len() == 3).then_some(())).await;
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    running
        .see("all stopped", |snapshot| {
            let status = snapshot.service("a")?;
            let is_stopped = |i: &InstanceStatus| i.state.name() == "stopped";
            (status.instances.len() == 2 && status.instances.iter().all(is_stopped)).then_some(())
        })
        .await;
    running.start().await;
    assert_eq!(settled(&running, "a", 2).await.generation, 1);
    running.drain().await;
}

#[tokio::test]
async fn a_change_that_is_taken_back_by_hand_keeps_those_that_stayed() {
    let world = World::new();
    let mut service = fleet(&world, "a", 2);
    service.update.min_ready = BOUND / 2;
    service.update.progress_deadline = BOUND;
    let running = world.run(vec![service.clone()]);
    running.start().await;
    let before = settled(&running, "a", 2).await;
    apply(&running, &[&environment(&service, "2")]).await;
    running.see("the stand-in", |snapshot| snapshot.service("a")?.instances.get(2)?.ready.then_some(())).await;
    let effects = apply(&running, &[&service]).await;
    assert_eq!(effects, [Effect::Restarted { why: vec!["environment"] }]);
    let after = settled(&running, "a", 2).await;
    assert_eq!((pids(&after), after.generation, after.reason), (pids(&before), 0, None));
    running.drain().await;
}

#[tokio::test]
async fn a_rollout_that_is_taken_back_keeps_how_many_there_shall_be() {
    let world = World::new();
    let mut service = fleet(&world, "a", 1);
    service.update.progress_deadline = BOUND;
    let running = world.run(vec![service.clone()]);
    running.start().await;
    let before = settled(&running, "a", 1).await;
    let mut bad = service.clone();
    bad.command = sh("while ! test -e end; do sleep 0.01; done; exit 1");
    apply(&running, &[&bad]).await;
    running.see("the stand-in", |snapshot| snapshot.service("a")?.instances.get(1)?.pid).await;
    assert_eq!(apply(&running, &[&scaled(&bad, 2)]).await, [Effect::Scaled { from: 1, to: 2 }]);
    std::fs::write(world.path("end"), "").unwrap();
    let after = settled(&running, "a", 2).await;
    assert_eq!(after.instances[0].pid, before.instances[0].pid);
    assert!(after.reason.is_some_and(|reason| reason.starts_with("reverted: ")));
    running.drain().await;
}
