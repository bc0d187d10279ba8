//! Callers that give up before what they wait for does. Neighbours on a path are compared: where none of them is wrong, no
//! two of the path are.

use std::collections::BTreeMap;
use std::time::Duration;

use super::graph::{Call, Written};
use super::{Lint, Site};
use crate::Code;
use crate::diagnostic::{Diagnostic, Place};
use crate::reader::Table;
use crate::text::format_duration;

/// A call, or a route to a service, and how long it waits.
#[derive(Clone, Copy)]
struct Wait {
    from: From,
    to: usize,
    timeout: Duration,
    written: Written,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Route(usize),
    Service(usize),
}

impl Wait {
    fn of(caller: usize, call: &Call) -> Self {
        Self { from: From::Service(caller), to: call.to, timeout: call.timeout, written: call.timeout_written }
    }

    fn is_written(&self) -> bool {
        self.written != Written::Nowhere
    }

    /// What it shares with all calls whose timeout is written at the same place.
    fn written_at(&self) -> (From, Option<usize>) {
        (self.from, (self.written != Written::ForAll).then_some(self.to))
    }
}

/// The longest waits of one service: of all its calls, and of those that do not go round in a circle.
#[derive(Clone, Copy, Default)]
struct Behind {
    any: Option<Wait>,
    outside: Option<Wait>,
}

pub(super) fn check(lint: &Lint<'_, '_>) {
    let graph = &lint.graph;
    let behind: Vec<Behind> = (0..graph.names.len()).map(|service| behind(lint, service)).collect();
    // What is written for many calls, as in `edges."*"`, is one mistake: the worst is told.
    let mut told: BTreeMap<(From, Option<usize>), (Wait, Wait)> = BTreeMap::new();
    let mut tell = |(outer, inner): (Wait, Wait)| {
        let at = if outer.is_written() { &outer } else { &inner };
        let worst = told.entry(at.written_at()).or_insert((outer, inner));
        if excess(&outer, &inner) > excess(&worst.0, &worst.1) {
            *worst = (outer, inner);
        }
    };
    for entry in &graph.entries {
        let written = if is_written(lint.route_table(entry.route)) { Written::ForAll } else { Written::Nowhere };
        let timeout = lint.plan.routes[entry.route].policy.waits();
        let outer = Wait { from: From::Route(entry.route), to: entry.service, timeout, written };
        let inner = behind[entry.service].any.filter(|inner| outlasts(inner, &outer));
        inner.into_iter().for_each(|inner| tell((outer, inner)));
    }
    for (caller, calls) in graph.calls.iter().enumerate() {
        let mut of_all: Option<(Wait, Wait)> = None;
        for call in calls {
            // Around a circle each would have to be shorter than itself; the circle is a finding of its own.
            let Behind { any, outside } = behind[call.to];
            let inner = if graph.is_circular(caller, call.to) { outside } else { any };
            let outer = Wait::of(caller, call);
            let Some(inner) = inner.filter(|inner| outlasts(inner, &outer)) else { continue };
            if outer.written != Written::ForAll {
                tell((outer, inner));
            } else if of_all.is_none_or(|(_, worst)| inner.timeout > worst.timeout) {
                of_all = Some((outer, inner));
            }
        }
        of_all.into_iter().for_each(&mut tell);
    }
    told.into_values().for_each(|(outer, inner)| report(lint, &outer, &inner));
}

fn behind(lint: &Lint<'_, '_>, service: usize) -> Behind {
    let longest = |longest: &mut Option<Wait>, wait: Wait| {
        if longest.is_none_or(|known| (known.timeout, known.is_written()) < (wait.timeout, wait.is_written())) {
            *longest = Some(wait);
        }
    };
    let mut behind = Behind::default();
    for call in &lint.graph.calls[service] {
        longest(&mut behind.any, Wait::of(service, call));
        if !lint.graph.is_circular(service, call.to) {
            longest(&mut behind.outside, Wait::of(service, call));
        }
    }
    behind
}

/// Whether the caller gives up first, or at the same moment because somebody has chosen so.
fn outlasts(inner: &Wait, outer: &Wait) -> bool {
    inner.timeout > outer.timeout || (inner.timeout == outer.timeout && (inner.is_written() || outer.is_written()))
}

fn excess(outer: &Wait, inner: &Wait) -> Duration {
    inner.timeout.saturating_sub(outer.timeout)
}

/// Whether a route or an edge says how long it waits.
pub(super) fn is_written(table: &Table<'_>) -> bool {
    table.has("timeout") || table.has("total_timeout")
}

fn place<'d>(lint: &Lint<'_, 'd>, wait: &Wait) -> Place<'d> {
    const KEYS: [&str; 2] = ["timeout", "total_timeout"];
    match wait.from {
        From::Route(route) => {
            let table = lint.route_table(route);
            let key = KEYS.into_iter().find(|key| table.has(key));
            key.map_or_else(|| lint.place_of_backend(route, lint.name(wait.to)), |key| table.place_of(key))
        }
        From::Service(caller) => {
            let to = lint.name(wait.to);
            let key = KEYS.into_iter().find(|key| lint.policies[caller].saying(to, key).is_some());
            lint.place_of_policy(caller, to, key.unwrap_or("timeout"))
        }
    }
}

fn report(lint: &Lint<'_, '_>, outer: &Wait, inner: &Wait) {
    let at = place(lint, if outer.is_written() { outer } else { inner });
    let (outer_shown, inner_shown) = (shown(lint, outer), shown(lint, inner));
    let message = format!("the call behind may outlast its caller: {outer_shown}, {inner_shown}");
    let diagnostic = Diagnostic::new(Code::TimeoutInversion, &at, message);
    let diagnostic = match (outer.is_written(), outer.timeout == inner.timeout) {
        (true, false) => diagnostic.label("shorter than what is behind it").related(&place(lint, inner), "behind it"),
        (true, true) => diagnostic.label("as long as what is behind it").related(&place(lint, inner), "behind it"),
        (false, _) => {
            diagnostic.label("not shorter than what waits for it").related(&place(lint, outer), "waits for it")
        }
    };
    let below = format_duration(outer.timeout);
    let edge = format!("[services.{}.edges.{}]", lint.name(outer.to), lint.name(inner.to));
    let hint = format!("write a `timeout` below {below} in `{edge}`, or a longer one for its caller");
    lint.find(diagnostic.hint(hint), sites(lint, outer).into_iter().chain(sites(lint, inner)));
}

/// `payment → ledger 5s`.
fn shown(lint: &Lint<'_, '_>, wait: &Wait) -> String {
    let from = match wait.from {
        From::Route(_) => "gateway",
        From::Service(caller) => lint.name(caller),
    };
    format!("{from} → {} {}", lint.name(wait.to), format_duration(wait.timeout))
}

fn sites<'l>(lint: &Lint<'l, '_>, wait: &Wait) -> Vec<Site<'l>> {
    match wait.from {
        From::Route(route) => vec![Site::Route(route)],
        From::Service(caller) => {
            vec![Site::Edge(lint.name(caller), lint.name(wait.to)), Site::Service(lint.name(caller))]
        }
    }
}
