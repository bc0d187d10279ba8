//! The way into a running broker for the process itself: publish, subscribe and ask without a socket, change the users,
//! read the counts. Cloned freely, called from any thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::broker::Broker;
use crate::config::User;
use crate::error::Error;
use crate::inbox;
use crate::internal::{Message, Subscription};
use crate::monitor::{self, Counts};
use crate::publisher::{Outgoing, Publisher};
use crate::sockets::Sockets;

/// The way in. Works from the moment of `bind` until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    broker: Arc<Broker>,
}

impl Handle {
    pub(crate) fn new(broker: Arc<Broker>) -> Self {
        Self { broker }
    }

    /// Subscribes with every right. At most `bytes_max` wait for the reader: beyond three quarters of it publishers wait
    /// for a while, beyond all of it messages are missed and counted.
    ///
    /// # Errors
    /// [`Error::Subject`].
    pub fn subscribe(&self, pattern: &str, queue: Option<&str>, bytes_max: usize) -> Result<Subscription, Error> {
        let mut subscription = Subscription::new(Arc::clone(&self.broker), bytes_max);
        subscription.add(pattern.as_bytes(), queue.map(str::as_bytes))?;
        Ok(subscription)
    }

    /// A publisher with every right, for whoever publishes much: it keeps what it has found out.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        let user = Arc::clone(self.broker.users().internal());
        Publisher::new(Arc::clone(&self.broker), user, None)
    }

    /// Publishes one message and tells how many subscriptions got it.
    pub fn publish(&self, message: &Outgoing<'_>) -> usize {
        let mut publisher = self.publisher();
        let count = publisher.publish(message);
        publisher.wake();
        count
    }

    /// Asks and waits for the first answer. The message's own `reply` is not looked at.
    ///
    /// # Errors
    /// [`Error::NoResponders`], [`Error::Timeout`].
    pub async fn request(&self, message: &Outgoing<'_>, patience: Duration) -> Result<Message, Error> {
        let subject = || String::from_utf8_lossy(message.subject).into_owned();
        let reply = format!("_INBOX.{}", kit::ids::unique());
        let mut answers = self.subscribe(&reply, None, self.broker.limits.pending_max)?;
        if self.publish(&Outgoing { reply: Some(reply.as_bytes()), ..*message }) == 0 {
            return Err(Error::NoResponders { subject: subject() });
        }
        timeout(patience, answers.next()).await.map_err(|_| Error::Timeout { subject: subject() })
    }

    /// Under which subject a message reaches the inbox that a user has named in a payload instead of as its reply.
    #[must_use]
    pub fn inbox_of(&self, user: &str, inbox: &[u8]) -> Vec<u8> {
        let users = self.broker.users();
        let owned = users.find(user.as_bytes()).and_then(|user| inbox::owned_reply(&users, user, inbox));
        owned.unwrap_or_else(|| inbox.to_vec())
    }

    /// Replaces the users, from the next message on. Connections whose user is gone, or proves itself otherwise, are
    /// closed; of one that may do less, the subscriptions end that it may not have any more.
    ///
    /// # Errors
    /// [`Error::User`]; the users then stay as they were.
    pub fn set_users(&self, users: &[User]) -> Result<(), Error> {
        self.broker.set_users(users)
    }

    /// Listens on these sockets alone from now on. Who is connected by another stays connected.
    pub fn listen(&self, sockets: &Sockets) {
        self.broker.listen(sockets.clone());
    }

    /// The counts of now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        monitor::counts(&self.broker)
    }

    /// What the monitoring would answer to `/connz?subs=1` and its like; `None` for an unknown path.
    #[must_use]
    pub fn report(&self, target: &str) -> Option<serde_json::Value> {
        monitor::report(&self.broker, target)
    }
}
