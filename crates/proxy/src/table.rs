//! Snapshots compiled for speed: every rule of a listener in order of precedence, regular expressions built, header
//! values checked. Pure; who serves a route is `balance`'s matter, what a filter does is `filter`'s.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use crate::error::Error;
use crate::filter::Filters;
use crate::guard::GuardSlot;
use crate::hashing::Hashing;
use crate::meters;
use crate::path;
use crate::policy::{Fallback, Policy};
use crate::snapshot::{Backend, Listener, Match, NamedMatch, PathMatch, Role, Route, Snapshot, ValueMatch};

// Limit: a larger automaton is a refused snapshot, so that no pattern eats the memory of the data plane.
const REGEX_BYTES_MAX: usize = 1024 * 1024;

/// All listeners of one snapshot.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    listeners: Arc<BTreeMap<String, Arc<Table>>>,
    /// What routes choose from; they know their places.
    pub(crate) slots: Arc<[Slot]>,
}

impl Tables {
    /// Compiles every listener.
    ///
    /// # Errors
    /// The first rule that cannot be compiled. Nothing of the snapshot is then used.
    pub fn compile(snapshot: &Snapshot) -> Result<Self, Error> {
        let mut slots = Slots::default();
        let compile = |(name, listener): (&String, &Listener)| {
            Ok((name.clone(), Arc::new(Table::compile_with(listener, &mut slots)?)))
        };
        let listeners = snapshot.listeners.iter().map(compile).collect::<Result<_, Error>>()?;
        Ok(Self { listeners: Arc::new(listeners), slots: slots.all.into() })
    }

    /// The table of one listener, if the snapshot has it.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Arc<Table>> {
        self.listeners.get(name)
    }
}

/// A service as routes see it: one slot for all that see it alike, and one of its own for each route whose policy makes it
/// see more.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) service: Arc<str>,
    pub(crate) route: Option<Arc<Compiled>>,
}

/// The slots of tables that are being compiled.
#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    /// By service, the place of the slot for all.
    shared: HashMap<String, usize>,
}

impl Slots {
    fn shared(&mut self, service: &str) -> usize {
        if let Some(place) = self.shared.get(service) {
            return *place;
        }
        self.shared.insert(service.to_owned(), self.all.len());
        self.own(service)
    }

    fn own(&mut self, service: &str) -> usize {
        self.all.push(Slot { service: service.into(), route: None });
        self.all.len() - 1
    }
}

/// The rules of one listener.
#[derive(Clone, Debug)]
pub struct Table {
    /// Who stands before an edge; nobody is believed before a gateway.
    pub(crate) caller: Option<Arc<str>>,
    pub(crate) is_logged: bool,
    pub(crate) tells_reason: bool,
    /// Ordered by precedence, the most specific host first.
    pub(crate) rules: Vec<Rule>,
    hosts: Hosts,
}

/// Which rules may match a host: each group knows the positions of its rules in `Table::rules`.
#[derive(Clone, Debug, Default)]
struct Hosts {
    exact: Index<Group>,
    /// By suffixes that begin with a dot.
    wildcard: Index<Group>,
    any: Group,
}

/// The rules of one host by what their paths are, so that the number of rules costs nothing. Positions ascend, and with
/// them precedence descends.
#[derive(Clone, Debug, Default)]
struct Group {
    exact: Index<Vec<usize>>,
    regex: Vec<usize>,
    prefix: Index<Vec<usize>>,
    /// The length of the longest prefix: longer ones need no look, however long the path.
    prefix_bytes_max: usize,
}

type Index<T> = HashMap<String, T, Hashing>;

impl Group {
    fn add(&mut self, position: usize, path: &PathRule) {
        match path {
            PathRule::Exact(path) => self.exact.entry(path.clone()).or_default().push(position),
            PathRule::Regex(_) => self.regex.push(position),
            PathRule::Prefix(prefix) => {
                self.prefix_bytes_max = self.prefix_bytes_max.max(prefix.len());
                self.prefix.entry(prefix.clone()).or_default().push(position);
            }
        }
    }

