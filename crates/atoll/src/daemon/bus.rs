//! The broker: within this process, opened where a plan needs it, opened anew where its own settings change, and told of
//! users with every change of the manifest; or somebody else's, which is asked by its API. Streams are made and changed in
//! either, never deleted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kit::tasks::Tasks;
use kit::{drain, readiness};
use manifest::{Plan, plan};
use thiserror::Error;
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::dto;
use crate::daemon::change::Served;
use crate::daemon::history::History;
use crate::daemon::{engine_lost, streams, unlistenable};
use crate::lower::{self, StreamSeen};
use crate::nats as elsewhere;
use crate::project::{Credentials, Project};

/// How long the broker may take to end: its last messages go to the disk.
const END_MAX: Duration = Duration::from_secs(30);
/// How long after a first failure it is tried again, and the longest time from one try to the next.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Limit: consumers of which the metrics tell, about; further streams are left out.
const CONSUMERS_READ_MAX: usize = 1_000;

/// Why there is no broker.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Broker(#[from] broker::Error),
    #[error("the broker ended while it started")]
    Ended,
    #[error("the broker at {address} cannot be spoken to")]
    Elsewhere { address: String, source: elsewhere::Error },
}

/// The broker, if there is one, and what is needed to open it.
#[derive(Debug)]
pub struct Bus {
    credentials: Credentials,
    /// Where streams are kept.
    folder: PathBuf,
    open: watch::Sender<Option<Arc<Open>>>,
    /// Why there is none although one is needed.
    missing: watch::Sender<Option<String>>,
    /// Held while it is changed.
    running: Mutex<Option<Running>>,
    /// Somebody else's broker is there, or there again: with another store, perhaps.
    connected: Arc<Notify>,
    lost: mpsc::Sender<anyhow::Error>,
    history: History,
    tasks: Tasks,
}

/// A broker that serves.
#[derive(Clone, Debug)]
pub struct Open {
    pub place: Place,
    pub api: streams::Api,
    /// Why streams are not as the manifest wants them.
    pub refused: BTreeMap<String, String>,
}

/// Whose it is.
#[derive(Clone, Debug)]
pub enum Place {
    /// In this process.
    Own {
        address: SocketAddr,
        monitor: Option<SocketAddr>,
        handle: broker::Handle,
        /// What it was opened with.
        plan: plan::Broker,
    },
    Elsewhere(plan::Nats),
}

impl Open {
    /// Where it is, without passwords.
    pub fn address(&self) -> String {
        match &self.place {
            Place::Own { address, .. } => format!("nats://{}", lower::reached(*address)),
            Place::Elsewhere(nats) => nats.address.clone(),
        }
    }

    /// Where it is reached with every right: never for a log.
    pub fn url(&self, credentials: &Credentials) -> String {
        match &self.place {
            Place::Own { address, .. } => lower::nats_url(*address, lower::ADMIN, credentials),
            Place::Elsewhere(nats) => nats.url.clone(),
        }
    }
}

