//! `bench events --only check`: a publisher, a subscriber that fails at random, and kills of everything between them. When all
//! is over, what was acknowledged must have been delivered, in order.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::publisher::{TOPIC, Wish, acknowledged};
use super::record;
use super::stand::{INTERVAL, Stand, command};
use super::verify::{Deed, Incident, Verdict, verify};
use super::wire::now;
use crate::options::Events;

const SUBSCRIPTION: &str = "checked";
const REPLICAS: u32 = 4;
const REPLICAS_MAX: u32 = 6;
const ACK_WAIT_MS: u64 = 1_000;
const CONNECTIONS: u32 = 64;
/// Milliseconds between two deeds, from the end of one to the begin of the next.
const CALM: std::ops::Range<u64> = 100..2_500;
/// Milliseconds without a daemon, and without an instance.
const WITHOUT_DAEMON: std::ops::Range<u64> = 0..1_500;
const WITHOUT_INSTANCES: std::ops::Range<u64> = 500..4_000;
/// How long it may be that nothing goes on at the end.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
/// How long it must say that nothing is left.
const SETTLE: Duration = Duration::from_secs(3);
/// Findings that are shown.
const SHOWN_MAX: usize = 5;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    json: Value,
}

impl Outcome {
    pub(crate) fn is_good(&self) -> bool {
        self.verdict.findings.is_empty()
    }

    pub(crate) fn to_json(&self) -> Value {
        self.json.clone()
    }
}

pub(crate) async fn run(options: &Events, folder: &Path, seed: u64) -> Result<Outcome> {
    let began = Instant::now();
    let stand = Stand::open(&options.given.atoll, folder, &manifest(folder, seed)?).await?;
    let wish =
        Wish { events: options.events, keys: options.keys, connections: CONNECTIONS, rate: options.rate, batch: 1 };
    let mut incidents = Vec::new();
    let tried_again = tokio::select! {
        tried_again = publish(&stand, wish) => tried_again?,
        result = trouble(&stand, &mut incidents) => match result {
            Ok(never) => match never {},
            Err(error) => return Err(error),
        },
    };
    eprintln!("bench: check: {} events published in {:.0} s", options.events, began.elapsed().as_secs_f64());
    recover(&stand).await?;
    let dead_letters = stand.json(&["dead-letter", "ls"]).await?;
    let dead_letters = dead_letters.as_array().map_or(0, Vec::len);
    let acknowledged = acknowledged(folder)?;
    let sum: u64 = acknowledged.iter().map(|last| u64::from(*last)).sum();
    ensure!(sum == options.events, "{sum} events were acknowledged");
    let deliveries = record::read(folder)?;
    let verdict = verify(&acknowledged, &acknowledged, &deliveries, &incidents);
    for finding in verdict.findings.iter().take(SHOWN_MAX) {
        eprintln!("bench: check: {finding:?}");
        show(finding.key, finding.at, &deliveries, &incidents);
    }
    ensure!(dead_letters == 0, "{dead_letters} dead letters");
    let mut deeds = serde_json::Map::new();
    for incident in &incidents {
        let count = deeds.get(incident.deed.name()).and_then(Value::as_u64).unwrap_or_default();
        deeds.insert(incident.deed.name().to_owned(), (count + 1).into());
    }
    let seconds = began.elapsed().as_secs_f64();
    let attempts_more = deliveries.iter().filter(|one| one.attempt > 1).count();
    let json = json!({
        "events": options.events, "keys": options.keys, "seconds": seconds, "deeds": deeds, "dead_letters": dead_letters,
        "published_again": tried_again, "attempts_beyond_the_first": attempts_more, "verdict": verdict.to_json(),
    });
    println!("check: {} events of {} keys in {seconds:.0} s; {}", options.events, options.keys, words(&deeds));
    println!("{verdict}");
    Ok(Outcome { verdict, json })
}

