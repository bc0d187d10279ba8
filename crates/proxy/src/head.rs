//! What a request's head means: its target, its host and its path in the one form that everything decides by, checked
//! against RFC 9110 and 9112 where two readings are possible. Pure; knows nothing of connections.

use std::borrow::Cow;

use http::Method;

use crate::config::Limits;
use crate::http1::framing;
use crate::http1::parse::{self, Parsed};
use crate::message::{Head, Name, RequestHead, Span, Text, Version};
use crate::path;
use crate::reason::{Reason, Refusal};

/// Reads the head of an HTTP/1.1 request as a listener with the standard limits would, and looks at it.
///
/// # Errors
/// The reason for which the request would be refused.
pub fn with_head<T>(bytes: &[u8], look: impl FnOnce(&Head<'_>) -> T) -> Result<T, Reason> {
    let limits = Limits::standard();
    let mut request = RequestHead::default();
    match parse::request(bytes, &limits, &mut request).map_err(|refusal| refusal.reason)? {
        Parsed::Complete => check(&mut request, bytes, &limits).map_err(|refusal| refusal.reason)?,
        Parsed::Partial => return Err(Reason::BadRequest),
    }
    Ok(look(&Head { bytes, request: &request }))
}

/// Checks the framing of a parsed head, and reads its target.
///
/// # Errors
/// What is to be told to the client.
pub(crate) fn check(head: &mut RequestHead, bytes: &[u8], limits: &Limits) -> Result<(), Refusal> {
    framing::check_request(head, bytes, limits)?;
    if head.method == Method::CONNECT {
        return Err(Refusal::new(Reason::NotImplemented, "CONNECT is not offered here."));
    }
    let target = Target::split(head.target, bytes)?;
    check_host(head, target.authority, bytes)?;
    let path = target.path.text(bytes);
    let normal = match path {
        "*" if head.method == Method::OPTIONS => Cow::Borrowed("*"),
        // An absolute URI may leave the path out (RFC 9112 §3.2.1).
        "" if target.authority.is_some() => Cow::Borrowed("/"),
        path => path::normalise(path)?,
    };
    head.path = Text::of(normal, bytes);
    head.query = target.query;
    Ok(())
}

/// The parts of a request's target.
#[derive(Clone, Copy, Debug)]
struct Target {
    authority: Option<Span>,
    path: Span,
    query: Option<Span>,
}

impl Target {
    fn split(target: Span, bytes: &[u8]) -> Result<Self, Refusal> {
        let text = target.of(bytes);
        // RFC 3986 §2: these stand in no URI, a fragment in no target (RFC 9112 §3.2). What else is not in the grammar,
        // such as `"` and `{`, is passed on: it has one reading, and clients send it.
        if text.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f | b'#' | b'<' | b'>' | b'`')) {
            return Err(bad("The target contains a character that must be encoded."));
        }
        let at = |offset: usize| target.start() + offset;
        let (authority, rest) = match text {
            [b'/' | b'*', ..] => (None, 0),
            _ => {
                let after = scheme(text)?;
                let end = text[after..].iter().position(|byte| matches!(byte, b'/' | b'?'));
                let end = end.map_or(text.len(), |end| after + end);
                (Some(Span::new(at(after), at(end))), end)
            }
        };
        let question = text[rest..].iter().position(|byte| *byte == b'?').map(|place| rest + place);
        Ok(Self {
            authority,
            path: Span::new(at(rest), at(question.unwrap_or(text.len()))),
            query: question.map(|question| Span::new(at(question + 1), target.end())),
        })
    }
}

/// Where the authority of an absolute target begins.
fn scheme(target: &[u8]) -> Result<usize, Refusal> {
    const HTTP: &[u8] = b"http://";
    if target.get(..HTTP.len()).is_some_and(|start| start.eq_ignore_ascii_case(HTTP)) {
        return Ok(HTTP.len());
    }
    let colon = target.iter().position(|byte| *byte == b':');
    if colon.is_some_and(|colon| target[colon..].starts_with(b"://")) {
        return Err(bad("The scheme of the target is not `http`."));
    }
    if colon.is_some() {
        // RFC 9112 §3.2.3: only CONNECT asks for an authority alone.
        return Err(bad("The target is neither a path nor a URI."));
    }
    Err(Refusal::new(Reason::BadPath, "The path does not begin with a slash."))
}

