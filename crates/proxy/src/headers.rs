//! Header fields on their way through a proxy: what belongs to one connection is removed, what the next must know is
//! set. At a gateway nothing from outside is believed; at an edge the caller is ours and its context is passed on.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{StatusCode, Version};
use kit::trace::TraceContext;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const DEADLINE: HeaderName = HeaderName::from_static("atoll-deadline");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Fields of the platform's own; from outside they are never true.
const OWN_PREFIX: &str = "atoll-";

/// Always about one connection (RFC 9110 §7.6.1), whether `connection` names them or not.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

// Limit: longer request ids are replaced, from outside and from our own callers alike.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What identifies a request across services.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) request_id: HeaderValue,
    /// The span of the request that came in.
    pub(crate) trace: TraceContext,
    continues: bool,
}

impl Identity {
    /// Takes what the client gave if it is well-formed and makes the rest.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut ids = headers.get_all(REQUEST_ID).iter();
        let request_id = ids.next().filter(|id| ids.next().is_none() && fits_request_id(id.as_bytes())).cloned();
        let mut traces = headers.get_all(TRACEPARENT).iter();
        let trace = traces.next().filter(|_| traces.next().is_none());
        let trace = trace.and_then(|value| TraceContext::parse(value.as_bytes()));
        Self {
            request_id: request_id
                .unwrap_or_else(|| kit::ids::unique().try_into().expect("a UUID is a valid field value")),
            trace: trace.unwrap_or_else(TraceContext::root),
            continues: trace.is_some(),
        }
    }
}

/// Whether an id may go into logs, URLs and lists as it is.
fn fits_request_id(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_graphic() && !b"\"'`,;\\<>".contains(byte))
}

/// How the client came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) client: SocketAddr,
    /// The port that it connected to.
    pub(crate) port: u16,
    /// As the client wrote it.
    pub(crate) host: &'a str,
    pub(crate) version: Version,
    /// Whether it is a declared caller, whose forwarding fields are believed.
    pub(crate) is_edge: bool,
}

/// The protocol that a request asks to change to, if it is one that we pass on. `h2c` is not: a tunnel to HTTP/2
/// would carry requests past the routes. Without the word in `connection` the field means nothing (RFC 9110 §7.8).
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let named = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let is_h2c = tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("h2c"));
    (named && !is_h2c).then(|| protocol.clone())
}

/// Turns the fields of a request into those for the upstream.
pub(crate) fn prepare_request(headers: &mut HeaderMap, origin: &Origin<'_>, identity: &Identity) {
    let takes_trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    strip_hop_by_hop(headers);
    if takes_trailers {
        // RFC 9110 §10.1.4: who sends it must also name it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    // We send `100 Continue` ourselves as soon as an upstream takes the body.
    if headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        headers.remove(EXPECT);
    }
    if !origin.is_edge {
        for name in [FORWARDED, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT] {
            headers.remove(name);
        }
        let own: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
        own.iter().for_each(|name| drop(headers.remove(name)));
    }
    set_forwarded(headers, origin);
    append_via(headers, origin.version);
    headers.insert(REQUEST_ID, identity.request_id.clone());
    if !identity.continues {
        headers.remove(TRACESTATE);
    }
    insert_text(headers, TRACEPARENT, &identity.trace.child().to_string());
}

/// Turns the fields of an upstream's response into those for the client.
pub(crate) fn prepare_response(headers: &mut HeaderMap, status: StatusCode, version: Version, identity: &Identity) {
    let upgrade = (status == StatusCode::SWITCHING_PROTOCOLS).then(|| headers.get(UPGRADE).cloned()).flatten();
    strip_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        set_upgrade(headers, protocol);
    }
    // RFC 9110 §8.6: neither may have one.
    if status == StatusCode::NO_CONTENT || status.is_informational() {
        headers.remove(CONTENT_LENGTH);
    }
    append_via(headers, version);
    headers.insert(REQUEST_ID, identity.request_id.clone());
}

/// Whether the content is a stream of events, which ends when somebody leaves.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("text/event-stream"))
}

pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    append_list(headers, CONNECTION, "upgrade");
    headers.insert(UPGRADE, protocol);
}

