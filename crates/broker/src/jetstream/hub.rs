//! The API that is about streams as such: which there are, making and removing them. One task; it knows every stream's
//! configuration and passes on what is about one stream alone. What takes long is answered by tasks of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::advisory::{self, Action, Advisory};
use super::api::{
    self, AccountInfo, ApiError, ApiStats, Page, StreamConfig, StreamCreated, StreamCreation, StreamInfo, StreamList,
    StreamNames, StreamRequest, StreamsRequest, Success,
};
use super::failure::Failure;
use super::shared::Shared;
use super::stream::{self, Command, Inbox, Stream};
use super::subjects::{self, Call};
use super::wishes;
use crate::internal::{Message, Subscription};
use crate::publisher::{Outgoing, Publisher};

/// Limit: calls that wait for one stream; beyond it a call is refused.
const CALLS_MAX: usize = 4096;
/// Limit: how long a list waits for a stream that is busy. It is then left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Limit: streams that are opened at the same time.
const OPENING_MAX: usize = 8;

/// The streams that there are.
#[derive(Debug)]
pub(super) struct Hub {
    shared: Arc<Shared>,
    streams: BTreeMap<String, Entry>,
    /// Streams whose files cannot be used, and why.
    broken: BTreeMap<String, String>,
    calls: Subscription,
    publisher: Publisher,
    over: CancellationToken,
}

/// A stream that runs.
#[derive(Debug)]
struct Entry {
    config: StreamConfig,
    commands: mpsc::Sender<Command>,
}

impl Hub {
    /// Opens every stream that is on disk and begins to listen. One that cannot be opened is told, and does not hold up
    /// the others.
    ///
    /// # Errors
    /// [`Failure::Io`] where the folder cannot be read.
    pub(super) async fn open(shared: Arc<Shared>, over: CancellationToken) -> Result<Self, Failure> {
        let calls = Subscription::new(Arc::clone(&shared.broker), shared.config.limits.queue_bytes);
        let user = Arc::clone(shared.broker.users().internal());
        let publisher = Publisher::new(Arc::clone(&shared.broker), user, None);
        let mut hub = Self { streams: BTreeMap::new(), broken: BTreeMap::new(), calls, publisher, over, shared };
        let names = stream::names(&hub.shared)?;
        for names in names.chunks(OPENING_MAX) {
            let opening = names.iter().map(|name| {
                let (shared, name) = (Arc::clone(&hub.shared), name.clone());
                hub.shared.tasks.spawn(async move { stream::open(&shared, &name).await })
            });
            let opening: Vec<_> = opening.collect();
            for (name, opened) in names.iter().zip(opening) {
                let opened = opened.await;
                hub.opened(name, opened.unwrap_or_else(|_| Err(Failure::Ended { stream: name.clone() })));
            }
        }
        for pattern in subjects::HUB {
            hub.calls.add(pattern.as_bytes(), None).expect("they are patterns");
        }
        Ok(hub)
    }

    fn opened(&mut self, name: &str, opened: Result<Box<Stream>, Failure>) {
        match opened {
            Ok(stream) => drop(self.start(stream)),
            // It was never acknowledged.
            Err(Failure::Nameless { folder }) => {
                tracing::warn!(stream = name, "a stream that was not made to the end is removed");
                if let Err(failure) = stream::remove_folder(&folder) {
                    tracing::error!(stream = name, error = %kit::error::Chain(&failure), "it cannot be removed");
                }
            }
            Err(failure) => {
                let reason = kit::error::Chain(&failure).to_string();
                tracing::error!(stream = name, error = reason, "a stream cannot be opened");
                self.broken.insert(name.to_owned(), reason);
            }
        }
    }

    /// Lets a stream listen and run.
    fn start(&mut self, stream: Box<Stream>) -> Result<(), crate::Error> {
        let (sender, commands) = mpsc::channel(CALLS_MAX);
        let mut inbox = Inbox::new(&self.shared, commands);
        let config = stream.config().clone();
        inbox.follow(&config)?;
        self.streams.insert(config.name.clone(), Entry { config, commands: sender });
        self.shared.tasks.spawn(stream::run(stream, inbox, self.over.clone()));
        Ok(())
    }

    /// Answers until the process ends.
    pub(super) async fn run(mut self) {
        let over = self.over.clone();
        loop {
            tokio::select! {
                () = over.cancelled() => return,
                message = self.calls.next() => self.call(message).await,
            }
            while let Some(message) = self.calls.try_next() {
                self.call(message).await;
            }
            self.publisher.wake();
        }
    }

