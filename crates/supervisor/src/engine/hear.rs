//! Takes in what lives, builds and preparations report, and tells the registry and the listeners.

use std::time::Instant;

use jiff::Timestamp;
use registry::State;

use super::act::millis;
use super::{Engine, Report};
use crate::builds::Outcome;
use crate::config::Build;
use crate::event::Kind;
use crate::life::News;
use crate::probe::{Notice, Verdict};
use crate::reconcile::{BuildState, Cause, Ending, Force, Health, Phase, Progress, restarts, waits};
use crate::status::Exit;

/// What whoever ends with status 0 and is started again and again should know.
const EXPECTED_TO_RUN: &str = "a service is expected to keep running; `restart = \"on-failure\"` lets it end";

impl Engine {
    pub(super) fn hear(&mut self, report: Report) {
        match report {
            Report::Life { service, instance, life, news } => {
                if self.is_present(&service, instance, life) {
                    self.hear_life(&service, instance, news);
                }
            }
            Report::BuildLine { build, line } => {
                self.outward.events.emit(self.builder(&build), None, Kind::BuildOutput { line });
            }
            Report::Built { build, outcome } => self.hear_built(build, outcome),
            Report::Prepared { service, result } => self.hear_prepared(&service, result),
            Report::Drained { service, instance, life } => {
                if self.is_present(&service, instance, life)
                    && let Phase::Stopping { force: force @ Force::Drain, .. } =
                        &mut self.instance(&service, instance).phase
                {
                    *force = Force::Drained;
                }
            }
        }
    }

    /// Whether a report is of the life that goes on: not of an older one, nor of one that is forgotten.
    fn is_present(&self, service: &str, instance: u32, life: u64) -> bool {
        self.records.get(&(service.to_owned(), instance)).is_some_and(|record| record.life == life)
    }

    fn hear_built(&mut self, build: Build, outcome: Outcome) {
        let service = self.builder(&build).to_owned();
        self.cancels.remove(&build);
        let (state, kind) = match outcome {
            Outcome::Done(took) => {
                tracing::info!(service, took_ms = millis(took), "build finished");
                (BuildState::Done, Kind::BuildFinished { seconds: took.as_secs_f64() })
            }
            Outcome::Failed { reason, last_lines } => {
                tracing::warn!(service, reason, "build failed");
                let state = BuildState::Failed { reason: reason.clone(), last_lines: last_lines.clone() };
                (state, Kind::BuildFailed { reason, last_lines })
            }
            Outcome::Cancelled => (BuildState::Needed, Kind::BuildCancelled),
        };
        self.observed.builds.insert(build, state);
        self.outward.events.emit(&service, None, kind);
    }

    fn hear_prepared(&mut self, service: &str, result: Result<(), String>) {
        let (state, kind) = match result {
            Ok(()) => (Progress::Done, Kind::Prepared),
            Err(reason) => {
                tracing::warn!(service, reason, "preparation failed");
                (Progress::Failed { reason: reason.clone() }, Kind::PreparationFailed { reason })
            }
        };
        if let Some(seen) = self.observed.services.get_mut(service) {
            seen.preparation = state;
        }
        // One that is forgotten was not waited for.
        if self.services.contains_key(service) {
            self.outward.events.emit(service, None, kind);
        }
    }

    fn hear_life(&mut self, service: &str, instance: u32, news: News) {
        match news {
            News::Failed { reason } => {
                tracing::warn!(service, instance, reason, "cannot start");
                self.registry.remove(service, instance);
                let record = self.record(service, instance);
                (record.orders, record.pid) = (None, None);
                record.last_lines.clear();
                self.emit(service, instance, Kind::StartFailed { reason: reason.clone() });
                self.end(service, instance, Ending::NotStarted { reason });
            }
            News::Started { pid, at } => self.hear_started(service, instance, pid, at),
            News::Unlimited { why } => self.hear_unlimited(service, instance, why),
            News::Probed(verdict) => {
                // One that was told to stop is not asked any more; an older answer may still be on its way.
                // Invariant: unhealthy is final. It is acted on only after the whole batch of reports, and the liveness
                // probe, which has ended with it, would not say it again.
                match &self.instance(service, instance).phase {
                    Phase::Live { health: Health::Unhealthy { .. } } => {}
                    Phase::Live { .. } => self.hear_verdict(service, instance, verdict),
                    _ => {}
                }
            }
            News::Exited { exit, seen_at } => self.hear_exited(service, instance, exit, seen_at),
            News::Silent { shim } => {
                tracing::warn!(service, instance, shim, "its shim does not answer");
                self.record(service, instance).neglect = Some(format!("its shim, pid {shim}, does not answer"));
                self.emit(service, instance, Kind::ShimFrozen { pid: shim });
            }
            News::Answers { shim } => {
                tracing::info!(service, instance, shim, "its shim answers again");
                self.record(service, instance).neglect = None;
                self.emit(service, instance, Kind::ShimAnswers { pid: shim });
            }
            News::Lost { why } => {
                tracing::warn!(service, instance, why, "lost its shim");
                self.registry.remove(service, instance);
                let record = self.record(service, instance);
                (record.orders, record.pid, record.neglect) = (None, None, None);
                record.last_lines.clear();
                self.emit(service, instance, Kind::ShimLost { why: why.clone() });
                // It was made to end: what follows is the same as for one that is not well.
                self.end(service, instance, Ending::Unhealthy { why: format!("killed, because {why}") });
            }
            News::Gone { last_lines } => {
                let record = self.record(service, instance);
                (record.orders, record.last_lines, record.neglect) = (None, last_lines, None);
                let exit = record.last_exit.unwrap_or(Exit::Status(0));
                self.end(service, instance, Ending::Exit(exit));
            }
        }
    }

