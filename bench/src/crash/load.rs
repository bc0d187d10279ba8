//! The load: publishers that send again what was not acknowledged, consumers that acknowledge and wait until that is
//! confirmed, a bucket of keys, streams and consumers that come and go. It writes down what it does before it does it.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::{Client, Message, lock};
use super::known::{CONSUMERS, Cell, Fault, KEYS, Keeping, Known, Log, SHAPES, STREAMS};

/// The bucket.
pub(crate) const BUCKET: &str = "KV_BUCKET";
/// Tasks that share its keys.
const WRITERS: usize = 4;
const SECOND: u64 = 1_000_000_000;

/// What comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Stream,
    Consumer,
}

impl Thing {
    fn cell(self, known: &mut Known, at: usize) -> &mut Cell {
        match self {
            Self::Stream => &mut known.streams[at],
            Self::Consumer => &mut known.consumers[at],
        }
    }
}

pub(crate) type Shared = Arc<Mutex<Known>>;

/// Makes the streams and consumers that always are there.
pub(crate) async fn prepare(client: &Client) -> Result<()> {
    for shape in SHAPES {
        let name = shape.name;
        let retention = match shape.keeping {
            Keeping::All | Keeping::Last(_) => "limits",
            Keeping::Work => "workqueue",
            Keeping::Interest => "interest",
        };
        let mut config = json!({
            "name": name, "subjects": [format!("{}.>", shape.prefix)], "retention": retention, "storage": "file",
            "allow_direct": true, "num_replicas": 1, "duplicate_window": 120 * SECOND, "max_msgs": -1,
        });
        if let Keeping::Last(count) = shape.keeping {
            config["max_msgs"] = json!(count);
        }
        client.expect(&format!("STREAM.CREATE.{name}"), &config).await?;
        for consumer in shape.consumers {
            let config = json!({
                "durable_name": consumer, "ack_policy": "explicit", "ack_wait": SECOND, "max_deliver": -1,
                "deliver_policy": "all", "max_ack_pending": 1000, "replay_policy": "instant",
            });
            let body = json!({ "stream_name": name, "config": config });
            client.expect(&format!("CONSUMER.DURABLE.CREATE.{name}.{consumer}"), &body).await?;
        }
    }
    let config = json!({
        "name": BUCKET, "subjects": ["$KV.BUCKET.>"], "retention": "limits", "storage": "file", "allow_direct": true,
        "num_replicas": 1, "max_msgs_per_subject": 1, "allow_rollup_hdrs": true, "discard": "new", "deny_delete": false,
    });
    client.expect(&format!("STREAM.CREATE.{BUCKET}"), &config).await?;
    Ok(())
}

/// Works until the broker goes.
pub(crate) async fn run(client: Arc<Client>, known: Shared) {
    let mut tasks = JoinSet::new();
    for (at, shape) in SHAPES.iter().enumerate() {
        tasks.spawn(publish(Arc::clone(&client), Arc::clone(&known), at));
        for consumer in shape.consumers {
            tasks.spawn(consume(Arc::clone(&client), Arc::clone(&known), at, consumer));
        }
    }
    for writer in 0..WRITERS {
        tasks.spawn(write(Arc::clone(&client), Arc::clone(&known), writer));
    }
    tasks.spawn(administer(Arc::clone(&client), Arc::clone(&known)));
    while tasks.join_next().await.is_some() {}
}

async fn publish(client: Arc<Client>, known: Shared, at: usize) {
    let (prefix, mut acks) = client.inbox();
    let mut again = lock(&known).logs[at].open();
    let (window, mut in_flight) = ([1, 8, 64, 128][fastrand::usize(..4)], 0);
    loop {
        while in_flight < window {
            let id = again.pop().unwrap_or_else(|| {
                let log = &mut lock(&known).logs[at];
                log.sent += 1;
                log.sent
            });
            send(&client, &lock(&known).logs[at], id, &prefix);
            in_flight += 1;
        }
        let Some(ack) = acks.recv().await else { return };
        in_flight -= 1;
        let Ok(id) = ack.token().parse() else { continue };
        let known = &mut *lock(&known);
        match sequence_of(&ack) {
            Some(sequence) => {
                if let Some((fault, what)) = known.logs[at].acknowledged(id, sequence) {
                    known.find(fault, what);
                }
            }
            None => {
                known.refused += 1;
                again.push(id);
            }
        }
    }
}

