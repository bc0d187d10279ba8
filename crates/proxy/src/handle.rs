//! The way into a running proxy: new snapshots in, counts out. Cloned freely, called from any thread.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::balance::{Member, Service};
use crate::chronicle::Chronicle;
use crate::cores::Change;
use crate::counters::{self, Counters, Counts};
use crate::endpoint::{Endpoint, Endpoints, Ready};
use crate::error::Error;
use crate::guard::{Guard, Guards};
use crate::meters::{Meters, Readings, Subject};
use crate::policy::Balance;
use crate::snapshot::Snapshot;
use crate::story::Story;
use crate::switches::Switches;
use crate::table::Tables;
use crate::timers;

// Limit: listeners that come or go and that a core has not looked at yet; whoever changes more waits.
pub(crate) const LISTENER_CHANGES_MAX: usize = 64;

/// What one request sees from its head to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Current {
    /// `None` until the first snapshot was applied.
    snapshot: Option<Arc<Snapshot>>,
    pub(crate) tables: Tables,
    /// As routes without wishes of their own see them.
    pub(crate) services: HashMap<String, Arc<Service>>,
    /// Those of [`Tables::slots`].
    pub(crate) slots: Vec<Option<Arc<Service>>>,
    pub(crate) switches: Arc<Switches>,
}

/// Shared by the handle and the cores.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) current: ArcSwap<Current>,
    /// Grows after `current` has changed, so that a core need not touch what all share to know that it has not.
    pub(crate) version: AtomicU64,
    /// Tells the cores that endpoints may have gone. Carries the generation.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) counts: Vec<Arc<Counts>>,
    meters: Meters,
    guards: Guards,
    pub(crate) chronicle: Chronicle,
    /// By core: listeners that come and go.
    listeners: Vec<mpsc::Sender<Change>>,
    /// Held by whoever applies a snapshot: one at a time.
    endpoints: Mutex<Endpoints>,
}

impl Shared {
    pub(crate) fn new(listeners: Vec<mpsc::Sender<Change>>) -> Self {
        Self {
            current: ArcSwap::default(),
            version: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            counts: (0..listeners.len()).map(|core| Arc::new(Counts::of(core))).collect(),
            meters: Meters::new(listeners.len()),
            guards: Guards::new(listeners.len()),
            chronicle: Chronicle::default(),
            listeners,
            endpoints: Mutex::default(),
        }
    }
}

/// The way in. Works from the moment of `bind` until the process ends.
#[derive(Clone, Debug)]
pub struct Handle(pub(crate) Arc<Shared>);

impl Handle {
    /// Serves this snapshot from the next request on. One that is not newer than the present one is ignored; the
    /// first may have any generation.
    ///
    /// # Errors
    /// A rule that cannot be compiled. The present snapshot then goes on being served.
    pub fn apply(&self, snapshot: Snapshot) -> Result<(), Error> {
        let mut endpoints = self.0.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.0.current.load_full();
        let before = present.snapshot.as_deref();
        if before.is_some_and(|before| snapshot.generation <= before.generation) {
            return Ok(());
        }
        // Most changes are of endpoints: a start, an end, a failed probe. They leave every route as it is.
        let tables = match before {
            Some(before) if before.listeners == snapshot.listeners => present.tables.clone(),
            _ => {
                let tables = Tables::compile(&snapshot)?;
                self.0.meters.assign(&snapshot, &tables, Instant::now());
                self.0.guards.assign(&snapshot, &tables, &present.switches);
                tables
            }
        };
        let (ready, retired) = endpoints.apply(&snapshot, timers::now());
        let generation = snapshot.generation;
        let services = ready.iter().map(|(name, ready)| (name.clone(), shared(ready))).collect();
        let slots = slots(&tables, &ready, &services);
        let (snapshot, switches) = (Some(Arc::new(snapshot)), Arc::clone(&present.switches));
        self.0.current.store(Arc::new(Current { snapshot, tables, services, slots, switches }));
        self.0.version.fetch_add(1, Ordering::Release);
        retired.retire();
        self.0.changed.send_replace(generation);
        Ok(())
    }

    /// Switches everything as this says, from the next request on.
    pub fn switch(&self, switches: Switches) {
        // Held by whoever changes `current`.
        let _endpoints = self.0.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.0.current.load_full();
        self.0.guards.switch(&switches);
        self.0.current.store(Arc::new(Current { switches: Arc::new(switches), ..(*present).clone() }));
        self.0.version.fetch_add(1, Ordering::Release);
    }

