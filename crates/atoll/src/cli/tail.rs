//! `atoll topics tail`: events of a topic as they are published, or since some time, whoever has published them.

use clap::Args;
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use crate::api::dto::CloudEvent;
use crate::cli::bus::{self, Bus};
use crate::cli::output::{self, Format};
use crate::cli::sub::{self, From, Reading};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on};
use crate::lower;

/// A line of each event and its data. With `-o json` a line each in CloudEvents' JSON format, with its number in the stream as
/// `sequence`. It ends when it is told to.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  atoll topics tail orders.placed\n  atoll topics tail 'orders.>' --from first -o json"
)]
pub struct Tail {
    /// A topic, or a pattern of subjects
    #[arg(value_name = "TOPIC", value_parser = bus::pattern)]
    topic: String,
    /// From where: new, first, last, a number, an age such as 10m, or a time
    #[arg(long, value_name = "PLACE", default_value = "new", value_parser = sub::from)]
    from: From,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    place: Place,
}

impl Tail {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let project = self.place.target(&[])?.project;
        block_on(async {
            let bus = Bus::connect(&project).await?;
            let reading = Reading { subject: self.topic.clone(), stream: None, from: self.from.clone() };
            let mut messages = reading.of_all(&bus).await?;
            let mut left = self.count.unwrap_or(u64::MAX);
            while left > 0 {
                let next = tokio::select! {
                    next = messages.try_next() => next?,
                    lost = bus.lost() => return Err(lost.into()),
                };
                let Some((message, origin)) = next else { return Err(bus.lost().await.into()) };
                let (stream, sequence) = origin.stream.unwrap_or_default();
                let event = events::Event::of(&events::Stored {
                    stream: &stream,
                    sequence,
                    subject: &message.subject,
                    time: origin.time,
                    headers: message.headers.as_ref(),
                    payload: &message.payload,
                });
                match context.format {
                    Format::Json => output::line(&json_line(&event, sequence)?)?,
                    Format::Table => output::line(&line(event, &message.subject, sequence))?,
                }
                left -= 1;
            }
            Ok(())
        })?
    }
}

fn json_line(event: &events::Event, sequence: u64) -> anyhow::Result<String> {
    let mut value: Value = serde_json::from_str(&event.to_json())
        .map_err(|error| Failure::new("an event cannot be written as JSON").because(error))?;
    value["sequence"] = json!(sequence.to_string());
    Ok(value.to_string())
}

fn line(event: events::Event, subject: &str, sequence: u64) -> String {
    let time = event.attribute("time").and_then(|time| time.parse().ok()).map_or_else(|| "-".to_owned(), bus::shown);
    let own = [event.attribute("type").filter(|kind| *kind != subject), event.attribute("subject")];
    let own: Vec<&str> = own.into_iter().flatten().collect();
    let head = [&[subject][..], &own].concat().join("  ");
    let (id, source) = (event.id().to_owned(), event.source().to_owned());
    let head = output::printable(&format!("{time}  {sequence}  {head}  {id} of {source}"));
    let CloudEvent { data, data_base64, .. } = lower::cloud_event(event);
    let data = match (data, data_base64) {
        (Some(Value::String(text)), _) => text,
        (Some(value), _) => value.to_string(),
        (None, Some(base64)) => format!("({} characters of base64, no text)", base64.len()),
        (None, None) => return head,
    };
    format!("{head}\n  {}", output::printable_lines(&data).replace('\n', "\n  "))
}
