//! The heart: from what is wanted and what is seen to what must be done now. Pure: no process, no clock, no channel.
//! The loop calls it after every change, performs the actions, and writes their effect back into [`Observed`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::{Build, Condition, Restart};
use crate::status::{Exit, Wanted};

#[cfg(test)]
mod tests;

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
    /// Instances of an older generation are replaced.
    pub generation: u64,
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
    /// A newer generation takes its place.
    Replaced,
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
        if wanted && seen.preparation == Progress::Needed && is_built(target, observed) {
            actions.push(Action::Prepare { service: service.clone() });
        }
        for (&instance, of) in &seen.instances {
            actions.extend(decide_instance(desired, observed, now, (service, target), (instance, of)));
        }
    }
    actions
}

/// The next moment at which [`reconcile`] decides something without any new observation.
#[must_use]
pub fn next_deadline(desired: &Desired, observed: &Observed) -> Option<Instant> {
    let deadline = |service: &String, instance: &ObservedInstance| match instance.phase {
        Phase::Stopping { since, force: Force::Drain | Force::Signal, .. } => {
            desired.services.get(service).and_then(|target| since.checked_add(target.stop_grace_period))
        }
        Phase::Backoff { until, .. } => Some(until),
        _ => None,
    };
    let instances = observed.services.iter().flat_map(|(name, seen)| seen.instances.values().map(move |i| (name, i)));
    instances.filter_map(|(service, instance)| deadline(service, instance)).min()
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
    desired: &Desired,
    observed: &Observed,
    now: Instant,
    (name, target): (&str, &Target),
    (instance, seen): (u32, &ObservedInstance),
) -> Option<Action> {
    let service = name.to_owned();
    let start = Action::Start { service: service.clone(), instance };
    let stop = |health, cause| {
        let force = if may_serve(health) { Force::Drain } else { Force::Drained };
        Action::Stop { service: service.clone(), instance, cause, force }
    };
    let is_old = seen.generation < target.generation;
    let can_start = || blocked(desired, observed, name).is_none();
    match (&seen.phase, target.wanted) {
        (Phase::Live { health }, Wanted::Stopped) => {
            (!is_leaned_on(desired, observed, name)).then(|| stop(health, Cause::Asked))
        }
        (Phase::Live { health: health @ Health::Unhealthy { why } }, Wanted::Running) => {
            Some(stop(health, Cause::Unhealthy { why: why.clone() }))
        }
        // What runs is only given up when its successor can start and others take the requests meanwhile.
        (Phase::Live { health }, Wanted::Running) => {
            let is_due = is_old && can_start() && is_spared(desired, observed, name, instance);
            is_due.then(|| stop(health, Cause::Replaced))
        }
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
        (Phase::Idle | Phase::Ended { .. }, Wanted::Running) if waits(target.generation, seen) && can_start() => {
            Some(start)
        }
        (Phase::Idle, Wanted::Running) => None,
        (Phase::Ended { ending }, Wanted::Running) => {
            let again = restarts(desired, name, target, ending);
            again.then_some(Action::Backoff { service, instance, attempt: seen.attempts })
        }
        // Dependencies gate the first start only: one that is unready for a moment must not keep others down.
        (Phase::Backoff { until, .. }, Wanted::Running) => (now >= *until).then_some(start),
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
        Phase::Ended { .. } => seen.generation < generation,
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

/// Whether a live instance may be replaced now: one at a time, and only while every other one is ready. One that serves
/// nobody is replaced at once. Others hold it up only while they may be expected to serve: not when they have not been
/// ready since their service was started, and not when they have ended for good.
fn is_spared(desired: &Desired, observed: &Observed, service: &str, instance: u32) -> bool {
    let (Some(target), Some(seen)) = (desired.services.get(service), observed.services.get(service)) else {
        return false;
    };
    let is_ready = |i: &ObservedInstance| i.phase == (Phase::Live { health: Health::Ready });
    let holds = |(index, other): (&u32, &ObservedInstance)| match &other.phase {
        // Order: by index, so that of several ready ones exactly one is next.
        Phase::Live { health: Health::Ready } => other.generation < target.generation && *index < instance,
        Phase::Ended { ending } => {
            let comes = waits(target.generation, other) || restarts(desired, service, target, ending);
            comes && other.was_ready
        }
        _ => other.was_ready,
    };
    seen.instances.get(&instance).is_some_and(|i| !is_ready(i))
        || !seen.instances.iter().filter(|(index, _)| **index != instance).any(holds)
}

/// Whether a service that is to stop as well, and needs this one, still has a process. When everything stops callers go
/// before those whom they call, too, so that no request in flight meets a stopped upstream.
fn is_leaned_on(desired: &Desired, observed: &Observed, service: &str) -> bool {
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
        wanted && seen.is_some_and(|seen| seen.instances.values().all(|i| fulfils(&i.phase, condition)))
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
    let ended = seen.instances.values().find_map(|instance| match &instance.phase {
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
    let idle = seen.instances.values().any(|instance| waits(target.generation, instance));
    (idle && lost(desired, observed, needed).is_some()).then(|| format!("it needs `{needed}`, which does not come up"))
}
