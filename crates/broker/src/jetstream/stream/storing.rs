//! Taking messages in: what a publisher wishes is judged, what passes is sent to the disk as one batch, and every publisher
//! is answered when its message is there. The order of the checks is nats-server's.

use std::time::Duration;

use bytes::Bytes;
use journal::Pending;

use super::super::api::{ApiError, publish_answer};
use super::super::failure::Failure;
use super::super::ledger::Entry;
use super::super::shared::now;
use super::super::store::{Full, New, Rollup, Ttl};
use super::super::wishes::{self, Wishes};
use super::Stream;
use crate::internal::{Message, Subscription};
use crate::subject::{self, Kind};

/// Limit: messages of one batch, and their bytes.
const BATCH_MAX: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;
/// Limit: bytes of a message's headers, as in nats-server.
const HEADERS_MAX: usize = u16::MAX as usize;
/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Storing {
    pub(super) pending: Pending,
    /// The sequence of its last message.
    last: u64,
    bytes: usize,
    dues: Vec<Due>,
}

/// Whether messages of a stream have ids. Without, nothing has to be read for them when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ids {
    #[default]
    None,
    /// The first is on its way.
    First,
    /// The ledger says so.
    Used,
}

/// What is to be done when a message is on disk.
#[derive(Debug)]
struct Due {
    sequence: u64,
    /// The publisher, where it wants an answer.
    to: Option<Bytes>,
    told: Told,
}

#[derive(Debug)]
enum Told {
    Stored,
    /// Of a message that was there before.
    Duplicate,
}

/// What becomes of a message.
enum Verdict {
    Stored(u64),
    Duplicate(u64),
    Refused(ApiError),
}

impl Stream {
    /// Whether the disk keeps up.
    pub(super) fn has_room(&self) -> bool {
        self.storing_bytes < self.shared.config.limits.queue_bytes
    }

    /// Takes what publishers have sent, as one batch.
    pub(super) async fn take(&mut self, first: Option<Message>, intake: &mut Subscription) -> Result<(), Failure> {
        let (mut dues, mut bytes) = (Vec::new(), 0);
        let mut next = first.or_else(|| intake.try_next());
        while let Some(message) = next {
            bytes += message.len();
            self.consider(&message, &mut dues);
            let is_full = dues.len() >= BATCH_MAX || bytes >= BATCH_BYTES;
            next = if is_full { None } else { intake.try_next() };
        }
        if bytes == 0 {
            return Ok(());
        }
        if self.ids == Ids::First {
            // Order: whoever opens the stream knows of ids before one is acknowledged.
            self.ledger.note(&Entry::IdsUsed);
            self.note_now().await?;
            self.ledger.sync().await?;
            self.ids = Ids::Used;
        }
        let last = self.store.last();
        match self.store.commit().await {
            Ok(Some(pending)) => {
                self.storing_bytes += bytes;
                self.storing.push_back(Storing { pending, last, bytes, dues });
            }
            Ok(None) => match self.storing.back_mut() {
                // Answers to duplicates of messages that are still on their way.
                Some(storing) => storing.dues.extend(dues),
                None => self.settle(last, dues)?,
            },
            Err(failure) => {
                let failure = Failure::from(failure);
                self.refuse_all(&dues, &failure);
                return Err(failure);
            }
        }
        Ok(())
    }

    fn consider(&mut self, message: &Message, dues: &mut Vec<Due>) {
        let to = message.answerable().filter(|_| !self.config.no_ack);
        match self.judge(message) {
            Verdict::Stored(sequence) => {
                dues.push(Due { sequence, to: to.map(Bytes::copy_from_slice), told: Told::Stored });
            }
            Verdict::Duplicate(sequence) => {
                dues.push(Due { sequence, to: to.map(Bytes::copy_from_slice), told: Told::Duplicate });
            }
            Verdict::Refused(error) => {
                tracing::debug!(stream = self.config.name, error = &*error.description, "not stored");
                let payload = publish_answer(&self.config.name, Err(error));
                self.send(to, &payload);
            }
        }
    }

