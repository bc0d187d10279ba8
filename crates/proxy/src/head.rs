//! The head of one request, as everything that decides sees it: checked against the limits and against RFC 9110/9112
//! where the HTTP library is lenient, with one normal form of host and path. Knows nothing of connections.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, Method, Uri, Version};

use crate::config::Limits;
use crate::path;
use crate::reason::{Reason, Refusal};

/// What routes match on.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    pub method: &'a Method,
    /// Lower case, without a port; empty when HTTP/1.0 sends none.
    pub host: Cow<'a, str>,
    /// The port that the client wrote behind the host.
    pub port: Option<u16>,
    /// In normal form; `*` in a request for the server as a whole.
    pub path: Cow<'a, str>,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    /// Reads a request's head as a listener would. The limits are not applied.
    ///
    /// # Errors
    /// The reason for which the request would be refused.
    pub fn parse(method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap) -> Result<Self, Reason> {
        read(method, uri, Version::HTTP_11, headers).map_err(|refusal| refusal.reason)
    }
}

/// Checks limits and framing, then reads the head.
pub(crate) fn check<'a>(
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    limits: &Limits,
) -> Result<Head<'a>, Refusal> {
    check_size(method, uri, headers, limits)?;
    check_framing(headers, limits)?;
    read(method, uri, version, headers)
}

fn check_size(method: &Method, uri: &Uri, headers: &HeaderMap, limits: &Limits) -> Result<(), Refusal> {
    let path = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let target = path + uri.authority().map_or(0, |authority| authority.as_str().len());
    if target > limits.uri_bytes_max {
        return Err(Refusal::new(Reason::UriTooLong, "The request target is too long."));
    }
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    // "GET " + target + " HTTP/1.1\r\n" + fields + "\r\n".
    if method.as_str().len() + target + fields + 14 > limits.head_bytes_max {
        return Err(Refusal::new(Reason::HeadTooLarge, "The header fields are too large."));
    }
    if headers.len() > limits.headers_max {
        return Err(Refusal::new(Reason::HeadTooLarge, "There are too many header fields."));
    }
    Ok(())
}

fn check_framing(headers: &HeaderMap, limits: &Limits) -> Result<(), Refusal> {
    let length = headers.get(CONTENT_LENGTH);
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        // RFC 9112 §6.3: both at once is how requests are smuggled. The library of today resolves it before we see it, as
        // the clause allows: the length is dropped, and the connection closed after the answer.
        if length.is_some() {
            return Err(bad("Both Content-Length and Transfer-Encoding are given."));
        }
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(Refusal::new(Reason::NotImplemented, "The only transfer coding understood is `chunked`."));
        }
    }
    let length = length.map(|value| value.to_str().ok().and_then(|text| text.parse::<u64>().ok()));
    match length {
        Some(None) => Err(bad("Content-Length is not a number.")),
        Some(Some(length)) if length > limits.body_bytes_max => {
            Err(Refusal::new(Reason::BodyTooLarge, "The body is larger than this listener takes."))
        }
        _ => Ok(()),
    }
}

fn read<'a>(method: &'a Method, uri: &'a Uri, version: Version, headers: &'a HeaderMap) -> Result<Head<'a>, Refusal> {
    if method == Method::CONNECT {
        return Err(Refusal::new(Reason::NotImplemented, "CONNECT is not offered here."));
    }
    // RFC 9112 §3.2.3: only CONNECT asks for an authority alone.
    if uri.authority().is_some() && uri.scheme().is_none() {
        return Err(bad("The target is neither a path nor a URI."));
    }
    let (host, port) = host(uri, version, headers)?;
    let path = match uri.path() {
        "*" if method == Method::OPTIONS => Cow::Borrowed("*"),
        // An absolute URI may leave the path out (RFC 9112 §3.2.1).
        "" => Cow::Borrowed("/"),
        path => path::normalise(path)?,
    };
    Ok(Head { method, host, port, path, query: uri.query(), headers })
}

