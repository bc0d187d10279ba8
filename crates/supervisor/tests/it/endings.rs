//! How instances are stopped, and that nothing of them is left.

use std::time::{Duration, Instant};

use registry::State;
use supervisor::{Check, Drain, Error, Exit, Kind, Restart, Service, bind};
use testkit::wait::until;
use tokio::sync::mpsc;

use crate::fixture::{BOUND, Running, World, is_running, kill, probe, sh, words};

#[tokio::test]
async fn a_stop_drains_signals_and_leaves_nothing() {
    let world = World::new();
    let running = world.run(vec![world.server("a")]);
    running.start().await;
    let pid = running.ready("a").await.pid.unwrap();
    let mut watcher = running.registry.watch();
    watcher.current();
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    assert_eq!(watcher.changed().await.unwrap().services["a"][0].state, State::Draining);
    assert!(watcher.changed().await.unwrap().services.is_empty());
    let status = running.state("a", "stopped").await;
    assert_eq!((status.pid, status.reason), (None, None));
    assert!(!is_running(i32::try_from(pid).unwrap()));
    running.drain().await;
}

/// A supervisor whose requests in flight the test counts itself.
fn run_with_drains(world: &World, mut service: Service, grace_period: Duration) -> (Running, mpsc::Receiver<Drain>) {
    service.stop_grace_period = grace_period;
    let (mut config, prepares) = world.config(vec![service]);
    let (drain, drains) = mpsc::channel(1);
    config.drain = drain;
    (Running::with_drains(config, prepares), drains)
}

#[tokio::test]
async fn the_signal_waits_until_no_request_is_in_flight() {
    let world = World::new();
    let script = "trap 'test -e answered; exit $?' TERM; echo up > up; while :; do sleep 0.05; done";
    let mut service = world.service("a", sh(script));
    service.probes.readiness = probe(Check::Exec(words(&["test", "-e", "up"])));
    let (running, mut drains) = run_with_drains(&world, service, BOUND);
    running.start().await;
    running.ready("a").await;
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    let asked = drains.recv().await.unwrap();
    let endpoint = running.registry.snapshot().services["a"][0].clone();
    assert_eq!((asked.service.as_str(), asked.instance, asked.address), ("a", 0, endpoint.address));
    assert_eq!(endpoint.state, State::Draining);
    // A second order changes nothing.
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    std::fs::write(world.path("answered"), "").unwrap();
    asked.reply.send(()).unwrap();
    assert_eq!(running.state("a", "stopped").await.last_exit, Some(Exit::Status(0)));
    assert!(drains.try_recv().is_err());

    // A question that is given up is answered.
    running.start().await;
    running.ready("a").await;
    running.handle.restart(vec!["a".to_owned()]).await.unwrap();
    drop(drains.recv().await.unwrap());
    running.first("a", "restarted", |i| i.ready && i.generation == 1).await;
    // So is one that nobody hears, for a supervisor that drains as well.
    drop(drains);
    running.drain().await;
}

#[tokio::test]
async fn requests_that_do_not_end_are_given_the_grace_period() {
    let world = World::new();
    let grace_period = Duration::from_millis(300);
    let (running, mut drains) = run_with_drains(&world, world.server("a"), grace_period);
    running.start().await;
    running.ready("a").await;
    let start = Instant::now();
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    let mut unanswered = drains.recv().await.unwrap();
    let stopped = running.state("a", "stopped").await;
    assert!(start.elapsed() >= grace_period);
    assert_eq!(stopped.last_exit, Some(Exit::Signal(15)));
    assert!(!running.events().iter().any(|event| event.kind == Kind::Killed));
    // Nobody waits for the answer any more.
    unanswered.reply.closed().await;
    running.drain().await;
}

#[tokio::test]
async fn one_that_never_was_ready_or_ends_meanwhile_waits_for_no_request() {
    let world = World::new();
    let (running, mut drains) = run_with_drains(&world, world.server("a"), BOUND);
    std::fs::write(world.path("status"), "503").unwrap();
    running.start().await;
    running.first("a", "asked", |i| i.reason.is_some()).await;
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    running.state("a", "stopped").await;
    assert!(drains.try_recv().is_err());

    std::fs::remove_file(world.path("status")).unwrap();
    running.start().await;
    let pid = running.ready("a").await.pid.unwrap();
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    let _unanswered = drains.recv().await.unwrap();
    kill(pid);
    running.state("a", "stopped").await;
    running.drain().await;
}

#[tokio::test]
async fn one_that_ignores_the_signal_is_killed_with_its_grandchildren() {
    let world = World::new();
    let script = "trap '' TERM; (trap '' TERM; sh -c 'echo $$ >> pids; while :; do sleep 1; done' & \
                  echo $$ >> pids; while :; do sleep 1; done)";
    let mut service = world.service("a", sh(script));
    service.stop_grace_period = Duration::from_millis(100);
    let running = world.run(vec![service]);
    running.start().await;
    let pids = world.numbers("pids", 2).await;
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    running.state("a", "stopped").await;
    assert_eq!(pids.iter().filter(|pid| is_running(**pid)).count(), 0);
    assert!(running.events().iter().any(|event| event.kind == Kind::Killed));
    running.drain().await;
}

