//! The journals of one stream: where each message lies, and how they are read again when the stream is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use journal::{Damage, Disk, Journal, Pending, Sync, Visible};
use kit::tasks::Tasks;

use super::cache::{Cache, Source};
use super::change::{Change, What};
use super::index::{Arrival, Index};
use super::replay::Replay;
use super::{Config, Error, Limits, Report, Result, record};

const MESSAGES: &str = "messages";
/// Limit: segments of one journal that are open at once.
const OPEN_FILES: usize = 4;

/// Bytes that nats-server's file store adds to subject, headers and payload.
pub(super) fn overhead(has_headers: bool) -> usize {
    // Length 4, sequence 8, time 8, length of the subject 2, hash 8; length of the headers 4.
    30 + if has_headers { 4 } else { 0 }
}

/// The files of one stream.
#[derive(Debug)]
pub(super) struct Files {
    messages: Journal,
    /// What the stream's sequences are above those of the journal.
    offset: u64,
    visible: Visible,
    cache: Cache,
    /// What cannot be read and is in no index.
    damage: Vec<Damage>,
}

async fn open(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    name: &str,
    config: &Config,
    sync: Sync,
    tasks: &Tasks,
    report: &mut Report,
) -> Result<Journal> {
    let config = journal::Config {
        folder: folder.join(name),
        sync,
        segment_bytes: config.segment_bytes,
        record_bytes: config.record_bytes + record::OVERHEAD,
        queue_bytes: config.queue_bytes.max(config.record_bytes + record::OVERHEAD + super::FRAME_BYTES),
        queue_records: usize::MAX,
        open_files: OPEN_FILES,
    };
    let opened = Journal::open_on(Arc::clone(disk), config, tasks).await?;
    report.torn.extend(opened.report.torn);
    report.damage.extend(opened.report.damage);
    Ok(opened.journal)
}

impl Files {
    pub(super) async fn open(
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        config: &Config,
        limits: Limits,
        changes: Vec<Change>,
        tasks: &Tasks,
    ) -> Result<(Index, Self, Report)> {
        let mut report = Report::default();
        let messages = open(&disk, &folder, MESSAGES, config, config.sync, tasks, &mut report).await?;
        let offset = config.first_sequence.max(1) - 1;
        let last = messages.last(Visible::Appended) + offset;
        let is_ahead = changes.iter().map(|change| change.at).max().is_some_and(|at| at > last);
        let mut replay = Replay::new(limits, changes, messages.first() + offset, last);
        let visible = match config.sync {
            Sync::Always => Visible::Synced,
            Sync::Interval(_) => Visible::Appended,
        };
        let cache = Cache::new(config.cache_bytes);
        let mut files = Self { messages, offset, visible, cache, damage: Vec::new() };
        files.replay_messages(&mut replay, files.messages.first()).await?;
        for damage in &files.damage {
            if !report.damage.contains(damage) {
                report.damage.push(damage.clone());
            }
        }
        let index = replay.finish(last + 1);
        report.change = is_ahead.then_some(Change { at: last, time: index.clock, what: What::Opened });
        Ok((index, files, report))
    }

    /// Reads messages from this record on into the index.
    async fn replay_messages(&mut self, replay: &mut Replay, from: u64) -> Result<()> {
        let mut reader = self.messages.read(from, Visible::Appended);
        loop {
            let read = match reader.next().await {
                Ok(None) => return Ok(()),
                Ok(Some(read)) => read,
                Err(journal::Error::Damaged(damage)) => {
                    reader = self.messages.read(damage.until, Visible::Appended);
                    self.damage.push(damage);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let sequence = read.sequence + self.offset;
            if replay.reach(sequence) {
                let message = record::decode(&read.payload).ok_or(Error::Record { sequence })?;
                let content = message.subject.len() + message.headers.len() + message.payload.len();
                let size = (content + overhead(!message.headers.is_empty())) as u32;
                let subject = replay.index.hold(message.subject);
                let (time, ttl, rollup) = (message.time, message.ttl, message.rollup);
                replay.message(sequence, &Arrival { subject, size, time, ttl, rollup });
            }
        }
    }

    /// Waits for room and enqueues records, the first of which is to have this sequence.
    pub(super) async fn append(&mut self, first: u64, records: &[Bytes]) -> Result<Pending> {
        let pending = self.messages.enqueue(records).await?;
        assert_eq!(pending.first() + self.offset, first, "the journal counts as the stream does");
        for (number, record) in (pending.first()..).zip(records) {
            self.cache.push(number, record.clone());
        }
        Ok(pending)
    }

    /// A message is on disk and is about to enter the index.
    pub(super) fn arrived(&mut self, _index: &mut Index, _sequence: u64, _arrival: &Arrival) {}

    pub(super) fn sequence_of(&self, record: journal::Sequence) -> u64 {
        record + self.offset
    }

    /// The first message that may be there.
    pub(super) fn first(&self) -> u64 {
        self.messages.first() + self.offset
    }

    fn place(&self, sequence: u64) -> (Source, u64) {
        (Source::Messages, sequence - self.offset)
    }

    pub(super) fn cached(&mut self, sequence: u64) -> Option<Bytes> {
        if sequence <= self.offset {
            return None;
        }
        let (source, number) = self.place(sequence);
        self.cache.get(source, number)
    }

    pub(super) fn is_damaged(&self, sequence: u64) -> bool {
        self.find_damage(sequence).is_some()
    }

    fn find_damage(&self, sequence: u64) -> Option<&Damage> {
        let number = sequence.checked_sub(self.offset)?;
        self.damage.iter().find(|damage| (damage.first..damage.until).contains(&number))
    }

    /// Nothing, or the damage that a message fell to.
    pub(super) fn damage_at(&self, sequence: u64) -> Result<Option<Bytes>> {
        let damage = self.find_damage(sequence).cloned();
        damage.map_or(Ok(None), |damage| Err(Error::Journal(journal::Error::Damaged(damage))))
    }

    /// The record of a message that is in the index.
    pub(super) async fn load(&mut self, sequence: u64) -> Result<Bytes> {
        let (source, number) = self.place(sequence);
        if let Some(record) = self.cache.get(source, number) {
            return Ok(record);
        }
        let journal = match source {
            Source::Messages | Source::Kept => &self.messages,
        };
        let gone = || Error::Record { sequence };
        if self.cache.is_sequential(source, number) {
            let records = journal.read_some(number, self.visible).await?;
            let records: Vec<Bytes> = records.into_iter().map(|record| record.payload).collect();
            let record = records.first().cloned();
            self.cache.keep(source, number, records);
            return record.ok_or_else(gone);
        }
        let record = journal.get(number, self.visible).await?;
        record.map(|record| record.payload).ok_or_else(gone)
    }

    /// Gives space back, a step at a time.
    pub(super) async fn maintain(&mut self, index: &mut Index) -> Result<bool> {
        self.messages.drop_before(index.first - self.offset).await?;
        Ok(false)
    }

    pub(super) async fn close(self) -> Result<()> {
        Ok(self.messages.close().await?)
    }
}