    async fn call(&mut self, message: Message) {
        let subject = message.subject().to_vec();
        let Some(call) = subjects::call(&subject) else { return };
        self.shared.api_total.fetch_add(1, Ordering::Relaxed);
        let kind = call.kind();
        let headers = message.headers();
        let level = api::check_level(wishes::value(&headers, b"Nats-Required-Api-Level"));
        let payload = match (level, call) {
            (Err(error), _) => self.said::<()>(kind, &Err(error)),
            (_, Call::Info) => self.said(kind, &self.account()),
            (_, Call::StreamNames) => self.said(kind, &self.names(&message.payload())),
            (_, Call::StreamList) => return self.list(&message),
            (_, Call::StreamCreate(name)) => {
                let created = self.create(name, &message.payload()).await;
                self.said(kind, &created)
            }
            (_, Call::StreamUpdate(name)) => {
                let updated = self.update(name, &message.payload()).await;
                self.said(kind, &updated)
            }
            (_, Call::StreamDelete(name)) => {
                let deleted = self.delete(name, &message.payload()).await;
                self.said(kind, &deleted)
            }
            (_, Call::OfStream(name, _)) => match self.pass_on(name, &message) {
                Ok(()) => return,
                Err(error) => self.said::<()>(kind, &Err(error)),
            },
            (_, Call::Snapshot | Call::Restore) => self.said::<()>(kind, &Err(ApiError::NOT_SUPPORTED)),
        };
        self.answer(&message, &payload);
    }

    fn said<T: Serialize>(&self, kind: api::Kind, body: &Result<T, ApiError>) -> Vec<u8> {
        if body.is_err() {
            self.shared.api_errors.fetch_add(1, Ordering::Relaxed);
        }
        api::answer(kind, body)
    }

    fn answer(&mut self, message: &Message, payload: &[u8]) {
        if let Some(subject) = message.answerable() {
            self.publisher.publish(&Outgoing { subject, payload, ..Outgoing::default() });
        }
    }

