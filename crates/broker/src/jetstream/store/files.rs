//! The journals of one stream: where each message lies, what summaries there are, and what is to be given back. Reading
//! them again when a stream is opened is in `recovery`; the work on them is `upkeep`'s.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use journal::{Damage, Disk, Journal, Pending, Sync, Visible};
use kit::tasks::Tasks;
use tokio::task::JoinHandle;

use super::cache::{Cache, Source};
use super::index::{Arrival, Index};
use super::kept::{self, Kept};
use super::summary::{self, Notes};
use super::upkeep::{self, Done, Drops, Move, Work};
use super::{Config, Error, Report, Result, record};

pub(crate) const MESSAGES: &str = "messages";
pub(super) const INDEX: &str = "index";
pub(super) const KEPT: &str = "kept";
/// Limit: segments of one journal that are open at once.
const OPEN_FILES: usize = 4;
/// Limit: bytes of one segment of `index`.
const INDEX_SEGMENT: u64 = 8 << 20;
/// How long what can be made again may be in the kernel's memory alone.
const INDEX_SYNC: Sync = Sync::Interval(Duration::from_secs(1));
/// What a message takes on disk beside what it counts, about.
const FRAME: u64 = 32;

/// Bytes that nats-server's file store adds to subject, headers and payload.
pub(super) fn overhead(has_headers: bool) -> usize {
    // Length 4, sequence 8, time 8, length of the subject 2, hash 8; length of the headers 4.
    30 + if has_headers { 4 } else { 0 }
}

/// How the journals are opened.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
    pub(super) config: Config,
    pub(super) tasks: Tasks,
}

impl Folder {
    /// Opens one journal or makes it.
    pub(super) async fn open(&self, name: &str, report: &mut Report) -> Result<Journal> {
        let config = self.config(name);
        let opened = Journal::open_on(Arc::clone(&self.disk), config, &self.tasks).await?;
        report.torn.extend(opened.report.torn);
        report.damage.extend(opened.report.damage);
        Ok(opened.journal)
    }

    fn config(&self, name: &str) -> journal::Config {
        let Config { segment_bytes, queue_bytes, record_bytes, sync, .. } = self.config;
        let message = record_bytes + record::OVERHEAD;
        let (sync, segment_bytes, record_bytes) = match name {
            MESSAGES => (sync, segment_bytes, message),
            KEPT => (Sync::Always, segment_bytes, message.max(kept::MESSAGE_MAX) + kept::PREFIX),
            _ => (INDEX_SYNC, segment_bytes.min(INDEX_SEGMENT), summary::RECORD_MAX),
        };
        journal::Config {
            folder: self.path.join(name),
            sync,
            segment_bytes,
            record_bytes,
            queue_bytes: queue_bytes.max(record_bytes + super::FRAME_BYTES),
            queue_records: usize::MAX,
            open_files: OPEN_FILES,
        }
    }

    /// The same if it was ever made.
    pub(super) async fn open_existing(&self, name: &str, report: &mut Report) -> Result<Option<Journal>> {
        let path = self.path.join(name);
        match self.disk.list(&path) {
            Ok(files) if files.is_empty() => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => self.open(name, report).await.map(Some),
        }
    }

    /// Removes the files of one journal that nobody has open.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Remove { path, source: Arc::new(source) }
        };
        let files = match self.disk.list(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            files => files.map_err(failed(&path))?,
        };
        for file in files {
            let file = path.join(file);
            self.disk.remove(&file).map_err(failed(&file))?;
        }
        self.disk.sync_folder(&self.path).map_err(failed(&self.path))
    }
}

/// What a record of `index` is needed for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Saved {
    /// Messages up to this one.
    Messages(u64),
    /// The commit with this number.
    Kept(u64),
}

/// The files of one stream.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) folder: Folder,
    pub(super) messages: Journal,
    /// What the stream's sequences are above those of the journal.
    pub(super) offset: u64,
    pub(super) visible: Visible,
    pub(super) kept: Option<Kept>,
    pub(super) index: Option<Journal>,
    /// Records of `index`, with their sizes.
    pub(super) saved: BTreeMap<u64, (Saved, u64)>,
    pub(super) notes: Notes,
    /// Summaries that `index` does not have yet.
    pub(super) unsaved: VecDeque<(Saved, Vec<u8>)>,
    pub(super) cache: Cache,
    /// What cannot be read and is in no index; how many were told.
    pub(super) damage: Vec<Damage>,
    pub(super) told: usize,
    pub(super) work: Option<JoinHandle<Result<Done>>>,
    /// Something failed: nothing is given back until the stream is opened anew.
    pub(super) is_broken: bool,
    /// No message in `messages` is below this.
    pub(super) floor: u64,
    /// What `messages` and `kept` began with when `index` was last looked through.
    pub(super) looked: (u64, u64),
}

