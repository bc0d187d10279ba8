//! Takes a changed manifest over while everything runs: compiles, shows the difference, and tells each engine its part.
//! Nothing is touched unless all of it can be. Called by the API; one change at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use kit::Chain;
use manifest::{Plan, Severity, plan};
use supervisor::{Effect, Refused, Standing};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::api::dto::{self, Problem};
use crate::daemon::{Control, bus, dashboard, plane};
use crate::lower;
use crate::project::{Accepted, Claims, Credentials, Loaded, Project, RETIRING_MAX, Variables, scale};

/// What a change needs beside the engines. Held while one is made.
#[derive(Debug)]
pub struct Ground {
    pub project: Project,
    /// What the manifest's `${NAME}` expanded from last.
    pub environment: Variables,
    pub claims: Claims,
}

/// What is served now.
#[derive(Clone, Debug)]
pub struct Served {
    pub present: Accepted,
    /// Those before it of which instances still run: their edges go on being served. Oldest first.
    pub retiring: Vec<Accepted>,
    /// Services of which instances of those may still run: their rights are those of all plans.
    pub unsettled: BTreeSet<String>,
}

impl Served {
    /// What the data plane serves with these endpoints, and with the engine of events at its own.
    pub fn snapshot(&self, endpoints: &registry::Snapshot, events: SocketAddr) -> proxy::Snapshot {
        let retiring = self.retiring.iter().map(|retiring| &*retiring.plan);
        let mut snapshot = lower::snapshot(&self.present.plan, retiring, endpoints);
        let endpoint = proxy::Endpoint { instance: 0, address: events, state: proxy::State::Ready };
        snapshot.services.insert(plan::EVENTS.to_owned(), vec![endpoint]);
        snapshot
    }

    /// Listeners of the present plan, and what only those before it have; of one that has moved, the newest address.
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let mut all = lower::listeners(&self.present.plan);
        for (name, address) in self.retiring.iter().rev().flat_map(|retiring| lower::listeners(&retiring.plan)) {
            if !all.iter().any(|(known, at)| *known == name || *at == address) {
                all.push((name, address));
            }
        }
        all
    }

    /// What is served once the next is, and this is left to those who run by it.
    fn followed_by(self, next: Accepted, standing: &BTreeMap<String, Standing>, credentials: &Credentials) -> Self {
        let Self { present, mut retiring, .. } = self;
        retiring.push(present);
        if retiring.len() > RETIRING_MAX {
            tracing::warn!(
                "too many manifests are in use at once: what only the oldest declares is not served any more"
            );
            // Never one that a service may go back to, or has gone back to.
            let is_needed = |retiring: &Accepted| {
                let services = lower::services(&retiring.plan, credentials);
                services.iter().any(|service| standing.get(&service.name).is_some_and(|of| service.is_former(of)))
            };
            let oldest = retiring.iter().position(|retiring| !is_needed(retiring)).unwrap_or(0);
            retiring.remove(oldest);
        }
        Self::new(next, retiring)
    }

    /// With every service unsettled.
    pub fn new(present: Accepted, retiring: Vec<Accepted>) -> Self {
        let all = retiring.iter().flat_map(|retiring| retiring.plan.services.keys().cloned());
        let unsettled = all.collect();
        Self { present, retiring, unsettled }
    }
}

/// Wraps the ground, so that changes follow one another.
pub type Grounds = Mutex<Ground>;

impl Control {
    /// Compiles the manifest as it is on disk now and goes over to it. Gives the differences; none when there are none.
    pub async fn apply(self: &Arc<Self>, wish: dto::Apply) -> Result<Vec<dto::Change>, Problem> {
        let control = Arc::clone(self);
        whole(self.tasks.spawn(async move { control.apply_now(wish).await })).await
    }

    async fn apply_now(self: &Arc<Self>, wish: dto::Apply) -> Result<Vec<dto::Change>, Problem> {
        let mut ground = self.ground.lock().await;
        let environment = wish.environment.unwrap_or_else(|| ground.environment.clone());
        let before = self.plan();
        let ours = ours(&before);
        let loaded = {
            let Ground { project, claims, .. } = &mut *ground;
            project.load_and_claim(&environment, &ours, claims)
        };
        let changes = self.go_over(&mut ground, loaded, &wish.services, Refused::Retry).await?;
        ground.environment = environment;
        Ok(changes)
    }

    /// Wants another number of instances, until the manifest's own number changes.
    pub async fn scale(self: &Arc<Self>, wish: dto::Scale) -> Result<Vec<dto::Change>, Problem> {
        let control = Arc::clone(self);
        whole(self.tasks.spawn(async move { control.scale_now(&wish).await })).await
    }

