//! `bench events --only outbox`: a service that changes its database and tells of it, while it, the daemon and the broker are
//! killed. At the end the database must be what the events in the stream say, in their order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::{ConnectOptions, ServerAddr};
use clap::ValueEnum;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::ledger::{self, MIGRATION, TOPIC};
use super::stand::{INTERVAL, Stand, command};
use crate::options::Events;
use crate::peers::free_address;
use crate::running::Program;

/// The stream of [`TOPIC`].
const STREAM: &str = "LEDGER_CHANGED";
const KEYS: &str = "50";
/// Milliseconds between two changes, at most.
const PAUSE: &str = "4";
/// Milliseconds between two kills, and until what was killed is started again, where nobody else does it.
const CALM: std::ops::Range<u64> = 20..900;
const WITHOUT: std::ops::Range<u64> = 0..600;
/// One daemon in so many is killed again while it starts, that many milliseconds later at most.
const EARLY_ONE_IN: u32 = 4;
const EARLY_MAX: u64 = 400;
/// How long the relay may take for what is left.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// How long a broker may take until it listens, and a message until it comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages of one pull.
const PULLED: usize = 1_000;
const SHOWN_MAX: usize = 10;

/// Who keeps the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Broker {
    Embedded,
    NatsServer,
}

impl Broker {
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::NatsServer => "nats-server",
        }
    }
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    id: String,
    key: String,
    number: i64,
    amount: i64,
    balance: i64,
}

/// How state and events compare.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    changes: usize,
    duplicates: u64,
    pub(crate) findings: Vec<String>,
}

/// A nats-server that may die.
#[derive(Debug)]
struct Nats {
    program: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
    running: Option<Program>,
}

impl Nats {
    async fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        let port = self.address.port().to_string();
        command.args(["-js", "-a", "127.0.0.1", "-p", &port, "-sd"]).arg(self.folder.join("nats"));
        let mut program = Program::start(command, &self.folder.join("nats.log"))?;
        let start = Instant::now();
        while TcpStream::connect(self.address).await.is_err() {
            program.check()?;
            ensure!(start.elapsed() < PATIENCE, "nats-server does not listen");
            sleep(INTERVAL).await;
        }
        self.running = Some(program);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        match self.running.take() {
            Some(program) => program.kill(),
            None => Ok(()),
        }
    }
}

pub(crate) async fn run(options: &Events, broker: Broker, folder: &Path) -> Result<(Verdict, Value)> {
    let began = Instant::now();
    std::fs::create_dir_all(folder.join("migrations"))?;
    std::fs::write(folder.join("migrations").join("0001_ledger.sql"), MIGRATION)?;
    let mut nats = match broker {
        Broker::Embedded => None,
        Broker::NatsServer => {
            // Not in the application's own, which is to have no process left at the end.
            let (program, folder) = (options.nats_server.clone(), folder.with_extension("store"));
            std::fs::create_dir_all(&folder)?;
            let mut nats = Nats { program, folder, address: free_address()?, running: None };
            nats.start().await?;
            Some(nats)
        }
    };
    let line = match &nats {
        None => "listen = \"127.0.0.1:0\"".to_owned(),
        Some(nats) => format!("url = \"nats://{}\"", nats.address),
    };
    let stand = Stand::open(&options.given.atoll, folder, &manifest(folder, &line)?).await?;
    let mut kills = BTreeMap::<&str, u64>::new();
    while kills.values().sum::<u64>() < options.kills {
        sleep(Duration::from_millis(fastrand::u64(CALM))).await;
        if let Some(what) = kill(&stand, nats.as_mut()).await? {
            *kills.entry(what).or_default() += 1;
        }
    }
    stand.atoll(&["up", "-d"]).await?;
    stand.atoll(&["stop", "ledger"]).await?;
    let database = find_database(folder)?;
    Stand::until("the outbox is empty", DRAIN_MAX, || async { Ok(count(&database, "outbox")? == 0) }).await?;
    let url = match &nats {
        Some(nats) => format!("nats://{}", nats.address),
        None => {
            let described = stand.json(&["describe", "broker", "--show-secrets"]).await?;
            described["url"].as_str().context("the broker has no url")?.to_owned()
        }
    };
    let changes = read_stream(&url).await?;
    let mut verdict = compare(&changes, &read_state(&database)?);
    let refused = count(&database, "outbox_refused").unwrap_or_default();
    if refused > 0 {
        verdict.findings.push(format!("{refused} rows were refused"));
    }
    for finding in verdict.findings.iter().take(SHOWN_MAX) {
        eprintln!("bench: outbox: {}: {finding}", broker.id());
    }
    let deeds: Vec<String> = kills.iter().map(|(what, count)| format!("{what} {count}")).collect();
    let (Verdict { changes, duplicates, findings }, seconds) = (&verdict, began.elapsed().as_secs_f64());
    let wrong = findings.len();
    println!(
        "outbox, {}: {changes} changes in {seconds:.0} s; killed: {}; events twice in the stream {duplicates}, differences {wrong}",
        broker.id(),
        deeds.join(", "),
    );
    let json = json!({
        "changes": changes, "seconds": seconds, "kills": kills, "events_twice": duplicates, "differences": wrong,
    });
    Ok((verdict, json))
}

