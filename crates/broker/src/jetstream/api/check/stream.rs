//! What a stream may be, and what it may become.

use std::collections::BTreeSet;

use super::{
    DESCRIPTION_MAX, METADATA_MAX, MILLISECOND, Mode, NAME_MAX, PATTERNS_MAX, SECOND, covers, invalid, is_valid_name,
    is_valid_subject, metadata_bytes, overlaps, refuse, require_level,
};
use crate::jetstream::api::{
    AccountLimits, ApiError, ConsumerConfig, Discard, PersistMode, Placement, Retention, Storage, StreamConfig,
    StreamRequest,
};

/// Nanoseconds that message ids are remembered where nothing is said.
const DUPLICATE_WINDOW: i64 = 120 * SECOND;
/// As many servers as nats-server lets a stream have.
const REPLICAS_MAX: i64 = 5;

/// What a wish to create a stream comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StreamCreation {
    New(Box<StreamConfig>),
    /// It exists already, exactly so.
    Same,
}

/// Checks `STREAM.CREATE.<name>` against the streams that there are.
///
/// # Errors
/// NATS's.
pub(crate) fn check_stream_create(
    name: &str,
    request: StreamRequest,
    streams: &[&StreamConfig],
    limits: &AccountLimits,
) -> Result<StreamCreation, ApiError> {
    let StreamRequest { mut config, pedantic } = request;
    refuse(name != config.name, || ApiError::STREAM_MISMATCH)?;
    refuse(name.contains(['/', '\\']), || ApiError::STREAM_NAME_CONTAINS_PATH_SEPARATORS)?;
    invalid(config.sealed, "stream configuration for create can not be sealed")?;
    invalid(config.mirror_direct, "stream has no mirror but does have mirror direct")?;
    let others = streams.iter().copied().filter(|other| other.name != name);
    let streams_max = usize::try_from(limits.max_streams).unwrap_or(usize::MAX);
    refuse(limits.max_streams > 0 && others.clone().count() >= streams_max, || ApiError::MAXIMUM_STREAMS_LIMIT)?;
    check_limits(&config, config.max_bytes.max(0), others.clone(), limits)?;
    complete(&mut config, Mode::of(pedantic), limits)?;
    refuse(config.num_replicas > 1, || ApiError::STREAM_REPLICAS_NOT_SUPPORTED)?;
    if let Some(existing) = streams.iter().find(|other| other.name == name) {
        refuse(**existing != config, || ApiError::STREAM_NAME_EXIST)?;
        return Ok(StreamCreation::Same);
    }
    check_limits(&config, config.max_bytes, others.clone(), limits)?;
    check_others(&config, others)?;
    Ok(StreamCreation::New(Box::new(config)))
}

/// Checks `STREAM.UPDATE.<name>`, and gives what the stream becomes. `consumers` are those of the stream, with their names.
///
/// # Errors
/// NATS's.
pub(crate) fn check_stream_update<'a>(
    name: &str,
    request: StreamRequest,
    streams: &[&StreamConfig],
    consumers: impl Iterator<Item = (&'a str, &'a ConsumerConfig)>,
    limits: &AccountLimits,
) -> Result<StreamConfig, ApiError> {
    let StreamRequest { mut config, pedantic } = request;
    let mode = Mode::of(pedantic);
    complete(&mut config, mode, limits)?;
    refuse(name != config.name, || ApiError::STREAM_MISMATCH)?;
    let old = streams.iter().find(|other| other.name == name).ok_or(ApiError::STREAM_NOT_FOUND)?;
    refuse(config.num_replicas > 1, || ApiError::STREAM_REPLICAS_NOT_SUPPORTED)?;
    check_unchanged(old, &config)?;
    if config.sealed {
        config.max_age = 0;
        config.discard = Discard::New;
        config.deny_delete = true;
        config.deny_purge = true;
        config.allow_rollup_hdrs = false;
    }
    let others = streams.iter().copied().filter(|other| other.name != name);
    check_limits(&config, config.max_bytes.max(0), others.clone(), limits)?;
    check_consumers(old, &config, consumers)?;
    check_others(&config, others)?;
    Ok(config)
}

