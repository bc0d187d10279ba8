//! What travels between command line and daemon, and what `-o json` prints: the names here are a promise to scripts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub version: String,
    pub application: String,
    pub manifest: String,
    pub gateway: String,
    pub started_at: Timestamp,
    pub uptime_seconds: f64,
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
    /// Why it will not come up by itself: a failed build or migration, an instance that keeps ending.
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

/// Body of `POST /v1/start`, `/v1/stop` and `/v1/restart`. No names means all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Selection {
    pub services: Vec<String>,
    /// With a start: answer only when the services are ready, or cannot become so.
    pub wait: bool,
    /// With a start: fingerprint of the plan that the caller believes to be running; another one is refused.
    pub plan: Option<String>,
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
    Listening,
    /// Another daemon of the folder was faster.
    Locked,
    Failed {
        message: String,
        causes: Vec<String>,
        hint: Option<String>,
    },
}
