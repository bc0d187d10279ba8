//! One stream: a task that alone owns its messages, its consumers and its journals. It takes what is published and asked,
//! and acts in turns: store, deliver, note, answer. What is acknowledged was on disk before; nothing here waits for a client.
//!
//! `opening` makes it from what is on disk, `storing` takes messages in, `calls` answers the API, `reading` gives single
//! messages, `consuming` is about its consumers, `retaining` lets messages go.

mod calls;
mod consuming;
mod creating;
mod members;
mod opening;
mod reading;
mod retaining;
mod storing;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use journal::Pending;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::api::{ApiError, StreamConfig, StreamInfo};
use super::duplicates::Duplicates;
use super::failure::Failure;
use super::hub::Update;
use super::ledger::{Entry, Ledger};
use super::shared::{Share, Shared, now};
use super::store::Store;
use super::subjects::{self, Direct};
use crate::internal::{Message, Subscription};
use crate::publisher::{Outgoing, Publisher};
use members::Members;
pub(super) use opening::{create, has_messages, names, open, remove_folder, root};
use storing::{Ids, Storing};

/// Limit: requests and acknowledgements that are taken in one turn.
const WORDS_MAX: usize = 1024;
/// Limit: how long a stream whose files have failed waits before it opens them anew: at first, and at most.
const REOPEN_FIRST: Duration = Duration::from_millis(500);
const REOPEN_LAST: Duration = Duration::from_secs(30);
/// How long what consumers have done stays unwritten when nobody waits for it: so many share one sync.
const NOTE_DELAY: Duration = Duration::from_millis(5);
/// How often a stream that has nothing else to do looks after its files, and whether somebody listens to its pushes.
const CARE_INTERVAL: Duration = Duration::from_millis(250);

/// What the hub asks of a stream.
#[derive(Debug)]
pub(super) enum Command {
    /// A call of a client, which the stream answers.
    Call(Message),
    /// How it stands.
    Describe(oneshot::Sender<StreamInfo>),
    /// Another configuration.
    Update(Box<Update>, oneshot::Sender<Result<(StreamConfig, StreamInfo), ApiError>>),
    /// The end, files and all.
    Delete(oneshot::Sender<Result<(), ApiError>>),
}

/// Where everything for a stream comes in. It stays when the files have to be opened anew.
#[derive(Debug)]
pub(super) struct Inbox {
    /// What is to be stored.
    intake: Subscription,
    /// Requests for messages, and acknowledgements.
    control: Subscription,
    commands: mpsc::Receiver<Command>,
}

impl Inbox {
    pub(super) fn new(shared: &Shared, commands: mpsc::Receiver<Command>) -> Self {
        let queue = |bytes| Subscription::new(Arc::clone(&shared.broker), bytes);
        let bytes = shared.config.limits.queue_bytes;
        Self { intake: queue(bytes), control: queue(bytes), commands }
    }

    /// Listens to what a configuration says, and to nothing else.
    pub(super) fn follow(&mut self, config: &StreamConfig) -> Result<(), crate::Error> {
        let direct = if config.allow_direct { Direct::Allowed } else { Direct::Denied };
        let words = subjects::of_stream(&config.name, direct);
        let follow = |subscription: &mut Subscription, wanted: &[String]| {
            subscription.retain(|pattern| wanted.iter().any(|wanted| wanted.as_bytes() == pattern));
            let new = wanted.iter().filter(|wanted| !subscription.has(wanted.as_bytes())).collect::<Vec<_>>();
            new.into_iter().try_for_each(|wanted| subscription.add(wanted.as_bytes(), None))
        };
        follow(&mut self.control, &words)?;
        follow(&mut self.intake, &config.subjects)
    }
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    config: StreamConfig,
    /// The name as JSON.
    quoted_name: String,
    created: i64,
    store: Store,
    ledger: Ledger,
    consumers: Members,
    /// The number of the next consumer, in the ledger.
    consumer_next: u64,
    duplicates: Duplicates,
    /// Whether its messages have ids.
    ids: Ids,
    /// The id of the last message, if it had one.
    last_id: Option<Box<[u8]>>,
    /// The time of the last message.
    time: i64,
    /// Where publishers' answers are written.
    acknowledgement: Vec<u8>,
    publisher: Publisher,
    /// Batches on their way to the disk, oldest first.
    storing: VecDeque<Storing>,
    storing_bytes: usize,
    /// Batches of the ledger on their way to the disk, and who is answered then.
    noting: VecDeque<(Pending, Vec<Answer>)>,
    /// Who is answered once what is noted now is on disk.
    answers: Vec<Answer>,
    /// Since when something has happened that is not noted.
    unnoted: Option<Instant>,
    share: Share,
    /// When it was last looked after.
    cared: Instant,
    /// Whether the last turn has left something to do.
    has_more: bool,
    /// Consumers whose next message could not be read just now.
    postponed: Vec<String>,
    /// Whether there may be space to give back.
    is_touched: bool,
}