/// RFC 9112 §3.2: exactly one Host in HTTP/1.1, overruled by the authority of an absolute target.
fn check_host(head: &mut RequestHead, authority: Option<Span>, bytes: &[u8]) -> Result<(), Refusal> {
    let written = match head.fields.only(Name::Host, bytes) {
        Some([]) => Span::default(),
        Some(value) => Span::within(bytes, value),
        None if head.fields.has(Name::Host) => return Err(bad("There is more than one Host.")),
        None if head.version >= Version::Http11 => return Err(bad("There is no Host.")),
        None => {
            // HTTP/1.0 may name none.
            (head.host, head.port, head.authority) = (Text::default(), None, Span::default());
            match authority {
                Some(authority) => authority,
                None => return Ok(()),
            }
        }
    };
    // What is overruled must be a host all the same.
    let (host, port) = split_host(written.of(bytes))?;
    let (host, port) = match authority {
        Some(authority) => split_host(authority.of(bytes))?,
        None => (host, port),
    };
    head.authority = authority.unwrap_or(written);
    head.port = port;
    // A name may be written with the root's dot at its end; it is the same name.
    let name = host.strip_suffix('.').unwrap_or(host);
    let upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
    let name = if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) };
    head.host = Text::of(name, bytes);
    Ok(())
}

/// Splits `uri-host [ ":" port ]` (RFC 9110 §7.2, RFC 3986 §3.2.2). An empty host names nobody (RFC 9110 §4.2.1).
fn split_host(text: &[u8]) -> Result<(&str, Option<u16>), Refusal> {
    const NO_HOST: Refusal = bad("Host is not a host name.");
    // The ordinary case, at one look.
    let name = text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')).count();
    if name == text.len() && has_labels(text) {
        return Ok((std::str::from_utf8(text).map_err(|_| NO_HOST)?, None));
    }
    let text = std::str::from_utf8(text).map_err(|_| NO_HOST)?;
    if text.contains('@') {
        return Err(bad("Host must not carry a user."));
    }
    let end = match text.strip_prefix('[') {
        Some(literal) => literal.find(']').ok_or(NO_HOST)? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(end);
    let is_host = match host.strip_prefix('[').and_then(|literal| literal.strip_suffix(']')) {
        Some(literal) => literal.parse::<std::net::Ipv6Addr>().is_ok(),
        None => has_labels(host.as_bytes()) && host.bytes().all(is_name_byte) && has_whole_escapes(host),
    };
    if !is_host {
        return Err(NO_HOST);
    }
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok((host, None)),
        None => Err(NO_HOST),
        Some("") => Ok((host, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok((host, Some(digits.parse().map_err(|_| bad("The port of Host is not a port."))?)))
        }
        Some(_) => Err(bad("The port of Host is not a port.")),
    }
}

/// RFC 3986 §3.2.2: unreserved, sub-delims, and the escapes.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte)
}

/// A name without an empty label, but for the root's at its end.
fn has_labels(host: &[u8]) -> bool {
    let mut before = b'.';
    !host.is_empty() && host.iter().all(|byte| std::mem::replace(&mut before, *byte) != b'.' || *byte != b'.')
}

