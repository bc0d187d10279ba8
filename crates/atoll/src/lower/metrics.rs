//! What was counted → families of samples, under OpenTelemetry's names for HTTP and in base units; under `atoll_` what
//! that has no name for. Pure. How many series there are is bounded by routes and edges times the outcomes that the data
//! plane tells apart: methods are those of the registry, statuses those that came, at most 25 of both a route and core.

mod broker;
mod eventing;
mod guards;
mod text;

use std::collections::BTreeMap;

use proxy::{Outcome, Reading, Readings, Series, Subject};
use supervisor::{Snapshot, Wanted};

use text::{Family, Kind, Labels, Value};

pub use broker::Reading as BrokerReading;
pub use text::{Format, write};

/// One of Atoll's own processes.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    pub process: &'static str,
    pub cpu_seconds: f64,
    pub memory_bytes: u64,
    pub open_files: Option<u64>,
    pub open_files_max: Option<u64>,
    /// Since 1970.
    pub started_at_seconds: Option<f64>,
}

/// Every family, in a fixed order.
pub fn families(
    version: &str,
    readings: &Readings,
    snapshot: &Snapshot,
    usages: &[Usage],
    broker: Option<&BrokerReading>,
    eventing: &(events::Reading, database::outbox::Reading),
) -> Vec<Family> {
    let mut all = traffic(readings);
    all.extend(guards::families(readings));
    all.extend(data_plane(readings));
    all.extend(instances(snapshot));
    all.extend(broker.into_iter().flat_map(broker::families));
    all.extend(eventing::families(&eventing.0, &eventing.1));
    all.extend(processes(usages));
    let labels = vec![("version", version.to_owned())];
    all.push(
        Family::new(Kind::Gauge, "atoll_build_info", "", "The version that runs; always 1.")
            .with([(labels, Value::Count(1))]),
    );
    all
}

/// Who is counted, as OpenTelemetry sees it: the gateway is a server, an edge is its caller's client.
enum Side {
    Server,
    Client,
}

fn labels(subject: &Subject) -> (Side, Labels) {
    match subject {
        Subject::Route { route, .. } => (Side::Server, vec![("http_route", route.clone())]),
        Subject::Edge { caller, upstream } => {
            (Side::Client, vec![("service_name", caller.clone()), ("peer_service", upstream.clone())])
        }
        Subject::NoRoute | Subject::NoEdge => (Side::Server, Vec::new()),
    }
}

/// The two families of one thing, by side.
struct Pair {
    server: Family,
    client: Family,
}

impl Pair {
    fn new(kind: Kind, names: (&'static str, &'static str), unit: &'static str, help: &'static str) -> Self {
        Self { server: Family::new(kind, names.0, unit, help), client: Family::new(kind, names.1, unit, help) }
    }

    fn of(&mut self, side: &Side) -> &mut Family {
        match side {
            Side::Server => &mut self.server,
            Side::Client => &mut self.client,
        }
    }
}

fn traffic(readings: &Readings) -> Vec<Family> {
    let mut durations = Pair::new(
        Kind::Histogram,
        ("http_server_request_duration_seconds", "http_client_request_duration_seconds"),
        "seconds",
        "From the head of a request to the end of its response. http_route is a route's name; error_type is the reason of the proxy, where it has one.",
    );
    let mut active = Pair::new(
        Kind::Gauge,
        ("http_server_active_requests", "http_client_active_requests"),
        "",
        "Requests without a complete response yet.",
    );
    let mut taken = Pair::new(
        Kind::Histogram,
        ("http_server_request_body_size_bytes", "http_client_request_body_size_bytes"),
        "bytes",
        "Bodies of requests.",
    );
    let mut given = Pair::new(
        Kind::Histogram,
        ("http_server_response_body_size_bytes", "http_client_response_body_size_bytes"),
        "bytes",
        "Bodies of responses.",
    );
    let mut retries = Family::new(Kind::Counter, "atoll_retries", "", "Tries beyond the first of a request.");
    let mut waits = Family::new(
        Kind::Summary,
        "atoll_upstream_response_seconds",
        "seconds",
        "From the sending of the last try to the head of its response.",
    );
    // What no route took is one subject outside, wherever it came from.
    let mut strays = Reading::default();
    let stray = |subject: &Subject| matches!(subject, Subject::NoRoute | Subject::NoEdge);
    readings.meters.iter().filter(|(subject, _)| stray(subject)).for_each(|(_, reading)| strays += reading);
    let routed = readings.meters.iter().filter(|(subject, _)| !stray(subject));
    for (subject, reading) in routed.chain([(&Subject::NoRoute, &strays)]) {
        let (side, labels) = labels(subject);
        for (outcome, series) in &reading.series {
            let all = labels.iter().cloned().chain(outcome_labels(outcome)).collect();
            durations.of(&side).add(all, distribution(series));
        }
        active.of(&side).add(labels.clone(), Value::Count(reading.active()));
        taken.of(&side).add(labels.clone(), sum(reading.bytes_in as f64, reading.ended()));
        given.of(&side).add(labels.clone(), sum(reading.bytes_out as f64, reading.ended()));
        retries.add(labels.clone(), Value::Count(reading.retries));
        waits.add(labels, sum(seconds(reading.upstream_nanos), reading.upstream_count));
    }
    let pairs = [durations, active, taken, given].into_iter().flat_map(|pair| [pair.server, pair.client]);
    pairs.chain([retries, waits]).collect()
}

