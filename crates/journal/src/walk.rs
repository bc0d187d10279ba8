//! Goes through the frames of one segment, and finds the next valid one behind a place that is not. Everyone who reads a
//! segment does it with this: recovery, readers, lookups, verification. It decides nothing about what it finds.

use std::path::Path;

use bytes::Bytes;

use crate::Sequence;
use crate::disk::{File, read_upto};
use crate::error::{Error, Result};
use crate::format::{FRAME_HEADER, Frame, Seed};

/// Limit: bytes read at once, and kept; a frame that is larger is read whole.
const CHUNK: usize = 256 << 10;

/// What lies at an offset.
pub(crate) enum Step {
    Frame {
        frame: Frame,
        body: Bytes,
    },
    /// No valid frame. The walk stays there.
    Bad,
    End,
}

/// Where one is in a segment, with what was read around it.
pub(crate) struct Walk<'a> {
    file: &'a dyn File,
    path: &'a Path,
    seed: Seed,
    end: u64,
    at: u64,
    chunk: Bytes,
    chunk_at: u64,
    chunk_bytes: usize,
}

impl<'a> Walk<'a> {
    /// Goes from the frame at `at` to the offset `end`.
    pub(crate) fn new(file: &'a dyn File, path: &'a Path, seed: Seed, at: u64, end: u64) -> Self {
        Self { file, path, seed, end, at, chunk: Bytes::new(), chunk_at: at, chunk_bytes: CHUNK }
    }

    /// Reads this many bytes at once, where one record is looked for.
    pub(crate) fn chunked(self, chunk_bytes: usize) -> Self {
        Self { chunk_bytes, ..self }
    }

    /// Goes on with what an earlier walk through the same segment has read.
    pub(crate) fn with_chunk(self, (chunk, chunk_at): (Bytes, u64)) -> Self {
        Self { chunk, chunk_at, ..self }
    }

    /// What was read and its offset, for a later walk.
    pub(crate) fn into_chunk(self) -> (Bytes, u64) {
        (self.chunk, self.chunk_at)
    }

    pub(crate) fn offset(&self) -> u64 {
        self.at
    }

    /// The next frame, checked.
    pub(crate) fn step(&mut self) -> Result<Step> {
        if self.at >= self.end {
            return Ok(Step::End);
        }
        match self.frame_at(self.at)? {
            Some((frame, body)) => {
                self.at += frame.bytes();
                Ok(Step::Frame { frame, body })
            }
            None => Ok(Step::Bad),
        }
    }

    /// Passes over a frame without looking at its body.
    pub(crate) fn skim(&mut self) -> Result<Option<Frame>> {
        let header = self.bytes(self.at, FRAME_HEADER)?;
        let frame = Frame::decode(&header, self.seed, self.at).filter(|frame| frame.bytes() <= self.end - self.at);
        self.at += frame.map_or(0, |frame| frame.bytes());
        Ok(frame)
    }

    /// Goes back to a frame that was passed over.
    pub(crate) fn back(&mut self, offset: u64) {
        self.at = offset;
    }

    /// Goes to the next valid frame behind the bad place where the walk is, which can hold no record below `next`. Stays
    /// there if there is none.
    pub(crate) fn resync(&mut self, next: Sequence) -> Result<Option<Frame>> {
        let bad = self.at;
        let mut at = bad.saturating_add(8);
        while at.saturating_add(FRAME_HEADER as u64) <= self.end {
            let header = self.bytes(at, FRAME_HEADER)?;
            // What the field says must be possible before anything is summed: the search is then one comparison a step.
            let plausible = |frame: &Frame| frame.sequence >= next && frame.sequence - next <= at - bad;
            if let Some(frame) = Frame::decode(&header, self.seed, at).filter(plausible)
                && self.frame_at(at)?.is_some()
            {
                self.at = at;
                return Ok(Some(frame));
            }
            at += 8;
        }
        Ok(None)
    }

    fn frame_at(&mut self, offset: u64) -> Result<Option<(Frame, Bytes)>> {
        let header = self.bytes(offset, FRAME_HEADER)?;
        let decoded = Frame::decode(&header, self.seed, offset);
        let Some(frame) = decoded.filter(|frame| frame.bytes() <= self.end - offset) else { return Ok(None) };
        let body = self.bytes(offset, frame.bytes() as usize)?;
        let body = body.slice(FRAME_HEADER.min(body.len())..);
        Ok(frame.is_body(&body, self.seed).then_some((frame, body)))
    }

    /// The bytes at an offset: fewer where the segment ends, or its file.
    fn bytes(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let length = u64::try_from(length).map_or(self.end - offset, |length| length.min(self.end - offset));
        let inside = |walk: &Self| {
            let from = offset.checked_sub(walk.chunk_at)?;
            (from + length <= walk.chunk.len() as u64).then_some(from as usize)
        };
        if let Some(from) = inside(self) {
            return Ok(self.chunk.slice(from..from + length as usize));
        }
        let wanted = length.max((self.chunk_bytes as u64).min(self.end - offset));
        let read = read_upto(self.file, wanted as usize, offset).map_err(Error::io("read", self.path))?;
        self.chunk = Bytes::from(read);
        self.chunk_at = offset;
        Ok(self.chunk.slice(..self.chunk.len().min(length as usize)))
    }
}