#[derive(Debug)]
struct Running {
    plan: plan::Broker,
    sockets: broker::Sockets,
    handle: broker::Handle,
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
        let (folder, missing) = (project.broker_data(), watch::Sender::new(None));
        let connected = Arc::default();
        let bus = Self { credentials, folder, open, missing, running, connected, lost, history, tasks };
        bus.go_over(served).await?;
        Ok((bus, losses))
    }

    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Where what serves now is reached with every right, if anything does: never for a log.
    pub fn url(&self) -> Option<String> {
        self.open().map(|open| open.url(&self.credentials))
    }

    /// What serves now.
    pub fn open(&self) -> Option<Arc<Open>> {
        self.open.borrow().clone()
    }

    /// Has the broker that the present plan names, or one of our own as that plan needs it, or those before it as long as instances of them run, with the users and
    /// the streams that are wanted: asked again, it makes good what failed before. Gives what is lost by it, in sentences.
    ///
    /// Addresses are opened before any is closed, and one that stays is never closed, so that what cannot be had changes
    /// nothing. Only other bounds of the engine need another engine, on the same sockets.
    pub async fn go_over(&self, served: &Served) -> Result<Vec<String>, Error> {
        let mut running = self.running.lock().await;
        let mut said = self.go_over_own(&mut running, served).await?;
        if let Some(nats) = &served.present.plan.nats {
            self.reach(nats).await?;
        }
        said.extend(self.declare(&lower::streams(&served.present.plan)).await);
        Ok(said)
    }

    async fn go_over_own(&self, running: &mut Option<Running>, served: &Served) -> Result<Vec<String>, Error> {
        let retiring = || served.retiring.iter().rev().map(|accepted| &*accepted.plan);
        let plans = || std::iter::once(&*served.present.plan).chain(retiring());
        let is_unsettled = |service: &str| served.unsettled.contains(service);
        let users = lower::users(&served.present.plan, retiring(), is_unsettled, &self.credentials);
        let Some((name, next)) = plans().find_map(|plan| Some((&plan.name, plan.broker.clone()?))) else {
            if running.is_some() {
                self.close(running).await;
            }
            self.missing.send_replace(None);
            return Ok(Vec::new());
        };
        let former: Vec<SocketAddr> = plans().filter_map(|plan| Some(plan.broker.as_ref()?.listen)).collect();
        let open = running.as_ref().map(|running| running.sockets.clone()).unwrap_or_default();
        let next = Next { name, plan: next, users, former };
        let mut said = Vec::new();
        match (next.sockets(&open), running.as_mut()) {
            (Ok(sockets), Some(running)) if lower::is_same_engine(&running.plan, &next.plan) => {
                running.handle.set_users(&next.users)?;
                running.handle.listen(&sockets);
                self.show_own(running.handle.clone(), &sockets, &next.plan);
                (running.plan, running.sockets) = (next.plan, sockets);
            }
            // What is open on one of this machine's addresses and is to be on all of them closes first.
            (Err(error), before) if before.as_ref().is_none_or(|before| !has_port_of(&before.plan, &next.plan)) => {
                if running.is_none() {
                    self.missing.send_replace(Some(kit::Chain(&error).to_string()));
                }
                return Err(error.into());
            }
            (sockets, _) => {
                said.extend(self.at_stake().await);
                let open = if sockets.is_ok() { open } else { broker::Sockets::default() };
                drop(sockets);
                self.reopen(running, next, open).await?;
            }
        }
        self.missing.send_replace(None);
        Ok(said)
    }

    /// Shows somebody else's broker as the one that serves. The connection comes about by itself, and again when it breaks.
    async fn reach(&self, nats: &plan::Nats) -> Result<(), Error> {
        let is_known = |open: &Open| matches!(&open.place, Place::Elsewhere(known) if known == nats);
        if self.open().is_some_and(|open| is_known(&open)) {
            return Ok(());
        }
        let client = elsewhere::client(&nats.url, Arc::clone(&self.connected)).await;
        let client = client.map_err(|source| Error::Elsewhere { address: nats.address.clone(), source })?;
        self.show(Place::Elsewhere(nats.clone()), streams::Api::Elsewhere(client));
        Ok(())
    }

    /// Has another engine, on sockets that are open; where that cannot be, the one before again.
    async fn reopen(&self, running: &mut Option<Running>, next: Next<'_>, open: broker::Sockets) -> Result<(), Error> {
        let before = running.as_ref().map(|running| running.plan.clone());
        // Order: opened before any closes; and two brokers cannot have one folder.
        let kept = next.sockets(&open).ok();
        self.close(running).await;
        let opened = match kept.map_or_else(|| next.sockets(&open), Ok) {
            Ok(sockets) => self.serve(&next, sockets).await,
            Err(error) => Err(error.into()),
        };
        let error = match opened {
            Ok(opened) => {
                *running = Some(opened);
                return Ok(());
            }
            Err(error) => error,
        };
        let why = kit::Chain(&error).to_string();
        let Some(before) = before else {
            self.missing.send_replace(Some(why));
            return Err(error);
        };
        let back = Next { plan: before, ..next };
        let again = match back.sockets(&open) {
            Ok(sockets) => self.serve(&back, sockets).await,
            Err(error) => Err(error.into()),
        };
        match again {
            Ok(again) => *running = Some(again),
            Err(error) => {
                let why = kit::Chain(&error).to_string();
                tracing::error!(error = why, "cannot go back to the broker of before");
                self.missing.send_replace(Some(why));
            }
        }
        Err(error)
    }

    /// What the broker counts and its streams hold, as far as it says so within this time.
    pub async fn read(&self, patience: Duration) -> Option<lower::BrokerReading> {
        let open = self.open()?;
        let counts = match &open.place {
            Place::Own { handle, .. } => handle.counts(),
            Place::Elsewhere(_) => broker::Counts::default(),
        };
        let mut reading =
            lower::BrokerReading { counts, refused: open.refused.len(), ..lower::BrokerReading::default() };
        // What has come by then is better than nothing.
        let _ = tokio::time::timeout(patience, async {
            reading.streams = streams::list(&open.api).await.unwrap_or_default();
            for stream in reading.streams.iter().filter(|stream| stream.consumers() > 0) {
                let name = stream.name().unwrap_or_default();
                let consumers = streams::consumers(&open.api, name).await.unwrap_or_default();
                reading.consumers.extend(consumers.into_iter().map(|consumer| (name.to_owned(), consumer)));
                if reading.consumers.len() >= CONSUMERS_READ_MAX {
                    break;
                }
            }
        })
        .await;
        Some(reading)
    }

    /// What is not as it should be and is tried again, in sentences.
    pub fn shortcomings(&self) -> Vec<String> {
        let missing = self.missing.borrow().clone().map(|why| format!("there is no broker: {why}"));
        let open = self.open();
        let refused = open.iter().flat_map(|open| &open.refused);
        let refused =
            refused.map(|(stream, why)| format!("the stream {stream} is not as the manifest wants it: {why}"));
        missing.into_iter().chain(refused).collect()
    }

    /// Returns while something is not as it should be.
    async fn falls_short(&self) {
        let (mut open, mut missing) = (self.open.subscribe(), self.missing.subscribe());
        while self.shortcomings().is_empty() {
            // The senders are ours.
            tokio::select! {
                _ = open.changed() => {}
                _ = missing.changed() => {}
            }
        }
    }

    /// What ends with the engine: messages in memory.
    async fn at_stake(&self) -> Option<String> {
        let open = self.open()?;
        let streams = streams::list(&open.api).await.unwrap_or_default();
        let lost: u64 = streams.iter().filter(|stream| stream.is_in_memory()).map(StreamSeen::messages).sum();
        let lost = if lost > 0 { format!("; {lost} messages in memory are gone") } else { String::new() };
        Some(format!("it is opened anew, clients connect again{lost}"))
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

    /// Ends it, once nobody needs it any more. A disk that hangs is not waited for.
    pub async fn end(&self) {
        let mut running = self.running.lock().await;
        if tokio::time::timeout(END_MAX, self.close(&mut running)).await.is_err() {
            tracing::error!("the broker has not ended within {} s: its disk hangs", END_MAX.as_secs());
        }
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
    async fn serve(&self, next: &Next<'_>, sockets: broker::Sockets) -> Result<Running, Error> {
        let plan = next.plan.clone();
        let config = lower::broker(next.name, &plan, next.users.clone(), self.folder.clone());
        let bound = broker::bind_on(&config, &sockets)?;
        let (address, handle) = (bound.address(), bound.handle());
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
        self.show_own(handle.clone(), &sockets, &plan);
        Ok(Running { plan, sockets, handle, drain, ended })
    }

    /// Shows what serves now.
    fn show_own(&self, handle: broker::Handle, sockets: &broker::Sockets, plan: &plan::Broker) {
        let address = sockets.address().unwrap_or(plan.listen);
        let api = streams::Api::Own(handle.clone());
        self.show(Place::Own { address, monitor: sockets.monitor_address(), handle, plan: plan.clone() }, api);
    }

    fn show(&self, place: Place, api: streams::Api) {
        let refused = self.open().map(|open| open.refused.clone()).unwrap_or_default();
        self.open.send_replace(Some(Arc::new(Open { place, api, refused })));
    }

    /// Has the streams that the manifest wants. One that cannot be had stays as it is, and the reason is shown.
    /// Gives what services lose sight of.
    async fn declare(&self, wanted: &[lower::Stream]) -> Vec<String> {
        let Some(open) = self.open() else { return Vec::new() };
        let streams::Outcome { said, retired, refused } = streams::declare(&open.api, wanted).await;
        if !said.is_empty() || !retired.is_empty() {
            let all: Vec<&str> = said.iter().chain(&retired).map(String::as_str).collect();
            self.history.say("streams_changed", all.join("; "));
        }
        if !refused.is_empty() && refused != open.refused {
            let all: Vec<String> = refused.iter().map(|(stream, why)| format!("{stream}: {why}")).collect();
            tracing::warn!(streams = all.join("; "), "streams are not as the manifest wants them");
            self.history.say("streams_refused", format!("not as the manifest wants them: {}", all.join("; ")));
        }
        self.open.send_replace(Some(Arc::new(Open { refused, ..Open::clone(&open) })));
        retired
    }
}

/// A broker that is wanted.
struct Next<'p> {
    name: &'p str,
    plan: plan::Broker,
    users: Vec<broker::User>,
    /// Addresses that instances of former plans know.
    former: Vec<SocketAddr>,
}

