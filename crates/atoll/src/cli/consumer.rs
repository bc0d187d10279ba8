//! `atoll consumer`: who reads a stream, and how far that is.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::bus::{self, number, word, words};
use crate::cli::output::{self, Format};
use crate::cli::stream::{ask, ask_all};
use crate::cli::target::Place;
use crate::cli::{Context, describe};

#[derive(Debug, Subcommand)]
pub enum Consumer {
    /// List the consumers of a stream
    Ls {
        /// Name of the stream, as in ORDERS_PLACED
        #[arg(value_name = "STREAM", value_parser = bus::name)]
        stream: String,
        #[command(flatten)]
        place: Place,
    },
    /// Show how a consumer is set up, and how far it is
    Info {
        /// Name of the stream, as in ORDERS_PLACED
        #[arg(value_name = "STREAM", value_parser = bus::name)]
        stream: String,
        /// Name of the consumer
        #[arg(value_name = "CONSUMER", value_parser = bus::name)]
        consumer: String,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a consumer and how far it is, as of a service that has another name now
    Rm {
        /// Name of the stream, as in ORDERS_PLACED
        #[arg(value_name = "STREAM", value_parser = bus::name)]
        stream: String,
        /// Name of the consumer
        #[arg(value_name = "CONSUMER", value_parser = bus::name)]
        consumer: String,
        #[command(flatten)]
        place: Place,
    },
}

impl Consumer {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Ls { stream, place } => {
                let mut all = ask_all(&place, &format!("CONSUMER.LIST.{stream}"), "consumers")?;
                all.sort_by_key(|consumer| word(&consumer["name"]));
                match context.format {
                    Format::Json => output::json(&all),
                    Format::Table => list(&all),
                }
            }
            Self::Info { stream, consumer, place } => {
                let info = ask(&place, &format!("CONSUMER.INFO.{stream}.{consumer}"), &json!({}))?;
                match context.format {
                    Format::Json => output::json(&info),
                    Format::Table => describe::print(&outline(&info), 0),
                }
            }
            Self::Rm { stream, consumer, place } => {
                let answer = ask(&place, &format!("CONSUMER.DELETE.{stream}.{consumer}"), &json!({}))?;
                match context.format {
                    Format::Json => output::json(&answer),
                    Format::Table => output::line(&format!("the consumer {consumer} of {stream} is deleted")),
                }
            }
        }
    }
}

fn list(all: &[Value]) -> anyhow::Result<()> {
    let rows = all.iter().map(|consumer| {
        vec![
            word(&consumer["name"]),
            kind(consumer).to_owned(),
            filters(&consumer["config"]),
            number(&consumer["num_pending"]),
            number(&consumer["num_ack_pending"]),
            number(&consumer["num_redelivered"]),
            number(&consumer["ack_floor"]["stream_seq"]),
            number(&consumer["num_waiting"]),
            bus::time(&consumer["delivered"]["last_active"]),
        ]
    });
    let headings =
        ["consumer", "kind", "filter", "unread", "unacked", "redelivered", "acked to", "waiting", "last delivery"];
    output::table(&headings, rows)
}

fn kind(consumer: &Value) -> &'static str {
    let config = &consumer["config"];
    match (config["deliver_subject"].is_string(), config["durable_name"].is_string()) {
        (true, true) => "push, durable",
        (true, false) => "push",
        (false, true) => "pull, durable",
        (false, false) => "pull",
    }
}

fn filters(config: &Value) -> String {
    match config["filter_subject"].as_str().filter(|subject| !subject.is_empty()) {
        Some(subject) => subject.to_owned(),
        None => words(&config["filter_subjects"]),
    }
}

fn outline(info: &Value) -> Value {
    let config = &info["config"];
    let position =
        |of: &Value| format!("{} of the stream, {} of its own", number(&of["stream_seq"]), number(&of["consumer_seq"]));
    json!({
        "consumer": info["name"],
        "stream": info["stream_name"],
        "kind": kind(info),
        "description": config["description"],
        "filter": filters(config),
        "from": config["deliver_policy"],
        "acks": config["ack_policy"],
        "ack wait": bus::nanoseconds(&config["ack_wait"]),
        "max deliver": config["max_deliver"].as_u64().filter(|max| *max > 0),
        "max unacked": config["max_ack_pending"].as_u64().filter(|max| *max > 0),
        "inactive": bus::nanoseconds(&config["inactive_threshold"]),
        "made": bus::time(&info["created"]),
        "delivered": position(&info["delivered"]),
        "acked to": position(&info["ack_floor"]),
        "unread": info["num_pending"],
        "unacked": info["num_ack_pending"],
        "redelivered": info["num_redelivered"],
        "waiting": info["num_waiting"],
        "paused": info["paused"].as_bool().filter(|paused| *paused),
    })
}
