//! One connection of a client, from accept to close: requests one after another, an end for those that stall, a graceful
//! end when the proxy drains. Waits without a buffer. A panic in here ends this connection alone.

use std::cell::OnceCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::cores::{Core, Listener};
use crate::exchange::{self, Fate};
use crate::headers::Origin;
use crate::http1::parse::{self, Parsed};
use crate::limit::Limit;
use crate::reason::{Reason, Refusal, problem};
use crate::rooms::{Admission, Room};
use crate::stock::Slate;
use crate::timers::{Moment, Timer};

// Limit: how long the last words to a client that never finished its head may take.
const FAREWELL: Duration = Duration::from_secs(1);

// Limit: how long a closing connection goes on reading what the client still sends. Closing at once with unread data
// in the socket resets the connection, and a reset takes the answer (413, 431) from the client's hands.
const LINGER: Duration = Duration::from_secs(2);

// Limit: how long a connection that the drain found in the kernel's queue, or one that is to be told that it is one too
// many, has for showing its request. Closing it unread would reset a client that did nothing wrong.
const LATE: Duration = Duration::from_millis(100);

/// The client's end.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) core: Rc<Core>,
    pub(crate) listener: Rc<Listener>,
    pub(crate) stream: TcpStream,
    pub(crate) address: SocketAddr,
    pub(crate) admission: Admission,
    pub(crate) timer: Timer,
    /// Whether it has ended its half.
    pub(crate) has_ended: bool,
    origin: OnceCell<Box<Origin>>,
    _room: Room,
}

impl Client {
    pub(crate) fn now(&self) -> Moment {
        self.core.timers.clock.now()
    }

    /// How it came in.
    pub(crate) fn origin(&self) -> &Origin {
        self.origin.get_or_init(|| Box::new(Origin::new(self.address, self.listener.port)))
    }
}

/// What came next on a connection.
enum Next {
    Request,
    /// The end, without anything to say.
    Nothing,
    /// A head that cannot be read.
    Unreadable(Refusal),
}

/// Serves a connection until it closes, stalls or, in a drain, has finished what it began.
pub(crate) async fn serve(
    stream: TcpStream,
    core: Rc<Core>,
    listener: Rc<Listener>,
    address: SocketAddr,
    admission: Admission,
    room: Room,
) {
    let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    let timers = Rc::clone(&core.timers);
    let timer = timers.timer(&waker);
    let client = Client {
        core,
        listener,
        stream,
        address,
        admission,
        timer,
        has_ended: false,
        origin: OnceCell::new(),
        _room: room,
    };
    let mut life = pin!(live(client));
    // The time is looked at once each time the task is woken.
    poll_fn(|context| {
        timers.clock.tick();
        life.as_mut().poll(context)
    })
    .await;
}

async fn live(mut client: Client) {
    let mut slate: Option<Box<Slate>> = None;
    let mut since = client.now();
    let late = if client.core.is_stopping.get() || client.admission == Admission::Refused {
        since.after(LATE)
    } else {
        Moment::default()
    };
    loop {
        let next = poll_fn(|context| poll_next(&mut client, &mut slate, since, late, context)).await;
        let fate = match (next, &mut slate) {
            (Next::Request, Some(slate)) => exchange::answer(&mut client, slate).await,
            (Next::Unreadable(refusal), _) => {
                note_refusal(&client, refusal);
                say_farewell(&mut client, &refusal).await;
                Fate::Lingers
            }
            _ => Fate::Gone,
        };
        match (fate, &mut slate) {
            (Fate::Again, Some(used)) => {
                let rest = used.upload.rest();
                used.inbound.drain(..rest);
                (used.began, used.looked) = (None, 0);
                since = client.now();
            }
            (Fate::Gone | Fate::Again, _) => break,
            (fate, _) => {
                close(&mut client, fate == Fate::Lingers).await;
                break;
            }
        }
    }
    if let Some(slate) = slate {
        client.core.stock.give_slate(slate);
    }
}

