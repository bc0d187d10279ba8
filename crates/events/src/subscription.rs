//! One task a subscription: reads its stream and delivers. Called by `bound`, which starts it, and by `handle`, which asks
//! it through its [`Remote`].
//!
//! `lanes` decides, purely, what is sent when; `delivering` does it: `cursor` reads, `courier` sends, `store` keeps.

mod courier;
pub(crate) mod cursor;
mod delivering;
pub(crate) mod kept;
mod lanes;
mod progress;
mod raw;
pub(crate) mod store;

use std::sync::Arc;

use kit::drain;
use kit::tasks::Tasks;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use courier::Courier;
use delivering::Delivering;
use kept::Kept;

use crate::config::{Limits, Since, Subscription};
use crate::error::Error;
use crate::event::Event;
use crate::filter::Filter;
use crate::key::Key;
use crate::link::Link;
use crate::reading::{Replay, SubscriptionReading};

/// Limit: what is asked of a subscription waits here.
const COMMANDS_MAX: usize = 64;

/// A subscription that was looked at: its filter compiled, its key parsed.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) config: Subscription,
    pub(crate) filter: Option<Filter>,
    pub(crate) key: Option<Key>,
    courier: Arc<Courier>,
}

impl Compiled {
    /// # Errors
    /// [`Error::Subscription`].
    pub(crate) fn new(config: &Subscription) -> Result<Self, Error> {
        let wrong = |reason| Error::Subscription { subscription: config.name.clone(), reason };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if config.name.is_empty() || !config.name.chars().all(is_name) {
            return Err(wrong("its name is more than letters, digits, `-` and `_`".to_owned()));
        }
        let filter = config.filter.as_deref().map(Filter::compile).transpose();
        let filter = filter.map_err(|reason| wrong(format!("its filter is none: {reason}")))?;
        let key = config.key.as_deref().map(Key::parse).transpose().map_err(wrong)?;
        let courier = Courier::new(config.edge, &config.path, &config.name, config.ack_wait).map_err(wrong)?;
        Ok(Self { config: config.clone(), filter, key, courier: Arc::new(courier) })
    }
}

/// What it is given.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) link: Link,
    pub(crate) limits: Limits,
    /// Everything that it spawns is spawned here.
    pub(crate) tasks: Tasks,
}

/// The way to a subscription that runs. Cloned freely.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) reading: watch::Receiver<SubscriptionReading>,
    commands: mpsc::Sender<Command>,
}

/// What is asked of a subscription.
#[derive(Debug)]
enum Command {
    Redrive { letter: u64, kept: Box<Kept>, event: Box<Event>, reply: Reply<()> },
    Drop { letter: u64, number: u64, reply: Reply<()> },
    Replay { since: Since, reply: Reply<Replay> },
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

impl Remote {
    /// Tries a dead letter again, now; `event` is what is delivered. The dead letter is gone when this returns.
    ///
    /// # Errors
    /// [`Error::Busy`] while the event is under way in another way, [`Error::Ended`].
    pub(crate) async fn redrive(&self, letter: u64, kept: Kept, event: Event) -> Result<(), Error> {
        let (kept, event) = (Box::new(kept), Box::new(event));
        self.ask(|reply| Command::Redrive { letter, kept, event, reply }).await
    }

    /// Gives up a dead letter, and what waits for it goes on.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Ended`].
    pub(crate) async fn drop_letter(&self, letter: u64, number: u64) -> Result<(), Error> {
        self.ask(|reply| Command::Drop { letter, number, reply }).await
    }

    /// Delivers again. Waits until what is in flight has ended.
    ///
    /// # Errors
    /// [`Error::Busy`] during another one that has not begun, [`Error::Ended`].
    pub(crate) async fn replay(&self, since: Since) -> Result<Replay, Error> {
        self.ask(|reply| Command::Replay { since, reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)?
    }
}

/// What is shown of one until it is found out how much there is.
const BEGINS: &str = "it begins";

/// A subscription that runs. When the trigger is pulled or dropped it drains.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) remote: Remote,
    pub(crate) drain: drain::Trigger,
    pub(crate) ended: JoinHandle<()>,
}

/// Begins from its progress, once the one of the same name before it has ended.
pub(crate) fn spawn(compiled: &Arc<Compiled>, before: Option<JoinHandle<()>>, surroundings: &Surroundings) -> Running {
    let (trigger, drain) = drain::channel();
    let begins = SubscriptionReading { paused: Some(BEGINS.to_owned()), ..SubscriptionReading::default() };
    let (sender, reading) = watch::channel(begins);
    let (commands, asked) = mpsc::channel(COMMANDS_MAX);
    let (task, surroundings) = (Arc::clone(compiled), surroundings.clone());
    let ended = surroundings.tasks.clone().spawn(async move {
        if let Some(before) = before {
            // Whatever ended it, it has ended.
            let _ = before.await;
        }
        Delivering::new(task, surroundings, sender, asked).run(drain).await;
    });
    let remote = Remote { reading, commands };
    Running { compiled: Arc::clone(compiled), remote, drain: trigger, ended }
}
