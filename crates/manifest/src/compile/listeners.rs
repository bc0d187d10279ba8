//! Where gateway, dashboard and broker listen, and the limits of what comes in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::declared::Declared;
use super::{nats, topics};
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::{Broker, Dashboard, Gateway, Limits};
use crate::reader::{Table, Text};
use crate::{Code, Ports};

/// Limit: ports above the default one that are tried.
const TRIES_MAX: u16 = 100;

/// A listener that a table of the root manifest is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Gateway,
    Dashboard,
    Broker,
    /// The broker's monitoring pages.
    Monitor,
}

impl Which {
    /// Its table, and its key there.
    const fn written_as(self) -> (&'static str, &'static str) {
        match self {
            Self::Gateway => ("gateway", "listen"),
            Self::Dashboard => ("dashboard", "listen"),
            Self::Broker => ("broker", "listen"),
            Self::Monitor => ("broker", "monitor"),
        }
    }

    /// Its noun in messages.
    const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Dashboard => "dashboard",
            Self::Broker => "broker",
            Self::Monitor => "broker's monitoring",
        }
    }

    /// Its entry in the ledger.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Gateway => Ports::GATEWAY,
            Self::Dashboard => Ports::DASHBOARD,
            Self::Broker => Ports::BROKER,
            Self::Monitor => Ports::MONITOR,
        }
    }

    /// What it means that other machines reach it.
    const fn exposed(self) -> &'static str {
        match self {
            Self::Gateway => "not a loopback address",
            Self::Dashboard => "not a loopback address: who reaches it sees what runs here",
            Self::Broker => "not a loopback address: passwords and messages cross the network in clear text",
            Self::Monitor => "not a loopback address: who reaches it sees who is connected",
        }
    }
}

/// The address as far as it is known before ports are assigned.
#[derive(Debug)]
pub(crate) struct Listener<'d> {
    pub which: Which,
    /// Port 0: one of the range is still to be assigned.
    pub address: SocketAddr,
    /// Whether the port is written.
    pub written: bool,
    /// Where it is written, or where it would be.
    pub place: Place<'d>,
}

impl Listener<'_> {
    fn settled(&self, ports: &BTreeMap<String, u16>) -> SocketAddr {
        let mut listen = self.address;
        if listen.port() == 0 {
            listen.set_port(ports.get(self.which.key()).copied().unwrap_or_default());
        }
        listen
    }
}

/// The listeners of the root manifest.
#[derive(Debug)]
pub(crate) struct Listeners<'d> {
    pub gateway: Listener<'d>,
    dashboard: Listener<'d>,
    /// Where something needs it, with its monitoring where that is written.
    broker: Option<(Listener<'d>, Option<Listener<'d>>)>,
    access_log: bool,
    reason_header: bool,
    limits: Limits,
}

impl<'d> Listeners<'d> {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Listener<'d>> {
        let (broker, monitor) = self.broker.as_ref().map(|(broker, monitor)| (broker, monitor.as_ref())).unzip();
        [&self.gateway, &self.dashboard].into_iter().chain(broker).chain(monitor.flatten())
    }

    pub(crate) fn settle(
        &self,
        cx: &Context<'_>,
        root: &Table<'_>,
        ports: &BTreeMap<String, u16>,
    ) -> (Gateway, Dashboard, Option<Broker>) {
        let Self { gateway, dashboard, broker, access_log, reason_header, limits } = self;
        (
            Gateway {
                listen: gateway.settled(ports),
                written: gateway.written,
                access_log: *access_log,
                reason_header: *reason_header,
                limits: limits.clone(),
            },
            Dashboard { listen: dashboard.settled(ports), written: dashboard.written },
            broker.as_ref().map(|(broker, monitor)| {
                let monitor = monitor.as_ref().map(|monitor| monitor.settled(ports));
                let table = root.table_or_default("broker");
                topics::broker(cx, &table, (broker.settled(ports), broker.written), monitor)
            }),
        )
    }
}

pub(crate) fn listeners<'d>(cx: &Context<'_>, declared: &Declared<'d>) -> Listeners<'d> {
    let root = &declared.root;
    let gateway = listener(cx, root, Which::Gateway, &[]);
    let dashboard = listener(cx, root, Which::Dashboard, &[&gateway]);
    let is_embedded = topics::needs_broker(declared) && !nats::is_written(declared);
    let broker = is_embedded.then(|| {
        let broker = listener(cx, root, Which::Broker, &[&gateway, &dashboard]);
        let is_written = root.table("broker").is_some_and(|table| table.text("monitor").is_some());
        let monitor = is_written.then(|| listener(cx, root, Which::Monitor, &[&gateway, &dashboard, &broker]));
        (broker, monitor)
    });
    let table = root.table_or_default("gateway");
    Listeners {
        gateway,
        dashboard,
        broker,
        access_log: table.boolean("access_log"),
        reason_header: table.boolean("reason_header"),
        limits: limits(&table.table_or_default("limits")),
    }
}

