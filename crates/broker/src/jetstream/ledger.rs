//! What a stream remembers beside its messages: its configuration, what was removed, its consumers and what they have
//! acknowledged. One journal of small records; now and then everything that still counts is written as one batch and the
//! rest is dropped. It knows the records' form and nothing of what they do.

use std::path::Path;

use journal::{Journal, Pending, Sync, Visible};
use kit::tasks::Tasks;

use super::duplicates::Known;
use super::failure::Failure;
use super::wire::{put_bytes, put_u64, take_byte, take_bytes, take_u64};

/// Version of the records' form.
const VERSION: u8 = 1;
/// Size from which the ledger is written anew, and how many times as large as what counts it may become.
const REWRITE_BYTES: u64 = 4 << 20;
const REWRITE_FACTOR: u64 = 4;
/// Limit: what may wait for the disk, which is the largest snapshot, too: everything that is noted together is one batch.
const QUEUE_BYTES: usize = 768 << 20;
const QUEUE_RECORDS: usize = 1 << 20;
/// Limit: bytes of one record. The longest says which of many millions of messages are gone.
const RECORD_BYTES: usize = 512 << 20;
const SEGMENT_BYTES: u64 = 1 << 20;

/// One thing to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Everything before this is said anew behind it.
    Snapshot,
    /// The stream as it is from now on: its configuration as JSON, and when it was made.
    Stream {
        about: Vec<u8>,
        created: i64,
    },
    /// What has happened to the store: removals, limits. Its own form.
    Change(Vec<u8>),
    /// Messages of this stream have ids: the window has to be read when it is opened.
    IdsUsed,
    /// Ids of messages that are gone, with their sequences and times: they count as duplicates still.
    Ids(Vec<Known>),
    /// A consumer as it is from now on.
    Consumer {
        id: u64,
        about: Vec<u8>,
    },
    /// What has happened to a consumer since.
    Changed {
        id: u64,
        changes: Vec<u8>,
    },
    ConsumerDeleted {
        id: u64,
    },
}

mod tag {
    pub(super) const SNAPSHOT: u8 = 0;
    pub(super) const STREAM: u8 = 1;
    pub(super) const CHANGE: u8 = 2;
    pub(super) const CONSUMER: u8 = 3;
    pub(super) const CHANGED: u8 = 4;
    pub(super) const CONSUMER_DELETED: u8 = 5;
    pub(super) const IDS: u8 = 6;
    pub(super) const IDS_USED: u8 = 7;
}

impl Entry {
    fn write(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Snapshot => out.push(tag::SNAPSHOT),
            Self::Stream { about, created } => {
                out.push(tag::STREAM);
                put_u64(&mut out, created.cast_unsigned());
                put_bytes(&mut out, about);
            }
            Self::Change(change) => {
                out.push(tag::CHANGE);
                put_bytes(&mut out, change);
            }
            Self::IdsUsed => out.push(tag::IDS_USED),
            Self::Ids(ids) => {
                out.push(tag::IDS);
                put_u64(&mut out, ids.len() as u64);
                for known in ids {
                    put_u64(&mut out, known.sequence);
                    put_u64(&mut out, known.time.cast_unsigned());
                    put_bytes(&mut out, &known.id);
                }
            }
            Self::Consumer { id, about } => {
                out.push(tag::CONSUMER);
                put_u64(&mut out, *id);
                put_bytes(&mut out, about);
            }
            Self::Changed { id, changes } => {
                out.push(tag::CHANGED);
                put_u64(&mut out, *id);
                put_bytes(&mut out, changes);
            }
            Self::ConsumerDeleted { id } => {
                out.push(tag::CONSUMER_DELETED);
                put_u64(&mut out, *id);
            }
        }
        out
    }

    /// `None` for bytes that are no entry of this version.
    fn read(record: &[u8]) -> Option<Self> {
        let left = &mut record.strip_prefix(&[VERSION])?;
        let entry = match take_byte(left)? {
            tag::SNAPSHOT => Self::Snapshot,
            tag::STREAM => {
                let created = take_u64(left)?.cast_signed();
                Self::Stream { created, about: take_bytes(left)?.to_vec() }
            }
            tag::CHANGE => Self::Change(take_bytes(left)?.to_vec()),
            tag::IDS_USED => Self::IdsUsed,
            tag::IDS => {
                let (count, mut ids) = (take_u64(left)?, Vec::new());
                for _ in 0..count {
                    let (sequence, time) = (take_u64(left)?, take_u64(left)?.cast_signed());
                    ids.push(Known { sequence, time, id: take_bytes(left)?.into() });
                }
                Self::Ids(ids)
            }
            tag::CONSUMER => {
                let id = take_u64(left)?;
                Self::Consumer { id, about: take_bytes(left)?.to_vec() }
            }
            tag::CHANGED => {
                let id = take_u64(left)?;
                Self::Changed { id, changes: take_bytes(left)?.to_vec() }
            }
            tag::CONSUMER_DELETED => Self::ConsumerDeleted { id: take_u64(left)? },
            _ => return None,
        };
        left.is_empty().then_some(entry)
    }
}