fn has_whole_escapes(host: &str) -> bool {
    let mut parts = host.split('%');
    parts.next();
    parts.all(|part| part.len() >= 2 && part.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit))
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal::new(Reason::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(method: &str, target: &str, version: &str, fields: &[(&str, &str)]) -> String {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{method} {target} HTTP/{version}\r\n{fields}\r\n")
    }

    fn seen(method: &str, target: &str, version: &str, fields: &[(&str, &str)]) -> Result<String, String> {
        let limits = Limits { head_bytes_max: 512, headers_max: 4, uri_bytes_max: 64, ..Limits::standard() };
        let text = written(method, target, version, fields);
        let mut request = RequestHead::default();
        let parsed = parse::request(text.as_bytes(), &limits, &mut request);
        match parsed.and_then(|_| check(&mut request, text.as_bytes(), &limits)) {
            Ok(()) => {
                let head = Head { bytes: text.as_bytes(), request: &request };
                Ok(format!("{}|{:?}|{}|{:?}", head.host(), head.port(), head.path(), head.query()))
            }
            Err(refusal) => Err(format!("{}: {}", refusal.reason.code(), refusal.detail)),
        }
    }

    #[test]
    fn targets_in_every_form_are_read() {
        let host = [("host", "Shop.Example.:8080")];
        for (method, target, expected) in [
            ("GET", "/a?b=c", "shop.example|Some(8080)|/a|Some(\"b=c\")"),
            ("GET", "/a?", "shop.example|Some(8080)|/a|Some(\"\")"),
            ("GET", "/a?b?c", "shop.example|Some(8080)|/a|Some(\"b?c\")"),
            ("GET", "http://Other.example/a", "other.example|None|/a|None"),
            ("GET", "HTTP://other.example?q", "other.example|None|/|Some(\"q\")"),
            ("GET", "http://other.example", "other.example|None|/|None"),
            ("OPTIONS", "*", "shop.example|Some(8080)|*|None"),
            ("get", "/", "shop.example|Some(8080)|/|None"),
        ] {
            assert_eq!(seen(method, target, "1.1", &host).as_deref(), Ok(expected), "{target}");
        }
        assert_eq!(seen("GET", "/", "1.0", &[]).as_deref(), Ok("|None|/|None"));
        assert_eq!(seen("GET", "http://a:1/", "1.0", &[]).as_deref(), Ok("a|Some(1)|/|None"));
        assert_eq!(seen("GET", "/", "1.1", &[("host", "[::1]:80")]).as_deref(), Ok("[::1]|Some(80)|/|None"));
    }

    #[test]
    fn heads_with_two_readings_are_refused() {
        let long = format!("/{}", "x".repeat(70));
        let large = "y".repeat(600);
        let host = ("host", "a");
        for (method, target, fields, code) in [
            ("GET", "/", vec![], "bad_request: There is no Host."),
            ("GET", "/", vec![host, host], "bad_request: There is more than one Host."),
            ("GET", "/", vec![("host", "")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "a b")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "a, b")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "a/b")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", ".")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "a..:80")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "a%zz")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "[::1")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "[::x]")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "[::1]a")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "u@a")], "bad_request: Host must not carry a user."),
            ("GET", "/", vec![("host", "a:99999")], "bad_request: The port of Host is not a port."),
            ("GET", "/", vec![("host", "a:+1")], "bad_request: The port of Host is not a port."),
            ("GET", "https://a/", vec![host], "bad_request: The scheme of the target is not `http`."),
            ("GET", "http://b/", vec![("host", "a b")], "bad_request: Host is not a host name."),
            ("GET", "http://u@b/", vec![host], "bad_request: Host must not carry a user."),
            ("GET", "http:///", vec![host], "bad_request: Host is not a host name."),
            ("GET", "/#a", vec![host], "bad_request: The target contains a character that must be encoded."),
            ("GET", "/<a>", vec![host], "bad_request: The target contains a character that must be encoded."),
            ("GET", "a:80", vec![host], "bad_request: The target is neither a path nor a URI."),
            ("GET", "*", vec![host], "bad_path: The path does not begin with a slash."),
            ("GET", "?a", vec![host], "bad_path: The path does not begin with a slash."),
            ("CONNECT", "a:80", vec![host], "not_implemented: CONNECT is not offered here."),
            ("GET", &long, vec![host], "uri_too_long: The request target is too long."),
            ("GET", "/", vec![host, ("x", &large)], "head_too_large: The header fields are too large."),
            ("GET", "/", vec![host; 5], "too_many_headers: There are too many header fields."),
        ] {
            assert_eq!(seen(method, target, "1.1", &fields).unwrap_err(), code, "{method} {target}");
        }
    }

    proptest! {
        #[test]
        fn no_head_panics(target in "(/|http://)?\\PC{0,20}", host in "[ -~]{0,20}", name in "[a-z-]{1,12}") {
            let text = written("GET", &target, "1.1", &[("host", &host), (&name, &host)]);
            let looked = with_head(text.as_bytes(), |head| (head.path().to_owned(), head.host().to_owned()));
            if let Ok((path, host)) = looked {
                prop_assert!(path.starts_with('/'));
                prop_assert_eq!(host.to_ascii_lowercase(), host);
            }
        }
    }
}