    /// Gives a call to the stream that it is about.
    fn pass_on(&self, name: &str, message: &Message) -> Result<(), ApiError> {
        let Some(entry) = self.streams.get(name) else { return Err(self.missing(name)) };
        entry.commands.try_send(Command::Call(message.clone())).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ApiError::STREAM_TOO_MANY_REQUESTS,
            mpsc::error::TrySendError::Closed(_) => ApiError::STREAM_NOT_FOUND,
        })
    }

    /// Why there is no such stream.
    fn missing(&self, name: &str) -> ApiError {
        self.broken.get(name).map_or(ApiError::STREAM_NOT_FOUND, |reason| ApiError::stream_general(reason))
    }

    fn account(&self) -> Result<AccountInfo, ApiError> {
        let Shared { files, memory, api_total, api_errors, .. } = &*self.shared;
        let load = |sum: &std::sync::atomic::AtomicU64| sum.load(Ordering::Relaxed);
        let consumers = load(&files.consumers) + load(&memory.consumers);
        Ok(AccountInfo {
            memory: load(&memory.bytes),
            storage: load(&files.bytes),
            streams: self.streams.len(),
            consumers: usize::try_from(consumers).unwrap_or(usize::MAX),
            limits: self.shared.account_limits(),
            api: ApiStats { total: load(api_total), errors: load(api_errors), ..ApiStats::default() },
            ..AccountInfo::default()
        })
    }

    /// The streams with a subject that touches a pattern.
    fn touched(&self, pattern: &str) -> Vec<&Entry> {
        self.streams.values().filter(|entry| entry.config.is_about(pattern)).collect()
    }

    fn names(&self, body: &[u8]) -> Result<StreamNames, ApiError> {
        let request: StreamsRequest = api::decode_optional(body)?;
        let touched = self.touched(&request.subject);
        let (page, range) = Page::of(touched.len(), request.offset, api::NAMES_PAGE);
        Ok(StreamNames { page, streams: touched[range].iter().map(|entry| entry.config.name.clone()).collect() })
    }

    /// Asks every stream of a page how it stands, and answers when all have said it.
    fn list(&mut self, message: &Message) {
        let Some(to) = message.answerable().map(<[u8]>::to_vec) else { return };
        let request: StreamsRequest = match api::decode_optional(&message.payload()) {
            Ok(request) => request,
            Err(error) => {
                let payload = self.said::<()>(api::Kind::StreamList, &Err(error));
                return self.answer(message, &payload);
            }
        };
        let touched = self.touched(&request.subject);
        let (page, range) = Page::of(touched.len(), request.offset, api::LIST_PAGE);
        let asked: Vec<_> = touched[range].iter().map(|entry| describe(&entry.commands)).collect();
        let (broker, user) = (Arc::clone(&self.shared.broker), Arc::clone(self.shared.broker.users().internal()));
        self.shared.tasks.spawn(async move {
            let mut streams = Vec::new();
            for described in asked {
                streams.extend(timeout(PATIENCE, described).await.ok().and_then(Result::ok));
            }
            let payload = api::answer(api::Kind::StreamList, &Ok(StreamList { page, streams }));
            let mut publisher = Publisher::new(broker, user, None);
            publisher.publish(&Outgoing { subject: &to, payload: &payload, ..Outgoing::default() });
            publisher.wake();
        });
    }

    fn configs(&self) -> Vec<&StreamConfig> {
        self.streams.values().map(|entry| &entry.config).collect()
    }

    async fn create(&mut self, name: &str, body: &[u8]) -> Result<StreamCreated, ApiError> {
        let request: StreamRequest = api::decode(body)?;
        if let Some(reason) = self.broken.get(name) {
            return Err(ApiError::stream_create(reason));
        }
        let limits = self.shared.account_limits();
        let created = api::check_stream_create(name, request, &self.configs(), &limits)?;
        match created {
            StreamCreation::Same => {}
            StreamCreation::New(config) => {
                let stream = stream::create(&self.shared, *config).await.map_err(|failure| {
                    tracing::error!(stream = name, error = %kit::error::Chain(&failure), "a stream cannot be made");
                    ApiError::stream_create(&kit::error::Chain(&failure))
                })?;
                self.start(stream).map_err(|error| ApiError::stream_create(&error))?;
                advisory::publish(&mut self.publisher, &Advisory::stream(name, Action::Create));
            }
        }
        // Also of one that was there, as nats-server has it.
        Ok(StreamCreated { info: self.info(name).await?.shown(), did_create: true })
    }

    async fn info(&self, name: &str) -> Result<StreamInfo, ApiError> {
        let entry = self.streams.get(name).ok_or_else(|| self.missing(name))?;
        let described = timeout(PATIENCE, describe(&entry.commands)).await;
        described.ok().and_then(Result::ok).ok_or(ApiError::TEMPORARILY_UNAVAILABLE)
    }

    async fn update(&mut self, name: &str, body: &[u8]) -> Result<StreamInfo, ApiError> {
        let request: StreamRequest = api::decode(body)?;
        let others = self.configs().into_iter().cloned().collect();
        let entry = self.streams.get_mut(name).ok_or_else(|| {
            self.broken.get(name).map_or(ApiError::STREAM_NOT_FOUND, |reason| ApiError::stream_general(reason))
        })?;
        let (sender, updated) = oneshot::channel();
        let command =
            Command::Update(Box::new(Update { request, others, limits: self.shared.account_limits() }), sender);
        entry.commands.send(command).await.map_err(|_| ApiError::STREAM_NOT_FOUND)?;
        let (config, info) = updated.await.map_err(|_| ApiError::STREAM_NOT_FOUND)??;
        entry.config = config;
        Ok(info)
    }

    async fn delete(&mut self, name: &str, body: &[u8]) -> Result<Success, ApiError> {
        api::expect_empty(body)?;
        if self.broken.contains_key(name) {
            let folder = stream::root(&self.shared).join(name);
            stream::remove_folder(&folder).map_err(|failure| ApiError::stream_delete(&failure))?;
            self.broken.remove(name);
            return Ok(Success::DONE);
        }
        let entry = self.streams.get(name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let (sender, deleted) = oneshot::channel();
        entry.commands.send(Command::Delete(sender)).await.map_err(|_| ApiError::STREAM_NOT_FOUND)?;
        deleted.await.map_err(|_| ApiError::STREAM_NOT_FOUND)??;
        self.streams.remove(name);
        advisory::publish(&mut self.publisher, &Advisory::stream(name, Action::Delete));
        Ok(Success::DONE)
    }
}

/// What a stream is to become, with everything that the decision needs.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) request: StreamRequest,
    /// Every stream as it is.
    pub(super) others: Vec<StreamConfig>,
    pub(super) limits: api::AccountLimits,
}

/// Asks a stream how it stands.
fn describe(
    commands: &mpsc::Sender<Command>,
) -> impl Future<Output = Result<StreamInfo, oneshot::error::RecvError>> + use<> {
    let (sender, described) = oneshot::channel();
    // A stream that is not there or has too much to do does not answer.
    drop(commands.try_send(Command::Describe(sender)));
    described
}
