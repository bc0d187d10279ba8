//! Tables: a world as text, what is decided in it as text. No process, no clock.

use expect_test::{Expect, expect};

use super::*;
use crate::config::Strategy;

mod rollouts;
mod simulation;

/// Milliseconds since the start of the world; every time in a table is one of these.
const NOW: u64 = 100_000;

const GRACE: Duration = Duration::from_millis(10_000);

/// Builds a world from lines such as
/// `api: running, always, after db healthy, build b done, prepare needed | live ready | idle`.
/// Before the first bar is what is wanted and known of the service, after each bar an instance.
struct World {
    start: Instant,
    desired: Desired,
    observed: Observed,
}

impl World {
    fn parse(text: &str) -> Self {
        let desired = Desired { builds_max: 2, ..Desired::default() };
        let mut world = Self { start: Instant::now(), desired, observed: Observed::default() };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, rest) = line.split_once(':').expect("a name");
            let mut parts = rest.split('|').map(str::trim);
            let mut target = Target {
                wanted: Wanted::Running,
                generation: 0,
                base: BTreeSet::new(),
                surge: BTreeSet::new(),
                update: Update {
                    strategy: Strategy::Rolling,
                    max_unavailable: 0,
                    min_ready: Duration::from_secs(1),
                    auto_revert: true,
                    progress_deadline: Duration::from_secs(60),
                },
                build: None,
                depends_on: BTreeMap::new(),
                calls: Vec::new(),
                restart: Restart::Always,
                stop_grace_period: GRACE,
            };
            let mut preparation = Progress::Done;
            let mut course = Some(Course::Forward);
            for word in parts.next().expect("a service").split(',').map(str::trim) {
                match word {
                    "never ready" => course = None,
                    "back" => course = Some(Course::Back),
                    "halted" => course = Some(Course::Halted),
                    _ => world.parse_trait(word, &mut target, &mut preparation),
                }
            }
            let mut instances = BTreeMap::new();
            for (index, part) in (0..).zip(parts) {
                let part = match part.split_once(' ') {
                    Some(("surge", part)) => {
                        target.surge.insert(index);
                        part
                    }
                    Some(("extra", part)) => part,
                    _ => {
                        target.base.insert(index);
                        part
                    }
                };
                instances.insert(index, world.parse_instance(part));
            }
            // The rollout of a table comes from generation 0, and has waited for 50 s.
            let progress_at = world.start + Duration::from_millis(NOW - 50_000);
            let course = course.filter(|course| target.generation > 0 || *course == Course::Back);
            let rollout = course.map(|course| Rollout { course, ..Rollout::new(0, progress_at) });
            world.desired.services.insert(name.to_owned(), target);
            world.observed.services.insert(name.to_owned(), ObservedService { preparation, instances, rollout });
        }
        world
    }

    fn parse_trait(&mut self, word: &str, target: &mut Target, preparation: &mut Progress) {
        let words: Vec<&str> = word.split(' ').collect();
        match words[..] {
            ["running"] => target.wanted = Wanted::Running,
            ["stopped"] => target.wanted = Wanted::Stopped,
            ["no"] => target.restart = Restart::No,
            ["on-failure"] => target.restart = Restart::OnFailure,
            ["always"] => target.restart = Restart::Always,
            ["generation", number] => target.generation = number.parse().unwrap(),
            ["after", service, condition] => {
                let condition = match condition {
                    "started" => Condition::Started,
                    "healthy" => Condition::Healthy,
                    "completed" => Condition::Completed,
                    _ => panic!("{word}"),
                };
                target.depends_on.insert(service.to_owned(), condition);
            }
            ["recreate"] => target.update.strategy = Strategy::Recreate,
            ["no-revert"] => target.update.auto_revert = false,
            ["unavailable", number] => target.update.max_unavailable = number.parse().unwrap(),
            ["deadline", seconds] => {
                target.update.progress_deadline = Duration::from_secs(seconds.parse().unwrap());
            }
            ["calls", service] => target.calls.push(service.to_owned()),
            ["build", name, state] => {
                let build = Build { command: vec![name.to_owned()], shown: name.to_owned(), working_dir: "/".into() };
                target.build = Some(build.clone());
                let state = match state {
                    "needed" => BuildState::Needed,
                    "running" => BuildState::Running,
                    "cancelling" => BuildState::Cancelling,
                    "done" => BuildState::Done,
                    "failed" => BuildState::Failed { reason: "no".to_owned(), last_lines: Vec::new() },
                    _ => panic!("{word}"),
                };
                self.observed.builds.insert(build, state);
            }
            ["prepare", state] => {
                *preparation = match state {
                    "needed" => Progress::Needed,
                    "running" => Progress::Running,
                    "failed" => Progress::Failed { reason: "no".to_owned() },
                    _ => panic!("{word}"),
                }
            }
            _ => panic!("{word}"),
        }
    }

    fn parse_instance(&self, text: &str) -> ObservedInstance {
        let words: Vec<&str> = text.split(' ').collect();
        let at = |millis: &str| self.start + Duration::from_millis(millis.parse().unwrap());
        let asked = |since, force| Phase::Stopping { since, cause: Cause::Asked, force };
        let (words, generation) = match words[..] {
            [.., "generation", number] => (&words[..words.len() - 2], number.parse().unwrap()),
            _ => (&words[..], 0),
        };
        let (words, was_ready) = match *words {
            [.., "again"] => (&words[..words.len() - 1], true),
            _ => (words, matches!(words, ["live", "ready", ..])),
        };
        let (words, ready_at) = match *words {
            ["live", "ready", since] => (&words[..2], Some(at(since))),
            _ => (words, None),
        };
        let (words, attempts) = match *words {
            [.., "attempts", number] => (&words[..words.len() - 2], number.parse().unwrap()),
            _ => (words, 0),
        };
        let exit = |status: &str| Ending::Exit(Exit::Status(status.parse().unwrap()));
        let why = || "no".to_owned();
        let phase = match *words {
            ["idle"] => Phase::Idle,
            ["live", "spawning"] => Phase::Live { health: Health::Spawning },
            ["live", "starting"] => Phase::Live { health: Health::Starting },
            ["live", "ready"] => Phase::Live { health: Health::Ready },
            ["live", "unready"] => Phase::Live { health: Health::Unready },
            ["live", "unhealthy"] => Phase::Live { health: Health::Unhealthy { why: why() } },
            ["draining", since] => asked(at(since), Force::Drain),
            ["drained", since] => asked(at(since), Force::Drained),
            ["stopping", since] => asked(at(since), Force::Signal),
            ["killed", since] => asked(at(since), Force::Kill),
            ["leaving", status] => Phase::Leaving { ending: exit(status) },
            ["ended", "not-started"] => Phase::Ended { ending: Ending::NotStarted { reason: why() } },
            ["ended", "unhealthy"] => Phase::Ended { ending: Ending::Unhealthy { why: why() } },
            ["ended", status] => Phase::Ended { ending: exit(status) },
            ["backoff", until] => Phase::Backoff { until: at(until), attempt: attempts },
            _ => panic!("{text}"),
        };
        ObservedInstance { phase, generation, attempts, was_ready, ready_at }
    }

    fn describe(&self) -> String {
        let now = self.start + Duration::from_millis(NOW);
        let actions = reconcile(&self.desired, &self.observed, now);
        let mut lines: Vec<String> = actions.iter().map(describe).collect();
        for service in
            self.desired.services.keys().filter(|name| self.desired.services[*name].wanted == Wanted::Running)
        {
            let idle = self.observed.services[service].instances.values().any(|i| i.phase == Phase::Idle);
            if let Some(why) = blocked(&self.desired, &self.observed, service).filter(|_| idle) {
                lines.push(format!("({service} {why})"));
            }
        }
        lines.join("\n")
    }
}

