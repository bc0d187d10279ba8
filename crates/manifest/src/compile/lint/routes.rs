//! Routes that never get a request because others take everything before them. Exact decisions only: what an expression
//! or a set of conditions lets through is compared as it is written, and where that does not tell, nothing is said.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Lint, Site};
use crate::Code;
use crate::diagnostic::Diagnostic;
use crate::plan::{Match, NamedMatch, PathMatch, Route};

/// Limit: with more rules than these (hosts times matches, over all routes) none is compared.
const RULES_MAX: usize = 20_000;
/// Limit: rules for one host and path that one of them is compared with.
const PEERS_MAX: usize = 100;

/// One match of one route for one host.
struct Rule<'l> {
    route: usize,
    host: Option<&'l str>,
    path: Path<'l>,
    condition: &'l Match,
}

/// In the form in which requests are compared; another one is an error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Path<'l> {
    Exact(&'l str),
    Regex(&'l str),
    /// Without a slash at its end.
    Prefix(&'l str),
}

/// Of rules for the same host and path the one with the smallest goes first; where equal, the one that is written first.
/// As the data plane has it, which follows the Gateway API.
fn precedence(rule: &Rule<'_>) -> (bool, Reverse<usize>, Reverse<usize>) {
    let condition = rule.condition;
    (condition.methods.is_empty(), Reverse(condition.headers.len()), Reverse(condition.query.len()))
}

pub(super) fn check(lint: &Lint<'_, '_>) {
    let routes = &lint.plan.routes;
    let count: usize = routes.iter().map(|route| route.matches.len() * route.hostnames.len().max(1)).sum();
    if count > RULES_MAX {
        return;
    }
    let rules: Vec<Rule<'_>> = routes.iter().enumerate().flat_map(|(at, route)| rules(at, route)).collect();
    let mut peers: BTreeMap<(Option<&str>, Path<'_>), Vec<&Rule<'_>>> = BTreeMap::new();
    let mut catching: BTreeMap<Option<&str>, Vec<(&Rule<'_>, &str)>> = BTreeMap::new();
    for rule in &rules {
        peers.entry((rule.host, rule.path)).or_default().push(rule);
        if let Some(literal) = caught(rule.path) {
            catching.entry(rule.host).or_default().push((rule, literal));
        }
    }
    peers.values_mut().for_each(|all| all.sort_by_key(|rule| precedence(rule)));

    let mut live: BTreeSet<usize> = BTreeSet::new();
    let mut takers: BTreeMap<usize, usize> = BTreeMap::new();
    for rule in &rules {
        let same = peers.get(&(rule.host, rule.path)).into_iter().flatten().take(PEERS_MAX);
        let before = same.copied().take_while(|peer| !std::ptr::eq(*peer, rule));
        let catching = catching.get(&rule.host).into_iter().flatten().take(PEERS_MAX);
        // Expressions stand before prefixes, whatever else is asked.
        let wider =
            catching.filter(|(_, literal)| matches!(rule.path, Path::Prefix(path) if path.starts_with(literal)));
        let others = before.chain(wider.map(|(rule, _)| *rule)).filter(|other| other.route != rule.route);
        match taker(rule, others) {
            Some(taker) => {
                takers.entry(rule.route).or_insert(taker);
            }
            None => {
                live.insert(rule.route);
            }
        }
    }
    for (route, taker) in takers.into_iter().filter(|(route, _)| !live.contains(route)) {
        report(lint, route, taker);
    }
}

fn rules(at: usize, route: &Route) -> Vec<Rule<'_>> {
    let hosts: Vec<Option<&str>> = match route.hostnames.as_slice() {
        [] => vec![None],
        hosts => hosts.iter().map(|host| Some(host.as_str())).collect(),
    };
    let rule = |host, condition| Rule { route: at, host, path: path(condition), condition };
    hosts.into_iter().flat_map(|host| route.matches.iter().map(move |condition| rule(host, condition))).collect()
}

fn path(condition: &Match) -> Path<'_> {
    match &condition.path {
        PathMatch::Exact(text) => Path::Exact(text),
        PathMatch::Prefix(text) => Path::Prefix(text.trim_end_matches('/')),
        PathMatch::Regex(pattern) => Path::Regex(pattern),
    }
}

/// What every path begins with that an expression takes all of, if it is as simple as `/api/.*`. Every path begins with
/// a slash, so that `/.*` takes them all.
fn caught(path: Path<'_>) -> Option<&str> {
    let Path::Regex(pattern) = path else { return None };
    let literal = pattern.strip_suffix(".*")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_');
    literal.bytes().all(plain).then_some(match literal {
        "/" => "",
        literal => literal,
    })
}

/// A route that takes all of what the rule would take, or the last of several that do so together.
fn taker<'r>(rule: &Rule<'_>, others: impl Iterator<Item = &'r Rule<'r>>) -> Option<usize> {
    let within = |narrow: &[NamedMatch], wide: &[NamedMatch]| wide.iter().all(|asked| narrow.contains(asked));
    let asked = &rule.condition.methods;
    let mut methods: BTreeSet<&str> = BTreeSet::new();
    for other in others {
        let (narrow, wide) = (rule.condition, other.condition);
        if !within(&narrow.headers, &wide.headers) || !within(&narrow.query, &wide.query) {
            continue;
        }
        methods.extend(wide.methods.iter().map(String::as_str));
        let all = !asked.is_empty() && asked.iter().all(|method| methods.contains(method.as_str()));
        if wide.methods.is_empty() || all {
            return Some(other.route);
        }
    }
    None
}

fn report(lint: &Lint<'_, '_>, route: usize, taker: usize) {
    let (name, before) = (&lint.plan.routes[route].name, &lint.plan.routes[taker].name);
    let message = format!("the route `{name}` never gets a request: `{before}` takes all of them before it");
    let diagnostic = Diagnostic::new(Code::RouteShadowed, &lint.route_table(route).place_of("name"), message)
        .label("never reached")
        .hint("ask for more (a host, a path, a method, a header) in the one that should go first, or take one out")
        .related(&lint.route_table(taker).place_of("name"), "takes its requests");
    lint.find(diagnostic, [Site::Route(route)]);
}
