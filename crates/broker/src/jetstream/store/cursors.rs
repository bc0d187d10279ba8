//! Reading positions of consumers: which subjects each wants, where it is, and how many messages lie before it. The index
//! tells it of every message and subject that comes or goes, so nothing is ever counted twice.

use crate::subject::{Kind, covers, kind};

/// Limit: a selection with more subjects than this is a bitmap.
const FEW: usize = 16;

/// Names a cursor of one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CursorId(usize);

/// Which subjects are wanted.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    filters: Vec<Vec<u8>>,
    ids: Ids,
}

#[derive(Clone, Debug)]
enum Ids {
    All,
    Few(Vec<u32>),
    Many(Vec<u64>),
}

impl Selection {
    /// Empty: everything.
    pub(super) fn new(filters: &[Vec<u8>]) -> Self {
        let is_all = filters.is_empty() || filters.iter().any(|filter| filter == b">");
        let ids = if is_all { Ids::All } else { Ids::Few(Vec::new()) };
        Self { filters: filters.to_vec(), ids }
    }

    /// The one subject, if no other can be meant.
    pub(super) fn literals(&self) -> Option<&[Vec<u8>]> {
        let is_literal = self.filters.iter().all(|filter| kind(filter) == Kind::Literal);
        (is_literal && !self.is_all()).then_some(&self.filters)
    }

    pub(super) fn is_all(&self) -> bool {
        matches!(self.ids, Ids::All)
    }

    pub(super) fn matches(&self, subject: &[u8]) -> bool {
        self.is_all() || self.filters.iter().any(|filter| **filter == *subject || covers(filter, subject))
    }

    /// Whether no subject matches, now.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_all() && self.ids().next().is_none()
    }

    /// The numbers of those that match; none where all do.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        let (few, many): (&[u32], &[u64]) = match &self.ids {
            Ids::All => (&[], &[]),
            Ids::Few(few) => (few, &[]),
            Ids::Many(many) => (&[], many),
        };
        let many = (0u32..).zip(many).flat_map(|(at, word)| {
            (0..u64::BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * u64::BITS + bit)
        });
        few.iter().copied().chain(many)
    }

    #[inline]
    pub(super) fn has(&self, id: u32) -> bool {
        match &self.ids {
            Ids::All => true,
            Ids::Few(ids) => ids.contains(&id),
            Ids::Many(bits) => bits.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1),
        }
    }

    pub(super) fn insert(&mut self, id: u32) {
        if self.has(id) {
            return;
        }
        if let Ids::Few(ids) = &mut self.ids {
            ids.push(id);
            if ids.len() <= FEW {
                return;
            }
            let ids = std::mem::take(ids);
            self.ids = Ids::Many(Vec::new());
            for id in ids {
                self.set(id);
            }
        }
        self.set(id);
    }

    fn set(&mut self, id: u32) {
        if let Ids::Many(bits) = &mut self.ids {
            let at = id as usize / 64;
            if bits.len() <= at {
                bits.resize(at + 1, 0);
            }
            bits[at] |= 1 << (id % 64);
        }
    }

    fn remove(&mut self, id: u32) {
        match &mut self.ids {
            Ids::All => {}
            Ids::Few(ids) => ids.retain(|other| *other != id),
            Ids::Many(bits) => {
                if let Some(word) = bits.get_mut(id as usize / 64) {
                    *word &= !(1 << (id % 64));
                }
            }
        }
    }
}

/// One position.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) selection: Selection,
    /// The first sequence that was not given.
    pub(super) position: u64,
    /// Messages that are wanted, from there on.
    pub(super) pending: u64,
}

/// All positions.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    cursors: Vec<Option<Cursor>>,
    /// Those that have had nothing before them, and now have.
    woken: Vec<CursorId>,
}

impl Cursors {
    pub(super) fn open(&mut self, cursor: Cursor) -> CursorId {
        match self.cursors.iter().position(Option::is_none) {
            Some(free) => {
                self.cursors[free] = Some(cursor);
                CursorId(free)
            }
            None => {
                self.cursors.push(Some(cursor));
                CursorId(self.cursors.len() - 1)
            }
        }
    }

    pub(super) fn close(&mut self, id: CursorId) {
        if let Some(cursor) = self.cursors.get_mut(id.0) {
            *cursor = None;
        }
    }

    pub(super) fn get(&self, id: CursorId) -> Option<&Cursor> {
        self.cursors.get(id.0)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: CursorId) -> Option<&mut Cursor> {
        self.cursors.get_mut(id.0)?.as_mut()
    }

    fn open_ones(&mut self) -> impl Iterator<Item = &mut Cursor> {
        self.cursors.iter_mut().flatten()
    }

    /// A number was given to a subject.
    pub(super) fn subject_added(&mut self, id: u32, name: &[u8]) {
        for cursor in self.open_ones().filter(|cursor| !cursor.selection.is_all()) {
            if cursor.selection.matches(name) {
                cursor.selection.insert(id);
            }
        }
    }

    /// A number is free again.
    pub(super) fn subject_freed(&mut self, id: u32) {
        for cursor in self.open_ones() {
            cursor.selection.remove(id);
        }
    }

    #[inline]
    pub(super) fn added(&mut self, sequence: u64, subject: u32) {
        for (at, cursor) in self.cursors.iter_mut().enumerate() {
            let Some(cursor) = cursor.as_mut() else { continue };
            if sequence >= cursor.position && cursor.selection.has(subject) {
                cursor.pending += 1;
                if cursor.pending == 1 {
                    self.woken.push(CursorId(at));
                }
            }
        }
    }

    /// Those for which something has come, since the last call.
    pub(super) fn take_woken(&mut self) -> Vec<CursorId> {
        std::mem::take(&mut self.woken)
    }

    #[inline]
    pub(super) fn removed(&mut self, sequence: u64, subject: u32) {
        for cursor in self.open_ones() {
            if sequence >= cursor.position && cursor.selection.has(subject) {
                cursor.pending -= 1;
            }
        }
    }
}
