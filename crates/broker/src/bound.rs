//! From a [`Config`] to a running broker: sockets, certificates and users first, so that what cannot be is found out before
//! anything else starts; then the loops that accept, and the way out: lame duck.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kit::tasks::Tasks;
use kit::{drain, readiness};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, crypto};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::broker::Broker;
use crate::config::{Config, JetStream, LameDuck, Tls};
use crate::connection;
use crate::error::Error;
use crate::handle::Handle;
use crate::jetstream;
use crate::monitor;
use crate::reason::Reason;
use crate::sockets::{Socket, Sockets};

/// Limit: how often a failing accept is tried again (no descriptors, no memory); clients wait in the backlog.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Limit: sockets beyond the most connections that are told so at the same time; others are closed without a word.
const REFUSALS_MAX: usize = 256;

/// A broker with open sockets that does not serve yet. Connections wait in the backlog.
#[derive(Debug)]
pub struct Bound {
    broker: Arc<Broker>,
    monitor: Option<SocketAddr>,
    tls: Option<Arc<ServerConfig>>,
    jetstream: Option<JetStream>,
    lame_duck: LameDuck,
}

/// Reads the certificates and opens the sockets.
///
/// # Errors
/// [`Error::Listen`], [`Error::Pem`], [`Error::Certificate`], [`Error::User`].
pub fn bind(config: &Config) -> Result<Bound, Error> {
    bind_on(config, &Sockets::bind(&[config.listen], config.monitor, &Sockets::default())?)
}

/// The same on sockets that are open; the configuration's own addresses are not looked at.
///
/// # Errors
/// [`Error::Pem`], [`Error::Certificate`], [`Error::User`].
pub fn bind_on(config: &Config, sockets: &Sockets) -> Result<Bound, Error> {
    let tls = config.tls.as_ref().map(load).transpose()?;
    let broker = Arc::new(Broker::new(config, sockets.clone())?);
    let (jetstream, lame_duck) = (config.jetstream.clone(), config.lame_duck.clone());
    Ok(Bound { broker, monitor: sockets.monitor_address(), tls: tls.map(Arc::new), jetstream, lame_duck })
}

fn load(tls: &Tls) -> Result<ServerConfig, Error> {
    let Tls { certificate, key } = tls;
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain: Vec<_> = chain.map_err(|source| Error::Pem { path: certificate.clone(), source })?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|source| Error::Pem { path: key.clone(), source })?;
    let failed = |source| Error::Certificate { certificate: certificate.clone(), key: key.clone(), source };
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(failed)?;
    config.with_no_client_auth().with_single_cert(chain, secret).map_err(failed)
}

impl Bound {
    /// Where clients connect, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.broker.address()
    }

    /// Where the monitoring is read, if anywhere.
    #[must_use]
    pub fn monitor_address(&self) -> Option<SocketAddr> {
        self.monitor
    }

    /// The way in. It works before [`Bound::run`], too.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.broker))
    }

    /// Serves until the drain begins, then asks clients to go elsewhere and closes them one by one ([`LameDuck`]).
    /// Dropping this future ends every connection.
    ///
    /// # Errors
    /// [`Error::Runtime`], [`Error::JetStream`].
    pub async fn run(self, readiness: readiness::Token, mut drain: drain::Watch) -> Result<(), Error> {
        let Self { broker, tls, jetstream, lame_duck, .. } = self;
        let (connections, over) = (Tasks::default(), CancellationToken::new());
        // Order: whatever ends this future ends the connections.
        let _over = over.clone().drop_guard();
        let (tls, tasks, mut sockets) = (tls.map(TlsAcceptor::from), connections.clone(), broker.sockets());
        let accept = Accept { broker: Arc::clone(&broker), tls, tasks, over: over.clone() };
        let (mut clients, mut monitor) = (Doors::default(), Doors::default());
        let mut go_over = |sockets: &Sockets| {
            let monitored = monitor.go_over(sockets.monitor.as_slice(), |listener, closed| {
                monitor::serve(Arc::clone(&broker), listener, closed)
            });
            let served = clients.go_over(&sockets.clients, |listener, closed| accept.clone().serve(listener, closed));
            monitored.and(served)
        };
        let jetstream = match jetstream {
            Some(config) => Some(jetstream::start(&broker, config).await.map_err(Error::jetstream)?),
            None => None,
        };
        // What cannot be served from the start fails here.
        go_over(&sockets.borrow_and_update())?;
        readiness.ready();
        loop {
            tokio::select! {
                () = drain.started() => break,
                // The broker has the sender, so that this never fails.
                _ = sockets.changed() => {}
            }
            if let Err(error) = go_over(&sockets.borrow_and_update()) {
                tracing::error!(error = %kit::Chain(&error), "a socket cannot be served");
            }
        }
        clients.close().await;
        broker.give_up_sockets();
        send_away(&broker, &connections, &lame_duck).await;
        over.cancel();
        connections.finished().await;
        if let Some(jetstream) = jetstream {
            jetstream.stop().await;
        }
        monitor.close().await;
        Ok(())
    }
}

