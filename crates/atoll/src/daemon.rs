//! The process that runs an application: binds every engine, joins them, and drains them in order.
//! What an engine does is its own affair; who talks to whom is decided here.

mod bus;
mod change;
mod control;
pub mod dashboard;
mod databases;
mod drains;
mod edges;
mod endpoints;
mod eventing;
pub mod history;
mod instances;
mod log;
pub mod plane;
mod record;
mod streams;
mod switches;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use kit::{Chain, drain, readiness, socket};
use manifest::Severity;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use crate::api::{dto, server};
use crate::lower;
use crate::project::{self, Accepted, Claims, Credentials, Loaded, Project, Record};
use record::Succession;
use switches::Switchboard;

use bus::Bus;
pub use control::Control;
use dashboard::Dashboard;
use history::History;

/// How long followers of the API may take, once everything has stopped.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);
/// This very program, also once its file was replaced by a newer one.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Worker threads of the control plane; the data plane has its own, one a core.
const THREADS: usize = 2;
/// Where the engine of events is while it is not bound.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
/// Instances that wait for the end of their requests.
const DRAINS_MAX: usize = 64;
/// Services whose databases wait to be prepared.
const PREPARES_MAX: usize = 64;

/// Runs the application of `manifest` until it is told to stop, and tells its parent on stdout how the start went.
pub fn main(manifest: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let result = runtime.block_on(start_and_run(manifest));
    // Blocking work that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "the daemon ends");
    }
    result
}

async fn start_and_run(manifest: &Path) -> anyhow::Result<()> {
    match Daemon::start(manifest).await {
        Ok(daemon) => {
            tell_parent(&dto::Started::Listening { changes: daemon.changes.clone() });
            daemon.run().await
        }
        Err(error) if is_locked(&error) => {
            tell_parent(&dto::Started::Locked);
            Err(error)
        }
        Err(error) => {
            let hint = hint(&error);
            let causes = error.chain().skip(1).map(ToString::to_string).collect();
            tell_parent(&dto::Started::Failed { message: error.to_string(), causes, hint });
            Err(error)
        }
    }
}

/// Writes the one line that the parent waits for, and lets go of the pipe.
fn tell_parent(started: &dto::Started) {
    let line = serde_json::to_string(started).unwrap_or_default();
    let mut stdout = io::stdout().lock();
    // A parent that is gone does not want to know.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if let Ok(nothing) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(nothing);
    }
}

fn is_locked(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(project::Error::Locked))
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(project) = cause.downcast_ref::<project::Error>() {
            return project.hint();
        }
        if let Some(dashboard) = cause.downcast_ref::<dashboard::Error>() {
            return dashboard.hint();
        }
        if let Some(broker) = cause.downcast_ref::<bus::Error>() {
            return bus::hint(broker);
        }
        let proxy::Error::Listen { listener, address, source } = cause.downcast_ref()? else { return None };
        unlistenable(listener, *address, source.kind())
    })
}

/// What to do about an address that cannot be listened on.
fn unlistenable(listener: &str, address: SocketAddr, why: io::ErrorKind) -> Option<String> {
    match why {
        io::ErrorKind::AddrInUse => {}
        io::ErrorKind::AddrNotAvailable => {
            return Some(format!(
                "this machine has no address {}: write one of its own, or 0.0.0.0 for all of them",
                address.ip()
            ));
        }
        io::ErrorKind::PermissionDenied => {
            return Some(format!("ports below 1024 are for root: write a higher one than {}", address.port()));
        }
        _ => return None,
    }
    let holder = supervisor::port_holder(address).unwrap_or_else(|| "another program".to_owned());
    Some(match listener {
        lower::GATEWAY | dashboard::NAME | bus::NAME => {
            format!("{holder} has it: stop that, or write another `listen` under [{listener}]")
        }
        _ => format!("{holder} took it just now: `atoll up` once more chooses another one"),
    })
}

