//! Header fields on their way through a proxy: what belongs to one connection is removed, what the next must know is
//! set. At a gateway nothing from outside is believed; at an edge the caller is ours and its context is passed on.
//! Fields that stay are copied as they were written, in one pass; nothing is allocated. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kit::trace::TraceContext;

use crate::filter::{Edits, Filters};
use crate::message::{Field, Fields, Head, Name, ResponseHead, Span, Version};

/// Where the proxy names itself (RFC 9110 §7.6.3).
const VIA: [&str; 2] = ["1.0 atoll", "1.1 atoll"];

// Limit: longer request ids are replaced, from outside and from our own callers alike.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What names a request in logs, here and at everybody it comes by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestId {
    /// The client's.
    Given(Span),
    Made([u8; 36]),
}

impl RequestId {
    pub(crate) fn get<'b>(&'b self, bytes: &'b [u8]) -> &'b str {
        match self {
            Self::Given(span) => span.text(bytes),
            Self::Made(id) => std::str::from_utf8(id).unwrap_or_default(),
        }
    }
}

/// What identifies a request across services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) request_id: RequestId,
    /// The span of the request that came in.
    pub(crate) trace: TraceContext,
    continues: bool,
}

impl Identity {
    /// Takes what the client gave if it is well-formed and makes the rest; `now` is since the Unix epoch.
    pub(crate) fn of(fields: &Fields, bytes: &[u8], now: Duration) -> Self {
        let given = fields.only(Name::RequestId, bytes).filter(|id| fits_request_id(id));
        let trace = fields.only(Name::Traceparent, bytes).and_then(TraceContext::parse);
        Self {
            request_id: match given {
                Some(id) => RequestId::Given(Span::within(bytes, id)),
                None => RequestId::Made(kit::ids::unique_at(now)),
            },
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

/// How a client came in: the same for every request of its connection.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    address: String,
    port: String,
    /// The element of `forwarded` up to the host (RFC 7239 §6: an IPv6 address must be quoted).
    forwarded: String,
}

impl Origin {
    pub(crate) fn new(client: SocketAddr, port: u16) -> Self {
        let forwarded = match client.ip() {
            IpAddr::V4(address) => format!("for={address};proto=http"),
            IpAddr::V6(address) => format!("for=\"[{address}]\";proto=http"),
        };
        Self { address: client.ip().to_string(), port: port.to_string(), forwarded }
    }
}

/// One try of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) head: Head<'a>,
    pub(crate) origin: &'a Origin,
    /// Whether it comes from a declared caller, whose forwarding fields are believed.
    pub(crate) is_edge: bool,
    pub(crate) identity: &'a Identity,
    pub(crate) filters: &'a Filters,
    /// How much of the path the route's match covers.
    pub(crate) matched: usize,
    /// Whether it may change the protocol.
    pub(crate) is_upgrade: bool,
    /// What is left of its time.
    pub(crate) left: Duration,
}

/// The client wants to change the protocol to one that we pass on. `h2c` is not: a tunnel to HTTP/2 would carry requests
/// past the routes. Without the word in `connection` the field means nothing (RFC 9110 §7.8).
pub(crate) fn asks_for_upgrade(fields: &Fields, version: Version, bytes: &[u8]) -> bool {
    let is = |word: &'static str| move |token: &[u8]| token.eq_ignore_ascii_case(word.as_bytes());
    fields.has(Name::Upgrade)
        && version >= Version::Http11
        && fields.tokens(Name::Connection, bytes).any(is("upgrade"))
        && !fields.tokens(Name::Upgrade, bytes).any(is("h2c"))
}

/// Whether the client waits to be asked for its body (RFC 9110 §10.1.1).
pub(crate) fn expects_continue(head: &Head<'_>) -> bool {
    let fields = &head.request.fields;
    head.request.version >= Version::Http11 && fields.tokens(Name::Expect, head.bytes).any(is_continue)
}

fn is_continue(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"100-continue")
}

/// What is left of the caller's own patience: milliseconds, set by the platform on every call.
pub(crate) fn deadline(fields: &Fields, bytes: &[u8]) -> Option<Duration> {
    let value = fields.all(Name::AtollDeadline, bytes).next()?;
    std::str::from_utf8(value).ok()?.parse().ok().map(Duration::from_millis)
}

/// When a service wants to be asked again, from now on: seconds, or a date (RFC 9110 §10.2.3). `unix` is now, since the
/// epoch.
pub(crate) fn retry_after(fields: &Fields, bytes: &[u8], unix: Duration) -> Option<Duration> {
    let value = std::str::from_utf8(fields.all(Name::RetryAfter, bytes).next()?).ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let date = u64::try_from(date.as_second()).ok()?;
    Some(Duration::from_secs(date).saturating_sub(unix))
}

