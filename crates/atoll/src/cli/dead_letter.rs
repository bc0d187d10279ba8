//! `atoll dead-letter`: events that could not be delivered, and what becomes of them.

use std::io::{IsTerminal, Read, Write};
use std::process::Command;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::api::client::Client;
use crate::api::dto::{Attempt, CloudEvent, DeadLetter as Seen, DeadLetterDone, DeadLetterWish};
use crate::cli::output::{self, Format};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on, bus};

#[derive(Debug, Subcommand)]
pub enum DeadLetter {
    /// List the dead letters, the newest last
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show one: the event, and every attempt with its answer
    Show(Show),
    /// Deliver again, with attempts as if it were new
    Redrive(Redrive),
    /// Give up for good
    Drop(Drop),
}

#[derive(Debug, Args)]
pub struct Ls {
    /// Only those of this subscription
    #[arg(long, value_name = "SUBSCRIPTION")]
    subscription: Option<String>,
    /// At most so many, the newest
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 100)]
    lines: usize,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub struct Show {
    /// Its number, as `atoll dead-letter ls` shows it
    #[arg(value_name = "ID")]
    id: u64,
    #[command(flatten)]
    place: Place,
}

/// Where others of its key wait for it, it is delivered before them. Where others of its key were delivered since, it is
/// delivered with the header `atoll-out-of-order`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll dead-letter redrive 7\n  atoll dead-letter redrive 7 --edit\n  \
atoll dead-letter redrive 7 --data '{\"order_id\":\"a1\"}'\n  atoll dead-letter redrive --all --subscription warehouse-orders-placed")]
pub struct Redrive {
    #[command(flatten)]
    which: Which,
    /// Change its data first, in $VISUAL or $EDITOR
    #[arg(long, conflicts_with_all = ["data", "all"])]
    edit: bool,
    /// Take this data in place of its own; `-` reads it from standard input
    #[arg(long, value_name = "DATA", conflicts_with = "all", allow_hyphen_values = true)]
    data: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  atoll dead-letter drop 7 8\n  atoll dead-letter drop --all --subscription warehouse-orders-placed"
)]
pub struct Drop {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Which {
    /// Numbers, as `atoll dead-letter ls` shows them
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<u64>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// With --all: only those of this subscription
    #[arg(long, value_name = "SUBSCRIPTION", requires = "all")]
    subscription: Option<String>,
}

impl DeadLetter {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Ls(ls) => ls.run(context.format),
            Self::Show(show) => {
                let seen = find(&client(&show.place)?, show.id)?;
                match context.format {
                    Format::Json => output::json(&seen),
                    Format::Table => output::line(&output::printable_lines(&told(&seen))),
                }
            }
            Self::Redrive(redrive) => redrive.run(context.format),
            Self::Drop(drop) => {
                let done = order(&client(&drop.place)?, "drop", &drop.which.wish(None))?;
                tell(context.format, done, "dropped")
            }
        }
    }
}

impl Ls {
    fn run(self, format: Format) -> anyhow::Result<()> {
        let mut path = format!("/v1/dead-letters?limit={}", self.lines);
        if let Some(subscription) = &self.subscription {
            path.push_str(&format!("&subscription={}", utf8_percent_encode(subscription, NON_ALPHANUMERIC)));
        }
        let all: Vec<Seen> = block_on(client(&self.place)?.get(&path))?.map_err(Failure::from)?;
        if format == Format::Json {
            return output::json(&all);
        }
        let row = |seen: &Seen| {
            vec![
                seen.id.to_string(),
                bus::shown(seen.at),
                seen.subscription.clone(),
                seen.topic.clone(),
                output::printable(seen.key.as_deref().unwrap_or("-")),
                seen.attempts_count.to_string(),
                output::printable(&short(&seen.reason)),
                if seen.holding { "yes".to_owned() } else { "-".to_owned() },
            ]
        };
        let headings = ["id", "since", "subscription", "topic", "key", "attempts", "reason", "holds its key"];
        output::table(&headings, all.iter().map(row))
    }
}

impl Redrive {
    fn run(self, format: Format) -> anyhow::Result<()> {
        let client = client(&self.place)?;
        if (self.edit || self.data.is_some()) && self.which.ids.len() != 1 {
            let failure = Failure::new("only one event at a time has its data changed");
            return Err(failure.hint("name one number, as in `atoll dead-letter redrive 7 --edit`".to_owned()).into());
        }
        let data = match (self.data.as_deref(), self.which.ids.first().filter(|_| self.edit)) {
            (Some("-"), _) => {
                let mut text = String::new();
                let read = std::io::stdin().lock().read_to_string(&mut text);
                read.map_err(|error| Failure::new("cannot read standard input").because(error))?;
                Some(text)
            }
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(id)) => Some(edited(&find(&client, *id)?)?),
            (None, None) => None,
        };
        let done = order(&client, "redrive", &self.which.wish(data))?;
        tell(format, done, "due again")
    }
}

impl Which {
    fn wish(self, data: Option<String>) -> DeadLetterWish {
        DeadLetterWish { ids: self.ids, all: self.all, subscription: self.subscription, data }
    }
}

fn client(place: &Place) -> Result<Client, Failure> {
    Ok(Client::new(&place.target(&[])?.project))
}

