//! The task of one connection: INFO, the TLS handshake, then reading, writing and keeping alive beside each other until one
//! of them has a reason to end. What operations do is `session`'s.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::client::Client;
use crate::protocol::{Parsed, parse};
use crate::reason::Reason;
use crate::session::Session;

/// Bytes that a quiet connection reads at once.
const READ_MIN: usize = 2 * 1024;
/// Limit: bytes that a busy one does, unless one message is larger.
const READ_MAX: usize = 64 * 1024;
/// Reads that fill little of the buffer before it shrinks.
const SHORT_READS_MAX: u32 = 8;
/// Limit: how long the last words may take, and how long the other side may take to hear them: closing a socket that has
/// unread bytes makes the kernel throw away what was sent.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
const LINGER_MAX: Duration = Duration::from_millis(250);

/// Serves a connection to its end.
pub(crate) async fn serve(
    broker: Arc<Broker>,
    tls: Option<TlsAcceptor>,
    socket: TcpStream,
    peer: SocketAddr,
    over: CancellationToken,
) {
    // What cannot be switched off is slower, not wrong.
    let _ = socket.set_nodelay(true);
    let id = broker.next_id();
    let nonce = match broker.nonce() {
        Ok(nonce) => nonce,
        Err(error) => return tracing::error!(%error, "a connection cannot be served"),
    };
    let info = broker.info(id, peer, nonce.as_deref()).line();
    let pending_max = broker.limits.pending_max;
    let Some(tls) = tls else {
        let socket = Arc::new(socket);
        let client = Arc::new(Client::new(id, peer, Some(Arc::downgrade(&socket)), pending_max));
        client.send(&info);
        return converse(broker, client, nonce, Reader::Plain(Arc::clone(&socket)), Writer::Plain(socket), over).await;
    };
    match timeout(broker.limits.tls_timeout, handshake(&tls, socket, &info)).await {
        Ok(Ok(stream)) => {
            let client = Arc::new(Client::new(id, peer, None, pending_max));
            let (reader, writer) = tokio::io::split(stream);
            converse(broker, client, nonce, Reader::Tls(reader), Writer::Tls(writer), over).await;
        }
        Ok(Err(error)) => tracing::debug!(client = id, %peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(client = id, %peer, "TLS handshake took too long"),
    }
}

async fn handshake(tls: &TlsAcceptor, mut socket: TcpStream, info: &[u8]) -> io::Result<TlsStream<TcpStream>> {
    socket.write_all(info).await?;
    tls.accept(socket).await
}

/// Tells a client that there is no room for it.
pub(crate) async fn refuse(mut socket: TcpStream, reason: Reason) {
    let Some(error) = reason.error() else { return };
    let words = format!("-ERR '{error}'\r\n");
    let farewell = async {
        socket.write_all(words.as_bytes()).await?;
        socket.shutdown().await?;
        discard(&mut Reader::Plain(Arc::new(socket))).await;
        io::Result::Ok(())
    };
    // Whoever is gone needs no word.
    let _ = timeout(LINGER_MAX, farewell).await;
}

async fn converse(
    broker: Arc<Broker>,
    client: Arc<Client>,
    nonce: Option<String>,
    mut reader: Reader,
    mut writer: Writer,
    over: CancellationToken,
) {
    let deadline = broker.limits.write_deadline;
    let mut session = Session::new(Arc::clone(&broker), Arc::clone(&client), nonce);
    let reason = {
        let mut writing = std::pin::pin!(writer.run(&client, deadline));
        let ended = tokio::select! {
            reason = read(&mut reader, &broker, &client, &mut session) => Err(reason),
            reason = &mut writing => Ok(reason),
            reason = keep_alive(&broker, &client) => Err(reason),
            () = over.cancelled() => Err(Reason::ServerShutdown),
        };
        match ended {
            Ok(reason) => reason,
            Err(reason) => {
                client.outbound.close(reason);
                // Whoever does not take the last words goes without.
                timeout(FAREWELL_MAX, writing).await.unwrap_or(reason)
            }
        }
    };
    let (id, peer) = (client.id, client.address);
    if reason.is_slow() {
        tracing::warn!(client = id, %peer, reason = reason.label(), "connection closed");
    } else {
        tracing::debug!(client = id, %peer, reason = reason.label(), "connection closed");
    }
    drop(session);
    writer.shutdown().await;
    if reason.error().is_some() {
        // Whoever goes on sending is cut all the same.
        let _ = timeout(LINGER_MAX, discard(&mut reader)).await;
    }
}

/// Takes in what comes until there is a reason to end.
async fn read(reader: &mut Reader, broker: &Broker, client: &Client, session: &mut Session) -> Reason {
    let bounds = broker.bounds();
    let (mut buffer, mut usual, mut shorts) = (Vec::with_capacity(READ_MIN), READ_MIN, 0);
    let mut needed = 1;
    loop {
        let room = usual.max(needed);
        if buffer.capacity() < room {
            buffer.reserve_exact(room - buffer.len());
        }
        let spare = buffer.capacity() - buffer.len();
        let count = match reader.read(&mut buffer).await {
            Ok(0) => return Reason::ClientClosed,
            Ok(count) => count,
            Err(_) => return Reason::ReadError,
        };
        client.mark_active();
        let mut at = 0;
        needed = loop {
            if at == buffer.len() {
                break 1;
            }
            if session.awaits_connect() && !matches!(buffer[at], b'C' | b'c') {
                return Reason::AuthenticationFailure;
            }
            match parse(&buffer[at..], &bounds) {
                Ok(Parsed::Incomplete { needed }) => break needed,
                Ok(Parsed::Complete { operation, len }) => {
                    at += len;
                    if let Err(reason) = session.perform(&operation) {
                        return reason;
                    }
                    if let Some(publisher) = session.publisher().filter(|publisher| publisher.is_pressed()) {
                        publisher.ease().await;
                    }
                }
                Err(violation) => return Reason::Parse(violation),
            }
        };
        buffer.drain(..at);
        if let Some(publisher) = session.publisher() {
            publisher.flush().await;
        }
        if count == spare {
            (usual, shorts) = ((usual * 2).min(READ_MAX), 0);
            // There is more: others on this core have their turn before it is read.
            tokio::task::yield_now().await;
        } else if count < usual / 4 {
            shorts += 1;
        }
        if shorts > SHORT_READS_MAX {
            (usual, shorts) = ((usual / 2).max(READ_MIN), 0);
        }
        if buffer.is_empty() && buffer.capacity() > 2 * usual {
            buffer = Vec::with_capacity(usual);
        }
    }
}

/// Ends a connection that does not prove who it is, and one that does not answer.
async fn keep_alive(broker: &Broker, client: &Client) -> Reason {
    let limits = &broker.limits;
    sleep(limits.auth_timeout).await;
    if client.said().user.is_none() {
        return Reason::AuthenticationTimeout;
    }
    let (mut seen, mut outstanding) = (0, 0);
    loop {
        sleep(limits.ping_interval).await;
        let active = client.received.active_ms.load(Ordering::Relaxed);
        if active != seen {
            (seen, outstanding) = (active, 0);
            continue;
        }
        if outstanding >= limits.pings_outstanding_max {
            return Reason::StaleConnection;
        }
        outstanding += 1;
        client.send(b"PING\r\n");
    }
}

enum Reader {
    Plain(Arc<TcpStream>),
    Tls(ReadHalf<TlsStream<TcpStream>>),
}

impl Reader {
    /// Reads into the room that a buffer has. Cancel safe.
    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => return stream.read_buf(buffer).await,
        };
        loop {
            socket.readable().await?;
            match socket.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// Reads to the end and looks at nothing.
async fn discard(reader: &mut Reader) {
    let mut buffer = Vec::with_capacity(READ_MIN);
    while let Ok(1..) = reader.read(&mut buffer).await {
        buffer.clear();
    }
}

enum Writer {
    Plain(Arc<TcpStream>),
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

impl Writer {
    /// Writes what publishers could not write themselves, until the buffer is closed and empty.
    async fn run(&mut self, client: &Client, deadline: Duration) -> Reason {
        let outbound = &client.outbound;
        let mut progress = (0, Instant::now());
        loop {
            if let Some(mut batch) = outbound.take() {
                let result = match self {
                    Self::Plain(socket) => batch.try_write(socket),
                    Self::Tls(stream) => batch.write(stream, deadline).await,
                };
                let _ = outbound.give_back(batch);
                match result {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.wait_for_room(client, deadline, &mut progress).await;
                    }
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        outbound.close(Reason::SlowConsumerDeadline);
                    }
                    Err(_) => {
                        outbound.close(Reason::WriteError);
                        outbound.abandon();
                    }
                }
                continue;
            }
            if let Some(reason) = outbound.ended() {
                return reason;
            }
            outbound.wake.notified().await;
            progress = (outbound.progress(), Instant::now());
        }
    }

    /// Waits until the socket takes something, or until it has not for too long.
    async fn wait_for_room(&self, client: &Client, deadline: Duration, progress: &mut (u64, Instant)) {
        let Self::Plain(socket) = self else { return };
        let outbound = &client.outbound;
        let written = outbound.progress();
        if written != progress.0 {
            *progress = (written, Instant::now());
        }
        tokio::select! {
            // A broken socket says so at the next attempt.
            _ = socket.writable() => {}
            () = outbound.wake.notified() => {}
            () = sleep_until((progress.1 + deadline).into()) => {
                if outbound.progress() == progress.0 {
                    outbound.close(Reason::SlowConsumerDeadline);
                }
            }
        }
    }

    async fn shutdown(&mut self) {
        // What is broken is shut.
        let _ = match self {
            Self::Plain(socket) => SockRef::from(&**socket).shutdown(Shutdown::Write),
            Self::Tls(stream) => timeout(LINGER_MAX, stream.shutdown()).await.unwrap_or(Ok(())),
        };
    }
}
