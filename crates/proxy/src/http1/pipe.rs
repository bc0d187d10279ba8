//! Content on its way from one socket to another, in one direction: taken out of the one framing, put into the other, with
//! the head before it in the same write. Asks for more only when all that was read is written, which is what keeps a slow
//! reader from filling the memory. Knows neither who stands at the ends nor how long they may take.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::http1::chunk::{Bounds, Decoder, Malformed, Progress, Trailers};
use crate::message::Length;
use crate::stock::{BUFFER_BYTES, Stock};
use crate::timers::Moment;

// Limit: what is kept of one request's body, so that it can be sent again. A longer one is sent once.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Content up to this size is copied behind the head: cheaper than a write of several parts.
const COPIED_BYTES_MAX: usize = 2048;

/// The least room that a read is given.
const ROOM_BYTES_MIN: usize = 4096;

/// Why content cannot go on.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The framing of what came breaks the rules.
    Malformed(Malformed),
    TooLarge,
    /// The source ended before the content did.
    Incomplete,
    SourceLost,
    SinkLost,
}

/// Whom the content waits for, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Waits {
    #[default]
    Nobody,
    Source(Moment),
    Sink(Moment),
}

#[derive(Clone, Copy, Debug, Default)]
enum Source {
    Exact(u64),
    Chunked(Decoder),
    UntilClose,
    /// All of it was read.
    #[default]
    Ended,
}

/// How content is framed for who takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sink {
    /// By its length, or by the end of the connection.
    #[default]
    Plain,
    Chunked,
}

/// One direction. The buffer that goes with it is cut into: what stays (`base`), content that was sent or is kept, content
/// to be sent (`ready`), a gap where framing was, and bytes that were not looked at yet (from `raw` on).
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    source: Source,
    sink: Sink,
    base: usize,
    ready_start: usize,
    ready_end: usize,
    raw: usize,
    /// Whether content stays in the buffer when it was sent.
    keeps: bool,
    /// The round: what is written before the content, and how much of it was.
    lead: Vec<u8>,
    lead_sent: usize,
    /// The round: whether it is put together.
    is_staged: bool,
    /// The round: how much of `ready` belongs to it.
    staged: usize,
    tail: &'static [u8],
    /// Whether any content belongs to the round.
    carries: bool,
    /// Whether the round is the last.
    is_last: bool,
    trailers: Trailers,
    bounds: Bounds,
    /// Content read so far.
    pub(crate) bytes: u64,
    bytes_max: u64,
    /// How much content may be passed on by now.
    pub(crate) quota: u64,
    /// How much was.
    passed: u64,
    /// When it last went on.
    pub(crate) moved: Moment,
    /// When all content was read; never before that.
    pub(crate) ended: Moment,
    pub(crate) waits: Waits,
    /// Whether any sink took any content.
    is_touched: bool,
    /// Bytes that the sink took, framing and head too.
    pub(crate) sent: u64,
}

impl Pipe {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Begins with content of this length that begins at `raw` of the buffer; what is before `base` stays there.
    pub(crate) fn begin(&mut self, content: Length, base: usize, raw: usize, bytes_max: u64, now: Moment) {
        self.source = match content {
            Length::None => Source::Ended,
            Length::Exact(length) => Source::Exact(length),
            Length::Chunked => Source::Chunked(Decoder::new(self.bounds)),
            Length::UntilClose => Source::UntilClose,
        };
        (self.base, self.ready_start, self.ready_end, self.raw) = (base, raw, raw, raw);
        (self.keeps, self.is_touched, self.carries) = (false, false, false);
        self.trailers.lines.clear();
        (self.bytes, self.bytes_max, self.moved) = (0, bytes_max, now);
        (self.quota, self.passed) = (u64::MAX, 0);
        self.ended = if self.has_ended() { now } else { Moment::NEVER };
        self.begin_again(Sink::Plain);
    }

    /// Begins anew with a sink that took nothing yet: with all content that was kept, and the head that is to be written
    /// to the buffer that this gives.
    pub(crate) fn begin_again(&mut self, sink: Sink) -> &mut Vec<u8> {
        // What was staged for a sink that took nothing of it is there still.
        if self.keeps || (self.carries && !self.is_touched) {
            self.ready_start = self.base;
        }
        self.sink = sink;
        self.end_round();
        (self.is_last, self.sent, self.waits) = (false, 0, Waits::Nobody);
        &mut self.lead
    }

    /// Keeps what is read from now on, unless it is or becomes too long.
    pub(crate) fn keep(&mut self) {
        self.keeps = !matches!(self.source, Source::Exact(length) if length > KEPT_BYTES_MAX as u64);
    }

    /// What is written before anything else.
    pub(crate) fn lead(&mut self) -> &mut Vec<u8> {
        &mut self.lead
    }

    /// Whether it is worth to be kept for the next.
    pub(crate) fn is_small(&self) -> bool {
        self.lead.capacity() <= BUFFER_BYTES
    }

