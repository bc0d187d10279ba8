//! The API that is about streams as such: which there are, making and removing them. One task; it knows every stream's
//! configuration and passes on what is about one stream alone. What takes long is answered by tasks of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::advisory::{self, Action, Advisory};
use super::api::{
    self, AccountInfo, ApiError, ApiStats, Page, StreamConfig, StreamCreated, StreamCreation, StreamInfo, StreamList,
    StreamNames, StreamRequest, StreamsRequest, Success,
};
use super::failure::Failure;
use super::shared::{Shared, now};
use super::stream::{self, Command, Inbox, News, Stream};
use super::subjects::{self, Call};
use super::wishes;
use crate::internal::{Message, Subscription};
use crate::publisher::{Outgoing, Publisher};

/// Limit: calls that wait for one stream; beyond it a call is refused.
const CALLS_MAX: usize = 4096;
/// Limit: how long a list waits for a stream that is busy. It is then left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Limit: lists that are put together at the same time; beyond it one is refused.
const LISTS_MAX: usize = 32;
/// Limit: changes of one stream that wait for the one before; beyond it one is refused.
const WAITING_MAX: usize = 64;
/// Limit: streams that are opened at the same time.
const OPENING_MAX: usize = 8;

/// The streams that there are.
#[derive(Debug)]
pub(super) struct Hub {
    shared: Arc<Shared>,
    streams: BTreeMap<String, Entry>,
    /// Streams whose files cannot be used, and why.
    broken: BTreeMap<String, String>,
    /// What is being made, changed or removed, by name.
    changing: BTreeMap<String, Changing>,
    calls: Subscription,
    publisher: Publisher,
    /// How what was begun has ended.
    ended: mpsc::UnboundedReceiver<Ended>,
    ends: mpsc::UnboundedSender<Ended>,
    lists: Arc<Semaphore>,
    over: CancellationToken,
}

/// A stream that runs.
#[derive(Debug)]
struct Entry {
    config: StreamConfig,
    commands: mpsc::Sender<Command>,
}

/// Something that takes a while.
#[derive(Debug)]
struct Changing {
    message: Message,
    /// Of a stream that is being made.
    config: Option<Box<StreamConfig>>,
    /// Limit: [`WAITING_MAX`].
    waiting: Vec<Message>,
}

