//! The way of a message from whoever publishes to everybody it concerns. Each connection has a publisher of its own, and so
//! has each internal one: it keeps who gets which subject until the index or the users change, and wakes every receiver
//! once, however many messages there were.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::auth::User;
use crate::broker::Broker;
use crate::client::Client;
use crate::inbox::{self, Audience};
use crate::internal::{self, Queue};
use crate::outbound::Pushed;
use crate::pressure::Pressure;
use crate::protocol::Message;
use crate::sublist::Matches;
use crate::subscription::{Counted, Sink, Subscription};

/// Limit: subjects whose receivers a publisher keeps; with one more it forgets them all.
const ROUTES_MAX: usize = 1024;
/// Limit: references to subscriptions in all of them.
const ROUTED_MAX: usize = 64 * 1024;
/// Limit: receivers whose sockets a publisher writes itself after one read; the others' own tasks do it, on other cores.
const FLUSHED_MAX: usize = 8;
/// Limit: how long a publisher waits after one read for clients that cannot keep up, as in nats-server. They are cut
/// when the wait does not help.
const CLIENT_PATIENCE: Duration = Duration::from_millis(10);
/// Limit: the same for readers in this process, who are late because a disk is: what they miss is not acknowledged.
const INTERNAL_PATIENCE: Duration = Duration::from_secs(1);

/// Somebody who publishes.
#[derive(Debug)]
pub struct Publisher {
    broker: Arc<Broker>,
    user: Arc<User>,
    /// The connection, which may not want its own messages back.
    client: Option<Arc<Client>>,
    generation: u64,
    routes: HashMap<Vec<u8>, Route>,
    routed: usize,
    touched: Touched,
    /// What is left of it until the next flush.
    patience: Duration,
}

/// Where messages with one subject go.
#[derive(Debug)]
enum Route {
    Denied,
    /// With the subject under which they arrive, where it is another one.
    To(Matches, Option<Box<[u8]>>),
}

/// Whom a message has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The user may not publish this.
    Denied,
    /// So many subscriptions.
    Delivered(usize),
}

impl Outcome {
    fn count(self) -> usize {
        match self {
            Self::Delivered(count) => count,
            Self::Denied => 0,
        }
    }
}

/// A message of the process itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outgoing<'a> {
    pub subject: &'a [u8],
    pub reply: Option<&'a [u8]>,
    /// Begins with `NATS/1.0` and ends with an empty line; empty for none.
    pub headers: &'a [u8],
    pub payload: &'a [u8],
}

impl Publisher {
    pub(crate) fn new(broker: Arc<Broker>, user: Arc<User>, client: Option<Arc<Client>>) -> Self {
        let generation = broker.sublist.generation();
        let (routes, touched) = (HashMap::new(), Touched::default());
        Self { broker, user, client, generation, routes, routed: 0, touched, patience: INTERNAL_PATIENCE }
    }

    /// Delivers a message into the buffers of everybody it concerns and tells to how many subscriptions. They are woken by
    /// [`Publisher::flush`]. Nothing is refused: the process may publish everywhere.
    pub fn publish(&mut self, message: &Outgoing<'_>) -> usize {
        let content;
        let content = if message.headers.is_empty() {
            message.payload
        } else {
            content = [message.headers, message.payload].concat();
            &content
        };
        let (subject, reply, header_len) = (message.subject, message.reply, message.headers.len());
        self.route(&Message { subject, reply, header_len, content }, Receipt::Silent).count()
    }

    /// Publishes a message whose headers and payload lie in one piece.
    pub(crate) fn publish_whole(&mut self, message: &Message<'_>) -> usize {
        self.route(message, Receipt::Silent).count()
    }

    /// Delivers a message to those who listen at `to`, under the subject that it has: what is stored reaches its consumers
    /// as it was published.
    pub(crate) fn deliver(&mut self, to: &[u8], message: &Message<'_>) -> usize {
        self.route_to(to, Some(message.subject), message, Receipt::Silent).count()
    }

    /// Moves whenever somebody may have begun or ended to listen.
    pub(crate) fn generation(&self) -> u64 {
        self.broker.sublist.generation()
    }

    /// Whether somebody listens.
    pub(crate) fn reaches(&self, to: &[u8]) -> bool {
        let known = self.routes.get(to).filter(|_| self.generation == self.broker.sublist.generation());
        match known {
            Some(route) => route.len() > 0,
            None => Route::find(&self.broker, &self.user, to).len() > 0,
        }
    }