    fn hear_started(&mut self, service: &str, instance: u32, pid: u32, at: Timestamp) {
        let seen = self.instance(service, instance);
        if seen.phase == (Phase::Live { health: Health::Spawning }) {
            seen.phase = Phase::Live { health: Health::Starting };
            self.set_endpoint(service, instance, State::Unready);
        }
        let record = self.record(service, instance);
        record.pid = Some(pid);
        record.started = Some((Instant::now(), at));
        tracing::info!(service, instance, pid, "started");
        self.emit(service, instance, Kind::Started { pid });
    }

    /// Once: the reason is the same for all.
    fn hear_unlimited(&mut self, service: &str, instance: u32, why: String) {
        if !std::mem::replace(&mut self.is_unlimited_told, true) {
            tracing::warn!(service, instance, why, "limits do not hold");
            self.emit(service, instance, Kind::LimitsUnavailable { why });
        }
    }

    fn hear_verdict(&mut self, service: &str, instance: u32, verdict: Verdict) {
        let after_ms = self.record(service, instance).started.map_or(0, |(at, _)| millis(at.elapsed()));
        let (health, reason, kind) = match verdict {
            Verdict::Ready => (Some(Health::Ready), None, Kind::Ready { after_ms }),
            Verdict::Unready { why } => (Some(Health::Unready), Some(why.clone()), Kind::Unready { why }),
            Verdict::Unhealthy { why } => {
                (Some(Health::Unhealthy { why: why.clone() }), Some(why.clone()), Kind::Unhealthy { why })
            }
            Verdict::Failing { why, notice } => {
                if notice == Notice::Told {
                    tracing::warn!(service, instance, why, "probe failed");
                    self.emit(service, instance, Kind::ProbeFailed { why: why.clone() });
                }
                self.record(service, instance).reason = Some(why);
                return;
            }
        };
        self.record(service, instance).reason = reason;
        let Some(health) = health else { return };
        let state = if health == Health::Ready { State::Ready } else { State::Unready };
        self.set_endpoint(service, instance, state);
        let seen = self.instance(service, instance);
        seen.was_ready |= health == Health::Ready;
        let next = Phase::Live { health };
        if seen.phase != next {
            seen.ready_at = Some(Instant::now());
            seen.phase = next;
            tracing::info!(service, instance, ?state, "readiness changed");
            self.emit(service, instance, kind);
        }
    }

    fn hear_exited(&mut self, service: &str, instance: u32, exit: Exit, seen_at: Instant) {
        // Order: first of all, so that no request is sent where nobody listens.
        self.registry.remove(service, instance);
        let removed_after_us = u64::try_from(seen_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let stable_after = self.settings.stable_after;
        let record = self.record(service, instance);
        let lived = record.started.map(|(at, _)| seen_at.saturating_duration_since(at)).unwrap_or_default();
        (record.pid, record.last_exit) = (None, Some(exit));
        tracing::info!(service, instance, %exit, removed_after_us, "exited and out of rotation");
        self.emit(service, instance, Kind::Exited { exit, after_ms: millis(lived) });
        let seen = self.instance(service, instance);
        if lived >= stable_after {
            seen.attempts = 0;
        }
        if matches!(seen.phase, Phase::Live { .. }) {
            seen.phase = Phase::Leaving { ending: Ending::Exit(exit) };
        }
    }

    /// Nothing of a life is left.
    pub(super) fn end(&mut self, service: &str, instance: u32, ending: Ending) {
        let seen = self.instance(service, instance);
        let ending = match &seen.phase {
            Phase::Stopping { cause: cause @ (Cause::Asked | Cause::Replaced | Cause::Surplus), .. } => {
                seen.was_ready &= *cause == Cause::Replaced;
                (seen.phase, seen.attempts) = (Phase::Idle, 0);
                self.record(service, instance).reason = None;
                tracing::info!(service, instance, "stopped");
                return self.emit(service, instance, Kind::Stopped);
            }
            Phase::Stopping { cause: Cause::Unhealthy { why }, .. } => Ending::Unhealthy { why: why.clone() },
            _ => ending,
        };
        seen.phase = Phase::Ended { ending: ending.clone() };
        let why = match &ending {
            Ending::Exit(exit) => exit.reason(),
            Ending::NotStarted { reason: why } | Ending::Unhealthy { why } => why.clone(),
        };
        let target = &self.desired.services[service];
        let again = restarts(&self.desired, service, target, &ending);
        let comes = again || waits(target.generation, &self.observed.services[service].instances[&instance]);
        self.record(service, instance).reason = match ending.is_success() {
            true => again.then(|| format!("{why}, but {EXPECTED_TO_RUN}")),
            false => Some(why.clone()),
        };
        if !ending.is_success() && !comes {
            tracing::warn!(service, instance, why, "failed");
            self.emit(service, instance, Kind::Failed { why });
        }
    }
}
