//! The heart: from what is wanted and what is seen to what must be done now. Pure: no process, no clock, no channel.
//! The loop calls it after every change, performs the actions, and writes their effect back into [`Observed`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::{Build, Condition, Restart, Update};
use crate::status::{Exit, Wanted};

pub(crate) mod rollout;
#[cfg(test)]
mod tests;

pub use rollout::{Course, Rollout};

/// What should be.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    pub services: BTreeMap<String, Target>,
    /// How many builds may run at the same time.
    pub builds_max: usize,
}

/// What one service should be.
#[derive(Clone, Debug)]
pub struct Target {
    pub wanted: Wanted,
    /// Instances of any other generation are replaced. It falls when a rollout is taken back.
    pub generation: u64,
    /// Indices of the instances that always run.
    pub base: BTreeSet<u32>,
    /// Indices of those that run only while others are replaced; any index that is in neither is to go.
    pub surge: BTreeSet<u32>,
    pub update: Update,
    pub build: Option<Build>,
    pub depends_on: BTreeMap<String, Condition>,
    /// Whom it calls; orders stops only.
    pub calls: Vec<String>,
    pub restart: Restart,
    pub stop_grace_period: Duration,
}

/// What is.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub builds: BTreeMap<Build, BuildState>,
    pub services: BTreeMap<String, ObservedService>,
}

/// What one service is.
#[derive(Clone, Debug)]
pub struct ObservedService {
    pub preparation: Progress,
    pub instances: BTreeMap<u32, ObservedInstance>,
    /// The change from one generation to another that is under way. There is none where nobody could be missed: before
    /// a service was ready for the first time, or while it is stopped.
    pub rollout: Option<Rollout>,
}

/// Where a build stands. `Cancelling` becomes `Needed` once its processes are gone.
#[derive(Clone, Debug, PartialEq)]
pub enum BuildState {
    Needed,
    Running,
    Cancelling,
    Done,
    Failed { reason: String, last_lines: Vec<String> },
}

/// Where a preparation stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    Needed,
    Running,
    Done,
    Failed { reason: String },
}

/// What one instance is.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedInstance {
    pub phase: Phase,
    /// Of the service when it was last started.
    pub generation: u64,
    /// Restarts in a row without a stable life between them.
    pub attempts: u32,
    /// Whether it was ready at some time since its service was last started.
    pub was_ready: bool,
    /// Since when it is ready, while it is; `None`: for long.
    pub ready_at: Option<Instant>,
}

/// Where the process of an instance stands.
///
/// ```text
///        Start             Stop                       gone
/// Idle ─────────► Live ───────────► Stopping ────────────────► Idle, or Ended when it was unhealthy
///   ▲              │ ▲  Signal, then Kill ┘ (the steps of [`Force`])
///   │         exit │ │ Start, the delay is over
///   │              ▼ │
///   │        Leaving │                Backoff
///   │              │ └──── Backoff ◄─────────── Ended      (Ended stays where the policy says so)
///   │              └───────────── gone ───────────▲
///   └──────────── start, restart, from Backoff and Ended; from Ended also Start, when its generation is old
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// No process, and none was tried since the last `start`.
    Idle,
    /// Being spawned, or running.
    Live { health: Health },
    /// It is being stopped, with this force from that moment on.
    Stopping { since: Instant, cause: Cause, force: Force },
    /// It ended by itself; what it leaves behind (grandchildren, unread output) is being cleared.
    Leaving { ending: Ending },
    /// It ended by itself and everything of it is gone.
    Ended { ending: Ending },
    /// Waits for its next start.
    Backoff { until: Instant, attempt: u32 },
}

impl Phase {
    /// Whether there is, or may be, a process.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Live { .. } | Self::Stopping { .. } | Self::Leaving { .. })
    }
}

/// What the probes say of a process.
#[derive(Clone, Debug, PartialEq)]
pub enum Health {
    /// Being spawned; there is no process yet.
    Spawning,
    /// Never ready so far.
    Starting,
    Ready,
    /// Was ready before.
    Unready,
    /// Must be restarted.
    Unhealthy {
        why: String,
    },
}

/// Why an instance is stopped.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// The service is wanted stopped.
    Asked,
    /// Another generation takes its place.
    Replaced,
    /// Its index is not wanted any more.
    Surplus,
    /// A probe failed for good.
    Unhealthy { why: String },
}

