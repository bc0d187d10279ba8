//! Asks a broker for everything and compares it with what is known: with what must have happened, and with what may have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{Client, Message, PATIENCE};
use super::known::{Cell, Fault, Finding, Keeping, Known, Log};
use super::load::{BUCKET, delivered, send, sequence_of, value};

/// Requests that are on their way at once.
const PIPELINE: usize = 512;
/// Ids that are published once more, beside those that may not have arrived.
const AGAIN_MAX: usize = 100;
/// A fetch that gives nothing for so long gives nothing: longer than it takes until something is delivered again.
const QUIET: Duration = Duration::from_millis(1300);

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) findings: Vec<Finding>,
    /// Messages and states that were compared.
    pub(crate) checked: u64,
    /// The step at which each key, stream and consumer is.
    keys: Vec<Option<usize>>,
    streams: Vec<Option<usize>>,
    consumers: Vec<Option<usize>>,
}

impl Seen {
    fn find(&mut self, fault: Fault, what: String) {
        self.findings.push(Finding { fault, what });
    }

    /// Nothing is under way: what was seen is what is.
    pub(crate) fn resolve(&self, known: &mut Known) {
        let resolve = |cells: &mut [Cell], steps: &[Option<usize>]| {
            for (cell, step) in cells.iter_mut().zip(steps) {
                step.map(|step| cell.resolve(step));
            }
        };
        resolve(&mut known.keys, &self.keys);
        resolve(&mut known.streams, &self.streams);
        resolve(&mut known.consumers, &self.consumers);
    }
}

/// Everything at once. `must` has happened before the crash, `may` is what was known after it.
pub(crate) async fn verify(client: &Client, must: &Known, may: &Known) -> Result<Seen> {
    let mut seen = Seen::default();
    for (must, may) in must.logs.iter().zip(&may.logs) {
        let answer = client.call(&format!("STREAM.INFO.{}", must.shape.name), &Value::Null).await?;
        if answer.get("error").is_some() {
            seen.find(Fault::Lost, format!("{}: {answer}", must.shape.name));
            continue;
        }
        let found = read_all(client, must.shape.name, must.floor, &answer["state"]).await?;
        check_log(&mut seen, must, may, &found, &answer["state"]);
    }
    check_keys(client, &mut seen, must, may).await?;
    check_comers(client, &mut seen, must, may).await?;
    Ok(seen)
}

/// A stream's messages by sequence, those that are not there as `None`.
async fn read_all(client: &Client, stream: &str, from: u64, state: &Value) -> Result<BTreeMap<u64, Option<Message>>> {
    let last = state["last_seq"].as_u64().context("a state has a last sequence")?;
    let first = state["first_seq"].as_u64().unwrap_or(1).min(from).max(1);
    read_range(client, stream, first, last).await
}

pub(crate) async fn read_range(
    client: &Client,
    stream: &str,
    first: u64,
    last: u64,
) -> Result<BTreeMap<u64, Option<Message>>> {
    let mut found = BTreeMap::new();
    let sequences: Vec<u64> = (first..=last).collect();
    for part in sequences.chunks(PIPELINE) {
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let asked: Vec<_> =
            part.iter().map(|seq| client.ask(&subject, "", json!({ "seq": seq }).to_string().as_bytes())).collect();
        for (sequence, answer) in part.iter().zip(asked) {
            let answer =
                timeout(PATIENCE, answer).await.with_context(|| format!("{stream}: no answer for {sequence}"))??;
            found.insert(*sequence, answer.status().is_none().then_some(answer));
        }
    }
    Ok(found)
}

fn check_log(seen: &mut Seen, must: &Log, may: &Log, found: &BTreeMap<u64, Option<Message>>, state: &Value) {
    let name = must.shape.name;
    let last = found.keys().last().copied().unwrap_or(0).max(must.floor - 1);
    let (mut ids, mut present) = (HashMap::new(), 0);
    for (sequence, message) in found {
        seen.checked += 1;
        match message {
            Some(message) => {
                present += 1;
                check_present(seen, must, may, *sequence, message);
                let id = message.header("Nats-Msg-Id").unwrap_or_default().to_owned();
                if let Some(other) = ids.insert(id, *sequence) {
                    seen.find(Fault::Duplicate, format!("{name}: {other} and {sequence} are the same message"));
                }
            }
            None => check_absent(seen, must, may, *sequence, last),
        }
    }
    for (sequence, id) in must.acked.range(last + 1..) {
        seen.find(Fault::Lost, format!("{name}: {sequence} (id {id}) was acknowledged, the last is {last}"));
    }
    if let Keeping::Last(count) = must.shape.keeping
        && present > count
    {
        seen.find(Fault::Returned, format!("{name}: {present} messages, more than {count}"));
    }
    if state["messages"] != present {
        seen.find(Fault::Wrong, format!("{name}: says {} messages, has {present}", state["messages"]));
    }
}

