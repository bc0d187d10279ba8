//! What lies between two declarations of a service, and what becomes of it. Pure; the engine's `apply` asks it.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::{Instance, Service};

/// What [`crate::Handle::apply`] does about one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub service: String,
    pub effect: Effect,
}

/// What becomes of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Added,
    /// It is drained, stopped and forgotten.
    Removed,
    /// Its instances are replaced, because these fields differ.
    Restarted {
        why: Vec<&'static str>,
    },
    /// Instances are started, or drained and stopped; the others are left alone.
    Scaled {
        from: usize,
        to: usize,
    },
    /// These fields hold from now on, or from the next start on, and no process is touched.
    Updated {
        what: Vec<&'static str>,
    },
    Unchanged,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added => f.write_str("added"),
            Self::Removed => f.write_str("removed"),
            Self::Restarted { why } => write!(f, "restarted for its {}", why.join(", ")),
            Self::Scaled { from, to } => write!(f, "scaled from {from} to {to}"),
            Self::Updated { what } => write!(f, "updated: {}", what.join(", ")),
            Self::Unchanged => f.write_str("unchanged"),
        }
    }
}

/// The fields in which two declarations differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Those that make a process.
    pub(crate) process: Vec<&'static str>,
    /// Those that a running process does not notice.
    pub(crate) policy: Vec<&'static str>,
    pub(crate) scale: Option<(usize, usize)>,
}

impl Difference {
    /// From what is declared to what shall be. Probes count as policy: a running instance keeps those it was started
    /// with, and its next start takes the new ones.
    pub(crate) fn between(from: &Service, to: &Service) -> Self {
        // A field that is added to a service must be sorted in here.
        let Service {
            name: _,
            build,
            command,
            working_dir,
            environment,
            instances,
            surge,
            depends_on,
            calls,
            probes,
            restart,
            stop_signal,
            stop_grace_period,
            prepare,
            update,
            limits,
        } = to;
        let (from_instances, to_instances) = (by_index(from), by_index(to));
        // Only those that are in both: the others start or stop anyway.
        let both = || instances.iter().filter_map(|i| Some((i, *from_instances.get(&i.index)?)));
        let fields = |all: &[(&'static str, bool)]| all.iter().filter(|(_, is)| *is).map(|(field, _)| *field).collect();
        Self {
            process: fields(&[
                ("build", *build != from.build),
                ("command", *command != from.command),
                ("working_dir", *working_dir != from.working_dir),
                (
                    "environment",
                    *environment != from.environment || both().any(|(to, from)| to.environment != from.environment),
                ),
                ("address", both().any(|(to, from)| to.address != from.address)),
                ("prepare", *prepare != from.prepare),
                ("limits", *limits != from.limits),
            ]),
            policy: fields(&[
                ("depends_on", *depends_on != from.depends_on),
                ("calls", *calls != from.calls),
                ("probes", *probes != from.probes),
                ("restart", *restart != from.restart),
                ("stop_signal", *stop_signal != from.stop_signal),
                ("stop_grace_period", *stop_grace_period != from.stop_grace_period),
                ("update", *update != from.update || *surge != from.surge),
            ]),
            scale: (!from_instances.keys().eq(to_instances.keys())).then_some((from.instances.len(), instances.len())),
        }
    }

    /// What becomes of a service whose process is there, or not.
    pub(crate) fn effect(self, has_process: HasProcess) -> Effect {
        let Self { mut process, policy, scale } = self;
        match (process.is_empty(), scale) {
            (false, _) if has_process == HasProcess::Yes => {
                process.extend(scale.map(|_| "replicas"));
                process.extend(policy);
                Effect::Restarted { why: process }
            }
            (true, Some((from, to))) => Effect::Scaled { from, to },
            (true, None) if policy.is_empty() => Effect::Unchanged,
            _ => {
                process.extend(scale.map(|_| "replicas"));
                process.extend(policy);
                Effect::Updated { what: process }
            }
        }
    }
}

/// Whether there is something to replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HasProcess {
    Yes,
    No,
}

fn by_index(service: &Service) -> BTreeMap<u32, &Instance> {
    service.instances.iter().map(|instance| (instance.index, instance)).collect()
}
