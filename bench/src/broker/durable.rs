//! Messages that a stream on disk keeps: published by the official client and as bytes, pulled and acknowledged, retained in
//! memory's terms, and found again after a restart.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{self, consumer::PullConsumer, consumer::pull};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::raw::{Client, publish};
use super::server::{Disk, Kind};
use super::{Measured, Server};
use crate::options::Broker as Options;
use crate::usage::Cpu;

const SUBJECT: &str = "kept.here";
const STREAM: &str = "KEPT";
/// Acks come here, answers of the API to the other one.
const ACKS: &str = "_INBOX.acks";
const ANSWERS: &str = "_INBOX.answers";

/// Messages in flight of whoever does not wait for each.
pub(super) const IN_FLIGHT: u64 = 1_000;

/// Messages of one pull.
const BATCH: usize = 500;
/// Messages that are there to be pulled.
const PULLED: u64 = 100_000;

/// Retained messages whose memory is measured, and their bytes.
const RETAINED: u64 = 1_000_000;
/// As many of them are 10 GB.
const RESTARTED: u64 = 10_000_000;
const RETAINED_BYTES: usize = 1024;

/// A connection that manages the stream of one measurement.
#[derive(Debug)]
struct Kept {
    client: Client,
}

impl Kept {
    /// An empty stream.
    async fn create(server: &Server) -> Result<Self> {
        let mut kept = Self { client: Client::open(server.address, &[ANSWERS]).await? };
        let config = json!({ "name": STREAM, "subjects": ["kept.>"], "storage": "file", "retention": "limits" });
        kept.ask("STREAM.CREATE", &config).await?;
        Ok(kept)
    }

    async fn open(server: &Server) -> Result<Self> {
        Ok(Self { client: Client::open(server.address, &[ANSWERS]).await? })
    }

    async fn ask(&mut self, what: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let subject = format!("$JS.API.{what}.{STREAM}");
        let answer = self.client.request(&subject, ANSWERS, body.as_bytes()).await?;
        let answer: Value =
            serde_json::from_slice(&answer).with_context(|| format!("{what} is not answered by JSON"))?;
        ensure!(answer.get("error").is_none(), "{what}: {}", answer["error"]);
        Ok(answer)
    }

    async fn messages(&mut self) -> Result<u64> {
        self.ask("STREAM.INFO", &Value::Null).await?["state"]["messages"].as_u64().context("no count of messages")
    }

    /// Everything that was acknowledged must be there.
    async fn remove(mut self, acknowledged: u64) -> Result<()> {
        let kept = self.messages().await?;
        ensure!(kept >= acknowledged, "{acknowledged} messages were acknowledged, {kept} are there");
        self.ask("STREAM.DELETE", &Value::Null).await?;
        Ok(())
    }
}

/// Through the official client, 128 bytes.
pub(super) async fn publish_async_nats(server: &mut Server, time: Duration) -> Result<Measured> {
    let kept = Kept::create(server).await?;
    let client = async_nats::connect(server.url()).await?;
    let js = jetstream::ContextBuilder::new().max_ack_inflight(usize::try_from(2 * IN_FLIGHT)?).build(client);
    let payload = bytes::Bytes::from_static(&[b'x'; 128]);
    let before = server.look()?;
    let start = Instant::now();
    let (mut waiting, mut acknowledged) = (VecDeque::new(), 0);
    while start.elapsed() < time {
        waiting.push_back(js.publish(SUBJECT, payload.clone()).await?);
        if waiting.len() as u64 == IN_FLIGHT {
            waiting.pop_front().context("one waits")?.await?;
            acknowledged += 1;
        }
    }
    for sent in waiting {
        sent.await?;
        acknowledged += 1;
    }
    let took = start.elapsed();
    let cpu = server.look()?.since(&before);
    kept.remove(acknowledged).await?;
    Ok(Measured::new(acknowledged, took, cpu))
}

