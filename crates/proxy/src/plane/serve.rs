//! The process of the data plane: the engine, its access log, and whoever is the daemon at the moment. It needs nobody:
//! without a daemon it goes on with the last snapshot. It never waits for a daemon that is slow.

use std::future::pending;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kit::tasks::Tasks;
use kit::{Chain, drain, readiness};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::config::{Config, Limits};
use crate::counters::Counters;
use crate::error::Error;
use crate::handle::Handle;
use crate::plane;
use crate::plane::held::Held;
use crate::plane::log;
use crate::plane::stories::{STORIES_MAX, fitting};
use crate::plane::wire::{self, Hello, Order, PROTOCOL, Reader, Report, Start};

/// How often counters are told, while they change.
const COUNTERS_INTERVAL: Duration = Duration::from_millis(250);
/// How long whoever connects may take to say that it is the daemon.
const INTRODUCTION_MAX: Duration = Duration::from_secs(5);
// Limit: those who connected and have not said so yet; one more is turned away.
const STRANGERS_MAX: usize = 16;
// Limit: reports that wait for the daemon. Access lines leave half of it free; a daemon that fills the rest is cut off,
// and finds out what it missed when it comes back.
const REPORTS_MAX: usize = 256;
/// How long the daemon may take for one report.
const WRITE_MAX: Duration = Duration::from_secs(5);
// Limit: batches of access lines on their way to the disk.
const BATCHES_MAX: usize = 64;
// Limit: endpoints of which one daemon wants to know when they are drained.
const ASKS_MAX: usize = 4096;
/// How long a process that has nothing to serve waits for a daemon.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// How long requests may go on once a signal has asked the process to end.
const SIGNAL_DRAIN_MAX: Duration = Duration::from_secs(5);
/// How often a retiring process looks whether its clients have gone.
const RETIRE_INTERVAL: Duration = Duration::from_millis(20);
/// How long the last access lines and the last reports may take.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// What the process is started with.
#[derive(Debug)]
pub struct Serve {
    /// Where daemons come to; it listens already.
    pub socket: StdUnixListener,
}

impl Serve {
    /// Takes the socket that [`crate::plane::Bound`] gives its process as standard input.
    ///
    /// # Errors
    /// When standard input cannot be taken; whether it is a socket is found out by [`serve`].
    pub fn inherited() -> io::Result<Self> {
        let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let nothing = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        Ok(Self { socket: StdUnixListener::from(socket) })
    }
}

