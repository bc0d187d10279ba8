//! The daemon's way to the data plane, whichever process that is at the moment. Cloned freely; nothing here waits for a
//! process but what says so.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::config::Limits;
use crate::counters::Counters;
use crate::error::Error;
use crate::meters::{Readings, Subject};
use crate::plane::held::Held;
use crate::plane::life::Wanted;
use crate::snapshot::Snapshot;
use crate::story::Story;
use crate::switches::Switches;
use crate::table::Tables;

// Limit: processes that were lost, of which a slow receiver has not heard yet; then it hears of the newest.
const LOSSES_MAX: usize = 16;

/// A process that did not end because it was to. Another one is started in its place.
#[derive(Clone, Debug)]
pub struct Loss {
    pub pid: u32,
    /// In words.
    pub how: String,
}

/// What the loop of [`crate::plane::Bound`] is asked for.
#[derive(Debug)]
pub(crate) enum Ask {
    Drained { service: String, instance: u32, address: SocketAddr, reply: oneshot::Sender<()> },
    Read { reply: oneshot::Sender<Readings> },
    ResetBreaker { subject: Subject },
    Stories { request_id: String, max: usize, reply: oneshot::Sender<Vec<Story>> },
    Limit { limits: Limits },
    Replace { reply: oneshot::Sender<Result<(), Error>> },
    Leave,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) losses: broadcast::Sender<Loss>,
    pub(crate) pid: watch::Sender<Option<u32>>,
    pub(crate) totals: Mutex<Totals>,
    serving: Mutex<Serving>,
    cores: usize,
}

/// What is served, as far as the daemon compiles it.
#[derive(Debug)]
struct Serving {
    /// Of the last snapshot, of this daemon or of one before it.
    generation: u64,
    tables: Tables,
}

/// Counters of processes that have ended, and of those that run.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    ended: Counters,
    running: BTreeMap<u64, Counters>,
}

impl Totals {
    pub(crate) fn tell(&mut self, life: u64, counters: Counters) {
        self.running.insert(life, counters);
    }

    /// What was open has ended with it.
    pub(crate) fn end(&mut self, life: u64) {
        let last = self.running.remove(&life).unwrap_or_default();
        self.ended += Counters { connections_active: 0, requests_active: 0, ..last };
    }
}

/// The way in. Works from the moment of `bind`; what is asked before [`crate::plane::Bound::run`] waits for that.
#[derive(Clone, Debug)]
pub struct Handle(pub(crate) Arc<Shared>);

impl Handle {
    pub(crate) fn new(held: Held, generation: u64, cores: usize, asks: mpsc::Sender<Ask>) -> Self {
        Self(Arc::new(Shared {
            wanted: watch::Sender::new(Wanted { held, snapshot: None, switches: Arc::default() }),
            asks,
            losses: broadcast::channel(LOSSES_MAX).0,
            pid: watch::Sender::new(None),
            totals: Mutex::default(),
            serving: Mutex::new(Serving { generation, tables: Tables::default() }),
            cores,
        }))
    }

    /// Has this snapshot served soon; one that comes before that is passed over. Its generation is chosen here, greater
    /// than every one before it, those of former daemons included.
    ///
    /// # Errors
    /// A rule that cannot be compiled. What is served stays as it is.
    pub fn apply(&self, mut snapshot: Snapshot) -> Result<(), Error> {
        let mut serving = lock(&self.0.serving);
        let before = self.snapshot();
        if before.is_none_or(|before| before.listeners != snapshot.listeners) {
            serving.tables = Tables::compile(&snapshot)?;
        }
        serving.generation += 1;
        snapshot.generation = serving.generation;
        self.0.wanted.send_modify(|wanted| wanted.snapshot = Some(Arc::new(snapshot)));
        Ok(())
    }

    /// Opens what is new and closes what is not named. What stays, under its name or another, is not interrupted; the
    /// connections of what goes end with their next answer. Returns where each listener listens.
    ///
    /// # Errors
    /// [`Error::Listen`] for the first address that cannot be had, [`Error::DuplicateListener`]. Nothing is changed then.
    pub fn listen(&self, listeners: &[(String, SocketAddr)]) -> Result<BTreeMap<String, SocketAddr>, Error> {
        // One change at a time.
        let _serving = lock(&self.0.serving);
        let present = self.0.wanted.borrow().held.clone();
        let held = present.with(listeners, self.0.cores)?;
        let addresses = held.addresses();
        self.0.wanted.send_modify(|wanted| wanted.held = held);
        Ok(addresses)
    }