/// The sockets that are served, each by a task.
#[derive(Default)]
struct Doors {
    open: Vec<(Arc<Socket>, DropGuard)>,
    tasks: Tasks,
}

impl Doors {
    /// Serves these and no others. Those that are served already go on.
    fn go_over<F>(
        &mut self,
        wanted: &[Arc<Socket>],
        serve: impl Fn(tokio::net::TcpListener, CancellationToken) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.open.retain(|(open, _)| wanted.iter().any(|socket| Arc::ptr_eq(open, socket)));
        for socket in wanted {
            if !self.open.iter().any(|(open, _)| Arc::ptr_eq(open, socket)) {
                let listener = socket.listener().map_err(|source| Error::Runtime { source })?;
                let closed = CancellationToken::new();
                self.tasks.spawn(serve(listener, closed.clone()));
                self.open.push((Arc::clone(socket), closed.drop_guard()));
            }
        }
        Ok(())
    }

    async fn close(mut self) {
        self.open.clear();
        self.tasks.finished().await;
    }
}

/// What a loop that accepts needs to start a connection.
#[derive(Clone)]
struct Accept {
    broker: Arc<Broker>,
    tls: Option<TlsAcceptor>,
    tasks: Tasks,
    over: CancellationToken,
}

impl Accept {
    async fn serve(self, listener: tokio::net::TcpListener, closed: CancellationToken) {
        loop {
            tokio::select! {
                () = closed.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => self.start(socket, peer),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn start(&self, socket: TcpStream, peer: SocketAddr) {
        let room = Room::take(&self.broker);
        let max = self.broker.limits.connections_max;
        if room.count > max {
            if room.count <= max + REFUSALS_MAX {
                self.tasks.spawn(async move {
                    connection::refuse(socket, Reason::MaxConnections).await;
                    drop(room);
                });
            }
            return;
        }
        self.broker.counts.connections_total.fetch_add(1, Ordering::Relaxed);
        let (broker, tls, over) = (Arc::clone(&self.broker), self.tls.clone(), self.over.clone());
        self.tasks.spawn(async move {
            connection::serve(broker, tls, socket, peer, over).await;
            drop(room);
        });
    }
}

/// One connection's share of the most that there may be; given back whatever ends it.
struct Room {
    broker: Arc<Broker>,
    count: usize,
}

impl Room {
    fn take(broker: &Arc<Broker>) -> Self {
        let count = broker.counts.connections.fetch_add(1, Ordering::AcqRel) + 1;
        Self { broker: Arc::clone(broker), count }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.broker.counts.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Tells clients to go elsewhere, gives them time, and closes those that stay, spread over the rest of the time. Returns
/// as soon as the last is gone.
async fn send_away(broker: &Broker, connections: &Tasks, lame_duck: &LameDuck) {
    broker.announce_lame_duck();
    if timeout(lame_duck.grace, connections.finished()).await.is_ok() {
        return;
    }
    let end = Instant::now() + lame_duck.duration;
    let mut clients = broker.clients();
    while let Some(client) = clients.pop() {
        client.outbound.close(Reason::ServerShutdown);
        let left = u32::try_from(clients.len()).unwrap_or(u32::MAX).max(1);
        let share = end.saturating_duration_since(Instant::now()) / left;
        if !clients.is_empty() && timeout(share, connections.finished()).await.is_ok() {
            return;
        }
    }
}
