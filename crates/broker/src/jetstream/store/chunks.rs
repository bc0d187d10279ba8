//! What is known of each message, by sequence: 16 bytes for one that is there, next to nothing for one that is not. Used
//! by the index alone. Chunks of 65,536 sequences; one that is nearly empty is kept as a list, an empty one not at all.

use std::collections::VecDeque;

const BITS: u32 = 16;
/// Limit: a chunk with less than one in so many still there becomes a list.
const SPARSE: usize = 8;
/// Limit: chunks that are smaller stay as they are.
const SMALL: usize = 64;

/// The subject of a message that is gone.
const GONE: u32 = u32::MAX;
const HAS_TTL: u32 = 1 << 31;
const NEVER_EXPIRES: u32 = 1 << 30;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Nanoseconds since the epoch.
    pub(super) time: i64,
    /// Its number in the table of subjects.
    pub(super) subject: u32,
    marked_size: u32,
}

/// How long a message may stay, beside the stream's `max_age`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    Ordinary,
    /// It has a deadline of its own.
    Limited,
    Forever,
}

impl Entry {
    pub(super) fn new(time: i64, subject: u32, size: u32, stay: Stay) -> Self {
        let mark = match stay {
            Stay::Ordinary => 0,
            Stay::Limited => HAS_TTL,
            Stay::Forever => NEVER_EXPIRES,
        };
        Self { time, subject, marked_size: size.min(NEVER_EXPIRES - 1) | mark }
    }

    fn gone() -> Self {
        Self { time: 0, subject: GONE, marked_size: 0 }
    }

    fn is_live(&self) -> bool {
        self.subject != GONE
    }

    /// What it counts for `max_bytes`.
    pub(super) fn size(&self) -> u64 {
        u64::from(self.marked_size & (NEVER_EXPIRES - 1))
    }

    pub(super) fn stay(&self) -> Stay {
        match self.marked_size {
            mark if mark & HAS_TTL != 0 => Stay::Limited,
            mark if mark & NEVER_EXPIRES != 0 => Stay::Forever,
            _ => Stay::Ordinary,
        }
    }
}

/// The messages of 65,536 sequences.
#[derive(Debug)]
struct Chunk {
    live: usize,
    cells: Cells,
}

#[derive(Debug)]
enum Cells {
    /// One cell a sequence from this offset on.
    Dense(usize, Vec<Entry>),
    /// Those that are there, and some that were, by offset.
    Sparse(Vec<u16>, Vec<Entry>),
}

impl Chunk {
    fn new() -> Self {
        Self { live: 0, cells: Cells::Dense(0, Vec::new()) }
    }

    #[inline]
    fn push(&mut self, offset: usize, entry: Entry) {
        self.live += 1;
        match &mut self.cells {
            Cells::Dense(start, cells) => {
                if cells.is_empty() {
                    *start = offset;
                }
                cells.resize(offset - *start, Entry::gone());
                cells.push(entry);
            }
            Cells::Sparse(offsets, cells) => {
                offsets.push(offset as u16);
                cells.push(entry);
            }
        }
    }

    fn get(&self, offset: usize) -> Option<&Entry> {
        match &self.cells {
            Cells::Dense(start, cells) => cells.get(offset.checked_sub(*start)?).filter(|entry| entry.is_live()),
            Cells::Sparse(offsets, cells) => {
                let at = offsets.binary_search(&(offset as u16)).ok()?;
                Some(&cells[at]).filter(|entry| entry.is_live())
            }
        }
    }

    fn take(&mut self, offset: usize) -> Option<Entry> {
        let cell = match &mut self.cells {
            Cells::Dense(start, cells) => cells.get_mut(offset.checked_sub(*start)?),
            Cells::Sparse(offsets, cells) => offsets.binary_search(&(offset as u16)).ok().map(|at| &mut cells[at]),
        };
        let cell = cell.filter(|entry| entry.is_live())?;
        self.live -= 1;
        Some(std::mem::replace(cell, Entry::gone()))
    }

