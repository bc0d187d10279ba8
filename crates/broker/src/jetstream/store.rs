//! The messages of one stream: appended, limited, read and removed. It belongs to the stream's actor, which tells it the
//! time and when the disk has what was appended. Nothing is seen here before that; nothing that was acknowledged is lost,
//! comes back, or is passed over in silence.

mod cache;
mod change;
mod chunks;
mod cursors;
mod files;
mod history;
mod index;
mod kept;
mod query;
mod record;
mod recovery;
mod replay;
mod retention;
mod subjects;
mod summary;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use journal::{Disk, Pending};
use kit::tasks::Tasks;

pub(crate) use change::{Change, Purge, What};
pub(crate) use cursors::CursorId;
use files::Files;
pub(crate) use files::MESSAGES;
pub(crate) use index::Index;
use index::{Arrival, Growth};

/// Limit: bytes that are allocated at once for records. Small ones share it, and are freed with their neighbours.
const ARENA_BYTES: usize = 64 << 10;
/// Limit: bytes of one frame of the journal, but for a message that is larger: what one damage can take, and what is read
/// for one message.
const FRAME_BYTES: usize = 64 << 10;
/// Limit: bytes of a subject.
const SUBJECT_MAX: usize = u16::MAX as usize;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a stream's messages.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Damage names file and place; after a failed write or sync nothing more is taken.
    #[error("the stream's journal does not give what is asked")]
    Journal(#[from] journal::Error),
    #[error("cannot remove {}", path.display())]
    Remove { path: PathBuf, source: Arc<std::io::Error> },
    /// Its bytes are those that were written, and no message: another version has written them.
    #[error("message {sequence} has a form that this version does not know")]
    Record { sequence: u64 },
}

/// Where messages are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Memory,
    /// A folder of the stream's own.
    On(Arc<dyn Disk>, PathBuf),
}

/// What does not change while a stream is open.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) place: Place,
    /// The number of the stream's first message; 0 is 1.
    pub(crate) first_sequence: u64,
    /// Bytes of messages in memory, for readers.
    pub(crate) cache_bytes: usize,
    pub(crate) segment_bytes: u64,
    /// Bytes that may wait for the disk; whoever appends more waits.
    pub(crate) queue_bytes: usize,
    /// Largest message, its subject and headers included.
    pub(crate) record_bytes: usize,
    pub(crate) sync: journal::Sync,
}

/// How much may be there, and how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) max_msgs: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_msgs_per_subject: Option<u64>,
    pub(crate) discard: Discard,
}

/// What goes when there is too much. More messages of one subject than it may have replace its oldest, but where they are
/// refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Discard {
    #[default]
    Old,
    New,
    /// Also those of a subject that is full.
    NewPerSubject,
}

impl Discard {
    fn is_new(self) -> bool {
        self != Self::Old
    }

    fn is_per_subject(self) -> bool {
        self == Self::NewPerSubject
    }
}

/// How long a message stays, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// Also when it is older than `max_age`.
    Never,
    /// From its time on; `max_age` may be shorter.
    After(Duration),
}

impl Ttl {
    /// What a record can say: 584 years at most.
    fn bounded(self) -> Self {
        match self {
            Self::Never => Self::Never,
            Self::After(after) => Self::After(after.min(Duration::from_nanos(u64::MAX))),
        }
    }
}

/// What a message replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rollup {
    /// Everything older with its subject.
    Subject,
    /// Everything older.
    All,
}

/// A message to be appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New<'a> {
    pub(crate) subject: &'a [u8],
    /// The whole block with its first line and the empty one; empty for none.
    pub(crate) headers: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// Nanoseconds since the epoch. One that is before that of the last message becomes it.
    pub(crate) time: i64,
    pub(crate) ttl: Option<Ttl>,
    pub(crate) rollup: Option<Rollup>,
}

/// A message that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) time: i64,
    pub(crate) subject: Bytes,
    pub(crate) headers: Bytes,
    pub(crate) payload: Bytes,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Messages,
    Bytes,
    PerSubject,
    TooLarge,
}

/// What a stream's state says of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// 0 in a stream that never had a message; otherwise, where none is there, one above the last.
    pub(crate) first: u64,
    pub(crate) first_time: Option<i64>,
    pub(crate) last: u64,
    pub(crate) last_time: Option<i64>,
    pub(crate) subjects: u64,
    /// Gone, between the first and the last.
    pub(crate) deleted: u64,
}

/// A message, if memory has it.
#[derive(Clone, Debug)]
pub(crate) enum Load {
    Message(Stored),
    /// It is not there.
    Missing,
    /// It must be read, or is damaged: [`Store::load`].
    Elsewhere,
}

