//! How long the index takes with a million subscriptions: `cargo run --release -p broker --example million`.
//! Three quarters are literals, one quarter has a wildcard; messages go to subjects that no cache holds.

use std::time::{Duration, Instant};

use broker::{Config, LameDuck, Limits, Outgoing};

const SUBSCRIPTIONS: usize = 1_000_000;
const MESSAGES: usize = 1_000_000;

fn config() -> Config {
    let limits = Limits {
        connections_max: 1,
        subscriptions_max: 1,
        subject_tokens_max: 32,
        control_line_max: 4096,
        payload_max: 1024,
        pending_max: 1024,
        write_deadline: Duration::from_secs(1),
        auth_timeout: Duration::from_secs(1),
        tls_timeout: Duration::from_secs(1),
        ping_interval: Duration::from_secs(1),
        pings_outstanding_max: 1,
        closed_connections_max: 1,
    };
    let lame_duck = LameDuck { grace: Duration::ZERO, duration: Duration::ZERO };
    let (listen, name) = (([127, 0, 0, 1], 0).into(), "million".to_owned());
    Config { listen, monitor: None, name, users: Vec::new(), tls: None, jetstream: None, limits, lame_duck }
}

fn each(what: &str, count: usize, start: Instant) {
    let nanos = start.elapsed().as_nanos() / count as u128;
    println!("{what}: {nanos} ns each");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let handle = broker::bind(&config())?.handle();
    let start = Instant::now();
    let mut held = Vec::with_capacity(SUBSCRIPTIONS);
    for number in 0..SUBSCRIPTIONS {
        let pattern = match number % 8 {
            0 => format!("device.{number}.*"),
            1 => format!("device.*.{number}.>"),
            _ => format!("device.{number}.state"),
        };
        held.push(handle.subscribe(&pattern, None, 1)?);
    }
    each("subscribe", SUBSCRIPTIONS, start);
    let mut publisher = handle.publisher();
    let start = Instant::now();
    for message in 0..MESSAGES {
        let number = message.wrapping_mul(2_654_435_761) % SUBSCRIPTIONS;
        let subject = format!("device.{number}.state");
        publisher.publish(&Outgoing { subject: subject.as_bytes(), ..Outgoing::default() });
    }
    each("publish to a subject of its own", MESSAGES, start);
    let start = Instant::now();
    for _ in 0..MESSAGES {
        publisher.publish(&Outgoing { subject: b"device.7.state", ..Outgoing::default() });
    }
    each("publish to one subject", MESSAGES, start);
    let start = Instant::now();
    drop(held);
    each("unsubscribe", SUBSCRIPTIONS, start);
    Ok(())
}
