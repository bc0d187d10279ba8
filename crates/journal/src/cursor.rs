//! Reads records in order, chunk by chunk, and single ones by number: blocking, on whatever thread calls it. `reader` puts
//! it behind async functions. What is damaged or dropped is an error each time it is asked for, never a gap.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::File;
use crate::error::{Damage, Error, Result};
use crate::format::{INDEX_STRIDE, payloads};
use crate::segment::{Segment, Shared, path_of};
use crate::walk::{Step, Walk};
use crate::{Record, Sequence, Visible};

/// Limit: payload bytes given at once, beyond which the frame that exceeds it is the last.
const FILL_BYTES: usize = 256 << 10;

/// A place between two records.
#[derive(Debug)]
pub(crate) struct Cursor {
    shared: Arc<Shared>,
    visible: Visible,
    next: Sequence,
    /// Where it stopped, so that nothing must be looked up or read twice.
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    base: Sequence,
    offset: u64,
    expected: Sequence,
    chunk: (Bytes, u64),
}

/// Where a sequence must lie.
struct Span {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    end: u64,
    /// Behind the last record that must be in this segment.
    until: Sequence,
}

/// `None` if `sequence` is not there yet.
fn span(shared: &Shared, visible: Visible, sequence: Sequence) -> Result<Option<Span>> {
    let view = shared.view();
    let dropped = |first| Err(Error::Dropped { folder: shared.folder.clone(), sequence, first });
    if sequence < view.first {
        return dropped(view.first);
    }
    let limit = view.limit(visible);
    if sequence >= limit.next {
        return Ok(None);
    }
    let missing = |first, until| Damage { file: path_of(&shared.folder, first), offset: 0, bytes: 0, first, until };
    let Some(at) = view.find(sequence) else {
        let until = view.segments.first().map_or(limit.next, |(segment, _)| segment.base);
        return Err(Error::Damaged(missing(view.first, until)));
    };
    let (segment, length) = &view.segments[at];
    let (end, until) = match view.segments.get(at + 1) {
        Some((next, _)) => (*length, next.base),
        None => (limit.offset, limit.next),
    };
    let segment = Arc::clone(segment);
    drop(view);
    match shared.file(&segment) {
        Ok(file) => Ok(Some(Span { segment, file, end, until })),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let first = shared.view().first;
            if sequence < first { dropped(first) } else { Err(Error::Damaged(missing(segment.base, until))) }
        }
        Err(error) => Err(error),
    }
}

impl Span {
    fn walk(&self, offset: u64) -> Walk<'_> {
        Walk::new(&*self.file, &self.segment.path, self.segment.seed, offset, self.end)
    }

    /// Goes on behind the bad place where the walk is, if `wanted` lies behind it too.
    fn pass(&self, walk: &mut Walk<'_>, expected: Sequence, wanted: Sequence) -> Result<Sequence> {
        let offset = walk.offset();
        let found = walk.resync(expected)?.map(|frame| frame.sequence);
        match found {
            Some(sequence) if sequence <= wanted => Ok(sequence),
            _ => {
                let end = if found.is_some() { walk.offset() } else { self.end };
                Err(self.damage(offset, end, expected, found.unwrap_or(self.until)))
            }
        }
    }

    fn damage(&self, offset: u64, end: u64, first: Sequence, until: Sequence) -> Error {
        Error::Damaged(Damage { file: self.segment.path.clone(), offset, bytes: end - offset, first, until })
    }
}

impl Cursor {
    pub(crate) fn new(shared: Arc<Shared>, visible: Visible, next: Sequence) -> Self {
        Self { shared, visible, next, place: None }
    }

    /// Whether nothing is left to read for now.
    pub(crate) fn is_at_end(&self) -> bool {
        self.next >= self.shared.view().limit(self.visible).next
    }

    /// The next records, at least one; none at the end.
    pub(crate) fn fill(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        while records.is_empty() {
            let Some(span) = span(&self.shared, self.visible, self.next)? else { break };
            self.read(&span, &mut records)?;
        }
        Ok(records)
    }

    /// Reads within one segment. An error keeps the place: it comes again.
    fn read(&mut self, span: &Span, records: &mut Vec<Record>) -> Result<()> {
        let kept = self.place.take().filter(|place| place.base == span.segment.base);
        let (mut walk, mut expected) = match kept {
            Some(place) => (span.walk(place.offset).with_chunk(place.chunk), place.expected),
            None => {
                let (sequence, offset) = span.segment.lookup(&*span.file, self.next, span.end)?;
                (span.walk(offset), sequence)
            }
        };
        let mut taken = 0;
        while taken < FILL_BYTES && self.next < span.until {
            let offset = walk.offset();
            match walk.step()? {
                Step::Frame { frame, body, .. } if frame.sequence == expected => {
                    expected = frame.until();
                    for (sequence, range) in (frame.sequence..).zip(payloads(&body, frame.count)) {
                        if sequence >= self.next {
                            taken += range.len();
                            records.push(Record { sequence, payload: body.slice(range) });
                        }
                    }
                    self.next = self.next.max(expected);
                }
                // What was read before the bad place is given first; the next call meets it again.
                _ if !records.is_empty() => {
                    walk.back(offset);
                    break;
                }
                Step::End => return Err(span.damage(span.end, span.end, self.next, span.until)),
                Step::Frame { .. } | Step::Bad => {
                    walk.back(offset);
                    expected = span.pass(&mut walk, expected, self.next)?;
                }
            }
        }
        let (base, offset) = (span.segment.base, walk.offset());
        self.place = Some(Place { base, offset, expected, chunk: walk.into_chunk() });
        Ok(())
    }
}

/// One record by its number; `None` if it is not there yet. The payload is a copy.
pub(crate) fn get(shared: &Shared, visible: Visible, sequence: Sequence) -> Result<Option<Record>> {
    let Some(span) = span(shared, visible, sequence)? else { return Ok(None) };
    let (mut expected, offset) = span.segment.lookup(&*span.file, sequence, span.end)?;
    let mut walk = span.walk(offset).chunked(INDEX_STRIDE as usize);
    loop {
        let offset = walk.offset();
        if offset >= span.end {
            return Err(span.damage(span.end, span.end, sequence, span.until));
        }
        match walk.skim()?.filter(|frame| frame.sequence == expected) {
            Some(frame) if frame.until() <= sequence => expected = frame.until(),
            Some(_) => {
                walk.back(offset);
                if let Step::Frame { frame, body, .. } = walk.step()?
                    && let Some(range) = payloads(&body, frame.count).nth((sequence - frame.sequence) as usize)
                {
                    return Ok(Some(Record { sequence, payload: Bytes::copy_from_slice(&body[range]) }));
                }
                walk.back(offset);
                expected = span.pass(&mut walk, expected, sequence)?;
            }
            None => {
                walk.back(offset);
                expected = span.pass(&mut walk, expected, sequence)?;
            }
        }
    }
}
