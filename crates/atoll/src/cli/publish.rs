//! `atoll publish`: one message, or the same one many times, acknowledged by the stream that keeps it.

use std::collections::VecDeque;
use std::io::{Read, Write};

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use async_nats::jetstream;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use crate::cli::bus::{self, Bus};
use crate::cli::output::{self, Format};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on};

/// Messages that wait for their acknowledgement at a time.
const IN_FLIGHT_MAX: usize = 256;

/// Where a stream keeps the subject, the command ends once that has the message, and prints its sequence. Elsewhere the
/// message reaches whoever subscribes now.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll publish orders.placed '{\"order\":1}'\n  \
atoll publish orders.placed - < order.json\n  atoll publish orders.placed x -H Nats-Msg-Id:42 -o json\n  \
atoll publish load.test x --count 10000")]
pub struct Publish {
    /// Where to
    #[arg(value_name = "SUBJECT", value_parser = bus::subject)]
    subject: String,
    /// What; `-` reads it from standard input
    #[arg(value_name = "BODY", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    body: String,
    /// A header; `Nats-Msg-Id` has the stream tell a second message with the same one from a new one
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// So many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    #[command(flatten)]
    place: Place,
}

/// What became of it.
#[derive(Debug, Serialize)]
struct Published {
    subject: String,
    count: u64,
    /// None where no stream keeps it.
    stream: Option<String>,
    /// Of the last one.
    sequence: Option<u64>,
    /// How many the stream had before, by their message id.
    duplicates: u64,
}

impl Publish {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let project = self.place.target(&[])?.project;
        let body = match self.body.as_str() {
            "-" => {
                let mut body = Vec::new();
                let read = std::io::stdin().lock().read_to_end(&mut body);
                read.map_err(|error| Failure::new("cannot read standard input").because(error))?;
                Bytes::from(body)
            }
            text => Bytes::copy_from_slice(text.as_bytes()),
        };
        let published = block_on(async {
            let bus = Bus::connect(&project).await?;
            tokio::select! {
                published = self.publish(&bus, body) => published,
                lost = bus.lost() => Err(lost),
            }
        })??;
        match context.format {
            Format::Json => output::json(&published),
            Format::Table => tell(&published),
        }
    }

    async fn publish(&self, bus: &Bus, body: Bytes) -> Result<Published, Failure> {
        let max = bus.client.server_info().max_payload;
        if body.len() > max {
            let message = format!("the message has {} bytes; the broker takes {max}", body.len());
            return Err(Failure::new(message).hint("write a larger `max_payload` under [broker]".to_owned()));
        }
        let headers = self.header_map()?;
        match bus.streams_of(&self.subject).await?.is_empty() {
            true => self.send(bus, headers, body).await,
            false => self.store(bus, headers, body).await,
        }
    }

    /// To whoever listens now.
    async fn send(&self, bus: &Bus, headers: HeaderMap, body: Bytes) -> Result<Published, Failure> {
        let failed = || Failure::new(format!("cannot publish to {}", self.subject));
        for _ in 0..self.count {
            let sent = match headers.is_empty() {
                true => bus.client.publish(self.subject.clone(), body.clone()).await,
                false => bus.client.publish_with_headers(self.subject.clone(), headers.clone(), body.clone()).await,
            };
            sent.map_err(|error| failed().because(error))?;
        }
        bus.client.flush().await.map_err(|error| failed().because(error))?;
        Ok(Published { subject: self.subject.clone(), count: self.count, stream: None, sequence: None, duplicates: 0 })
    }

    /// Into a stream.
    async fn store(&self, bus: &Bus, headers: HeaderMap, body: Bytes) -> Result<Published, Failure> {
        let stream = jetstream::new(bus.client.clone());
        let failed = |error: PublishError| refused(&self.subject, error);
        let mut waiting: VecDeque<PublishAckFuture> = VecDeque::new();
        let (mut last, mut duplicates) = (None, 0);
        let mut sent = 0;
        while sent < self.count || !waiting.is_empty() {
            if sent < self.count && waiting.len() < IN_FLIGHT_MAX {
                let next = stream.publish_with_headers(self.subject.clone(), headers.clone(), body.clone());
                waiting.push_back(next.await.map_err(failed)?);
                sent += 1;
            } else if let Some(oldest) = waiting.pop_front() {
                let ack: PublishAck = oldest.await.map_err(failed)?;
                duplicates += u64::from(ack.duplicate);
                last = Some(ack);
            }
        }
        Ok(Published {
            subject: self.subject.clone(),
            count: self.count,
            sequence: last.as_ref().map(|ack| ack.sequence),
            stream: last.map(|ack| ack.stream),
            duplicates,
        })
    }

    fn header_map(&self) -> Result<HeaderMap, Failure> {
        let mut all = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = || Failure::new(format!("`{name}: {value}` is no header"));
            let key: HeaderName = name.parse().map_err(|error| wrong().because(Box::new(error)))?;
            let value: HeaderValue = value.parse().map_err(|error| wrong().because(Box::new(error)))?;
            all.append(key, value);
        }
        Ok(all)
    }
}

fn refused(subject: &str, error: PublishError) -> Failure {
    match error.kind() {
        PublishErrorKind::TimedOut => Failure::not_reached(format!(
            "no stream has acknowledged {subject} in time: whether it is kept is not known"
        )),
        _ => Failure::new(format!("{subject} was not stored")).because(error),
    }
}

fn tell(published: &Published) -> anyhow::Result<()> {
    let Published { subject, count, stream, sequence, duplicates } = published;
    match (stream, sequence) {
        (Some(stream), Some(sequence)) => {
            let what = if *count == 1 { String::new() } else { format!("{count} messages, the last at ") };
            output::line(&format!("{stream}  {what}{sequence}"))?;
            if *duplicates > 0 {
                let which = if *count == 1 { "it".to_owned() } else { format!("{duplicates} of them") };
                writeln!(anstream::stderr(), "the stream had {which} already, by the same Nats-Msg-Id")?;
            }
            Ok(())
        }
        _ => Ok(writeln!(anstream::stderr(), "no stream keeps {subject}: sent to whoever subscribes now")?),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.trim().to_owned())),
        _ => Err("a header is a name and a value, as in `Nats-Msg-Id: 42`".to_owned()),
    }
}
