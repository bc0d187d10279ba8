//! The broker, its topics, and which services publish and subscribe to them over NATS. Topics are single subjects and families of
//! them (`orders.>`), so that of two that overlap one has the other in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::declared::{DECLARATIONS_MAX, Declared};
use super::schemas;
use super::wiring::Wired;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{Broker, BrokerLimits, Discard, Retention, Storage, Store, Subscription, Sync, Topic};
use crate::reader::{Table, Text};
use crate::shape::TOPIC;
use crate::text::subject::{self, Flaw};
use crate::text::{format_duration, format_size, nearest, parse_duration, quoted_list};

/// Where the manifest does not say how much a topic keeps.
const SIZE: u64 = 1 << 30;
/// The same for one in memory.
const MEMORY_SIZE: u64 = 64 << 20;
/// As of NATS.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// The least and the longest time from one sync to the next.
const SYNC_INTERVAL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(60));
/// What the streams of NATS's buckets are called.
const BUCKETS: [&str; 2] = ["KV_", "OBJ_"];
/// Below it the engine of events keeps what it needs for itself.
const OWN: &str = "atoll";
/// The first word of what the engine of events keeps for itself.
const PLATFORM: &str = "atoll";
/// What that is at least, and its streams.
const PLATFORM_SIZE: u64 = 64 << 20;
const PLATFORM_STREAMS: u32 = 3;

/// Topics with where each is first named.
type Topics<'w> = BTreeMap<String, (Topic, &'w Text<'w>)>;

/// Whether something of the manifest needs a broker.
pub(crate) fn needs_broker(declared: &Declared<'_>) -> bool {
    let says = |table: &Table<'_>, key: &str| table.get(key).is_some_and(|item| !item.is_empty());
    let mut services = declared.services.values().map(|service| &service.table);
    declared.root.has("broker")
        || !declared.topics.is_empty()
        || !declared.subscriptions.is_empty()
        || declared.databases.values().any(|database| database.table.has("outbox"))
        || services.any(|table| says(table, "publishes") || says(table, "subscribes"))
}

/// The broker's own table; its address with whether that is written, and that of its monitoring, are known by now.
pub(crate) fn broker(
    cx: &Context<'_>,
    table: &Table<'_>,
    (listen, written): (SocketAddr, bool),
    monitor: Option<SocketAddr>,
) -> Broker {
    let (store, limits) = (table.table_or_default("store"), table.table_or_default("limits"));
    Broker {
        listen,
        written,
        monitor,
        sync: table.text("sync").and_then(|text| sync(cx, &text)).unwrap_or(Sync::Always),
        max_payload: table.size("max_payload"),
        store: Store { file: store.size("file"), memory: store.size("memory") },
        limits: BrokerLimits {
            connections: limits.count("connections"),
            subscriptions: limits.count("subscriptions"),
            pending: limits.size("pending"),
            streams: limits.count("streams"),
            consumers: limits.count("consumers"),
        },
    }
}

fn sync(cx: &Context<'_>, text: &Text<'_>) -> Option<Sync> {
    let refuse = |code, message: String, label: &str, hint: &str| {
        cx.report(Diagnostic::new(code, &text.place, message).label(label).hint(hint));
        None
    };
    let usual = "write `sync = \"always\"`, or `sync = \"interval:100ms\"`";
    let Some(every) = text.value.strip_prefix("interval:") else {
        if text.value == "always" {
            return Some(Sync::Always);
        }
        return refuse(
            Code::Choice,
            format!("`sync` cannot be `{}`", text.value),
            "not one of the allowed values",
            usual,
        );
    };
    let (least, most) = SYNC_INTERVAL;
    match parse_duration(every) {
        None => refuse(Code::Duration, format!("`{every}` is not a duration"), "behind `interval:`", usual),
        Some(every) if every < least || every > most => {
            let (least, most) = (format_duration(least), format_duration(most));
            let message = format!("the interval of `sync` must be from {least} to {most}");
            let label = if every > SYNC_INTERVAL.1 { "too long" } else { "too short" };
            refuse(Code::DurationRange, message, label, usual)
        }
        Some(every) => Some(Sync::Interval(every)),
    }
}