/// Fills in what was not said and checks what was.
fn complete(config: &mut StreamConfig, mode: Mode, limits: &AccountLimits) -> Result<(), ApiError> {
    let needs_ttl = config.allow_msg_ttl || config.subject_delete_marker_ttl > 0;
    require_level(&mut config.metadata, u32::from(needs_ttl));
    check_words(config)?;
    check_support(config)?;
    complete_counts(config, mode)?;
    complete_times(config, mode)?;
    complete_permissions(config, mode)?;
    complete_subjects(config)?;
    check_stream_bytes(config, limits)?;
    if config.placement == Some(Placement::default()) {
        config.placement = None;
    }
    let is_preferred = config.placement.as_ref().is_some_and(|placement| !placement.preferred.is_empty());
    invalid(is_preferred, "preferred server not permitted in placement")
}

fn check_words(config: &StreamConfig) -> Result<(), ApiError> {
    let name = "stream name is required and can not contain '.', '*', '>', '\\', '/'";
    invalid(!is_valid_name(&config.name), name)?;
    refuse(config.name.len() > NAME_MAX, || {
        ApiError::stream_invalid_config(&format_args!("stream name is too long, maximum allowed is {NAME_MAX}"))
    })?;
    refuse(config.description.len() > DESCRIPTION_MAX, || {
        let reason = format_args!("stream description is too long, maximum allowed is {DESCRIPTION_MAX}");
        ApiError::stream_invalid_config(&reason)
    })?;
    refuse(metadata_bytes(&config.metadata) > METADATA_MAX, || {
        ApiError::stream_invalid_config(&format_args!("stream metadata exceeds maximum size of {METADATA_MAX} bytes"))
    })
}

/// Refuses what this server does not do: later levels of the API by their number, the rest by its name.
fn check_support(config: &StreamConfig) -> Result<(), ApiError> {
    let is_later = config.allow_msg_counter
        || config.allow_atomic
        || config.allow_msg_schedules
        || config.allow_batched
        || config.persist_mode == PersistMode::Async;
    refuse(is_later, || ApiError::REQUIRED_API_LEVEL)?;
    invalid(config.mirror.is_some(), "stream mirrors are not supported")?;
    invalid(!config.sources.is_empty(), "stream sources are not supported")?;
    invalid(config.subject_transform.is_some(), "stream subject transforms are not supported")?;
    invalid(config.republish.is_some(), "stream republish is not supported")
}

fn complete_counts(config: &mut StreamConfig, mode: Mode) -> Result<(), ApiError> {
    if config.num_replicas == 0 {
        config.num_replicas = 1;
    }
    refuse(config.num_replicas > REPLICAS_MAX, || {
        ApiError::stream_invalid_config(&format_args!("maximum replicas is {REPLICAS_MAX}"))
    })?;
    refuse(config.num_replicas < 0, || ApiError::REPLICAS_COUNT_CANNOT_BE_NEGATIVE)?;
    let mut size = i64::from(config.max_msg_size);
    let counts = [
        (&mut config.max_msgs, "max_msgs"),
        (&mut config.max_msgs_per_subject, "max_msgs_per_subject"),
        (&mut config.max_bytes, "max_bytes"),
        (&mut size, "max_msg_size"),
        (&mut config.max_consumers, "max_consumers"),
    ];
    for (count, name) in counts {
        if *count < -1 {
            mode.correct(&format_args!("{name} must be set to -1"))?;
        }
        if *count < 1 {
            *count = -1;
        }
    }
    if size < 0 {
        config.max_msg_size = -1;
    }
    Ok(())
}

fn complete_times(config: &mut StreamConfig, mode: Mode) -> Result<(), ApiError> {
    let (age, window) = (config.max_age, &mut config.duplicate_window);
    invalid(age < 0, "max age can not be negative")?;
    invalid(age != 0 && age < 100 * MILLISECOND, "max age needs to be >= 100ms")?;
    if *window == 0 {
        *window = DUPLICATE_WINDOW;
        if age != 0 && age < DUPLICATE_WINDOW {
            mode.correct(&"duplicate window cannot be bigger than max age")?;
            *window = age;
        }
    }
    invalid(*window < 0, "duplicates window can not be negative")?;
    invalid(age != 0 && *window > age, "duplicates window can not be larger then max age")?;
    invalid(*window < 100 * MILLISECOND, "duplicates window needs to be >= 100ms")
}

