//! The keys of broker, topics and subscriptions.

use std::time::Duration;

use super::keys::{ALLOW, DAY, DECLARATIONS_MAX, HOUR, LIST_MAX, key};
use super::{Kind, Map, OneOf, Table};

/// Limit: how long anything is kept.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Limit: what streams may take.
const BYTES_MAX: u64 = 1 << 50;

pub(super) static BROKER: Table = Table {
    name: "broker",
    doc: "The message broker, which speaks NATS's protocol. It runs where this table, a topic, a subscription, or a service's `publishes` or `subscribes` asks for it; with `url`, other servers stand in its place.",
    keys: &[
        key(
            "url",
            Kind::Text,
            "NATS servers of one's own, as in `nats://nats.internal:4222` or `tls://…`, several with commas; then no broker is embedded, and of the other keys only `max_payload` may be written. User and password may stand before the host, best as `${…}`: they need the right to make streams, and services are not told of them.",
        ),
        key(
            "listen",
            Kind::Text,
            "Address and port. Not written, the next free port is taken where this one is taken; with port 0, a free one is chosen and kept.",
        )
        .default("127.0.0.1:4222"),
        key(
            "monitor",
            Kind::Text,
            "Address and port of NATS's monitoring pages (`/varz`, `/connz`, `/subsz`, `/jsz`, `/healthz`), for whoever reaches it. Not written: nowhere.",
        ),
        key(
            "sync",
            Kind::Text,
            "When a publish to a stream of files is acknowledged. `always`: once it is on the disk. `interval:100ms`: at once, with the disk told that often; a power cut then loses what was acknowledged since.",
        )
        .default("always"),
        key(
            "max_payload",
            Kind::Size { min: 1 << 10, max: 64 << 20 },
            "A message with its headers. More is refused, and the connection closed, as NATS does. With `url`, what those servers take.",
        )
        .default("1MiB"),
        key("store", Kind::Table(&STORE), "What all streams may take together."),
        key("limits", Kind::Table(&LIMITS), "Bounds of what clients can make grow."),
    ],
    later: &["tls"],
    one_of: OneOf::Nothing,
};

