//! Reads one segment from end to end and says what is there, what is not, and which of what is not was once on disk.
//! Called by recovery for the last segment and for those that do not fit, and by `Journal::verify` for all.

use std::path::Path;

use crate::Sequence;
use crate::disk::File;
use crate::error::{Damage, Result};
use crate::format::{INDEX_STRIDE, SEGMENT_HEADER, Seed};
use crate::walk::{Step, Walk};

/// Everything that a segment's bytes tell.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Behind the last valid frame.
    pub(crate) end: u64,
    /// Behind the last valid record.
    pub(crate) next: Sequence,
    pub(crate) index: Vec<(Sequence, u64)>,
    /// The highest watermark that a valid frame carries.
    pub(crate) synced: Sequence,
    /// Offset of the index that ends the segment.
    pub(crate) ending: Option<u64>,
    gaps: Vec<Gap>,
    length: u64,
}

/// Bytes that are no frame. Which records they held is known from what surrounds them.
#[derive(Clone, Copy, Debug)]
struct Gap {
    offset: u64,
    end: u64,
    first: Sequence,
    /// Behind the last record; at the end of the file, where nothing follows, `None`.
    until: Option<Sequence>,
}

/// What was lost at the end, and was never known to be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tear {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) first: Sequence,
    /// Behind the last record that can be read after the tear.
    pub(crate) seen: Sequence,
}

/// Scans the segment with this base up to the offset `length`.
pub(crate) fn scan(file: &dyn File, path: &Path, seed: Seed, base: Sequence, length: u64) -> Result<Scan> {
    let mut walk = Walk::new(file, path, seed, SEGMENT_HEADER, length);
    let mut scan =
        Scan { end: SEGMENT_HEADER, next: base, index: Vec::new(), synced: 0, ending: None, gaps: Vec::new(), length };
    loop {
        let offset = walk.offset();
        match walk.step()? {
            // A frame whose number is not the next one was not written here by a journal; nothing valid may follow an index.
            Step::Frame { frame, .. } if frame.sequence == scan.next && scan.ending.is_none() => {
                scan.synced = scan.synced.max(frame.synced);
                if frame.is_index() {
                    scan.ending = Some(offset);
                } else {
                    push_entry(&mut scan.index, frame.sequence, offset);
                }
                scan.next = frame.until();
                scan.end = walk.offset();
            }
            Step::Frame { .. } | Step::Bad => {
                walk.back(offset);
                let found = walk.resync(scan.next)?;
                let end = if found.is_some() { walk.offset() } else { length };
                let until = found.map(|frame| frame.sequence);
                scan.gaps.push(Gap { offset, end, first: scan.next, until });
                match until {
                    Some(until) => scan.next = until,
                    None => return Ok(scan),
                }
                scan.ending = None;
            }
            Step::End => return Ok(scan),
        }
    }
}

/// Adds an entry to a sparse index if the last one is far enough away.
pub(crate) fn push_entry(index: &mut Vec<(Sequence, u64)>, sequence: Sequence, offset: u64) {
    if index.last().is_none_or(|(_, last)| offset >= last + INDEX_STRIDE) {
        index.push((sequence, offset));
    }
}

impl Scan {
    /// Tells damage from a torn end, given that everything up to `synced` was on disk, and cuts the torn end off this scan.
    /// The argument is in `recover`.
    pub(crate) fn judge(&mut self, path: &Path, synced: Sequence) -> (Vec<Damage>, Option<Tear>) {
        let proven = synced.max(self.synced);
        let mut damages = Vec::new();
        for gap in std::mem::take(&mut self.gaps) {
            if gap.first > proven {
                let seen = self.next;
                self.cut(gap.offset, gap.first);
                let bytes = self.length - gap.offset;
                return (damages, Some(Tear { offset: gap.offset, bytes, first: gap.first, seen }));
            }
            let until = gap.until.unwrap_or(proven + 1);
            damages.push(Damage {
                file: path.to_owned(),
                offset: gap.offset,
                bytes: gap.end - gap.offset,
                first: gap.first,
                until,
            });
            if gap.until.is_none() {
                (self.next, self.end) = (until, self.length);
            }
        }
        if self.next <= proven {
            let until = proven + 1;
            damages.push(Damage { file: path.to_owned(), offset: self.length, bytes: 0, first: self.next, until });
            self.next = until;
        }
        (damages, None)
    }

    /// The same for a segment that was whole and synced, `expected` bytes long, before the one at `next_base` was begun:
    /// whatever is not as it was is damage.
    pub(crate) fn judge_whole(&mut self, path: &Path, next_base: Sequence, expected: Option<u64>) -> Vec<Damage> {
        let (mut damages, tear) = self.judge(path, next_base - 1);
        let damage = |offset, bytes, first| Damage { file: path.to_owned(), offset, bytes, first, until: next_base };
        if let Some(tear) = tear {
            damages.push(damage(tear.offset, tear.bytes, tear.first.min(next_base)));
        } else if damages.is_empty() && expected.is_some_and(|expected| expected != self.length) {
            damages.push(damage(self.length, 0, self.next));
        }
        damages
    }

    fn cut(&mut self, end: u64, next: Sequence) {
        (self.end, self.next) = (end, next);
        self.index.retain(|(sequence, _)| *sequence < next);
        self.ending = self.ending.filter(|offset| *offset < end);
    }
}