/// Every engine bound, none running.
struct Daemon {
    project: Project,
    control: Arc<Control>,
    registry: registry::Handle,
    proxy: proxy::plane::Bound,
    supervisor: supervisor::Bound,
    eventing: eventing::Bound,
    /// A broker that ended by itself.
    bus_losses: mpsc::Receiver<anyhow::Error>,
    api: UnixListener,
    prepares: mpsc::Receiver<supervisor::Prepare>,
    drains: mpsc::Receiver<supervisor::Drain>,
    ends: watch::Receiver<Option<End>>,
    drained: watch::Sender<bool>,
    history: history::Writer,
    /// Between what the daemon before served and what this one does.
    changes: Vec<dto::Change>,
    /// Held until the process ends: one daemon a folder.
    lock: std::fs::File,
}

/// How a daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With everything that it runs.
    Stop,
    /// Alone: data plane and instances go on, and the next daemon takes them over.
    Leave,
}

/// What the engines tell each other through the daemon.
struct Between {
    registry: registry::Handle,
    prepare: mpsc::Sender<supervisor::Prepare>,
    drain: mpsc::Sender<supervisor::Drain>,
}

/// What a former daemon has left.
struct Estate {
    instances: supervisor::Adopted,
    planes: proxy::plane::Adopted,
    /// The ports on which that listens.
    ours: BTreeSet<u16>,
    record: Record,
}

impl Estate {
    async fn find(project: &Project) -> anyhow::Result<Self> {
        let run = project.run();
        let (instances, planes) = tokio::join!(supervisor::adopt(&run), proxy::plane::adopt(&run));
        let ours = &instances.ports() | &planes.ports();
        if !ours.is_empty() && project.load_ports().is_empty() {
            // What goes on must find its ports again.
            let seen = lower::ledger(&instances.addresses(), &planes.listeners());
            project.store_ports(&seen).context("cannot keep the port ledger")?;
        }
        // Also when nothing runs: whoever stops everything removes it, so that was done by nobody.
        Ok(Self { instances, planes, ours, record: Record::load(project) })
    }
}

/// Opens the application's folder for this daemon alone. Gives files of state that were damaged and set aside.
fn enter(manifest: &Path) -> anyhow::Result<(Project, std::fs::File, Vec<String>)> {
    let project = Project::find(Some(manifest), None)?;
    project.make_folders()?;
    let lock = project.lock()?;
    project.check_format()?;
    log::begin(project.daemon_log());
    let damages = project.set_damaged_aside();
    Ok((project, lock, damages))
}

impl Daemon {
    async fn start(manifest: &Path) -> anyhow::Result<Self> {
        let (project, lock, damages) = enter(manifest)?;
        // Before the ports are chosen: what a former daemon left keeps its own, or gives them back.
        let Estate { instances, planes, ours, record } = Estate::find(&project).await?;
        let (environment, mut claims) = (project::process(), Claims::default());
        let present = accepted(project.load_and_claim(&environment, &ours, &mut claims))?;
        project.store_ports(&present.plan.ports).context("cannot keep the port ledger")?;
        let credentials = Credentials::load_or_make(&project).context("cannot keep the broker's credentials")?;
        let Succession { served, before, mut changes } = record::succeed(record, present, &credentials);
        let plan = Arc::clone(&served.present.plan);

        let (open_files_soft, registry) = (raise_open_files(), registry::Handle::default());
        // What the data plane cannot serve must fail here, and not be 404 for ever.
        proxy::Tables::compile(&served.snapshot(&registry.snapshot(), NOWHERE))?;
        let lost = planes.lost().to_vec();
        let proxy = proxy::plane::bind(plane::config(&project, served.listeners(), &lower::limits(&plan)), planes)?;
        let dashboard = Dashboard::bind(plan.dashboard.listen)?;
        let ((history, history_writer), tasks) = (history::begin(), kit::tasks::Tasks::default());
        let services = lower::services(&plan, &credentials);
        // Order: services find their streams when they start.
        let (bus, bus_losses) = Bus::open_for(&served, &project, credentials, history.clone(), tasks.clone()).await?;
        let (eventing, eventing_bound) = eventing::bind(&served, &bus)?;
        let eventing = Arc::new(eventing);
        let (prepare, prepares) = mpsc::channel(PREPARES_MAX);
        let (drain, drains) = mpsc::channel(DRAINS_MAX);
        let between = Between { registry: registry.clone(), prepare, drain };
        let supervisor =
            supervisor::bind(supervise(&project, services, (instances, before), open_files_soft, between))?;
        // Order: once the registry has what was taken over, so that a data plane that serves goes on serving all of it.
        proxy.handle().apply(served.snapshot(&registry.snapshot(), eventing.address()))?;
        let switchboard = Switchboard::load(&project);
        proxy.handle().switch(switchboard.switches());
        let api = listen(&project).context("cannot open the daemon's socket")?;

        let (end, ends) = watch::channel(None);
        let (drained, drained_receiver) = watch::channel(false);
        tell_past(&history, damages, &lost, &changes);
        changes.extend(bus.refusals(&plan));
        let ground = change::Ground { project: project.clone(), environment, claims };
        let control = Arc::new(Control {
            manifest: project.manifest.clone(),
            served: watch::Sender::new(served),
            ground: ground.into(),
            supervisor: supervisor.handle(),
            proxy: proxy.handle(),
            switchboard,
            dashboard,
            bus,
            eventing,
            endpoints: registry.watch(),
            history,
            started_at: Timestamp::now(),
            end,
            drained: drained_receiver,
            tasks,
        });
        Ok(Self {
            project,
            control,
            registry,
            proxy,
            supervisor,
            eventing: eventing_bound,
            bus_losses,
            api,
            prepares,
            drains,
            ends,
            drained,
            history: history_writer,
            changes,
            lock,
        })
    }

