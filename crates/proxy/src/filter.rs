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
const FRAMING: [&str; 7] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

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
                Filter::RequestRedirect {
                    scheme,
                    hostname,
                    port,
                    path,
                    status,
                } => {
                    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                        let what = "redirects with a status that is none of 301, 302, 303, 307, 308";
                        return Err(Error::Route {
                            route: route.name.clone(),
                            what,
                        });
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
        [self.path.as_ref(), redirected]
            .into_iter()
            .flatten()
            .any(|path| matches!(path, PathRewrite::Prefix(_)))
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
            if rewritten.is_empty() {
                "/".to_owned()
            } else {
                rewritten
            }
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
    let refused = |_| Error::Route {
        route: route.name.clone(),
        what: "rewrites to something that is no path",
    };
    Ok(match rewrite {
        None => None,
        Some(PathRewrite::Prefix(prefix)) if prefix.is_empty() => Some(PathRewrite::Prefix(String::new())),
        Some(PathRewrite::Prefix(prefix)) => Some(PathRewrite::Prefix(
            crate::path::normalise(prefix).map_err(refused)?.into_owned(),
        )),
        Some(PathRewrite::Full(full)) => Some(PathRewrite::Full(
            crate::path::normalise(full).map_err(refused)?.into_owned(),
        )),
    })
}

impl Edits {
    fn compile(route: &Route, edits: &HeaderEdits) -> Result<Self, Error> {
        let pair = |(key, text): (&String, &String)| Ok((name(route, key)?, value(route, key, text)?));
        Ok(Self {
            remove: edits
                .remove
                .iter()
                .map(|key| name(route, key))
                .collect::<Result<_, Error>>()?,
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
    let invalid = || Error::Header {
        route: route.name.clone(),
        header: text.to_owned(),
    };
    let name: HeaderName = text.parse().map_err(|_| invalid())?;
    if FRAMING.contains(&name.as_str()) {
        Err(invalid())
    } else {
        Ok(name)
    }
}

fn value(route: &Route, name: &str, text: &str) -> Result<HeaderValue, Error> {
    text.parse().map_err(|_| Error::Header {
        route: route.name.clone(),
        header: name.to_owned(),
    })
}
