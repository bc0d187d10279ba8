//! The broker within this process: opened where a plan needs it, opened anew where its own settings change, and told of
//! users and streams with every change of the manifest. Streams are made and changed, never deleted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kit::tasks::Tasks;
use kit::{drain, readiness};
use manifest::{Plan, plan};
use thiserror::Error;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::dto;
use crate::daemon::change::Served;
use crate::daemon::history::History;
use crate::daemon::{engine_lost, streams, unlistenable};
use crate::lower;
use crate::project::{Credentials, Project};

/// Why there is no broker.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Broker(#[from] broker::Error),
    #[error("the broker ended while it started")]
    Ended,
}

/// The broker, if there is one, and what is needed to open it.
#[derive(Debug)]
pub struct Bus {
    credentials: Credentials,
    /// Where streams are kept.
    folder: PathBuf,
    open: watch::Sender<Option<Arc<Open>>>,
    /// Held while it is changed.
    running: Mutex<Option<Running>>,
    lost: mpsc::Sender<anyhow::Error>,
    history: History,
    tasks: Tasks,
}

/// A broker that serves.
#[derive(Debug)]
pub struct Open {
    pub address: SocketAddr,
    pub monitor: Option<SocketAddr>,
    pub handle: broker::Handle,
    /// What it was opened with.
    pub plan: plan::Broker,
    /// Why streams are not as the manifest wants them.
    pub refused: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Running {
    plan: plan::Broker,
    drain: drain::Trigger,
    ended: JoinHandle<()>,
}

impl Bus {
    /// With a broker where what is served needs one. What is received says that it ended without having been told to.
    pub async fn open_for(
        served: &Served,
        project: &Project,
        credentials: Credentials,
        history: History,
        tasks: Tasks,
    ) -> Result<(Self, mpsc::Receiver<anyhow::Error>), Error> {
        let (lost, losses) = mpsc::channel(1);
        let (open, running) = (watch::Sender::new(None), Mutex::default());
        let bus = Self { credentials, folder: project.broker_data(), open, running, lost, history, tasks };
        bus.go_over(served).await?;
        Ok((bus, losses))
    }

    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// What serves now.
    pub fn open(&self) -> Option<Arc<Open>> {
        self.open.borrow().clone()
    }

    /// Has a broker as the present plan needs it, or those before it as long as instances of them run. Where the next one
    /// cannot be opened, the one before goes on.
    pub async fn go_over(&self, served: &Served) -> Result<(), Error> {
        let mut running = self.running.lock().await;
        let plans =
            || std::iter::once(&served.present).chain(served.retiring.iter().rev()).map(|accepted| &*accepted.plan);
        let users = lower::users(plans(), &self.credentials);
        let Some((name, next)) = plans().find_map(|plan| Some((&plan.name, plan.broker.clone()?))) else {
            self.close(&mut running).await;
            return Ok(());
        };
        match running.as_ref().map(|running| running.plan.clone()) {
            Some(before) if before == next => {
                if let Some(open) = self.open() {
                    open.handle.set_users(&users)?;
                }
            }
            before => {
                // Order: two brokers cannot have one folder.
                self.close(&mut running).await;
                let opened = self.serve(name, next, users.clone()).await;
                if let (Err(_), Some(before)) = (&opened, before) {
                    match self.serve(name, before, users).await {
                        Ok(again) => *running = Some(again),
                        Err(error) => {
                            tracing::error!(error = %kit::Chain(&error), "cannot go back to the broker of before");
                        }
                    }
                }
                *running = Some(opened?);
            }
        }
        self.declare(&lower::streams(&served.present.plan)).await;
        Ok(())
    }

    /// The topics whose streams are not as the manifest wants them, as changes that were not made.
    pub fn refusals(&self, plan: &Plan) -> Vec<dto::Change> {
        let Some(open) = self.open() else { return Vec::new() };
        let refused = plan.topics.iter().filter_map(|(subject, topic)| {
            let why = open.refused.get(&topic.stream)?;
            let details = vec![format!("its stream {} stays as it is: {why}", topic.stream)];
            Some(dto::Change { of: "topic".to_owned(), name: subject.clone(), verb: dto::Verb::Changed, details })
        });
        refused.collect()
    }

    /// Ends it, once nobody needs it any more.
    pub async fn end(&self) {
        self.close(&mut *self.running.lock().await).await;
    }

    async fn close(&self, running: &mut Option<Running>) {
        self.open.send_replace(None);
        if let Some(Running { drain, ended, .. }) = running.take() {
            drain.finish().await;
            // What went wrong was said by itself.
            let _ = ended.await;
        }
    }

