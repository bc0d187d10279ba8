//! Services by themselves: unused ones, probes that ask others, updates that are outages, and whose the databases are.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lint, Site};
use crate::Code;
use crate::compile::wiring::Unit;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::{Check, Fallback, Origin, Restart, Service, Strategy, Text as Word};
use crate::reader::Text;
use crate::text::as_variable;

/// Where each database is named, by services in the order of their names.
type Users<'l, 'd> = BTreeMap<&'l str, Vec<(&'l str, &'l Text<'d>)>>;

pub(super) fn check(lint: &Lint<'_, '_>) {
    let users = users(lint);
    check_databases(lint, &users);
    check_unused(lint, &users);
    for (unit, service) in lint.units.iter().zip(lint.plan.services.values()) {
        check_probes(lint, unit, service);
    }
    check_updates(lint);
}

fn users<'l, 'd>(lint: &Lint<'l, 'd>) -> Users<'l, 'd> {
    let mut users = Users::new();
    for unit in &lint.units {
        for database in &unit.databases {
            users.entry(&database.value).or_default().push((&unit.name.value, database));
        }
    }
    users
}

fn check_databases<'l>(lint: &Lint<'l, '_>, users: &Users<'l, '_>) {
    for (name, declaration) in &lint.declared.databases {
        match users.get(name.as_str()).map_or(&[] as &[_], Vec::as_slice) {
            [] => {
                let message = format!("no service uses the database `{name}`");
                let hint = format!("write `databases = [\"{name}\"]` in a service, or take it out");
                let diagnostic = Diagnostic::new(Code::DatabaseUnused, &declaration.name.place, message);
                lint.find(diagnostic.label("declared here").hint(hint), [Site::Database(name)]);
            }
            [_] => {}
            all @ [(_, first), (_, second), ..] => {
                let names: Vec<&str> = all.iter().map(|(service, _)| *service).take(5).collect();
                let more = if all.len() > names.len() { ", …" } else { "" };
                let names = names.join(", ");
                let message = format!("the database `{name}` is used by {} services: {names}{more}", all.len());
                let diagnostic = Diagnostic::new(Code::DatabaseShared, &second.place, message)
                    .label("used here as well")
                    .hint("give each service a database of its own, and let one ask the other through `upstreams`")
                    .related(&first.place, "used here");
                let services = all.iter().map(|(service, _)| Site::Service(service));
                lint.find(diagnostic, services.chain([Site::Database(name)]));
            }
        }
    }
}

/// A service that nothing leads to and that leads nowhere itself. One that is given anything to work with (an upstream, a
/// variable of its own, a topic, a database that another one fills) may be a worker, which needs no call, as may one whose
/// readiness a command tells; one that ends by itself has done its work. Without any route an application is not
/// called through the gateway, so that nothing can be said.
fn check_unused<'l>(lint: &Lint<'l, '_>, users: &Users<'l, '_>) {
    if lint.graph.entries.is_empty() {
        return;
    }
    let backends = lint.plan.routes.iter().flat_map(|route| &route.backends).map(|backend| backend.service.as_str());
    let waited_for = lint.plan.services.values().flat_map(|service| service.depends_on.keys().map(String::as_str));
    let fallbacks = lint.plan.routes.iter().filter_map(|route| match &route.policy.fallback {
        Some(Fallback::Service { service }) => Some(service.as_str()),
        _ => None,
    });
    let delivered_to = lint.plan.subscriptions.values().map(|subscription| subscription.service.as_str());
    let led_to: BTreeSet<&str> = backends.chain(fallbacks).chain(waited_for).chain(delivered_to).collect();
    let callers = lint.graph.callers();
    for ((unit, service), callers) in lint.units.iter().zip(lint.plan.services.values()).zip(callers) {
        let name = unit.name.value.as_str();
        let shares = |database: &String| users.get(database.as_str()).is_some_and(|all| all.len() > 1);
        let works_alone = !service.edges.is_empty()
            || !service.depends_on.is_empty()
            || unit.table.has("environment")
            || unit.table.has("env_file")
            || matches!(service.probes.readiness.check, Check::Exec(_))
            || service.databases.iter().any(shares)
            || unit.uses_broker();
        let runs = service.restart == Restart::Always && !service.instances.is_empty();
        if runs && !works_alone && callers == 0 && !led_to.contains(name) {
            let message = format!("nothing leads to the service `{name}`, and it is given nothing to work with");
            let allow = Code::ServiceUnused.as_str();
            let diagnostic = Diagnostic::new(Code::ServiceUnused, &unit.name.place, message)
                .label("no route, no caller, nobody waits for it")
                .hint(format!(
                    "add a route to it, or name it in `upstreams`; for a worker write `allow = [\"{allow}\"]`"
                ));
            lint.find(diagnostic, [Site::Service(name)]);
        }
    }
}