    /// Waits until no process will send a request to this endpoint any more and none is outstanding there, as
    /// [`crate::Handle::drained`] does for one engine. A process that ends has nothing outstanding any more.
    ///
    /// Unbounded: the caller adds its own limit. Resolves at once when the data plane is not run any more.
    pub fn drained(
        &self,
        service: &str,
        instance: u32,
        address: SocketAddr,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let asks = self.0.asks.clone();
        let (reply, replied) = oneshot::channel();
        let ask = Ask::Drained { service: service.to_owned(), instance, address, reply };
        async move {
            let _ = asks.send(ask).await;
            let _ = replied.await;
        }
    }

    /// What every process together has counted, by route and edge: asked of those that run, which is all that it costs
    /// them. One that does not answer within a second counts as it did last; of one that was killed, what came after it
    /// was last asked is lost, so that no count ever goes back while this daemon lives.
    pub async fn read(&self) -> Readings {
        let (reply, replied) = oneshot::channel();
        let _ = self.0.asks.send(Ask::Read { reply }).await;
        replied.await.unwrap_or_default()
    }

    /// Switches everything as this says, soon and in every process to come. Who needs to know that it is so asks anything
    /// of [`Handle::read`] afterwards: whoever answers that has been told.
    pub fn switch(&self, switches: Switches) {
        self.0.wanted.send_modify(|wanted| wanted.switches = Arc::new(switches));
    }

    /// Has every process close this breaker and forget what it counted, where it has one. What is forced stays so; that
    /// it is done can be known as with [`Handle::switch`].
    pub async fn reset_breaker(&self, subject: &Subject) {
        let _ = self.0.asks.send(Ask::ResetBreaker { subject: subject.clone() }).await;
    }

    /// What is remembered of the requests of this id, the oldest first; with an empty id, the newest of all. At most `max`,
    /// and no more than 4,096. Every process is asked; one that does not answer within a second is passed over.
    pub async fn stories(&self, request_id: &str, max: usize) -> Vec<Story> {
        let (reply, replied) = oneshot::channel();
        let _ = self.0.asks.send(Ask::Stories { request_id: request_id.to_owned(), max, reply }).await;
        replied.await.unwrap_or_default()
    }

    /// Starts another process on the same sockets and, once that serves, has the present one finish what it has: what an
    /// upgrade does. Returns when the new one serves.
    ///
    /// # Errors
    /// [`Error::Plane`] when the new one ends before it serves; the present one then goes on. [`Error::Ended`].
    pub async fn replace(&self) -> Result<(), Error> {
        let (reply, replied) = oneshot::channel();
        let _ = self.0.asks.send(Ask::Replace { reply }).await;
        replied.await.unwrap_or(Err(Error::Ended))
    }

    /// Has these limits hold from now on. A process keeps those that it was told first, so that others are for a new one:
    /// it takes over as one of [`Handle::replace`] does, and until it serves the former limits hold.
    pub async fn limit(&self, limits: Limits) {
        let _ = self.0.asks.send(Ask::Limit { limits }).await;
    }

    /// Ends [`crate::plane::Bound::run`] and leaves the process as it is: it goes on with the last snapshot.
    pub async fn leave(&self) {
        let _ = self.0.asks.send(Ask::Leave).await;
    }

    /// Where each listener listens.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.0.wanted.borrow().held.addresses()
    }

    /// The snapshot that is to be served, once there is one.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.0.wanted.borrow().snapshot.clone()
    }

    /// The tables of that snapshot, for `explain`.
    #[must_use]
    pub fn tables(&self) -> Tables {
        lock(&self.0.serving).tables.clone()
    }

    /// What every process together has counted, as far as was told: a quarter of a second ago, or as it ended.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let totals = lock(&self.0.totals);
        totals.running.values().fold(totals.ended, |mut sum, counters| {
            sum += *counters;
            sum
        })
    }

    /// The processes that are lost from now on.
    #[must_use]
    pub fn losses(&self) -> broadcast::Receiver<Loss> {
        self.0.losses.subscribe()
    }

    /// The process that serves, if one does.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        *self.0.pid.borrow()
    }
}

/// What is behind these locks is changed in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