    /// Wakes everybody who got something, and waits a while for those who cannot keep up: milliseconds for clients, a
    /// second at most for readers in this process.
    pub async fn flush(&mut self) {
        self.touched.flush();
        let slow = std::mem::take(&mut self.touched.slow_clients);
        ease(slow.iter().map(|client| &client.outbound.pressure), CLIENT_PATIENCE).await;
        self.ease().await;
        self.patience = INTERNAL_PATIENCE;
    }

    /// Whether a reader in this process should be waited for before the next message.
    pub(crate) fn is_pressed(&self) -> bool {
        !self.touched.slow_queues.is_empty()
    }

    /// Waits for readers in this process; between two calls of [`Publisher::flush`] no longer than their patience in all.
    pub(crate) async fn ease(&mut self) {
        self.touched.flush();
        let slow = std::mem::take(&mut self.touched.slow_queues);
        if !slow.is_empty() {
            let start = Instant::now();
            ease(slow.iter().map(|queue| &queue.pressure), self.patience).await;
            self.patience = self.patience.saturating_sub(start.elapsed());
        }
    }

    /// Sees to it that all is written, without waiting: for nobody, also not at the next flush.
    pub(crate) fn wake(&mut self) {
        self.touched.flush();
        self.touched.slow_clients.clear();
        self.touched.slow_queues.clear();
    }

    pub(crate) fn route(&mut self, message: &Message<'_>, receipt: Receipt) -> Outcome {
        self.route_to(message.subject, None, message, receipt)
    }

    fn route_to(&mut self, to: &[u8], shown: Option<&[u8]>, message: &Message<'_>, receipt: Receipt) -> Outcome {
        self.forget_if_outdated(to);
        let Self { broker, user, client, routes, routed, touched, .. } = self;
        let Route::To(matches, renamed) = find(routes, routed, broker, user, to) else { return Outcome::Denied };
        if let (Receipt::Ok, Some(client)) = (receipt, &client) {
            touched.note(client.outbound.push_bytes(b"+OK\r\n"), client);
        }
        if matches.is_empty() {
            return Outcome::Delivered(0);
        }
        let is_owned = !user.name.is_empty() && message.reply.is_some_and(inbox::is_inbox);
        let owned = message.reply.filter(|_| is_owned);
        let owned = owned.and_then(|reply| inbox::owned_reply(&broker.users(), user, reply));
        let to = renamed.as_deref().unwrap_or(to);
        let message = Message { subject: shown.unwrap_or(to), reply: owned.as_deref().or(message.reply), ..*message };
        let mut delivery = Delivery { broker, user, client: client.as_ref(), to, message, touched };
        let plain = matches.plain.iter().filter(|subscription| delivery.deliver(subscription)).count();
        let grouped = matches.groups.iter().filter(|group| delivery.deliver_to_one(group)).count();
        Outcome::Delivered(plain + grouped)
    }

    /// Forgets the routes that may have become others, and all of them when there are too many.
    fn forget_if_outdated(&mut self, subject: &[u8]) {
        let generation = self.broker.sublist.generation();
        let is_full = self.routes.len() >= ROUTES_MAX && !self.routes.contains_key(subject);
        if self.generation != generation || is_full || self.routed > ROUTED_MAX {
            // Order: the generation of before the first look, so that a change in between is seen the next time.
            self.generation = generation;
            self.routes.clear();
            self.routed = 0;
        }
    }
}

/// What is known of a subject, or found out now.
fn find<'a>(
    routes: &'a mut HashMap<Vec<u8>, Route>,
    routed: &mut usize,
    broker: &Broker,
    user: &Arc<User>,
    to: &[u8],
) -> &'a Route {
    routes.entry_ref(to).or_insert_with(|| {
        let route = Route::find(broker, user, to);
        *routed += route.len();
        route
    })
}

impl Route {
    fn find(broker: &Broker, user: &Arc<User>, subject: &[u8]) -> Self {
        if !user.permissions.may_publish(subject) {
            return Self::Denied;
        }
        let audience = Audience::of(&broker.users(), user, subject);
        let renamed = match &audience {
            Audience::Owner(_, renamed) => Some(renamed.clone()),
            Audience::Everybody | Audience::Named(_) => None,
        };
        let mut matches = broker.sublist.matches(renamed.as_deref().unwrap_or(subject));
        if !matches!(audience, Audience::Everybody) {
            matches.retain(|subscription| audience.has(subscription));
        }
        Self::To(matches, renamed)
    }

