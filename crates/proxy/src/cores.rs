//! One core: a thread with a runtime, sockets, pools and counts of its own. Accepts, spawns connections, tidies, and at
//! drain finishes what it has. Nothing on a request's path is shared with another core.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kit::drain;
use kit::tasks::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::access::{FLUSH_INTERVAL, Log};
use crate::chronicle::Allowance;
use crate::config::Limits;
use crate::connection;
use crate::counters::Counts;
use crate::error::Error;
use crate::handle::{Current, Shared};
use crate::http1::chunk::Bounds;
use crate::rooms::{Room, Rooms};
use crate::sockets::BACKLOG;
use crate::stock::Stock;
use crate::table::Table;
use crate::timers::Timers;
use crate::upstream::Pool;

/// How long a core stops accepting when the process has no file descriptor left: until some are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often idle connections to endpoints are looked through.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// What a thread is started with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) core: usize,
    pub(crate) listeners: Vec<(String, std::net::TcpListener)>,
    pub(crate) changes: mpsc::Receiver<Change>,
    pub(crate) limits: Limits,
    pub(crate) access: Option<mpsc::Sender<Vec<u8>>>,
    pub(crate) shared: Arc<Shared>,
    /// Clients' connections of all cores.
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) drain: drain::Watch,
    /// Closed when nobody waits for this core any more: it then stops at once.
    pub(crate) abandoned: watch::Receiver<()>,
    pub(crate) started: oneshot::Sender<()>,
}

/// A listener that comes or goes while the core runs.
#[derive(Debug)]
pub(crate) enum Change {
    Open { name: String, socket: std::net::TcpListener },
    Close { name: String },
}

/// What everything on one thread shares.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) limits: Limits,
    pub(crate) log: Log,
    pub(crate) pool: Pool,
    pub(crate) stock: Stock,
    pub(crate) timers: Rc<Timers>,
    pub(crate) counts: Arc<Counts>,
    /// Connections and tunnels.
    pub(crate) tasks: Tasks,
    /// Whether the drain has begun.
    pub(crate) is_stopping: Cell<bool>,
    rooms: Arc<Rooms>,
    date: Cell<Date>,
    /// Requests since the last one that was kept as a sample.
    sampled: Cell<u32>,
    /// For stories of what was refused because of others, of what else failed, and of what was only unusual.
    pub(crate) refused: Allowance,
    pub(crate) failed: Allowance,
    pub(crate) unusual: Allowance,
}

/// The second for which a date was written, and the date (RFC 9110 §5.6.7).
#[derive(Clone, Copy, Debug)]
struct Date {
    second: u64,
    text: [u8; DATE_BYTES],
}

const DATE_BYTES: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();

impl Core {
    /// Whether this is the one of so many: the first one is.
    pub(crate) fn is_sampled(&self, of: u32) -> bool {
        let count = self.sampled.get();
        self.sampled.set((count + 1) % of);
        count == 0
    }

    /// What stands in `date`.
    pub(crate) fn date(&self) -> [u8; DATE_BYTES] {
        let second = self.timers.clock.unix().as_secs();
        let mut date = self.date.get();
        if date.second != second {
            let timestamp = jiff::Timestamp::from_second(second.cast_signed()).unwrap_or_default();
            let text = timestamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            date = Date { second, text: text.as_bytes().try_into().unwrap_or(date.text) };
            self.date.set(date);
        }
        date.text
    }
}

/// The whole life of a thread. Returns when the drain is over.
pub(crate) fn run(start: Start) -> Result<(), Error> {
    let core = start.core;
    let local = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|source| Error::Runtime { core, source })?;
    local.block_on(live(start))
}

async fn live(start: Start) -> Result<(), Error> {
    let Start { core: number, listeners, mut changes, limits, access, shared, rooms, .. } = start;
    let Start { mut drain, mut abandoned, started, .. } = start;
    let counts = Arc::clone(&shared.counts[number]);
    let timers = Timers::new();
    let core = Rc::new(Core {
        log: Log::new(access, Arc::clone(&counts)),
        pool: Pool::new(limits.clone(), Arc::clone(&counts), Rc::clone(&timers)),
        stock: Stock::new(Bounds::of(&limits)),
        timers,
        tasks: Tasks::default(),
        is_stopping: Cell::new(false),
        shared,
        limits,
        counts,
        rooms,
        date: Cell::new(Date { second: 0, text: *b"Thu, 01 Jan 1970 00:00:00 GMT" }),
        sampled: Cell::new(0),
        refused: Allowance::default(),
        failed: Allowance::default(),
        unusual: Allowance::default(),
    });
    let mut accepting = Accepting { core: Rc::clone(&core), number, loops: JoinSet::new(), open: HashMap::new() };
    for (name, socket) in listeners {
        accepting.change(Change::Open { name, socket })?;
    }
    let _ = started.send(());
    let life = async {
        loop {
            tokio::select! {
                () = drain.started() => break,
                // The sender lives in `core`, so this is always a change.
                Some(change) = changes.recv() => accepting.change(change)?,
                Some(ended) = accepting.loops.join_next() => accepting.check(&ended)?,
            }
        }
        core.is_stopping.set(true);
        accepting.open.drain().for_each(|(_, listener)| listener.close());
        core.timers.wake_all();
        while let Some(ended) = accepting.loops.join_next().await {
            accepting.check(&ended)?;
        }
        core.tasks.finished().await;
        core.pool.clear();
        Ok(())
    };
    let end = tokio::select! {
        end = life => end,
        // Only ever closed, never sent on.
        _ = abandoned.changed() => Ok(()),
        never = keep_house(&core) => match never {},
        never = core.timers.run() => match never {},
    };
    core.log.flush();
    end
}

