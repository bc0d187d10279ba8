//! Making and changing consumers: what a client wishes, checked by `api`, becomes a machine with a place in the messages.

use super::super::advisory::{self, Advisory};
use super::super::api::{self, ApiError, ConsumerChange, ConsumerConfig, ConsumerInfo, DeliverPolicy};
use super::super::consumer::{self, Closing, Consumer, Mode, Start};
use super::super::ledger::Entry;
use super::super::shared::now;
use super::super::store::CursorId;
use super::Stream;
use super::consuming::Member;
use crate::auth::User;
use crate::internal::Message;
use crate::{inbox, subject};

/// Letters of a name that a consumer is given, as nats-server has it.
const NAME_LEN: usize = 8;
/// Limit: subjects whose last messages a consumer may begin with.
const LISTED_MAX: usize = 1 << 20;

impl Stream {
    pub(super) fn consumer_create(&mut self, message: &Message) -> Result<ConsumerInfo, ApiError> {
        let text = std::str::from_utf8(message.subject()).map_err(|_| ApiError::BAD_REQUEST)?;
        let rest = text.strip_prefix("$JS.API.").unwrap_or(text);
        let request = api::consumer_request(rest, &message.payload())?;
        let existing = self.consumers.get(&request.config.name);
        if existing.is_some_and(|member| !member.serves(message.user())) {
            return Err(ApiError::CONSUMER_NAME_EXIST);
        }
        self.check_deliver_subject(&request.config, message)?;
        if !self.may_read(message.user(), request.config.filters()) {
            return Err(ApiError::CONSUMER_FILTER_NOT_SUBSET);
        }
        let configs: Vec<&ConsumerConfig> = self.consumers.iter().map(|(_, member)| &member.config).collect();
        let new_name = self.new_name();
        let limits = self.shared.account_limits();
        let publisher = &self.publisher;
        let is_heard = |subject: &str| publisher.reaches(subject.as_bytes());
        let is_named = !request.config.name.is_empty();
        let changed = api::check_consumer(request, &self.config, &configs, &new_name, &limits, is_heard)?;
        let name = match changed {
            ConsumerChange::Create(mut config) => {
                let name = config.name.clone();
                if !is_named {
                    // A name that was given to it is not a part of what it was asked to be.
                    config.name.clear();
                }
                self.add_consumer(&name, *config, message)?;
                name
            }
            ConsumerChange::Update(config) => self.update_consumer(*config)?,
        };
        self.describe_consumer(&name, now()).ok_or(ApiError::CONSUMER_NOT_FOUND)
    }

    /// A name that no consumer has yet.
    fn new_name(&self) -> String {
        loop {
            let name: String = std::iter::repeat_with(fastrand::alphanumeric).take(NAME_LEN).collect();
            if self.consumers.get(&name).is_none() {
                return name;
            }
        }
    }

    /// Whoever may not publish somewhere may not have it done by a consumer.
    fn check_deliver_subject(&self, config: &ConsumerConfig, message: &Message) -> Result<(), ApiError> {
        let to = config.deliver_subject.as_bytes();
        let is_allowed = to.is_empty() || inbox::is_inbox(to) || message.user().permissions.may_publish(to);
        if is_allowed { Ok(()) } else { Err(ApiError::CONSUMER_INVALID_DELIVER_SUBJECT) }
    }

