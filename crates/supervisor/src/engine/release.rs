//! What the loop keeps of a service's generations beside what is decided by them: the former declaration of a rollout,
//! and how the last one ended. Instances and services that are not declared any more are forgotten here.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Engine, Record};
use crate::config::{Build, Instance, Service};
use crate::event::Kind;
use crate::reconcile::{BuildState, Course, ObservedInstance, ObservedService, Phase, Progress, Rollout, Target};
use crate::standing::{Failure, Outcome};
use crate::status::Wanted;

/// The generations of one service.
#[derive(Debug, Default)]
pub(super) struct Release {
    /// The last that was given out; those of rollouts that were taken back are not used again.
    generation_last: u64,
    /// What is gone back to, while there is a rollout.
    former: Option<Service>,
    /// [`Service::kind`] of that, also once it was gone back to.
    former_kind: Option<String>,
    /// Why what was asked for last is not what runs; until the next change.
    pub(super) failure: Option<Failure>,
    /// What was asked for last, while it is not what is declared, because it failed.
    pub(super) refused: Option<Service>,
}

impl Release {
    /// What is declared is what was asked for last.
    pub(super) fn accept(&mut self) {
        (self.failure, self.refused) = (None, None);
    }

    fn set_former(&mut self, former: Option<Service>) {
        self.former_kind = former.as_ref().map(Service::kind);
        self.former = former;
    }
}

impl Engine {
    /// Lets a service have another declaration, or the same once more: what runs is replaced.
    pub(super) fn release(&mut self, next: Service) {
        let name = next.name.clone();
        let seen = self.observed.services.get_mut(&name).expect("the service is declared");
        let target = self.desired.services.get_mut(&name).expect("the service is declared");
        let release = self.releases.entry(name.clone()).or_default();
        let serves = |i: &ObservedInstance| i.was_ready && !matches!(i.phase, Phase::Idle);
        match &mut seen.rollout {
            // What was to be gone back to still is.
            Some(rollout) => {
                let leans_on = std::mem::take(&mut rollout.leans_on);
                *rollout = Rollout { leans_on, ..Rollout::new(rollout.former, Instant::now()) };
            }
            None if target.wanted == Wanted::Running && seen.instances.values().any(serves) => {
                seen.rollout = Some(Rollout::new(target.generation, Instant::now()));
                release.set_former(self.services.get(&name).cloned());
            }
            None => {}
        }
        if let (Some(rollout), Some(former)) = (&mut seen.rollout, &release.former) {
            let leaned_on = former.depends_on.keys().chain(&former.calls).cloned();
            rollout.leans_on.extend(leaned_on);
            rollout.leans_on.retain(|name| !next.depends_on.contains_key(name) && !next.calls.contains(name));
        }
        release.generation_last += 1;
        release.failure = None;
        target.generation = release.generation_last;
        self.declare(next);
    }

    /// Lets what was taken over from a former declaration be replaced by the present one, or lets its rollout stand where
    /// it stood. To go back to what nobody knows any more is to keep what still runs.
    pub(super) fn succeed(&mut self, service: &str, former: Option<Service>, failure: Option<&Failure>) {
        let Some(present) = self.services.get(service).cloned() else { return };
        let target = self.desired.services.get_mut(service).expect("the service is declared");
        let seen = self.observed.services.get_mut(service).expect("the service is declared");
        if seen.rollout.is_some() {
            return;
        }
        let release = self.releases.entry(service.to_owned()).or_default();
        (release.generation_last, release.failure, target.generation) = (1, failure.cloned(), 1);
        let mut rollout = Rollout::new(0, Instant::now());
        match (failure.map(|failure| failure.outcome), former) {
            (Some(Outcome::Reverted), Some(former)) => {
                // What is still there of the refused one is the older generation, and goes.
                (rollout.former, rollout.course) = (1, Course::Back);
                seen.rollout = Some(rollout);
                let former = Service { depends_on: present.depends_on.clone(), calls: present.calls.clone(), ..former };
                release.former_kind = Some(former.kind());
                release.refused = Some(present);
                self.declare(former);
            }
            (outcome, former) => {
                if outcome == Some(Outcome::Halted) {
                    rollout.course = Course::Halted;
                }
                let leaned_on = former.iter().flat_map(|former| former.depends_on.keys().chain(&former.calls)).cloned();
                let is_dropped =
                    |name: &String| !present.depends_on.contains_key(name) && !present.calls.contains(name);
                rollout.leans_on = leaned_on.filter(is_dropped).collect();
                seen.rollout = Some(rollout);
                release.set_former(former);
            }
        }
    }

    /// Whether this is what a rollout came from: going back to it replaces nothing that has stayed.
    pub(super) fn is_former(&self, next: &Service) -> bool {
        let former = self.releases.get(&next.name).and_then(|release| release.former.as_ref());
        former.is_some_and(|former| crate::change::Difference::between(former, next).process.is_empty())
    }

