//! One task a subscription: reads its stream and delivers. Called by `bound`, which starts it, and by `handle`, which asks
//! it through its [`Remote`].

use std::sync::Arc;

use kit::drain;
use kit::tasks::Tasks;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{Limits, Subscription};
use crate::error::Error;
use crate::link::Link;
use crate::reading::SubscriptionReading;

/// A subscription that was looked at: its filter compiled, its key parsed.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) config: Subscription,
}

impl Compiled {
    /// # Errors
    /// [`Error::Subscription`].
    pub(crate) fn new(config: &Subscription) -> Result<Self, Error> {
        Ok(Self { config: config.clone() })
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
}

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
    let (trigger, mut drain) = drain::channel();
    let (_sender, reading) = watch::channel(SubscriptionReading::default());
    let ended = surroundings.tasks.spawn(async move {
        if let Some(before) = before {
            // Whatever ended it, it has ended.
            let _ = before.await;
        }
        drain.started().await;
    });
    Running { compiled: Arc::clone(compiled), remote: Remote { reading }, drain: trigger, ended }
}