/// Whether the content is a stream of events, which ends when somebody leaves.
pub(crate) fn is_event_stream(fields: &Fields, bytes: &[u8]) -> bool {
    let media_type = fields.all(Name::ContentType, bytes).next().unwrap_or_default();
    let name = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Whether a field may stand in a trailer section (RFC 9110 §6.5.1): none that says where a message ends or goes, who
/// sent it or how it is to be taken.
pub(crate) fn may_trail(known: Name, name: &[u8]) -> bool {
    const REFUSED: [&str; 12] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "cookie",
        "max-forwards",
        "proxy-authorization",
        "range",
        "set-cookie",
        "trailer",
        "vary",
        "www-authenticate",
    ];
    known == Name::Other && !REFUSED.iter().any(|refused| name.eq_ignore_ascii_case(refused.as_bytes()))
}

/// Writes the head of a request for the service. `false` when its target has grown too long.
pub(crate) fn write_request(out: &mut Vec<u8>, request: &Request<'_>) -> bool {
    let Request { head, identity, filters, is_edge, .. } = request;
    let (fields, bytes) = (&head.request.fields, head.bytes);
    out.extend_from_slice(head.method().as_str().as_bytes());
    out.push(b' ');
    if !filters.write_target(head, request.matched, out) {
        return false;
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut lines = Lines::new(out, &filters.request, fields, bytes);
    match &filters.host {
        Some(host) => lines.add("host", &[host.as_bytes()]),
        None => lines.add("host", &[head.request.authority.of(bytes)]),
    }
    lines.copy(fields, bytes, |field| match field.known {
        Name::Other | Name::ContentLength | Name::ContentType | Name::Date => true,
        Name::AtollOther | Name::ForwardedHost | Name::ForwardedPort | Name::ForwardedProto => *is_edge,
        Name::Tracestate => identity.continues,
        // We send `100 Continue` ourselves as soon as a service takes the body.
        Name::Expect => !field.value.of(bytes).split(|byte| *byte == b',').any(|token| is_continue(token.trim_ascii())),
        _ => false,
    });
    let is_chunked = head.request.content == crate::message::Length::Chunked;
    if is_chunked {
        lines.out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    set_forwarded(&mut lines, request);
    lines.append(
        "via",
        Name::Via,
        fields,
        bytes,
        &[VIA[usize::from(head.request.version >= Version::Http11)].as_bytes()],
    );
    lines.add("x-request-id", &[identity.request_id.get(bytes).as_bytes()]);
    lines.add("traceparent", &[&identity.trace.child().to_bytes()]);
    let mut digits = [0; 20];
    lines.add("atoll-deadline", &[decimal(u64::try_from(request.left.as_millis()).unwrap_or(u64::MAX), &mut digits)]);
    // RFC 9110 §10.1.4: who sends TE must also name it.
    let takes_trailers = fields.tokens(Name::Te, bytes).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    match (takes_trailers, request.is_upgrade) {
        (true, true) => lines.out.extend_from_slice(b"te: trailers\r\nconnection: te, upgrade\r\n"),
        (true, false) => lines.out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n"),
        (false, true) => lines.out.extend_from_slice(b"connection: upgrade\r\n"),
        (false, false) => {}
    }
    if request.is_upgrade {
        lines.list("upgrade", fields.all(Name::Upgrade, bytes), &[]);
    }
    lines.end();
    true
}

fn set_forwarded(lines: &mut Lines<'_>, request: &Request<'_>) {
    let Request { head, origin, is_edge, .. } = request;
    let (fields, bytes) = (&head.request.fields, head.bytes);
    let host = head.request.authority.of(bytes);
    if *is_edge {
        lines.append("x-forwarded-for", Name::ForwardedFor, fields, bytes, &[origin.address.as_bytes()]);
        let element: &[&[u8]] = &[origin.forwarded.as_bytes(), b";host=\"", host, b"\""];
        let element = if host.is_empty() { &element[..1] } else { element };
        lines.append("forwarded", Name::Forwarded, fields, bytes, element);
    } else {
        lines.add("x-forwarded-for", &[origin.address.as_bytes()]);
        match host {
            [] => lines.add("forwarded", &[origin.forwarded.as_bytes()]),
            host => lines.add("forwarded", &[origin.forwarded.as_bytes(), b";host=\"", host, b"\""]),
        }
    }
    let is_set = |name: Name| *is_edge && lines.keeps_any(fields, bytes, name);
    let (has_proto, has_host, has_port) =
        (is_set(Name::ForwardedProto), is_set(Name::ForwardedHost), is_set(Name::ForwardedPort));
    if !has_proto {
        lines.add("x-forwarded-proto", &[b"http"]);
    }
    if !has_host && !host.is_empty() {
        lines.add("x-forwarded-host", &[host]);
    }
    if !has_port {
        lines.add("x-forwarded-port", &[origin.port.as_bytes()]);
    }
}

/// What becomes of the client's connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// Nothing needs to be said.
    Kept,
    /// A client of 1.0 that asked for it must be told.
    KeptAsAsked,
    Closed,
}

/// How an answer goes to its client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) client: Version,
    pub(crate) is_chunked: bool,
    pub(crate) persistence: Persistence,
    pub(crate) request_id: &'a str,
    /// RFC 9110 §5.6.7.
    pub(crate) date: &'a [u8],
    /// Whole lines of the proxy's own.
    pub(crate) marks: &'a [u8],
}

