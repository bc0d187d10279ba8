//! What all connections share: the index, the users, who is connected and who was. Locks are held for a look, never across
//! a message's way.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::auth::{self, Users};
use crate::client::{Client, Further};
use crate::config::{self, Config, Limits};
use crate::error::Error;
use crate::jetstream;
use crate::protocol::{Bounds, Info, VERSION};
use crate::reason::Reason;
use crate::sockets::Sockets;
use crate::subject;
use crate::sublist::Sublist;
use crate::subscription::Subscription;

/// Shared by the handle and every connection.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) server_id: String,
    pub(crate) name: String,
    pub(crate) limits: Limits,
    pub(crate) sublist: Sublist,
    pub(crate) started: (Instant, Timestamp),
    pub(crate) counts: Counts,
    has_jetstream: bool,
    jetstream: OnceLock<Arc<jetstream::Shared>>,
    has_tls: bool,
    sockets: watch::Sender<Sockets>,
    users: RwLock<Arc<Users>>,
    clients: Mutex<HashMap<u64, Arc<Client>>>,
    closed: Mutex<VecDeque<Closed>>,
    client_last: AtomicU64,
    /// Whether clients are asked to go elsewhere.
    is_lame: AtomicBool,
}

/// Sums over all connections that have ended, and over time.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Sockets that are open, those without a client too.
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_total: AtomicU64,
    pub(crate) slow_consumers: AtomicU64,
    /// Messages that readers in this process had no room for.
    pub(crate) missed: AtomicU64,
    pub(crate) stale_connections: AtomicU64,
    pub(crate) in_messages: AtomicU64,
    pub(crate) in_bytes: AtomicU64,
    pub(crate) out_messages: AtomicU64,
    pub(crate) out_bytes: AtomicU64,
}

/// A connection that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    pub(crate) client: Arc<Client>,
    pub(crate) stopped: Timestamp,
    pub(crate) reason: Reason,
}

impl Broker {
    /// # Errors
    /// [`Error::User`].
    pub(crate) fn new(config: &Config, sockets: Sockets) -> Result<Self, Error> {
        Ok(Self {
            server_id: kit::ids::unique(),
            name: config.name.clone(),
            limits: config.limits.clone(),
            sublist: Sublist::default(),
            started: (Instant::now(), Timestamp::now()),
            counts: Counts::default(),
            has_jetstream: config.jetstream.is_some(),
            jetstream: OnceLock::new(),
            has_tls: config.tls.is_some(),
            sockets: watch::Sender::new(sockets),
            users: RwLock::new(Arc::new(Users::compile(&config.users)?)),
            clients: Mutex::default(),
            closed: Mutex::default(),
            client_last: AtomicU64::new(0),
            is_lame: AtomicBool::new(false),
        })
    }

    /// Where clients are told to connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.sockets.borrow().address().unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// What it is to listen on, from one moment to the next.
    pub(crate) fn sockets(&self) -> watch::Receiver<Sockets> {
        self.sockets.subscribe()
    }

    /// Leaves its sockets to whoever else has them.
    pub(crate) fn give_up_sockets(&self) {
        self.sockets.send_modify(Sockets::give_up);
    }

    /// Listens on these alone from now on.
    pub(crate) fn listen(&self, sockets: Sockets) {
        self.sockets.send_replace(sockets);
    }

