//! From a [`Config`] to a running broker: sockets, certificates and users first, so that what cannot be is found out before
//! anything else starts; then the loop that accepts, and the way out: lame duck.

use std::io;
use std::net::{SocketAddr, TcpListener};
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
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::config::{Config, JetStream, LameDuck, Tls};
use crate::connection;
use crate::error::Error;
use crate::handle::Handle;
use crate::jetstream;
use crate::monitor;
use crate::reason::Reason;

/// Limit: how often a failing accept is tried again (no descriptors, no memory); clients wait in the backlog.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Limit: sockets beyond the most connections that are told so at the same time; others are closed without a word.
const REFUSALS_MAX: usize = 256;

/// A broker with open sockets that does not serve yet. Connections wait in the backlog.
#[derive(Debug)]
pub struct Bound {
    broker: Arc<Broker>,
    clients: TcpListener,
    monitor: Option<(TcpListener, SocketAddr)>,
    tls: Option<Arc<ServerConfig>>,
    jetstream: Option<JetStream>,
    lame_duck: LameDuck,
}

/// Opens the sockets and reads the certificates.
///
/// # Errors
/// [`Error::Listen`], [`Error::Pem`], [`Error::Certificate`], [`Error::User`].
pub fn bind(config: &Config) -> Result<Bound, Error> {
    let tls = config.tls.as_ref().map(load).transpose()?;
    let (clients, address) = listen(config.listen, "clients")?;
    let monitor = config.monitor.map(|address| listen(address, "monitoring")).transpose()?;
    let broker = Arc::new(Broker::new(config, address)?);
    let (jetstream, lame_duck) = (config.jetstream.clone(), config.lame_duck.clone());
    Ok(Bound { broker, clients, monitor, tls: tls.map(Arc::new), jetstream, lame_duck })
}

fn listen(address: SocketAddr, purpose: &'static str) -> Result<(TcpListener, SocketAddr), Error> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        io::Result::Ok((listener, bound))
    };
    open().map_err(|source| Error::Listen { address, purpose, source })
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
        self.broker.address
    }

    /// Where the monitoring is read, if anywhere.
    #[must_use]
    pub fn monitor_address(&self) -> Option<SocketAddr> {
        self.monitor.as_ref().map(|(_, address)| *address)
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
        let Self { broker, clients, monitor, tls, jetstream, lame_duck } = self;
        let failed = |source| Error::Runtime { source };
        let clients = tokio::net::TcpListener::from_std(clients).map_err(failed)?;
        let monitor = monitor.map(|(listener, _)| tokio::net::TcpListener::from_std(listener)).transpose();
        let monitor = monitor.map_err(failed)?;
        let (connections, monitoring, over) = (Tasks::default(), Tasks::default(), CancellationToken::new());
        // Order: whatever ends this future ends the connections.
        let _over = over.clone().drop_guard();
        if let Some(listener) = monitor {
            monitoring.spawn(monitor::serve(Arc::clone(&broker), listener, over.clone()));
        }
        let jetstream = match jetstream {
            Some(config) => Some(jetstream::start(&broker, config).await.map_err(Error::jetstream)?),
            None => None,
        };
        let (tls, tasks) = (tls.map(TlsAcceptor::from), connections.clone());
        let accept = Accept { broker: Arc::clone(&broker), tls, tasks, over };
        readiness.ready();
        loop {
            tokio::select! {
                () = drain.started() => break,
                accepted = clients.accept() => match accepted {
                    Ok((socket, peer)) => accept.start(socket, peer),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(clients);
        send_away(&broker, &connections, &lame_duck).await;
        accept.over.cancel();
        connections.finished().await;
        if let Some(jetstream) = jetstream {
            jetstream.stop().await;
        }
        monitoring.finished().await;
        Ok(())
    }
}

/// What the loop that accepts needs to start a connection.
struct Accept {
    broker: Arc<Broker>,
    tls: Option<TlsAcceptor>,
    tasks: Tasks,
    over: CancellationToken,
}

impl Accept {
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
