//! What the API may do with a running application.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use manifest::Plan;
use supervisor::{InstanceState, ServiceStatus, Snapshot};
use tokio::sync::watch;

use crate::api::dto;
use crate::lower;

/// Handles to every engine. Plain data and no state of its own.
#[derive(Debug)]
pub struct Control {
    pub manifest: PathBuf,
    pub plan: Arc<Plan>,
    pub supervisor: supervisor::Handle,
    pub proxy: proxy::Handle,
    pub gateway: SocketAddr,
    pub started_at: Timestamp,
    pub down: watch::Sender<bool>,
    /// True once everything has stopped.
    pub drained: watch::Receiver<bool>,
}

impl Control {
    pub fn status(&self) -> dto::Status {
        dto::Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            application: self.plan.name.clone(),
            manifest: self.manifest.display().to_string(),
            gateway: format!("http://{}", self.gateway),
            started_at: self.started_at,
            uptime_seconds: Timestamp::now().duration_since(self.started_at).as_secs_f64(),
        }
    }

    pub fn gateway(&self) -> dto::Gateway {
        let counters = self.proxy.counters();
        dto::Gateway {
            address: format!("http://{}", self.gateway),
            routes: self.plan.routes.iter().map(|route| route.name.clone()).collect(),
            requests: counters.requests,
            active: counters.requests_active,
        }
    }

    /// Begins to stop everything; followers of the streams see how it goes.
    pub fn shut_down(&self) {
        self.down.send_replace(true);
    }

    /// Starts services and what they depend on.
    pub async fn start(&self, selection: dto::Selection) -> Result<(), dto::Problem> {
        self.check_plan(selection.plan.as_deref())?;
        let named = self.named(selection.services)?;
        self.supervisor.start(Some(named.clone())).await.map_err(|error| refused(&error))?;
        match selection.wait {
            false => Ok(()),
            true => self.reach(&named, is_up, Hope::UntilGivenUp, "is ready").await,
        }
    }

    /// Stops services and returns when they have stopped.
    pub async fn stop(&self, selection: dto::Selection) -> Result<(), dto::Problem> {
        let services = self.named(selection.services)?;
        self.supervisor.stop(services.clone()).await.map_err(|error| refused(&error))?;
        self.reach(&services, is_down, Hope::Always, "has stopped").await
    }

    /// Restarts services and returns when they are ready again.
    pub async fn restart(&self, selection: dto::Selection) -> Result<(), dto::Problem> {
        let services = self.named(selection.services)?;
        self.supervisor.restart(services.clone()).await.map_err(|error| refused(&error))?;
        self.reach(&services, is_renewed, Hope::UntilGivenUp, "is ready again").await
    }

    fn named(&self, services: Vec<String>) -> Result<Vec<String>, dto::Problem> {
        if services.is_empty() {
            return Ok(self.plan.services.keys().cloned().collect());
        }
        match services.iter().find(|name| !self.plan.services.contains_key(*name)) {
            None => Ok(services),
            Some(unknown) => {
                let known: Vec<&str> = self.plan.services.keys().map(String::as_str).collect();
                Err(dto::Problem {
                    title: "unknown service".into(),
                    status: 404,
                    detail: format!("there is no service `{unknown}` in what runs"),
                    hint: Some(format!(
                        "its services are {}; one that the manifest has got since needs `atoll down` and `atoll up`",
                        known.join(", ")
                    )),
                })
            }
        }
    }

    /// Refuses to go on with a manifest that is not the one that runs.
    fn check_plan(&self, plan: Option<&str>) -> Result<(), dto::Problem> {
        if plan.is_none_or(|plan| plan == self.plan.fingerprint()) {
            return Ok(());
        }
        Err(dto::Problem {
            title: "the manifest has changed".into(),
            status: 409,
            detail: "the manifest has changed since the application was started; what runs is left as it is".into(),
            hint: Some("`atoll down`, then `atoll up`, takes the change over".into()),
        })
    }

    /// Waits until each service satisfies `reached`; fails as soon as one cannot any more.
    async fn reach(
        &self,
        services: &[String],
        reached: fn(&ServiceStatus) -> bool,
        hope: Hope,
        goal: &str,
    ) -> Result<(), dto::Problem> {
        let mut snapshots = self.supervisor.watch();
        let mut drained = self.drained.clone();
        loop {
            let snapshot: Arc<Snapshot> = Arc::clone(&snapshots.borrow_and_update());
            let mut all = snapshot.services.iter().filter(|service| services.contains(&service.name));
            if all.clone().all(reached) {
                return Ok(());
            }
            if let (Hope::UntilGivenUp, Some(why)) = (hope, all.find_map(lower::given_up)) {
                return Err(unreached(why));
            }
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() {
                    return Err(unreached(format!("the application was stopped before every service {goal}")));
                },
                _ = drained.wait_for(|drained| *drained) => {
                    return Err(unreached(format!("the application was stopped before every service {goal}")));
                }
            }
        }
    }
}

/// Whether a service that has given up can still reach what is waited for.
#[derive(Clone, Copy)]
enum Hope {
    /// Every service can be stopped.
    Always,
    UntilGivenUp,
}

fn is_up(service: &ServiceStatus) -> bool {
    service.instances.iter().all(|instance| instance.ready || instance.state == InstanceState::Exited)
}

fn is_renewed(service: &ServiceStatus) -> bool {
    is_up(service) && service.instances.iter().all(|instance| instance.generation == service.generation)
}

fn is_down(service: &ServiceStatus) -> bool {
    service.instances.iter().all(|instance| {
        matches!(instance.state, InstanceState::Stopped | InstanceState::Exited | InstanceState::Failed)
    })
}

fn refused(error: &supervisor::Error) -> dto::Problem {
    let detail = kit::Chain(error).to_string();
    dto::Problem { title: "refused".into(), status: 409, detail, hint: None }
}

fn unreached(detail: String) -> dto::Problem {
    let hint = Some("`atoll ps` shows the state, `atoll logs` what the services wrote".to_owned());
    dto::Problem { title: "the state was not reached".into(), status: 424, detail, hint }
}
