//! The one loop that owns the state: takes in reports, commands and time, lets `reconcile` decide, acts, publishes.
//! It never waits for a process, a disk or a reader; lives and builds do.

use std::collections::BTreeMap;
use std::ffi::OsString;
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
use crate::logs::capture::Sink;
use crate::logs::{self, store};
use crate::reconcile::{
    BuildState, Desired, Observed, ObservedInstance, ObservedService, Phase, Progress, Target, next_deadline, reconcile,
};
use crate::status::{Exit, Snapshot, Wanted};
use crate::{builds, leftovers};

mod act;
mod hear;
mod obey;
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
    lines: mpsc::Receiver<store::Entry>,
    running: watch::Receiver<Vec<leftovers::Record>>,
    state_file: PathBuf,
}

/// What others see.
#[derive(Debug)]
pub(crate) struct Outward {
    pub(crate) events: Events,
    pub(crate) lines: broadcast::Sender<Arc<logs::Line>>,
    pub(crate) published: watch::Sender<Arc<Snapshot>>,
}

/// The state and the ways out.
#[derive(Debug)]
pub(crate) struct Engine {
    services: BTreeMap<String, Service>,
    desired: Desired,
    observed: Observed,
    /// What is shown of instances and needed to reach them; nothing is decided by it.
    records: BTreeMap<(String, u32), Record>,
    /// Of builds that run.
    cancels: BTreeMap<Build, CancellationToken>,
    life_last: u64,
    outward: Outward,
    registry: registry::Handle,
    prepare: mpsc::Sender<Prepare>,
    drain: mpsc::Sender<Drain>,
    reports: mpsc::Sender<Report>,
    sink: Sink,
    running: watch::Sender<Vec<leftovers::Record>>,
    tasks: Tasks,
    /// Ends waits for those outside when the loop ends.
    over: CancellationToken,
    settings: Settings,
}

#[derive(Debug)]
struct Settings {
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
    running: Option<leftovers::Record>,
    pid: Option<u32>,
    started: Option<(Instant, Timestamp)>,
    retry_at: Option<Timestamp>,
    restarts: u32,
    last_exit: Option<Exit>,
    reason: Option<String>,
    last_lines: Vec<String>,
}

impl Engine {
    pub(crate) fn new(config: Config, outward: Outward, commands: mpsc::Receiver<Command>) -> (Self, Inbox) {
        let (reports, reported) = mpsc::channel(REPORTS_MAX);
        let (stored, lines) = mpsc::channel(store::LINES_MAX);
        let (running, kept) = watch::channel(Vec::new());
        let Config {
            services,
            log_dir,
            state_file,
            leftovers: _,
            registry,
            prepare,
            drain,
            log,
            backoff,
            stable_after,
            builds_max,
            open_files_soft,
        } = config;
        let (desired, observed) = initial(&services, builds_max);
        let keys =
            services.iter().flat_map(|service| service.instances.iter().map(|i| (service.name.clone(), i.index)));
        let engine = Self {
            records: keys.map(|key| (key, Record::default())).collect(),
            services: services.into_iter().map(|service| (service.name.clone(), service)).collect(),
            desired,
            observed,
            cancels: BTreeMap::new(),
            life_last: 0,
            sink: Sink { store: stored, followers: outward.lines.clone() },
            outward,
            registry,
            prepare,
            drain,
            reports,
            running,
            tasks: Tasks::default(),
            over: CancellationToken::new(),
            settings: Settings {
                log_dir,
                log,
                backoff,
                stable_after,
                passed: passed(std::env::vars_os()),
                run: leftovers::mark(&state_file),
                open_files_soft,
            },
        };
        engine.publish();
        (engine, Inbox { reports: reported, commands, lines, running: kept, state_file })
    }

    /// Runs until the drain has begun and everything is stopped, written and told.
    pub(crate) async fn run(mut self, inbox: Inbox, mut drain: kit::drain::Watch) {
        let Inbox { mut reports, commands, lines, running, state_file } = inbox;
        let writers = Tasks::default();
        let Settings { log_dir, log, .. } = &self.settings;
        writers.spawn(store::run(log_dir.clone(), *log, lines, self.outward.events.clone()));
        writers.spawn(leftovers::keep(state_file, running));
        // Dropped when the drain begins: callers are refused from then on.
        let mut commands = Some(commands);
        loop {
            self.act();
            self.publish();
            if commands.is_none() && self.is_settled() {
                break;
            }
            let deadline = next_deadline(&self.desired, &self.observed);
            tokio::select! {
                biased;
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
        self.tasks.finished().await;
        // The writers end when nobody can send to them any more, and then have written everything.
        drop(self);
        writers.finished().await;
    }

    /// Decides and acts until nothing is left to do at this moment.
    fn act(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let actions = reconcile(&self.desired, &self.observed, Instant::now());
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.perform(action);
            }
        }
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
    }

    fn instance(&mut self, service: &str, instance: u32) -> &mut ObservedInstance {
        let service = self.observed.services.get_mut(service).expect("only declared services are asked for");
        service.instances.get_mut(&instance).expect("only declared instances are asked for")
    }

    fn record(&mut self, service: &str, instance: u32) -> &mut Record {
        self.records.entry((service.to_owned(), instance)).or_default()
    }

    /// The service under whose name a shared build is shown and logged.
    fn builder(&self, build: &Build) -> &str {
        let shares = |service: &&Service| service.build.as_ref() == Some(build);
        self.services.values().find(shares).map_or("", |service| &service.name)
    }
}

fn initial(services: &[Service], builds_max: usize) -> (Desired, Observed) {
    let mut desired = Desired { builds_max, ..Desired::default() };
    let mut observed = Observed::default();
    for service in services {
        let target = Target {
            wanted: Wanted::Stopped,
            generation: 0,
            build: service.build.clone(),
            depends_on: service.depends_on.clone(),
            calls: service.calls.clone(),
            restart: service.restart,
            stop_grace_period: service.stop_grace_period,
        };
        desired.services.insert(service.name.clone(), target);
        if let Some(build) = &service.build {
            observed.builds.insert(build.clone(), BuildState::Needed);
        }
        let idle = ObservedInstance { phase: Phase::Idle, generation: 0, attempts: 0, was_ready: false };
        let instances = service.instances.iter().map(|instance| (instance.index, idle.clone())).collect();
        let seen = ObservedService { preparation: Progress::Done, instances };
        observed.services.insert(service.name.clone(), seen);
    }
    (desired, observed)
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
