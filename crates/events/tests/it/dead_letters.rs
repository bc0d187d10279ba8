//! Events that cannot be delivered: kept, shown, tried again, dropped; and deliveries of the past.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::stream;
use bytes::Bytes;
use events::{Batch, DeadLetter, Error, Event, OnDeadLetter, Query, Since};
use futures_util::StreamExt;
use testkit::server::{Answer, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::official::NatsServer;
use crate::subscriber::{Script, Stage, keyed};
use crate::support::BOUND;

/// Waits until there are so many, and gives them whole.
async fn letters(stage: &Stage, count: usize) -> Vec<DeadLetter> {
    let handle = &stage.engine().handle;
    let listed = testkit::wait::until("dead letters", BOUND, || async {
        let query = Query { limit: 100, ..Query::default() };
        handle.dead_letters(query).await.ok().filter(|letters| letters.len() == count)
    })
    .await;
    let mut all = Vec::new();
    for one in listed {
        let whole = handle.dead_letter(one.id).await.unwrap();
        let event = Event { data: Bytes::new(), ..whole.event.clone() };
        assert_eq!(one, DeadLetter { attempts: Vec::new(), event, ..whole.clone() }, "a list leaves these out");
        all.push(whole);
    }
    all
}

fn texts(all: &[DeadLetter]) -> Vec<String> {
    all.iter().map(|letter| String::from_utf8_lossy(&letter.event.data).into_owned()).collect()
}

#[tokio::test]
async fn out_of_attempts_is_a_dead_letter_with_what_was_answered() {
    let stage = Stage::new(|one| {
        one.key = Some("k".to_owned());
        one.dead_letter_topic = Some("dead.orders".to_owned());
    })
    .await;
    let config = stream::Config { name: "DEAD".into(), subjects: vec!["dead.>".into()], ..Default::default() };
    stage.context.create_stream(config).await.unwrap();
    let failed = Answer { body: vec![b'x'; 3000], ..Answer::status(500) };
    stage.script.set(&keyed("a", 1), &[failed.clone(), failed.clone(), failed]);
    stage.publish([keyed("a", 1), keyed("a", 2)]).await;
    let all = letters(&stage, 1).await;
    let letter = &all[0];
    assert_eq!((letter.subscription.as_str(), letter.service.as_str()), ("warehouse", "warehouse"));
    assert_eq!((letter.topic.as_str(), letter.sequence, letter.key.as_deref()), ("orders.placed", 1, Some("a")));
    assert_eq!((letter.attempts_count, letter.attempts.len(), letter.is_holding), (3, 3, false));
    assert!(letter.reason.contains("500"), "{}", letter.reason);
    let seen = stage.script.has(4).await;
    for (attempt, seen) in letter.attempts.iter().zip(&seen) {
        assert_eq!((attempt.status, attempt.answer.len()), (Some(500), 1024));
        assert_eq!(seen.field("x-request-id"), Some(attempt.request_id.as_str()));
    }
    let reading = stage.settled().await;
    assert_eq!((reading.dead_lettered, reading.delivered), (1, 1));
    let dead = stage.context.get_stream("DEAD").await.unwrap();
    let message = testkit::wait::until("it on its topic", BOUND, || async { dead.get_raw_message(1).await.ok() }).await;
    assert_eq!(message.headers.get("ce-atollsubscription").unwrap().as_str(), "warehouse");
    assert_eq!(message.headers.get("ce-atollattempts").unwrap().as_str(), "3");
    assert_eq!(&message.payload[..], keyed("a", 1).as_bytes());

    assert_eq!(stage.engine().handle.dead_letter_counts().await.unwrap()["warehouse"], 1);
    let bad = Event {
        content_type: Some("application/json".to_owned()),
        data: Bytes::from_static(b"not JSON"),
        ..letter.event.clone()
    };
    let refused = stage.engine().handle.redrive(letter.id, Some(bad)).await.unwrap_err();
    assert!(matches!(&refused, Error::Edited { reason, .. } if reason.contains("JSON")), "{refused:?}");

    // Again, with other data: marked, as a later one of its key was delivered.
    stage.script.clear();
    let mut event = letter.event.clone();
    event.data = keyed("a", 9).into();
    stage.engine().handle.redrive(letter.id, Some(event)).await.unwrap();
    let seen = stage.script.has(1).await;
    assert_eq!((seen[0].text(), seen[0].field("atoll-redriven")), (keyed("a", 9), Some("true")));
    assert_eq!((seen[0].field("atoll-out-of-order"), seen[0].field("atoll-attempt")), (Some("true"), Some("1")));
    letters(&stage, 0).await;
    stage.settled().await;
    assert!(matches!(stage.engine().handle.redrive(letter.id, None).await, Err(Error::NoDeadLetter { .. })));
}

#[tokio::test]
async fn refused_is_a_dead_letter_at_once_and_a_redirect_is_no_success() {
    let stage = Stage::new(|_| {}).await;
    for (body, status) in [("a", 400), ("b", 404), ("c", 301), ("d", 422), ("e", 204), ("f", 299)] {
        stage.script.set(body, &[Answer::status(status)]);
    }
    stage.publish(["a", "b", "c", "d", "e", "f"].map(str::to_owned)).await;
    let mut refused = texts(&letters(&stage, 4).await);
    refused.sort();
    assert_eq!(refused, ["a", "b", "c", "d"]);
    assert_eq!(stage.script.count(), 6);
    // All of them are tried again.
    assert_eq!(stage.engine().handle.redrive_all(Some("warehouse")).await.unwrap(), 4);
    let seen = stage.script.has(10).await;
    assert!(seen[6..].iter().all(|seen| seen.field("atoll-redriven") == Some("true")));
    assert!(seen[6..].iter().all(|seen| seen.field("atoll-out-of-order").is_none()), "there is no order without a key");
    letters(&stage, 0).await;
}

#[tokio::test]
async fn a_key_that_is_held_waits_for_its_dead_letter() {
    for is_dropped in [false, true] {
        let mut stage = Stage::new(|one| {
            one.key = Some("k".to_owned());
            one.on_dead_letter = OnDeadLetter::HoldKey;
        })
        .await;
        stage.script.set(&keyed("a", 1), &[Answer::status(400)]);
        stage.publish([keyed("a", 1), keyed("a", 2), keyed("b", 1), keyed("a", 3)]).await;
        let letter = letters(&stage, 1).await.remove(0);
        assert!(letter.is_holding);
        let reading = stage.reads("a held key", |reading| reading.keys_held == 1 && reading.parked == 3).await;
        assert_eq!((reading.keys_parked, reading.delivered, reading.lag), (1, 1, 3));
        // It is held after a crash, too.
        stage.crash().await;
        stage.publish([keyed("a", 4), keyed("b", 2)]).await;
        stage
            .reads("it is held", |reading| reading.keys_held == 1 && reading.parked == 4 && reading.delivered == 1)
            .await;
        let handle = &stage.engine().handle;
        if is_dropped {
            handle.drop_dead_letter(letter.id).await.unwrap();
        } else {
            handle.redrive(letter.id, None).await.unwrap();
        }
        stage.settled().await;
        let rest: Vec<_> = (2..5).map(|at| keyed("a", at)).collect();
        let all = &stage.script.by_key()["a"];
        let again = if is_dropped { 1 } else { 2 };
        assert_eq!(all[..again], vec![keyed("a", 1); again]);
        assert_eq!(all[again..], rest);
        let is_marked = stage.script.seen().iter().any(|seen| seen.field("atoll-out-of-order").is_some());
        assert!(!is_marked, "nothing later was delivered");
        letters(&stage, 0).await;
        assert_eq!(stage.reading().keys_held, 0);
        assert!(matches!(stage.engine().handle.drop_dead_letter(letter.id).await, Err(Error::NoDeadLetter { .. })));
    }
}

#[tokio::test]
async fn a_list_is_read_in_pages() {
    let stage = Stage::new(|_| {}).await;
    stage.script.always(Some(Answer::status(400)));
    stage.publish((0..10).map(|at| at.to_string())).await;
    letters(&stage, 10).await;
    let handle = &stage.engine().handle;
    let ids = async |after, before, limit| {
        let query = Query { subscription: Some("warehouse".to_owned()), after, before, limit };
        handle.dead_letters(query).await.unwrap().iter().map(|letter| letter.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(None, None, 3).await, [8, 9, 10]);
    assert_eq!(ids(None, Some(8), 3).await, [5, 6, 7]);
    assert_eq!(ids(Some(2), None, 3).await, [3, 4, 5]);
    assert_eq!(ids(Some(2), Some(5), 30).await, [3, 4]);
    handle.drop_dead_letter(6).await.unwrap();
    assert_eq!(ids(None, Some(8), 3).await, [4, 5, 7]);
    let other = Query { subscription: Some("other".to_owned()), limit: 10, ..Query::default() };
    assert_eq!(handle.dead_letters(other).await.unwrap(), []);
    assert_eq!(handle.dead_letter(7).await.unwrap().id, 7);
    assert!(matches!(handle.dead_letter(6).await, Err(Error::NoDeadLetter { id: 6 })));
    assert!(matches!(handle.dead_letter(0).await, Err(Error::NoDeadLetter { id: 0 })));
}

#[tokio::test]
async fn a_replay_delivers_again_in_order_and_says_so() {
    let stage = Stage::new(|one| one.key = Some("k".to_owned())).await;
    stage.publish((0..300).map(|at| keyed(["a", "b"][at % 2], at))).await;
    stage.script.has(300).await;
    stage.settled().await;
    let between = jiff::Timestamp::now();
    stage.publish((300..400).map(|at| keyed(["a", "b"][at % 2], at))).await;
    stage.script.has(400).await;
    stage.settled().await;
    let handle = &stage.engine().handle;
    for (since, from) in [(Since::Sequence(101), 101), (Since::Time(between), 301), (Since::First, 1)] {
        stage.script.clear();
        let replay = handle.replay("warehouse", since).await.unwrap();
        assert_eq!((replay.from, replay.to, replay.left), (from, 400, 401 - from));
        let count = usize::try_from(401 - from).unwrap();
        let seen = stage.script.has(count).await;
        assert_eq!(seen.len(), count);
        assert!(seen.iter().all(|seen| seen.field("atoll-replayed") == Some("true")), "{since:?}");
        stage.settled().await;
        assert_eq!(stage.reading().replay, None);
        for (_, bodies) in stage.script.by_key() {
            let mut sorted = bodies.clone();
            sorted.sort_by_key(|body| body.split([':', '}']).nth(2).unwrap().parse::<usize>().unwrap());
            assert_eq!(bodies, sorted);
        }
    }
    stage.script.clear();
    stage.publish([keyed("a", 400)]).await;
    assert_eq!(stage.script.has(1).await[0].field("atoll-replayed"), None);
    let nothing = handle.replay("warehouse", Since::Sequence(10_000)).await.unwrap();
    assert_eq!(nothing.left, 0);
    assert!(matches!(handle.replay("nobody", Since::First).await, Err(Error::NoSubscription { .. })));
}

#[tokio::test]
async fn batches_are_sent_together_and_a_poisoned_one_is_found_out() {
    let stage = Stage::new(|one| {
        one.concurrency = 2;
        one.max_deliver = 2;
        one.batch = Some(Batch { size: 10, wait: Duration::from_millis(50) });
    })
    .await;
    stage.script.always(Some(Answer::status(503).with("atoll-reason", "no_endpoint")));
    stage.publish((0..100).map(|at| at.to_string())).await;
    stage.reads("them all", |reading| reading.lag == 100).await;
    stage.script.clear();
    stage.script.always(None);
    stage.reads("the end", |reading| reading.delivered == 100).await;
    let seen = stage.script.seen();
    assert!(seen.len() < 30, "{}", seen.len());
    let of =
        |seen: &testkit::message::Message| -> Vec<serde_json::Value> { serde_json::from_slice(&seen.body).unwrap() };
    let count: usize = seen.iter().map(|seen| of(seen).len()).sum();
    assert_eq!(count, 100);
    assert_eq!(seen[5].field("content-type"), Some("application/cloudevents-batch+json"));

    // Who does not take one of them gets the others one by one.
    drop(stage);
    let picky = Server::http(|request| {
        // As it is, and in base64.
        let is_poisoned = ["poison", "cG9pc29u"].iter().any(|poison| request.text().contains(poison));
        Answer::status(if is_poisoned { 500 } else { 200 })
    })
    .await;
    let stage = Stage::at(picky.address, |one| {
        one.max_deliver = 2;
        one.batch = Some(Batch { size: 10, wait: Duration::from_millis(200) });
    })
    .await;
    stage.publish((0..10).map(|at| if at == 7 { "poison".to_owned() } else { at.to_string() })).await;
    let all = letters(&stage, 1).await;
    assert_eq!((texts(&all), all[0].attempts_count), (vec!["poison".to_owned()], 2));
    let reading = stage.settled().await;
    assert_eq!(reading.delivered, 9);
}

#[tokio::test]
async fn events_that_are_not_wanted_are_passed_over() {
    let stage = Stage::new(|one| one.filter = Some("data.n > 5".to_owned())).await;
    stage.publish((0..10).map(|at| keyed("a", at))).await;
    stage.publish(["no json".to_owned(), "{}".to_owned()]).await;
    stage.script.has(4).await;
    let reading = stage.settled().await;
    assert_eq!((reading.delivered, reading.filtered, reading.filter_errors), (4, 8, 2));
    let mut wrong = stage.config.clone();
    for (filter, key, path) in
        [(Some("data.n >"), None, "/"), (None, Some("a..b"), "/"), (None, None, "no slash"), (None, None, "/a b\r\n")]
    {
        wrong.subscriptions[0].filter = filter.map(str::to_owned);
        wrong.subscriptions[0].key = key.map(str::to_owned);
        wrong.subscriptions[0].path = path.to_owned();
        assert!(matches!(events::check(&wrong), Err(Error::Subscription { .. })), "{filter:?} {key:?} {path:?}");
    }
}

/// Answers each request with these bytes and closes.
async fn rude(answer: &'static [u8]) -> Server {
    Server::raw(move |mut stream| async move {
        let mut read = vec![0; 65536];
        if stream.read(&mut read).await.is_ok_and(|count| count > 0) {
            let _ = stream.write_all(answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn whatever_a_service_answers_there_is_an_end() {
    let huge: &'static [u8] =
        Box::leak([&b"HTTP/1.1 500 No\r\ncontent-length: 100000000\r\n\r\n"[..], &vec![b'x'; 1 << 20]].concat().into());
    let head: &'static [u8] = Box::leak([&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'x'; 1 << 20]].concat().into());
    for answer in [
        &b""[..],
        b"garbage\r\n\r\n",
        b"HTTP/1.1 2",
        b"HTTP/1.1 999 Odd\r\n\r\n",
        huge,
        head,
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    ] {
        let server = rude(answer).await;
        let stage = Stage::at(server.address, |one| one.max_deliver = 2).await;
        stage.publish(["1".to_owned()]).await;
        let all = letters(&stage, 1).await;
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(40)]);
        assert_eq!(all[0].attempts_count, 2, "{shown}");
        assert!(all[0].attempts.iter().all(|attempt| attempt.answer.len() <= 1024));
    }
    // It said 200, and that is all that counts.
    let server = rude(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx").await;
    let stage = Stage::at(server.address, |one| one.max_deliver = 1).await;
    stage.publish(["1".to_owned(), "2".to_owned()]).await;
    stage.reads("both", |reading| reading.delivered == 2).await;
}

#[tokio::test]
async fn one_that_hangs_has_its_time_and_holds_up_nobody() {
    let server = Server::raw(|mut stream| async move {
        let mut read = vec![0; 65536];
        loop {
            let Ok(count) = stream.read(&mut read).await else { return };
            let text = String::from_utf8_lossy(&read[..count]).into_owned();
            if count == 0 || text.contains("\"k\":\"hang\"") {
                // Nothing more is ever said.
                let _ = stream.read(&mut read).await;
                return;
            }
            if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                return;
            }
        }
    })
    .await;
    let stage = Stage::at(server.address, |one| {
        one.key = Some("k".to_owned());
        one.ack_wait = Duration::from_millis(300);
        one.max_deliver = 2;
    })
    .await;
    stage
        .publish((0..200).map(|at| if at == 3 { keyed("hang", at) } else { keyed(&format!("k{}", at % 10), at) }))
        .await;
    stage.reads("the others", |reading| reading.delivered == 199).await;
    let all = letters(&stage, 1).await;
    assert!(all[0].attempts.iter().all(|attempt| attempt.status.is_none() && attempt.answer.contains("within")));
    stage.settled().await;
}

#[tokio::test]
async fn a_drain_ends_what_is_in_flight_and_repeats_nothing() {
    let mut stage = Stage::new(|one| one.key = Some("k".to_owned())).await;
    stage.publish((0..2000).map(|at| keyed(&(at % 20).to_string(), at))).await;
    stage.script.has(200).await;
    stage.engine.take().unwrap().ended().await;
    let count = stage.script.count();
    assert!(count < 2000, "it was in the middle");
    stage.start().await;
    stage.script.has(2000).await;
    stage.settled().await;
    assert_eq!(stage.script.count(), 2000, "none twice");
    let consumers: Vec<_> = stage.context.get_stream("ORDERS").await.unwrap().consumer_names().collect().await;
    assert!(consumers.len() <= 1, "{consumers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_it_is_the_same_on_nats_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(&folder, 0).await;
    let script = Script::default();
    let answers = script.clone();
    let service = Server::http(move |request| answers.answer(request)).await;
    let mut stage = Stage::on(server.url(), service.address, |one| {
        one.key = Some("k".to_owned());
        one.on_dead_letter = OnDeadLetter::HoldKey;
    })
    .await;
    stage.script = script;
    stage.script.set(&keyed("b", 3), &[Answer::status(500), Answer::status(500)]);
    stage.script.set(&keyed("a", 4), &[Answer::status(400), Answer::status(400)]);
    stage.publish((0..200).map(|at| keyed(["a", "b"][at % 2], at))).await;
    let letter = letters(&stage, 1).await.remove(0);
    assert_eq!(letter.key.as_deref(), Some("a"), "even numbers are of a");
    stage.reads("a held key", |reading| reading.keys_held == 1 && reading.lag == reading.parked).await;
    stage.crash().await;
    stage.reads("it is held", |reading| reading.keys_held == 1 && reading.paused.is_none()).await;
    stage.engine().handle.redrive(letter.id, None).await.unwrap();
    let again = letters(&stage, 1).await.remove(0);
    assert_ne!(again.id, letter.id);
    stage.engine().handle.redrive(again.id, None).await.unwrap();
    stage.settled().await;
    let highest = |key: &str| {
        let bodies = stage.script.by_key().remove(key).unwrap();
        bodies.iter().map(|body| body.split([':', '}']).nth(2).unwrap().parse::<usize>().unwrap()).collect::<Vec<_>>()
    };
    for key in ["a", "b"] {
        // After the crash a run may have begun again, with none left out.
        let numbers = highest(key);
        assert!(numbers.windows(2).all(|two| two[1] <= two[0] + 2), "{key}: {numbers:?}");
        assert_eq!(numbers.into_iter().collect::<BTreeSet<_>>().len(), 100);
    }
    stage.script.clear();
    let replay = stage.engine().handle.replay("warehouse", Since::Sequence(101)).await.unwrap();
    assert_eq!((replay.from, replay.to), (101, 200));
    stage.script.has(100).await;
    stage.settled().await;

    // It goes and comes.
    let port = server.address.port();
    drop(server);
    stage.reads("a pause", |reading| reading.paused.as_deref() == Some("the broker is away")).await;
    let server = NatsServer::start(&folder, port).await;
    stage.context = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    stage.script.clear();
    stage.publish([keyed("c", 1)]).await;
    stage.script.has(1).await;
    stage.settled().await;
}
