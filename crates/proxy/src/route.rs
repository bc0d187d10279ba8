//! Which rule answers a request: a pure function of a compiled table and a head, and the same walk told in words.

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use crate::head::Head;
use crate::table::{Compiled, NamedRule, PathRule, Rule, Table, ValueRule};

/// What is to be done with a request.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'t> {
    /// This route answers: by its redirect if it has one, else by one of its backends.
    Serve {
        route: &'t std::sync::Arc<Compiled>,
        /// How many bytes of the path the match covers: what a prefix rewrite replaces.
        matched: usize,
    },
    /// No rule matches: 404.
    NoRoute,
}

/// Gives the first rule that matches in order of precedence: the most specific host, then as in the Gateway API.
/// A host whose own rules do not match falls through to less specific ones.
#[must_use]
pub fn route<'t>(table: &'t Table, head: &Head<'_>) -> Decision<'t> {
    match table.candidates(&head.host).find(|rule| reject(rule, head).is_none()) {
        Some(rule) => Decision::Serve {
            route: &rule.route,
            matched: matched(rule, head),
        },
        None => Decision::NoRoute,
    }
}

/// One rule, as `explain` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    pub route: String,
    /// The rule's conditions in short.
    pub rule: String,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Chosen,
    /// Would match too, but one before it did.
    Shadowed,
    /// Does not match; says why.
    Rejected(String),
}

/// Tells about every rule of the table, in order of precedence, what [`route`] makes of it.
#[must_use]
pub fn explain(table: &Table, head: &Head<'_>) -> Vec<Considered> {
    let mut chosen = false;
    let mut consider = |rule: &Rule| {
        let rejection = if rule.host.fits(&head.host) {
            reject(rule, head)
        } else {
            Some(Rejection::Host)
        };
        let verdict = match rejection {
            Some(rejection) => Verdict::Rejected(rejection.in_words(head)),
            None if chosen => Verdict::Shadowed,
            None => {
                chosen = true;
                Verdict::Chosen
            }
        };
        Considered {
            route: rule.route.name().to_owned(),
            rule: rule.to_string(),
            verdict,
        }
    };
    table.rules.iter().map(&mut consider).collect()
}

enum Rejection<'t> {
    Host,
    Path,
    Method,
    Header(&'t NamedRule),
    Query(&'t NamedRule),
}

impl Rejection<'_> {
    fn in_words(&self, head: &Head<'_>) -> String {
        match self {
            Self::Host => format!("the host is `{}`", head.host),
            Self::Path => format!("the path is `{}`", head.path),
            Self::Method => format!("the method is {}", head.method),
            Self::Header(rule) => format!("no header {rule}"),
            Self::Query(rule) => format!("no query parameter {rule}"),
        }
    }
}

/// The first condition beside the host that does not hold, the cheapest to check first.
fn reject<'t>(rule: &'t Rule, head: &Head<'_>) -> Option<Rejection<'t>> {
    let fits_path = match &rule.path {
        PathRule::Exact(path) => *path == head.path,
        PathRule::Regex(regex) => regex.is_match(&head.path),
        PathRule::Prefix(prefix) => head
            .path
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    if !fits_path {
        return Some(Rejection::Path);
    }
    if !rule.methods.is_empty() && !rule.methods.iter().any(|method| method == head.method.as_str()) {
        return Some(Rejection::Method);
    }
    if let Some(missed) = rule.headers.iter().find(|rule| !fits_header(rule, head.headers)) {
        return Some(Rejection::Header(missed));
    }
    rule.query
        .iter()
        .find(|rule| !fits_query(rule, head.query.unwrap_or_default()))
        .map(Rejection::Query)
}

/// Several fields of one name are one list (RFC 9110 §5.3).
fn fits_header(rule: &NamedRule, headers: &HeaderMap) -> bool {
    let mut values = headers
        .get_all(rule.name.as_str())
        .iter()
        .map(|value| value.to_str().unwrap_or_default());
    let Some(first) = values.next() else { return false };
    match values.next() {
        None => fits_value(&rule.value, first),
        Some(second) => {
            let list: Vec<&str> = [first, second].into_iter().chain(values).collect();
            fits_value(&rule.value, &list.join(", "))
        }
    }
}

/// Of several parameters of one name the first counts, as the Gateway API recommends.
fn fits_query(rule: &NamedRule, query: &str) -> bool {
    let decode = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs
        .filter(|(name, _)| decode(name) == rule.name)
        .map(|(_, value)| decode(value))
        .next();
    value.is_some_and(|value| fits_value(&rule.value, &value))
}

fn fits_value(rule: &ValueRule, value: &str) -> bool {
    match rule {
        ValueRule::Exact(expected) => expected == value,
        ValueRule::Regex(regex) => regex.is_match(value),
    }
}

fn matched(rule: &Rule, head: &Head<'_>) -> usize {
    match &rule.path {
        PathRule::Prefix(prefix) => prefix.len(),
        PathRule::Exact(_) | PathRule::Regex(_) => head.path.len(),
    }
}
