//! What travels between command line and daemon, and what `-o json` prints: the names here are a promise to scripts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod eventing;

pub use eventing::{
    Attempt, DeadLetter, DeadLetterDone, DeadLetterQuery, DeadLetterWish, Event as CloudEvent, Replay, ReplayWish,
    Since, Subscription, Topic, Topics,
};

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub version: String,
    pub application: String,
    pub manifest: String,
    pub gateway: String,
    /// Where `/metrics` is. Absent in the answer of an older daemon.
    #[serde(default)]
    pub dashboard: Option<String>,
    /// Where the broker is, if there is one.
    #[serde(default)]
    pub broker: Option<String>,
    /// Whether requests have lines in the access log. An older daemon does not say, and always writes them.
    #[serde(default = "yes")]
    pub access_log: bool,
    pub started_at: Timestamp,
    pub uptime_seconds: f64,
    /// Atoll's own, the daemon first; several may have one name. Absent in the answer of an older daemon.
    #[serde(default)]
    pub processes: Vec<Process>,
}

fn yes() -> bool {
    true
}

/// One running copy: an element of `GET /v1/instances`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub service: String,
    pub instance: u32,
    pub pid: Option<u32>,
    pub state: String,
    pub ready: bool,
    pub port: u16,
    pub restarts: u32,
    pub started_at: Option<Timestamp>,
    /// Why it is in this state, where that is not plain: the last exit, the last failed probe, what it waits for.
    pub reason: Option<String>,
    /// The end of its log, while it is failing.
    pub last_lines: Vec<String>,
}

/// One declared unit: `GET /v1/services` and lines of `GET /v1/watch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub service: String,
    /// Whether it was asked to run.
    pub wanted: bool,
    /// Whether its instances are being replaced.
    #[serde(default)]
    pub updating: bool,
    /// Why it will not come up by itself: a failed build or migration, an instance that keeps ending, an update that
    /// was taken back.
    pub given_up: Option<String>,
    /// The end of what the failing build or instance wrote.
    pub last_lines: Vec<String>,
    pub instances: Vec<Instance>,
}

/// `GET /v1/services/{name}`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    pub service: String,
    pub description: Option<String>,
    pub owner: Option<String>,
    pub declared_in: String,
    pub build: Option<String>,
    pub command: String,
    pub working_dir: String,
    pub restart: String,
    pub readiness: String,
    pub routes: Vec<String>,
    pub upstreams: Vec<Upstream>,
    pub callers: Vec<String>,
    pub depends_on: Vec<String>,
    pub databases: Vec<Database>,
    #[serde(default)]
    pub publishes: Vec<String>,
    #[serde(default)]
    pub subscribes: Vec<String>,
    /// Names alone: values may be secret.
    pub environment: Vec<String>,
    pub failure: Option<String>,
    pub instances: Vec<Instance>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upstream {
    pub service: String,
    pub url: String,
    pub timeout_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Database {
    pub name: String,
    pub engine: String,
    pub path: String,
}

/// `GET /v1/services/gateway`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gateway {
    pub address: String,
    pub routes: Vec<String>,
    pub requests: u64,
    pub active: u64,
}

/// `GET /v1/broker`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Broker {
    pub address: String,
    /// With the password of a user that has every right; only where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where NATS's monitoring pages are, if anywhere.
    pub monitor: Option<String>,
    /// `always`, or `interval:` and a duration.
    pub sync: String,
    /// What is less than one would expect, in sentences.
    pub warnings: Vec<String>,
    pub max_payload: u64,
    /// Of all streams in files.
    pub file_bytes: u64,
    pub file_bytes_max: u64,
    pub memory_bytes: u64,
    pub memory_bytes_max: u64,
    /// Open now.
    pub connections: usize,
    pub connections_total: u64,
    pub subscriptions: usize,
    pub slow_consumers: u64,
    /// What waits for clients.
    pub pending_bytes: usize,
    pub in_messages: u64,
    pub in_bytes: u64,
    pub out_messages: u64,
    pub out_bytes: u64,
    /// Services that may connect.
    pub users: Vec<String>,
    pub streams: Vec<Stream>,
}

/// A stream of [`Broker`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub name: String,
    /// The topic that declares it; none of one that is kept although no topic does.
    pub topic: Option<String>,
    pub subjects: Vec<String>,
    /// `file` or `memory`.
    pub storage: String,
    /// `limits`, `interest` or `workqueue`.
    pub retention: String,
    pub messages: u64,
    pub bytes: u64,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub consumers: u64,
    /// Why it is not as the manifest wants it.
    pub refused: Option<String>,
}

/// Query of `GET /v1/broker`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BrokerQuery {
    /// With the `url`.
    #[serde(default)]
    pub secrets: bool,
}

/// `GET /v1/broker/url`. No `Debug`: it holds a password.
#[derive(Clone, Serialize, Deserialize)]
pub struct BrokerUrl {
    pub url: String,
}

