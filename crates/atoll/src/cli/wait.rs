//! `atoll wait`: returns when services are as wished, or cannot become so.

use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::{Instant, timeout_at};

use crate::api::client::{Client, Error};
use crate::api::dto::{Instance, Service};
use crate::cli::output::{self, Format};
use crate::cli::target::{Target, Words};
use crate::cli::{Context, Failure, block_on};

/// Exit code 0 when every named service is there, 3 when one cannot get there or the time is over; the reason is printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll wait web\n  atoll wait --for=exited --timeout 60 seed")]
pub struct Wait {
    #[command(flatten)]
    words: Words,
    /// What to wait for
    #[arg(long = "for", value_enum, default_value = "ready", value_name = "STATE")]
    goal: Goal,
    /// How many seconds at most
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Goal {
    /// Every instance takes requests, or has done its work and exited with status 0
    Ready,
    /// No process of it runs
    Stopped,
    /// Every instance has done its work and exited with status 0
    Exited,
}

/// How far one service is.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    /// Why not yet.
    Waiting(String),
    /// Why not ever, as things stand.
    Hopeless(String),
}

impl Wait {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = self.words.target()?;
        let services = block_on(self.wait(&target))??;
        let instances: Vec<Instance> = services.into_iter().flat_map(|service| service.instances).collect();
        match context.format {
            Format::Json => output::json(&instances),
            Format::Table => {
                let what = match target.services.as_slice() {
                    [] => "every service".to_owned(),
                    named => named.join(", "),
                };
                Ok(writeln!(anstream::stderr(), "{what}: {}", self.goal.word())?)
            }
        }
    }

    async fn wait(&self, target: &Target) -> Result<Vec<Service>, Failure> {
        let mut stream = match Client::new(&target.project).stream("/v1/watch").await {
            Err(Error::NotRunning { .. }) if self.goal == Goal::Stopped => return self.nothing_runs(target),
            opened => opened?,
        };
        let deadline = Instant::now() + Duration::from_secs(u64::from(self.timeout));
        let mut waiting = Vec::new();
        loop {
            let Ok(next) = timeout_at(deadline, stream.next::<Vec<Service>>()).await else {
                let message = format!("not {} after {} s: {}", self.goal.word(), self.timeout, waiting.join("; "));
                return Err(self.unreached(message));
            };
            let mut services = match next {
                Ok(Some(services)) => services,
                Ok(None) | Err(Error::Broken { .. }) if self.goal == Goal::Stopped => return self.nothing_runs(target),
                Ok(None) | Err(Error::Broken { .. }) => {
                    return Err(self.unreached("the application was stopped".into()));
                }
                Err(error) => return Err(error.into()),
            };
            target.check_names(services.iter().map(|service| &service.service))?;
            services.retain(|service| target.services.is_empty() || target.services.contains(&service.service));
            waiting.clear();
            for service in &services {
                match judge(self.goal, service) {
                    Verdict::Reached => {}
                    Verdict::Waiting(why) => waiting.push(why),
                    Verdict::Hopeless(why) => return Err(self.unreached(why).output(service.last_lines.clone())),
                }
            }
            if waiting.is_empty() {
                return Ok(services);
            }
        }
    }

    /// Without a daemon every service is stopped, if there is such a service.
    fn nothing_runs(&self, target: &Target) -> Result<Vec<Service>, Failure> {
        let left = supervisor::left_running(&target.project.run());
        if left.iter().any(|service| target.services.is_empty() || target.services.contains(service)) {
            let message = "the daemon is gone, and its services go on without it".to_owned();
            return Err(
                Failure::not_reached(message).hint("`atoll up` takes them over, `atoll down` stops them".to_owned())
            );
        }
        match &target.project.load().plan {
            Some(plan) => target.check_names(plan.services.keys()).map(|()| Vec::new()),
            None => Ok(Vec::new()),
        }
    }

    fn unreached(&self, message: String) -> Failure {
        Failure::not_reached(message)
            .hint("`atoll ps` shows the state, `atoll logs` what the services wrote".to_owned())
    }
}

impl Goal {
    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Stopped => "stopped",
            Self::Exited => "exited",
        }
    }
}

fn judge(goal: Goal, service: &Service) -> Verdict {
    let is_there = |instance: &&Instance| match goal {
        Goal::Ready => instance.ready || instance.state == "exited",
        Goal::Stopped => matches!(instance.state.as_str(), "stopped" | "exited" | "failed"),
        Goal::Exited => instance.state == "exited",
    };
    let Some(late) = service.instances.iter().find(|instance| !is_there(instance)) else {
        return Verdict::Reached;
    };
    let name = &service.service;
    if goal != Goal::Stopped {
        if let Some(why) = &service.given_up {
            return Verdict::Hopeless(why.clone());
        }
        if !service.wanted {
            return Verdict::Hopeless(format!("{name} was not started: `atoll start {name}` does that"));
        }
    }
    Verdict::Waiting(match &late.reason {
        Some(reason) => format!("{name}.{} is {}: {reason}", late.instance, late.state),
        None => format!("{name}.{} is {}", late.instance, late.state),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(wanted: bool, given_up: Option<&str>, states: &[(&str, bool)]) -> Service {
        let instances = states.iter().enumerate().map(|(index, (state, ready))| Instance {
            service: "web".into(),
            instance: u32::try_from(index).expect("few"),
            pid: None,
            state: (*state).into(),
            ready: *ready,
            port: 1,
            restarts: 0,
            started_at: None,
            reason: None,
            last_lines: Vec::new(),
        });
        let given_up = given_up.map(str::to_owned);
        Service {
            service: "web".into(),
            wanted,
            updating: false,
            given_up,
            last_lines: Vec::new(),
            instances: instances.collect(),
        }
    }

    #[test]
    fn a_wish_is_fulfilled_waited_for_or_hopeless() {
        let (running, starting) = (("running", true), ("starting", false));
        for (goal, service, expected) in [
            (Goal::Ready, service(true, None, &[running, ("exited", false)]), "reached"),
            (Goal::Ready, service(true, None, &[running, starting]), "waiting"),
            (Goal::Ready, service(true, Some("it keeps ending"), &[running, ("crash_loop", false)]), "hopeless"),
            (Goal::Ready, service(false, None, &[("stopped", false)]), "hopeless"),
            (Goal::Stopped, service(false, None, &[("stopped", false), ("failed", false)]), "reached"),
            (Goal::Stopped, service(true, Some("it keeps ending"), &[("crash_loop", false)]), "waiting"),
            (Goal::Exited, service(true, None, &[("exited", false)]), "reached"),
            (Goal::Exited, service(true, None, &[running]), "waiting"),
            (Goal::Exited, service(true, Some("failed"), &[("failed", false)]), "hopeless"),
            (Goal::Exited, service(false, None, &[("stopped", false)]), "hopeless"),
        ] {
            let verdict = match judge(goal, &service) {
                Verdict::Reached => "reached",
                Verdict::Waiting(_) => "waiting",
                Verdict::Hopeless(_) => "hopeless",
            };
            assert_eq!(verdict, expected, "{goal:?} {service:?}");
        }
    }
}
