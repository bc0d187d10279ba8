//! `atoll stream`: the streams of the broker, whoever made them.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::api::{self, dto};
use crate::cli::bus::{self, Bus, number, word, words};
use crate::cli::describe;
use crate::cli::output::{self, Format};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on};

#[derive(Debug, Subcommand)]
pub enum Stream {
    /// List the streams
    Ls {
        #[command(flatten)]
        place: Place,
    },
    /// Show how a stream is set up, and what it holds
    Info {
        /// Its name, as in ORDERS_PLACED
        #[arg(value_name = "STREAM", value_parser = bus::name)]
        stream: String,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a stream that no topic declares, with its consumers, and free what it reserves
    Rm {
        /// Its name, as in ORDERS_PLACED
        #[arg(value_name = "STREAM", value_parser = bus::name)]
        stream: String,
        /// Also one that has messages
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Delete messages of a stream: all, unless an option says which
    Purge {
        /// Its name, as in ORDERS_PLACED
        #[arg(value_name = "STREAM", value_parser = bus::name)]
        stream: String,
        /// Only those of this subject or pattern
        #[arg(long, value_name = "SUBJECT", value_parser = bus::pattern)]
        subject: Option<String>,
        /// All but the newest so many
        #[arg(long, value_name = "N", conflicts_with = "before")]
        keep: Option<u64>,
        /// Only those before this sequence
        #[arg(long, value_name = "SEQUENCE")]
        before: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
}

impl Stream {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Ls { place } => list(&place, context.format),
            Self::Info { stream, place } => info(&place, &stream, context.format),
            Self::Rm { stream, force, place } => remove(&place, &stream, force, context.format),
            Self::Purge { stream, subject, keep, before, place } => {
                let mut wish = Map::new();
                let parts = [
                    ("filter", subject.map(Value::from)),
                    ("keep", keep.map(Value::from)),
                    ("seq", before.map(Value::from)),
                ];
                wish.extend(parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
                let answer = ask(&place, &format!("STREAM.PURGE.{stream}"), &Value::Object(wish))?;
                match context.format {
                    Format::Json => output::json(&answer),
                    Format::Table => {
                        output::line(&format!("{} messages of {stream} are deleted", number(&answer["purged"])))
                    }
                }
            }
        }
    }
}

fn remove(place: &Place, stream: &str, force: bool, format: Format) -> anyhow::Result<()> {
    let project = place.target(&[])?.project;
    let seen: dto::Broker = block_on(api::client::Client::new(&project).get("/v1/broker"))?.map_err(Failure::from)?;
    if let Some(found) = seen.streams.iter().find(|found| found.name == stream) {
        if let Some(topic) = &found.topic {
            let failure = Failure::new(format!("{stream} is the stream of the topic {topic}"));
            let hint = format!("take the topic out of the manifest first, or `atoll stream purge {stream}`");
            return Err(failure.hint(Some(hint)).into());
        }
        if found.messages > 0 && !force {
            let failure = Failure::new(format!("{stream} still has {} messages", found.messages));
            let hint =
                format!("`atoll sub '>' --stream {stream} --from first` shows them, `--force` deletes them, too");
            return Err(failure.hint(Some(hint)).into());
        }
    }
    let answer = ask(place, &format!("STREAM.DELETE.{stream}"), &json!({}))?;
    match format {
        Format::Json => output::json(&answer),
        Format::Table => output::line(&format!("{stream} is deleted")),
    }
}

/// One question to JetStream's API.
pub fn ask(place: &Place, what: &str, body: &Value) -> Result<Value, Failure> {
    let project = place.target(&[])?.project;
    block_on(async { Bus::connect(&project).await?.ask(what, body).await })
        .map_err(|error| Failure::new(error.to_string()))?
}

/// All of a list of JetStream's API.
pub fn ask_all(place: &Place, what: &str, key: &str) -> Result<Vec<Value>, Failure> {
    let project = place.target(&[])?.project;
    block_on(async { Bus::connect(&project).await?.list(what, key).await })
        .map_err(|error| Failure::new(error.to_string()))?
}

fn list(place: &Place, format: Format) -> anyhow::Result<()> {
    let mut streams = ask_all(place, "STREAM.LIST", "streams")?;
    streams.sort_by_key(|stream| word(&stream["config"]["name"]));
    if format == Format::Json {
        return output::json(&streams);
    }
    let rows = streams.iter().map(|stream| {
        let (config, state) = (&stream["config"], &stream["state"]);
        vec![
            word(&config["name"]),
            words(&config["subjects"]),
            number(&state["messages"]),
            output::bytes_shown(state["bytes"].as_u64().unwrap_or_default()),
            number(&state["first_seq"]),
            number(&state["last_seq"]),
            number(&state["consumer_count"]),
            word(&config["storage"]),
            bus::time(&state["last_ts"]),
        ]
    });
    let headings = ["stream", "subjects", "messages", "size", "first", "last", "consumers", "storage", "last message"];
    output::table(&headings, rows)
}

fn info(place: &Place, stream: &str, format: Format) -> anyhow::Result<()> {
    let info = ask(place, &format!("STREAM.INFO.{stream}"), &json!({}))?;
    if format == Format::Json {
        return output::json(&info);
    }
    let (config, state) = (&info["config"], &info["state"]);
    let bound = |key: &str| config[key].as_u64().filter(|bound| *bound > 0);
    let size = |bytes: Option<u64>| bytes.map(output::bytes_shown);
    let shown = json!({
        "stream": config["name"],
        "description": config["description"],
        "subjects": config["subjects"],
        "storage": config["storage"],
        "retention": config["retention"],
        "discard": config["discard"],
        "limits": {
            "age": bus::nanoseconds(&config["max_age"]),
            "size": size(bound("max_bytes")),
            "messages": bound("max_msgs"),
            "per subject": bound("max_msgs_per_subject"),
            "message size": size(bound("max_msg_size")),
        },
        "duplicates": bus::nanoseconds(&config["duplicate_window"]),
        "made": bus::time(&info["created"]),
        "messages": state["messages"],
        "size": size(state["bytes"].as_u64()),
        "first": format!("{} at {}", number(&state["first_seq"]), bus::time(&state["first_ts"])),
        "last": format!("{} at {}", number(&state["last_seq"]), bus::time(&state["last_ts"])),
        "subjects held": state["num_subjects"],
        "deleted": state["num_deleted"],
        "consumers": state["consumer_count"],
    });
    describe::print(&shown, 0)
}
