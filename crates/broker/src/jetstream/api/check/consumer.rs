//! What a consumer may be on its stream, and what it may become.

use std::collections::HashSet;

use super::{
    DESCRIPTION_MAX, METADATA_MAX, MILLISECOND, Mode, NAME_MAX, PATTERNS_MAX, SECOND, covers, invalid, is_valid_name,
    is_valid_subject, metadata_bytes, overlaps, refuse, require_level,
};
use crate::jetstream::api::{
    AccountLimits, AckPolicy, Action, ApiError, ConsumerConfig, ConsumerRequest, DeliverPolicy, PriorityPolicy,
    Retention, StreamConfig, Time, decode,
};
use crate::jetstream::duration;
use crate::subject;

/// Nanoseconds that an acknowledgement may take where nothing is said.
const ACK_WAIT: i64 = 30 * SECOND;
/// Nanoseconds after which a consumer without a durable name, which nobody uses, is removed.
const INACTIVE_THRESHOLD: i64 = 5 * SECOND;
const MAX_ACK_PENDING: i64 = 1000;
const MAX_WAITING: i64 = 512;

/// What a wish about a consumer comes to. Its name is in `config.name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConsumerChange {
    Create(Box<ConsumerConfig>),
    /// It exists and becomes this, which may be what it is.
    Update(Box<ConsumerConfig>),
}

/// Reads `CONSUMER.CREATE.<stream>`, `CONSUMER.CREATE.<stream>.<name>[.<filter>]` and
/// `CONSUMER.DURABLE.CREATE.<stream>.<name>`, where `subject` is what follows `$JS.API.`, and checks what can be checked
/// without the stream. The name that the subject gives is then in `config.name`; without one the consumer has none yet.
///
/// # Errors
/// NATS's.
pub(crate) fn consumer_request(subject: &str, body: &[u8]) -> Result<ConsumerRequest, ApiError> {
    let mut request = decode::<ConsumerRequest>(body)?;
    let is_durable = subject.starts_with("CONSUMER.DURABLE.");
    // Behind the name stands the filter, whole; in the form for durables the name is the rest.
    let mut tokens = subject.splitn(5, '.').skip(if is_durable { 3 } else { 2 });
    let stream = tokens.next().unwrap_or_default();
    let name = tokens.next();
    let filter = tokens.next().unwrap_or_default();
    let config = &mut request.config;
    let is_misplaced = is_durable && name.is_none_or(|name| name.contains('.'));
    refuse(is_misplaced, || ApiError::CONSUMER_DURABLE_NAME_NOT_IN_SUBJECT)?;
    refuse(stream != request.stream_name, || ApiError::STREAM_MISMATCH)?;
    let has_separator = name.unwrap_or(&config.name).contains(['/', '\\']);
    refuse(has_separator, || ApiError::CONSUMER_NAME_CONTAINS_PATH_SEPARATORS)?;
    refuse(is_durable && !config.is_durable(), || ApiError::CONSUMER_DURABLE_NAME_NOT_SET)?;
    if let Some(name) = name {
        let is_other = config.is_durable() && config.durable_name != name;
        refuse(is_other, || ApiError::CONSUMER_DURABLE_NAME_NOT_MATCH_SUBJECT)?;
        config.name = name.into();
    } else {
        refuse(config.is_durable(), || ApiError::CONSUMER_EPHEMERAL_WITH_DURABLE_NAME)?;
    }
    if !filter.is_empty() {
        let has_several = !config.filter_subjects.is_empty();
        refuse(has_several, || ApiError::CONSUMER_MULTIPLE_FILTERS_NOT_ALLOWED)?;
        let is_other = config.filter_subject != filter;
        refuse(is_other, || ApiError::CONSUMER_CREATE_FILTER_SUBJECT_MISMATCH)?;
    }
    refuse(config.num_replicas > 1, || ApiError::STREAM_REPLICAS_NOT_SUPPORTED)?;
    Ok(request)
}