fn check_present(seen: &mut Seen, must: &Log, may: &Log, sequence: u64, message: &Message) {
    let name = must.shape.name;
    let id: u64 = message.header("Nats-Msg-Id").and_then(|id| id.parse().ok()).unwrap_or(0);
    let subject = message.header("Nats-Subject").unwrap_or_default();
    if id == 0 || id > may.sent || message.payload != may.payload(id) || subject != may.subject(id) {
        return seen.find(Fault::Altered, format!("{name}: {sequence} (id {id}) has other bytes"));
    }
    if let Some(acked) = must.acked.get(&sequence).filter(|acked| **acked != id) {
        seen.find(Fault::Lost, format!("{name}: {sequence} was acknowledged as id {acked}, and is id {id}"));
    }
    if let Some(place) = may.places.get(&id).filter(|place| **place != sequence) {
        let is_replaced = matches!(may.shape.keeping, Keeping::Last(count) if place + count <= sequence);
        let is_gone = is_replaced || may.may_be_removed(*place);
        seen.find(
            if is_gone { Fault::Forgotten } else { Fault::Duplicate },
            format!("{name}: id {id} was acknowledged as {place}, and is {sequence}"),
        );
    }
    if sequence < must.floor {
        seen.find(Fault::Returned, format!("{name}: {sequence} was purged up to {}", must.floor));
    }
    if must.is_removed(sequence) {
        seen.find(Fault::Returned, format!("{name}: {sequence} was removed by an acknowledgement"));
    }
}

fn check_absent(seen: &mut Seen, must: &Log, may: &Log, sequence: u64, last: u64) {
    let is_replaced = matches!(must.shape.keeping, Keeping::Last(count) if sequence + count <= last);
    if sequence < must.floor || is_replaced || may.may_be_removed(sequence) {
        return;
    }
    let name = must.shape.name;
    match must.acked.get(&sequence) {
        Some(id) => seen.find(Fault::Lost, format!("{name}: {sequence} (id {id}) was acknowledged")),
        None => seen.find(Fault::Gap, format!("{name}: nothing is at {sequence}, and {last} is the last")),
    }
}

async fn check_keys(client: &Client, seen: &mut Seen, must: &Known, may: &Known) -> Result<()> {
    let subject = format!("$JS.API.DIRECT.GET.{BUCKET}");
    let asked: Vec<_> = (0..must.keys.len())
        .map(|key| {
            client.ask(&subject, "", json!({ "last_by_subj": format!("$KV.BUCKET.{key}") }).to_string().as_bytes())
        })
        .collect();
    let mut present = 0u64;
    for (key, answer) in asked.into_iter().enumerate() {
        let answer = timeout(PATIENCE, answer).await.context("no answer for a key")??;
        let is_there = answer.status().is_none();
        let step = answer.header("Step").and_then(|step| step.parse::<usize>().ok()).filter(|_| is_there);
        present += u64::from(is_there);
        seen.checked += 1;
        if let Some(step) = step
            && answer.payload != value(key, step)
        {
            seen.find(Fault::Altered, format!("key {key}: step {step} has other bytes"));
        }
        let found = may.keys[key].find(&must.keys[key], step);
        if found.is_none() {
            let settled = must.keys[key].describe();
            let fault = if step.is_none() { Fault::Lost } else { Fault::Returned };
            seen.find(fault, format!("key {key}: is at {step:?}, must be at {settled}"));
        }
        seen.keys.push(found);
    }
    let answer = client.call(&format!("STREAM.INFO.{BUCKET}"), &Value::Null).await?;
    if answer["state"]["messages"] != present {
        let messages = &answer["state"]["messages"];
        seen.find(Fault::Wrong, format!("the bucket says {messages} messages, {present} keys have one"));
    }
    Ok(())
}

/// Streams and consumers that come and go.
async fn check_comers(client: &Client, seen: &mut Seen, must: &Known, may: &Known) -> Result<()> {
    for at in 0..must.streams.len() {
        let name = format!("TEMPORARY{at}");
        let answer = client.call(&format!("STREAM.INFO.{name}"), &Value::Null).await?;
        let found = check_comer(seen, &name, &answer, (&must.streams[at], &may.streams[at]));
        seen.streams.push(found);
    }
    for at in 0..must.consumers.len() {
        let name = format!("temporary{at}");
        let answer = client.call(&format!("CONSUMER.INFO.LOG.{name}"), &Value::Null).await?;
        let found = check_comer(seen, &name, &answer, (&must.consumers[at], &may.consumers[at]));
        seen.consumers.push(found);
    }
    Ok(())
}

