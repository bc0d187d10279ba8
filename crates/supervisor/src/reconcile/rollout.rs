//! From one generation of a service to another: which instances stop, which start as what, when a rollout has failed
//! and when it is over. Pure, and asked by `reconcile` only; one floor of available instances holds for all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{
    Action, BuildState, Cause, Desired, Ending, Health, Observed, ObservedInstance, ObservedService, Phase, Progress,
    Target, blocked, is_prepared, restarts,
};
use crate::config::Strategy;
use crate::status::Wanted;

/// A change from one generation to another that is under way.
///
/// ```text
///          failed, auto_revert          the former ones run again
/// Forward ─────────────────────► Back ─────────────────────────────► (none)
///   │  └── failed ──► Halted (until the next change)                    ▲
///   └──────────────────── every instance is new and available ──────────┘
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// The generation from which it came; on the way back the target has it.
    pub former: u64,
    pub course: Course,
    /// Services that the former declaration needs or calls, and the present one does not.
    pub leans_on: BTreeSet<String>,
    /// Most new instances that were available at the same time.
    pub available_most: usize,
    /// When that grew last, or when no new instance was waited for.
    pub progress_at: Instant,
}

/// Where a rollout goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    Forward,
    /// It has failed and is taken back.
    Back,
    /// It has failed: nothing more is stopped.
    Halted,
}

impl Rollout {
    /// One that begins.
    #[must_use]
    pub fn new(former: u64, now: Instant) -> Self {
        Self { former, course: Course::Forward, leans_on: BTreeSet::new(), available_most: 0, progress_at: now }
    }
}

/// One service, as wanted and as seen.
struct Of<'a> {
    desired: &'a Desired,
    name: &'a str,
    target: &'a Target,
    seen: &'a ObservedService,
}

impl<'a> Of<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed, name: &'a str) -> Option<Self> {
        let (target, seen) = (desired.services.get(name)?, observed.services.get(name)?);
        Some(Self { desired, name, target, seen })
    }

    fn course(&self) -> Option<Course> {
        self.seen.rollout.as_ref().map(|rollout| rollout.course)
    }

    fn is_new(&self, instance: &ObservedInstance) -> bool {
        instance.generation == self.target.generation
    }

    fn is_available(&self, instance: &ObservedInstance, now: Instant) -> bool {
        let since = |at| now.saturating_duration_since(at) >= self.target.update.min_ready;
        is_ready(instance) && instance.ready_at.is_none_or(since)
    }

    /// Those that always run.
    fn base(&self) -> impl Iterator<Item = &'a ObservedInstance> {
        let base = &self.target.base;
        self.seen.instances.iter().filter(|(index, _)| base.contains(index)).map(|(_, seen)| seen)
    }

    /// Whether any process of another generation may be there.
    fn has_old(&self) -> bool {
        self.seen.instances.values().any(|instance| instance.phase.is_alive() && !self.is_new(instance))
    }

    /// Whether it ended and stays so.
    fn is_over(&self, instance: &ObservedInstance) -> bool {
        match &instance.phase {
            Phase::Ended { ending } => !restarts(self.desired, self.name, self.target, ending),
            _ => false,
        }
    }

    /// Whether it did what it had to do, and stays so.
    fn is_done(&self, instance: &ObservedInstance) -> bool {
        self.is_over(instance) && matches!(&instance.phase, Phase::Ended { ending } if ending.is_success())
    }

    /// How many instances must be available after a stop. Those count that may be expected to serve: not what has ended
    /// for good, and outside of a rollout not what was never ready.
    fn floor(&self) -> usize {
        let counts = |i: &&ObservedInstance| !self.is_over(i) && (i.was_ready || self.seen.rollout.is_some());
        // Where nobody stands in, one must be missing to be replaced.
        let missing = match self.target.surge.is_empty() && self.seen.rollout.is_some() {
            true => self.target.update.max_unavailable.max(1),
            false => self.target.update.max_unavailable,
        };
        self.base().filter(counts).count().saturating_sub(usize::try_from(missing).unwrap_or(usize::MAX))
    }

    /// Whether a new instance is failing; how is known when it has ended.
    fn is_failing(&self) -> bool {
        let fails = |instance: &ObservedInstance| match &instance.phase {
            Phase::Live { health: Health::Unhealthy { .. } }
            | Phase::Stopping { cause: Cause::Unhealthy { .. }, .. } => true,
            Phase::Leaving { ending } => !ending.is_success(),
            _ => false,
        };
        self.seen.instances.values().any(|instance| self.is_new(instance) && fails(instance))
    }
}