/// What is left of the caller's own patience: milliseconds, set by the platform on every call.
pub(crate) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    headers.get(DEADLINE)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

pub(crate) fn set_deadline(headers: &mut HeaderMap, left: Duration) {
    headers.insert(DEADLINE, HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).collect();
    for name in named {
        // Naming these would change where the message goes or ends.
        if name != HOST && name != CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The elements of a comma-separated list in one or more fields. Elements that are not ASCII are left out.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn set_forwarded(headers: &mut HeaderMap, origin: &Origin<'_>) {
    let address = origin.client.ip();
    append_list(headers, FORWARDED_FOR, &address.to_string());
    set_absent(headers, FORWARDED_PROTO, "http");
    if !origin.host.is_empty() {
        set_absent(headers, FORWARDED_HOST, origin.host);
    }
    set_absent(headers, FORWARDED_PORT, &origin.port.to_string());
    // RFC 7239 §6: an IPv6 address, and a host with a port, must be quoted.
    let mut element = match address {
        IpAddr::V4(address) => format!("for={address};proto=http"),
        IpAddr::V6(address) => format!("for=\"[{address}]\";proto=http"),
    };
    if !origin.host.is_empty() {
        let _ = write!(element, ";host=\"{}\"", origin.host);
    }
    append_list(headers, FORWARDED, &element);
}

/// RFC 9110 §7.6.3: the version that the message came in with, and a pseudonym for us.
fn append_via(headers: &mut HeaderMap, version: Version) {
    append_list(headers, VIA, if version == Version::HTTP_10 { "1.0 atoll" } else { "1.1 atoll" });
}

/// One field for the whole list, because many programs only read the first.
fn append_list(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let before: Vec<&str> = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect();
    let list = if before.is_empty() { element.to_owned() } else { format!("{}, {element}", before.join(", ")) };
    insert_text(headers, name, &list);
}

fn set_absent(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if !headers.contains_key(&name) {
        insert_text(headers, name, text);
    }
}

fn insert_text(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    /// Ids that were made are other ones each time and shown by name; those given stay.
    fn check(is_edge: bool, client: &str, lines: &[(&str, &str)], expect: &Expect) {
        let mut headers = fields(lines);
        let identity = Identity::of(&headers);
        let client = client.parse().unwrap();
        let origin = Origin { client, port: 8080, host: "shop.test:80", version: Version::HTTP_11, is_edge };
        prepare_request(&mut headers, &origin, &identity);
        let mut seen: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect();
        seen.sort();
        let span = headers[TRACEPARENT].to_str().unwrap()[36..52].to_owned();
        let mut seen = seen.concat().replace(&span, "SPAN");
        if !lines.iter().any(|(_, value)| *value == "req-1") {
            seen = seen.replace(headers[REQUEST_ID].to_str().unwrap(), "MADE");
        }
        if !identity.continues {
            seen = seen.replace(&format!("{:032x}", identity.trace.trace_id), "TRACE");
        }
        expect.assert_eq(&seen);
    }

    #[test]
    fn a_request_id_is_kept_only_where_it_can_be_written_anywhere() {
        let long = "x".repeat(129);
        for (given, is_kept) in [
            (vec!["0af7-65.19:16_cd"], true),
            (vec![&long[1..]], true),
            (vec![&long], false),
            (vec![""], false),
            (vec!["a b"], false),
            (vec!["a,b"], false),
            (vec!["a\"b"], false),
            (vec!["a", "b"], false),
        ] {
            let lines: Vec<_> = given.iter().map(|id| ("x-request-id", *id)).collect();
            let kept = Identity::of(&fields(&lines)).request_id;
            assert_eq!(kept == given[0], is_kept, "{given:?}");
        }
    }

    #[test]
    fn a_gateway_believes_nothing_from_outside() {
        check(
            false,
            "[2001:db8::1]:5000",
            &[
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil"),
                ("x-forwarded-port", "1"),
                ("forwarded", "for=10.0.0.1"),
                ("atoll-deadline", "999999"),
                ("atoll-anything", "x"),
                ("via", "1.1 cdn"),
                ("x-request-id", "a b"),
                ("traceparent", "nonsense"),
                ("tracestate", "v=1"),
                ("accept", "*/*"),
            ],
            &expect![[r#"
                accept: */*
                forwarded: for="[2001:db8::1]";proto=http;host="shop.test:80"
                traceparent: 00-TRACE-SPAN-01
                via: 1.1 cdn, 1.1 atoll
                x-forwarded-for: 2001:db8::1
                x-forwarded-host: shop.test:80
                x-forwarded-port: 8080
                x-forwarded-proto: http
                x-request-id: MADE
            "#]],
        );
    }

    #[test]
    fn an_edge_passes_the_context_on() {
        check(
            true,
            "127.0.0.1:5000",
            &[
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-for", "10.0.0.2"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.example"),
                ("forwarded", "for=10.0.0.1"),
                ("atoll-anything", "x"),
                ("x-request-id", "req-1"),
                ("traceparent", TRACE),
                ("tracestate", "v=1"),
            ],
            &expect![[r#"
                atoll-anything: x
                forwarded: for=10.0.0.1, for=127.0.0.1;proto=http;host="shop.test:80"
                traceparent: 00-0af7651916cd43dd8448eb211c80319c-SPAN-01
                tracestate: v=1
                via: 1.1 atoll
                x-forwarded-for: 10.0.0.1, 10.0.0.2, 127.0.0.1
                x-forwarded-host: shop.example
                x-forwarded-port: 8080
                x-forwarded-proto: https
                x-request-id: req-1
            "#]],
        );
    }

    #[test]
    fn what_belongs_to_the_connection_stays_on_it() {
        check(
            false,
            "127.0.0.1:5000",
            &[
                ("connection", "close, X-Hop, host"),
                ("connection", "content-length"),
                ("x-hop", "1"),
                ("host", "shop.test"),
                ("content-length", "3"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("te", "gzip, Trailers"),
                ("trailer", "x-sum"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "websocket"),
                ("expect", "100-Continue"),
                ("x-request-id", "req-1"),
                ("traceparent", TRACE),
            ],
            &expect![[r#"
                connection: te
                content-length: 3
                forwarded: for=127.0.0.1;proto=http;host="shop.test:80"
                host: shop.test
                te: trailers
                traceparent: 00-0af7651916cd43dd8448eb211c80319c-SPAN-01
                trailer: x-sum
                via: 1.1 atoll
                x-forwarded-for: 127.0.0.1
                x-forwarded-host: shop.test:80
                x-forwarded-port: 8080
                x-forwarded-proto: http
                x-request-id: req-1
            "#]],
        );
    }

    #[test]
    fn a_response_loses_its_hop_and_gains_its_way() {
        let identity = Identity::of(&fields(&[("x-request-id", "req-1")]));
        let mut headers = fields(&[
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("upgrade", "h2c"),
            ("content-length", "0"),
            ("x-request-id", "from the service"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ]);
        prepare_response(&mut headers, StatusCode::NO_CONTENT, Version::HTTP_11, &identity);
        let left = [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("via", "1.1 atoll"), ("x-request-id", "req-1")];
        assert_eq!(headers, fields(&left));
    }

    #[test]
    fn only_a_named_upgrade_to_something_else_than_h2c_counts() {
        for (connection, protocol, expected) in [
            ("Upgrade", "websocket", Some("websocket")),
            ("keep-alive, upgrade", "tcp", Some("tcp")),
            ("keep-alive", "websocket", None),
            ("upgrade, http2-settings", "h2c", None),
            ("upgrade", "websocket, H2C", None),
        ] {
            let seen = upgrade(&fields(&[("connection", connection), ("upgrade", protocol)]));
            assert_eq!(seen.as_ref().map(|value| value.to_str().unwrap()), expected, "{connection} {protocol}");
        }
    }

    #[test]
    fn a_deadline_is_milliseconds_or_nothing() {
        for (text, expected) in [("1500", Some(1500)), ("0", Some(0)), ("-1", None), ("1s", None), ("", None)] {
            assert_eq!(deadline(&fields(&[("atoll-deadline", text)])), expected.map(Duration::from_millis), "{text}");
        }
    }
}
