//! What a subscription lives through: its stream is made anew or has no room, it begins late, is taken away and comes back.

use std::time::Duration;

use async_nats::jetstream::stream;
use events::{Config, Limits, Start, Subscription};
use testkit::server::Answer;

use crate::subscriber::{Stage, keyed};
use crate::support::BOUND;

/// Longer than any of these tests tries.
const MANY: usize = 10_000;

#[tokio::test]
async fn a_stream_made_anew_is_delivered_and_so_is_what_was_aside_of_the_one_before() {
    let mut stage = Stage::new(|one| {
        one.key = Some("k".to_owned());
        one.max_deliver = u32::MAX;
    })
    .await;
    stage.script.set(&keyed("a", 1), &vec![Answer::status(500); MANY]);
    stage.publish([keyed("a", 1), keyed("b", 1), keyed("a", 2), keyed("b", 2)]).await;
    stage.reads("what fails aside", |reading| reading.delivered == 2 && reading.keys_parked == 1).await;
    stage.context.delete_stream("ORDERS").await.unwrap();
    let orders = stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default() };
    stage.context.create_stream(orders).await.unwrap();
    // Their sequences are those of others before.
    stage.publish([keyed("a", 3), keyed("b", 3), keyed("a", 4), keyed("c", 1)]).await;
    stage.reads("the other keys of the new one", |reading| reading.delivered >= 4).await;
    let counts = |stage: &Stage| stage.script.by_key().iter().map(|(key, all)| (key.clone(), all.len())).collect();
    let counted: std::collections::BTreeMap<String, usize> = counts(&stage);
    assert_eq!((counted["b"], counted["c"]), (3, 1));
    // The same holds after a crash.
    stage.crash().await;
    stage.reads("it again", |reading| reading.keys_parked == 1 && reading.lag > 0).await;
    stage.script.set(&keyed("a", 1), &[]);
    stage.settled().await;
    let keys = stage.script.by_key();
    let mut of_a = keys["a"].clone();
    of_a.dedup();
    // What was nowhere but in the stream has gone with it.
    let expected = [1, 3, 4].map(|at| keyed("a", at));
    // What was on its way when it crashed may come twice, as a run from there on.
    assert!(of_a.ends_with(&expected), "{of_a:?}");
    assert_eq!(stage.reading().dead_lettered, 0);
}

#[tokio::test]
async fn what_has_no_room_aside_waits_and_is_not_lost() {
    let mut stage = Stage::new(|one| {
        one.key = Some("k".to_owned());
        one.max_deliver = u32::MAX;
    })
    .await;
    let limits = Limits { parked_bytes_max: 64 << 10, ..stage.config.limits.clone() };
    stage.config = Config { limits, ..stage.config.clone() };
    stage.engine().handle.apply(stage.config.clone()).unwrap();
    stage.script.always(Some(Answer::status(500)));
    let event = |at: usize| format!("{{\"k\":\"{at}\",\"fill\":\"{}\"}}", "x".repeat(10_000));
    stage.publish((0..20).map(event)).await;
    stage.reads("no room", |reading| reading.paused.is_some() && reading.parked == 20).await;
    stage.script.always(None);
    let reading = stage.settled().await;
    assert_eq!((reading.delivered, reading.dead_lettered), (20, 0));
    let mut seen: Vec<_> = stage.script.by_key().into_keys().collect();
    seen.sort_by_key(|key| key.parse::<usize>().unwrap());
    assert_eq!(seen, (0..20).map(|at| at.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn subscriptions_come_and_go_while_the_engine_runs() {
    let mut stage = Stage::new(|_| {}).await;
    stage.publish(["1", "2", "3"].map(str::to_owned)).await;
    stage.script.has(3).await;
    stage.settled().await;
    let first = stage.config.subscriptions[0].clone();
    let late = Subscription {
        name: "late".to_owned(),
        path: "/late".to_owned(),
        start: Start::New,
        ack_wait: Duration::from_secs(2),
        ..first.clone()
    };
    stage.config.subscriptions = vec![late];
    stage.engine().handle.apply(stage.config.clone()).unwrap();
    testkit::wait::until("the one without the other", BOUND, || async {
        let reading = stage.engine().handle.read();
        let late = reading.subscriptions.get("late")?;
        (reading.subscriptions.len() == 1 && late.paused.is_none()).then_some(())
    })
    .await;
    stage.publish(["4".to_owned()]).await;
    let seen = stage.script.has(4).await;
    assert_eq!((seen[3].second(), seen[3].text().as_str()), ("/late", "4"), "it begins with what is new");
    // It goes on where it was.
    stage.config.subscriptions.push(first);
    stage.engine().handle.apply(stage.config.clone()).unwrap();
    let seen = stage.script.has(5).await;
    assert_eq!((seen[4].second(), seen[4].text().as_str()), ("/events", "4"));
    stage.settled().await;
    assert_eq!(stage.script.count(), 5, "nothing was delivered twice");
}
