//! Subscriptions of the process itself, without sockets: a bounded queue of messages that know who published them. This is
//! where JetStream gets what it stores and what it is asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use tokio::sync::Notify;

use crate::auth::User;
use crate::broker::Broker;
use crate::error::Error;
use crate::inbox;
use crate::outbound::Pushed;
use crate::pressure::Pressure;
use crate::protocol;
use crate::subject::{self, Kind};
use crate::subscription::{self, Sink};

/// A message, as it was published. Its parts share one allocation.
#[derive(Clone, Debug)]
pub struct Message {
    frame: Bytes,
    subject_len: usize,
    reply_len: usize,
    header_len: usize,
    publisher: Arc<User>,
}

impl Message {
    pub(crate) fn new(message: &protocol::Message<'_>, publisher: &Arc<User>) -> Self {
        let reply = message.reply.unwrap_or_default();
        Self {
            frame: [message.subject, reply, message.content].concat().into(),
            subject_len: message.subject.len(),
            reply_len: reply.len(),
            header_len: message.header_len,
            publisher: Arc::clone(publisher),
        }
    }

    /// Not always valid to publish to: clients may have written wildcards into it, as in NATS.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.frame[..self.subject_len]
    }

    /// Where an answer is expected. An inbox carries its owner in it, so that whoever answers reaches that one.
    #[must_use]
    pub fn reply(&self) -> Option<&[u8]> {
        (self.reply_len > 0).then(|| &self.frame[self.subject_len..self.subject_len + self.reply_len])
    }

    /// The header block with its first line; empty for none. Nothing but its length was looked at.
    #[must_use]
    pub fn headers(&self) -> Bytes {
        let at = self.subject_len + self.reply_len;
        self.frame.slice(at..at + self.header_len)
    }

    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.frame.slice(self.subject_len + self.reply_len + self.header_len..)
    }

    /// The name of the user that has published it; empty for the process itself, and where no users are declared.
    #[must_use]
    pub fn publisher(&self) -> &str {
        &self.publisher.name
    }

    /// Where an answer may go: to an inbox, or to where the publisher could publish itself. Nobody has the process say
    /// what it may not say itself.
    pub(crate) fn answerable(&self) -> Option<&[u8]> {
        self.reply().filter(|reply| inbox::is_inbox(reply) || self.publisher.permissions.may_publish(reply))
    }

    /// The user that has published it.
    pub(crate) fn user(&self) -> &User {
        &self.publisher
    }

    /// Whose share of a queue it counts for.
    fn share(&self) -> usize {
        Arc::as_ptr(&self.publisher).addr()
    }

    /// What it takes up while it waits.
    pub(crate) fn len(&self) -> usize {
        self.frame.len() + size_of::<Self>()
    }
}

/// Limit: of what is free when a message comes, its publisher may have so much waiting. One that floods leaves an eighth,
/// so that a second one has room, and it leaves an eighth of that.
const SHARE: usize = 7;
/// How often it is told that messages are missed.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// The queue of one internal subscription.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    pub(crate) pressure: Pressure,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    /// What of it is whose: by the address of a user of whom a message waits.
    shares: HashMap<usize, usize>,
    missed: u64,
    told: Option<Instant>,
    is_claimed: bool,
}

impl State {
    /// Counts a message in, if its publisher may have it waiting.
    fn admit(&mut self, message: &Message, bytes_max: usize) -> bool {
        let length = message.len();
        let Some(free) = bytes_max.checked_sub(self.bytes + length) else { return false };
        let share = self.shares.entry(message.share()).or_default();
        // The first one of a publisher has all the room that there is.
        if *share > 0 && *share + length > SHARE * free {
            return false;
        }
        *share += length;
        self.bytes += length;
        true
    }

    fn dismiss(&mut self, message: &Message) {
        self.bytes -= message.len();
        if let Entry::Occupied(mut share) = self.shares.entry(message.share()) {
            *share.get_mut() -= message.len();
            if *share.get() == 0 {
                share.remove();
            }
        }
    }