    /// The rules whose path may fit: those that do, and every regular expression.
    fn candidates<'t, 'h>(&'t self, path: &'h str) -> impl Iterator<Item = usize> + use<'t, 'h> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(path) };
        let ends = (0..=path.len().min(self.prefix_bytes_max)).rev();
        let ends = ends.filter(|end| *end == path.len() || path.as_bytes()[*end] == b'/');
        let ends = ends.take(if self.prefix.is_empty() { 0 } else { usize::MAX });
        let prefix = ends.filter_map(|end| self.prefix.get(&path[..end])).flatten();
        exact.into_iter().flatten().chain(&self.regex).chain(prefix).copied()
    }
}

impl Table {
    /// Compiles one listener.
    ///
    /// # Errors
    /// The first rule that cannot be compiled.
    pub fn compile(listener: &Listener) -> Result<Self, Error> {
        Self::compile_with(listener, &mut Slots::default())
    }

    fn compile_with(listener: &Listener, slots: &mut Slots) -> Result<Self, Error> {
        let mut rules = Vec::new();
        for route in &listener.routes {
            let compiled = Compiled::new(route, slots)?;
            for condition in &route.matches {
                let rule = |host| Rule::new(&compiled, route, host, condition);
                if route.hostnames.is_empty() {
                    rules.push(rule(HostRule::Any)?);
                }
                for name in &route.hostnames {
                    rules.push(rule(HostRule::new(name))?);
                }
            }
        }
        // Order: the sort is stable, so that the order of the snapshot decides where precedence does not.
        rules.sort_by_cached_key(Rule::precedence);
        let caller = match &listener.role {
            Role::Gateway => None,
            Role::Edge { caller, .. } => Some(caller.as_str().into()),
        };
        Ok(Self {
            caller,
            is_logged: listener.is_logged,
            tells_reason: listener.tells_reason,
            hosts: Hosts::index(&rules),
            rules,
        })
    }

    /// The rules whose host fits and whose path may, in order of precedence, with their positions.
    pub(crate) fn candidates<'t, 'h>(
        &'t self,
        host: &'h str,
        path: &'h str,
    ) -> impl Iterator<Item = (usize, &'t Rule)> + use<'t, 'h> {
        let groups = self.groups(host).chain([&self.hosts.any]);
        groups.flat_map(move |group| group.candidates(path)).map(|position| (position, &self.rules[position]))
    }

    /// Whether the listener answers for this host at all.
    pub(crate) fn serves(&self, host: &str) -> bool {
        let has_any = self.rules.last().is_none_or(|rule| rule.host == HostRule::Any);
        has_any || self.groups(host).next().is_some()
    }

    /// Those that name the host, the most specific first.
    fn groups<'t, 'h>(&'t self, host: &'h str) -> impl Iterator<Item = &'t Group> + use<'t, 'h> {
        let exact = if self.hosts.exact.is_empty() { None } else { self.hosts.exact.get(host) };
        let wildcard = &self.hosts.wildcard;
        // Something stands before the dot.
        let dots = (1..host.len()).filter(|place| host.as_bytes()[*place] == b'.');
        let dots = dots.take(if wildcard.is_empty() { 0 } else { usize::MAX });
        exact.into_iter().chain(dots.filter_map(|place| wildcard.get(&host[place..])))
    }
}

impl Hosts {
    fn index(rules: &[Rule]) -> Self {
        let mut hosts = Self::default();
        for (position, rule) in rules.iter().enumerate() {
            let group = match &rule.host {
                HostRule::Exact(name) => hosts.exact.entry(name.clone()).or_default(),
                HostRule::Wildcard(suffix) => hosts.wildcard.entry(suffix.clone()).or_default(),
                HostRule::Any => &mut hosts.any,
            };
            group.add(position, &rule.path);
        }
        hosts
    }
}

fn fits_wildcard(host: &str, suffix: &str) -> bool {
    host.len() > suffix.len() && host.ends_with(suffix)
}

/// A service that a route may choose.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its place in `Tables::slots`.
    pub(crate) slot: usize,
    weight: u32,
}

/// What the routes of one name share.
#[derive(Debug)]
pub struct Compiled {
    pub(crate) name: Arc<str>,
    pub(crate) policy: Policy,
    pub(crate) filters: Filters,
    pub(crate) meter: meters::Slot,
    pub(crate) guard: GuardSlot,
    backends: Vec<Target>,
    weight: u64,
    /// The slot of the service that answers instead of these.
    pub(crate) fallback: Option<usize>,
}

