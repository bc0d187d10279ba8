//! What others see of a connection: its buffer, its subscriptions, what it has said about itself, its counts. The connection's
//! own task is in `connection`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use hashbrown::{DefaultHashBuilder, HashTable};
use jiff::Timestamp;
use std::hash::BuildHasher;
use tokio::net::TcpStream;

use crate::auth::User;
use crate::outbound::{Outbound, Pushed};
use crate::sublist::Sublist;
use crate::subscription::Subscription;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    pub(crate) started: (Instant, Timestamp),
    pub(crate) outbound: Outbound,
    /// Where whoever has filled the buffer may write it out itself: not under TLS. Weak, because the task alone decides when
    /// it is closed.
    socket: Option<Weak<TcpStream>>,
    pub(crate) has_headers: AtomicBool,
    pub(crate) has_echo: AtomicBool,
    pub(crate) received: Received,
    said: Mutex<Said>,
    subscriptions: Mutex<Subscriptions>,
}

/// Counts of what the client has sent. Written by its own task alone.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Milliseconds from its start to the last time that it sent anything.
    pub(crate) active_ms: AtomicU64,
}

/// What a client has said about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) user: Option<Arc<User>>,
    pub(crate) name: String,
    pub(crate) lang: String,
    pub(crate) version: String,
    /// Whether INFO may be sent at any time.
    pub(crate) takes_info: bool,
}

#[derive(Debug, Default)]
struct Subscriptions {
    hasher: DefaultHashBuilder,
    by_sid: HashTable<Arc<Subscription>>,
    is_closed: bool,
}

/// What became of a new subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    New,
    /// There is one with this sid.
    Known,
    /// There are as many as may be, or the client is gone.
    Full,
    /// Its user may not have it any more.
    Denied,
}

impl Client {
    pub(crate) fn new(id: u64, address: SocketAddr, socket: Option<Weak<TcpStream>>, pending_max: usize) -> Self {
        Self {
            id,
            address,
            started: (Instant::now(), Timestamp::now()),
            outbound: Outbound::new(pending_max),
            socket,
            has_headers: AtomicBool::new(false),
            has_echo: AtomicBool::new(true),
            received: Received::default(),
            said: Mutex::default(),
            subscriptions: Mutex::default(),
        }
    }

    pub(crate) fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends bytes of the protocol at once.
    pub(crate) fn send(&self, bytes: &[u8]) {
        if self.outbound.push_bytes(bytes) == Pushed::Claimed {
            self.flush();
        }
    }

    /// An error that does not end the connection.
    pub(crate) fn refuse(&self, error: &str) {
        tracing::debug!(client = self.id, error, "refused");
        self.send(format!("-ERR '{error}'\r\n").as_bytes());
    }

    /// Writes what waits, here where possible, else by the connection's own writer.
    pub(crate) fn flush(&self) {
        match self.socket.as_ref().and_then(Weak::upgrade) {
            Some(socket) => self.outbound.flush(&socket),
            None => self.outbound.wake.notify_one(),
        }
    }

    pub(crate) fn mark_active(&self) {
        let elapsed = u64::try_from(self.started.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.received.active_ms.store(elapsed, Ordering::Relaxed);
    }

    /// Adds a subscription, here and in the index, if none has its sid and there is room for it.
    pub(crate) fn add(&self, subscription: &Arc<Subscription>, index: &Sublist, max: usize) -> Added {
        let mut guard = self.subscriptions();
        let Subscriptions { hasher, by_sid, is_closed } = &mut *guard;
        if *is_closed || by_sid.len() >= max {
            return Added::Full;
        }
        let hash = |subscription: &Arc<Subscription>| hasher.hash_one(subscription.sid());
        let is_same = |known: &Arc<Subscription>| known.sid() == subscription.sid();
        match by_sid.entry(hash(subscription), is_same, hash) {
            hashbrown::hash_table::Entry::Occupied(_) => Added::Known,
            // Order: under the lock. Whoever changes permissions looks here afterwards: either it finds this one, whole, or
            // this one finds them changed.
            hashbrown::hash_table::Entry::Vacant(_) if !subscription.is_allowed() => Added::Denied,
            hashbrown::hash_table::Entry::Vacant(entry) => {
                entry.insert(Arc::clone(subscription));
                index.insert(Arc::clone(subscription));
                Added::New
            }
        }
    }

    pub(crate) fn find(&self, sid: &[u8]) -> Option<Arc<Subscription>> {
        let guard = self.subscriptions();
        let hash = guard.hasher.hash_one(sid);
        guard.by_sid.find(hash, |known| known.sid() == sid).cloned()
    }

    pub(crate) fn remove(&self, subscription: &Subscription) {
        let mut guard = self.subscriptions();
        let hash = guard.hasher.hash_one(subscription.sid());
        if let Ok(entry) = guard.by_sid.find_entry(hash, |known| std::ptr::eq(&**known, subscription)) {
            entry.remove();
        }
    }

    /// Takes all of them. With [`Further::Refused`] it has none from now on.
    pub(crate) fn remove_all(&self, further: Further) -> Vec<Arc<Subscription>> {
        let mut guard = self.subscriptions();
        guard.is_closed = further == Further::Refused;
        std::mem::take(&mut guard.by_sid).into_iter().collect()
    }

    /// Those that their users may not have any more.
    pub(crate) fn forbidden_subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.subscriptions().by_sid.iter().filter(|subscription| !subscription.is_allowed()).cloned().collect()
    }

    pub(crate) fn subscriptions_len(&self) -> usize {
        self.subscriptions().by_sid.len()
    }

    /// The first so many, for the monitoring.
    pub(crate) fn some_subscriptions(&self, max: usize) -> Vec<Arc<Subscription>> {
        self.subscriptions().by_sid.iter().take(max).cloned().collect()
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a client may subscribe again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Further {
    Allowed,
    Refused,
}
