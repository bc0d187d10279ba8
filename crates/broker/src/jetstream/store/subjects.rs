//! The subjects of a stream's messages, each with a number: how many messages it has and which is its last. Used by the
//! index alone. A number is free again when its subject has no message and none on its way.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// The sequences of one subject's messages, in order. Boxed: most subjects need none.
#[derive(Debug, Default)]
pub(super) struct Sequences(pub(super) VecDeque<u64>);

/// One subject.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: Box<[u8]>,
    /// Messages that are there.
    pub(super) count: u64,
    /// The sequence of the last of them; 0 when it must be looked for.
    pub(super) last: u64,
    /// The last sequence that was given.
    pub(super) staged: u64,
    /// Messages on their way, and others who need the number.
    pub(super) holds: u32,
    /// Which summary knows it, and by which number.
    pub(super) noted: (u32, u32),
    /// All sequences, where older ones must be found often.
    pub(super) sequences: Option<Box<Sequences>>,
}

impl Subject {
    fn new(name: &[u8]) -> Self {
        Self { name: name.into(), count: 0, last: 0, staged: 0, holds: 0, noted: (0, 0), sequences: None }
    }

    fn is_idle(&self) -> bool {
        self.count == 0 && self.holds == 0
    }
}

/// All subjects.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    table: Vec<Subject>,
    free: Vec<u32>,
    /// Subjects that have messages.
    pub(super) filled: u64,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Subjects {
    pub(super) fn find(&self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.by_name.find(hash, |id| *self.table[*id as usize].name == *name).copied()
    }

    /// The number of a subject, and whether it was just given.
    pub(super) fn find_or_add(&mut self, name: &[u8]) -> (u32, bool) {
        let hash = self.hasher.hash_one(name);
        if let Some(id) = self.by_name.find(hash, |id| *self.table[*id as usize].name == *name) {
            return (*id, false);
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.table[id as usize] = Subject::new(name);
                id
            }
            None => {
                self.table.push(Subject::new(name));
                self.table.len() as u32 - 1
            }
        };
        let Self { table, by_name, hasher, .. } = self;
        by_name.insert_unique(hash, id, |id| hasher.hash_one(&*table[*id as usize].name));
        (id, true)
    }

    /// Frees the number if nobody needs it any more; says whether it did.
    #[inline]
    pub(super) fn release(&mut self, id: u32) -> bool {
        let subject = &mut self.table[id as usize];
        if !subject.is_idle() {
            return false;
        }
        let name = std::mem::take(&mut subject.name);
        subject.sequences = None;
        let hash = self.hasher.hash_one(&*name);
        if let Ok(found) = self.by_name.find_entry(hash, |other| *other == id) {
            found.remove();
        }
        self.free.push(id);
        if self.free.len() == self.table.len() {
            *self = Self { hasher: self.hasher.clone(), ..Self::default() };
        }
        true
    }

    #[inline]
    pub(super) fn get(&self, id: u32) -> &Subject {
        &self.table[id as usize]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: u32) -> &mut Subject {
        &mut self.table[id as usize]
    }

    /// Subjects that have messages.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Subject)> {
        (0..).zip(&self.table).filter(|(_, subject)| subject.count > 0)
    }

    /// A message of this subject came.
    #[inline]
    pub(super) fn count_up(&mut self, id: u32) -> &mut Subject {
        let subject = &mut self.table[id as usize];
        subject.count += 1;
        self.filled += u64::from(subject.count == 1);
        subject
    }

    /// A message of this subject went.
    #[inline]
    pub(super) fn count_down(&mut self, id: u32) -> &mut Subject {
        let subject = &mut self.table[id as usize];
        subject.count -= 1;
        self.filled -= u64::from(subject.count == 0);
        subject
    }

    /// Every number that is in use.
    pub(super) fn ids(&self) -> impl Iterator<Item = (u32, &Subject)> {
        (0..).zip(&self.table).filter(|(_, subject)| !subject.is_idle())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Subject> {
        self.table.iter_mut()
    }
}
