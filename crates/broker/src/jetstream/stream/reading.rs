//! Single messages: for consumers, for `STREAM.MSG.GET` and for `DIRECT.GET`, which answers with the message itself and its
//! place in headers. A damaged message is told with its file and place, counted, and never passed over in silence.

use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::super::api::{
    self, ApiError, MessageFound, MessageGetRequest, StoredMessage, Time, check_level, message_get,
};
use super::super::failure::Failure;
use super::super::store::{self, Load, Stored};
use super::super::wishes;
use super::Stream;
use crate::auth::User;
use crate::internal::Message;
use crate::protocol;

/// Limit: subjects whose last messages one request may ask for, as in nats-server.
const MULTI_MAX: usize = 1024;
const NOT_FOUND: &str = "404 Message Not Found";
/// How many messages of a batch are read before others on this core have their turn.
const BREATH: i64 = 256;
/// What the kernel says of a medium that does not give what was written: EIO, ENODATA, EBADMSG, EUCLEAN.
const BAD_MEDIUM: [i32; 4] = [5, 61, 74, 117];
/// In front of a message that has no headers of its own.
const HEADERS: &[u8] = b"NATS/1.0\r\n";
const BLANK: &[u8] = b"\r\n";

/// What becomes of a look at a message.
#[derive(Debug)]
pub(super) enum Read {
    Message(Stored),
    /// It is not there, or damaged.
    Gone,
    /// The system lacks something, such as file descriptors: it can be asked for again.
    NotNow,
}

/// Where a message of a batch stands.
#[derive(Clone, Copy, Debug)]
struct InBatch {
    pending: u64,
    /// The sequence of the one before.
    last: u64,
}

/// What was sent of a batch, and its bounds.
#[derive(Debug)]
struct Batch {
    /// Bytes of messages, as the client asks for them.
    bytes_max: usize,
    bytes: usize,
    /// Limit: bytes with what stands around them; a part of what may wait for one client.
    sent_max: usize,
    sent: usize,
    /// The sequence of the last one; 0: none yet.
    last: u64,
}

impl Batch {
    /// Whether nothing fits behind this one.
    fn is_full_with(&mut self, stored: &Stored, sent: usize) -> bool {
        self.bytes += stored.subject.len() + stored.headers.len() + stored.payload.len();
        self.sent += sent;
        self.last = stored.sequence;
        self.bytes >= self.bytes_max || self.sent >= self.sent_max
    }
}

impl Stream {
    /// A message; `None` if it is not there, is damaged or cannot be read now, which is then said.
    pub(super) async fn load(&mut self, sequence: u64) -> Result<Option<Stored>, Failure> {
        Ok(match self.read(sequence).await? {
            Read::Message(stored) => Some(stored),
            Read::Gone | Read::NotNow => None,
        })
    }

    /// A message, if it can be had. That one cannot be read is no failure of the stream.
    pub(super) async fn read(&mut self, sequence: u64) -> Result<Read, Failure> {
        match self.store.try_load(sequence) {
            Load::Message(stored) => return Ok(Read::Message(stored)),
            Load::Missing => return Ok(Read::Gone),
            Load::Elsewhere => {}
        }
        let error = match self.store.load(sequence).await {
            Ok(stored) => return Ok(stored.map_or(Read::Gone, Read::Message)),
            Err(error) => error,
        };
        let is_lost = match &error {
            store::Error::Journal(journal::Error::Damaged(_)) | store::Error::Record { .. } => true,
            store::Error::Journal(journal::Error::Io { source, .. }) => is_unreadable(source),
            _ => return Err(error.into()),
        };
        let reason = kit::error::Chain(&error).to_string();
        if is_lost {
            // It stays where it is, and is never served.
            self.shared.damaged.fetch_add(1, Ordering::Relaxed);
            tracing::error!(stream = self.config.name, sequence, error = reason, "a message is damaged");
            return Ok(Read::Gone);
        }
        tracing::warn!(stream = self.config.name, sequence, error = reason, "a message cannot be read now");
        Ok(Read::NotNow)
    }

    /// `STREAM.MSG.GET`. What whoever asks may not subscribe to is not found.
    pub(super) async fn message_get(
        &mut self,
        body: &[u8],
        user: &User,
    ) -> Result<Result<MessageFound, ApiError>, Failure> {
        let request = match message_get(body) {
            Ok(request) => request,
            Err(error) => return Ok(Err(error)),
        };
        let sequence = self.find(&request, self.start_of(&request));
        let Some(sequence) = sequence else { return Ok(Err(ApiError::NO_MESSAGE_FOUND)) };
        let stored = self.load(sequence).await?.filter(|stored| user.permissions.may_read(&stored.subject));
        let Some(stored) = stored else { return Ok(Err(ApiError::NO_MESSAGE_FOUND)) };
        Ok(Ok(MessageFound {
            message: StoredMessage {
                subject: String::from_utf8_lossy(&stored.subject).into_owned(),
                seq: stored.sequence,
                hdrs: if request.no_hdr { Bytes::new() } else { stored.headers },
                data: stored.payload,
                time: Time::from_nanoseconds(stored.time),
            },
        }))
    }

