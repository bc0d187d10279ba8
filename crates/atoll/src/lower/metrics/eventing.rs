//! Families of what was published and delivered as events, and of the outboxes.

use database::outbox;
use events::{Reading, SubscriptionReading, TopicReading};

use super::text::{Family, Kind, Labels, Value};

pub(super) fn families(reading: &Reading, outboxes: &outbox::Reading) -> Vec<Family> {
    let mut all = published(reading);
    all.extend(delivered(reading));
    let outbox = |value: fn(&outbox::OutboxReading) -> u64| {
        outboxes.iter().map(move |((database, table), reading)| {
            let labels: Labels = vec![("database", database.clone()), ("table", table.clone())];
            (labels, Value::Count(value(reading)))
        })
    };
    all.extend([
        Family::new(Kind::Counter, "atoll_outbox_relayed", "", "Rows of an outbox that were published.")
            .with(outbox(|reading| reading.relayed)),
        Family::new(Kind::Counter, "atoll_outbox_refused", "", "Rows of an outbox that were put aside.")
            .with(outbox(|reading| reading.refused)),
        Family::new(Kind::Gauge, "atoll_outbox_backlog", "", "Rows of an outbox that wait.")
            .with(outbox(|reading| reading.backlog)),
    ]);
    all
}

fn published(reading: &Reading) -> Vec<Family> {
    let samples = reading.topics.iter().flat_map(|(topic, counts)| {
        let TopicReading { published, duplicates, refused, failed } = *counts;
        let outcomes = [("published", published), ("duplicate", duplicates), ("refused", refused), ("failed", failed)];
        outcomes.map(|(outcome, count)| {
            let labels: Labels = vec![("topic", topic.clone()), ("outcome", outcome.to_owned())];
            (labels, Value::Count(count))
        })
    });
    let help =
        "Events that were published, were there already, were refused for what they are, or could not be kept in time.";
    vec![Family::new(Kind::Counter, "atoll_events_published", "", help).with(samples)]
}

fn delivered(reading: &Reading) -> Vec<Family> {
    let of = |value: fn(&SubscriptionReading) -> u64| {
        reading.subscriptions.iter().map(move |(name, reading)| {
            let labels: Labels = vec![("subscription", name.clone())];
            (labels, Value::Count(value(reading)))
        })
    };
    let counter = |name, help, value| Family::new(Kind::Counter, name, "", help).with(of(value));
    let gauge = |name, help, value| Family::new(Kind::Gauge, name, "", help).with(of(value));
    vec![
        counter("atoll_subscription_delivered", "Events that a service took.", |of| of.delivered),
        counter("atoll_subscription_failed", "Attempts that failed.", |of| of.failed),
        counter("atoll_subscription_retried", "Attempts beyond the first.", |of| of.retried),
        counter("atoll_subscription_filtered", "Events that the filter passed over.", |of| of.filtered),
        counter("atoll_subscription_filter_errors", "Events among them that the filter could not judge.", |of| {
            of.filter_errors
        }),
        counter("atoll_subscription_dead_letters", "Events that were given up.", |of| of.dead_lettered),
        gauge("atoll_subscription_lag", "Events that are not delivered yet.", |of| of.lag),
        gauge("atoll_subscription_in_flight", "Deliveries without an answer yet.", |of| of.in_flight),
        gauge("atoll_subscription_parked", "Events aside, behind failed ones of their keys.", |of| of.parked),
        gauge("atoll_subscription_keys_held", "Keys that wait for dead letters.", |of| of.keys_held),
        gauge("atoll_subscription_paused", "1 where nothing is delivered at the moment.", |of| {
            u64::from(of.paused.is_some())
        }),
    ]
}
