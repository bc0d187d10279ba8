//! The consumers of a stream: what clients ask of them and acknowledge, what is sent to whom, what is noted of it. Each
//! decides for itself in `consumer`; here it is given messages, time and a voice.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::super::advisory::{self, Advisory};
use super::super::api::{ConsumerConfig, ConsumerInfo, Time};
use super::super::consumer::{self, Consumer, Interest, Source, ack};
use super::super::failure::Failure;
use super::super::ledger::Entry;
use super::super::shared::now;
use super::super::store::{CursorId, Store, Stored};
use super::super::subjects::{self, Word};
use super::reading::Read;
use super::{Answer, Stream};
use crate::auth::User;
use crate::internal::Message;
use crate::protocol;

/// Limit: messages that one consumer is sent in one turn.
const BURST: usize = 256;
/// What whoever asked the whole API may do: use consumers of others.
const EVERYTHING: &[u8] = b"$JS.API.>";

/// A consumer and what belongs to it here.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) config: ConsumerConfig,
    pub(super) created: i64,
    /// The user that has made it, and that alone may use it; empty where no users are declared.
    pub(super) owner: String,
    /// Its number in the ledger.
    pub(super) id: u64,
    pub(super) machine: Consumer,
    pub(super) cursor: CursorId,
}

/// What the ledger says of a consumer.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct About {
    pub(super) name: String,
    pub(super) config: ConsumerConfig,
    pub(super) created: i64,
    pub(super) owner: String,
}

impl Member {
    /// Whether it survives the process.
    pub(super) fn is_kept(&self) -> bool {
        !self.config.mem_storage
    }

    /// That it exists, for the ledger.
    pub(super) fn about(&self, name: &str) -> Entry {
        let Self { config, created, owner, .. } = self;
        let about = About { name: name.to_owned(), config: config.clone(), created: *created, owner: owner.clone() };
        let about = serde_json::to_vec(&about).expect("a struct of plain fields");
        Entry::Consumer { id: self.id, about }
    }

    /// Everything about it.
    pub(super) fn entries(&mut self, name: &str) -> Vec<Entry> {
        // What has not been noted is in the snapshot.
        drop(self.machine.changes());
        let id = self.id;
        let state = self.machine.snapshot().into_iter().map(|changes| Entry::Changed { id, changes });
        [self.about(name)].into_iter().chain(state).collect()
    }

    /// Whether a user may ask it for messages, acknowledge and remove it.
    pub(super) fn serves(&self, user: &User) -> bool {
        self.owner == user.name || user.permissions.may_publish(EVERYTHING)
    }
}

/// The messages of a stream, from where a consumer reads them.
pub(super) struct Place<'a> {
    pub(super) store: &'a mut Store,
    pub(super) cursor: CursorId,
}

impl Source for Place<'_> {
    fn next(&mut self) -> Option<u64> {
        self.store.index.next(self.cursor)
    }

    fn pending(&self) -> u64 {
        self.store.index.pending(self.cursor)
    }

    fn is_live(&self, sequence: u64) -> bool {
        self.store.index.is_live(sequence)
    }

    fn last(&self) -> u64 {
        self.store.visible()
    }
}

impl Stream {
    /// Somebody asks for messages, acknowledges some, or reads one.
    pub(super) async fn word(&mut self, message: &Message) -> Result<(), Failure> {
        match subjects::word(message.subject()) {
            Some(Word::Next { consumer }) => self.pull(consumer, message),
            Some(Word::Ack) => self.acked(message),
            Some(Word::Flow { consumer }) => {
                if let Some(member) = self.consumers.get_mut(consumer).filter(|member| member.serves(message.user())) {
                    member.machine.flow_control(message.subject());
                }
            }
            Some(Word::Direct { subject }) => return self.direct(subject, message).await,
            None => {}
        }
        Ok(())
    }

    fn pull(&mut self, name: &str, message: &Message) {
        let Some(to) = message.answerable().map(Bytes::copy_from_slice) else { return };
        match self.usable(name, message.user()) {
            None => {
                // As if nobody had subscribed to such requests.
                let subject = String::from_utf8_lossy(message.subject());
                return self.send_status(&to, &format!("503\r\nNats-Subject: {subject}"));
            }
            Some(member) if member.config.is_push() => return self.send_status(&to, "409 Consumer is push based"),
            Some(_) => {}
        }
        self.ask(name, to, &message.payload(), message.user());
    }

