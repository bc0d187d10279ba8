//! What a route changes: header edits, the path and host sent upstream, redirects. Compiled once with a snapshot, so
//! that nothing can fail while a request waits.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use crate::error::Error;
use crate::head::Head;
use crate::snapshot::{Filter, HeaderEdits, PathRewrite, Route};

/// The filters of one route, sorted by where they act.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    pub(crate) redirect: Option<Redirect>,
    host: Option<HeaderValue>,
    path: Option<PathRewrite>,
    request: Vec<Edits>,
    response: Vec<Edits>,
}

#[derive(Clone, Debug)]
pub(crate) struct Redirect {
    scheme: Option<String>,
    hostname: Option<String>,
    port: Option<u16>,
    path: Option<PathRewrite>,
    pub(crate) status: StatusCode,
}

#[derive(Clone, Debug, Default)]
struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

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
                Filter::RequestHeaders(edits) => filters.request.push(Edits::compile(route, edits)?),
                Filter::ResponseHeaders(edits) => filters.response.push(Edits::compile(route, edits)?),
            }
        }
        Ok(filters)
    }

    pub(crate) fn rewrites_prefix(&self) -> bool {
        let redirected = self.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        [self.path.as_ref(), redirected].into_iter().flatten().any(|path| matches!(path, PathRewrite::Prefix(_)))
    }

    /// The target to ask a service for; `None` when it has grown beyond what a target can hold (64 KiB).
    pub(crate) fn target(&self, head: &Head<'_>, matched: usize) -> Option<PathAndQuery> {
        let path = rewrite(self.path.as_ref(), &head.path, matched);
        with_query(path, head.query).try_into().ok()
    }

    pub(crate) fn edit_request(&self, headers: &mut HeaderMap) {
        if let Some(host) = &self.host {
            headers.insert(http::header::HOST, host.clone());
        }
        self.request.iter().for_each(|edits| edits.apply(headers));
    }

    pub(crate) fn edit_response(&self, headers: &mut HeaderMap) {
        self.response.iter().for_each(|edits| edits.apply(headers));
    }
}

impl Redirect {
    /// The `location` of the answer. What the filter leaves open is taken from the request: the port that the client
    /// used stays, unless the scheme changes and with it the port that belongs to it.
    pub(crate) fn location(&self, head: &Head<'_>, matched: usize) -> Option<HeaderValue> {
        let scheme = self.scheme.as_deref().unwrap_or("http");
        let host = self.hostname.as_deref().unwrap_or(&head.host);
        let path = with_query(rewrite(self.path.as_ref(), &head.path, matched), head.query);
        let port = self.port.or(if self.scheme.is_some() { None } else { head.port });
        let known = if scheme == "https" { 443 } else { 80 };
        let location = match port.filter(|port| *port != known) {
            Some(port) => format!("{scheme}://{host}:{port}{path}"),
            None => format!("{scheme}://{host}{path}"),
        };
        location.try_into().ok()
    }
}

/// The table of `HTTPPathModifier` in the Gateway API: a rest that begins with a slash, or nothing, follows the
/// replacement, and no slash is doubled.
fn rewrite(rule: Option<&PathRewrite>, path: &str, matched: usize) -> String {
    match rule {
        None => path.to_owned(),
        Some(PathRewrite::Full(full)) => full.clone(),
        Some(PathRewrite::Prefix(prefix)) => {
            let rest = path.get(matched..).unwrap_or_default();
            let rewritten = format!("{}{rest}", prefix.trim_end_matches('/'));
            if rewritten.is_empty() { "/".to_owned() } else { rewritten }
        }
    }
}

fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
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
    fn compile(route: &Route, edits: &HeaderEdits) -> Result<Self, Error> {
        let pair = |(key, text): (&String, &String)| Ok((name(route, key)?, value(route, key, text)?));
        Ok(Self {
            remove: edits.remove.iter().map(|key| name(route, key)).collect::<Result<_, Error>>()?,
            set: edits.set.iter().map(pair).collect::<Result<_, Error>>()?,
            add: edits.add.iter().map(pair).collect::<Result<_, Error>>()?,
        })
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
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

    use http::{Method, Uri};

    use super::*;

    fn route(filters: Vec<Filter>) -> Route {
        Route {
            name: "r".to_owned(),
            hostnames: vec![],
            matches: vec![],
            filters,
            timeout: Duration::from_secs(1),
            retry: crate::snapshot::Retry::default(),
            backends: vec![],
        }
    }

    fn with_head<T>(url: &str, look: impl FnOnce(&Head<'_>) -> T) -> T {
        let uri: Uri = url.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(http::header::HOST, HeaderValue::from_static("shop.test:8080"));
        look(&Head::parse(&Method::GET, &uri, &headers).unwrap())
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
            let target = with_head(path, |head| filters.target(head, prefix.len()));
            assert_eq!(target.unwrap().as_str(), expected, "{path} {prefix} {replacement}");
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
            let location = with_head("/a/b?c=d", |head| redirect.location(head, 2));
            assert_eq!(location.unwrap(), expected);
        }
    }

    #[test]
    fn headers_are_removed_set_and_added_in_that_order() {
        let pairs = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let (set, add) = (pairs("x-a", "set"), pairs("X-A", "added"));
        let edits = HeaderEdits { set, add, remove: vec!["x-b".to_owned()] };
        let filters = Filters::compile(&route(vec![Filter::RequestHeaders(edits)])).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("old"));
        headers.insert("x-b", HeaderValue::from_static("old"));
        filters.edit_request(&mut headers);
        let seen: Vec<_> = headers.get_all("x-a").iter().collect();
        assert_eq!(seen, ["set", "added"]);
        assert!(!headers.contains_key("x-b"));
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