    /// Lets the former generation be the wanted one, with this declaration.
    pub(super) fn go_back(&mut self, service: Service) {
        let target = self.desired.services.get_mut(&service.name).expect("the service is declared");
        let seen = self.observed.services.get_mut(&service.name).expect("the service is declared");
        let Some(rollout) = &mut seen.rollout else { return };
        rollout.course = Course::Back;
        target.generation = rollout.former;
        // It ran: it is prepared.
        if let Progress::Failed { .. } | Progress::Needed = seen.preparation {
            seen.preparation = Progress::Done;
        }
        self.declare(service);
    }

    /// Takes a rollout back. Whom the service needs and calls stays as it is: that was checked as a whole.
    pub(super) fn revert(&mut self, service: &str, instance: Option<u32>, why: &str) {
        let present = &self.services[service];
        let former = self.releases.get(service).and_then(|release| release.former.as_ref()).unwrap_or(present);
        let former = Service { depends_on: present.depends_on.clone(), calls: present.calls.clone(), ..former.clone() };
        let (why, last_lines) = self.failed(service, instance, why);
        tracing::warn!(service, why, "rollout failed, reverting");
        let release = self.releases.entry(service.to_owned()).or_default();
        release.failure =
            Some(Failure { outcome: Outcome::Reverted, why: why.clone(), last_lines: last_lines.clone() });
        release.refused = Some(self.services[service].clone());
        self.go_back(former);
        self.outward.events.emit(service, None, Kind::Reverted { why, last_lines });
    }

    /// Leaves a rollout where it is.
    pub(super) fn halt(&mut self, service: &str, instance: Option<u32>, why: &str) {
        let (why, last_lines) = self.failed(service, instance, why);
        tracing::warn!(service, why, "rollout failed and is halted");
        self.releases.entry(service.to_owned()).or_default().failure =
            Some(Failure { outcome: Outcome::Halted, why: why.clone(), last_lines: last_lines.clone() });
        if let Some(rollout) = self.observed.services.get_mut(service).and_then(|seen| seen.rollout.as_mut()) {
            rollout.course = Course::Halted;
        }
        self.outward.events.emit(service, None, Kind::RolloutHalted { why, last_lines });
    }

    /// A rollout is over, wherever it has led.
    pub(super) fn settle(&mut self, service: &str) {
        let course = self.end_rollout(service);
        if course == Some(Course::Forward) {
            tracing::info!(service, "rolled out");
            self.outward.events.emit(service, None, Kind::RolledOut);
        }
    }

    /// Keeps nothing of a rollout but what is wanted now.
    pub(super) fn end_rollout(&mut self, service: &str) -> Option<Course> {
        if let Some(release) = self.releases.get_mut(service) {
            release.former = None;
        }
        let rollout = self.observed.services.get_mut(service).and_then(|seen| seen.rollout.take());
        rollout.map(|rollout| rollout.course)
    }

    pub(super) fn former_kind(&self, service: &str) -> Option<String> {
        let release = self.releases.get(service)?;
        let is_rolling = self.observed.services.get(service).is_some_and(|seen| seen.rollout.is_some());
        release.former_kind.clone().filter(|_| is_rolling || release.refused.is_some())
    }

    /// What an instance of that generation is made of.
    pub(super) fn declaration(&self, service: &str, generation: u64) -> &Service {
        let former = self.releases.get(service).and_then(|release| release.former.as_ref());
        let rollout = self.observed.services[service].rollout.as_ref();
        match (former, rollout) {
            (Some(former), Some(rollout)) if rollout.course != Course::Back && rollout.former == generation => former,
            _ => &self.services[service],
        }
    }

    /// Lets what a running process does not notice hold for what a rollout may go back to, too.
    pub(super) fn amend(&mut self, next: &Service) {
        let Some(former) = self.releases.get_mut(&next.name).and_then(|release| release.former.as_mut()) else {
            return;
        };
        *former = with_process_of(former, next);
    }

    /// Sets what is wanted of a service to its declaration, but for its generation and whether it is wanted.
    pub(super) fn declare(&mut self, service: Service) {
        let name = service.name.clone();
        let idle = |generation| ObservedInstance {
            phase: Phase::Idle,
            generation,
            attempts: 0,
            was_ready: false,
            ready_at: None,
        };
        let (wanted, generation) =
            self.desired.services.get(&name).map_or((Wanted::Stopped, 0), |t| (t.wanted, t.generation));
        let target = target_of(&service, wanted, generation);
        if let Some(build) = &service.build {
            self.observed.builds.entry(build.clone()).or_insert(BuildState::Needed);
        }
        let seen = self.observed.services.entry(name.clone()).or_insert_with(|| ObservedService {
            preparation: Progress::Done,
            instances: Default::default(),
            rollout: None,
        });
        for index in target.base.iter().chain(&target.surge) {
            seen.instances.entry(*index).or_insert_with(|| idle(generation));
            self.records.entry((name.clone(), *index)).or_default();
        }
        self.desired.services.insert(name.clone(), target);
        self.services.insert(name, service);
    }

