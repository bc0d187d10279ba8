//! Retries that do something twice, and retries that multiply along a path.

use std::collections::BTreeMap;

use super::graph::Call;
use super::{Lint, Site, path};
use crate::Code;
use crate::compile::edges::ALL;
use crate::compile::policies;
use crate::diagnostic::Diagnostic;
use crate::plan::Match;
use crate::reader::Table;

/// Tries that one request may become along a path without being a finding.
const TRIES_MAX: u64 = 8;
/// RFC 9110 §9.2.2; what is not defined there is not known to be safe.
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"];

/// A route and the tries of its own.
type Retrying = (usize, u64);

pub(super) fn check(lint: &Lint<'_, '_>) {
    check_methods(lint);
    check_amplification(lint);
}

fn check_methods(lint: &Lint<'_, '_>) {
    for (at, route) in lint.plan.routes.iter().enumerate() {
        if route.policy.retry.unsafe_methods
            && !route.backends.is_empty()
            && let Some(method) = route.matches.iter().find_map(unsafe_method)
        {
            let what = format!("the route `{}`", route.name);
            lint.find(repeated(lint.route_table(at), &what, method), [Site::Route(at)]);
        }
    }
    for (unit, policies) in lint.units.iter().zip(&lint.policies) {
        let caller = unit.name.value.as_str();
        let service = &lint.plan.services[caller];
        for (name, table) in policies.iter() {
            let upstream = match service.edges.get_key_value(name) {
                Some((upstream, _)) => upstream.as_str(),
                None if unit.upstreams.is_empty() => continue,
                None => ALL,
            };
            if table.table("retry").is_some_and(|table| policies::retry(&table).unsafe_methods) {
                let to = if upstream == ALL { "every upstream".to_owned() } else { format!("`{upstream}`") };
                let diagnostic = repeated(table, &format!("the edge from `{caller}` to {to}"), "POST");
                lint.find(diagnostic, [Site::Edge(caller, upstream), Site::Service(caller)]);
            }
        }
    }
}

/// One that the match lets through and that is not idempotent.
fn unsafe_method(condition: &Match) -> Option<&str> {
    match condition.methods.as_slice() {
        [] => Some("POST"),
        methods => methods.iter().map(String::as_str).find(|method| !IDEMPOTENT.contains(method)),
    }
}

fn repeated(table: &Table<'_>, what: &str, method: &str) -> Diagnostic {
    let place = table.table("retry").map_or_else(|| table.place_of("retry"), |retry| retry.place_of("unsafe_methods"));
    let message = format!("{what} sends a {method} again whose first try may have had its effect");
    Diagnostic::new(Code::RetryUnsafe, &place, message)
        .label("twice is not as good as once")
        .hint("take `unsafe_methods` out, unless the service drops what it has already done")
}

/// Once for each service that a path begins with: behind the route that tries most, or where nobody calls it.
fn check_amplification(lint: &Lint<'_, '_>) {
    let graph = &lint.graph;
    let best = graph.best(|call, behind| call.tries.saturating_mul(behind));
    let callers = graph.callers();
    let uncalled = (0..graph.names.len()).filter(|service| callers[*service] == 0);
    let mut starts: BTreeMap<usize, Option<Retrying>> = uncalled.map(|service| (service, None)).collect();
    for entry in &graph.entries {
        let tries = u64::from(lint.plan.routes[entry.route].policy.retry.attempts);
        let start = starts.entry(entry.service).or_default();
        if start.is_none_or(|(_, most)| tries > most) {
            *start = Some((entry.route, tries));
        }
    }
    let tries = |(service, route): (&usize, &Option<Retrying>)| {
        (*service, best.value[*service].saturating_mul(route.map_or(1, |(_, tries)| tries)))
    };
    let tries: BTreeMap<usize, u64> = starts.iter().map(tries).filter(|(_, tries)| *tries > TRIES_MAX).collect();
    for start in graph.leading(&best, tries.clone().into_iter().collect()) {
        report_amplification(lint, (start, starts[&start]), tries[&start], &graph.follow(&best, start));
    }
}

fn report_amplification<'l>(
    lint: &Lint<'l, '_>,
    (start, route): (usize, Option<Retrying>),
    tries: u64,
    calls: &[(usize, &Call)],
) {
    let mut repeated = calls.iter().filter(|(_, call)| call.tries > 1);
    let edges = repeated.clone().flat_map(|(caller, call)| {
        [Site::Edge(lint.name(*caller), lint.name(call.to)), Site::Service(lint.name(*caller))]
    });
    let place = |(caller, call): &(usize, &Call)| lint.place_of_policy(*caller, lint.name(call.to), "retry");
    let retrying = route.filter(|(_, tries)| *tries > 1);
    let of_route = retrying.map(|(route, tries)| (lint.route_table(route).place_of("retry"), tries));
    let first = of_route.or_else(|| repeated.clone().next().map(|call| (place(call), call.1.tries)));
    let Some((first, tries_first)) = first else { return };
    let message = format!("one request may become {tries} tries: {}", shown(lint, start, route, calls));
    let mut diagnostic = Diagnostic::new(Code::RetryAmplification, &first, message)
        .label(format!("up to {tries_first} tries"))
        .hint("retry at one place of the path only: write `attempts = 1` at the others");
    if let Some(call) = repeated.next_back() {
        let last = place(call);
        if (last.file, last.span.start) != (first.file, first.span.start) {
            diagnostic = diagnostic.related(&last, format!("up to {} for each of them", call.1.tries));
        }
    }
    let start = Site::Service(lint.name(start));
    lint.find(diagnostic, retrying.map(|(route, _)| Site::Route(route)).into_iter().chain([start]).chain(edges));
}

/// `gateway → payment ×3 → ledger`.
fn shown(lint: &Lint<'_, '_>, start: usize, route: Option<Retrying>, calls: &[(usize, &Call)]) -> String {
    let times = |service: usize, tries: u64| match tries {
        1 => lint.name(service).to_owned(),
        _ => format!("{} ×{tries}", lint.name(service)),
    };
    let gateway = route.map(|_| "gateway".to_owned());
    let first = times(start, route.map_or(1, |(_, tries)| tries));
    let rest = calls.iter().map(|(_, call)| times(call.to, call.tries));
    path(&gateway.into_iter().chain([first]).chain(rest).collect::<Vec<_>>())
}
