//! Group commit: what many callers append is collected, and whoever writes takes all of it at once. While it is on its
//! way to the disk the next group forms. The writer is on a thread for blocking work only while there is something to do,
//! so an idle journal costs none; it has one owner at any time: this queue, or the thread that works.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use kit::tasks::Tasks;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::segment::lock;
use crate::writer::Writer;
use crate::{Config, Sequence, Sync, format};

/// Limit: how long a group is gathered, as a part of what its sync takes, and at most. Without this, the first of many
/// that were just acknowledged and append again would have a sync to itself, and all others wait for two: with 256 writers
/// three syncs were made where one suffices.
const GATHER_PART: u32 = 8;
const GATHER_MAX: Duration = Duration::from_millis(1);
/// Limit: bytes of a buffer that an idle journal keeps.
const IDLE_BUFFER: usize = 64 << 10;

/// Told when what was asked for has been done.
pub(crate) type Done = oneshot::Sender<Result<()>>;

/// What else the writer can be asked for.
#[derive(Debug)]
pub(crate) enum Command {
    Sync(Done),
    DropBefore(Sequence, Done),
    /// Of what was appended before this sequence was given.
    Purge(Sequence, Done),
    Close(Done),
    /// The interval is over.
    Tick,
}

/// What one turn of the writer takes.
#[derive(Debug, Default)]
struct Group {
    /// Unsealed frames.
    frames: Vec<u8>,
    records: usize,
    appends: Vec<Done>,
    commands: Vec<Command>,
    /// Told of success once the journal has ended.
    closing: Vec<Done>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.commands.is_empty()
    }
}

#[derive(Debug)]
enum Worker {
    Idle(Box<Writer>),
    Working,
    Ended(Error),
}

#[derive(Debug)]
struct State {
    worker: Worker,
    group: Group,
    next: Sequence,
    /// A tick is on its way.
    is_ticking: bool,
    /// The writer waits until so many appends have come.
    gathering: Option<usize>,
}

impl State {
    fn is_gathered(&self) -> bool {
        self.gathering.is_none_or(|wanted| self.group.appends.len() >= wanted || !self.group.commands.is_empty())
    }
}

/// The way to the one writer of a journal.
#[derive(Debug)]
pub(crate) struct Queue {
    folder: PathBuf,
    state: Mutex<State>,
    gathered: Condvar,
    /// Limit: `Config::queue_bytes` and `Config::queue_records`; who appends beyond waits, in order.
    bytes: Semaphore,
    records: Semaphore,
    bytes_max: usize,
    records_max: usize,
    policy: Sync,
    synced: watch::Sender<Sequence>,
    tasks: Tasks,
    ended: CancellationToken,
}

/// An append that has its sequences and is on its way. Resolves when it is acknowledged. Dropping it changes nothing:
/// the records are appended all the same.
#[derive(Debug)]
#[must_use = "nothing is acknowledged before this resolves"]
pub struct Pending {
    first: Sequence,
    until: Sequence,
    done: oneshot::Receiver<Result<()>>,
    folder: PathBuf,
}

impl Pending {
    /// The sequence of the first record.
    #[must_use]
    pub fn first(&self) -> Sequence {
        self.first
    }

    /// The sequence of the last record.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.until - 1
    }
}

impl Future for Pending {
    /// The sequence of the last record.
    type Output = Result<Sequence>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.done).poll(context));
        Poll::Ready(match done {
            Ok(result) => result.map(|()| self.last()),
            Err(_) => Err(Error::Closed { folder: self.folder.clone() }),
        })
    }
}

