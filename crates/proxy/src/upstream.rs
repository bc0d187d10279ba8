//! Connections to endpoints: one core's pool of idle ones, and one exchange over one of them. Tells how an exchange
//! failed; what follows is `retry`'s to decide.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use kit::tasks::Tasks;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::balance::{Endpoint, Occupied};
use crate::body::Upload;
use crate::config::Limits;
use crate::counters::Counts;
use crate::outlet::{Outlet, Writes};
use crate::retry::Failure;
use crate::sockets::keepalive;
use crate::watched::Activity;

/// The smallest buffer that the HTTP library takes.
pub(crate) const BUFFER_BYTES_MIN: usize = 8 * 1024;

// Limit: what is read of an answer that nobody wants, and for how long, to keep its connection. Beyond either, closing
// it is cheaper.
const UNWANTED_BYTES_MAX: usize = 64 * 1024;
const UNWANTED_TIMEOUT: Duration = Duration::from_millis(100);

/// The connections of one core.
#[derive(Debug)]
pub(crate) struct Pool {
    shelves: RefCell<HashMap<u64, Shelf>>,
    /// One task drives each connection; it ends when nobody can send on it any more.
    tasks: Tasks,
    limits: Limits,
    counts: Arc<Counts>,
}

/// The idle connections of one endpoint, the longest idle first.
#[derive(Debug)]
struct Shelf {
    endpoint: Arc<Endpoint>,
    idle: VecDeque<Idle>,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

/// One connection. Dropped, it is closed at once: the library alone would first flush what it has, and wait for ever for
/// an upstream that takes nothing.
#[derive(Debug)]
struct Line {
    sender: SendRequest<Upload>,
    writes: Arc<Writes>,
    task: Option<AbortHandle>,
}

impl Line {
    /// Closes it when what is on its way has been written.
    fn finish(mut self) {
        self.task = None;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A failed exchange, with the request if nothing of it was sent.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    /// Whoever tries the same endpoint again still holds it.
    pub(crate) occupied: Occupied,
    pub(crate) request: Option<Request<Upload>>,
}

impl Pool {
    pub(crate) fn new(limits: Limits, counts: Arc<Counts>) -> Rc<Self> {
        Rc::new(Self { shelves: RefCell::default(), tasks: Tasks::default(), limits, counts })
    }

    /// Sends a request to an endpoint and waits for the head of its response. Unbounded but for the connect timeout:
    /// the caller adds its own limit, and dropping this closes the connection. Once the `client` has ended its half, it
    /// may be gone: no drain waits for the answer any more.
    pub(crate) async fn send(
        self: &Rc<Self>,
        mut occupied: Occupied,
        mut request: Request<Upload>,
        client: &Activity,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        if !request.method().is_idempotent() {
            // What is not repeatable must not meet a connection that its upstream has closed already: one turn of the
            // event loop lets the connections of this core see that they were.
            tokio::task::yield_now().await;
        }
        while let Some(mut line) = self.take(occupied.endpoint().id) {
            match attend(line.sender.try_send_request(request), &mut occupied, client).await {
                Ok(response) => return Ok((response, self.lease(line, occupied))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed(&error.into_error(), Failure::BrokenReused, occupied)),
                },
            }
        }
        let Some(mut line) = self.connect(occupied.endpoint()).await else {
            return Err(Failed { failure: Failure::Unsent, occupied, request: Some(request) });
        };
        match attend(line.sender.try_send_request(request), &mut occupied, client).await {
            Ok(response) => Ok((response, self.lease(line, occupied))),
            Err(mut error) => match error.take_message() {
                Some(unsent) => Err(Failed { failure: Failure::Unsent, occupied, request: Some(unsent) }),
                None => Err(failed(&error.into_error(), Failure::Broken, occupied)),
            },
        }
    }

    fn lease(self: &Rc<Self>, line: Line, occupied: Occupied) -> Lease {
        Lease { line, pool: Rc::clone(self), occupied }
    }