    /// Opens a broker and returns when it serves.
    async fn serve(&self, name: &str, plan: plan::Broker, users: Vec<broker::User>) -> Result<Running, Error> {
        let bound = broker::bind(&lower::broker(name, &plan, users, self.folder.clone()))?;
        let (address, monitor, handle) = (bound.address(), bound.monitor_address(), bound.handle());
        let (token, mut ready) = readiness::channel();
        let (drain, watch) = drain::channel();
        let serving = self.tasks.spawn(bound.run(token, watch));
        if ready.settled().await != readiness::State::Ready {
            return match serving.await {
                Ok(Err(error)) => Err(error.into()),
                _ => Err(Error::Ended),
            };
        }
        let lost = self.lost.clone();
        let ended = self.tasks.spawn(async move {
            match serving.await {
                Ok(Ok(())) => tracing::info!(engine = "broker", "drained"),
                // One loss is enough to end the daemon.
                other => drop(lost.try_send(engine_lost("broker", other))),
            }
        });
        tracing::info!(%address, sync = %plan.sync, "the broker listens");
        let refused = BTreeMap::new();
        self.open.send_replace(Some(Arc::new(Open { address, monitor, handle, plan: plan.clone(), refused })));
        Ok(Running { plan, drain, ended })
    }

    /// Has the streams that the manifest wants. One that cannot be had stays as it is, and the reason is shown.
    async fn declare(&self, wanted: &[lower::Stream]) {
        let Some(open) = self.open() else { return };
        let streams::Outcome { said, refused } = streams::declare(&open.handle, wanted).await;
        if !said.is_empty() {
            self.history.say("streams_changed", said.join("; "));
        }
        if !refused.is_empty() && refused != open.refused {
            let all: Vec<String> = refused.iter().map(|(stream, why)| format!("{stream}: {why}")).collect();
            tracing::warn!(streams = all.join("; "), "streams are not as the manifest wants them");
            self.history.say("streams_refused", format!("not as the manifest wants them: {}", all.join("; ")));
        }
        let Open { address, monitor, ref handle, ref plan, .. } = *open;
        let next = Open { address, monitor, handle: handle.clone(), plan: plan.clone(), refused };
        self.open.send_replace(Some(Arc::new(next)));
    }
}

/// What to do about a broker that cannot be opened.
pub(super) fn hint(error: &Error) -> Option<String> {
    let Error::Broker(broker::Error::Listen { address, source, .. }) = error else { return None };
    unlistenable(NAME, *address, source.kind())
}

/// Its table in the manifest.
pub const NAME: &str = "broker";

impl super::Control {
    /// The broker and its streams as they are now.
    pub async fn broker(&self) -> Result<dto::Broker, dto::Problem> {
        let open = self.bus.open().ok_or_else(absent)?;
        let (plan, Open { handle, plan: settings, .. }) = (self.plan(), &*open);
        // Of a broker that does not answer the rest is worth showing.
        let (found, silent) = match streams::list(handle).await {
            Ok(found) => (found, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let mut all: Vec<dto::Stream> =
            found.iter().map(|found| lower::stream_view(&plan, found, &open.refused)).collect();
        for (name, why) in open.refused.iter().filter(|(name, _)| !found.iter().any(|found| found.name() == Some(name)))
        {
            all.push(lower::missing_stream(&plan, name, why));
        }
        Ok(lower::broker_view(lower::BrokerSeen {
            address: lower::reached(open.address),
            monitor: open.monitor,
            settings,
            counts: handle.counts(),
            users: plan
                .services
                .iter()
                .filter(|(_, service)| lower::uses_broker(service))
                .map(|(name, _)| name.clone())
                .collect(),
            streams: all,
            silent,
        }))
    }

    /// Where the broker is reached with every right: for the socket of this user alone, never for a log.
    pub fn broker_url(&self) -> Result<dto::BrokerUrl, dto::Problem> {
        let open = self.bus.open().ok_or_else(absent)?;
        Ok(dto::BrokerUrl { url: lower::nats_url(open.address, lower::ADMIN, self.bus.credentials()) })
    }
}

fn absent() -> dto::Problem {
    dto::Problem {
        title: "no broker".into(),
        status: 404,
        detail: "this application has no broker".into(),
        hint: Some(
            "one runs where a service has `publishes` or `subscribes`, or the manifest a topic or `[broker]`".into(),
        ),
    }
}