/// Writes the head of a service's response for the client. What only the proxy says, no service says in its place.
pub(crate) fn write_response(
    out: &mut Vec<u8>,
    response: &ResponseHead,
    bytes: &[u8],
    filters: &Filters,
    answer: &Answer<'_>,
) {
    let fields = &response.fields;
    write_status(out, answer.client, response.status, response.reason.of(bytes));
    let mut lines = Lines::new(out, &filters.response, fields, bytes);
    let is_limited = answer.marks.starts_with(RATE_LIMIT);
    lines.copy(fields, bytes, |field| match field.known {
        Name::RequestId | Name::Via | Name::AtollDeadline | Name::AtollOther => false,
        // A service's own limit stands where there is none of ours.
        Name::Other => !is_limited || !is_rate_limit(field.name.of(bytes)),
        // RFC 9110 §8.6: neither may have one.
        Name::ContentLength => response.status != 204 && response.status != 101,
        known => !known.is_hop_by_hop(),
    });
    let via = VIA[usize::from(response.version >= Version::Http11)];
    lines.append("via", Name::Via, fields, bytes, &[via.as_bytes()]);
    lines.add("x-request-id", &[answer.request_id.as_bytes()]);
    if !fields.has(Name::Date) {
        lines.add("date", &[answer.date]);
    }
    // RFC 9110 §15.5.22: who asks for another protocol says for which.
    if response.status == 101 || response.status == 426 {
        lines.list("upgrade", fields.all(Name::Upgrade, bytes), &[]);
        lines.out.extend_from_slice(b"connection: upgrade\r\n");
    }
    lines.out.extend_from_slice(answer.marks);
    lines.persistence(answer);
    lines.end();
}

/// How `marks` begin where the rate limit of a route is told.
pub(crate) const RATE_LIMIT: &[u8] = b"ratelimit";

fn is_rate_limit(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(RATE_LIMIT) || name.eq_ignore_ascii_case(b"ratelimit-policy")
}

/// Writes the head of an interim response, which is passed on as it is (RFC 9110 §15.2).
pub(crate) fn write_interim(out: &mut Vec<u8>, response: &ResponseHead, bytes: &[u8]) {
    write_status(out, Version::Http11, response.status, response.reason.of(bytes));
    let none = Edits::default();
    let mut lines = Lines::new(out, &none, &response.fields, bytes);
    lines.copy(&response.fields, bytes, |field| match field.known {
        Name::ContentLength | Name::AtollDeadline | Name::AtollOther => false,
        known => !known.is_hop_by_hop(),
    });
    lines.end();
}

/// Writes the head of an answer of the proxy's own.
pub(crate) fn write_own(
    out: &mut Vec<u8>,
    status: http::StatusCode,
    lines: &[(&str, &str)],
    edits: &Edits,
    answer: &Answer<'_>,
) {
    let reason = status.canonical_reason().unwrap_or_default();
    write_status(out, answer.client, status.as_u16(), reason.as_bytes());
    let fields = Fields::default();
    let mut written = Lines::new(out, edits, &fields, &[]);
    for (name, value) in lines {
        written.add(name, &[value.as_bytes()]);
    }
    written.add("x-request-id", &[answer.request_id.as_bytes()]);
    written.add("date", &[answer.date]);
    written.out.extend_from_slice(answer.marks);
    written.persistence(answer);
    written.end();
}