impl Files {
    /// Waits for room and enqueues records, the first of which is to have this sequence.
    pub(super) async fn append(&mut self, first: u64, records: &[Bytes]) -> Result<Pending> {
        let pending = self.messages.enqueue(records).await?;
        assert_eq!(pending.first() + self.offset, first, "the journal counts as the stream does");
        for (number, record) in (pending.first()..).zip(records) {
            self.cache.push(number, record.clone());
        }
        Ok(pending)
    }

    /// A message is on disk and about to enter the index.
    pub(super) fn arrived(&mut self, index: &mut Index, sequence: u64, arrival: &Arrival) {
        if self.is_broken {
            return;
        }
        self.notes.push(&mut index.subjects, sequence, arrival);
        if self.notes.is_full() {
            self.close_notes();
        }
    }

    pub(super) fn close_notes(&mut self) {
        if let Some(closed) = self.notes.close() {
            self.unsaved.push_back((Saved::Messages(closed.last), closed.bytes));
        }
    }

    pub(super) fn sequence_of(&self, record: journal::Sequence) -> u64 {
        record + self.offset
    }

    /// The number of the stream's first message ever.
    pub(super) fn first(&self) -> u64 {
        self.offset + 1
    }

    fn place(&self, index: &Index, sequence: u64) -> Option<(Source, u64)> {
        if sequence < index.kept_until {
            return self.kept.as_ref()?.place(sequence).map(|number| (Source::Kept, number));
        }
        sequence.checked_sub(self.offset).map(|number| (Source::Messages, number))
    }

    pub(super) fn cached(&mut self, index: &Index, sequence: u64) -> Option<Bytes> {
        let (source, number) = self.place(index, sequence)?;
        self.cache.get(source, number).map(|record| without_prefix(source, record))
    }

    pub(super) fn is_damaged(&self, sequence: u64) -> bool {
        self.find_damage(sequence).is_some()
    }

    fn find_damage(&self, sequence: u64) -> Option<&Damage> {
        let number = sequence.checked_sub(self.offset)?;
        let is_here = |damage: &&Damage| damage.file.parent().is_some_and(|folder| folder.ends_with(MESSAGES));
        self.damage.iter().filter(is_here).find(|damage| (damage.first..damage.until).contains(&number))
    }

    /// Nothing, or the damage that a message fell to.
    pub(super) fn damage_at(&self, sequence: u64) -> Result<Option<Bytes>> {
        let damage = self.find_damage(sequence).cloned();
        damage.map_or(Ok(None), |damage| Err(Error::Journal(journal::Error::Damaged(damage))))
    }

    pub(super) fn take_damage(&mut self) -> Vec<Damage> {
        let new = self.damage[self.told..].to_vec();
        self.told = self.damage.len();
        new
    }

    /// The record of a message that is in the index.
    pub(super) async fn load(&mut self, index: &Index, sequence: u64) -> Result<Bytes> {
        let gone = || Error::Record { sequence };
        let (source, number) = self.place(index, sequence).ok_or_else(gone)?;
        if let Some(record) = self.cache.get(source, number) {
            return Ok(without_prefix(source, record));
        }
        let (journal, visible) = match (source, &self.kept) {
            (Source::Kept, Some(kept)) => (&kept.journal, Visible::Synced),
            _ => (&self.messages, self.visible),
        };
        let record = if self.cache.is_sequential(source, number) {
            let records = journal.read_some(number, visible).await?;
            let records: Vec<Bytes> = records.into_iter().map(|record| record.payload).collect();
            let record = records.first().cloned();
            self.cache.keep(source, number, records);
            record
        } else {
            journal.get(number, visible).await?.map(|record| record.payload)
        };
        record.map(|record| without_prefix(source, record)).ok_or_else(gone)
    }

    /// Waits until everything that has arrived is on disk, whatever the policy.
    pub(super) async fn sync(&self) -> Result<()> {
        Ok(self.messages.sync().await?)
    }

    /// Takes in what was done, and begins what is to be done next. Says whether there is more. `last` is the last sequence
    /// that was given, also to what is on its way.
    pub(super) async fn maintain(&mut self, index: &mut Index, last: u64) -> Result<bool> {
        if self.is_broken || self.work.as_ref().is_some_and(|work| !work.is_finished()) {
            return Ok(!self.is_broken);
        }
        let maintained = self.maintain_now(index, last).await;
        if maintained.is_err() {
            self.is_broken = true;
            self.unsaved.clear();
        }
        maintained
    }