/// Only commands show whom they ask: a path is asked of the instance itself, and what happens behind it is its own affair.
fn check_probes<'l, 'd>(lint: &Lint<'l, 'd>, unit: &'l Unit<'d>, service: &Service) {
    let name = unit.name.value.as_str();
    let probes = [("readiness", Some(&service.probes.readiness)), ("liveness", service.probes.liveness.as_ref())];
    for (kind, probe) in probes {
        let Some(Check::Exec(words)) = probe.map(|probe| &probe.check) else { continue };
        let Some((asked, upstream)) = asked(lint, unit, service, words) else { continue };
        let outcome = match kind {
            "readiness" => "takes every instance out of rotation",
            _ => "restarts every instance",
        };
        let message = format!("the {kind} probe of `{name}` asks {asked}: an outage there {outcome}");
        let table = unit.table.table_or_default("probes").table_or_default(kind);
        let mut diagnostic = Diagnostic::new(Code::ProbeDepends, &table.place_of("exec"), message)
            .label(format!("passes through {asked}"))
            .hint("ask the instance itself, at `http://${HOST}:${PORT}`; its start can wait with `depends_on`");
        if let Some(place) = upstream {
            diagnostic = diagnostic.related(&place, "called here");
        }
        lint.find(diagnostic, [Site::Service(name)]);
    }
}

/// Whom the words of a command ask, other than the instance itself; an upstream with its place.
fn asked<'d>(
    lint: &Lint<'_, 'd>,
    unit: &Unit<'d>,
    service: &Service,
    words: &[Word],
) -> Option<(String, Option<Place<'d>>)> {
    for upstream in &unit.upstreams {
        let variable = format!("{}_URL", as_variable(&upstream.value));
        let is_given = service.environment.get(&variable).is_some_and(|known| known.origin == Origin::Given);
        let port = service.edges.get(&upstream.value).map(|edge| edge.port);
        let names = |word: &Word| {
            (is_given && has_variable(&word.value, &variable))
                || port.is_some_and(|port| has_address(&word.value, "127.0.0.1", port))
        };
        if words.iter().any(names) {
            return Some((format!("`{}`", upstream.value), Some(upstream.place.clone())));
        }
    }
    let gateway = lint.plan.gateway.listen;
    let host = gateway.ip().to_string();
    let hosts = [host.as_str(), "127.0.0.1", "localhost", "[::1]"];
    let names = |word: &Word| hosts.iter().any(|host| has_address(&word.value, host, gateway.port()));
    words.iter().any(names).then(|| ("the gateway".to_owned(), None))
}

/// Whether `$NAME` or `${NAME…}` stands in it, as Atoll or a shell would expand it.
fn has_variable(word: &str, name: &str) -> bool {
    let mut rests = word.split('$').skip(1).map(|rest| rest.strip_prefix('{').unwrap_or(rest));
    let ends = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_');
    rests.any(|rest| rest.strip_prefix(name).is_some_and(ends))
}

fn has_address(word: &str, host: &str, port: u16) -> bool {
    let address = format!("{host}:{port}");
    word.match_indices(&address).any(|(at, _)| !word[at + address.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// Services that a route leads to and whose every instance an update may stop before a new one takes over.
fn check_updates(lint: &Lint<'_, '_>) {
    let mut told = BTreeSet::new();
    for entry in &lint.graph.entries {
        let unit = lint.units[entry.service];
        let name = unit.name.value.as_str();
        let update = &lint.plan.services[name].update;
        let (key, why, hint) = match update.strategy {
            Strategy::Recreate => ("strategy", "all of its instances stop first", "write `strategy = \"rolling\"`"),
            Strategy::Rolling if update.max_unavailable >= unit.replicas => {
                let hint = "write `max_unavailable = 0` and `max_surge = 1`";
                ("max_unavailable", "all of its instances may be away", hint)
            }
            Strategy::Rolling => continue,
        };
        if unit.replicas == 0 || !told.insert(entry.service) {
            continue;
        }
        let replicas = match unit.replicas {
            1 => "1 replica".to_owned(),
            many => format!("{many} replicas"),
        };
        let message = format!("every update of `{name}` is an outage: with {replicas}, {why}");
        let place = unit.table.table_or_default("update").place_of(key);
        let diagnostic = Diagnostic::new(Code::UpdateOutage, &place, message)
            .label("nobody is left to answer")
            .hint(hint)
            .related(&lint.place_of_backend(entry.route, name), "requests come in here");
        lint.find(diagnostic, [Site::Service(name)]);
    }
}