/// Something that a client is told.
#[derive(Debug)]
struct Answer {
    to: Bytes,
    payload: Vec<u8>,
}

/// Why a stream stops serving.
#[derive(Debug)]
enum Ended {
    /// The process ends.
    Over,
    Deleted(oneshot::Sender<Result<(), ApiError>>),
    Failed(Failure),
}

/// What a stream wakes up for.
enum Event {
    Stored(Result<u64, journal::Error>),
    Noted(Result<u64, journal::Error>),
    Command(Command),
    Word(Message),
    Publish(Message),
    Time,
    End(Ended),
}

/// What becomes of a stream that the hub should know.
#[derive(Debug)]
pub(super) enum News {
    /// It was opened anew, and is this.
    Reopened(Box<StreamConfig>),
}

/// Serves a stream until it is deleted or the process ends. When its files fail it says so to everybody and tries to open
/// them anew.
pub(super) async fn run(
    mut stream: Box<Stream>,
    mut inbox: Inbox,
    news: mpsc::UnboundedSender<News>,
    over: CancellationToken,
) {
    let shared = Arc::clone(&stream.shared);
    let folder = opening::folder(&shared, &stream.config.name);
    loop {
        let ended = stream.serve(&mut inbox, &over).await;
        let config = stream.config.clone();
        stream.give_back();
        match ended {
            Ended::Over => {
                stream.close_consumers();
                stream.settle_all().await;
                return stream.close().await;
            }
            Ended::Deleted(done) => {
                stream.close().await;
                return delete(&shared, folder, inbox, done).await;
            }
            Ended::Failed(failure) => {
                tracing::error!(stream = config.name, error = %kit::error::Chain(&failure), "a stream has failed");
                stream.close_consumers();
                stream.close().await;
                match reopen(&shared, &config, &mut inbox, failure, &over).await {
                    Reopened::Open(opened) => stream = opened,
                    Reopened::Deleted(done) => return delete(&shared, folder, inbox, done).await,
                    Reopened::Over => return,
                }
                // Its last change may have got to the disk, or not.
                if let Err(error) = inbox.follow(&stream.config) {
                    tracing::error!(stream = config.name, %error, "it does not hear of everything");
                }
                // Without a hub there is nobody left to tell.
                let _ = news.send(News::Reopened(Box::new(stream.config.clone())));
            }
        }
    }
}

/// The end of a stream whose journals are closed.
async fn delete(shared: &Shared, folder: PathBuf, inbox: Inbox, done: oneshot::Sender<Result<(), ApiError>>) {
    drop(inbox);
    let removing = shared.tasks.spawn_blocking({
        let folder = folder.clone();
        move || remove_folder(&folder)
    });
    let ended = |_| Err(Failure::io("remove", folder)(std::io::Error::other("the runtime ended")));
    let removed = removing.await.unwrap_or_else(ended);
    // Who asked may have gone.
    let _ = done.send(removed.map_err(|failure| {
        let reason = kit::error::Chain(&failure).to_string();
        tracing::error!(error = reason, "a stream was not deleted");
        ApiError::stream_delete(&reason)
    }));
}

