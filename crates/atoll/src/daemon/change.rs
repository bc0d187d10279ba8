//! Takes a changed manifest over while everything runs: compiles, shows the difference, and tells each engine its part.
//! Nothing is touched unless all of it can be. Called by the API; one change at a time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use kit::Chain;
use manifest::{Plan, Severity};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::api::dto::{self, Problem};
use crate::daemon::Control;
use crate::lower;
use crate::project::{Claims, Loaded, Project, Variables, scale};

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
    pub plan: Arc<Plan>,
    /// Plans before it of which instances still run: their edges go on being served. Oldest first.
    pub retiring: Vec<Arc<Plan>>,
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
        self.go_over(&mut ground, environment, &wish.services).await
    }

    /// Wants another number of instances, until the manifest's own number changes.
    pub async fn scale(self: &Arc<Self>, wish: dto::Scale) -> Result<Vec<dto::Change>, Problem> {
        let control = Arc::clone(self);
        whole(self.tasks.spawn(async move { control.scale_now(&wish).await })).await
    }

    async fn scale_now(self: &Arc<Self>, wish: &dto::Scale) -> Result<Vec<dto::Change>, Problem> {
        let mut ground = self.ground.lock().await;
        let plan = self.plan();
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
        let environment = ground.environment.clone();
        let gone_over = self.go_over(&mut ground, environment, &names).await;
        if gone_over.is_err() {
            scale::store(&ground.project, &kept).map_err(unkept)?;
        }
        gone_over
    }

    async fn go_over(
        self: &Arc<Self>,
        ground: &mut Ground,
        environment: Variables,
        named: &[String],
    ) -> Result<Vec<dto::Change>, Problem> {
        let before = self.plan();
        let plan = Arc::new(self.compile(ground, &environment, &before)?);
        if let Some(unknown) = named.iter().find(|name| !plan.services.contains_key(*name)) {
            return Err(refused(format!("there is no service `{unknown}` in the manifest")));
        }
        let changes = lower::changes(&before, &plan);
        if plan.fingerprint() == before.fingerprint() {
            ground.environment = environment;
            // What was taken back is tried once more; nothing else differs.
            let applied = self.supervisor.apply(lower::services(&plan), BTreeSet::new()).await;
            return applied.map(|_| changes).map_err(|error| engine(&error));
        }
        // What cannot be served or run fails here, before anything has changed.
        let Served { retiring, .. } = self.served.borrow().clone();
        let retiring: Vec<Arc<Plan>> = retiring.into_iter().chain([Arc::clone(&before)]).collect();
        let snapshot = lower::snapshot(&plan, &retiring, &self.endpoints.clone().current());
        proxy::Tables::compile(&snapshot).map_err(|error| engine(&error))?;
        ground.project.store_ports(&plan).map_err(|error| refused(format!("cannot keep the port ledger: {error}")))?;
        if let Err(error) = self.switch(&plan, retiring, named).await {
            // What was served before goes on being served.
            let _ = ground.project.store_ports(&before);
            return Err(error);
        }
        ground.environment = environment;
        tracing::info!(changes = changes.len(), "went over to a changed manifest");
        for change in &changes {
            self.history.say("changed", change.to_string());
        }
        self.settle(plan);
        Ok(changes)
    }

    /// Lets the engines go over, or back where one of them refuses.
    async fn switch(&self, plan: &Arc<Plan>, retiring: Vec<Arc<Plan>>, named: &[String]) -> Result<(), Problem> {
        let present = self.served.borrow().clone();
        self.proxy.listen(&listeners(plan, &retiring)).map_err(|error| engine(&error))?;
        // Order: rules first, so that a service that goes is no longer sent requests, and one that comes has its
        // databases known when it is prepared.
        self.serve(Arc::clone(plan), retiring);
        let wanted = wanted(&present.plan, plan, named);
        if let Err(error) = self.supervisor.apply(lower::services(plan), wanted).await {
            let before = listeners(&present.plan, &present.retiring);
            self.serve(present.plan, present.retiring);
            if let Err(error) = self.proxy.listen(&before) {
                tracing::error!(error = %Chain(&error), "cannot go back to the listeners of before");
            }
            return Err(engine(&error));
        }
        Ok(())
    }

    /// `daemon::endpoints` carries it to the data plane.
    fn serve(&self, plan: Arc<Plan>, retiring: Vec<Arc<Plan>>) {
        self.served.send_replace(Served { plan, retiring });
    }

    fn compile(&self, ground: &mut Ground, environment: &Variables, before: &Plan) -> Result<Plan, Problem> {
        let ours: BTreeSet<u16> = before.ports.values().copied().chain([before.gateway.listen.port()]).collect();
        let Loaded { plan, diagnostics, .. } = ground.project.load_and_claim(environment, &ours, &mut ground.claims);
        plan.ok_or_else(|| {
            let errors: Vec<&str> =
                diagnostics.iter().filter(|d| d.severity == Severity::Error).map(|d| d.message.as_str()).collect();
            Problem {
                title: "the manifest is refused".into(),
                status: 409,
                detail: format!("the manifest is refused: {}; what runs is left as it is", errors.join("; ")),
                hint: Some("`atoll check` shows every mistake with its place".into()),
            }
        })
    }

    /// Closes what only the former plan needed, once nothing of that runs any more.
    fn settle(self: &Arc<Self>, plan: Arc<Plan>) {
        let control = Arc::clone(self);
        self.tasks.spawn(async move {
            if !control.all_renewed(&plan).await {
                return;
            }
            let mut ground = control.ground.lock().await;
            // A later change settles for itself.
            if !Arc::ptr_eq(&control.plan(), &plan) {
                return;
            }
            control.serve(Arc::clone(&plan), Vec::new());
            if let Err(error) = control.proxy.listen(&lower::listeners(&plan)) {
                tracing::warn!(error = %Chain(&error), "cannot close the listeners of the plan before");
            }
            let ports = plan.ports.values().copied().collect();
            ground.claims.keep(&ports);
        });
    }
}

/// Those of a plan, and what only plans before it have; of a listener that has moved, the newest address.
fn listeners(plan: &Plan, retiring: &[Arc<Plan>]) -> Vec<(String, SocketAddr)> {
    let mut all = lower::listeners(plan);
    for (name, address) in retiring.iter().rev().flat_map(|plan| lower::listeners(plan)) {
        if !all.iter().any(|(known, at)| *known == name || *at == address) {
            all.push((name, address));
        }
    }
    all
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