impl Next<'_> {
    /// What it listens on: its own address, and the former ones that can be had.
    fn sockets(&self, open: &broker::Sockets) -> Result<broker::Sockets, broker::Error> {
        let mut all = broker::Sockets::bind(&[self.plan.listen], self.plan.monitor, open)?;
        for address in &self.former {
            if let Err(error) = all.add(*address, open) {
                let error = kit::Chain(&error).to_string();
                tracing::warn!(%address, error, "a former address of the broker cannot be opened");
            }
        }
        Ok(all)
    }
}

/// Whether the next broker has a port of one before it under another address: both cannot be open.
fn has_port_of(before: &plan::Broker, next: &plan::Broker) -> bool {
    let ports = |broker: &plan::Broker| [Some(broker.listen), broker.monitor].map(|a| a.map(|a| a.port()));
    let before = ports(before);
    ports(next).iter().flatten().any(|port| before.contains(&Some(*port)))
}

/// What to do about a broker that cannot be opened.
pub(super) fn hint(error: &Error) -> Option<String> {
    let Error::Broker(broker::Error::Listen { address, source, .. }) = error else { return None };
    unlistenable(NAME, *address, source.kind())
}

/// Its table in the manifest.
pub const NAME: &str = "broker";

impl super::Control {
    /// Tries again what the broker falls short of, until the application ends.
    pub async fn tend_bus(self: Arc<Self>) {
        let mut drained = self.drained.clone();
        let mut pause = RETRY.0;
        loop {
            let next = async {
                self.bus.falls_short().await;
                tokio::time::sleep(pause).await;
            };
            let is_new = tokio::select! {
                () = next => false,
                () = self.bus.connected.notified() => true,
                _ = drained.wait_for(|drained| *drained) => return,
            };
            // Order: no change is made meanwhile.
            let _ground = self.ground.lock().await;
            if self.bus.shortcomings().is_empty() && !is_new {
                pause = RETRY.0;
                continue;
            }
            let served = self.served.borrow().clone();
            if let Err(error) = self.bus.go_over(&served).await {
                tracing::warn!(error = %kit::Chain(&error), "there is still no broker");
            }
            let is_good = is_new || self.bus.shortcomings().is_empty();
            pause = if is_good { RETRY.0 } else { (pause * 2).min(RETRY.1) };
        }
    }

