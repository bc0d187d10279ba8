//! Takes over what a former daemon left: places it among what is observed, as if it had been started here.

use std::time::Instant;

use jiff::Timestamp;
use registry::State;
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Engine;
use super::release::find;
use crate::adopt::{self, Adopted, lived_ms};
use crate::config::{Drain, Instance, Limits, Preparation, Service};
use crate::event::Kind;
use crate::life::Begin;
use crate::link::Link;
use crate::procfs;
use crate::reconcile::{BuildState, Course, Ending, Health, Phase, Progress};
use crate::shim::folder::Past;
use crate::shim::wire::{self, Cause, Identity, Readiness};
use crate::standing::{Before, Standing};
use crate::status::{Exit, Wanted};

/// What is told of an instance that cannot be taken over.
const NOT_DECLARED: &str = "it is not declared any more";
const MOVED: &str = "it listens on an address that is not its own any more";

impl Engine {
    /// Places every instance that goes on, and the ends of those that did not. Nothing is spawned before
    /// [`Engine::go_on`].
    pub(super) fn take_over(&mut self, adopted: Adopted, before: &Before) {
        let Adopted { links, pasts, .. } = adopted;
        for (service, standing) in &before.standing {
            if standing.former.is_some() {
                let former = before.declaration(service, |declared| declared.is_former(standing)).cloned();
                self.succeed(service, former, standing.failure.as_ref());
            }
        }
        let lost = pasts.iter().map(|(_, past)| past).filter(|past| is_missed(past)).map(|past| &past.identity);
        for identity in links.iter().map(|link| &link.hello.identity).chain(lost) {
            let Identity { service, instance, revision: started_from, .. } = identity;
            let is_it = |declared: &Service| {
                find(declared, *instance).is_some_and(|of| revision(declared, of) == *started_from)
            };
            let former = || before.declaration(service, is_it).cloned();
            match self.revision(service, *instance) {
                Some(declared) if declared == *started_from => {}
                Some(_) => {
                    let failure = before.standing.get(service).and_then(|standing| standing.failure.as_ref());
                    self.succeed(service, former(), failure);
                }
                // It drains and stops as any service that is taken out of the manifest.
                None if !self.services.contains_key(service) => {
                    if let Some(former) = former() {
                        self.declare(former);
                        self.removed.insert(service.clone());
                    }
                }
                None => {}
            }
        }
        for link in links {
            self.place(link);
        }
        for (folder, past) in pasts {
            self.remember(&past);
            folder.clear();
        }
        for (service, Standing { is_wanted, ended, .. }) in &before.standing {
            for (instance, exit) in ended {
                self.remember_ended(service, *instance, *exit);
            }
            if *is_wanted {
                self.remember_wanted(service);
            }
        }
        for service in self.removed.clone() {
            self.target(&service).wanted = Wanted::Stopped;
        }
    }

    /// Begins to look after what was taken over; stops what is not declared.
    pub(super) fn go_on(&mut self) {
        for link in std::mem::take(&mut self.taken_over) {
            let identity = link.hello.identity.clone();
            if self.refusal(&identity).is_none() {
                self.begin_life(identity, Begin::Adopt(Box::new(link)));
                continue;
            }
            let declared = self.services.get(&identity.service);
            let signal = declared.and_then(|declared| Signal::from_named_raw(declared.stop_signal));
            let grace = declared.map_or(adopt::GRACE, |declared| declared.stop_grace_period);
            // What it has in flight ends first: its former daemon may have been about to wait for that.
            let (reply, drained) = oneshot::channel();
            let Identity { service, instance, address, .. } = identity;
            let (ask, drain) = (Drain { service, instance, address, reply }, self.drain.clone());
            self.tasks.spawn(async move {
                let in_time = async {
                    // A dropped reply or a closed channel counts as drained.
                    let _ = drain.send(ask).await;
                    let _ = drained.await;
                };
                let _ = timeout(grace, in_time).await;
                adopt::stop(link, signal.unwrap_or(Signal::TERM), grace).await;
            });
        }
    }

    /// What is declared for an instance, by its name. What every process is passed of Atoll's own
    /// environment does not count: another shell is no reason to replace anything.
    fn revision(&self, service: &str, instance: u32) -> Option<String> {
        let declared = self.services.get(service)?;
        Some(revision(declared, find(declared, instance)?))
    }

