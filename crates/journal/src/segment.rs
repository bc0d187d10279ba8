//! What the writer and all readers share: the list of segments, how far they may be read, and files held open for
//! reading. The writer changes it, readers look. Locks are held for memory alone, but for an index that is read once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::disk::{Access, Disk, File};
use crate::error::{Error, Result};
use crate::format::{FRAME_HEADER, SEGMENT_HEADER, Seed, index_entries};
use crate::scan::{push_entry, scan};
use crate::walk::{Step, Walk};
use crate::{Sequence, Visible};

const EXTENSION: &str = ".log";

/// The file of the segment that begins with `base`.
pub(crate) fn path_of(folder: &Path, base: Sequence) -> PathBuf {
    folder.join(format!("{base:020}{EXTENSION}"))
}

/// The base in a file's name.
pub(crate) fn base_of(name: &str) -> Option<Sequence> {
    let digits = name.strip_suffix(EXTENSION).filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?.filter(|base| *base > 0)
}

/// One file of the journal.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: Sequence,
    pub(crate) path: PathBuf,
    pub(crate) seed: Seed,
    /// Sparse; of a segment that is no longer written it is read when it is first needed.
    index: Mutex<Index>,
}

#[derive(Debug)]
enum Index {
    Loaded(Vec<(Sequence, u64)>),
    /// At this offset, or to be found by a scan.
    OnDisk(Option<u64>),
}

impl Segment {
    pub(crate) fn new(folder: &Path, id: u128, base: Sequence, entries: Vec<(Sequence, u64)>) -> Self {
        Self::with(folder, id, base, Index::Loaded(entries))
    }

    /// One whose index lies at an offset, or nowhere.
    pub(crate) fn unread(folder: &Path, id: u128, base: Sequence, index: Option<u64>) -> Self {
        Self::with(folder, id, base, Index::OnDisk(index))
    }

    fn with(folder: &Path, id: u128, base: Sequence, index: Index) -> Self {
        Self { base, path: path_of(folder, base), seed: Seed::new(id, base), index: Mutex::new(index) }
    }

    /// Notes that a frame begins at `offset`.
    pub(crate) fn note(&self, sequence: Sequence, offset: u64) {
        if let Index::Loaded(entries) = &mut *lock(&self.index) {
            push_entry(entries, sequence, offset);
        }
    }

    /// A copy of what was noted.
    pub(crate) fn entries(&self) -> Vec<(Sequence, u64)> {
        match &*lock(&self.index) {
            Index::Loaded(entries) => entries.clone(),
            Index::OnDisk(_) => Vec::new(),
        }
    }

    /// The last noted frame that begins at `sequence` or before it: its first sequence and its offset.
    pub(crate) fn lookup(&self, file: &dyn File, sequence: Sequence, end: u64) -> Result<(Sequence, u64)> {
        let mut index = lock(&self.index);
        if let Index::OnDisk(at) = *index {
            *index = Index::Loaded(self.load(file, at, end)?);
        }
        let Index::Loaded(entries) = &*index else { return Ok((self.base, SEGMENT_HEADER)) };
        let after = entries.partition_point(|(first, _)| *first <= sequence);
        Ok(after.checked_sub(1).map_or((self.base, SEGMENT_HEADER), |at| entries[at]))
    }

    fn load(&self, file: &dyn File, at: Option<u64>, end: u64) -> Result<Vec<(Sequence, u64)>> {
        if let Some(at) = at.filter(|at| at.saturating_add(FRAME_HEADER as u64) <= end)
            && let Step::Frame { frame, body, .. } = Walk::new(file, &self.path, self.seed, at, end).step()?
            && frame.is_index()
        {
            return Ok(index_entries(&body[..frame.length]));
        }
        Ok(scan(file, &self.path, self.seed, self.base, end)?.index)
    }
}

/// Behind which record, and which byte of the last segment, nothing may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) next: Sequence,
    pub(crate) offset: u64,
}

/// The segments, oldest first, each with its length; that of the last is where the writer is.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) segments: Vec<(Arc<Segment>, u64)>,
    /// The first sequence that was not dropped.
    pub(crate) first: Sequence,
    pub(crate) appended: Position,
    pub(crate) synced: Position,
}

impl View {
    pub(crate) fn limit(&self, visible: Visible) -> Position {
        match visible {
            Visible::Synced => self.synced,
            Visible::Appended => self.appended,
        }
    }

    /// The number of the segment in which `sequence` must lie, if it is not before the first one.
    pub(crate) fn find(&self, sequence: Sequence) -> Option<usize> {
        self.segments.partition_point(|(segment, _)| segment.base <= sequence).checked_sub(1)
    }
}

/// Shared by everyone who has the journal.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
    view: RwLock<View>,
    /// Limit: `Config::open_files`; the one that was used longest ago goes.
    files: Mutex<Vec<(Sequence, Arc<dyn File>)>>,
    open_files: usize,
}

impl Shared {
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: PathBuf, view: View, open_files: usize) -> Self {
        Self { disk, folder, view: RwLock::new(view), files: Mutex::default(), open_files }
    }

    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment's file for reading.
    pub(crate) fn file(&self, segment: &Segment) -> Result<Arc<dyn File>> {
        let mut files = lock(&self.files);
        if let Some(at) = files.iter().position(|(base, _)| *base == segment.base) {
            let entry = files.remove(at);
            files.push(entry);
        } else {
            let opened = self.disk.open(&segment.path, Access::Read).map_err(Error::io("open", &segment.path))?;
            if files.len() >= self.open_files.max(1) {
                files.remove(0);
            }
            files.push((segment.base, Arc::from(opened)));
        }
        let (_, file) = files.last().expect("one was pushed");
        Ok(Arc::clone(file))
    }

    /// Closes files of segments below `first`.
    pub(crate) fn forget_files(&self, first: Sequence) {
        lock(&self.files).retain(|(base, _)| *base >= first);
    }
}

/// What these mutexes hold is whole between any two statements, also when a thread panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bases_are_each_others_inverse() {
        let path = path_of(Path::new("/j"), 42);
        assert_eq!(path, Path::new("/j/00000000000000000042.log"));
        assert_eq!(base_of("00000000000000000042.log"), Some(42));
        for other in
            ["mark", "42.log", "0000000000000000000x.log", "00000000000000000000.log", "99999999999999999999.log"]
        {
            assert_eq!(base_of(other), None, "{other}");
        }
    }
}