/// RFC 9112 §3.2: exactly one Host in HTTP/1.1, overruled by the authority of an absolute target.
fn host<'a>(uri: &'a Uri, version: Version, headers: &'a HeaderMap) -> Result<(Cow<'a, str>, Option<u16>), Refusal> {
    let mut values = headers.get_all(HOST).iter();
    let written = values.next();
    if values.next().is_some() {
        return Err(bad("There is more than one Host."));
    }
    if written.is_none() && version >= Version::HTTP_11 {
        return Err(bad("There is no Host."));
    }
    if uri.scheme().is_some_and(|scheme| *scheme != http::uri::Scheme::HTTP) {
        return Err(bad("The scheme of the target is not `http`."));
    }
    let text = match (uri.authority(), written) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(value)) => value.to_str().map_err(|_| bad("Host is not a host name."))?,
        (None, None) => "",
    };
    if text.is_empty() {
        return Ok((Cow::Borrowed(""), None));
    }
    let authority: Authority = text.parse().map_err(|_| bad("Host is not a host name."))?;
    if text.contains('@') {
        return Err(bad("Host must not carry a user."));
    }
    let end = authority.host().len();
    let port = match text[end..].strip_prefix(':') {
        None | Some("") => None,
        Some(digits) => Some(digits.parse().map_err(|_| bad("The port of Host is not a port."))?),
    };
    // A name may be written with the root's dot at its end; it is the same name.
    let name = text[..end].strip_suffix('.').unwrap_or(&text[..end]);
    let upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
    let name = if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) };
    Ok((name, port))
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal::new(Reason::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn seen(method: &str, target: &str, version: Version, fields: &[(&str, &str)]) -> Result<String, String> {
        let limits = Limits { head_bytes_max: 512, headers_max: 4, uri_bytes_max: 64, ..Limits::standard() };
        let (method, uri) = (Method::from_bytes(method.as_bytes()).unwrap(), target.parse().unwrap());
        match check(&method, &uri, version, &headers(fields), &limits) {
            Ok(head) => Ok(format!("{}|{:?}|{}|{:?}", head.host, head.port, head.path, head.query)),
            Err(refusal) => Err(format!("{}: {}", refusal.reason.code(), refusal.detail)),
        }
    }

    #[test]
    fn targets_in_every_form_are_read() {
        let host = [("host", "Shop.Example.:8080")];
        for (method, target, expected) in [
            ("GET", "/a?b=c", "shop.example|Some(8080)|/a|Some(\"b=c\")"),
            ("GET", "http://Other.example/a", "other.example|None|/a|None"),
            ("GET", "http://other.example", "other.example|None|/|None"),
            ("OPTIONS", "*", "shop.example|Some(8080)|*|None"),
        ] {
            assert_eq!(seen(method, target, Version::HTTP_11, &host).as_deref(), Ok(expected), "{target}");
        }
        assert_eq!(seen("GET", "/", Version::HTTP_10, &[]).as_deref(), Ok("|None|/|None"));
        assert_eq!(seen("GET", "/", Version::HTTP_11, &[("host", "[::1]:80")]).as_deref(), Ok("[::1]|Some(80)|/|None"));
    }

    #[test]
    fn heads_with_two_readings_are_refused() {
        let long = format!("/{}", "x".repeat(70));
        let large = "y".repeat(600);
        let host = ("host", "a");
        for (method, target, fields, code) in [
            ("GET", "/", vec![], "bad_request: There is no Host."),
            ("GET", "/", vec![host, host], "bad_request: There is more than one Host."),
            ("GET", "/", vec![("host", "a b")], "bad_request: Host is not a host name."),
            ("GET", "/", vec![("host", "u@a")], "bad_request: Host must not carry a user."),
            ("GET", "/", vec![("host", "a:99999")], "bad_request: The port of Host is not a port."),
            ("GET", "https://a/", vec![host], "bad_request: The scheme of the target is not `http`."),
            ("GET", "*", vec![host], "bad_path: The path does not begin with a slash."),
            ("CONNECT", "a:80", vec![host], "not_implemented: CONNECT is not offered here."),
            ("GET", &long, vec![host], "uri_too_long: The request target is too long."),
            ("GET", "/", vec![host, ("x", &large)], "head_too_large: The header fields are too large."),
            ("GET", "/", vec![host; 5], "head_too_large: There are too many header fields."),
            (
                "POST",
                "/",
                vec![host, ("content-length", "3"), ("transfer-encoding", "chunked")],
                "bad_request: Both Content-Length and Transfer-Encoding are given.",
            ),
            (
                "POST",
                "/",
                vec![host, ("transfer-encoding", "gzip, chunked")],
                "not_implemented: The only transfer coding understood is `chunked`.",
            ),
            (
                "POST",
                "/",
                vec![host, ("content-length", "9999999999999")],
                "body_too_large: The body is larger than this listener takes.",
            ),
        ] {
            assert_eq!(seen(method, target, Version::HTTP_11, &fields).unwrap_err(), code, "{method} {target}");
        }
    }

    proptest! {
        #[test]
        fn no_head_panics(target in "(/|http://)?\\PC{0,20}", host in "[ -~]{0,20}", name in "[a-z-]{1,12}") {
            let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
            let fields = headers(&[("host", &host), (&name, &host)]);
            if let Ok(head) = Head::parse(&Method::GET, &uri, &fields) {
                prop_assert!(head.path.starts_with('/'));
                prop_assert_eq!(head.host.to_ascii_lowercase(), head.host.as_ref());
            }
        }
    }
}
