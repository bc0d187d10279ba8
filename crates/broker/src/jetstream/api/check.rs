//! What of a client's wish is allowed, and what it becomes: defaults, combinations, updates, limits. The order of the checks
//! is that of nats-server, because a client that is wrong twice is told of the first.

mod consumer;
mod stream;

use std::collections::BTreeMap;
use std::fmt::Display;

pub(crate) use consumer::{ConsumerChange, check_consumer, consumer_request, pause_consumer};
pub(crate) use stream::{StreamCreation, check_stream_create, check_stream_update};

use super::{ApiError, ConsumerConfig, LEVEL, StreamConfig};
use crate::protocol::VERSION;
use crate::subject::{self, Kind};

/// Bytes of a name.
const NAME_MAX: usize = 255;
/// Bytes of a description.
const DESCRIPTION_MAX: usize = 4 * 1024;
/// Bytes of all keys and values of `metadata` together.
const METADATA_MAX: usize = 128 * 1024;
/// Subjects of a stream, and filters of a consumer. nats-server has no such bound; each is compared with each.
const PATTERNS_MAX: usize = 1024;

const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000 * MILLISECOND;

const REQUIRED_LEVEL: &str = "_nats.req.level";
const SERVER_VERSION: &str = "_nats.ver";
const SERVER_LEVEL: &str = "_nats.level";

/// What happens to a value that can only be meant otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It is corrected.
    Lenient,
    /// It is refused.
    Pedantic,
}

impl Mode {
    fn of(is_pedantic: bool) -> Self {
        if is_pedantic { Self::Pedantic } else { Self::Lenient }
    }

    /// Refuses what is about to be corrected, in pedantic mode.
    fn correct(self, reason: &dyn Display) -> Result<(), ApiError> {
        match self {
            Self::Lenient => Ok(()),
            Self::Pedantic => Err(ApiError::pedantic(reason)),
        }
    }
}

/// Checks the header `Nats-Required-Api-Level` of a request.
///
/// # Errors
/// 10185 where it is no number or more than is served.
pub(crate) fn check_level(header: Option<&[u8]>) -> Result<(), ApiError> {
    let Some(header) = header.filter(|value| !value.is_empty()) else { return Ok(()) };
    let level = std::str::from_utf8(header).ok().and_then(|level| level.parse::<i64>().ok());
    if level.is_some_and(|level| level <= i64::from(LEVEL)) { Ok(()) } else { Err(ApiError::REQUIRED_API_LEVEL) }
}

impl StreamConfig {
    /// As it is shown in every answer but a list: with the server's version and level.
    pub(crate) fn shown(&self) -> Self {
        let mut shown = self.clone();
        show_server(&mut shown.metadata);
        shown
    }
}

impl ConsumerConfig {
    /// As it is shown in every answer: with the server's version and level.
    pub(crate) fn shown(&self) -> Self {
        let mut shown = self.clone();
        show_server(&mut shown.metadata);
        shown
    }
}

fn show_server(metadata: &mut BTreeMap<String, String>) {
    metadata.insert(SERVER_VERSION.into(), VERSION.into());
    metadata.insert(SERVER_LEVEL.into(), LEVEL.to_string());
}

/// Writes which level something needs, and forgets what is only shown.
fn require_level(metadata: &mut BTreeMap<String, String>, level: u32) {
    metadata.remove(SERVER_VERSION);
    metadata.remove(SERVER_LEVEL);
    metadata.insert(REQUIRED_LEVEL.into(), level.to_string());
}

/// Whether something may be named so: a single token that is safe as a file's name.
fn is_valid_name(name: &str) -> bool {
    let is_forbidden = |letter: char| letter.is_control() || " .*>\\/".contains(letter);
    !name.is_empty() && !name.contains(is_forbidden)
}

fn is_valid_subject(subject: &str) -> bool {
    let is_space = |letter: char| " \t\n\r\u{c}".contains(letter);
    subject::kind(subject.as_bytes()) != Kind::Invalid && !subject.contains(is_space)
}

fn overlaps(one: &str, other: &str) -> bool {
    subject::overlaps(one.as_bytes(), other.as_bytes())
}

fn covers(wide: &str, narrow: &str) -> bool {
    subject::covers(wide.as_bytes(), narrow.as_bytes())
}

fn metadata_bytes(metadata: &BTreeMap<String, String>) -> usize {
    metadata.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// `Err(error)` where `is_wrong`.
fn refuse(is_wrong: bool, error: impl FnOnce() -> ApiError) -> Result<(), ApiError> {
    if is_wrong { Err(error()) } else { Ok(()) }
}

/// Refuses a configuration for a reason.
fn invalid(is_wrong: bool, reason: &'static str) -> Result<(), ApiError> {
    refuse(is_wrong, || ApiError::stream_invalid_config(&reason))
}
