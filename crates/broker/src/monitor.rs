//! What can be read about the broker: `/varz`, `/connz`, `/subsz`, `/jsz`, `/healthz`, in nats-server's names. Read by its listener
//! (off unless configured) and by the handle. It changes nothing.

mod http;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::broker::{Broker, Closed};
use crate::client::Client;
use crate::jetstream;
use crate::protocol::VERSION;
use crate::subscription::Subscription;
pub(crate) use http::serve;

/// Limit: entries of a page, unless `limit` asks for fewer.
const PAGE_MAX: usize = 1024;
/// Limit: subscriptions of one connection that are listed.
const LISTED_MAX: usize = 1024;

/// Sums over all connections, those that have ended too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open now.
    pub connections: usize,
    pub connections_total: u64,
    pub subscriptions: usize,
    pub slow_consumers: u64,
    pub stale_connections: u64,
    pub in_messages: u64,
    pub in_bytes: u64,
    pub out_messages: u64,
    pub out_bytes: u64,
    /// Bytes that wait for clients.
    pub pending_bytes: usize,
}

pub(crate) fn counts(broker: &Broker) -> Counts {
    let relaxed = Ordering::Relaxed;
    let ended = &broker.counts;
    let mut counts = Counts {
        connections: ended.connections.load(relaxed),
        connections_total: ended.connections_total.load(relaxed),
        subscriptions: broker.sublist.counts().subscriptions,
        slow_consumers: ended.slow_consumers.load(relaxed),
        stale_connections: ended.stale_connections.load(relaxed),
        in_messages: ended.in_messages.load(relaxed),
        in_bytes: ended.in_bytes.load(relaxed),
        out_messages: ended.out_messages.load(relaxed),
        out_bytes: ended.out_bytes.load(relaxed),
        pending_bytes: 0,
    };
    for client in broker.clients() {
        let sent = client.outbound.sent();
        counts.in_messages += client.received.messages.load(relaxed);
        counts.in_bytes += client.received.bytes.load(relaxed);
        counts.out_messages += sent.messages;
        counts.out_bytes += sent.bytes;
        counts.pending_bytes += sent.pending;
    }
    counts
}

/// Answers a request's target, such as `/connz?subs=1&limit=10`; `None` for an unknown path.
pub(crate) fn report(broker: &Broker, target: &str) -> Option<Value> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match path {
        "/healthz" => Some(json!({ "status": "ok" })),
        "/varz" => Some(varz(broker)),
        "/connz" => Some(connz(broker, &Query(query))),
        "/jsz" => Some(jetstream(broker)),
        "/subsz" | "/subscriptionsz" => Some(subsz(broker, &Query(query))),
        _ => None,
    }
}

/// What is behind the question mark.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find_map(|(key, value)| (key == name).then_some(value))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    fn is_on(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| matches!(value, "1" | "true" | "detail"))
    }

    fn page(&self) -> (usize, usize) {
        let number = |name| self.number(name).and_then(|value| usize::try_from(value).ok());
        (number("offset").unwrap_or(0), number("limit").unwrap_or(PAGE_MAX).min(PAGE_MAX))
    }
}

fn varz(broker: &Broker) -> Value {
    let (counts, limits, now) = (counts(broker), &broker.limits, Timestamp::now());
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    json!({
        "server_id": broker.server_id,
        "server_name": broker.name,
        "version": VERSION,
        "proto": 1,
        "go": "",
        "host": broker.address().ip().to_string(),
        "port": broker.address().port(),
        "auth_required": broker.users().is_closed(),
        "max_connections": limits.connections_max,
        "max_subscriptions": limits.subscriptions_max,
        "ping_interval": nanos(limits.ping_interval),
        "ping_max": limits.pings_outstanding_max,
        "auth_timeout": limits.auth_timeout.as_secs_f64(),
        "max_control_line": limits.control_line_max,
        "max_payload": limits.payload_max,
        "max_pending": limits.pending_max,
        "tls_timeout": limits.tls_timeout.as_secs_f64(),
        "write_deadline": nanos(limits.write_deadline),
        "start": broker.started.1.to_string(),
        "now": now.to_string(),
        "uptime": uptime(broker.started.0.elapsed()),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "connections": counts.connections,
        "total_connections": counts.connections_total,
        "in_msgs": counts.in_messages,
        "in_bytes": counts.in_bytes,
        "out_msgs": counts.out_messages,
        "out_bytes": counts.out_bytes,
        "slow_consumers": counts.slow_consumers,
        "stale_connections": counts.stale_connections,
        "subscriptions": counts.subscriptions,
        "slow_consumer_stats": { "clients": counts.slow_consumers, "routes": 0, "gateways": 0, "leafs": 0 },
    })
}