    async fn scale_now(self: &Arc<Self>, wish: &dto::Scale) -> Result<Vec<dto::Change>, Problem> {
        let mut ground = self.ground.lock().await;
        let Accepted { plan, sources } = self.served.borrow().present.clone();
        let names: Vec<String> = wish.replicas.keys().cloned().collect();
        self.check_names(&names)?;
        let kept = scale::load(&ground.project);
        let mut scales = kept.clone();
        scales.retain(|name, scale| plan.services.get(name).is_some_and(|s| s.declared_replicas == scale.declared));
        for (name, replicas) in &wish.replicas {
            let declared = plan.services[name].declared_replicas;
            match *replicas == declared {
                true => scales.remove(name),
                false => scales.insert(name.clone(), manifest::Scale { replicas: *replicas, declared }),
            };
        }
        let unkept = |error: std::io::Error| refused(format!("the number cannot be kept: {error}"));
        scale::store(&ground.project, &scales).map_err(unkept)?;
        // What else has changed on disk is for `up` to take over.
        let loaded = {
            let Ground { project, claims, .. } = &mut *ground;
            project.rescale_and_claim(&sources, scales, &ours(&plan), claims)
        };
        let gone_over = self.go_over(&mut ground, loaded, &names, Refused::Keep).await;
        if gone_over.is_err() {
            scale::store(&ground.project, &kept).map_err(unkept)?;
        }
        gone_over
    }

    async fn go_over(
        self: &Arc<Self>,
        ground: &mut Ground,
        loaded: Loaded,
        named: &[String],
        refused_before: Refused,
    ) -> Result<Vec<dto::Change>, Problem> {
        let before = self.plan();
        let next = accept(loaded)?;
        let plan = Arc::clone(&next.plan);
        if let Some(unknown) = named.iter().find(|name| !plan.services.contains_key(*name)) {
            return Err(refused(format!("there is no service `{unknown}` in the manifest")));
        }
        let mut changes = lower::changes(&before, &plan);
        if plan.fingerprint() == before.fingerprint() {
            // What was taken back may be tried once more, and what the broker fell short of; nothing else differs.
            let served = self.served.borrow().clone();
            self.bus.go_over(&served).await.map_err(|error| Problem { hint: bus::hint(&error), ..engine(&error) })?;
            self.eventing.go_over(&served, &self.bus).map_err(|error| engine(&error))?;
            changes.extend(self.bus.refusals(&plan));
            let applied = self
                .supervisor
                .apply(lower::services(&plan, self.bus.credentials()), BTreeSet::new(), refused_before)
                .await;
            return applied.map(|_| changes).map_err(|error| engine(&error));
        }
        // What cannot be served or run fails here, before anything has changed.
        let standing = self.supervisor.snapshot().standing();
        let served = self.served.borrow().clone().followed_by(next, &standing, self.bus.credentials());
        let snapshot = served.snapshot(&self.endpoints.clone().current(), self.eventing.address());
        proxy::Tables::compile(&snapshot).map_err(|error| engine(&error))?;
        self.eventing.check(&served, &self.bus).map_err(|error| engine(&error))?;
        let kept = ground.project.store_ports(&plan.ports);
        kept.map_err(|error| refused(format!("cannot keep the port ledger: {error}")))?;
        let (told, lost) = match self.switch(served, named, refused_before).await {
            Ok(told) => told,
            Err(error) => {
                // What was served before goes on being served.
                let _ = ground.project.store_ports(&before.ports);
                return Err(error);
            }
        };
        tracing::info!(changes = changes.len(), "went over to a changed manifest");
        for change in changes.iter().filter(|change| !(change.of == "service" && told.contains(&change.name))) {
            self.history.say("changed", change.to_string());
        }
        changes.extend(self.bus.refusals(&plan));
        if !lost.is_empty() {
            let (of, name) = (bus::NAME.to_owned(), bus::NAME.to_owned());
            changes.push(dto::Change { of, name, verb: dto::Verb::Changed, details: lost });
        }
        self.settle(plan);
        Ok(changes)
    }

    /// Lets the engines go over, or back where one of them refuses. Gives the services of which the supervisor has told
    /// what becomes of them, and what is lost by it.
    async fn switch(
        &self,
        next: Served,
        named: &[String],
        refused: Refused,
    ) -> Result<(BTreeSet<String>, Vec<String>), Problem> {
        let before = self.served.borrow().clone();
        let plan = Arc::clone(&next.present.plan);
        let refused_port = |error: dashboard::Error| Problem { hint: error.hint(), ..engine(&error) };
        self.dashboard.listen(plan.dashboard.listen).map_err(refused_port)?;
        if let Err(error) = self.proxy.listen(&next.listeners()) {
            self.move_dashboard_back(&before.present.plan);
            return Err(engine(&error));
        }
        let lost = match self.bus.go_over(&next).await {
            Ok(lost) => lost,
            Err(error) => {
                let hint = bus::hint(&error);
                let listened = self.proxy.listen(&before.listeners());
                self.move_dashboard_back(&before.present.plan);
                if let Err(error) = listened {
                    tracing::error!(error = %Chain(&error), "cannot go back to the listeners of before");
                }
                return Err(Problem { hint, ..engine(&error) });
            }
        };
        // What cannot be was found out before anything changed.
        if let Err(error) = self.eventing.go_over(&next, &self.bus) {
            tracing::error!(error = %Chain(&error), "events go on as before");
        }
        // Order: rules first, so that a service that goes is no longer sent requests, and one that comes has its
        // databases known when it is prepared.
        self.served.send_replace(next);
        let wanted = wanted(&before.present.plan, &plan, named);
        match self.supervisor.apply(lower::services(&plan, self.bus.credentials()), wanted, refused).await {
            Ok(changes) => {
                if before.present.plan.gateway.limits != plan.gateway.limits {
                    self.proxy.limit(plane::affordable(&lower::limits(&plan), self.proxy.addresses().len())).await;
                }
                let told = changes.into_iter().filter(|change| change.effect != Effect::Unchanged);
                Ok((told.map(|change| change.service).collect(), lost))
            }
            Err(error) => {
                let listeners = before.listeners();
                self.move_dashboard_back(&before.present.plan);
                if let Err(error) = self.bus.go_over(&before).await {
                    tracing::error!(error = %Chain(&error), "cannot go back to the broker of before");
                }
                if let Err(error) = self.eventing.go_over(&before, &self.bus) {
                    tracing::error!(error = %Chain(&error), "cannot go back to the events of before");
                }
                self.served.send_replace(before);
                if let Err(error) = self.proxy.listen(&listeners) {
                    tracing::error!(error = %Chain(&error), "cannot go back to the listeners of before");
                }
                Err(engine(&error))
            }
        }
    }

