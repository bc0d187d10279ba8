//! Commands: they change what is desired, and let what failed or waits be tried again. Nothing is started here.

use std::collections::BTreeSet;
use std::time::Instant;

use rustix::process::Signal;

use super::Engine;
use crate::Error;
use crate::config::Preparation;
use crate::handle::{Command, Reply, Verb};
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
        match command {
            Command::Want { verb, services, reply } => {
                let result = self.change(verb, services);
                self.answer(reply, result);
            }
            Command::Apply { services, wanted, refused, reply } => {
                let result = self.apply(services, &wanted, refused);
                self.answer(reply, result);
            }
            Command::Signal { instances, signal, reply } => {
                let result = self.pass_on(&instances, signal);
                self.answer(reply, result);
            }
        }
    }

    fn answer<T>(&mut self, reply: Reply<T>, result: Result<T, Error>) {
        // Order: who has the answer must not find the state of before it in a snapshot.
        self.act();
        self.publish();
        // A caller that is gone does not want to know.
        let _ = reply.send(result);
    }

    fn pass_on(&mut self, instances: &[(String, Option<u32>)], signal: i32) -> Result<(), Error> {
        let named = Signal::from_named_raw(signal).ok_or(Error::Signal { signal })?;
        let services: Vec<String> = instances.iter().map(|(service, _)| service.clone()).collect();
        self.check_known(&services)?;
        for (service, index) in instances {
            self.signal(service, *index, named);
        }
        Ok(())
    }

    fn check_known(&self, services: &[String]) -> Result<(), Error> {
        let is_known = |name: &&String| self.services.contains_key(*name) && !self.removed.contains(*name);
        match services.iter().find(|name| !is_known(name)) {
            Some(unknown) => Err(Error::UnknownService { service: unknown.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn change(&mut self, verb: Verb, services: Option<Vec<String>>) -> Result<(), Error> {
        let named = services.unwrap_or_default();
        self.check_known(&named)?;
        match verb {
            Verb::Stop => {
                for service in &named {
                    self.target(service).wanted = Wanted::Stopped;
                    self.end_rollout(service);
                    if let Some(release) = self.releases.get_mut(service) {
                        release.accept();
                    }
                }
            }
            Verb::Start | Verb::Restart | Verb::Replace => {
                let is_declared = |name: &&String| !self.removed.contains(*name);
                let all = || self.services.keys().filter(is_declared).cloned().collect();
                let open = if named.is_empty() { all() } else { named.clone() };
                for service in self.with_dependencies(open) {
                    let how = if named.contains(&service) { Named::ByName } else { Named::Along };
                    self.start(&service, how);
                }
                for service in named.iter().filter(|_| verb != Verb::Start) {
                    self.release(self.services[service].clone());
                    if verb == Verb::Restart {
                        self.renew(service);
                    }
                }
            }
        }
        Ok(())
    }

    /// Wants services, and what they depend on, to run.
    pub(super) fn want(&mut self, services: &BTreeSet<String>) {
        for service in self.with_dependencies(services.iter().cloned().collect()) {
            self.start(&service, Named::Along);
        }
    }

    fn start(&mut self, service: &str, how: Named) {
        let was = std::mem::replace(&mut self.target(service).wanted, Wanted::Running);
        let again = was == Wanted::Stopped || how == Named::ByName;
        let seen = self.observed.services.get_mut(service).expect("the service is declared");
        let build = self.services[service].build.as_ref().and_then(|build| self.observed.builds.get(build));
        let mut is_needed = was == Wanted::Stopped
            || matches!(seen.preparation, Progress::Failed { .. })
            || matches!(build, Some(BuildState::Failed { .. }));
        let base = &self.desired.services[service].base;
        for (&index, instance) in seen.instances.iter_mut().filter(|(index, _)| base.contains(index)) {
            let retry = match &instance.phase {
                Phase::Idle | Phase::Backoff { .. } => true,
                Phase::Ended { ending } => again || !ending.is_success(),
                Phase::Leaving { ending } => again || !ending.is_success(),
                Phase::Stopping { cause: Cause::Unhealthy { .. }, .. } => true,
                Phase::Live { .. } | Phase::Stopping { .. } => false,
            };
            // One that has not been started yet is waited for already.
            let has_ended = retry && instance.phase != Phase::Idle;
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
            is_needed |= has_ended;
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

    pub(super) fn target(&mut self, service: &str) -> &mut crate::reconcile::Target {
        self.desired.services.get_mut(service).expect("the service is declared")
    }
}
