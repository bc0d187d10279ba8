//! What the data plane serves, as plain data: listeners with their routes, services with their endpoints. Made by the
//! control plane, compiled by [`crate::Tables`]; never changed once it is published.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// Everything that is served from one moment to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Grows with every change; a snapshot that is not newer than the one in use is ignored.
    pub generation: u64,
    /// By name; names without a bound address wait for nobody and are harmless.
    pub listeners: BTreeMap<String, Listener>,
    pub services: BTreeMap<String, Vec<Endpoint>>,
}

/// What one listener does with its requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub role: Role,
    /// In any order; precedence is decided by what they match, and by this order only in a tie.
    pub routes: Vec<Route>,
    /// Whether each request has a line in the access log. Counters count in any case.
    pub is_logged: bool,
    /// Whether answers say why they are not those of a service (`atoll-reason`).
    pub tells_reason: bool,
}

/// Who stands before a listener, and so what it may be believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Anybody: forwarding headers and `atoll-*` from outside are overwritten.
    Gateway,
    /// One declared caller: its context headers are passed on.
    Edge { caller: String, upstream: String },
}

/// One rule: which requests, what is changed in them, who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Shown in the access log, in problems and by `explain`.
    pub name: String,
    /// `*.example.org` matches one or more labels before it; empty means every host.
    pub hostnames: Vec<String>,
    /// Any of them; an empty list matches nothing.
    pub matches: Vec<Match>,
    pub filters: Vec<Filter>,
    pub policy: Policy,
    /// None only where a `RequestRedirect` answers.
    pub backends: Vec<Backend>,
}

/// All of its conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    pub path: PathMatch,
    /// Upper case; empty means every method.
    pub methods: Vec<String>,
    pub headers: Vec<NamedMatch>,
    pub query: Vec<NamedMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatch {
    Exact(String),
    /// By whole segments: `/api` matches `/api` and `/api/x`, not `/apix`. A slash at its end means nothing.
    Prefix(String),
    /// Anchored at both ends.
    Regex(String),
}

/// A header or query parameter and what its value must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedMatch {
    pub name: String,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueMatch {
    Exact(String),
    /// Anchored at both ends.
    Regex(String),
}

/// A change of the request or the response, in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    UrlRewrite {
        hostname: Option<String>,
        path: Option<PathRewrite>,
    },
    /// Answers instead of the backends.
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathRewrite {
    /// Replaces the whole path.
    Full(String),
    /// Replaces the prefix that matched; after an exact match, the whole path.
    Prefix(String),
}

/// Applied in the order remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderEdits {
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}

/// A service and its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub service: String,
    /// Relative to the sum of the route's weights; 0 takes nothing.
    pub weight: u32,
}

/// Where one instance listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Number of the instance within its service.
    pub instance: u32,
    pub address: SocketAddr,
    pub state: State,
}

/// Whether an endpoint takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Takes new requests.
    Ready,
    /// Finishes what it has; its idle connections are closed.
    Draining,
}
