//! The HTTP/1.1 server of publishers: `POST /<service>/<topic>`. Who publishes is in the path, because the data plane, which
//! alone knows, puts it there; it listens for nobody else. Called by `bound`.

mod answer;
mod body;
mod request;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kit::drain;
use kit::tasks::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::handle::Shared;

/// Limit: connections; further ones wait in the backlog.
const CONNECTIONS_MAX: usize = 8192;
/// Limit: from the end of an answer, or the beginning of the connection, to the end of the next head. The data plane closes
/// idle connections earlier, so that it never writes to one that is just being closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit: one head; attributes of the largest event find room.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// Limit: fields of a head, beyond which hyper answers 431.
const FIELDS_MAX: usize = 128;
/// Limit: bodies in memory at once; what goes beyond is answered 503.
const BODIES_BYTES_MAX: usize = 128 << 20;
/// Limit: how often a failing accept is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What requests share.
#[derive(Debug)]
struct Intake {
    shared: Arc<Shared>,
    requests: AtomicUsize,
    body_bytes: AtomicUsize,
}

/// Serves until the drain begins, then ends what was begun.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut drain: drain::Watch) {
    let intake = Arc::new(Intake { shared, requests: AtomicUsize::new(0), body_bytes: AtomicUsize::new(0) });
    let (rooms, connections) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Tasks::default());
    loop {
        let accepted = tokio::select! {
            () = drain.started() => break,
            accepted = accept(&listener, &rooms) => accepted,
        };
        if let Some((socket, room)) = accepted {
            let serving = serve_connection(socket, Arc::clone(&intake), drain.clone());
            connections.spawn(async move {
                serving.await;
                drop(room);
            });
        } else {
            sleep(ACCEPT_PAUSE).await;
        }
    }
    drop(listener);
    connections.finished().await;
}

/// Waits for room first. Cancel safe.
async fn accept(listener: &TcpListener, rooms: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let room = Arc::clone(rooms).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, room)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a publisher's connection");
            None
        }
    }
}

async fn serve_connection(socket: TcpStream, intake: Arc<Intake>, mut drain: drain::Watch) {
    // It costs latency only where it fails.
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request| {
        let intake = Arc::clone(&intake);
        async move { Ok::<_, Infallible>(request::answer(&intake, request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).pipeline_flush(true);
    server.max_header_size(HEAD_BYTES_MAX).max_headers(FIELDS_MAX).half_close(true);
    let connection = server.serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    // How a connection of a client ends is the client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = drain.started() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A share of something that there is only so much of; given back whatever ends it.
struct Share<'a> {
    of: &'a AtomicUsize,
    taken: usize,
}

impl<'a> Share<'a> {
    fn new(of: &'a AtomicUsize) -> Self {
        Self { of, taken: 0 }
    }

    /// Whether there was as much.
    #[must_use]
    fn take(&mut self, count: usize, max: usize) -> bool {
        self.taken += count;
        self.of.fetch_add(count, Ordering::AcqRel) + count <= max
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.of.fetch_sub(self.taken, Ordering::AcqRel);
    }
}