/// Checks a wish that [`consumer_request`] has read against the stream and its consumers. A consumer without a name gets
/// `new_name`, which no consumer of the stream has yet. `is_heard` says whether somebody is subscribed to a subject.
///
/// # Errors
/// NATS's.
pub(crate) fn check_consumer(
    request: ConsumerRequest,
    stream: &StreamConfig,
    consumers: &[&ConsumerConfig],
    new_name: &str,
    limits: &AccountLimits,
    is_heard: impl Fn(&str) -> bool,
) -> Result<ConsumerChange, ApiError> {
    let ConsumerRequest { mut config, action, pedantic, .. } = request;
    let existing = consumers.iter().find(|other| !config.name.is_empty() && other.name == config.name);
    if let Some(existing) = existing {
        config.pause_until = existing.pause_until;
    }
    require_level(&mut config.metadata, u32::from(config.pause_until.is_some_and(|until| !until.is_none())));
    complete(&mut config, stream, limits, Mode::of(pedantic))?;
    check(&config, stream, limits)?;
    let others: Vec<_> = consumers.iter().copied().filter(|other| other.name != config.name).collect();
    if let Some(existing) = existing {
        let is_same = **existing == config;
        refuse(action == Action::Create && !is_same, || ApiError::CONSUMER_ALREADY_EXISTS)?;
        let is_shared = stream.retention == Retention::WorkQueue && is_contested(&config, &others);
        refuse(is_shared, || ApiError::CONSUMER_WQ_CONSUMER_NOT_UNIQUE)?;
        check_unchanged(existing, &config, is_heard)?;
        stamp(&mut config);
        return Ok(ConsumerChange::Update(Box::new(config)));
    }
    refuse(action == Action::Update, || ApiError::CONSUMER_DOES_NOT_EXIST)?;
    let (own, account) = (stream.max_consumers, limits.max_consumers);
    let max = if own <= 0 || account > 0 && account < own { account } else { own };
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    refuse(max > 0 && count >= max, || ApiError::MAXIMUM_CONSUMERS_LIMIT)?;
    if stream.retention == Retention::WorkQueue {
        check_queue(&config, &others)?;
    }
    if config.name.is_empty() {
        config.name = new_name.into();
    }
    refuse(config.name.len() > NAME_MAX, || ApiError::consumer_name_too_long(NAME_MAX as i64))?;
    stamp(&mut config);
    Ok(ConsumerChange::Create(Box::new(config)))
}

/// What a consumer becomes when it is paused up to `until`, or goes on.
pub(crate) fn pause_consumer(config: &ConsumerConfig, until: Time) -> ConsumerConfig {
    let mut paused = config.clone();
    paused.pause_until = (!until.is_none()).then_some(until);
    require_level(&mut paused.metadata, u32::from(paused.pause_until.is_some()));
    paused
}

/// Gives a consumer that lives only as long as it is used the time for which it may be unused.
fn stamp(config: &mut ConsumerConfig) {
    if !config.is_durable() && config.inactive_threshold <= 0 {
        config.inactive_threshold = INACTIVE_THRESHOLD;
    }
}

