//! Policies that can never act, and fallbacks that say of a write that it was done.

use std::time::Duration;

use super::{Lint, Site};
use crate::Code;
use crate::compile::edges::ALL;
use crate::compile::policies::leads_to;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::{Fallback, Match, Policy};
use crate::reader::Table;
use crate::text::format_duration;

/// RFC 9110 §9.2.1: these ask for nothing to be done.
const SAFE: [&str; 4] = ["GET", "HEAD", "OPTIONS", "TRACE"];

/// A key of a policy, within the table of another one or by itself, and why it never acts.
struct Rule {
    within: Option<&'static str>,
    key: &'static str,
    why: fn(&Policy) -> Option<String>,
}

const RULES: [Rule; 6] = [
    Rule {
        within: None,
        key: "timeout",
        why: |policy| {
            after(Some(policy.timeout), policy.total_timeout, "total_timeout")
                .filter(|_| policy.waits() < policy.timeout)
        },
    },
    Rule { within: None, key: "connect_timeout", why: |policy| after_the_head(policy.connect_timeout, policy) },
    Rule {
        within: None,
        key: "idle_timeout",
        why: |policy| after(policy.idle_timeout, policy.total_timeout, "total_timeout"),
    },
    Rule { within: Some("retry"), key: "try_timeout", why: |policy| after_the_head(policy.retry.try_timeout, policy) },
    Rule {
        within: Some("circuit_breaker"),
        key: "slow_call",
        why: |policy| {
            let slow = policy.circuit_breaker.as_ref()?.slow_call;
            let of_try = after(slow, policy.retry.try_timeout, "try_timeout");
            of_try.or_else(|| after_the_head(slow, policy))
        },
    },
    Rule {
        within: Some("concurrency_limit"),
        key: "wait",
        why: |policy| {
            let limit = policy.concurrency_limit.as_ref().filter(|limit| limit.queue > 0)?;
            after_the_head(Some(limit.wait), policy)
        },
    },
];

/// That something is over before a time has passed.
fn after(time: Option<Duration>, end: Option<Duration>, name: &str) -> Option<String> {
    let (time, end) = (time?, end?);
    (time >= end).then(|| format!("after {} `{name}` has ended the request", format_duration(end)))
}

/// That the head of an answer is no longer waited for before a time has passed.
fn after_the_head(time: Option<Duration>, policy: &Policy) -> Option<String> {
    let name = if policy.waits() < policy.timeout { "total_timeout" } else { "timeout" };
    after(time, Some(policy.waits()), name)
}

pub(super) fn check(lint: &Lint<'_, '_>) {
    for (at, route) in lint.plan.routes.iter().enumerate() {
        let table = lint.route_table(at);
        for rule in &RULES {
            idle(lint, table, rule, &[&route.policy], [Site::Route(at)]);
        }
        let mut taking = route.backends.iter().filter(|backend| backend.weight > 0).map(|backend| &backend.service);
        if let Some(fallback) = &route.policy.fallback
            && !route.backends.is_empty()
            && taking.all(|service| leads_to(fallback, service))
        {
            itself(lint, table, "the only backend", [Site::Route(at)]);
        }
        check_pretence(lint, at);
    }
    for (unit, policies) in lint.units.iter().zip(&lint.policies) {
        let caller = unit.name.value.as_str();
        let edges = &lint.plan.services[caller].edges;
        for (name, table) in policies.iter() {
            // What is written for many edges is idle when it is so on each that takes it from there.
            let taken = |key: &str| -> Vec<&Policy> {
                let takes =
                    |upstream: &str| policies.saying(upstream, key).is_some_and(|saying| std::ptr::eq(saying, table));
                let taking = edges.iter().filter(|(upstream, _)| name == ALL && takes(upstream)).map(|(_, edge)| edge);
                taking.chain(edges.get(name)).map(|edge| &edge.policy).collect()
            };
            let upstream = edges.get_key_value(name).map_or(ALL, |(upstream, _)| upstream.as_str());
            let sites = [Site::Edge(caller, upstream), Site::Service(caller)];
            for rule in &RULES {
                idle(lint, table, rule, &taken(rule.within.unwrap_or(rule.key)), sites);
            }
            if edges.get(name).and_then(|edge| edge.policy.fallback.as_ref()).is_some_and(|it| leads_to(it, name)) {
                itself(lint, table, "the upstream itself", sites);
            }
        }
    }
}

/// Tells of a key that acts for none of the policies that take it from this table.
fn idle<'l>(
    lint: &Lint<'l, '_>,
    table: &Table<'_>,
    rule: &Rule,
    policies: &[&Policy],
    sites: impl IntoIterator<Item = Site<'l>>,
) {
    let table = match rule.within {
        Some(outer) => table.table(outer),
        None => Some(table.clone()),
    };
    let Some(table) = table.filter(|table| table.has(rule.key)) else { return };
    let reasons: Option<Vec<String>> = policies.iter().map(|policy| (rule.why)(policy)).collect();
    if let Some(reason) = reasons.as_ref().and_then(|reasons| reasons.first()) {
        let key = rule.key;
        let message = format!("`{key}` never acts: {reason}");
        lint.find(found(&table.place_of(key), message).hint(format!("write a shorter `{key}`, or take it out")), sites);
    }
}

fn itself<'l>(lint: &Lint<'l, '_>, table: &Table<'_>, what: &str, sites: impl IntoIterator<Item = Site<'l>>) {
    let place = table.table("fallback").map_or_else(|| table.place_of("fallback"), |table| table.place_of("service"));
    let message = format!("the fallback never helps: it is {what}, which has just failed");
    lint.find(found(&place, message).hint("name another service, or write a `status` and a `body`"), sites);
}

fn found(place: &Place<'_>, message: String) -> Diagnostic {
    Diagnostic::new(Code::PolicyIdle, place, message).label("never acts")
}

/// A route whose fallback answers what should have changed something with a status that says it did. Of an edge nobody
/// has written which methods pass.
fn check_pretence(lint: &Lint<'_, '_>, at: usize) {
    let route = &lint.plan.routes[at];
    let Some(Fallback::Static { status: status @ 200..=299, .. }) = route.policy.fallback else { return };
    let Some(method) = route.matches.iter().find_map(writing_method).filter(|_| !route.backends.is_empty()) else {
        return;
    };
    let table = lint.route_table(at);
    let place = table.table("fallback").map_or_else(|| table.place_of("fallback"), |table| table.place_of("status"));
    let message = format!("the route `{}` answers a {method} that failed with {status}, as if it was done", route.name);
    let diagnostic =
        Diagnostic::new(Code::FallbackPretends, &place, message).label("not true of what was to be changed");
    let hint = "add `methods = [\"GET\", \"HEAD\"]` to its `matches`, or write `status = 503`";
    lint.find(diagnostic.hint(hint), [Site::Route(at)]);
}

/// One that the match lets through and that asks for something to be done.
fn writing_method(condition: &Match) -> Option<&str> {
    match condition.methods.as_slice() {
        [] => Some("POST"),
        methods => methods.iter().map(String::as_str).find(|method| !SAFE.contains(method)),
    }
}