/// Serves until it is told to end or has nothing to serve. Blocks: it is the whole life of the process.
///
/// # Errors
/// [`Error::Plane`] when there is no socket to hear a daemon on, and what ended the engine.
pub fn serve(config: Serve) -> Result<(), Error> {
    let broken = |source| Error::Plane { what: "cannot hear a daemon", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
    runtime.block_on(async {
        config.socket.set_nonblocking(true).map_err(broken)?;
        let socket = UnixListener::from_std(config.socket).map_err(broken)?;
        Process::run(socket).await
    })
}

/// What runs once a daemon has said how.
struct Engine {
    cores: usize,
    limits: Limits,
    handle: Handle,
    /// Gone once the process retires.
    drain: Option<drain::Trigger>,
    run: JoinHandle<Result<(), Error>>,
    log: JoinHandle<()>,
}

impl Engine {
    fn start(start: Start) -> Result<Self, Error> {
        let Start { cores, limits, access_log } = start;
        let (access, lines) = mpsc::channel(BATCHES_MAX);
        let access = access_log.is_some().then_some(access);
        let bound = crate::bound::bind(Config { cores, listeners: Vec::new(), limits: limits.clone(), access })?;
        let (drain, watch) = drain::channel();
        let (token, _) = readiness::channel();
        let handle = bound.handle();
        let run = tokio::spawn(bound.run(token, watch));
        let log = tokio::spawn(log::run(access_log, lines));
        Ok(Self { cores: cores.max(1), limits, handle, drain: Some(drain), run, log })
    }
}

/// The daemon at the moment. Dropped, its connection is closed once what it was told is written.
struct Daemon {
    reader: Reader,
    reports: mpsc::Sender<Report>,
    writer: JoinHandle<()>,
    /// Endpoints of which it wants to know when they are drained.
    asks: JoinSet<u64>,
}

impl Daemon {
    async fn next(&mut self) -> Event {
        tokio::select! {
            order = self.reader.next() => Event::Order(order),
            Some(Ok(id)) = self.asks.join_next() => Event::Drained(id),
        }
    }
}

/// Somebody who has said that it is the daemon.
struct Candidate {
    reader: Reader,
    stream: Arc<UnixStream>,
    start: Box<Start>,
}

/// What happens to the process.
enum Event {
    Connected(UnixStream),
    Candidate(Candidate),
    Order(io::Result<Order>),
    Drained(u64),
    Tick,
    EngineEnded(Result<(), Error>),
    Deadline,
    Signal,
}

struct Process {
    started_at: jiff::Timestamp,
    build: String,
    engine: Option<Engine>,
    held: Held,
    daemon: Option<Daemon>,
    /// The counters that the daemon knows.
    told: Counters,
    /// When everything that is left is cut; set once the process retires.
    retires_at: Option<Instant>,
    /// When there last was something to do.
    needed_at: Instant,
    tasks: Tasks,
    candidates: mpsc::Sender<Candidate>,
    strangers: Arc<Semaphore>,
}

impl Process {
    async fn run(socket: UnixListener) -> Result<(), Error> {
        let broken = |source| Error::Plane { what: "cannot begin to serve", source };
        let (candidates, mut candidates_seen) = mpsc::channel(STRANGERS_MAX);
        let mut process = Self {
            started_at: jiff::Timestamp::now(),
            build: plane::build(Path::new("/proc/self/exe")).map_err(broken)?,
            engine: None,
            held: Held::default(),
            daemon: None,
            told: Counters::default(),
            retires_at: None,
            needed_at: Instant::now(),
            tasks: Tasks::default(),
            candidates,
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        };
        let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
        let mut tick = interval(COUNTERS_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = process.next() => event,
                _ = terminate.recv() => Event::Signal,
                Ok((stream, _)) = socket.accept() => Event::Connected(stream),
                Some(candidate) = candidates_seen.recv() => Event::Candidate(candidate),
                _ = tick.tick() => Event::Tick,
            };
            if let Some(end) = process.take(event).await {
                process.say_farewell().await;
                return end;
            }
        }
    }

    /// What comes from within, or from the daemon.
    async fn next(&mut self) -> Event {
        let Self { engine, daemon, retires_at, .. } = self;
        let ended = async {
            match engine {
                Some(engine) => (&mut engine.run).await.unwrap_or(Err(Error::CoreLost { core: 0 })),
                None => pending().await,
            }
        };
        let told = async {
            match daemon {
                Some(daemon) => daemon.next().await,
                None => pending().await,
            }
        };
        let deadline = async {
            match retires_at {
                Some(deadline) => sleep_until(*deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            ended = ended => Event::EngineEnded(ended),
            () = deadline => Event::Deadline,
            told = told => told,
        }
    }

    /// Gives how the process ends, if it does.
    async fn take(&mut self, event: Event) -> Option<Result<(), Error>> {
        match event {
            Event::EngineEnded(ended) => return Some(ended),
            Event::Deadline => {
                tracing::warn!("what has not ended in time is cut");
                return Some(Ok(()));
            }
            Event::Signal => {
                self.report(Report::Retiring);
                self.retire(Duration::ZERO, SIGNAL_DRAIN_MAX);
            }
            Event::Connected(stream) => self.introduce(stream),
            Event::Candidate(candidate) => return self.follow(candidate).err().map(Err),
            Event::Order(Ok(Order::Stop)) => return Some(Ok(())),
            Event::Order(order) => {
                let obeyed = match order {
                    Ok(order) => self.obey(order).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = obeyed {
                    tracing::info!(%error, "without a daemon now; going on with the last snapshot");
                    self.daemon = None;
                }
            }
            Event::Drained(id) => self.report(Report::Drained { id }),
            Event::Tick => {
                self.tell_counters();
                if self.daemon.is_some() || !self.held.is_empty() || self.retires_at.is_some() {
                    self.needed_at = Instant::now();
                } else if self.needed_at.elapsed() > IDLE_MAX {
                    tracing::info!("nobody wants anything of this process");
                    return Some(Ok(()));
                }
            }
        }
        None
    }

    fn generation(&self) -> u64 {
        let snapshot = self.engine.as_ref().and_then(|engine| engine.handle.snapshot());
        snapshot.map_or(0, |snapshot| snapshot.generation)
    }

    /// Says who this is, and hears in a task of its own whether it is a daemon that has come.
    fn introduce(&self, stream: UnixStream) {
        let Ok(room) = Arc::clone(&self.strangers).try_acquire_owned() else { return };
        let hello = Hello {
            protocol: PROTOCOL,
            pid: std::process::id(),
            build: self.build.clone(),
            started_at: self.started_at,
            generation: self.generation(),
            cores: self.engine.as_ref().map_or(0, |engine| engine.cores),
            limits: self.engine.as_ref().map_or_else(Default::default, |engine| wire::shown(&engine.limits)),
            is_retiring: self.retires_at.is_some(),
            listeners: self.held.listening(),
            answers: true,
            reads: true,
        };
        let (held, candidates) = (self.held.clone(), self.candidates.clone());
        self.tasks.spawn(async move {
            let _room = room;
            let stream = Arc::new(stream);
            let introduction = async {
                wire::send(&stream, &hello, &held.borrowed()).await?;
                let mut reader = Reader::new(Arc::clone(&stream));
                match reader.next().await? {
                    Order::Take(start) => Ok(Candidate { reader, stream, start }),
                    _ => Err(io::Error::other("it did not say that it is the daemon")),
                }
            };
            match timeout(INTRODUCTION_MAX, introduction).await {
                Ok(Ok(candidate)) => drop(candidates.send(candidate).await),
                Ok(Err(error)) => tracing::debug!(%error, "who connected is no daemon"),
                Err(_) => tracing::debug!("who connected said nothing"),
            }
        });
    }

    /// The newer daemon wins.
    fn follow(&mut self, candidate: Candidate) -> Result<(), Error> {
        let Candidate { reader, stream, start } = candidate;
        if self.engine.is_none() {
            self.engine = Some(Engine::start(*start)?);
        }
        self.report(Report::Superseded);
        let (reports, mut waiting) = mpsc::channel::<Report>(REPORTS_MAX);
        let writer = self.tasks.spawn(async move {
            while let Some(report) = waiting.recv().await {
                if !matches!(timeout(WRITE_MAX, wire::send(&stream, &report, &[])).await, Ok(Ok(()))) {
                    return;
                }
            }
        });
        self.daemon = Some(Daemon { reader, reports, writer, asks: JoinSet::new() });
        self.told = Counters::default();
        if self.retires_at.is_some() {
            self.report(Report::Retiring);
        }
        Ok(())
    }

    /// # Errors
    /// What the daemon must be cut off for.
    async fn obey(&mut self, order: Order) -> io::Result<()> {
        let (Some(engine), Some(daemon)) = (&self.engine, &mut self.daemon) else { return Ok(()) };
        match order {
            Order::Take(_) | Order::Stop => {}
            Order::Listeners(listening) => {
                let wanted = Held::receive(&mut daemon.reader, listening)?;
                if self.retires_at.is_none() {
                    self.held = exchange(&engine.handle, &self.held, &wanted).await?;
                    self.report(Report::Listening);
                }
            }
            Order::Snapshot(snapshot) => {
                let generation = snapshot.generation;
                let applied = engine.handle.apply(Arc::unwrap_or_clone(snapshot));
                self.report(match applied {
                    Ok(()) => Report::Applied { generation },
                    Err(error) => Report::Refused { generation, why: Chain(&error).to_string() },
                });
            }
            Order::Drained { .. } if daemon.asks.len() >= ASKS_MAX => {
                return Err(io::Error::other("the daemon asks for too much"));
            }
            Order::Drained { id, service, instance, address } => {
                let drained = engine.handle.drained(&service, instance, address);
                daemon.asks.spawn(async move {
                    drained.await;
                    id
                });
            }
            Order::Read { id } => {
                let readings = Box::new(engine.handle.read());
                self.report(Report::Readings { id: Some(id), readings });
            }
            Order::Switch(switches) => engine.handle.switch(Arc::unwrap_or_clone(switches)),
            Order::ResetBreaker { subject } => drop(engine.handle.reset_breaker(&subject)),
            Order::Stories { id, request_id, max } => {
                let stories = fitting(engine.handle.stories(&request_id, max.min(STORIES_MAX)));
                self.report(Report::Stories { id, stories });
            }
            Order::Retire { linger, bound } => self.retire(linger, bound),
            Order::Ping => self.report(Report::Pong),
        }
        Ok(())
    }

    /// Stops accepting and lets go of the sockets. Clients end with their next answer, idle ones when `linger` is over.
    fn retire(&mut self, linger: Duration, bound: Duration) {
        let now = Instant::now();
        let deadline = self.retires_at.map_or(now + bound, |deadline| deadline.min(now + bound));
        self.retires_at = Some(deadline);
        let held = std::mem::take(&mut self.held);
        let Some(engine) = &mut self.engine else {
            self.retires_at = Some(now);
            return;
        };
        let Some(drain) = engine.drain.take() else { return };
        let handle = engine.handle.clone();
        self.tasks.spawn(async move {
            for (name, _) in held.iter() {
                handle.close(name).await;
            }
            drop(held);
            while now.elapsed() < linger && handle.counters().connections_active > 0 {
                sleep(RETIRE_INTERVAL).await;
            }
            drain.start();
        });
    }

    /// What must reach the daemon. One that takes nothing is cut off: it hears all that counts when it comes back.
    fn report(&mut self, report: Report) {
        if let Some(daemon) = &self.daemon
            && daemon.reports.try_send(report).is_err()
        {
            tracing::warn!("the daemon takes nothing; cutting it off");
            self.daemon = None;
        }
    }

    fn tell_counters(&mut self) {
        let Some(engine) = &self.engine else { return };
        let counters = engine.handle.counters();
        let has_room = self.daemon.as_ref().is_some_and(|daemon| daemon.reports.capacity() > REPORTS_MAX / 2);
        if counters != self.told && has_room {
            self.report(Report::Counters(counters));
            self.told = counters;
        }
    }

    /// The last lines go to the disk, and the last words to the daemon.
    async fn say_farewell(mut self) {
        self.tell_counters();
        if let Some(engine) = &self.engine {
            let readings = Box::new(engine.handle.read());
            self.report(Report::Readings { id: None, readings });
        }
        if let Some(engine) = self.engine {
            // Dropped, it ends every core.
            engine.run.abort();
            let _ = timeout(LAST_WORDS_MAX, engine.log).await;
        }
        if let Some(Daemon { reports, writer, .. }) = self.daemon {
            drop(reports);
            let _ = timeout(LAST_WORDS_MAX, writer).await;
        }
    }
}

/// Opens what is new and closes what is not wanted any more. Gives what is held then.
async fn exchange(handle: &Handle, present: &Held, wanted: &Held) -> io::Result<Held> {
    let merged = present.merge(wanted);
    for (name, new) in merged.iter().filter(|(name, new)| !present.has(name, new.address)) {
        let sockets = new.sockets.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        handle.open(name, sockets).await;
    }
    for (name, _) in present.iter().filter(|(name, _)| !merged.contains(name)) {
        handle.close(name).await;
    }
    Ok(merged)
}