fn is_ready(instance: &ObservedInstance) -> bool {
    instance.phase == (Phase::Live { health: Health::Ready })
}

/// Whether there should be a process of this index. A surge instance has one for each base instance that is still to be
/// replaced; it starts only to protect one that serves.
pub(crate) fn is_wanted(desired: &Desired, observed: &Observed, service: &str, index: u32) -> bool {
    let Some(of) = Of::new(desired, observed, service) else {
        return false;
    };
    if of.target.base.contains(&index) {
        return true;
    }
    let Some(rank) = of.target.surge.iter().position(|surge| *surge == index) else {
        return false;
    };
    match of.course() {
        None => false,
        // Nothing is stopped; what stood in goes on.
        Some(Course::Halted) => of.seen.instances.get(&index).is_some_and(|instance| instance.phase != Phase::Idle),
        Some(Course::Forward | Course::Back) => {
            let is_alive = of.seen.instances.get(&index).is_some_and(|instance| instance.phase.is_alive());
            let pending = of.base().filter(|instance| !of.is_new(instance));
            let protects = || of.base().any(|instance| !of.is_new(instance) && is_ready(instance));
            of.target.update.strategy == Strategy::Rolling && rank < pending.count() && (is_alive || protects())
        }
    }
}

/// Whether an instance without a process starts now, whatever the policy and its back-off.
pub(super) fn can_start(desired: &Desired, observed: &Observed, service: &str, index: u32) -> bool {
    let Some((of, instance)) = Of::new(desired, observed, service)
        .and_then(|of| of.seen.instances.get(&index).map(|instance| (of, instance)))
        .filter(|_| is_wanted(desired, observed, service, index))
    else {
        return false;
    };
    let is_old = !of.is_new(instance);
    match of.course() {
        // What stood still when it was halted comes back as it was.
        Some(Course::Halted) if is_old => instance.phase == Phase::Idle,
        _ => {
            let is_due = instance.phase == Phase::Idle || is_old;
            is_due && starts_new(&of) && is_possible(&of, observed)
        }
    }
}

/// Whether nothing holds a new instance back. What ran before does not wait for dependencies again.
fn is_possible(of: &Of<'_>, observed: &Observed) -> bool {
    match of.course() {
        Some(Course::Back) => is_prepared(of.desired, observed, of.name),
        _ => blocked(of.desired, observed, of.name).is_none(),
    }
}

/// Whether the strategy lets a new instance start.
fn starts_new(of: &Of<'_>) -> bool {
    of.target.update.strategy == Strategy::Rolling || !of.has_old()
}

/// As which generation an instance starts now: one that ended while its successor is still being made comes back as what
/// it was, and is replaced later. `None` while it waits for others to go.
pub(super) fn starts_as(desired: &Desired, observed: &Observed, service: &str, index: u32) -> Option<u64> {
    let of = Of::new(desired, observed, service)?;
    let instance = of.seen.instances.get(&index)?;
    let goes_back = of.course() == Some(Course::Halted) || !is_prepared(desired, observed, service);
    if !of.is_new(instance) && goes_back {
        return Some(of.seen.rollout.as_ref().map_or(instance.generation, |rollout| rollout.former));
    }
    starts_new(&of).then_some(of.target.generation)
}

/// Which live instances of a service that is wanted stop now, and why. One that serves nobody goes at once; one that is
/// ready only while enough others are available without it.
pub(super) fn stops(desired: &Desired, observed: &Observed, now: Instant, service: &str) -> BTreeMap<u32, Cause> {
    let mut stops = BTreeMap::new();
    let Some(of) = Of::new(desired, observed, service) else {
        return stops;
    };
    let available = of.seen.instances.values().filter(|instance| of.is_available(instance, now)).count();
    let mut spare = available.saturating_sub(of.floor());
    let recreates = of.target.update.strategy == Strategy::Recreate;
    // What runs is only given up when its successor can start.
    let replaces = of.course() != Some(Course::Halted) && !of.is_failing() && is_possible(&of, observed);
    let is_surplus = |index: &u32| !is_wanted(desired, observed, service, *index);
    let surplus: BTreeSet<u32> = of.seen.instances.keys().copied().filter(is_surplus).collect();
    // Order: the highest of what is not wanted, then the lowest of what is replaced.
    let rest = of.seen.instances.keys().filter(|index| !surplus.contains(index));
    for &index in surplus.iter().rev().chain(rest) {
        let instance = &of.seen.instances[&index];
        let Phase::Live { health } = &instance.phase else { continue };
        let cause = match surplus.contains(&index) {
            true => Cause::Surplus,
            false if of.is_new(instance) || !replaces => continue,
            false => Cause::Replaced,
        };
        let is_free = match (health, &of.seen.rollout) {
            (Health::Ready, None) => cause == Cause::Replaced,
            (Health::Ready, Some(_)) => recreates && replaces && !of.is_new(instance),
            _ => true,
        };
        if !is_free {
            if spare == 0 {
                continue;
            }
            spare -= 1;
        }
        stops.insert(index, cause);
    }
    stops
}

