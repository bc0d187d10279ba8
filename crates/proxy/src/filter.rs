//! What a route changes: header edits, the path and host sent upstream, redirects. Compiled once with a snapshot, so
//! that nothing can fail while a request waits.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use crate::error::Error;
use crate::message::Head;
use crate::snapshot::{Filter, HeaderEdits, PathRewrite, Route};

/// The filters of one route, sorted by where they act.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    pub(crate) redirect: Option<Redirect>,
    pub(crate) host: Option<HeaderValue>,
    path: Option<PathRewrite>,
    pub(crate) request: Edits,
    pub(crate) response: Edits,
}

#[derive(Clone, Debug)]
pub(crate) struct Redirect {
    scheme: Option<String>,
    hostname: Option<String>,
    port: Option<u16>,
    path: Option<PathRewrite>,
    pub(crate) status: StatusCode,
}

/// What all edits of one direction come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edits {
    /// Names whose lines are left out.
    dropped: Vec<HeaderName>,
    /// Lines that are put behind the others.
    pub(crate) put: Vec<(HeaderName, HeaderValue)>,
}

// Limit: bytes of a target that a prefix rewrite has made longer.
const TARGET_BYTES_MAX: usize = 64 * 1024;

/// Headers that say where a message ends or that belong to one connection; a filter that touched them would break
/// the framing (RFC 9110 §7.6.1).
const FRAMING: [&str; 7] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

impl Filters {
    pub(crate) fn compile(route: &Route) -> Result<Self, Error> {
        let mut filters = Self::default();
        for filter in &route.filters {
            match filter {
                Filter::UrlRewrite { hostname, path } => {
                    if let Some(hostname) = hostname {
                        filters.host = Some(value(route, "host", hostname)?);
                    }
                    filters.path = checked(route, path.as_ref())?.or(filters.path);
                }
                Filter::RequestRedirect { scheme, hostname, port, path, status } => {
                    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                        let what = "redirects with a status that is none of 301, 302, 303, 307, 308";
                        return Err(Error::Route { route: route.name.clone(), what });
                    }
                    filters.redirect = Some(Redirect {
                        scheme: scheme.clone(),
                        hostname: hostname.clone(),
                        port: *port,
                        path: checked(route, path.as_ref())?,
                        status: StatusCode::from_u16(*status).expect("one of five known statuses"),
                    });
                }
                Filter::RequestHeaders(edits) => filters.request.then(route, edits)?,
                Filter::ResponseHeaders(edits) => filters.response.then(route, edits)?,
            }
        }
        Ok(filters)
    }

    pub(crate) fn rewrites_prefix(&self) -> bool {
        let redirected = self.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        [self.path.as_ref(), redirected].into_iter().flatten().any(|path| matches!(path, PathRewrite::Prefix(_)))
    }

    /// Writes the target to ask a service for. `false` when it has grown too long.
    pub(crate) fn write_target(&self, head: &Head<'_>, matched: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let (prefix, rest) = rewrite(self.path.as_ref(), head.path(), matched);
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(rest.as_bytes());
        if let Some(query) = head.query() {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
        out.len() - start <= TARGET_BYTES_MAX
    }
}