    /// How many subscriptions it refers to.
    fn len(&self) -> usize {
        match self {
            Self::Denied => 0,
            Self::To(matches, _) => matches.len(),
        }
    }
}

/// One message on its way.
struct Delivery<'a> {
    broker: &'a Broker,
    user: &'a Arc<User>,
    client: Option<&'a Arc<Client>>,
    /// The subject by which it goes.
    to: &'a [u8],
    message: Message<'a>,
    touched: &'a mut Touched,
}

impl Delivery<'_> {
    /// Gives it to one member of a queue group; to another one where the first is gone.
    fn deliver_to_one(&mut self, group: &[Arc<Subscription>]) -> bool {
        let first = fastrand::usize(..group.len());
        let (before, after) = group.split_at(first);
        after.iter().chain(before).any(|subscription| self.deliver(subscription))
    }

    /// Gives it to one subscription, unless that may not have it, or has ended.
    fn deliver(&mut self, subscription: &Arc<Subscription>) -> bool {
        let message = &self.message;
        if !subscription.may_receive(self.to) {
            return false;
        }
        let client = match &subscription.sink {
            Sink::Client(client) => client,
            Sink::Internal(queue) => {
                let pushed = queue.push(internal::Message::new(message, self.user));
                if pushed == Pushed::Refused {
                    self.broker.counts.missed.fetch_add(1, Ordering::Relaxed);
                }
                self.touched.note_queue(pushed, queue);
                return pushed != Pushed::Refused;
            }
        };
        let is_own = self.client.is_some_and(|own| Arc::ptr_eq(own, client));
        if is_own && !client.has_echo.load(Ordering::Relaxed) {
            return false;
        }
        let is_bare = message.header_len > 0 && !client.has_headers.load(Ordering::Relaxed);
        let (pushed, counted) = match is_bare {
            true => client.outbound.push_message(subscription, &message.without_headers()),
            false => client.outbound.push_message(subscription, message),
        };
        if counted != Counted::Within {
            self.broker.end(subscription);
        }
        self.touched.note(pushed, client);
        pushed != Pushed::Refused
    }
}

/// Whether a publisher is told that its message was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    Silent,
    Ok,
}

/// Who has to be woken, and who cannot keep up.
#[derive(Debug, Default)]
struct Touched {
    clients: Vec<Arc<Client>>,
    queues: Vec<Arc<Queue>>,
    slow_clients: Vec<Arc<Client>>,
    slow_queues: Vec<Arc<Queue>>,
}

impl Touched {
    fn note(&mut self, pushed: Pushed, client: &Arc<Client>) {
        if pushed == Pushed::Claimed {
            self.clients.push(Arc::clone(client));
        }
        if client.outbound.pressure.is_high() && !self.slow_clients.iter().any(|slow| Arc::ptr_eq(slow, client)) {
            self.slow_clients.push(Arc::clone(client));
        }
    }

    fn note_queue(&mut self, pushed: Pushed, queue: &Arc<Queue>) {
        if pushed == Pushed::Claimed {
            self.queues.push(Arc::clone(queue));
        }
        if queue.pressure.is_high() && !self.slow_queues.iter().any(|slow| Arc::ptr_eq(slow, queue)) {
            self.slow_queues.push(Arc::clone(queue));
        }
    }

    fn flush(&mut self) {
        self.queues.drain(..).for_each(|queue| queue.flush());
        let flushed = self.clients.len().min(FLUSHED_MAX);
        for client in self.clients.drain(..flushed) {
            client.flush();
        }
        self.clients.drain(..).for_each(|client| client.outbound.wake.notify_one());
    }
}

/// Whatever ends a publisher, what it has filled in is written.
impl Drop for Touched {
    fn drop(&mut self) {
        self.queues.drain(..).for_each(|queue| queue.flush());
        self.clients.drain(..).for_each(|client| client.outbound.wake.notify_one());
    }
}

/// Waits for all of them, together no longer than this.
async fn ease(slow: impl Iterator<Item = &Pressure>, patience: Duration) {
    let start = Instant::now();
    for pressure in slow {
        pressure.ease(patience.saturating_sub(start.elapsed())).await;
    }
}