/// Whether a rollout is taken back, halted, or over.
pub(super) fn decide(desired: &Desired, observed: &Observed, now: Instant, service: &str) -> Option<Action> {
    let of = Of::new(desired, observed, service).filter(|of| of.target.wanted == Wanted::Running)?;
    let rollout = of.seen.rollout.as_ref()?;
    let service = service.to_owned();
    match rollout.course {
        Course::Halted => None,
        Course::Back => {
            let is_over = !of.has_old() && of.base().all(|instance| of.is_new(instance));
            is_over.then_some(Action::Settle { service })
        }
        Course::Forward => {
            if let Some((instance, why)) = failure(&of, observed, now) {
                return Some(match of.target.update.auto_revert {
                    true => Action::Revert { service, instance, why },
                    false => Action::Halt { service, instance, why },
                });
            }
            let is_in_place = |i: &ObservedInstance| of.is_new(i) && (of.is_available(i, now) || of.is_done(i));
            let is_over = !of.has_old() && of.base().all(is_in_place);
            is_over.then_some(Action::Settle { service })
        }
    }
}

/// Why a rollout has failed, and which instance shows it.
fn failure(of: &Of<'_>, observed: &Observed, now: Instant) -> Option<(Option<u32>, String)> {
    if let Some(BuildState::Failed { reason, .. }) = of.target.build.as_ref().and_then(|b| observed.builds.get(b)) {
        return Some((None, format!("its build failed: {reason}")));
    }
    if let Progress::Failed { reason } = &of.seen.preparation {
        return Some((None, format!("its preparation failed: {reason}")));
    }
    let mut new = of.seen.instances.iter().filter(|(_, instance)| of.is_new(instance));
    let ended = new.clone().find_map(|(index, instance)| match &instance.phase {
        Phase::Ended { ending } if !of.is_done(instance) => Some((*index, ending)),
        _ => None,
    });
    if let Some((index, ending)) = ended {
        let why = match ending {
            Ending::Exit(exit) => exit.reason(),
            Ending::NotStarted { reason: why } | Ending::Unhealthy { why } => why.clone(),
        };
        return Some((Some(index), why));
    }
    let late = deadline(of.target, of.seen).is_some_and(|at| now >= at);
    let (index, _) = new.find(|(_, instance)| late && is_awaited(of, instance, now))?;
    Some((Some(*index), format!("not available after {} s", of.target.update.progress_deadline.as_secs_f64())))
}

/// When a rollout has failed unless one more new instance is available before.
pub(super) fn deadline(target: &Target, seen: &ObservedService) -> Option<Instant> {
    let rollout = seen.rollout.as_ref().filter(|rollout| rollout.course == Course::Forward)?;
    rollout.progress_at.checked_add(target.update.progress_deadline)
}

fn is_awaited(of: &Of<'_>, instance: &ObservedInstance, now: Instant) -> bool {
    of.is_new(instance) && matches!(instance.phase, Phase::Live { .. }) && !of.is_available(instance, now)
}

/// Writes down how far rollouts have come; called before each decision. Time counts against a rollout only while a new
/// instance is waited for: not while builds run, or old ones finish what they have begun.
pub(crate) fn note_progress(desired: &Desired, observed: &mut Observed, now: Instant) {
    let progress = |service: &String| {
        let of = Of::new(desired, observed, service)?;
        let rollout = of.seen.rollout.as_ref()?;
        let instances = || of.seen.instances.values();
        let available = instances().filter(|i| of.is_new(i) && of.is_available(i, now)).count();
        let is_awaited = instances().any(|instance| is_awaited(&of, instance, now));
        let most = rollout.available_most.max(available);
        (most > rollout.available_most || !is_awaited).then(|| (service.clone(), most))
    };
    let noted: Vec<(String, usize)> = observed.services.keys().filter_map(progress).collect();
    for (service, most) in noted {
        if let Some(rollout) = observed.services.get_mut(&service).and_then(|seen| seen.rollout.as_mut()) {
            (rollout.available_most, rollout.progress_at) = (most, now);
        }
    }
}