    /// Gives back what is not needed; not for one that still grows.
    fn shrink(&mut self) {
        let (length, part) = match &self.cells {
            Cells::Dense(_, cells) => (cells.len(), SPARSE),
            Cells::Sparse(_, cells) => (cells.len(), 2),
        };
        if length <= SMALL || self.live * part >= length {
            return;
        }
        let (mut offsets, mut entries) = (Vec::with_capacity(self.live), Vec::with_capacity(self.live));
        let mut from = 0;
        while let Some((offset, entry)) = self.find(from, |_| true) {
            offsets.push(offset as u16);
            entries.push(entry);
            from = offset + 1;
        }
        self.cells = Cells::Sparse(offsets, entries);
    }

    fn find(&self, from: usize, mut wanted: impl FnMut(&Entry) -> bool) -> Option<(usize, Entry)> {
        match &self.cells {
            Cells::Dense(start, cells) => {
                let at = from.saturating_sub(*start).min(cells.len());
                let found = cells[at..].iter().position(|entry| entry.is_live() && wanted(entry))?;
                Some((start + at + found, cells[at + found]))
            }
            Cells::Sparse(offsets, cells) => {
                let at = offsets.partition_point(|offset| usize::from(*offset) < from);
                let found = cells[at..].iter().position(|entry| entry.is_live() && wanted(entry))?;
                Some((offsets[at + found].into(), cells[at + found]))
            }
        }
    }

    fn each(&self, from: usize, until: usize, mut look: impl FnMut(usize, &Entry)) {
        match &self.cells {
            Cells::Dense(start, cells) => {
                let end = until.saturating_sub(*start).min(cells.len());
                let at = from.saturating_sub(*start).min(end);
                let live = cells[at..end].iter().enumerate().filter(|(_, entry)| entry.is_live());
                live.for_each(|(behind, entry)| look(start + at + behind, entry));
            }
            Cells::Sparse(offsets, cells) => {
                let live = offsets.iter().zip(cells).filter(|(_, entry)| entry.is_live());
                let within = live.map(|(offset, entry)| (usize::from(*offset), entry));
                within
                    .filter(|(offset, _)| (from..until).contains(offset))
                    .for_each(|(offset, entry)| look(offset, entry));
            }
        }
    }

    /// The last one below `until`.
    fn find_last(&self, until: usize, mut wanted: impl FnMut(&Entry) -> bool) -> Option<(usize, Entry)> {
        match &self.cells {
            Cells::Dense(start, cells) => {
                let end = until.saturating_sub(*start).min(cells.len());
                let found = cells[..end].iter().rposition(|entry| entry.is_live() && wanted(entry))?;
                Some((start + found, cells[found]))
            }
            Cells::Sparse(offsets, cells) => {
                let end = offsets.partition_point(|offset| usize::from(*offset) < until);
                let found = cells[..end].iter().rposition(|entry| entry.is_live() && wanted(entry))?;
                Some((offsets[found].into(), cells[found]))
            }
        }
    }
}

/// All messages of a stream.
#[derive(Debug)]
pub(super) struct Chunks {
    /// The number of the first chunk that is kept.
    front: u64,
    chunks: VecDeque<Chunk>,
    /// Behind the last sequence that was pushed.
    next: u64,
}

fn split(sequence: u64) -> (u64, usize) {
    (sequence >> BITS, (sequence & ((1 << BITS) - 1)) as usize)
}