/// Fills in what was not said.
fn complete(
    config: &mut ConsumerConfig,
    stream: &StreamConfig,
    limits: &AccountLimits,
    mode: Mode,
) -> Result<(), ApiError> {
    raise_negatives(config, mode)?;
    let has_acks = config.ack_policy != AckPolicy::None;
    if !config.is_push() && config.max_waiting == 0 {
        config.max_waiting = MAX_WAITING;
    }
    if config.ack_wait == 0 && has_acks {
        config.ack_wait = ACK_WAIT;
    }
    if let Some(first) = config.backoff.first() {
        if config.ack_wait != *first {
            mode.correct(&"first backoff value has to equal batch AckWait")?;
        }
        config.ack_wait = *first;
    }
    let defaults = stream.consumer_limits;
    if config.max_ack_pending == 0 {
        if defaults.max_ack_pending > 0 {
            mode.correct(&"max_ack_pending must be set if it's configured in stream limits")?;
        }
        config.max_ack_pending = defaults.max_ack_pending;
    }
    if config.inactive_threshold == 0 {
        if defaults.inactive_threshold > 0 {
            mode.correct(&"inactive_threshold must be set if it's configured in stream limits")?;
        }
        config.inactive_threshold = defaults.inactive_threshold;
    }
    if config.max_ack_pending == 0 && has_acks {
        let account = limits.max_ack_pending;
        config.max_ack_pending = if account > 0 { account.min(MAX_ACK_PENDING) } else { MAX_ACK_PENDING };
    }
    Ok(())
}

fn raise_negatives(config: &mut ConsumerConfig, mode: Mode) -> Result<(), ApiError> {
    if config.max_deliver < -1 {
        mode.correct(&"max_deliver must be set to -1")?;
    }
    if config.max_deliver < 1 {
        config.max_deliver = -1;
    }
    if config.max_ack_pending < -1 {
        mode.correct(&"max_ack_pending must be set to -1")?;
        config.max_ack_pending = -1;
    }
    let values = [
        (&mut config.max_waiting, "max_waiting"),
        (&mut config.max_batch, "max_batch"),
        (&mut config.max_expires, "max_expires"),
        (&mut config.max_bytes, "max_bytes"),
        (&mut config.idle_heartbeat, "idle_heartbeat"),
        (&mut config.inactive_threshold, "inactive_threshold"),
        (&mut config.priority_timeout, "priority_timeout"),
    ];
    for (value, name) in values {
        if *value < 0 {
            mode.correct(&format_args!("{name} must not be negative"))?;
            *value = 0;
        }
    }
    Ok(())
}

fn check(config: &ConsumerConfig, stream: &StreamConfig, limits: &AccountLimits) -> Result<(), ApiError> {
    check_words(config)?;
    check_support(config)?;
    check_replicas(config, stream)?;
    refuse(config.backoff.iter().any(|wait| *wait < 0), || ApiError::CONSUMER_BACK_OFF_NEGATIVE)?;
    refuse(config.ack_wait < 0, || ApiError::CONSUMER_ACK_WAIT_NEGATIVE)?;
    check_backoff(config)?;
    let is_long = config.description.len() > DESCRIPTION_MAX;
    refuse(is_long, || ApiError::consumer_description_too_long(DESCRIPTION_MAX as i64))?;
    let kind = if config.is_push() { check_push } else { check_pull };
    kind(config, stream)?;
    check_limits(config, stream, limits)?;
    refuse(config.direct && !config.is_push(), || ApiError::CONSUMER_DIRECT_REQUIRES_PUSH)?;
    refuse(config.direct && config.is_durable(), || ApiError::CONSUMER_DIRECT_REQUIRES_EPHEMERAL)?;
    check_filters(config)?;
    check_start(config)?;
    check_sampling(&config.sample_freq)?;
    let lacks_heartbeat = config.flow_control && config.idle_heartbeat == 0;
    refuse(lacks_heartbeat, || ApiError::CONSUMER_WITH_FLOW_CONTROL_NEEDS_HEARTBEATS)?;
    let is_doubled = config.is_durable() && !config.name.is_empty() && config.name != config.durable_name;
    refuse(is_doubled, || ApiError::CONSUMER_CREATE_DURABLE_AND_NAME_MISMATCH)?;
    let is_long = metadata_bytes(&config.metadata) > METADATA_MAX;
    refuse(is_long, || ApiError::consumer_metadata_length(&format!("{}KB", METADATA_MAX / 1024)))
}

