//! Runs of events, as outboxes publish them: in order whatever fails, whoever else publishes, on the broker and on nats-server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::{self, stream};
use events::{Event, PublishError, Run};
use futures_util::StreamExt as _;
use tempfile::TempDir;

use crate::official::NatsServer;
use crate::support::{Broker, Engine, config, count, topic};

/// Something to publish to, until it is dropped.
struct Place {
    url: String,
    server: Server,
    _folder: TempDir,
}

enum Server {
    Own(#[expect(dead_code, reason = "dropping it ends it")] Broker),
    Nats(#[expect(dead_code, reason = "dropping it ends it")] NatsServer),
}

impl Place {
    async fn both() -> [Self; 2] {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (broker, nats) = (Broker::start(one.path()), NatsServer::start(&other, 0).await);
        let (broker_url, nats_url) = (broker.url(), nats.url());
        [
            Self { url: broker_url, server: Server::Own(broker), _folder: one },
            Self { url: nats_url, server: Server::Nats(nats), _folder: other },
        ]
    }

    fn name(&self) -> &'static str {
        match self.server {
            Server::Own(_) => "the broker",
            Server::Nats(_) => "nats-server",
        }
    }

    async fn with_stream(&self, changes: stream::Config) -> jetstream::Context {
        let context = jetstream::new(async_nats::connect(&self.url).await.unwrap());
        let config = stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..changes };
        context.create_stream(config).await.unwrap();
        context
    }
}

fn event(source: &str, id: usize, data: &str) -> (String, Event) {
    let id = id.to_string();
    let attributes = [("specversion", "1.0"), ("id", &id), ("source", source), ("type", "t")];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    ("orders.placed".to_owned(), Event { attributes, content_type: None, data: data.to_owned().into() })
}

fn row(id: usize, data: &str) -> (String, Event) {
    event("/outbox", id, data)
}

fn rows(source: &str, ids: std::ops::Range<usize>) -> Vec<(String, Event)> {
    ids.map(|id| event(source, id, "x")).collect()
}

/// Publishes all as an outbox does; rounds, and events in each second.
async fn publish_all(engine: &Engine, mut events: Vec<(String, Event)>, width_max: usize) -> (usize, f64) {
    let (began, count) = (Instant::now(), events.len());
    let (mut rounds, mut width) = (0, width_max);
    while !events.is_empty() {
        let wanted = width.min(events.len());
        let run = engine.handle.publish_run("cart", events[..wanted].to_vec()).await;
        assert!(run.failure.is_none() && !run.published.is_empty(), "{run:?}");
        events.drain(..run.published.len());
        width = if run.published.len() < wanted { run.published.len() } else { (width * 2).min(width_max) };
        rounds += 1;
    }
    (rounds, count as f64 / began.elapsed().as_secs_f64())
}

/// The ids of what is stored of one source, in the order of the stream.
async fn ids(context: &jetstream::Context, source: &str) -> Vec<usize> {
    let stream = context.get_stream("ORDERS").await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let consumer = stream.create_consumer(OrderedConfig::default()).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut ids = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let of = |name| message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned());
        if of("ce-source").as_deref() == Some(source) {
            ids.push(of("ce-id").unwrap().parse().unwrap());
        }
        if message.info().unwrap().stream_sequence >= last {
            break;
        }
    }
    ids
}

