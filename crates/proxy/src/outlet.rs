//! An endpoint's socket, used by `upstream`. A write that fails does not take the response along: a service that refuses
//! an upload (401, 413) answers and closes while the upload still flows, and what it said is there to be read. In a tunnel
//! every error counts.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How writing to the endpoint goes: [`SOUND`] until it is [`BROKEN`], and from either to [`TUNNEL`]. Shared with whoever
/// decides if the connection may serve again.
#[derive(Debug)]
pub(crate) struct Writes(AtomicU8);

const SOUND: u8 = 0;
const BROKEN: u8 = 1;
const TUNNEL: u8 = 2;

impl Default for Writes {
    fn default() -> Self {
        Self(AtomicU8::new(SOUND))
    }
}

impl Writes {
    pub(crate) fn are_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed) == BROKEN
    }

    /// From now on a failed write is told: nobody is left who waits for an answer, and no patience bounds the wait.
    pub(crate) fn become_tunnel(&self) {
        self.0.store(TUNNEL, Ordering::Relaxed);
    }
}

/// The socket. After a failed write of a request it takes nothing more, as an endpoint does that has stopped reading: the
/// upload stands still, and the read side tells how the exchange ends. What breaks the writing (RST) ends the reading,
/// too, behind the last byte that had arrived; the patience of the request bounds the wait in any case.
#[derive(Debug)]
pub(crate) struct Outlet {
    stream: TcpStream,
    writes: Arc<Writes>,
}

impl Outlet {
    pub(crate) fn new(stream: TcpStream, writes: Arc<Writes>) -> Self {
        Self { stream, writes }
    }

    /// Nobody is woken by this `Pending`: the library always waits for reads as well. A tunnel waits for this write alone.
    fn judge(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let is_told = self.writes.0.load(Ordering::Relaxed) == TUNNEL;
        match polled {
            Poll::Ready(Err(_)) if !is_told => {
                self.writes.0.store(BROKEN, Ordering::Relaxed);
                Poll::Pending
            }
            polled => polled,
        }
    }
}

impl AsyncRead for Outlet {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.writes.are_broken() {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.writes.are_broken() {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
