//! How instances are stopped, and that nothing of them is left.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use registry::State;
use supervisor::{Check, Drain, Error, Exit, Kind, RUN, Restart, Service, bind};
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
    running.drain().await;
    // It holds the pipe and lives on: only a shim that adopts orphans can see it.
    kill(u32::try_from(pids[0]).unwrap());
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
    assert!(world.text("run/instances.json").is_some_and(|text| text.contains("\"instances\": []")));
}

#[tokio::test]
async fn a_drain_before_any_start_is_done_at_once() {
    let world = World::new();
    world.run(vec![world.server("a")]).drain().await;
}

/// Starts what a daemon that died would have left: a leader of a group of its own.
fn leave_behind(script: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("ATOLL_SERVICE", "a").process_group(0).stdin(Stdio::null());
    command.spawn().expect("works")
}

fn start_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("works");
    let fields = stat.rsplit_once(") ").expect("works").1;
    fields.split(' ').nth(19).expect("works").parse().expect("works")
}

fn write_state(world: &World, pid: u32, start_time: u64) {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("works");
    let text = format!(
        "{{\"version\":1,\"boot_id\":\"{}\",\"instances\":[{{\"service\":\"a\",\"instance\":0,\"pid\":{pid},\"pgid\":{pid},\"start_time\":{start_time}}}]}}",
        boot_id.trim()
    );
    std::fs::create_dir_all(world.path("run")).expect("works");
    std::fs::write(world.path("run/instances.json"), text).expect("works");
}

#[tokio::test]
async fn what_a_dead_daemon_left_is_stopped_first() {
    let world = World::new();
    let mut leader = leave_behind("exec sleep 1000");
    write_state(&world, leader.id(), start_time(leader.id()));
    let running = world.run_after_death(vec![world.service("a", sh("sleep 1000"))]).await;
    running.start().await;
    running.ready("a").await;
    let pid = leader.id();
    assert!(
        running.position("a", |kind| *kind == Kind::LeftoverStopped { pid })
            < running.position("a", |kind| matches!(kind, Kind::Started { .. }))
    );
    assert_eq!(leader.wait().unwrap().signal(), Some(15));
    running.drain().await;
}

#[tokio::test]
async fn children_of_a_leader_that_died_with_the_daemon_are_stopped_too() {
    let world = World::new();
    let pids = world.path("pids");
    let mut leader = leave_behind(&format!("sleep 1000 & echo $! > {}", pids.display()));
    let (pid, at) = (leader.id(), start_time(leader.id()));
    leader.wait().unwrap();
    let child = world.numbers("pids", 1).await[0];
    write_state(&world, pid, at);
    let running = world.run_after_death(vec![world.service("a", sh("sleep 1000"))]).await;
    running.event("a leftover", |event| event.kind == Kind::LeftoverStopped { pid }).await;
    assert!(!is_running(child));
    running.drain().await;
}

#[tokio::test]
async fn a_process_that_only_has_the_same_pid_is_left_alone() {
    let world = World::new();
    let mut other = leave_behind("exec sleep 1000");
    write_state(&world, other.id(), start_time(other.id()) + 1);
    let running = world.run_after_death(vec![world.service("a", sh("sleep 1000"))]).await;
    running.start().await;
    running.ready("a").await;
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
    running.drain().await;
}

#[tokio::test]
async fn what_was_never_written_down_is_found_by_its_mark() {
    let world = World::new();
    std::fs::create_dir(world.path("run")).unwrap();
    let (mark, other) = (world.path("run/instances.json"), world.path("run/other.json"));
    let leave = |name: &str, mark: &std::path::Path, setsid: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{setsid} sleep 1000 & echo $! > {}; wait", world.path(name).display())]);
        command.env("ATOLL_SERVICE", "a").env("ATOLL_INSTANCE", "a.3").env(RUN, mark).stdin(Stdio::null());
        command.process_group(0).spawn().expect("works")
    };
    let mut leader = leave("child", &mark, "");
    let mut another = leave("other", &other, "");
    let mut escaping = leave("escaped", &mark, "setsid");
    let child = world.numbers("child", 1).await[0];
    let left = [world.numbers("other", 1).await[0], world.numbers("escaped", 1).await[0]];
    until("a session of its own", BOUND, || async {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", left[1])).ok()?;
        (stat.rsplit_once(") ")?.1.split(' ').nth(3)? == left[1].to_string()).then_some(())
    })
    .await;
    let processes = supervisor::stop_leftovers(&mark).await.processes;
    let named = processes.iter().all(|(service, instance, _)| (service.as_str(), *instance) == ("a", 3));
    assert!(named && processes.len() == 2, "{processes:?}");
    assert_eq!([&mut leader, &mut escaping].map(|shell| shell.wait().unwrap().signal()), [Some(15); 2]);
    assert!(!is_running(child));
    // Another supervisor's, and what left for a session of its own.
    assert!(another.try_wait().unwrap().is_none() && left.iter().all(|pid| is_running(*pid)));
    left.iter().for_each(|pid| kill(u32::try_from(*pid).unwrap()));
    another.wait().unwrap();
}

#[tokio::test]
async fn what_runs_is_kept_for_the_next_daemon() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("sleep 1000"))]);
    running.start().await;
    let pid = running.ready("a").await.pid.unwrap();
    let expected = format!("\"start_time\": {}", start_time(pid));
    let is_kept = || async { world.text("run/instances.json").filter(|text| text.contains(&expected)) };
    until("the state file", BOUND, is_kept).await;
    running.drain().await;
    assert!(world.text("run/instances.json").is_some_and(|text| text.contains("\"instances\": []")));
}

#[tokio::test]
async fn a_damaged_state_file_is_said_and_nothing_is_lost() {
    let world = World::new();
    std::fs::create_dir(world.path("run")).unwrap();
    std::fs::write(world.path("run/instances.json"), "{\"version\": 99").unwrap();
    let running = world.run_after_death(vec![world.service("a", sh("sleep 1000"))]).await;
    running.event("damage", |event| matches!(event.kind, Kind::StateFileDamaged { .. })).await;
    assert!(world.path("run/instances.json.damaged").exists());
    running.start().await;
    running.ready("a").await;
    running.drain().await;
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