fn manifest(folder: &Path, broker: &str) -> Result<String> {
    let folder = folder.to_str().context("the folder's path is not UTF-8")?;
    let ledger = command(&["event-ledger", folder, KEYS, PAUSE])?;
    Ok(format!(
        r#"name = "bench"

[broker]
{broker}

[services.ledger]
command = {ledger}
databases = ["ledger"]
publishes = ["{TOPIC}"]
probes = {{ readiness = {{ tcp = true, interval = "100ms" }} }}

[databases.ledger]
engine = "sqlite"
migrations = "migrations"
outbox = "outbox"
"#
    ))
}

/// Kills something and has it started again; nothing if it was just not there.
async fn kill(stand: &Stand, nats: Option<&mut Nats>) -> Result<Option<&'static str>> {
    let without = Duration::from_millis(fastrand::u64(WITHOUT));
    match (fastrand::u32(..3), nats) {
        (0, Some(nats)) => {
            nats.kill()?;
            sleep(without).await;
            nats.start().await?;
            Ok(Some("broker"))
        }
        (0 | 1, _) => {
            let killed = stand.kill("daemon")?.map(|_| "daemon");
            sleep(without).await;
            if fastrand::u32(..EARLY_ONE_IN) == 0 {
                // Whatever becomes of it.
                let _ = timeout(Duration::from_millis(fastrand::u64(..EARLY_MAX)), stand.atoll(&["up", "-d"])).await;
                stand.kill("daemon")?;
            }
            stand.atoll(&["up", "-d"]).await?;
            Ok(killed)
        }
        _ => Ok(stand.kill("event-ledger")?.map(|_| "service")),
    }
}

/// The one file of its kind.
fn find_database(folder: &Path) -> Result<PathBuf> {
    let mut open = vec![folder.join(".atoll")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder)?.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(path),
                _ if path.file_name().is_some_and(|name| name == "ledger.db") => return Ok(path),
                _ => (),
            }
        }
    }
    bail!("there is no database")
}

fn count(database: &Path, table: &str) -> Result<i64> {
    Ok(ledger::open(database)?.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?)
}

