//! Messages that nobody keeps: from some publishers to some subscribers, and requests that are answered.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::raw::{Client, Frame, publish};
use super::{Measured, Server};

/// Bytes that a publisher writes at once.
const BURST_BYTES: usize = 32 * 1024;

/// Messages that one publisher may be ahead of its slowest subscriber: never so much that one counts as slow.
const AHEAD_MAX: u64 = 16_384;

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Each with a subject of its own.
    pub(super) publishers: usize,
    /// Of each subject.
    pub(super) subscribers: usize,
    pub(super) bytes: usize,
}

/// Delivered messages are counted.
pub(super) async fn flow(server: &mut Server, shape: Shape, time: Duration) -> Result<Measured> {
    let mut lanes = Vec::new();
    for publisher in 0..shape.publishers {
        lanes.push(Lane::open(server, publisher, shape).await?);
    }
    let before = server.look()?;
    let start = Instant::now();
    let counts = futures_util::future::try_join_all(lanes.iter_mut().map(|lane| lane.run(start + time))).await?;
    let took = start.elapsed();
    let cpu = server.look()?.since(&before);
    Ok(Measured::new(counts.iter().sum(), took, cpu))
}

/// One publisher and its subscribers.
#[derive(Debug)]
struct Lane {
    publisher: Client,
    subscribers: Vec<Client>,
    burst: Vec<u8>,
    burst_messages: u64,
}

impl Lane {
    async fn open(server: &Server, number: usize, shape: Shape) -> Result<Self> {
        let subject = format!("bench.{number}");
        let mut subscribers = Vec::new();
        for _ in 0..shape.subscribers {
            subscribers.push(Client::open(server.address, &[&subject]).await?);
        }
        let message = publish(&subject, None, &vec![b'x'; shape.bytes]);
        let burst_messages = BURST_BYTES.div_ceil(message.len());
        let burst = message.repeat(burst_messages);
        let publisher = Client::open(server.address, &[]).await?;
        Ok(Self { publisher, subscribers, burst, burst_messages: burst_messages as u64 })
    }

    /// Sends until then, and returns how many came when all have come.
    async fn run(&mut self, end: Instant) -> Result<u64> {
        let (sent, is_done, moved) = (Cell::new(0), Cell::new(false), Notify::new());
        let received: Vec<Cell<u64>> = self.subscribers.iter().map(|_| Cell::new(0)).collect();
        let slowest = || received.iter().map(Cell::get).min().unwrap_or_default();
        let publishing = async {
            while Instant::now() < end {
                if sent.get() - slowest() > AHEAD_MAX {
                    moved.notified().await;
                    continue;
                }
                self.publisher.writer.write_all(&self.burst).await?;
                sent.set(sent.get() + self.burst_messages);
                tokio::task::yield_now().await;
            }
            is_done.set(true);
            anyhow::Ok(())
        };
        let reading = self.subscribers.iter_mut().zip(&received).map(async |(subscriber, count)| {
            while !is_done.get() || count.get() < sent.get() {
                count.set(count.get() + subscriber.reader.count().await?);
                moved.notify_one();
            }
            anyhow::Ok(())
        });
        tokio::try_join!(publishing, futures_util::future::try_join_all(reading))?;
        Ok(received.iter().map(Cell::get).sum())
    }
}

/// Requests of 128 bytes, so many at a time, which a service on another connection gives back.
pub(super) async fn requests(server: &mut Server, in_flight: usize, time: Duration) -> Result<Measured> {
    let mut service = Client::open(server.address, &["service"]).await?;
    let mut asking = Client::open(server.address, &["_INBOX.bench.*"]).await?;
    let request = publish("service", Some("_INBOX.bench.1"), &[b'x'; 128]);
    let before = server.look()?;
    let start = Instant::now();
    let answering = async {
        let mut answers = Vec::new();
        loop {
            let answer = |frame: Frame<'_>| {
                if let Frame::Message { reply: Some(reply), payload } = frame {
                    let head = [b"PUB ", reply, format!(" {}\r\n", payload.len()).as_bytes()].concat();
                    answers.extend_from_slice(&head);
                    answers.extend_from_slice(payload);
                    answers.extend_from_slice(b"\r\n");
                }
            };
            service.reader.read(answer).await?;
            service.writer.write_all(&answers).await?;
            answers.clear();
        }
        #[expect(unreachable_code, reason = "it tells the type")]
        anyhow::Ok(())
    };
    let mut latencies = Vec::new();
    let asking = async {
        let mut answered = 0;
        asking.writer.write_all(&request.repeat(in_flight)).await?;
        let mut sent = Instant::now();
        while start.elapsed() < time {
            let count = asking.reader.count().await?;
            answered += count;
            if in_flight == 1 && count == 1 {
                latencies.push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
                sent = Instant::now();
            }
            asking.writer.write_all(&request.repeat(usize::try_from(count)?)).await?;
        }
        anyhow::Ok(answered)
    };
    let answered = tokio::select! {
        answered = asking => answered?,
        ended = answering => { ended?; 0 }
    };
    let took = start.elapsed();
    let cpu = server.look()?.since(&before);
    Ok(Measured::new(answered, took, cpu).with_latencies(latencies))
}
