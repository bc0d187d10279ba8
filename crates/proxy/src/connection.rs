//! One connection of a client, from accept to close: requests one after another, a watchdog for those that stall, a
//! graceful end when the proxy drains. A panic in here ends this connection alone.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::Limits;
use crate::exchange::{self, Peer};
use crate::reason::{Reason, Refusal, problem};
use crate::upstream::BUFFER_BYTES_MIN;
use crate::watched::{Phase, Watched};

// Limit: how long the last words to a client that never finished its head may take.
const FAREWELL: Duration = Duration::from_secs(1);

// Limit: how long a connection that the drain found in the kernel's queue has for showing its request. Closing it
// unread would reset a client that did nothing wrong.
const LATE: Duration = Duration::from_millis(100);

/// How a connection ended.
enum End {
    Closed,
    /// It waited too long in this phase.
    Expired(Phase),
}

/// Serves a connection until it closes, stalls or, in a drain, has finished what it began.
pub(crate) async fn serve(stream: TcpStream, peer: Rc<Peer>) {
    let core = Rc::clone(&peer.core);
    let activity = Arc::clone(&peer.activity);
    if core.stopping.is_cancelled() {
        let _ = timeout(LATE, stream.readable()).await;
    }
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let service = service_fn(move |request: Request<Incoming>| {
        let peer = Rc::clone(&peer);
        async move { Ok::<_, Infallible>(exchange::answer(peer, request).await) }
    });
    let mut connection = builder(&core.limits).serve_connection(io, service).with_upgrades();
    let mut stopping = pin!(core.stopping.cancelled());
    let mut is_stopping = false;
    let mut watchdog = pin!(sleep_until(Instant::now() + core.limits.idle_timeout));
    let end = poll_fn(|context| {
        // Order: what has arrived is read before the connection learns that it is to end.
        loop {
            if Pin::new(&mut connection).poll(context).is_ready() {
                return Poll::Ready(End::Closed);
            }
            if is_stopping || stopping.as_mut().poll(context).is_pending() {
                break;
            }
            is_stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // The timer is set anew only when it would be too late, or has come too early: not for every request.
        while let Some(deadline) = activity.deadline(&core.limits) {
            if deadline < watchdog.deadline() {
                watchdog.as_mut().reset(deadline);
            }
            if watchdog.as_mut().poll(context).is_pending() {
                break;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(End::Expired(activity.phase()));
            }
            watchdog.as_mut().reset(deadline);
        }
        Poll::Pending
    });
    if let End::Expired(Phase::Head) = end.await
        && let Some(parts) = connection.into_parts()
    {
        say_farewell(parts.io.into_inner()).await;
    }
}

/// The library's own limits stand above ours, so that ours answer, with a reason. A head beyond the library's gets its
/// bare 431 (414 for a target over 64 KiB); what it cannot parse at all its bare 400.
fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .header_read_timeout(None)
        .max_headers(limits.headers_max.saturating_mul(2))
        .max_buf_size(limits.head_bytes_max.saturating_mul(2).max(BUFFER_BYTES_MIN));
    builder
}

/// 408 to a client whose head never ended: the library has no request to answer.
async fn say_farewell(mut io: Watched) {
    let refusal = Refusal::new(Reason::RequestTimeout, "The head of the request did not come in time.");
    let content = problem(&refusal, &kit::ids::unique(), None);
    let head = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        content.len()
    );
    let words = [head.as_bytes(), &content].concat();
    let _ = timeout(FAREWELL, async {
        io.write_all(&words).await?;
        io.shutdown().await
    })
    .await;
}