fn check_words(config: &ConsumerConfig) -> Result<(), ApiError> {
    let is_wrong = |name: &str| !name.is_empty() && !is_valid_name(name);
    invalid(is_wrong(&config.name), "consumer name can not contain '.', '*', '>', '\\', '/'")?;
    invalid(is_wrong(&config.durable_name), "consumer durable name can not contain '.', '*', '>', '\\', '/'")
}

/// Refuses what this server does not do: later levels of the API by their number, the rest by its name.
fn check_support(config: &ConsumerConfig) -> Result<(), ApiError> {
    let is_later = config.ack_policy == AckPolicy::FlowControl || config.sourcing;
    refuse(is_later, || ApiError::REQUIRED_API_LEVEL)?;
    let has_priorities = config.priority_policy != PriorityPolicy::None
        || !config.priority_groups.is_empty()
        || config.priority_timeout > 0;
    refuse(has_priorities, || ApiError::consumer_create(&"consumer priority groups are not supported"))
}

fn check_replicas(config: &ConsumerConfig, stream: &StreamConfig) -> Result<(), ApiError> {
    let (own, all) = (config.num_replicas, stream.num_replicas);
    refuse(own > 0 && own > all, || ApiError::CONSUMER_REPLICAS_EXCEEDS_STREAM)?;
    refuse(own < 0, || ApiError::REPLICAS_COUNT_CANNOT_BE_NEGATIVE)?;
    let must_match = stream.retention != Retention::Limits;
    refuse(must_match && own != 0 && own != all, || ApiError::CONSUMER_REPLICAS_SHOULD_MATCH_STREAM)
}

fn check_backoff(config: &ConsumerConfig) -> Result<(), ApiError> {
    let waits = i64::try_from(config.backoff.len()).unwrap_or(i64::MAX);
    let is_beyond = waits > 0 && config.max_deliver != -1 && waits > config.max_deliver;
    refuse(is_beyond, || ApiError::CONSUMER_MAX_DELIVER_BACKOFF)
}

fn check_push(config: &ConsumerConfig, stream: &StreamConfig) -> Result<(), ApiError> {
    let to = config.deliver_subject.as_str();
    refuse(has_wildcard(to), || ApiError::CONSUMER_DELIVER_TO_WILDCARDS)?;
    refuse(!is_valid_subject(to), || ApiError::CONSUMER_INVALID_DELIVER_SUBJECT)?;
    let is_cycle = stream.subjects.iter().any(|subject| covers(subject, to));
    refuse(is_cycle, || ApiError::CONSUMER_DELIVER_CYCLE)?;
    refuse(config.max_waiting != 0, || ApiError::CONSUMER_PUSH_MAX_WAITING)?;
    let lacks_acks = config.max_ack_pending > 0 && config.ack_policy == AckPolicy::None;
    refuse(lacks_acks, || ApiError::CONSUMER_MAX_PENDING_ACK_POLICY_REQUIRED)?;
    let is_small = config.idle_heartbeat > 0 && config.idle_heartbeat < 100 * MILLISECOND;
    refuse(is_small, || ApiError::CONSUMER_SMALL_HEARTBEAT)
}

fn check_pull(config: &ConsumerConfig, stream: &StreamConfig) -> Result<(), ApiError> {
    let lacks_acks = config.ack_policy == AckPolicy::None && stream.retention == Retention::WorkQueue;
    refuse(lacks_acks, || ApiError::CONSUMER_PULL_REQUIRES_ACK)?;
    refuse(config.rate_limit_bps > 0, || ApiError::CONSUMER_PULL_WITH_RATE_LIMIT)?;
    refuse(config.idle_heartbeat > 0, || ApiError::CONSUMER_HB_REQUIRES_PUSH)?;
    refuse(config.flow_control, || ApiError::CONSUMER_FC_REQUIRES_PUSH)?;
    let is_small = config.max_expires != 0 && config.max_expires < MILLISECOND;
    refuse(is_small, || ApiError::CONSUMER_MAX_REQUEST_EXPIRES_TOO_SMALL)
}

