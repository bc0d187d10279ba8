//! Families of what the broker counts, and of what its streams and their consumers hold.

use broker::Counts;

use super::text::{Family, Kind, Labels, Value};
use crate::lower::streams::{ConsumerSeen, StreamSeen};

/// What is read of a broker.
#[derive(Debug, Default)]
pub struct Reading {
    pub counts: Counts,
    pub streams: Vec<StreamSeen>,
    /// Each with the name of its stream.
    pub consumers: Vec<(String, ConsumerSeen)>,
    /// Streams that are not as the manifest wants them.
    pub refused: usize,
}

pub(super) fn families(reading: &Reading) -> Vec<Family> {
    let mut all = traffic(&reading.counts);
    let gauge = |name, unit, help| Family::new(Kind::Gauge, name, unit, help);
    let stream = |value: fn(&StreamSeen) -> u64| {
        reading.streams.iter().map(move |seen| {
            let labels: Labels = vec![("stream", seen.name().unwrap_or_default().to_owned())];
            (labels, Value::Count(value(seen)))
        })
    };
    let consumer = |value: fn(&ConsumerSeen) -> u64| {
        reading.consumers.iter().map(move |(stream, seen)| {
            let labels: Labels = vec![("stream", stream.clone()), ("consumer", seen.name.clone())];
            (labels, Value::Count(value(seen)))
        })
    };
    let refused = u64::try_from(reading.refused).unwrap_or(u64::MAX);
    all.extend([
        gauge("atoll_broker_stream_messages", "", "Messages that a stream holds.").with(stream(StreamSeen::messages)),
        gauge("atoll_broker_stream_bytes", "bytes", "What a stream takes.").with(stream(StreamSeen::bytes)),
        gauge("atoll_broker_stream_max_bytes", "bytes", "What a stream may take; 0 where nothing bounds it alone.")
            .with(stream(StreamSeen::bytes_max)),
        gauge("atoll_broker_streams_refused", "", "Streams that are not as the manifest wants them.")
            .with([(Vec::new(), Value::Count(refused))]),
        gauge("atoll_broker_consumer_unread", "", "Messages that a consumer was not given yet.")
            .with(consumer(|seen| seen.num_pending)),
        gauge("atoll_broker_consumer_unacknowledged", "", "Messages that a consumer was given and that wait for it.")
            .with(consumer(|seen| seen.num_ack_pending)),
        gauge("atoll_broker_consumer_redelivered", "", "Messages among these that it was given more than once.")
            .with(consumer(|seen| seen.num_redelivered)),
    ]);
    all
}

fn traffic(counts: &Counts) -> Vec<Family> {
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
        both(
            "atoll_broker_bytes",
            "bytes",
            "Bytes of messages from and to clients.",
            [counts.in_bytes, counts.out_bytes],
        ),
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