    pub(crate) fn users(&self) -> Arc<Users> {
        Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the users. Whose user is gone, or proves itself otherwise, is cut; whose user may do something else goes on,
    /// without the subscriptions that it may not have any more.
    ///
    /// # Errors
    /// [`Error::User`]; the users then stay as they were.
    pub(crate) fn set_users(&self, users: &[config::User]) -> Result<(), Error> {
        let (users, regranted) = {
            let mut present = self.users.write().unwrap_or_else(PoisonError::into_inner);
            let (next, regranted) = present.followed_by(users)?;
            *present = Arc::new(next);
            (Arc::clone(&present), regranted.grant())
        };
        // Order: publishers that keep answers ask again, with the new users.
        self.sublist.outdate();
        for client in self.clients() {
            let Some(user) = client.said().user.clone() else { continue };
            if !users.has(&user) {
                client.outbound.close(Reason::CredentialsRevoked);
            } else if regranted.iter().any(|regranted| Arc::ptr_eq(regranted, &user)) {
                self.end_forbidden(&client);
            }
        }
        Ok(())
    }

    /// What the monitoring says of JetStream; nothing before it runs.
    pub(crate) fn jetstream(&self) -> Option<&jetstream::Shared> {
        self.jetstream.get().map(|shared| &**shared)
    }

    /// Once, when it runs.
    pub(crate) fn set_jetstream(&self, shared: Arc<jetstream::Shared>) {
        // A second one is not made.
        drop(self.jetstream.set(shared));
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { control_line_max: self.limits.control_line_max, payload_max: self.limits.payload_max }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.client_last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A nonce for a new connection, where one is of use.
    pub(crate) fn nonce(&self) -> Result<Option<String>, Error> {
        if self.users().has_keys() { auth::nonce().map(Some) } else { Ok(None) }
    }

    pub(crate) fn info(&self, client_id: u64, peer: SocketAddr, nonce: Option<&str>) -> Info {
        let address = self.address();
        Info {
            server_id: self.server_id.clone(),
            server_name: self.name.clone(),
            version: VERSION,
            proto: 1,
            go: "",
            host: address.ip().to_string(),
            port: address.port(),
            headers: true,
            auth_required: self.users().is_closed(),
            tls_required: self.has_tls,
            max_payload: self.limits.payload_max,
            jetstream: self.has_jetstream,
            client_id,
            client_ip: peer.ip().to_string(),
            nonce: nonce.map(str::to_owned),
            ldm: self.is_lame.load(Ordering::Relaxed),
            connect_info: false,
            remote_account: None,
        }
    }

    pub(crate) fn register(&self, client: &Arc<Client>) {
        self.lock_clients().insert(client.id, Arc::clone(client));
    }

    /// Ends what a client had and keeps what is told of it afterwards.
    pub(crate) fn unregister(&self, client: &Arc<Client>, reason: Reason) {
        self.lock_clients().remove(&client.id);
        self.end_all(client, Further::Refused);
        let (sent, received, add) = (client.outbound.sent(), &client.received, Ordering::Relaxed);
        self.counts.in_messages.fetch_add(received.messages.load(add), add);
        self.counts.in_bytes.fetch_add(received.bytes.load(add), add);
        self.counts.out_messages.fetch_add(sent.messages, add);
        self.counts.out_bytes.fetch_add(sent.bytes, add);
        if reason.is_slow() {
            self.counts.slow_consumers.fetch_add(1, add);
        }
        if reason == Reason::StaleConnection {
            self.counts.stale_connections.fetch_add(1, add);
        }
        client.outbound.abandon();
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.push_back(Closed { client: Arc::clone(client), stopped: Timestamp::now(), reason });
        let surplus = closed.len().saturating_sub(self.limits.closed_connections_max);
        closed.drain(..surplus);
    }

    pub(crate) fn clients(&self) -> Vec<Arc<Client>> {
        self.lock_clients().values().cloned().collect()
    }

    pub(crate) fn closed(&self) -> Vec<Closed> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Takes out one subscription, unless somebody did; `false` then.
    pub(crate) fn end(&self, subscription: &Arc<Subscription>) -> bool {
        if !subscription.close() {
            return false;
        }
        if let Some(client) = subscription.client() {
            client.remove(subscription);
        }
        self.sublist.remove([subscription]);
        true
    }

    /// Takes out what a client's user may not have any more and says so, in the words of nats-server's reload.
    fn end_forbidden(&self, client: &Client) {
        for subscription in client.forbidden_subscriptions() {
            if self.end(&subscription) {
                let (subject, sid) = (subject::quoted(subscription.subject()), subject::quoted(subscription.sid()));
                client.refuse(&format!("Permissions Violation for Subscription to {subject} (sid {sid})"));
            }
        }
    }

    /// Takes out every subscription of a client.
    pub(crate) fn end_all(&self, client: &Client, further: Further) {
        let mut subscriptions = client.remove_all(further);
        subscriptions.retain(|subscription| subscription.close());
        self.sublist.remove(&subscriptions);
    }

    /// Tells every client that takes it to go elsewhere.
    pub(crate) fn announce_lame_duck(&self) {
        self.is_lame.store(true, Ordering::Relaxed);
        for client in self.clients() {
            let takes_info = client.said().takes_info;
            if takes_info {
                client.send(&self.info(client.id, client.address, None).line());
            }
        }
    }

    fn lock_clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
