//! The loop of the daemon that owns the processes of the data plane: keeps one serving, starts another at once when it
//! dies, lets one take over from another, and ends or leaves them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kit::{Chain, drain, readiness};
use rustix::process::Pid;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::config::Limits;
use crate::error::Error;
use crate::plane::adopt::{Adopted, Found};
use crate::plane::handle::{Ask, Handle, Loss, lock};
use crate::plane::held::Held;
use crate::plane::life::{Deed, Life, Talk};
use crate::plane::process::{Killer, Link, Process};
use crate::plane::read::Collected;
use crate::plane::stories::{STORIES_MAX, Searches};
use crate::plane::wire::{self, Order, Report, Start};
use crate::plane::{self, Config};
use crate::story::Story;

// Limit: what is asked and what processes say, until the loop has looked at it; whoever says more waits.
const ASKS_MAX: usize = 64;
const DEEDS_MAX: usize = 256;
// Limit: orders that one process has not taken yet. One that takes none is asked again once it is connected anew.
const ORDERS_MAX: usize = 1024;

/// How long clients of a process that was replaced may keep an idle connection to it: long enough for most to send one
/// more request, whose answer says that the connection closes.
const LINGER: Duration = Duration::from_secs(5);

/// A process that died younger was of no use.
const USEFUL_LIFE: Duration = Duration::from_secs(1);
const RESPAWN_MIN: Duration = Duration::from_millis(50);
const RESPAWN_MAX: Duration = Duration::from_secs(1);

/// How long a process may take beyond its bound before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(3);

/// How long to wait before the next start, after so many processes in a row that died young.
fn respawn_delay(died_young: u32) -> Duration {
    match died_young {
        0 | 1 => Duration::ZERO,
        more => RESPAWN_MIN.saturating_mul(1 << (more - 2).min(16)).min(RESPAWN_MAX),
    }
}

/// Open sockets, and perhaps a process that serves on them already.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    handle: Handle,
    asks: mpsc::Receiver<Ask>,
    found: Vec<Found>,
    /// The one of `found` that serves is of another build, or has another number of cores.
    is_outdated: bool,
}

/// Takes over the process that a former daemon has left in the folder, with its sockets, and opens what it lacks.
///
/// # Errors
/// [`Error::Listen`] for the first address that cannot be had, [`Error::DuplicateListener`], [`Error::Plane`].
pub fn bind(config: Config, adopted: Adopted) -> Result<Bound, Error> {
    let broken = |source| Error::Plane { what: "cannot be prepared", source };
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(broken);
    let mut config = Config { cores: config.cores.max(1), stderr: absolute(config.stderr)?, ..config };
    config.folder = config.folder.canonicalize().map_err(broken)?;
    if let Some(log) = &mut config.access_log {
        log.path = absolute(std::mem::take(&mut log.path))?;
    }
    let build = plane::build(&config.program).map_err(broken)?;
    let found = adopted.found;
    let (held, generation, is_outdated) = match found.first().filter(|found| found.serves()) {
        Some(Found { link: Link { hello, held, .. }, .. }) => {
            let is_outdated =
                hello.build != build || hello.cores != config.cores || hello.limits != wire::shown(&config.limits);
            tracing::info!(pid = hello.pid, started_at = %hello.started_at, is_outdated, "adopting the data plane");
            (held.clone(), hello.generation, is_outdated)
        }
        None => (Held::default(), 0, false),
    };
    let held = held.with(&config.listeners, config.cores)?;
    let (sender, asks) = mpsc::channel(ASKS_MAX);
    let handle = Handle::new(held, generation, config.cores, sender);
    Ok(Bound { config, handle, asks, found, is_outdated })
}

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Has not said yet that it accepts.
    Starting,
    Serving,
    /// Finishes what it has.
    Retiring,
}

