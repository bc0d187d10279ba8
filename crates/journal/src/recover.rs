//! Opens a journal: finds what is there after whatever happened, tells damage from a torn end, and leaves files on which
//! the writer can go on. Called once, by `Journal::open` and the simulation. It never deletes a record that was synced.

// What was acknowledged must be known without asking who acknowledged it. The proofs, of which one is enough:
//
// 1. A later frame. Each frame carries the watermark, the last sequence that was synced when it was written. It was
//    written after that sync, so if it can be read, everything up to its watermark was on disk.
// 2. A later segment. A segment is made after the one before it was synced as a whole, and says how long that one is.
// 3. The mark. It holds a watermark that is written after a sync, and is itself synced when a segment is begun, when one
//    is dropped, at open and at close. A power cut may leave an older one, which proves less and nothing wrong. It is what
//    finds an end that was cut off, a missing last segment, and a missing first one.
//
// So when a place in the last segment cannot be read, the search goes on behind it for a valid frame (each is valid at its
// own place only). If the first record that is missing is proven, it is *damage*: it is reported, nothing is cut, and
// the journal goes on in a new segment behind it, with sequences that were never given. If not, it is a *tear*: an
// append that was under way. It is cut, with all that follows, of which some may be readable, as sectors reach the disk
// in any order; nothing of that was acknowledged, as an acknowledgement needs the sync of everything before.
//
// What cannot be told: damage in the very last batch after a power cut, when neither a later frame nor a newer mark has
// reached the disk, looks like a tear. It is cut, and reported as one.
//
// Segments before the last are not read here: their headers and lengths are compared, their content is checked whenever
// it is read. Opening takes as long as reading the last segment, however large the journal is.

use std::path::Path;
use std::sync::Arc;

use crate::disk::{Access, Disk, File, read_upto, write_all};
use crate::error::{Damage, Error, Result};
use crate::format::{
    BODY_MAX, Before, FRAME_HEADER, RECORD_HEADER, SEGMENT_HEADER, Seed, SegmentHeader, VERSION, Versioned,
};
use crate::mark::{Found, Mark};
use crate::scan::{Scan, scan};
use crate::segment::{Position, Segment, Shared, View, base_of, path_of};
use crate::writer::{Last, Writer, begin};
use crate::{Config, Sequence};

/// Limit: smallest `Config::segment_bytes`.
const SEGMENT_BYTES_MIN: u64 = 4 << 10;
/// Limit: bytes of an unproven end that are in memory at once.
const REWRITE_BYTES: u64 = 1 << 20;

/// What was found when a journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// An append that a crash interrupted, which was cut off. None of its records was acknowledged under
    /// [`crate::Sync::Always`], unless they were damaged right after a power cut.
    pub torn: Option<Torn>,
    /// What was once on disk and no longer is as it was. It stays where it is and is never served; what can be read before
    /// and behind it is served. Content of older segments is only checked when it is read: see `Journal::verify`.
    pub damage: Vec<Damage>,
}

/// A torn end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    pub file: std::path::PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How much was cut.
    pub bytes: u64,
    /// The first sequence that was cut; it is the next to be given.
    pub first: Sequence,
    /// The sequence behind the last record that could be read in what was cut; `first` if there was none.
    pub until: Sequence,
}

/// Everything to work with a journal, and what was found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Writer,
    pub(crate) report: Report,
}

/// A segment as its header and its length tell.
struct Piece {
    base: Sequence,
    length: u64,
    before: Option<Before>,
}

/// Opens the journal or makes a new one. Blocking.
pub(crate) fn recover(disk: &Arc<dyn Disk>, config: &Config) -> Result<Recovered> {
    check(config)?;
    let folder = &config.folder;
    disk.create_folder(folder).map_err(Error::io("create", folder))?;
    let Found { mut mark, is_blank, damage } = Mark::open(disk, folder)?;
    if mark.slot.generation > 0 {
        // What was read may be in the kernel's memory alone, and files are removed because of it.
        mark.store_both()?;
    }
    let bases = list(disk, config, &mark)?;
    let is_new = is_blank && bases.is_empty();
    let damage = if is_new { Vec::new() } else { damage };
    let mut recovery = Recovery { disk, config, report: Report { torn: None, damage } };
    let pieces = recovery.pieces(&bases, &mut mark)?;
    mark.store_both()?;
    recovery.check_first(&pieces, &mark);
    recovery.check_chain(&pieces, mark.slot.id)?;
    recovery.finish(pieces, mark)
}