fn complete_permissions(config: &mut StreamConfig, mode: Mode) -> Result<(), ApiError> {
    invalid(config.deny_purge && config.allow_rollup_hdrs, "roll-ups require the purge permission")?;
    check_discard(config)?;
    let marker = config.subject_delete_marker_ttl;
    invalid(marker < 0, "subject delete marker TTL must not be negative")?;
    if marker == 0 {
        return Ok(());
    }
    invalid(marker < SECOND, "subject delete marker TTL must be at least 1 second")?;
    if !config.allow_msg_ttl {
        let reason = "subject delete marker cannot be set if message TTLs are disabled";
        invalid(mode == Mode::Pedantic, reason)?;
        config.allow_msg_ttl = true;
    }
    if !config.allow_rollup_hdrs {
        invalid(mode == Mode::Pedantic, "subject delete marker cannot be set if roll-ups are disabled")?;
        config.allow_rollup_hdrs = true;
        config.deny_purge = false;
    }
    Ok(())
}

fn check_discard(config: &StreamConfig) -> Result<(), ApiError> {
    if !config.discard_new_per_subject {
        return Ok(());
    }
    let is_old = config.discard != Discard::New;
    invalid(is_old, "discard new per subject requires discard new policy to be set")?;
    invalid(config.max_msgs_per_subject <= 0, "discard new per subject requires max msgs per subject > 0")
}

fn complete_subjects(config: &mut StreamConfig) -> Result<(), ApiError> {
    if config.subjects.is_empty() {
        config.subjects.push(config.name.clone());
        return Ok(());
    }
    refuse(config.subjects.len() > PATTERNS_MAX, || {
        ApiError::stream_invalid_config(&format_args!("stream has more than {PATTERNS_MAX} subjects"))
    })?;
    let mut seen = BTreeSet::new();
    for (place, subject) in config.subjects.iter().enumerate() {
        invalid(!is_valid_subject(subject), "invalid subject")?;
        invalid(!seen.insert(subject.as_str()), "duplicate subjects detected")?;
        invalid(subject == ">" && !config.no_ack, "capturing all subjects requires no-ack to be true")?;
        let is_replicated = subject == ">" && config.num_replicas != 1;
        invalid(is_replicated, "capturing all subjects requires replicas of 1")?;
        if !config.no_ack {
            check_namespaces(subject)?;
        }
        if let Some(other) = config.subjects[place + 1..].iter().find(|other| overlaps(subject, other)) {
            return Err(ApiError::stream_invalid_config(&format_args!("subject {subject:?} overlaps with {other:?}")));
        }
    }
    Ok(())
}

/// A stream that acknowledges must not take the server's own subjects: it would answer requests that are not to it.
fn check_namespaces(subject: &str) -> Result<(), ApiError> {
    let is_api = ["$JS.>", "$JSC.>", "$NRG.>"].iter().any(|namespace| overlaps(subject, namespace));
    let is_event = covers("$JS.EVENT.>", subject);
    invalid(is_api && !is_event, "subjects that overlap with jetstream api require no-ack to be true")?;
    let is_system = overlaps(subject, "$SYS.>") && !covers("$SYS.ACCOUNT.>", subject);
    invalid(is_system, "subjects that overlap with system api require no-ack to be true")
}

fn check_stream_bytes(config: &StreamConfig, limits: &AccountLimits) -> Result<(), ApiError> {
    let max = match config.storage {
        Storage::File => limits.storage_max_stream_bytes,
        Storage::Memory => limits.memory_max_stream_bytes,
    };
    let is_missing = limits.max_bytes_required && config.max_bytes <= 0;
    refuse(is_missing, || ApiError::STREAM_MAX_BYTES_REQUIRED)?;
    refuse(max > 0 && config.max_bytes > max, || ApiError::STREAM_MAX_STREAM_BYTES_EXCEEDED)
}