    /// The sequence from which a request begins.
    fn start_of(&self, request: &MessageGetRequest) -> u64 {
        match request.start_time {
            Some(time) => self.store.index.first_after(time.nanoseconds()).unwrap_or(self.store.last() + 1),
            None => request.seq,
        }
    }

    /// Which message one is asked for.
    fn find(&mut self, request: &MessageGetRequest, from: u64) -> Option<u64> {
        if !request.next_by_subj.is_empty() {
            return self.store.index.first_match(request.next_by_subj.as_bytes(), from);
        }
        if !request.last_by_subj.is_empty() {
            return self.last_of(request.last_by_subj.as_bytes());
        }
        match request.start_time {
            Some(_) => self.store.index.first_match(b">", from),
            None => Some(from),
        }
    }

    /// The last message whose subject a pattern matches.
    pub(super) fn last_of(&mut self, pattern: &[u8]) -> Option<u64> {
        if crate::subject::is_publishable(pattern) {
            return self.store.index.last_by_subject(pattern);
        }
        self.last_match(&[pattern.to_vec()])
    }

    /// The last message that one of several patterns matches.
    pub(super) fn last_match(&mut self, filters: &[Vec<u8>]) -> Option<u64> {
        let last = self.store.visible();
        self.store.index.last_by_filter(filters, last, usize::MAX)?.last().copied()
    }

    /// `DIRECT.GET`: one message or several, straight to whoever asks.
    pub(super) async fn direct(&mut self, subject: Option<&str>, message: &Message) -> Result<(), Failure> {
        let Some(to) = message.answerable() else { return Ok(()) };
        let level = wishes::value(&message.headers(), b"Nats-Required-Api-Level").map(<[u8]>::to_vec);
        if check_level(level.as_deref()).is_err() {
            self.send_status(to, "412 Required Api Level");
            return Ok(());
        }
        let body = message.payload();
        let read = match subject {
            Some(subject) => api::direct_get_last(subject, &body),
            None => api::direct_get(&body),
        };
        let request = match read {
            Ok(request) => request,
            Err(status) => {
                self.send_status(to, status);
                return Ok(());
            }
        };
        let user = message.user();
        match (request.multi_last.is_empty(), request.batch > 0) {
            (true, false) => self.direct_one(&request, to, user).await,
            (true, true) => self.direct_batch(&request, to, user).await,
            (false, _) => self.direct_multi(&request, to, user).await,
        }
    }

    async fn direct_one(&mut self, request: &MessageGetRequest, to: &[u8], user: &User) -> Result<(), Failure> {
        let found = self.find(request, self.start_of(request));
        let stored = match found {
            Some(sequence) => self.load(sequence).await?,
            None => None,
        };
        match stored.filter(|stored| user.permissions.may_read(&stored.subject)) {
            Some(stored) => _ = self.send_stored(&stored, to, None, request.no_hdr),
            None => self.send_status(to, NOT_FOUND),
        }
        Ok(())
    }

    /// Messages that follow each other.
    async fn direct_batch(&mut self, request: &MessageGetRequest, to: &[u8], user: &User) -> Result<(), Failure> {
        let filter = Some(request.next_by_subj.as_str()).filter(|filter| !filter.is_empty());
        if !self.may_read(user, filter.into_iter()) {
            self.send_status(to, NOT_FOUND);
            return Ok(());
        }
        let filters: Vec<Vec<u8>> = filter.iter().map(|filter| filter.as_bytes().to_vec()).collect();
        let from = self.start_of(request);
        let cursor = self.store.index.open_cursor(&filters, from);
        let mut batch = self.batch(request);
        for at in 1..=request.batch {
            let Some(sequence) = self.store.index.next(cursor) else { break };
            let Some(stored) = self.load(sequence).await? else { continue };
            let pending = self.store.index.pending(cursor);
            let place = InBatch { pending, last: batch.last };
            let sent = self.send_stored(&stored, to, Some(place), request.no_hdr);
            if batch.is_full_with(&stored, sent) {
                break;
            }
            if at % BREATH == 0 {
                tokio::task::yield_now().await;
            }
        }
        let pending = self.store.index.pending(cursor);
        self.store.index.close_cursor(cursor);
        if batch.last == 0 {
            self.send_status(to, NOT_FOUND);
        } else {
            let last = batch.last;
            self.send_status(to, &format!("204 EOB\r\nNats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}"));
        }
        Ok(())
    }

