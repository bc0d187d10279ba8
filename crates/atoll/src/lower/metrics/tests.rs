//! Both formats, read back by a parser that is stricter than Prometheus' own.

use crate::lower::ConsumerSeen;
use ::broker::Counts;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proxy::{BreakerReading, BreakerState, BudgetReading, Ejected, GateReading, GuardReading};

use super::*;

/// By family: its kind and its samples, each as name, labels and value.
type Parsed = BTreeMap<String, (String, Vec<(String, BTreeMap<String, String>, f64)>)>;

/// Reads what `promtool check metrics` and the OpenMetrics validator would take, and panics at anything else.
fn parse(text: &str, format: Format) -> Parsed {
    let is_open = format == Format::OpenMetrics;
    assert!(text.ends_with('\n') && text.ends_with("# EOF\n") == is_open);
    let mut families = Parsed::new();
    let (mut family, mut seen) = (String::new(), BTreeSet::new());
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(described) = line.strip_prefix("# ") {
            let (word, rest) = described.split_once(' ').expect("a word");
            let (name, rest) = rest.split_once(' ').expect("a name");
            match word {
                "HELP" => {
                    assert!(!rest.is_empty() && !families.contains_key(name), "{line}");
                    family = name.to_owned();
                }
                "TYPE" => {
                    assert_eq!(name, family);
                    assert!(["counter", "gauge", "histogram", "summary"].contains(&rest), "{line}");
                    assert_eq!(name.ends_with("_total"), rest == "counter" && !is_open, "{line}");
                    families.insert(name.to_owned(), (rest.to_owned(), Vec::new()));
                }
                "UNIT" => assert!(is_open && name == family && name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, labels, value) = sample(line);
        let (kind, samples) = families.get_mut(&family).expect("described before");
        let suffix = name.strip_prefix(&family).expect("of its family");
        let allowed: &[&str] = match (kind.as_str(), is_open) {
            ("counter", true) => &["_total"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            ("summary", _) => &["_sum", "_count"],
            _ => &[""],
        };
        assert!(allowed.contains(&suffix), "{line}");
        assert!(seen.insert((name.clone(), labels.clone())), "twice: {line}");
        samples.push((name, labels, value));
    }
    families.values().filter(|(kind, _)| kind == "histogram").for_each(|(_, samples)| check_histogram(samples));
    families
}

fn counts() -> Counts {
    Counts { connections: 2, connections_total: 3, in_messages: 5, in_bytes: 70, out_messages: 11, ..Counts::default() }
}

fn reading() -> BrokerReading {
    let stream = serde_json::json!({
        "config": { "name": "ORDERS", "max_bytes": 1024 },
        "state": { "messages": 4, "bytes": 200 },
    });
    let consumer = ConsumerSeen { name: "w".to_owned(), num_pending: 3, num_ack_pending: 1, num_redelivered: 1 };
    BrokerReading {
        counts: counts(),
        streams: vec![serde_json::from_value(stream).expect("a stream")],
        consumers: vec![("ORDERS".to_owned(), consumer)],
        refused: 1,
    }
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = line.find(|c| !is_name(c)).expect("a value");
    let (name, mut rest) = line.split_at(end);
    assert!(!name.starts_with(|c: char| c.is_ascii_digit()));
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect("a label");
            assert!(!label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
            let (mut value, mut characters) = (String::new(), after.char_indices());
            let end = loop {
                match characters.next().expect("the end of a value") {
                    (_, '\\') => value.push(match characters.next().expect("an escape").1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("escape {c}: {line}"),
                    }),
                    (at, '"') => break at,
                    (_, c) => value.push(c),
                }
            };
            assert!(!value.is_empty() && labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = &after[end + 1..];
            match rest.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => {
                    rest = more;
                    break;
                }
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("a space");
    assert!(!value.contains(' '), "{line}");
    (name.to_owned(), labels, value.parse().expect("a number"))
}

/// Buckets grow with their bounds, end at +Inf, and agree with the count.
fn check_histogram(samples: &[(String, BTreeMap<String, String>, f64)]) {
    let mut last: Option<(BTreeMap<String, String>, f64, f64)> = None;
    for (name, labels, value) in samples {
        let mut rest = labels.clone();
        if let Some(bound) = rest.remove("le") {
            let bound: f64 = bound.parse().unwrap();
            if let Some((_, before, count)) = last.as_ref().filter(|(same, ..)| *same == rest) {
                assert!(*before < bound && count <= value, "{labels:?}");
            }
            last = Some((rest, bound, *value));
        } else if name.ends_with("_count") {
            let (same, bound, count) = last.take().expect("buckets before");
            assert!(same == rest && bound.is_infinite() && (count - value).abs() < f64::EPSILON, "{labels:?}");
        }
    }
    assert!(last.is_none());
}

fn readings() -> Readings {
    let outcome = |method: &str, status, reason: Option<&str>| Outcome {
        method: method.into(),
        status,
        reason: reason.map(str::to_owned),
        is_overflow: false,
    };
    let series = |first, last| {
        let mut series = Series { nanos: 1_500_000_000, ..Series::default() };
        (series.buckets[0], series.buckets[14]) = (first, last);
        series
    };
    let reading = Reading {
        begun: 9,
        bytes_in: 10,
        retries: 2,
        series: [
            (outcome("GET", 200, None), series(3, 1)),
            (outcome("GET", 500, None), series(1, 0)),
            (outcome("POST", 503, Some("no_endpoint")), series(1, 0)),
            (outcome("GET", 499, Some("client_closed")), series(1, 0)),
            (Outcome { is_overflow: true, ..outcome("_OTHER", 0, None) }, series(1, 0)),
        ]
        .into(),
        ..Reading::default()
    };
    let route = Subject::Route { listener: "gateway".into(), route: "a\"b\\c\nd".into() };
    let edge = Subject::Edge { caller: "storefront".into(), upstream: "cart".into() };
    let meters = [
        (route, reading.clone()),
        (edge, reading.clone()),
        (Subject::NoRoute, reading.clone()),
        (Subject::NoEdge, reading),
    ];
    let refused = [("no_route".to_owned(), 3)].into();
    let breaker =
        BreakerReading { state: BreakerState::HalfOpen, failures: 3, slow: 0, calls: 4, open_left: Duration::ZERO };
    let ejected = Ejected { service: "cart".into(), instance: 1, left: Duration::from_secs(3) };
    let guard = GuardReading {
        breaker: Some(breaker),
        gate: Some(GateReading { running: 8, waiting: 2, max: 8 }),
        budget: BudgetReading { requests: 50, retries: 4, retries_max: 20 },
        ready: 3,
        ejected: vec![ejected],
    };
    let guards = [(meters[1].0.clone(), guard), (meters[0].0.clone(), GuardReading::default())].into();
    Readings {
        guards,
        meters: meters.into(),
        refused,
        limits: [("idle_timeout".to_owned(), 4)].into(),
        ..Readings::default()
    }
}

fn usages() -> Vec<Usage> {
    let usage = Usage {
        process: "daemon",
        cpu_seconds: 1.25,
        memory_bytes: 1 << 20,
        open_files: Some(7),
        open_files_max: None,
        started_at_seconds: Some(1.7e9),
    };
    vec![usage]
}

fn eventing() -> (events::Reading, database::outbox::Reading) {
    let topic = events::TopicReading { published: 5, duplicates: 1, refused: 2, failed: 0 };
    let subscription = events::SubscriptionReading {
        delivered: 4,
        lag: 3,
        paused: Some("no instance is ready".to_owned()),
        ..events::SubscriptionReading::default()
    };
    let reading = events::Reading {
        is_connected: true,
        topics: [("orders.placed".to_owned(), topic)].into(),
        subscriptions: [("placed".to_owned(), subscription)].into(),
    };
    let outbox =
        database::outbox::OutboxReading { relayed: 6, backlog: 7, ..database::outbox::OutboxReading::default() };
    (reading, [(("shop".to_owned(), "outbox".to_owned()), outbox)].into())
}

#[test]
fn what_is_written_is_well_formed_and_says_the_same_in_both_formats() {
    let families = families("1.2.3", &readings(), &Snapshot::default(), &usages(), Some(&reading()), &eventing());
    let prometheus = parse(&write(&families, Format::Prometheus), Format::Prometheus);
    let open = parse(&write(&families, Format::OpenMetrics), Format::OpenMetrics);
    let samples = |parsed: Parsed| -> Vec<_> { parsed.into_values().flat_map(|(_, samples)| samples).collect() };
    let bounds = |mut samples: Vec<(String, BTreeMap<String, String>, f64)>| {
        for (_, labels, _) in &mut samples {
            if let Some(bound) = labels.get_mut("le") {
                *bound = bound.parse::<f64>().unwrap().to_string();
            }
        }
        samples.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
        samples
    };
    let (one, other) = (bounds(samples(prometheus.clone())), bounds(samples(open)));
    assert_eq!(one, other);
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let fits = |labels: &BTreeMap<String, String>| {
            labels.len() == wanted.len()
                && wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|v| v == value))
        };
        let found: Vec<f64> = one.iter().filter(|(n, labels, _)| n == name && fits(labels)).map(|(.., v)| *v).collect();
        assert_eq!(found.len(), 1, "{name} {wanted:?}");
        found[0]
    };
    let subscription = [("subscription", "placed")];
    assert_eq!(value("atoll_subscription_lag", &subscription), 3.0);
    assert_eq!(value("atoll_subscription_paused", &subscription), 1.0);
    assert_eq!(value("atoll_subscription_delivered_total", &subscription), 4.0);
    assert_eq!(value("atoll_events_published_total", &[("topic", "orders.placed"), ("outcome", "refused")]), 2.0);
    assert_eq!(value("atoll_outbox_backlog", &[("database", "shop"), ("table", "outbox")]), 7.0);
    let (route, ok) = (("http_route", "a\"b\\c\nd"), ("http_response_status_code", "200"));
    let get = ("http_request_method", "GET");
    assert_eq!(value("http_server_request_duration_seconds_count", &[route, get, ok]), 4.0);
    assert_eq!(value("http_server_request_duration_seconds_sum", &[route, get, ok]), 1.5);
    assert_eq!(value("http_server_request_duration_seconds_bucket", &[route, get, ok, ("le", "10")]), 3.0);
    let edge = [("service_name", "storefront"), ("peer_service", "cart")];
    let failed = [edge[0], edge[1], get, ("http_response_status_code", "500"), ("error_type", "500")];
    assert_eq!(value("http_client_request_duration_seconds_count", &failed), 1.0);
    let left = [route, get, ("error_type", "client_closed")];
    assert_eq!(value("http_server_request_duration_seconds_count", &left), 1.0);
    assert_eq!(value("http_server_request_duration_seconds_count", &[route, ("otel_metric_overflow", "true")]), 1.0);
    // Those of gateway and edges that no route took are one series.
    assert_eq!(value("http_server_request_duration_seconds_count", &[get, ok]), 8.0);
    assert_eq!(value("http_client_active_requests", &edge), 1.0);
    assert_eq!(value("http_server_request_body_size_bytes_sum", &[route]), 10.0);
    assert_eq!(value("atoll_retries_total", &edge), 2.0);
    let state = |state| value("atoll_proxy_circuit_breaker_state", &[edge[0], edge[1], ("state", state)]);
    let states = ["closed", "open", "half_open", "forced_open", "forced_closed"];
    assert_eq!(states.map(state), [0.0, 0.0, 1.0, 0.0, 0.0]);
    let stands =
        ["ejected_instances", "ready_instances", "concurrency_running", "concurrency_waiting", "concurrency_limit"];
    assert_eq!(stands.map(|name| value(&format!("atoll_proxy_{name}"), &edge)), [1.0, 3.0, 8.0, 2.0, 8.0]);
    let budget = ["requests", "retries", "limit"].map(|name| format!("atoll_proxy_retry_budget_{name}"));
    assert_eq!(budget.map(|name| value(&name, &edge)), [50.0, 4.0, 20.0]);
    assert_eq!(value("atoll_proxy_ejected_instances", &[route]), 0.0);
    assert_eq!(prometheus["atoll_proxy_concurrency_limit"].1.len(), 1, "only what has a limit");
    assert_eq!(value("atoll_requests_refused_total", &[("reason", "no_route")]), 3.0);
    assert_eq!(value("atoll_limit_reached_total", &[("limit", "idle_timeout")]), 4.0);
    assert_eq!(value("process_cpu_seconds_total", &[("process", "daemon")]), 1.25);
    assert!(!prometheus.contains_key("process_max_fds"), "what is not known is not there");
}