/// Publishes a message with its id; the answer comes to `prefix` with the id.
pub(crate) fn send(client: &Client, log: &Log, id: u64, prefix: &str) {
    let reply = format!("{prefix}.{id}");
    client.publish(&log.subject(id), &reply, &format!("Nats-Msg-Id: {id}\r\n"), &log.payload(id));
}

/// Where a publish was stored, if it was.
pub(crate) fn sequence_of(ack: &Message) -> Option<u64> {
    serde_json::from_slice::<Value>(&ack.payload).ok()?.get("seq")?.as_u64().filter(|sequence| *sequence > 0)
}

/// The sequence of a delivered message, out of where it is to be acknowledged.
pub(crate) fn delivered(message: &Message) -> Option<u64> {
    let words: Vec<&str> = message.reply.as_deref()?.strip_prefix("$JS.ACK.")?.split('.').collect();
    words.get(words.len().checked_sub(4)?)?.parse().ok()
}

async fn consume(client: Arc<Client>, known: Shared, at: usize, consumer: &'static str) {
    let (prefix, mut inbox) = client.inbox();
    let name = SHAPES[at].name;
    loop {
        let fetch = {
            let known = &mut *lock(&known);
            let Some(acks) = known.logs[at].acks.get_mut(consumer) else { return };
            acks.fetches += 1;
            acks.fetches
        };
        let batch = fastrand::usize(1..60);
        let body = json!({ "batch": batch, "expires": SECOND / 2 }).to_string();
        client.publish(
            &format!("$JS.API.CONSUMER.MSG.NEXT.{name}.{consumer}"),
            &format!("{prefix}.{fetch}"),
            "",
            body.as_bytes(),
        );
        let mut waiting = Vec::new();
        for _ in 0..batch {
            let Some(message) = inbox.recv().await else { return };
            if message.status().is_some() {
                break;
            }
            let Some(sequence) = delivered(&message) else { continue };
            // It may be an answer to an earlier fetch.
            let fetch = message.token().parse().unwrap_or(fetch);
            check_delivery(&mut lock(&known), at, consumer, fetch, sequence, &message);
            let reply = message.reply.as_deref().unwrap_or_default();
            match fastrand::u8(..32) {
                0 => {}
                1 => client.publish(reply, "", "", b"-NAK"),
                _ => {
                    lock(&known).logs[at].acks.entry(consumer).or_default().sent.insert(sequence);
                    waiting.push((sequence, client.ask(reply, "", b"+ACK")));
                }
            }
        }
        for (sequence, confirmed) in waiting {
            let Ok(answer) = confirmed.await else { return };
            if answer.status().is_none() {
                lock(&known).logs[at].acks.entry(consumer).or_default().done.insert(sequence, fetch);
            }
        }
    }
}

fn check_delivery(known: &mut Known, at: usize, consumer: &str, fetch: u64, sequence: u64, message: &Message) {
    let log = &known.logs[at];
    let name = log.shape.name;
    let id = message.header("Nats-Msg-Id").and_then(|id| id.parse().ok()).unwrap_or(0);
    if log.acks.get(consumer).and_then(|acks| acks.done.get(&sequence)).is_some_and(|done| *done < fetch) {
        known.find(Fault::Returned, format!("{name}: {consumer} is given {sequence} again, which it has acknowledged"));
    } else if id == 0 || id > log.sent || message.payload != log.payload(id) {
        known.find(Fault::Altered, format!("{name}: {consumer} is given {sequence} with other bytes"));
    } else if log.acked.get(&sequence).is_some_and(|acked| *acked != id) {
        known.find(Fault::Wrong, format!("{name}: {consumer} is given id {id} as {sequence}"));
    } else if let Some((fault, what)) = known.logs[at].given(id, sequence) {
        known.find(fault, what);
    }
}

