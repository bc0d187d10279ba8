//! nginx: two workers, each with a pool of idle connections to the upstream.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Life, Setup, launch, write};
use crate::work::{ANSWER, CONNECT, CONNECTIONS, HEAD, IDLE_CONNECTIONS, KEEP_ALIVE, Logs, THREADS, prefix};

pub(super) fn start(program: &Path, setup: &Setup<'_>) -> Result<Life> {
    let file = write(setup, "nginx.conf", &configuration(setup))?;
    let mut command = Command::new(program);
    command.arg("-p").arg(setup.folder).arg("-e").arg("error.log").arg("-c").arg(file);
    launch(setup, command)
}

pub(super) fn configuration(setup: &Setup<'_>) -> String {
    let access = match setup.logs {
        Logs::Off => "off",
        Logs::On => "access.log combined buffer=32k flush=1s",
    };
    let servers: String = setup.upstreams.iter().map(|address| format!("    server {address};\n")).collect();
    let locations = (0..setup.routes).fold(String::new(), |mut text, route| {
        let _ = writeln!(text, "    location {}/ {{ proxy_pass http://up; }}", prefix(route));
        text
    });
    let listen = setup.address;
    let connections = IDLE_CONNECTIONS * 2;
    format!(
        "\
daemon off;
worker_processes {THREADS};
pid nginx.pid;
error_log error.log error;
events {{ worker_connections {connections}; }}
http {{
  access_log {access};
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_body_buffer_size 64k;
  client_header_timeout {HEAD}s;
  client_body_timeout {KEEP_ALIVE}s;
  send_timeout {KEEP_ALIVE}s;
  keepalive_timeout {KEEP_ALIVE}s;
  keepalive_requests 100000000;
  upstream up {{
{servers}    keepalive {CONNECTIONS};
    keepalive_requests 100000000;
  }}
  proxy_http_version 1.1;
  proxy_set_header Connection \"\";
  proxy_set_header Host $http_host;
  proxy_set_header X-Request-Id $request_id;
  proxy_connect_timeout {CONNECT}s;
  proxy_send_timeout {ANSWER}s;
  proxy_read_timeout {ANSWER}s;
  server {{
    listen {listen} reuseport backlog=4096;
{locations}  }}
}}
"
    )
}
