//! A client's socket that knows what it is waiting for, so that whoever serves it can tell a quiet client from a
//! stalled one, and that closes in a way that lets the last answer arrive.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::Limits;

// Limit: how long a closing connection goes on reading what the client still sends. Closing at once with unread data
// in the socket resets the connection, and a reset takes the answer (413, 431) from the client's hands.
const LINGER: Duration = Duration::from_secs(2);

// Limit: how long an answer may be silent after the client has ended its half, until we look whether it is still there.
const PARTING: Duration = Duration::from_millis(500);

// Limit: what is read of a client while it waits for its answer. With more behind its request, its leaving is noticed
// only when the answer is written.
const AHEAD_BYTES_MAX: usize = 4096;

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// Our answer.
    Busy,
    /// The client's end after ours.
    Lingering,
    /// Nothing: the bytes are no requests any more, and nobody watches them but the kernel.
    Tunnel,
}

/// The state of one connection. Atomics only because sockets must be `Send` to be upgraded; one thread uses them.
#[derive(Debug)]
pub(crate) struct Activity {
    base: Instant,
    phase: AtomicU8,
    /// When the phase began, in milliseconds after `base`.
    since: AtomicU64,
    /// When the client stopped taking what we write, likewise; 0 while it takes it.
    blocked: AtomicU64,
    /// Whether there is a request body that was not read to its end.
    has_unread: AtomicBool,
    /// Whether the client has ended its half while it waited for an answer.
    has_ended: AtomicBool,
    /// When it did, or when we last wrote to it since, in milliseconds after `base`; 0 when there is nothing to look for.
    parted: AtomicU64,
    /// Whether anything was written to it since. A client that is gone replies with a reset.
    is_tested: AtomicBool,
    /// Whether the answer has no known length.
    is_open_ended: AtomicBool,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            base: Instant::now(),
            phase: AtomicU8::new(Phase::Idle as u8),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            has_unread: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            parted: AtomicU64::new(0),
            is_tested: AtomicBool::new(false),
            is_open_ended: AtomicBool::new(false),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    /// A head was read: from now on it is our turn.
    pub(crate) fn head_ended(&self) {
        self.has_unread.store(false, Ordering::Relaxed);
        self.is_open_ended.store(false, Ordering::Relaxed);
        self.enter(Phase::Busy);
    }

    /// The head of an answer is there that may go on until the client leaves.
    pub(crate) fn became_open_ended(&self) {
        self.is_open_ended.store(true, Ordering::Relaxed);
    }

    /// Whether the client has said all it had to. It may be gone, or only wait for its answer.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Whether a client that ended its half is still taken for one that waits: to be asked at the deadline, after the
    /// connection was looked at. What was written to it was not replied to with a reset.
    pub(crate) fn outlived_parting(&self) -> bool {
        let is_tested = self.is_tested.load(Ordering::Relaxed);
        let is_waiting = is_tested && self.phase() == Phase::Busy && self.parted().is_some();
        if is_waiting {
            self.parted.store(0, Ordering::Relaxed);
        }
        is_waiting
    }

    pub(crate) fn body_began(&self) {
        self.has_unread.store(true, Ordering::Relaxed);
    }

    pub(crate) fn body_ended(&self) {
        self.has_unread.store(false, Ordering::Relaxed);
    }

    /// The answer was given away: it is the client's turn again.
    pub(crate) fn answered(&self) {
        self.enter(Phase::Idle);
    }

