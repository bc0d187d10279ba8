//! Deliveries to services that behave, fail, hang, lie and go away.

use std::time::Duration;

use testkit::server::{Answer, Server};

use crate::subscriber::{Stage, keyed};
use crate::support::BOUND;

#[tokio::test]
async fn an_event_is_delivered_as_it_was_published() {
    let stage = Stage::new(|_| {}).await;
    let fields = [
        ("ce-specversion", "1.0"),
        ("ce-id", "17"),
        ("ce-source", "/services/cart"),
        ("ce-type", "order.placed"),
        ("ce-subject", "Euro%20%E2%82%AC"),
        ("content-type", "application/json"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    assert_eq!(stage.engine().post("/cart/orders.placed", &fields, b"{}").await.status(), 202);
    stage.script.has(1).await;
    let seen = stage.script.has(1).await;
    let request = &seen[0];
    assert_eq!((request.method(), request.second(), request.text().as_str()), ("POST", "/events", "{}"));
    for (name, expected) in &fields[..6] {
        assert_eq!(request.field(name), Some(*expected), "{name}");
    }
    let trace = request.field("traceparent").unwrap();
    assert!(
        trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && !trace.contains("b7ad6b7169203331"),
        "{trace}"
    );
    assert_eq!(request.field("atoll-attempt"), Some("1"));
    assert_eq!(request.field("atoll-subscription"), Some("warehouse"));
    assert_eq!(request.field("atoll-deadline"), Some("5000"));
    assert_eq!(request.field("x-request-id").map(str::len), Some(36));
    assert_eq!((request.field("atoll-redriven"), request.field("atoll-replayed")), (None, None));
    let reading = stage.settled().await;
    assert_eq!((reading.delivered, reading.failed, reading.paused), (1, 0, None));
}

#[tokio::test]
async fn what_fails_is_tried_again_with_its_key_behind_it() {
    let stage = Stage::new(|one| one.key = Some("k".to_owned())).await;
    stage.script.set(&keyed("a", 1), &[Answer::status(500), Answer::status(503)]);
    let all = [keyed("a", 1), keyed("a", 2), keyed("b", 1), keyed("a", 3), keyed("b", 2)];
    stage.publish(all).await;
    stage.script.has(7).await;
    let reading = stage.settled().await;
    assert_eq!((reading.delivered, reading.failed, reading.retried), (5, 2, 2));
    let keys = stage.script.by_key();
    assert_eq!(keys["a"], [keyed("a", 1), keyed("a", 1), keyed("a", 1), keyed("a", 2), keyed("a", 3)]);
    assert_eq!(keys["b"], [keyed("b", 1), keyed("b", 2)]);
    let attempts: Vec<_> = stage
        .script
        .seen()
        .iter()
        .filter(|seen| seen.text() == keyed("a", 1))
        .map(|seen| seen.field("atoll-attempt").unwrap().to_owned())
        .collect();
    assert_eq!(attempts, ["1", "2", "3"]);
}

#[tokio::test]
async fn an_engine_that_was_killed_goes_on_where_it_was() {
    let mut stage = Stage::new(|one| {
        one.key = Some("k".to_owned());
        one.backoff = vec![Duration::from_millis(300)];
    })
    .await;
    for number in 0..5 {
        stage.script.set(&keyed("a", number), &[Answer::status(500)]);
    }
    for round in 0..5 {
        stage.publish((0..100).map(|at| keyed(["a", "b", "c"][at % 3], round * 100 + at))).await;
        stage.script.has(round * 60 + 30).await;
        stage.crash().await;
    }
    stage.settled().await;
    for (key, bodies) in stage.script.by_key() {
        let numbers = bodies.iter().map(|body| body.split([':', '}']).nth(2).unwrap().parse::<usize>().unwrap());
        let numbers: Vec<usize> = numbers.collect();
        let mut first = numbers.clone();
        first.sort_unstable();
        first.dedup();
        let expected: Vec<usize> = (0..500).filter(|at| ["a", "b", "c"][at % 100 % 3] == key).collect();
        assert_eq!(first, expected, "none of {key} is lost");
        // First deliveries are in order; what comes again is a run from an older point.
        let mut highest = None;
        for (at, number) in numbers.iter().enumerate() {
            if highest.is_none_or(|highest| number > highest) {
                let before = at.checked_sub(1).map(|at| &numbers[at]);
                assert!(before == highest, "{key}: {number} after {before:?}, highest {highest:?}");
                highest = Some(number);
            }
        }
        assert!(numbers.len() < expected.len() + 150, "{key}: {} for {}", numbers.len(), expected.len());
    }
}

#[tokio::test]
async fn a_broker_that_goes_and_comes_loses_nothing() {
    let mut stage = Stage::new(|one| one.key = Some("k".to_owned())).await;
    stage.script.set(&keyed("a", 3), &[Answer::status(500), Answer::status(500)]);
    stage.publish((0..50).map(|at| keyed("a", at))).await;
    stage.script.has(2).await;
    let address = stage.broker.take().unwrap().ended().await;
    stage.reads("a pause", |reading| reading.paused.as_deref() == Some("the broker is away")).await;
    stage.broker = Some(crate::support::Broker::start_at(stage.folder.path(), address));
    let reading = stage
        .reads("the end", |reading| {
            reading.lag == 0 && reading.parked == 0 && reading.paused.is_none() && reading.delivered >= 50
        })
        .await;
    assert!(reading.delivered < 110, "{reading:?}");
    stage.context = stage.broker.as_ref().unwrap().jetstream().await;
    let before = stage.script.count();
    stage.publish([keyed("b", 1)]).await;
    stage.script.has(before + 1).await;
}

#[tokio::test]
async fn a_service_without_instances_loses_nothing_and_costs_no_attempt() {
    let stage = Stage::new(|one| one.max_deliver = 1).await;
    let gone = Answer::status(503).with("atoll-reason", "no_endpoint");
    stage.script.always(Some(gone));
    stage.publish((0..1000).map(|at| at.to_string())).await;
    let reading = stage.reads("a pause", |reading| reading.paused.is_some() && reading.lag == 1000).await;
    assert!(reading.paused.unwrap().contains("no_endpoint"));
    assert!(stage.script.count() < 20, "it only probes: {}", stage.script.count());
    stage.script.clear();
    stage.script.always(None);
    stage.script.has(1000).await;
    let reading = stage.settled().await;
    assert_eq!((reading.delivered, reading.failed, reading.dead_lettered, reading.parked), (1000, 0, 0, 0));
    assert!(reading.paused.is_none());
}

#[tokio::test]
async fn an_edge_that_is_away_is_waited_for() {
    let server = Server::http(|_| Answer::ok("")).await;
    let address = server.address;
    server.kill().await;
    let stage = Stage::at(address, |one| one.max_deliver = 1).await;
    stage.publish(["1".to_owned()]).await;
    let is_about = |reading: &str| reading.contains("the edge cannot be connected to");
    let reading = stage.reads("a pause", |reading| reading.paused.as_deref().is_some_and(is_about)).await;
    assert_eq!((reading.failed, reading.lag), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_no_client_can_read_stops_nobody() {
    let stage = Stage::new(|one| one.key = Some("k".to_owned())).await;
    stage.publish([keyed("a", 1)]).await;
    // Straight over the wire: a header that is no text, and one that is no header.
    for headers in [&b"NATS/1.0\r\nx: \xff\xfe\r\n\r\n"[..], b"NATS/1.0\r\nnonsense\r\n\r\n"] {
        let body = keyed("a", 2);
        let mut stream = tokio::net::TcpStream::connect(stage.broker.as_ref().unwrap().address).await.unwrap();
        let head = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true}}\r\nHPUB orders.placed {} {}\r\n",
            headers.len(),
            headers.len() + body.len()
        );
        let all = [head.as_bytes(), headers, body.as_bytes(), b"\r\nPING\r\n"].concat();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &all).await.unwrap();
        stage.pong(&mut stream).await;
    }
    stage.publish([keyed("a", 3)]).await;
    let seen = stage.script.has(4).await;
    let bodies: Vec<_> = seen.iter().map(testkit::message::Message::text).collect();
    assert_eq!(bodies, [keyed("a", 1), keyed("a", 2), keyed("a", 2), keyed("a", 3)]);
    stage.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_scaled_to_zero_while_very_many_come_loses_nothing() {
    // `EVENTS=100000` takes a minute where nothing is optimised.
    let count = std::env::var("EVENTS").map_or(20_000, |count| count.parse::<usize>().unwrap());
    let stage = Stage::new(|one| {
        one.key = Some("k".to_owned());
        one.max_deliver = 1;
        one.concurrency = 32;
    })
    .await;
    stage.script.always(Some(Answer::status(503).with("atoll-reason", "no_endpoint")));
    for chunk in 0..count / 2_000 {
        stage.publish((0..2_000).map(|at| keyed(&(at % 500).to_string(), chunk * 2_000 + at))).await;
    }
    let all = count as u64;
    let reading = stage.reads("what waits", |reading| reading.lag == all && reading.paused.is_some()).await;
    assert_eq!((reading.dead_lettered, reading.parked), (0, 0), "nothing goes aside: {reading:?}");
    stage.script.clear();
    stage.script.always(None);
    let wait = testkit::wait::until("all of them", 4 * BOUND, || async {
        (stage.reading().lag == 0 && stage.script.count() >= count).then_some(())
    });
    wait.await;
    for (key, bodies) in stage.script.by_key() {
        let numbers = bodies.iter().map(|body| body.split([':', '}']).nth(2).unwrap().parse::<usize>().unwrap());
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key} is in order, once");
    }
}