/// An element of `GET /v1/edges`: a route of the gateway or an edge between services, with what was counted of it since
/// the data plane, or this daemon, began. Counts only grow; where one is smaller than before, counting has begun anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// `gateway`, or the service that calls.
    pub from: String,
    /// The service that is called; several where a route shares out; none where no route took the requests.
    pub to: Vec<String>,
    /// Of the gateway.
    pub route: Option<String>,
    /// Those that have ended.
    pub requests: u64,
    /// Of them, those answered 500 and above, by the service or in its place, and those whose response broke.
    pub failed: u64,
    /// Tries beyond the first.
    pub retries: u64,
    pub active: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// How many took how long: the least duration of a bucket in microseconds, and the requests in it. Four buckets are an
    /// octave.
    pub durations_us: Vec<(u64, u64)>,
    /// Where the manifest asks for one. Absent, as all below, in the answer of an older daemon.
    #[serde(default)]
    pub breaker: Option<BreakerState>,
    /// Where the manifest has a concurrency limit.
    #[serde(default)]
    pub concurrency: Option<Concurrency>,
    /// Ready instances, those that are ejected included.
    #[serde(default)]
    pub ready: u32,
    #[serde(default)]
    pub ejected: Vec<Ejected>,
    #[serde(default)]
    pub retry_budget: RetryBudget,
}

/// "front → back", and "gateway → catalog (route products)" where it is one of the gateway.
pub fn edge_name(from: &str, to: &[String], route: Option<&str>) -> String {
    match (route, to) {
        (Some(route), []) => format!("{from} (route {route})"),
        (Some(route), to) => format!("{from} → {} (route {route})", to.join(", ")),
        (None, []) => format!("{from} (no route)"),
        (None, to) => format!("{from} → {}", to.join(", ")),
    }
}

/// How a circuit breaker stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerState {
    /// `closed`, `open`, `half_open`, `forced_open`, `forced_closed`; `unknown` while no data plane says it.
    pub state: String,
    /// Of the calls in its window; where it is open, of those that have opened it.
    pub failures: u32,
    pub slow: u32,
    pub calls: u32,
    /// Of an open one: until it lets calls through to try.
    pub open_left_ms: u64,
}

/// How a concurrency limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    pub running: u32,
    pub waiting: u32,
    pub max: u32,
}

/// An instance that gets no requests for a time because of what it answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejected {
    pub service: String,
    pub instance: u32,
    pub left_ms: u64,
}

/// Retries of the last ten seconds, and how many the requests of that time allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget {
    pub requests: u64,
    pub retries: u64,
    pub retries_max: u64,
}

/// Body of `POST /v1/faults`: at least one effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultWish {
    /// A route, an edge, a service or an instance, by the names that `GET /v1/edges` and `GET /v1/instances` have.
    pub target: String,
    /// At most an hour.
    #[serde(default)]
    pub delay_ms: Option<u64>,
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// A status from 400 to 599.
    #[serde(default)]
    pub abort: Option<u16>,
    #[serde(default)]
    pub drop: bool,
    /// Of the requests, above 0 and up to 1; all if absent.
    #[serde(default)]
    pub share: Option<f64>,
    /// Up to 86,400; ten minutes if absent.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// An element of `GET /v1/faults`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub id: u64,
    pub target: String,
    /// `delay`, `bandwidth`, `abort` or `drop`.
    pub effect: String,
    pub delay_ms: Option<u64>,
    pub bytes_per_second: Option<u64>,
    pub status: Option<u16>,
    pub share: f64,
    pub until: Timestamp,
    pub seconds_left: f64,
}

/// Body of `POST /v1/breakers`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BreakerWish {
    /// A route or an edge.
    pub target: String,
    pub action: BreakerAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerAction {
    /// By force, until it is reset.
    Open,
    /// By force, until it is reset.
    Close,
    /// Takes the force back, closes it, and forgets what it has counted.
    Reset,
}

/// An element of `GET /v1/breakers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    pub name: String,
    pub from: String,
    pub to: Vec<String>,
    pub route: Option<String>,
    #[serde(flatten)]
    pub state: BreakerState,
}

/// Query of `GET /v1/explain`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Explain {
    /// At most so many of the newest.
    pub max: Option<usize>,
}

/// An element of `GET /v1/explain/{request_id}` and, of the newest requests, of `GET /v1/explain`: what happened to a
/// request at the gateway or on an edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Story {
    pub request_id: String,
    pub trace_id: String,
    pub began: Timestamp,
    /// `gateway`, or the service that called.
    pub from: String,
    pub client: String,
    pub method: String,
    pub host: String,
    /// Without its query.
    pub path: String,
    pub route: Option<String>,
    pub service: Option<String>,
    pub status: u16,
    /// Why it was not simply an answer of the service; as in the access log.
    pub reason: Option<String>,
    /// `static`, or the service that answered instead.
    pub fallback: Option<String>,
    pub attempts: u32,
    pub duration_ms: f64,
    /// `failed`, `unusual`, or `sampled` of the rest.
    pub kept: String,
    /// In order, from the head to the end.
    pub told: Vec<Told>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Since the head.
    pub after_ms: f64,
    /// One word for programs.
    pub kind: String,
    pub instance: Option<u32>,
    /// A sentence without its full stop.
    pub text: String,
}