    /// The connection has changed its protocol. It never lingers: what the client sends after our end is not ours to
    /// throw away.
    pub(crate) fn became_tunnel(&self) {
        self.enter(Phase::Tunnel);
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            3 => Phase::Lingering,
            _ => Phase::Tunnel,
        }
    }

    /// When the connection has waited too long for what it waits for. `None` while that is our own answer.
    pub(crate) fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let after = |since: u64, limit: Duration| self.base + Duration::from_millis(since) + limit;
        let since = self.since.load(Ordering::Relaxed);
        let phase = match self.phase() {
            Phase::Idle => Some(after(since, limits.idle_timeout)),
            Phase::Head => Some(after(since, limits.head_timeout)),
            Phase::Busy => self.parted().map(|parted| after(parted, PARTING)),
            Phase::Tunnel => None,
            Phase::Lingering => Some(after(since, LINGER)),
        };
        match self.blocked.load(Ordering::Relaxed) {
            0 => phase,
            blocked => {
                let blocked = after(blocked, limits.idle_timeout);
                Some(phase.map_or(blocked, |phase| phase.min(blocked)))
            }
        }
    }

    /// Bytes read from and written to the client so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }

    /// Since when a client that ended its half should have shown that it is still there. One that never gets anything
    /// written is missed only where the answer could go on for ever.
    fn parted(&self) -> Option<u64> {
        let parted = self.parted.load(Ordering::Relaxed);
        let is_asked = self.is_tested.load(Ordering::Relaxed) || self.is_open_ended.load(Ordering::Relaxed);
        (parted > 0 && is_asked && self.blocked.load(Ordering::Relaxed) == 0).then_some(parted)
    }

    fn has_lingered(&self) -> bool {
        let lingered = self.now().saturating_sub(self.since.load(Ordering::Relaxed));
        self.phase() == Phase::Lingering && Duration::from_millis(lingered) >= LINGER
    }

    fn enter(&self, phase: Phase) {
        self.since.store(self.now(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note_read(&self, count: usize) {
        self.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
        if count > 0 && self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    /// The client has ended its half. Gives whether that is news.
    fn note_end(&self) -> bool {
        let is_news = !self.has_ended.swap(true, Ordering::Relaxed);
        if is_news {
            self.parted.store(self.now().max(1), Ordering::Relaxed);
        }
        is_news
    }

    fn note_write(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(count)) => {
                if self.has_ended() {
                    self.is_tested.store(true, Ordering::Relaxed);
                    self.parted.store(self.now().max(1), Ordering::Relaxed);
                }
                self.bytes_out.fetch_add(*count as u64, Ordering::Relaxed);
                self.blocked.store(0, Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let now = self.now().max(1);
                let _ = self.blocked.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

/// The socket.
#[derive(Debug)]
pub(crate) struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
    /// What the client said while it waited: the next request, a blank line, the first bytes for a tunnel.
    ahead: BytesMut,
}

impl Watched {
    pub(crate) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity, ahead: BytesMut::new() }
    }

    /// Looks whether a client that waits for its answer is still there. A reset says that it is not. The end of its half
    /// (FIN) does not: it may have said all it had to (RFC 9112 §9.6), as `nc -N` does. One that closed for good looks the
    /// same until something is written to it. So an answer that is awaited for a client that is gone ends by the timeout
    /// of its route at the latest, and no drain waits for it. Answers without a known length may be quiet for hours:
    /// there an end that is followed by silence is taken for a goodbye.
    ///
    /// What it sends is read ahead, because an end behind unread bytes is not seen. The library does not read meanwhile,
    /// and does as soon as it has answered.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let is_awaited = self.activity.phase() == Phase::Busy && !self.activity.has_unread.load(Ordering::Relaxed);
        while is_awaited && self.ahead.len() < AHEAD_BYTES_MAX {
            let mut scratch = [0; 512];
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer)? {
                Poll::Pending => break,
                Poll::Ready(()) if buffer.filled().is_empty() => {
                    if self.activity.note_end() {
                        // Whoever waits for the answer should know.
                        context.waker().wake_by_ref();
                    }
                    break;
                }
                Poll::Ready(()) => self.ahead.extend_from_slice(buffer.filled()),
            }
        }
        Ok(())
    }

    /// Reads and forgets until the client has closed its side or has had its time; the watchdog of the connection wakes.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.activity.has_lingered() {
            return Poll::Ready(());
        }
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = if self.ahead.is_empty() {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        } else {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(count));
            Poll::Ready(Ok(()))
        };
        if polled.is_ready() {
            self.activity.note_read(buffer.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.note_write(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.note_write(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// The library asks for this whenever it looks at the connection and has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_gone(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.phase() != Phase::Lingering {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            let may_have_unread =
                self.activity.phase() == Phase::Head || self.activity.has_unread.load(Ordering::Relaxed);
            if !may_have_unread {
                return Poll::Ready(Ok(()));
            }
            self.activity.enter(Phase::Lingering);
        }
        self.poll_linger(context).map(Ok)
    }
}