impl Queue {
    pub(crate) fn new(writer: Writer, config: &Config, tasks: Tasks) -> Arc<Self> {
        let next = writer.next();
        let synced = watch::Sender::new(writer.synced());
        let worker = Worker::Idle(Box::new(writer));
        // Limit: what a semaphore can count.
        let records_max = config.queue_records.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            folder: config.folder.clone(),
            state: Mutex::new(State { worker, group: Group::default(), next, is_ticking: false, gathering: None }),
            gathered: Condvar::new(),
            bytes: Semaphore::new(config.queue_bytes),
            records: Semaphore::new(records_max),
            bytes_max: config.queue_bytes,
            records_max,
            policy: config.sync,
            synced,
            tasks,
            ended: CancellationToken::new(),
        })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Sequence> {
        self.synced.subscribe()
    }

    /// What these records take, if the queue can take them at all.
    fn measure<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<(u32, u32)> {
        let folder = || self.folder.clone();
        if records.is_empty() {
            return Err(Error::Empty { folder: folder() });
        }
        let bytes = format::frame_bytes(records.iter().map(AsRef::as_ref)).filter(|bytes| *bytes <= self.bytes_max);
        let too_large = || Error::TooLarge {
            folder: folder(),
            bytes: records.iter().map(|record| record.as_ref().len()).sum(),
            max: self.bytes_max,
        };
        let bytes = bytes.filter(|_| records.len() <= self.records_max).ok_or_else(too_large)?;
        Ok((bytes as u32, records.len() as u32))
    }

    /// Waits for room and enqueues.
    pub(crate) async fn enqueue<R: AsRef<[u8]>>(self: &Arc<Self>, records: &[R]) -> Result<Pending> {
        let (bytes, count) = self.measure(records)?;
        let ended = |_| self.ending();
        let bytes = self.bytes.acquire_many(bytes).await.map_err(ended)?;
        let count = self.records.acquire_many(count).await.map_err(ended)?;
        let pending = self.push(records)?;
        bytes.forget();
        count.forget();
        Ok(pending)
    }

    /// Enqueues if there is room.
    pub(crate) fn try_enqueue<R: AsRef<[u8]>>(self: &Arc<Self>, records: &[R]) -> Result<Pending> {
        let (bytes, count) = self.measure(records)?;
        let full = |_| if self.bytes.is_closed() { self.ending() } else { Error::Full { folder: self.folder.clone() } };
        let bytes = self.bytes.try_acquire_many(bytes).map_err(full)?;
        let count = self.records.try_acquire_many(count).map_err(full)?;
        let pending = self.push(records)?;
        bytes.forget();
        count.forget();
        Ok(pending)
    }

    fn push<R: AsRef<[u8]>>(self: &Arc<Self>, records: &[R]) -> Result<Pending> {
        let (sender, done) = oneshot::channel();
        let mut state = lock(&self.state);
        if let Worker::Ended(error) = &state.worker {
            return Err(error.clone());
        }
        let first = state.next;
        let until = first + records.len() as Sequence;
        state.next = until;
        format::push_frame(&mut state.group.frames, first, records.iter().map(AsRef::as_ref));
        state.group.records += records.len();
        state.group.appends.push(sender);
        self.start(state);
        Ok(Pending { first, until, done, folder: self.folder.clone() })
    }

    /// Asks the writer for something, behind everything that was appended until now.
    pub(crate) async fn command(self: &Arc<Self>, command: impl FnOnce(Done) -> Command) -> Result<()> {
        let (sender, done) = oneshot::channel();
        self.push_command(command(sender))?;
        done.await.unwrap_or_else(|_| Err(self.ending()))
    }

    /// Asks for the removal of everything that was appended until now, and of nothing that is appended later.
    pub(crate) async fn purge(self: &Arc<Self>) -> Result<()> {
        let (sender, done) = oneshot::channel();
        let next = lock(&self.state).next;
        self.push_command(Command::Purge(next, sender))?;
        done.await.unwrap_or_else(|_| Err(self.ending()))
    }

    fn push_command(self: &Arc<Self>, command: Command) -> Result<()> {
        let mut state = lock(&self.state);
        if let Worker::Ended(error) = &state.worker {
            return Err(error.clone());
        }
        state.group.commands.push(command);
        self.start(state);
        Ok(())
    }

    /// Puts an idle writer on a thread, or wakes one that has gathered enough.
    fn start(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.gathering.is_some() && state.is_gathered() {
            self.gathered.notify_one();
        }
        match std::mem::replace(&mut state.worker, Worker::Working) {
            Worker::Idle(writer) => {
                let work = Work { queue: Arc::clone(self), writer: Some(writer) };
                // Order: a runtime that ends drops the work here and now, and that takes the lock.
                drop(state);
                self.tasks.spawn_blocking(move || work.run());
            }
            other => state.worker = other,
        }
    }

    fn ending(&self) -> Error {
        match &lock(&self.state).worker {
            Worker::Ended(error) => error.clone(),
            _ => Error::Closed { folder: self.folder.clone() },
        }
    }

    /// Nothing is taken or acknowledged any more.
    fn end(&self, error: &Error, taken: Group) {
        let mut state = lock(&self.state);
        if matches!(state.worker, Worker::Ended(_)) {
            return;
        }
        state.worker = Worker::Ended(error.clone());
        let waiting = std::mem::take(&mut state.group);
        drop(state);
        self.bytes.close();
        self.records.close();
        self.ended.cancel();
        let is_closed = matches!(error, Error::Closed { .. });
        for group in [taken, waiting] {
            for done in group.closing {
                let _ = done.send(if is_closed { Ok(()) } else { Err(error.clone()) });
            }
            let commands = group.commands.into_iter().filter_map(|command| match command {
                Command::Sync(done) | Command::DropBefore(_, done) | Command::Purge(_, done) | Command::Close(done) => {
                    Some(done)
                }
                Command::Tick => None,
            });
            for done in group.appends.into_iter().chain(commands) {
                // Who asked may have gone.
                let _ = done.send(Err(error.clone()));
            }
        }
    }
}

/// The writer on its thread. Dropped without its end, by a panic or with the runtime, it ends the journal.
struct Work {
    queue: Arc<Queue>,
    writer: Option<Box<Writer>>,
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            self.queue.end(&Error::Closed { folder: self.queue.folder.clone() }, Group::default());
        }
    }
}

