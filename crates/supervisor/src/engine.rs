//! The one loop that owns the state: takes in reports, commands and time, lets `reconcile` decide, acts, publishes.
//! It never waits for a process, a disk or a reader; lives and builds do.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kit::backoff::Backoff;
use kit::tasks::Tasks;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Build, Config, Drain, Prepare, Service};
use crate::environment::{Environment, passed};
use crate::event::Events;
use crate::handle::Command;
use crate::life::{News, Order};
use crate::link::Link;
use crate::logs;
use crate::reconcile::{Desired, Observed, ObservedInstance, next_deadline, reconcile, rollout};
use crate::status::{Exit, Snapshot, Wanted};
use crate::{Shim, builds, remains};

mod act;
mod adopt;
mod apply;
mod hear;
mod obey;
mod release;
#[cfg(test)]
mod tests;
mod view;

/// Limit: reports that wait for the loop; lives, builds and preparations wait for their turn.
const REPORTS_MAX: usize = 1024;

/// Limit: reports taken in before the loop decides again.
const REPORTS_AT_ONCE_MAX: usize = 64;

/// Limit: one decision may follow from another (an end, a delay); more often than this at once would be a defect.
const ROUNDS_MAX: usize = 8;

/// An instance that was started again this often in a row is in a crash loop.
const CRASH_LOOP_ATTEMPTS: u32 = 5;

/// Everything that happens outside the loop.
#[derive(Debug)]
pub(crate) enum Report {
    Life { service: Arc<str>, instance: u32, life: u64, news: News },
    BuildLine { build: Build, line: String },
    Built { build: Build, outcome: builds::Outcome },
    Prepared { service: String, result: Result<(), String> },
    Drained { service: String, instance: u32, life: u64 },
}

/// What comes in.
#[derive(Debug)]
pub(crate) struct Inbox {
    reports: mpsc::Receiver<Report>,
    commands: mpsc::Receiver<Command>,
}

/// What others see.
#[derive(Debug)]
pub(crate) struct Outward {
    pub(crate) events: Events,
    pub(crate) lines: broadcast::Sender<Arc<logs::Line>>,
    pub(crate) published: watch::Sender<Arc<Snapshot>>,
    /// Ends the loop and leaves what runs alone.
    pub(crate) leave: CancellationToken,
}

/// The state and the ways out.
#[derive(Debug)]
pub(crate) struct Engine {
    services: BTreeMap<String, Service>,
    releases: BTreeMap<String, release::Release>,
    /// Not declared any more; forgotten when their processes are gone.
    removed: BTreeSet<String>,
    desired: Desired,
    observed: Observed,
    /// What is shown of instances and needed to reach them; nothing is decided by it.
    records: BTreeMap<(String, u32), Record>,
    /// Of builds that run.
    cancels: BTreeMap<Build, Cancel>,
    life_last: u64,
    /// Whether it was said that limits do not hold.
    is_unlimited_told: bool,
    outward: Outward,
    registry: registry::Handle,
    prepare: mpsc::Sender<Prepare>,
    drain: mpsc::Sender<Drain>,
    reports: mpsc::Sender<Report>,
    /// Shims that were taken over at the start, until the loop begins.
    taken_over: Vec<Link>,
    tasks: Tasks,
    /// Ends waits for those outside when the loop ends.
    over: CancellationToken,
    settings: Settings,
}

/// The way to end a build that runs.
#[derive(Debug)]
struct Cancel {
    /// Under whose name it is shown and logged.
    service: String,
    token: CancellationToken,
}

#[derive(Debug)]
struct Settings {
    run_dir: PathBuf,
    shim: Shim,
    log_dir: PathBuf,
    log: logs::Limits,
    backoff: Backoff,
    stable_after: Duration,
    passed: Environment,
    /// What every process of ours is marked with, for the daemon after this one.
    run: OsString,
    open_files_soft: Option<u64>,
}

/// One instance, beside what [`Observed`] has of it.
#[derive(Debug, Default)]
struct Record {
    /// Which life the orders reach; older ones are ignored.
    life: u64,
    orders: Option<mpsc::Sender<Order>>,
    /// Where this life listens, whatever is declared by now.
    address: Option<SocketAddr>,
    pid: Option<u32>,
    started: Option<(Instant, Timestamp)>,
    retry_at: Option<Timestamp>,
    restarts: u32,
    last_exit: Option<Exit>,
    reason: Option<String>,
    /// Why nobody looks after it, while that is so.
    neglect: Option<String>,
    last_lines: Vec<String>,
}