/// The accept loops of one core.
struct Accepting {
    core: Rc<Core>,
    number: usize,
    loops: JoinSet<()>,
    /// By name.
    open: HashMap<String, Rc<Listener>>,
}

impl Accepting {
    fn change(&mut self, change: Change) -> Result<(), Error> {
        let closed = match &change {
            Change::Open { name, .. } | Change::Close { name } => self.open.remove(name),
        };
        if let Some(closed) = closed {
            closed.close();
        }
        if let Change::Open { name, socket } = change {
            let failed = |source| Error::Runtime { core: self.number, source };
            let socket = TcpListener::from_std(socket).map_err(failed)?;
            let port = socket.local_addr().map_err(failed)?.port();
            let listener = Rc::new(Listener {
                name: name.as_str().into(),
                port,
                is_closing: Cell::new(false),
                closing: CancellationToken::new(),
                view: RefCell::default(),
            });
            self.open.insert(name, Rc::clone(&listener));
            self.loops.spawn_local(accept(Rc::clone(&self.core), listener, socket));
        }
        Ok(())
    }

    /// Nothing but a panic ends an accept loop unasked, and a core that is deaf is none.
    fn check(&self, ended: &Result<(), tokio::task::JoinError>) -> Result<(), Error> {
        ended.as_ref().copied().map_err(|_| Error::CoreLost { core: self.number })
    }
}

/// Gives away the log and closes idle connections, for as long as the core lives.
async fn keep_house(core: &Core) -> Infallible {
    let mut changed = core.shared.changed.subscribe();
    let mut flush = interval(FLUSH_INTERVAL);
    let mut tidy = interval(TIDY_INTERVAL);
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = flush.tick() => core.log.flush(),
            _ = tidy.tick() => {
                core.timers.clock.set_by_system();
                core.pool.tidy();
            }
            // The sender lives in `core`, so this is always a change.
            _ = changed.changed() => {
                core.timers.clock.tick();
                core.pool.tidy();
            }
        }
    }
}

/// What the connections of one listener have in common.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: Arc<str>,
    pub(crate) port: u16,
    /// It is closed, or the whole core stops: the next answer on each of its connections is the last.
    pub(crate) is_closing: Cell<bool>,
    /// Ends the accept loop.
    closing: CancellationToken,
    view: RefCell<Option<Rc<View>>>,
}

/// What is served on one listener, as long as no newer snapshot comes.
#[derive(Debug)]
pub(crate) struct View {
    version: u64,
    pub(crate) current: Arc<Current>,
    /// `None` if the snapshot does not have the listener.
    pub(crate) table: Option<Arc<Table>>,
}

impl View {
    /// Whether requests have lines in the access log. Nobody switched off the log of a listener that no snapshot has.
    pub(crate) fn is_logged(&self) -> bool {
        self.table.as_ref().is_none_or(|table| table.is_logged)
    }
}

impl Listener {
    fn close(&self) {
        self.is_closing.set(true);
        self.closing.cancel();
    }

    /// What a request sees from its head to its end. What all cores share is touched only when it has changed.
    pub(crate) fn view(&self, shared: &Shared) -> Rc<View> {
        // Order: the number first; what is newer than it is looked at again.
        let version = shared.version.load(Ordering::Acquire);
        let mut view = self.view.borrow_mut();
        match &*view {
            Some(view) if view.version == version => Rc::clone(view),
            _ => {
                let current = shared.current.load_full();
                let table = current.tables.listener(&self.name).cloned();
                Rc::clone(view.insert(Rc::new(View { version, current, table })))
            }
        }
    }
}

async fn accept(core: Rc<Core>, listener: Rc<Listener>, socket: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = listener.closing.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => admit(&core, &listener, stream, address),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(listener = &*listener.name, %error, "cannot accept; pausing");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whom the kernel has already welcomed would be reset by closing the socket: they are served, once. The runtime may
    // not know of them yet, so the socket itself is asked.
    // Limit: as many as may wait, since another process may hold the same socket and more come to it for ever.
    let Ok(socket) = socket.into_std() else { return };
    for (stream, address) in std::iter::from_fn(|| socket.accept().ok()).take(BACKLOG.unsigned_abs() as usize) {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            admit(&core, &listener, stream, address);
        }
    }
}

/// Linux passes errors of a connection that died while it waited to `accept` (accept(2)).
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn admit(core: &Rc<Core>, listener: &Rc<Listener>, stream: TcpStream, address: SocketAddr) {
    let Some((room, admission)) = Room::take(core, &core.rooms, &listener.name, address.ip()) else { return };
    core.tasks.spawn_local(connection::serve(stream, Rc::clone(core), Rc::clone(listener), address, admission, room));
}