impl Compiled {
    fn new(route: &Route, slots: &mut Slots) -> Result<Arc<Self>, Error> {
        let filters = Filters::compile(route)?;
        if route.backends.is_empty() && filters.redirect.is_none() {
            return Err(Error::Route { route: route.name.clone(), what: "has neither a backend nor a redirect" });
        }
        let is_own = route.policy.sees_instances();
        let mut slot = |service: &str| if is_own { slots.own(service) } else { slots.shared(service) };
        let target = |backend: &Backend| Target { slot: slot(&backend.service), weight: backend.weight };
        let backends: Vec<Target> = route.backends.iter().map(target).collect();
        let fallback = match &route.policy.fallback {
            Some(Fallback::Service(service)) => Some(slots.shared(service)),
            _ => None,
        };
        let compiled = Arc::new(Self {
            name: route.name.as_str().into(),
            policy: route.policy.clone(),
            filters,
            meter: meters::Slot::default(),
            guard: GuardSlot::default(),
            weight: route.backends.iter().map(|backend| u64::from(backend.weight)).sum(),
            backends,
            fallback,
        });
        if is_own {
            for target in &compiled.backends {
                slots.all[target.slot].route = Some(Arc::clone(&compiled));
            }
        }
        Ok(compiled)
    }

    /// The name that the snapshot gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The service that takes a request, as `random` in `[0, 1)` falls into the weights. `None` when all are 0.
    pub(crate) fn backend(&self, random: impl FnOnce() -> f64) -> Option<&Target> {
        if let [only] = &*self.backends {
            return (only.weight > 0).then_some(only);
        }
        let mut rest = (random() * self.weight as f64) as u64;
        self.backends.iter().find(|target| {
            let taken = rest < u64::from(target.weight);
            rest = rest.saturating_sub(u64::from(target.weight));
            taken
        })
    }
}

/// One match of one route for one host.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) route: Arc<Compiled>,
    pub(crate) host: HostRule,
    pub(crate) path: PathRule,
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<NamedRule>,
    pub(crate) query: Vec<NamedRule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostRule {
    Exact(String),
    /// The suffix with its dot.
    Wildcard(String),
    Any,
}

#[derive(Clone, Debug)]
pub(crate) enum PathRule {
    Exact(String),
    Regex(Regex),
    /// Without a slash at its end; the root is empty.
    Prefix(String),
}

#[derive(Clone, Debug)]
pub(crate) struct NamedRule {
    pub(crate) name: String,
    pub(crate) value: ValueRule,
}

#[derive(Clone, Debug)]
pub(crate) enum ValueRule {
    Exact(String),
    Regex(Regex),
}

/// Smaller is earlier. Host: exact, then the longest wildcard, then any. Then as HTTPRouteMatch of the Gateway API
/// demands: exact path, longest prefix, a method, most headers, most query parameters. Where it leaves regular
/// expressions to the implementation, ours stand before prefixes (the longest pattern first): behind them a catch-all
/// prefix `/` would hide every one.
type Precedence = (u8, usize, u8, usize, bool, usize, usize);

impl Rule {
    fn new(compiled: &Arc<Compiled>, route: &Route, host: HostRule, condition: &Match) -> Result<Self, Error> {
        if matches!(condition.path, PathMatch::Regex(_)) && compiled.filters.rewrites_prefix() {
            let what = "rewrites a prefix, but matches a regular expression";
            return Err(Error::Route { route: route.name.clone(), what });
        }
        Ok(Self {
            route: Arc::clone(compiled),
            host,
            path: PathRule::compile(&route.name, &condition.path)?,
            methods: condition.methods.iter().map(|method| method.to_ascii_uppercase()).collect(),
            headers: named(&route.name, &condition.headers, |name| name.to_ascii_lowercase())?,
            query: named(&route.name, &condition.query, str::to_owned)?,
        })
    }

