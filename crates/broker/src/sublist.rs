//! The index of subscriptions by subject: literals in one table, wildcards in a trie of tokens. Matching takes a read
//! lock and walks only what can match; whoever matches often keeps the answer until [`Sublist::generation`] moves.
//! It delivers nothing and knows no permission.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::subject::{self, Kind};
use crate::subscription::Subscription;

/// Limit: subscriptions that are put in or taken out under one write lock; others match in between.
const CHANGES_AT_ONCE_MAX: usize = 256;

/// Every subscription of the broker.
#[derive(Debug, Default)]
pub(crate) struct Sublist {
    index: RwLock<Index>,
    generation: AtomicU64,
}

/// Who gets a message: each of `plain`, and one of each group.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    pub(crate) plain: Vec<Arc<Subscription>>,
    /// Members of queue groups. A group's name stands for one group whatever the patterns of its members.
    pub(crate) groups: Vec<Vec<Arc<Subscription>>>,
}

impl Matches {
    pub(crate) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty()
    }

    /// How many subscriptions it refers to.
    pub(crate) fn len(&self) -> usize {
        self.plain.len() + self.groups.iter().map(Vec::len).sum::<usize>()
    }

    /// Leaves only those of which this says so.
    pub(crate) fn retain(&mut self, keeps: impl Fn(&Subscription) -> bool) {
        self.plain.retain(|subscription| keeps(subscription));
        self.groups.iter_mut().for_each(|group| group.retain(|subscription| keeps(subscription)));
        self.groups.retain(|group| !group.is_empty());
    }
}

impl Sublist {
    /// Moves whenever an answer may have become another one.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes every kept answer old.
    pub(crate) fn outdate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Puts a subscription in. Its subject is valid.
    pub(crate) fn insert(&self, subscription: Arc<Subscription>) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.bucket(subscription.subject()).insert(subscription);
        index.len += 1;
        index.inserts += 1;
        // Order: inside the lock, so that no answer of before is kept as one of after.
        self.outdate();
    }

    /// Takes subscriptions out, each of which is in.
    pub(crate) fn remove<'a>(&self, subscriptions: impl IntoIterator<Item = &'a Arc<Subscription>>) {
        let mut subscriptions = subscriptions.into_iter().peekable();
        while subscriptions.peek().is_some() {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            for subscription in subscriptions.by_ref().take(CHANGES_AT_ONCE_MAX) {
                index.remove(subscription);
                index.len -= 1;
                index.removes += 1;
            }
            self.outdate();
        }
    }

    /// Whom a message with this subject concerns. Asked after the generation, the answer is at least as new as that.
    pub(crate) fn matches(&self, subject: &[u8]) -> Matches {
        let mut matches = Matches::default();
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        if subject::tokens(subject).any(<[u8]>::is_empty) {
            return matches;
        }
        let mut groups = HashMap::new();
        let mut found = |bucket: &Bucket| bucket.collect(&mut matches, &mut groups);
        let hash = index.hasher.hash_one(subject);
        if let Some(bucket) = index.literals.find(hash, |bucket| bucket.subject() == subject) {
            found(bucket);
        }
        index.wildcards.walk(Some(subject), &mut found);
        matches
    }

    pub(crate) fn counts(&self) -> Counts {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        Counts { subscriptions: index.len, inserts: index.inserts, removes: index.removes }
    }
}

/// For `/subsz`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) subscriptions: usize,
    pub(crate) inserts: u64,
    pub(crate) removes: u64,
}

#[derive(Debug, Default)]
struct Index {
    hasher: DefaultHashBuilder,
    /// By the subject of their members: a key of its own would cost a million copies.
    literals: HashTable<Bucket>,
    wildcards: Node,
    len: usize,
    inserts: u64,
    removes: u64,
}

impl Index {
    fn bucket(&mut self, subject: &[u8]) -> &mut Bucket {
        if subject::kind(subject) == Kind::Wildcard {
            return self.wildcards.bucket(subject);
        }
        let hasher = &self.hasher;
        let hash = |bucket: &Bucket| hasher.hash_one(bucket.subject());
        match self.literals.entry(hasher.hash_one(subject), |bucket| bucket.subject() == subject, hash) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Bucket::default()).into_mut(),
        }
    }

    fn remove(&mut self, subscription: &Subscription) {
        let subject = subscription.subject();
        if subject::kind(subject) == Kind::Wildcard {
            self.wildcards.remove(Some(subject), subscription);
            return;
        }
        let hash = self.hasher.hash_one(subject);
        let Ok(mut entry) = self.literals.find_entry(hash, |bucket| bucket.subject() == subject) else {
            return;
        };
        // Order: the bucket is found by its members, so the last one goes together with it.
        if entry.get().len() == 1 {
            entry.remove();
        } else {
            entry.get_mut().remove(subscription);
        }
    }
}

