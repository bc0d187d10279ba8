//! Lints: what is allowed and still wrong in the way services act together. Each reads the finished plan, says where the
//! mistake is written, and can be silenced there with `allow`. They are looked for only where nothing else is wrong:
//! what seems unused may be used in a line that could not be read. Bounded by the number of calls, never by that of paths.

mod calls;
mod graph;
mod policies;
mod retries;
mod routes;
mod services;
mod subscriptions;
#[cfg(test)]
mod tests;
mod timeouts;
mod topics;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::declared::Declared;
use super::edges::{ALL, Policies};
use super::wiring::{Unit, Wired};
use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::Plan;
use crate::reader::{Table, Text};
use graph::Graph;

/// Limit: findings beyond these are not looked at; more are never shown.
const FINDINGS_MAX: usize = 2_000;
/// Limit: services of a path that are shown; of a longer one the middle is left out.
const PATH_SHOWN_MAX: usize = 12;

/// A table that `allow` can stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Site<'a> {
    /// By its position in the plan.
    Route(usize),
    Service(&'a str),
    /// Caller, and upstream or [`ALL`].
    Edge(&'a str, &'a str),
    Database(&'a str),
    /// By its position in the manifest.
    Subscription(usize),
}

/// What the lints look at, and what they found.
struct Lint<'l, 'd> {
    declared: &'l Declared<'d>,
    plan: &'l Plan,
    graph: Graph<'l>,
    /// By position in the graph, as are the policies.
    units: Vec<&'l Unit<'d>>,
    policies: Vec<Policies<'d>>,
    found: RefCell<Vec<(Diagnostic, Vec<Site<'l>>)>>,
}

pub(crate) fn check<'d>(cx: &Context<'_>, declared: &Declared<'d>, wired: &Wired<'d>, plan: &Plan) {
    if !cx.is_sound() {
        return;
    }
    let units: Vec<&Unit<'d>> = wired.values().collect();
    let policies: Vec<Policies<'d>> = units.iter().map(|unit| Policies::of(unit)).collect();
    let graph = Graph::of(plan, &policies);
    let lint = Lint { declared, plan, graph, units, policies, found: RefCell::default() };
    calls::check(&lint);
    timeouts::check(&lint);
    retries::check(&lint);
    policies::check(&lint);
    services::check(&lint);
    routes::check(&lint);
    topics::check(&lint);
    subscriptions::check(&lint);
    lint.tell(cx);
}

impl<'l, 'd> Lint<'l, 'd> {
    /// Notes a finding. It is silenced by an `allow` of any of the sites.
    fn find(&self, diagnostic: Diagnostic, sites: impl IntoIterator<Item = Site<'l>>) {
        let mut found = self.found.borrow_mut();
        if found.len() < FINDINGS_MAX {
            found.push((diagnostic, sites.into_iter().collect()));
        }
    }

    /// Reports what no `allow` silences, and each `allow` that silences nothing.
    fn tell(&self, cx: &Context<'_>) {
        let written = self.allows();
        let mut by_site: BTreeMap<(Site<'_>, &str), usize> = BTreeMap::new();
        for (at, (site, code)) in written.iter().enumerate() {
            by_site.insert((*site, &code.value), at);
        }
        let mut used = BTreeSet::new();
        for (diagnostic, sites) in self.found.take() {
            let of_all = sites.iter().filter_map(|site| match site {
                Site::Edge(caller, _) => Some(Site::Edge(caller, ALL)),
                _ => None,
            });
            let keys = sites.iter().copied().chain(of_all).map(|site| (site, diagnostic.code.as_str()));
            let silencing: Vec<usize> = keys.filter_map(|key| by_site.get(&key).copied()).collect();
            if silencing.is_empty() {
                cx.report(diagnostic);
            }
            used.extend(silencing);
        }
        for (at, (_, code)) in written.iter().enumerate().filter(|(at, _)| !used.contains(at)) {
            cx.report(idle(code, by_site.values().all(|known| *known != at)));
        }
    }

    /// Every `allow` that is written, code by code.
    fn allows(&self) -> Vec<(Site<'_>, Text<'d>)> {
        let services = self.units.iter().map(|unit| (Site::Service(&unit.name.value), &unit.table));
        let edges = self.units.iter().zip(&self.policies).flat_map(|(unit, policies)| {
            policies.iter().map(|(upstream, table)| (Site::Edge(&unit.name.value, upstream), table))
        });
        let routes = self.declared.routes.iter().enumerate().map(|(at, table)| (Site::Route(at), table));
        let databases = self.declared.databases.iter().map(|(name, database)| (Site::Database(name), &database.table));
        let subscriptions = self.declared.subscriptions.iter().enumerate();
        let subscriptions = subscriptions.map(|(at, table)| (Site::Subscription(at), table));
        let tables = services.chain(edges).chain(routes).chain(databases).chain(subscriptions);
        tables.flat_map(|(site, table)| table.texts("allow").into_iter().map(move |code| (site, code))).collect()
    }

    fn name(&self, service: usize) -> &'l str {
        self.graph.names[service]
    }

    /// The name of a service as the plan has it.
    fn name_of(&self, service: &str) -> &'l str {
        self.plan.services.get_key_value(service).map_or("", |(name, _)| name)
    }

    /// Where a call's policy says `key`, or else where the call itself is declared.
    fn place_of_policy(&self, caller: usize, upstream: &str, key: &str) -> Place<'d> {
        match self.policies[caller].saying(upstream, key) {
            Some(table) => table.place_of(key),
            None => self.place_of_call(caller, upstream),
        }
    }

    fn place_of_call(&self, caller: usize, upstream: &str) -> Place<'d> {
        let unit = self.units[caller];
        let named = unit.upstreams.iter().find(|name| name.value == upstream);
        named.map_or_else(|| unit.name.place.clone(), |name| name.place.clone())
    }

    /// Where a route names a backend.
    fn place_of_backend(&self, route: usize, service: &str) -> Place<'d> {
        let table = self.route_table(route);
        let mut backends = table.tables("backends").into_iter().filter_map(|backend| backend.text("service"));
        backends.find(|name| name.value == service).map_or_else(|| table.place_of("backends"), |name| name.place)
    }

    fn route_table(&self, route: usize) -> &'l Table<'d> {
        &self.declared.routes[route]
    }
}

fn idle(code: &Text<'_>, is_repeated: bool) -> Diagnostic {
    let known = Code::all().iter().find(|known| known.as_str() == code.value);
    let (message, label) = match known {
        None => (format!("there is no lint `{}`", code.value), "unknown"),
        Some(known) if !known.is_lint() => (format!("`{}` is no lint, and cannot be allowed", code.value), "no lint"),
        Some(_) if is_repeated => (format!("`{}` stands twice in `allow`", code.value), "the first time"),
        Some(known) => (format!("`{}` is not found here: {}", code.value, known.title()), "silences nothing"),
    };
    Diagnostic::new(Code::AllowIdle, &code.place, message).label(label).hint("take it out of `allow`")
}

/// `a → b → c`.
fn path<T: AsRef<str>>(names: &[T]) -> String {
    let join = |names: &[T]| names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" → ");
    if names.len() <= PATH_SHOWN_MAX {
        return join(names);
    }
    let (first, last) = (&names[..PATH_SHOWN_MAX - 3], &names[names.len() - 2..]);
    format!("{} → … {} more … → {}", join(first), names.len() - first.len() - last.len(), join(last))
}