/// What the account may have: what streams reserve by `max_bytes` must fit. A stream without a bound reserves one byte.
fn check_limits<'a>(
    config: &StreamConfig,
    bytes: i64,
    others: impl Iterator<Item = &'a StreamConfig>,
    limits: &AccountLimits,
) -> Result<(), ApiError> {
    let is_beyond = limits.max_consumers > 0 && config.max_consumers > limits.max_consumers;
    refuse(is_beyond, || ApiError::MAXIMUM_CONSUMERS_LIMIT)?;
    let (max, error) = match config.storage {
        Storage::File => (limits.max_storage, ApiError::STORAGE_RESOURCES_EXCEEDED),
        Storage::Memory => (limits.max_memory, ApiError::MEMORY_RESOURCES_EXCEEDED),
    };
    let bytes = if bytes < 0 { 1 } else { bytes };
    let reserved = others.filter(|other| other.storage == config.storage);
    let sum = reserved.map(|other| other.max_bytes.max(0)).fold(bytes, i64::saturating_add);
    refuse(max >= 0 && sum > max, || error)
}

fn check_others<'a>(config: &StreamConfig, others: impl Iterator<Item = &'a StreamConfig>) -> Result<(), ApiError> {
    let touches = |other: &str| config.subjects.iter().any(|subject| overlaps(subject, other));
    let is_taken = others.flat_map(|other| &other.subjects).any(|subject| touches(subject));
    refuse(is_taken, || ApiError::STREAM_SUBJECT_OVERLAP)
}

/// What no update may change.
fn check_unchanged(old: &StreamConfig, new: &StreamConfig) -> Result<(), ApiError> {
    invalid(new.storage != old.storage, "stream configuration update can not change storage type")?;
    let is_queue = [old.retention, new.retention].contains(&Retention::WorkQueue);
    invalid(
        new.retention != old.retention && is_queue,
        "stream configuration update can not change retention policy to/from workqueue",
    )?;
    invalid(old.sealed && !new.sealed, "stream configuration update can not unseal a sealed stream")?;
    let cancels_deny = old.deny_delete && !new.deny_delete;
    invalid(cancels_deny, "stream configuration update can not cancel deny message deletes")?;
    invalid(old.deny_purge && !new.deny_purge, "stream configuration update can not cancel deny purge")?;
    invalid(old.allow_msg_ttl && !new.allow_msg_ttl, "message TTL status can not be disabled")
}

/// Limits for consumers may not become less than a consumer has.
fn check_consumers<'a>(
    old: &StreamConfig,
    new: &StreamConfig,
    consumers: impl Iterator<Item = (&'a str, &'a ConsumerConfig)>,
) -> Result<(), ApiError> {
    let (was, is) = (old.consumer_limits, new.consumer_limits);
    let threshold = is.inactive_threshold;
    let pending = is.max_ack_pending;
    let is_changed =
        threshold > 0 && was.inactive_threshold != threshold || pending > 0 && was.max_ack_pending != pending;
    if !is_changed {
        return Ok(());
    }
    let is_beyond = |consumer: &ConsumerConfig| {
        threshold > 0 && consumer.inactive_threshold > threshold || pending > 0 && consumer.max_ack_pending > pending
    };
    let names: Vec<_> = consumers.filter(|(_, consumer)| is_beyond(consumer)).map(|(name, _)| name).collect();
    refuse(!names.is_empty(), || {
        ApiError::stream_update(&format_args!("change to limits violates consumers: {}", names.join(", ")))
    })
}

impl StreamConfig {
    /// Whether it has a subject that touches a pattern; the empty one touches every stream.
    pub(crate) fn is_about(&self, pattern: &str) -> bool {
        pattern.is_empty() || self.subjects.iter().any(|subject| overlaps(subject, pattern))
    }

    /// # Errors
    /// Where messages may not be removed.
    pub(crate) fn check_message_delete(&self) -> Result<(), ApiError> {
        refuse(self.sealed, || ApiError::STREAM_SEALED)?;
        refuse(self.deny_delete, || ApiError::message_delete_failed(&"message delete not permitted"))
    }

    /// # Errors
    /// Where the stream may not be purged.
    pub(crate) fn check_purge(&self) -> Result<(), ApiError> {
        refuse(self.sealed, || ApiError::STREAM_SEALED)?;
        refuse(self.deny_purge, || ApiError::purge_failed(&"stream purge not permitted"))
    }
}