/// Reports what cannot be the name of a topic: one subject, or a family of them.
pub(crate) fn check_name(cx: &Context<'_>, name: &Text<'_>) {
    if !check_subject(cx, name) {
        return;
    }
    let family = name.value.strip_suffix(".>").unwrap_or(&name.value);
    if subject::is_pattern(family) {
        let message = format!("`{}` is neither a subject nor a family of them", name.value);
        let whole = subject::literal(family).trim_end_matches('.');
        let diagnostic = Diagnostic::new(Code::Subject, &name.place, message).label("`*` names no stream");
        cx.report(diagnostic.hint(format!("write `{whole}.>`: it keeps every subject below `{whole}`")));
        return;
    }
    if name.value.split('.').next().is_some_and(|first| first.eq_ignore_ascii_case(PLATFORM)) {
        let message = format!("`{}` begins as the subjects of the platform's own do", name.value);
        let diagnostic = Diagnostic::new(Code::ReservedName, &name.place, message).label("reserved");
        cx.report(diagnostic.hint("begin it with a word of the application's"));
        return;
    }
    if name.value.split('.').next() == Some(OWN) {
        let message = format!("`{}` is a subject of Atoll's own", name.value);
        let diagnostic = Diagnostic::new(Code::ReservedName, &name.place, message);
        cx.report(diagnostic.label(format!("begins with `{OWN}`")).hint("begin it with another word"));
        return;
    }
    let stream = subject::stream(&name.value);
    if let Some(bucket) = BUCKETS.into_iter().find(|prefix| stream.starts_with(prefix)) {
        let message = format!("the stream of `{}` would be `{stream}`, which is the name of a bucket", name.value);
        let diagnostic = Diagnostic::new(Code::ReservedName, &name.place, message);
        let label = format!("NATS's buckets have streams that begin with `{bucket}`");
        cx.report(diagnostic.label(label).hint("begin it with another word"));
    }
}

/// Reports what is neither a subject nor a pattern of subjects.
fn check_subject(cx: &Context<'_>, text: &Text<'_>) -> bool {
    let Some(flaw) = subject::flaw(&text.value) else { return true };
    let shown = &text.value;
    let (code, message, label, hint) = match flaw {
        Flaw::Long => {
            let message = format!("a subject has {} bytes; the limit is {}", shown.len(), subject::SUBJECT_BYTES_MAX);
            (
                Code::Limit,
                message,
                "too long".to_owned(),
                "write a shorter one; what differs from message to message belongs into the message",
            )
        }
        Flaw::Reserved => {
            let message = format!("`{shown}` is a subject of NATS's own");
            (
                Code::ReservedName,
                message,
                "begins with `$` or `_`".to_owned(),
                "begin it with a word of the application's; inboxes and the API of its streams need no declaration, and buckets are for whoever has every right",
            )
        }
        Flaw::EmptyToken => {
            let message = match shown.as_str() {
                "" => "a subject is empty".to_owned(),
                _ => format!("`{shown}` has an empty token"),
            };
            (Code::Subject, message, "words with one dot between them".to_owned(), "write it as in `orders.placed`")
        }
        Flaw::Character(odd) => {
            let message = format!("`{shown}` is not a subject: it has `{odd}` in it");
            (Code::Subject, message, "letters, digits, `-`, `_` and dots".to_owned(), "write it as in `orders.placed`")
        }
        Flaw::Misplaced => {
            let message = format!("`{shown}` is not a subject: a wildcard is a whole token, and `>` the last one");
            (
                Code::Subject,
                message,
                "a misplaced wildcard".to_owned(),
                "write it as in `orders.*.placed` or `orders.>`",
            )
        }
        Flaw::AnyFirst => {
            let message = format!("`{shown}` would have the subjects of every application in it");
            (Code::Subject, message, "begins with a wildcard".to_owned(), "begin it with a word, as in `orders.>`")
        }
    };
    cx.report(Diagnostic::new(code, &text.place, message).label(label).hint(hint));
    false
}

