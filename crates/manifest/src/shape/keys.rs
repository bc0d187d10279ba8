//! Every key of the manifest: its type, its default, and its line in the reference. The one place to add a key.

use std::time::Duration;

use super::{Key, Kind, Map, Need, OneOf, Table, databases, messaging, policy};

/// Limit: entries of a list that names things.
pub(super) const LIST_MAX: usize = 100;
/// Limit: entries of a map, and included files.
const ENTRIES_MAX: usize = 1_000;
/// Limit: services, databases, and routes of one file.
pub(super) const DECLARATIONS_MAX: usize = 1_000;

/// Limit: instances of a service.
const INSTANCES_MAX: i64 = 100;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const TIMEOUT: Kind = Kind::Duration { min: Duration::from_millis(1), max: HOUR };
const NAMES: Kind = Kind::List(&Kind::Text, LIST_MAX);
const SWITCH: Kind = Kind::True;
const CONDITION: Kind = Kind::Choice { known: &["started", "healthy", "completed"], later: &[] };

pub(super) const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, need: Need::Optional, doc }
}

impl Key {
    pub(super) const fn required(mut self) -> Self {
        self.need = Need::Required;
        self
    }

    pub(super) const fn default(mut self, value: &'static str) -> Self {
        self.need = Need::Default(value);
        self
    }
}

pub(crate) static ROOT: Table = Table {
    name: "manifest",
    doc: "The root manifest, `atoll.toml`. An included file may have `services`, `databases`, `topics`, `subscriptions` and `routes` only.",
    keys: &[
        key("name", Kind::Text, "The application. Required in the root manifest, and only there."),
        key(
            "include",
            Kind::List(&Kind::Text, LIST_MAX),
            "Files of services, as paths or globs. Relative paths in each resolve against its own folder. Root manifest only.",
        ),
        key("gateway", Kind::Table(&GATEWAY), "The listener for requests from outside. Root manifest only."),
        key(
            "dashboard",
            Kind::Table(&DASHBOARD),
            "Where the daemon answers `/metrics`, `/livez` and `/readyz`. Root manifest only.",
        ),
        key("broker", Kind::Table(&messaging::BROKER), "The message broker. Root manifest only."),
        key("routes", Kind::List(&Kind::Table(&ROUTE), DECLARATIONS_MAX), "What the gateway answers with."),
        key("services", Kind::Map(&SERVICES), "What runs."),
        key("databases", Kind::Map(&databases::DATABASES), "What services keep their data in."),
        key("topics", Kind::Map(&messaging::TOPICS), "What services publish, and how much of it is kept."),
        key(
            "subscriptions",
            Kind::List(&Kind::Table(&messaging::SUBSCRIPTION), DECLARATIONS_MAX),
            "Events that are delivered to services with a POST.",
        ),
    ],
    later: &["authenticators", "sagas", "caches", "secrets"],
    one_of: OneOf::Nothing,
};

static GATEWAY: Table = Table {
    name: "gateway",
    doc: "The listener for requests from outside.",
    keys: &[
        key(
            "listen",
            Kind::Text,
            "Address and port. Not written, the next free port is taken where this one is taken; with port 0, a free one is chosen and kept.",
        )
        .default("127.0.0.1:8080"),
        key(
            "access_log",
            Kind::Boolean,
            "Whether each request, at the gateway and at every edge, has a line in `.atoll/logs/access.jsonl`. Metrics count in any case; `atoll top` knows requests by instance only from this log.",
        )
        .default("true"),
        key(
            "reason_header",
            Kind::Boolean,
            "Whether its answers say in a header, `atoll-reason`, what was decided: a retry, an open breaker, a limit, a fallback. Those of the edges always do.",
        )
        .default("false"),
        key("limits", Kind::Table(&GATEWAY_LIMITS), "Bounds of what clients and services can make grow or last."),
    ],
    later: &[
        "auth",
        "rate_limit",
        "retry",
        "load_balancing",
        "outlier_ejection",
        "circuit_breaker",
        "concurrency_limit",
        "fallback",
    ],
    one_of: OneOf::Nothing,
};

