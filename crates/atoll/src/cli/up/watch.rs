//! Follows a start: three streams of the daemon and the user's Ctrl-C, in one loop.

use std::collections::HashSet;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::api::client::{Client, Error, Stream};
use crate::api::dto::{Event, Instance, Line, Selection, Service, Status};
use crate::cli::failure::is_closed_pipe;
use crate::cli::output::Format;
use crate::cli::up::files::{Changed, Files};
use crate::cli::up::launch::Launched;
use crate::cli::up::progress::Progress;
use crate::cli::{Failure, down, logs};
use crate::project::Project;

/// Once something has failed for good, how long the others may take to come up or fail as well, so that all is told at
/// once.
const OTHERS_MAX: Duration = Duration::from_secs(10);

/// Limit: replacements that go on for changed files; a change that finds no room is told.
const RENEWALS_MAX: usize = 64;

/// What comes of what has failed.
const GOES_ON: &str = "the rest goes on, and `atoll up` tries again what has failed";
const GOES_ON_TRYING: &str = "the rest goes on, and what keeps ending is tried again";
const TAKEN_BACK: &str = "what ran before goes on, and `atoll up` tries the release again";

/// When to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Never: the terminal shows the logs until Ctrl-C.
    Stay,
    /// Everything was started once.
    Started,
    /// Everything is ready, within this time.
    Ready(Duration),
}

impl Goal {
    fn is_met_by(self, instance: &Instance) -> bool {
        match self {
            Self::Stay => false,
            Self::Started => was_started(instance),
            Self::Ready(_) => is_done(instance),
        }
    }
}

/// Why the following ended.
#[derive(Debug)]
pub enum Outcome {
    Reached,
    /// Why, the end of what the failing program wrote, and what comes of it.
    Failed {
        what: String,
        output: Vec<String>,
        outlook: &'static str,
    },
    Interrupted,
    DaemonGone,
}

/// Ctrl-C, a polite kill, or a terminal that went away.
pub struct Interrupt {
    signals: [Signal; 3],
}