/// Every topic, declared or only published, by subject.
pub(crate) fn compile(cx: &Context<'_>, declared: &Declared<'_>, wired: &Wired<'_>) -> BTreeMap<String, Topic> {
    let mut topics = Topics::new();
    for (name, declaration) in &declared.topics {
        topics.insert(
            name.clone(),
            (Topic { is_declared: true, ..topic(cx, name, &declaration.table) }, &declaration.name),
        );
    }
    add_published(cx, declared, wired, &mut topics);
    check_overlaps(cx, &topics);
    check_streams(cx, &topics);
    for unit in wired.values() {
        for text in &unit.subscribes {
            if check_subject(cx, text) && !is_kept(&topics, &text.value) {
                report_unknown(cx, &topics, text);
            }
        }
    }
    topics.into_iter().map(|(name, (topic, _))| (name, topic)).collect()
}

fn topic(cx: &Context<'_>, name: &str, table: &Table<'_>) -> Topic {
    let storage = if table.choice("storage") == "memory" { Storage::Memory } else { Storage::File };
    let retention = table.table_or_default("retention");
    let age = retention.duration("age");
    let size = retention.get("size").and_then(|item| item.size());
    let window = table.written_duration("duplicate_window");
    if let Some(window) = window.filter(|window| *window > age) {
        let place = table.place_of("duplicate_window");
        let message = format!(
            "duplicates are told for {}, but messages are kept for {}",
            format_duration(window),
            format_duration(age)
        );
        let diagnostic =
            Diagnostic::new(Code::TopicContradicts, &place, message).label("longer than the retention's `age`");
        cx.report(diagnostic.hint(format!("write `duplicate_window = \"{}\"` at most", format_duration(age))));
    }
    let messages = retention.get("messages").and_then(|item| item.integer());
    Topic {
        stream: subject::stream(name),
        description: table.text("description").map(|text| text.value),
        retention: Retention {
            age,
            size: size.unwrap_or(size_of(storage)),
            messages: messages.and_then(|messages| u64::try_from(messages).ok()),
        },
        discard: if table.choice("discard") == "new" { Discard::New } else { Discard::Old },
        storage,
        duplicate_window: window.unwrap_or(DUPLICATE_WINDOW).min(age),
        schema: schemas::compile(cx, table),
        is_declared: false,
    }
}

const fn size_of(storage: Storage) -> u64 {
    match storage {
        Storage::File => SIZE,
        Storage::Memory => MEMORY_SIZE,
    }
}

/// What is published and belongs to no topic becomes one: families first, the widest before those in them.
fn add_published<'w>(cx: &Context<'_>, declared: &Declared<'_>, wired: &'w Wired<'_>, topics: &mut Topics<'w>) {
    let all = wired.values().flat_map(|unit| &unit.publishes).filter(|text| check_subject(cx, text));
    let mut new: Vec<&Text<'_>> = all.filter(|text| !is_covered(topics, &text.value)).collect();
    new.sort_by_key(|text| (!text.value.ends_with(".>"), text.value.matches('.').count()));
    for text in new {
        if is_covered(topics, &text.value) {
            continue;
        }
        if subject::is_pattern(text.value.strip_suffix(".>").unwrap_or(&text.value)) {
            report_unknown(cx, topics, text);
            continue;
        }
        if topics.len() == DECLARATIONS_MAX {
            let message = format!("the manifest has more than {DECLARATIONS_MAX} topics");
            let hint = "declare a family, such as `[topics.\"orders.>\"]`, that has many of them in it";
            cx.report(Diagnostic::new(Code::Limit, &text.place, message).hint(hint));
            return;
        }
        check_name(cx, text);
        let unwritten = declared.root.unwritten(&TOPIC);
        topics.insert(text.value.clone(), (topic(cx, &text.value, &unwritten), text));
    }
}

