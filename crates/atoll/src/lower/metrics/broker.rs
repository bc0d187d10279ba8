//! Families of what the broker counts.

use broker::Counts;

use super::text::{Family, Kind, Value};

pub(super) fn families(counts: &Counts) -> Vec<Family> {
    let both = |name, unit, help, [received, sent]: [u64; 2]| {
        let direction = |direction: &str| vec![("direction", direction.to_owned())];
        let samples = [(direction("in"), Value::Count(received)), (direction("out"), Value::Count(sent))];
        Family::new(Kind::Counter, name, unit, help).with(samples)
    };
    let one =
        |kind, name, unit, help, count| Family::new(kind, name, unit, help).with([(Vec::new(), Value::Count(count))]);
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    vec![
        both("atoll_broker_messages", "", "Messages from and to clients.", [counts.in_messages, counts.out_messages]),
        both("atoll_broker_bytes", "bytes", "Messages from and to clients.", [counts.in_bytes, counts.out_bytes]),
        one(Kind::Counter, "atoll_broker_connections", "", "Clients' connections accepted.", counts.connections_total),
        one(
            Kind::Gauge,
            "atoll_broker_connections_active",
            "",
            "Clients' connections open.",
            number(counts.connections),
        ),
        one(Kind::Gauge, "atoll_broker_subscriptions", "", "Subscriptions of clients.", number(counts.subscriptions)),
        one(
            Kind::Gauge,
            "atoll_broker_pending_bytes",
            "bytes",
            "What waits for clients.",
            number(counts.pending_bytes),
        ),
        one(
            Kind::Counter,
            "atoll_broker_slow_consumers",
            "",
            "Clients that were cut because they did not take what waited for them.",
            counts.slow_consumers,
        ),
    ]
}