/// A process as the loop knows it.
#[derive(Debug)]
struct Known {
    pid: Pid,
    role: Role,
    killer: Killer,
    /// What it was told, or was to be told.
    start: Arc<Start>,
    orders: mpsc::Sender<Order>,
    is_connected: bool,
    began: Instant,
}

/// An endpoint that somebody waits for.
#[derive(Debug)]
struct Draining {
    service: String,
    instance: u32,
    address: SocketAddr,
    reply: oneshot::Sender<()>,
    /// The processes that have not answered yet.
    waiting: BTreeSet<u64>,
}

impl Bound {
    /// Where each listener listens, with the port that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.handle.addresses()
    }

    /// The way in.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The process that was adopted, if one was.
    #[must_use]
    pub fn adopted(&self) -> Option<u32> {
        self.found.first().filter(|found| found.serves()).map(|found| found.link.hello.pid)
    }

    /// Keeps a process serving until the drain begins; then has it finish what it has, for `drain_max` at most. Ready once
    /// one serves. Dropped, or left, it leaves the processes alone.
    ///
    /// # Errors
    /// [`Error::Superseded`] when the process follows another daemon.
    pub async fn run(self, readiness: readiness::Token, mut drain: drain::Watch) -> Result<(), Error> {
        let is_adopted = self.adopted().is_some();
        let Self { config, handle, mut asks, found, is_outdated } = self;
        let (deeds, mut deeds_seen) = mpsc::channel(DEEDS_MAX);
        let mut processes = Processes::new(config, handle, readiness, deeds);
        processes.is_outdated = is_outdated;
        processes.take_over(found, is_adopted);
        let mut wanted = processes.handle.0.wanted.subscribe();
        loop {
            processes.step();
            let (respawn, given_up) = (at(processes.respawn_at), at(processes.next_deadline()));
            tokio::select! {
                () = drain.started() => break,
                Some((life, deed)) = deeds_seen.recv() => match deed {
                    Deed::Said(Report::Superseded) => return Err(Error::Superseded),
                    deed => processes.take(life, deed),
                },
                Some(ask) = asks.recv() => match ask {
                    Ask::Leave => return Ok(()),
                    Ask::Replace { reply } => processes.replies.push(reply),
                    Ask::Limit { limits } => processes.limit(limits),
                    Ask::Read { reply } => {
                        let round = processes.collected.ask(reply);
                        processes.read(round);
                    }
                    Ask::ResetBreaker { subject } => drop(processes.tell(&Order::ResetBreaker { subject })),
                    Ask::Stories { request_id, max, reply } => processes.search(request_id, max, reply),
                    Ask::Drained { service, instance, address, reply } => {
                        processes.drain(Draining { service, instance, address, reply, waiting: BTreeSet::new() });
                    }
                },
                // A first snapshot lets what is outdated be replaced.
                Ok(()) = wanted.changed(), if processes.is_outdated => {}
                () = respawn => {
                    processes.respawn_at = None;
                    processes.spawn();
                }
                () = given_up => processes.give_up(),
            }
        }
        processes.finish(&mut deeds_seen).await;
        Ok(())
    }
}

/// Waits until then, or for ever.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}

/// Everything that the loop owns.
#[derive(Debug)]
struct Processes {
    config: Config,
    handle: Handle,
    start: Arc<Start>,
    known: BTreeMap<u64, Known>,
    next: u64,
    tasks: JoinSet<()>,
    deeds: mpsc::Sender<(u64, Deed)>,
    draining: HashMap<u64, Draining>,
    next_draining: u64,
    collected: Collected,
    searches: Searches,
    /// Who waits for the next process to serve.
    replies: Vec<oneshot::Sender<Result<(), Error>>>,
    readiness: Option<readiness::Token>,
    is_outdated: bool,
    died_young: u32,
    /// When the next process is started, in place of one that died.
    respawn_at: Option<Instant>,
}