/// Whether one topic has all of a subject or pattern in it.
fn is_covered(topics: &Topics<'_>, subject: &str) -> bool {
    covering(topics, subject).is_some()
}

/// The topic that has all of a subject or pattern in it.
fn covering<'t, T>(topics: &'t BTreeMap<String, T>, subject: &str) -> Option<&'t T> {
    topics.get(subject).or_else(|| subject::families(subject).find_map(|family| topics.get(&family)))
}

/// The stream that keeps all of a subject or pattern; reports it where there is none.
pub(crate) fn stream_of(cx: &Context<'_>, topics: &BTreeMap<String, Topic>, text: &Text<'_>) -> Option<String> {
    if !check_subject(cx, text) {
        return None;
    }
    let topic = covering(topics, &text.value);
    if topic.is_none() {
        report_unknown(cx, topics, text);
    }
    topic.map(|topic| topic.stream.clone())
}

/// Whether some topic keeps something of a subject or pattern.
fn is_kept(topics: &Topics<'_>, subject: &str) -> bool {
    is_covered(topics, subject) || kept_by(topics, subject).next().is_some()
}

/// The topics that keep something of a subject or pattern.
pub(crate) fn kept_by<'t, T>(
    topics: &'t BTreeMap<String, T>,
    subject: &'t str,
) -> impl Iterator<Item = (&'t str, &'t T)> {
    let covering = subject::families(subject).filter_map(|family| topics.get_key_value(&family));
    let literal = subject::literal(subject);
    // Whatever else overlaps begins as the pattern does; a family may be as wide as what stands before the wildcard.
    let below = topics.range(literal.to_owned()..).take_while(move |(name, _)| name.starts_with(literal));
    let below = below.filter(move |(name, _)| subject::overlap(name, subject));
    covering.chain(below).map(|(name, topic)| (name.as_str(), topic))
}

fn report_unknown<T>(cx: &Context<'_>, topics: &BTreeMap<String, T>, text: &Text<'_>) {
    let names: Vec<&str> = topics.keys().map(String::as_str).collect();
    // Where some of a pattern is kept its name is right.
    let is_pattern = subject::is_pattern(&text.value);
    let is_kept = is_pattern && kept_by(topics, &text.value).next().is_some();
    let near = nearest(&text.value, names.iter().copied().filter(|_| !is_kept));
    let hint = match (near, cx.unread()) {
        (Some(near), None) => format!("did you mean `{near}`?"),
        (Some(near), Some(unread)) => {
            format!("did you mean `{near}`? It may also stand in {unread}, which could not be read")
        }
        (None, Some(unread)) => format!("mend {unread} first: it could not be read, and may declare it"),
        (None, None) => {
            let literal = subject::literal(&text.value).trim_end_matches('.');
            let family = if is_pattern { format!("{literal}.>") } else { text.value.clone() };
            let declare = match is_kept {
                true => format!("declare a family, `[topics.\"{family}\"]`, in place of its parts: it has one stream"),
                false => format!("declare `[topics.\"{family}\"]`, or name it in the `publishes` of a service"),
            };
            match is_kept || names.is_empty() || names.len() > 8 {
                true => declare,
                false => format!("{declare}; there are {}", quoted_list(&names)),
            }
        }
    };
    let message = match is_pattern {
        true => format!("no topic has all of `{}` in it", text.value),
        false => format!("the topic `{}` is not declared", text.value),
    };
    cx.report(Diagnostic::new(Code::UnknownTopic, &text.place, message).label("no such topic").hint(hint));
}