fn check_comer(seen: &mut Seen, name: &str, answer: &Value, (must, may): (&Cell, &Cell)) -> Option<usize> {
    seen.checked += 1;
    let step = answer["config"]["description"].as_str().and_then(|text| text.parse().ok());
    let code = answer["error"]["code"].as_u64();
    let found = may.find(must, step).filter(|_| step.is_some() || code == Some(404));
    if found.is_none() {
        seen.find(Fault::Lost, format!("{name}: must be at {}: {answer}", must.describe()));
    }
    found
}

/// Publishes once more what is known to be there, and what may be: all must be where they were, or be new.
pub(crate) async fn publish_again(client: &Client, must: &mut Known) -> Result<()> {
    for at in 0..must.logs.len() {
        let (prefix, mut acks) = client.inbox();
        let log = &must.logs[at];
        let again = log.acked.values().rev().take(AGAIN_MAX).copied();
        let ids: Vec<u64> = log.open().into_iter().chain(again).collect();
        ids.iter().for_each(|id| send(client, log, *id, &prefix));
        for _ in &ids {
            let ack = timeout(PATIENCE, acks.recv()).await.context("no answer to a publish")?;
            let ack = ack.context("the broker has gone")?;
            let (Ok(id), Some(sequence)) = (ack.token().parse(), sequence_of(&ack)) else {
                must.find(Fault::Wrong, format!("{}: refused: {:?}", must.logs[at].shape.name, ack.payload));
                continue;
            };
            if let Some((fault, what)) = must.logs[at].acknowledged(id, sequence) {
                must.find(fault, what);
            }
        }
        client.leave(&prefix);
    }
    Ok(())
}

/// Lets every consumer have everything: what was not acknowledged must come, what was must not.
pub(crate) async fn drain(client: &Arc<Client>, must: &Known, may: &Known) -> Result<Seen> {
    let mut tasks = JoinSet::new();
    for (at, log) in must.logs.iter().enumerate() {
        for consumer in log.shape.consumers {
            let (client, stream) = (Arc::clone(client), log.shape.name);
            tasks.spawn(async move { (at, *consumer, take_all(&client, stream, consumer).await) });
        }
    }
    let mut seen = Seen::default();
    while let Some(taken) = tasks.join_next().await {
        let (at, consumer, given) = taken?;
        let (given, must, may) = (given?, &must.logs[at], &may.logs[at]);
        seen.checked += given.len() as u64;
        let (name, done, sent) = (must.shape.name, &must.acks[consumer].done, &may.acks[consumer].sent);
        for sequence in given.iter().filter(|sequence| done.contains_key(sequence)) {
            seen.find(Fault::Returned, format!("{name}: {consumer} is given {sequence}, which it has acknowledged"));
        }
        let wanted = must.acked.range(must.floor..).map(|(sequence, _)| sequence);
        for sequence in wanted.filter(|sequence| !sent.contains(sequence) && !given.contains(sequence)) {
            seen.find(Fault::Lost, format!("{name}: {consumer} is not given {sequence}"));
        }
    }
    Ok(seen)
}

/// Takes and acknowledges until nothing more comes.
async fn take_all(client: &Client, stream: &str, consumer: &str) -> Result<BTreeSet<u64>> {
    let (prefix, mut inbox) = client.inbox();
    let mut given = BTreeSet::new();
    let body = json!({ "batch": 1000, "expires": QUIET.as_nanos() as u64 }).to_string();
    loop {
        client.publish(
            &format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            &format!("{prefix}.0"),
            "",
            body.as_bytes(),
        );
        let (mut waiting, mut count) = (Vec::new(), 0);
        while count < 1000 {
            let message = timeout(PATIENCE, inbox.recv()).await.with_context(|| format!("{consumer}: no end"))?;
            let message = message.context("the broker has gone")?;
            if message.status().is_some() {
                break;
            }
            count += 1;
            given.extend(delivered(&message));
            waiting.push(client.ask(message.reply.as_deref().unwrap_or_default(), "", b"+ACK"));
        }
        for confirmed in waiting {
            timeout(PATIENCE, confirmed).await.with_context(|| format!("{consumer}: not confirmed"))??;
        }
        if count == 0 {
            client.leave(&prefix);
            return Ok(given);
        }
    }
}
