//! Connections to the NATS server, one for each [`Purpose`]: made again for ever, with the engine's own streams made before
//! anybody reads. What uses one holds a [`Link`] and is given a [`Session`], which ends with the connection; nothing is
//! carried over from one session to the next.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use kit::backoff::Backoff;
use kit::drain;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::compiled::Compiled;
use crate::config::Server;
use crate::error::Error;
use crate::streams::{self, Names};

/// How soon another connection is tried.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2) };
/// Limit: a server that does not answer this often is taken for dead after three of them.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Limit: connecting, and each request to JetStream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit: what waits to be written to the server, in messages; beyond it publishers wait.
const QUEUE_MAX: usize = 4096;
/// Limit: what was published and has no answer yet, in messages; beyond it publishers wait.
const UNANSWERED_MAX: usize = 16 * 1024;

/// One connection, from when it can be used until it is lost.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) jetstream: Context,
    pub(crate) names: Arc<Names>,
    lost: CancellationToken,
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
}

/// How it stands with the connection.
#[derive(Clone, Debug)]
enum State {
    /// Why, in words.
    Away(Arc<str>),
    Connected(Arc<Session>),
    /// Nothing will come any more.
    Ended,
}

/// The way to the current session. Cloned freely.
#[derive(Clone, Debug)]
pub(crate) struct Link(watch::Receiver<State>);

impl Link {
    /// The session of now.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Ended`].
    pub(crate) fn session(&self) -> Result<Arc<Session>, Error> {
        match &*self.0.borrow() {
            State::Connected(session) if !session.is_lost() => Ok(Arc::clone(session)),
            State::Connected(_) => Err(Error::Away { reason: LOST.to_owned() }),
            State::Away(reason) => Err(Error::Away { reason: reason.to_string() }),
            State::Ended => Err(Error::Ended),
        }
    }

    /// Waits for a session. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub(crate) async fn connected(&mut self) -> Result<Arc<Session>, Error> {
        let is_settled = |state: &State| match state {
            State::Away(_) => false,
            State::Connected(session) => !session.is_lost(),
            State::Ended => true,
        };
        match self.0.wait_for(is_settled).await.as_deref() {
            Ok(State::Connected(session)) => Ok(Arc::clone(session)),
            _ => Err(Error::Ended),
        }
    }
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
    (Keeper { purpose, state }, Link(watched))
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
        let mut attempt = 0;
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
                    if attempt > 0 {
                        tracing::info!(purpose = ?self.purpose, "the broker is there again");
                    }
                    attempt = 0;
                    self.state.send_replace(State::Connected(Arc::clone(&session)));
                    tokio::select! {
                        () = drain.started() => break,
                        () = session.lost() => {}
                        () = replaced(self.purpose, &mut compiled, &wanted) => session.lost.cancel(),
                    }
                    self.state.send_replace(State::Away(LOST.into()));
                }
                Err(error) => {
                    let reason: Arc<str> = kit::Chain(&error).to_string().into();
                    if attempt == 0 {
                        tracing::warn!(%reason, purpose = ?self.purpose, "the broker is away");
                    }
                    self.state.send_replace(State::Away(reason));
                }
            }
            tokio::select! {
                () = drain.started() => break,
                () = sleep(BACKOFF.delay(attempt, fastrand::f64())) => {}
            }
            attempt = attempt.saturating_add(1);
        }
        // Order: those who drain finish with the session first; this task is drained last.
        if let State::Connected(session) = self.state.send_replace(State::Ended) {
            session.lost.cancel();
        }
    }
}

/// Returns when what the session was made for is not wanted any more.
async fn replaced(purpose: Purpose, compiled: &mut watch::Receiver<Arc<Compiled>>, was: &Compiled) {
    let is_other = |now: &Arc<Compiled>| {
        let (now, was) = (&now.config, &was.config);
        let is_other = now.server != was.server || now.application != was.application;
        is_other || purpose == Purpose::Reading && now.limits != was.limits
    };
    if compiled.wait_for(is_other).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The client does not take user and password from an address; those of the first are for all.
fn authenticated(servers: &[ServerAddr]) -> ConnectOptions {
    let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let first = servers.first().and_then(|server| Some((server.username()?, server.password().unwrap_or_default())));
    match first {
        Some((user, password)) => ConnectOptions::with_user_and_password(decoded(user), decoded(password)),
        None => ConnectOptions::new(),
    }
}

async fn open(purpose: Purpose, compiled: &Compiled, server: &Server) -> Result<Arc<Session>, Error> {
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
        .max_ack_inflight(UNANSWERED_MAX)
        .backpressure_on_inflight(true)
        .build(client.clone());
    let session = Session { client, jetstream, names: Arc::new(Names::of(&config.application)), lost };
    if purpose == Purpose::Reading {
        tokio::select! {
            () = session.lost() => return Err(Error::Away { reason: LOST.to_owned() }),
            made = streams::make(&session.jetstream, &session.names, &config.limits) => made?,
        }
    }
    Ok(Arc::new(session))
}

fn broker(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broker { operation, source: Box::new(error) }
}