fn find(client: &Client, id: u64) -> Result<Seen, Failure> {
    let found = block_on(client.get(&format!("/v1/dead-letters/{id}")));
    found.map_err(|error| Failure::new(error.to_string()))?.map_err(Failure::from)
}

fn order(client: &Client, what: &str, wish: &DeadLetterWish) -> Result<DeadLetterDone, Failure> {
    let done = block_on(client.ask(&format!("/v1/dead-letters/{what}"), wish));
    done.map_err(|error| Failure::new(error.to_string()))?.map_err(Failure::from)
}

fn tell(format: Format, done: DeadLetterDone, became: &str) -> anyhow::Result<()> {
    match (format, done.count) {
        (Format::Json, _) => output::json(&done),
        (Format::Table, 1) => output::line(&format!("1 event is {became}")),
        (Format::Table, count) => output::line(&format!("{count} events are {became}")),
    }
}

/// Opens the data in an editor, and gives what it was saved as.
fn edited(seen: &Seen) -> Result<String, Failure> {
    let hint = || "give the data with `--data`, or `--data -` from standard input".to_owned();
    let Some(before) = text(&seen.event) else {
        return Err(Failure::new("its data is not text").hint(hint()));
    };
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("an editor needs a terminal").hint(hint()));
    }
    let editor = ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|e| !e.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let words = shlex::split(&editor).filter(|words| !words.is_empty());
    let words = words.ok_or_else(|| Failure::new(format!("`{editor}` is no command")).hint(hint()))?;
    let path = std::env::temp_dir().join(format!("atoll-dead-letter-{}-{}.json", seen.id, std::process::id()));
    let failed =
        |what: &str, error: std::io::Error| Failure::new(format!("cannot {what} {}", path.display())).because(error);
    write_new(&path, &before).map_err(|error| failed("write", error))?;
    let status = Command::new(&words[0]).args(&words[1..]).arg(&path).status();
    let after = std::fs::read_to_string(&path);
    // What was typed is in the answer, or of no use any more.
    let _ = std::fs::remove_file(&path);
    let status = status.map_err(|error| Failure::new(format!("cannot run `{editor}`")).because(error).hint(hint()))?;
    if !status.success() {
        return Err(Failure::new(format!("`{editor}` ended with {status}: nothing is changed")));
    }
    let after = after.map_err(|error| failed("read", error))?;
    if after == before {
        return Err(Failure::new("the data was not changed: nothing is redriven")
            .hint(format!("`atoll dead-letter redrive {}` delivers it as it is", seen.id)));
    }
    if is_json(&seen.event)
        && let Err(error) = serde_json::from_str::<Value>(&after)
    {
        return Err(Failure::new("the data is not JSON any more: nothing is redriven").because(error));
    }
    Ok(after)
}

/// For this user alone: what is in an event is nobody else's.
fn write_new(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// The data as a person writes it; none of what is no text.
fn text(event: &CloudEvent) -> Option<String> {
    match &event.data {
        Some(Value::String(text)) if !is_json(event) => Some(text.clone()),
        Some(value) => serde_json::to_string_pretty(value).ok(),
        None if event.data_base64.is_none() => Some(String::new()),
        None => None,
    }
}

/// Whether its data is JSON, also where that is a string.
fn is_json(event: &CloudEvent) -> bool {
    match &event.content_type {
        Some(content_type) => content_type.contains("json"),
        None => event.data.as_ref().is_some_and(|data| !data.is_string()),
    }
}

/// The first line of a reason, at most so long that a table stays one.
fn short(reason: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let line = reason.lines().next().unwrap_or_default();
    match line.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// One dead letter: what it is, the event, and a paragraph an attempt.
fn told(seen: &Seen) -> String {
    let zone = TimeZone::system();
    let mut text =
        format!("dead letter {} of {}, for {}\n  {}\n", seen.id, seen.subscription, seen.service, seen.reason);
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<14}{value}\n"));
    line("since", &seen.at.to_zoned(zone.clone()).strftime("%F %T").to_string());
    line("topic", &format!("{}, number {} of its stream", seen.topic, seen.sequence));
    if let Some(key) = &seen.key {
        line("key", &format!("{key}{}", if seen.holding { ", which waits for it" } else { "" }));
    }
    for (name, value) in &seen.event.attributes {
        line(name, value);
    }
    if let Some(content_type) = &seen.event.content_type {
        line("content type", content_type);
    }
    let data = self::text(&seen.event).unwrap_or_else(|| "(no text; `-o json` has it in base64)".to_owned());
    text.push_str("data\n");
    data.lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    let count = usize::try_from(seen.attempts_count).unwrap_or(usize::MAX);
    let first = count.saturating_sub(seen.attempts.len()) + 1;
    for (number, attempt) in (first..).zip(&seen.attempts) {
        text.push_str(&format!("attempt {number}, {}\n", headline(attempt, &zone)));
        attempt.answer.lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text.trim_end().to_owned()
}

fn headline(attempt: &Attempt, zone: &TimeZone) -> String {
    let at = attempt.at.to_zoned(zone.clone()).strftime("%F %T%.3f");
    let came = attempt.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    format!("{at}: {came} after {}, request {}", output::milliseconds(attempt.took_ms), attempt.request_id)
}