fn check_limits(config: &ConsumerConfig, stream: &StreamConfig, limits: &AccountLimits) -> Result<(), ApiError> {
    for max in [limits.max_ack_pending, stream.consumer_limits.max_ack_pending] {
        let is_beyond = max > 0 && config.max_ack_pending > max;
        refuse(is_beyond, || ApiError::consumer_max_ack_pending_excess(max))?;
    }
    let max = stream.consumer_limits.inactive_threshold;
    let is_beyond = max > 0 && config.inactive_threshold > max;
    refuse(is_beyond, || ApiError::consumer_inactive_threshold_excess(&duration::display(max)))
}

fn check_filters(config: &ConsumerConfig) -> Result<(), ApiError> {
    let is_doubled = !config.filter_subject.is_empty() && !config.filter_subjects.is_empty();
    refuse(is_doubled, || ApiError::CONSUMER_DUPLICATE_FILTER_SUBJECTS)?;
    refuse(config.filter_subjects.iter().any(String::is_empty), || ApiError::CONSUMER_EMPTY_FILTER)?;
    refuse(config.filter_subjects.len() > PATTERNS_MAX, || {
        ApiError::stream_invalid_config(&format_args!("consumer has more than {PATTERNS_MAX} filter subjects"))
    })?;
    // Only patterns reach over others; names are the same or not.
    let wide: Vec<&str> = config.filters().filter(|filter| has_wildcard(filter)).collect();
    let mut seen = HashSet::new();
    for filter in config.filters() {
        invalid(!is_valid_subject(filter), "invalid subject")?;
        let is_covered = wide.iter().any(|other| *other != filter && covers(other, filter));
        refuse(is_covered || !seen.insert(filter), || ApiError::CONSUMER_OVERLAPPING_SUBJECT_FILTERS)?;
    }
    Ok(())
}

/// Where the consumer begins must be said exactly as its policy needs it.
fn check_start(config: &ConsumerConfig) -> Result<(), ApiError> {
    let (policy, wants_sequence, wants_time) = match config.deliver_policy {
        DeliverPolicy::All => ("all", false, false),
        DeliverPolicy::Last => ("last", false, false),
        DeliverPolicy::New => ("new", false, false),
        DeliverPolicy::LastPerSubject => ("last per subject", false, false),
        DeliverPolicy::ByStartSequence => ("by start sequence", true, false),
        DeliverPolicy::ByStartTime => ("by start time", false, true),
    };
    let (has_sequence, has_time) = (config.opt_start_seq > 0, config.opt_start_time.is_some());
    let missing = |what: &str| {
        let reason = format_args!("consumer delivery policy is deliver {policy}, but optional {what} is not set");
        ApiError::consumer_invalid_policy(&reason)
    };
    let unwanted = |what: &str| {
        let reason =
            format_args!("consumer delivery policy is deliver {policy}, but optional start {what} is also set");
        ApiError::consumer_invalid_policy(&reason)
    };
    refuse(wants_sequence && !has_sequence, || missing("start sequence"))?;
    refuse(wants_time && !has_time, || missing("start time"))?;
    // nats-server says so twice in this one.
    refuse(wants_time && has_sequence, || unwanted("start sequence"))?;
    refuse(!wants_sequence && has_sequence, || unwanted("sequence"))?;
    refuse(!wants_time && has_time, || unwanted("time"))?;
    let lacks_filter = config.deliver_policy == DeliverPolicy::LastPerSubject && config.filters().next().is_none();
    refuse(lacks_filter, || missing("filter subject"))
}

