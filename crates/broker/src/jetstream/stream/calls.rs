//! The API of one stream: what clients call under `$JS.API.STREAM.…` and `$JS.API.CONSUMER.…` with its name, and what the
//! hub asks. What changes something is answered when it is on disk.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::super::advisory::{self, Action, Advisory};
use super::super::api::{
    self, ApiError, ConsumerInfo, ConsumerList, ConsumerNames, ConsumersRequest, Page, PauseRequest, Paused, Purged,
    StreamConfig, StreamDescription, StreamInfo, StreamInfoRequest, StreamState, Success, Time,
};
use super::super::failure::Failure;
use super::super::hub::Update;
use super::super::ledger::Entry;
use super::super::shared::now;
use super::super::store::Purge;
use super::super::subjects::{self, Call, StreamCall};
use super::super::wishes;
use super::{Answer, Command, Ended, Inbox, Stream, opening};
use crate::internal::Message;

/// Limit: sequences of deleted messages that one description lists.
const DELETED_MAX: usize = 100_000;

impl Stream {
    pub(super) async fn command(&mut self, command: Command, inbox: &mut Inbox) -> Result<(), Ended> {
        match command {
            Command::Call(message) => self.call(&message).await.map_err(Ended::Failed)?,
            // Who asked may have gone; so with the rest.
            Command::Describe(done) => drop(done.send(self.info(now()))),
            Command::Update(update, done) => {
                let updated = self.update(*update, inbox).await.map_err(Ended::Failed)?;
                drop(done.send(updated));
            }
            Command::Delete(done) => {
                for name in self.consumers.names() {
                    self.close_consumer(&name);
                }
                self.publisher.wake();
                return Err(Ended::Deleted(done));
            }
        }
        Ok(())
    }

    async fn call(&mut self, message: &Message) -> Result<(), Failure> {
        let Some(Call::OfStream(_, call)) = subjects::call(message.subject()) else { return Ok(()) };
        let level = wishes::value(&message.headers(), b"Nats-Required-Api-Level").map(<[u8]>::to_vec);
        if let Err(error) = api::check_level(level.as_deref()) {
            self.answer::<()>(message, call, &Err(error));
            return Ok(());
        }
        let body = message.payload();
        match call {
            StreamCall::Info => {
                let described = self.describe(&body);
                self.answer(message, call, &described);
            }
            StreamCall::Purge => {
                let purged = self.purge(&body);
                self.answer(message, call, &purged);
            }
            StreamCall::MessageGet => {
                let found = self.message_get(&body, message.user()).await?;
                self.answer(message, call, &found);
            }
            StreamCall::MessageDelete => {
                let deleted = self.message_delete(&body);
                self.answer(message, call, &deleted);
            }
            StreamCall::ConsumerCreate => {
                let created = self.consumer_create(message);
                self.answer(message, call, &created);
            }
            StreamCall::ConsumerNames => {
                let names = self.consumer_names(message);
                self.answer(message, call, &names);
            }
            StreamCall::ConsumerList => {
                let list = self.consumer_list(message);
                self.answer(message, call, &list);
            }
            StreamCall::ConsumerInfo(name) => {
                let info = self.consumer_info(name, message);
                self.answer(message, call, &info);
            }
            StreamCall::ConsumerDelete(name) => {
                let deleted = self.consumer_delete(name, message);
                self.answer(message, call, &deleted);
            }
            StreamCall::ConsumerPause(name) => {
                let paused = self.consumer_pause(name, message);
                self.answer(message, call, &paused);
            }
        }
        Ok(())
    }