/// How far a stop has gone.
///
/// ```text
///       no request in flight       Signal        Kill, the grace period is over
/// Drain ───────────────────► Drained ───► Signal ──────────────────────────────► Kill
///   └───────── Signal, the grace period is over ──▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Out of rotation; its process knows of nothing while requests may be in flight.
    Drain,
    /// No request is in flight; the signal follows.
    Drained,
    /// It has its stop signal.
    Signal,
    /// It has its SIGKILL.
    Kill,
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    Exit(Exit),
    /// It could not be started: a missing program, a taken port.
    NotStarted {
        reason: String,
    },
    /// It was stopped for a failed probe.
    Unhealthy {
        why: String,
    },
}

impl Ending {
    /// Whether it ended with status 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exit(exit) if exit.is_success())
    }
}

/// What the loop must do now. Each changes [`Observed`] so that it is not decided twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Build(Build),
    CancelBuild(Build),
    Prepare {
        service: String,
    },
    Start {
        service: String,
        instance: u32,
        /// That of the target, or the former one of a rollout.
        generation: u64,
    },
    /// Takes it out of rotation: with [`Force::Drain`], or [`Force::Drained`] where no request can be in flight.
    Stop {
        service: String,
        instance: u32,
        cause: Cause,
        force: Force,
    },
    /// Sends the stop signal.
    Signal {
        service: String,
        instance: u32,
    },
    Kill {
        service: String,
        instance: u32,
    },
    /// Waits before restart number `attempt`, from 0.
    Backoff {
        service: String,
        instance: u32,
        attempt: u32,
    },
    /// Goes back to the generation from which a rollout came, because of this instance or of none in particular.
    Revert {
        service: String,
        instance: Option<u32>,
        why: String,
    },
    /// Leaves a rollout where it is.
    Halt {
        service: String,
        instance: Option<u32>,
        why: String,
    },
    /// A rollout has come to its end.
    Settle {
        service: String,
    },
}

/// Decides what must be done at `now`. With nothing to do the answer is empty.
#[must_use]
pub fn reconcile(desired: &Desired, observed: &Observed, now: Instant) -> Vec<Action> {
    let mut actions = decide_builds(desired, observed);
    for (service, target) in &desired.services {
        let Some(seen) = observed.services.get(service) else {
            continue;
        };
        let wanted = target.wanted == Wanted::Running;
        if let Some(action) = rollout::decide(desired, observed, now, service) {
            // What else is to do depends on it.
            actions.push(action);
            continue;
        }
        if wanted && seen.preparation == Progress::Needed && is_built(target, observed) {
            actions.push(Action::Prepare { service: service.clone() });
        }
        let stops = match wanted {
            true => rollout::stops(desired, observed, now, service),
            false => BTreeMap::new(),
        };
        for (&instance, of) in &seen.instances {
            let world = (desired, observed, now);
            actions.extend(decide_instance(world, (service, target), (instance, of), stops.get(&instance)));
        }
    }
    actions
}

/// The next moment after `now` at which [`reconcile`] decides something without any new observation.
#[must_use]
pub fn next_deadline(desired: &Desired, observed: &Observed, now: Instant) -> Option<Instant> {
    let deadline = |target: &Target, instance: &ObservedInstance| match instance.phase {
        Phase::Stopping { since, force: Force::Drain | Force::Signal, .. } => {
            since.checked_add(target.stop_grace_period)
        }
        Phase::Backoff { until, .. } => Some(until),
        Phase::Live { health: Health::Ready } => instance.ready_at?.checked_add(target.update.min_ready),
        _ => None,
    };
    let services = observed.services.iter().filter_map(|(name, seen)| Some((desired.services.get(name)?, seen)));
    let all = services.flat_map(|(target, seen)| {
        let instances = seen.instances.values().filter_map(move |instance| deadline(target, instance));
        instances.chain(rollout::deadline(target, seen))
    });
    all.filter(|at| *at > now).min()
}

/// Says why a service that is wanted cannot start yet: a build, a preparation, a dependency. `None` when it can.
#[must_use]
pub fn blocked(desired: &Desired, observed: &Observed, service: &str) -> Option<String> {
    let target = desired.services.get(service)?;
    if !is_built(target, observed) {
        return Some("waits for its build".to_owned());
    }
    if observed.services.get(service)?.preparation != Progress::Done {
        return Some("waits for its preparation".to_owned());
    }
    let (needed, condition) = unmet(target, desired, observed)?;
    let state = match condition {
        Condition::Started => "started",
        Condition::Healthy => "healthy",
        Condition::Completed => "completed",
    };
    Some(match lost(desired, observed, needed) {
        Some(why) => format!("needs `{needed}` to be {state}, but {why}"),
        None => format!("waits for `{needed}` to be {state}"),
    })
}

