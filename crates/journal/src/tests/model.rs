//! What was appended, what was acknowledged, and whether a journal agrees: shared by the simulations.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cursor::{self, Cursor};
use crate::disk::Disk;
use crate::error::{Damage, Error, Result};
use crate::recover::{Recovered, recover};
use crate::segment::Shared;
use crate::sim::SimDisk;
use crate::writer::Writer;
use crate::{Config, Record, Sequence, Sync, Visible, format};

pub(super) fn config() -> Config {
    Config {
        folder: PathBuf::from("/journal"),
        sync: Sync::Always,
        segment_bytes: 4096,
        record_bytes: 1 << 20,
        queue_bytes: 2 << 20,
        queue_records: 1000,
        open_files: 2,
    }
}

pub(super) fn open(disk: &SimDisk) -> Result<Recovered> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    recover(&disk, &config())
}

/// The seed of a run: given by `JOURNAL_SEED`, or a new one. Printed when a test fails, as all output is.
pub(super) fn seed() -> u64 {
    let given = std::env::var("JOURNAL_SEED").ok().map(|text| text.parse().expect("JOURNAL_SEED is a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("JOURNAL_SEED={seed}");
    seed
}

/// What happened to a journal, seen from those who use it.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// From sequence 1 on; what was dropped stays here.
    pub(super) records: Vec<Vec<u8>>,
    /// The last sequence of each batch.
    batches: Vec<Sequence>,
    pub(super) acknowledged: Sequence,
    /// No record at or above this was asked to be dropped.
    dropped: Sequence,
    /// Asked for and not acknowledged.
    dropping: Sequence,
}

impl Model {
    pub(super) fn new() -> Self {
        Self { records: Vec::new(), batches: Vec::new(), acknowledged: 0, dropped: 1, dropping: 1 }
    }

    fn next(&self) -> Sequence {
        self.records.len() as Sequence + 1
    }

    /// Does something at random. An error ends this life.
    pub(super) fn act(&mut self, writer: &mut Writer, random: &mut fastrand::Rng) -> Result<()> {
        match random.u8(..20) {
            0 => {
                let before = random.u64(self.dropped..=self.next());
                self.dropping = self.dropping.max(before);
                writer.drop_before(before)?;
                self.dropped = self.dropping;
            }
            1 => {
                self.dropping = self.next();
                writer.purge()?;
                self.acknowledged = self.next() - 1;
                self.dropped = self.dropping;
            }
            2 => {
                writer.settle()?;
                self.acknowledged = self.next() - 1;
            }
            _ => self.append(writer, random)?,
        }
        Ok(())
    }

    fn append(&mut self, writer: &mut Writer, random: &mut fastrand::Rng) -> Result<()> {
        let mut frames = Vec::new();
        for _ in 0..random.usize(1..4) {
            let first = self.next();
            let count = if random.u8(..4) == 0 { random.usize(2..5) } else { 1 };
            let batch: Vec<Vec<u8>> = (0..count).map(|_| payload(random)).collect();
            format::push_frame(&mut frames, first, batch.iter().map(Vec::as_slice));
            self.records.extend(batch);
            self.batches.push(self.next() - 1);
        }
        writer.write(&mut frames)?;
        if random.u8(..5) > 0 {
            writer.sync()?;
            self.acknowledged = self.next() - 1;
            if random.bool() {
                writer.note_synced()?;
            }
        }
        Ok(())
    }

    /// After a restart: what was acknowledged is there, what is there was appended, batches are whole. The model then goes on
    /// from what was found.
    pub(super) fn check(&mut self, recovered: &Recovered) {
        let Recovered { shared, report, .. } = recovered;
        assert_eq!(report.damage, [], "nothing was damaged");
        let (first, last) = range(shared);
        assert!(last >= self.acknowledged, "{} was acknowledged, {last} is the last: {report:?}", self.acknowledged);
        assert!(last < self.next(), "{last} was never appended");
        assert!(last == 0 || self.batches.contains(&last), "{last} is in the middle of a batch");
        assert!(first <= self.dropping, "{first} is the first, only what is below {} was dropped", self.dropping);
        let found = read_all(shared, Visible::Appended, first).expect("all is readable");
        assert_eq!(found.len() as u64, last + 1 - first, "{first} to {last}");
        for (sequence, record) in (first..).zip(&found) {
            assert_eq!(record.sequence, sequence);
            assert!(record.payload == self.records[sequence as usize - 1], "record {sequence} was altered");
        }
        for sequence in [first, u64::midpoint(first, last), last] {
            let found = cursor::get(shared, Visible::Synced, sequence);
            match found.as_ref().map(Option::as_ref) {
                Ok(Some(record)) => assert!(record.payload == self.records[sequence as usize - 1]),
                Ok(None) => assert!(sequence > last),
                Err(Error::Dropped { .. }) => assert!(sequence < first),
                Err(error) => panic!("{error}"),
            }
        }
        self.records.truncate(last as usize);
        self.batches.retain(|batch| *batch <= last);
        (self.acknowledged, self.dropped, self.dropping) = (last, first, first.max(self.dropped));
    }
}

fn payload(random: &mut fastrand::Rng) -> Vec<u8> {
    let length = match random.u8(..10) {
        0 => 0,
        1 => random.usize(..6000),
        _ => random.usize(..300),
    };
    let mut payload = vec![0; length];
    random.fill(&mut payload);
    payload
}

pub(super) fn range(shared: &Shared) -> (Sequence, Sequence) {
    let view = shared.view();
    (view.first, view.synced.next - 1)
}

pub(super) fn read_all(shared: &Arc<Shared>, visible: Visible, first: Sequence) -> Result<Vec<Record>> {
    let mut cursor = Cursor::new(Arc::clone(shared), visible, first);
    let mut found = Vec::new();
    loop {
        let records = cursor.fill()?;
        if records.is_empty() {
            return Ok(found);
        }
        found.extend(records);
    }
}

/// Reads on behind each damage, as one may.
pub(super) fn read_around(shared: &Arc<Shared>) -> (Vec<Record>, Vec<Damage>) {
    let (mut found, mut damages) = (Vec::new(), Vec::new());
    let mut cursor = Cursor::new(Arc::clone(shared), Visible::Synced, range(shared).0);
    loop {
        match cursor.fill() {
            Ok(records) if records.is_empty() => return (found, damages),
            Ok(records) => found.extend(records),
            Err(Error::Damaged(damage)) => {
                cursor = Cursor::new(Arc::clone(shared), Visible::Synced, damage.until);
                assert!(damages.last().is_none_or(|last: &Damage| last.until < damage.until), "{damage} leads nowhere");
                damages.push(damage);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) fn file_names(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_iter().map(|(path, _)| path).filter(|path| path.parent() == Some(Path::new("/journal"))).collect()
}