fn check_sampling(frequency: &str) -> Result<(), ApiError> {
    if frequency.is_empty() {
        return Ok(());
    }
    let number = frequency.strip_suffix('%').unwrap_or(frequency);
    match number.parse::<i64>() {
        Ok(percent) if percent >= 0 => Ok(()),
        Ok(_) => Err(ApiError::consumer_invalid_sampling(&"<nil>")),
        Err(_) => {
            let reason = format_args!("strconv.Atoi: parsing {number:?}: invalid syntax");
            Err(ApiError::consumer_invalid_sampling(&reason))
        }
    }
}

/// A message of a work queue belongs to one consumer only.
fn check_queue(config: &ConsumerConfig, others: &[&ConsumerConfig]) -> Result<(), ApiError> {
    if config.direct {
        return Ok(());
    }
    refuse(config.ack_policy != AckPolicy::Explicit, || ApiError::CONSUMER_WQ_REQUIRES_EXPLICIT_ACK)?;
    let is_partial = config.deliver_policy != DeliverPolicy::All;
    refuse(is_partial, || ApiError::CONSUMER_WQ_CONSUMER_NOT_DELIVER_ALL)?;
    let is_unfiltered = config.filters().next().is_none() && !others.is_empty();
    refuse(is_unfiltered, || ApiError::CONSUMER_WQ_MULTIPLE_UNFILTERED)?;
    refuse(is_contested(config, others), || ApiError::CONSUMER_WQ_CONSUMER_NOT_UNIQUE)
}

/// Whether one of the others wants some of the messages, too.
fn is_contested(config: &ConsumerConfig, others: &[&ConsumerConfig]) -> bool {
    // Two names are compared by their hashes: there may be many consumers with many of them.
    let (wide, names): (Vec<&str>, Vec<&str>) = config.filters().partition(|filter| has_wildcard(filter));
    let names: HashSet<&str> = names.into_iter().collect();
    let is_wanted = |filter: &str| {
        let is_named =
            if has_wildcard(filter) { names.iter().any(|own| overlaps(own, filter)) } else { names.contains(filter) };
        is_named || wide.iter().any(|own| overlaps(own, filter))
    };
    let has_filter = config.filters().next().is_some();
    has_filter
        && others
            .iter()
            .filter(|other| !other.direct)
            .any(|other| other.filters().next().is_none() || other.filters().any(is_wanted))
}

/// What no update may change.
fn check_unchanged(
    old: &ConsumerConfig,
    new: &ConsumerConfig,
    is_heard: impl Fn(&str) -> bool,
) -> Result<(), ApiError> {
    let fixed = [
        (old.deliver_policy == new.deliver_policy, "deliver policy can not be updated"),
        (old.mem_storage == new.mem_storage, "storage type can not be updated"),
        (old.direct == new.direct, "direct can not be updated"),
        (old.opt_start_seq == new.opt_start_seq, "start sequence can not be updated"),
        (old.opt_start_time == new.opt_start_time, "start time can not be updated"),
        (old.ack_policy == new.ack_policy, "ack policy can not be updated"),
        (old.replay_policy == new.replay_policy, "replay policy can not be updated"),
        (old.idle_heartbeat == new.idle_heartbeat, "heart beats can not be updated"),
        (old.flow_control == new.flow_control, "flow control can not be updated"),
        (old.is_push() || !new.is_push(), "can not update pull consumer to push based"),
        (!old.is_push() || new.is_push(), "can not update push consumer to pull based"),
    ];
    for (is_kept, reason) in fixed {
        refuse(!is_kept, || ApiError::consumer_create(&reason))?;
    }
    let is_bound = old.deliver_subject != new.deliver_subject && is_heard(&old.deliver_subject);
    refuse(is_bound, || ApiError::CONSUMER_NAME_EXIST)?;
    let is_kept = old.max_waiting == new.max_waiting;
    refuse(!is_kept, || ApiError::consumer_create(&"max waiting can not be updated"))
}

fn has_wildcard(subject: &str) -> bool {
    subject::tokens(subject.as_bytes()).any(|token| token == b"*" || token == b">")
}