/// What becomes of a stream that has failed.
enum Reopened {
    Open(Box<Stream>),
    Deleted(oneshot::Sender<Result<(), ApiError>>),
    Over,
}

/// Tries to open a failed stream, and refuses everything but its deletion until then.
async fn reopen(
    shared: &Arc<Shared>,
    config: &StreamConfig,
    inbox: &mut Inbox,
    failure: Failure,
    over: &CancellationToken,
) -> Reopened {
    let mut backoff = REOPEN_FIRST;
    let mut refusal = Refusal::new(shared, config, &failure);
    loop {
        let retry = tokio::time::Instant::now() + backoff;
        loop {
            tokio::select! {
                () = over.cancelled() => return Reopened::Over,
                message = inbox.intake.next() => refusal.publish(&message),
                _ = inbox.control.next() => {}
                command = inbox.commands.recv() => match command {
                    None => return Reopened::Over,
                    Some(Command::Delete(done)) => return Reopened::Deleted(done),
                    Some(command) => refusal.command(command),
                },
                () = sleep_until(retry) => break,
            }
        }
        match open(shared, &config.name).await {
            Ok(stream) => {
                tracing::info!(stream = config.name, "a failed stream is open again");
                return Reopened::Open(stream);
            }
            Err(failure) => {
                tracing::warn!(stream = config.name, error = %kit::error::Chain(&failure), "a stream stays closed");
                refusal = Refusal::new(shared, config, &failure);
                backoff = (backoff * 2).min(REOPEN_LAST);
            }
        }
    }
}

/// What everybody is told while a stream's files cannot be used.
struct Refusal {
    publisher: Publisher,
    publish: Vec<u8>,
    reason: String,
}

impl Refusal {
    fn new(shared: &Arc<Shared>, config: &StreamConfig, failure: &Failure) -> Self {
        let reason = kit::error::Chain(failure).to_string();
        let publish = super::api::publish_answer(&config.name, Err(ApiError::stream_store_failed(&reason)));
        let user = Arc::clone(shared.broker.users().internal());
        Self { publisher: Publisher::new(Arc::clone(&shared.broker), user, None), publish, reason }
    }

    fn publish(&mut self, message: &Message) {
        if let Some(to) = message.answerable() {
            self.publisher.publish(&Outgoing { subject: to, payload: &self.publish, ..Outgoing::default() });
            self.publisher.wake();
        }
    }

    fn command(&mut self, command: Command) {
        let error = ApiError::stream_general(&self.reason);
        match command {
            Command::Call(message) => {
                let kind = subjects::call(message.subject()).map_or(super::api::Kind::System, |call| call.kind());
                let payload = super::api::answer::<()>(kind, &Err(error));
                if let Some(to) = message.answerable() {
                    self.publisher.publish(&Outgoing { subject: to, payload: &payload, ..Outgoing::default() });
                    self.publisher.wake();
                }
            }
            // The hub leaves out who does not answer.
            Command::Describe(_) => {}
            Command::Update(_, done) => drop(done.send(Err(error))),
            // The one thing that needs no files.
            Command::Delete(_) => {}
        }
    }
}

/// The result of the oldest batch that is on its way, once it is known.
async fn settled(mut oldest: Option<&mut Pending>) -> Result<u64, journal::Error> {
    poll_fn(|context| match &mut oldest {
        Some(pending) => Pin::new(&mut **pending).poll(context),
        None => Poll::Pending,
    })
    .await
}

impl Stream {
    pub(super) fn config(&self) -> &StreamConfig {
        &self.config
    }

    async fn serve(&mut self, inbox: &mut Inbox, over: &CancellationToken) -> Ended {
        loop {
            let ended = match self.event(inbox, over).await {
                Event::End(ended) => Err(ended),
                event => self.turn(event, inbox).await,
            };
            if let Err(ended) = ended {
                return ended;
            }
        }
    }

