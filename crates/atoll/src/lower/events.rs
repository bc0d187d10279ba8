//! Plan → what the engine of events and the relay of outboxes are told.

use std::net::{Ipv4Addr, SocketAddr};

use database::outbox;
use events::{Batch, Config, Limits, OnDeadLetter, Publisher, Schema, Server, Start, Subscription, Topic};
use manifest::Plan;
use manifest::plan::{self, Storage};

use crate::lower::traffic::edge_address;

/// Room for the headers that an event has besides its attributes in a message of the broker.
const HEADERS_BYTES: u64 = 16 << 10;

/// What the engine of events is told, with where the broker is reached with every right, if there is one.
pub fn events(plan: &Plan, url: Option<String>) -> Config {
    let publishing = plan.services.iter().filter(|(_, service)| !service.publishes.is_empty());
    Config {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        server: url.map(|url| Server { url }),
        application: plan.name.clone(),
        topics: plan.topics.iter().map(|(subject, of)| topic(subject, of)).collect(),
        publishers: publishing
            .map(|(name, service)| Publisher { service: name.clone(), publishes: service.publishes.clone() })
            .collect(),
        subscriptions: plan.subscriptions.iter().filter_map(|(name, of)| subscription(plan, name, of)).collect(),
        limits: limits(plan),
    }
}

/// The same while instances of earlier plans still run, newest first: who is unsettled may publish what any of them says, and
/// is delivered to as its own plan says. An instance that does not know a path yet would refuse what comes there for good.
pub fn events_amid(
    present: &Plan,
    retiring: &[&Plan],
    is_unsettled: impl Fn(&str) -> bool,
    url: Option<String>,
) -> Config {
    let mut config = events(present, url);
    for (name, service) in retiring.iter().flat_map(|plan| &plan.services).filter(|(name, _)| is_unsettled(name)) {
        if service.publishes.is_empty() {
            continue;
        }
        match config.publishers.iter_mut().find(|publisher| publisher.service == *name) {
            Some(publisher) => {
                let new = service.publishes.iter().filter(|subject| !publisher.publishes.contains(subject));
                let new: Vec<String> = new.cloned().collect();
                publisher.publishes.extend(new);
            }
            None => {
                let publishes = service.publishes.clone();
                config.publishers.push(Publisher { service: name.clone(), publishes });
            }
        }
    }
    config.subscriptions.retain(|subscription| !is_unsettled(&subscription.service));
    let unsettled = retiring.iter().flat_map(|plan| plan.services.keys().map(move |service| (*plan, service)));
    let mut known: Vec<&str> = Vec::new();
    for (plan, service) in unsettled.filter(|(_, service)| is_unsettled(service)) {
        if known.contains(&service.as_str()) {
            continue;
        }
        known.push(service);
        let of_service = plan.subscriptions.iter().filter(|(_, of)| of.service == *service);
        for former in of_service.filter_map(|(name, of)| subscription(plan, name, of)) {
            if !config.subscriptions.iter().any(|subscription| subscription.name == former.name) {
                config.subscriptions.push(former);
            }
        }
    }
    config
}

fn topic(subject: &str, of: &plan::Topic) -> Topic {
    let schema =
        of.schema.as_ref().map(|plan::Schema { path, text }| Schema { path: path.clone(), text: text.clone() });
    Topic { subject: subject.to_owned(), stream: of.stream.clone(), schema }
}

/// None of a service that is not there, or has no edge: the compiler sees to both. A key that is new in the manifest does not
/// compile before it is here.
fn subscription(plan: &Plan, name: &str, of: &plan::Subscription) -> Option<Subscription> {
    let plan::Subscription {
        topic,
        stream,
        service,
        path,
        filter,
        key,
        concurrency,
        max_deliver,
        backoff,
        ack_wait,
        dead_letter_topic,
        on_dead_letter,
        batch,
        from,
    } = of.clone();
    let edge = edge_address(plan.services.get(&service)?.events.deliver.as_ref()?);
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    Some(Subscription {
        name: name.to_owned(),
        topic,
        stream,
        service,
        edge,
        path,
        filter,
        key,
        concurrency: count(concurrency),
        max_deliver,
        backoff,
        ack_wait,
        dead_letter_topic,
        on_dead_letter: match on_dead_letter {
            plan::OnDeadLetter::Continue => OnDeadLetter::Continue,
            plan::OnDeadLetter::HoldKey => OnDeadLetter::HoldKey,
        },
        batch: batch.map(|plan::Batch { size, wait }| Batch { size: count(size), wait }),
        start: match from {
            plan::Start::First => Start::First,
            plan::Start::New => Start::New,
        },
    })
}

