//! What is agreed on calls to an upstream: the policy of an edge, its own before the one for all; and what a route and an
//! edge have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::wiring::Unit;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{Edge, Retry};
use crate::reader::{Table, Text};
use crate::text::{nearest, parse_duration, quoted_list};

/// Names the policy for all upstreams.
pub(crate) const ALL: &str = "*";
/// What `codes` is when it is not written: the answers of whoever stands between.
const CODES: [u16; 3] = [502, 503, 504];

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

/// What is written of one edge, or of all.
#[derive(Default)]
struct Policy {
    timeout: Option<Duration>,
    retry: Option<Retry>,
}

pub(crate) fn compile(cx: &Context<'_>, unit: &Unit<'_>, port: impl Fn(&str) -> u16) -> BTreeMap<String, Edge> {
    let upstreams: Vec<&str> = unit.upstreams.iter().map(|name| name.value.as_str()).collect();
    for (name, _) in unit.table.map("edges") {
        if name.value != ALL && !upstreams.contains(&name.value.as_str()) {
            report_no_upstream(cx, unit, &upstreams, &name);
        }
    }
    let policies = Policies::of(unit);
    let mut written: BTreeMap<&str, Policy> = policies.iter().map(|(name, table)| (name, policy(table))).collect();
    let all = written.remove(ALL).unwrap_or_default();
    let edges = upstreams.into_iter().map(|name| {
        let own = written.remove(name).unwrap_or_default();
        let timeout = own.timeout.or(all.timeout).unwrap_or_else(default_timeout);
        let retry = own.retry.or_else(|| all.retry.clone()).unwrap_or_default();
        (name.to_owned(), Edge { port: port(name), timeout, retry })
    });
    edges.collect()
}

fn policy(table: &Table<'_>) -> Policy {
    Policy { timeout: table.get("timeout").and_then(|item| item.duration()), retry: retry(table) }
}

/// The shape's own default of an edge's timeout.
fn default_timeout() -> Duration {
    crate::shape::EDGE.default_of("timeout").and_then(parse_duration).unwrap_or_default()
}

/// The retry policy that the table of a route or an edge has written.
pub(crate) fn retry(table: &Table<'_>) -> Option<Retry> {
    let table = table.table("retry")?;
    let codes: BTreeSet<u16> = match table.has("codes") {
        true => table.list("codes").iter().filter_map(|item| u16::try_from(item.integer()?).ok()).collect(),
        false => CODES.into(),
    };
    let retry = Retry {
        attempts: u32::try_from(table.integer("attempts")).unwrap_or_default(),
        codes: codes.into_iter().collect(),
        backoff: table.duration("backoff"),
        unsafe_methods: table.boolean("unsafe_methods"),
    };
    Some(if retry.is_off() { Retry::default() } else { retry })
}

fn report_no_upstream(cx: &Context<'_>, unit: &Unit<'_>, upstreams: &[&str], name: &Text<'_>) {
    // An upstream that is not declared is reported where it stands; its edge is not a second mistake.
    if unit.table.texts("upstreams").iter().any(|upstream| upstream.value == name.value) {
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
