//! A client's socket that knows what it is waiting for, so that whoever serves it can tell a quiet client from a
//! stalled one, and that closes in a way that lets the last answer arrive.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::Limits;

// Limit: how long a closing connection goes on reading what the client still sends. Closing at once with unread data
// in the socket resets the connection, and a reset takes the answer (413, 431) from the client's hands.
const LINGER: Duration = Duration::from_secs(2);

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
    /// Whether the answer has no end but the client's.
    is_endless: AtomicBool,
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
            is_endless: AtomicBool::new(false),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    /// A head was read: from now on it is our turn.
    pub(crate) fn head_ended(&self) {
        self.has_unread.store(false, Ordering::Relaxed);
        self.is_endless.store(false, Ordering::Relaxed);
        self.enter(Phase::Busy);
    }

    /// The head of an answer is there that goes on until the client leaves.
    pub(crate) fn became_endless(&self) {
        self.is_endless.store(true, Ordering::Relaxed);
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
            Phase::Busy | Phase::Tunnel => None,
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

    fn note_write(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(count)) => {
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
}

impl Watched {
    pub(crate) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    /// Looks whether a client that waits for its answer is still there, without taking what it sends. A reset says that
    /// it is not. The end of its half (FIN) does not: it may have said all it had to (RFC 9112 §9.6), as `nc -N` does.
    /// One that closed for good looks the same until something is written to it. So an answer that is awaited for
    /// a client that is gone ends by the timeout of its route at the latest. Streams of events may be quiet for hours:
    /// there an end that comes after the head of the answer is taken for a goodbye.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let activity = &self.activity;
        if activity.phase() != Phase::Busy || activity.has_unread.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut byte = [0; 1];
        match self.stream.poll_peek(context, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Ok(0)) if activity.is_endless.load(Ordering::Relaxed) => {
                if activity.has_ended.load(Ordering::Relaxed) {
                    return Ok(());
                }
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Poll::Ready(Ok(0)) => {
                activity.has_ended.store(true, Ordering::Relaxed);
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(_)) | Poll::Pending => Ok(()),
        }
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
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
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