    async fn maintain_now(&mut self, index: &mut Index, last: u64) -> Result<bool> {
        self.settle(index).await?;
        self.save().await?;
        if index.last() == last && self.empty(index).await? {
            return Ok(self.work.is_some());
        }
        let next = self.next(index).await?;
        self.work = next.map(|work| self.begin(work));
        Ok(self.work.is_some())
    }

    fn begin(&self, work: Work) -> JoinHandle<Result<Done>> {
        self.folder.tasks.spawn(upkeep::run(work, self.messages.clone()))
    }

    /// Waits for what is under way and takes it in.
    pub(super) async fn settle(&mut self, index: &mut Index) -> Result<()> {
        let Some(work) = &mut self.work else { return Ok(()) };
        let ended = work.await;
        self.work = None;
        let closed = |_| Error::Journal(journal::Error::Closed { folder: self.folder.path.clone() });
        let done = ended.map_err(closed)??;
        let Done { placed, summaries, until, last_commit, lost } = done;
        for (sequence, damage) in lost {
            // It is gone from `messages` soon; what it was is told by the damage alone.
            if index.take(sequence).is_some() && !self.damage.contains(&damage) {
                self.damage.push(damage);
            }
        }
        if until > index.kept_until {
            index.keep_below(until, placed.iter().map(|(sequence, _)| *sequence));
        }
        if let Some(kept) = &mut self.kept {
            if !placed.is_empty() {
                kept.placed(&placed, index);
            }
            kept.last_commit = kept.last_commit.max(last_commit);
        }
        let summaries = summaries.into_iter().map(|(number, bytes)| (Saved::Kept(number), bytes));
        self.unsaved.extend(summaries);
        Ok(())
    }

    /// Writes summaries.
    pub(super) async fn save(&mut self) -> Result<()> {
        while let Some((saved, bytes)) = self.unsaved.front() {
            if self.index.is_none() {
                self.index = Some(self.folder.open(INDEX, &mut Report::default()).await?);
            }
            let Some(journal) = &self.index else { return Ok(()) };
            // Whoever opens the stream reads what is there.
            let pending = journal.enqueue(&[bytes]).await?;
            self.saved.insert(pending.first(), (*saved, bytes.len() as u64));
            self.unsaved.pop_front();
        }
        Ok(())
    }

    /// Drops all of `messages` at once where none is left. Nothing may be on its way.
    async fn empty(&mut self, index: &mut Index) -> Result<bool> {
        let is_empty = index.messages == index.kept.messages;
        let is_large = self.messages.bytes() > self.folder.config.segment_bytes / 2;
        if !(is_empty && is_large) {
            return Ok(false);
        }
        if self.kept.is_some() && !index.graves.is_empty() {
            let drops = self.dropping(index, Vec::new());
            self.work = Some(self.begin(Work::Drop(drops)));
            return Ok(true);
        }
        self.messages.purge().await?;
        Ok(true)
    }

