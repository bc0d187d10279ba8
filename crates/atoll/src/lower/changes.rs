//! What differs between two plans, in the words of the manifest. Says nothing of secrets: of a changed value only its name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use manifest::Plan;
use manifest::plan::{Broker, Database, Edge, Nats, Policy, Route, Service, Subscription, Topic};

use crate::api::dto::{Change, Verb};

/// Every difference that a change from one plan to the other makes, by what it is of and its name.
pub fn changes(before: &Plan, after: &Plan) -> Vec<Change> {
    let mut all = Vec::new();
    let moved = |from: SocketAddr, to| (from != to).then(|| format!("listen {from} → {to}"));
    let keys = [
        ("access_log", before.gateway.access_log != after.gateway.access_log),
        ("reason_header", before.gateway.reason_header != after.gateway.reason_header),
        ("limits", before.gateway.limits != after.gateway.limits),
    ];
    let gateway = moved(before.gateway.listen, after.gateway.listen).into_iter().chain(differing(&keys)).collect();
    let dashboard = moved(before.dashboard.listen, after.dashboard.listen).into_iter().collect();
    for (name, details) in [("gateway", gateway), ("dashboard", dashboard)] {
        let details: Vec<String> = details;
        if !details.is_empty() {
            all.push(Change { of: name.to_owned(), name: name.to_owned(), verb: Verb::Changed, details });
        }
    }
    let alone = |broker: &Option<Broker>| broker.iter().map(|broker| ("broker".to_owned(), broker.clone())).collect();
    let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (alone(&before.broker), alone(&after.broker));
    all.extend(compare("broker", &old, &new, broker));
    let alone = |nats: &Option<Nats>| nats.iter().map(|nats| ("nats".to_owned(), nats.clone())).collect();
    let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (alone(&before.nats), alone(&after.nats));
    all.extend(compare("broker", &old, &new, nats));
    let address = |plan: &Plan| plan.nats.as_ref().map(|nats| nats.address.clone());
    let is_another = address(before) != address(after) && (before.broker.is_some() || before.nats.is_some());
    let is_there = after.broker.is_some() || after.nats.is_some();
    if let Some(change) = all.iter_mut().rfind(|change| change.of == "broker").filter(|_| is_another && is_there) {
        change.details.push("streams, and what is not delivered of them yet, stay where they were".to_owned());
    }
    all.extend(compare("service", &before.services, &after.services, service));
    all.extend(compare("route", &by_name(&before.routes), &by_name(&after.routes), route));
    all.extend(compare("database", &before.databases, &after.databases, database));
    all.extend(compare("topic", &before.topics, &after.topics, topic));
    all.extend(compare("subscription", &before.subscriptions, &after.subscriptions, subscription));
    let names = |plan: &Plan| plan.routes.iter().map(|route| route.name.clone()).collect::<Vec<_>>();
    let (old, new) = (names(before), names(after));
    if old != new && old.iter().collect::<BTreeSet<_>>() == new.iter().collect::<BTreeSet<_>>() {
        let details = vec!["their order".to_owned()];
        all.push(Change { of: "route".into(), name: "*".into(), verb: Verb::Changed, details });
    }
    all
}

fn by_name(routes: &[Route]) -> BTreeMap<String, &Route> {
    routes.iter().map(|route| (route.name.clone(), route)).collect()
}

fn compare<'p, T>(
    of: &'p str,
    before: &'p BTreeMap<String, T>,
    after: &'p BTreeMap<String, T>,
    details: impl Fn(&T, &T) -> Vec<String> + 'p,
) -> impl Iterator<Item = Change> + 'p {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter_map(move |name| {
        let (verb, details) = match (before.get(name), after.get(name)) {
            (None, _) => (Verb::Added, Vec::new()),
            (_, None) => (Verb::Removed, Vec::new()),
            (Some(before), Some(after)) => (Verb::Changed, details(before, after)),
        };
        let is_change = verb != Verb::Changed || !details.is_empty();
        is_change.then(|| Change { of: of.to_owned(), name: name.clone(), verb, details })
    })
}