    /// Whether a user may have everything that these filters match; without filters, all that the stream takes. Whoever may
    /// not subscribe to a subject may not have it read by the stream either.
    pub(super) fn may_read<'a>(&self, user: &User, filters: impl Iterator<Item = &'a str>) -> bool {
        let permits = |pattern: &str| user.permissions.may_read(pattern.as_bytes());
        let subjects = &self.config.subjects;
        let is_whole = subjects.iter().all(|subject| permits(subject));
        let is_everything =
            |filter: &str| subjects.iter().all(|subject| subject::covers(filter.as_bytes(), subject.as_bytes()));
        let mut filters = filters.peekable();
        if filters.peek().is_none() {
            return is_whole;
        }
        filters.all(|filter| permits(filter) || (is_whole && is_everything(filter)))
    }

    pub(super) fn add_consumer(
        &mut self,
        name: &str,
        config: ConsumerConfig,
        message: &Message,
    ) -> Result<(), ApiError> {
        if self.consumers.len() >= self.shared.config.limits.consumers_max {
            return Err(ApiError::MAXIMUM_CONSUMERS_LIMIT);
        }
        let (now, owner) = (now(), message.user().name.clone());
        let start = self.start_of_consumer(&config)?;
        let mut machine = Consumer::new(self.machine_config(&config, name, &owner), start, now);
        let cursor = self.open_cursor(&config, machine.rewind());
        let id = self.consumer_next;
        self.consumer_next += 1;
        let member = Member { config, created: now, owner, id, machine, cursor };
        if member.is_kept() {
            self.ledger.note(&member.about(name));
        }
        self.consumers.insert(name, member);
        advisory::publish(&mut self.publisher, &Advisory::consumer_created(&self.config.name, name));
        Ok(())
    }

    pub(super) fn update_consumer(&mut self, config: ConsumerConfig) -> Result<String, ApiError> {
        let name = config.name.clone();
        let owner = self.consumers.get(&name).map(|member| member.owner.clone()).unwrap_or_default();
        let machine_config = self.machine_config(&config, &name, &owner);
        let last = self.store.visible();
        let Some(member) = self.consumers.get_mut(&name) else { return Err(ApiError::CONSUMER_NOT_FOUND) };
        if member.config == config {
            return Ok(name);
        }
        let is_filtered_otherwise = !member.config.filters().eq(config.filters());
        member.config = config;
        member.machine.update(machine_config, now());
        if is_filtered_otherwise {
            // What it has passed over already stays passed over, as in nats-server.
            let index = &mut self.store.index;
            let passed = if index.pending(member.cursor) == 0 { last + 1 } else { index.position(member.cursor) };
            let from = member.machine.rewind().max(passed);
            index.close_cursor(member.cursor);
            member.cursor = index.open_cursor(&filters_of(&member.config), from);
        }
        if member.is_kept() {
            self.ledger.note(&member.about(&name));
        }
        self.take_effects(&name);
        if is_filtered_otherwise {
            self.let_go_unwanted();
        }
        Ok(name)
    }

    /// Where a consumer begins.
    fn start_of_consumer(&mut self, config: &ConsumerConfig) -> Result<Start, ApiError> {
        let (last, filters) = (self.store.visible(), filters_of(config));
        Ok(match config.deliver_policy {
            DeliverPolicy::All => Start::At(self.store.first()),
            DeliverPolicy::New => Start::At(last + 1),
            DeliverPolicy::ByStartSequence => Start::At(config.opt_start_seq.max(self.store.first())),
            DeliverPolicy::ByStartTime => {
                let time = config.opt_start_time.map_or(0, api::Time::nanoseconds);
                Start::At(self.store.index.first_after(time).unwrap_or(last + 1))
            }
            DeliverPolicy::Last if filters.is_empty() => Start::At(last.max(1)),
            DeliverPolicy::Last => Start::At(self.last_match(&filters).unwrap_or(last + 1)),
            DeliverPolicy::LastPerSubject => {
                let all = vec![b">".to_vec()];
                let filters = if filters.is_empty() { all } else { filters };
                let too_many = || ApiError::consumer_create(&"too many subjects to begin with the last of each");
                let sequences = self.store.index.last_by_filter(&filters, last, LISTED_MAX).ok_or_else(too_many)?;
                Start::Listed { sequences, resume: last + 1 }
            }
        })
    }

    /// What the machine of a consumer is told.
    pub(super) fn machine_config(&self, config: &ConsumerConfig, name: &str, owner: &str) -> consumer::Config {
        let mut compiled = consumer::Config::new(config, &self.config.name, name);
        let users = self.shared.broker.users();
        if let (Mode::Push(push), Some(user)) = (&mut compiled.mode, users.find(owner.as_bytes()))
            && let Some(owned) = inbox::owned_reply(&users, user, &push.subject)
        {
            push.subject = owned.into();
        }
        compiled
    }

    pub(super) fn open_cursor(&mut self, config: &ConsumerConfig, from: u64) -> CursorId {
        self.store.index.open_cursor(&filters_of(config), from)
    }

    /// Ends a consumer and tells whoever waits for its messages.
    pub(super) fn delete_consumer(&mut self, name: &str) -> Option<()> {
        self.close_consumer(name);
        let member = self.consumers.remove(name)?;
        if member.is_kept() {
            self.ledger.note(&Entry::ConsumerDeleted { id: member.id });
        }
        self.let_go_of_all(&member);
        self.store.index.close_cursor(member.cursor);
        advisory::publish(&mut self.publisher, &Advisory::consumer_deleted(&self.config.name, name));
        Some(())
    }

    /// Tells whoever waits for messages of a consumer that it is gone.
    pub(super) fn close_consumer(&mut self, name: &str) {
        if let Some(member) = self.consumers.get_mut(name) {
            member.machine.close(Closing::Deleted);
        }
        self.take_effects(name);
    }

    /// Tells whoever waits for messages that none will come from here for now.
    pub(super) fn close_consumers(&mut self) {
        for name in self.consumers.names() {
            if let Some(member) = self.consumers.get_mut(&name) {
                member.machine.close(Closing::Shutdown);
            }
            self.take_effects(&name);
        }
        self.publisher.wake();
    }

    /// Whether a message is one that a consumer has asked for.
    pub(super) fn is_wanted(&self, member: &Member, sequence: u64) -> bool {
        let Some(of) = self.store.index.subject(sequence) else { return false };
        let mut filters = member.config.filters().peekable();
        filters.peek().is_none() || filters.any(|filter| subject::matches(filter.as_bytes(), of))
    }
}

fn filters_of(config: &ConsumerConfig) -> Vec<Vec<u8>> {
    config.filters().map(|filter| filter.as_bytes().to_vec()).collect()
}
