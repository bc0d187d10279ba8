//! Subscriptions: events of one topic for one path of one service. What the engine of events would refuse is refused here,
//! where a line can be shown for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::declared::{Declared, is_service};
use super::{paths, topics};
use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::{Batch, OnDeadLetter, Start, Subscription, Topic};
use crate::reader::{Table, Text};
use crate::text::cel::{self, Flaw};
use crate::text::subject;

/// Limit: bytes of a subscription's name, which stands in subjects of NATS.
const NAME_BYTES_MAX: usize = 100;
/// Limit: bytes of a key.
const KEY_BYTES_MAX: usize = 200;
/// Limit: bytes of all filters together. The reading of one takes microseconds a byte.
const FILTERS_BYTES_MAX: usize = 100_000;
/// Limit: subscriptions with a `dead_letter_topic`; with more of them no rounds are looked for.
const PASSING_MAX: usize = 1_000;
/// What `backoff` is where it is not written.
const BACKOFF: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// The services that subscriptions lead to, declared or not.
pub(crate) fn targets(declared: &Declared<'_>) -> BTreeSet<String> {
    declared.subscriptions.iter().filter_map(|table| Some(table.text("service")?.value)).collect()
}

/// The name of a subscription, which is made of service and topic where it is not written.
pub(crate) fn name(table: &Table<'_>) -> Option<String> {
    if table.has("name") {
        return Some(table.text("name")?.value);
    }
    let (service, topic) = (table.text("service")?, table.text("topic")?);
    let words = topic.value.split('.').map(|token| match token {
        "*" => "any",
        ">" => "all",
        token => token,
    });
    Some(std::iter::once(service.value.as_str()).chain(words).collect::<Vec<_>>().join("-"))
}

pub(crate) fn compile(
    cx: &Context<'_>,
    declared: &Declared<'_>,
    topics: &BTreeMap<String, Topic>,
) -> BTreeMap<String, Subscription> {
    let mut places: BTreeMap<String, Place<'_>> = BTreeMap::new();
    let mut subscriptions = BTreeMap::new();
    let mut filters_bytes = 0;
    for table in &declared.subscriptions {
        let filter = filter(cx, table, &mut filters_bytes);
        let subscription = subscription(cx, declared, topics, table);
        let subscription = subscription.map(|subscription| Subscription { filter, ..subscription });
        let Some(name) = name(table) else { continue };
        let place = if table.has("name") { table.place_of("name") } else { table.place_of("topic") };
        if !check_name(cx, table, &name, &place) {
            continue;
        }
        if let Some(first) = places.get(&name) {
            let hint = if table.has("name") { "rename one of them" } else { "give one of them a `name`" };
            let diagnostic = Diagnostic::new(Code::Duplicate, &place, format!("two subscriptions are called `{name}`"))
                .label("the second one")
                .hint(hint)
                .related(first, "the first one");
            cx.report(diagnostic);
            continue;
        }
        places.insert(name.clone(), place);
        subscriptions.extend(subscription.map(|subscription| (name, subscription)));
    }
    check_rounds(cx, &places, &subscriptions);
    subscriptions
}

/// Reports subscriptions whose dead letters come back by way of others: one poisoned event would go round for ever.
fn check_rounds(cx: &Context<'_>, places: &BTreeMap<String, Place<'_>>, all: &BTreeMap<String, Subscription>) {
    let passing: Vec<(&str, &str, &str)> = all
        .iter()
        .filter_map(|(name, of)| Some((name.as_str(), of.topic.as_str(), of.dead_letter_topic.as_deref()?)))
        .collect();
    if passing.len() > PASSING_MAX {
        return;
    }
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for (first, ..) in &passing {
        let mut round = vec![*first];
        let mut seen = BTreeSet::from([*first]);
        let mut next = passing.iter().find(|(name, ..)| name == first);
        while let Some((_, _, dead)) = next {
            next = passing.iter().find(|(_, topic, _)| subject::overlap(topic, dead));
            let Some((name, ..)) = next else { break };
            if name == first && round.len() > 1 && round.iter().all(|name| told.insert(name)) {
                let message = format!("dead letters go round: {} → {first}", round.join(" → "));
                let place = places.get(*first);
                let diagnostic = place.map(|place| Diagnostic::new(Code::SubscriptionContradicts, place, message));
                let hint = "give one of them another `dead_letter_topic`, or none: dead letters are kept in any case";
                diagnostic.into_iter().for_each(|diagnostic| cx.report(diagnostic.label("a loop").hint(hint)));
            }
            if !seen.insert(name) {
                break;
            }
            round.push(name);
        }
    }
}

fn check_name(cx: &Context<'_>, table: &Table<'_>, name: &str, place: &Place<'_>) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_fitting = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(fits);
    // What a name that is not written is made of is told of where it is written.
    if !is_fitting && (table.has("name") || name.len() > NAME_BYTES_MAX) {
        let message = format!("`{name}` is not a valid name of a subscription");
        let hint = format!("write a `name` of letters, digits, `-` and `_`, at most {NAME_BYTES_MAX}");
        cx.report(Diagnostic::new(Code::Name, place, message).hint(hint));
    }
    is_fitting
}

