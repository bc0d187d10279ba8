//! The way in: commands for the loop, and what it publishes. Clones are handles to the same supervisor.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::event::{Event, Events};
use crate::status::Snapshot;
use crate::{Error, logs};

/// Limit: commands that wait for the loop; further callers wait for their turn.
pub(crate) const COMMANDS_MAX: usize = 64;

/// Controls and observes a supervisor.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) events: Events,
    pub(crate) lines: broadcast::Sender<Arc<logs::Line>>,
}

/// What the loop can be asked.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) verb: Verb,
    /// Known to be non-empty only for a start; `None` is every service.
    pub(crate) services: Option<Vec<String>>,
    pub(crate) reply: oneshot::Sender<Result<(), Error>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Start,
    Stop,
    Restart,
}

impl Handle {
    /// Wants services running, with everything that they depend on; `None` means all. What runs already is left alone,
    /// what failed or waits is tried again at once. Returns when the wish is accepted: follow it with [`Handle::watch`].
    ///
    /// # Errors
    /// [`Error::UnknownService`], and then nothing is changed; [`Error::Stopped`] once a drain has begun.
    pub async fn start(&self, services: Option<Vec<String>>) -> Result<(), Error> {
        self.send(Verb::Start, services).await
    }

    /// Wants services stopped, dependents before what they depend on. Returns when the wish is accepted.
    ///
    /// # Errors
    /// As [`Handle::start`].
    pub async fn stop(&self, services: Vec<String>) -> Result<(), Error> {
        self.send(Verb::Stop, Some(services)).await
    }

    /// Builds and prepares services again, and then replaces their instances. An instance goes on running where that
    /// fails. Returns when the wish is accepted; it is fulfilled when the instances have their service's generation.
    ///
    /// # Errors
    /// As [`Handle::start`].
    pub async fn restart(&self, services: Vec<String>) -> Result<(), Error> {
        self.send(Verb::Restart, Some(services)).await
    }

    /// All services now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Follows the snapshots; intermediate ones may be skipped, the last never is.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// The recent events, oldest first, and what comes after exactly those. A slow receiver is told `Lagged`.
    #[must_use]
    pub fn events(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        self.events.subscribe()
    }

    /// The lines that instances write from now on. A slow receiver is told `Lagged`; nothing waits for it.
    #[must_use]
    pub fn logs(&self) -> broadcast::Receiver<Arc<logs::Line>> {
        self.lines.subscribe()
    }

    async fn send(&self, verb: Verb, services: Option<Vec<String>>) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command { verb, services, reply }).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}
