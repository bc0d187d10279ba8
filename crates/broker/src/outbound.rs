//! What waits to be written to one client: chunks behind a short lock, filled by every publisher, emptied by one writer at a
//! time. A publisher writes itself where the socket takes it at once, which saves waking another task; what does not fit is
//! left to the connection's own. Bounded: beyond its limit the client is cut as a slow consumer.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::pressure::Pressure;
use crate::protocol::Message;
use crate::reason::Reason;
use crate::subscription::{Counted, Subscription};

/// Limit: bytes of a chunk, unless one message alone is larger.
const CHUNK_MAX: usize = 64 * 1024;
/// What the first chunk of a quiet client takes.
const CHUNK_MIN: usize = 1024;
/// Limit: chunks in one system call.
const SLICES_MAX: usize = 64;

/// The buffer of one client.
#[derive(Debug)]
pub(crate) struct Outbound {
    state: Mutex<State>,
    /// Wakes the connection's own writer.
    pub(crate) wake: Notify,
    pub(crate) pressure: Pressure,
    pending_max: usize,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk is written.
    offset: usize,
    /// Bytes that are not written yet, those in a [`Batch`] included.
    pending: usize,
    /// Somebody has a [`Batch`].
    is_taken: bool,
    /// Somebody has filled something in and will see to it that it is written.
    is_claimed: bool,
    closed: Option<Reason>,
    /// Bytes that a socket has taken, ever.
    written: u64,
    messages: u64,
    bytes: u64,
}

/// What became of something that was to be filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is in, and whoever filled it in has to flush.
    Claimed,
    /// It is in, and somebody will flush.
    Joined,
    /// It is not in: the client or the subscription is gone.
    Refused,
}

/// Sums, for the monitoring.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) pending: usize,
}

/// What a writer writes. It goes back to [`Outbound::give_back`] whatever happened.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk is written.
    offset: usize,
    written: usize,
}

impl Outbound {
    pub(crate) fn new(pending_max: usize) -> Self {
        let pressure = Pressure::new(pending_max);
        Self { state: Mutex::default(), wake: Notify::new(), pressure, pending_max }
    }

    /// Fills in a message of a subscription and tells whether it was the last that it may have.
    pub(crate) fn push_message(&self, of: &Subscription, message: &Message<'_>) -> (Pushed, Counted) {
        let mut state = self.lock();
        if state.closed.is_some() || of.is_closed() {
            return (Pushed::Refused, Counted::Within);
        }
        let counted = of.count();
        if counted == Counted::Beyond {
            return (Pushed::Refused, counted);
        }
        state.messages += 1;
        state.bytes += message.content.len() as u64;
        let pushed = self.push(state, message.len_max(of.sid()), |chunk| message.write(of.sid(), chunk));
        (pushed, counted)
    }

    /// Fills in bytes of the protocol.
    pub(crate) fn push_bytes(&self, bytes: &[u8]) -> Pushed {
        let state = self.lock();
        if state.closed.is_some() {
            return Pushed::Refused;
        }
        self.push(state, bytes.len(), |chunk| chunk.extend_from_slice(bytes))
    }

    fn push(&self, mut state: MutexGuard<'_, State>, room: usize, write: impl FnOnce(&mut Vec<u8>)) -> Pushed {
        let has_room = state.chunks.back().is_some_and(|chunk| chunk.capacity() - chunk.len() >= room);
        if !has_room {
            let usual = state.chunks.back().map_or(CHUNK_MIN, |chunk| chunk.capacity() * 4).min(CHUNK_MAX);
            state.chunks.push_back(Vec::with_capacity(usual.max(room)));
        }
        let chunk = state.chunks.back_mut().expect("one was made");
        let before = chunk.len();
        write(chunk);
        let added = chunk.len() - before;
        state.pending += added;
        if state.pending > self.pending_max {
            self.close_locked(&mut state, Reason::SlowConsumerPending);
            return Pushed::Refused;
        }
        self.pressure.set(state.pending);
        if std::mem::replace(&mut state.is_claimed, true) { Pushed::Joined } else { Pushed::Claimed }
    }

    /// Closes it for everybody: nothing is filled in from now on. The first reason counts.
    pub(crate) fn close(&self, reason: Reason) {
        self.close_locked(&mut self.lock(), reason);
    }

    fn close_locked(&self, state: &mut State, reason: Reason) {
        if state.closed.is_some() {
            return;
        }
        if let Some(error) = reason.error() {
            let line = format!("-ERR '{error}'\r\n").into_bytes();
            state.pending += line.len();
            state.chunks.push_back(line);
        }
        state.closed = Some(reason);
        if !reason.leaves_a_reader() {
            state.chunks.clear();
            (state.offset, state.pending) = (0, 0);
        }
        self.pressure.set(0);
        self.wake.notify_one();
    }