impl Processes {
    fn new(config: Config, handle: Handle, readiness: readiness::Token, deeds: mpsc::Sender<(u64, Deed)>) -> Self {
        let start = Start { cores: config.cores, limits: config.limits.clone(), access_log: config.access_log.clone() };
        Self {
            config,
            handle,
            start: Arc::new(start),
            known: BTreeMap::new(),
            next: 0,
            tasks: JoinSet::new(),
            deeds,
            draining: HashMap::new(),
            next_draining: 0,
            collected: Collected::default(),
            searches: Searches::default(),
            replies: Vec::new(),
            readiness: Some(readiness),
            is_outdated: false,
            died_young: 0,
            respawn_at: None,
        }
    }

    /// The first of those found serves if `is_adopted`; the others are to end.
    fn take_over(&mut self, found: Vec<Found>, is_adopted: bool) {
        for (position, Found { process, link }) in found.into_iter().enumerate() {
            if is_adopted && position == 0 {
                let pid = process.pid;
                self.attend(process, Some(link), Role::Serving);
                self.serves(pid);
            } else {
                let life = self.attend(process, Some(link), Role::Retiring);
                self.retire(life);
            }
        }
    }

    /// Starts what is missing.
    fn step(&mut self) {
        let has = |role| self.known.values().any(|known| known.role == role);
        if has(Role::Starting) || self.respawn_at.is_some() {
            return;
        }
        // Nobody is replaced before there is something to serve: until then the old one knows more.
        let is_outdated = self.is_outdated && self.handle.snapshot().is_some();
        if !has(Role::Serving) || is_outdated || !self.replies.is_empty() {
            let delay = respawn_delay(self.died_young);
            if delay.is_zero() {
                self.spawn();
            } else {
                self.respawn_at = Some(Instant::now() + delay);
            }
        }
    }

    fn spawn(&mut self) {
        match Process::spawn(&self.config) {
            Ok(process) => {
                self.attend(process, None, Role::Starting);
            }
            Err(source) => {
                let error = Error::Plane { what: "cannot be started", source };
                tracing::error!(error = %Chain(&error), "no data plane");
                self.died_young = self.died_young.max(1) + 1;
                self.respawn_at = Some(Instant::now() + respawn_delay(self.died_young));
                self.fail_replies(error);
            }
        }
    }

    fn attend(&mut self, process: Process, link: Option<Link>, role: Role) -> u64 {
        self.next += 1;
        let life = self.next;
        let (orders, orders_seen) = mpsc::channel(ORDERS_MAX);
        let (pid, killer) = (process.pid, process.killer());
        let (start, began) = (Arc::clone(&self.start), Instant::now());
        self.known.insert(life, Known { pid, role, killer, start, orders, is_connected: false, began });
        let talk = Talk {
            life,
            start: Arc::clone(&self.start),
            wanted: self.handle.0.wanted.subscribe(),
            orders: orders_seen,
            deeds: self.deeds.clone(),
        };
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(Life { process, link, talk }.attend());
        life
    }

    fn retire(&mut self, life: u64) {
        if let Some(known) = self.known.get_mut(&life) {
            known.role = Role::Retiring;
            let _ = known.orders.try_send(Order::Retire { linger: LINGER, bound: self.config.retire_max });
        }
    }

    fn serves(&mut self, pid: Pid) {
        self.handle.0.pid.send_replace(Some(pid.as_raw_nonzero().get().unsigned_abs()));
        if let Some(readiness) = self.readiness.take() {
            readiness.ready();
        }
    }

    fn take(&mut self, life: u64, deed: Deed) {
        match deed {
            Deed::Connected => self.connected(life),
            Deed::Ended(how) => self.ended(life, &how),
            Deed::Silent => {
                if let Some(known) = self.known.get(&life) {
                    known.killer.kill();
                }
                // Order: not when it has ended: what keeps it from answering may keep it from that, too.
                self.ended(life, "it did not answer and was killed");
            }
            Deed::Said(report) => self.hear(life, report),
        }
    }