    async fn next(&mut self, index: &mut Index) -> Result<Option<Work>> {
        let segments = self.messages.segments();
        let second = segments.get(1).map(|(base, _)| base + self.offset);
        let from = self.floor.max(index.kept_until).max(index.first);
        let first = index.chunks.find(from, |_| true).map_or(index.last() + 1, |(first, _)| first);
        self.floor = first;
        if let Some(drops) = self.drops(index, first, second.is_some_and(|second| second <= first)).await? {
            return Ok(Some(Work::Drop(drops)));
        }
        let spare = 2 * self.folder.config.segment_bytes;
        let too_much = |bytes: u64, live: u64| bytes > 2 * live + spare;
        let kept_live = index.kept.bytes + FRAME * index.kept.messages;
        let live = index.bytes + FRAME * index.messages - kept_live;
        let bytes = segments.iter().map(|(_, bytes)| bytes).sum();
        if let Some(until) = second.filter(|_| too_much(bytes, live)) {
            let mut messages = Vec::new();
            let from = index.kept_until.max(self.messages.first() + self.offset);
            index.chunks.each(from, until, |sequence, _| messages.push((sequence, sequence - self.offset)));
            return self.moving(index, Source::Messages, messages, until).await.map(Some);
        }
        let Some(kept) = &self.kept else { return Ok(None) };
        let segments = kept.journal.segments();
        let bytes = segments.iter().map(|(_, bytes)| bytes).sum();
        match segments.get(1).filter(|_| too_much(bytes, kept_live)) {
            Some((second, _)) => {
                let mut messages = kept.below(*second);
                messages.retain(|(sequence, _)| index.is_live(*sequence));
                let until = index.kept_until;
                self.moving(index, Source::Kept, messages, until).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// What can be dropped now: whole segments, below the first message that is still in `messages`, below the first place in
    /// `kept` that counts, below the first summary that is needed.
    async fn drops(&mut self, index: &mut Index, first: u64, has_messages: bool) -> Result<Option<Drops>> {
        let mut journals = Vec::new();
        if has_messages {
            journals.push((self.messages.clone(), first - self.offset));
        }
        if let Some(kept) = &mut self.kept
            && let Some((second, _)) = kept.journal.segments().get(1)
        {
            let lowest = kept.lowest(index);
            if *second <= lowest {
                journals.push((kept.journal.clone(), lowest));
            }
        }
        if let Some(needed) = self.needed().await? {
            journals.extend(self.index.clone().map(|journal| (journal, needed)));
        }
        Ok((!journals.is_empty()).then(|| self.dropping(index, journals)))
    }

    fn dropping(&self, index: &mut Index, journals: Vec<(Journal, u64)>) -> Drops {
        let kept = self.kept.as_ref().map(|kept| (kept.journal.clone(), kept.last_commit));
        let graves = std::mem::take(&mut index.graves);
        Drops { journals, kept, index: self.index.clone(), until: index.kept_until, graves }
    }

    /// The first record of `index` that is needed, if some before it can go.
    async fn needed(&mut self) -> Result<Option<u64>> {
        let Some(journal) = &self.index else { return Ok(None) };
        let Some(second) = journal.segments().get(1).map(|(second, _)| *second) else { return Ok(None) };
        let first = self.messages.first() + self.offset;
        let first_kept = self.kept.as_ref().map_or(0, |kept| kept.journal.first());
        if std::mem::replace(&mut self.looked, (first, first_kept)) == (first, first_kept) {
            return Ok(None);
        }
        self.saved.retain(|_, (saved, _)| match saved {
            Saved::Messages(last) => *last >= first,
            Saved::Kept(number) => *number >= first_kept,
        });
        let needed_bytes: u64 = self.saved.values().map(|(_, bytes)| bytes).sum();
        let spare = 2 * self.folder.config.segment_bytes.min(INDEX_SEGMENT);
        // An old one that is still needed moves to the end, so that those behind it can go.
        while journal.bytes() > 2 * needed_bytes + spare
            && let Some((number, (saved, bytes))) =
                self.saved.first_key_value().map(|(number, saved)| (*number, *saved))
            && number < second
        {
            let copied = match journal.get(number, Visible::Appended).await {
                Ok(Some(record)) => Some(journal.enqueue(&[record.payload]).await?.await?),
                // It is made again when the stream is opened.
                Ok(None) | Err(journal::Error::Damaged(_)) => None,
                Err(error) => return Err(error.into()),
            };
            self.saved.remove(&number);
            self.saved.extend(copied.map(|number| (number, (saved, bytes))));
        }
        let end = journal.last(Visible::Appended);
        let needed = self.saved.first_key_value().map_or(end, |(number, _)| *number);
        Ok(Some(needed).filter(|needed| second <= *needed))
    }

    async fn moving(
        &mut self,
        index: &mut Index,
        source: Source,
        messages: Vec<(u64, u64)>,
        until: u64,
    ) -> Result<Work> {
        if self.kept.is_none() {
            self.kept = Some(Kept::new(self.folder.open(KEPT, &mut Report::default()).await?));
        }
        let kept = self.kept.as_ref().map(|kept| (kept.journal.clone(), kept.last_commit));
        let (kept, last_commit) = kept.expect("it was just made");
        let (from, visible, prefix) = match source {
            Source::Messages => (self.messages.clone(), self.visible, 0),
            Source::Kept => (kept.clone(), Visible::Synced, kept::PREFIX),
        };
        let (until_before, graves) = (index.kept_until, std::mem::take(&mut index.graves));
        Ok(Work::Move(Move { from, visible, messages, prefix, kept, last_commit, until_before, until, graves }))
    }

    pub(super) async fn close(mut self, mut index: Index) -> Result<()> {
        let settled = self.settle(&mut index).await;
        if settled.is_ok() && !self.is_broken {
            self.close_notes();
            self.save().await?;
        }
        let kept = self.kept.as_ref().map(|kept| &kept.journal);
        for journal in [Some(&self.messages), kept, self.index.as_ref()].into_iter().flatten() {
            journal.close().await?;
        }
        settled
    }
}

fn without_prefix(source: Source, record: Bytes) -> Bytes {
    match source {
        Source::Messages => record,
        Source::Kept => record.slice(kept::PREFIX.min(record.len())..),
    }
}