    /// Waits for something to do.
    async fn event(&mut self, inbox: &mut Inbox, over: &CancellationToken) -> Event {
        let has_more = std::mem::take(&mut self.has_more);
        let has_room = self.has_room();
        let wake = self.wakes_in().map(|wait| tokio::time::Instant::now() + wait);
        tokio::select! {
            biased;
            () = over.cancelled() => Event::End(Ended::Over),
            stored = settled(self.storing.front_mut().map(|storing| &mut storing.pending)) => Event::Stored(stored),
            noted = settled(self.noting.front_mut().map(|(pending, _)| pending)) => Event::Noted(noted),
            // Without a hub there is nobody left to ask.
            command = inbox.commands.recv() => command.map_or(Event::End(Ended::Over), Event::Command),
            message = inbox.control.next() => Event::Word(message),
            message = inbox.intake.next(), if has_room => Event::Publish(message),
            // Others on this core have their turn first.
            () = tokio::task::yield_now(), if has_more => Event::Time,
            () = async { if let Some(at) = wake { sleep_until(at).await } }, if wake.is_some() => Event::Time,
        }
    }

    async fn turn(&mut self, event: Event, inbox: &mut Inbox) -> Result<(), Ended> {
        let mut published = None;
        match event {
            Event::Stored(stored) => self.stored(stored).map_err(Ended::Failed)?,
            Event::Noted(noted) => self.noted(noted).map_err(Ended::Failed)?,
            Event::Command(command) => self.command(command, inbox).await?,
            Event::Word(message) => self.word(&message).await.map_err(Ended::Failed)?,
            Event::Publish(message) => published = Some(message),
            Event::Time | Event::End(_) => {}
        }
        for _ in 0..WORDS_MAX {
            let Some(message) = inbox.control.try_next() else { break };
            self.word(&message).await.map_err(Ended::Failed)?;
        }
        if published.is_some() || self.has_room() {
            self.take(published, &mut inbox.intake).await.map_err(Ended::Failed)?;
        }
        self.act().await.map_err(Ended::Failed)
    }

    /// What every turn ends with.
    async fn act(&mut self) -> Result<(), Failure> {
        let now = now();
        self.mark_expiring(now).await?;
        self.expire(now);
        self.tick(now);
        self.has_more |= self.deliver(now).await?;
        self.has_more |= self.tell_removed();
        self.note().await?;
        self.publisher.wake();
        if self.cared.elapsed() >= CARE_INTERVAL {
            self.care().await?;
        }
        self.report_share();
        self.consumers.arm();
        Ok(())
    }

    /// Looks after the files: gives space back, keeps the ledger small.
    async fn care(&mut self) -> Result<(), Failure> {
        self.cared = Instant::now();
        for name in std::mem::take(&mut self.postponed) {
            self.has_more |= self.consumers.get_mut(&name).is_some();
        }
        if self.is_touched {
            // Order: what is noted of messages that are gone is on disk before they leave it.
            self.note_now().await?;
            self.ledger.sync().await?;
        }
        match self.store.maintain().await {
            // What is under way is asked for again.
            Ok(is_busy) => self.is_touched = is_busy,
            // Space is given back when the files are opened anew; everything else goes on.
            Err(failure) => {
                self.is_touched = false;
                let error = kit::error::Chain(&failure).to_string();
                tracing::error!(stream = self.config.name, error, "space cannot be given back");
            }
        }
        for damage in self.store.take_damage() {
            self.shared.damaged.fetch_add(1, Ordering::Relaxed);
            tracing::error!(stream = self.config.name, %damage, "messages are damaged");
        }
        if self.ledger.is_bloated() {
            let entries = self.entries().await?;
            self.ledger.rewrite(entries.into_iter()).await?;
        }
        Ok(())
    }

    /// Sends what was noted to the disk; whoever waits for it is answered when it is there.
    async fn note(&mut self) -> Result<(), Failure> {
        let is_late = self.unnoted.is_some_and(|since| since.elapsed() >= NOTE_DELAY);
        if self.answers.is_empty() && !is_late { Ok(()) } else { self.note_now().await }
    }