/// Waits for a head. Between requests nothing is held but the connection.
fn poll_next(
    client: &mut Client,
    slate: &mut Option<Box<Slate>>,
    since: Moment,
    late: Moment,
    context: &mut Context<'_>,
) -> Poll<Next> {
    let core = &client.core;
    // What was read behind the last request comes first.
    let mut has_news = slate.as_ref().is_some_and(|slate| !slate.inbound.is_empty());
    loop {
        if let Some(slate) = slate.as_mut().filter(|slate| has_news && slate.is_worth_a_look()) {
            slate.looked = slate.inbound.len();
            match parse::request(&slate.inbound, &core.limits, &mut slate.request) {
                Ok(Parsed::Complete) => return Poll::Ready(Next::Request),
                Ok(Parsed::Partial) => slate.skip_empty_lines(),
                Err(refusal) => return Poll::Ready(Next::Unreadable(refusal)),
            }
        }
        if client.has_ended {
            return Poll::Ready(Next::Nothing);
        }
        match poll_bytes(&mut client.stream, core, slate, context) {
            Poll::Ready(Ok(1..)) => has_news = true,
            Poll::Ready(_) => return Poll::Ready(Next::Nothing),
            Poll::Pending => return wait(client, slate, since, late),
        }
    }
}

/// Nothing has come: decides how long that may go on.
fn wait(client: &Client, slate: &mut Option<Box<Slate>>, since: Moment, late: Moment) -> Poll<Next> {
    let (core, now) = (&client.core, client.now());
    if let Some(unused) = slate.take_if(|slate| slate.inbound.is_empty()) {
        core.stock.give_slate(unused);
    }
    let deadline = match slate {
        Some(slate) => {
            let began = slate.began.get_or_insert(now);
            let deadline = began.after(core.limits.head_timeout);
            if deadline <= now {
                return Poll::Ready(Next::Unreadable(LATE_HEAD));
            }
            deadline
        }
        // Order: what has arrived is read before the connection learns that it is to end.
        None if core.is_stopping.get() || client.admission == Admission::Refused => late,
        None => since.after(core.limits.idle_timeout),
    };
    if deadline <= now {
        if client.admission == Admission::Served && !core.is_stopping.get() {
            core.counts.reach(Limit::IdleTimeout);
        }
        return Poll::Ready(Next::Nothing);
    }
    client.timer.set(deadline);
    Poll::Pending
}

const LATE_HEAD: Refusal =
    Refusal::new(Reason::RequestTimeout, "The head of the request did not come in time.").by(Limit::RequestHeadTimeout);

fn poll_bytes(
    stream: &mut TcpStream,
    core: &Core,
    slate: &mut Option<Box<Slate>>,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    ready!(stream.poll_read_ready(context))?;
    let slate = slate.get_or_insert_with(|| core.stock.slate());
    poll_read_buf(Pin::new(stream), context, &mut slate.inbound)
}

fn note_refusal(client: &Client, refusal: Refusal) {
    let view = client.listener.view(&client.core.shared);
    client.core.counts.heads_refused.add(1);
    client.core.counts.refuse(refusal.reason);
    client.core.counts.reach(refusal.limit);
    if view.is_logged() {
        let caller = view.table.as_ref().and_then(|table| table.caller.as_deref());
        client.core.log.refuse_head(&client.listener.name, caller, client.address, refusal.reason);
    }
}

/// The answer to a client whose head never ended or cannot be read: there is no request to answer.
async fn say_farewell(client: &mut Client, refusal: &Refusal) {
    let id = kit::ids::unique();
    let content = problem(refusal, &id, None);
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\nx-request-id: {id}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        refusal.reason.status(),
        content.len()
    );
    let words = [head.as_bytes(), &content].concat();
    let (mut sent, deadline) = (0, client.now().after(FAREWELL));
    poll_fn(|context| {
        while sent < words.len() {
            match Pin::new(&mut client.stream).poll_write(context, &words[sent..]) {
                Poll::Ready(Ok(count @ 1..)) => sent += count,
                Poll::Pending if client.now() < deadline => {
                    client.timer.set(deadline);
                    return Poll::Pending;
                }
                _ => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// Ends our half and, where the client may still send, reads and forgets until it has ended its own or has had its time.
async fn close(client: &mut Client, lingers: bool) {
    let ended = poll_fn(|context| Pin::new(&mut client.stream).poll_shutdown(context)).await;
    if ended.is_err() || !lingers {
        return;
    }
    let patience = if client.admission == Admission::Refused { LATE } else { LINGER };
    let deadline = client.now().after(patience);
    let mut scratch = client.core.stock.buffer();
    poll_fn(|context| {
        loop {
            scratch.clear();
            match poll_read_buf(Pin::new(&mut client.stream), context, &mut scratch) {
                Poll::Ready(Ok(1..)) if client.now() < deadline => {}
                Poll::Pending if client.now() < deadline => {
                    client.timer.set(deadline);
                    return Poll::Pending;
                }
                _ => return Poll::Ready(()),
            }
        }
    })
    .await;
    client.core.stock.give_buffer(&mut scratch);
}