fn connz(broker: &Broker, query: &Query<'_>) -> Value {
    let (offset, limit) = query.page();
    let state = query.text("state").unwrap_or("open");
    let mut found: Vec<(Arc<Client>, Option<Closed>)> = Vec::new();
    if matches!(state, "open" | "any" | "all") {
        found.extend(broker.clients().into_iter().map(|client| (client, None)));
    }
    if matches!(state, "closed" | "any" | "all") {
        found.extend(broker.closed().into_iter().map(|closed| (Arc::clone(&closed.client), Some(closed))));
    }
    if let Some(cid) = query.number("cid") {
        found.retain(|(client, _)| client.id == cid);
    }
    found.sort_by_key(|(client, _)| client.id);
    let page = found.iter().skip(offset).take(limit);
    let page: Vec<Value> = page.map(|(client, closed)| listed(client, closed.as_ref(), query)).collect();
    json!({
        "server_id": broker.server_id,
        "now": Timestamp::now().to_string(),
        "num_connections": page.len(),
        "total": found.len(),
        "offset": offset,
        "limit": limit,
        "connections": page,
    })
}

fn listed(client: &Client, closed: Option<&Closed>, query: &Query<'_>) -> Value {
    let mut fields = connection(client);
    if let Some(closed) = closed {
        fields.insert("stop".to_owned(), closed.stopped.to_string().into());
        fields.insert("reason".to_owned(), closed.reason.label().into());
    }
    if query.is_on("subs") {
        let listed = client.some_subscriptions(LISTED_MAX);
        let subjects = listed.iter().map(|listed| text(listed.subject())).collect::<Vec<_>>();
        fields.insert("subscriptions_list".to_owned(), subjects.into());
    }
    fields.into()
}

fn connection(client: &Client) -> Map<String, Value> {
    let (said, sent, relaxed) = (client.said().clone(), client.outbound.sent(), Ordering::Relaxed);
    let active = std::time::Duration::from_millis(client.received.active_ms.load(relaxed));
    let last = client.started.1 + active;
    let fields = json!({
        "cid": client.id,
        "kind": "Client",
        "type": "nats",
        "ip": client.address.ip().to_string(),
        "port": client.address.port(),
        "start": client.started.1.to_string(),
        "last_activity": last.to_string(),
        "uptime": uptime(client.started.0.elapsed()),
        "idle": uptime(client.started.0.elapsed().saturating_sub(active)),
        "pending_bytes": sent.pending,
        "in_msgs": client.received.messages.load(relaxed),
        "out_msgs": sent.messages,
        "in_bytes": client.received.bytes.load(relaxed),
        "out_bytes": sent.bytes,
        "subscriptions": client.subscriptions_len(),
        "name": said.name,
        "lang": said.lang,
        "version": said.version,
        "authorized_user": said.user.map(|user| user.name.clone()).unwrap_or_default(),
        "account": "$G",
    });
    let Value::Object(mut fields) = fields else { return Map::new() };
    fields.retain(|_, value| *value != "");
    fields
}

fn jetstream(broker: &Broker) -> Value {
    let mut report = broker.jetstream().map_or_else(|| json!({ "disabled": true }), jetstream::report);
    report["server_id"] = broker.server_id.clone().into();
    report["now"] = Timestamp::now().to_string().into();
    report
}

fn subsz(broker: &Broker, query: &Query<'_>) -> Value {
    let counts = broker.sublist.counts();
    let mut report = json!({
        "server_id": broker.server_id,
        "now": Timestamp::now().to_string(),
        "num_subscriptions": counts.subscriptions,
        "num_inserts": counts.inserts,
        "num_removes": counts.removes,
    });
    if query.is_on("subs") {
        let (offset, limit) = query.page();
        let clients = broker.clients();
        let all = clients.iter().flat_map(|client| client.some_subscriptions(LISTED_MAX));
        let listed: Vec<Value> = all.skip(offset).take(limit).map(|found| subscription(&found)).collect();
        report["total"] = listed.len().into();
        report["offset"] = offset.into();
        report["limit"] = limit.into();
        report["subscriptions_list"] = listed.into();
    }
    report
}

fn subscription(found: &Subscription) -> Value {
    let mut fields = Map::new();
    fields.insert("account".to_owned(), "$G".into());
    fields.insert("subject".to_owned(), text(found.subject()).into());
    if let Some(queue) = found.queue() {
        fields.insert("qgroup".to_owned(), text(queue).into());
    }
    fields.insert("sid".to_owned(), text(found.sid()).into());
    fields.insert("msgs".to_owned(), found.delivered().into());
    if let Some(client) = found.client() {
        fields.insert("cid".to_owned(), client.id.into());
    }
    fields.into()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// As nats-server writes it: `2d3h4m5s`, without what is zero before.
fn uptime(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 86400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
    parts[first..].iter().map(|(count, unit)| format!("{count}{unit}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_are_written_as_nats_server_writes_them() {
        let written = |seconds| uptime(std::time::Duration::from_secs(seconds));
        assert_eq!([written(0), written(61), written(90_000)], ["0s", "1m1s", "1d1h0m0s"]);
    }
}