    /// Closes what has been idle for too long or leads to an endpoint that is not ready any more.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.shelves.borrow_mut().retain(|_, shelf| {
            if !shelf.endpoint.is_ready() {
                return false;
            }
            shelf.idle.retain(|idle| {
                !idle.line.sender.is_closed() && now.duration_since(idle.since) < self.limits.upstream_idle_timeout
            });
            !shelf.idle.is_empty()
        });
    }

    /// Closes the idle connections of an endpoint, one of which turned out to be dead.
    pub(crate) fn forget(&self, endpoint: u64) {
        self.shelves.borrow_mut().remove(&endpoint);
    }

    /// Closes what is idle and returns when every connection has ended.
    pub(crate) async fn finish(&self) {
        self.shelves.take();
        self.tasks.finished().await;
    }

    /// The most recently used connection: the least likely to be closed by its upstream.
    fn take(&self, endpoint: u64) -> Option<Line> {
        let mut shelves = self.shelves.borrow_mut();
        let idle = &mut shelves.get_mut(&endpoint)?.idle;
        let limit = self.limits.upstream_idle_timeout;
        while let Some(candidate) = idle.pop_back() {
            if candidate.line.sender.is_ready() && candidate.since.elapsed() < limit {
                return Some(candidate.line);
            }
        }
        None
    }

    fn put(&self, endpoint: &Arc<Endpoint>, line: Line) {
        if line.writes.are_broken() {
            return;
        }
        // A connection that is not ready still has a request body to send, or is closing.
        if !line.sender.is_ready() {
            return line.finish();
        }
        if !endpoint.is_ready() {
            return;
        }
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves
            .entry(endpoint.id)
            .or_insert_with(|| Shelf { endpoint: Arc::clone(endpoint), idle: VecDeque::new() });
        shelf.idle.push_back(Idle { line, since: Instant::now() });
        if shelf.idle.len() > self.limits.upstream_idle_max {
            shelf.idle.pop_front();
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Option<Line> {
        let stream = timeout(self.limits.connect_timeout, TcpStream::connect(endpoint.address)).await;
        match &stream {
            Ok(Ok(_)) => endpoint.welcomed(),
            // What this process lacks (files, ports) says nothing of the endpoint.
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::ConnectionRefused => {}
            _ => endpoint.refused(),
        }
        let stream = stream.ok()?.ok()?;
        // Without it the last small segment of every request would wait for an acknowledgement.
        stream.set_nodelay(true).ok()?;
        // A host that dies in the middle of a response or a tunnel says no goodbye.
        SockRef::from(&stream).set_tcp_keepalive(&keepalive()).ok()?;
        let writes = Arc::<Writes>::default();
        let handshake = Builder::new()
            .max_buf_size(self.limits.head_bytes_max.max(BUFFER_BYTES_MIN))
            .max_headers(self.limits.headers_max)
            .handshake(TokioIo::new(Outlet::new(stream, Arc::clone(&writes))));
        let (sender, connection) = handshake.await.ok()?;
        self.counts.upstream_connections.add(1);
        let task = self.tasks.spawn_local(async move {
            // How it ended is told to whoever has an exchange on it.
            let _ = connection.with_upgrades().await;
        });
        Some(Line { sender, writes, task: Some(task.abort_handle()) })
    }
}

/// Waits for the head of a response, and lets the endpoint go when the client has ended its half meanwhile.
async fn attend<T>(head: impl Future<Output = T>, occupied: &mut Occupied, client: &Activity) -> T {
    let mut head = pin!(head);
    // The client's socket wakes the task that this runs in.
    poll_fn(|context| {
        let polled = head.as_mut().poll(context);
        if polled.is_pending() && client.has_ended() {
            occupied.become_endless();
        }
        polled
    })
    .await
}

fn failed(error: &hyper::Error, broken: Failure, occupied: Occupied) -> Failed {
    let failure = if error.is_parse_too_large() {
        Failure::HeadTooLarge
    } else if error.is_parse() {
        Failure::Invalid
    } else {
        broken
    };
    Failed { failure, occupied, request: None }
}

/// A connection in use, and the endpoint's share of the load. Dropped, it closes the connection.
#[derive(Debug)]
pub(crate) struct Lease {
    line: Line,
    pool: Rc<Pool>,
    occupied: Occupied,
}

impl Lease {
    /// The response was read to its end: the next request may have the connection.
    pub(crate) fn give_back(self) {
        self.pool.put(self.occupied.endpoint(), self.line);
    }

    /// Nobody wants the rest of the response: the connection is kept if that comes at once and is short, else closed.
    pub(crate) async fn discard(self, mut rest: Incoming) {
        let mut bytes = 0;
        let ended = timeout(UNWANTED_TIMEOUT, async {
            while !rest.is_end_stream() {
                match poll_fn(|context| Pin::new(&mut rest).poll_frame(context)).await {
                    Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) => return false,
                    None => return true,
                }
                if bytes > UNWANTED_BYTES_MAX {
                    return false;
                }
            }
            true
        });
        if ended.await.is_ok_and(|has_ended| has_ended) {
            self.give_back();
        }
    }

    /// What comes has no end of its own: nobody who drains the endpoint waits for it.
    pub(crate) fn become_endless(&mut self) {
        self.occupied.become_endless();
    }

    /// The connection carries no requests any more.
    pub(crate) fn become_tunnel(&self) {
        self.line.writes.become_tunnel();
    }
}