    /// Answers a call, once what it has changed is on disk.
    fn answer<T: Serialize>(&mut self, message: &Message, call: StreamCall<'_>, body: &Result<T, ApiError>) {
        if body.is_err() {
            self.shared.api_errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if let Some(to) = message.answerable() {
            let payload = api::answer(call.kind(), body);
            self.answers.push(Answer { to: Bytes::copy_from_slice(to), payload });
        }
    }

    /// How the stream stands.
    pub(in super::super) fn info(&self, now: i64) -> StreamInfo {
        let state = self.store.index.state();
        let time = |time: Option<i64>| time.map_or_else(Time::none, Time::from_nanoseconds);
        StreamInfo {
            config: self.config.clone(),
            created: Time::from_nanoseconds(self.created),
            state: StreamState {
                messages: state.messages,
                bytes: state.bytes,
                first_seq: state.first,
                first_ts: time(state.first_time),
                last_seq: state.last,
                last_ts: time(state.last_time),
                num_subjects: usize::try_from(state.subjects).unwrap_or(usize::MAX),
                subjects: BTreeMap::new(),
                num_deleted: state.deleted,
                deleted: Vec::new(),
                consumer_count: self.consumers.len(),
            },
            ts: Time::from_nanoseconds(now),
        }
    }

    fn describe(&mut self, body: &[u8]) -> Result<StreamDescription, ApiError> {
        let request: StreamInfoRequest = api::decode_optional(body)?;
        let mut info = self.info(now()).shown();
        if request.deleted_details {
            info.state.deleted = self.store.index.deleted(DELETED_MAX);
        }
        let mut page = Page::default();
        if !request.subjects_filter.is_empty() {
            let offset = usize::try_from(request.offset.max(0)).unwrap_or(usize::MAX);
            let (found, total) =
                self.store.index.subjects(request.subjects_filter.as_bytes(), offset, api::SUBJECTS_PAGE);
            let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
            info.state.subjects = found.into_iter().map(|(name, count)| (text(name), count)).collect();
            page = Page { total, offset: offset.min(total), limit: api::SUBJECTS_PAGE };
        }
        Ok(StreamDescription { page, info })
    }

    fn purge(&mut self, body: &[u8]) -> Result<Purged, ApiError> {
        let request = api::purge(body)?;
        self.config.check_purge()?;
        let filter = Some(request.filter.into_bytes()).filter(|filter| !filter.is_empty());
        let purge = Purge { filter, keep: request.keep, up_to: request.seq };
        let (purged, change) = self.store.purge(&purge, now());
        self.note_change(change);
        self.tell_purged();
        Ok(Purged::new(purged))
    }

    fn message_delete(&mut self, body: &[u8]) -> Result<Success, ApiError> {
        let request = api::message_delete(body)?;
        self.config.check_message_delete()?;
        // Erased or not: its bytes go with the segment that holds them.
        let change = self.store.remove(request.seq, now());
        if change.is_none() {
            return Err(ApiError::not_deletable(request.seq, self.store.first(), self.store.visible()));
        }
        self.note_change(change);
        Ok(Success::DONE)
    }

    fn consumer_names(&self, message: &Message) -> Result<ConsumerNames, ApiError> {
        let request: ConsumersRequest = api::decode_optional(&message.payload())?;
        let names = self.names_for(message);
        let (page, range) = Page::of(names.len(), request.offset, api::NAMES_PAGE);
        Ok(ConsumerNames { page, consumers: names[range].to_vec() })
    }

    fn consumer_list(&mut self, message: &Message) -> Result<ConsumerList, ApiError> {
        let request: ConsumersRequest = api::decode_optional(&message.payload())?;
        let names = self.names_for(message);
        let (page, range) = Page::of(names.len(), request.offset, api::LIST_PAGE);
        let now = now();
        let consumers = names[range].iter().filter_map(|name| self.describe_consumer(name, now)).collect();
        Ok(ConsumerList { page, consumers })
    }

    /// The consumers that whoever asks may use.
    fn names_for(&self, message: &Message) -> Vec<String> {
        let served = self.consumers.iter().filter(|(_, member)| member.serves(message.user()));
        served.map(|(name, _)| name.to_owned()).collect()
    }

    fn consumer_info(&mut self, name: &str, message: &Message) -> Result<ConsumerInfo, ApiError> {
        api::expect_empty(&message.payload())?;
        self.check_owner(name, message)?;
        self.describe_consumer(name, now()).ok_or(ApiError::CONSUMER_NOT_FOUND)
    }

    fn consumer_delete(&mut self, name: &str, message: &Message) -> Result<Success, ApiError> {
        api::expect_empty(&message.payload())?;
        self.check_owner(name, message)?;
        self.delete_consumer(name).map(|()| Success::DONE).ok_or(ApiError::CONSUMER_NOT_FOUND)
    }

    fn consumer_pause(&mut self, name: &str, message: &Message) -> Result<Paused, ApiError> {
        let request: PauseRequest = api::decode_optional(&message.payload())?;
        self.check_owner(name, message)?;
        let now = now();
        let until = Some(request.pause_until).filter(|until| !until.is_none());
        let stream = self.config.name.clone();
        let Some(member) = self.consumers.get_mut(name) else { return Err(ApiError::CONSUMER_NOT_FOUND) };
        member.config = api::pause_consumer(&member.config, request.pause_until);
        let until = until.map(Time::nanoseconds);
        member.machine.pause(until, now);
        if member.is_kept() {
            self.ledger.note(&member.about(name));
        }
        let remaining = until.map_or(0, |until| until.saturating_sub(now).max(0));
        let running = until.filter(|until| *until > now);
        advisory::publish(&mut self.publisher, &Advisory::consumer_paused(&stream, name, running));
        Ok(Paused { paused: remaining > 0, pause_until: request.pause_until, pause_remaining: remaining })
    }

    /// Whether whoever asks may use a consumer. One of somebody else is as if it were not there.
    pub(super) fn check_owner(&self, name: &str, message: &Message) -> Result<(), ApiError> {
        let member = self.consumers.get(name).filter(|member| member.serves(message.user()));
        member.map(|_| ()).ok_or(ApiError::CONSUMER_NOT_FOUND)
    }

    /// Becomes what a configuration says, if that may be.
    async fn update(
        &mut self,
        update: Update,
        inbox: &mut Inbox,
    ) -> Result<Result<(StreamConfig, StreamInfo), ApiError>, Failure> {
        let Update { request, others, limits } = update;
        let others: Vec<&StreamConfig> = others.iter().collect();
        let consumers = self.consumers.iter().map(|(name, member)| (name, &member.config));
        let checked = api::check_stream_update(&self.config.name, request, &others, consumers, &limits);
        let checked = checked.and_then(|config| match inbox.follow(&config) {
            Ok(()) => Ok(config),
            Err(error) => Err(ApiError::stream_update(&error)),
        });
        let config = match checked {
            Ok(config) => config,
            Err(error) => return Ok(Err(error)),
        };
        let about = serde_json::to_vec(&config).expect("a configuration is a struct of plain fields");
        self.ledger.note(&Entry::Stream { about, created: self.created });
        let limits = opening::limits_of(&config);
        if *self.store.limits() != limits {
            let change = self.store.set_limits(limits, now());
            self.note_change(Some(change));
        }
        let before = std::mem::replace(&mut self.config, config);
        if before.retention != self.config.retention {
            self.let_go_unwanted();
        }
        // What a client hears of is on disk.
        if let Some(pending) = self.ledger.flush().await? {
            pending.await?;
        }
        advisory::publish(&mut self.publisher, &Advisory::stream(&self.config.name, Action::Modify));
        Ok(Ok((self.config.clone(), self.info(now()).shown())))
    }
}
