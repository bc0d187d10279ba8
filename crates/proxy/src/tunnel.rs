//! After an upgrade: bytes both ways until both sides have ended, without a look at them. A side that waits holds no
//! buffer. Holds the endpoint's share of the load as long as it lives.

use std::future::poll_fn;
use std::mem::take;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use crate::exchange::Exchange;
use crate::http1::pipe::{Cut, Pipe};
use crate::message::Length;
use crate::relay::poll_end;
use crate::stock::{Slate, Stock};
use crate::timers::Moment;

/// One direction.
struct Direction<'p> {
    pipe: &'p mut Pipe,
    buffer: Vec<u8>,
    /// Whether its sink was told that nothing more comes.
    is_over: bool,
}

/// A side is gone.
enum Lost {
    Source,
    Sink,
}

/// Writes the head of the answer and then whatever comes.
pub(crate) async fn run(exchange: &mut Exchange<'_>) {
    let Some(line) = &mut exchange.line else { return };
    let core = &exchange.client.core;
    let clock = &core.timers.clock;
    let Slate { inbound, response, upload, download, .. } = &mut *exchange.slate;
    // What the client has said already is for the service; the head stays for the record.
    let said = inbound.split_off(upload.rest());
    upload.begin(Length::UntilClose, 0, 0, u64::MAX, clock.now());
    // Its head is written already into what goes first.
    let head = take(download.lead());
    download.begin(Length::UntilClose, 0, response.length, u64::MAX, clock.now());
    *download.lead() = head;
    let mut up = Direction { pipe: upload, buffer: said, is_over: false };
    let mut down = Direction { pipe: download, buffer: take(&mut exchange.answer), is_over: false };
    let (client, service) = (&mut exchange.client.stream, &mut line.stream);
    // The kernel alone watches over it (keepalive).
    exchange.client.timer.set(Moment::NEVER);
    poll_fn(|context| {
        let now = clock.now();
        // The service first: its bytes may come with its answer, the client's only after it.
        let downward = down.poll(context, now, service, client, &core.stock);
        let upward = up.poll(context, now, client, service, &core.stock);
        match (downward, upward) {
            // A service that takes nothing any more may have said something before.
            (Poll::Pending, Poll::Ready(Err(Lost::Sink))) => {
                up.is_over = true;
                Poll::Pending
            }
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(()),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    (exchange.record.tunnelled_in, exchange.record.bytes_out) = (up.pipe.bytes, down.pipe.bytes);
    up.pipe.bytes = 0;
    core.stock.give_buffer(&mut up.buffer);
    core.stock.give_buffer(&mut down.buffer);
    // A tunnel knows no right moment to end; a side that goes without goodbye is no failure of the other's.
    exchange.record.completed = Some(exchange.now());
}

impl Direction<'_> {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        now: Moment,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        stock: &Stock,
    ) -> Poll<Result<(), Lost>> {
        if self.is_over {
            return Poll::Ready(Ok(()));
        }
        let polled = self.pipe.poll(context, now, (source, sink), &mut self.buffer, stock);
        if self.buffer.is_empty() {
            stock.give_buffer(&mut self.buffer);
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(Cut::SinkLost)) => Poll::Ready(Err(Lost::Sink)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Lost::Source)),
            Poll::Ready(Ok(())) => {
                let ended = poll_end(sink, context);
                self.is_over = ended.is_ready();
                ended.map_err(|_| Lost::Sink)
            }
        }
    }
}
