//! Commands: they change what is desired, and let what failed or waits be tried again. Nothing is started here.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Engine;
use crate::Error;
use crate::config::Preparation;
use crate::handle::{Command, Verb};
use crate::reconcile::{BuildState, Cause, Force, Phase, Progress};
use crate::status::Wanted;

/// How a service came to be started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    /// By its name: what has completed runs once more.
    ByName,
    /// With all others, or because another one depends on it.
    Along,
}

impl Engine {
    pub(super) fn obey(&mut self, command: Command) {
        let Command { verb, services, reply } = command;
        let result = self.change(verb, services);
        // Order: who has the answer must not find the state of before it in a snapshot.
        self.act();
        self.publish();
        // A caller that is gone does not want to know.
        let _ = reply.send(result);
    }

    pub(super) fn change(&mut self, verb: Verb, services: Option<Vec<String>>) -> Result<(), Error> {
        let named = services.unwrap_or_default();
        if let Some(unknown) = named.iter().find(|name| !self.services.contains_key(*name)) {
            return Err(Error::UnknownService { service: unknown.clone() });
        }
        match verb {
            Verb::Stop => {
                for service in &named {
                    self.target(service).wanted = Wanted::Stopped;
                }
            }
            Verb::Start | Verb::Restart => {
                let all = if named.is_empty() { self.services.keys().cloned().collect() } else { named.clone() };
                for service in self.with_dependencies(all) {
                    let how = if named.contains(&service) { Named::ByName } else { Named::Along };
                    self.start(&service, how);
                }
                for service in named.iter().filter(|_| verb == Verb::Restart) {
                    self.target(service).generation += 1;
                    self.renew(service);
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, service: &str, how: Named) {
        let was = std::mem::replace(&mut self.target(service).wanted, Wanted::Running);
        let again = was == Wanted::Stopped || how == Named::ByName;
        let seen = self.observed.services.get_mut(service).expect("the service is declared");
        let mut is_needed = matches!(seen.preparation, Progress::Failed { .. });
        for (&index, instance) in &mut seen.instances {
            let retry = match &instance.phase {
                Phase::Idle | Phase::Backoff { .. } => true,
                Phase::Ended { ending } => again || !ending.is_success(),
                Phase::Leaving { ending } => again || !ending.is_success(),
                Phase::Stopping { cause: Cause::Unhealthy { .. }, .. } => true,
                Phase::Live { .. } | Phase::Stopping { .. } => false,
            };
            if retry {
                instance.attempts = 0;
                match &mut instance.phase {
                    // Something of it is still there. As one that is replaced it starts again when it is gone.
                    Phase::Stopping { cause, .. } => *cause = Cause::Replaced,
                    phase @ Phase::Leaving { .. } => {
                        // No grace period: its process has ended, and its life already kills what it left.
                        *phase = Phase::Stopping { since: Instant::now(), cause: Cause::Replaced, force: Force::Kill };
                    }
                    phase => *phase = Phase::Idle,
                }
                let record = self.records.entry((service.to_owned(), index)).or_default();
                (record.restarts, record.reason) = (0, None);
            }
            // One that is still stopping starts again as soon as it is gone.
            is_needed |= retry || was == Wanted::Stopped;
        }
        if is_needed {
            self.renew(service);
        }
    }

    /// Lets the build and the preparation run once more, unless they are running.
    fn renew(&mut self, service: &str) {
        let declared = &self.services[service];
        let build = declared.build.as_ref().and_then(|build| self.observed.builds.get_mut(build));
        if let Some(build @ (BuildState::Done | BuildState::Failed { .. })) = build {
            *build = BuildState::Needed;
        }
        let seen = self.observed.services.get_mut(service).expect("the service is declared");
        if declared.prepare == Preparation::Required && seen.preparation != Progress::Running {
            seen.preparation = Progress::Needed;
        }
    }

    fn with_dependencies(&self, mut open: Vec<String>) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        while let Some(service) = open.pop() {
            open.extend(self.services[&service].depends_on.keys().filter(|name| !all.contains(*name)).cloned());
            all.insert(service);
        }
        all
    }

    fn target(&mut self, service: &str) -> &mut crate::reconcile::Target {
        self.desired.services.get_mut(service).expect("the service is declared")
    }
}
