//! What the API may do with a running application.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kit::tasks::Tasks;
use manifest::Plan;
use supervisor::{InstanceState, ServiceStatus, Snapshot};
use tokio::sync::watch;

use crate::api::dto;
use crate::daemon::End;
use crate::daemon::bus::Bus;
use crate::daemon::change::{Grounds, Served};
use crate::daemon::dashboard::Dashboard;
use crate::daemon::eventing::Eventing;
use crate::daemon::history::History;
use crate::daemon::switches::Switchboard;
use crate::lower;

/// How long an order waits for what it was to bring about, which goes on then; `atoll wait` may wait longer.
const REACH_MAX: Duration = Duration::from_secs(600);

/// Handles to every engine. Plain data and no state of its own.
#[derive(Debug)]
pub struct Control {
    pub manifest: PathBuf,
    pub served: watch::Sender<Served>,
    pub ground: Grounds,
    pub supervisor: supervisor::Handle,
    pub proxy: proxy::plane::Handle,
    pub switchboard: Switchboard,
    pub dashboard: Dashboard,
    pub bus: Bus,
    pub eventing: Arc<Eventing>,
    /// What is ready, to be cloned by whoever looks. No handle: that would keep the registry alive.
    pub endpoints: registry::Watcher,
    pub history: History,
    pub started_at: Timestamp,
    pub end: watch::Sender<Option<End>>,
    /// True once everything has stopped, or was left.
    pub drained: watch::Receiver<bool>,
    /// Everything that the daemon does beside its engines.
    pub tasks: Tasks,
}

impl Control {
    /// The plan that runs now. One request of the API looks at one.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.served.borrow().present.plan)
    }

    pub fn gateway_address(&self) -> SocketAddr {
        self.proxy.addresses().get(lower::GATEWAY).copied().unwrap_or_else(|| self.plan().gateway.listen)
    }

    pub fn status(&self) -> dto::Status {
        dto::Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            application: self.plan().name.clone(),
            manifest: self.manifest.display().to_string(),
            gateway: format!("http://{}", self.gateway_address()),
            dashboard: Some(format!("http://{}", self.dashboard.address())),
            broker: self.bus.open().map(|open| open.address()),
            access_log: self.plan().gateway.access_log,
            started_at: self.started_at,
            uptime_seconds: Timestamp::now().duration_since(self.started_at).as_secs_f64(),
            processes: self.processes(),
        }
    }

    pub fn gateway(&self) -> dto::Gateway {
        let counters = self.proxy.counters();
        dto::Gateway {
            address: format!("http://{}", self.gateway_address()),
            routes: self.plan().routes.iter().map(|route| route.name.clone()).collect(),
            requests: counters.requests,
            active: counters.requests_active,
        }
    }

    /// Begins to stop everything; followers of the streams see how it goes.
    pub fn shut_down(&self) {
        self.end.send_replace(Some(End::Stop));
    }

    /// Starts services and what they depend on.
    pub async fn start(&self, selection: dto::Selection) -> Result<(), dto::Problem> {
        // What has done its work does it once more only when it is named.
        let asked = Some(selection.services.clone()).filter(|services| !services.is_empty());
        let named = self.named(selection.services)?;
        self.supervisor.start(asked).await.map_err(|error| refused(&error))?;
        match selection.wait {
            false => Ok(()),
            true => self.reach(&named, is_up, Hope::UntilHopeless, "is ready").await,
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
        let asked = match selection.as_built {
            true => self.supervisor.replace(services.clone()).await,
            false => self.supervisor.restart(services.clone()).await,
        };
        asked.map_err(|error| refused(&error))?;
        self.reach(&services, is_renewed, Hope::UntilGivenUp, "is ready again").await
    }

    fn named(&self, services: Vec<String>) -> Result<Vec<String>, dto::Problem> {
        if services.is_empty() {
            return Ok(self.plan().services.keys().cloned().collect());
        }
        self.check_names(&services)?;
        Ok(services)
    }

    /// Refuses what is not a service of what runs.
    pub fn check_names(&self, names: &[String]) -> Result<(), dto::Problem> {
        names.iter().try_for_each(|name| self.check_service(name))
    }

    /// Waits until of other services than these something runs that was started for another plan, or of none, and gives
    /// them; `None` when the plan becomes another or everything is stopped before.
    pub async fn renewed(&self, plan: &Plan, known: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        let mut snapshots = self.supervisor.watch();
        let mut drained = self.drained.clone();
        let mut served = self.served.subscribe();
        // One that was taken back runs on what the plan before gave it.
        let is_new = |service: &ServiceStatus| {
            let is_old = |i: &supervisor::InstanceStatus| i.pid.is_some() && i.generation != service.generation;
            service.rollout.is_none() && service.reason.is_none() && !service.instances.iter().any(is_old)
        };
        let left = |snapshot: &Snapshot| -> BTreeSet<String> {
            let all = snapshot.services.iter();
            let left = all.filter(|service| !is_new(service) || !plan.services.contains_key(&service.name));
            left.map(|service| service.name.clone()).collect()
        };
        let has_moved = |snapshot: &Arc<Snapshot>| {
            let left = left(snapshot);
            left.is_empty() || left != *known
        };
        tokio::select! {
            moved = snapshots.wait_for(has_moved) => moved.ok().map(|snapshot| left(&snapshot)),
            // The next change settles for this one, too.
            _ = served.wait_for(|served| !std::ptr::eq(Arc::as_ptr(&served.present.plan), plan)) => None,
            _ = drained.wait_for(|drained| *drained) => None,
        }
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
        let mut late = std::pin::pin!(tokio::time::sleep(REACH_MAX));
        loop {
            let snapshot: Arc<Snapshot> = Arc::clone(&snapshots.borrow_and_update());
            let mut all = snapshot.services.iter().filter(|service| services.contains(&service.name));
            if all.clone().all(reached) {
                return Ok(());
            }
            let lost = match hope {
                Hope::Always => None,
                Hope::UntilHopeless => all.find_map(lower::hopeless),
                Hope::UntilGivenUp => all.find_map(lower::given_up),
            };
            if let Some(why) = lost {
                return Err(unreached(why));
            }
            tokio::select! {
                () = &mut late => {
                    return Err(unreached(format!("not every service {goal} after {} s", REACH_MAX.as_secs())));
                }
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
    /// One that runs another release than was asked for can still be ready.
    UntilHopeless,
    UntilGivenUp,
}

fn is_up(service: &ServiceStatus) -> bool {
    service.instances.iter().all(|instance| instance.ready || instance.state == InstanceState::Exited)
}

fn is_renewed(service: &ServiceStatus) -> bool {
    // A rollout that was taken back has its generation again, and says why.
    service.reason.is_none()
        && is_up(service)
        && service.instances.iter().all(|instance| instance.generation == service.generation)
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