/// The journal of entries; without one, for streams in memory, nothing is remembered.
#[derive(Debug)]
pub(super) struct Ledger {
    journal: Option<Journal>,
    waiting: Vec<Vec<u8>>,
    /// What the last snapshot took, if there was one since it was opened.
    snapshot_bytes: u64,
}

impl Ledger {
    /// One that forgets.
    pub(super) fn in_memory() -> Self {
        Self { journal: None, waiting: Vec::new(), snapshot_bytes: 0 }
    }

    /// Opens the ledger of a stream and gives what it says, from the last snapshot on.
    ///
    /// # Errors
    /// [`Failure::Journal`]; [`Failure::Record`] for a record that is none. A damaged ledger is refused as a whole:
    /// without it nobody knows what was removed.
    pub(super) async fn open(folder: &Path, sync: Sync, tasks: &Tasks) -> Result<(Self, Vec<Entry>), Failure> {
        let config = journal::Config {
            folder: folder.to_owned(),
            sync,
            segment_bytes: SEGMENT_BYTES,
            record_bytes: RECORD_BYTES,
            queue_bytes: QUEUE_BYTES,
            queue_records: QUEUE_RECORDS,
            open_files: 1,
        };
        let opened = Journal::open(config, tasks).await?;
        if opened.report.torn.is_some() || !opened.report.damage.is_empty() {
            tracing::warn!(folder = %folder.display(), report = ?opened.report, "a ledger was repaired");
        }
        let journal = opened.journal;
        let mut reader = journal.read(journal.first(), Visible::Appended);
        let mut entries = Vec::new();
        while let Some(record) = reader.next().await? {
            let unreadable = || Failure::Record { folder: folder.to_owned(), sequence: record.sequence };
            let entry = Entry::read(&record.payload).ok_or_else(unreadable)?;
            if entry == Entry::Snapshot {
                entries.clear();
            } else {
                entries.push(entry);
            }
        }
        Ok((Self { journal: Some(journal), waiting: Vec::new(), snapshot_bytes: 0 }, entries))
    }

    pub(super) fn is_durable(&self) -> bool {
        self.journal.is_some()
    }

    /// Notes something. It is on its way with the next [`Ledger::flush`].
    pub(super) fn note(&mut self, entry: &Entry) {
        if self.journal.is_some() {
            self.waiting.push(entry.write());
        }
    }

    /// Sends what was noted to the disk, as one batch; `None` if nothing was.
    ///
    /// # Errors
    /// [`Failure::Journal`].
    pub(super) async fn flush(&mut self) -> Result<Option<Pending>, Failure> {
        let Some(journal) = self.journal.as_ref().filter(|_| !self.waiting.is_empty()) else { return Ok(None) };
        let pending = journal.enqueue(&self.waiting).await?;
        self.waiting.clear();
        Ok(Some(pending))
    }