impl Interrupt {
    pub fn new() -> std::io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self { signals: [interrupt?, terminate?, hangup?] })
    }

    /// Returns at the next one, or at once when one has come already. Cancel safe.
    pub async fn received(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What is known of the start so far.
pub struct Watch {
    client: Client,
    services: Stream,
    events: Stream,
    logs: Stream,
    /// The services that this command is about.
    asked: HashSet<String>,
    latest: Vec<Service>,
    /// When those that have failed are told, whatever the others do.
    tell_at: Option<Instant>,
    progress: Progress,
    printer: logs::Printer,
    /// Replacements that were asked for because files have changed.
    renewals: JoinSet<Result<(), Error>>,
}

impl Watch {
    /// Opens the streams before anything is started, so that nothing is missed. What happened in the past of a daemon
    /// that ran already is left out.
    pub async fn open(
        client: &Client,
        asked: HashSet<String>,
        status: &Status,
        launched: Launched,
        format: Format,
    ) -> Result<Self, Error> {
        let new_only = launched == Launched::Elsewhere;
        Ok(Self {
            client: client.clone(),
            services: client.stream("/v1/watch").await?,
            events: client.stream(&format!("/v1/events?new_only={new_only}")).await?,
            logs: client.stream("/v1/logs").await?,
            asked,
            latest: Vec::new(),
            tell_at: None,
            progress: Progress::new(&status.application, &status.gateway, status.broker.as_deref()),
            printer: logs::Printer::new(format),
            renewals: JoinSet::new(),
        })
    }

    pub async fn follow(
        &mut self,
        goal: Goal,
        mut files: Option<Files>,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<Outcome> {
        let bound = if let Goal::Ready(bound) = goal { bound } else { Duration::from_secs(u64::from(u32::MAX)) };
        let deadline = Instant::now() + bound;
        loop {
            tokio::select! {
                services = self.services.next::<Vec<Service>>() => match services {
                    Ok(Some(services)) => {
                        self.latest = services;
                        if let Some(outcome) = self.judge(goal) {
                            return Ok(outcome);
                        }
                    }
                    _ => return Ok(Outcome::DaemonGone),
                },
                event = self.events.next::<Event>() => match event {
                    Ok(Some(event)) => self.progress.event(&event, goal),
                    _ => return Ok(Outcome::DaemonGone),
                },
                line = self.logs.next::<Line>() => match line {
                    Ok(Some(line)) if goal == Goal::Stay => {
                        let printer = &mut self.printer;
                        match self.progress.suspend(|| printer.print(&line)) {
                            // `atoll up | head`: whoever looked on has gone, as with a terminal that is closed.
                            Err(error) if is_closed_pipe(&error) => return Ok(Outcome::Interrupted),
                            printed => printed?,
                        }
                    }
                    Ok(Some(_)) => {}
                    _ => return Ok(Outcome::DaemonGone),
                },
                changed = changed(&mut files) => self.renew(&changed),
                Some(Ok(renewed)) = self.renewals.join_next() => self.judge_renewal(renewed),
                () = until(self.tell_at) => return Ok(self.failed()),
                () = sleep_until(deadline) => {
                    return Ok(Outcome::Failed { what: self.not_ready(bound), output: Vec::new(), outlook: GOES_ON });
                }
                () = interrupt.received() => {
                    self.progress.clear();
                    return Ok(Outcome::Interrupted);
                }
            }
        }
    }

    /// Looks at the services anew: what was seen so far was before they were asked to change.
    pub async fn look_again(&mut self) -> Result<(), Error> {
        self.services = self.client.stream("/v1/watch").await?;
        Ok(())
    }

    /// Prints a line for people.
    pub fn say(&self, line: &str) {
        self.progress.say(line);
    }

    /// Says why a replacement was not begun; how one goes that was begun is told by events.
    fn judge_renewal(&self, renewed: Result<(), Error>) {
        match renewed {
            Ok(()) => {}
            Err(Error::Refused { problem }) if problem.status == 424 => {}
            Err(error) => self.say(&format!("what has changed does not run: {}", kit::Chain(&error))),
        }
    }

    /// Has the daemon replace services whose files have changed.
    fn renew(&mut self, changed: &Changed) {
        if let Some(trouble) = &changed.trouble {
            self.say(&format!("not every change is seen any more: {trouble}"));
        }
        for (services, as_built) in [(&changed.rebuild, false), (&changed.restart, true)] {
            if services.is_empty() {
                continue;
            }
            let services: Vec<String> = services.iter().cloned().collect();
            self.say(&format!("files of {} have changed", services.join(", ")));
            let selection = Selection { services, wait: false, as_built };
            let client = self.client.clone();
            match self.renewals.len() {
                0..RENEWALS_MAX => {
                    self.renewals.spawn(async move { client.post("/v1/restart", &selection).await });
                }
                _ => self.say("what has changed does not run: too many replacements go on"),
            }
        }
    }

    /// Asks the daemon to stop everything; a second interrupt gives up waiting.
    pub async fn drain(&mut self, project: &Project, interrupt: &mut Interrupt) -> anyhow::Result<()> {
        self.progress.say("stopping; once more Ctrl-C returns at once while the stop goes on");
        // Order: the daemon has been told before anything can interrupt that; two signals often come at once.
        let end = match down::begin(project, "/v1/down").await {
            Ok(end) => end,
            Err(Error::NotRunning { .. }) => return Ok(()),
            Err(error) => return Err(Failure::from(error).into()),
        };
        tokio::select! {
            stopped = end => match stopped {
                // Somebody else was faster.
                Ok(()) | Err(Error::NotRunning { .. }) => {
                    self.progress.say("stopped");
                    Ok(())
                }
                Err(error) => Err(Failure::from(error).into()),
            },
            () = interrupt.received() => Err(Failure::not_reached("still stopping in the background").into()),
        }
    }

    /// Leaves an application alone that this command did not bring up.
    pub fn detach(&self, goal: Goal) -> anyhow::Result<()> {
        self.progress.say("the application was already running and goes on; `atoll down` stops it");
        match goal {
            Goal::Stay => Ok(()),
            Goal::Started | Goal::Ready(_) => Err(Failure::not_reached("interrupted").into()),
        }
    }

    /// Updates the picture, and says whether the goal is reached or out of reach.
    fn judge(&mut self, goal: Goal) -> Option<Outcome> {
        let asked: Vec<&Service> = selected(&self.latest, &self.asked).collect();
        if asked.is_empty() {
            return None;
        }
        let instances: Vec<&Instance> = asked.iter().flat_map(|service| &service.instances).collect();
        self.progress.services(&asked);
        let reached = match goal {
            Goal::Stay => return None,
            Goal::Started => instances.iter().all(|instance| goal.is_met_by(instance)),
            Goal::Ready(_) => asked.iter().all(|service| !service.updating && service.instances.iter().all(is_done)),
        };
        if asked.iter().all(|service| service.given_up.is_none()) {
            // What had given up may have found its way.
            self.tell_at = None;
            return reached.then_some(Outcome::Reached);
        }
        let is_settled =
            |service: &&Service| service.given_up.is_some() || service.instances.iter().all(|i| goal.is_met_by(i));
        if asked.iter().all(is_settled) {
            return Some(self.failed());
        }
        self.tell_at.get_or_insert_with(|| Instant::now() + OTHERS_MAX);
        None
    }

    /// Everything that has given up so far.
    fn failed(&self) -> Outcome {
        self.progress.clear();
        let given_up = || selected(&self.latest, &self.asked).filter(|service| service.given_up.is_some());
        let outlook = outlook(given_up());
        let mut failed: Vec<(String, Vec<String>)> =
            given_up().filter_map(|service| Some((service.given_up.clone()?, service.last_lines.clone()))).collect();
        if failed.len() == 1 {
            let (what, output) = failed.remove(0);
            return Outcome::Failed { what, output, outlook };
        }
        let what = format!("{} services do not come up", failed.len());
        let output = failed
            .into_iter()
            .flat_map(|(what, lines)| std::iter::once(what).chain(lines.into_iter().map(|line| format!("  {line}"))));
        Outcome::Failed { what, output: output.collect(), outlook }
    }

    fn not_ready(&self, bound: Duration) -> String {
        let late = selected(&self.latest, &self.asked)
            .flat_map(|service| &service.instances)
            .filter(|instance| !is_done(instance));
        let late: Vec<String> = late
            .map(|i| match &i.reason {
                Some(reason) => format!("{}.{} ({reason})", i.service, i.instance),
                None => format!("{}.{}", i.service, i.instance),
            })
            .collect();
        format!("not ready after {} s: {}", bound.as_secs(), late.join(", "))
    }
}

/// What comes of services that have given up.
fn outlook<'s>(mut given_up: impl Iterator<Item = &'s Service> + Clone) -> &'static str {
    let is_in =
        |service: &Service, states: &[&str]| service.instances.iter().any(|i| states.contains(&i.state.as_str()));
    if given_up.clone().any(|service| is_in(service, &["backoff", "crash_loop"])) {
        return GOES_ON_TRYING;
    }
    // Where nothing has failed that runs, a release was not taken up.
    if given_up.all(|service| !is_in(service, &["failed"])) { TAKEN_BACK } else { GOES_ON }
}

fn selected<'s>(services: &'s [Service], names: &HashSet<String>) -> impl Iterator<Item = &'s Service> + Clone {
    services.iter().filter(|service| service.wanted && names.contains(&service.service))
}

async fn changed(files: &mut Option<Files>) -> Changed {
    match files {
        Some(files) => files.changed().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Ready, or ended as it was meant to.
fn is_done(instance: &Instance) -> bool {
    instance.ready || instance.state == "exited"
}

/// Runs, or has run.
fn was_started(instance: &Instance) -> bool {
    instance.pid.is_some() || matches!(instance.state.as_str(), "exited" | "backoff" | "crash_loop" | "failed")
}