fn words(deeds: &serde_json::Map<String, Value>) -> String {
    deeds.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn manifest(folder: &Path, seed: u64) -> Result<String> {
    let folder = folder.to_str().context("the folder's path is not UTF-8")?;
    let publisher = command(&["event-publisher", folder])?;
    let seed = seed.to_string();
    let ack_wait = ACK_WAIT_MS.to_string();
    let subscriber = command(&["event-subscriber", folder, "--seed", &seed, "--ack-wait-ms", &ack_wait])?;
    Ok(format!(
        r#"name = "bench"

[broker]
listen = "127.0.0.1:0"

[services.publisher]
command = {publisher}
publishes = ["{TOPIC}"]
probes = {{ readiness = {{ tcp = true, interval = "100ms" }} }}

[services.subscriber]
command = {subscriber}
replicas = {REPLICAS}
probes = {{ readiness = {{ tcp = true, interval = "100ms" }} }}

[[subscriptions]]
name = "{SUBSCRIPTION}"
topic = "{TOPIC}"
service = "subscriber"
path = "/events"
key = "key"
concurrency = 64
max_deliver = 100
backoff = ["20ms", "100ms", "300ms"]
ack_wait = "{ACK_WAIT_MS}ms"
"#
    ))
}

/// Has everything published, however often the publisher dies. Gives how often it sent something again, as far as it lived
/// to tell.
async fn publish(stand: &Stand, wish: Wish) -> Result<u64> {
    let mut tried_again = 0;
    let mut last = (Instant::now(), 0);
    loop {
        match stand.ask("publisher", "/publish", Some(&wish.to_json())).await {
            Ok(answer) => {
                tried_again += answer["tried_again"].as_u64().unwrap_or_default();
                return Ok(tried_again);
            }
            Err(error) => {
                let sum = acknowledged(&stand.folder)?.iter().map(|last| u64::from(*last)).sum();
                if sum > last.1 {
                    last = (Instant::now(), sum);
                }
                if last.0.elapsed() > STANDSTILL_MAX {
                    return Err(error.context(format!("nothing is published beyond {sum}")));
                }
                sleep(INTERVAL).await;
            }
        }
    }
}

/// What never is.
enum Never {}

/// One deed after the other, for as long as it is wanted.
async fn trouble(stand: &Stand, incidents: &mut Vec<Incident>) -> Result<Never> {
    loop {
        sleep(Duration::from_millis(fastrand::u64(CALM))).await;
        let from = now();
        let at = incidents.len();
        // Known from its begin, as nobody may live to see its end.
        let note = |incidents: &mut Vec<Incident>, deed| incidents.push(Incident { deed, from, until: u64::MAX });
        match fastrand::u32(..100) {
            0..50 => {
                if let Some(pid) = stand.kill("event-subscriber")? {
                    note(incidents, Deed::Instance(pid));
                }
            }
            50..60 => {
                if stand.kill("event-publisher")?.is_some() {
                    note(incidents, Deed::Publisher);
                }
            }
            60..75 => {
                let count = fastrand::u32(1..=REPLICAS_MAX);
                note(incidents, Deed::Scale(count));
                scale(stand, count).await?;
            }
            75..80 => {
                note(incidents, Deed::Scale(0));
                scale(stand, 0).await?;
                sleep(Duration::from_millis(fastrand::u64(WITHOUT_INSTANCES))).await;
                scale(stand, REPLICAS).await?;
            }
            80..90 => {
                note(incidents, Deed::Daemon);
                stand.kill_daemon(Duration::from_millis(fastrand::u64(WITHOUT_DAEMON))).await?;
            }
            _ => {
                if stand.kill("proxy")?.is_some() {
                    note(incidents, Deed::DataPlane);
                    Stand::until("a data plane is there again", STANDSTILL_MAX, || async {
                        Ok(!stand.application.find("proxy").is_empty())
                    })
                    .await?;
                }
            }
        }
        if let Some(incident) = incidents.get_mut(at) {
            incident.until = now();
        }
    }
}

async fn scale(stand: &Stand, count: u32) -> Result<()> {
    stand.atoll(&["scale", "--no-wait", &format!("subscriber={count}")]).await.map(drop)
}

/// Has everything run again, and waits until nothing is left to deliver, and stays so.
async fn recover(stand: &Stand) -> Result<()> {
    stand.atoll(&["up", "-d"]).await?;
    scale(stand, REPLICAS).await?;
    let (mut quiet_since, mut last) = (None, (Instant::now(), Value::Null));
    loop {
        let left = stand.subscription(SUBSCRIPTION).await?;
        // One that has not begun yet does not know what it lags behind.
        let is_quiet = left["paused"].is_null() && ["lag", "parked", "in_flight"].iter().all(|name| left[name] == 0);
        let since = *quiet_since.get_or_insert_with(Instant::now);
        if !is_quiet {
            quiet_since = None;
        } else if since.elapsed() > SETTLE {
            return Ok(());
        }
        let now = json!([left["lag"], left["parked"], left["delivered"], is_quiet]);
        if now != last.1 {
            last = (Instant::now(), now);
        }
        ensure!(last.0.elapsed() < STANDSTILL_MAX, "nothing is delivered any more: {left}");
        sleep(INTERVAL).await;
    }
}

/// What happened around a finding.
fn show(key: u32, at: u64, deliveries: &[record::Delivery], incidents: &[Incident]) {
    const AROUND: usize = 4;
    let of_key: Vec<_> = deliveries.iter().filter(|one| one.key == key).collect();
    let place = of_key.partition_point(|one| one.begin < at);
    let (from, to) = (place.saturating_sub(AROUND), of_key.len().min(place + AROUND));
    for one in &of_key[from..to] {
        eprintln!("    {} to {}: {one:?}", one.number, one.process);
    }
    let Some((first, last)) = of_key[from..to].first().zip(of_key[from..to].last()) else { return };
    let near = |incident: &&Incident| incident.until >= first.begin && incident.from <= last.begin;
    incidents.iter().filter(near).for_each(|incident| eprintln!("    {incident:?}"));
}
