//! The connection to the NATS server: made again for ever, with the engine's own streams made before anybody uses it.
//! What uses it holds a [`Link`] and is given a [`Session`], which ends with the connection; nothing is carried over from
//! one session to the next.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use kit::backoff::Backoff;
use kit::drain;
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

/// One connection, from when it can be used until it is lost. Clones are the same one.
#[derive(Clone, Debug)]
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
    Connected(Session),
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
    pub(crate) fn session(&self) -> Result<Session, Error> {
        match &*self.0.borrow() {
            State::Connected(session) if !session.is_lost() => Ok(session.clone()),
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
            State::Connected(session) => !session.is_lost(),
            State::Ended => true,
        };
        match self.0.wait_for(is_settled).await.as_deref() {
            Ok(State::Connected(session)) => Ok(session.clone()),
            _ => Err(Error::Ended),
        }
    }
}

const LOST: &str = "the connection was lost";

/// Keeps the connection.
#[derive(Debug)]
pub(crate) struct Keeper(watch::Sender<State>);

pub(crate) fn channel() -> (Keeper, Link) {
    let (sender, receiver) = watch::channel(State::Away("not connected yet".into()));
    (Keeper(sender), Link(receiver))
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
                self.0.send_replace(State::Away("the application has no broker".into()));
                tokio::select! {
                    () = drain.started() => break,
                    () = replaced(&mut compiled, &wanted) => continue,
                }
            };
            let opened = tokio::select! {
                () = drain.started() => break,
                opened = open(&wanted, server) => opened,
            };
            match opened {
                Ok(session) => {
                    if attempt > 0 {
                        tracing::info!("the broker is there again");
                    }
                    attempt = 0;
                    self.0.send_replace(State::Connected(session.clone()));
                    tokio::select! {
                        () = drain.started() => break,
                        () = session.lost() => {}
                        () = replaced(&mut compiled, &wanted) => session.lost.cancel(),
                    }
                    self.0.send_replace(State::Away(LOST.into()));
                }
                Err(error) => {
                    let reason: Arc<str> = kit::Chain(&error).to_string().into();
                    if attempt == 0 {
                        tracing::warn!(%reason, "the broker is away");
                    }
                    self.0.send_replace(State::Away(reason));
                }
            }
            tokio::select! {
                () = drain.started() => break,
                () = sleep(BACKOFF.delay(attempt, fastrand::f64())) => {}
            }
            attempt = attempt.saturating_add(1);
        }
        // Order: those who drain finish with the session first; this task is drained last.
        if let State::Connected(session) = self.0.send_replace(State::Ended) {
            session.lost.cancel();
        }
    }
}

/// Returns when what the session was made for is not wanted any more.
async fn replaced(compiled: &mut watch::Receiver<Arc<Compiled>>, was: &Compiled) {
    let is_other = |now: &Arc<Compiled>| {
        now.config.server != was.config.server
            || now.config.application != was.config.application
            || now.config.limits != was.config.limits
    };
    if compiled.wait_for(is_other).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn open(compiled: &Compiled, server: &Server) -> Result<Session, Error> {
    let servers = parse_servers(&server.url)?;
    let lost = CancellationToken::new();
    let told = lost.clone();
    let options = ConnectOptions::new()
        .name(format!("atoll events of {}", compiled.config.application))
        .connection_timeout(REQUEST_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .client_capacity(QUEUE_MAX)
        // A session has one connection: this client is given up with it, after one more round at most.
        .max_reconnects(servers.len())
        .reconnect_delay_callback(|_| Duration::ZERO)
        .event_callback(move |event| {
            let told = told.clone();
            async move {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    told.cancel();
                }
            }
        });
    let client = options.connect(servers).await.map_err(|error| broker("connect", error))?;
    let context = |timeout| {
        ContextBuilder::new()
            .timeout(timeout)
            .ack_timeout(timeout)
            .max_ack_inflight(UNANSWERED_MAX)
            .backpressure_on_inflight(true)
            .build(client.clone())
    };
    let names = Arc::new(Names::of(&compiled.config.application));
    let session = Session { client: client.clone(), jetstream: context(REQUEST_TIMEOUT), names, lost };
    tokio::select! {
        () = session.lost() => return Err(Error::Away { reason: LOST.to_owned() }),
        made = streams::make(&session.jetstream, &session.names, &compiled.config.limits) => made?,
    }
    Ok(session)
}

fn broker(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broker { operation, source: Box::new(error) }
}