    /// The broker and its streams as they are now.
    pub async fn broker(&self) -> Result<dto::Broker, dto::Problem> {
        let open = self.bus.open().ok_or_else(absent)?;
        let plan = self.plan();
        // Of a broker that does not answer the rest is worth showing.
        let (found, silent) = match streams::list(&open.api).await {
            Ok(found) => (found, None),
            Err(error) => (Vec::new(), Some(kit::Chain(&error).to_string())),
        };
        let mut all: Vec<dto::Stream> =
            found.iter().map(|found| lower::stream_view(&plan, found, &open.refused)).collect();
        for (name, why) in open.refused.iter().filter(|(name, _)| !found.iter().any(|found| found.name() == Some(name)))
        {
            all.push(lower::missing_stream(&plan, name, why));
        }
        let users = plan.services.iter().filter(|(_, service)| lower::uses_broker(service));
        let users = users.map(|(name, _)| name.clone()).collect();
        Ok(match &open.place {
            Place::Own { address, monitor, handle, plan: settings } => lower::broker_view(lower::BrokerSeen {
                address: lower::reached(*address),
                monitor: *monitor,
                settings,
                counts: handle.counts(),
                users,
                streams: all,
                silent,
            }),
            Place::Elsewhere(nats) => lower::nats_view(nats, users, all, silent),
        })
    }

    /// Where the broker is reached with every right: for the socket of this user alone, never for a log.
    pub fn broker_url(&self) -> Result<dto::BrokerUrl, dto::Problem> {
        let open = self.bus.open().ok_or_else(absent)?;
        Ok(dto::BrokerUrl { url: open.url(self.bus.credentials()) })
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
