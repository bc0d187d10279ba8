//! The compiled manifest. Complete: ports, names, limits and commands are chosen, and nothing is left to an engine.
//! Its TOML form is what `atoll plan` prints and what the golden tests compare.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

mod messaging;
mod policy;

pub use messaging::{
    Batch, Broker, BrokerLimits, Discard, Nats, OnDeadLetter, Retention, Schema, Start, Storage, Store, Subscription,
    Sync, Topic,
};
pub use policy::{
    Algorithm, Balance, Breaker, Concurrency, Ejection, Fallback, Key, Policy, RateLimit, Retry, Share, Window,
};

/// The engine of events, on either side of an edge. No service has this name.
pub const EVENTS: &str = "@events";

/// Everything that an application needs to run.
#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Plan {
    pub name: String,
    /// Folder of the root manifest, absolute.
    #[serde(serialize_with = "crate::print::path")]
    pub root: PathBuf,
    pub gateway: Gateway,
    pub dashboard: Dashboard,
    /// Only where something needs it, and never together with `nats`.
    pub broker: Option<Broker>,
    /// What stands in its place: then nothing is embedded.
    pub nats: Option<Nats>,
    /// In the order of the manifest; the data plane applies Gateway API precedence.
    pub routes: Vec<Route>,
    pub services: BTreeMap<String, Service>,
    pub databases: BTreeMap<String, Database>,
    /// By subject; one whose last token is `>` is a family. No two have a subject or a stream in common.
    pub topics: BTreeMap<String, Topic>,
    pub subscriptions: BTreeMap<String, Subscription>,
    /// The ledger after this compilation: what the next one must be given to find the same ports again.
    pub ports: BTreeMap<String, u16>,
}

/// The north–south listener.
#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Gateway {
    pub listen: SocketAddr,
    /// Whether the manifest wrote the address: a written port that is taken is an error, never replaced.
    pub written: bool,
    /// Of the edges, too.
    pub access_log: bool,
    /// Whether its answers say in a header, `atoll-reason`, what was decided. Those of the edges always do.
    pub reason_header: bool,
    pub limits: Limits,
}

/// Where the daemon answers browsers and whoever collects metrics.
#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Dashboard {
    pub listen: SocketAddr,
    /// As of the gateway.
    pub written: bool,
}

/// Bounds of everything that a client or a service can make grow or last, at the gateway and at every edge. What each
/// does at its bound stands in the reference.
#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Limits {
    #[serde(serialize_with = "crate::text::size")]
    pub request_head: u64,
    pub request_headers: u32,
    #[serde(serialize_with = "crate::text::size")]
    pub request_target: u64,
    #[serde(serialize_with = "crate::text::size")]
    pub request_body: u64,
    #[serde(serialize_with = "crate::text::duration")]
    pub request_head_timeout: Duration,
    #[serde(serialize_with = "crate::text::duration")]
    pub request_body_timeout: Duration,
    #[serde(serialize_with = "crate::text::duration")]
    pub idle_timeout: Duration,
    pub connections: u32,
    pub connections_per_listener: u32,
    pub connections_per_address: u32,
    pub requests: u32,
    #[serde(serialize_with = "crate::text::duration")]
    pub connect_timeout: Duration,
    pub upstream_idle_connections: u32,
    #[serde(serialize_with = "crate::text::duration")]
    pub upstream_idle_timeout: Duration,
    #[serde(serialize_with = "crate::text::duration")]
    pub upstream_max_age: Duration,
    #[serde(serialize_with = "crate::text::duration")]
    pub response_idle_timeout: Duration,
    /// A second.
    #[serde(serialize_with = "crate::text::size")]
    pub response_rate_min: u64,
    #[serde(serialize_with = "crate::text::size")]
    pub trailers: u64,
    #[serde(serialize_with = "crate::text::size")]
    pub chunk_extensions: u64,
    pub interim_responses: u32,
}

/// One gateway rule.
#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Route {
    pub name: String,
    /// Lower case; `*.example.org` matches one or more labels before it; empty means every host.
    pub hostnames: Vec<String>,
    /// Any of them; never empty.
    pub matches: Vec<Match>,
    pub filters: Vec<Filter>,
    #[serde(flatten)]
    pub policy: Policy,
    /// At least one, unless a `RequestRedirect` filter answers.
    pub backends: Vec<Backend>,
}

