//! Follows a start: three streams of the daemon and the user's Ctrl-C, in one loop.

use std::collections::HashSet;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::api::client::{Client, Error, Stream};
use crate::api::dto::{Event, Instance, Line, Service};
use crate::cli::up::progress::Progress;
use crate::cli::{Failure, down, logs};
use crate::project::Project;

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

/// Why the following ended.
#[derive(Debug)]
pub enum Outcome {
    Reached,
    /// Why, and the end of what the failing program wrote.
    Failed {
        what: String,
        output: Vec<String>,
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

    async fn received(&mut self) {
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
    services: Stream,
    events: Stream,
    logs: Stream,
    selected: HashSet<String>,
    latest: Vec<Service>,
    progress: Progress,
    printer: logs::Printer,
}

impl Watch {
    /// Opens the streams before anything is started, so that nothing is missed.
    pub async fn open(client: &Client, name: &str, selected: &[String], gateway: &str) -> Result<Self, Error> {
        Ok(Self {
            services: client.stream("/v1/watch").await?,
            events: client.stream("/v1/events").await?,
            logs: client.stream("/v1/logs").await?,
            selected: selected.iter().cloned().collect(),
            latest: Vec::new(),
            progress: Progress::new(name, gateway),
            printer: logs::Printer::new(),
        })
    }

    pub async fn follow(&mut self, goal: Goal, interrupt: &mut Interrupt) -> anyhow::Result<Outcome> {
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
                        self.progress.suspend(|| printer.print(&line))?;
                    }
                    Ok(Some(_)) => {}
                    _ => return Ok(Outcome::DaemonGone),
                },
                () = sleep_until(deadline) => {
                    return Ok(Outcome::Failed { what: self.not_ready(bound), output: Vec::new() });
                }
                () = interrupt.received() => {
                    self.progress.clear();
                    return Ok(Outcome::Interrupted);
                }
            }
        }
    }

    /// Asks the daemon to stop everything; a second interrupt gives up waiting.
    pub async fn drain(&mut self, project: &Project, interrupt: &mut Interrupt) -> anyhow::Result<()> {
        self.progress.say("stopping; once more Ctrl-C returns at once while the stop goes on");
        tokio::select! {
            stopped = down::stop(project) => match stopped {
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

    /// Updates the picture, and says whether the goal is reached or out of reach.
    fn judge(&mut self, goal: Goal) -> Option<Outcome> {
        let asked: Vec<&Service> = self.latest.iter().filter(|service| service.wanted).collect();
        if asked.is_empty() {
            return None;
        }
        let wanted = |service: &&&Service| self.selected.is_empty() || self.selected.contains(&service.service);
        let instances: Vec<&Instance> = asked.iter().flat_map(|service| &service.instances).collect();
        let settled = instances.iter().all(|instance| is_done(instance));
        self.progress.instances(&instances);
        let failed = asked.iter().filter(wanted).find_map(|service| failure(service));
        match (goal, failed) {
            (Goal::Stay, _) => None,
            (_, Some(failed)) => {
                self.progress.clear();
                Some(failed)
            }
            (Goal::Started, None) if instances.iter().all(|instance| was_started(instance)) => Some(Outcome::Reached),
            (Goal::Ready(_), None) if settled => Some(Outcome::Reached),
            (_, None) => None,
        }
    }

    fn not_ready(&self, bound: Duration) -> String {
        let instances = self.latest.iter().filter(|service| service.wanted).flat_map(|service| &service.instances);
        let late = instances.filter(|instance| !is_done(instance));
        let late: Vec<String> = late
            .map(|i| match &i.reason {
                Some(reason) => format!("{}.{} ({reason})", i.service, i.instance),
                None => format!("{}.{}", i.service, i.instance),
            })
            .collect();
        format!("not ready after {} s: {}", bound.as_secs(), late.join(", "))
    }
}

/// Ready, or ended as it was meant to.
fn is_done(instance: &Instance) -> bool {
    instance.ready || instance.state == "exited"
}

fn was_started(instance: &Instance) -> bool {
    instance.pid.is_some() || instance.started_at.is_some()
}

/// Why a service will not come up by itself.
fn failure(service: &Service) -> Option<Outcome> {
    if let Some(failure) = &service.failure {
        let what = format!("{}: {failure}", service.service);
        return Some(Outcome::Failed { what, output: service.last_lines.clone() });
    }
    let given_up = |instance: &&Instance| matches!(instance.state.as_str(), "failed" | "crash_loop");
    let instance = service.instances.iter().find(given_up)?;
    let reason = instance.reason.as_deref().unwrap_or("it keeps ending");
    let what = format!("{}.{}: {reason}", instance.service, instance.instance);
    Some(Outcome::Failed { what, output: instance.last_lines.clone() })
}