/// Changes keys, one step at a time each.
async fn write(client: Arc<Client>, known: Shared, writer: usize) {
    loop {
        let key = fastrand::usize(..KEYS / WRITERS) * WRITERS + writer;
        let subject = format!("$KV.BUCKET.{key}");
        let (sequence, is_present) = {
            let cell = &lock(&known).keys[key];
            (cell.sequence, cell.is_present())
        };
        let step = |change: fn(&mut Cell) -> usize| change(&mut lock(&known).keys[key]);
        let removing = |cell: &mut Cell| {
            cell.remove();
            0
        };
        let answer = match fastrand::u8(..20) {
            0 => {
                step(removing);
                client.call(&format!("STREAM.PURGE.{BUCKET}"), &json!({ "filter": subject })).await
            }
            1 if is_present && sequence > 0 => {
                step(removing);
                client.call(&format!("STREAM.MSG.DELETE.{BUCKET}"), &json!({ "seq": sequence })).await
            }
            kind => {
                let number = step(Cell::put);
                let more = match kind {
                    2 => "KV-Operation: DEL\r\n".to_owned(),
                    3 => "KV-Operation: PURGE\r\nNats-Rollup: sub\r\n".to_owned(),
                    4..8 if is_present && sequence > 0 => {
                        format!("Nats-Expected-Last-Subject-Sequence: {sequence}\r\n")
                    }
                    _ => String::new(),
                };
                let headers = format!("Step: {number}\r\n{more}");
                let answer = client.request(&subject, &headers, &value(key, number)).await;
                answer.and_then(|answer| Ok(serde_json::from_slice(&answer.payload)?))
            }
        };
        let Ok(answer) = answer else { return };
        let known = &mut *lock(&known);
        known.steps += 1;
        settle(&mut known.keys[key], &answer, &mut known.refused);
    }
}

/// What a key holds after a step.
pub(crate) fn value(key: usize, step: usize) -> Vec<u8> {
    format!("{key} {step} ").repeat(1 + (key + step) % 20).into_bytes()
}

fn settle(cell: &mut Cell, answer: &Value, refused: &mut u64) {
    match answer.get("error") {
        None => {
            cell.settle();
            cell.sequence = answer.get("seq").and_then(Value::as_u64).unwrap_or(0);
        }
        Some(error) => {
            *refused += 1;
            // A failed write may or may not be there; everything else was refused before.
            if error.get("err_code").and_then(Value::as_u64) != Some(10_077) {
                cell.refuse();
            }
        }
    }
}

/// Makes and removes streams, and consumers of the log.
async fn administer(client: Arc<Client>, known: Shared) {
    loop {
        let thing = if fastrand::bool() { Thing::Stream } else { Thing::Consumer };
        let at = fastrand::usize(..if thing == Thing::Stream { STREAMS } else { CONSUMERS });
        let step = {
            let known = &mut *lock(&known);
            let cell = thing.cell(known, at);
            if cell.is_present() {
                cell.remove();
                None
            } else {
                Some(cell.put())
            }
        };
        let (call, body) = wish(thing, at, step);
        let Ok(answer) = client.call(&call, &body).await else { return };
        {
            let known = &mut *lock(&known);
            known.steps += 1;
            let mut refused = 0;
            settle(thing.cell(known, at), &answer, &mut refused);
            known.refused += refused;
        }
        if let (Thing::Stream, Some(_), None) = (thing, step, answer.get("error")) {
            if answer["state"]["messages"] != 0 {
                lock(&known).find(Fault::Returned, format!("a new stream has messages: {answer}"));
            }
            let answer = client.request(&format!("temporary.{at}"), "", b"one").await;
            let Ok(answer) = answer else { return };
            if sequence_of(&answer) != Some(1) {
                lock(&known).find(Fault::Wrong, format!("a new stream begins with {:?}", answer.payload));
            }
        }
    }
}

/// The call that does a step: makes what carries its number, or removes it.
fn wish(thing: Thing, at: usize, step: Option<usize>) -> (String, Value) {
    match (thing, step) {
        (Thing::Stream, None) => (format!("STREAM.DELETE.TEMPORARY{at}"), Value::Null),
        (Thing::Consumer, None) => (format!("CONSUMER.DELETE.LOG.temporary{at}"), Value::Null),
        (Thing::Stream, Some(step)) => {
            let name = format!("TEMPORARY{at}");
            let config = json!({
                "name": name, "subjects": [format!("temporary.{at}")], "description": step.to_string(),
                "retention": "limits", "storage": "file", "num_replicas": 1,
            });
            (format!("STREAM.CREATE.{name}"), config)
        }
        (Thing::Consumer, Some(step)) => {
            let name = format!("temporary{at}");
            let config = json!({ "durable_name": name, "ack_policy": "explicit", "description": step.to_string() });
            (format!("CONSUMER.DURABLE.CREATE.LOG.{name}"), json!({ "stream_name": "LOG", "config": config }))
        }
    }
}