/// The keys of the manifest that differ, by a list of name and whether it does.
fn differing(keys: &[(&str, bool)]) -> Vec<String> {
    keys.iter().filter(|(_, differs)| *differs).map(|(key, _)| (*key).to_owned()).collect()
}

fn service(before: &Service, after: &Service) -> Vec<String> {
    let mut details = differing(&[
        ("build", before.build != after.build),
        ("command", before.command != after.command),
        ("working_dir", before.working_dir != after.working_dir),
        ("depends_on", before.depends_on != after.depends_on),
        ("probes", before.probes != after.probes),
        ("restart", before.restart != after.restart),
        ("stop_signal", before.stop_signal != after.stop_signal),
        ("stop_grace_period", before.stop_grace_period != after.stop_grace_period),
        ("databases", before.databases != after.databases),
        ("publishes", before.publishes != after.publishes),
        ("subscribes", before.subscribes != after.subscribes),
        ("update", before.update != after.update),
        ("watch", before.watch != after.watch),
        ("resources", before.limits != after.limits),
        ("description", before.description != after.description || before.owner != after.owner),
    ]);
    let (from, to) = (before.instances.len(), after.instances.len());
    if from != to {
        details.push(format!("replicas {from} → {to}"));
    } else if before.instances != after.instances {
        details.push("ports".to_owned());
    }
    let variables: BTreeSet<&String> = before.environment.keys().chain(after.environment.keys()).collect();
    let changed = variables.into_iter().filter(|name| before.environment.get(*name) != after.environment.get(*name));
    details.extend(changed.map(|name| format!("environment.{name}")));
    // What an edge of events agrees on follows from subscriptions, and its address is a variable of the service.
    details.extend(compare("edge", &before.edges, &after.edges, edge).map(|change| match change.verb {
        Verb::Added => format!("upstreams + {}", change.name),
        Verb::Removed => format!("upstreams - {}", change.name),
        Verb::Changed => format!("edges.{} ({})", change.name, change.details.join(", ")),
    }));
    details
}

fn edge(before: &Edge, after: &Edge) -> Vec<String> {
    let mut details = differing(&[("port", before.port != after.port)]);
    details.extend(policy(&before.policy, &after.policy));
    details
}

fn route(before: &&Route, after: &&Route) -> Vec<String> {
    let mut details = differing(&[
        ("hostnames", before.hostnames != after.hostnames),
        ("matches", before.matches != after.matches),
        ("filters", before.filters != after.filters),
        ("backends", before.backends != after.backends),
    ]);
    details.extend(policy(&before.policy, &after.policy));
    details
}

/// A part that is new does not compile before it is here.
fn policy(before: &Policy, after: &Policy) -> Vec<String> {
    let Policy {
        timeout,
        total_timeout,
        connect_timeout,
        idle_timeout,
        retry,
        load_balancing,
        outlier_ejection,
        circuit_breaker,
        concurrency_limit,
        rate_limit,
        fallback,
    } = before;
    differing(&[
        ("timeout", *timeout != after.timeout),
        ("total_timeout", *total_timeout != after.total_timeout),
        ("connect_timeout", *connect_timeout != after.connect_timeout),
        ("idle_timeout", *idle_timeout != after.idle_timeout),
        ("retry", *retry != after.retry),
        ("load_balancing", *load_balancing != after.load_balancing),
        ("outlier_ejection", *outlier_ejection != after.outlier_ejection),
        ("circuit_breaker", *circuit_breaker != after.circuit_breaker),
        ("concurrency_limit", *concurrency_limit != after.concurrency_limit),
        ("rate_limit", *rate_limit != after.rate_limit),
        ("fallback", *fallback != after.fallback),
    ])
}