    /// Throws away what waits: nobody will take it.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.chunks.clear();
        (state.offset, state.pending) = (0, 0);
    }

    pub(crate) fn closed(&self) -> Option<Reason> {
        self.lock().closed
    }

    pub(crate) fn sent(&self) -> Sent {
        let state = self.lock();
        Sent { messages: state.messages, bytes: state.bytes, pending: state.pending }
    }

    /// Runs something under the lock under which deliveries are counted.
    pub(crate) fn with_counts<T>(&self, look: impl FnOnce() -> T) -> T {
        let _state = self.lock();
        look()
    }

    /// Everything that waits; `None` when nothing does or somebody else writes, who then also sees to the rest.
    pub(crate) fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        state.is_claimed = false;
        if state.is_taken || state.chunks.is_empty() {
            return None;
        }
        state.is_taken = true;
        let offset = std::mem::take(&mut state.offset);
        Some(Batch { chunks: std::mem::take(&mut state.chunks), offset, written: 0 })
    }

    /// Ends the writing of a batch; `true` if the connection's own writer has something to do: anything that waits, from
    /// the batch or from since, or an end.
    pub(crate) fn give_back(&self, mut batch: Batch) -> bool {
        let mut state = self.lock();
        state.is_taken = false;
        state.pending = state.pending.saturating_sub(batch.written);
        state.written += batch.written as u64;
        let is_wanted = state.closed.is_none_or(Reason::leaves_a_reader);
        if is_wanted && !batch.chunks.is_empty() {
            state.offset = batch.offset;
            batch.chunks.append(&mut state.chunks);
            state.chunks = batch.chunks;
        }
        if state.closed.is_none() {
            self.pressure.set(state.pending);
        }
        !state.chunks.is_empty() || state.closed.is_some()
    }

    /// Grows while the client takes anything.
    pub(crate) fn progress(&self) -> u64 {
        self.lock().written
    }

    /// Whether it is closed and everything that was worth it is written.
    pub(crate) fn ended(&self) -> Option<Reason> {
        let state = self.lock();
        state.closed.filter(|_| !state.is_taken && state.chunks.is_empty())
    }

    /// Writes as much as the socket takes at once and leaves the rest to the connection's own writer.
    pub(crate) fn flush(&self, socket: &TcpStream) {
        let Some(mut batch) = self.take() else { return };
        let result = batch.try_write(socket);
        let is_left = self.give_back(batch);
        match result {
            Ok(()) if !is_left => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.close(Reason::WriteError),
            _ => self.wake.notify_one(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Writes until the socket takes no more.
    ///
    /// # Errors
    /// What the socket says, `WouldBlock` too.
    pub(crate) fn try_write(&mut self, socket: &TcpStream) -> io::Result<()> {
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.slices(&mut slices);
            match socket.try_write_vectored(&slices[..count])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => self.advance(written),
            }
        }
        Ok(())
    }

    /// Writes some, and all that a layer of encryption holds back.
    ///
    /// # Errors
    /// What the stream says; `TimedOut` if it takes nothing for so long.
    pub(crate) async fn write(&mut self, stream: &mut (impl AsyncWrite + Unpin), patience: Duration) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = self.slices(&mut slices);
        let writing = async {
            let written = stream.write_vectored(&slices[..count]).await?;
            stream.flush().await?;
            io::Result::Ok(written)
        };
        let written = timeout(patience, writing).await??;
        self.advance(written);
        Ok(())
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(&chunk[if count == 0 { self.offset } else { 0 }..]);
            count += 1;
        }
        count
    }

    pub(crate) fn advance(&mut self, written: usize) {
        self.written += written;
        self.offset += written;
        while let Some(first) = self.chunks.front() {
            if self.offset < first.len() {
                break;
            }
            self.offset -= first.len();
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_who_fill_in_flushes() {
        let outbound = Outbound::new(1024);
        assert_eq!(outbound.push_bytes(b"one"), Pushed::Claimed);
        assert_eq!(outbound.push_bytes(b"two"), Pushed::Joined);
        let batch = outbound.take().unwrap();
        assert_eq!(outbound.push_bytes(b"three"), Pushed::Claimed);
        assert!(outbound.take().is_none(), "one writes at a time");
        assert!(outbound.give_back(batch), "what is left is the connection's own writer's");
    }

    #[test]
    fn what_a_socket_did_not_take_stays_first() {
        let outbound = Outbound::new(1024);
        outbound.push_bytes(b"abcdef");
        let mut batch = outbound.take().unwrap();
        batch.advance(2);
        outbound.push_bytes(b"ghi");
        outbound.give_back(batch);
        assert_eq!((outbound.sent().pending, outbound.progress()), (7, 2));
        let batch = outbound.take().unwrap();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = batch.slices(&mut slices);
        assert_eq!(slices[..count].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>(), b"cdefghi");
    }

    #[test]
    fn a_slow_client_is_closed_and_its_buffer_freed() {
        let outbound = Outbound::new(8);
        assert_eq!(outbound.push_bytes(b"1234567"), Pushed::Claimed);
        assert!(outbound.pressure.is_high());
        assert_eq!(outbound.push_bytes(b"89"), Pushed::Refused);
        assert_eq!((outbound.ended(), outbound.sent().pending), (Some(Reason::SlowConsumerPending), 0));
        outbound.close(Reason::ClientClosed);
        assert_eq!(outbound.closed(), Some(Reason::SlowConsumerPending));
        assert!(!outbound.pressure.is_high(), "nobody waits for it any more");
    }

    #[test]
    fn last_words_come_after_what_was_said() {
        let outbound = Outbound::new(1024);
        outbound.push_bytes(b"PONG\r\n");
        outbound.close(Reason::StaleConnection);
        assert_eq!(outbound.push_bytes(b"x"), Pushed::Refused);
        let mut batch = outbound.take().unwrap();
        assert_eq!(batch.chunks.make_contiguous().concat(), b"PONG\r\n-ERR 'Stale Connection'\r\n");
        assert_eq!(outbound.ended(), None, "somebody still writes");
        batch.advance(usize::MAX / 2);
        outbound.give_back(batch);
        assert_eq!(outbound.ended(), Some(Reason::StaleConnection));
    }
}