fn subscription(
    cx: &Context<'_>,
    declared: &Declared<'_>,
    topics: &BTreeMap<String, Topic>,
    table: &Table<'_>,
) -> Option<Subscription> {
    let service = table.text("service").filter(|name| is_service(cx, declared, name));
    let path = table.text("path").filter(|path| {
        paths::check_plain(cx, path, "an event is posted to a path alone; what a query would say is in its attributes")
    });
    let topic = table.text("topic");
    let stream = topic.as_ref().and_then(|topic| topics::stream_of(cx, topics, topic));
    let key = table.text("key").and_then(|text| key(cx, text));
    let on_dead_letter = on_dead_letter(cx, table);
    let dead_letter_topic = dead_letter_topic(cx, table, topics, topic.as_ref());
    let batch =
        table.table("batch").map(|batch| Batch { size: batch.count("size").max(1), wait: batch.duration("wait") });
    let backoff = match table.has("backoff") {
        true => table.list("backoff").iter().filter_map(|item| item.duration()).collect(),
        false => BACKOFF.to_vec(),
    };
    let start = if table.choice("from") == "new" { Start::New } else { Start::First };
    // All of it is read before any is missed, so that each problem is told.
    let (concurrency, max_deliver, ack_wait) =
        (table.count("concurrency"), table.count("max_deliver"), table.duration("ack_wait"));
    Some(Subscription {
        topic: topic?.value,
        stream: stream?,
        service: service?.value,
        path: path?.value,
        filter: None,
        key,
        concurrency,
        max_deliver,
        backoff,
        ack_wait,
        dead_letter_topic,
        on_dead_letter,
        batch,
        from: start,
    })
}

/// `bytes` are those of the filters before it, and then of this one, too.
fn filter(cx: &Context<'_>, table: &Table<'_>, bytes: &mut usize) -> Option<String> {
    let item = table.get("filter")?;
    let text = item.text()?;
    let report = |code, place: &Place<'_>, message: &str, label: String, hint: &str| {
        cx.report(Diagnostic::new(code, place, message).label(label).hint(hint));
        None
    };
    let shorter = "filter by what matters most, and leave the rest to the service";
    *bytes += text.value.len().min(cel::EXPRESSION_BYTES_MAX);
    if *bytes > FILTERS_BYTES_MAX {
        let message = format!("the filters of all subscriptions have more than {FILTERS_BYTES_MAX} bytes");
        return report(Code::Limit, &text.place, &message, "one too many".to_owned(), shorter);
    }
    match cel::flaw(&text.value) {
        None => Some(text.value),
        Some(Flaw::Long) => {
            let message =
                format!("`filter` has {} bytes; the limit is {}", text.value.len(), cel::EXPRESSION_BYTES_MAX);
            report(Code::Limit, &text.place, &message, "too long".to_owned(), shorter)
        }
        Some(Flaw::Deep) => {
            let message = format!("`filter` has brackets more than {} deep", cel::DEPTH_MAX);
            report(Code::Limit, &text.place, &message, "too deep".to_owned(), shorter)
        }
        Some(Flaw::Syntax(why, at)) => {
            let end = text.value[at..].chars().next().map_or(at, |found| at + found.len_utf8());
            let place = match item.written() {
                Some(written) if written == text.value && at < end => item.place_of(written, at..end),
                _ => text.place,
            };
            let hint = "write an expression (CEL), as in `data.total > 100 && type == 'orders.placed'`";
            report(Code::Expression, &place, "`filter` cannot be read", why, hint)
        }
    }
}

/// A dotted path in the data, or `attributes.` and the name of an attribute (CloudEvents 1.0.2, "Naming Conventions").
fn key(cx: &Context<'_>, text: Text<'_>) -> Option<String> {
    let is_attribute =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let label = match text.value.strip_prefix("attributes.") {
        _ if text.value.len() > KEY_BYTES_MAX => "too long",
        Some(name) if !is_attribute(name) => "an attribute has lower-case letters and digits",
        None if text.value.split('.').any(str::is_empty) => "names with one dot between them",
        None if text.value.contains(char::is_control) => "it has a control character",
        _ => return Some(text.value),
    };
    let message = format!("`key = \"{}\"` names nothing of an event", text.value);
    let hint = "write a path in the data, as in `order.id`, or `attributes.subject`";
    cx.report(Diagnostic::new(Code::Expression, &text.place, message).label(label).hint(hint));
    None
}

fn on_dead_letter(cx: &Context<'_>, table: &Table<'_>) -> OnDeadLetter {
    if table.choice("on_dead_letter") != "hold_key" {
        return OnDeadLetter::Continue;
    }
    if !table.has("key") {
        let message = "`on_dead_letter` is `hold_key`, and there is no `key`";
        let diagnostic = Diagnostic::new(Code::SubscriptionContradicts, &table.place_of("on_dead_letter"), message);
        let hint = "write a `key`: events of its value wait, the others go on";
        cx.report(diagnostic.label("holds nothing").hint(hint));
    }
    OnDeadLetter::HoldKey
}

fn dead_letter_topic(
    cx: &Context<'_>,
    table: &Table<'_>,
    topics: &BTreeMap<String, Topic>,
    topic: Option<&Text<'_>>,
) -> Option<String> {
    let text = table.text("dead_letter_topic")?;
    topics::stream_of(cx, topics, &text)?;
    if subject::is_pattern(&text.value) {
        let message = format!("`{}` is a pattern: nothing can be published to it", text.value);
        let diagnostic = Diagnostic::new(Code::Subject, &text.place, message).label("more than one subject");
        let whole = subject::literal(&text.value).trim_end_matches('.');
        cx.report(diagnostic.hint(format!("write one subject, such as `{whole}.dead`")));
        return None;
    }
    if let Some(topic) = topic.filter(|topic| subject::overlap(&topic.value, &text.value)) {
        let message = format!("dead letters would be delivered again: `{}` has `{}` in it", topic.value, text.value);
        let diagnostic = Diagnostic::new(Code::SubscriptionContradicts, &text.place, message)
            .label("a loop")
            .hint("name a topic that this subscription does not have in it")
            .related(&topic.place, "subscribed here");
        cx.report(diagnostic);
        return None;
    }
    Some(text.value)
}