/// A store and what was found when it was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) report: Report,
}

/// What was found when a stream was opened.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) torn: Vec<journal::Torn>,
    /// What was once on disk and cannot be read. Messages in it are gone for readers and stay where they are.
    pub(crate) damage: Vec<journal::Damage>,
    /// To be journalled before any other.
    pub(crate) change: Option<Change>,
}

/// A message that has its sequence and has not arrived.
#[derive(Debug)]
struct Flight {
    sequence: u64,
    arrival: Arrival,
    growth: Growth,
}

#[derive(Debug)]
enum Storage {
    Memory(HashMap<u64, Bytes>),
    Files(Box<Files>),
}

/// The messages of one stream.
#[derive(Debug)]
pub(crate) struct Store {
    /// What is there, and who reads it.
    pub(crate) index: Index,
    storage: Storage,
    /// From the one behind `index.last()` on.
    flights: VecDeque<Flight>,
    /// Records of the last flights, which the journal does not have yet.
    batch: VecDeque<Bytes>,
    arena: BytesMut,
    time: i64,
    next: u64,
    record_bytes: usize,
}

impl Store {
    /// Opens a stream's messages, or begins a new stream. `limits` are those it was made with; `changes` are all that its
    /// ledger has, in order.
    ///
    /// # Errors
    /// [`Error::Journal`] if a journal cannot be opened at all.
    pub(crate) async fn open(config: Config, limits: Limits, changes: Vec<Change>, tasks: &Tasks) -> Result<Opened> {
        let record_bytes = config.record_bytes;
        let (index, storage, report) = match config.place.clone() {
            Place::Memory => {
                let mut index = Index::new(limits, config.first_sequence.max(1));
                index.kept_until = u64::MAX;
                (index, Storage::Memory(HashMap::new()), Report::default())
            }
            Place::On(disk, folder) => {
                let (index, files, report) = Files::open(disk, folder, &config, limits, changes, tasks).await?;
                (index, Storage::Files(Box::new(files)), report)
            }
        };
        let (next, time) = (index.last() + 1, index.clock);
        let (flights, batch, arena) = (VecDeque::new(), VecDeque::new(), BytesMut::new());
        Ok(Opened { store: Self { index, storage, flights, batch, arena, time, next, record_bytes }, report })
    }

    /// Gives a message its sequence. It goes to the journal with the next [`Store::commit`].
    ///
    /// # Errors
    /// Why it was not taken; nothing has changed then.
    pub(crate) fn stage(&mut self, message: &New<'_>) -> Result<u64, Full> {
        let length = record::length(message);
        if length > self.record_bytes + record::OVERHEAD || message.subject.len() > SUBJECT_MAX {
            return Err(Full::TooLarge);
        }
        let size = self.size(message);
        let growth = self.index.room(message.subject, size, message.rollup)?;
        let subject = self.index.hold(message.subject);
        let (sequence, time) = (self.next, message.time.max(self.time).max(self.index.clock));
        self.index.subjects.get_mut(subject).staged = sequence;
        self.index.staged.messages += growth.messages;
        self.index.staged.bytes += growth.bytes;
        let record = match &self.storage {
            // One that stays long must not hold its neighbours.
            Storage::Memory(_) => {
                let mut buffer = BytesMut::with_capacity(length);
                record::push(&mut buffer, message, time);
                buffer.freeze()
            }
            Storage::Files(_) => {
                if self.arena.capacity() < length {
                    self.arena = BytesMut::with_capacity(length.max(ARENA_BYTES));
                }
                record::push(&mut self.arena, message, time);
                self.arena.split().freeze()
            }
        };
        self.batch.push_back(record);
        let arrival = Arrival { subject, size, time, ttl: message.ttl.map(Ttl::bounded), rollup: message.rollup };
        self.flights.push_back(Flight { sequence, arrival, growth });
        (self.next, self.time) = (sequence + 1, time);
        Ok(sequence)
    }

    /// What nats-server counts for it.
    fn size(&self, message: &New<'_>) -> u32 {
        let content = message.subject.len() + message.headers.len() + message.payload.len();
        (content + self.storage.overhead(!message.headers.is_empty())) as u32
    }