fn write_status(out: &mut Vec<u8>, version: Version, status: u16, reason: &[u8]) {
    out.extend_from_slice(if version == Version::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    let mut digits = [0; 20];
    out.extend_from_slice(decimal(u64::from(status), &mut digits));
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Field lines being written.
struct Lines<'a> {
    out: &'a mut Vec<u8>,
    edits: &'a Edits,
    /// Elements of `connection` that name fields: those stay here, too (RFC 9110 §7.6.1).
    named: Option<(&'a Fields, &'a [u8])>,
}

impl<'a> Lines<'a> {
    fn new(out: &'a mut Vec<u8>, edits: &'a Edits, fields: &'a Fields, bytes: &'a [u8]) -> Self {
        let is_option = |token: &[u8]| {
            [&b"close"[..], b"keep-alive", b"upgrade", b"te"].iter().any(|option| token.eq_ignore_ascii_case(option))
        };
        let names_any = fields.tokens(Name::Connection, bytes).any(|token| !is_option(token));
        Self { out, edits, named: names_any.then_some((fields, bytes)) }
    }

    /// Naming these would change where the message goes or ends.
    fn is_named(&self, known: Name, name: &[u8]) -> bool {
        !matches!(known, Name::Host | Name::ContentLength)
            && self.named.is_some_and(|(fields, bytes)| {
                fields.tokens(Name::Connection, bytes).any(|token| token.eq_ignore_ascii_case(name))
            })
    }

    /// Copies the lines that stay as they are, as many at once as stand together.
    fn copy(&mut self, fields: &Fields, bytes: &[u8], stays: impl Fn(&Field) -> bool) {
        let is_plain = self.named.is_none() && self.edits.is_empty();
        let mut run: Option<(usize, usize)> = None;
        for field in &fields.lines {
            let name = field.name.of(bytes);
            let is_kept = stays(field) && (is_plain || !self.is_named(field.known, name) && !self.edits.drops(name));
            let (start, end) = (field.name.start(), field.end as usize);
            run = match (run, is_kept) {
                (Some((from, _)), true) => Some((from, end)),
                (None, true) => Some((start, end)),
                (Some((from, to)), false) => {
                    self.out.extend_from_slice(&bytes[from..to]);
                    None
                }
                (None, false) => None,
            };
        }
        if let Some((from, to)) = run {
            self.out.extend_from_slice(&bytes[from..to]);
        }
    }

    /// Whether a line of this name was kept.
    fn keeps_any(&self, fields: &Fields, bytes: &[u8], known: Name) -> bool {
        fields.has(known)
            && fields.lines.iter().any(|field| field.known == known && !self.is_named(known, field.name.of(bytes)))
    }

    fn add(&mut self, name: &str, parts: &[&[u8]]) {
        if self.edits.is_empty() || !self.edits.drops(name.as_bytes()) {
            self.write(name, parts);
        }
    }

    fn write(&mut self, name: &str, parts: &[&[u8]]) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        for part in parts {
            self.out.extend_from_slice(part);
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// One line for the whole list, because many programs only read the first; `element` comes last.
    fn append(&mut self, name: &str, known: Name, fields: &Fields, bytes: &[u8], element: &[&[u8]]) {
        if !fields.has(known) || self.is_named(known, name.as_bytes()) {
            self.add(name, element);
        } else if self.edits.is_empty() || !self.edits.drops(name.as_bytes()) {
            self.list(name, fields.all(known, bytes), element);
        }
    }

    fn list<'v>(&mut self, name: &str, values: impl Iterator<Item = &'v [u8]>, last: &[&[u8]]) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        let mut is_first = true;
        for value in values.filter(|value| !value.is_empty()) {
            if !std::mem::take(&mut is_first) {
                self.out.extend_from_slice(b", ");
            }
            self.out.extend_from_slice(value);
        }
        if !is_first && !last.is_empty() {
            self.out.extend_from_slice(b", ");
        }
        for part in last {
            self.out.extend_from_slice(part);
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn persistence(&mut self, answer: &Answer<'_>) {
        if answer.is_chunked {
            self.out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        match answer.persistence {
            Persistence::Kept => {}
            Persistence::KeptAsAsked => self.out.extend_from_slice(b"connection: keep-alive\r\n"),
            Persistence::Closed => self.out.extend_from_slice(b"connection: close\r\n"),
        }
    }

    fn end(mut self) {
        let edits = self.edits;
        for (name, value) in &edits.put {
            self.write(name.as_str(), &[value.as_bytes()]);
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Writes a number and gives its digits.
pub(crate) fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}

#[cfg(test)]
mod tests;