    /// Judges a message and stages it if it may be stored.
    fn judge(&mut self, message: &Message) -> Verdict {
        let headers = message.headers();
        if !subject::is_publishable(message.subject()) {
            return Verdict::Refused(ApiError::BAD_REQUEST);
        }
        if self.config.sealed {
            return Verdict::Refused(ApiError::STREAM_SEALED);
        }
        let wishes = if headers.is_empty() { Wishes::default() } else { Wishes::read(&headers) };
        let ttl = match self.check_before_id(message.subject(), &wishes) {
            Ok(ttl) => ttl,
            Err(error) => return Verdict::Refused(error),
        };
        if let Some(sequence) = wishes.id.and_then(|id| self.duplicates.find(id)) {
            return Verdict::Duplicate(sequence);
        }
        let rollup = match self.check_after_id(message, &wishes) {
            Ok(rollup) => rollup,
            Err(error) => return Verdict::Refused(error),
        };
        let (time, payload) = (self.time(), message.payload());
        let new = New { subject: message.subject(), headers: &headers, payload: &payload, time, ttl, rollup };
        let sequence = match self.store.stage(&new) {
            Ok(sequence) => sequence,
            Err(full) => return Verdict::Refused(full_error(full)),
        };
        if wishes.id.is_some() && self.ids == Ids::None {
            self.ids = Ids::First;
        }
        if let Some(id) = wishes.id {
            let at = self.duplicates.clock();
            self.duplicates.add(id, sequence, time, at);
        }
        self.last_id = wishes.id.map(Into::into);
        Verdict::Stored(sequence)
    }

    fn check_before_id(&mut self, subject: &[u8], wishes: &Wishes<'_>) -> Result<Option<Ttl>, ApiError> {
        if let Some(feature) = wishes.unsupported {
            return Err(feature.error());
        }
        if wishes.stream.is_some_and(|stream| !stream.is_empty() && stream != self.config.name.as_bytes()) {
            return Err(ApiError::STREAM_NOT_MATCH);
        }
        let ttl = match wishes.ttl {
            Some(_) if !self.config.allow_msg_ttl => return Err(ApiError::MESSAGE_TTL_DISABLED),
            Some(text) => Some(wishes::ttl(text).ok_or(ApiError::MESSAGE_TTL_INVALID)?),
            None => None,
        };
        if let Some(expected) = wishes.last_of_subject {
            let of = wishes.of_subject.unwrap_or(subject);
            let last = match subject::kind(of) {
                Kind::Literal => self.store.index.last_by_subject_staged(of),
                _ => self.last_of(of),
            };
            let last = last.unwrap_or(0);
            if last != expected {
                return Err(ApiError::wrong_last_sequence(last));
            }
        } else if wishes.of_subject.is_some() {
            return Err(ApiError::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_INVALID);
        }
        match wishes.last_sequence {
            Some(expected) if expected != self.store.last() => Err(ApiError::wrong_last_sequence(self.store.last())),
            _ => Ok(ttl),
        }
    }

    fn check_after_id(&self, message: &Message, wishes: &Wishes<'_>) -> Result<Option<Rollup>, ApiError> {
        let last_id = self.last_id.as_deref().unwrap_or_default();
        if wishes.last_id.is_some_and(|expected| !expected.is_empty() && expected != last_id) {
            return Err(ApiError::wrong_last_message_id(&String::from_utf8_lossy(last_id)));
        }
        let rollup = match wishes.rollup.filter(|value| !value.is_empty()) {
            None => None,
            Some(_) if !self.config.allow_rollup_hdrs || self.config.deny_purge => {
                return Err(ApiError::rollup_failed(&"rollup not permitted"));
            }
            Some(value) => {
                let invalid = || format!("rollup value invalid: {:?}", String::from_utf8_lossy(value));
                Some(wishes::rollup(value).ok_or_else(|| ApiError::rollup_failed(&invalid()))?)
            }
        };
        let (headers, size) = (message.headers().len(), message.headers().len() + message.payload().len());
        if usize::try_from(self.config.max_msg_size).is_ok_and(|max| size > max) {
            return Err(ApiError::STREAM_MESSAGE_EXCEEDS_MAXIMUM);
        }
        if headers > HEADERS_MAX {
            return Err(ApiError::STREAM_HEADER_EXCEEDS_MAXIMUM);
        }
        let is_remembered = wishes.id.is_none() || self.duplicates.len() < self.shared.config.limits.message_ids_max;
        if !is_remembered || !self.shared.has_room(self.config.storage, (self.storing_bytes + size) as u64) {
            return Err(ApiError::INSUFFICIENT_RESOURCES);
        }
        Ok(rollup)
    }