    fn hear(&mut self, life: u64, report: Report) {
        match report {
            Report::Listening => self.listens(life),
            Report::Applied { generation } => tracing::debug!(life, generation, "applied"),
            Report::Refused { generation, why } => {
                tracing::error!(generation, why, "the data plane refused a snapshot");
            }
            Report::Drained { id } => {
                if let Some(draining) = self.draining.get_mut(&id) {
                    draining.waiting.remove(&life);
                }
                self.resolve();
            }
            Report::Counters(counters) => lock(&self.handle.0.totals).tell(life, counters),
            Report::Readings { id, readings } => {
                let round = self.collected.tell(life, id, *readings);
                self.read(round);
            }
            Report::Stories { id, stories } => self.searches.tell(life, id, stories),
            Report::Retiring => {
                if let Some(known) = self.known.get_mut(&life).filter(|known| known.role != Role::Retiring) {
                    tracing::warn!(pid = known.pid.as_raw_nonzero().get(), "the data plane was told to end");
                    known.role = Role::Retiring;
                }
            }
            Report::Superseded | Report::Pong => {}
        }
    }

    /// The first time, it takes over.
    fn listens(&mut self, life: u64) {
        let Some(known) = self.known.get_mut(&life).filter(|known| known.role == Role::Starting) else { return };
        let pid = known.pid;
        let took_ms = u64::try_from(known.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(pid = pid.as_raw_nonzero().get(), took_ms, "the data plane serves");
        let is_former = |(life, known): (&u64, &Known)| (known.role == Role::Serving).then_some(*life);
        for former in self.known.iter().filter_map(is_former).collect::<Vec<_>>() {
            self.retire(former);
        }
        if let Some(known) = self.known.get_mut(&life) {
            known.role = Role::Serving;
            // Limits may have changed since it was started.
            self.is_outdated = known.start.limits != self.start.limits;
        }
        self.serves(pid);
        for reply in self.replies.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    fn fail_replies(&mut self, error: Error) {
        let mut error = Some(error);
        for reply in self.replies.drain(..) {
            let _ = reply.send(Err(error.take().unwrap_or(Error::Ended)));
        }
    }

    fn ended(&mut self, life: u64, how: &str) {
        let Some(known) = self.known.remove(&life) else { return };
        lock(&self.handle.0.totals).end(life);
        let round = self.collected.end(life);
        self.read(round);
        self.searches.end(life);
        let pid = known.pid.as_raw_nonzero().get();
        if known.role == Role::Retiring {
            tracing::info!(pid, how, "a data plane has finished");
        } else {
            tracing::error!(pid, how, "the data plane died");
            let loss = Loss { pid: pid.unsigned_abs(), how: how.to_owned() };
            // Nobody listening is no loss of ours.
            let _ = self.handle.0.losses.send(loss);
            let is_young = known.began.elapsed() < USEFUL_LIFE;
            self.died_young = if is_young { self.died_young + 1 } else { 0 };
        }
        if known.role == Role::Starting {
            let source = std::io::Error::other(how.to_owned());
            self.fail_replies(Error::Plane { what: "ended before it served", source });
        }
        if known.role == Role::Serving {
            self.handle.0.pid.send_replace(None);
        }
        for draining in self.draining.values_mut() {
            draining.waiting.remove(&life);
        }
        self.resolve();
    }

    /// Has the next process told other limits, and one started for them.
    fn limit(&mut self, limits: Limits) {
        if self.start.limits != limits {
            self.start = Arc::new(Start { limits, ..(*self.start).clone() });
            self.is_outdated = true;
        }
    }

    /// When to stop waiting for what was asked.
    fn next_deadline(&self) -> Option<Instant> {
        self.collected.until().into_iter().chain(self.searches.until()).min()
    }

    fn give_up(&mut self) {
        let now = Instant::now();
        if self.collected.until().is_some_and(|until| until <= now) {
            let round = self.collected.give_up();
            self.read(round);
        }
        self.searches.give_up(now);
    }

    /// Gives every process that hears this order. Returns which they are.
    fn tell(&self, order: &Order) -> BTreeSet<u64> {
        let hears = |known: &Known| known.is_connected && known.orders.try_send(order.clone()).is_ok();
        self.known.iter().filter(|(_, known)| hears(known)).map(|(life, _)| *life).collect()
    }

    fn search(&mut self, request_id: String, max: usize, reply: oneshot::Sender<Vec<Story>>) {
        let max = max.min(STORIES_MAX);
        let Some(id) = self.searches.ask(max, reply) else { return };
        let asked = self.tell(&Order::Stories { id, request_id, max });
        self.searches.begin(id, asked);
    }

    /// Asks every process what it has counted, if a round is to begin.
    fn read(&mut self, mut round: Option<u64>) {
        while let Some(id) = round {
            let asked = self.tell(&Order::Read { id });
            round = self.collected.begin(asked);
        }
    }

    fn drain(&mut self, mut draining: Draining) {
        self.draining.retain(|_, draining| !draining.reply.is_closed());
        self.next_draining += 1;
        let id = self.next_draining;
        for (life, known) in self.known.iter().filter(|(_, known)| known.is_connected) {
            let _ = known.orders.try_send(draining.order(id));
            draining.waiting.insert(*life);
        }
        self.draining.insert(id, draining);
    }

    fn connected(&mut self, life: u64) {
        let Some(known) = self.known.get_mut(&life) else { return };
        known.is_connected = true;
        for (id, draining) in &mut self.draining {
            let _ = known.orders.try_send(draining.order(*id));
            draining.waiting.insert(life);
        }
    }

    /// Tells those who wait for what no process is still to answer for. While there is no process at all they go on
    /// waiting: the next one will be asked.
    fn resolve(&mut self) {
        if !self.known.values().any(|known| known.is_connected) {
            return;
        }
        let drained = self.draining.iter().filter(|(_, draining)| draining.waiting.is_empty());
        for id in drained.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(draining) = self.draining.remove(&id) {
                let _ = draining.reply.send(());
            }
        }
    }

    /// Lets go of the sockets and of every process.
    async fn finish(mut self, deeds: &mut mpsc::Receiver<(u64, Deed)>) {
        self.handle.0.wanted.send_modify(|wanted| wanted.held = Held::default());
        for known in self.known.values_mut() {
            let bound = self.config.drain_max;
            let order = match std::mem::replace(&mut known.role, Role::Retiring) {
                Role::Starting => Order::Stop,
                Role::Serving | Role::Retiring => Order::Retire { linger: Duration::ZERO, bound },
            };
            let _ = known.orders.try_send(order);
        }
        let mut deadline = Instant::now() + self.config.drain_max + KILL_AFTER;
        while !self.known.is_empty() {
            tokio::select! {
                Some((life, deed)) = deeds.recv() => self.take(life, deed),
                () = sleep_until(deadline) => {
                    for known in self.known.values() {
                        let pid = known.pid.as_raw_nonzero().get();
                        tracing::warn!(pid, "the data plane does not end and is killed");
                        known.killer.kill();
                    }
                    deadline += KILL_AFTER;
                }
            }
        }
        self.handle.0.pid.send_replace(None);
    }
}

impl Draining {
    fn order(&self, id: u64) -> Order {
        let (service, instance, address) = (self.service.clone(), self.instance, self.address);
        Order::Drained { id, service, instance, address }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_deaths_cost_no_time_and_many_cost_a_second_each() {
        let seen: Vec<u128> = (0..9).map(|died| respawn_delay(died).as_millis()).collect();
        assert_eq!(seen, [0, 0, 50, 100, 200, 400, 800, 1000, 1000]);
    }
}
