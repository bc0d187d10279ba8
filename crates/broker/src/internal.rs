//! Subscriptions of the process itself, without sockets: a bounded queue of messages that know who published them. This is
//! where JetStream gets what it stores and what it is asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
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

    /// What it takes up while it waits.
    pub(crate) fn len(&self) -> usize {
        self.frame.len() + size_of::<Self>()
    }
}

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
    missed: u64,
    is_claimed: bool,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), pressure: Pressure::new(bytes_max), bytes_max }
    }

    /// Puts a message in. Beyond the bound it is missed and counted.
    pub(crate) fn push(&self, message: Message) -> Pushed {
        let mut state = self.lock();
        let bytes = state.bytes + message.len();
        if bytes > self.bytes_max {
            state.missed += 1;
            return Pushed::Refused;
        }
        state.bytes = bytes;
        state.messages.push_back(message);
        self.pressure.set(bytes);
        if std::mem::replace(&mut state.is_claimed, true) { Pushed::Joined } else { Pushed::Claimed }
    }

    pub(crate) fn flush(&self) {
        self.lock().is_claimed = false;
        self.wake.notify_one();
    }

    fn pop(&self) -> Option<Message> {
        let mut state = self.lock();
        let message = state.messages.pop_front()?;
        state.bytes -= message.len();
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

    /// How many messages there was no room for: publishers wait a while for a reader, and not longer.
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
