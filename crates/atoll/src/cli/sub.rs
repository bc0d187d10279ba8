//! `atoll sub`: messages as they come, or as a stream has kept them, until enough have come or the broker is gone.

use std::io::Write;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::{HeaderMap, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use futures_util::stream::SelectAll;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::bus::{self, Bus};
use crate::cli::logs::since;
use crate::cli::output::{self, Format};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on};

/// Without `--stream` and `--from` it shows what is published from now on, whether a stream keeps it or not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll sub 'orders.>'\n  atoll sub orders.placed --from first\n  \
atoll sub 'orders.>' --from 10m --count 5 -o json\n  atoll sub orders.placed --stream ORDERS --from 17 --raw")]
pub struct Sub {
    /// Of which subject, or of which pattern such as `orders.*` or `orders.>`
    #[arg(value_name = "SUBJECT", value_parser = bus::pattern)]
    subject: String,
    /// As this stream keeps them; found by the subject if only `--from` is given
    #[arg(long, value_name = "STREAM", value_parser = bus::name)]
    stream: Option<String>,
    /// From where in the stream: first, last, last-per-subject, new, a sequence, an age such as 10m, or a time; first if
    /// only `--stream` is given
    #[arg(long, value_name = "PLACE", value_parser = from)]
    from: Option<From>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Only the bodies, each on a line
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    place: Place,
}

/// From where in a stream, as JetStream's API says it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct From(Value);

impl Default for From {
    /// From what it has on.
    fn default() -> Self {
        Self(json!({ "deliver_policy": "all" }))
    }
}

/// What is read of a stream, and on.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) subject: String,
    /// Found by the subject, if none is given.
    pub(super) stream: Option<String>,
    pub(super) from: From,
}

/// A message as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    subject: String,
    /// None of what came live.
    stream: Option<String>,
    sequence: Option<u64>,
    /// When the stream got it, or when it came here.
    time: Timestamp,
    headers: Value,
    reply: Option<String>,
    /// Of a body that is text.
    data: Option<String>,
    /// Of one that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl Sub {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let project = self.place.target(&[])?.project;
        block_on(async {
            let bus = Bus::connect(&project).await?;
            match self.from.is_some() || self.stream.is_some() {
                true => {
                    let (subject, stream) = (self.subject.clone(), self.stream.clone());
                    let reading = Reading { subject, stream, from: self.from.clone().unwrap_or_default() };
                    self.show(&bus, reading.messages(&bus).await?, context.format).await
                }
                false => self.show(&bus, self.live(&bus).await?, context.format).await,
            }
        })?
    }

    /// What is published from now on.
    async fn live(&self, bus: &Bus) -> Result<impl Stream<Item = Result<(Message, Origin), Failure>> + use<>, Failure> {
        let failed = || Failure::new(format!("cannot subscribe to {}", self.subject));
        let subscribed = bus.client.subscribe(self.subject.clone()).await.map_err(|error| failed().because(error))?;
        // Only then everything that is published reaches it.
        bus.client.flush().await.map_err(|error| failed().because(error))?;
        let _ = writeln!(anstream::stderr(), "subscribed to {}", self.subject);
        Ok(subscribed.map(|message| Ok((message, Origin { stream: None, time: Timestamp::now() }))).boxed())
    }

    async fn show(
        &self,
        bus: &Bus,
        messages: impl Stream<Item = Result<(Message, Origin), Failure>>,
        format: Format,
    ) -> anyhow::Result<()> {
        let lost = stream::once(async { Err(bus.lost().await) });
        let mut all = std::pin::pin!(stream::select(messages, lost));
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let (message, origin) = match all.next().await {
                Some(next) => next?,
                None => return Err(bus.lost().await.into()),
            };
            match (self.raw, format) {
                (true, _) => output::bytes(&[&message.payload, &b"\n"[..]].concat())?,
                (false, Format::Json) => output::line(&serde_json::to_string(&shown(&message, origin))?)?,
                (false, Format::Table) => print(&message, &origin)?,
            }
            left -= 1;
        }
        Ok(())
    }
}

