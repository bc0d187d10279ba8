//! `atoll topics`: who publishes to what, who listens, and how far each subscription is.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::Instant;

use crate::api::client::Client;
use crate::api::dto::{Subscription, Topic, Topics as Seen};
use crate::cli::output::{self, Format};
use crate::cli::tail::Tail;
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on};

/// Over which time the rate of what is published is measured.
const INTERVAL: Duration = Duration::from_millis(500);

/// Two tables: the topics with who publishes and listens, and the subscriptions with how they fare. Counts are those since
/// the daemon began.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:\n  atoll topics\n  atoll topics -o json\n  atoll topics tail 'orders.>' --from 10m")]
pub struct Topics {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the topics and the subscriptions
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        place: Place,
    },
    /// Show events as they are published, or since some time
    Tail(Tail),
}

/// A topic with how fast it is published to.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    topic: Topic,
    /// Messages that its stream got in the time that was measured, a second.
    rate: f64,
    /// Of the subscription that is farthest behind.
    lag: u64,
}

impl Topics {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = match self.what {
            Some(What::Tail(tail)) => return tail.run(context),
            Some(What::Ls { place }) => place,
            None => self.place,
        };
        let client = Client::new(&place.target(&[])?.project);
        let (rows, connected) = block_on(measured(&client))??;
        match context.format {
            Format::Json => output::json(&rows),
            Format::Table => show(&rows, connected),
        }
    }
}

async fn measured(client: &Client) -> Result<(Vec<Row>, bool), Failure> {
    let began = Instant::now();
    let before: Seen = client.get("/v1/topics").await?;
    let before: BTreeMap<String, u64> =
        before.topics.into_iter().map(|topic| (topic.topic, topic.last_sequence)).collect();
    tokio::time::sleep(INTERVAL).await;
    let Seen { connected, topics } = client.get("/v1/topics").await?;
    let seconds = began.elapsed().as_secs_f64();
    let rows = topics.into_iter().map(|topic| {
        let before = before.get(&topic.topic).copied().unwrap_or(topic.last_sequence);
        let rate = topic.last_sequence.saturating_sub(before) as f64 / seconds;
        let lag = topic.subscriptions.iter().map(|subscription| subscription.lag).max().unwrap_or_default();
        Row { topic, rate, lag }
    });
    Ok((rows.collect(), connected))
}

fn show(rows: &[Row], connected: bool) -> anyhow::Result<()> {
    let none = || "-".to_owned();
    let list = |words: Vec<String>| if words.is_empty() { none() } else { words.join(", ") };
    let row = |row: &Row| {
        let topic = &row.topic;
        let outboxes = topic.outboxes.iter().map(|database| format!("outbox of {database}"));
        let subscriptions = topic.subscriptions.iter().map(|subscription| subscription.service.clone());
        let mut listeners: Vec<String> =
            subscriptions.chain(topic.readers.iter().map(|reader| format!("{reader} (NATS)"))).collect();
        listeners.dedup();
        vec![
            topic.topic.clone(),
            list(topic.publishers.iter().cloned().chain(outboxes).collect()),
            list(listeners),
            rate(row.rate),
            match (topic.subscriptions.is_empty(), connected) {
                (true, _) => none(),
                (false, true) => row.lag.to_string(),
                (false, false) => UNKNOWN.to_owned(),
            },
            topic.messages.to_string(),
            output::bytes_shown(topic.bytes),
            topic.schema.clone().unwrap_or_else(none),
        ]
    };
    let headings = ["topic", "published by", "listened to by", "events/s", "lag", "kept", "size", "schema"];
    output::table(&headings, rows.iter().map(row))?;
    let subscriptions: Vec<&Subscription> = rows.iter().flat_map(|row| &row.topic.subscriptions).collect();
    if !subscriptions.is_empty() {
        output::line("")?;
        let headings = [
            "subscription",
            "service",
            "deliveries/s",
            "lag",
            "in flight",
            "delivered",
            "failed",
            "aside",
            "dead letters",
            "state",
        ];
        output::table(&headings, subscriptions.into_iter().map(|subscription| cells(subscription, connected)))?;
    }
    let problems = rows.iter().filter_map(|row| Some((&row.topic.topic, row.topic.problem.as_ref()?)));
    for (topic, problem) in problems {
        output::line(&format!("\n{topic}: {problem}"))?;
    }
    Ok(())
}

fn cells(subscription: &Subscription, connected: bool) -> Vec<String> {
    let Subscription { lag, in_flight, delivered, failed, parked, dead_letters, .. } = subscription;
    let known = |count: &u64| if connected { count.to_string() } else { UNKNOWN.to_owned() };
    let counts = [known(lag), in_flight.to_string(), delivered.to_string(), failed.to_string(), known(parked)];
    let dead_letters = dead_letters.map_or_else(|| UNKNOWN.to_owned(), |count| count.to_string());
    let head = [subscription.name.clone(), subscription.service.clone(), rate(subscription.rate)];
    head.into_iter().chain(counts).chain([dead_letters, state(subscription, connected)]).collect()
}

/// Where only the broker knows, and it is away.
const UNKNOWN: &str = "?";

/// How it goes, in a few words.
fn state(subscription: &Subscription, connected: bool) -> String {
    let replay = subscription.replay.filter(|replay| replay.left > 0);
    let words = [
        subscription.paused.clone(),
        (!connected).then(|| "the broker is away".to_owned()).filter(|_| subscription.paused.is_none()),
        replay.map(|replay| format!("replays, {} left", replay.left)),
        told(subscription.keys_held, "1 key waits for a dead letter", "keys wait for dead letters"),
        told(subscription.filter_errors, "1 event its filter cannot judge", "events its filter cannot judge"),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    if words.is_empty() { "-".to_owned() } else { words.join("; ") }
}

fn told(count: u64, one: &str, many: &str) -> Option<String> {
    match count {
        0 => None,
        1 => Some(one.to_owned()),
        count => Some(format!("{count} {many}")),
    }
}

fn rate(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}