    async fn run(self) -> anyhow::Result<()> {
        let Self {
            project,
            control,
            registry,
            proxy,
            supervisor,
            eventing,
            mut bus_losses,
            api,
            prepares,
            drains,
            ends,
            drained,
            history,
            changes: _,
            lock,
        } = self;
        let tasks = control.tasks.clone();
        let (supervisor_drain, supervisor_watch) = drain::channel();
        let (proxy_drain, proxy_watch) = drain::channel();
        // Readiness of the engines: their sockets are open since `start`, and the parent was told then.
        let mut proxy = tasks.spawn(proxy.run(readiness::channel().0, proxy_watch));
        let mut supervisor = tasks.spawn(supervisor.run(readiness::channel().0, supervisor_watch));
        let mut events = EventEngines::run(&control, eventing);
        tasks.spawn(endpoints::run(Arc::clone(&control), registry.watch()));
        attend(&control, &project, prepares, drains);
        tasks.spawn(history.run(project.logs(), control.supervisor.clone(), control.drained.clone()));
        tasks.spawn(serve_api(api, Arc::clone(&control)));

        let (end, lost) = tokio::select! {
            (end, why) = asked_to_end(ends) => {
                say_ending(&control, end, why);
                (end, None)
            }
            () = project.taken_away(&lock) => {
                say_ending(&control, End::Stop, "its folder was taken away");
                (End::Stop, None)
            }
            result = &mut supervisor => (End::Stop, Some(engine_lost("supervisor", result))),
            result = &mut proxy => (End::Stop, Some(engine_lost("proxy", result))),
            lost = events.lost() => (End::Stop, Some(lost)),
            Some(error) = bus_losses.recv() => (End::Stop, Some(error)),
        };
        if end == End::Leave {
            control.supervisor.leave();
            control.proxy.leave().await;
        }
        // Order: nothing is delivered to services that are about to stop; they may publish until they have.
        control.eventing.rest(&control.served.borrow().clone(), &control.bus);
        finish("supervisor", supervisor, (end, supervisor_drain)).await;
        if lost.is_some() {
            // A supervisor that panicked has stopped nothing.
            supervisor::stop_all(supervisor::adopt(&project.run()).await).await;
        }
        // Order: what services have published and written by now is taken; an engine that goes on has its own end.
        events.end().await;
        // It ends within the bound that it was given.
        finish("proxy", proxy, (end, proxy_drain)).await;
        // Order: services publish until they have stopped. Those that go on connect again to the next daemon's.
        control.bus.end().await;
        say_ended(&control, end, lost.as_ref());
        drained.send_replace(true);
        drop((registry, control));
        // Followers of the API read their last lines.
        if tokio::time::timeout(LAST_WORDS_MAX, tasks.finished()).await.is_err() {
            tracing::debug!("a follower of the API did not end in time");
        }
        forget(&project, end);
        match lost {
            None => Ok(()),
            Some(error) => {
                tracing::error!(error = format!("{error:#}"), "an engine was lost");
                std::process::exit(i32::from(crate::EXIT_BUG));
            }
        }
    }
}

