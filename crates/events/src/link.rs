//! Connections to the NATS server, one for each [`Purpose`]: made again for ever, with the engine's own streams made before
//! anybody reads. What uses one holds a [`Link`] and is given a [`Session`], which ends with the connection; nothing is
//! carried over from one session to the next.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder, GetStreamErrorKind};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use kit::backoff::Backoff;
use kit::drain;
use percent_encoding::percent_decode_str;
use tokio::sync::{RwLock, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::compiled::Compiled;
use crate::config::{Config, Server};
use crate::error::Error;
use crate::streams::{self, Names};

/// How soon another connection is tried.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2) };
/// A connection that lasted longer was one; after others the pause goes on growing.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Limit: a server that does not answer this often is taken for dead after three of them.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Limit: connecting, and each request to JetStream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the number of a stream's replicas is taken for what it was.
const REPLICAS_KNOWN: Duration = Duration::from_secs(60);
/// Limit: what waits to be written to the server, in messages; beyond it publishers wait.
const QUEUE_MAX: usize = 4096;
/// Limit: what was published and has no answer yet, in messages; beyond it publishers wait.
const UNANSWERED_MAX: usize = 16 * 1024;

/// One connection, from when it can be used until it is lost. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Session(Arc<Connection>);

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) jetstream: Context,
    pub(crate) names: Names,
    home: Home,
    /// Held to write while events are sent that must come right behind one another, to read while any others are: those of
    /// one process then never come between. Never while an answer is waited for.
    pub(crate) turn: RwLock<()>,
    /// One permit for each message whose answer is waited for.
    pub(crate) room: Semaphore,
    /// Whether streams have replicas, and when that was asked.
    replicated: Mutex<BTreeMap<String, (bool, Instant)>>,
    lost: CancellationToken,
}

impl Deref for Session {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Session {
    /// Returns when it cannot be used any more. Cancel safe.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Whether it cannot be used any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Whether a stream has replicas, or may have: nobody knows of one that is not there, or that may not be asked for.
    pub(crate) async fn is_replicated(&self, stream: &str) -> bool {
        let known = || self.replicated.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().get(stream).copied();
        if let Some((is_replicated, _)) = found.filter(|(_, asked)| asked.elapsed() < REPLICAS_KNOWN) {
            return is_replicated;
        }
        let is_replicated = match timeout(REQUEST_TIMEOUT, self.jetstream.get_stream(stream)).await {
            Ok(Ok(stream)) => stream.cached_info().config.num_replicas > 1,
            Ok(Err(error)) if matches!(error.kind(), GetStreamErrorKind::JetStream(_)) => return true,
            _ => true,
        };
        known().insert(stream.to_owned(), (is_replicated, Instant::now()));
        is_replicated
    }
}

/// How it stands with the connection.
#[derive(Clone, Debug)]
enum State {
    /// Why, in words.
    Away(Arc<str>),
    Connected(Session),
    /// Nothing will come any more.
    Ended,
}

/// Whose streams they are: those of an application on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    server: Option<Server>,
    application: String,
}

impl Home {
    pub(crate) fn of(config: &Config) -> Self {
        Self { server: config.server.clone(), application: config.application.clone() }
    }
}

/// The way to the current session. Cloned freely.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    state: watch::Receiver<State>,
    /// Where it leads nowhere else.
    home: Option<Home>,
}

impl Link {
    /// One that leads to sessions of this home alone: numbers of one mean others in another.
    pub(crate) fn to(&self, home: Home) -> Self {
        Self { state: self.state.clone(), home: Some(home) }
    }

    fn leads_to(&self, session: &Session) -> bool {
        is_home(&self.home, session)
    }

    /// The session of now.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Ended`].
    pub(crate) fn session(&self) -> Result<Session, Error> {
        match &*self.state.borrow() {
            State::Connected(session) if !session.is_lost() && self.leads_to(session) => Ok(session.clone()),
            State::Connected(_) => Err(Error::Away { reason: LOST.to_owned() }),
            State::Away(reason) => Err(Error::Away { reason: reason.to_string() }),
            State::Ended => Err(Error::Ended),
        }
    }

    /// Waits for a session. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub(crate) async fn connected(&mut self) -> Result<Session, Error> {
        let is_settled = |state: &State| match state {
            State::Away(_) => false,
            State::Connected(session) => !session.is_lost() && is_home(&self.home, session),
            State::Ended => true,
        };
        match self.state.wait_for(is_settled).await.as_deref() {
            Ok(State::Connected(session)) => Ok(session.clone()),
            _ => Err(Error::Ended),
        }
    }
}

fn is_home(home: &Option<Home>, session: &Session) -> bool {
    home.as_ref().is_none_or(|home| *home == session.home)
}

const LOST: &str = "the connection was lost";

/// What a connection is for. Publishing has its own: a message that the client cannot read ends the connection that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Publishing,
    /// And what the engine keeps for itself: its streams are made first.
    Reading,
}

/// Keeps the connection.
#[derive(Debug)]
pub(crate) struct Keeper {
    purpose: Purpose,
    state: watch::Sender<State>,
}

pub(crate) fn channel(purpose: Purpose) -> (Keeper, Link) {
    let (state, watched) = watch::channel(State::Away("not connected yet".into()));
    (Keeper { purpose, state }, Link { state: watched, home: None })
}

