//! Topics, subscriptions and dead letters → what the API shows; and whose event a row of an outbox is.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use database::outbox::Message;
use manifest::{Plan, plan};
use serde_json::Value;

use super::streams::StreamSeen;
use crate::api::dto;

/// Which services may publish what comes out of which database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(BTreeMap<String, Vec<(String, Vec<String>)>>);

impl Owners {
    /// The service in whose name a row is published.
    pub fn publisher(&self, database: &str, topic: &str) -> Option<String> {
        let may = |publishes: &Vec<String>| {
            publishes.iter().any(|pattern| broker::subject::matches(pattern.as_bytes(), topic.as_bytes()))
        };
        let services = self.0.get(database)?;
        services.iter().find(|(_, publishes)| may(publishes)).map(|(service, _)| service.clone())
    }
}

/// Of every database with an outbox, the services that have it, with what any of the plans lets them publish.
pub fn outbox_owners<'p>(plans: impl Iterator<Item = &'p Plan>) -> Owners {
    let mut owners = Owners::default();
    for plan in plans {
        for (name, _) in plan.databases.iter().filter(|(_, database)| database.outbox.is_some()) {
            let services = plan.services.iter().filter(|(_, service)| service.databases.contains(name));
            let services = services.map(|(service, of)| (service.clone(), of.publishes.clone()));
            owners.0.entry(name.clone()).or_default().extend(services);
        }
    }
    owners
}

/// A row of an outbox as the event that its service publishes.
pub fn outbox_event(service: &str, topic: &str, row: Message) -> events::Event {
    let Message { id, kind, subject, time, content_type, extensions, traceparent, data } = row;
    let mut attributes = extensions;
    let own = [
        ("specversion", Some("1.0".to_owned())),
        ("id", Some(id)),
        ("source", Some(format!("/services/{service}"))),
        ("type", Some(kind.unwrap_or_else(|| topic.to_owned()))),
        ("subject", subject),
        ("time", time),
        ("traceparent", traceparent),
    ];
    attributes.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    events::Event { attributes, content_type: Some(content_type), data: data.into() }
}

/// Every topic, with its subscriptions.
pub fn topics(
    plan: &Plan,
    streams: &[StreamSeen],
    refused: &BTreeMap<String, String>,
    reading: &events::Reading,
    dead_letters: Option<&BTreeMap<String, u64>>,
) -> dto::Topics {
    let topics = plan.topics.iter().map(|(subject, topic)| {
        let overlaps = |pattern: &String| broker::subject::overlaps(pattern.as_bytes(), subject.as_bytes());
        let services = |says: fn(&plan::Service) -> &Vec<String>| -> Vec<String> {
            let saying = plan.services.iter().filter(|(_, service)| says(service).iter().any(overlaps));
            saying.map(|(name, _)| name.clone()).collect()
        };
        let seen = streams.iter().find(|seen| seen.name() == Some(&topic.stream));
        let counts = reading.topics.get(subject).cloned().unwrap_or_default();
        let publishers = services(|service| &service.publishes);
        let outboxes = plan.databases.iter().filter(|(name, database)| {
            let owned = |service: &String| plan.services.get(service).is_some_and(|of| of.databases.contains(name));
            database.outbox.is_some() && publishers.iter().any(owned)
        });
        dto::Topic {
            topic: subject.clone(),
            stream: topic.stream.clone(),
            description: topic.description.clone(),
            outboxes: outboxes.map(|(name, _)| name.clone()).collect(),
            publishers,
            subscriptions: plan
                .subscriptions
                .iter()
                .filter(|(_, subscription)| subscription.stream == topic.stream)
                .map(|(name, of)| {
                    let there = dead_letters.map(|counts| counts.get(name).copied().unwrap_or_default());
                    let seen = subscription(name, of, reading.subscriptions.get(name));
                    dto::Subscription { dead_letters: there, ..seen }
                })
                .collect(),
            readers: services(|service| &service.subscribes),
            schema: topic
                .schema
                .as_ref()
                .map(|schema| schema.path.strip_prefix(&plan.root).unwrap_or(&schema.path).display().to_string()),
            messages: seen.map(StreamSeen::messages).unwrap_or_default(),
            bytes: seen.map(StreamSeen::bytes).unwrap_or_default(),
            last_sequence: seen.map(StreamSeen::last_sequence).unwrap_or_default(),
            published: counts.published,
            duplicates: counts.duplicates,
            refused: counts.refused,
            failed: counts.failed,
            problem: refused.get(&topic.stream).cloned(),
        }
    });
    dto::Topics { connected: reading.is_connected, topics: topics.collect() }
}