    /// Waits until everything that was sent before is on disk, whatever the policy.
    ///
    /// # Errors
    /// [`Failure::Journal`].
    pub(super) async fn sync(&self) -> Result<(), Failure> {
        match &self.journal {
            Some(journal) => Ok(journal.sync().await?),
            None => Ok(()),
        }
    }

    /// Whether most of what it holds no longer counts.
    pub(super) fn is_bloated(&self) -> bool {
        let bytes = self.journal.as_ref().map_or(0, Journal::bytes);
        bytes > REWRITE_BYTES.max(self.snapshot_bytes.saturating_mul(REWRITE_FACTOR))
    }

    /// Replaces everything by `entries`, which say all that counts. Atomic: after a crash either all or none of them are
    /// there.
    ///
    /// # Errors
    /// [`Failure::Journal`].
    pub(super) async fn rewrite(&mut self, entries: impl Iterator<Item = Entry>) -> Result<(), Failure> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let entries = std::iter::once(Entry::Snapshot).chain(entries);
        let records: Vec<Vec<u8>> = entries.map(|entry| entry.write()).collect();
        let pending = match journal.enqueue(&records).await {
            Ok(pending) => pending,
            // It stays as it is, and is asked again when it has grown.
            Err(error @ journal::Error::TooLarge { .. }) => {
                tracing::error!(error = %kit::error::Chain(&error), "a ledger cannot be written anew");
                self.snapshot_bytes = journal.bytes();
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        // What was noted and not sent is in it.
        self.waiting.clear();
        let first = pending.first();
        pending.await?;
        journal.drop_before(first).await?;
        self.snapshot_bytes = journal.bytes();
        Ok(())
    }

    /// # Errors
    /// [`Failure::Journal`].
    pub(super) async fn close(&self) -> Result<(), Failure> {
        match &self.journal {
            Some(journal) => Ok(journal.close().await?),
            None => Ok(()),
        }
    }
}

/// Reads bytes as an entry; one that is read is written so that it is read again.
pub(super) fn read_record(record: &[u8]) {
    if let Some(entry) = Entry::read(record) {
        assert_eq!(Entry::read(&entry.write()).as_ref(), Some(&entry));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples() -> Vec<Entry> {
        vec![
            Entry::Snapshot,
            Entry::Stream { about: b"{}".to_vec(), created: -5 },
            Entry::Change(vec![9; 200]),
            Entry::IdsUsed,
            Entry::Ids(vec![Known { id: b"a".as_slice().into(), sequence: 3, time: -1 }]),
            Entry::Consumer { id: 7, about: vec![1; 300] },
            Entry::Changed { id: 7, changes: Vec::new() },
            Entry::ConsumerDeleted { id: u64::MAX },
        ]
    }

    #[test]
    fn entries_are_read_as_they_were_written_and_cut_ones_are_none() {
        for entry in samples() {
            let record = entry.write();
            assert_eq!(Entry::read(&record), Some(entry));
            for cut in 0..record.len() {
                assert_eq!(Entry::read(&record[..cut]), None);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_no_panic(record in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Entry::read(&record);
            let _ = Entry::read(&[[VERSION].as_slice(), &record].concat());
        }
    }

    #[tokio::test]
    async fn what_was_noted_is_there_again_from_the_last_snapshot_on() {
        let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
        let (mut ledger, found) = Ledger::open(folder.path(), Sync::Always, &tasks).await.unwrap();
        assert!(found.is_empty());
        samples()[1..].iter().for_each(|entry| ledger.note(entry));
        ledger.flush().await.unwrap().unwrap().await.unwrap();
        ledger.close().await.unwrap();
        let (mut ledger, found) = Ledger::open(folder.path(), Sync::Always, &tasks).await.unwrap();
        assert_eq!(found, &samples()[1..]);
        ledger.rewrite(samples().into_iter().skip(4)).await.unwrap();
        ledger.note(&samples()[1]);
        ledger.flush().await.unwrap().unwrap().await.unwrap();
        ledger.close().await.unwrap();
        let (_, found) = Ledger::open(folder.path(), Sync::Always, &tasks).await.unwrap();
        assert_eq!(found, [&samples()[4..], &samples()[1..2]].concat());
    }
}
