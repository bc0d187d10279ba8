//! From a [`Config`] to a running engine: sockets first, so that addresses are known and taken ports are found out
//! before anything else starts; then one thread a core.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kit::{drain, readiness};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::cores::{self, Change, Start};
use crate::error::Error;
use crate::handle::{Handle, LISTENER_CHANGES_MAX, Shared};
use crate::rooms::Rooms;
use crate::sockets;

/// An engine with open sockets that does not serve yet. Connections wait in the backlog.
#[derive(Debug)]
pub struct Bound {
    addresses: BTreeMap<String, SocketAddr>,
    /// By core, in the order of the configuration.
    sockets: Vec<Vec<(String, TcpListener)>>,
    /// By core: listeners that come and go.
    changes: Vec<mpsc::Receiver<Change>>,
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
        let opened = sockets::open(*address, cores, sockets::Check::Strangers).map_err(failed)?;
        let bound = opened[0].local_addr().map_err(failed)?;
        if addresses.insert(listener.clone(), bound).is_some() {
            return Err(Error::DuplicateListener { listener: listener.clone() });
        }
        for (core, socket) in sockets.iter_mut().zip(opened) {
            core.push((listener.clone(), socket));
        }
    }
    let (senders, changes) = (0..cores).map(|_| mpsc::channel(LISTENER_CHANGES_MAX)).unzip();
    Ok(Bound { addresses, sockets, changes, shared: Arc::new(Shared::new(senders)), config })
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
        let rooms = Arc::new(Rooms::default());
        let count = self.sockets.len();
        let (end, mut ended) = mpsc::channel(count);
        let mut starting = Vec::with_capacity(count);
        for (core, (listeners, changes)) in self.sockets.into_iter().zip(self.changes).enumerate() {
            let (started, start_seen) = oneshot::channel();
            starting.push(start_seen);
            let start = Start {
                core,
                listeners,
                changes,
                limits: self.config.limits.clone(),
                access: self.config.access.clone(),
                shared: Arc::clone(&self.shared),
                rooms: Arc::clone(&rooms),
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
    use std::time::Duration;

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
