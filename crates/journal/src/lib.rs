//! An append-only, segmented log of byte records: what streams, consumers, sagas and idempotency keys are kept in.
//! Many appends share one `fdatasync`; after a crash everything acknowledged is there, in order and unaltered, or is
//! reported as damaged. It knows nothing of what a record means. See `format` for the bytes, `recover` for the argument.

mod cursor;
mod disk;
mod error;
mod format;
mod journal;
mod mark;
mod queue;
mod reader;
mod recover;
mod scan;
mod segment;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use disk::{Access, Disk, File, RealDisk};
pub use error::{Damage, Error, Result};
pub use journal::{Journal, Opened};
pub use queue::Pending;
pub use reader::Reader;
pub use recover::{Report, Torn};

/// The number of a record: the first is 1, each next one greater by one, none is ever given twice to records that were
/// acknowledged.
pub type Sequence = u64;

/// A journal's place and limits.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its files lie: a folder of its own (0700), made if it is missing.
    pub folder: PathBuf,
    /// When an append is acknowledged.
    pub sync: Sync,
    /// Size from which the next segment is begun; retention drops whole segments. At least 4 KiB. A batch that is larger
    /// has a segment of its own.
    pub segment_bytes: u64,
    /// Largest payload of one record.
    pub record_bytes: usize,
    /// What may wait for the disk, with 36 bytes a record on top of the payload; also the largest atomic batch. Whoever
    /// appends beyond it waits.
    pub queue_bytes: usize,
    /// How many records may wait for the disk. Whoever appends beyond it waits.
    pub queue_records: usize,
    /// How many segments are held open for reading. A reader holds one more.
    pub open_files: usize,
}

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Once it is on disk: after the one `fdatasync` that covers it and all that came meanwhile.
    Always,
    /// Once it is written; it is on disk after this long. A power cut takes what was acknowledged since, a crash of the
    /// process nothing.
    Interval(Duration),
}

/// As a manifest writes it: `always`, `interval:100ms`.
impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(interval) => write!(f, "interval:{interval:?}"),
        }
    }
}

/// What a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// What is on disk: no crash takes it back.
    Synced,
    /// Also what is written and not yet synced. A power cut may take it back, and its sequences are then given again.
    Appended,
}

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub sequence: Sequence,
    /// From a [`Reader`] it shares the memory of its neighbours (256 KiB): who keeps it long should copy it.
    pub payload: bytes::Bytes,
}
