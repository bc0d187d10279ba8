//! Rollouts under chance: instances take random times for everything, releases are good or bad in different ways. What
//! must hold at every moment is checked at every moment; the seed of a failure is printed.

use fastrand::Rng;

use super::super::*;
use crate::config::Strategy;

const SERVICE: &str = "a";

/// Rollouts that are tried.
const SEEDS: u64 = 500;

/// Limit: steps of one rollout; one that takes more does not end.
const STEPS_MAX: usize = 20_000;

const STEP: Duration = Duration::from_millis(100);

/// How an instance of the new release behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    Good,
    Exits,
    /// Gets ready and exits soon after.
    ReadyThenExits,
    Unhealthy,
    NeverReady,
    CannotStart,
    BuildFails,
}

struct World {
    rng: Rng,
    now: Instant,
    desired: Desired,
    observed: Observed,
    release: Release,
    outcome: Option<&'static str>,
}

impl World {
    fn new(seed: u64, release: Release) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (replicas, surge) = (rng.u32(1..5), rng.u32(0..4));
        let unavailable = rng.u32(0..replicas + 1).max(u32::from(surge == 0));
        let build = Build { command: vec!["b".to_owned()], shown: String::new(), working_dir: "/".into() };
        let target = Target {
            wanted: Wanted::Running,
            generation: 1,
            base: (0..replicas).collect(),
            surge: (replicas..replicas + surge).collect(),
            update: Update {
                strategy: Strategy::Rolling,
                max_unavailable: unavailable,
                min_ready: Duration::from_millis(rng.u64(0..3000)),
                auto_revert: true,
                progress_deadline: Duration::from_secs(20),
            },
            build: Some(build.clone()),
            depends_on: BTreeMap::new(),
            calls: Vec::new(),
            restart: Restart::Always,
            stop_grace_period: Duration::from_secs(5),
        };
        let now = Instant::now();
        let ready = ObservedInstance {
            phase: Phase::Live { health: Health::Ready },
            generation: 0,
            attempts: 0,
            was_ready: true,
            ready_at: None,
        };
        let idle = ObservedInstance { phase: Phase::Idle, was_ready: false, ..ready.clone() };
        let instances = target.base.iter().map(|i| (*i, ready.clone()));
        let instances = instances.chain(target.surge.iter().map(|i| (*i, idle.clone()))).collect();
        let rollout = Some(Rollout::new(0, now));
        let seen = ObservedService { preparation: Progress::Done, instances, rollout };
        Self {
            rng,
            now,
            desired: Desired { services: BTreeMap::from([(SERVICE.to_owned(), target)]), builds_max: 1 },
            observed: Observed {
                builds: BTreeMap::from([(build, BuildState::Needed)]),
                services: BTreeMap::from([(SERVICE.to_owned(), seen)]),
            },
            release,
            outcome: None,
        }
    }

    fn target(&mut self) -> &mut Target {
        self.desired.services.get_mut(SERVICE).unwrap()
    }

    fn seen(&mut self) -> &mut ObservedService {
        self.observed.services.get_mut(SERVICE).unwrap()
    }

    fn instance(&mut self, index: u32) -> &mut ObservedInstance {
        self.seen().instances.get_mut(&index).unwrap()
    }

    fn count(&self, is: impl Fn(&ObservedInstance) -> bool) -> usize {
        self.observed.services[SERVICE].instances.values().filter(|instance| is(instance)).count()
    }

    fn available(&self) -> usize {
        let min_ready = self.desired.services[SERVICE].update.min_ready;
        self.count(|i| {
            i.phase == (Phase::Live { health: Health::Ready }) && i.ready_at.is_none_or(|at| self.now - at >= min_ready)
        })
    }

    /// What the loop does.
    fn perform(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Build(build) => drop(self.observed.builds.insert(build, BuildState::Running)),
            Action::Start { instance, generation, .. } => {
                let seen = self.instance(instance);
                assert!(!seen.phase.is_alive());
                (seen.phase, seen.generation) = (Phase::Live { health: Health::Spawning }, generation);
            }
            Action::Stop { instance, cause, force, .. } => {
                self.instance(instance).phase = Phase::Stopping { since: now, cause, force };
            }
            Action::Signal { instance, .. } => self.force(instance, Force::Signal),
            Action::Kill { instance, .. } => self.force(instance, Force::Kill),
            Action::Backoff { instance, attempt, .. } => {
                let until = now + Duration::from_secs(1);
                self.instance(instance).phase = Phase::Backoff { until, attempt };
            }
            Action::Revert { .. } => {
                let rollout = self.seen().rollout.as_mut().unwrap();
                rollout.course = Course::Back;
                self.target().generation = 0;
                // The former declaration has a build of its own.
                self.target().build = None;
                self.outcome = Some("reverted");
            }
            Action::Settle { .. } => {
                self.seen().rollout = None;
                self.outcome = self.outcome.or(Some("done"));
            }
            other => panic!("{other:?}"),
        }
    }

    fn force(&mut self, instance: u32, to: Force) {
        let now = self.now;
        let Phase::Stopping { since, force, .. } = &mut self.instance(instance).phase else { panic!() };
        (*since, *force) = (now, to);
    }

    /// What processes and builds do by themselves, now and then.
    fn happen(&mut self) {
        let release = self.release;
        let fails = release == Release::BuildFails;
        for state in self.observed.builds.values_mut().filter(|state| **state == BuildState::Running) {
            *state = match fails {
                true => BuildState::Failed { reason: String::new(), last_lines: Vec::new() },
                false => BuildState::Done,
            };
        }
        let indices: Vec<u32> = self.seen().instances.keys().copied().collect();
        for index in indices {
            if self.rng.u8(0..10) == 0 {
                let (now, is_late) = (self.now, self.rng.bool());
                happen_to(self.instance(index), release, now, is_late);
            }
        }
    }

    fn run(&mut self) {
        let replicas = self.desired.services[SERVICE].base.len();
        let (surge, missing) = {
            let target = self.target();
            (target.surge.len(), usize::try_from(target.update.max_unavailable).unwrap())
        };
        for _ in 0..STEPS_MAX {
            loop {
                rollout::note_progress(&self.desired, &mut self.observed, self.now);
                let actions = reconcile(&self.desired, &self.observed, self.now);
                if actions.is_empty() {
                    break;
                }
                actions.into_iter().for_each(|action| self.perform(action));
            }
            assert!(self.count(|i| i.phase.is_alive()) <= replicas + surge, "too many");
            if self.release == Release::Good {
                assert!(self.available() + missing >= replicas, "too few: {:#?}", self.observed);
            }
            let alive = self.count(|i| i.phase.is_alive());
            if self.outcome.is_some()
                && alive == replicas
                && self.available() == replicas
                && self.seen().rollout.is_none()
            {
                return;
            }
            self.happen();
            self.now += STEP;
        }
        panic!("it does not end: {:#?}", self.observed);
    }
}