impl Work {
    /// Writes until nothing is left to do.
    fn run(mut self) {
        let queue = Arc::clone(&self.queue);
        let mut spare = Vec::new();
        let mut last = Last::default();
        while let Some(mut group) = self.take(&mut spare, last) {
            let Some(writer) = self.writer.as_deref_mut() else { return };
            let start = Instant::now();
            last.appends = group.appends.len();
            let turned = queue.turn(writer, &mut group);
            let error = match turned {
                Ok(Turned::GoesOn) => {
                    last.took = start.elapsed();
                    group.frames.clear();
                    spare = group.frames;
                    continue;
                }
                Ok(Turned::Closed) => Error::Closed { folder: queue.folder.clone() },
                Err(error) => {
                    writer.hide_unsynced();
                    Error::Failed { folder: queue.folder.clone(), source: Arc::new(error) }
                }
            };
            // The lock goes with it: the journal can be opened anew as soon as the first caller hears of this.
            self.writer = None;
            return queue.end(&error, group);
        }
    }

    /// The next group, in exchange for a buffer; or `None`, with the writer put back.
    fn take(&mut self, spare: &mut Vec<u8>, last: Last) -> Option<Group> {
        let mut state = lock(&self.queue.state);
        if last.appends > 1 && self.queue.policy == Sync::Always {
            state.gathering = Some(last.appends);
            let patience = GATHER_MAX.min(last.took / GATHER_PART);
            let waited = self.queue.gathered.wait_timeout_while(state, patience, |state| !state.is_gathered());
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.gathering = None;
        }
        if !state.group.is_empty() {
            let next = Group { frames: std::mem::take(spare), ..Group::default() };
            return Some(std::mem::replace(&mut state.group, next));
        }
        state.group.frames.shrink_to(IDLE_BUFFER);
        if let Some(writer) = self.writer.take() {
            state.worker = Worker::Idle(writer);
        }
        None
    }
}

/// The group before: about as many will come again.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    appends: usize,
    took: Duration,
}

/// What becomes of the journal after a turn that succeeded.
enum Turned {
    GoesOn,
    /// Those who asked for it are still to be told.
    Closed,
}

impl Queue {
    /// Writes a group, syncs it as the policy says, acknowledges it, and does what else was asked. Who was not answered,
    /// because of an error, stays in the group.
    fn turn(self: &Arc<Self>, writer: &mut Writer, group: &mut Group) -> Result<Turned> {
        let mut written = 0;
        for command in &group.commands {
            if let Command::Purge(next, _) = command {
                // What came into the group behind it stays.
                let until = written + format::before(&group.frames[written..], *next);
                writer.write(&mut group.frames[written..until])?;
                writer.purge()?;
                written = until;
            }
        }
        if written < group.frames.len() {
            writer.write(&mut group.frames[written..])?;
        }
        let before = writer.synced();
        let is_due =
            self.policy == Sync::Always || group.commands.iter().any(|command| matches!(command, Command::Tick));
        if is_due && writer.is_dirty() {
            writer.sync()?;
        }
        self.acknowledge(group);
        let mut commands = std::mem::take(&mut group.commands).into_iter();
        while let Some(command) = commands.next() {
            let (done, result) = match command {
                Command::Sync(done) => (done, if writer.is_dirty() { writer.sync() } else { Ok(()) }),
                // Order: what was appended in the place of what goes is on disk before that goes.
                Command::DropBefore(sequence, done) => {
                    let synced = if writer.is_dirty() { writer.sync() } else { Ok(()) };
                    (done, synced.and_then(|()| writer.drop_before(sequence)))
                }
                Command::Purge(_, done) => (done, Ok(())),
                Command::Close(done) => {
                    let settled = writer.settle();
                    self.tell(writer.synced());
                    group.closing.push(done);
                    group.commands.extend(commands);
                    return settled.map(|()| Turned::Closed);
                }
                Command::Tick => {
                    lock(&self.state).is_ticking = false;
                    continue;
                }
            };
            if let Err(error) = result {
                group.appends.push(done);
                group.commands.extend(commands);
                return Err(error);
            }
            let _ = done.send(Ok(()));
        }
        self.tell(writer.synced());
        if writer.is_dirty() {
            self.tick_later();
        }
        // Whoever has more to append carries the watermark along; this is for the last group before a pause.
        let is_last = lock(&self.state).group.frames.is_empty();
        if is_last && writer.synced() > before {
            writer.note_synced()?;
        }
        Ok(Turned::GoesOn)
    }

    fn acknowledge(&self, group: &mut Group) {
        self.bytes.add_permits(group.frames.len());
        self.records.add_permits(std::mem::take(&mut group.records));
        for done in group.appends.drain(..) {
            // Who asked may have gone.
            let _ = done.send(Ok(()));
        }
    }

    fn tell(&self, synced: Sequence) {
        self.synced.send_if_modified(|known| std::mem::replace(known, synced) != synced);
    }

    /// Wakes the writer when what it wrote has to be synced. One such wait at a time.
    fn tick_later(self: &Arc<Self>) {
        let Sync::Interval(interval) = self.policy else { return };
        if std::mem::replace(&mut lock(&self.state).is_ticking, true) {
            return;
        }
        let queue = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(interval) => {
                    // One that has ended has nothing to sync.
                    let _ = queue.push_command(Command::Tick);
                }
                () = queue.ended.cancelled() => {}
            }
        });
    }
}