/// The engines of events and outboxes while they run.
struct EventEngines {
    running: JoinHandle<Result<(), events::Error>>,
    relaying: JoinHandle<()>,
    /// Takes what is relayed to the other engine.
    publishing: JoinHandle<()>,
    drain: drain::Trigger,
    relay_drain: drain::Trigger,
}

impl EventEngines {
    fn run(control: &Arc<Control>, bound: eventing::Bound) -> Self {
        let eventing::Bound { events, outboxes, relays } = bound;
        let (drain, watch) = drain::channel();
        let (relay_drain, relay_watch) = drain::channel();
        let tasks = &control.tasks;
        let eventing = Arc::clone(&control.eventing);
        Self {
            publishing: tasks.spawn(async move { eventing.publish(relays).await }),
            running: tasks.spawn(events.run(readiness::channel().0, watch)),
            relaying: tasks.spawn(outboxes.run(readiness::channel().0, relay_watch)),
            drain,
            relay_drain,
        }
    }

    /// Waits for an end that nobody has asked for. Cancel safe.
    async fn lost(&mut self) -> anyhow::Error {
        let relay = |result: Result<(), JoinError>| engine_lost("outbox", result.map(Ok::<_, events::Error>));
        tokio::select! {
            result = &mut self.running => engine_lost("events", result),
            result = &mut self.relaying => relay(result),
            result = &mut self.publishing => relay(result),
        }
    }

    /// Each of the two ends within the bound that it was given. Order: rows of outboxes need the other.
    async fn end(self) {
        self.relay_drain.start();
        for ending in [self.relaying, self.publishing] {
            // One that was lost has been told of.
            if !ending.is_finished()
                && let Err(panic) = ending.await
            {
                tracing::error!(engine = "outbox", error = %panic, "panicked while draining");
            }
        }
        finish("events", self.running, (End::Stop, self.drain)).await;
    }
}

/// Writes into the history what this daemon has found.
fn tell_past(history: &History, damages: Vec<String>, lost: &[proxy::plane::Loss], changes: &[dto::Change]) {
    damages.into_iter().for_each(|damage| history.say("state_file_damaged", damage));
    lost.iter().for_each(|loss| history.say("data_plane_lost", plane::left(loss)));
    changes.iter().for_each(|change| history.say("changed", change.to_string()));
}

/// Removes what would mislead from now on: what these files tell, where nothing of it runs any more, and the socket.
fn forget(project: &Project, end: End) {
    if end == End::Stop {
        project.remove_record();
        project.remove_switches();
    }
    // The lock is what counts.
    let _ = std::fs::remove_file(project.socket());
}

/// Begins what the daemon does for its engines, and for whoever watches.
fn attend(
    control: &Arc<Control>,
    project: &Project,
    prepares: mpsc::Receiver<supervisor::Prepare>,
    drains: mpsc::Receiver<supervisor::Drain>,
) {
    let tasks = &control.tasks;
    tasks.spawn(databases::run(Arc::clone(control), prepares));
    tasks.spawn(drains::run(Arc::clone(control), drains));
    tasks.spawn(dashboard::run(Arc::clone(control)));
    tasks.spawn(record::keep(Arc::clone(control), project.clone()));
    tasks.spawn(plane::tell_losses(Arc::clone(control)));
    tasks.spawn(switches::expire(Arc::clone(control)));
    tasks.spawn(Arc::clone(control).tend_bus());
    // What a former manifest left is served until nothing of it runs.
    control.settle(control.plan());
    tracing::info!(application = control.plan().name, gateway = %control.gateway_address(), "listening");
}