/// Body of `POST /v1/apply`: takes the manifest over as it is on disk now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Apply {
    /// What `${NAME}` in the manifest expands from; without it, what it expanded from last.
    pub environment: Option<BTreeMap<String, String>>,
    /// Services that are started if they are new; none means every new one.
    pub services: Vec<String>,
}

/// Body of `POST /v1/scale`: instances wanted by service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Scale {
    pub replicas: BTreeMap<String, u32>,
}

/// One difference between what ran and what runs from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `service`, `route`, `database`, `topic`, `gateway`, `dashboard` or `broker`.
    pub of: String,
    pub name: String,
    pub verb: Verb,
    /// Of a changed one: the keys that differ, without their values.
    pub details: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Added,
    Removed,
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.verb {
            Verb::Added => '+',
            Verb::Removed => '-',
            Verb::Changed => '~',
        };
        write!(f, "{sign} {} {}", self.of, self.name)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details.join(", "))?;
        }
        Ok(())
    }
}

/// Body of `POST /v1/start`, `/v1/stop` and `/v1/restart`. No names means all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Selection {
    pub services: Vec<String>,
    /// With a start: answer only when the services are ready, or cannot become so.
    pub wait: bool,
    /// With a restart: replace the instances without building anything.
    #[serde(default)]
    pub as_built: bool,
}

/// Every refusal of the API (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub hint: Option<String>,
}

/// Query of `GET /v1/events`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Events {
    /// Leave out what has happened already.
    #[serde(default)]
    pub new_only: bool,
}

/// A line of `GET /v1/events`: what happened to an instance, a service or a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub at: Timestamp,
    /// A word of the closed set that `supervisor::Kind` names.
    pub kind: String,
    pub service: Option<String>,
    pub instance: Option<u32>,
    /// One sentence for people.
    pub message: String,
    /// Last lines of output, where something failed.
    pub lines: Vec<String>,
}

/// A line of `GET /v1/logs`, and of `atoll logs -o json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub at: Timestamp,
    pub service: String,
    pub instance: u32,
    /// `stdout` or `stderr`.
    pub stream: String,
    pub text: String,
}

/// The one line that a starting daemon writes to its parent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Started {
    Listening {
        /// What the manifest says otherwise than what was served by the daemon before.
        changes: Vec<Change>,
    },
    /// Another daemon of the folder was faster.
    Locked,
    Failed {
        message: String,
        causes: Vec<String>,
        hint: Option<String>,
    },
}

/// One of Atoll's own processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `daemon`, and whatever else of Atoll runs on behalf of the application.
    pub name: String,
    pub pid: u32,
}

/// A service, or one instance of it; `web` and `web.1` on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub service: String,
    pub instance: Option<u32>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instance {
            Some(instance) => write!(f, "{}.{instance}", self.service),
            None => f.write_str(&self.service),
        }
    }
}

/// Body of `POST /v1/kill`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kill {
    pub subjects: Vec<Subject>,
    /// Number of a named signal, as in signal(7).
    pub signal: i32,
}

/// An element of `GET /v1/services/{name}/endpoints`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub instance: u32,
    /// Host and port.
    pub address: String,
    /// Takes new requests.
    pub ready: bool,
    /// `unready`, `ready` or `draining`.
    pub state: String,
}

/// Which copy of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Instance(u32),
    /// A further copy, which listens on this port.
    OneOff(u16),
}

/// Query of `GET /v1/services/{name}/program`: an instance, the first if none is named, or a one-off on this port.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProgramQuery {
    pub instance: Option<u32>,
    pub one_off: Option<u16>,
}

impl ProgramQuery {
    pub fn which(&self) -> Which {
        match (self.one_off, self.instance) {
            (Some(port), _) => Which::OneOff(port),
            (None, index) => Which::Instance(index.unwrap_or(0)),
        }
    }
}

/// `GET /v1/services/{name}/program`: what a copy of a service is started with. No `Debug`: it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
pub struct Program {
    /// Words, never given to a shell; `${NAME}` expands from the environment.
    pub command: Vec<String>,
    pub working_dir: PathBuf,
    /// All of it.
    pub environment: BTreeMap<String, String>,
    /// What must be prepared before it starts.
    pub databases: Vec<DatabaseFile>,
}

/// A database of a [`Program`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatabaseFile {
    pub name: String,
    pub path: PathBuf,
    pub migrations: Option<PathBuf>,
}
