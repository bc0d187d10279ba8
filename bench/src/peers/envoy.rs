//! Envoy: two workers, a static configuration in JSON.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Life, Setup, launch, write};
use crate::work::{ANSWER, CONNECT, HEAD, KEEP_ALIVE, Logs, THREADS, prefix};

/// Where the types of its configuration are declared.
const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) fn start(program: &Path, setup: &Setup<'_>) -> Result<Life> {
    let file = write(setup, "envoy.json", &configuration(setup))?;
    let mut command = Command::new(program);
    command.args(["--disable-hot-restart", "--log-level", "error", "--concurrency", &THREADS.to_string()]);
    command.arg("--config-path").arg(file);
    launch(setup, command)
}

pub(super) fn configuration(setup: &Setup<'_>) -> String {
    let endpoints: Vec<Value> =
        setup.upstreams.iter().map(|address| json!({ "endpoint": { "address": socket(*address) } })).collect();
    let manager = manager(setup);
    json!({
        "static_resources": {
            "listeners": [{
                "name": "in",
                "address": socket(setup.address),
                "filter_chains": [{
                    "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }]
                }]
            }],
            "clusters": [{
                "name": "up",
                "type": "STATIC",
                "connect_timeout": format!("{CONNECT}s"),
                "lb_policy": "ROUND_ROBIN",
                "load_assignment": { "cluster_name": "up", "endpoints": [{ "lb_endpoints": endpoints }] }
            }]
        }
    })
    .to_string()
}

fn manager(setup: &Setup<'_>) -> Value {
    let routes: Vec<Value> = (0..setup.routes)
        .map(|route| {
            let target = json!({ "cluster": "up", "timeout": format!("{ANSWER}s") });
            json!({ "match": { "prefix": format!("{}/", prefix(route)) }, "route": target })
        })
        .collect();
    let access: Vec<Value> = match setup.logs {
        Logs::Off => Vec::new(),
        Logs::On => vec![json!({
            "name": "envoy.access_loggers.file",
            "typed_config": { "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"), "path": "access.log" }
        })],
    };
    json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "codec_type": "HTTP1",
        "use_remote_address": true,
        "generate_request_id": true,
        "request_headers_timeout": format!("{HEAD}s"),
        "stream_idle_timeout": format!("{KEEP_ALIVE}s"),
        "common_http_protocol_options": { "idle_timeout": format!("{KEEP_ALIVE}s") },
        "access_log": access,
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") }
        }],
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] }
    })
}

fn socket(address: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
