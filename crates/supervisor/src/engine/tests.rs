//! What the loop makes of reports and commands that come in one batch. No process is started here.

use super::*;
use crate::config::{Check, Instance, Limits, Preparation, Probe, Probes, Restart, Strategy, Update};
use crate::handle::Verb;
use crate::probe::Verdict;
use crate::reconcile::{Action, Cause, Ending, Force, Health, Phase, Progress};
use crate::{Adopted, Before};

/// One service `a` with one instance, wanted and in this phase.
fn engine(restart: Restart, phase: Phase) -> Engine {
    let second = Duration::from_secs(1);
    let service = Service {
        name: "a".to_owned(),
        build: None,
        command: vec!["true".to_owned()],
        working_dir: "/".into(),
        environment: BTreeMap::new(),
        instances: vec![Instance { index: 0, address: ([127, 0, 0, 1], 1).into(), environment: BTreeMap::new() }],
        surge: Vec::new(),
        depends_on: BTreeMap::new(),
        calls: Vec::new(),
        probes: Probes {
            startup: None,
            readiness: Probe { check: Check::Tcp, interval: second, timeout: second, failure_threshold: 1 },
            liveness: None,
        },
        restart,
        stop_signal: 15,
        stop_grace_period: second,
        prepare: Preparation::None,
        update: Update {
            strategy: Strategy::Rolling,
            max_unavailable: 0,
            min_ready: Duration::ZERO,
            auto_revert: true,
            progress_deadline: second,
        },
        limits: Limits::default(),
    };
    let config = Config {
        services: vec![service],
        log_dir: "/nowhere".into(),
        run_dir: "/nowhere".into(),
        adopted: Adopted::default(),
        before: Before::default(),
        shim: Shim { program: "/nowhere/atoll".into(), name: "atoll".to_owned() },
        registry: registry::Handle::default(),
        prepare: mpsc::channel(1).0,
        drain: mpsc::channel(1).0,
        log: logs::Limits::default(),
        backoff: Backoff { first: second, max: second },
        stable_after: second,
        builds_max: 1,
        open_files_soft: None,
    };
    let outward = Outward {
        events: Events::default(),
        lines: broadcast::Sender::new(1),
        published: watch::Sender::new(Arc::default()),
        leave: CancellationToken::new(),
    };
    let (mut engine, _) = Engine::new(config, outward, mpsc::channel(1).1);
    engine.desired.services.get_mut("a").unwrap().wanted = Wanted::Running;
    engine.instance("a", 0).phase = phase;
    engine
}

fn hear(engine: &mut Engine, news: News) {
    engine.hear(Report::Life { service: "a".into(), instance: 0, life: 0, news });
}

fn decide(engine: &Engine) -> Vec<Action> {
    reconcile(&engine.desired, &engine.observed, Instant::now())
}

fn start(generation: u64) -> Action {
    Action::Start { service: "a".to_owned(), instance: 0, generation }
}

#[test]
fn unhealthy_is_final_whatever_else_comes_in_one_batch() {
    let why = || "no answer".to_owned();
    for after in [Verdict::Unready { why: why() }, Verdict::Ready] {
        let mut engine = engine(Restart::Always, Phase::Live { health: Health::Ready });
        hear(&mut engine, News::Probed(Verdict::Unhealthy { why: why() }));
        hear(&mut engine, News::Probed(after));
        let (cause, force) = (Cause::Unhealthy { why: why() }, Force::Drained);
        assert_eq!(decide(&engine), [Action::Stop { service: "a".to_owned(), instance: 0, cause, force }]);
    }
}

#[test]
fn one_that_is_started_by_name_while_it_ends_starts_again() {
    let unhealthy = Cause::Unhealthy { why: "no".to_owned() };
    let exit = Exit::Status(0);
    for phase in [
        Phase::Leaving { ending: Ending::Exit(exit) },
        Phase::Stopping { since: Instant::now(), cause: unhealthy, force: Force::Signal },
    ] {
        for verb in [Verb::Start, Verb::Restart] {
            let mut engine = engine(Restart::No, phase.clone());
            engine.change(verb, Some(vec!["a".to_owned()])).unwrap();
            hear(&mut engine, News::Gone { last_lines: Vec::new() });
            assert_eq!(decide(&engine), [start(u64::from(verb == Verb::Restart))], "{phase:?}");
        }
    }
}

#[test]
fn the_answer_to_a_question_of_an_older_life_is_ignored() {
    let stopping = Phase::Stopping { since: Instant::now(), cause: Cause::Asked, force: Force::Drain };
    let mut engine = engine(Restart::No, stopping);
    engine.record("a", 0).life = 2;
    for (life, decided) in [(1, vec![]), (2, vec![Action::Signal { service: "a".to_owned(), instance: 0 }])] {
        engine.hear(Report::Drained { service: "a".to_owned(), instance: 0, life });
        assert_eq!(decide(&engine), decided);
    }
    // Whoever has the signal already does not get it again.
    engine.perform(Action::Signal { service: "a".to_owned(), instance: 0 });
    engine.hear(Report::Drained { service: "a".to_owned(), instance: 0, life: 2 });
    assert_eq!(decide(&engine), []);
}

#[test]
fn one_that_fails_while_its_successor_is_made_waits_for_it() {
    let mut engine = engine(Restart::No, Phase::Live { health: Health::Ready });
    engine.change(Verb::Restart, Some(vec!["a".to_owned()])).unwrap();
    engine.observed.services.get_mut("a").unwrap().preparation = Progress::Running;
    hear(&mut engine, News::Exited { exit: Exit::Status(1), seen_at: Instant::now() });
    hear(&mut engine, News::Gone { last_lines: Vec::new() });
    assert_eq!(decide(&engine), []);
    engine.publish();
    let state = engine.outward.published.borrow().services[0].instances[0].state.name();
    assert_eq!(state, "preparing");
    engine.observed.services.get_mut("a").unwrap().preparation = Progress::Done;
    assert_eq!(decide(&engine), [start(1)]);
}