/// Of two topics that overlap one is a family with the other in it: a message would be kept twice.
fn check_overlaps(cx: &Context<'_>, topics: &Topics<'_>) {
    for (name, (_, text)) in topics {
        let Some((family, (_, first))) = subject::families(name).find_map(|family| topics.get_key_value(&family))
        else {
            continue;
        };
        let message = format!("the topic `{name}` is in the family `{family}`: its messages would be kept twice");
        let diagnostic = Diagnostic::new(Code::TopicOverlap, &text.place, message)
            .label(format!("a part of `{family}`"))
            .hint("take one of them out, or give the family a narrower name")
            .related(&first.place, "the family");
        cx.report(diagnostic);
    }
}

fn check_streams(cx: &Context<'_>, topics: &Topics<'_>) {
    let mut owners: BTreeMap<&str, &Text<'_>> = BTreeMap::new();
    for (topic, text) in topics.values() {
        let Some(first) = owners.insert(&topic.stream, text) else { continue };
        let message =
            format!("`{}` and `{}` would both be kept in the stream `{}`", first.value, text.value, topic.stream);
        let diagnostic = Diagnostic::new(Code::TopicOverlap, &text.place, message)
            .label("the same stream")
            .hint("rename one of them")
            .related(&first.place, "so is this one");
        cx.report(diagnostic);
    }
}

/// Reports where one large message would cut whoever gets it: it and one more must be able to wait.
fn check_pending(cx: &Context<'_>, root: &Table<'_>, broker: &Broker) {
    let needed = broker.max_payload.saturating_mul(2);
    if broker.limits.pending < needed {
        let table = root.table_or_default("broker");
        let limits = table.table_or_default("limits");
        let place = if limits.has("pending") { limits.place_of("pending") } else { table.place_of("max_payload") };
        let message = format!(
            "{} may wait for a client, and one message may have {}",
            format_size(broker.limits.pending),
            format_size(broker.max_payload)
        );
        let hint = format!(
            "write `limits.pending = \"{}\"` under `[broker]`, or a smaller `max_payload`",
            format_size(needed)
        );
        let diagnostic = Diagnostic::new(Code::StoreSmall, &place, message);
        cx.report(diagnostic.label("less than two of them would need").hint(hint));
    }
}

/// Reports what all topics together may take beyond the store.
pub(crate) fn check_store(
    cx: &Context<'_>,
    root: &Table<'_>,
    broker: Option<&Broker>,
    topics: &BTreeMap<String, Topic>,
    subscriptions: &BTreeMap<String, Subscription>,
) {
    let Some(broker) = broker else { return };
    let (own_size, own_streams) = if subscriptions.is_empty() { (0, 0) } else { (PLATFORM_SIZE, PLATFORM_STREAMS) };
    check_pending(cx, root, broker);
    let table = root.table_or_default("broker").table_or_default("store");
    for (storage, key, max) in
        [(Storage::File, "file", broker.store.file), (Storage::Memory, "memory", broker.store.memory)]
    {
        let sizes = topics.values().filter(|topic| topic.storage == storage).map(|topic| topic.retention.size);
        let own = if storage == Storage::File { own_size } else { 0 };
        let sum = sizes.fold(own, u64::saturating_add);
        if sum > max {
            let message =
                format!("the topics may take {} together, the store holds {}", format_size(sum), format_size(max));
            let diagnostic = Diagnostic::new(Code::StoreSmall, &table.place_of(key), message);
            let hint = format!(
                "write `store.{key} = \"{}\"` under `[broker]`, or smaller sizes in `retention`",
                format_size(sum)
            );
            cx.report(diagnostic.label("less than that").hint(hint));
        }
    }
    let streams = u32::try_from(topics.len()).unwrap_or(u32::MAX).saturating_add(own_streams);
    if streams > broker.limits.streams {
        let place = root.table_or_default("broker").table_or_default("limits").place_of("streams");
        let of = if own_streams > 0 { " and streams of the platform's own" } else { "" };
        let message =
            format!("there are {streams} topics{of}, and the broker may have {} streams", broker.limits.streams);
        let hint = format!("write `limits.streams = {streams}` under `[broker]`, or more");
        cx.report(Diagnostic::new(Code::StoreSmall, &place, message).label("less than that").hint(hint));
    }
}
