//! Routes of the gateway, in the order of the manifest.

use std::collections::BTreeMap;

use super::declared::{Declared, is_service};
use super::policies::{Written, fallback_service};
use super::{filters, matches};
use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::{Backend, Filter, Match, PathMatch, Route};
use crate::reader::{Table, Text};

pub(crate) fn compile(cx: &Context<'_>, declared: &Declared<'_>) -> Vec<Route> {
    let mut names: BTreeMap<String, Place<'_>> = BTreeMap::new();
    let mut routes = Vec::new();
    for table in &declared.routes {
        let route = route(cx, declared, table);
        let Some(name) = table.text("name") else { continue };
        check_name(cx, &name);
        if let Some(first) = names.get(&name.value) {
            let diagnostic =
                Diagnostic::new(Code::Duplicate, &name.place, format!("two routes are called `{}`", name.value))
                    .label("the second one")
                    .hint("rename one of them")
                    .related(first, "the first one");
            cx.report(diagnostic);
        }
        names.insert(name.value.clone(), name.place);
        routes.push(Route { name: name.value, ..route });
    }
    routes
}

/// Names of routes stand in logs and metrics only, so that they are not as narrow as those of services.
fn check_name(cx: &Context<'_>, name: &Text<'_>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.value.is_empty() || name.value.len() > 100 || !name.value.chars().all(fits) {
        let message = format!("`{}` is not a valid name of a route", name.value);
        let hint = "write letters, digits, `-`, `_` and `.`, at most 100";
        cx.report(Diagnostic::new(Code::Name, &name.place, message).hint(hint));
    }
}

fn route(cx: &Context<'_>, declared: &Declared<'_>, table: &Table<'_>) -> Route {
    let mut matches: Vec<Match> = table.tables("matches").iter().map(|table| matches::compile(cx, table)).collect();
    if matches.is_empty() {
        let path = PathMatch::Prefix("/".to_owned());
        matches.push(Match { path, methods: Vec::new(), headers: Vec::new(), query: Vec::new() });
    }
    let filters = filters::compile(cx, table, &matches);
    let backends = backends(cx, declared, table);
    check_answer(cx, table, &filters, &backends);
    if let Some(service) = fallback_service(table) {
        is_service(cx, declared, &service);
    }
    let hostnames = table.texts("hostnames");
    Route {
        name: String::new(),
        hostnames: hostnames
            .iter()
            .filter_map(|host| matches::hostname(cx, host, matches::Wildcard::Allowed))
            .collect(),
        matches,
        filters,
        policy: Written::of(cx, table).complete(),
        backends,
    }
}

fn backends(cx: &Context<'_>, declared: &Declared<'_>, table: &Table<'_>) -> Vec<Backend> {
    let mut seen: BTreeMap<String, Place<'_>> = BTreeMap::new();
    let mut backends = Vec::new();
    for backend in table.tables("backends") {
        let Some(service) = backend.text("service") else { continue };
        is_service(cx, declared, &service);
        if let Some(first) = seen.insert(service.value.clone(), service.place.clone()) {
            let message = format!("`{}` stands twice in `backends`", service.value);
            let diagnostic = Diagnostic::new(Code::Duplicate, &service.place, message)
                .label("the second time")
                .hint("add up their weights in one of them")
                .related(&first, "the first time");
            cx.report(diagnostic);
        }
        let weight = u32::try_from(backend.integer("weight")).unwrap_or_default();
        backends.push(Backend { service: service.value, weight });
    }
    backends
}

/// A route answers with a redirect or from a backend: with exactly one of them.
fn check_answer(cx: &Context<'_>, table: &Table<'_>, filters: &[Filter], backends: &[Backend]) {
    let redirects = filters.iter().any(|filter| matches!(filter, Filter::RequestRedirect { .. }));
    let place = table.place_of("backends");
    if redirects && table.has("backends") {
        let diagnostic = Diagnostic::new(Code::Filters, &place, "a route with `request_redirect` asks no backend");
        cx.report(diagnostic.label("never asked").hint("take out `backends`, or the filter"));
    } else if !redirects && table.list("backends").is_empty() {
        // A filter or backend that is itself broken is reported where it stands.
        if !table.list("filters").iter().filter_map(|item| item.table()).any(|filter| filter.has("request_redirect")) {
            let diagnostic = Diagnostic::new(Code::NoAnswer, &place, "the route has no backend and no redirect");
            cx.report(diagnostic.hint("add `backends = [{ service = \"…\" }]`"));
        }
    } else if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        let diagnostic =
            Diagnostic::new(Code::Weights, &place, "every backend has the weight 0, so that none is asked");
        cx.report(diagnostic.hint("give one of them a `weight` of at least 1"));
    }
}
