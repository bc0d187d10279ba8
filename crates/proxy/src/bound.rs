//! From a [`Config`] to a running engine: sockets first, so that addresses are known and taken ports are found out
//! before anything else starts; then one thread a core.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use kit::{drain, readiness};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::cores::{self, Start};
use crate::error::Error;
use crate::handle::{Handle, Shared};

// Limit: connections that the kernel holds for one socket until they are accepted; it may hold fewer (somaxconn).
const BACKLOG: i32 = 1024;

/// After how long without a byte the kernel asks whether the other side is still there, and how often from then on. It
/// gives up after nine questions (`tcp_keepalive_probes`): tunnels have no other bound.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How the kernel finds out that the host of a client or of an endpoint is gone.
pub(crate) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL)
}

/// An engine with open sockets that does not serve yet. Connections wait in the backlog.
#[derive(Debug)]
pub struct Bound {
    addresses: BTreeMap<String, SocketAddr>,
    /// By core, in the order of the configuration.
    sockets: Vec<Vec<(String, TcpListener)>>,
    shared: Arc<Shared>,
    config: Config,
}

/// Opens every listener on every core.
///
/// # Errors
/// [`Error::Listen`] for the first address that cannot be had, [`Error::DuplicateListener`].
pub fn bind(config: Config) -> Result<Bound, Error> {
    let cores = config.cores.max(1);
    let mut addresses = BTreeMap::new();
    let mut sockets: Vec<Vec<_>> = (0..cores).map(|_| Vec::new()).collect();
    for (listener, address) in &config.listeners {
        let failed = |source| Error::Listen { listener: listener.clone(), address: *address, source };
        let opened = open(*address, cores).map_err(failed)?;
        let bound = opened[0].local_addr().map_err(failed)?;
        if addresses.insert(listener.clone(), bound).is_some() {
            return Err(Error::DuplicateListener { listener: listener.clone() });
        }
        for (core, socket) in sockets.iter_mut().zip(opened) {
            core.push((listener.clone(), socket));
        }
    }
    Ok(Bound { addresses, sockets, shared: Arc::new(Shared::new(cores)), config })
}

/// One socket a core for the same address; the kernel spreads connections over them.
fn open(address: SocketAddr, cores: usize) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        // SO_REUSEPORT would let a second daemon of the same user take half of the connections, unnoticed. A socket
        // without it finds out whether somebody listens.
        new_socket(address)?.bind(&address.into())?;
    }
    let mut opened: Vec<TcpListener> = Vec::with_capacity(cores);
    for _ in 0..cores {
        let address = opened.first().map_or(Ok(address), TcpListener::local_addr)?;
        let socket = new_socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        opened.push(socket.into());
    }
    Ok(opened)
}

/// On Linux accepted sockets inherit these options.
fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Without it a restarted proxy waits for the last connections of the one before to be forgotten (TIME_WAIT).
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    Ok(socket)
}

impl Bound {
    /// Where each listener listens, with the port that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    /// The way in. Snapshots may be applied before [`Bound::run`]; until one is, every request is answered 404.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Serves until the drain begins, then stops accepting, finishes what it has and returns. Tunnels and endless
    /// responses are waited for, too: the caller bounds the wait and drops this future, which ends them.
    ///
    /// # Errors
    /// The first core that cannot start or that panics, in its accept loops, too; the others are then stopped at once.
    pub async fn run(self, readiness: readiness::Token, drain: drain::Watch) -> Result<(), Error> {
        // Order: `_alive` is dropped with this future, whatever ends it, and with it every core ends.
        let (_alive, abandoned) = watch::channel(());
        let connections = Arc::default();
        let count = self.sockets.len();
        let (end, mut ended) = mpsc::channel(count);
        let mut starting = Vec::with_capacity(count);
        for (core, listeners) in self.sockets.into_iter().enumerate() {
            let (started, start_seen) = oneshot::channel();
            starting.push(start_seen);
            let start = Start {
                core,
                listeners,
                limits: self.config.limits.clone(),
                access: self.config.access.clone(),
                shared: Arc::clone(&self.shared),
                connections: Arc::clone(&connections),
                drain: drain.clone(),
                abandoned: abandoned.clone(),
                started,
            };
            spawn(start, end.clone())?;
        }
        // The cores hold what they need: their senders and watches end with them.
        drop((self.config, drain, end));
        let mut have_started = true;
        for core in starting {
            have_started &= core.await.is_ok();
        }
        // A core that did not start is the first to have ended, below.
        if have_started {
            readiness.ready();
        }
        for _ in 0..count {
            ended.recv().await.expect("each core tells its end once")?;
        }
        Ok(())
    }
}

/// Starts the thread of one core, which tells its end in any case.
fn spawn(start: Start, end: mpsc::Sender<Result<(), Error>>) -> Result<(), Error> {
    let core = start.core;
    let life = move || {
        // Nothing of the core outlives it, so nobody can see what the panic left half done.
        let life = catch_unwind(AssertUnwindSafe(|| cores::run(start)));
        // Nobody takes it when the engine was given up; there is room for one end of each core.
        let _ = end.try_send(life.unwrap_or(Err(Error::CoreLost { core })));
    };
    let thread = std::thread::Builder::new().name(format!("proxy-{core}")).spawn(life);
    thread.map(drop).map_err(|source| Error::Thread { core, source })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use tokio::time::timeout;

    use super::*;
    use crate::config::Limits;

    #[tokio::test]
    async fn a_core_that_is_lost_ends_the_engine_while_the_others_run() {
        let listeners = vec![("gateway".to_owned(), SocketAddr::from(([127, 0, 0, 1], 0)))];
        let config = Config { cores: 2, listeners, limits: Limits::standard(), access: None };
        let mut bound = bind(config).unwrap();
        // What is no socket cannot be listened on.
        let socket = TcpListener::from(OwnedFd::from(File::open("/dev/null").unwrap()));
        bound.sockets[1][0].1 = socket;
        let (token, _ready) = readiness::channel();
        let (_trigger, watch) = drain::channel();
        let run = timeout(Duration::from_secs(10), bound.run(token, watch)).await;
        assert!(run.expect("the loss is seen at once").is_err());
    }
}