/// Limits of durations that may be long: an event stream is silent for hours.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const WAIT: Kind = Kind::Duration { min: Duration::from_millis(100), max: DAY };

static GATEWAY_LIMITS: Table = Table {
    name: "gateway limits",
    doc: "Bounds of what clients and services can make grow or last, at the gateway and at every edge. `/metrics` counts how often each is met (`atoll_limit_reached_total`). A change of them starts the data plane anew; no request is lost by it.",
    keys: &[
        key(
            "request_head",
            Kind::Size { min: 1 << 10, max: 16 << 20 },
            "Request line and header fields together. More is answered 431. The head of a response too, where more is answered 502.",
        )
        .default("32KiB"),
        key(
            "request_headers",
            Kind::Integer { min: 1, max: 10_000 },
            "Header fields of a request; above 256, 256 counts. More is answered 431. Of a response too, where more is answered 502.",
        )
        .default("100"),
        key(
            "request_target",
            Kind::Size { min: 16, max: 1 << 20 },
            "The target in the request line, its query too. More is answered 414.",
        )
        .default("8KiB"),
        key("request_body", Kind::Size { min: 1, max: 16 << 40 }, "The body of a request. More is answered 413.")
            .default("1GiB"),
        key(
            "request_head_timeout",
            WAIT,
            "From the first byte of a request to the end of its head. More is answered 408.",
        )
        .default("10s"),
        key(
            "request_body_timeout",
            WAIT,
            "From the end of a request's head to the end of its body, however it trickles. More is answered 408.",
        )
        .default("1h"),
        key(
            "idle_timeout",
            WAIT,
            "How long a client's connection may be without a request, a request body without progress (answered 408), and a response without the client reading any of it. Also a service that takes nothing of a body (answered 504), where the `timeout` of its route is not longer. Tunnels and quiet event streams are not limited.",
        )
        .default("1m"),
        key(
            "connections",
            Kind::Integer { min: 1, max: 1_000_000 },
            "Clients' connections, at the gateway and all edges together; as many fewer as the process may open files. One more is answered 503.",
        )
        .default("32768"),
        key(
            "connections_per_listener",
            Kind::Integer { min: 1, max: 1_000_000 },
            "Of these, those of the gateway, or of one edge, so that none takes all of them. One more is answered 503.",
        )
        .default("24576"),
        key(
            "connections_per_address",
            Kind::Integer { min: 1, max: 1_000_000 },
            "Of these, those from one client address. One more is answered 503.",
        )
        .default("16384"),
        key(
            "requests",
            Kind::Integer { min: 1, max: 1_000_000 },
            "Requests that are being answered at a time, at the gateway and at all edges together; event streams and tunnels that have begun are not among them. More are answered 503 at once (`overloaded`), so that those that are there are answered in time.",
        )
        .default("16384"),
        key("connect_timeout", TIMEOUT, "To connect to one instance. Then another one is tried.").default("1s"),
        key(
            "upstream_idle_connections",
            Kind::Integer { min: 0, max: 10_000 },
            "Idle connections that each core keeps for one instance. One more closes the oldest.",
        )
        .default("64"),
        key(
            "upstream_idle_timeout",
            WAIT,
            "How long such a connection is kept. Keep it below what services use, or a request may meet a connection that is just being closed.",
        )
        .default("4s"),
        key("upstream_max_age", WAIT, "How old such a connection may become; an older one takes no further request.")
            .default("10m"),
        key(
            "response_idle_timeout",
            WAIT,
            "How long a service may be silent in the middle of a response; then that breaks off. Keep it above the pauses of event streams.",
        )
        .default("1h"),
        key(
            "response_rate_min",
            Kind::Size { min: 0, max: 1 << 30 },
            "Bytes a second that a client takes of a response, on average over each `idle_timeout` in which the response waits for it; else that breaks off. Time in which the service is waited for does not count, so a quiet event stream meets it only with events that nobody reads; tunnels are not limited. `0B`: anything is enough. How long a whole response may take has no bound.",
        )
        .default("240B"),
        key(
            "trailers",
            Kind::Size { min: 0, max: 64 << 10 },
            "The trailer section behind a chunked body. More is answered 400; a response breaks off.",
        )
        .default("8KiB"),
        key(
            "chunk_extensions",
            Kind::Size { min: 0, max: 64 << 10 },
            "The extensions of one chunk, which are not passed on. More is answered 400; a response breaks off.",
        )
        .default("256B"),
        key(
            "interim_responses",
            Kind::Integer { min: 1, max: 1_000 },
            "Interim responses of a service (100 to 199) before the one that answers. More is answered 502.",
        )
        .default("32"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static DASHBOARD: Table = Table {
    name: "dashboard",
    doc: "Where the daemon answers `/metrics` (Prometheus and OpenMetrics), `/livez` and `/readyz`, over HTTP.",
    keys: &[key(
        "listen",
        Kind::Text,
        "Address and port. Not written, the next free port is taken where this one is taken; with port 0, a free one is chosen and kept.",
    )
    .default("127.0.0.1:8070")],
    later: &[],
    one_of: OneOf::Nothing,
};

pub(super) const ALLOW: Key = key("allow", NAMES, "Codes of lints that are not told of this table, such as `W0504`.");
static ROUTE: Table = Table {
    name: "route",
    doc: "One rule of the gateway. Of all routes that match a request the most specific one answers, as in the Gateway API.",
    keys: &[
        key("name", Kind::Text, "Unique. Stands in logs and in error answers.").required(),
        key(
            "hostnames",
            NAMES,
            "Hosts that it is for; `*.example.org` takes every host below. Not written: every host.",
        ),
        key("matches", Kind::List(&Kind::Table(&MATCH), LIST_MAX), "Any of them must hold. Not written: every path."),
        key("filters", Kind::List(&Kind::Table(&FILTER), LIST_MAX), "What is changed on the way."),
        policy::TIMEOUT,
        policy::TOTAL_TIMEOUT,
        policy::CONNECT_TIMEOUT,
        policy::IDLE_TIMEOUT,
        policy::RETRY,
        policy::LOAD_BALANCING,
        policy::OUTLIER_EJECTION,
        policy::CIRCUIT_BREAKER,
        policy::CONCURRENCY_LIMIT,
        policy::RATE_LIMIT,
        policy::FALLBACK,
        key("backends", Kind::List(&Kind::Table(&BACKEND), LIST_MAX), "Where requests go, shared out by weight."),
        ALLOW,
    ],
    later: &["auth"],
    one_of: OneOf::Nothing,
};

static MATCH: Table = Table {
    name: "match",
    doc: "Conditions on a request. All that are written must hold.",
    keys: &[
        key("path", Kind::Table(&PATH), "Not written: every path."),
        key("methods", NAMES, "Request methods, in upper case. Not written: every method."),
        key("headers", Kind::List(&Kind::Table(&HEADER_MATCH), LIST_MAX), "Conditions on headers."),
        key("query", Kind::List(&Kind::Table(&QUERY_MATCH), LIST_MAX), "Conditions on query parameters."),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static PATH: Table = Table {
    name: "path",
    doc: "A condition on the path of a request, without its query.",
    keys: &[
        key("exact", Kind::Text, "The whole path."),
        key("prefix", Kind::Text, "By whole segments: `/api` takes `/api` and `/api/x`, not `/apix`."),
        key("regex", Kind::Text, "A regular expression that the whole path must match."),
    ],
    later: &[],
    one_of: OneOf::Exactly(&["exact", "prefix", "regex"]),
};

const EXACT: Key = key("exact", Kind::Text, "The whole value.");
const REGEX: Key = key("regex", Kind::Text, "A regular expression that the whole value must match.");

static HEADER_MATCH: Table = Table {
    name: "header match",
    doc: "A condition on a header.",
    keys: &[key("name", Kind::Text, "The header's name; case does not matter.").required(), EXACT, REGEX],
    later: &[],
    one_of: OneOf::Exactly(&["exact", "regex"]),
};

static QUERY_MATCH: Table = Table {
    name: "query match",
    doc: "A condition on a query parameter.",
    keys: &[key("name", Kind::Text, "The parameter's name; case matters.").required(), EXACT, REGEX],
    later: &[],
    one_of: OneOf::Exactly(&["exact", "regex"]),
};

static FILTER: Table = Table {
    name: "filter",
    doc: "One change to a request or its response.",
    keys: &[
        key("url_rewrite", Kind::Table(&URL_REWRITE), "Sends the request on under another host or path."),
        key("request_redirect", Kind::Table(&REDIRECT), "Answers with a redirect; no backend is asked."),
        key("request_headers", Kind::Table(&HEADER_EDITS), "Changes the headers of the request."),
        key("response_headers", Kind::Table(&HEADER_EDITS), "Changes the headers of the response."),
    ],
    later: &[],
    one_of: OneOf::Exactly(&["url_rewrite", "request_redirect", "request_headers", "response_headers"]),
};

const FULL_PATH: Key = key("path", Kind::Text, "Replaces the whole path.");
const PREFIX_PATH: Key = key("prefix", Kind::Text, "Replaces the prefix that matched.");

static URL_REWRITE: Table = Table {
    name: "url_rewrite",
    doc: "Sends the request on under another host or path.",
    keys: &[key("hostname", Kind::Text, "Replaces the host."), FULL_PATH, PREFIX_PATH],
    later: &[],
    one_of: OneOf::AtMost(&["path", "prefix"]),
};

static REDIRECT: Table = Table {
    name: "request_redirect",
    doc: "Where the client is sent. What is not written stays as it was asked for.",
    keys: &[
        key("scheme", Kind::Choice { known: &["http", "https"], later: &[] }, "Another scheme."),
        key("hostname", Kind::Text, "Another host."),
        key("port", Kind::Integer { min: 1, max: 65_535 }, "Another port."),
        FULL_PATH,
        PREFIX_PATH,
        key("status", Kind::Number(&[301, 302, 303, 307, 308]), "The status of the answer.").default("302"),
    ],
    later: &[],
    one_of: OneOf::AtMost(&["path", "prefix"]),
};

static HEADER_VALUES: Map = Map { key: "header", value: Kind::Text, max: LIST_MAX };

static HEADER_EDITS: Table = Table {
    name: "header edits",
    doc: "Applied in the order `remove`, `set`, `add`.",
    keys: &[
        key("set", Kind::Map(&HEADER_VALUES), "Replaces the header, or adds it."),
        key("add", Kind::Map(&HEADER_VALUES), "Adds a value beside those that are there."),
        key("remove", NAMES, "Takes headers away."),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static BACKEND: Table = Table {
    name: "backend",
    doc: "A service that a route sends requests to.",
    keys: &[
        key("service", Kind::Text, "The service's name.").required(),
        key(
            "weight",
            Kind::Integer { min: 0, max: 1_000_000 },
            "Its share, relative to the sum of all; 0 takes nothing.",
        )
        .default("1"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static SERVICES: Map = Map { key: "service", value: Kind::Table(&SERVICE), max: DECLARATIONS_MAX };

static SERVICE: Table = Table {
    name: "service",
    doc: "A program that listens on `$PORT`.",
    keys: &[
        key("description", Kind::Text, "What it does, in a sentence."),
        key("owner", Kind::Text, "Who looks after it."),
        key("build", Kind::Text, "A command that is run before the first start; services with the same one share its run."),
        key(
            "command",
            Kind::Command,
            "The program and its arguments, split as a shell would, without a shell. `${PORT}`, `${HOST}` and the other variables that the service is given expand when an instance starts.",
        )
        .required(),
        key("working_dir", Kind::Text, "Where `build`, `command` and `exec` probes run. Not written: the folder of the file that declares the service."),
        key("replicas", Kind::Integer { min: 0, max: INSTANCES_MAX }, "How many instances run.").default("1"),
        key("upstreams", NAMES, "Services that it may call. Each is given as `<NAME>_URL`; every other call has no address."),
        key("edges", Kind::Map(&EDGES), "Policy for calls to an upstream; `\"*\"` is for all of them."),
        key(
            "depends_on",
            Kind::Either(&NAMES, &Kind::Map(&CONDITIONS)),
            "What must be before it starts: a table of `started`, `healthy` or `completed`, or a list of names that must have `started`.",
        ),
        key("environment", Kind::Map(&ENVIRONMENT), "Variables of its own."),
        key(
            "env_file",
            Kind::Either(&Kind::Text, &NAMES),
            "Files of `NAME=value` lines. A later file wins over an earlier one, and `environment` over both.",
        ),
        key("probes", Kind::Table(&PROBES), "How its instances are asked whether they are well."),
        key("restart", Kind::Choice { known: &["no", "on-failure", "always"], later: &[] }, "What happens when an instance exits.")
            .default("always"),
        key("stop_signal", Kind::Choice { known: SIGNALS, later: &[] }, "What asks it to stop.").default("SIGTERM"),
        key(
            "stop_grace_period",
            Kind::Duration { min: Duration::ZERO, max: HOUR },
            "How long its requests in flight may take before the stop signal, and then the program from that signal to SIGKILL.",
        )
        .default("10s"),
        key("databases", NAMES, "Databases that it uses. One is given as `DATABASE_URL`, several as `<NAME>_DATABASE_URL` each."),
        key(
            "publishes",
            NAMES,
            "Subjects that it may publish, or patterns of them such as `orders.*`. A subject that belongs to no declared topic becomes one, with the default retention. It is given `EVENTS_URL` and `NATS_URL`.",
        ),
        key(
            "subscribes",
            NAMES,
            "Subjects of topics, or patterns of them, that it may subscribe to over NATS, and of whose streams it may have consumers. It is given `NATS_URL`. What `[[subscriptions]]` delivers to it needs no word here.",
        ),
        key("update", Kind::Table(&UPDATE), "How its instances are replaced when the manifest or the program has changed."),
        key("watch", Kind::Table(&WATCH), "Files that it is rebuilt or restarted for when they change."),
        key("resources", Kind::Table(&RESOURCES), "What its instances may use."),
        ALLOW,
    ],
    later: &["caches", "secrets", "starts", "image", "protocol", "auth", "rate_limit"],
    one_of: OneOf::Nothing,
};

const SIGNALS: &[&str] = &["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"];

static UPDATE: Table = Table {
    name: "update",
    doc: "How running instances are replaced by new ones.",
    keys: &[
        key(
            "strategy",
            Kind::Choice { known: &["rolling", "recreate"], later: &[] },
            "`rolling` starts new instances beside the old ones; `recreate` stops all old ones first.",
        )
        .default("rolling"),
        key(
            "max_surge",
            Kind::Integer { min: 0, max: INSTANCES_MAX },
            "Instances above `replicas` while it goes on. Not with `recreate`.",
        )
        .default("1"),
        key(
            "max_unavailable",
            Kind::Integer { min: 0, max: INSTANCES_MAX },
            "Instances below `replicas` while it goes on. Not with `recreate`.",
        )
        .default("0"),
        key(
            "min_ready",
            Kind::Duration { min: Duration::ZERO, max: HOUR },
            "How long a new instance must have been ready to count.",
        )
        .default("0s"),
        key("auto_revert", Kind::Boolean, "Whether an update that has failed is taken back.").default("true"),
        key(
            "progress_deadline",
            Kind::Duration { min: Duration::from_secs(1), max: HOUR },
            "Without one more new instance for so long, it has failed. Longer than `min_ready`.",
        )
        .default("60s"),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static WATCH: Table = Table {
    name: "watch",
    doc: "Files that a service is rebuilt or restarted for when they change.",
    keys: &[
        key("paths", NAMES, "Files and folders, with all that is in them.").required(),
        key(
            "action",
            Kind::Choice { known: &["rebuild", "restart"], later: &[] },
            "Not written: `rebuild` where the service has a `build`, else `restart`.",
        ),
        key("ignore", NAMES, "Globs for what is passed over, such as `*.tmp`."),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static RESOURCES: Table = Table {
    name: "resources",
    doc: "What instances may use.",
    keys: &[key("limits", Kind::Table(&LIMITS), "The most that each instance may use.")],
    later: &[],
    one_of: OneOf::Nothing,
};

static LIMITS: Table = Table {
    name: "limits",
    doc: "The most that one instance may use.",
    keys: &[
        key("cpu", Kind::Cpu { min: 1, max: 1_024_000 }, "Cores: `\"500m\"` and `0.5` are half of one."),
        key("memory", Kind::Size { min: 1 << 20, max: 16 << 40 }, "Memory, with a unit: `\"128MiB\"`."),
        key("pids", Kind::Integer { min: 1, max: 1 << 22 }, "Processes and threads."),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

static EDGES: Map = Map { key: "upstream", value: Kind::Table(&EDGE), max: LIST_MAX };
static CONDITIONS: Map = Map { key: "service", value: CONDITION, max: LIST_MAX };
static ENVIRONMENT: Map = Map { key: "variable", value: Kind::Text, max: ENTRIES_MAX };

pub(crate) static EDGE: Table = Table {
    name: "edge",
    doc: "Policy for calls from a service to one upstream.",
    keys: &[
        policy::TIMEOUT,
        policy::TOTAL_TIMEOUT,
        policy::CONNECT_TIMEOUT,
        policy::IDLE_TIMEOUT,
        policy::RETRY,
        policy::LOAD_BALANCING,
        policy::OUTLIER_EJECTION,
        policy::CIRCUIT_BREAKER,
        policy::CONCURRENCY_LIMIT,
        policy::RATE_LIMIT,
        policy::FALLBACK,
        ALLOW,
    ],
    later: &["auth"],
    one_of: OneOf::Nothing,
};

static PROBES: Table = Table {
    name: "probes",
    doc: "How instances are asked whether they are well.",
    keys: &[
        key("startup", Kind::Table(&PROBE), "Until it succeeds once, the others do not run."),
        key(
            "readiness",
            Kind::Table(&READINESS),
            "Whether an instance takes requests. Not written: `GET /readyz`, or a TCP connection where there is no such page.",
        ),
        key("liveness", Kind::Table(&PROBE), "An instance that fails it is restarted."),
    ],
    later: &[],
    one_of: OneOf::Nothing,
};

const CHECKS: &[&str] = &["http", "tcp", "exec"];
const HTTP: Key = key("http", Kind::Text, "The path of a GET; a status from 200 to 399 is a success.");
const TCP: Key = key("tcp", SWITCH, "A connection that is accepted is a success.");
const EXEC: Key = key("exec", Kind::Command, "A command; exit status 0 is a success.");
const INTERVAL: Key =
    key("interval", Kind::Duration { min: Duration::from_millis(10), max: HOUR }, "From one try to the next.")
        .default("1s");
const PROBE_TIMEOUT: Key = key("timeout", TIMEOUT, "How long a try may take.").default("1s");
const THRESHOLD: Key =
    key("failure_threshold", Kind::Integer { min: 1, max: 1_000 }, "Failures in a row until the probe has failed.")
        .default("3");

static PROBE: Table = Table {
    name: "probe",
    doc: "A question to an instance.",
    keys: &[HTTP, TCP, EXEC, INTERVAL, PROBE_TIMEOUT, THRESHOLD],
    later: &["grpc"],
    one_of: OneOf::Exactly(CHECKS),
};

static READINESS: Table = Table {
    name: "readiness probe",
    doc: "A question to an instance; without `http`, `tcp` and `exec` it is the default one.",
    keys: &[HTTP, TCP, EXEC, INTERVAL, PROBE_TIMEOUT, THRESHOLD],
    later: &["grpc"],
    one_of: OneOf::AtMost(CHECKS),
};
