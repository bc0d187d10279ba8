//! One connection of a client, from accept to close: requests one after another, a watchdog for those that stall, a
//! graceful end when the proxy drains. A panic in here ends this connection alone.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, StatusCode};
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
    /// The library could not read a head, and has said so.
    Unreadable(Reason),
    /// The client speaks HTTP/2. The library says nothing to it.
    Foreign,
    /// It waited too long in this phase.
    Expired(Phase),
}

impl End {
    /// Finds out whether a head could not be read. A client that went away in the middle of one is no news.
    fn of(end: hyper::Result<()>) -> Self {
        match end {
            // The library tells the two apart in words only.
            Err(error) if error.is_parse_too_large() && error.to_string().contains("URI") => {
                Self::Unreadable(Reason::UriTooLong)
            }
            Err(error) if error.is_parse_too_large() => Self::Unreadable(Reason::HeadTooLarge),
            Err(error) if error.is_parse_version_h2() => Self::Foreign,
            Err(error) if error.is_parse() => Self::Unreadable(Reason::BadRequest),
            _ => Self::Closed,
        }
    }
}

/// Serves a connection until it closes, stalls or, in a drain, has finished what it began.
pub(crate) async fn serve(stream: TcpStream, peer: Rc<Peer>) {
    let core = Rc::clone(&peer.core);
    let activity = Arc::clone(&peer.activity);
    if core.stopping.is_cancelled() {
        let _ = timeout(LATE, stream.readable()).await;
    }
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let server = Rc::clone(&peer);
    let service = service_fn(move |request: Request<Incoming>| {
        let peer = Rc::clone(&server);
        async move {
            let mut answered = exchange::answer(Rc::clone(&peer), request).await;
            // Whoever comes back finds the listener's next process, or that it is gone (RFC 9112 §9.6).
            if let Ok(response) = &mut answered
                && peer.closing.is_cancelled()
                && response.status() != StatusCode::SWITCHING_PROTOCOLS
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answered
        }
    });
    let mut connection = builder(&core.limits).serve_connection(io, service).with_upgrades();
    let mut stopping = pin!(core.stopping.cancelled());
    let mut is_stopping = false;
    let mut watchdog = pin!(sleep_until(Instant::now() + core.limits.idle_timeout));
    let end = poll_fn(|context| {
        // Order: what has arrived is read before the connection learns that it is to end.
        loop {
            if let Poll::Ready(end) = Pin::new(&mut connection).poll(context) {
                return Poll::Ready(End::of(end));
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
            if Instant::now() >= deadline && !activity.outlived_parting() {
                // A connection that has lingered for long enough ends by itself, and says why.
                let phase = activity.phase();
                let last = (phase == Phase::Lingering).then(|| Pin::new(&mut connection).poll(context));
                return match last {
                    Some(Poll::Ready(end)) => Poll::Ready(End::of(end)),
                    _ => Poll::Ready(End::Expired(phase)),
                };
            }
            watchdog.as_mut().reset(deadline);
        }
        Poll::Pending
    });
    let farewell = match end.await {
        End::Unreadable(reason) => return note_refusal(&peer, reason),
        End::Foreign => Refusal::new(Reason::HttpVersionNotSupported, "This listener speaks HTTP/1.1."),
        End::Expired(Phase::Head) => {
            Refusal::new(Reason::RequestTimeout, "The head of the request did not come in time.")
        }
        End::Closed | End::Expired(_) => return,
    };
    note_refusal(&peer, farewell.reason);
    if let Some(parts) = connection.into_parts() {
        say_farewell(parts.io.into_inner(), &farewell).await;
    }
}

fn note_refusal(peer: &Peer, reason: Reason) {
    let current = peer.core.shared.current.load();
    let caller = current.tables.listener(&peer.listener).and_then(|table| table.caller.as_deref());
    peer.core.log.refuse_head(&peer.listener, caller, peer.address, reason);
}

/// The library's own limits stand above ours, so that ours answer, with a reason. A head beyond the library's gets its
/// bare 431 (414 for a target over 64 KiB); what it cannot parse at all its bare 400: obsolete line folding, lengths that
/// differ, a coded body in HTTP/1.0.
fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .header_read_timeout(None)
        // Else the end of the client's half would cancel its request; `watched` looks who is gone.
        .half_close(true)
        .max_headers(limits.headers_max.saturating_mul(2))
        .max_buf_size(limits.head_bytes_max.saturating_mul(2).max(BUFFER_BYTES_MIN));
    builder
}

/// The answer to a client whose head never ended or is of another protocol: the library has no request to answer.
async fn say_farewell(mut io: Watched, refusal: &Refusal) {
    let id = kit::ids::unique();
    let content = problem(refusal, &id, None);
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\nx-request-id: {id}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        refusal.reason.status(),
        content.len()
    );
    let words = [head.as_bytes(), &content].concat();
    let _ = timeout(FAREWELL, async {
        io.write_all(&words).await?;
        io.shutdown().await
    })
    .await;
}
