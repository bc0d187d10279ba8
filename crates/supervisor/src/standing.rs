//! What a supervisor knows of its services that none of their processes shows. Whoever runs one keeps it, and gives it to
//! the next; what becomes of it there is `engine::adopt`'s.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::Service;
use crate::status::{InstanceState, Snapshot, Wanted};

/// What the supervisor before this one ran by, for [`crate::Config::before`].
#[derive(Debug, Default)]
pub struct Before {
    /// Full lists of which instances may still run, the newest first. An instance that was started from one of them goes
    /// on as a former one of what is declared now.
    pub declared: Vec<Vec<Service>>,
    /// How services stood. Only of those that are declared as they were then.
    pub standing: BTreeMap<String, Standing>,
}

/// How one service stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Why its last rollout is not what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Instances that did what they had to do, and are not started again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub finished: BTreeSet<u32>,
}

/// A rollout that failed; it holds until the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub outcome: Outcome,
    pub why: String,
    /// What was written last, oldest first.
    pub last_lines: Vec<String>,
}

/// What became of a rollout that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The former declaration runs again.
    Reverted,
    /// It was left where it was.
    Halted,
}

impl Failure {
    /// In words, for whoever asks why the service is not what was asked for.
    #[must_use]
    pub fn reason(&self) -> String {
        match self.outcome {
            Outcome::Reverted => format!("reverted: {}", self.why),
            Outcome::Halted => format!("its rollout is halted: {}", self.why),
        }
    }
}

impl Snapshot {
    /// What is to be kept for the next supervisor; services of which there is nothing to be known are left out.
    #[must_use]
    pub fn standing(&self) -> BTreeMap<String, Standing> {
        let of = self.services.iter().map(|service| {
            let is_finished =
                |state: &InstanceState| service.wanted == Wanted::Running && *state == InstanceState::Exited;
            let finished = service.instances.iter().filter(|i| is_finished(&i.state)).map(|i| i.index).collect();
            (service.name.clone(), Standing { failure: service.failure.clone(), finished })
        });
        of.filter(|(_, standing)| *standing != Standing::default()).collect()
    }
}