/// All of its conditions must hold.
#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Match {
    pub path: PathMatch,
    /// Upper case; empty means every method.
    pub methods: Vec<String>,
    pub headers: Vec<NamedMatch>,
    pub query: Vec<NamedMatch>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    Exact(String),
    /// By whole segments: `/api` matches `/api` and `/api/x`, not `/apix`.
    Prefix(String),
    /// Anchored at both ends.
    Regex(String),
}

/// A header or query parameter and what its value must be. Header names are lower case.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct NamedMatch {
    pub name: String,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    Exact(String),
    Regex(String),
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    UrlRewrite {
        hostname: Option<String>,
        path: Option<PathRewrite>,
    },
    RequestRedirect {
        scheme: Option<String>,
        hostname: Option<String>,
        port: Option<u16>,
        path: Option<PathRewrite>,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    RequestHeaders(HeaderEdits),
    ResponseHeaders(HeaderEdits),
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// Replaces the whole path.
    Full(String),
    /// Replaces the prefix that matched.
    Prefix(String),
}

/// Applied in the order remove, set, add.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq, Serialize)]
pub struct HeaderEdits {
    pub set: BTreeMap<String, Text>,
    pub add: BTreeMap<String, Text>,
    pub remove: Vec<String>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Backend {
    pub service: String,
    /// Relative to the sum of the route's weights; 0 takes nothing.
    pub weight: u32,
}

/// A declared unit.
#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Service {
    pub description: Option<String>,
    pub owner: Option<String>,
    /// The file that declares it, as shown in messages.
    #[serde(serialize_with = "crate::print::path")]
    pub file: PathBuf,
    /// Services with an equal build share one run of it.
    pub build: Option<Build>,
    /// Words as a shell would split them; `${NAME}` of given variables is still in them and expands at start.
    pub command: Vec<Text>,
    /// Absolute.
    #[serde(serialize_with = "crate::print::path")]
    pub working_dir: PathBuf,
    /// What the manifest says, however many instances it is scaled to.
    #[serde(skip)]
    pub declared_replicas: u32,
    pub instances: Vec<Instance>,
    /// Those that only run while an update replaces others, with the indices that follow.
    pub surge: Vec<Instance>,
    /// Policy for each upstream.
    pub edges: BTreeMap<String, Edge>,
    /// Its edges from and to the engine of events.
    pub events: EventEdges,
    pub depends_on: BTreeMap<String, Condition>,
    /// What an instance finds in its environment besides Atoll's own (see `lower`) and `PORT`, `HOST`,
    /// `ATOLL_SERVICE`, `ATOLL_INSTANCE`, `OTEL_*`.
    pub environment: BTreeMap<String, Variable>,
    pub probes: Probes,
    pub restart: Restart,
    /// A name of signal(7), such as `SIGTERM`.
    pub stop_signal: String,
    #[serde(serialize_with = "crate::text::duration")]
    pub stop_grace_period: Duration,
    /// Names of declared databases.
    pub databases: Vec<String>,
    /// Subjects and patterns, each of them within one topic. Where this or the next is not empty, instances are given
    /// `NATS_URL`, unless `environment` has it.
    pub publishes: Vec<String>,
    /// Subjects and patterns, each of them of one topic at least.
    pub subscribes: Vec<String>,
    pub update: Update,
    pub watch: Option<Watch>,
    pub limits: ResourceLimits,
}

/// How running instances are replaced by those of another plan.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Update {
    pub strategy: Strategy,
    /// Instances above `replicas` while it goes on; 0 with `Recreate`.
    pub max_surge: u32,
    /// Instances below `replicas` while it goes on; 0 with `Recreate`. With `Rolling` one of the two is not 0.
    pub max_unavailable: u32,
    /// How long a new instance must have been ready to count; less than `progress_deadline`.
    #[serde(serialize_with = "crate::text::duration")]
    pub min_ready: Duration,
    /// Whether an update that has failed is taken back.
    pub auto_revert: bool,
    /// Without one more new instance for so long, it has failed.
    #[serde(serialize_with = "crate::text::duration")]
    pub progress_deadline: Duration,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// New instances beside the old ones, a few at a time.
    Rolling,
    /// All old instances stop before a new one starts.
    Recreate,
}

/// Which files of a service are watched, and what happens when one changes.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Watch {
    /// Absolute files and folders, with all that is in them; never empty. They need not exist.
    #[serde(serialize_with = "crate::print::paths")]
    pub paths: Vec<PathBuf>,
    /// Patterns of the `glob` crate for what is passed over, in the order of the manifest.
    pub ignore: Vec<String>,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Builds, then replaces the instances. The service has a `build`.
    Rebuild,
    Restart,
}