    /// The last messages of several subjects.
    async fn direct_multi(&mut self, request: &MessageGetRequest, to: &[u8], user: &User) -> Result<(), Failure> {
        let up_to = match request.up_to_time {
            Some(time) => match self.store.index.first_after(time.nanoseconds()).unwrap_or(self.store.visible() + 1) {
                first if first <= self.store.first() => {
                    self.send_status(to, "404 No Results");
                    return Ok(());
                }
                first => first - 1,
            },
            None if request.up_to_seq == 0 => self.store.visible(),
            None => request.up_to_seq,
        };
        let filters: Vec<Vec<u8>> = request.multi_last.iter().map(|filter| filter.as_bytes().to_vec()).collect();
        let Some(mut sequences) = self.store.index.last_by_filter(&filters, up_to, MULTI_MAX) else {
            self.send_status(to, "413 Too Many Results");
            return Ok(());
        };
        let index = &self.store.index;
        let may_read = |sequence| index.subject(sequence).is_some_and(|subject| user.permissions.may_read(subject));
        sequences.retain(|sequence| *sequence >= request.seq && may_read(*sequence));
        if sequences.is_empty() {
            self.send_status(to, "404 No Results");
            return Ok(());
        }
        let mut pending = sequences.len() as u64;
        let (mut batch, count_max) = (self.batch(request), usize::try_from(request.batch).unwrap_or(0));
        for (at, sequence) in sequences.into_iter().enumerate() {
            let Some(stored) = self.load(sequence).await? else { continue };
            pending -= 1;
            let sent = self.send_stored(&stored, to, Some(InBatch { pending, last: batch.last }), false);
            if batch.is_full_with(&stored, sent) || at + 1 == count_max {
                break;
            }
        }
        let last = batch.last;
        let end = format!(
            "204 EOB\r\nNats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\nNats-UpTo-Sequence: {up_to}"
        );
        self.send_status(to, &end);
        Ok(())
    }

    fn batch(&self, request: &MessageGetRequest) -> Batch {
        let asked = usize::try_from(request.max_bytes).ok().filter(|asked| *asked > 0);
        let sent_max = self.shared.broker.limits.pending_max / 2;
        Batch { bytes_max: asked.unwrap_or(usize::MAX), bytes: 0, sent_max, sent: 0, last: 0 }
    }

    /// Gives how many bytes were sent.
    fn send_stored(&mut self, stored: &Stored, to: &[u8], batch: Option<InBatch>, no_headers: bool) -> usize {
        let mut content = Vec::with_capacity(256 + stored.headers.len() + stored.payload.len());
        if !no_headers {
            content.extend_from_slice(stored.headers.strip_suffix(BLANK).unwrap_or(HEADERS));
            self.write_place(stored, batch, &mut content);
        }
        let header_len = content.len();
        content.extend_from_slice(&stored.payload);
        let message = protocol::Message { subject: to, reply: None, header_len, content: &content };
        self.publisher.publish_whole(&message);
        content.len()
    }

    /// Where a message stands, as headers up to the empty line.
    fn write_place(&self, stored: &Stored, batch: Option<InBatch>, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let (name, sequence) = (&self.config.name, stored.sequence);
        let time = Time::from_nanoseconds(stored.time);
        out.extend_from_slice(b"Nats-Stream: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\r\nNats-Subject: ");
        out.extend_from_slice(&stored.subject);
        // Writing to memory does not fail.
        let _ = write!(out, "\r\nNats-Sequence: {sequence}\r\nNats-Time-Stamp: {time}\r\n");
        if let Some(InBatch { pending, last }) = batch {
            let _ = write!(out, "Nats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\n");
        }
        out.extend_from_slice(BLANK);
    }

    /// A status with its description, and headers behind it, without a payload.
    pub(super) fn send_status(&mut self, to: &[u8], status: &str) {
        let content = format!("NATS/1.0 {status}\r\n\r\n");
        let content = content.as_bytes();
        let message = protocol::Message { subject: to, reply: None, header_len: content.len(), content };
        self.publisher.publish_whole(&message);
    }
}

/// Whether this says that the bytes cannot be had any more, and not only now.
fn is_unreadable(error: &io::Error) -> bool {
    let is_lost = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData);
    is_lost || error.raw_os_error().is_some_and(|number| BAD_MEDIUM.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_sector_is_damage_and_a_lack_of_descriptors_is_not() {
        let of = |number| is_unreadable(&io::Error::from_raw_os_error(number));
        // EIO, EBADMSG, ENOENT; EMFILE, ENFILE, ENOMEM, EACCES.
        assert_eq!([5, 74, 2, 24, 23, 12, 13].map(of), [true, true, true, false, false, false, false]);
    }
}
