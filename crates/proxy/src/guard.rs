//! What a route or an edge knows of its own traffic, for the whole process: breaker, places, tokens, retry budget, and how
//! its instances fare. One [`Guard`] each; it outlives snapshots as far as the policy that it serves stays the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::breaker::{Breaker, BreakerReading};
use crate::budget::{Budget, BudgetReading};
use crate::gate::{Gate, GateReading};
use crate::meters::Subject;
use crate::outlier::{Ewma, Health};
use crate::policy::Policy;
use crate::rate::Buckets;
use crate::snapshot::Snapshot;
use crate::switches::{Forced, Switches};
use crate::table::{Compiled, Tables};
use crate::timers::{self, Moment};

/// The state of one route or edge.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) subject: Subject,
    pub(crate) budget: Arc<Budget>,
    pub(crate) breaker: Option<Arc<Breaker>>,
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) buckets: Option<Arc<Buckets>>,
    /// By endpoint, where balancing or ejection need to know.
    conditions: Arc<Conditions>,
}

/// How the instances of one route or edge fare.
type Conditions = Mutex<HashMap<u64, Arc<Condition>>>;

/// How one instance fares, as one route or edge sees it.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    pub(crate) health: Health,
    pub(crate) ewma: Ewma,
}

/// Where a compiled route finds its guard; empty in tables that nobody serves.
pub(crate) type GuardSlot = OnceLock<Arc<Guard>>;

/// What can be seen of a guard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardReading {
    pub breaker: Option<BreakerReading>,
    pub gate: Option<GateReading>,
    pub budget: BudgetReading,
    /// Ready instances, where some may be ejected.
    pub ready: u32,
    pub ejected: Vec<Ejected>,
}

/// One instance that is passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejected {
    pub service: String,
    pub instance: u32,
    /// For how much longer.
    pub left: Duration,
}

impl Guard {
    fn new(subject: &Subject, policy: &Policy, cores: usize, before: Option<&Known>) -> Self {
        // What is agreed anew begins anew; the rest goes on.
        fn kept<P: PartialEq, T>(
            (policy, before): (&Option<P>, Option<&Option<P>>),
            state: Option<&Option<Arc<T>>>,
            new: impl FnOnce(&P) -> T,
        ) -> Option<Arc<T>> {
            match state {
                Some(state) if before == Some(policy) => state.clone(),
                _ => policy.as_ref().map(|policy| Arc::new(new(policy))),
            }
        }
        let guard = before.map(|known| &known.guard);
        let budget = guard.map_or_else(|| Arc::new(Budget::new(cores)), |guard| Arc::clone(&guard.budget));
        let is_alike = |known: &&Known| known.policy.ejection == policy.ejection;
        let conditions = before.filter(is_alike).map(|known| Arc::clone(&known.guard.conditions)).unwrap_or_default();
        let was = before.map(|known| &known.policy);
        Self {
            subject: subject.clone(),
            budget,
            conditions,
            breaker: kept(
                (&policy.breaker, was.map(|policy| &policy.breaker)),
                guard.map(|guard| &guard.breaker),
                Breaker::new,
            ),
            gate: kept(
                (&policy.concurrency, was.map(|policy| &policy.concurrency)),
                guard.map(|guard| &guard.gate),
                Gate::new,
            ),
            buckets: kept(
                (&policy.rate_limit, was.map(|policy| &policy.rate_limit)),
                guard.map(|guard| &guard.buckets),
                Buckets::new,
            ),
        }
    }

    /// What is known of an endpoint, from now on.
    pub(crate) fn condition(&self, endpoint: u64) -> Arc<Condition> {
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(conditions.entry(endpoint).or_default())
    }

    /// Forgets all other endpoints.
    pub(crate) fn keep(&self, endpoints: &HashSet<u64>) {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| endpoints.contains(id));
    }

    /// How it stands; instances are not looked at.
    pub(crate) fn read(&self, now: Moment) -> GuardReading {
        GuardReading {
            breaker: self.breaker.as_ref().map(|breaker| breaker.reading(now)),
            gate: self.gate.as_ref().map(|gate| gate.reading()),
            budget: self.budget.reading(now),
            ready: 0,
            ejected: Vec::new(),
        }
    }
}

/// The guards of one process.
#[derive(Debug)]
pub(crate) struct Guards {
    cores: usize,
    known: Mutex<BTreeMap<Subject, Known>>,
}

#[derive(Debug)]
struct Known {
    policy: Policy,
    guard: Arc<Guard>,
}

impl Guards {
    pub(crate) fn new(cores: usize) -> Self {
        Self { cores, known: Mutex::default() }
    }

    /// Gives every route of the snapshot the guard that it had, or a new one, and forgets all others. Called before the
    /// tables are served.
    pub(crate) fn assign(&self, snapshot: &Snapshot, tables: &Tables, switches: &Switches) {
        let rules = |name: &str| tables.listener(name).into_iter().flat_map(|table| &table.rules);
        let all = snapshot.listeners.iter().flat_map(|(name, listener)| {
            rules(name).map(|rule| (Subject::of(name, &listener.role, rule.route.name()), &*rule.route))
        });
        let wanted: BTreeMap<Subject, &Compiled> = all.collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|subject, _| wanted.contains_key(subject));
        for (subject, route) in wanted {
            let before = known.get(&subject);
            let guard = match before {
                Some(before) if before.policy == route.policy => Arc::clone(&before.guard),
                _ => Arc::new(Guard::new(&subject, &route.policy, self.cores, before)),
            };
            // Tables that stay have theirs.
            let _ = route.guard.set(Arc::clone(&guard));
            known.insert(subject, Known { policy: route.policy.clone(), guard });
        }
        force(&known, switches, timers::now());
    }

    /// Breakers stand as this says, and by themselves where it says nothing.
    pub(crate) fn switch(&self, switches: &Switches) {
        force(&self.known.lock().unwrap_or_else(PoisonError::into_inner), switches, timers::now());
    }

    /// Closes a breaker, and forgets what it counted. `false` where there is none.
    pub(crate) fn reset(&self, subject: &Subject) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let breaker = known.get(subject).and_then(|known| known.guard.breaker.as_ref());
        breaker.is_some_and(|breaker| {
            breaker.reset();
            true
        })
    }

    pub(crate) fn read(&self, now: Moment) -> BTreeMap<Subject, GuardReading> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(subject, known)| (subject.clone(), known.guard.read(now))).collect()
    }
}

fn force(known: &BTreeMap<Subject, Known>, switches: &Switches, now: Moment) {
    let forced: BTreeMap<&Subject, Forced> =
        switches.breakers.iter().map(|(subject, forced)| (subject, *forced)).collect();
    for (subject, known) in known {
        if let Some(breaker) = &known.guard.breaker {
            breaker.force(forced.get(subject).copied(), now);
        }
    }
}