/// What each instance may use at most; `None` is no limit.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq, Serialize)]
pub struct ResourceLimits {
    /// Thousandths of a core, at least 1.
    pub cpu_millis: Option<u32>,
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Build {
    /// Words, complete.
    pub command: Vec<Text>,
    #[serde(serialize_with = "crate::print::path")]
    pub working_dir: PathBuf,
}

/// One copy of a service.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Instance {
    pub index: u32,
    pub port: u16,
}

/// Caller → upstream. The listener that only this caller is told of.
#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Edge {
    pub port: u16,
    #[serde(flatten)]
    pub policy: Policy,
}

/// Edges between a service and the engine of events.
#[derive(Clone, Debug, Default, Hash, PartialEq, Serialize)]
pub struct EventEdges {
    /// `<service>→@events`, the address of `EVENTS_URL`, where it publishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Edge>,
    /// `@events→<service>`, where a subscription leads to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver: Option<Edge>,
}

impl Plan {
    /// Every edge by caller and upstream, in the order of services: that to [`EVENTS`] behind the others of its caller, and
    /// all those from it last.
    pub fn edges(&self) -> impl Iterator<Item = (&str, &str, &Edge)> {
        let calls = self.services.iter().flat_map(|(name, service)| {
            let upstreams = service.edges.iter().map(|(upstream, edge)| (upstream.as_str(), edge));
            let publish = service.events.publish.iter().map(|edge| (EVENTS, edge));
            upstreams.chain(publish).map(move |(upstream, edge)| (name.as_str(), upstream, edge))
        });
        let deliveries = self
            .services
            .iter()
            .filter_map(|(name, service)| Some((EVENTS, name.as_str(), service.events.deliver.as_ref()?)));
        calls.chain(deliveries)
    }
}

/// When a dependency counts as fulfilled.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Its process runs.
    Started,
    /// Every instance is ready.
    Healthy,
    /// Every instance exited with status 0.
    Completed,
}

/// A word of a command, or what a header is given. One that was expanded may be a secret and is never printed.
#[derive(Clone, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text {
    pub value: String,
    /// Whether something of Atoll's own environment is in it. A default that was taken is none, and the program that a
    /// command names is no secret.
    pub expanded: bool,
}

/// A value and where it came from. Values from outside the manifest may be secrets and are never printed.
#[derive(Clone, Hash, PartialEq, Eq)]
pub struct Variable {
    pub value: String,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Origin {
    /// By Atoll: an address, a database.
    Given,
    /// By `environment`.
    Manifest,
    /// By an `env_file`, or through `${…}` from Atoll's own environment.
    EnvFile,
}

/// What is asked of an instance, and how often.
#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Probes {
    /// While it has not succeeded the other two do not run.
    pub startup: Option<Probe>,
    /// Decides whether an instance is ready. `Check::Default` asks `GET /readyz` and falls back to a TCP connect.
    pub readiness: Probe,
    /// An instance that fails it is restarted.
    pub liveness: Option<Probe>,
}

#[derive(Clone, Debug, Hash, PartialEq, Serialize)]
pub struct Probe {
    pub check: Check,
    #[serde(serialize_with = "crate::text::duration")]
    pub interval: Duration,
    #[serde(serialize_with = "crate::text::duration")]
    pub timeout: Duration,
    /// Consecutive failures until the probe has failed.
    pub failure_threshold: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// `GET /readyz` is a success with 2xx or 3xx; where it is answered with 404, 405 or 501, or with no HTTP, several
    /// times before the first success, a TCP connect decides.
    Default,
    /// Path of a GET; 200–399 is a success.
    Http(String),
    Tcp,
    /// Words of a command; status 0 is a success.
    Exec(Vec<Text>),
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    No,
    OnFailure,
    Always,
}

/// A database of its services' own.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize)]
pub struct Database {
    pub engine: Engine,
    /// Absolute path of its file.
    #[serde(serialize_with = "crate::print::path")]
    pub path: PathBuf,
    /// Absolute folder of ordered `NNNN_name.sql` files.
    #[serde(serialize_with = "crate::print::path_optional")]
    pub migrations: Option<PathBuf>,
    /// The table whose rows are published and then deleted: an SQL identifier. One of its services publishes.
    pub outbox: Option<String>,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    Sqlite,
}