    /// Why an instance cannot be taken over.
    fn refusal(&self, identity: &Identity) -> Option<&'static str> {
        match self.address(&identity.service, identity.instance) {
            None => Some(NOT_DECLARED),
            Some(address) if address != identity.address => Some(MOVED),
            Some(_) => None,
        }
    }

    fn place(&mut self, link: Link) {
        let identity = link.hello.identity.clone();
        let (service, instance) = (identity.service.as_str(), identity.instance);
        let Some(started) = link.hello.state.started() else { return };
        let pid = started.process.pid.unsigned_abs();
        let is_leaving = !matches!(link.hello.state, wire::State::Running { .. });
        let readiness = if is_leaving { Readiness::Never } else { link.hello.ready };
        self.taken_over.push(link);
        if let Some(why) = self.refusal(&identity) {
            tracing::warn!(service, instance, pid, why, "stopping what a former daemon left");
            return self.emit(service, instance, Kind::LeftoverStopped { pid, why: why.to_owned() });
        }
        let origin = self.origin(&identity);
        let generation = self.want_running(service, origin);
        let seen = self.instance(service, instance);
        seen.generation = generation;
        seen.was_ready = readiness != Readiness::Never;
        let (health, state) = match readiness {
            Readiness::Never => (Health::Starting, State::Unready),
            Readiness::Ready => (Health::Ready, State::Ready),
            Readiness::Unready => (Health::Unready, State::Unready),
        };
        seen.phase = Phase::Live { health };
        let record = self.record(service, instance);
        (record.pid, record.restarts, record.address) = (Some(pid), identity.restarts, Some(identity.address));
        record.started = Some((instant(started.at), started.at));
        self.set_endpoint(service, instance, state);
        tracing::info!(service, instance, pid, ?readiness, ?origin, "adopted");
        self.emit(service, instance, Kind::Adopted { pid });
    }

    /// One that ended while no daemon was there is what it would be if one had been.
    fn remember(&mut self, past: &Past) {
        let Identity { service, instance, restarts, .. } = &past.identity;
        if self.address(service, *instance).is_none() {
            return;
        }
        let record = self.record(service, *instance);
        (record.restarts, record.last_exit) = (*restarts, Some(past.ended.exit()));
        record.started = Some((instant(past.started.at), past.started.at));
        record.last_lines.clone_from(&past.last_lines);
        let origin = self.origin(&past.identity);
        // Of one that had done what it had to do, something else is asked now.
        if !is_missed(past) || origin == Origin::Former && past.ended.exit().is_success() {
            return;
        }
        let generation = self.want_running(service, origin);
        let seen = self.instance(service, *instance);
        (seen.generation, seen.was_ready) = (generation, true);
        seen.phase = Phase::Leaving { ending: Ending::Exit(past.ended.exit()) };
        self.end(service, *instance, Ending::Exit(past.ended.exit()));
    }

    /// One that had ended for good before the former daemon did is not started again by this one.
    fn remember_ended(&mut self, service: &str, instance: u32, exit: Exit) {
        let is_known = self.address(service, instance).is_some();
        if !is_known || self.instance(service, instance).phase != Phase::Idle {
            return;
        }
        let generation = self.want_running(service, Origin::Present);
        let record = self.record(service, instance);
        record.last_exit = Some(exit);
        record.reason = (!exit.is_success()).then(|| exit.reason());
        let seen = self.instance(service, instance);
        (seen.generation, seen.phase) = (generation, Phase::Ended { ending: Ending::Exit(exit) });
    }

    /// One of which nothing is there may not have come so far as to be built and prepared.
    fn remember_wanted(&mut self, service: &str) {
        let Some(declared) = self.services.get(service) else { return };
        let target = self.desired.services.get_mut(service).expect("the service is declared");
        let seen = self.observed.services.get_mut(service).expect("the service is declared");
        if target.wanted == Wanted::Running {
            return;
        }
        if seen.rollout.as_ref().is_some_and(|rollout| rollout.course == Course::Back) {
            self.want_running(service, Origin::Present);
            return;
        }
        target.wanted = Wanted::Running;
        if declared.prepare == Preparation::Required {
            seen.preparation = Progress::Needed;
        }
    }

    fn origin(&self, identity: &Identity) -> Origin {
        match self.revision(&identity.service, identity.instance) {
            Some(declared) if declared != identity.revision => Origin::Former,
            _ => Origin::Present,
        }
    }

    /// It was wanted when the former daemon ended, and built and prepared by that. Gives the generation of an instance.
    fn want_running(&mut self, service: &str, origin: Origin) -> u64 {
        let declared = &self.services[service];
        let target = self.desired.services.get_mut(service).expect("the service is declared");
        let seen = self.observed.services.get_mut(service).expect("the service is declared");
        let is_first = target.wanted == Wanted::Stopped;
        target.wanted = Wanted::Running;
        // What is gone back to was built and prepared.
        let goes_back = seen.rollout.as_ref().is_some_and(|rollout| rollout.course == Course::Back);
        if origin == Origin::Former && !goes_back {
            if let Some(build) = &declared.build {
                self.observed.builds.insert(build.clone(), BuildState::Needed);
            }
            if declared.prepare == Preparation::Required {
                seen.preparation = Progress::Needed;
            }
        } else if let Some(build) = declared.build.as_ref().filter(|_| is_first) {
            self.observed.builds.insert(build.clone(), BuildState::Done);
        }
        target.generation.saturating_sub(u64::from(origin == Origin::Former))
    }
}

/// Whether anybody misses it: not what was told to stop, or ended with the machine.
fn is_missed(past: &Past) -> bool {
    past.ended.cause != Cause::Asked && past.boot_id == procfs::boot_id()
}

/// Names what makes a process: equal for equal processes.
pub(super) fn revision(declared: &Service, of: &Instance) -> String {
    let all = (&declared.command, declared.working_dir.as_os_str(), &declared.environment, &of.environment, of.address);
    let mut digest = Sha256::new_with_prefix(wire::line(&all));
    // Apart, so that whoever has none has the name that it had before there were any.
    if declared.limits != Limits::default() {
        digest.update(wire::line(&declared.limits));
    }
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What an instance was started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// What is declared now.
    Present,
    Former,
}

/// The moment of this clock at which it was that time; as early as the clock can tell.
fn instant(at: Timestamp) -> Instant {
    let now = Instant::now();
    now.checked_sub(std::time::Duration::from_millis(lived_ms(at, Timestamp::now()))).unwrap_or(now)
}
