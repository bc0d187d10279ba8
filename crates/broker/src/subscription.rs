//! One interest in a pattern: who has it, where messages go, how many more. Made by connections and internal clients,
//! kept by the index.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::auth::User;
use crate::client::Client;
use crate::internal::Queue;

/// Where the messages of a subscription go.
#[derive(Debug)]
pub(crate) enum Sink {
    Client(Arc<Client>),
    Internal(Arc<Queue>),
}

/// An interest. A million of them is expected: its three texts share one allocation.
#[derive(Debug)]
pub(crate) struct Subscription {
    text: Box<[u8]>,
    subject_len: u32,
    sid_len: u32,
    has_queue: bool,
    pub(crate) sink: Sink,
    pub(crate) user: Arc<User>,
    /// Whether a subject that it matches may still be denied to its user.
    is_filtered: AtomicBool,
    is_closed: AtomicBool,
    // Invariant: the two counts are written under the lock of the client's outbound buffer.
    delivered: AtomicU64,
    /// 0: as many as come.
    delivered_max: AtomicU64,
    // Invariant: read and written under the index's write lock.
    place: AtomicUsize,
}

impl Subscription {
    pub(crate) fn new(subject: &[u8], queue: Option<&[u8]>, sid: &[u8], sink: Sink, user: Arc<User>) -> Self {
        let text = [subject, sid, queue.unwrap_or_default()].concat().into_boxed_slice();
        let length = |part: &[u8]| u32::try_from(part.len()).expect("a control line is shorter");
        Self {
            subject_len: length(subject),
            sid_len: length(sid),
            has_queue: queue.is_some(),
            text,
            is_filtered: AtomicBool::new(user.permissions.denies_part_of(subject)),
            sink,
            user,
            is_closed: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            delivered_max: AtomicU64::new(0),
            place: AtomicUsize::new(0),
        }
    }

    pub(crate) fn subject(&self) -> &[u8] {
        &self.text[..self.subject_len as usize]
    }

    /// Whether its user may have it, asked once more: that may have changed since it was made.
    pub(crate) fn is_allowed(&self) -> bool {
        let permissions = &self.user.permissions;
        self.is_filtered.store(permissions.denies_part_of(self.subject()), Ordering::Release);
        permissions.may_subscribe(self.subject())
    }

    /// Whether its user may have a message of this subject.
    pub(crate) fn may_receive(&self, subject: &[u8]) -> bool {
        !self.is_filtered.load(Ordering::Acquire) || self.user.permissions.may_receive(subject)
    }

    /// The client's name for it; empty for an internal one.
    pub(crate) fn sid(&self) -> &[u8] {
        &self.text[self.subject_len as usize..(self.subject_len + self.sid_len) as usize]
    }

    pub(crate) fn queue(&self) -> Option<&[u8]> {
        self.has_queue.then(|| &self.text[(self.subject_len + self.sid_len) as usize..])
    }

    pub(crate) fn client(&self) -> Option<&Arc<Client>> {
        match &self.sink {
            Sink::Client(client) => Some(client),
            Sink::Internal(_) => None,
        }
    }

    /// Ends it: nothing is delivered from now on. Whoever closed it takes it out of the index; `false` if that was
    /// somebody else.
    pub(crate) fn close(&self) -> bool {
        !self.is_closed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Counts a delivery. Called under the lock of the client's outbound buffer.
    pub(crate) fn count(&self) -> Counted {
        let count = self.delivered.load(Ordering::Relaxed) + 1;
        let max = self.delivered_max.load(Ordering::Relaxed);
        if max != 0 && count > max {
            return Counted::Beyond;
        }
        self.delivered.store(count, Ordering::Relaxed);
        if count == max { Counted::Last } else { Counted::Within }
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Allows this many deliveries in all; `false` if there were as many already. Called under the lock of the client's
    /// outbound buffer.
    pub(crate) fn limit(&self, max: u64) -> bool {
        self.delivered_max.store(max, Ordering::Relaxed);
        max > self.delivered()
    }

    pub(crate) fn place(&self) -> usize {
        self.place.load(Ordering::Relaxed)
    }

    pub(crate) fn put_at(&self, place: usize) {
        self.place.store(place, Ordering::Relaxed);
    }
}

/// Where a delivery stands among those that UNSUB has allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Within,
    /// To be delivered, and the subscription to be ended.
    Last,
    /// Not to be delivered.
    Beyond,
}