    /// Hands what was staged to the journal, and waits for room there. It has arrived when the journal says so and
    /// [`Store::synced`] was told; `None` if that is now. A future that is dropped has handed on a part, the rest follows with
    /// the next call.
    ///
    /// # Errors
    /// [`Error::Journal`]: nothing more is taken then, until the stream is opened anew.
    pub(crate) async fn commit(&mut self) -> Result<Option<Pending>> {
        match &mut self.storage {
            Storage::Memory(records) => {
                let first = self.next - self.batch.len() as u64;
                records.extend((first..).zip(self.batch.drain(..)));
                self.synced(self.next - 1);
                Ok(None)
            }
            Storage::Files(files) => {
                let mut pending = None;
                while !self.batch.is_empty() {
                    let mut bytes = 0;
                    let fits = |record: &&Bytes| {
                        bytes += record.len();
                        bytes <= FRAME_BYTES
                    };
                    let count = self.batch.iter().take_while(fits).count().max(1);
                    let first = self.next - self.batch.len() as u64;
                    let records = &self.batch.make_contiguous()[..count];
                    pending = Some(files.append(first, records).await?);
                    self.batch.drain(..count);
                }
                Ok(pending)
            }
        }
    }

    fn land(&mut self, flight: &Flight) {
        self.index.staged.messages -= flight.growth.messages;
        self.index.staged.bytes -= flight.growth.bytes;
    }

