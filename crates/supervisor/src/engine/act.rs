//! Performs actions: the only place where processes, builds and preparations are begun or told to end.
//! Each action is written back into what is observed, so that it is not decided again.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use registry::{Endpoint, State};
use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::adopt::revision;
use super::release::find;
use super::{CRASH_LOOP_ATTEMPTS, Cancel, Engine, Record, Report};
use crate::config::{Build, Drain, Instance, Prepare, Service};
use crate::environment::{Environment, LIFE, RUN, SERVICE};
use crate::event::Kind;
use crate::life::{self, Begin, ORDERS_MAX, Order, Reporter};
use crate::process::Spec;
use crate::reconcile::{Action, BuildState, Cause, Force, Health, Phase, Progress};
use crate::shim::wire::Identity;
use crate::{builds, environment};

/// Orders that a stop gives: to stop, and to be killed.
const ORDERS_OF_A_STOP: usize = 2;

impl Engine {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Build(build) => self.build(build),
            Action::CancelBuild(build) => {
                if let Some(cancel) = self.cancels.get(&build) {
                    cancel.token.cancel();
                }
                self.observed.builds.insert(build, BuildState::Cancelling);
            }
            Action::Prepare { service } => self.prepare(service),
            Action::Start { service, instance, generation } => self.start_life(&service, instance, generation),
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
            Action::Revert { service, instance, why } => self.revert(&service, instance, &why),
            Action::Halt { service, instance, why } => self.halt(&service, instance, &why),
            Action::Settle { service } => self.settle(&service),
        }
    }

    pub(super) fn emit(&self, service: &str, instance: u32, kind: Kind) {
        self.outward.events.emit(service, Some(instance), kind);
    }

    pub(super) fn set_endpoint(&mut self, service: &str, instance: u32, state: State) {
        if let Some(address) = self.record(service, instance).address {
            self.registry.set(service, Endpoint { instance, address, state });
        }
    }

    fn build(&mut self, build: Build) {
        let service = self.builder(&build).to_owned();
        let cancelled = CancellationToken::new();
        self.cancels.insert(build.clone(), Cancel { service: service.clone(), token: cancelled.clone() });
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

    fn start_life(&mut self, service: &str, instance: u32, generation: u64) {
        let declared = self.declaration(service, generation);
        // One that a former declaration does not have yet is as the present one says.
        let Some(of) = find(declared, instance).or_else(|| find(&self.services[service], instance)) else { return };
        let (revision, address) = (revision(declared, of), of.address);
        let seen = self.instance(service, instance);
        let is_restart = matches!(seen.phase, Phase::Backoff { .. }) && seen.generation == generation;
        (seen.phase, seen.generation) = (Phase::Live { health: Health::Spawning }, generation);
        seen.ready_at = None;
        let record = self.record(service, instance);
        record.restarts += u32::from(is_restart);
        let restarts = record.restarts;
        let (service, life) = (service.to_owned(), kit::ids::unique());
        self.begin_life(Identity { service, instance, life, revision, address, restarts }, Begin::Spawn);
    }

    /// Begins a life of the generation that the instance is seen to have, or goes on with one.
    pub(super) fn begin_life(&mut self, identity: Identity, begin: Begin) {
        let (service, instance, address) = (identity.service.clone(), identity.instance, identity.address);
        let generation = self.instance(&service, instance).generation;
        let declared = self.declaration(&service, generation);
        let Some(of) = find(declared, instance).or_else(|| find(&self.services[&service], instance)) else {
            return;
        };
        let mut environment = self.instance_environment(declared, of);
        environment.insert(LIFE.into(), identity.life.as_str().into());
        let plan = life::Plan {
            identity,
            spec: Spec {
                words: declared.command.clone(),
                working_dir: declared.working_dir.clone(),
                environment,
                open_files_soft: self.settings.open_files_soft,
            },
            probes: declared.probes.clone(),
            limits: declared.limits,
            run_dir: self.settings.run_dir.clone(),
            log_dir: self.settings.log_dir.clone(),
            log: self.settings.log,
            shim: self.settings.shim.clone(),
            followers: self.outward.lines.clone(),
            events: self.outward.events.clone(),
            leave: self.outward.leave.clone(),
            tasks: self.tasks.clone(),
        };
        self.life_last += 1;
        let life = self.life_last;
        let reporter = Reporter { service: service.as_str().into(), instance, life, reports: self.reports.clone() };
        let (orders, obeyed) = mpsc::channel(ORDERS_MAX);
        let record = self.record(&service, instance);
        (record.life, record.orders, record.retry_at) = (life, Some(orders), None);
        record.address = Some(address);
        self.tasks.spawn(life::run(plan, begin, obeyed, reporter));
    }

    fn stop_life(&mut self, service: &str, instance: u32, cause: Cause, force: Force) {
        let seen = self.instance(service, instance);
        let had_process = !matches!(seen.phase, Phase::Live { health: Health::Spawning });
        let why = match &cause {
            Cause::Asked => "asked to stop".to_owned(),
            Cause::Replaced => "replaced".to_owned(),
            Cause::Surplus => "not needed any more".to_owned(),
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
        let grace_period = self.services[service].stop_grace_period;
        let Record { life, address: Some(address), .. } = *self.record(service, instance) else {
            return;
        };
        let (reply, answer) = oneshot::channel();
        let request = Drain { service: service.to_owned(), instance, address, reply };
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

    /// Passes a signal on to every process of a service, as from outside: what follows is up to the restart policy.
    pub(super) fn signal(&mut self, service: &str, index: Option<u32>, signal: Signal) {
        let chosen = self.observed.services[service].instances.iter().filter(|(of, _)| index.is_none_or(|i| i == **of));
        let alive = chosen.filter(|(_, seen)| seen.phase.is_alive());
        let alive: Vec<u32> = alive.map(|(index, _)| *index).collect();
        for instance in alive {
            let record = self.record(service, instance);
            // Limit: what a stop needs must find its place, however many signals come.
            let has_room = |orders: &&mpsc::Sender<Order>| orders.capacity() > ORDERS_OF_A_STOP;
            let Some(orders) = record.orders.as_ref().filter(has_room) else { continue };
            if orders.try_send(Order::Signal(signal)).is_ok() {
                tracing::info!(service, instance, ?signal, "signalled");
                self.emit(service, instance, Kind::Signalled { signal: signal.as_raw() });
            }
        }
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