fn supervise(
    project: &Project,
    services: Vec<supervisor::Service>,
    (adopted, before): (supervisor::Adopted, supervisor::Before),
    open_files_soft: Option<u64>,
    between: Between,
) -> supervisor::Config {
    let Between { registry, prepare, drain } = between;
    supervisor::Config {
        services,
        log_dir: project.logs(),
        run_dir: project.run(),
        adopted,
        before,
        shim: supervisor::Shim { program: OWN_PROGRAM.into(), name: "atoll".to_owned() },
        open_files_soft,
        registry,
        prepare,
        drain,
        log: supervisor::logs::Limits::default(),
        backoff: supervisor::RESTART_BACKOFF,
        stable_after: supervisor::STABLE_AFTER,
        builds_max: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Answers until everything has stopped and the followers of its streams have seen that.
async fn serve_api(listener: UnixListener, control: Arc<Control>) {
    let mut drained = control.drained.clone();
    let stop = async move { drained.wait_for(|drained| *drained).await.map(drop).unwrap_or_default() };
    if let Err(error) = axum::serve(listener, server::router(control)).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the API failed");
    }
}

/// Lets this process open as many files as it may, and gives the limit that it was started with: the one for its children.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.current,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            None
        }
    }
}

/// Says which engine ended without having been asked to, and why.
fn engine_lost<E>(engine: &str, result: Result<Result<(), E>, JoinError>) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    match result {
        Ok(Ok(())) => anyhow::anyhow!("the {engine} ended by itself"),
        Ok(Err(error)) => anyhow::Error::new(error).context(format!("the {engine} failed")),
        Err(panic) => anyhow::Error::new(panic).context(format!("the {engine} panicked")),
    }
}

/// Waits until an engine has ended, which it is told to unless it was left.
async fn finish<E: std::error::Error + 'static>(
    engine: &str,
    running: JoinHandle<Result<(), E>>,
    (end, drain): (End, drain::Trigger),
) {
    if running.is_finished() {
        return;
    }
    if end == End::Stop {
        drain.finish().await;
    }
    match running.await {
        Ok(Ok(())) => tracing::info!(engine, "drained"),
        Ok(Err(error)) => tracing::error!(engine, error = %Chain(&error), "failed while draining"),
        Err(panic) => tracing::error!(engine, error = %panic, "panicked while draining"),
    }
}

fn say_ending(control: &Control, end: End, why: &str) {
    tracing::info!(why, ?end, "ending");
    match end {
        End::Stop => control.history.say("daemon_stopping", format!("everything stops: {why}")),
        End::Leave => control.history.say("daemon_leaving", format!("the daemon ends alone: {why}")),
    }
}

fn say_ended(control: &Control, end: End, lost: Option<&anyhow::Error>) {
    match (lost, end) {
        (Some(why), _) => control.history.say("daemon_stopped", format!("{why:#}")),
        (None, End::Stop) => control.history.say("daemon_stopped", "everything has stopped".into()),
        (None, End::Leave) => control.history.say("daemon_left", "data plane and instances go on".into()),
    }
}

/// SIGTERM is what machines and people end a process with that may come back: nothing is lost by it.
async fn asked_to_end(mut ends: watch::Receiver<Option<End>>) -> (End, &'static str) {
    let mut by_api = async move || match ends.wait_for(Option::is_some).await.map(|end| *end) {
        Ok(Some(end)) => (end, "asked by the API"),
        _ => (End::Stop, "nobody could ask any more"),
    };
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return by_api().await;
    };
    tokio::select! {
        asked = by_api() => asked,
        _ = terminate.recv() => (End::Leave, "SIGTERM"),
        _ = interrupt.recv() => (End::Stop, "SIGINT"),
    }
}

fn accepted(loaded: Loaded) -> anyhow::Result<Accepted> {
    let Loaded { sources, plan, diagnostics } = loaded;
    match plan {
        Some(plan) => Ok(Accepted { plan: plan.into(), sources: sources.into() }),
        None => {
            let first = diagnostics.iter().find(|diagnostic| diagnostic.severity == Severity::Error);
            let why = first.map_or("it has errors", |diagnostic| diagnostic.message.as_str());
            anyhow::bail!("the manifest is refused: {why}")
        }
    }
}

/// Opens the API's socket, for this user alone.
fn listen(project: &Project) -> io::Result<UnixListener> {
    let path = project.socket();
    match std::fs::remove_file(&path) {
        // The lock is ours, so nobody listens on an old one.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let name = socket::name(&path)?;
    let listener = UnixListener::bind(&name.path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
