//! The bytes of one message in a journal, version 1, as pure functions. A checksum is not needed: the journal has one.

// Little-endian.
//
//   0 1 version    2 2 length of the subject    8 8 time             then, if flag 1: 8 TTL in nanoseconds;
//   1 1 flags      4 4 length of the headers      (ns, epoch)        subject, headers, payload
//
// In `kept` it follows 8 bytes with its sequence, the highest bit zero.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Error, New, Result, Rollup, Stored, Ttl};

const VERSION: u8 = 1;
/// Limit: bytes in front of the subject, with a TTL.
pub(super) const OVERHEAD: usize = HEAD + 8;
const HEAD: usize = 16;

const TTL: u8 = 1;
const NEVER: u8 = 2;
const ROLLUP_SUBJECT: u8 = 4;
const ROLLUP_ALL: u8 = 8;

/// A message as its record tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoded<'a> {
    pub(super) time: i64,
    pub(super) ttl: Option<Ttl>,
    pub(super) rollup: Option<Rollup>,
    pub(super) subject: &'a [u8],
    pub(super) headers: &'a [u8],
    pub(super) payload: &'a [u8],
}

pub(super) fn flags(ttl: Option<Ttl>, rollup: Option<Rollup>) -> u8 {
    let ttl = match ttl {
        None => 0,
        Some(Ttl::After(_)) => TTL,
        Some(Ttl::Never) => NEVER,
    };
    let rollup = match rollup {
        None => 0,
        Some(Rollup::Subject) => ROLLUP_SUBJECT,
        Some(Rollup::All) => ROLLUP_ALL,
    };
    ttl | rollup
}

/// What flags say; `after` is the TTL that goes with them.
pub(super) fn from_flags(flags: u8, after: impl FnOnce() -> Option<u64>) -> Option<(Option<Ttl>, Option<Rollup>)> {
    let ttl = match flags & (TTL | NEVER) {
        0 => None,
        TTL => Some(Ttl::After(Duration::from_nanos(after()?))),
        NEVER => Some(Ttl::Never),
        _ => return None,
    };
    let rollup = match flags & !(TTL | NEVER) {
        0 => None,
        ROLLUP_SUBJECT => Some(Rollup::Subject),
        ROLLUP_ALL => Some(Rollup::All),
        _ => return None,
    };
    Some((ttl, rollup))
}

pub(super) fn length(message: &New<'_>) -> usize {
    let ttl = if let Some(Ttl::After(_)) = message.ttl { 8 } else { 0 };
    HEAD + ttl + message.subject.len() + message.headers.len() + message.payload.len()
}

/// Appends a message; its subject is at most 65,535 bytes, all of it at most 1 GiB.
pub(super) fn push(buffer: &mut BytesMut, message: &New<'_>, time: i64) {
    buffer.put_u8(VERSION);
    buffer.put_u8(flags(message.ttl, message.rollup));
    buffer.put_u16_le(message.subject.len() as u16);
    buffer.put_u32_le(message.headers.len() as u32);
    buffer.put_i64_le(time);
    if let Some(Ttl::After(after)) = message.ttl {
        buffer.put_u64_le(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
    }
    buffer.put_slice(message.subject);
    buffer.put_slice(message.headers);
    buffer.put_slice(message.payload);
}

/// Reads what [`push`] wrote; `None` for anything else.
pub(super) fn decode(record: &[u8]) -> Option<Decoded<'_>> {
    let (head, mut rest) = record.split_first_chunk::<16>()?;
    if head[0] != VERSION {
        return None;
    }
    let after = || {
        let (after, behind) = rest.split_first_chunk::<8>()?;
        rest = behind;
        Some(u64::from_le_bytes(*after))
    };
    let (ttl, rollup) = from_flags(head[1], after)?;
    let subject_len = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let headers_len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let (subject, rest) = rest.split_at_checked(subject_len)?;
    let (headers, payload) = rest.split_at_checked(headers_len)?;
    let time = i64::from_le_bytes([head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15]]);
    Some(Decoded { time, ttl, rollup, subject, headers, payload })
}

/// The message, sharing the record's memory.
pub(super) fn stored(record: &Bytes, sequence: u64) -> Result<Stored> {
    let Decoded { time, subject, headers, payload, .. } = decode(record).ok_or(Error::Record { sequence })?;
    Ok(Stored {
        sequence,
        time,
        subject: record.slice_ref(subject),
        headers: record.slice_ref(headers),
        payload: record.slice_ref(payload),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_and_a_cut_one_does_not() {
        let ttls = [None, Some(Ttl::Never), Some(Ttl::After(Duration::from_secs(7)))];
        let rollups = [None, Some(Rollup::Subject), Some(Rollup::All)];
        for (ttl, rollup) in ttls.into_iter().flat_map(|ttl| rollups.map(|rollup| (ttl, rollup))) {
            let new = New { subject: b"a.b", headers: b"NATS/1.0\r\n\r\n", payload: b"", time: 0, ttl, rollup };
            let mut buffer = BytesMut::new();
            push(&mut buffer, &new, -5);
            assert_eq!(buffer.len(), length(&new));
            let record = buffer.freeze();
            let read = decode(&record).expect("whole");
            assert_eq!((read.time, read.ttl, read.rollup), (-5, ttl, rollup));
            let stored = stored(&record, 9).expect("whole");
            assert_eq!((&*stored.subject, &*stored.headers, stored.payload.len()), (&b"a.b"[..], new.headers, 0));
            for end in 0..record.len() {
                assert!(decode(&record[..end]).is_none(), "cut at {end}");
            }
        }
    }
}
