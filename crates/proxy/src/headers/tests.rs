//! Heads as they come in, and what is written for the other side.

use expect_test::{Expect, expect};

use super::*;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A head of these lines, parsed as a listener does.
fn with_request<T>(lines: &[(&str, &str)], look: impl FnOnce(&Head<'_>) -> T) -> T {
    let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let text = format!("POST /a?b HTTP/1.1\r\nHost: shop.test:80\r\n{lines}\r\n");
    crate::head::with_head(text.as_bytes(), look).unwrap()
}

fn identity(head: &Head<'_>) -> Identity {
    Identity::of(&head.request.fields, head.bytes, Duration::from_secs(1_700_000_000))
}

/// Ids that were made are other ones each time and shown by name; those given stay.
fn check(is_edge: bool, client: &str, lines: &[(&str, &str)], filters: &Filters, expect: &Expect) {
    let written = with_request(lines, |head| {
        let identity = identity(head);
        let mut out = Vec::new();
        let request = Request {
            head: *head,
            origin: &Origin::new(client.parse().unwrap(), 8080),
            is_edge,
            identity: &identity,
            filters,
            matched: 0,
            is_upgrade: asks_for_upgrade(&head.request.fields, head.request.version, head.bytes),
            left: Duration::from_millis(1500),
        };
        assert!(write_request(&mut out, &request));
        let mut text = String::from_utf8(out).unwrap();
        let at = text.find("traceparent: ").unwrap() + "traceparent: ".len();
        let span = text[at + 36..at + 52].to_owned();
        text = text.replace(&span, "SPAN");
        if matches!(identity.request_id, RequestId::Made(_)) {
            text = text.replace(identity.request_id.get(head.bytes), "MADE");
        }
        if !identity.continues {
            text = text.replace(&format!("{:032x}", identity.trace.trace_id), "TRACE");
        }
        text
    });
    assert!(written.ends_with("\r\n\r\n"));
    expect.assert_eq(&written.trim_end().replace('\r', ""));
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
        let kept = with_request(&lines, |head| identity(head).request_id.get(head.bytes).to_owned());
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
        &Filters::default(),
        &expect![[r#"
            POST /a?b HTTP/1.1
            host: shop.test:80
            accept: */*
            x-forwarded-for: 2001:db8::1
            forwarded: for="[2001:db8::1]";proto=http;host="shop.test:80"
            x-forwarded-proto: http
            x-forwarded-host: shop.test:80
            x-forwarded-port: 8080
            via: 1.1 cdn, 1.1 atoll
            x-request-id: MADE
            traceparent: 00-TRACE-SPAN-01
            atoll-deadline: 1500"#]],
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
        &Filters::default(),
        &expect![[r#"
            POST /a?b HTTP/1.1
            host: shop.test:80
            x-forwarded-proto: https
            x-forwarded-host: shop.example
            atoll-anything: x
            tracestate: v=1
            x-forwarded-for: 10.0.0.1, 10.0.0.2, 127.0.0.1
            forwarded: for=10.0.0.1, for=127.0.0.1;proto=http;host="shop.test:80"
            x-forwarded-port: 8080
            via: 1.1 atoll
            x-request-id: req-1
            traceparent: 00-0af7651916cd43dd8448eb211c80319c-SPAN-01
            atoll-deadline: 1500"#]],
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
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, Trailers"),
            ("trailer", "x-sum"),
            ("upgrade", "websocket"),
            ("expect", "100-Continue"),
            ("x-request-id", "req-1"),
            ("traceparent", TRACE),
        ],
        &Filters::default(),
        &expect![[r#"
            POST /a?b HTTP/1.1
            host: shop.test:80
            content-length: 3
            trailer: x-sum
            x-forwarded-for: 127.0.0.1
            forwarded: for=127.0.0.1;proto=http;host="shop.test:80"
            x-forwarded-proto: http
            x-forwarded-host: shop.test:80
            x-forwarded-port: 8080
            via: 1.1 atoll
            x-request-id: req-1
            traceparent: 00-0af7651916cd43dd8448eb211c80319c-SPAN-01
            atoll-deadline: 1500
            te: trailers
            connection: te"#]],
    );
}

#[test]
fn an_upgrade_is_asked_for_in_the_words_of_the_client() {
    check(
        true,
        "127.0.0.1:5000",
        &[
            ("connection", "Upgrade"),
            ("upgrade", "WebSocket"),
            ("te", "trailers"),
            ("x-request-id", "r"),
            ("traceparent", TRACE),
        ],
        &Filters::default(),
        &expect![[r#"
            POST /a?b HTTP/1.1
            host: shop.test:80
            x-forwarded-for: 127.0.0.1
            forwarded: for=127.0.0.1;proto=http;host="shop.test:80"
            x-forwarded-proto: http
            x-forwarded-host: shop.test:80
            x-forwarded-port: 8080
            via: 1.1 atoll
            x-request-id: r
            traceparent: 00-0af7651916cd43dd8448eb211c80319c-SPAN-01
            atoll-deadline: 1500
            te: trailers
            connection: te, upgrade
            upgrade: WebSocket"#]],
    );
}

#[test]
fn filters_have_the_last_word_but_for_the_framing() {
    let pairs = |name: &str, value: &str| std::collections::BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let edits = crate::snapshot::HeaderEdits {
        set: pairs("X-Set", "1"),
        add: pairs("accept", "more"),
        remove: vec!["via".to_owned(), "x-forwarded-for".to_owned(), "X-GONE".to_owned()],
    };
    let rewrite = crate::snapshot::Filter::UrlRewrite { hostname: Some("in.test".to_owned()), path: None };
    let route = crate::snapshot::Route {
        name: "r".to_owned(),
        hostnames: vec![],
        matches: vec![],
        filters: vec![rewrite, crate::snapshot::Filter::RequestHeaders(edits)],
        policy: crate::policy::Policy::plain(Duration::ZERO),
        backends: vec![],
    };
    check(
        false,
        "127.0.0.1:5000",
        &[("accept", "*/*"), ("x-set", "0"), ("x-gone", "x"), ("x-request-id", "r"), ("traceparent", TRACE)],
        &Filters::compile(&route).unwrap(),
        &expect![[r#"
            POST /a?b HTTP/1.1
            host: in.test
            accept: */*
            forwarded: for=127.0.0.1;proto=http;host="shop.test:80"
            x-forwarded-proto: http
            x-forwarded-host: shop.test:80
            x-forwarded-port: 8080
            x-request-id: r
            traceparent: 00-0af7651916cd43dd8448eb211c80319c-SPAN-01
            atoll-deadline: 1500
            x-set: 1
            accept: more"#]],
    );
}

fn response(text: &str, status_line: &str, client: Version) -> String {
    let text = format!("{status_line}\r\n{text}\r\n");
    let mut head = ResponseHead::default();
    crate::http1::parse::response(text.as_bytes(), &crate::config::Limits::standard(), &mut head).unwrap();
    let mut out = Vec::new();
    let answer = Answer {
        client,
        is_chunked: false,
        persistence: Persistence::Kept,
        request_id: "req-1",
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        marks: b"",
    };
    write_response(&mut out, &head, text.as_bytes(), &Filters::default(), &answer);
    String::from_utf8(out).unwrap().replace('\r', "")
}

#[test]
fn a_response_loses_its_hop_and_gains_its_way() {
    let lines = "connection: keep-alive, x-hop\r\nx-hop: 1\r\nUpgrade: h2c\r\ncontent-length: 0\r\n\
                 x-request-id: from the service\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n";
    expect![[r#"
        HTTP/1.1 204 Nothing Here
        Set-Cookie: a=1
        set-cookie: b=2
        via: 1.1 atoll
        x-request-id: req-1
        date: Sun, 06 Nov 1994 08:49:37 GMT

    "#]]
    .assert_eq(&response(lines, "HTTP/1.1 204 Nothing Here", Version::Http11));
    expect![[r#"
        HTTP/1.0 200 
        date: now
        via: 1.1 a, 1.0 atoll
        x-request-id: req-1

    "#]]
    .assert_eq(&response("date: now\r\nvia: 1.1 a\r\n", "HTTP/1.0 200", Version::Http10));
    expect![[r#"
        HTTP/1.1 101 Go
        via: 1.1 atoll
        x-request-id: req-1
        date: Sun, 06 Nov 1994 08:49:37 GMT
        upgrade: websocket
        connection: upgrade

    "#]]
    .assert_eq(&response("upgrade: websocket\r\nconnection: upgrade\r\n", "HTTP/1.1 101 Go", Version::Http11));
}

#[test]
fn only_a_named_upgrade_to_something_else_than_h2c_counts() {
    for (connection, protocol, expected) in [
        ("Upgrade", "websocket", true),
        ("keep-alive, upgrade", "tcp", true),
        ("keep-alive", "websocket", false),
        ("upgrade, http2-settings", "h2c", false),
        ("upgrade", "websocket, H2C", false),
    ] {
        let lines = [("connection", connection), ("upgrade", protocol)];
        let asks =
            with_request(&lines, |head| asks_for_upgrade(&head.request.fields, head.request.version, head.bytes));
        assert_eq!(asks, expected, "{connection} {protocol}");
    }
}

#[test]
fn a_deadline_is_milliseconds_or_nothing() {
    for (text, expected) in [("1500", Some(1500)), ("0", Some(0)), ("-1", None), ("1s", None), ("", None)] {
        let seen = with_request(&[("atoll-deadline", text)], |head| deadline(&head.request.fields, head.bytes));
        assert_eq!(seen, expected.map(Duration::from_millis), "{text}");
    }
}

#[test]
fn numbers_are_written_as_they_are_read() {
    for number in [0, 7, 10, 99, 1500, u64::MAX] {
        assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
    }
}