fn check(config: &Config) -> Result<()> {
    let limits = |reason| Err(Error::Limits { folder: config.folder.clone(), reason });
    let overhead = FRAME_HEADER + RECORD_HEADER + 8;
    match () {
        () if config.segment_bytes < SEGMENT_BYTES_MIN => limits("a segment has at least 4 KiB"),
        () if config.queue_records == 0 => limits("the queue holds at least one record"),
        () if config.queue_bytes > BODY_MAX => limits("the queue holds at most 1 GiB"),
        () if config.record_bytes.saturating_add(overhead) > config.queue_bytes => {
            limits("the largest record does not fit into the queue")
        }
        () => Ok(()),
    }
}

/// The bases of all segments in order, without what a crash in the middle of dropping or beginning one has left.
fn list(disk: &Arc<dyn Disk>, config: &Config, mark: &Mark) -> Result<Vec<Sequence>> {
    let folder = &config.folder;
    let names = disk.list(folder).map_err(Error::io("list", folder))?;
    let mut bases: Vec<Sequence> = names.iter().filter_map(|name| base_of(name)).collect();
    bases.sort_unstable();
    let mut leftovers: Vec<Sequence> = bases.iter().copied().filter(|base| *base < mark.slot.first).collect();
    // One that the mark does not name holds nothing, or the mark is the one that is wrong.
    if let Some(last) = bases.last().copied().filter(|last| *last > mark.slot.last_base && mark.slot.generation > 0) {
        let path = path_of(folder, last);
        let file = disk.open(&path, Access::Read).map_err(Error::io("open", &path))?;
        if file.length().map_err(Error::io("read the length of", &path))? <= SEGMENT_HEADER {
            leftovers.push(last);
        }
    }
    for base in &leftovers {
        let path = path_of(folder, *base);
        disk.remove(&path).map_err(Error::io("remove", &path))?;
    }
    // Also without any: whoever removed them may have been killed before this, as may have been who made a segment.
    disk.sync_folder(folder).map_err(Error::io("sync", folder))?;
    bases.retain(|base| !leftovers.contains(base));
    Ok(bases)
}

struct Recovery<'a> {
    disk: &'a Arc<dyn Disk>,
    config: &'a Config,
    report: Report,
}

