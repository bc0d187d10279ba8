//! From a [`Config`] to a running engine: what cannot be is found out before anything starts; then one loop owns the
//! subscriptions, while the intake serves publishers and the keeper of the link connects.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use futures_util::future::select_all;
use kit::tasks::Tasks;
use kit::{drain, readiness};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::compiled::Compiled;
use crate::config::{Config, Limits, Server};
use crate::error::Error;
use crate::handle::{Handle, Shared};
use crate::intake;
use crate::link::{self, Home, Keeper, Link, Purpose};
use crate::subscription::{self, Remote, Running, Surroundings};

/// An engine whose socket is open and that does not serve yet. Publishers wait in the backlog.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    keepers: [Keeper; 2],
    remotes: watch::Sender<BTreeMap<String, Remote>>,
    shared: Arc<Shared>,
}

/// Whether a configuration can be used: schemas, filters, keys, the server's address.
///
/// # Errors
/// [`Error::Server`], [`Error::Schema`], [`Error::Subscription`].
pub fn check(config: &Config) -> Result<(), Error> {
    Compiled::new(config.clone(), None).map(|_| ())
}

/// Checks the configuration and opens the socket. The broker is not asked: it may come later.
///
/// # Errors
/// Those of [`check`], and [`Error::Listen`].
pub fn bind(config: Config) -> Result<Bound, Error> {
    let address = config.listen;
    let compiled = Compiled::new(config, None)?;
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (publishing_keeper, publishing) = link::channel(Purpose::Publishing);
    let (keeper, link) = link::channel(Purpose::Reading);
    let (remotes, watched) = watch::channel(BTreeMap::new());
    let (compiled, _) = watch::channel(Arc::new(compiled));
    let shared = Arc::new(Shared { compiled, publishing, link, remotes: watched });
    Ok(Bound { listener, address, keepers: [publishing_keeper, keeper], remotes, shared })
}

impl Bound {
    /// Where publishers are served, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The way in. It works before [`Bound::run`], too.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// Serves until the drain begins; then nothing is read any more, what is in flight ends, and what was done is written.
    /// Ready at once: a broker that is away is no failure of ours.
    ///
    /// # Errors
    /// [`Error::Listen`]; and, after the same drain, [`Error::Failed`] where a subscription has ended by itself.
    pub async fn run(self, readiness: readiness::Token, mut drain: drain::Watch) -> Result<(), Error> {
        let Self { listener, address, keepers, remotes, shared } = self;
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(|source| Error::Listen { address, source })?;
        let mut compiled = shared.compiled.subscribe();
        let (linked, intake_tasks) = (Tasks::default(), Tasks::default());
        let (link_drain, link_watch) = drain::channel();
        let (intake_drain, intake_watch) = drain::channel();
        for keeper in keepers {
            linked.spawn(keeper.run(shared.compiled.subscribe(), link_watch.clone()));
        }
        drop(link_watch);
        let over = CancellationToken::new();
        // Order: whatever ends this future ends the connections.
        let _over = over.clone().drop_guard();
        intake_tasks.spawn(intake::serve(listener, Arc::clone(&shared), intake_watch, over.clone()));
        readiness.ready();

        let mut subscriptions = Subscriptions::new(shared.link.clone(), remotes);
        let failed = loop {
            let wanted = Arc::clone(&compiled.borrow_and_update());
            subscriptions.go_over(&wanted);
            tokio::select! {
                () = drain.started() => break None,
                subscription = ended(subscriptions.running.iter_mut().map(|(name, one)| (name, &mut one.ended))) => {
                    break Some(subscription);
                }
                // The sender is in what this future holds, so that this never fails.
                _ = compiled.changed() => {}
            }
        };
        let drain_max = compiled.borrow().config.limits.drain_max;
        intake_drain.start();
        let drained = timeout(drain_max, async { tokio::join!(subscriptions.end(), intake_tasks.finished()) });
        if drained.await.is_err() {
            tracing::warn!("what was in flight has not ended in time");
        }
        over.cancel();
        intake_tasks.finished().await;
        link_drain.start();
        linked.finished().await;
        failed.map_or(Ok(()), |subscription| Err(Error::Failed { subscription }))
    }
}

/// The name of the first task that ends.
async fn ended<'a>(tasks: impl Iterator<Item = (&'a String, &'a mut JoinHandle<()>)>) -> String {
    let tasks = tasks.map(|(name, task)| {
        Box::pin(async move {
            // Whatever ended it, it has ended.
            let _ = task.await;
            name.clone()
        })
    });
    let tasks: Vec<_> = tasks.collect();
    if tasks.is_empty() {
        return std::future::pending().await;
    }
    select_all(tasks).await.0
}

/// The subscriptions that run. One owner: the loop of [`Bound::run`].
struct Subscriptions {
    running: BTreeMap<String, Running>,
    /// Told to end. Another one of the same name begins when it has.
    ending: BTreeMap<String, JoinHandle<()>>,
    remotes: watch::Sender<BTreeMap<String, Remote>>,
    link: Link,
    tasks: Tasks,
    /// What those that run were started with.
    common: Option<Common>,
}

/// What subscriptions have in common: where it is otherwise, all of them begin anew.
#[derive(Clone, Debug, PartialEq)]
struct Common {
    application: String,
    server: Option<Server>,
    limits: Limits,
}

impl Common {
    fn of(config: &Config) -> Self {
        let Config { application, server, limits, .. } = config;
        Self { application: application.clone(), server: server.clone(), limits: limits.clone() }
    }
}

impl Subscriptions {
    fn new(link: Link, remotes: watch::Sender<BTreeMap<String, Remote>>) -> Self {
        Self { running: BTreeMap::new(), ending: BTreeMap::new(), remotes, link, tasks: Tasks::default(), common: None }
    }

    /// Ends those that are not wanted any more or are otherwise, and starts those that do not run.
    fn go_over(&mut self, wanted: &Compiled) {
        self.ending.retain(|_, ended| !ended.is_finished());
        let common = Some(Common::of(&wanted.config));
        let is_common = std::mem::replace(&mut self.common, common.clone()) == common;
        let is_same = |running: &Running| {
            let config = &running.compiled.config;
            is_common && wanted.subscriptions.get(&config.name).is_some_and(|wanted| wanted.config == *config)
        };
        let over = self.running.extract_if(.., |_, running| !is_same(running));
        for (name, Running { drain, ended, .. }) in over.collect::<Vec<_>>() {
            drain.start();
            self.ending.insert(name, ended);
        }
        let surroundings = Surroundings {
            link: self.link.to(Home::of(&wanted.config)),
            limits: wanted.config.limits.clone(),
            tasks: self.tasks.clone(),
        };
        for (name, compiled) in &wanted.subscriptions {
            if !self.running.contains_key(name) {
                let before = self.ending.remove(name);
                self.running.insert(name.clone(), subscription::spawn(compiled, before, &surroundings));
            }
        }
        let remotes = self.running.iter().map(|(name, running)| (name.clone(), running.remote.clone()));
        self.remotes.send_replace(remotes.collect());
    }

    async fn end(self) {
        for running in self.running.values() {
            running.drain.start();
        }
        self.tasks.finished().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscription_that_ends_by_itself_is_named() {
        let mut tasks = BTreeMap::from([
            ("a".to_owned(), tokio::spawn(std::future::pending())),
            ("b".to_owned(), tokio::spawn(async { panic!("seen by the hook") })),
        ]);
        assert_eq!(ended(tasks.iter_mut()).await, "b");
    }
}
