//! One core: a thread with a runtime, sockets, pools and counts of its own. Accepts, spawns connections, tidies, and at
//! drain finishes what it has. Nothing on a request's path is shared with another core.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kit::drain;
use kit::tasks::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::access::{FLUSH_INTERVAL, Log};
use crate::config::Limits;
use crate::connection;
use crate::counters::Counts;
use crate::error::Error;
use crate::exchange::{Admission, Peer};
use crate::handle::Shared;
use crate::sockets::BACKLOG;
use crate::upstream::Pool;
use crate::watched::Activity;

// Limit: connections above `connections_max` that are told so (503). Those above even that are closed without a word.
const REFUSALS_MAX: usize = 64;

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
    pub(crate) connections: Arc<AtomicUsize>,
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
    pub(crate) log: Rc<Log>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) counts: Arc<Counts>,
    /// Connections and tunnels.
    pub(crate) tasks: Tasks,
    pub(crate) stopping: CancellationToken,
    connections: Arc<AtomicUsize>,
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
    let Start { core: number, listeners, mut changes, limits, access, shared, connections, .. } = start;
    let Start { mut drain, mut abandoned, started, .. } = start;
    let counts = Arc::clone(&shared.counts[number]);
    let core = Rc::new(Core {
        log: Rc::new(Log::new(access, Arc::clone(&counts))),
        pool: Pool::new(limits.clone(), Arc::clone(&counts)),
        tasks: Tasks::default(),
        stopping: CancellationToken::new(),
        shared,
        limits,
        counts,
        connections,
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
        core.stopping.cancel();
        while let Some(ended) = accepting.loops.join_next().await {
            accepting.check(&ended)?;
        }
        core.tasks.finished().await;
        core.pool.finish().await;
        Ok(())
    };
    let end = tokio::select! {
        end = life => end,
        // Only ever closed, never sent on.
        _ = abandoned.changed() => Ok(()),
        never = keep_house(&core) => match never {},
    };
    core.log.flush();
    end
}

/// The accept loops of one core.
struct Accepting {
    core: Rc<Core>,
    number: usize,
    loops: JoinSet<()>,
    /// What ends each of them, by the listener's name.
    open: HashMap<String, CancellationToken>,
}

impl Accepting {
    fn change(&mut self, change: Change) -> Result<(), Error> {
        let closed = match &change {
            Change::Open { name, .. } | Change::Close { name } => self.open.remove(name),
        };
        if let Some(closed) = closed {
            closed.cancel();
        }
        if let Change::Open { name, socket } = change {
            let failed = |source| Error::Runtime { core: self.number, source };
            let socket = TcpListener::from_std(socket).map_err(failed)?;
            let port = socket.local_addr().map_err(failed)?.port();
            let closing = self.core.stopping.child_token();
            let listener = Listener { name: name.as_str().into(), port, closing: closing.clone() };
            self.open.insert(name, closing);
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
            _ = tidy.tick() => core.pool.tidy(),
            // The sender lives in `core`, so this is always a change.
            _ = changed.changed() => core.pool.tidy(),
        }
    }
}

/// What the connections of one listener have in common.
struct Listener {
    name: Rc<str>,
    port: u16,
    /// The listener is closed, or the whole core stops.
    closing: CancellationToken,
}

async fn accept(core: Rc<Core>, listener: Listener, socket: TcpListener) {
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

fn admit(core: &Rc<Core>, listener: &Listener, stream: TcpStream, address: SocketAddr) {
    let room = Room::take(core);
    let admission = match room.before {
        count if count < core.limits.connections_max => Admission::Served,
        count if count < core.limits.connections_max.saturating_add(REFUSALS_MAX) => Admission::Refused,
        _ => return,
    };
    let peer = Rc::new(Peer {
        core: Rc::clone(core),
        listener: Rc::clone(&listener.name),
        address,
        port: listener.port,
        closing: listener.closing.clone(),
        activity: Arc::new(Activity::new()),
        admission,
        _room: room,
    });
    core.tasks.spawn_local(connection::serve(stream, peer));
}

/// One connection's place among `connections_max`, kept through a tunnel.
#[derive(Debug)]
pub(crate) struct Room {
    core: Rc<Core>,
    /// How many there were before.
    before: usize,
}

impl Room {
    fn take(core: &Rc<Core>) -> Self {
        core.counts.connections.add(1);
        let before = core.connections.fetch_add(1, Ordering::Relaxed);
        Self { core: Rc::clone(core), before }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.core.connections.fetch_sub(1, Ordering::Relaxed);
        self.core.counts.connections_closed.add(1);
    }
}