    /// Sends a marker for each subject's last message whose time is over, where the stream wants them: one, because with it
    /// on its way the message is not the subject's last any more.
    pub(super) async fn mark_expiring(&mut self, now: i64) -> Result<(), Failure> {
        let ttl = u64::try_from(self.config.subject_delete_marker_ttl).unwrap_or(0) / SECOND;
        if ttl == 0 || self.store.next_expiry().is_none_or(|at| at > now) {
            return Ok(());
        }
        let headers = format!("NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: {ttl}s\r\nNats-Rollup: sub\r\n\r\n");
        for sequence in self.store.last_expiring(now) {
            let Some(stored) = self.load(sequence).await?.filter(|stored| !is_marker(&stored.headers)) else {
                continue;
            };
            let (subject, headers) = (&stored.subject, headers.as_bytes());
            let ttl = Some(Ttl::After(Duration::from_secs(ttl)));
            let rollup = Some(Rollup::Subject);
            let new = New { subject, headers, payload: b"", time: self.time(), ttl, rollup };
            // Where the stream is full the message goes without a marker.
            let _ = self.store.stage(&new);
        }
        let last = self.store.last();
        if let Some(pending) = self.store.commit().await? {
            self.storing.push_back(Storing { pending, last, bytes: 0, dues: Vec::new() });
        }
        Ok(())
    }

    /// The time of the next message: never before that of the last one.
    fn time(&mut self) -> i64 {
        self.time = self.time.max(now());
        self.time
    }

    /// The oldest batch is on disk, or never will be.
    pub(super) fn stored(&mut self, stored: Result<u64, journal::Error>) -> Result<(), Failure> {
        let Some(Storing { last, bytes, dues, .. }) = self.storing.pop_front() else { return Ok(()) };
        self.storing_bytes -= bytes;
        if let Err(failure) = stored {
            let failure = Failure::from(failure);
            self.refuse_all(&dues, &failure);
            while let Some(storing) = self.storing.pop_front() {
                self.refuse_all(&storing.dues, &failure);
            }
            return Err(failure);
        }
        self.settle(last, dues)
    }

    /// Everything up to `last` is there: consumers see it, publishers hear of it.
    fn settle(&mut self, last: u64, dues: Vec<Due>) -> Result<(), Failure> {
        let seen = self.store.visible();
        self.is_touched = true;
        self.store.synced(last);
        self.skip_unwanted(seen + 1..=last);
        for Due { sequence, to, told } in dues {
            match told {
                Told::Stored => self.acknowledge(to.as_deref(), sequence, ""),
                Told::Duplicate => self.acknowledge(to.as_deref(), sequence, ",\"duplicate\": true"),
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, to: Option<&[u8]>, sequence: u64, more: &str) {
        if to.is_some() {
            let payload = std::mem::take(self.acknowledgement(sequence, more));
            self.send(to, &payload);
            self.acknowledgement = payload;
        }
    }

    /// A publisher's answer, in a buffer that is used again.
    fn acknowledgement(&mut self, sequence: u64, more: &str) -> &mut Vec<u8> {
        use std::io::Write as _;
        let buffer = &mut self.acknowledgement;
        buffer.clear();
        // Writing to memory does not fail. A stream's name needs no escaping but for quotes, which `check` leaves to JSON.
        let _ = write!(buffer, "{{\"stream\":{},\"seq\":{sequence}{more}}}", self.quoted_name);
        buffer
    }

    fn refuse_all(&mut self, dues: &[Due], failure: &Failure) {
        let error = ApiError::stream_store_failed(&kit::error::Chain(failure));
        let payload = publish_answer(&self.config.name, Err(error));
        for to in dues.iter().filter_map(|due| due.to.as_deref()) {
            self.send(Some(to), &payload);
        }
        self.publisher.wake();
    }
}

/// Whether a message says that its subject has nothing any more.
fn is_marker(headers: &[u8]) -> bool {
    let operation = wishes::value(headers, b"KV-Operation");
    wishes::value(headers, b"Nats-Marker-Reason").is_some() || matches!(operation, Some(b"DEL" | b"PURGE"))
}

/// As nats-server says it.
fn full_error(full: Full) -> ApiError {
    ApiError::stream_store_failed(match full {
        Full::Messages => &"maximum messages exceeded",
        Full::Bytes => &"maximum bytes exceeded",
        Full::PerSubject => &"maximum messages per subject exceeded",
        Full::TooLarge => &"message too large",
    })
}
