//! Performs actions: the only place where processes, builds and preparations are begun or told to end.
//! Each action is written back into what is observed, so that it is not decided again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use registry::{Endpoint, State};
use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{CRASH_LOOP_ATTEMPTS, Engine, Report};
use crate::config::{Build, Drain, Instance, Prepare, Service};
use crate::environment::{Environment, RUN, SERVICE};
use crate::event::Kind;
use crate::life::{self, ORDERS_MAX, Order, Reporter};
use crate::process::Spec;
use crate::reconcile::{Action, BuildState, Cause, Force, Health, Phase, Progress, is_prepared};
use crate::{builds, environment};

impl Engine {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Build(build) => self.build(build),
            Action::CancelBuild(build) => {
                if let Some(cancel) = self.cancels.get(&build) {
                    cancel.cancel();
                }
                self.observed.builds.insert(build, BuildState::Cancelling);
            }
            Action::Prepare { service } => self.prepare(service),
            Action::Start { service, instance } => self.start_life(&service, instance),
            Action::Stop { service, instance, cause, force } => self.stop_life(&service, instance, cause, force),
            Action::Signal { service, instance } => {
                let signal = Signal::from_named_raw(self.services[&service].stop_signal).expect("checked by bind");
                self.force(&service, instance, Force::Signal, Order::Stop(signal));
            }
            Action::Kill { service, instance } => {
                self.force(&service, instance, Force::Kill, Order::Kill);
                tracing::warn!(service, instance, "the grace period is over, killing");
                self.emit(&service, instance, Kind::Killed);
            }
            Action::Backoff { service, instance, attempt } => self.back_off(&service, instance, attempt),
        }
    }

    pub(super) fn emit(&self, service: &str, instance: u32, kind: Kind) {
        self.outward.events.emit(service, Some(instance), kind);
    }

    pub(super) fn set_endpoint(&self, service: &str, instance: u32, state: State) {
        let declared = self.services.get(service).and_then(|s| s.instances.iter().find(|i| i.index == instance));
        if let Some(declared) = declared {
            self.registry.set(service, Endpoint { instance, address: declared.address, state });
        }
    }

    fn build(&mut self, build: Build) {
        let service = self.builder(&build).to_owned();
        let cancelled = CancellationToken::new();
        self.cancels.insert(build.clone(), cancelled.clone());
        let spec = Spec {
            words: build.command.clone(),
            working_dir: build.working_dir.clone(),
            environment: self.build_environment(&service),
            open_files_soft: self.settings.open_files_soft,
        };
        let log_file = self.settings.log_dir.join(format!("build-{service}.log"));
        let reports = self.reports.clone();
        let command = build.shown.clone();
        tracing::info!(service, command, "build started");
        self.outward.events.emit(&service, None, Kind::BuildStarted { command });
        self.observed.builds.insert(build.clone(), BuildState::Running);
        let plan = builds::Plan { build, spec, log_file, log: self.settings.log, cancelled, reports };
        self.tasks.spawn(builds::run(plan));
    }

    fn prepare(&mut self, service: String) {
        if let Some(seen) = self.observed.services.get_mut(&service) {
            seen.preparation = Progress::Running;
        }
        let (prepare, reports, over) = (self.prepare.clone(), self.reports.clone(), self.over.clone());
        self.tasks.spawn(async move {
            let (reply, answer) = oneshot::channel();
            let ask = async {
                let request = Prepare { service: service.clone(), reply };
                prepare.send(request).await.map_err(|_| "nobody prepares services any more".to_owned())?;
                answer.await.unwrap_or_else(|_| Err("its preparation was given up".to_owned()))
            };
            // Order: at a drain nobody waits for the answer, which may take long.
            tokio::select! {
                () = over.cancelled() => {}
                result = ask => {
                    let _ = reports.send(Report::Prepared { service: service.clone(), result }).await;
                }
            }
        });
    }

    fn start_life(&mut self, service: &str, instance: u32) {
        let generation = self.desired.services[service].generation;
        let is_new = is_prepared(&self.desired, &self.observed, service);
        let seen = self.instance(service, instance);
        let is_restart = matches!(seen.phase, Phase::Backoff { .. });
        seen.phase = Phase::Live { health: Health::Spawning };
        // One that crashed during the build of its successor comes back as the old one, and is replaced later.
        if is_new {
            seen.generation = generation;
        }
        let declared = &self.services[service];
        let Some(of) = declared.instances.iter().find(|of| of.index == instance) else {
            return;
        };
        let name: Arc<str> = service.into();
        let plan = life::Plan {
            service: Arc::clone(&name),
            instance,
            address: of.address,
            spec: Spec {
                words: declared.command.clone(),
                working_dir: declared.working_dir.clone(),
                environment: self.instance_environment(declared, of),
                open_files_soft: self.settings.open_files_soft,
            },
            probes: declared.probes.clone(),
            log: self.settings.log,
            sink: self.sink.clone(),
            tasks: self.tasks.clone(),
        };
        self.life_last += 1;
        let reporter = Reporter { service: name, instance, life: self.life_last, reports: self.reports.clone() };
        let (orders, obeyed) = mpsc::channel(ORDERS_MAX);
        let life = self.life_last;
        let record = self.record(service, instance);
        (record.life, record.orders, record.retry_at) = (life, Some(orders), None);
        record.restarts += u32::from(is_restart);
        self.tasks.spawn(life::run(plan, obeyed, reporter));
    }

    fn stop_life(&mut self, service: &str, instance: u32, cause: Cause, force: Force) {
        let seen = self.instance(service, instance);
        let had_process = !matches!(seen.phase, Phase::Live { health: Health::Spawning });
        let why = match &cause {
            Cause::Asked => "asked to stop".to_owned(),
            Cause::Replaced => "asked to restart".to_owned(),
            Cause::Unhealthy { why } => why.clone(),
        };
        seen.phase = Phase::Stopping { since: Instant::now(), cause, force };
        // Order: out of rotation before the question and the signal, so that no request is sent to one that has stopped
        // listening.
        if had_process {
            self.set_endpoint(service, instance, State::Draining);
        }
        if force == Force::Drain {
            self.drain(service, instance);
        }
        tracing::info!(service, instance, why, "stopping");
        self.emit(service, instance, Kind::Stopping { why });
    }

    /// Asks when no request is in flight any more, for as long as the stop waits for that.
    fn drain(&mut self, service: &str, instance: u32) {
        let declared = &self.services[service];
        let Some(of) = declared.instances.iter().find(|of| of.index == instance) else {
            return;
        };
        let (reply, answer) = oneshot::channel();
        let request = Drain { service: service.to_owned(), instance, address: of.address, reply };
        let grace_period = declared.stop_grace_period;
        let life = self.record(service, instance).life;
        let report = Report::Drained { service: service.to_owned(), instance, life };
        let (drain, reports, over) = (self.drain.clone(), self.reports.clone(), self.over.clone());
        self.tasks.spawn(async move {
            let ask = async {
                // Who cannot be asked, or gives the question up, knows of no request: both are an answer.
                if drain.send(request).await.is_ok() {
                    let _ = answer.await;
                }
            };
            tokio::select! {
                () = over.cancelled() => {}
                // Late or not, the wait is over.
                _ = timeout(grace_period, ask) => {
                    let _ = reports.send(report).await;
                }
            }
        });
    }

    /// Goes one step further in a stop.
    fn force(&mut self, service: &str, instance: u32, force: Force, order: Order) {
        if let Phase::Stopping { since, force: before, .. } = &mut self.instance(service, instance).phase {
            (*since, *before) = (Instant::now(), force);
        }
        self.order(service, instance, order);
    }

    fn back_off(&mut self, service: &str, instance: u32, attempt: u32) {
        let delay = self.settings.backoff.delay(attempt, fastrand::f64());
        let seen = self.instance(service, instance);
        seen.phase = Phase::Backoff { until: Instant::now() + delay, attempt };
        seen.attempts = attempt.saturating_add(1);
        let attempt = seen.attempts;
        let record = self.record(service, instance);
        record.retry_at = Timestamp::now().checked_add(delay).ok();
        let last_lines = record.last_lines.clone();
        if attempt == CRASH_LOOP_ATTEMPTS {
            tracing::warn!(service, instance, attempt, "crash loop");
            self.emit(service, instance, Kind::CrashLoop { attempt, last_lines });
        }
        let in_ms = millis(delay);
        tracing::info!(service, instance, in_ms, attempt, "restarting");
        self.emit(service, instance, Kind::Restarting { in_ms, attempt });
    }

    /// A build is the developer's own command: it needs their toolchain, proxies and credentials.
    fn build_environment(&self, service: &str) -> Environment {
        let mut environment: Environment = std::env::vars_os().collect();
        environment.insert(SERVICE.into(), service.into());
        environment.insert(RUN.into(), self.settings.run.clone());
        environment
    }

    fn instance_environment(&self, service: &Service, instance: &Instance) -> Environment {
        let declared = [&service.environment, &instance.environment];
        let mut environment = environment::complete(&self.settings.passed, &declared);
        environment.insert(RUN.into(), self.settings.run.clone());
        environment
    }

    fn order(&mut self, service: &str, instance: u32, order: Order) {
        if let Some(orders) = &self.record(service, instance).orders {
            // A closed channel means that the life is over; its last report is on its way. It is never full.
            let _ = orders.try_send(order);
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
