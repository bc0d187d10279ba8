//! What a client's operations do. Without a socket and without waiting: effects are bytes in buffers and entries in the
//! index. The connection's task owns it; whatever ends that task, dropping the session takes everything back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::auth::User;
use crate::broker::Broker;
use crate::client::{Added, Client, Further, Said};
use crate::protocol::{Connect, Message, Operation, Publish, Violation};
use crate::publisher::{Outcome, Publisher, Receipt};
use crate::reason::Reason;
use crate::subject::{self, Kind, quoted};
use crate::subscription::{Sink, Subscription};

/// One client from its first byte to its last.
#[derive(Debug)]
pub(crate) struct Session {
    broker: Arc<Broker>,
    client: Arc<Client>,
    nonce: Option<String>,
    connect: Connect,
    is_connected: bool,
    is_greeted: bool,
    /// Whoever has not proved who it is cannot publish.
    publisher: Option<(Publisher, Arc<User>)>,
}

impl Session {
    pub(crate) fn new(broker: Arc<Broker>, client: Arc<Client>, nonce: Option<String>) -> Self {
        broker.register(&client);
        let mut session = Self {
            broker,
            client,
            nonce,
            connect: Connect::default(),
            is_connected: false,
            is_greeted: false,
            publisher: None,
        };
        let users = session.broker.users();
        if let Some(anybody) = users.anybody() {
            session.client.said().user = Some(Arc::clone(anybody));
            session.become_user(anybody);
        }
        session
    }

    /// Whether CONNECT must come first.
    pub(crate) fn awaits_connect(&self) -> bool {
        self.publisher.is_none()
    }

    pub(crate) fn publisher(&mut self) -> Option<&mut Publisher> {
        self.publisher.as_mut().map(|(publisher, _)| publisher)
    }