    /// Whether all content was read.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.source, Source::Ended)
    }

    /// Whether all of it was written.
    pub(crate) fn is_done(&self) -> bool {
        self.is_last && self.round_left() == 0
    }

    /// Whether another sink could still get all of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.keeps || !self.is_touched
    }

    /// Whether the sink took anything since the beginning.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent > 0
    }

    /// Where in the buffer begins what does not belong to this content. To be asked when it has ended.
    pub(crate) fn rest(&self) -> usize {
        self.raw
    }

    /// Reads what is in the buffer, without waiting for more.
    ///
    /// # Errors
    /// [`Cut::Malformed`], [`Cut::TooLarge`].
    pub(crate) fn decode(&mut self, buffer: &mut [u8]) -> Result<(), Cut> {
        if self.raw == buffer.len() || self.has_ended() {
            return Ok(());
        }
        let before = self.ready_end;
        match &mut self.source {
            Source::Exact(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len() - self.raw);
                if self.raw != self.ready_end {
                    buffer.copy_within(self.raw..self.raw + count, self.ready_end);
                }
                self.raw += count;
                self.ready_end += count;
                *left -= count as u64;
                if *left == 0 {
                    self.source = Source::Ended;
                }
            }
            Source::Chunked(decoder) => {
                let from = Progress { raw: self.raw, content: self.ready_end };
                let to = decoder.decode(buffer, from, &mut self.trailers).map_err(Cut::Malformed)?;
                (self.raw, self.ready_end) = (to.raw, to.content);
                if decoder.is_done() {
                    self.source = Source::Ended;
                }
            }
            Source::UntilClose => {
                (self.raw, self.ready_end) = (buffer.len(), buffer.len());
            }
            Source::Ended => {}
        }
        self.bytes += (self.ready_end - before) as u64;
        self.keeps &= self.ready_end - self.base <= KEPT_BYTES_MAX;
        if self.bytes > self.bytes_max { Err(Cut::TooLarge) } else { Ok(()) }
    }

    /// Reads what is in the buffer, and remembers when that was all.
    ///
    /// # Errors
    /// Those of [`Self::decode`].
    pub(crate) fn look(&mut self, buffer: &mut [u8], now: Moment) -> Result<(), Cut> {
        self.decode(buffer)?;
        if self.has_ended() {
            self.ended = self.ended.min(now);
        }
        Ok(())
    }

    /// Goes on as far as it can. Ready when all of it is written.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        now: Moment,
        (source, sink): (&mut TcpStream, &mut TcpStream),
        buffer: &mut Vec<u8>,
        stock: &Stock,
    ) -> Poll<Result<(), Cut>> {
        loop {
            if !self.is_staged {
                if self.is_last {
                    return Poll::Ready(Ok(()));
                }
                self.look(buffer, now)?;
                self.is_staged = self.stage(buffer);
            }
            if self.is_staged {
                while self.round_left() > 0 {
                    if self.poll_round(context, sink, buffer).map_err(|_| Cut::SinkLost)?.is_pending() {
                        self.wait(Waits::Sink(now));
                        return Poll::Pending;
                    }
                    (self.moved, self.waits) = (now, Waits::Nobody);
                }
                self.end_round();
                continue;
            }
            // What is there is held back.
            if self.ready_start < self.ready_end {
                self.waits = Waits::Nobody;
                return Poll::Pending;
            }
            let Poll::Ready(count) = self.poll_source(context, source, buffer, stock).map_err(|_| Cut::SourceLost)?
            else {
                self.wait(Waits::Source(now));
                return Poll::Pending;
            };
            (self.moved, self.waits) = (now, Waits::Nobody);
            if count == 0 {
                match self.source {
                    Source::UntilClose => self.source = Source::Ended,
                    _ => return Poll::Ready(Err(Cut::Incomplete)),
                }
            }
        }
    }

    /// Remembers since when it waits for the same.
    fn wait(&mut self, waits: Waits) {
        if std::mem::discriminant(&self.waits) != std::mem::discriminant(&waits) {
            self.waits = waits;
        }
    }

    /// Writes what is in front, alone.
    pub(crate) fn poll_lead(
        &mut self,
        context: &mut Context<'_>,
        now: Moment,
        sink: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        while self.round_left() > 0 {
            if self.poll_round(context, sink, &[])?.is_pending() {
                self.wait(Waits::Sink(now));
                return Poll::Pending;
            }
            self.waits = Waits::Nobody;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads all content and forgets it.
    pub(crate) fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        source: &mut TcpStream,
        buffer: &mut Vec<u8>,
        stock: &Stock,
    ) -> Poll<Result<(), Cut>> {
        loop {
            self.decode(buffer)?;
            if self.has_ended() {
                return Poll::Ready(Ok(()));
            }
            self.ready_start = self.ready_end;
            match ready!(self.poll_source(context, source, buffer, stock)) {
                Ok(1..) => {}
                _ => return Poll::Ready(Err(Cut::Incomplete)),
            }
        }
    }

    /// Puts together what is to be written next. `false` when there is nothing.
    fn stage(&mut self, buffer: &[u8]) -> bool {
        let quota = usize::try_from(self.quota.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        let end = self.ready_end.min(self.ready_start.saturating_add(quota));
        let content = &buffer[self.ready_start..end];
        let ends = self.has_ended()
            && end == self.ready_end
            && (content.is_empty() || self.sink == Sink::Plain || self.trailers.lines.is_empty());
        self.is_last = ends;
        if self.sink == Sink::Chunked {
            match (content.is_empty(), ends) {
                (true, true) => {
                    self.lead.extend_from_slice(b"0\r\n");
                    self.lead.extend_from_slice(&self.trailers.lines);
                    self.lead.extend_from_slice(b"\r\n");
                }
                (true, false) => {}
                (false, _) => {
                    write_size(&mut self.lead, content.len());
                    self.tail = if ends { b"\r\n0\r\n\r\n" } else { b"\r\n" };
                }
            }
        }
        self.carries = !content.is_empty();
        self.staged = content.len();
        self.passed += content.len() as u64;
        if self.carries && !self.lead.is_empty() && content.len() <= COPIED_BYTES_MAX {
            self.lead.extend_from_slice(content);
            self.lead.extend_from_slice(self.tail);
            self.ready_start = end;
            (self.staged, self.tail) = (0, b"");
        }
        self.is_last || self.round_left() > 0
    }

    fn round_left(&self) -> usize {
        self.lead.len() - self.lead_sent + self.staged + self.tail.len()
    }

    fn end_round(&mut self) {
        self.lead.clear();
        (self.lead_sent, self.is_staged, self.staged, self.tail, self.carries) = (0, false, 0, b"", false);
    }

    /// One write.
    fn poll_round(&mut self, context: &mut Context<'_>, sink: &mut TcpStream, buffer: &[u8]) -> Poll<io::Result<()>> {
        let lead = &self.lead[self.lead_sent..];
        let content = &buffer[self.ready_start..self.ready_start + self.staged];
        let sink = Pin::new(sink);
        let count = match (lead.is_empty(), content.is_empty() && self.tail.is_empty()) {
            (false, true) => ready!(sink.poll_write(context, lead))?,
            (true, _) if self.tail.is_empty() => ready!(sink.poll_write(context, content))?,
            _ => {
                let parts = [IoSlice::new(lead), IoSlice::new(content), IoSlice::new(self.tail)];
                ready!(sink.poll_write_vectored(context, &parts))?
            }
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent += count as u64;
        self.is_touched |= self.carries;
        let of_lead = count.min(self.lead.len() - self.lead_sent);
        let of_content = (count - of_lead).min(self.staged);
        self.lead_sent += of_lead;
        self.ready_start += of_content;
        self.staged -= of_content;
        self.tail = &self.tail[count - of_lead - of_content..];
        Poll::Ready(Ok(()))
    }

    /// One read, into a buffer that is taken only when there is something to read.
    fn poll_source(
        &mut self,
        context: &mut Context<'_>,
        source: &mut TcpStream,
        buffer: &mut Vec<u8>,
        stock: &Stock,
    ) -> Poll<io::Result<usize>> {
        if buffer.capacity() == 0 {
            ready!(source.poll_read_ready(context))?;
            *buffer = stock.buffer();
        }
        self.make_room(buffer);
        poll_read_buf(Pin::new(source), context, buffer)
    }

    /// Moves together what must stay. Everything that was decoded is sent.
    fn make_room(&mut self, buffer: &mut Vec<u8>) {
        if !self.keeps {
            (self.ready_start, self.ready_end) = (self.base, self.base);
        }
        if self.raw > self.ready_end {
            buffer.copy_within(self.raw.., self.ready_end);
            buffer.truncate(buffer.len() - (self.raw - self.ready_end));
            self.raw = self.ready_end;
        }
        if buffer.capacity() - buffer.len() < ROOM_BYTES_MIN {
            buffer.reserve(BUFFER_BYTES / 2);
        }
    }
}

/// The line before a chunk.
fn write_size(out: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|digit| DIGITS[size >> (digit * 4) & 15]));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn content_that_a_dead_sink_took_nothing_of_goes_to_the_next() {
        let (stock, now) = (Stock::default(), Moment::default());
        let (mut source, _client) = pair().await;
        let (mut pipe, mut buffer) = (Pipe::default(), b"hello".to_vec());
        pipe.begin(Length::Exact(5), 0, 0, u64::MAX, now);

        let (mut dead, peer) = pair().await;
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        assert!(dead.read_u8().await.is_err());
        pipe.begin_again(Sink::Plain).extend_from_slice(b"head ");
        let sent = poll_fn(|context| pipe.poll(context, now, (&mut source, &mut dead), &mut buffer, &stock)).await;
        assert!(matches!(sent, Err(Cut::SinkLost)) && pipe.is_whole());

        let (mut next, mut peer) = pair().await;
        pipe.begin_again(Sink::Plain).extend_from_slice(b"head ");
        poll_fn(|context| pipe.poll(context, now, (&mut source, &mut next), &mut buffer, &stock)).await.unwrap();
        drop(next);
        let mut seen = String::new();
        peer.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "head hello");
        assert!(!pipe.is_whole());
    }
}