/// Checks that a server can be spoken to at all: one or more URLs with commas.
pub(crate) fn parse_servers(url: &str) -> Result<Vec<ServerAddr>, Error> {
    let parse = |one: &str| one.trim().parse::<ServerAddr>();
    let servers: Result<Vec<_>, _> = url.split(',').map(parse).collect();
    servers.map_err(|source| Error::Server { url: url.to_owned(), source })
}

impl Keeper {
    /// Connects for ever, to the server that the configuration names, until the drain begins.
    pub(crate) async fn run(self, mut compiled: watch::Receiver<Arc<Compiled>>, mut drain: drain::Watch) {
        let mut outage = Outage::default();
        while !drain.is_started() {
            let wanted = Arc::clone(&compiled.borrow_and_update());
            let Some(server) = &wanted.config.server else {
                self.state.send_replace(State::Away("the application has no broker".into()));
                tokio::select! {
                    () = drain.started() => break,
                    () = replaced(self.purpose, &mut compiled, &wanted) => continue,
                }
            };
            let opened = tokio::select! {
                () = drain.started() => break,
                opened = open(self.purpose, &wanted, server) => opened,
            };
            match opened {
                Ok(session) => {
                    outage.is_over(self.purpose);
                    let since = Instant::now();
                    self.state.send_replace(State::Connected(session.clone()));
                    tokio::select! {
                        () = drain.started() => break,
                        () = session.lost() => {}
                        () = replaced(self.purpose, &mut compiled, &wanted) => session.lost.cancel(),
                    }
                    self.state.send_replace(State::Away(LOST.into()));
                    if since.elapsed() > STABLE_AFTER {
                        outage.attempts = 0;
                    }
                }
                Err(error) => {
                    let reason: Arc<str> = kit::Chain(&error).to_string().into();
                    outage.is_on(self.purpose, &reason);
                    self.state.send_replace(State::Away(reason));
                }
            }
            tokio::select! {
                () = drain.started() => break,
                () = sleep(BACKOFF.delay(outage.attempts, fastrand::f64())) => {}
            }
            outage.attempts = outage.attempts.saturating_add(1);
        }
        // Order: those who drain finish with the session first; this task is drained last.
        if let State::Connected(session) = self.state.send_replace(State::Ended) {
            session.lost.cancel();
        }
    }
}

/// What is told of an outage: its beginning and its end, however often was tried.
#[derive(Debug, Default)]
struct Outage {
    /// Connections that failed, or did not last.
    attempts: u32,
    is_told: bool,
}

impl Outage {
    fn is_on(&mut self, purpose: Purpose, reason: &str) {
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(reason, ?purpose, "the broker is away");
        }
    }

    fn is_over(&mut self, purpose: Purpose) {
        if std::mem::take(&mut self.is_told) {
            tracing::info!(?purpose, "the broker is there again");
        }
    }
}

/// Returns when what the session was made for is not wanted any more.
async fn replaced(purpose: Purpose, compiled: &mut watch::Receiver<Arc<Compiled>>, was: &Compiled) {
    let is_other = |now: &Arc<Compiled>| {
        let (now, was) = (&now.config, &was.config);
        let is_first = was.subscriptions.is_empty() && !now.subscriptions.is_empty();
        let is_other = now.server != was.server || now.application != was.application;
        is_other || purpose == Purpose::Reading && (is_first || now.limits != was.limits)
    };
    if compiled.wait_for(is_other).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The client takes nothing of this from an address: user and password, or a token where there is no password. Those of the
/// first server are for all.
fn authenticated(servers: &[ServerAddr]) -> ConnectOptions {
    let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let Some(first) = servers.first() else { return ConnectOptions::new() };
    match (first.username(), first.password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(decoded(user), decoded(password)),
        (Some(token), None) => ConnectOptions::with_token(decoded(token)),
        _ => ConnectOptions::new(),
    }
}

async fn open(purpose: Purpose, compiled: &Compiled, server: &Server) -> Result<Session, Error> {
    let config = &compiled.config;
    let servers = parse_servers(&server.url)?;
    let lost = CancellationToken::new();
    let told = lost.clone();
    let options = authenticated(&servers)
        .name(format!("atoll events of {}", config.application))
        .connection_timeout(REQUEST_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .client_capacity(QUEUE_MAX)
        // A session has one connection: this client is given up with it, after one more round at most.
        .max_reconnects(servers.len())
        .reconnect_delay_callback(|_| Duration::ZERO)
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed) {
                told.cancel();
            }
            std::future::ready(())
        });
    let client = options.connect(servers).await.map_err(|error| broker("connect", error))?;
    let patience = REQUEST_TIMEOUT.max(config.limits.publish_timeout);
    let jetstream = ContextBuilder::new()
        .timeout(patience)
        .ack_timeout(patience)
        // `room` is the bound; runs of outboxes come beside it.
        .max_ack_inflight(2 * UNANSWERED_MAX)
        .backpressure_on_inflight(true)
        .build(client.clone());
    let names = Names::of(&config.application);
    let (turn, replicated) = Default::default();
    let room = Semaphore::new(UNANSWERED_MAX);
    let home = Home::of(config);
    let session = Session(Arc::new(Connection { client, jetstream, names, home, turn, room, replicated, lost }));
    // Nothing is kept where nothing is delivered.
    if purpose == Purpose::Reading && !config.subscriptions.is_empty() {
        tokio::select! {
            () = session.lost() => return Err(Error::Away { reason: LOST.to_owned() }),
            made = streams::make(&session.jetstream, &session.names, &config.limits) => made?,
        }
    }
    Ok(session)
}

fn broker(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broker { operation, source: Box::new(error) }
}
