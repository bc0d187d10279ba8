//! Single messages: for consumers, for `STREAM.MSG.GET` and for `DIRECT.GET`, which answers with the message itself and its
//! place in headers. A damaged message is told with its file and place, counted, and never passed over in silence.

use bytes::Bytes;

use super::super::api::{
    self, ApiError, MessageFound, MessageGetRequest, StoredMessage, Time, check_level, message_get,
};
use super::super::failure::Failure;
use super::super::store::{self, Load, Stored};
use super::super::wishes;
use super::Stream;
use crate::internal::Message;
use crate::protocol;

/// Limit: subjects whose last messages one request may ask for, as in nats-server.
const MULTI_MAX: usize = 1024;
/// In front of a message that has no headers of its own.
const HEADERS: &[u8] = b"NATS/1.0\r\n";
const BLANK: &[u8] = b"\r\n";

/// Where a message of a batch stands.
#[derive(Clone, Copy, Debug)]
struct InBatch {
    pending: u64,
    /// The sequence of the one before.
    last: u64,
}

impl Stream {
    /// A message; `None` if it is not there or damaged, which is then said.
    pub(super) async fn load(&mut self, sequence: u64) -> Result<Option<Stored>, Failure> {
        match self.store.try_load(sequence) {
            Load::Message(stored) => return Ok(Some(stored)),
            Load::Missing => return Ok(None),
            Load::Elsewhere => {}
        }
        match self.store.load(sequence).await {
            // It stays where it is, and is never served.
            Err(error @ (store::Error::Journal(journal::Error::Damaged(_)) | store::Error::Record { .. })) => {
                self.damaged += 1;
                let error = kit::error::Chain(&error).to_string();
                tracing::error!(stream = self.config.name, sequence, error, "a message is damaged");
                Ok(None)
            }
            loaded => Ok(loaded?),
        }
    }

    /// `STREAM.MSG.GET`.
    pub(super) async fn message_get(&mut self, body: &[u8]) -> Result<Result<MessageFound, ApiError>, Failure> {
        let request = match message_get(body) {
            Ok(request) => request,
            Err(error) => return Ok(Err(error)),
        };
        let sequence = self.find(&request, self.start_of(&request));
        let Some(sequence) = sequence else { return Ok(Err(ApiError::NO_MESSAGE_FOUND)) };
        let Some(stored) = self.load(sequence).await? else { return Ok(Err(ApiError::NO_MESSAGE_FOUND)) };
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
        if request.multi_last.is_empty() {
            self.direct_next(&request, to).await
        } else {
            self.direct_multi(&request, to).await
        }
    }

    /// One message, or a batch of those that follow each other.
    async fn direct_next(&mut self, request: &MessageGetRequest, to: &[u8]) -> Result<(), Failure> {
        let mut from = self.start_of(request);
        let is_batch = request.batch > 0;
        if !is_batch {
            let found = self.find(request, from);
            let stored = match found {
                Some(sequence) => self.load(sequence).await?,
                None => None,
            };
            match stored {
                Some(stored) => self.send_stored(&stored, to, None, request.no_hdr),
                None => self.send_status(to, "404 Message Not Found"),
            }
            return Ok(());
        }
        let filter = if request.next_by_subj.is_empty() { ">" } else { &request.next_by_subj }.as_bytes().to_vec();
        let mut pending = self.store.index.count(std::slice::from_ref(&filter), from);
        let (mut last, mut bytes, bytes_max) = (0, 0, self.batch_bytes(request));
        for at in 0..request.batch {
            let Some(sequence) = self.store.index.first_match(&filter, from) else {
                if at == 0 {
                    self.send_status(to, "404 Message Not Found");
                    return Ok(());
                }
                break;
            };
            from = sequence + 1;
            let Some(stored) = self.load(sequence).await? else { continue };
            pending = pending.saturating_sub(1);
            bytes += stored.subject.len() + stored.headers.len() + stored.payload.len();
            self.send_stored(&stored, to, Some(InBatch { pending, last }), request.no_hdr);
            last = sequence;
            if bytes >= bytes_max {
                break;
            }
        }
        let end = format!("204 EOB\r\nNats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}");
        self.send_status(to, &end);
        Ok(())
    }

    /// The last messages of several subjects.
    async fn direct_multi(&mut self, request: &MessageGetRequest, to: &[u8]) -> Result<(), Failure> {
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
        sequences.retain(|sequence| *sequence >= request.seq);
        if sequences.is_empty() {
            self.send_status(to, "404 No Results");
            return Ok(());
        }
        let (mut pending, mut last, mut bytes) = (sequences.len() as u64, 0, 0);
        let (bytes_max, batch) = (self.batch_bytes(request), usize::try_from(request.batch).unwrap_or(0));
        for (at, sequence) in sequences.into_iter().enumerate() {
            let Some(stored) = self.load(sequence).await? else { continue };
            pending -= 1;
            bytes += stored.subject.len() + stored.headers.len() + stored.payload.len();
            self.send_stored(&stored, to, Some(InBatch { pending, last }), false);
            last = sequence;
            if bytes >= bytes_max || at + 1 == batch {
                break;
            }
        }
        let end = format!(
            "204 EOB\r\nNats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\nNats-UpTo-Sequence: {up_to}"
        );
        self.send_status(to, &end);
        Ok(())
    }

    /// Limit: bytes of one batch; what may wait for one client, where it does not say less.
    fn batch_bytes(&self, request: &MessageGetRequest) -> usize {
        let asked = usize::try_from(request.max_bytes).ok().filter(|asked| *asked > 0);
        asked.unwrap_or(usize::MAX).min(self.shared.broker.limits.pending_max / 2)
    }

    fn send_stored(&mut self, stored: &Stored, to: &[u8], batch: Option<InBatch>, no_headers: bool) {
        let mut content = Vec::with_capacity(256 + stored.headers.len() + stored.payload.len());
        if !no_headers {
            content.extend_from_slice(stored.headers.strip_suffix(BLANK).unwrap_or(HEADERS));
            self.write_place(stored, batch, &mut content);
        }
        let header_len = content.len();
        content.extend_from_slice(&stored.payload);
        let message = protocol::Message { subject: to, reply: None, header_len, content: &content };
        self.publisher.publish_whole(&message);
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