impl Engine {
    pub(crate) fn new(config: Config, outward: Outward, commands: mpsc::Receiver<Command>) -> (Self, Inbox) {
        let (reports, reported) = mpsc::channel(REPORTS_MAX);
        let Config {
            services,
            log_dir,
            run_dir,
            adopted,
            before,
            shim,
            registry,
            prepare,
            drain,
            log,
            backoff,
            stable_after,
            builds_max,
            open_files_soft,
        } = config;
        let mut engine = Self {
            services: BTreeMap::new(),
            releases: BTreeMap::new(),
            removed: BTreeSet::new(),
            desired: Desired { builds_max, ..Desired::default() },
            observed: Observed::default(),
            records: BTreeMap::new(),
            cancels: BTreeMap::new(),
            life_last: 0,
            is_unlimited_told: false,
            outward,
            registry,
            prepare,
            drain,
            reports,
            taken_over: Vec::new(),
            tasks: Tasks::default(),
            over: CancellationToken::new(),
            settings: Settings {
                log_dir,
                log,
                backoff,
                stable_after,
                passed: passed(std::env::vars_os()),
                run: remains::mark(&run_dir),
                run_dir,
                shim,
                open_files_soft,
            },
        };
        for service in services {
            engine.declare(service);
        }
        engine.take_over(adopted, &before);
        engine.publish();
        (engine, Inbox { reports: reported, commands })
    }

    /// Runs until the drain has begun and everything is stopped and told, or until nothing more is to be done here.
    pub(crate) async fn run(mut self, inbox: Inbox, mut drain: kit::drain::Watch) {
        let Inbox { mut reports, commands } = inbox;
        let leave = self.outward.leave.clone();
        self.go_on();
        // Dropped when the drain begins: callers are refused from then on.
        let mut commands = Some(commands);
        loop {
            let deadline = self.act();
            self.publish();
            if commands.is_none() && self.is_settled() {
                break;
            }
            tokio::select! {
                biased;
                () = leave.cancelled() => {
                    self.cancels.values().for_each(|cancel| cancel.token.cancel());
                    break;
                }
                Some(report) = reports.recv() => {
                    self.hear(report);
                    for _ in 1..REPORTS_AT_ONCE_MAX {
                        let Ok(report) = reports.try_recv() else { break };
                        self.hear(report);
                    }
                }
                () = drain.started(), if commands.is_some() => {
                    commands = None;
                    self.want_nothing();
                }
                Some(command) = next(&mut commands) => self.obey(command),
                () = until(deadline) => {}
            }
        }
        self.over.cancel();
        // Nobody waits for the loop any more.
        drop(reports);
        self.tasks.finished().await;
    }

    /// Decides and acts until nothing is left to do at this moment; tells when to do so again without any report.
    fn act(&mut self) -> Option<Instant> {
        for _ in 0..ROUNDS_MAX {
            let now = Instant::now();
            rollout::note_progress(&self.desired, &mut self.observed, now);
            let actions = reconcile(&self.desired, &self.observed, now);
            if actions.is_empty() {
                self.forget();
                return next_deadline(&self.desired, &self.observed, now);
            }
            for action in actions {
                self.perform(action);
            }
        }
        Some(Instant::now())
    }

    /// Whether no process of an instance or a build is left.
    fn is_settled(&self) -> bool {
        let mut instances = self.observed.services.values().flat_map(|service| service.instances.values());
        !instances.any(|instance| instance.phase.is_alive()) && self.cancels.is_empty()
    }

    fn want_nothing(&mut self) {
        for target in self.desired.services.values_mut() {
            target.wanted = Wanted::Stopped;
        }
        let all: Vec<String> = self.services.keys().cloned().collect();
        for service in all {
            self.end_rollout(&service);
        }
    }

    fn instance(&mut self, service: &str, instance: u32) -> &mut ObservedInstance {
        let service = self.observed.services.get_mut(service).expect("only declared services are asked for");
        service.instances.get_mut(&instance).expect("only declared instances are asked for")
    }

    fn record(&mut self, service: &str, instance: u32) -> &mut Record {
        self.records.entry((service.to_owned(), instance)).or_default()
    }

    /// Where an instance listens; `None` for one that is not declared.
    fn address(&self, service: &str, instance: u32) -> Option<SocketAddr> {
        release::find(self.services.get(service)?, instance).map(|of| of.address)
    }

    /// The service under whose name a shared build is shown and logged.
    fn builder(&self, build: &Build) -> &str {
        let shares = |service: &&Service| service.build.as_ref() == Some(build);
        if let Some(cancel) = self.cancels.get(build) {
            return &cancel.service;
        }
        self.services.values().find(shares).map_or("", |service| &service.name)
    }
}

async fn next(commands: &mut Option<mpsc::Receiver<Command>>) -> Option<Command> {
    commands.as_mut()?.recv().await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