/// As OpenTelemetry's conventions have them. Where no response was sent there is no status, and an error has a type.
fn outcome_labels(outcome: &Outcome) -> Labels {
    if outcome.is_overflow {
        return vec![("otel_metric_overflow", "true".to_owned())];
    }
    let Outcome { method, status, reason, .. } = outcome;
    let is_unanswered = *status == 499 && reason.as_deref() == Some("client_closed");
    let status = if is_unanswered { String::new() } else { status.to_string() };
    let error = match reason {
        Some(reason) => reason.clone(),
        None if outcome.is_failure() => status.clone(),
        None => String::new(),
    };
    vec![("http_request_method", method.clone()), ("http_response_status_code", status), ("error_type", error)]
}

fn distribution(series: &Series) -> Value {
    let mut count = 0;
    let cumulative = |(bound, more): (f64, &u64)| {
        count += more;
        (bound, count)
    };
    let buckets = proxy::bounds_seconds().zip(&series.buckets).map(cumulative).collect();
    Value::Distribution { buckets, sum: seconds(series.nanos), count: series.count() }
}

fn sum(sum: f64, count: u64) -> Value {
    Value::Distribution { buckets: Vec::new(), sum, count }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn data_plane(readings: &Readings) -> Vec<Family> {
    let Readings { counters, refused, limits, .. } = readings;
    let by = |label, counts: &BTreeMap<String, u64>| -> Vec<(Labels, Value)> {
        counts.iter().map(|(code, count)| (vec![(label, code.clone())], Value::Count(*count))).collect()
    };
    let one = |kind, name, help, count| Family::new(kind, name, "", help).with([(Vec::new(), Value::Count(count))]);
    vec![
        Family::new(
            Kind::Counter,
            "atoll_requests_refused",
            "",
            "Requests that the data plane answered itself or that broke off, and heads that could not be read, by reason.",
        )
        .with(by("reason", refused)),
        Family::new(
            Kind::Counter,
            "atoll_limit_reached",
            "",
            "How often each limit of [gateway.limits] was met: a request refused, an answer or a connection cut, an idle connection to an instance closed.",
        )
        .with(by("limit", limits)),
        one(Kind::Counter, "atoll_connections", "Clients' connections accepted.", counters.connections),
        one(Kind::Gauge, "atoll_connections_active", "Clients' connections open.", counters.connections_active),
        one(
            Kind::Counter,
            "atoll_upstream_connections",
            "Connections to instances opened.",
            counters.upstream_connections,
        ),
        one(
            Kind::Counter,
            "atoll_access_lines_dropped",
            "Lines of the access log lost because nobody took them in time.",
            counters.access_lines_dropped,
        ),
        one(
            Kind::Counter,
            "atoll_stories_skipped",
            "Requests that failed or were unusual and that `atoll explain` does not know: there were too many in their second.",
            counters.stories_skipped,
        ),
    ]
}

fn instances(snapshot: &Snapshot) -> [Family; 4] {
    let mut wanted = Family::new(Kind::Gauge, "atoll_service_wanted", "", "Whether a service is to run.");
    let mut ready = Family::new(Kind::Gauge, "atoll_instance_ready", "", "Whether an instance takes requests.");
    let mut states = Family::new(Kind::Gauge, "atoll_instance_state", "", "The state of an instance; always 1.");
    let mut restarts = Family::new(Kind::Counter, "atoll_instance_restarts", "", "Restarts of an instance.");
    for service in &snapshot.services {
        let name = || ("service_name", service.name.clone());
        wanted.add(vec![name()], Value::Count((service.wanted == Wanted::Running).into()));
        for instance in &service.instances {
            let labels = vec![name(), ("service_instance_id", instance.index.to_string())];
            let state = ("state", instance.state.name().to_owned());
            ready.add(labels.clone(), Value::Count(instance.ready.into()));
            states.add(labels.iter().cloned().chain([state]).collect(), Value::Count(1));
            restarts.add(labels, Value::Count(instance.restarts.into()));
        }
    }
    [wanted, ready, states, restarts]
}

fn processes(usages: &[Usage]) -> Vec<Family> {
    let of = |kind, name, unit, help, value: fn(&Usage) -> Option<f64>| {
        let sample = |usage: &Usage| {
            let number = value(usage)?;
            Some((vec![("process", usage.process.to_owned())], Value::Number(number)))
        };
        Family::new(kind, name, unit, help).with(usages.iter().filter_map(sample))
    };
    vec![
        of(Kind::Counter, "process_cpu_seconds", "seconds", "User and system time.", |usage| Some(usage.cpu_seconds)),
        of(Kind::Gauge, "process_resident_memory_bytes", "bytes", "Resident memory.", |usage| {
            Some(usage.memory_bytes as f64)
        }),
        of(Kind::Gauge, "process_open_fds", "", "Open file descriptors.", |usage| Some(usage.open_files? as f64)),
        of(Kind::Gauge, "process_max_fds", "", "File descriptors that may be open.", |usage| {
            Some(usage.open_files_max? as f64)
        }),
        of(Kind::Gauge, "process_start_time_seconds", "seconds", "Start, in seconds since 1970.", |usage| {
            usage.started_at_seconds
        }),
    ]
}

#[cfg(test)]
mod tests;