    async fn note_now(&mut self) -> Result<(), Failure> {
        self.unnoted = None;
        self.note_consumers();
        let flushed = self.ledger.flush().await?;
        let answers = std::mem::take(&mut self.answers);
        match (flushed, self.noting.back_mut()) {
            (Some(pending), _) => self.noting.push_back((pending, answers)),
            // What an answer stands on may be on its way still.
            (None, Some((_, waiting))) => waiting.extend(answers),
            (None, None) => self.send_all(&answers),
        }
        Ok(())
    }

    fn noted(&mut self, noted: Result<u64, journal::Error>) -> Result<(), Failure> {
        let settled = self.noting.pop_front();
        noted?;
        if let Some((_, answers)) = settled {
            self.send_all(&answers);
        }
        Ok(())
    }

    fn send_all(&mut self, answers: &[Answer]) {
        for Answer { to, payload } in answers {
            self.publisher.publish(&Outgoing { subject: to, payload, ..Outgoing::default() });
        }
    }

    /// Answers a client at once.
    fn send(&mut self, to: Option<&[u8]>, payload: &[u8]) {
        if let Some(subject) = to {
            self.publisher.publish(&Outgoing { subject, payload, ..Outgoing::default() });
        }
    }

    /// How long nothing has to be done, if nobody asks for anything.
    fn wakes_in(&self) -> Option<Duration> {
        let due =
            self.consumers.wakes_at().into_iter().chain(self.store.next_expiry()).chain(self.ids_expire_at()).min();
        let due = due.map(|at| Duration::from_nanos(u64::try_from(at.saturating_sub(now())).unwrap_or(0)));
        let note = self.unnoted.map(|since| NOTE_DELAY.saturating_sub(since.elapsed()));
        let care = (!self.is_calm()).then(|| CARE_INTERVAL.saturating_sub(self.cared.elapsed()));
        due.into_iter().chain(note).chain(care).min()
    }

    /// Whether nothing but time, a client or the disk can change anything.
    fn is_calm(&self) -> bool {
        !self.is_touched && self.consumers.is_calm()
    }

    fn report_share(&mut self) {
        let (messages, bytes) = self.store.index.sums();
        let consumers = self.consumers.len() as u64;
        let share = Share { streams: 1, bytes, messages, consumers };
        self.shared.sums(self.config.storage).exchange(self.share, share);
        self.share = share;
    }

    /// Takes its part out of the sums.
    fn give_back(&mut self) {
        self.shared.sums(self.config.storage).exchange(self.share, Share::default());
        self.share = Share::default();
    }

    /// Everything that the ledger has to say.
    async fn entries(&mut self) -> Result<Vec<Entry>, Failure> {
        let about = serde_json::to_vec(&self.config).expect("a configuration is a struct of plain fields");
        let stream = Entry::Stream { about, created: self.created };
        let change = Entry::Change(self.store.snapshot().await?.encode());
        let members = self.consumers.take_from_all().filter(|(_, member)| member.is_kept());
        let members = members.flat_map(|(name, member)| member.entries(name));
        let members: Vec<Entry> = members.collect();
        let used = (self.ids == Ids::Used).then_some(Entry::IdsUsed);
        Ok([stream, change].into_iter().chain(used).chain(self.ids_of_gone()).chain(members).collect())
    }

    /// Waits for everything that is on its way, so that who was promised an answer gets it.
    async fn settle_all(&mut self) {
        while let Some(storing) = self.storing.front_mut() {
            let stored = settled(Some(&mut storing.pending)).await;
            if self.stored(stored).is_err() {
                return;
            }
        }
        if self.note_now().await.is_err() {
            return;
        }
        while let Some((pending, _)) = self.noting.front_mut() {
            let noted = settled(Some(pending)).await;
            if self.noted(noted).is_err() {
                return;
            }
        }
        self.publisher.wake();
    }

    async fn close(self: Box<Self>) {
        let name = self.config.name;
        let closed = [self.ledger.close().await, self.store.close().await.map_err(Failure::from)];
        for failure in closed.into_iter().filter_map(Result::err) {
            tracing::warn!(stream = name, error = %kit::error::Chain(&failure), "a stream was not closed well");
        }
    }
}

#[cfg(test)]
mod tests;