/// As bytes, so many in flight; with one each is timed.
pub(super) async fn publish_raw(server: &mut Server, in_flight: u64, time: Duration) -> Result<Measured> {
    let kept = Kept::create(server).await?;
    let mut client = Client::open(server.address, &[ACKS]).await?;
    let message = publish(SUBJECT, Some(ACKS), &[b'x'; 128]);
    let burst = message.repeat(usize::try_from(in_flight)?);
    let before = server.look()?;
    let start = Instant::now();
    let (mut sent, mut acknowledged, mut latencies) = (0, 0, Vec::new());
    while start.elapsed() < time || acknowledged < sent {
        let room = in_flight - (sent - acknowledged);
        let began = Instant::now();
        if room > 0 && start.elapsed() < time {
            client.writer.write_all(&burst[..message.len() * usize::try_from(room)?]).await?;
            sent += room;
        }
        acknowledged += client.reader.count().await?;
        if in_flight == 1 && acknowledged == sent {
            latencies.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }
    let took = start.elapsed();
    let cpu = server.look()?.since(&before);
    kept.remove(acknowledged).await?;
    Ok(Measured::new(acknowledged, took, cpu).with_latencies(latencies))
}

/// Publishes a number of messages as fast as it goes.
async fn fill(server: &Server, count: u64, bytes: usize) -> Result<()> {
    let mut client = Client::open(server.address, &[ACKS]).await?;
    let message = publish(SUBJECT, Some(ACKS), &vec![b'x'; bytes]);
    let burst = message.repeat(usize::try_from(IN_FLIGHT)?);
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < count {
        let room = (IN_FLIGHT - (sent - acknowledged)).min(count - sent);
        if room > 0 {
            client.writer.write_all(&burst[..message.len() * usize::try_from(room)?]).await?;
            sent += room;
        }
        acknowledged += client.reader.count().await?;
    }
    Ok(())
}

/// Pulls of 500 by the official client, each message acknowledged.
pub(super) async fn pull(server: &mut Server) -> Result<Measured> {
    let mut kept = Kept::create(server).await?;
    fill(server, PULLED, 128).await?;
    let js = jetstream::new(async_nats::connect(server.url()).await?);
    let config = pull::Config {
        durable_name: Some("puller".to_owned()),
        max_ack_pending: i64::try_from(4 * BATCH)?,
        ..pull::Config::default()
    };
    let consumer: PullConsumer = js.create_consumer_on_stream(config, STREAM).await?;
    let before = server.look()?;
    let start = Instant::now();
    let mut pulled = 0;
    while pulled < PULLED {
        let mut batch = consumer.fetch().max_messages(BATCH).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message.map_err(|error| anyhow::anyhow!(error))?;
            message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
            pulled += 1;
        }
    }
    // The last acks are on their way.
    while kept_pending(&mut kept).await? > 0 {
        tokio::task::yield_now().await;
    }
    let took = start.elapsed();
    let cpu = server.look()?.since(&before);
    kept.remove(PULLED).await?;
    Ok(Measured::new(pulled, took, cpu))
}

async fn kept_pending(kept: &mut Kept) -> Result<u64> {
    let subject = format!("$JS.API.CONSUMER.INFO.{STREAM}.puller");
    let answer: Value = serde_json::from_slice(&kept.client.request(&subject, ANSWERS, b"").await?)?;
    answer["num_ack_pending"].as_u64().with_context(|| format!("no consumer: {answer}"))
}

/// MiB that are resident with a million messages of 1 KiB.
pub(super) async fn retain(server: &mut Server) -> Result<Measured> {
    let kept = Kept::create(server).await?;
    let before = server.look()?;
    let start = Instant::now();
    fill(server, RETAINED, RETAINED_BYTES).await?;
    let took = start.elapsed();
    let cpu = server.look()?.since(&before);
    let memory = server.memory()?;
    kept.remove(RETAINED).await?;
    Ok(Measured::new(RETAINED, took, cpu).with_memory(memory))
}

/// From the start of the process until it tells how many messages there are, with 10 GB of them.
pub(super) async fn restart(kind: Kind, folder: &Path, options: &Options) -> Result<Measured> {
    let server = Server::start(kind, Disk::Own, folder, options).await?;
    drop(Kept::create(&server).await?);
    fill(&server, RESTARTED, RETAINED_BYTES).await?;
    drop(server);
    let start = Instant::now();
    let server = Server::start(kind, Disk::Own, folder, options).await?;
    let mut kept = Kept::open(&server).await?;
    let count = kept.messages().await?;
    let took = start.elapsed();
    ensure!(count == RESTARTED, "{count} messages of {RESTARTED} are there");
    let memory = server.memory()?;
    kept.remove(RESTARTED).await?;
    Ok(Measured::new(RESTARTED, took, Cpu::default()).with_memory(memory))
}
