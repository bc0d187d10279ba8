//! Caddy: Go's scheduler is given two processors.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Life, Setup, launch, write};
use crate::work::{ANSWER, CONNECT, CONNECTIONS, HEAD, KEEP_ALIVE, Logs, THREADS, prefix};

pub(super) fn start(program: &Path, setup: &Setup<'_>) -> Result<Life> {
    let file = write(setup, "caddy.json", &configuration(setup))?;
    let mut command = Command::new(program);
    command.args(["run", "--config"]).arg(file);
    // Else it keeps its state in the user's folders.
    for variable in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env(variable, setup.folder);
    }
    command.env("GOMAXPROCS", THREADS.to_string());
    launch(setup, command)
}

pub(super) fn configuration(setup: &Setup<'_>) -> String {
    let upstreams: Vec<Value> = setup.upstreams.iter().map(|address| json!({ "dial": address.to_string() })).collect();
    let proxy = json!({
        "handler": "reverse_proxy",
        "upstreams": upstreams,
        "load_balancing": { "selection_policy": { "policy": "round_robin" } },
        "headers": { "request": { "set": { "X-Request-Id": ["{http.request.uuid}"] } } },
        "transport": {
            "protocol": "http",
            "compression": false,
            "dial_timeout": format!("{CONNECT}s"),
            "response_header_timeout": format!("{ANSWER}s"),
            "keep_alive": { "max_idle_conns_per_host": CONNECTIONS, "idle_timeout": format!("{KEEP_ALIVE}s") }
        }
    });
    let routes: Vec<Value> = (0..setup.routes)
        .map(|route| json!({ "match": [{ "path": [format!("{}/*", prefix(route))] }], "handle": [proxy], "terminal": true }))
        .collect();
    let mut server = json!({
        "listen": [setup.address.to_string()],
        "automatic_https": { "disable": true },
        "protocols": ["h1"],
        "read_header_timeout": format!("{HEAD}s"),
        "idle_timeout": format!("{KEEP_ALIVE}s"),
        "routes": routes
    });
    let mut logs = json!({ "default": { "level": "ERROR" } });
    if setup.logs == Logs::On {
        server["logs"] = json!({ "default_logger_name": "access" });
        logs["default"]["exclude"] = json!(["http.log.access.access"]);
        logs["access"] = json!({
            "include": ["http.log.access.access"],
            "writer": { "output": "file", "filename": "access.log" },
            "encoder": { "format": "json" }
        });
    }
    json!({
        "admin": { "disabled": true, "config": { "persist": false } },
        "logging": { "logs": logs },
        "apps": { "http": { "servers": { "in": server } } }
    })
    .to_string()
}