    /// Delivers to services that were renewed as the present plan says.
    fn settle_events(&self, served: &Served) {
        if let Err(error) = self.eventing.go_over(served, &self.bus) {
            tracing::error!(error = %Chain(&error), "events go on as before");
        }
    }

    fn move_dashboard_back(&self, plan: &Plan) {
        if let Err(error) = self.dashboard.listen(plan.dashboard.listen) {
            tracing::error!(error = %Chain(&error), "cannot go back to the dashboard's address of before");
        }
    }

    /// Closes what only the former plan needed, once nothing of that runs any more.
    pub fn settle(self: &Arc<Self>, plan: Arc<Plan>) {
        let control = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut ground = loop {
                let known = control.served.borrow().unsettled.clone();
                let Some(left) = control.renewed(&plan, &known).await else { return };
                let ground = control.ground.lock().await;
                // A later change settles for itself.
                if !Arc::ptr_eq(&control.plan(), &plan) {
                    return;
                }
                if left.is_empty() {
                    break ground;
                }
                control.served.send_modify(|served| served.unsettled = left);
                let served = control.served.borrow().clone();
                if let Err(error) = control.bus.go_over(&served).await {
                    tracing::warn!(error = %Chain(&error), "rights of services that were renewed cannot be forgotten");
                }
                control.settle_events(&served);
            };
            control.served.send_modify(|served| {
                served.retiring.clear();
                served.unsettled.clear();
            });
            if let Err(error) = control.proxy.listen(&lower::listeners(&plan)) {
                tracing::warn!(error = %Chain(&error), "cannot close the listeners of the plan before");
            }
            let served = control.served.borrow().clone();
            if let Err(error) = control.bus.go_over(&served).await {
                tracing::warn!(error = %Chain(&error), "the broker's users of the plan before cannot be forgotten");
            }
            control.settle_events(&served);
            let ports = plan.ports.values().copied().collect();
            ground.claims.keep(&ports);
        });
    }
}

fn accept(loaded: Loaded) -> Result<Accepted, Problem> {
    let Loaded { sources, plan, diagnostics } = loaded;
    match plan {
        Some(plan) => Ok(Accepted { plan: plan.into(), sources: sources.into() }),
        None => {
            let errors: Vec<&str> =
                diagnostics.iter().filter(|d| d.severity == Severity::Error).map(|d| d.message.as_str()).collect();
            Err(Problem {
                title: "the manifest is refused".into(),
                status: 409,
                detail: format!("the manifest is refused: {}; what runs is left as it is", errors.join("; ")),
                hint: Some("`atoll check` shows every mistake with its place".into()),
            })
        }
    }
}

/// The ports on which this application listens itself.
fn ours(plan: &Plan) -> BTreeSet<u16> {
    let broker = plan.broker.iter().flat_map(|broker| [Some(broker.listen), broker.monitor]).flatten();
    let listens = [plan.gateway.listen, plan.dashboard.listen].into_iter().chain(broker);
    plan.ports.values().copied().chain(listens.map(|listen| listen.port())).collect()
}

/// A change is made to its end, also when whoever asked for it has left.
async fn whole<T>(change: JoinHandle<Result<T, Problem>>) -> Result<T, Problem> {
    change.await.unwrap_or_else(|_| Err(refused("the change was given up".into())))
}

/// New services are started: those that were named, or all. Which of the others run is as it was.
fn wanted(before: &Plan, after: &Plan, named: &[String]) -> BTreeSet<String> {
    let is_new = |name: &&String| !before.services.contains_key(*name);
    let is_named = |name: &&String| named.is_empty() || named.contains(name);
    after.services.keys().filter(is_new).filter(is_named).cloned().collect()
}

fn refused(detail: String) -> Problem {
    Problem { title: "refused".into(), status: 409, detail, hint: None }
}

fn engine(error: &(dyn std::error::Error + 'static)) -> Problem {
    refused(format!("{}; what runs is left as it is", Chain(error)))
}