/// Publishes past the engine for as long as it is wanted: many at once, half of them with ids. Gives how many there were.
async fn disturb(url: String, wanted: Arc<AtomicBool>) -> usize {
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    let mut done = 0;
    while wanted.load(Ordering::Relaxed) {
        let mut waiting = Vec::new();
        for at in done..done + 8 {
            let mut headers = async_nats::HeaderMap::new();
            if at % 2 == 0 {
                headers.insert("Nats-Msg-Id", format!("other-{at}"));
            }
            waiting.push(context.publish_with_headers("orders.other", headers, "y".into()).await.unwrap());
        }
        done += waiting.len();
        for answer in waiting {
            answer.await.unwrap();
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_one_round_and_is_faster_than_one_by_one() {
    for place in Place::both().await {
        let context = place.with_stream(stream::Config::default()).await;
        let engine = Engine::connected(config(place.url.clone())).await;
        let (rounds, one) = publish_all(&engine, rows("/outbox", 0..256), 1).await;
        assert_eq!(rounds, 256);
        let (rounds, many) = publish_all(&engine, rows("/outbox", 256..1280), 256).await;
        assert_eq!(rounds, 4);
        println!("{}: events a second: {one:.0} one by one, {many:.0} in runs", place.name());
        assert_eq!(ids(&context, "/outbox").await, (0..1280).collect::<Vec<_>>());
        let reading = engine.handle.read().topics["orders.>"].clone();
        assert_eq!((reading.published, reading.refused, reading.failed), (1280, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_stay_in_order_and_get_on_among_what_others_publish() {
    for place in Place::both().await {
        let context = place.with_stream(stream::Config::default()).await;
        let engine = Engine::connected(config(place.url.clone())).await;
        let wanted = Arc::new(AtomicBool::new(true));
        let others = [(); 2].map(|()| tokio::spawn(disturb(place.url.clone(), Arc::clone(&wanted))));
        testkit::wait::until("others", Duration::from_secs(10), || async {
            (count(&context, "ORDERS").await > 100).then_some(())
        })
        .await;
        let (rounds, speed) = publish_all(&engine, rows("/outbox", 0..1024), 256).await;
        wanted.store(false, Ordering::Relaxed);
        let mut disturbing = 0;
        for other in others {
            disturbing += other.await.unwrap();
        }
        println!("{}: {speed:.0} a second in {rounds} rounds, among {disturbing} of others", place.name());
        // Else nothing has come between.
        assert!((5..=1024).contains(&rounds), "{rounds}");
        assert_eq!(ids(&context, "/outbox").await, (0..1024).collect::<Vec<_>>());
        let reading = engine.handle.read().topics["orders.>"].clone();
        assert_eq!((reading.published, reading.duplicates, reading.failed), (1024, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_publishes_does_not_come_between() {
    for place in Place::both().await {
        let context = place.with_stream(stream::Config::default()).await;
        let engine = Engine::connected(config(place.url.clone())).await;
        let singly = async {
            for id in 0.. {
                let (topic, event) = event("/post", id, "x");
                engine.handle.publish("cart", &topic, event).await.unwrap();
            }
        };
        let runs = async {
            tokio::join!(
                publish_all(&engine, rows("/outbox", 0..512), 64),
                publish_all(&engine, rows("/other", 0..512), 64)
            )
        };
        let (one, other) = tokio::select! {
            () = singly => unreachable!("it has no end"),
            rounds = runs => rounds,
        };
        assert_eq!((one.0, other.0), (8, 8), "{}", place.name());
        for source in ["/outbox", "/other"] {
            assert_eq!(ids(&context, source).await, (0..512).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn rows_that_come_again_are_done_and_stored_once() {
    for place in Place::both().await {
        let context = place.with_stream(stream::Config::default()).await;
        let engine = Engine::connected(config(place.url.clone())).await;
        let run = async |from, to| {
            let Run { published, failure } = engine.handle.publish_run("cart", rows("/outbox", from..to)).await;
            assert!(failure.is_none(), "{failure:?}");
            let duplicates = published.iter().take_while(|one| one.is_duplicate).count();
            assert!(published[duplicates..].iter().all(|one| !one.is_duplicate));
            (published.len(), duplicates)
        };
        assert_eq!(run(0, 10).await, (10, 0));
        assert_eq!(run(0, 10).await, (10, 10));
        // The last one stored is still the last of those that are there: what is new comes behind it at once.
        assert_eq!(run(4, 14).await, (10, 6));
        // Not where another came between.
        context.publish("orders.other", "y".into()).await.unwrap().await.unwrap();
        assert_eq!(run(7, 20).await, (7, 7));
        assert_eq!(run(14, 20).await, (6, 0));
        // An id that was given twice: the second is taken for the first.
        let events = [rows("/outbox", 20..22), rows("/outbox", 20..21), rows("/outbox", 22..24)].concat();
        let first = engine.handle.publish_run("cart", events.clone()).await;
        assert!(first.published.len() == 3 && first.published[2].is_duplicate, "{first:?}");
        assert_eq!(engine.handle.publish_run("cart", events[3..].to_vec()).await.published.len(), 2);
        assert_eq!(ids(&context, "/outbox").await, (0..24).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn nothing_of_a_run_overtakes_what_was_not_taken() {
    for place in Place::both().await {
        let full = stream::Config {
            max_bytes: 4000,
            max_message_size: 6000,
            discard: stream::DiscardPolicy::New,
            ..Default::default()
        };
        let context = place.with_stream(full).await;
        let engine = Engine::connected(config(place.url.clone())).await;
        let publish = async |events: Vec<(String, Event)>| {
            let run = engine.handle.publish_run("cart", events).await;
            (run.published.len(), run.failure)
        };
        // There is no room for the second, and would be for the third.
        let (done, why) = publish(vec![row(1, "x"), row(2, &"x".repeat(5000)), row(3, "x")]).await;
        assert!(done == 1 && why.as_ref().is_some_and(|why| !why.is_refusal()), "{done} {why:?}");
        assert_eq!(ids(&context, "/outbox").await, [1]);
        // What can never be taken is told, by the broker only of the first, and what is behind it waits for the next run.
        let undeclared = ("other".to_owned(), Event::default());
        let (done, why) = publish(vec![row(4, "x"), undeclared, row(6, "x")]).await;
        assert!(done == 1 && why.as_ref().is_some_and(PublishError::is_refusal), "{done} {why:?}");
        let large = row(5, &"x".repeat(9000));
        let (done, why) = publish(vec![row(7, "x"), large.clone(), row(6, "x")]).await;
        assert!(done == 1 && why.is_none(), "{done} {why:?}");
        let (done, why) = publish(vec![large, row(6, "x")]).await;
        assert!(done == 0 && why.as_ref().is_some_and(PublishError::is_refusal), "{done} {why:?}");
        assert_eq!(ids(&context, "/outbox").await, [1, 4, 7]);
    }
}

#[tokio::test]
async fn what_an_event_expects_does_not_make_it_too_large() {
    for place in Place::both().await {
        let context = place.with_stream(stream::Config { max_message_size: 2000, ..Default::default() }).await;
        let engine = Engine::connected(config(place.url.clone())).await;
        let sized = |id, size: usize| row(id, &"x".repeat(size));
        // The largest that goes by itself.
        let mut largest = 1900;
        while engine.handle.publish("cart", "orders.placed", sized(largest, largest).1).await.is_err() {
            largest -= 1;
        }
        let mut events = vec![row(1, "x"), sized(2, largest), row(3, "x")];
        while !events.is_empty() {
            let run = engine.handle.publish_run("cart", events.clone()).await;
            assert!(run.failure.is_none() && !run.published.is_empty(), "{run:?}");
            events.drain(..run.published.len());
        }
        assert_eq!(ids(&context, "/outbox").await[1..], [1, 2, 3]);
    }
}

#[tokio::test]
async fn a_run_ends_where_the_next_goes_to_another_stream() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.with_stream("ORDERS", "orders.>").await;
    let context = broker.with_stream("CARTS", "carts.>").await;
    let mut config = config(broker.url());
    config.topics.push(topic("carts.>", "CARTS", None));
    config.publishers[0].publishes.push("carts.>".to_owned());
    let engine = Engine::connected(config).await;
    let elsewhere = |id| ("carts.filled".to_owned(), row(id, "x").1);
    let run = engine.handle.publish_run("cart", vec![row(1, "x"), row(2, "x"), elsewhere(3), row(4, "x")]).await;
    assert!(run.published.len() == 2 && run.failure.is_none(), "{run:?}");
    assert_eq!(count(&context, "CARTS").await, 0);
    broker.ended().await;
    engine.is_connected(false).await;
    let run = engine.handle.publish_run("cart", vec![elsewhere(3)]).await;
    assert!(run.published.is_empty() && run.failure.is_some_and(|why| !why.is_refusal()));
}