fn decide_builds(desired: &Desired, observed: &Observed) -> Vec<Action> {
    let wanted = |build: &Build| {
        desired.services.values().any(|t| t.wanted == Wanted::Running && t.build.as_ref() == Some(build))
    };
    let busy = observed.builds.values().filter(|s| matches!(s, BuildState::Running | BuildState::Cancelling)).count();
    let mut free = desired.builds_max.max(1).saturating_sub(busy);
    let mut actions = Vec::new();
    for (build, state) in &observed.builds {
        match state {
            BuildState::Needed if free > 0 && wanted(build) => {
                free -= 1;
                actions.push(Action::Build(build.clone()));
            }
            BuildState::Running if !wanted(build) => actions.push(Action::CancelBuild(build.clone())),
            _ => {}
        }
    }
    actions
}

fn decide_instance(
    (desired, observed, now): (&Desired, &Observed, Instant),
    (name, target): (&str, &Target),
    (instance, seen): (u32, &ObservedInstance),
    stopped: Option<&Cause>,
) -> Option<Action> {
    let service = name.to_owned();
    let stop = |health, cause| {
        let force = if may_serve(health) { Force::Drain } else { Force::Drained };
        Action::Stop { service: service.clone(), instance, cause, force }
    };
    let start = || {
        let generation = rollout::starts_as(desired, observed, name, instance)?;
        Some(Action::Start { service: service.clone(), instance, generation })
    };
    let starts = || rollout::can_start(desired, observed, name, instance);
    match (&seen.phase, target.wanted) {
        (Phase::Live { health }, Wanted::Stopped) => {
            (!is_leaned_on(desired, observed, name)).then(|| stop(health, Cause::Asked))
        }
        (Phase::Live { health: health @ Health::Unhealthy { why } }, Wanted::Running) => {
            Some(stop(health, Cause::Unhealthy { why: why.clone() }))
        }
        (Phase::Live { health }, Wanted::Running) => stopped.map(|cause| stop(health, cause.clone())),
        (Phase::Stopping { since, force, .. }, _) => {
            let is_over = now.saturating_duration_since(*since) >= target.stop_grace_period;
            match force {
                Force::Drain if is_over => Some(Action::Signal { service, instance }),
                Force::Drained => Some(Action::Signal { service, instance }),
                Force::Signal if is_over => Some(Action::Kill { service, instance }),
                Force::Drain | Force::Signal | Force::Kill => None,
            }
        }
        // Also one that ended by itself after a restart was asked for.
        (Phase::Idle | Phase::Ended { .. } | Phase::Backoff { .. }, Wanted::Running) if starts() => start(),
        (Phase::Idle, Wanted::Running) => None,
        (Phase::Ended { .. } | Phase::Backoff { .. }, Wanted::Running)
            if !rollout::is_wanted(desired, observed, name, instance) =>
        {
            None
        }
        (Phase::Ended { ending }, Wanted::Running) => {
            let again = restarts(desired, name, target, ending);
            again.then_some(Action::Backoff { service, instance, attempt: seen.attempts })
        }
        // Dependencies gate the first start only: one that is unready for a moment must not keep others down.
        (Phase::Backoff { until, .. }, Wanted::Running) => start().filter(|_| now >= *until),
        (Phase::Leaving { .. }, _) => None,
        (Phase::Idle | Phase::Ended { .. } | Phase::Backoff { .. }, Wanted::Stopped) => None,
    }
}

/// Whether requests may be in flight to it that are worth waiting for: it was ready in this life, and is not sick.
fn may_serve(health: &Health) -> bool {
    match health {
        Health::Ready | Health::Unready => true,
        Health::Spawning | Health::Starting | Health::Unhealthy { .. } => false,
    }
}

/// Whether an instance without a process starts as soon as nothing blocks it, whatever the policy.
pub(crate) fn waits(generation: u64, seen: &ObservedInstance) -> bool {
    match seen.phase {
        Phase::Idle => true,
        Phase::Ended { .. } => seen.generation != generation,
        _ => false,
    }
}

/// Whether the policy starts an instance again that ended like this.
#[must_use]
pub(crate) fn restarts(desired: &Desired, service: &str, target: &Target, ending: &Ending) -> bool {
    let awaited = |t: &Target| t.depends_on.get(service) == Some(&Condition::Completed);
    match target.restart {
        Restart::No => false,
        Restart::OnFailure => !ending.is_success(),
        Restart::Always => !(ending.is_success() && desired.services.values().any(awaited)),
    }
}

