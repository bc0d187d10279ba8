//! The outbox relay: rows that a service writes into a table of its own database, in the transaction of the change that
//! they tell of, become events, in the order of their commits, at least once, each with an id that stays. Called by the
//! daemon, which takes each [`Relay`] to a broker: none is known here. The table belongs to the service's migrations;
//! what a broker has acknowledged is deleted from it, what can never be published is moved to `<table>_refused`.

mod message;
mod outlet;
mod table;
mod wake;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kit::{drain, readiness};
use tokio::sync::{mpsc, watch};

use crate::Error;
use outlet::Outlet;

pub use message::Message;
pub use window::{Refusal, Ticket};

/// Everything that the relay is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub outboxes: Vec<Outbox>,
    pub limits: Limits,
}

/// A declared outbox. Plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// As declared: with `table` it names the outbox.
    pub database: String,
    /// The SQLite file, absolute. It may be missing, or be made anew at any time.
    pub path: PathBuf,
    pub table: String,
}

/// Bounds. What happens at each stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of one outbox that are handed over and not settled, and bytes of them; beyond it none is read. One row
    /// may be larger.
    pub window_rows_max: usize,
    pub window_bytes_max: usize,
    /// A row with more data is refused, without being read.
    pub data_bytes_max: usize,
    /// How long what is handed over may take to be settled when the relay ends. What is not is relayed again later.
    pub drain_max: Duration,
}

impl Limits {
    /// Those that the daemon uses.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            window_rows_max: 256,
            window_bytes_max: 8 << 20,
            data_bytes_max: 1 << 20,
            drain_max: Duration::from_secs(5),
        }
    }
}

/// One event on its way to a broker.
///
/// Whoever receives them publishes those of one outbox in the order in which they come, and asks [`Ticket::is_wanted`]
/// just before: after one that was not taken, what was sent behind it is not wanted any more, as it comes again, in
/// order. Publishing one before the one ahead of it is acknowledged keeps that promise only where none is stored unless
/// the one ahead of it was.
#[derive(Debug)]
pub struct Relay {
    pub database: String,
    pub table: String,
    pub topic: String,
    pub event: Message,
    pub ticket: Ticket,
}

/// How the outboxes stand, by database and table.
pub type Reading = BTreeMap<(String, String), OutboxReading>;

/// One outbox, counted since the relay began, but for the gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxReading {
    /// Acknowledged and deleted.
    pub relayed: u64,
    /// Moved to `<table>_refused`.
    pub refused: u64,
    /// The last refused row, with its reason.
    pub refused_last: Option<String>,
    /// Rows that wait, at most: gaps in their numbers are counted.
    pub backlog: u64,
    /// Rows handed over and not settled.
    pub in_flight: u64,
    /// Why nothing is relayed at the moment, where that is so.
    pub paused: Option<String>,
}

type Desired = BTreeMap<(String, String), Outbox>;
type Readings = Arc<Mutex<Reading>>;

/// The way into a running relay. Clones are the same.
#[derive(Clone, Debug)]
pub struct Handle {
    desired: watch::Sender<Desired>,
    readings: Readings,
}

impl Handle {
    /// Replaces the declared outboxes; the limits stay. Those that are gone are drained, their tables left as they are.
    ///
    /// # Errors
    /// [`Error::OutboxName`], [`Error::OutboxTwice`]: nothing has changed.
    pub fn apply(&self, config: &Config) -> Result<(), Error> {
        let desired = index(&config.outboxes)?;
        self.desired.send_replace(desired);
        Ok(())
    }

    /// How every outbox stands.
    #[must_use]
    pub fn read(&self) -> Reading {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A relay that may run.
#[derive(Debug)]
pub struct Bound {
    limits: Limits,
    relays: mpsc::Sender<Relay>,
    handle: Handle,
}

/// Checks the configuration. `relays` is where events go; the receiver's end is no reason to end.
///
/// # Errors
/// [`Error::OutboxName`], [`Error::OutboxTwice`].
pub fn bind(config: Config, relays: mpsc::Sender<Relay>) -> Result<Bound, Error> {
    let desired = watch::Sender::new(index(&config.outboxes)?);
    let handle = Handle { desired, readings: Readings::default() };
    Ok(Bound { limits: config.limits, relays, handle })
}

impl Bound {
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Relays until the drain, one task for each outbox. Ready at once: an outbox that cannot be read says so in its
    /// reading and is tried again.
    pub async fn run(self, readiness: readiness::Token, mut drain: drain::Watch) {
        readiness.ready();
        let tasks = kit::tasks::Tasks::default();
        let mut desired = self.handle.desired.subscribe();
        let mut running = BTreeMap::new();
        loop {
            let wanted = desired.borrow_and_update().clone();
            self.stop_others(&mut running, &wanted).await;
            for (name, outbox) in wanted {
                running.entry(name.clone()).or_insert_with(|| {
                    let (trigger, watch) = drain::channel();
                    let report = Report { name, readings: Arc::clone(&self.handle.readings) };
                    let outlet = Outlet::new(outbox.clone(), &self.limits, self.relays.clone(), report);
                    tasks.spawn(outlet.run(watch));
                    (outbox, trigger)
                });
            }
            tokio::select! {
                () = drain.started() => break,
                changed = desired.changed() => if changed.is_err() { break },
            }
        }
        for (_, trigger) in running.values() {
            trigger.start();
        }
        tasks.finished().await;
    }

    /// Ends those that are not wanted as they are. The new one of a name must not meet the old one, which may take
    /// [`Limits::drain_max`].
    async fn stop_others(&self, running: &mut BTreeMap<(String, String), (Outbox, drain::Trigger)>, wanted: &Desired) {
        let unwanted = running.extract_if(.., |name, (outbox, _)| wanted.get(name) != Some(outbox));
        let unwanted: Vec<_> = unwanted.collect();
        for (_, (_, trigger)) in &unwanted {
            trigger.start();
        }
        for (name, (_, trigger)) in unwanted {
            trigger.finish().await;
            self.handle.readings.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        }
    }
}

/// Where one outbox says how it stands.
#[derive(Debug)]
struct Report {
    name: (String, String),
    readings: Readings,
}

impl Report {
    fn update(&self, change: impl FnOnce(&mut OutboxReading)) {
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        change(readings.entry(self.name.clone()).or_default());
    }
}

fn index(outboxes: &[Outbox]) -> Result<Desired, Error> {
    let mut desired = Desired::new();
    let mut tables = BTreeSet::new();
    for outbox in outboxes {
        let (database, table) = (outbox.database.clone(), outbox.table.clone());
        let lower = table.to_ascii_lowercase();
        let is_ours = lower.starts_with("sqlite_") || lower.starts_with("atoll_");
        if table.is_empty() || table.contains(['\0', '"']) || is_ours {
            return Err(Error::OutboxName { database, table });
        }
        if !tables.insert((outbox.path.clone(), lower)) {
            return Err(Error::OutboxTwice { database, table });
        }
        desired.insert((database, table), outbox.clone());
    }
    Ok(desired)
}