/// Those of the engine, as far as the broker allows them: what it keeps there must fit beside the topics.
fn limits(plan: &Plan) -> Limits {
    let standard = Limits::standard();
    let embedded = plan.broker.as_ref().map(|broker| broker.max_payload);
    let payload_max = embedded.or(plan.nats.as_ref().map(|nats| nats.max_payload));
    let event_bytes_max = payload_max.map_or(standard.event_bytes_max, |max| {
        usize::try_from(max - HEADERS_BYTES.min(max / 4)).unwrap_or(usize::MAX)
    });
    // The compiler leaves room for these; a quarter for each, as progress and what it does not know of take some, too.
    let quarter = plan.broker.as_ref().map_or(u64::MAX, |broker| {
        let topics = plan.topics.values().filter(|topic| topic.storage == Storage::File);
        let taken = topics.map(|topic| topic.retention.size).fold(0, u64::saturating_add);
        broker.store.file.saturating_sub(taken) / 4
    });
    Limits {
        event_bytes_max,
        buffer_bytes_max: standard.buffer_bytes_max.max(event_bytes_max.saturating_mul(2)),
        parked_bytes_max: standard.parked_bytes_max.min(quarter),
        dead_letters_bytes_max: standard.dead_letters_bytes_max.min(quarter),
        ..standard
    }
}

/// What the relay of outboxes is told.
pub fn outboxes(plan: &Plan) -> outbox::Config {
    let outboxes = plan.databases.iter().filter_map(|(name, database)| {
        let table = database.outbox.clone()?;
        Some(outbox::Outbox { database: name.clone(), path: database.path.clone(), table })
    });
    let standard = outbox::Limits::standard();
    let data_bytes_max = limits(plan).event_bytes_max;
    outbox::Config {
        outboxes: outboxes.collect(),
        limits: outbox::Limits {
            data_bytes_max,
            window_bytes_max: standard.window_bytes_max.max(data_bytes_max),
            ..standard
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::tests::{compiled, plan};

    #[test]
    fn what_a_plan_says_of_events_is_what_the_engines_take() {
        let url = Some("nats://atoll:secret@127.0.0.1:4222".to_owned());
        let (config, relay) = (events(&plan(), url), outboxes(&plan()));
        expect_test::expect_file!["golden/events.txt"].assert_debug_eq(&config);
        expect_test::expect_file!["golden/outboxes.txt"].assert_debug_eq(&relay);
        events::check(&config).expect("the engine takes it");
    }

    #[test]
    fn while_an_older_plan_runs_its_services_publish_and_are_delivered_to_as_it_says() {
        let manifest = |topic: &str, path: &str, name: &str| {
            compiled(&format!(
                "name = \"x\"\n[services.a]\ncommand = \"a\"\npublishes = [\"{topic}\"]\n[services.b]\ncommand = \"b\"\n\
                 [[subscriptions]]\nname = \"{name}\"\ntopic = \"{topic}\"\nservice = \"b\"\npath = \"{path}\"\n"
            ))
        };
        let (old, new) = (manifest("one", "/old", "s"), manifest("two", "/new", "t"));
        let seen = |is_unsettled: bool| {
            let config = events_amid(&new, &[&old], |_| is_unsettled, None);
            let paths: Vec<String> = config.subscriptions.iter().map(|of| of.path.clone()).collect();
            (config.publishers[0].publishes.clone(), paths)
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(seen(true), (words(&["two", "one"]), words(&["/old"])));
        assert_eq!(seen(false), (words(&["two"]), words(&["/new"])));
    }

    #[test]
    fn what_the_engine_keeps_fits_into_a_small_store() {
        let small = |broker: &str| {
            let text = format!(
                "name = \"small\"\n[broker]\n{broker}\n[topics.a]\nretention.size = \"1MiB\"\n[services.a]\ncommand = \"a\"\n\
                 publishes = [\"a\"]\n[[subscriptions]]\ntopic = \"a\"\nservice = \"a\"\npath = \"/\"\n"
            );
            events(&compiled(&text), None).limits
        };
        let limits = small("store.file = \"65MiB\"\nmax_payload = \"2KiB\"");
        assert_eq!((limits.parked_bytes_max, limits.dead_letters_bytes_max), (16 << 20, 16 << 20));
        assert_eq!(limits.event_bytes_max, 1536);
        let limits = small("url = \"nats://127.0.0.1\"\nmax_payload = \"64MiB\"");
        assert_eq!(limits.parked_bytes_max, Limits::standard().parked_bytes_max);
        assert_eq!(
            (limits.event_bytes_max, limits.buffer_bytes_max),
            ((64 << 20) - (16 << 10), (128 << 20) - (32 << 10))
        );
    }
}
