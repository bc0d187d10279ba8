//! What is published: the loop's state in the words of `status`.

use std::sync::Arc;

use jiff::Timestamp;

use super::release::find;
use super::{CRASH_LOOP_ATTEMPTS, Engine, Record};
use crate::config::Service;
use crate::reconcile::{BuildState, Health, ObservedInstance, Phase, Progress, blocked, waits};
use crate::standing::Failure;
use crate::status::{BuildStatus, InstanceState, InstanceStatus, ServiceStatus, Snapshot, Wanted};

impl Engine {
    pub(super) fn publish(&self) {
        let next = Snapshot { services: self.services.values().map(|service| self.service(service)).collect() };
        self.outward.published.send_if_modified(|published| {
            let is_new = **published != next;
            if is_new {
                *published = Arc::new(next);
            }
            is_new
        });
    }

    fn service(&self, service: &Service) -> ServiceStatus {
        let target = &self.desired.services[&service.name];
        let build = match service.build.as_ref().and_then(|build| self.observed.builds.get(build)) {
            None => BuildStatus::None,
            Some(BuildState::Needed) => BuildStatus::Waiting,
            Some(BuildState::Running | BuildState::Cancelling) => BuildStatus::Running,
            Some(BuildState::Done) => BuildStatus::Done,
            Some(BuildState::Failed { reason, last_lines }) => {
                BuildStatus::Failed { reason: reason.clone(), last_lines: last_lines.clone() }
            }
        };
        let seen = &self.observed.services[&service.name];
        let failure = self.releases.get(&service.name).and_then(|release| release.failure.clone());
        let reason = match (&build, &seen.preparation) {
            _ if failure.is_some() => failure.as_ref().map(Failure::reason),
            (BuildStatus::Failed { reason, .. }, _) => Some(format!("its build failed: {reason}")),
            (_, Progress::Failed { reason }) => Some(format!("its preparation failed: {reason}")),
            _ => None,
        };
        let mut status = ServiceStatus {
            name: service.name.clone(),
            wanted: target.wanted,
            generation: target.generation,
            build,
            reason,
            former: self.former_kind(&service.name),
            failure,
            rollout: seen.rollout.as_ref().map(|rollout| rollout.course),
            instances: Vec::with_capacity(service.instances.len()),
        };
        // Those that do not always run are shown while there is something to see.
        let shown = seen.instances.iter().filter(|(index, i)| target.base.contains(index) || i.phase != Phase::Idle);
        status.instances = shown.map(|(index, seen)| self.status(&status, *index, seen)).collect();
        status
    }

    fn status(&self, service: &ServiceStatus, index: u32, seen: &ObservedInstance) -> InstanceStatus {
        let record = &self.records[&(service.name.clone(), index)];
        let declared = || find(&self.services[&service.name], index).map(|instance| instance.address);
        let is_idle = !seen.phase.is_alive();
        let address = record.address.filter(|_| !is_idle).or_else(declared).or(record.address);
        let state = self.state(service, seen, record);
        let reason = match state {
            InstanceState::Stopped | InstanceState::Building | InstanceState::Preparing => None,
            InstanceState::Pending => blocked(&self.desired, &self.observed, &service.name),
            _ if record.neglect.is_some() => record.neglect.clone(),
            _ => record.reason.clone().or_else(|| service.reason.clone().filter(|_| waits(service.generation, seen))),
        };
        let is_alive = record.pid.is_some();
        InstanceStatus {
            index,
            pid: record.pid,
            state,
            ready: seen.phase == Phase::Live { health: Health::Ready },
            port: address.map_or(0, |address| address.port()),
            restarts: record.restarts,
            generation: seen.generation,
            started_at: record.started.filter(|_| is_alive).map(|(_, at)| at),
            last_exit: record.last_exit,
            reason,
            last_lines: record.last_lines.clone(),
        }
    }

    fn state(&self, service: &ServiceStatus, seen: &ObservedInstance, record: &Record) -> InstanceState {
        let preparation = &self.observed.services[&service.name].preparation;
        match &seen.phase {
            Phase::Live { health: Health::Spawning | Health::Starting } => InstanceState::Starting,
            Phase::Live { health: Health::Ready | Health::Unready } => InstanceState::Running,
            Phase::Live { .. } | Phase::Stopping { .. } | Phase::Leaving { .. } => InstanceState::Stopping,
            _ if service.wanted == Wanted::Stopped => InstanceState::Stopped,
            Phase::Backoff { .. } => {
                let (attempt, until) = (seen.attempts, record.retry_at.unwrap_or(Timestamp::UNIX_EPOCH));
                match attempt >= CRASH_LOOP_ATTEMPTS {
                    true => InstanceState::CrashLoop { attempt, until },
                    false => InstanceState::Backoff { attempt, until },
                }
            }
            Phase::Ended { ending } if !waits(service.generation, seen) => match ending.is_success() {
                true => InstanceState::Exited,
                false => InstanceState::Failed,
            },
            Phase::Ended { .. } | Phase::Idle => match (&service.build, preparation) {
                (BuildStatus::Failed { .. }, _) | (_, Progress::Failed { .. }) => InstanceState::Failed,
                (BuildStatus::Waiting | BuildStatus::Running, _) => InstanceState::Building,
                (_, Progress::Needed | Progress::Running) => InstanceState::Preparing,
                (_, Progress::Done) => InstanceState::Pending,
            },
        }
    }
}