fn limits(table: &Table<'_>) -> Limits {
    Limits {
        request_head: table.size("request_head"),
        request_headers: table.count("request_headers"),
        request_target: table.size("request_target"),
        request_body: table.size("request_body"),
        request_head_timeout: table.duration("request_head_timeout"),
        request_body_timeout: table.duration("request_body_timeout"),
        idle_timeout: table.duration("idle_timeout"),
        connections: table.count("connections"),
        connections_per_listener: table.count("connections_per_listener"),
        connections_per_address: table.count("connections_per_address"),
        requests: table.count("requests"),
        connect_timeout: table.duration("connect_timeout"),
        upstream_idle_connections: table.count("upstream_idle_connections"),
        upstream_idle_timeout: table.duration("upstream_idle_timeout"),
        upstream_max_age: table.duration("upstream_max_age"),
        response_idle_timeout: table.duration("response_idle_timeout"),
        response_rate_min: table.size("response_rate_min"),
        trailers: table.size("trailers"),
        chunk_extensions: table.size("chunk_extensions"),
        interim_responses: table.count("interim_responses"),
    }
}

/// `others` were looked at before.
fn listener<'d>(cx: &Context<'_>, root: &Table<'d>, which: Which, others: &[&Listener<'_>]) -> Listener<'d> {
    let ((table_name, key), name) = (which.written_as(), which.name());
    let table = root.table(table_name);
    // The monitoring has no address but the written one; what stands for a wrong one is never used.
    let default = root.table_or_default(table_name).default(key).parse();
    let default = default.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    if let Some(text) = table.as_ref().and_then(|table| table.text(key)) {
        // What cannot be used is told; with the default the rest can be looked at.
        let address = parse(cx, &text, (which, others), default).unwrap_or(default);
        return Listener { which, address, written: address.port() != 0, place: text.place };
    }
    let place = table.map_or_else(|| root.place_of("name"), |table| table.place);
    let port = free_port(which, (default.port(), others), &cx.sources.ports);
    match port {
        Some((port, Chosen::Now)) => {
            let message = format!("port {} is taken; the {name} listens on {port}", default.port());
            let hint = format!("write `{key} = \"{}:{port}\"` under `[{table_name}]` to keep it", default.ip());
            cx.report(
                Diagnostic::new(Code::DefaultPortTaken, &place, message)
                    .label(format!("no `{key}` is written"))
                    .hint(hint),
            );
        }
        Some((_, Chosen::Before)) => {}
        None => {
            let message = format!("port {} and the {TRIES_MAX} above it are taken", default.port());
            let hint = format!("write `{key}` under `[{table_name}]` with a port that is free");
            cx.report(Diagnostic::new(Code::PortsExhausted, &place, message).hint(hint));
        }
    }
    let port = port.map_or(default.port(), |(port, _)| port);
    Listener { which, address: SocketAddr::new(default.ip(), port), written: false, place }
}

/// Whether the choice is news to the user.
enum Chosen {
    Now,
    Before,
}

fn free_port(which: Which, (default, others): (u16, &[&Listener<'_>]), ports: &Ports) -> Option<(u16, Chosen)> {
    let is_others = |port: u16| others.iter().any(|other| other.address.port() == port);
    let free = |port: &u16| *port != 0 && !ports.busy.contains(port) && !is_others(*port);
    if let Some(port) = ports.ledger.get(which.key()).copied().filter(free) {
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

fn parse(
    cx: &Context<'_>,
    text: &Text<'_>,
    (which, others): (Which, &[&Listener<'_>]),
    default: SocketAddr,
) -> Option<SocketAddr> {
    let (_, key) = which.written_as();
    let refuse = |message: String, label: &str, port: u16| {
        let hint = format!("write `{key} = \"127.0.0.1:{port}\"`");
        cx.report(Diagnostic::new(Code::Listen, &text.place, message).label(label).hint(hint));
        None
    };
    let Ok(address) = text.value.parse::<SocketAddr>() else {
        let message = format!("`{}` is not an address and a port", text.value);
        let port = text.value.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(default.port());
        return refuse(message, "an IP address is needed", port);
    };
    let same = others.iter().find(|other| address.port() != 0 && other.address.port() == address.port());
    if let Some(other) = same {
        let message = format!("port {} is the {}'s", address.port(), other.which.name());
        return refuse(message, "a port of its own is needed", address.port().wrapping_add(1).max(1));
    }
    if !address.ip().is_loopback() {
        let message = format!("`{address}` can be reached from other machines");
        let hint = format!("write `{key} = \"127.0.0.1:{}\"` unless that is meant", address.port());
        cx.report(Diagnostic::new(Code::ListenExposed, &text.place, message).label(which.exposed()).hint(hint));
    }
    Some(address)
}