impl Recovery<'_> {
    /// Reads the header of every segment, one open file at a time. Without a valid mark, the journal's id is what the headers say.
    fn pieces(&mut self, bases: &[Sequence], mark: &mut Mark) -> Result<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(bases.len());
        let mut is_known = mark.slot.generation > 0;
        for base in bases.iter().copied() {
            let path = path_of(&self.config.folder, base);
            let file = self.disk.open(&path, Access::Read).map_err(Error::io("open", &path))?;
            let length = file.length().map_err(Error::io("read the length of", &path))?;
            let bytes = read_upto(&*file, SEGMENT_HEADER as usize, 0).map_err(Error::io("read", &path))?;
            let before = match SegmentHeader::decode(&bytes) {
                Versioned::Other(version) => return Err(Error::Version { path, version, supported: VERSION }),
                Versioned::Valid(header) if header.base == base && (!is_known || header.id == mark.slot.id) => {
                    if !is_known {
                        (mark.slot.id, mark.slot.first, is_known) = (header.id, bases[0], true);
                    }
                    Some(header.before)
                }
                _ => None,
            };
            if before.is_none() {
                let bytes = bytes.len() as u64;
                self.damage(Damage { file: path, offset: 0, bytes, first: base, until: base });
            }
            pieces.push(Piece { base, length, before });
        }
        // Without the id nothing can be checked, and what cannot be checked would look torn.
        match self.report.damage.first() {
            Some(damage) if !is_known && !pieces.is_empty() => Err(Error::Damaged(damage.clone())),
            _ => Ok(pieces),
        }
    }

    fn damage(&mut self, damage: Damage) {
        self.report.damage.push(damage);
    }

    fn missing(&mut self, named: Sequence, first: Sequence, until: Sequence) {
        let file = path_of(&self.config.folder, named);
        self.damage(Damage { file, offset: 0, bytes: 0, first, until });
    }

    fn check_first(&mut self, pieces: &[Piece], mark: &Mark) {
        if let Some(piece) = pieces.first().filter(|piece| piece.base > mark.slot.first) {
            self.missing(mark.slot.first, mark.slot.first, piece.base);
        }
    }

    /// Compares each segment with what the next one says of it, and reads those that do not fit.
    fn check_chain(&mut self, pieces: &[Piece], id: u128) -> Result<()> {
        for at in 1..pieces.len() {
            let (next_base, before) = (pieces[at].base, pieces[at].before);
            let piece = &pieces[at - 1];
            let fits = |before: &Before| before.base == piece.base && before.bytes == piece.length;
            if before.as_ref().is_some_and(fits) {
                continue;
            }
            let path = path_of(&self.config.folder, piece.base);
            let file = self.disk.open(&path, Access::Read).map_err(Error::io("open", &path))?;
            let mut scan = scan(&*file, &path, Seed::new(id, piece.base), piece.base, piece.length)?;
            match before.filter(|before| before.base != piece.base) {
                // What was between the two is missing; this one ends where its own index says.
                Some(before) => {
                    let end = scan.next;
                    let damages = scan.judge_whole(&path, end, None);
                    self.report.damage.extend(damages);
                    self.missing(before.base, scan.next, next_base);
                }
                None => {
                    let damages = scan.judge_whole(&path, next_base, before.map(|before| before.bytes));
                    self.report.damage.extend(damages);
                }
            }
        }
        Ok(())
    }

    /// Reads the last segment and makes the writer go on behind it, or behind all that is missing.
    fn finish(mut self, mut pieces: Vec<Piece>, mut mark: Mark) -> Result<Recovered> {
        let folder = &self.config.folder;
        let id = mark.slot.id;
        let last = pieces.pop();
        let mut segments = Vec::with_capacity(pieces.len() + 1);
        for (at, piece) in pieces.iter().enumerate() {
            let after = pieces.get(at + 1).or(last.as_ref()).and_then(|next| next.before);
            let index = after.filter(|before| before.base == piece.base && before.index > 0).map(|before| before.index);
            segments.push((Arc::new(Segment::unread(folder, id, piece.base, index)), piece.length));
        }
        let begun = match last {
            Some(piece) => {
                let before = pieces.last().map(|piece| Before { base: piece.base, bytes: piece.length, index: 0 });
                self.finish_last(&piece, &mark, before.unwrap_or_default())?
            }
            None => Begun::Behind(Before::default(), self.next_of_nothing(&mark)),
        };
        let first = mark.slot.first;
        let position = Position { next: first, offset: 0 };
        let view = View { segments, first, appended: position, synced: position };
        let shared = Shared::new(Arc::clone(self.disk), folder.clone(), view, self.config.open_files);
        let last = match begun {
            Begun::Here(last) => last,
            Begun::Behind(before, next) => {
                if shared.view().segments.last().map_or(0, |(segment, _)| segment.base) < before.base {
                    let index = (before.index > 0).then_some(before.index);
                    let segment = Segment::unread(folder, id, before.base, index);
                    shared.change().segments.push((Arc::new(segment), before.bytes));
                }
                begin(&shared, &mut mark, next, before, next - 1)?
            }
        };
        mark.slot.last_base = last.segment.base;
        mark.slot.synced = last.end.next - 1;
        mark.store()?;
        let mut view = shared.change();
        view.segments.push((Arc::clone(&last.segment), last.end.offset));
        (view.appended, view.synced) = (last.end, last.end);
        drop(view);
        let shared = Arc::new(shared);
        let writer = Writer::new(Arc::clone(&shared), mark, last, self.config.segment_bytes);
        Ok(Recovered { shared, writer, report: self.report })
    }

    /// Where a journal without segments begins: a new one, or one that has lost them all.
    fn next_of_nothing(&mut self, mark: &Mark) -> Sequence {
        let next = mark.slot.last_base.max(mark.slot.synced + 1).max(mark.slot.first);
        if mark.slot.last_base > 0 {
            self.missing(mark.slot.last_base, mark.slot.first, next);
        }
        next
    }

    fn finish_last(&mut self, piece: &Piece, mark: &Mark, previous: Before) -> Result<Begun> {
        let Piece { base, length, .. } = *piece;
        let path = path_of(&self.config.folder, base);
        let file = self.disk.open(&path, Access::Write).map_err(Error::io("open", &path))?;
        let id = mark.slot.id;
        let mut scan = scan(&*file, &path, Seed::new(id, base), base, length)?;
        if piece.before.is_none() && scan.next == base {
            if length <= SEGMENT_HEADER && mark.slot.synced < base {
                // It never held a record.
                self.disk.remove(&path).map_err(Error::io("remove", &path))?;
                return Ok(Begun::Behind(previous, base));
            }
            // Not one byte can be read: a foreign file, or one that is damaged all over. Nothing of it is cut.
            scan.synced = scan.synced.max(base);
        }
        let known = self.report.damage.len();
        let is_followed = mark.slot.last_base > base;
        let next = if is_followed {
            self.judge_followed(&mut scan, &path, mark)
        } else {
            self.judge(&mut scan, &path, mark, &*file)?
        };
        let proven = mark.slot.synced.max(scan.synced);
        if (next > proven + 1 || scan.ending.is_some()) && !is_followed {
            let from = scan.index.iter().rev().find(|(sequence, _)| *sequence <= proven + 1);
            rewrite(&*file, &path, from.map_or(SEGMENT_HEADER, |(_, offset)| *offset), scan.end)?;
        }
        file.sync().map_err(Error::io("sync", &path))?;
        let is_whole = self.report.damage.len() == known && piece.before.is_some();
        if is_whole && scan.ending.is_none() && !is_followed {
            let segment = Arc::new(Segment::new(&self.config.folder, id, base, scan.index));
            return Ok(Begun::Here(Last { segment, file, end: Position { next, offset: scan.end } }));
        }
        let bytes = file.length().map_err(Error::io("read the length of", &path))?;
        Ok(Begun::Behind(Before { base, bytes, index: scan.ending.unwrap_or_default() }, next))
    }

    /// The mark names a later segment: this one was whole, and the later ones are missing.
    fn judge_followed(&mut self, scan: &mut Scan, path: &Path, mark: &Mark) -> Sequence {
        let named = mark.slot.last_base;
        let end = scan.next;
        let damages = scan.judge_whole(path, end, None);
        self.report.damage.extend(damages);
        let next = named.max(mark.slot.synced + 1).max(scan.next);
        self.missing(named, scan.next, next);
        next
    }

    fn judge(&mut self, scan: &mut Scan, path: &Path, mark: &Mark, file: &dyn File) -> Result<Sequence> {
        let (damages, tear) = scan.judge(path, mark.slot.synced);
        self.report.damage.extend(damages);
        if let Some(tear) = tear {
            file.truncate(tear.offset).map_err(Error::io("truncate", path))?;
            let until = tear.seen.max(tear.first);
            self.report.torn =
                Some(Torn { file: path.to_owned(), offset: tear.offset, bytes: tear.bytes, first: tear.first, until });
        }
        Ok(scan.next)
    }
}

/// Writes what can be read anew, so that the next sync covers it: the process that wrote it may have been killed before its
/// sync, or that sync failed, and what is read is then in the kernel's memory, clean, and nowhere else.
fn rewrite(file: &dyn File, path: &Path, mut from: u64, end: u64) -> Result<()> {
    while from < end {
        let length = (end - from).min(REWRITE_BYTES);
        let bytes = read_upto(file, length as usize, from).map_err(Error::io("read", path))?;
        if bytes.is_empty() {
            break;
        }
        write_all(file, &bytes, from).map_err(Error::io("write", path))?;
        from += bytes.len() as u64;
    }
    Ok(())
}

/// Where the writer goes on.
enum Begun {
    Here(Last),
    /// In a new segment with this base.
    Behind(Before, Sequence),
}
