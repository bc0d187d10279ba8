//! What a publisher asks for in the headers of a message: an id against duplicates, what must have been before it, how long
//! it is kept, what it replaces. Pure. Names are matched exactly, as nats-server does.
//! <https://docs.nats.io/nats-concepts/jetstream/headers>

use std::time::Duration;

use super::api::ApiError;
use super::duration;
use super::store::{Rollup, Ttl};

/// The headers of one message that mean something to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes<'a> {
    pub(super) id: Option<&'a [u8]>,
    pub(super) stream: Option<&'a [u8]>,
    pub(super) last_sequence: Option<u64>,
    pub(super) last_of_subject: Option<u64>,
    /// Of which subjects `last_of_subject` is meant; the message's own without it.
    pub(super) of_subject: Option<&'a [u8]>,
    pub(super) last_id: Option<&'a [u8]>,
    pub(super) rollup: Option<&'a [u8]>,
    pub(super) ttl: Option<&'a [u8]>,
    /// A header of a feature that is not there: counters, schedules, atomic batches.
    pub(super) unsupported: Option<Unsupported>,
}

/// A feature that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsupported {
    Counters,
    Schedules,
    Batches,
}

impl Unsupported {
    pub(super) fn error(self) -> ApiError {
        match self {
            Self::Counters => ApiError::MESSAGE_COUNTERS_DISABLED,
            Self::Schedules => ApiError::MESSAGE_SCHEDULES_DISABLED,
            Self::Batches => ApiError::ATOMIC_PUBLISH_DISABLED,
        }
    }
}

/// The lines of a header block, name and value, without the first.
pub(super) fn lines(headers: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = headers.split(|byte| *byte == b'\n').skip(1);
    lines.filter_map(|line| {
        let at = memchr::memchr(b':', line)?;
        Some((&line[..at], line[at + 1..].trim_ascii()))
    })
}

/// The first value of a header.
pub(super) fn value<'a>(headers: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    lines(headers).find(|(found, _)| *found == name).map(|(_, value)| value)
}

impl<'a> Wishes<'a> {
    pub(super) fn read(headers: &'a [u8]) -> Self {
        let mut wishes = Self::default();
        for (name, value) in lines(headers).filter(|(name, _)| name.starts_with(b"Nats-")) {
            // What is no number is one that no message has, as in nats-server.
            let number =
                || Some(std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX));
            match name {
                b"Nats-Msg-Id" => wishes.id = wishes.id.or(Some(value)).filter(|id| !id.is_empty()),
                b"Nats-Expected-Stream" => wishes.stream = Some(value),
                b"Nats-Expected-Last-Sequence" => wishes.last_sequence = number(),
                b"Nats-Expected-Last-Subject-Sequence" => wishes.last_of_subject = number(),
                b"Nats-Expected-Last-Subject-Sequence-Subject" => wishes.of_subject = Some(value),
                b"Nats-Expected-Last-Msg-Id" => wishes.last_id = Some(value),
                b"Nats-Rollup" => wishes.rollup = Some(value),
                b"Nats-TTL" => wishes.ttl = Some(value).filter(|ttl| !ttl.is_empty()),
                b"Nats-Incr" => wishes.unsupported = Some(Unsupported::Counters),
                b"Nats-Schedule" => wishes.unsupported = Some(Unsupported::Schedules),
                b"Nats-Batch-Id" => wishes.unsupported = Some(Unsupported::Batches),
                _ => {}
            }
        }
        wishes
    }
}

/// What a rollup header says: `None` for neither `sub` nor `all`.
pub(super) fn rollup(value: &[u8]) -> Option<Rollup> {
    match value.to_ascii_lowercase().as_slice() {
        b"sub" => Some(Rollup::Subject),
        b"all" => Some(Rollup::All),
        _ => None,
    }
}

/// What a TTL says: whole seconds, a duration as Go writes it (`1h30m`), or `never`. `None` for what is shorter than a
/// second or no such thing.
pub(super) fn ttl(value: &[u8]) -> Option<Ttl> {
    let text = std::str::from_utf8(value).ok()?;
    if text == "never" {
        return Some(Ttl::Never);
    }
    let after = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => Duration::from_nanos(u64::try_from(duration::parse(text)?).ok()?),
    };
    (after >= Duration::from_secs(1) && i64::try_from(after.as_nanos()).is_ok()).then_some(Ttl::After(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_by_their_exact_names() {
        let headers = b"NATS/1.0\r\nNats-Msg-Id: a b \r\nnats-ttl: 5\r\nNats-Expected-Last-Sequence:7\r\n\
            Nats-Rollup: sub\r\nNats-Incr: +1\r\nX: y\r\n\r\n";
        let wishes = Wishes::read(headers);
        assert_eq!((wishes.id, wishes.last_sequence), (Some(b"a b".as_slice()), Some(7)));
        assert_eq!((wishes.ttl, wishes.unsupported), (None, Some(Unsupported::Counters)));
        assert_eq!(wishes.rollup.and_then(rollup), Some(Rollup::Subject));
        assert_eq!(value(headers, b"X"), Some(b"y".as_slice()));
        assert_eq!(Wishes::read(b""), Wishes::default());
        assert_eq!(Wishes::read(b"NATS/1.0\r\n\r\n"), Wishes::default());
    }

    #[test]
    fn times_to_live_are_seconds_or_durations() {
        let after = |seconds| Some(Ttl::After(Duration::from_secs_f64(seconds)));
        assert_eq!(
            [ttl(b"5"), ttl(b"1h30m"), ttl(b"1.5s"), ttl(b"never")],
            [after(5.0), after(5400.0), after(1.5), Some(Ttl::Never)]
        );
        let exact = Some(Ttl::After(Duration::from_nanos(9_007_199_254_740_993)));
        assert_eq!(ttl("9007199254740993ns".as_bytes()), exact);
        assert_eq!(ttl("1000001000000μs".as_bytes()), after(1_000_001.0));
        for wrong in [b"".as_slice(), b"0", b"500ms", b"-1", b"1x", b"s", b"1e3s", b"99999999999999999999h", b"\xff"] {
            assert_eq!(ttl(wrong), None, "{wrong:?}");
        }
    }
}