impl Chunks {
    /// None yet; the next sequence is `next`.
    pub(super) fn new(next: u64) -> Self {
        Self { front: next >> BITS, chunks: VecDeque::new(), next }
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The next message, or one behind it: what lies between is gone.
    #[inline]
    pub(super) fn push(&mut self, sequence: u64, entry: Entry) {
        debug_assert!(sequence >= self.next, "{sequence} comes after {}", self.next);
        let (number, offset) = split(sequence);
        if self.chunks.is_empty() {
            self.front = number;
        }
        while self.front + self.chunks.len() as u64 <= number {
            self.chunks.push_back(Chunk::new());
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.push(offset, entry);
        }
        self.next = sequence + 1;
    }

    /// Sequences up to here are given and gone.
    pub(super) fn skip(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    fn index(&self, number: u64) -> Option<usize> {
        number.checked_sub(self.front).and_then(|at| usize::try_from(at).ok())
    }

    #[inline]
    pub(super) fn get(&self, sequence: u64) -> Option<&Entry> {
        let (number, offset) = split(sequence);
        self.chunks.get(self.index(number)?)?.get(offset)
    }

    pub(super) fn take(&mut self, sequence: u64) -> Option<Entry> {
        let (number, offset) = split(sequence);
        let at = self.index(number)?;
        let is_growing = at + 1 == self.chunks.len();
        let chunk = self.chunks.get_mut(at)?;
        let entry = chunk.take(offset)?;
        if !is_growing {
            chunk.shrink();
        }
        while self.chunks.front().is_some_and(|chunk| chunk.live == 0) {
            self.chunks.pop_front();
            self.front += 1;
        }
        Some(entry)
    }

    /// The first one from `from` on.
    pub(super) fn find(&self, from: u64, mut wanted: impl FnMut(&Entry) -> bool) -> Option<(u64, Entry)> {
        let from = from.max(self.front << BITS);
        let (number, offset) = split(from);
        let first = self.index(number)?;
        for (at, chunk) in self.chunks.iter().enumerate().skip(first).filter(|(_, chunk)| chunk.live > 0) {
            let start = if at == first { offset } else { 0 };
            if let Some((offset, entry)) = chunk.find(start, &mut wanted) {
                return Some((((self.front + at as u64) << BITS) + offset as u64, entry));
            }
        }
        None
    }

    /// The last one below `until`.
    pub(super) fn find_last(&self, until: u64, mut wanted: impl FnMut(&Entry) -> bool) -> Option<(u64, Entry)> {
        let (number, offset) = split(until.min(self.next));
        let last = self.index(number)?;
        for (at, chunk) in self.chunks.iter().enumerate().take(last + 1).rev().filter(|(_, chunk)| chunk.live > 0) {
            let end = if at == last { offset } else { 1 << BITS };
            if let Some((offset, entry)) = chunk.find_last(end, &mut wanted) {
                return Some((((self.front + at as u64) << BITS) + offset as u64, entry));
            }
        }
        None
    }

    /// Looks at all from `from` to below `until`, in order.
    pub(super) fn each(&self, from: u64, until: u64, mut look: impl FnMut(u64, &Entry)) {
        let from = from.max(self.front << BITS);
        let (number, offset) = split(from);
        let Some(first) = self.index(number) else { return };
        for (at, chunk) in self.chunks.iter().enumerate().skip(first) {
            let base = (self.front + at as u64) << BITS;
            if base >= until {
                return;
            }
            let start = if at == first { offset } else { 0 };
            let end = usize::try_from(until - base).unwrap_or(usize::MAX).min(1 << BITS);
            chunk.each(start, end, |offset, entry| look(base + offset as u64, entry));
        }
    }

    /// How many there are from `from` to below `until`.
    pub(super) fn count(&self, from: u64, until: u64) -> u64 {
        let mut count = 0;
        let (mut from, until) = (from.max(self.front << BITS), until.min(self.next));
        while from < until {
            let (number, offset) = split(from);
            let end = (number + 1) << BITS;
            match self.index(number).and_then(|at| self.chunks.get(at)) {
                None => break,
                Some(chunk) if offset == 0 && end <= until => count += chunk.live as u64,
                Some(_) => self.each(from, end.min(until), |_, _| count += 1),
            }
            from = end;
        }
        count
    }
}