    /// Closes the breaker of a route or an edge and forgets what it counted. `false` where there is none.
    pub fn reset_breaker(&self, subject: &Subject) -> bool {
        self.0.guards.reset(subject)
    }

    /// What is remembered of the requests of this id, the oldest first; with an empty id, the newest of all. At most `max`.
    #[must_use]
    pub fn stories(&self, request_id: &str, max: usize) -> Vec<Story> {
        self.0.chronicle.find(request_id, max)
    }

    /// Begins to accept on these sockets, one a core; further ones are closed. Each must not block. Returns when every
    /// core was told.
    pub(crate) async fn open(&self, name: &str, sockets: Vec<TcpListener>) {
        for (core, socket) in self.0.listeners.iter().zip(sockets) {
            // A core that is gone has ended the engine.
            let _ = core.send(Change::Open { name: name.to_owned(), socket }).await;
        }
    }

    /// Stops accepting on a listener. Whom the kernel has welcomed is served; each connection that it has ends with its
    /// next answer, or when it has been idle for too long.
    pub(crate) async fn close(&self, name: &str) {
        for core in &self.0.listeners {
            let _ = core.send(Change::Close { name: name.to_owned() }).await;
        }
    }

    /// Waits until no core will send a request to this endpoint any more and none is outstanding there: from then on
    /// its process may be stopped without a client noticing. Resolves at once for an endpoint that is not known. One
    /// that the newest snapshot has ready is waited for until a later one has it draining or not at all, and one that
    /// has left the snapshot is still waited for while it has requests.
    ///
    /// Unbounded, since an answer is: the caller adds its own limit. What has no end of its own is not waited for, from
    /// the moment its head is there: tunnels (WebSocket) and responses of the type `text/event-stream`.
    ///
    /// The endpoint is looked up when this is called, not when the future is first polled.
    pub fn drained(
        &self,
        service: &str,
        instance: u32,
        address: SocketAddr,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let endpoints = self.0.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.drained(service, instance, address)
    }

    /// The snapshot that is served, once there is one.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.0.current.load().snapshot.clone()
    }

    /// The tables that are served, for `explain`.
    #[must_use]
    pub fn tables(&self) -> Tables {
        self.0.current.load().tables.clone()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        counters::sum(&self.0.counts)
    }

    /// Everything that was counted so far, by route and edge. Adds up some hundred numbers a route and core: for whoever
    /// looks, not for a loop.
    #[must_use]
    pub fn read(&self) -> Readings {
        let mut readings = self.0.meters.read(&self.0.counts, Instant::now());
        let now = timers::now();
        readings.guards = self.0.guards.read(now);
        let current = self.0.current.load_full();
        for (slot, service) in current.tables.slots.iter().zip(&current.slots) {
            let guard = slot.route.as_ref().and_then(|route| route.guard.get());
            if let Some((guard, service)) = guard.zip(service.as_ref())
                && let Some(reading) = readings.guards.get_mut(&guard.subject)
            {
                service.read(&slot.service, now, reading);
            }
        }
        readings
    }
}

/// A service as those see it who wish nothing else.
fn shared(ready: &[Arc<Endpoint>]) -> Arc<Service> {
    let member = |endpoint: &Arc<Endpoint>| Member { endpoint: Arc::clone(endpoint), condition: None };
    Arc::new(Service::new(ready.iter().map(member).collect(), &Balance::PLAIN))
}

/// The services of the slots of some tables, each with what its route knows of the endpoints.
fn slots(tables: &Tables, ready: &Ready, shared: &HashMap<String, Arc<Service>>) -> Vec<Option<Arc<Service>>> {
    let mut kept: Vec<(&Arc<Guard>, HashSet<u64>)> = Vec::new();
    let slots = tables.slots.iter().map(|slot| {
        let Some((route, guard)) = slot.route.as_ref().and_then(|route| Some((route, route.guard.get()?))) else {
            return shared.get(&*slot.service).cloned();
        };
        let ready = ready.get(&*slot.service)?;
        let ids = ready.iter().map(|endpoint| endpoint.id);
        match kept.last_mut() {
            Some((last, known)) if Arc::ptr_eq(last, guard) => known.extend(ids),
            _ => kept.push((guard, ids.collect())),
        }
        let member = |endpoint: &Arc<Endpoint>| Member {
            endpoint: Arc::clone(endpoint),
            condition: Some(guard.condition(endpoint.id)),
        };
        Some(Arc::new(Service::new(ready.iter().map(member).collect(), &route.policy.balance)))
    });
    let slots = slots.collect();
    kept.iter().for_each(|(guard, endpoints)| guard.keep(endpoints));
    slots
}