impl Redirect {
    /// The `location` of the answer. What the filter leaves open is taken from the request: the port that the client
    /// used stays, unless the scheme changes and with it the port that belongs to it.
    pub(crate) fn location(&self, head: &Head<'_>, matched: usize) -> String {
        let scheme = self.scheme.as_deref().unwrap_or("http");
        let host = self.hostname.as_deref().unwrap_or(head.host());
        let (prefix, rest) = rewrite(self.path.as_ref(), head.path(), matched);
        let port = self.port.or(if self.scheme.is_some() { None } else { head.port() });
        let known = if scheme == "https" { 443 } else { 80 };
        let mut location = match port.filter(|port| *port != known) {
            Some(port) => format!("{scheme}://{host}:{port}{prefix}{rest}"),
            None => format!("{scheme}://{host}{prefix}{rest}"),
        };
        if let Some(query) = head.query() {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

/// The table of `HTTPPathModifier` in the Gateway API: a rest that begins with a slash, or nothing, follows the
/// replacement, and no slash is doubled.
fn rewrite<'a>(rule: Option<&'a PathRewrite>, path: &'a str, matched: usize) -> (&'a str, &'a str) {
    match rule {
        None => (path, ""),
        Some(PathRewrite::Full(full)) => (full, ""),
        Some(PathRewrite::Prefix(prefix)) => {
            let rest = path.get(matched..).unwrap_or_default();
            let prefix = prefix.trim_end_matches('/');
            if prefix.is_empty() && rest.is_empty() { ("/", "") } else { (prefix, rest) }
        }
    }
}

/// A replacement must be a path that could have been asked for.
fn checked(route: &Route, rewrite: Option<&PathRewrite>) -> Result<Option<PathRewrite>, Error> {
    let refused = |_| Error::Route { route: route.name.clone(), what: "rewrites to something that is no path" };
    Ok(match rewrite {
        None => None,
        Some(PathRewrite::Prefix(prefix)) if prefix.is_empty() => Some(PathRewrite::Prefix(String::new())),
        Some(PathRewrite::Prefix(prefix)) => {
            Some(PathRewrite::Prefix(crate::path::normalise(prefix).map_err(refused)?.into_owned()))
        }
        Some(PathRewrite::Full(full)) => {
            Some(PathRewrite::Full(crate::path::normalise(full).map_err(refused)?.into_owned()))
        }
    })
}

impl Edits {
    /// Adds what one filter asks for, in the order remove, set, add.
    fn then(&mut self, route: &Route, edits: &HeaderEdits) -> Result<(), Error> {
        for key in edits.remove.iter().chain(edits.set.keys()) {
            let name = name(route, key)?;
            self.put.retain(|(known, _)| *known != name);
            if !self.dropped.contains(&name) {
                self.dropped.push(name);
            }
        }
        for (key, text) in edits.set.iter().chain(&edits.add) {
            self.put.push((name(route, key)?, value(route, key, text)?));
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dropped.is_empty() && self.put.is_empty()
    }

    /// Whether lines of this name are left out.
    pub(crate) fn drops(&self, name: &[u8]) -> bool {
        self.dropped.iter().any(|dropped| dropped.as_str().as_bytes().eq_ignore_ascii_case(name))
    }
}

fn name(route: &Route, text: &str) -> Result<HeaderName, Error> {
    let invalid = || Error::Header { route: route.name.clone(), header: text.to_owned() };
    let name: HeaderName = text.parse().map_err(|_| invalid())?;
    if FRAMING.contains(&name.as_str()) { Err(invalid()) } else { Ok(name) }
}

fn value(route: &Route, name: &str, text: &str) -> Result<HeaderValue, Error> {
    text.parse().map_err(|_| Error::Header { route: route.name.clone(), header: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn route(filters: Vec<Filter>) -> Route {
        Route {
            name: "r".to_owned(),
            hostnames: vec![],
            matches: vec![],
            filters,
            policy: crate::policy::Policy::plain(Duration::from_secs(1)),
            backends: vec![],
        }
    }

    fn look<T>(url: &str, look: impl FnOnce(&Head<'_>) -> T) -> T {
        let text = format!("GET {url} HTTP/1.1\r\nhost: shop.test:8080\r\n\r\n");
        crate::head::with_head(text.as_bytes(), look).unwrap()
    }

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_says() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar?a=b", "/foo", "/xyz", "/xyz/bar?a=b"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "", "/xyz", "/xyz/foo"),
        ] {
            let rewrite = Some(PathRewrite::Prefix(replacement.to_owned()));
            let filters = Filters::compile(&route(vec![Filter::UrlRewrite { hostname: None, path: rewrite }])).unwrap();
            let mut target = Vec::new();
            assert!(look(path, |head| filters.write_target(head, prefix.len(), &mut target)));
            assert_eq!(String::from_utf8(target).unwrap(), expected, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let some = |text: &str| Some(text.to_owned());
        for (scheme, hostname, port, path, expected) in [
            (None, None, None, None, "http://shop.test:8080/a/b?c=d"),
            (some("https"), None, None, None, "https://shop.test/a/b?c=d"),
            (some("https"), None, Some(8443), None, "https://shop.test:8443/a/b?c=d"),
            (None, some("new.test"), Some(80), None, "http://new.test/a/b?c=d"),
            (None, None, None, Some(PathRewrite::Full("/z".to_owned())), "http://shop.test:8080/z?c=d"),
            (None, None, None, Some(PathRewrite::Prefix("/z".to_owned())), "http://shop.test:8080/z/b?c=d"),
        ] {
            let filter = Filter::RequestRedirect { scheme, hostname, port, path, status: 302 };
            let redirect = Filters::compile(&route(vec![filter])).unwrap().redirect.unwrap();
            assert_eq!(look("/a/b?c=d", |head| redirect.location(head, 2)), expected);
        }
    }

    #[test]
    fn headers_are_removed_set_and_added_in_that_order() {
        let pairs = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let (set, add) = (pairs("x-a", "set"), pairs("X-A", "added"));
        let edits = HeaderEdits { set, add, remove: vec!["x-b".to_owned()] };
        let again = HeaderEdits { add: pairs("x-b", "later"), ..HeaderEdits::default() };
        let filters = vec![Filter::RequestHeaders(edits), Filter::RequestHeaders(again)];
        let edits = Filters::compile(&route(filters)).unwrap().request;
        let put: Vec<_> = edits.put.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(put, [("x-a", "set"), ("x-a", "added"), ("x-b", "later")]);
        assert!(edits.drops(b"X-A") && edits.drops(b"x-b") && !edits.drops(b"x-c"));
    }

    #[test]
    fn filters_that_could_break_a_message_are_refused() {
        let removing = |name: &str| HeaderEdits { remove: vec![name.to_owned()], ..HeaderEdits::default() };
        let full = |path: &str| Filter::UrlRewrite { hostname: None, path: Some(PathRewrite::Full(path.to_owned())) };
        let redirect = Filter::RequestRedirect { scheme: None, hostname: None, port: None, path: None, status: 200 };
        for (filter, problem) in [
            (
                Filter::RequestHeaders(removing("Transfer-Encoding")),
                "names or sets an invalid header `Transfer-Encoding`",
            ),
            (Filter::ResponseHeaders(removing("a b")), "names or sets an invalid header `a b`"),
            (full("no-slash"), "rewrites to something that is no path"),
            (full("/a/../b"), "rewrites to something that is no path"),
            (redirect, "redirects with a status that is none of 301, 302, 303, 307, 308"),
        ] {
            let error = Filters::compile(&route(vec![filter])).unwrap_err();
            assert_eq!(error.to_string(), format!("route `r` {problem}"));
        }
    }
}
