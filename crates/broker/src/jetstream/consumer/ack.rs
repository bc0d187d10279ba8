//! The subjects that acknowledgements are sent to and what they say. Pure; clients write both, so anything may stand there.
//! <https://docs.nats.io/reference/reference-protocols/nats_api_reference>

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;

use crate::jetstream::duration;
use crate::subject;

/// Which delivery is acknowledged: `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>`,
/// or the longer form that has a domain and an account's hash behind `ACK`, and perhaps more at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject<'a> {
    pub(crate) stream: &'a [u8],
    pub(crate) consumer: &'a [u8],
    pub(crate) delivered: u64,
    pub(crate) sequence: u64,
    pub(crate) consumer_sequence: u64,
}

const TOKENS: usize = 9;
const TOKENS_LONG: usize = 11;

impl<'a> Subject<'a> {
    /// `None` for what no delivery has as its reply.
    pub(crate) fn parse(subject: &'a [u8]) -> Option<Self> {
        let mut tokens: [&[u8]; TOKENS_LONG] = [b""; TOKENS_LONG];
        let mut len = 0;
        for token in subject::tokens(subject) {
            if let Some(place) = tokens.get_mut(len) {
                *place = token;
            }
            len += 1;
        }
        if tokens[0] != b"$JS" || tokens[1] != b"ACK" {
            return None;
        }
        let at = match len {
            TOKENS => 2,
            TOKENS_LONG.. => 4,
            _ => return None,
        };
        Some(Self {
            stream: tokens[at],
            consumer: tokens[at + 1],
            delivered: number(tokens[at + 2])?,
            sequence: number(tokens[at + 3])?,
            consumer_sequence: number(tokens[at + 4])?,
        })
    }
}

fn number(token: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(token).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// What a subject is written from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) delivered: u64,
    pub(super) sequence: u64,
    pub(super) consumer_sequence: u64,
    pub(super) time: i64,
    pub(super) pending: u64,
}

/// Writes the subject of a delivery. `buffer` is empty before and after; its memory is shared by those that come out.
pub(super) fn write(buffer: &mut BytesMut, prefix: &[u8], numbers: &Numbers) -> Bytes {
    /// What many subjects share.
    const CHUNK: usize = 8192;
    /// Five numbers with a dot or sign each.
    const NUMBERS: usize = 5 * 21;
    let len = prefix.len() + NUMBERS;
    if buffer.capacity() < len {
        buffer.reserve(len.max(CHUNK));
    }
    let Numbers { delivered, sequence, consumer_sequence, time, pending } = numbers;
    buffer.put_slice(prefix);
    write!(buffer.writer(), "{delivered}.{sequence}.{consumer_sequence}.{time}.{pending}")
        .expect("a buffer in memory takes everything");
    buffer.split().freeze()
}

/// What an acknowledgement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Ack,
    /// Not now: again after so many nanoseconds.
    Nak(i64),
    /// Still at it.
    Progress,
    /// Never again.
    Term(String),
    /// Done, and the request for what comes next.
    Next(&'a [u8]),
    /// Means nothing, and is answered all the same.
    Unknown,
}

impl<'a> Kind<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Self {
        match payload {
            b"" | b"+ACK" | b"+OK" => Self::Ack,
            b"+WPI" => Self::Progress,
            _ => {
                if let Some(request) = payload.strip_prefix(b"+NXT") {
                    Self::Next(request)
                } else if let Some(delay) = payload.strip_prefix(b"-NAK") {
                    Self::Nak(delay_of(delay.trim_ascii()).unwrap_or(0))
                } else if let Some(reason) = payload.strip_prefix(b"+TERM") {
                    Self::Term(String::from_utf8_lossy(reason.trim_ascii()).into_owned())
                } else {
                    Self::Unknown
                }
            }
        }
    }
}

/// What cannot be read is no delay.
fn delay_of(text: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Options {
        #[serde(default)]
        delay: i64,
    }
    if text.first() == Some(&b'{') {
        return serde_json::from_slice::<Options>(text).ok().map(|options| options.delay);
    }
    duration::parse(std::str::from_utf8(text).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_read_as_it_was_written() {
        let numbers = Numbers { delivered: 2, sequence: 10, consumer_sequence: 12, time: -5, pending: u64::MAX };
        let mut buffer = BytesMut::new();
        let written = write(&mut buffer, b"$JS.ACK.S.c.", &numbers);
        assert_eq!(written, "$JS.ACK.S.c.2.10.12.-5.18446744073709551615");
        let expected = Subject { stream: b"S", consumer: b"c", delivered: 2, sequence: 10, consumer_sequence: 12 };
        assert_eq!(Subject::parse(&written), Some(expected));
        let long = b"$JS.ACK._.hash.S.c.2.10.12.5.0.more.and.more";
        assert_eq!(Subject::parse(long), Some(expected));
        assert!(buffer.is_empty());
    }

    #[test]
    fn other_subjects_acknowledge_nothing() {
        let others: [&[u8]; 7] = [
            b"",
            b"$JS.ACK.S.c.1.2.3.4",
            b"$JS.ACK.S.c.1.2.3.4.5.6",
            b"$JS.ACK.S.c.x.2.3.4.5",
            b"$JS.ACK.S.c.1.+2.3.4.5",
            b"$JS.ACK.S.c.1.99999999999999999999.3.4.5",
            b"$JS.NAK.S.c.1.2.3.4.5",
        ];
        for other in others {
            assert_eq!(Subject::parse(other), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn acknowledgements_are_told_apart() {
        let cases: [(&[u8], Kind<'_>); 15] = [
            (b"", Kind::Ack),
            (b"+ACK", Kind::Ack),
            (b"+OK", Kind::Ack),
            (b"+WPI", Kind::Progress),
            (b"+WPI ", Kind::Unknown),
            (b"+ack", Kind::Unknown),
            (b"-NAK", Kind::Nak(0)),
            (b"-NAK {\"delay\":50}", Kind::Nak(50)),
            (b"-NAK 10ms", Kind::Nak(10_000_000)),
            (b"-NAK {\"delay\":\"x\"}", Kind::Nak(0)),
            (b"-NAK soon", Kind::Nak(0)),
            (b"+TERM", Kind::Term(String::new())),
            (b"+TERM no good ", Kind::Term("no good".into())),
            (b"+NXT", Kind::Next(b"")),
            (b"+NXT {\"batch\":2}", Kind::Next(b" {\"batch\":2}")),
        ];
        for (payload, expected) in cases {
            assert_eq!(Kind::parse(payload), expected, "{}", payload.escape_ascii());
        }
    }
}