impl Reading {
    /// What a stream has, and what it gets.
    pub(super) async fn messages(
        &self,
        bus: &Bus,
    ) -> Result<impl Stream<Item = Result<(Message, Origin), Failure>> + use<>, Failure> {
        let name = match &self.stream {
            Some(name) => name.clone(),
            None => self.find(bus).await?,
        };
        // A stream that is missing is told of in the API's own words.
        bus.ask(&format!("STREAM.INFO.{name}"), &json!({})).await?;
        let failed = |name: &str| Failure::new(format!("cannot read the stream {name}"));
        let From(place) = self.from.clone();
        let deliver_policy: DeliverPolicy =
            serde_json::from_value(place).map_err(|error| failed(&name).because(error))?;
        let config = pull::OrderedConfig { filter_subject: self.subject.clone(), deliver_policy, ..Default::default() };
        let context = jetstream::new(bus.client.clone());
        let stream = context.get_stream_no_info(&name).await.map_err(|error| failed(&name).because(error))?;
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(&name).because(error))?;
        let messages = consumer.messages().await.map_err(|error| failed(&name).because(error))?;
        let _ = writeln!(anstream::stderr(), "reading {} from the stream {name}", self.subject);
        let read = messages.map_err(move |error| failed(&name).because(error)).map_ok(|message| {
            let found = message.info().ok().map(|info| {
                let time = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos()).ok();
                (info.stream.to_owned(), info.stream_sequence, time)
            });
            let time = found.as_ref().and_then(|(_, _, time)| *time).unwrap_or_else(Timestamp::now);
            (message.message.clone(), Origin { stream: found.map(|(stream, sequence, _)| (stream, sequence)), time })
        });
        // After a failure nothing certain follows.
        Ok(read.scan(false, |ended, item| {
            let next = (!*ended).then_some(item);
            *ended = next.as_ref().is_some_and(Result::is_err);
            std::future::ready(next)
        }))
    }

    /// The same of every stream that has any of it; each is in order.
    pub(super) async fn of_all(
        &self,
        bus: &Bus,
    ) -> Result<impl Stream<Item = Result<(Message, Origin), Failure>> + Unpin + use<>, Failure> {
        let mut all = SelectAll::new();
        match bus.streams_of(&self.subject).await?.as_slice() {
            // It is told what is missing.
            [] => all.push(Box::pin(self.messages(bus).await?)),
            names => {
                for name in names {
                    let one = Self { stream: Some(name.clone()), ..self.clone() };
                    all.push(Box::pin(one.messages(bus).await?));
                }
            }
        }
        Ok(all)
    }

    async fn find(&self, bus: &Bus) -> Result<String, Failure> {
        match bus.streams_of(&self.subject).await?.as_slice() {
            [name] => Ok(name.clone()),
            [] => Err(Failure::new(format!("no stream keeps {}", self.subject))
                .hint("`atoll stream ls` lists the streams and their subjects".to_owned())),
            many => Err(Failure::new(format!("several streams keep {}", self.subject))
                .hint(format!("name one with `--stream`: {}", many.join(", ")))),
        }
    }
}

/// Where a message comes from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) stream: Option<(String, u64)>,
    pub(super) time: Timestamp,
}

fn shown(message: &Message, origin: Origin) -> Shown {
    let text = std::str::from_utf8(&message.payload).ok().map(str::to_owned);
    let (stream, sequence) = origin.stream.unzip();
    Shown {
        subject: message.subject.to_string(),
        // What is acknowledged is none of the reader's.
        reply: message.reply.as_ref().filter(|_| stream.is_none()).map(ToString::to_string),
        stream,
        sequence,
        time: origin.time,
        headers: bus::headers(message.headers.as_ref()),
        data_base64: text.is_none().then(|| STANDARD.encode(&message.payload)),
        data: text,
    }
}

/// A line of what it is and what is in it, or lines where that has several.
fn print(message: &Message, origin: &Origin) -> anyhow::Result<()> {
    let place = origin.stream.as_ref().map(|(stream, sequence)| format!("  {stream} {sequence}")).unwrap_or_default();
    let head = format!("{}  {}{place}", bus::shown(origin.time), output::printable(&message.subject));
    let body = match std::str::from_utf8(&message.payload) {
        Ok(text) => output::printable_lines(text),
        Err(_) => format!("({} bytes that are no text)", message.payload.len()),
    };
    let has_headers = message.headers.as_ref().is_some_and(|headers| !headers.is_empty());
    if !has_headers && !body.contains('\n') {
        return output::line(&format!("{head}  {body}"));
    }
    output::line(&head)?;
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        for value in values {
            output::line(&format!("  {}: {}", output::printable(name.as_ref()), output::printable(value.as_str())))?;
        }
    }
    body.lines().try_for_each(|line| output::line(&format!("  {line}")))
}

pub(super) fn from(text: &str) -> Result<From, String> {
    let policy = |policy: &str| Ok(From(json!({ "deliver_policy": policy })));
    match text {
        "first" => policy("all"),
        "last" | "new" => policy(text),
        "last-per-subject" => policy("last_per_subject"),
        _ => match text.parse::<u64>() {
            Ok(sequence) => Ok(From(json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": sequence }))),
            Err(_) => {
                let at = since(text).map_err(|_| {
                    "it is first, last, last-per-subject, new, a sequence, an age such as 10m, or a time such as \
                     2026-01-31T12:00:00Z"
                        .to_owned()
                })?;
                Ok(From(json!({ "deliver_policy": "by_start_time", "opt_start_time": at.to_string() })))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_stream_is_what_the_client_understands() {
        for text in ["first", "last", "new", "last-per-subject", "17", "10m", "2026-01-31T12:00:00Z"] {
            let From(place) = from(text).expect(text);
            serde_json::from_value::<DeliverPolicy>(place).expect(text);
        }
        assert!(from("yesterday").is_err() && from("-1").is_err());
    }
}