fn happen_to(seen: &mut ObservedInstance, release: Release, now: Instant, is_late: bool) {
    let release = if seen.generation == 0 { Release::Good } else { release };
    let exit = || Ending::Exit(Exit::Status(1));
    let next = match &seen.phase {
        Phase::Live { health: Health::Spawning } if release == Release::CannotStart => {
            Phase::Ended { ending: Ending::NotStarted { reason: String::new() } }
        }
        Phase::Live { health: Health::Spawning } => Phase::Live { health: Health::Starting },
        Phase::Live { health: Health::Starting } => match release {
            Release::Exits => Phase::Leaving { ending: exit() },
            Release::Unhealthy => Phase::Live { health: Health::Unhealthy { why: String::new() } },
            Release::NeverReady => return,
            _ => {
                (seen.ready_at, seen.was_ready) = (Some(now), true);
                Phase::Live { health: Health::Ready }
            }
        },
        Phase::Live { health: Health::Ready } if release == Release::ReadyThenExits && is_late => {
            Phase::Leaving { ending: exit() }
        }
        Phase::Leaving { ending } => Phase::Ended { ending: ending.clone() },
        Phase::Stopping { since, cause, force: Force::Drain } => {
            Phase::Stopping { since: *since, cause: cause.clone(), force: Force::Drained }
        }
        Phase::Stopping { cause: Cause::Unhealthy { why }, force: Force::Signal | Force::Kill, .. } => {
            Phase::Ended { ending: Ending::Unhealthy { why: why.clone() } }
        }
        Phase::Stopping { force: Force::Signal | Force::Kill, .. } => Phase::Idle,
        _ => return,
    };
    seen.phase = next;
}

fn simulate(seed: u64, release: Release) -> World {
    println!("seed {seed}, {release:?}");
    let mut world = World::new(seed, release);
    world.run();
    world
}

#[test]
fn a_good_release_ends_in_place_and_enough_serve_at_every_moment() {
    for seed in 0..SEEDS {
        let world = simulate(seed, Release::Good);
        assert_eq!(world.outcome, Some("done"));
        assert_eq!(
            world.count(|i| i.phase.is_alive() && i.generation == 1),
            world.desired.services[SERVICE].base.len()
        );
    }
}

#[test]
fn a_bad_release_always_ends_with_all_old_instances_available() {
    use Release::{BuildFails, CannotStart, Exits, NeverReady, Unhealthy};
    for (seed, release) in (0..SEEDS).zip([BuildFails, CannotStart, Exits, NeverReady, Unhealthy].into_iter().cycle()) {
        let world = simulate(seed, release);
        assert_eq!(world.outcome, Some("reverted"));
        let replicas = world.desired.services[SERVICE].base.len();
        assert_eq!(world.count(|i| i.phase.is_alive() && i.generation == 0), replicas);
    }
}

#[test]
fn a_release_that_fails_late_ends_all_the_same() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, Release::ReadyThenExits);
        println!("seed {seed}");
        // Whether it is noticed in time is a matter of `min_ready`.
        world.target().update.min_ready = Duration::from_secs(15);
        world.run();
        assert!(world.outcome.is_some());
    }
}