    /// A consumer that a user may ask for messages: its own, as long as it may have what that gives.
    fn usable(&self, name: &str, user: &User) -> Option<&Member> {
        let member = self.consumers.get(name).filter(|member| member.serves(user))?;
        self.may_read(user, member.config.filters()).then_some(member)
    }

    /// A request for messages, by itself or behind an acknowledgement.
    fn ask(&mut self, name: &str, to: Bytes, body: &[u8], user: &User) {
        if self.usable(name, user).is_none() {
            return;
        }
        let Some(member) = self.consumers.get_mut(name) else { return };
        let source = Place { store: &mut self.store, cursor: member.cursor };
        let publisher = &self.publisher;
        member.machine.pull(to, body, &source, &|to| publisher.reaches(to), now());
        self.take_effects(name);
    }

    fn acked(&mut self, message: &Message) {
        let Some(subject) = ack::Subject::parse(message.subject()) else { return };
        let Ok(name) = std::str::from_utf8(subject.consumer) else { return };
        let Some(member) = self.consumers.get_mut(name) else { return };
        if !member.serves(message.user()) {
            return;
        }
        let payload = message.payload();
        let answer = member.machine.ack(&subject, &payload, now());
        self.take_effects(name);
        match (answer, message.answerable()) {
            // Whoever hears of it can rely on it.
            (consumer::Answer::Reply, Some(to)) => {
                self.answers.push(Answer { to: Bytes::copy_from_slice(to), payload: Vec::new() });
            }
            (consumer::Answer::Next(body), Some(to)) => {
                self.ask(name, Bytes::copy_from_slice(to), body, message.user());
            }
            _ => {}
        }
    }

    /// Sends consumers what they are to get. Tells whether there is more to send.
    pub(super) async fn deliver(&mut self, now: i64) -> Result<bool, Failure> {
        let mut has_more = false;
        for name in self.consumers.take_ready() {
            if self.serve_consumer(&name, now).await? {
                has_more = true;
                self.consumers.again(Arc::clone(&name));
            }
            self.take_effects(&name);
        }
        Ok(has_more)
    }

    /// Tells whether there may be more to send.
    async fn serve_consumer(&mut self, name: &str, now: i64) -> Result<bool, Failure> {
        for _ in 0..BURST {
            let Some(member) = self.consumers.serve(name) else { return Ok(false) };
            let mut source = Place { store: &mut self.store, cursor: member.cursor };
            let Some(next) = member.machine.next(&mut source, now) else { return Ok(false) };
            let stored = match self.read(next.sequence).await? {
                Read::Message(stored) => stored,
                Read::Gone => {
                    if let Some(member) = self.consumers.serve(name) {
                        member.machine.removed(next.sequence);
                    }
                    continue;
                }
                Read::NotNow => {
                    // It stays the next, and is asked for when the stream is looked after.
                    self.is_touched = true;
                    self.postponed.push(name.to_owned());
                    return Ok(false);
                }
            };
            self.send_to(name, next, &stored, now);
        }
        Ok(true)
    }

    /// Sends one message to whoever has asked a consumer for it.
    fn send_to(&mut self, name: &str, next: consumer::Next, stored: &Stored, now: i64) {
        let Some(member) = self.consumers.serve(name) else { return };
        let sized;
        let (headers, payload): (&[u8], &[u8]) = if member.config.headers_only {
            sized = with_size(&stored.headers, stored.payload.len());
            (&sized, b"")
        } else {
            (&stored.headers, &stored.payload)
        };
        let content_len = headers.len() + payload.len();
        let about = consumer::Message { time: stored.time, subject_len: stored.subject.len(), content_len };
        let source = Place { store: &mut self.store, cursor: member.cursor };
        let publisher = &self.publisher;
        let delivery = member.machine.deliver(next, &about, &source, &|to| publisher.reaches(to), now);
        let Some(delivery) = delivery else { return };
        let content;
        let content: &[u8] = if headers.is_empty() {
            payload
        } else {
            content = [headers, payload].concat();
            &content
        };
        let message = protocol::Message {
            subject: &stored.subject,
            reply: Some(&delivery.reply),
            header_len: headers.len(),
            content,
        };
        self.publisher.deliver(&delivery.to, &message);
    }