/// Whether a service that is to stop as well, and needs this one, still has a process, or one that is being replaced
/// needed this one before. When everything stops callers go
/// before those whom they call, too, so that no request in flight meets a stopped upstream.
fn is_leaned_on(desired: &Desired, observed: &Observed, service: &str) -> bool {
    let leaned_on = |seen: &ObservedService| seen.rollout.as_ref().is_some_and(|r| r.leans_on.contains(service));
    if observed.services.values().any(leaned_on) {
        return true;
    }
    let all_stop = || desired.services.values().all(|target| target.wanted == Wanted::Stopped);
    desired.services.iter().any(|(name, target)| {
        target.wanted == Wanted::Stopped
            && observed.services.get(name).is_some_and(|seen| seen.instances.values().any(|i| i.phase.is_alive()))
            && (target.depends_on.contains_key(service)
                || target.calls.iter().any(|called| called == service)
                    && all_stop()
                    && !reaches(desired, service, name))
    })
}

/// Whether `from` needs or calls `to`, directly or through others. Calls in a circle order nothing: what would be left
/// to wait for is the order of dependencies, which has no circle.
fn reaches(desired: &Desired, from: &str, to: &str) -> bool {
    let mut known = BTreeSet::new();
    let mut open = vec![from];
    while let Some(service) = open.pop() {
        if service == to {
            return true;
        }
        if let Some(target) = desired.services.get(service).filter(|_| known.insert(service)) {
            open.extend(target.depends_on.keys().chain(&target.calls).map(String::as_str));
        }
    }
    false
}

/// Whether a process that is started now is what the last restart asked for: not while it is still being built.
pub(crate) fn is_prepared(desired: &Desired, observed: &Observed, service: &str) -> bool {
    let built = desired.services.get(service).is_some_and(|target| is_built(target, observed));
    built && observed.services.get(service).is_some_and(|seen| seen.preparation == Progress::Done)
}

fn is_built(target: &Target, observed: &Observed) -> bool {
    target.build.as_ref().is_none_or(|build| observed.builds.get(build) == Some(&BuildState::Done))
}

/// The first dependency that is not fulfilled.
fn unmet<'a>(target: &'a Target, desired: &Desired, observed: &Observed) -> Option<(&'a str, Condition)> {
    let met = |name: &String, condition: Condition| {
        let wanted = desired.services.get(name).is_some_and(|t| t.wanted == Wanted::Running);
        let seen = observed.services.get(name);
        // Counted, because while one is replaced another stands in for it.
        let fulfilled = |seen: &ObservedService| {
            let all = seen.instances.values().filter(|i| fulfils(&i.phase, condition)).count();
            all >= desired.services.get(name).map_or(1, |target| target.base.len())
        };
        wanted && seen.is_some_and(fulfilled)
    };
    let unmet = target.depends_on.iter().find(|(name, condition)| !met(name, **condition));
    unmet.map(|(name, condition)| (name.as_str(), *condition))
}

fn fulfils(phase: &Phase, condition: Condition) -> bool {
    let completed = matches!(phase, Phase::Ended { ending } if ending.is_success());
    match condition {
        Condition::Started => completed || matches!(phase, Phase::Live { health } if *health != Health::Spawning),
        Condition::Healthy => matches!(phase, Phase::Live { health: Health::Ready }),
        Condition::Completed => completed,
    }
}

/// Says why nothing but a person can bring a service up; `None` while it may still come by itself.
fn lost(desired: &Desired, observed: &Observed, service: &str) -> Option<String> {
    let target = desired.services.get(service)?;
    let seen = observed.services.get(service)?;
    if target.wanted == Wanted::Stopped {
        return Some("it is stopped".to_owned());
    }
    if let Some(BuildState::Failed { .. }) = target.build.as_ref().and_then(|build| observed.builds.get(build)) {
        return Some("its build failed".to_owned());
    }
    if let Progress::Failed { .. } = &seen.preparation {
        return Some("its preparation failed".to_owned());
    }
    let mut base = seen.instances.iter().filter(|(index, _)| target.base.contains(index)).map(|(_, seen)| seen);
    let ended = base.clone().find_map(|instance| match &instance.phase {
        Phase::Ended { ending }
            if !waits(target.generation, instance) && !restarts(desired, service, target, ending) =>
        {
            Some(ending)
        }
        _ => None,
    });
    if let Some(ending) = ended {
        return Some(match ending {
            Ending::Exit(exit) => format!("it ended with {exit}"),
            Ending::NotStarted { reason } | Ending::Unhealthy { why: reason } => reason.clone(),
        });
    }
    let (needed, _) = unmet(target, desired, observed)?;
    let idle = base.any(|instance| waits(target.generation, instance));
    (idle && lost(desired, observed, needed).is_some()).then(|| format!("it needs `{needed}`, which does not come up"))
}
