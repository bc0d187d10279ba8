//! The one who writes: frames into the last segment, the next segment when it is full, the mark. Plain blocking calls,
//! on one thread at a time; `queue` decides when. After an error it must be thrown away: what it holds may not be true.

// Segments grow with what is written. Space allocated ahead (fallocate) took a fifth off a single `fdatasync` on ext4, and
// nothing off many that share one; but the length of the file would no longer say where it ends, a lost end would be
// zeros like one that was never written, and hundreds of quiet journals would hold space.

use std::sync::Arc;

use crate::Sequence;
use crate::disk::{Access, File, write_all};
use crate::error::{Error, Result};
use crate::format::{self, Before, SEGMENT_HEADER, SegmentHeader};
use crate::mark::Mark;
use crate::segment::{Position, Segment, Shared, path_of};

/// The end of the journal.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    mark: Mark,
    segment: Arc<Segment>,
    file: Box<dyn File>,
    offset: u64,
    next: Sequence,
    synced: Sequence,
    segment_bytes: u64,
}

/// The segment that is written, as recovery leaves it.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Box<dyn File>,
    pub(crate) end: Position,
}

impl Writer {
    /// Goes on behind `last`, all of which is on disk.
    pub(crate) fn new(shared: Arc<Shared>, mark: Mark, last: Last, segment_bytes: u64) -> Self {
        let Last { segment, file, end: Position { next, offset } } = last;
        Self { shared, mark, segment, file, offset, next, synced: next - 1, segment_bytes }
    }

    pub(crate) fn next(&self) -> Sequence {
        self.next
    }

    pub(crate) fn synced(&self) -> Sequence {
        self.synced
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.synced + 1 < self.next
    }

    /// Writes unsealed frames, which it seals, in as few calls as there are segments.
    pub(crate) fn write(&mut self, frames: &mut [u8]) -> Result<()> {
        let (mut start, mut at) = (0, 0);
        while at < frames.len() {
            let (bytes, sequence, count) = format::unsealed(&frames[at..]);
            assert_eq!(sequence, self.next, "sequences have no gap");
            let offset = self.offset + (at - start) as u64;
            if offset > SEGMENT_HEADER && offset + bytes as u64 > self.segment_bytes {
                self.write_run(&frames[start..at])?;
                start = at;
                self.roll()?;
            }
            let offset = self.offset + (at - start) as u64;
            format::seal(&mut frames[at..at + bytes], self.segment.seed, offset, self.synced);
            self.segment.note(sequence, offset);
            self.next += Sequence::from(count);
            at += bytes;
        }
        self.write_run(&frames[start..])?;
        let mut view = self.shared.change();
        view.appended = Position { next: self.next, offset: self.offset };
        if let Some((_, length)) = view.segments.last_mut() {
            *length = self.offset;
        }
        Ok(())
    }

    fn write_run(&mut self, run: &[u8]) -> Result<()> {
        write_all(&*self.file, run, self.offset).map_err(Error::io("write", &self.segment.path))?;
        self.offset += run.len() as u64;
        Ok(())
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.sync_segment()?;
        let mut view = self.shared.change();
        view.synced = view.appended;
        Ok(())
    }

    fn sync_segment(&mut self) -> Result<()> {
        self.file.sync().map_err(Error::io("sync", &self.segment.path))?;
        self.synced = self.next - 1;
        Ok(())
    }

    /// Ends the segment with its index and begins the next one.
    // Order: the old one is whole on disk before the new one exists, and the mark names the new one before it holds a
    // record. So whatever a later segment's existence or the mark's word proves has happened.
    fn roll(&mut self) -> Result<()> {
        let index = self.offset;
        let mut frame = Vec::new();
        format::push_index(&mut frame, self.next, &self.segment.entries());
        format::seal(&mut frame, self.segment.seed, index, self.synced);
        self.write_run(&frame)?;
        self.sync_segment()?;
        let before = Before { base: self.segment.base, bytes: self.offset, index };
        let last = begin(&self.shared, &mut self.mark, self.next, before, self.synced)?;
        let mut view = self.shared.change();
        if let Some((_, length)) = view.segments.last_mut() {
            *length = self.offset;
        }
        view.segments.push((Arc::clone(&last.segment), last.end.offset));
        (view.appended, view.synced) = (last.end, last.end);
        drop(view);
        (self.segment, self.file, self.offset) = (last.segment, last.file, last.end.offset);
        Ok(())
    }

    /// After a failure: readers see no more than what is known to be on disk.
    pub(crate) fn hide_unsynced(&self) {
        let mut view = self.shared.change();
        view.appended = view.synced;
    }

    /// Writes the watermark along, for whoever opens the journal after a crash.
    pub(crate) fn note_synced(&mut self) -> Result<()> {
        self.mark.slot.synced = self.synced;
        self.mark.write()
    }

    /// Syncs everything, the watermark included: nothing is left to be doubted.
    pub(crate) fn settle(&mut self) -> Result<()> {
        if self.is_dirty() {
            self.sync()?;
        }
        self.mark.slot.synced = self.synced;
        self.mark.store()
    }

    /// Removes the segments all of whose records are below `sequence`, oldest first; never the last one.
    // Order: the mark says so durably before the first file goes; recovery finishes what a crash leaves.
    pub(crate) fn drop_before(&mut self, sequence: Sequence) -> Result<()> {
        let view = self.shared.view();
        let keep = view.find(sequence).unwrap_or(0);
        let dropped: Vec<_> = view.segments[..keep].iter().map(|(segment, _)| segment.path.clone()).collect();
        let first = view.segments[keep].0.base;
        drop(view);
        if dropped.is_empty() {
            return Ok(());
        }
        self.mark.slot.first = first;
        self.mark.store()?;
        let mut view = self.shared.change();
        view.segments.drain(..keep);
        view.first = first;
        drop(view);
        self.shared.forget_files(first);
        for path in dropped {
            self.shared.disk.remove(&path).map_err(Error::io("remove", &path))?;
        }
        self.shared.disk.sync_folder(&self.shared.folder).map_err(Error::io("sync", &self.shared.folder))
    }

    /// Removes every record. Sequences go on.
    pub(crate) fn purge(&mut self) -> Result<()> {
        if self.next > self.segment.base {
            self.roll()?;
        }
        self.drop_before(self.next)
    }
}

/// Makes an empty segment, durably, and names it in the mark.
pub(crate) fn begin(
    shared: &Shared,
    mark: &mut Mark,
    base: Sequence,
    before: Before,
    synced: Sequence,
) -> Result<Last> {
    let id = mark.slot.id;
    let path = path_of(&shared.folder, base);
    let file = shared.disk.open(&path, Access::New).map_err(Error::io("create", &path))?;
    let header = SegmentHeader { id, base, before }.encode();
    write_all(&*file, &header, 0).map_err(Error::io("write", &path))?;
    file.sync().map_err(Error::io("sync", &path))?;
    shared.disk.sync_folder(&shared.folder).map_err(Error::io("sync", &shared.folder))?;
    mark.slot.last_base = base;
    mark.slot.synced = synced;
    mark.store()?;
    let segment = Arc::new(Segment::new(&shared.folder, id, base, Vec::new()));
    Ok(Last { segment, file, end: Position { next: base, offset: SEGMENT_HEADER } })
}
