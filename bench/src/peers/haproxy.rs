//! HAProxy: two threads; routes are looked up in a prefix tree (`map_beg`), its cheapest way for many.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Life, Setup, launch, write};
use crate::work::{ANSWER, CONNECT, HEAD, IDLE_CONNECTIONS, KEEP_ALIVE, Logs, THREADS, prefix};

/// The name of [`map`]'s file.
const MAP: &str = "routes.map";

pub(super) fn start(program: &Path, setup: &Setup<'_>) -> Result<Life> {
    write(setup, MAP, &map(setup))?;
    let file = write(setup, "haproxy.cfg", &configuration(setup))?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    launch(setup, command)
}

pub(super) fn map(setup: &Setup<'_>) -> String {
    (0..setup.routes).fold(String::new(), |mut text, route| {
        let _ = writeln!(text, "{}/ up", prefix(route));
        text
    })
}

pub(super) fn configuration(setup: &Setup<'_>) -> String {
    let (sink, log) = match setup.logs {
        Logs::Off => ("", ""),
        Logs::On => ("  log stdout format raw local0 info\n", "  log global\n  option httplog\n"),
    };
    let servers = (1..).zip(setup.upstreams).fold(String::new(), |mut text, (number, address)| {
        let _ = writeln!(text, "  server up{number} {address}");
        text
    });
    let listen = setup.address;
    let connections = IDLE_CONNECTIONS * 3 / 2;
    // Not more than the open files allow: HAProxy takes two for each connection.
    format!(
        "\
global
  nbthread {THREADS}
  fd-hard-limit {}
{sink}defaults
  mode http
{log}  timeout connect {CONNECT}s
  timeout client {KEEP_ALIVE}s
  timeout server {ANSWER}s
  timeout http-request {HEAD}s
  timeout http-keep-alive {KEEP_ALIVE}s
  http-reuse always
frontend in
  bind {listen}
  http-request set-header x-request-id %[uuid()]
  use_backend %[path,map_beg({MAP})]
backend up
  balance roundrobin
{servers}",
        connections * 2
    )
}
