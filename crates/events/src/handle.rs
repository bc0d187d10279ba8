//! The way into a running engine: another configuration, publishing from within the process, how everything stands.
//! Cloned freely, called from any thread. What is asked about dead letters and replays is in `dead_letter`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::compiled::Compiled;
use crate::config::Config;
use crate::error::Error;
use crate::event::Event;
use crate::link::Link;
use crate::publishing::run::{self, Run};
use crate::publishing::{self, PublishError, Published};
use crate::reading::Reading;
use crate::subscription::Remote;

/// What the parts of the engine share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What the engine goes by; everybody watches it.
    pub(crate) compiled: watch::Sender<Arc<Compiled>>,
    /// What publishes by this only: a message that cannot be read does not stop it.
    pub(crate) publishing: Link,
    pub(crate) link: Link,
    /// The subscriptions that run, by name.
    pub(crate) remotes: watch::Receiver<BTreeMap<String, Remote>>,
}

impl Shared {
    /// The configuration of now.
    pub(crate) fn compiled(&self) -> Arc<Compiled> {
        Arc::clone(&self.compiled.borrow())
    }

    /// A subscription that runs.
    ///
    /// # Errors
    /// [`Error::NoSubscription`].
    pub(crate) fn remote(&self, subscription: &str) -> Result<Remote, Error> {
        let remote = self.remotes.borrow().get(subscription).cloned();
        remote.ok_or_else(|| Error::NoSubscription { subscription: subscription.to_owned() })
    }
}

/// The way in. It works from the moment of `bind`.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Goes by another configuration from now on; [`Config::listen`] is not looked at. A subscription that is otherwise is
    /// drained and begins anew from its progress; one that is gone ends and keeps its progress. Does not wait for either.
    ///
    /// # Errors
    /// Those of [`crate::check`]; everything then stays as it was.
    pub fn apply(&self, config: Config) -> Result<(), Error> {
        let compiled = Compiled::new(config, Some(&self.shared.compiled()))?;
        self.shared.compiled.send_replace(Arc::new(compiled));
        Ok(())
    }

    /// Publishes one event for a service, as its own request would: it is checked in the same way, and is durable when this
    /// returns. What was refused with [`PublishError::is_refusal`] will be refused again; anything else may be tried again,
    /// with the same id.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, service: &str, topic: &str, event: Event) -> Result<Published, PublishError> {
        publishing::publish_one(&self.shared, service, topic, event).await
    }

    /// Publishes topics and events of one service, many at once and in their order, for as long as all goes well: none is ever
    /// stored before one ahead of it, which is durable or refused for what it is. Each is checked as by [`Self::publish`].
    /// Others may publish to the same stream at the same time; the more they do, the fewer go at once.
    pub async fn publish_run(&self, service: &str, events: Vec<(String, Event)>) -> Run {
        run::publish(&self.shared, service, events).await
    }

    /// How everything stands.
    #[must_use]
    pub fn read(&self) -> Reading {
        let topics = &self.shared.compiled().topics;
        let topics = topics.iter().map(|topic| (topic.config.subject.clone(), topic.counts.read())).collect();
        let remotes = self.shared.remotes.borrow().clone();
        let subscriptions = remotes.into_iter().map(|(name, remote)| (name, remote.reading.borrow().clone())).collect();
        let is_connected = self.shared.publishing.session().is_ok() && self.shared.link.session().is_ok();
        Reading { is_connected, topics, subscriptions }
    }
}