/// The end of something that took a while. Limit: one for each name that is being changed, one for each stream.
#[derive(Debug)]
enum Ended {
    Created {
        name: String,
        created: Result<Box<Stream>, Failure>,
    },
    Updated {
        name: String,
        updated: Result<Box<(StreamConfig, StreamInfo)>, ApiError>,
    },
    Deleted {
        name: String,
        deleted: Result<(), ApiError>,
    },
    /// The task of a stream has ended. It is told what it was, where it was not deleted.
    Stream {
        name: String,
    },
    News(News),
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
        let (ends, ended) = mpsc::unbounded_channel();
        let mut hub = Self {
            streams: BTreeMap::new(),
            broken: BTreeMap::new(),
            changing: BTreeMap::new(),
            calls,
            publisher,
            ended,
            ends,
            lists: Arc::new(Semaphore::new(LISTS_MAX)),
            over,
            shared,
        };
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
            Ok(stream) => {
                if let Err(error) = self.start(stream) {
                    self.break_off(name, error.to_string());
                }
            }
            // It was never acknowledged. One that has messages is not removed, whatever has become of its ledger.
            Err(Failure::Nameless { folder }) if !stream::has_messages(&folder) => {
                tracing::warn!(stream = name, "a stream that was not made to the end is removed");
                if let Err(failure) = stream::remove_folder(&folder) {
                    tracing::error!(stream = name, error = %kit::error::Chain(&failure), "it cannot be removed");
                }
            }
            Err(failure) => self.break_off(name, kit::error::Chain(&failure).to_string()),
        }
    }

    /// Keeps why a stream cannot be used.
    fn break_off(&mut self, name: &str, reason: String) {
        tracing::error!(stream = name, error = reason, "a stream cannot be used");
        self.broken.insert(name.to_owned(), reason);
    }

    /// Lets a stream listen and run.
    fn start(&mut self, stream: Box<Stream>) -> Result<(), crate::Error> {
        let (sender, commands) = mpsc::channel(CALLS_MAX);
        let mut inbox = Inbox::new(&self.shared, commands);
        let config = stream.config().clone();
        inbox.follow(&config)?;
        let name = config.name.clone();
        self.streams.insert(name.clone(), Entry { config, commands: sender });
        let (news, mut told) = mpsc::unbounded_channel();
        let running = self.shared.tasks.spawn(stream::run(stream, inbox, news, self.over.clone()));
        let ends = self.ends.clone();
        self.shared.tasks.spawn(async move {
            while let Some(news) = told.recv().await {
                drop(ends.send(Ended::News(news)));
            }
            // A panic was logged; the stream is opened anew.
            if running.await.is_err() {
                drop(ends.send(Ended::Stream { name }));
            }
        });
        Ok(())
    }

    /// Answers until the process ends.
    pub(super) async fn run(mut self) {
        let over = self.over.clone();
        loop {
            tokio::select! {
                () = over.cancelled() => return,
                Some(ended) = self.ended.recv() => self.end(ended).await,
                message = self.calls.next() => self.call(&message),
            }
            for _ in 0..CALLS_MAX {
                let Some(message) = self.calls.try_next() else { break };
                self.call(&message);
            }
            self.publisher.wake();
        }
    }

    fn call(&mut self, message: &Message) {
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
            (_, Call::StreamList) => return self.list(message),
            (_, Call::StreamCreate(name) | Call::StreamUpdate(name) | Call::StreamDelete(name)) => {
                return self.change(name, call, message.clone());
            }
            (_, Call::OfStream(name, _)) => match self.pass_on(name, message) {
                Ok(()) => return,
                Err(error) => self.said::<()>(kind, &Err(error)),
            },
            (_, Call::Snapshot | Call::Restore) => self.said::<()>(kind, &Err(ApiError::NOT_SUPPORTED)),
        };
        self.answer(message, &payload);
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
        let Ok(permit) = Arc::clone(&self.lists).try_acquire_owned() else {
            let payload = self.said::<()>(api::Kind::StreamList, &Err(ApiError::STREAM_TOO_MANY_REQUESTS));
            return self.answer(message, &payload);
        };
        let asked: Vec<_> = touched[range].iter().map(|entry| describe(&entry.commands)).collect();
        let mut publisher = self.new_publisher();
        self.shared.tasks.spawn(async move {
            let _permit = permit;
            let mut streams = Vec::new();
            for described in asked {
                streams.extend(timeout(PATIENCE, described).await.ok().and_then(Result::ok));
            }
            let payload = api::answer(api::Kind::StreamList, &Ok(StreamList { page, streams }));
            publisher.publish(&Outgoing { subject: &to, payload: &payload, ..Outgoing::default() });
            publisher.wake();
        });
    }

    /// Every stream, those that are being made too.
    fn configs(&self) -> Vec<&StreamConfig> {
        let made = self.changing.values().filter_map(|changing| changing.config.as_deref());
        self.streams.values().map(|entry| &entry.config).chain(made).collect()
    }

    /// Begins to make, change or remove a stream. One such thing at a time for each name.
    fn change(&mut self, name: &str, call: Call<'_>, message: Message) {
        if let Some(changing) = self.changing.get_mut(name) {
            if changing.waiting.len() < WAITING_MAX {
                return changing.waiting.push(message);
            }
            let payload = self.said::<()>(call.kind(), &Err(ApiError::STREAM_TOO_MANY_REQUESTS));
            return self.answer(&message, &payload);
        }
        let body = message.payload();
        let begun = match call {
            Call::StreamCreate(_) => self.create(name, &body, &message),
            Call::StreamUpdate(_) => self.update(name, &body).map(|()| None),
            _ => self.delete(name, &body).map(|()| None),
        };
        match begun {
            Ok(config) => {
                let changing = Changing { message, config, waiting: Vec::new() };
                self.changing.insert(name.to_owned(), changing);
            }
            Err(Some(error)) => {
                let payload = self.said::<()>(call.kind(), &Err(error));
                self.answer(&message, &payload);
            }
            // It is answered already, or will be.
            Err(None) => {}
        }
    }

    /// Begins to make a stream. `Err(None)`: there is one, exactly so.
    fn create(
        &mut self,
        name: &str,
        body: &[u8],
        message: &Message,
    ) -> Result<Option<Box<StreamConfig>>, Option<ApiError>> {
        let request: StreamRequest = api::decode(body)?;
        if let Some(reason) = self.broken.get(name) {
            return Err(Some(ApiError::stream_create(reason)));
        }
        let limits = self.shared.account_limits();
        match api::check_stream_create(name, request, &self.configs(), &limits)? {
            StreamCreation::Same => {
                self.answer_same(name, message);
                Err(None)
            }
            StreamCreation::New(config) => {
                let (shared, ends) = (Arc::clone(&self.shared), self.ends.clone());
                let (name, made) = (name.to_owned(), (*config).clone());
                self.shared.tasks.spawn(async move {
                    let created = stream::create(&shared, made).await;
                    drop(ends.send(Ended::Created { name, created }));
                });
                Ok(Some(config))
            }
        }
    }

    /// Answers whoever has asked for a stream that is there, as nats-server does.
    fn answer_same(&mut self, name: &str, message: &Message) {
        let Some(entry) = self.streams.get(name) else { return };
        let Some(to) = message.answerable().map(<[u8]>::to_vec) else { return };
        let (described, mut publisher) = (describe(&entry.commands), self.new_publisher());
        self.shared.tasks.spawn(async move {
            let info = timeout(PATIENCE, described).await.ok().and_then(Result::ok);
            let created = info.map(|info| StreamCreated { info: info.shown(), did_create: true });
            let payload = api::answer(api::Kind::StreamCreate, &created.ok_or(ApiError::TEMPORARILY_UNAVAILABLE));
            publisher.publish(&Outgoing { subject: &to, payload: &payload, ..Outgoing::default() });
            publisher.wake();
        });
    }

    fn new_publisher(&self) -> Publisher {
        let broker = &self.shared.broker;
        Publisher::new(Arc::clone(broker), Arc::clone(broker.users().internal()), None)
    }

    fn update(&mut self, name: &str, body: &[u8]) -> Result<(), Option<ApiError>> {
        let request: StreamRequest = api::decode(body)?;
        let others = self.configs().into_iter().cloned().collect();
        let entry = self.streams.get(name).ok_or_else(|| self.missing(name))?;
        let (sender, updated) = oneshot::channel();
        let update = Update { request, others, limits: self.shared.account_limits() };
        let (commands, ends, name) = (entry.commands.clone(), self.ends.clone(), name.to_owned());
        self.shared.tasks.spawn(async move {
            // A stream that is gone drops the question.
            drop(commands.send(Command::Update(Box::new(update), sender)).await);
            let updated = updated.await.unwrap_or(Err(ApiError::STREAM_NOT_FOUND)).map(Box::new);
            drop(ends.send(Ended::Updated { name, updated }));
        });
        Ok(())
    }

    fn delete(&mut self, name: &str, body: &[u8]) -> Result<(), Option<ApiError>> {
        api::expect_empty(body)?;
        let (ends, name) = (self.ends.clone(), name.to_owned());
        if self.broken.contains_key(&name) {
            let folder = stream::root(&self.shared).join(&name);
            self.shared.tasks.spawn_blocking(move || {
                let removed = stream::remove_folder(&folder);
                let deleted = removed.map_err(|failure| ApiError::stream_delete(&kit::error::Chain(&failure)));
                drop(ends.send(Ended::Deleted { name, deleted }));
            });
            return Ok(());
        }
        let entry = self.streams.get(&name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let (sender, deleted) = oneshot::channel();
        let commands = entry.commands.clone();
        self.shared.tasks.spawn(async move {
            drop(commands.send(Command::Delete(sender)).await);
            let deleted = deleted.await.unwrap_or(Err(ApiError::STREAM_NOT_FOUND));
            drop(ends.send(Ended::Deleted { name, deleted }));
        });
        Ok(())
    }

    /// Takes in how something has ended, and answers whoever has asked for it.
    async fn end(&mut self, ended: Ended) {
        match ended {
            Ended::Created { name, created } => {
                let created = self.created(&name, created);
                self.changed(&name, api::Kind::StreamCreate, &created);
            }
            Ended::Updated { name, updated } => {
                let updated = updated.map(|updated| {
                    let (config, info) = *updated;
                    if let Some(entry) = self.streams.get_mut(&name) {
                        entry.config = config;
                    }
                    info
                });
                self.changed(&name, api::Kind::StreamUpdate, &updated);
            }
            Ended::Deleted { name, deleted } => {
                match &deleted {
                    Ok(()) => {
                        self.streams.remove(&name);
                        self.broken.remove(&name);
                        advisory::publish(&mut self.publisher, &Advisory::stream(&name, Action::Delete));
                    }
                    // Its task has ended all the same.
                    Err(error) if self.streams.remove(&name).is_some() => {
                        self.break_off(&name, error.description.to_string());
                    }
                    Err(_) => {}
                }
                self.changed(&name, api::Kind::StreamDelete, &deleted.map(|()| Success::DONE));
            }
            Ended::Stream { name } => {
                if self.streams.remove(&name).is_some() {
                    let opened = stream::open(&self.shared, &name).await;
                    self.opened(&name, opened);
                }
            }
            Ended::News(News::Reopened(config)) => {
                if let Some(entry) = self.streams.get_mut(&config.name) {
                    entry.config = *config;
                }
            }
        }
    }

    fn created(&mut self, name: &str, created: Result<Box<Stream>, Failure>) -> Result<StreamCreated, ApiError> {
        let stream = created.map_err(|failure| {
            let reason = kit::error::Chain(&failure).to_string();
            tracing::error!(stream = name, error = reason, "a stream cannot be made");
            ApiError::stream_create(&reason)
        })?;
        let info = stream.info(now()).shown();
        self.start(stream).map_err(|error| ApiError::stream_create(&error))?;
        advisory::publish(&mut self.publisher, &Advisory::stream(name, Action::Create));
        Ok(StreamCreated { info, did_create: true })
    }

    /// Answers a change that has ended, and begins those that waited for it.
    fn changed<T: Serialize>(&mut self, name: &str, kind: api::Kind, body: &Result<T, ApiError>) {
        let payload = self.said(kind, body);
        let Some(changing) = self.changing.remove(name) else { return };
        self.answer(&changing.message, &payload);
        changing.waiting.into_iter().for_each(|message| self.call(&message));
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
