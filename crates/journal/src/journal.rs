//! The handle of a journal: everything that engines call. It only passes on, to the queue, to cursors and to recovery.

use std::sync::Arc;

use kit::tasks::Tasks;
use tokio::sync::watch;

use crate::cursor::{self, Cursor};
use crate::disk::{Disk, RealDisk};
use crate::error::{Damage, Error, Result};
use crate::queue::{Command, Pending, Queue};
use crate::reader::Reader;
use crate::recover::{Recovered, Report, recover};
use crate::scan::scan;
use crate::segment::{Shared, path_of};
use crate::{Config, Record, Sequence, Visible};

/// An open journal. Clones are handles to the same one; its files are free again after [`Journal::close`], after a
/// failure, or when the last handle is gone and what it appended is written. All methods are called within a tokio runtime.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    tasks: Tasks,
    record_bytes: usize,
}

/// A journal and what was found when it was opened.
#[derive(Debug)]
pub struct Opened {
    pub journal: Journal,
    /// To be logged, and shown where it is not empty.
    pub report: Report,
}

impl Journal {
    /// Opens a journal or makes an empty one. Reads the last segment whole and of the others the headers.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process (or this one) has it open, [`Error::Limits`] for a contradictory `config`,
    /// [`Error::Version`] for files of a later version, [`Error::Damaged`] if not one file says which journal this is,
    /// [`Error::Io`]. Nothing is cut or removed then but what a crash left half made.
    pub async fn open(config: Config, tasks: &Tasks) -> Result<Opened> {
        Self::open_on(Arc::new(RealDisk), config, tasks).await
    }