static STORE: Table = Table {
    name: "store",
    doc: "What all streams may take together. A publish beyond it is refused, as is a stream that might grow beyond it.",
    keys: &[
        key("file", Kind::Size { min: 1 << 20, max: BYTES_MAX }, "In files, in `.atoll/data/broker`.").default("1TiB"),
        key("memory", Kind::Size { min: 1 << 20, max: BYTES_MAX }, "In memory.").default("1GiB"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static LIMITS: Table = Table {
    name: "broker limits",
    doc: "Bounds of what clients can make grow. At each, NATS's own error is answered.",
    keys: &[
        key("connections", Kind::Integer { min: 1, max: 1_000_000 }, "Connections of all clients.").default("65536"),
        key("subscriptions", Kind::Integer { min: 1, max: 10_000_000 }, "Subscriptions of one connection.")
            .default("1000000"),
        key(
            "pending",
            Kind::Size { min: 64 << 10, max: 4 << 30 },
            "What may wait for one client that does not read. With more, or if it takes nothing for 10 s, it is cut as a slow consumer.",
        )
        .default("64MiB"),
        key("streams", Kind::Integer { min: 1, max: 100_000 }, "Streams.").default("1000"),
        key("consumers", Kind::Integer { min: 1, max: 100_000 }, "Consumers of one stream.").default("10000"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

pub(super) static TOPICS: Map = Map { key: "topic", value: Kind::Table(&TOPIC), max: DECLARATIONS_MAX };

pub(crate) static TOPIC: Table = Table {
    name: "topic",
    doc: "A subject and the stream that keeps what is published to it. Its name is the subject, in quotes: `[topics.\"orders.placed\"]` has the stream `ORDERS_PLACED`. With a last token `>` it is a family: `[topics.\"orders.>\"]` keeps every subject below `orders`, in the stream `ORDERS`.",
    keys: &[
        key("description", Kind::Text, "What it tells of, in a sentence."),
        key(
            "schema",
            Kind::Text,
            "A file with a JSON Schema, which the data of every event must fit. Events that services publish over HTTP or an outbox are held against it; messages over NATS are not.",
        ),
        key("retention", Kind::Table(&RETENTION), "How much is kept."),
        key(
            "discard",
            Kind::Choice { known: &["old", "new"], later: &[] },
            "What happens at the bounds of `retention`: the oldest messages go, or new ones are refused. What is too old goes in any case.",
        )
        .default("old"),
        key(
            "storage",
            Kind::Choice { known: &["file", "memory"], later: &[] },
            "Where it is kept. What is in memory is gone when the broker ends.",
        )
        .default("file"),
        key(
            "duplicate_window",
            Kind::Duration { min: Duration::from_millis(100), max: DAY },
            "How long a second message with the same `Nats-Msg-Id` is told from a new one. Not written: two minutes, or the retention's `age` where that is less.",
        ),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static RETENTION: Table = Table {
    name: "retention",
    doc: "How much a topic keeps, whether it was read or not. The first bound that is met counts.",
    keys: &[
        key("age", Kind::Duration { min: Duration::from_millis(100), max: CENTURY }, "How long a message is kept.")
            .default("7d"),
        key(
            "size",
            Kind::Size { min: 1 << 10, max: BYTES_MAX },
            "What all its messages take. Not written: `1GiB`, or `64MiB` in memory.",
        ),
        key(
            "messages",
            Kind::Integer { min: 1, max: 1_000_000_000_000 },
            "How many are kept. Not written: as many as `size` holds.",
        ),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

pub(super) static SUBSCRIPTION: Table = Table {
    name: "subscription",
    doc: "Events of one topic, delivered to one path of one service with a POST (CloudEvents 1.0). A status of 200 to 299 is done; 408, 425, 429, 500 and above, or no answer, is a failed attempt; any other makes the event a dead letter at once. Nothing is tried, nor counted, while no instance of the service is ready.",
    keys: &[
        key(
            "name",
            Kind::Text,
            "Unique: letters, digits, `-` and `_`. What was delivered is remembered under it. Not written: service and topic, as in `warehouse-orders-placed`, with `any` for `*` and `all` for `>`.",
        ),
        key(
            "topic",
            Kind::Text,
            "A subject, or a pattern such as `orders.*`. All of it must be in one topic, declared or published; a pattern needs a family.",
        )
        .required(),
        key("service", Kind::Text, "Who is delivered to.").required(),
        key("path", Kind::Text, "Where, at one of its instances.").required(),
        key(
            "filter",
            Kind::Text,
            "An expression (CEL) over the event's attributes by their names and its JSON `data`, such as `data.total > 100`. Events for which it is not true are passed over. Not written: every event.",
        ),
        key(
            "key",
            Kind::Text,
            "A dotted path in the data, such as `order.id`, or `attributes.<name>`. Events of the same value are delivered one after the other, in their order; one that fails holds back only those of its value. Not written: in any order.",
        ),
        key("concurrency", Kind::Integer { min: 1, max: 1_024 }, "Requests at once.").default("16"),
        key("max_deliver", Kind::Integer { min: 1, max: 100 }, "Attempts for one event, the first one too.").default("5"),
        key(
            "backoff",
            Kind::List(&Kind::Duration { min: Duration::ZERO, max: DAY }, LIST_MAX),
            "The pause after each failed attempt; the last one goes on. Not written: `1s`, `5s`, then `30s`.",
        ),
        key(
            "ack_wait",
            Kind::Duration { min: Duration::from_millis(1), max: HOUR },
            "How long one attempt may take.",
        )
        .default("30s"),
        key(
            "dead_letter_topic",
            Kind::Text,
            "A topic to which dead letters are published. They are kept for `atoll dead-letter` in any case.",
        ),
        key(
            "on_dead_letter",
            Kind::Choice { known: &["continue", "hold_key"], later: &[] },
            "What becomes of later events with the same `key`: they go on, or wait until the dead letter was redriven or dropped.",
        )
        .default("continue"),
        key("batch", Kind::Table(&BATCH), "Several events in one request. Not written: one in each."),
        key(
            "from",
            Kind::Choice { known: &["first", "new"], later: &[] },
            "Where it begins when it is new: with the oldest event that is kept, or with what is published from then on.",
        )
        .default("first"),
        ALLOW,
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static BATCH: Table = Table {
    name: "batch",
    doc: "Several events in one request, as `application/cloudevents-batch+json`. They are done, or have failed, together.",
    keys: &[
        key("size", Kind::Integer { min: 1, max: 1_000 }, "Events in one request, at most.").required(),
        key(
            "wait",
            Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(10) },
            "How long the first of them waits for others.",
        )
        .default("100ms"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};
