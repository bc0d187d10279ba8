//! The way in: commands for the loop, and what it publishes. Clones are handles to the same supervisor.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::change::Change;
use crate::config::Service;
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
    pub(crate) leave: CancellationToken,
}

/// What the loop can be asked.
#[derive(Debug)]
pub(crate) enum Command {
    Want {
        verb: Verb,
        /// `None` is every service, for a start only.
        services: Option<Vec<String>>,
        reply: Reply<()>,
    },
    Apply {
        services: Vec<Service>,
        wanted: BTreeSet<String>,
        refused: Refused,
        reply: Reply<Vec<Change>>,
    },
    Signal {
        /// Of a service one instance, or all.
        instances: Vec<(String, Option<u32>)>,
        signal: i32,
        reply: Reply<()>,
    },
}

/// What becomes of declarations that were taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// They are rolled out once more.
    Retry,
    /// What runs instead of them goes on.
    Keep,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Start,
    Stop,
    Restart,
    /// A restart without a build.
    Replace,
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

    /// Builds and prepares services again, and then replaces their instances, as [`crate::Update`] says. An instance goes
    /// on running where that fails. Returns when the wish is accepted; it is fulfilled when the instances have their
    /// service's generation and the service gives no reason why not: a rollout that is taken back takes the generation
    /// back, too.
    ///
    /// # Errors
    /// As [`Handle::start`].
    pub async fn restart(&self, services: Vec<String>) -> Result<(), Error> {
        self.send(Verb::Restart, Some(services)).await
    }

    /// Replaces the instances of services as [`Handle::restart`] does, from what is built and prepared already.
    ///
    /// # Errors
    /// As [`Handle::start`].
    pub async fn replace(&self, services: Vec<String>) -> Result<(), Error> {
        self.send(Verb::Replace, Some(services)).await
    }

    /// Ends the supervisor and nothing else: every instance goes on beside its shim, for the next one to adopt. Builds and
    /// probes end. [`crate::Bound::run`] returns when no task of it is left.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    /// Takes over a new full list of services, and touches only what differs. What is added starts if it is in `wanted`,
    /// and so does everything else that is in it or that it depends on; what runs and is not in it goes on. What is not
    /// in the list any more is drained, stopped and forgotten. A service with another process (command, build, working
    /// folder, environment, address, preparation) is rolled out, and goes back to its former declaration if that fails;
    /// what it needs and calls stays as the list says. One that failed so before, and has the same process still, is tried
    /// once more or not, as `refused` says. Other values hold at once, but for probes, which running
    /// instances keep until their next start. Returns what will become of each service, by name.
    ///
    /// # Errors
    /// Those of [`crate::bind`] for the list, and [`Error::UnknownService`] for `wanted`, and then nothing is changed;
    /// [`Error::Stopped`] once a drain has begun.
    pub async fn apply(
        &self,
        services: Vec<Service>,
        wanted: BTreeSet<String>,
        refused: Refused,
    ) -> Result<Vec<Change>, Error> {
        self.ask(|reply| Command::Apply { services, wanted, refused, reply }).await
    }

    /// Sends a signal (its number) to the process groups of instances, or of every instance, as if from outside: the restart
    /// policy decides what follows. Beyond what an instance has still to take in, signals are dropped.
    ///
    /// # Errors
    /// [`Error::Signal`] for a number without a name, else as [`Handle::start`].
    pub async fn kill(&self, instances: Vec<(String, Option<u32>)>, signal: i32) -> Result<(), Error> {
        self.ask(|reply| Command::Signal { instances, signal, reply }).await
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
        self.ask(|reply| Command::Want { verb, services, reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}