/// Number and balance by key.
fn read_state(database: &Path) -> Result<BTreeMap<String, (i64, i64)>> {
    let connection = ledger::open(database)?;
    let mut rows = connection.prepare("SELECT key, number, balance FROM account")?;
    let rows = rows.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// All messages, in the order of the stream.
async fn read_stream(url: &str) -> Result<Vec<Change>> {
    let address: ServerAddr = url.parse().context("the broker has no address")?;
    // The client does not take them from the address; Atoll's have nothing in them that would have to be decoded.
    let options = match (address.username(), address.password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()),
        _ => ConnectOptions::new(),
    };
    let client = options.connect(address).await.context("the broker does not answer")?;
    let jetstream = async_nats::jetstream::new(client);
    let mut stream = jetstream.get_stream(STREAM).await.context("the stream is not there")?;
    let messages = stream.info().await?.state.messages;
    let consumer = stream.create_consumer(pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() });
    let consumer = consumer.await.context("the stream cannot be read")?;
    let mut changes = Vec::new();
    while (changes.len() as u64) < messages {
        let mut batch = consumer.fetch().max_messages(PULLED).expires(PATIENCE).messages().await?;
        let before = changes.len();
        while let Some(message) = batch.next().await {
            let message = message.map_err(|error| anyhow::anyhow!("a message did not come: {error}"))?;
            let id = message.headers.as_ref().and_then(|headers| headers.get("ce-id"));
            let id = id.context("a message without an id")?.to_string();
            changes.push(parse(id, &message.payload)?);
        }
        ensure!(changes.len() > before, "{before} of {messages} messages came");
    }
    Ok(changes)
}

fn parse(id: String, data: &[u8]) -> Result<Change> {
    let value: Value = serde_json::from_slice(data).context("data that are not JSON")?;
    let number = |name: &str| value[name].as_i64().with_context(|| format!("data without {name}"));
    let key = value["key"].as_str().context("data without key")?.to_owned();
    Ok(Change { id, key, number: number("number")?, amount: number("amount")?, balance: number("balance")? })
}

/// Plays the events, and compares at each step and at the end.
fn compare(changes: &[Change], state: &BTreeMap<String, (i64, i64)>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut played = BTreeMap::<String, (i64, i64)>::new();
    let mut ids = std::collections::BTreeSet::new();
    for change in changes {
        if !ids.insert(&change.id) {
            verdict.duplicates += 1;
            continue;
        }
        verdict.changes += 1;
        let (number, balance) = played.entry(change.key.clone()).or_default();
        (*number, *balance) = (*number + 1, *balance + change.amount);
        if (*number, *balance) != (change.number, change.balance) {
            verdict.findings.push(format!("after {number} events with a balance of {balance} came {change:?}"));
            (*number, *balance) = (change.number, change.balance);
        }
    }
    for key in played.keys().chain(state.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (told, is) = (played.get(key), state.get(key));
        if told != is {
            verdict.findings.push(format!("{key} is {is:?}, and the events say {told:?}"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: &str, number: i64, amount: i64, balance: i64) -> Change {
        Change { id: id.to_owned(), key: "k".to_owned(), number, amount, balance }
    }

    fn state(number: i64, balance: i64) -> BTreeMap<String, (i64, i64)> {
        BTreeMap::from([("k".to_owned(), (number, balance))])
    }

    #[test]
    fn events_that_say_what_is_are_found_right() {
        let changes = [change("a", 1, 5, 5), change("b", 2, -2, 3), change("b", 2, -2, 3)];
        let verdict = compare(&changes, &state(2, 3));
        assert_eq!((verdict.changes, verdict.duplicates, verdict.findings.len()), (2, 1, 0));
    }

    #[test]
    fn what_is_missing_added_or_swapped_is_found() {
        let changes = [change("a", 1, 5, 5), change("b", 2, -2, 3), change("c", 3, 1, 4)];
        let findings = |changes: &[Change], state| compare(changes, &state).findings.len();
        assert_eq!(findings(&changes, state(3, 4)), 0);
        assert_eq!(findings(&changes[..2], state(3, 4)), 1);
        assert_eq!(findings(&changes, state(2, 3)), 1);
        assert!(findings(&[changes[0].clone(), changes[2].clone()], state(3, 4)) > 0);
        assert!(findings(&[changes[1].clone(), changes[0].clone(), changes[2].clone()], state(3, 4)) > 0);
        assert_eq!(findings(&[], state(1, 1)), 1);
    }
}
