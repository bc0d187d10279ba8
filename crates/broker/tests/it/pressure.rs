//! Bounds: clients that do not read, do not answer, are too many, want too much.

use std::time::Duration;

use broker::{Config, Limits};
use testkit::wait::until;

use crate::support::{BOUND, Raw, config, limits, start};

fn with(limits: Limits) -> Config {
    Config { limits, ..config() }
}

fn reason(running: &crate::support::Running) -> Option<String> {
    let closed = running.handle.report("/connz?state=closed").unwrap();
    closed["connections"][0]["reason"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_subscriber_that_never_reads_is_cut_and_others_get_everything() {
    let pending_max = 2 * 1024 * 1024;
    let running = start(&with(Limits { pending_max, ..limits() }));
    let mut idle = Raw::connected(running.address).await;
    idle.say("SUB a 1\r\n").await;
    let mut reading = Raw::connected(running.address).await;
    reading.say("SUB a 1\r\n").await;
    let mut publisher = Raw::connected(running.address).await;
    let message = "PUB a 32768\r\n".to_owned() + &"x".repeat(32768) + "\r\n";
    let (total, mut most) = (1024, 0);
    let reader = tokio::spawn(async move {
        for _ in 0..total {
            reading.until(&("x".repeat(64) + "\r\n")).await;
        }
    });
    for _ in 0..total {
        publisher.send(&message).await;
        most = most.max(running.handle.counts().pending_bytes);
    }
    tokio::time::timeout(BOUND, reader).await.expect("the reader gets all").unwrap();
    until("the cut", BOUND, || async { reason(&running) }).await;
    assert_eq!(reason(&running).as_deref(), Some("Slow Consumer (Pending Bytes)"));
    // Each of the three has a bound of its own.
    assert!(most <= 3 * pending_max, "{most}");
    let counts = running.handle.counts();
    assert_eq!((counts.slow_consumers, counts.connections), (1, 2));
    drop(idle);
}

#[tokio::test]
async fn a_subscriber_that_stops_reading_is_cut_after_the_deadline() {
    let write_deadline = Duration::from_millis(200);
    let running = start(&with(Limits { write_deadline, ..limits() }));
    let mut idle = Raw::connected(running.address).await;
    idle.say("SUB a 1\r\n").await;
    let mut publisher = Raw::connected(running.address).await;
    let message = "PUB a 1000000\r\n".to_owned() + &"x".repeat(1_000_000) + "\r\n";
    publisher.say(message.repeat(10)).await;
    until("the cut", BOUND, || async { reason(&running) }).await;
    assert_eq!(reason(&running).as_deref(), Some("Slow Consumer (Write Deadline)"));
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_leaves_room_when_it_goes() {
    let running = start(&with(Limits { connections_max: 2, ..limits() }));
    let first = Raw::connected(running.address).await;
    let mut second = Raw::connected(running.address).await;
    let mut third = Raw::open(running.address).await;
    assert_eq!(third.info, "-ERR 'maximum connections exceeded'");
    assert_eq!(third.rest().await, "");
    drop(first);
    let free = || async { (running.handle.counts().connections == 1).then_some(()) };
    until("room", BOUND, free).await;
    assert_eq!(Raw::connected(running.address).await.say("").await, "");
    assert_eq!(second.say("").await, "");
}

#[tokio::test]
async fn subscriptions_and_tokens_have_a_bound() {
    let running = start(&with(Limits { subscriptions_max: 2, subject_tokens_max: 3, ..limits() }));
    let mut raw = Raw::connected(running.address).await;
    assert_eq!(raw.say("SUB a 1\r\nSUB b 2\r\nSUB c 3\r\n").await, "-ERR 'maximum subscriptions exceeded'\r\n");
    assert_eq!(raw.say("UNSUB 1\r\nSUB a.b.c 3\r\n").await, "");
    let many = "-ERR 'Permissions Violation for Subscription to \"a.b.c.d\", too many tokens'\r\n";
    assert_eq!(raw.say("UNSUB 2\r\nSUB a.b.c.d 4\r\n").await, many);
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_stale() {
    let ping_interval = Duration::from_millis(50);
    let running = start(&with(Limits { ping_interval, auth_timeout: ping_interval, ..limits() }));
    let mut silent = Raw::connected(running.address).await;
    assert_eq!(silent.rest().await, "PING\r\nPING\r\n-ERR 'Stale Connection'\r\n");
    let mut alive = Raw::connected(running.address).await;
    for _ in 0..5 {
        alive.until("PING\r\n").await;
        alive.send("PONG\r\n").await;
    }
}
