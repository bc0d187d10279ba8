//! What a supervisor knows of its services that none of their processes shows. Whoever runs one keeps it, and gives it to
//! the next; what becomes of it there is `engine::adopt`'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Service;
use crate::status::{Exit, InstanceState, Snapshot, Wanted};

/// What the supervisor before this one ran by, for [`crate::Config::before`].
#[derive(Debug, Default)]
pub struct Before {
    /// Full lists of which instances may still run, the newest first. An instance that was started from one of them goes
    /// on as a former one of what is declared now.
    pub declared: Vec<Vec<Service>>,
    /// How services stood.
    pub standing: BTreeMap<String, Standing>,
}

impl Before {
    /// The newest declaration of a service that satisfies this.
    pub(crate) fn declaration(&self, service: &str, is_it: impl Fn(&Service) -> bool) -> Option<&Service> {
        self.declared.iter().flatten().find(|declared| declared.name == service && is_it(declared))
    }
}

/// How one service stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether it is wanted to run.
    #[serde(default)]
    pub is_wanted: bool,
    /// Names what it ran before a rollout that is under way or was taken back ([`Service::kind`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<String>,
    /// Why its last rollout is not what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Instances that have ended and are not started again, and how.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ended: BTreeMap<u32, Exit>,
}

impl Standing {
    /// What holds of it for another declaration of the service.
    #[must_use]
    pub fn of_another(self) -> Self {
        Self { failure: None, ended: BTreeMap::new(), ..self }
    }

    /// What holds of it after a restart of the machine.
    #[must_use]
    pub fn of_another_boot(self) -> Self {
        Self { is_wanted: false, ended: BTreeMap::new(), ..self }
    }
}

impl Service {
    /// Names what its processes are: equal for declarations that differ in policy and number only.
    pub(crate) fn kind(&self) -> String {
        let Self { build, command, working_dir, environment, prepare, limits, .. } = self;
        let all = format!("{:?}", (build, command, working_dir, environment, prepare, limits));
        Sha256::digest(all).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether it is what a service ran before.
    #[must_use]
    pub fn is_former(&self, standing: &Standing) -> bool {
        standing.former.as_ref().is_some_and(|former| *former == self.kind())
    }
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
            let is_wanted = service.wanted == Wanted::Running;
            let has_ended = |state: &InstanceState| matches!(state, InstanceState::Exited | InstanceState::Failed);
            let ended = service.instances.iter().filter(|i| is_wanted && has_ended(&i.state));
            let ended = ended.filter_map(|i| Some((i.index, i.last_exit?))).collect();
            let (former, failure) = (service.former.clone(), service.failure.clone());
            (service.name.clone(), Standing { is_wanted, former, failure, ended })
        });
        of.filter(|(_, standing)| *standing != Standing::default()).collect()
    }
}