    /// Messages up to this one are on disk: they are there from now on, and what they leave no room for is not.
    pub(crate) fn synced(&mut self, up_to: u64) {
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.sequence <= up_to) {
            self.land(&flight);
            if let Storage::Files(files) = &mut self.storage {
                files.arrived(&mut self.index, flight.sequence, &flight.arrival);
            }
            self.index.apply(flight.sequence, &flight.arrival);
        }
        self.bury();
    }

    /// The stream's sequence of a record of its journal.
    #[cfg(test)]
    pub(crate) fn sequence_of(&self, record: journal::Sequence) -> u64 {
        match &self.storage {
            Storage::Memory(_) => record,
            Storage::Files(files) => files.sequence_of(record),
        }
    }

    /// The last sequence that was given.
    pub(crate) fn last(&self) -> u64 {
        self.next - 1
    }

    /// The last message that has arrived.
    pub(crate) fn visible(&self) -> u64 {
        self.index.last()
    }

    /// The first message that is there; one above [`Store::visible`] where none is.
    pub(crate) fn first(&self) -> u64 {
        self.index.first
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.index.limits
    }

    /// A message, if memory has it.
    pub(crate) fn try_load(&mut self, sequence: u64) -> Load {
        let is_live = self.index.is_live(sequence);
        let record = match &mut self.storage {
            Storage::Memory(records) => records.get(&sequence).cloned(),
            Storage::Files(files) if !is_live && !files.is_damaged(sequence) => None,
            Storage::Files(files) => match files.cached(&self.index, sequence).filter(|_| is_live) {
                None => return Load::Elsewhere,
                found => found,
            },
        };
        match record.filter(|_| is_live).map(|record| record::stored(&record, sequence)) {
            Some(Ok(stored)) => Load::Message(stored),
            Some(Err(_)) => Load::Elsewhere,
            None => Load::Missing,
        }
    }

    /// A message; `None` if it is not there.
    ///
    /// # Errors
    /// [`Error::Journal`] with file and place if it was there and is damaged, each time; [`Error::Record`].
    pub(crate) async fn load(&mut self, sequence: u64) -> Result<Option<Stored>> {
        let is_live = self.index.is_live(sequence);
        let record = match &mut self.storage {
            Storage::Memory(records) => records.get(&sequence).cloned(),
            Storage::Files(files) if is_live => Some(files.load(&self.index, sequence).await?),
            Storage::Files(files) => files.damage_at(sequence)?,
        };
        record.filter(|_| is_live).map(|record| record::stored(&record, sequence)).transpose()
    }

    /// Removes a message; `None` if it is not there.
    pub(crate) fn remove(&mut self, sequence: u64, now: i64) -> Option<Change> {
        self.remove_ranges(&[sequence..=sequence], now)
    }

    /// Removes what is there within these ranges; `None` if nothing is.
    pub(crate) fn remove_ranges(&mut self, ranges: &[RangeInclusive<u64>], now: i64) -> Option<Change> {
        self.index.expire(now);
        let taken = self.index.take_ranges(ranges);
        self.bury();
        (!taken.is_empty()).then(|| self.change(What::Removed(taken)))
    }

    /// Removes messages. Says how many, and what to journal if there were any.
    pub(crate) fn purge(&mut self, purge: &Purge, now: i64) -> (u64, Option<Change>) {
        self.index.expire(now);
        let purged = self.index.purge(purge);
        self.bury();
        (purged, (purged > 0).then(|| self.change(What::Purged(purge.clone()))))
    }

    /// Replaces the limits; what is then too much goes.
    pub(crate) fn set_limits(&mut self, limits: Limits, now: i64) -> Change {
        self.index.expire(now);
        self.index.replace_limits(limits.clone());
        self.bury();
        self.change(What::Limits(limits))
    }

    /// Removes what is too old. Says how many. Nothing is to be journalled: time tells it again.
    pub(crate) fn remove_expired(&mut self, now: i64) -> u64 {
        let expired = self.index.expire(self.expires_until(now));
        self.bury();
        expired
    }

    /// Those whose time is over at `now`, that are the only ones of their subjects and have no successor on its way.
    pub(crate) fn last_expiring(&self, now: i64) -> Vec<u64> {
        self.index.last_expiring(self.expires_until(now))
    }

    /// When the next message is too old: never later than this. `None` also where a message on its way must arrive first.
    pub(crate) fn next_expiry(&self) -> Option<i64> {
        self.index.next_expiry().filter(|at| *at <= self.expires_until(i64::MAX))
    }

    /// A message on its way will arrive with its own time; what expires before it, now and when this is replayed, is what
    /// was too old then.
    fn expires_until(&self, now: i64) -> i64 {
        self.flights.front().map_or(now, |flight| flight.arrival.time.min(now))
    }

    fn change(&self, what: What) -> Change {
        Change { at: self.index.last(), time: self.index.clock, what }
    }

    /// Everything until now as one change: those before it are no longer needed once it is journalled. Waits until all
    /// messages are on disk: what they replaced is a hole for ever.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub(crate) async fn snapshot(&self) -> Result<Change> {
        if let Storage::Files(files) = &self.storage {
            files.sync().await?;
        }
        // From the first message ever: also one that is gone and that a journal still has must be in a hole.
        let from = match &self.storage {
            Storage::Memory(_) => self.index.first,
            Storage::Files(files) => files.first(),
        };
        Ok(self.change(What::Snapshot { limits: self.index.limits.clone(), holes: self.index.holes(from) }))
    }

    /// What left since the last call, in the order in which it did. To be asked for every turn: it is kept until then.
    pub(crate) fn take_removed(&mut self) -> Vec<RangeInclusive<u64>> {
        std::mem::take(&mut self.index.removed)
    }

    fn bury(&mut self) {
        if let Storage::Memory(records) = &mut self.storage {
            for sequence in self.index.graves.drain(..) {
                records.remove(&sequence);
            }
        }
    }

    /// Gives space back, a step at a time. Says whether there is more to do now.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub(crate) async fn maintain(&mut self) -> Result<bool> {
        match &mut self.storage {
            Storage::Memory(records) => {
                if records.capacity() > 4 * records.len() + 1024 {
                    records.shrink_to(2 * records.len());
                }
                Ok(false)
            }
            Storage::Files(files) => files.maintain(&mut self.index, self.next - 1).await,
        }
    }

    /// What could not be read since the last call, while space was given back or since the stream was opened: messages in it
    /// are gone for readers.
    pub(crate) fn take_damage(&mut self) -> Vec<journal::Damage> {
        match &mut self.storage {
            Storage::Memory(_) => Vec::new(),
            Storage::Files(files) => files.take_damage(),
        }
    }

    /// Waits until nothing is done beside the caller.
    #[cfg(test)]
    pub(crate) async fn settle(&mut self) -> Result<()> {
        match &mut self.storage {
            Storage::Memory(_) => Ok(()),
            Storage::Files(files) => files.settle(&mut self.index).await,
        }
    }

    /// Syncs everything and frees the files.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub(crate) async fn close(self) -> Result<()> {
        match self.storage {
            Storage::Memory(_) => Ok(()),
            Storage::Files(files) => files.close(self.index).await,
        }
    }
}

impl Storage {
    /// Bytes that nats-server adds to subject, headers and payload.
    fn overhead(&self, has_headers: bool) -> usize {
        match self {
            Self::Memory(_) => 16,
            Self::Files(_) => files::overhead(has_headers),
        }
    }
}

/// Reads bytes as each kind of record of a stream's files.
pub(super) fn read_records(bytes: &[u8]) {
    if let Some(change) = Change::decode(bytes) {
        assert_eq!(Change::decode(&change.encode()).as_ref(), Some(&change));
    }
    let _ = kept::decode_message(bytes);
    let _ = record::decode(bytes);
    match summary::decode(bytes) {
        Some(summary::Summary::Messages { rows, .. } | summary::Summary::Kept { rows, .. }) => {
            let _ = rows.count();
        }
        None => {}
    }
}