    /// Forgets what is not declared any more and has no process.
    pub(super) fn forget(&mut self) {
        let is_gone = |seen: &ObservedService| !seen.instances.values().any(|instance| instance.phase.is_alive());
        let gone: Vec<String> =
            self.removed.iter().filter(|name| self.observed.services.get(*name).is_none_or(is_gone)).cloned().collect();
        for name in &gone {
            self.removed.remove(name);
            self.services.remove(name);
            self.releases.remove(name);
            self.desired.services.remove(name);
            self.observed.services.remove(name);
            self.records.retain(|(service, _), _| service != name);
            tracing::info!(service = name, "forgotten");
        }
        for (name, seen) in &mut self.observed.services {
            let (Some(target), records) = (self.desired.services.get(name), &mut self.records) else { continue };
            let has_rollout = seen.rollout.is_some();
            seen.instances.retain(|index, instance| {
                if instance.phase.is_alive() || target.base.contains(index) {
                    return true;
                }
                let key = (name.clone(), *index);
                if !target.surge.contains(index) {
                    records.remove(&key);
                    return false;
                }
                // It stood in for others, and how it ended is nobody's concern any more.
                if !has_rollout && instance.phase != Phase::Idle {
                    (instance.phase, instance.attempts, instance.was_ready) = (Phase::Idle, 0, false);
                    records.insert(key, Record::default());
                }
                true
            });
        }
        if !gone.is_empty() || self.releases.values().all(|release| release.former.is_none()) {
            self.forget_builds();
        }
    }

    fn forget_builds(&mut self) {
        let formers = self.releases.values().filter_map(|release| release.former.as_ref());
        let named: BTreeSet<&Build> = self.services.values().chain(formers).filter_map(|s| s.build.as_ref()).collect();
        let is_busy = |state: &BuildState| matches!(state, BuildState::Running | BuildState::Cancelling);
        self.observed.builds.retain(|build, state| named.contains(build) || is_busy(state));
    }

    /// What is said of a failure: what an instance showed, or the build.
    fn failed(&self, service: &str, instance: Option<u32>, why: &str) -> (String, Vec<String>) {
        let Some(index) = instance else {
            let build = self.services[service].build.as_ref().and_then(|build| self.observed.builds.get(build));
            let last_lines = match build {
                Some(BuildState::Failed { last_lines, .. }) => last_lines.clone(),
                _ => Vec::new(),
            };
            return (why.to_owned(), last_lines);
        };
        let record = self.records.get(&(service.to_owned(), index));
        let is_alive = self.observed.services[service].instances.get(&index).is_some_and(|i| i.phase.is_alive());
        // What a living one wrote before it died is of another life; what its probe says is not.
        let (reason, last_lines) = match record {
            Some(record) if is_alive => (record.reason.clone(), Vec::new()),
            Some(record) => (None, record.last_lines.clone()),
            None => (None, Vec::new()),
        };
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        (format!("{service}.{index}: {why}{reason}"), last_lines)
    }
}

/// A declaration whose process is that of one, and all else of the other.
pub(super) fn with_process_of(one: &Service, other: &Service) -> Service {
    let kept = |instances: &[Instance]| {
        let of = |instance: &Instance| find(one, instance.index).unwrap_or(instance).clone();
        instances.iter().map(of).collect()
    };
    Service {
        instances: kept(&other.instances),
        surge: kept(&other.surge),
        build: one.build.clone(),
        command: one.command.clone(),
        working_dir: one.working_dir.clone(),
        environment: one.environment.clone(),
        prepare: one.prepare,
        limits: one.limits,
        ..other.clone()
    }
}

/// Where an index is declared.
pub(super) fn find(service: &Service, index: u32) -> Option<&Instance> {
    service.instances.iter().chain(&service.surge).find(|instance| instance.index == index)
}

/// What is wanted of a service.
pub(super) fn target_of(service: &Service, wanted: Wanted, generation: u64) -> Target {
    let indices = |instances: &[Instance]| instances.iter().map(|instance| instance.index).collect();
    Target {
        wanted,
        generation,
        base: indices(&service.instances),
        surge: indices(&service.surge),
        update: service.update.clone(),
        build: service.build.clone(),
        depends_on: service.depends_on.clone(),
        calls: service.calls.clone(),
        restart: service.restart,
        stop_grace_period: service.stop_grace_period,
    }
}