fn broker(before: &Broker, after: &Broker) -> Vec<String> {
    let mut details = differing(&[
        ("monitor", before.monitor != after.monitor),
        ("sync", before.sync != after.sync),
        ("max_payload", before.max_payload != after.max_payload),
        ("store", before.store != after.store),
        ("limits", before.limits != after.limits),
    ]);
    if before.listen != after.listen {
        details.push(format!("listen {} → {}", before.listen, after.listen));
    }
    details
}

fn nats(before: &Nats, after: &Nats) -> Vec<String> {
    differing(&[("url", before.url != after.url), ("max_payload", before.max_payload != after.max_payload)])
}

/// A key that is new does not compile before it is here.
fn subscription(before: &Subscription, after: &Subscription) -> Vec<String> {
    let Subscription {
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
    } = before;
    differing(&[
        ("topic", *topic != after.topic || *stream != after.stream),
        ("service", *service != after.service),
        ("path", *path != after.path),
        ("filter", *filter != after.filter),
        ("key", *key != after.key),
        ("concurrency", *concurrency != after.concurrency),
        ("max_deliver", *max_deliver != after.max_deliver),
        ("backoff", *backoff != after.backoff),
        ("ack_wait", *ack_wait != after.ack_wait),
        ("dead_letter_topic", *dead_letter_topic != after.dead_letter_topic),
        ("on_dead_letter", *on_dead_letter != after.on_dead_letter),
        ("batch", *batch != after.batch),
        ("from", *from != after.from),
    ])
}

fn topic(before: &Topic, after: &Topic) -> Vec<String> {
    differing(&[
        ("description", before.description != after.description),
        ("retention", before.retention != after.retention),
        ("discard", before.discard != after.discard),
        ("storage", before.storage != after.storage),
        ("duplicate_window", before.duplicate_window != after.duplicate_window),
        ("schema", before.schema != after.schema),
    ])
}

fn database(before: &Database, after: &Database) -> Vec<String> {
    differing(&[
        ("engine", before.engine != after.engine),
        ("path", before.path != after.path),
        ("migrations", before.migrations != after.migrations),
        ("outbox", before.outbox != after.outbox),
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use manifest::plan::Fallback;

    use super::*;

    #[test]
    fn a_changed_policy_is_told_by_its_keys() {
        let before = crate::lower::tests::plan();
        let mut after = before.clone();
        after.routes[0].policy.rate_limit = None;
        after.routes[0].policy.total_timeout = None;
        let edge = after.services.get_mut("web").and_then(|web| web.edges.get_mut("orders")).unwrap();
        edge.policy.retry.backoff = Duration::from_millis(51);
        edge.policy.fallback = Some(Fallback::Service { service: "spare".to_owned() });
        after.gateway.reason_header = true;
        let told: Vec<(String, Vec<String>)> =
            changes(&before, &after).into_iter().map(|change| (change.name, change.details)).collect();
        let expected = [
            ("gateway", vec!["reason_header"]),
            ("web", vec!["edges.orders (retry, fallback)"]),
            ("orders", vec!["total_timeout", "rate_limit"]),
        ];
        assert_eq!(told, expected.map(|(name, keys)| (name.to_owned(), keys.into_iter().map(str::to_owned).collect())));
        assert!(changes(&before, &before).is_empty());
    }

    #[test]
    fn a_changed_broker_and_its_topics_are_told_by_their_keys() {
        let before = crate::lower::tests::plan();
        let mut after = before.clone();
        after.broker.as_mut().unwrap().sync = manifest::plan::Sync::Always;
        after.topics.get_mut("stock.>").unwrap().retention.messages = None;
        after.topics.remove("orders.placed");
        after.services.get_mut("orders").unwrap().publishes.pop();
        let told: Vec<String> = changes(&before, &after).iter().map(ToString::to_string).collect();
        let expected = [
            "~ broker broker: sync",
            "~ service orders: publishes",
            "- topic orders.placed",
            "~ topic stock.>: retention",
        ];
        assert_eq!(told, expected);
        after.broker = None;
        assert_eq!(changes(&before, &after)[0].to_string(), "- broker broker");
    }
}