    /// Does what an operation asks for.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub(crate) fn perform(&mut self, operation: &Operation<'_>) -> Result<(), Reason> {
        match operation {
            Operation::Publish(publish) => return self.publish(publish),
            Operation::Subscribe { subject, queue, sid } => self.subscribe(subject, *queue, sid),
            Operation::Unsubscribe { sid, max } => self.unsubscribe(sid, *max),
            Operation::Ping => self.ping(),
            Operation::Connect(json) => return self.connect(json),
            Operation::Error => return Err(Reason::ClientClosed),
            // A PONG counts as any sign of life does.
            Operation::Pong | Operation::Ignored => {}
        }
        Ok(())
    }

    fn connect(&mut self, json: &[u8]) -> Result<(), Reason> {
        let connect = std::mem::take(&mut self.connect).updated(json).ok_or(Reason::Parse(Violation::Malformed))?;
        let users = self.broker.users();
        let user = users.authenticate(&connect, self.nonce.as_deref()).filter(|_| connect.account.is_empty());
        let user = user.ok_or(Reason::AuthenticationFailure)?;
        if !matches!(connect.protocol, 0 | 1) {
            return Err(Reason::BadProtocolVersion);
        }
        if connect.has_no_responders && !connect.has_headers {
            return Err(Reason::NoRespondersRequiresHeaders);
        }
        self.become_user(user);
        self.client.has_headers.store(connect.has_headers, Ordering::Relaxed);
        self.client.has_echo.store(connect.has_echo, Ordering::Relaxed);
        *self.client.said() = Said {
            user: Some(Arc::clone(user)),
            name: connect.name.clone(),
            lang: connect.lang.clone(),
            version: connect.version.clone(),
            takes_info: connect.protocol >= 1,
        };
        // Order: the users may have changed after they were asked; whoever changes them looks at who is connected after.
        if !self.broker.users().has(user) {
            return Err(Reason::CredentialsRevoked);
        }
        self.connect = connect;
        self.is_connected = true;
        self.confirm();
        Ok(())
    }

    /// What another user has subscribed to ends.
    fn become_user(&mut self, user: &Arc<User>) {
        if self.publisher.as_ref().is_some_and(|(_, present)| Arc::ptr_eq(present, user)) {
            return;
        }
        self.broker.end_all(&self.client, Further::Allowed);
        let client = Some(Arc::clone(&self.client));
        self.publisher = Some((Publisher::new(Arc::clone(&self.broker), Arc::clone(user), client), Arc::clone(user)));
    }

    fn ping(&mut self) {
        self.client.send(b"PONG\r\n");
        if self.is_connected && !std::mem::replace(&mut self.is_greeted, true) && self.connect.protocol >= 1 {
            let mut info = self.broker.info(self.client.id, self.client.address, self.nonce.as_deref());
            info.connect_info = true;
            info.remote_account = Some("$G");
            self.client.send(&info.line());
        }
    }

    fn publish(&mut self, publish: &Publish<'_>) -> Result<(), Reason> {
        if publish.header_len.is_some() && !self.connect.has_headers {
            return Err(Reason::Parse(Violation::Malformed));
        }
        let Some((publisher, _)) = &mut self.publisher else { return Err(Reason::AuthenticationFailure) };
        let received = &self.client.received;
        // This task alone writes them: no need for one atomic step.
        received.messages.store(received.messages.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let bytes = received.bytes.load(Ordering::Relaxed) + publish.content.len() as u64;
        received.bytes.store(bytes, Ordering::Relaxed);
        if self.connect.is_pedantic && !subject::is_publishable(publish.subject) {
            self.client.send(b"-ERR 'Invalid Publish Subject'\r\n");
        }
        let Publish { subject, reply, header_len, content } = *publish;
        let message = Message { subject, reply, header_len: header_len.unwrap_or_default(), content };
        let receipt = if self.connect.is_verbose { Receipt::Ok } else { Receipt::Silent };
        match (publisher.route(&message, receipt), reply) {
            (Outcome::Denied, _) => self.refuse(&format!("Permissions Violation for Publish to {}", quoted(subject))),
            (Outcome::Delivered(0), Some(reply)) if self.connect.has_no_responders => {
                self.tell_no_responders(subject, reply);
            }
            (Outcome::Delivered(_), _) => {}
        }
        Ok(())
    }

    /// Answers a request that nobody got, if the client has subscribed to the answer.
    fn tell_no_responders(&self, subject: &[u8], reply: &[u8]) {
        let matches = self.broker.sublist.matches(reply);
        let is_own = |subscription: &&Arc<Subscription>| {
            subscription.client().is_some_and(|client| Arc::ptr_eq(client, &self.client))
        };
        let Some(subscription) = matches.plain.iter().find(is_own) else { return };
        let headers = [b"NATS/1.0 503\r\nNats-Subject: ", subject, b"\r\n\r\n"].concat();
        let message = Message { subject: reply, reply: None, header_len: headers.len(), content: &headers };
        let mut line = Vec::with_capacity(message.len_max(subscription.sid()));
        message.write(subscription.sid(), &mut line);
        self.client.send(&line);
    }

    fn subscribe(&mut self, subject: &[u8], queue: Option<&[u8]>, sid: &[u8]) {
        let Some((_, user)) = &self.publisher else { return };
        let refuse = || {
            let using = queue.map(|queue| format!(" using queue {}", quoted(queue))).unwrap_or_default();
            self.refuse(&format!("Permissions Violation for Subscription to {}{using}", quoted(subject)));
        };
        if !user.permissions.may_subscribe(subject) {
            return refuse();
        }
        if subject::tokens(subject).count() > self.broker.limits.subject_tokens_max {
            let subject = quoted(subject);
            return self.refuse(&format!("Permissions Violation for Subscription to {subject}, too many tokens"));
        }
        if subject::kind(subject) == Kind::Invalid {
            return self.refuse("Invalid Subject");
        }
        let sink = Sink::Client(Arc::clone(&self.client));
        let subscription = Arc::new(Subscription::new(subject, queue, sid, sink, Arc::clone(user)));
        match self.client.add(&subscription, &self.broker.sublist, self.broker.limits.subscriptions_max) {
            Added::Full => return self.refuse("maximum subscriptions exceeded"),
            Added::Denied => return refuse(),
            Added::New | Added::Known => {}
        }
        self.confirm();
    }

    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>) {
        if let Some(subscription) = self.client.find(sid) {
            let limit = |max| self.client.outbound.with_counts(|| subscription.limit(max));
            if !max.is_some_and(limit) {
                self.broker.end(&subscription);
            }
        }
        self.confirm();
    }

    /// `+OK`, where the client wants it.
    fn confirm(&self) {
        if self.connect.is_verbose {
            self.client.send(b"+OK\r\n");
        }
    }

    /// An error that does not end the connection.
    fn refuse(&self, error: &str) {
        self.client.refuse(error);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let reason = self.client.outbound.closed().unwrap_or(Reason::Panicked);
        self.client.outbound.close(reason);
        self.broker.unregister(&self.client, reason);
    }
}