    fn miss(&mut self, message: &Message) {
        self.missed += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            self.told = Some(Instant::now());
            let subject = String::from_utf8_lossy(message.subject());
            let (user, missed) = (message.publisher(), self.missed);
            tracing::warn!(%subject, user, missed, "messages are missed: they come faster than they are taken");
        }
    }
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), pressure: Pressure::new(bytes_max), bytes_max }
    }

    /// Puts a message in. Beyond the bound, and beyond its publisher's share, it is missed and counted.
    pub(crate) fn push(&self, message: Message) -> Pushed {
        let mut state = self.lock();
        if !state.admit(&message, self.bytes_max) {
            state.miss(&message);
            return Pushed::Refused;
        }
        state.messages.push_back(message);
        self.pressure.set(state.bytes);
        if std::mem::replace(&mut state.is_claimed, true) { Pushed::Joined } else { Pushed::Claimed }
    }

    pub(crate) fn flush(&self) {
        self.lock().is_claimed = false;
        self.wake.notify_one();
    }

    fn pop(&self) -> Option<Message> {
        let mut state = self.lock();
        let message = state.messages.pop_front()?;
        state.dismiss(&message);
        self.pressure.set(state.bytes);
        Some(message)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages of one pattern or of several, in the order in which each publisher has sent them. Ends the interest when
/// dropped.
#[derive(Debug)]
pub struct Subscription {
    broker: Arc<Broker>,
    queue: Arc<Queue>,
    entries: Vec<Arc<subscription::Subscription>>,
}

impl Subscription {
    /// One without a pattern. At most `bytes_max` wait.
    pub(crate) fn new(broker: Arc<Broker>, bytes_max: usize) -> Self {
        Self { broker, queue: Arc::new(Queue::new(bytes_max)), entries: Vec::new() }
    }

    /// Takes messages of this pattern, too.
    ///
    /// # Errors
    /// [`Error::Subject`].
    pub(crate) fn add(&mut self, pattern: &[u8], queue: Option<&[u8]>) -> Result<(), Error> {
        if subject::kind(pattern) == Kind::Invalid {
            return Err(Error::Subject { subject: String::from_utf8_lossy(pattern).into_owned() });
        }
        let (sink, user) = (Sink::Internal(Arc::clone(&self.queue)), Arc::clone(self.broker.users().internal()));
        let entry = Arc::new(subscription::Subscription::new(pattern, queue, b"", sink, user));
        self.broker.sublist.insert(Arc::clone(&entry));
        self.entries.push(entry);
        Ok(())
    }

    /// Takes no more messages of patterns that are not kept.
    pub(crate) fn retain(&mut self, keeps: impl Fn(&[u8]) -> bool) {
        let (kept, ended): (Vec<_>, Vec<_>) = self.entries.drain(..).partition(|entry| keeps(entry.subject()));
        self.entries = kept;
        for entry in &ended {
            self.broker.end(entry);
        }
    }

    pub(crate) fn has(&self, pattern: &[u8]) -> bool {
        self.entries.iter().any(|entry| entry.subject() == pattern)
    }

    /// The next message. Cancel safe.
    pub async fn next(&mut self) -> Message {
        loop {
            if let Some(message) = self.queue.pop() {
                return message;
            }
            self.queue.wake.notified().await;
        }
    }

    /// The next message, if one waits.
    pub fn try_next(&mut self) -> Option<Message> {
        self.queue.pop()
    }

    /// How many messages there was no room for, or too many of one publisher: publishers wait a while for a reader, and not longer.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.queue.lock().missed
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for entry in &self.entries {
            self.broker.end(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(user: &Arc<User>, length: usize) -> Message {
        let content = vec![b'x'; length];
        Message::new(&protocol::Message { subject: b"a", reply: None, header_len: 0, content: &content }, user)
    }

    fn flood(queue: &Queue, user: &Arc<User>) -> usize {
        (0..).take_while(|_| queue.push(message(user, 100)) != Pushed::Refused).count()
    }

    #[test]
    fn whoever_floods_a_queue_leaves_room_for_others_and_slows_down_first() {
        let users = [(); 3].map(|()| Arc::new(User::free()));
        let queue = Queue::new(100_000);
        let counts = users.each_ref().map(|user| flood(&queue, user));
        assert!(counts[0] > 4 * counts[1] && counts[1] > 4 * counts[2] && counts[2] > 0, "{counts:?}");
        assert!(queue.pressure.is_high());
        assert_eq!(queue.lock().missed, 3);
        for _ in 0..counts.iter().sum() {
            assert!(queue.pop().is_some());
        }
        let state = queue.lock();
        assert!(state.messages.is_empty() && state.shares.is_empty() && state.bytes == 0 && !queue.pressure.is_high());
    }

    #[test]
    fn a_message_that_just_fits_is_taken() {
        let (user, empty) = (Arc::new(User::free()), message(&Arc::new(User::free()), 0).len());
        let queue = Queue::new(1000);
        assert_eq!(queue.push(message(&user, 1001 - empty)), Pushed::Refused);
        assert!(queue.lock().shares.is_empty());
        assert_ne!(queue.push(message(&user, 1000 - empty)), Pushed::Refused);
    }
}
