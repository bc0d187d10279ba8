//! The form of the calls themselves: circles, deep chains, and services that call many.

use std::collections::BTreeMap;

use super::{Lint, Site, path};
use crate::Code;
use crate::diagnostic::Diagnostic;

/// Limit: circles that are shown of services which all call each other; mending these shows the next.
const CIRCLES_MAX: usize = 10;
/// Calls behind each other, from the gateway, that are no finding yet.
const DEPTH_MAX: u64 = 4;
/// Upstreams of one service that are no finding yet.
const FAN_OUT_MAX: usize = 10;

pub(super) fn check(lint: &Lint<'_, '_>) {
    check_circles(lint);
    check_depth(lint);
    check_fan_out(lint);
}

fn check_circles(lint: &Lint<'_, '_>) {
    for circle in lint.graph.circles(CIRCLES_MAX) {
        let (Some(first), Some(last)) = (circle.first(), circle.last()) else { continue };
        let names: Vec<&str> = circle.iter().chain([first]).map(|service| lint.name(*service)).collect();
        let place = |caller: usize, upstream: usize| lint.place_of_call(caller, lint.name(upstream));
        let second = circle.get(1).unwrap_or(first);
        let message = format!("services call each other in a circle: {}", path(&names));
        let diagnostic = Diagnostic::new(Code::CallCycle, &place(*last, *first), message)
            .label("closes the circle")
            .hint("take one of them out of `upstreams`: let the caller hand over what the other would ask it for")
            .related(&place(*first, *second), "begins here");
        let calls = names.windows(2).map(|pair| Site::Edge(pair[0], pair[1]));
        lint.find(diagnostic, calls.chain(names.iter().map(|name| Site::Service(name))));
    }
}

/// Once for each service that a chain begins with, at the first route to it.
fn check_depth(lint: &Lint<'_, '_>) {
    let graph = &lint.graph;
    let depth = graph.best(|_, behind| behind.saturating_add(1));
    let mut routes: BTreeMap<usize, usize> = BTreeMap::new();
    for entry in graph.entries.iter().filter(|entry| depth.value[entry.service] > DEPTH_MAX) {
        routes.entry(entry.service).or_insert(entry.route);
    }
    let starts = routes.keys().map(|service| (*service, depth.value[*service])).collect();
    for start in graph.leading(&depth, starts) {
        let (first, chain) = (lint.name(start), graph.follow(&depth, start));
        let names = chain.iter().map(|(_, call)| lint.name(call.to));
        let names: Vec<&str> = ["gateway", first].into_iter().chain(names).collect();
        let calls = depth.value[start];
        let message = format!("a request may wait for {calls} calls behind each other: {}", path(&names));
        let mut diagnostic = Diagnostic::new(Code::ChainDeep, &lint.place_of_backend(routes[&start], first), message)
            .label("the chain begins here")
            .hint("let a service keep what it asks for each time, or hand the work on without waiting for it");
        if let Some((caller, call)) = chain.last() {
            diagnostic = diagnostic.related(&lint.place_of_call(*caller, lint.name(call.to)), "and ends here");
        }
        lint.find(diagnostic, [Site::Route(routes[&start]), Site::Service(first)]);
    }
}

fn check_fan_out(lint: &Lint<'_, '_>) {
    for unit in lint.units.iter().filter(|unit| unit.upstreams.len() > FAN_OUT_MAX) {
        let name = unit.name.value.as_str();
        let message = format!("`{name}` calls {} services: it is down whenever one of them is", unit.upstreams.len());
        let diagnostic = Diagnostic::new(Code::FanOutWide, &unit.table.place_of("upstreams"), message)
            .label(format!("more than {FAN_OUT_MAX}"))
            .hint("divide it, or put one service in front of those that are always asked together");
        lint.find(diagnostic, [Site::Service(name)]);
    }
}
