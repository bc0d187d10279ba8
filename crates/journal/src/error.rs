//! What can go wrong with a journal, and damage as a value. Errors can be cloned: one failed sync fails many appends.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Sequence;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a journal did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the journal {folder} is in use by another process")]
    Locked { folder: PathBuf },
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    /// A write or a sync failed. What was not acknowledged may or may not be there; opening the journal anew tells.
    /// A failed sync is never tried again: the kernel may have dropped the pages and would report success
    /// (PostgreSQL's "fsyncgate", 2018).
    #[error("the journal {folder} takes nothing more until it is opened anew")]
    Failed { folder: PathBuf, source: Arc<Error> },
    #[error("{0}")]
    Damaged(Damage),
    #[error("record {sequence} of the journal {folder} was dropped: it begins at {first}")]
    Dropped { folder: PathBuf, sequence: Sequence, first: Sequence },
    #[error("{path} has version {version} of the format, this program reads version {supported}")]
    Version { path: PathBuf, version: u32, supported: u32 },
    #[error("{bytes} bytes are more than the {max} that the journal {folder} takes at once")]
    TooLarge { folder: PathBuf, bytes: usize, max: usize },
    #[error("a batch without records was given to the journal {folder}")]
    Empty { folder: PathBuf },
    /// Only from [`crate::Journal::try_enqueue`].
    #[error("the queue of the journal {folder} is full")]
    Full { folder: PathBuf },
    #[error("the journal {folder} is closed")]
    Closed { folder: PathBuf },
    #[error("the limits of the journal {folder} contradict each other: {reason}")]
    Limits { folder: PathBuf, reason: &'static str },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Bytes that are not what was written, among those that were once on disk. They are never served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    /// Where in the file it begins.
    pub offset: u64,
    /// How far it reaches; 0 where the file ends too early or is missing.
    pub bytes: u64,
    /// First of the records that are lost.
    pub first: Sequence,
    /// The sequence behind the last of them: equal to `first` when what is damaged held no record.
    pub until: Sequence,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, bytes, first, until } = self;
        let file = file.display();
        match bytes {
            0 => write!(f, "{file} ends at {offset}, too early: ")?,
            _ => write!(f, "{file} is damaged from {offset} on for {bytes} bytes: ")?,
        }
        match until.saturating_sub(*first) {
            0 => write!(f, "no record is lost"),
            1 => write!(f, "record {first} is lost"),
            _ => write!(f, "records {first} to {} are lost", until - 1),
        }
    }
}