#[tokio::test]
async fn a_slow_key_and_a_failing_one_hold_up_no_other() {
    // Buffers of 64 events; one key hangs, one always fails, and the rest must pass.
    let server = Server::raw(|stream| async move {
        let mut stream = tokio::io::BufReader::new(stream);
        while let Ok(Some(mut request)) = testkit::message::read_head(&mut stream).await {
            let framing = request.framing();
            if testkit::message::read_body(&mut stream, &mut request, framing).await.is_err() {
                return;
            }
            let text = request.text();
            if text.contains("\"k\":\"slow\"") {
                std::future::pending::<()>().await;
            }
            let status = if text.contains("\"k\":\"bad\"") { "500 No" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            if tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let mut stage = Stage::at(server.address, |one| {
        one.key = Some("k".to_owned());
        (one.backoff, one.ack_wait) = (vec![Duration::from_secs(600)], Duration::from_secs(600));
    })
    .await;
    stage.config.limits.buffer_events_max = 64;
    stage.crash().await;
    // Far more of the slow key than fit into the buffer.
    let of = |at: usize| match at % 10 {
        0..5 => "slow".to_owned(),
        5..8 => "bad".to_owned(),
        _ => format!("k{}", at % 7),
    };
    stage.publish((0..2_000).map(|at| keyed(&of(at), at))).await;
    let reading = stage.reads("the others", |reading| reading.delivered >= 400).await;
    assert_eq!(reading.delivered, 400, "{reading:?}");
    let reading =
        stage.reads("those that wait aside", |reading| reading.parked > 1_500 && reading.keys_parked == 2).await;
    assert_eq!(reading.dead_lettered, 0);
}