fn describe(action: &Action) -> String {
    match action {
        Action::Build(build) => format!("build {}", build.command[0]),
        Action::CancelBuild(build) => format!("cancel {}", build.command[0]),
        Action::Prepare { service } => format!("prepare {service}"),
        Action::Start { service, instance, generation: 0 } => format!("start {service}/{instance}"),
        Action::Start { service, instance, generation } => format!("start {service}/{instance} as {generation}"),
        Action::Stop { service, instance, cause, force } => {
            let cause = match cause {
                Cause::Asked => "asked",
                Cause::Replaced => "replaced",
                Cause::Surplus => "surplus",
                Cause::Unhealthy { .. } => "unhealthy",
            };
            let force = match force {
                Force::Drain => "",
                Force::Drained => " at once",
                Force::Signal | Force::Kill => panic!("{action:?}"),
            };
            format!("stop {service}/{instance} {cause}{force}")
        }
        Action::Signal { service, instance } => format!("signal {service}/{instance}"),
        Action::Kill { service, instance } => format!("kill {service}/{instance}"),
        Action::Revert { service, instance, why } => format!("revert {service} for {instance:?}: {why}"),
        Action::Halt { service, instance, why } => format!("halt {service} for {instance:?}: {why}"),
        Action::Settle { service } => format!("settle {service}"),
        Action::Backoff { service, instance, attempt } => format!("backoff {service}/{instance} attempt {attempt}"),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an `expect!` is written in place")]
fn check(world: &str, expected: Expect) {
    expected.assert_eq(&World::parse(world).describe());
}

#[test]
fn everything_without_a_dependency_starts_at_once() {
    check(
        "a: running | idle | idle\n b: running | idle",
        expect![[r#"
        start a/0
        start a/1
        start b/0"#]],
    );
    check("a: stopped | idle", expect![""]);
    check("a: running | live starting | live ready | live unready | leaving 1", expect![""]);
}

#[test]
fn a_dependency_gates_the_first_start() {
    for (condition, instances, starts) in [
        ("started", "live spawning", false),
        ("started", "live starting", true),
        ("started", "live starting | idle", false),
        ("started", "ended 0", true),
        ("started", "backoff 200000", false),
        ("healthy", "live starting", false),
        ("healthy", "live ready | live starting", false),
        ("healthy", "live ready | live ready", true),
        ("healthy", "live unready", false),
        ("healthy", "stopping 99000", false),
        ("completed", "live ready", false),
        ("completed", "leaving 0", false),
        ("completed", "ended 0", true),
        ("completed", "ended 0 | ended 0", true),
        ("completed", "ended 0 | live ready", false),
    ] {
        let world = World::parse(&format!("api: running, after db {condition} | idle\n db: running | {instances}"));
        let decided = world.describe();
        assert_eq!(decided.contains("start api/0"), starts, "{condition} {instances}: {decided}");
    }
}

#[test]
fn a_crashed_dependent_does_not_wait_for_its_dependency_again() {
    check("api: running, after db healthy | backoff 100000\n db: running | live unready", expect!["start api/0"]);
}

#[test]
fn what_waits_says_for_whom() {
    check(
        "api: running, after db healthy | idle\n db: running | live starting",
        expect![["(api waits for `db` to be healthy)"]],
    );
    check(
        "api: running, after db healthy | idle\n db: stopped | live ready",
        expect![[r#"
        stop db/0 asked
        (api needs `db` to be healthy, but it is stopped)"#]],
    );
    check(
        "api: running, after db completed | idle\n db: running, no | ended 3",
        expect![["(api needs `db` to be completed, but it ended with status 3)"]],
    );
    check(
        "api: running, after db started | idle\n db: running, build b failed | idle",
        expect![[r#"
        (api needs `db` to be started, but its build failed)
        (db waits for its build)"#]],
    );
    check(
        "api: running, after db started | idle\n db: running, prepare failed | idle",
        expect![[r#"
        (api needs `db` to be started, but its preparation failed)
        (db waits for its preparation)"#]],
    );
    check(
        "web: running, after api healthy | idle\n api: running, after db healthy | idle\n db: running, no | ended not-started",
        expect![[r#"
            (api needs `db` to be healthy, but no)
            (web needs `api` to be healthy, but it needs `db`, which does not come up)"#]],
    );
}

#[test]
fn a_failure_keeps_down_only_those_who_need_it() {
    check(
        "api: running, build b failed | idle\n web: running, build c done | idle\n old: running | idle",
        expect![[r#"
        start old/0
        start web/0
        (api waits for its build)"#]],
    );
}

#[test]
fn each_build_runs_once_and_no_more_than_allowed_at_a_time() {
    check(
        "a: running, build x needed | idle\n b: running, build x needed | idle",
        expect![[r#"
        build x
        (a waits for its build)
        (b waits for its build)"#]],
    );
    check(
        "a: running, build x running | idle\n b: running, build y needed | idle\n c: running, build z needed | idle",
        expect![[r#"
            build y
            (a waits for its build)
            (b waits for its build)
            (c waits for its build)"#]],
    );
    check(
        "a: running, build x cancelling | idle\n b: running, build y running | idle\n c: running, build z needed | idle",
        expect![[r#"
        (a waits for its build)
        (b waits for its build)
        (c waits for its build)"#]],
    );
    check("a: stopped, build x needed | idle", expect![""]);
    check("a: stopped, build x running | idle", expect!["cancel x"]);
    check(
        "a: stopped, build x running | idle\n b: running, build x running | idle",
        expect!["(b waits for its build)"],
    );
    check("a: stopped, build x cancelling | idle", expect![""]);
}

#[test]
fn a_preparation_follows_the_build_and_precedes_the_start() {
    check("a: running, build x running, prepare needed | idle", expect!["(a waits for its build)"]);
    check(
        "a: running, build x done, prepare needed | idle",
        expect![[r#"
        prepare a
        (a waits for its preparation)"#]],
    );
    check("a: running, prepare running | idle", expect!["(a waits for its preparation)"]);
    check("a: running, prepare failed | idle", expect!["(a waits for its preparation)"]);
    check("a: stopped, prepare needed | idle", expect![""]);
    // It need not wait for others: what is prepared is the service's own.
    check(
        "a: running, prepare needed, after b healthy | idle\n b: running | live starting",
        expect![[r#"
        prepare a
        (a waits for its preparation)"#]],
    );
}

#[test]
fn the_policy_decides_what_follows_an_end() {
    for (policy, ending, again) in [
        ("no", "0", false),
        ("no", "1", false),
        ("no", "not-started", false),
        ("no", "unhealthy", false),
        ("on-failure", "0", false),
        ("on-failure", "1", true),
        ("on-failure", "not-started", true),
        ("on-failure", "unhealthy", true),
        ("always", "0", true),
        ("always", "1", true),
        ("always", "not-started", true),
        ("always", "unhealthy", true),
    ] {
        let decided = World::parse(&format!("a: running, {policy} | ended {ending} attempts 3")).describe();
        let expected = if again { "backoff a/0 attempt 3" } else { "" };
        assert_eq!(decided, expected, "{policy} {ending}");
    }
    check("a: stopped | ended 1", expect![""]);
}

#[test]
fn a_success_that_is_awaited_is_not_repeated() {
    check("seed: running | ended 0\n api: running, after seed completed | live ready", expect![""]);
    check(
        "seed: running | ended 1\n api: running, after seed completed | idle",
        expect![[r#"
        backoff seed/0 attempt 0
        (api waits for `seed` to be completed)"#]],
    );
}

#[test]
fn a_crash_loop_waits_for_its_backoff() {
    check("a: running | backoff 100001 attempts 7", expect![""]);
    check("a: running | backoff 100000 attempts 7", expect!["start a/0"]);
    check("a: stopped | backoff 100000 attempts 7", expect![""]);
    let world = World::parse("a: running | backoff 130000 attempts 7 | backoff 120000 | live ready");
    let deadline = next_deadline(&world.desired, &world.observed, world.start).unwrap();
    assert_eq!(deadline - world.start, Duration::from_millis(120_000));
}

#[test]
fn dependents_stop_before_what_they_depend_on() {
    let layers = |web: &str, api: &str, db: &str| {
        let world = format!(
            "web: stopped, after api healthy | {web}\n api: stopped, after db healthy | {api}\n db: stopped | {db}\n x: stopped | {db}"
        );
        World::parse(&world).describe()
    };
    assert_eq!(layers("live ready", "live ready", "live ready"), "stop web/0 asked\nstop x/0 asked");
    assert_eq!(layers("stopping 99000", "live ready", "stopping 99000"), "");
    assert_eq!(layers("leaving 1", "live ready", "stopping 99000"), "");
    assert_eq!(layers("draining 99000", "live ready", "stopping 99000"), "");
    assert_eq!(layers("idle", "live ready", "stopping 99000"), "stop api/0 asked");
    assert_eq!(layers("backoff 1", "live spawning", "idle"), "stop api/0 asked at once");
    assert_eq!(layers("idle", "ended 1", "live ready"), "stop db/0 asked\nstop x/0 asked");
}

#[test]
fn a_dependent_that_goes_on_does_not_hold_a_stop_back() {
    check("api: running, after db healthy | live ready\n db: stopped | live ready", expect!["stop db/0 asked"]);
}

#[test]
fn the_signal_follows_the_drain_or_the_grace_period() {
    for (health, stop) in [
        ("spawning", "stop a/0 asked at once"),
        ("starting", "stop a/0 asked at once"),
        // What was ready before its present life has nothing in flight either.
        ("starting again", "stop a/0 asked at once"),
        ("ready", "stop a/0 asked"),
        ("unready", "stop a/0 asked"),
        ("unhealthy", "stop a/0 asked at once"),
    ] {
        assert_eq!(World::parse(&format!("a: stopped | live {health}")).describe(), stop, "{health}");
    }
    for policy in ["running", "stopped"] {
        check(&format!("a: {policy} | draining 90001"), expect![""]);
        check(&format!("a: {policy} | draining 90000"), expect!["signal a/0"]);
        check(&format!("a: {policy} | drained 99999"), expect!["signal a/0"]);
    }
    let world = World::parse("a: stopped | draining 95000 | stopping 96000 | drained 1");
    let deadline = next_deadline(&world.desired, &world.observed, world.start).unwrap();
    assert_eq!(deadline - world.start, Duration::from_millis(105_000));
}

#[test]
fn a_grace_period_ends_with_one_kill() {
    check("a: stopped | stopping 90001", expect![""]);
    check("a: stopped | stopping 90000 | stopping 99999", expect!["kill a/0"]);
    check("a: stopped | killed 1", expect![""]);
    check("a: running | stopping 90000", expect!["kill a/0"]);
    let world = World::parse("a: stopped | stopping 95000 | killed 1");
    let deadline = next_deadline(&world.desired, &world.observed, world.start).unwrap();
    assert_eq!(deadline - world.start, Duration::from_millis(105_000));
}

#[test]
fn an_unhealthy_instance_is_stopped() {
    check("a: running | live unhealthy | live ready", expect!["stop a/0 unhealthy at once"]);
}

#[test]
fn a_restart_gives_up_what_runs_only_when_its_successor_can_start() {
    check("a: running, generation 1 | live ready", expect!["stop a/0 replaced"]);
    check("a: running, generation 1, build x running | live ready", expect![""]);
    check("a: running, generation 1, prepare running | live ready", expect![""]);
    check("a: running, generation 1, after b healthy | live ready\n b: running | live starting", expect![""]);
    check("a: running, generation 1 | stopping 99000", expect![""]);
    check("a: running, generation 1 | idle", expect!["start a/0 as 1"]);
}

#[test]
fn one_that_ended_during_its_restart_starts_when_it_can() {
    for policy in ["no", "on-failure", "always"] {
        let decide = |build: &str| {
            World::parse(&format!("a: running, {policy}, generation 1, build x {build} | ended 0")).describe()
        };
        assert_eq!(decide("done"), "start a/0 as 1");
        assert_eq!(decide("running"), if policy == "always" { "backoff a/0 attempt 0" } else { "" });
    }
}

#[test]
fn callers_stop_before_those_whom_they_call_when_everything_stops() {
    check("web: stopped, calls api | live ready\n api: stopped | live ready", expect!["stop web/0 asked"]);
    check("web: stopped, calls api | leaving 0\n api: stopped | live ready", expect![""]);
    check("web: stopped, calls api | idle\n api: stopped | live ready", expect!["stop api/0 asked"]);
    check(
        "web: stopped, calls api | live ready\n api: stopped | live ready\n x: running | live ready",
        expect![[r#"
            stop api/0 asked
            stop web/0 asked"#]],
    );
    // A circle orders nothing, alone or together with dependencies, and those outside of it are ordered still.
    check(
        "web: stopped, calls a | live ready\n a: stopped, calls b | live ready\n b: stopped, calls a, calls gone | live ready",
        expect![[r#"
            stop b/0 asked
            stop web/0 asked"#]],
    );
    check(
        "a: stopped, calls b, calls a | live ready\n b: stopped, calls a | live ready",
        expect![[r#"
            stop a/0 asked
            stop b/0 asked"#]],
    );
    check("a: stopped, after b healthy | live ready\n b: stopped, calls a | live ready", expect!["stop a/0 asked"]);
}

#[test]
fn nothing_panics_on_a_world_with_holes() {
    let mut world = World::parse("a: running, after gone healthy, build x needed | idle");
    assert_eq!(world.describe(), "build x\n(a waits for its build)");
    world.observed.builds.clear();
    assert_eq!(reconcile(&world.desired, &world.observed, world.start), []);
    world.observed.services.clear();
    assert_eq!(reconcile(&world.desired, &world.observed, world.start), []);
    assert_eq!(next_deadline(&world.desired, &world.observed, world.start), None);
}