#[tokio::test]
async fn grandchildren_of_a_crashed_leader_do_not_outlive_it() {
    let world = World::new();
    let script = "trap '' TERM; (sh -c 'echo $$ >> pids; exec sleep 1000' &); while ! test -s pids; do :; done; exit 1";
    let mut service = world.service("a", sh(script));
    service.restart = Restart::No;
    let running = world.run(vec![service]);
    running.start().await;
    running.state("a", "failed").await;
    let pids = world.numbers("pids", 1).await;
    assert!(!is_running(pids[0]));
    running.drain().await;
}

#[tokio::test]
async fn the_rest_of_a_group_has_its_grace_period_after_the_leader() {
    let world = World::new();
    // The leader dies of the signal at once; its child needs a moment to finish.
    let child = "trap 'echo finished > finished; exit 0' TERM; echo up > up; while :; do sleep 0.05; done";
    std::fs::write(world.path("child.sh"), child).unwrap();
    let running = world.run(vec![world.service("a", sh("sh child.sh & exec sleep 1000"))]);
    running.start().await;
    until("the child", BOUND, || async { world.text("up") }).await;
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    running.state("a", "stopped").await;
    assert_eq!(world.text("finished").as_deref(), Some("finished\n"));
    running.drain().await;
}

#[tokio::test]
async fn a_process_that_left_its_group_does_not_hold_a_stop_up() {
    let world = World::new();
    let script = "setsid sh -c 'echo $$ > pids; exec sleep 1000' & exec sleep 1000";
    let running = world.run(vec![world.service("a", sh(script))]);
    running.start().await;
    let pids = world.numbers("pids", 1).await;
    let start = Instant::now();
    running.drain().await;
    // It knows of no signal: it gets no time, and goes with the rest.
    assert!(!is_running(pids[0]) && start.elapsed() < BOUND / 2);
}

#[tokio::test]
async fn a_suspended_instance_stops() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("echo $$ > pids; kill -STOP $$; sleep 1000"))]);
    running.start().await;
    world.numbers("pids", 1).await;
    running.drain().await;
}

#[tokio::test]
async fn the_stop_signal_is_the_declared_one() {
    let world = World::new();
    let mut service = world.service("a", sh("trap 'echo int; exit 0' INT; echo up > up; while :; do sleep 0.05; done"));
    service.stop_signal = 2;
    let running = world.run(vec![service]);
    running.start().await;
    until("the instance", BOUND, || async { world.text("up") }).await;
    running.drain().await;
    assert_eq!(world.lines(), ["int"]);
}

#[tokio::test]
async fn a_drain_ends_everything_and_refuses_new_work() {
    let world = World::new();
    let mut waiting = world.service("waiting", words(&["absent-program"]));
    waiting.build = world.build("echo building > building; exec sleep 1000");
    let running = world.run(vec![world.server("a"), waiting, world.service("looping", sh("exit 1"))]);
    running.start().await;
    let pid = running.ready("a").await.pid.unwrap();
    until("the build", BOUND, || async { world.text("building") }).await;
    let (handle, registry) = (running.handle.clone(), running.registry.clone());
    running.drain().await;
    assert!(!is_running(i32::try_from(pid).unwrap()));
    assert!(registry.snapshot().services.is_empty());
    assert!(matches!(handle.start(None).await, Err(Error::Stopped)));
    let states: Vec<&str> = handle.snapshot().services.iter().map(|s| s.instances[0].state.name()).collect();
    assert_eq!(states, ["stopped", "stopped", "stopped"]);
    assert_eq!(world.folders(), [""; 0]);
}

#[tokio::test]
async fn a_drain_before_any_start_is_done_at_once() {
    let world = World::new();
    world.run(vec![world.server("a")]).drain().await;
}

#[test]
fn a_configuration_that_cannot_run_is_refused() {
    let world = World::new();
    let refuse = |edit: &dyn Fn(&mut Vec<Service>)| {
        let mut services = vec![world.service("a", sh("true")), world.service("b", sh("true"))];
        edit(&mut services);
        bind(world.config(services).0).map(|_| ()).unwrap_err().to_string()
    };
    let needs = |service: &mut Service, name: &str| {
        service.depends_on.insert(name.to_owned(), supervisor::Condition::Started);
    };
    assert_eq!(refuse(&|s| s[0].command.clear()), "service `a` has an empty command");
    assert_eq!(refuse(&|s| s[1].name = "a".to_owned()), "service `a` is declared twice");
    assert_eq!(refuse(&|s| s[1].stop_signal = 0), "service `b` stops on signal 0, which has no name");
    assert_eq!(
        refuse(&|s| s[1].name = "../b".to_owned()),
        "`../b` is no name for a service: letters, digits, `-` and `_` make one"
    );
    assert_eq!(refuse(&|s| needs(&mut s[0], "c")), "there is no service `c`");
    let cycle = refuse(&|s| {
        needs(&mut s[0], "b");
        needs(&mut s[1], "a");
    });
    assert_eq!(cycle, "services depend on each other in a circle: a, b");
}