    /// Says what a consumer has to say, and lets go what it has let go.
    pub(super) fn take_effects(&mut self, name: &str) {
        let Some(member) = self.consumers.take_from(name) else { return };
        let effects = std::mem::take(&mut member.machine.effects);
        self.unnoted.get_or_insert_with(Instant::now);
        for reply in effects.replies {
            let message = protocol::Message {
                subject: &reply.to,
                reply: reply.reply.as_deref(),
                header_len: reply.headers.len(),
                content: &reply.headers,
            };
            self.publisher.deliver(&reply.to, &message);
        }
        for happened in effects.advisories {
            advisory::publish(&mut self.publisher, &Advisory::of_consumer(&self.config.name, name, happened));
        }
        self.let_go(name, effects.settled);
    }

    /// What time does to consumers: requests and acknowledgements that are late, heartbeats, those that nobody uses.
    pub(super) fn tick(&mut self, now: i64) {
        for cursor in self.store.index.take_woken() {
            self.consumers.woken(cursor);
        }
        let mut unused = Vec::new();
        for name in self.consumers.take_due(now) {
            let Some(member) = self.consumers.get_mut(&name) else { continue };
            // What it does not want it has come past: its heartbeats say so.
            let mut source = Place { store: &mut self.store, cursor: member.cursor };
            member.machine.next(&mut source, now);
            member.machine.tick(now);
            let publisher = &self.publisher;
            if member.machine.is_inactive(now, &|to| publisher.reaches(to)) {
                unused.push(name);
            } else {
                self.take_effects(&name);
            }
        }
        self.look_for_listeners(now);
        unused.iter().for_each(|name| self.delete_consumer(name).unwrap_or_default());
    }

    /// Tells push consumers whether somebody listens to them.
    fn look_for_listeners(&mut self, now: i64) {
        for name in self.consumers.take_pushing(self.publisher.generation()) {
            let Some(member) = self.consumers.take_from(&name) else { continue };
            let Some(to) = member.machine.push_subject() else { continue };
            let is_heard = self.publisher.reaches(to);
            if is_heard != member.machine.is_bound()
                && let Some(member) = self.consumers.get_mut(&name)
            {
                member.machine.interest(if is_heard { Interest::Present } else { Interest::Absent }, now);
            }
        }
    }

    /// Notes what has happened to consumers since the last time.
    pub(super) fn note_consumers(&mut self) {
        for name in self.consumers.take_changed() {
            let Some(member) = self.consumers.take_from(&name) else { continue };
            let changes = member.machine.changes();
            if member.is_kept() && self.ledger.is_durable() {
                let id = member.id;
                changes.into_iter().for_each(|changes| self.ledger.note(&Entry::Changed { id, changes }));
            }
        }
    }

    /// How a consumer stands.
    pub(super) fn describe_consumer(&mut self, name: &str, now: i64) -> Option<ConsumerInfo> {
        let member = self.consumers.get_mut(name)?;
        let publisher = &self.publisher;
        member.machine.prune(&|to| publisher.reaches(to));
        let source = Place { store: &mut self.store, cursor: member.cursor };
        let info = member.machine.info(&source, now);
        let described = ConsumerInfo {
            stream_name: self.config.name.clone(),
            name: name.to_owned(),
            created: Time::from_nanoseconds(member.created),
            config: member.config.shown(),
            delivered: info.delivered,
            ack_floor: info.ack_floor,
            num_ack_pending: info.num_ack_pending,
            num_redelivered: info.num_redelivered,
            num_waiting: info.num_waiting,
            num_pending: info.num_pending,
            push_bound: info.push_bound,
            paused: info.pause_remaining.is_some(),
            pause_remaining: info.pause_remaining.unwrap_or_default(),
            ts: Time::from_nanoseconds(now),
        };
        self.take_effects(name);
        Some(described)
    }
}

/// The headers of a message whose payload is left out, with its size.
fn with_size(headers: &[u8], size: usize) -> Vec<u8> {
    let lines = headers.strip_suffix(b"\r\n").unwrap_or(b"NATS/1.0\r\n");
    [lines, format!("Nats-Msg-Size: {size}\r\n\r\n").as_bytes()].concat()
}