/// One token of the patterns below it.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Vec<u8>, Node>,
    /// What is below a `*`.
    any: Option<Box<Node>>,
    /// Patterns that end in `>` here.
    rest: Bucket,
    /// Patterns that end here.
    here: Bucket,
}

impl Node {
    fn bucket(&mut self, pattern: &[u8]) -> &mut Bucket {
        let mut node = self;
        for token in subject::tokens(pattern) {
            node = match token {
                b">" => return &mut node.rest,
                b"*" => node.any.get_or_insert_default(),
                token => node.literals.entry_ref(token).or_default(),
            };
        }
        &mut node.here
    }

    /// Visits what matches the tokens that are left; `None` when none is.
    fn walk(&self, left: Option<&[u8]>, found: &mut impl FnMut(&Bucket)) {
        let Some(left) = left else {
            found(&self.here);
            return;
        };
        found(&self.rest);
        let (token, left) = split(left);
        if let Some(node) = self.literals.get(token) {
            node.walk(left, found);
        }
        if let Some(node) = &self.any {
            node.walk(left, found);
        }
    }

    /// Takes a subscription out and the nodes that only it has needed.
    fn remove(&mut self, left: Option<&[u8]>, subscription: &Subscription) {
        let Some(left) = left else {
            self.here.remove(subscription);
            return;
        };
        match split(left) {
            (b">", _) => self.rest.remove(subscription),
            (b"*", left) => {
                if let Some(node) = &mut self.any {
                    node.remove(left, subscription);
                    self.any.take_if(|node| node.is_empty());
                }
            }
            (token, left) => {
                if let Some(node) = self.literals.get_mut(token) {
                    node.remove(left, subscription);
                    if node.is_empty() {
                        self.literals.remove(token);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.any.is_none() && self.rest.len() == 0 && self.here.len() == 0
    }
}

/// The first token and what is behind it.
fn split(left: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(subject::SEPARATOR, left) {
        Some(at) => (&left[..at], Some(&left[at + 1..])),
        None => (left, None),
    }
}

type Groups = HashMap<Vec<u8>, Vec<Arc<Subscription>>>;

/// Subscriptions with one and the same subject.
#[derive(Debug, Default)]
struct Bucket {
    plain: Vec<Arc<Subscription>>,
    groups: Option<Box<Groups>>,
}

impl Bucket {
    /// Invariant: a bucket in the table of literals has a member, but for the moment between its making and the first.
    fn subject(&self) -> &[u8] {
        let grouped = || self.groups.as_ref()?.values().next()?.first();
        self.plain.first().or_else(grouped).map_or(b"", |subscription| subscription.subject())
    }

    /// Members, counted only as far as it matters: groups with one count one each.
    fn len(&self) -> usize {
        self.plain.len() + self.groups.as_ref().map_or(0, |groups| groups.values().map(Vec::len).take(2).sum())
    }

    fn insert(&mut self, subscription: Arc<Subscription>) {
        let members = match subscription.queue() {
            None => &mut self.plain,
            Some(queue) => self.groups.get_or_insert_default().entry_ref(queue).or_default(),
        };
        subscription.put_at(members.len());
        members.push(subscription);
    }

    fn remove(&mut self, subscription: &Subscription) {
        let Some(queue) = subscription.queue() else {
            take(&mut self.plain, subscription);
            return;
        };
        let Some(groups) = &mut self.groups else { return };
        if let Some(members) = groups.get_mut(queue) {
            take(members, subscription);
            if members.is_empty() {
                groups.remove(queue);
            }
        }
        self.groups.take_if(|groups| groups.is_empty());
    }

    /// `places` has the groups of all buckets before, by name.
    fn collect(&self, into: &mut Matches, places: &mut HashMap<Vec<u8>, usize>) {
        into.plain.extend_from_slice(&self.plain);
        for (name, members) in self.groups.iter().flat_map(|groups| groups.iter()) {
            let place = *places.entry_ref(name.as_slice()).or_insert_with(|| {
                into.groups.push(Vec::with_capacity(members.len()));
                into.groups.len() - 1
            });
            into.groups[place].extend_from_slice(members);
        }
    }
}

/// Takes one out in constant time; the last takes its place.
fn take(members: &mut Vec<Arc<Subscription>>, subscription: &Subscription) {
    let place = subscription.place();
    if members.get(place).is_some_and(|member| std::ptr::eq(&**member, subscription)) {
        members.swap_remove(place);
        if let Some(moved) = members.get(place) {
            moved.put_at(place);
        }
    }
}

#[cfg(test)]
mod tests;
