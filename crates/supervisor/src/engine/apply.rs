//! A new list of services: what differs is declared anew, everything else is left alone. Nothing is started or stopped
//! here; that follows from what is desired.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::release::with_process_of;
use crate::Error;
use crate::change::{Change, Difference, Effect, HasProcess};
use crate::config::{self, Preparation, Service};
use crate::event::Kind;
use crate::handle::Refused;
use crate::reconcile::{BuildState, Phase, Progress};
use crate::status::Wanted;

impl Engine {
    /// Refuses a list that could not run; then nothing has changed.
    pub(super) fn apply(
        &mut self,
        services: Vec<Service>,
        wanted: &BTreeSet<String>,
        refused: Refused,
    ) -> Result<Vec<Change>, Error> {
        config::check(&services)?;
        let next: BTreeMap<String, Service> = services.into_iter().map(|s| (s.name.clone(), s)).collect();
        if let Some(unknown) = wanted.iter().find(|name| !next.contains_key(*name)) {
            return Err(Error::UnknownService { service: unknown.clone() });
        }
        let is_declared = |name: &&String| !self.removed.contains(*name);
        let gone: Vec<String> =
            self.services.keys().filter(is_declared).filter(|name| !next.contains_key(*name)).cloned().collect();
        let mut changes = Vec::with_capacity(next.len() + gone.len());
        for service in gone {
            self.remove(&service);
            changes.push(Change { service, effect: Effect::Removed });
        }
        for (service, declared) in next {
            let effect = self.accept(declared, refused);
            changes.push(Change { service, effect });
        }
        changes.sort_by(|a, b| a.service.cmp(&b.service));
        for Change { service, effect } in changes.iter().filter(|change| change.effect != Effect::Unchanged) {
            tracing::info!(service, %effect, "changed");
            self.outward.events.emit(service, None, Kind::Changed { how: effect.to_string() });
        }
        self.want(wanted);
        Ok(changes)
    }

    fn remove(&mut self, service: &str) {
        self.target(service).wanted = Wanted::Stopped;
        self.end_rollout(service);
        self.removed.insert(service.to_owned());
    }

    fn accept(&mut self, next: Service, refused: Refused) -> Effect {
        let name = next.name.clone();
        let next = match refused {
            Refused::Retry => next,
            Refused::Keep => self.keep_refused(next),
        };
        let Some(present) = self.services.get(&name) else {
            self.declare(next);
            return Effect::Added;
        };
        let difference = Difference::between(present, &next);
        let is_new = self.removed.remove(&name);
        let is_same = difference.process.is_empty();
        let has_process = match self.observed.services[&name].instances.values().any(|i| i.phase != Phase::Idle) {
            true => HasProcess::Yes,
            false => HasProcess::No,
        };
        let effect = difference.effect(has_process);
        match is_same {
            true => {
                // What is asked for is what runs, whatever was taken back before.
                let has_rollout = self.observed.services[&name].rollout.is_some();
                if let Some(release) =
                    self.releases.get_mut(&name).filter(|_| !has_rollout && refused == Refused::Retry)
                {
                    release.accept();
                }
                self.amend(&next);
                self.declare(next);
            }
            false if self.is_former(&next) => {
                if let Some(release) = self.releases.get_mut(&name) {
                    release.accept();
                }
                self.go_back(next);
            }
            false => {
                let prepares = next.prepare == Preparation::Required;
                if let Some(release) = self.releases.get_mut(&name) {
                    release.accept();
                }
                self.release(next);
                self.retry(&name, prepares);
            }
        }
        if is_new { Effect::Added } else { effect }
    }

    /// What failed and is asked for once more goes on being refused: only what its process does not notice is taken over.
    fn keep_refused(&mut self, next: Service) -> Service {
        let (Some(release), Some(present)) = (self.releases.get_mut(&next.name), self.services.get(&next.name)) else {
            return next;
        };
        let is_same = |refused: &&mut Service| Difference::between(refused, &next).process.is_empty();
        match release.refused.as_mut().filter(|refused| is_same(refused)) {
            None => next,
            Some(refused) => {
                let kept = with_process_of(present, &next);
                *refused = next;
                kept
            }
        }
    }

    /// A changed declaration is prepared anew, and built if its build is new or has failed.
    fn retry(&mut self, service: &str, prepares: bool) {
        let build = self.services[service].build.as_ref().and_then(|build| self.observed.builds.get_mut(build));
        if let Some(build @ BuildState::Failed { .. }) = build {
            *build = BuildState::Needed;
        }
        let seen = self.observed.services.get_mut(service).expect("the service is declared");
        seen.preparation = match (&seen.preparation, prepares) {
            (Progress::Running, _) => Progress::Running,
            (_, true) => Progress::Needed,
            (_, false) => Progress::Done,
        };
    }
}
