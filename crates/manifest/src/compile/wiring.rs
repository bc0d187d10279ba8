//! Who calls whom, who waits for whom, how many there are: what must be known of all services before one is compiled.

use std::collections::BTreeMap;

use super::declared::{Declaration, Declared, distinct, is_database, is_service};
use super::{subscriptions, update};
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{Condition, Restart, Update};
use crate::reader::{Table, Text};

/// A service and its wires. Only wires to declared things.
#[derive(Debug)]
pub(crate) struct Unit<'d> {
    pub name: Text<'d>,
    pub table: Table<'d>,
    /// Instances of the service as it is scaled, and as it is declared.
    pub replicas: u32,
    pub declared: u32,
    pub update: Update,
    pub restart: Restart,
    pub upstreams: Vec<Text<'d>>,
    pub depends_on: Vec<(Text<'d>, Condition)>,
    pub databases: Vec<Text<'d>>,
    /// As they are written; `topics` looks at them.
    pub publishes: Vec<Text<'d>>,
    pub subscribes: Vec<Text<'d>>,
    /// Whether a subscription leads to it.
    pub is_delivered_to: bool,
}

impl Unit<'_> {
    /// Whether its instances are told of the broker.
    pub(crate) fn uses_broker(&self) -> bool {
        !self.publishes.is_empty() || !self.subscribes.is_empty()
    }
}

pub(crate) type Wired<'d> = BTreeMap<String, Unit<'d>>;

pub(crate) fn wire<'d>(cx: &Context<'_>, declared: &Declared<'d>) -> Wired<'d> {
    let targets = subscriptions::targets(declared);
    let units = declared.services.iter().map(|(name, service)| {
        let is_delivered_to = targets.contains(name);
        (name.clone(), Unit { is_delivered_to, ..unit(cx, declared, service) })
    });
    let wired: Wired<'d> = units.collect();
    for unit in wired.values() {
        for (name, condition) in &unit.depends_on {
            if let Some(dependency) = wired.get(&name.value) {
                check_condition(cx, dependency, name, *condition);
            }
        }
    }
    wired
}

fn unit<'d>(cx: &Context<'_>, declared: &Declared<'d>, service: &Declaration<'d>) -> Unit<'d> {
    let table = &service.table;
    let own = &service.name.value;
    let mut upstreams = distinct(cx, "upstreams", table.texts("upstreams"));
    upstreams.retain(|name| is_service(cx, declared, name) && !is_itself(cx, own, name, "an upstream of itself"));
    let mut depends_on = dependencies(cx, table);
    depends_on.retain(|(name, _)| is_service(cx, declared, name) && !is_itself(cx, own, name, "waiting for itself"));
    let mut databases = distinct(cx, "databases", table.texts("databases"));
    databases.retain(|name| is_database(cx, declared, name));
    let declared_replicas = u32::try_from(table.integer("replicas")).unwrap_or_default();
    let scale = cx.sources.scale.get(own).filter(|scale| scale.declared == declared_replicas);
    Unit {
        name: service.name.clone(),
        table: table.clone(),
        replicas: scale.map_or(declared_replicas, |scale| scale.replicas),
        declared: declared_replicas,
        update: update::update(cx, table),
        restart: match table.choice("restart") {
            "no" => Restart::No,
            "on-failure" => Restart::OnFailure,
            _ => Restart::Always,
        },
        upstreams,
        depends_on,
        databases,
        publishes: distinct(cx, "publishes", table.texts("publishes")),
        subscribes: distinct(cx, "subscribes", table.texts("subscribes")),
        is_delivered_to: false,
    }
}

fn is_itself(cx: &Context<'_>, own: &str, name: &Text<'_>, what: &str) -> bool {
    let itself = own == name.value;
    if itself {
        let diagnostic = Diagnostic::new(Code::SelfReference, &name.place, format!("`{own}` is {what}"));
        cx.report(diagnostic.label("the service's own name").hint("take it out"));
    }
    itself
}

/// A list of names means *started*; a table says the condition of each.
fn dependencies<'d>(cx: &Context<'_>, table: &Table<'d>) -> Vec<(Text<'d>, Condition)> {
    let Some(item) = table.get("depends_on") else { return Vec::new() };
    if item.is_list() {
        let names = item.list().iter().filter_map(|item| item.text()).collect();
        return distinct(cx, "depends_on", names).into_iter().map(|name| (name, Condition::Started)).collect();
    }
    let conditions = item.map().into_iter().filter_map(|(name, item)| {
        let condition = match item.choice()? {
            "healthy" => Condition::Healthy,
            "completed" => Condition::Completed,
            _ => Condition::Started,
        };
        Some((name, condition))
    });
    conditions.collect()
}

fn check_condition(cx: &Context<'_>, dependency: &Unit<'_>, name: &Text<'_>, condition: Condition) {
    let of = &dependency.name.value;
    let (why, hint) = if dependency.replicas == 0 {
        (format!("`{of}` has no instance"), format!("give `{of}` at least `replicas = 1`"))
    } else if condition == Condition::Completed && dependency.restart == Restart::Always {
        (format!("`{of}` is always restarted"), format!("write `restart = \"on-failure\"` in `[services.{of}]`"))
    } else {
        return;
    };
    let diagnostic =
        Diagnostic::new(Code::NeverFulfilled, &name.place, format!("waiting for `{of}` would never end: {why}"));
    cx.report(diagnostic.label("never fulfilled").hint(hint).related(&dependency.name.place, why));
}