fn subscription(
    name: &str,
    of: &plan::Subscription,
    reading: Option<&events::SubscriptionReading>,
) -> dto::Subscription {
    let events::SubscriptionReading {
        delivered,
        failed,
        retried,
        filtered,
        filter_errors,
        dead_lettered,
        rate,
        lag,
        in_flight,
        keys_parked,
        parked,
        keys_held,
        paused,
        replay,
    } = reading.cloned().unwrap_or_default();
    dto::Subscription {
        name: name.to_owned(),
        topic: of.topic.clone(),
        service: of.service.clone(),
        path: of.path.clone(),
        filter: of.filter.clone(),
        key: of.key.clone(),
        concurrency: u64::from(of.concurrency),
        max_deliver: of.max_deliver,
        lag,
        rate,
        in_flight,
        delivered,
        failed,
        retried,
        filtered,
        filter_errors,
        dead_lettered,
        dead_letters: None,
        parked,
        keys_parked,
        keys_held,
        paused,
        replay: replay.map(|events::Replay { from, to, left }| dto::Replay { from, to, left }),
    }
}

/// A dead letter as it is shown.
pub fn dead_letter(from: events::DeadLetter) -> dto::DeadLetter {
    let events::DeadLetter {
        id,
        subscription,
        service,
        topic,
        sequence,
        key,
        event,
        attempts,
        attempts_count,
        reason,
        at,
        is_holding,
    } = from;
    let attempt = |attempt: events::Attempt| dto::Attempt {
        at: attempt.at,
        took_ms: attempt.took.as_secs_f64() * 1000.0,
        status: attempt.status,
        answer: attempt.answer,
        request_id: attempt.request_id,
    };
    dto::DeadLetter {
        id,
        subscription,
        service,
        topic,
        sequence,
        key,
        event: cloud_event(event),
        attempts: attempts.into_iter().map(attempt).collect(),
        attempts_count,
        reason,
        at,
        holding: is_holding,
    }
}

/// An event with its data as JSON where that can be, else as text, else in base64.
pub fn cloud_event(event: events::Event) -> dto::CloudEvent {
    let events::Event { attributes, content_type, data } = event;
    let is_json = content_type.as_deref().is_none_or(|of| of.contains("json"));
    let json = || serde_json::from_slice::<Value>(&data).ok().filter(|_| is_json);
    let text = || std::str::from_utf8(&data).ok().map(|text| Value::String(text.to_owned()));
    let (value, base64) = match data.is_empty() {
        true => (None, None),
        false => match json().or_else(text) {
            Some(value) => (Some(value), None),
            None => (None, Some(STANDARD.encode(&data))),
        },
    };
    dto::CloudEvent { attributes, content_type, data: value, data_base64: base64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::tests::compiled;

    #[test]
    fn data_is_shown_as_what_it_is() {
        let shown = |content_type: Option<&str>, data: &'static [u8]| {
            let content_type = content_type.map(str::to_owned);
            let event = cloud_event(events::Event { content_type, data: data.into(), ..events::Event::default() });
            (event.data, event.data_base64)
        };
        assert_eq!(shown(Some("application/json"), b"{\"a\":1}"), (Some(serde_json::json!({ "a": 1 })), None));
        assert_eq!(shown(Some("text/plain"), b"1"), (Some(Value::String("1".into())), None));
        assert_eq!(shown(None, b"{"), (Some(Value::String("{".into())), None));
        assert_eq!(shown(None, b"\xff\xfe"), (None, Some("//4=".into())));
        assert_eq!(shown(None, b""), (None, None));
    }

    #[test]
    fn a_row_is_published_by_a_service_that_has_its_database_and_its_topic() {
        let plan = compiled(
            "name = \"x\"\n[databases.d]\nengine = \"sqlite\"\noutbox = \"outbox\"\n\
             [services.a]\ncommand = \"a\"\ndatabases = [\"d\"]\npublishes = [\"a.one\"]\n\
             [services.b]\ncommand = \"b\"\npublishes = [\"b.one\"]\n",
        );
        let owners = outbox_owners(std::iter::once(&plan));
        assert_eq!(owners.publisher("d", "a.one").as_deref(), Some("a"));
        assert_eq!((owners.publisher("d", "b.one"), owners.publisher("e", "a.one")), (None, None));
    }
}
