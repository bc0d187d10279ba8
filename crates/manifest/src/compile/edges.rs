//! What is agreed on calls to an upstream: the policy of an edge, its own before the one for all.

use std::collections::BTreeMap;

use super::policies::{Written, fallback_service};
use super::wiring::Unit;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::Edge;
use crate::reader::{Table, Text};
use crate::text::{nearest, quoted_list};

/// Names the policy for all upstreams.
pub(crate) const ALL: &str = "*";

/// The policy tables of one service.
#[derive(Debug)]
pub(crate) struct Policies<'d>(BTreeMap<String, Table<'d>>);

impl<'d> Policies<'d> {
    pub(crate) fn of(unit: &Unit<'d>) -> Self {
        let tables = unit.table.map("edges").into_iter();
        Self(tables.filter_map(|(name, item)| Some((name.value, item.table()?))).collect())
    }

    /// The table that says `key` of an upstream.
    pub(crate) fn saying(&self, upstream: &str, key: &str) -> Option<&Table<'d>> {
        [upstream, ALL].iter().filter_map(|name| self.0.get(*name)).find(|table| table.has(key))
    }

    /// Each with the name that it is written under.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Table<'d>)> {
        self.0.iter().map(|(name, table)| (name.as_str(), table))
    }
}

pub(crate) fn compile(cx: &Context<'_>, unit: &Unit<'_>, port: impl Fn(&str) -> u16) -> BTreeMap<String, Edge> {
    let upstreams: Vec<&str> = unit.upstreams.iter().map(|name| name.value.as_str()).collect();
    for (name, _) in unit.table.map("edges") {
        if name.value != ALL && !upstreams.contains(&name.value.as_str()) {
            report_no_upstream(cx, unit, &upstreams, &name);
        }
    }
    let policies = Policies::of(unit);
    let mut written: BTreeMap<&str, Written> =
        policies.iter().map(|(name, table)| (name, Written::of(cx, table))).collect();
    policies.iter().filter_map(|(_, table)| fallback_service(table)).for_each(|service| {
        check_fallback(cx, unit, &upstreams, &service);
    });
    let all = written.remove(ALL).unwrap_or_default();
    let edges = upstreams.into_iter().map(|name| {
        let own = written.remove(name).unwrap_or_default();
        let policy = own.or(&all.clone().without_fallback_to(name)).complete();
        (name.to_owned(), Edge { port: port(name), policy })
    });
    edges.collect()
}

/// What is called is declared, also when it is called instead of another.
fn check_fallback(cx: &Context<'_>, unit: &Unit<'_>, upstreams: &[&str], service: &Text<'_>) {
    if upstreams.contains(&service.value.as_str()) || is_named(unit, service) {
        return;
    }
    let message = format!("the fallback `{}` is not an upstream of `{}`", service.value, unit.name.value);
    let hint = match nearest(&service.value, upstreams.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add `\"{}\"` to `upstreams`: it would be called too", service.value),
    };
    cx.report(Diagnostic::new(Code::EdgeWithoutUpstream, &service.place, message).label("not an upstream").hint(hint));
}

/// Whether it is written as an upstream: one that is not declared is reported there, and is not a second mistake here.
fn is_named(unit: &Unit<'_>, name: &Text<'_>) -> bool {
    unit.table.texts("upstreams").iter().any(|upstream| upstream.value == name.value)
}

fn report_no_upstream(cx: &Context<'_>, unit: &Unit<'_>, upstreams: &[&str], name: &Text<'_>) {
    if is_named(unit, name) {
        return;
    }
    let message = format!("`{}` is not an upstream of `{}`", name.value, unit.name.value);
    let hint = match nearest(&name.value, upstreams.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if upstreams.is_empty() => format!("add `upstreams = [\"{}\"]`", name.value),
        None => format!("add `\"{}\"` to `upstreams`, or write {}", name.value, quoted_list(upstreams)),
    };
    cx.report(Diagnostic::new(Code::EdgeWithoutUpstream, &name.place, message).label("not an upstream").hint(hint));
}
