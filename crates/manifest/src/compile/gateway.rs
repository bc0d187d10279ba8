//! Where the gateway listens.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::Gateway;
use crate::reader::{Table, Text};
use crate::{Code, Ports};

/// Limit: ports above the default one that are tried.
const TRIES_MAX: u16 = 100;
/// Used where the written address cannot be, so that the rest can be looked at.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// The address as far as it is known before ports are assigned.
#[derive(Debug)]
pub(crate) struct Listener<'d> {
    /// Port 0: one of the range is still to be assigned.
    pub address: SocketAddr,
    /// Whether the port is written.
    pub written: bool,
    /// Where it is written, or where it would be.
    pub place: Place<'d>,
}

impl Listener<'_> {
    pub(crate) fn settle(&self, ports: &BTreeMap<String, u16>) -> Gateway {
        let mut listen = self.address;
        if listen.port() == 0 {
            listen.set_port(ports.get(Ports::GATEWAY).copied().unwrap_or_default());
        }
        Gateway { listen, written: self.written }
    }
}

pub(crate) fn listener<'d>(cx: &Context<'_>, root: &Table<'d>) -> Listener<'d> {
    let table = root.table("gateway");
    if let Some(text) = table.as_ref().and_then(|table| table.text("listen")) {
        let address = parse(cx, &text).unwrap_or(DEFAULT);
        return Listener { address, written: address.port() != 0, place: text.place };
    }
    let place = table.map_or_else(|| root.place_of("name"), |table| table.place);
    let default = root.table("gateway").map_or_else(String::new, |table| table.text_or_default("listen"));
    let default: SocketAddr = default.parse().unwrap_or(DEFAULT);
    let port = free_port(default.port(), &cx.sources.ports);
    match port {
        Some((port, Chosen::Now)) => {
            let message = format!("port {} is taken; the gateway listens on {port}", default.port());
            let hint = format!("write `listen = \"{}:{port}\"` under `[gateway]` to keep it", default.ip());
            cx.report(
                Diagnostic::new(Code::DefaultPortTaken, &place, message).label("no `listen` is written").hint(hint),
            );
        }
        Some((_, Chosen::Before)) => {}
        None => {
            let message = format!("port {} and the {TRIES_MAX} above it are taken", default.port());
            let hint = "write `listen` under `[gateway]` with a port that is free";
            cx.report(Diagnostic::new(Code::PortsExhausted, &place, message).hint(hint));
        }
    }
    let port = port.map_or(default.port(), |(port, _)| port);
    Listener { address: SocketAddr::new(default.ip(), port), written: false, place }
}

/// Whether the choice is news to the user.
enum Chosen {
    Now,
    Before,
}

fn free_port(default: u16, ports: &Ports) -> Option<(u16, Chosen)> {
    let free = |port: &u16| *port != 0 && !ports.busy.contains(port);
    if let Some(port) = ports.ledger.get(Ports::GATEWAY).copied().filter(free) {
        return Some((port, Chosen::Before));
    }
    if free(&default) {
        return Some((default, Chosen::Before));
    }
    // A port that the ledger keeps for an instance is not free either.
    let kept = |port: &u16| ports.ledger.values().any(|kept| kept == port);
    let mut above = (default..=default.saturating_add(TRIES_MAX)).filter(|port| free(port) && !kept(port));
    above.next().map(|port| (port, Chosen::Now))
}

fn parse(cx: &Context<'_>, text: &Text<'_>) -> Option<SocketAddr> {
    let Ok(address) = text.value.parse::<SocketAddr>() else {
        let message = format!("`{}` is not an address and a port", text.value);
        let port = text.value.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(8080);
        let hint = format!("write `listen = \"127.0.0.1:{port}\"`");
        cx.report(Diagnostic::new(Code::Listen, &text.place, message).label("an IP address is needed").hint(hint));
        return None;
    };
    if !address.ip().is_loopback() {
        let message = format!("`{address}` can be reached from other machines");
        let hint = format!("write `listen = \"127.0.0.1:{}\"` unless that is meant", address.port());
        cx.report(
            Diagnostic::new(Code::ListenExposed, &text.place, message).label("not a loopback address").hint(hint),
        );
    }
    Some(address)
}