    fn precedence(&self) -> Precedence {
        let longest = |length: usize| usize::MAX - length;
        let (host, host_length) = match &self.host {
            HostRule::Exact(_) => (0, 0),
            HostRule::Wildcard(suffix) => (1, longest(suffix.len())),
            HostRule::Any => (2, 0),
        };
        let (path, path_length) = match &self.path {
            PathRule::Exact(_) => (0, 0),
            PathRule::Regex(regex) => (1, longest(regex.as_str().len())),
            PathRule::Prefix(prefix) => (2, longest(prefix.len())),
        };
        let conditions = (longest(self.headers.len()), longest(self.query.len()));
        (host, host_length, path, path_length, self.methods.is_empty(), conditions.0, conditions.1)
    }
}

impl HostRule {
    fn new(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix('*') {
            Some("") => Self::Any,
            Some(suffix) => Self::Wildcard(suffix.to_owned()),
            None => Self::Exact(name),
        }
    }

    pub(crate) fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => fits_wildcard(host, suffix),
            Self::Any => true,
        }
    }
}

impl PathRule {
    fn compile(route: &str, path: &PathMatch) -> Result<Self, Error> {
        let normal = |text: &str| {
            let what = "matches a path that no request can have";
            path::normalise(text).map(String::from).map_err(|_| Error::Route { route: route.to_owned(), what })
        };
        Ok(match path {
            PathMatch::Exact(text) => Self::Exact(normal(text)?),
            PathMatch::Prefix(text) => Self::Prefix(normal(text)?.trim_end_matches('/').to_owned()),
            PathMatch::Regex(pattern) => Self::Regex(regex(route, pattern)?),
        })
    }
}

fn named(route: &str, matches: &[NamedMatch], name: impl Fn(&str) -> String) -> Result<Vec<NamedRule>, Error> {
    let compile = |condition: &NamedMatch| {
        let value = match &condition.value {
            ValueMatch::Exact(value) => ValueRule::Exact(value.clone()),
            ValueMatch::Regex(pattern) => ValueRule::Regex(regex(route, pattern)?),
        };
        Ok(NamedRule { name: name(&condition.name), value })
    };
    matches.iter().map(compile).collect()
}

/// The `regex` crate matches in linear time, whatever the pattern; only its size needs a bound.
fn regex(route: &str, pattern: &str) -> Result<Regex, Error> {
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|source| Error::Regex { route: route.to_owned(), source })
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostRule::Exact(name) => write!(f, "host {name}, ")?,
            HostRule::Wildcard(suffix) => write!(f, "host *{suffix}, ")?,
            HostRule::Any => {}
        }
        match &self.path {
            PathRule::Exact(path) => write!(f, "path = {path}")?,
            PathRule::Regex(regex) => write!(f, "path ~ {}", regex.as_str())?,
            PathRule::Prefix(prefix) => write!(f, "path {prefix}/*")?,
        }
        if !self.methods.is_empty() {
            write!(f, ", {}", self.methods.join("|"))?;
        }
        for rule in &self.headers {
            write!(f, ", header {rule}")?;
        }
        for rule in &self.query {
            write!(f, ", query {rule}")?;
        }
        Ok(())
    }
}

impl fmt::Display for NamedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            ValueRule::Exact(value) => write!(f, "{} = {value}", self.name),
            ValueRule::Regex(regex) => write!(f, "{} ~ {}", self.name, regex.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn compiled(weights: &[(&str, u32)]) -> Arc<Compiled> {
        let backend = |(service, weight): &(&str, u32)| Backend { service: (*service).to_owned(), weight: *weight };
        let route = Route {
            name: "r".to_owned(),
            hostnames: vec![],
            matches: vec![],
            filters: vec![],
            policy: Policy::plain(Duration::from_secs(1)),
            backends: weights.iter().map(backend).collect(),
        };
        Compiled::new(&route, &mut Slots::default()).unwrap()
    }

    #[test]
    fn weights_are_shares_and_zero_takes_nothing() {
        let (route, names) = (compiled(&[("a", 1), ("none", 0), ("b", 3)]), ["a", "none", "b"]);
        let seen: Vec<&str> =
            [0.0, 0.24, 0.25, 0.5, 0.999].iter().map(|random| names[route.backend(|| *random).unwrap().slot]).collect();
        assert_eq!(seen, ["a", "a", "b", "b", "b"]);
        assert!(compiled(&[("a", 0)]).backend(|| 0.5).is_none());
    }
}