    /// The same on another file system.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub async fn open_on(disk: Arc<dyn Disk>, config: Config, tasks: &Tasks) -> Result<Opened> {
        let folder = config.folder.clone();
        let opening = tasks.spawn_blocking(move || recover(&disk, &config).map(|recovered| (recovered, config)));
        let (recovered, config) = opening.await.map_err(|_| Error::Closed { folder })??;
        let Recovered { shared, writer, report } = recovered;
        let queue = Queue::new(writer, &config, tasks.clone());
        let journal = Self { shared, queue, tasks: tasks.clone(), record_bytes: config.record_bytes };
        Ok(Opened { journal, report })
    }

    /// Appends one record and waits until it is acknowledged. Waits for room in the queue first; a future that is dropped
    /// there has appended nothing, one that is dropped later has.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Failed`] once a write or a sync has failed, with the file and the cause: the record
    /// is then not acknowledged, and may or may not be found when the journal is opened anew; [`Error::Closed`].
    pub async fn append(&self, record: impl AsRef<[u8]>) -> Result<Sequence> {
        self.enqueue(&[record]).await?.await
    }

    /// Appends records as one: after a crash all are there or none. Gives the sequence of the last.
    ///
    /// # Errors
    /// As [`Journal::append`]; [`Error::Empty`] without records. Together they must fit into the queue.
    pub async fn append_batch<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<Sequence> {
        self.enqueue(records).await?.await
    }

    /// Waits for room and gives the records, as one batch, their sequences. They are acknowledged when what this gives
    /// resolves, in the order of their sequences.
    ///
    /// # Errors
    /// As [`Journal::append_batch`].
    pub async fn enqueue<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<Pending> {
        self.check(records)?;
        self.queue.enqueue(records).await
    }

    /// The same without waiting for room.
    ///
    /// # Errors
    /// As [`Journal::append_batch`], and [`Error::Full`].
    pub fn try_enqueue<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<Pending> {
        self.check(records)?;
        self.queue.try_enqueue(records)
    }

    fn check<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<()> {
        match records.iter().map(|record| record.as_ref().len()).max() {
            Some(bytes) if bytes > self.record_bytes => {
                Err(Error::TooLarge { folder: self.shared.folder.clone(), bytes, max: self.record_bytes })
            }
            _ => Ok(()),
        }
    }

    /// Waits until everything that was appended before is on disk, whatever the policy.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`].
    pub async fn sync(&self) -> Result<()> {
        self.queue.command(Command::Sync).await
    }

    /// Removes the oldest segments, as far as all of their records are below `sequence`; never the last one. Durable when
    /// this returns, and whole after a crash in the middle.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`].
    pub async fn drop_before(&self, sequence: Sequence) -> Result<()> {
        self.queue.command(|done| Command::DropBefore(sequence, done)).await
    }

    /// Removes every record that was appended before, and none that is appended later. Sequences go on where they were. After a crash in the middle, all
    /// records are there or none.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`].
    pub async fn purge(&self) -> Result<()> {
        self.queue.purge().await
    }

    /// Syncs everything, says so on disk, and frees the files. Reading goes on; appending is [`Error::Closed`].
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`].
    pub async fn close(&self) -> Result<()> {
        self.queue.command(Command::Close).await
    }

    /// Reads from this sequence on. One that is not given yet is waited for; that it is too old or damaged is said by
    /// [`Reader::next`].
    #[must_use]
    pub fn read(&self, from: Sequence, visible: Visible) -> Reader {
        let cursor = Cursor::new(Arc::clone(&self.shared), visible, from);
        Reader::new(cursor, self.tasks.clone(), self.shared.folder.clone())
    }

    /// One record; `None` if it is not there yet.
    ///
    /// # Errors
    /// [`Error::Dropped`], [`Error::Damaged`], [`Error::Io`].
    pub async fn get(&self, sequence: Sequence, visible: Visible) -> Result<Option<Record>> {
        let shared = Arc::clone(&self.shared);
        self.blocking(move || cursor::get(&shared, visible, sequence)).await
    }

    /// Reads records in order from this one on: at least one if it is there, and about 256 KiB, whose memory they share. For
    /// those who come back later for more; a [`Reader`] is for those who stay.
    ///
    /// # Errors
    /// As [`Journal::get`]; what is readable before a damaged place is given first.
    pub async fn read_some(&self, from: Sequence, visible: Visible) -> Result<Vec<Record>> {
        let mut cursor = Cursor::new(Arc::clone(&self.shared), visible, from);
        self.blocking(move || cursor.fill()).await
    }

    /// Reads every segment whole and gives all damage among what is on disk. Takes as long as reading all files does.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn verify(&self) -> Result<Vec<Damage>> {
        let shared = Arc::clone(&self.shared);
        self.blocking(move || verify(&shared)).await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let ended = self.tasks.spawn_blocking(work).await;
        ended.unwrap_or_else(|_| Err(Error::Closed { folder: self.shared.folder.clone() }))
    }

    /// The first sequence that was not dropped; one above [`Journal::last`] in an empty journal.
    #[must_use]
    pub fn first(&self) -> Sequence {
        self.shared.view().first
    }

    /// The last sequence that is visible; one below [`Journal::first`] in an empty journal.
    #[must_use]
    pub fn last(&self, visible: Visible) -> Sequence {
        self.shared.view().limit(visible).next - 1
    }

    /// What all segments take on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.view().segments.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The first sequence of each segment and its size on disk, oldest first: what [`Journal::drop_before`] can remove.
    #[must_use]
    pub fn segments(&self) -> Vec<(Sequence, u64)> {
        self.shared.view().segments.iter().map(|(segment, bytes)| (segment.base, *bytes)).collect()
    }

    /// The last sequence that is on disk, and each change of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Sequence> {
        self.queue.watch()
    }
}

/// All damage up to what is synced, segment by segment.
pub(crate) fn verify(shared: &Shared) -> Result<Vec<Damage>> {
    let view = shared.view();
    let (segments, limit, first) = (view.segments.clone(), view.synced, view.first);
    drop(view);
    let mut damages = Vec::new();
    let missing = |first, until| Damage { file: path_of(&shared.folder, first), offset: 0, bytes: 0, first, until };
    if let Some((segment, _)) = segments.first().filter(|(segment, _)| segment.base > first) {
        damages.push(missing(first, segment.base));
    }
    for (at, (segment, length)) in segments.iter().enumerate() {
        let (until, end) = segments.get(at + 1).map_or((limit.next, limit.offset), |(next, _)| (next.base, *length));
        let file = match shared.file(segment) {
            Ok(file) => file,
            // Dropped meanwhile.
            Err(_) if segment.base < shared.view().first => continue,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                damages.push(missing(segment.base, until));
                continue;
            }
            Err(error) => return Err(error),
        };
        let length = file.length().map_err(Error::io("read the length of", &segment.path))?.min(end);
        let mut scan = scan(&*file, &segment.path, segment.seed, segment.base, length)?;
        damages.extend(scan.judge_whole(&segment.path, until, Some(end)));
    }
    Ok(damages)
}
