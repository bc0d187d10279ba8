//! One service: its commands, its instances, its edges, and everything else that its table says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::{self, Environment};
use super::wiring::Unit;
use super::{edges, policies, probes, update};
use crate::Code;
use crate::Ports;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{
    self, Build, Database, EVENTS, Edge, EventEdges, Instance, Nats, ResourceLimits, Service, Subscription,
};
use crate::reader::{Item, Table, Text};
use crate::text::{Shell, shell_syntax, split};

/// How long the engine of events may take to answer who publishes: longer than it waits for the broker.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// What an edge to a service that is delivered to allows beyond the longest attempt: whoever attempts gives up first.
const DELIVERY_MARGIN: Duration = Duration::from_secs(1);

/// What is settled before services are compiled.
pub(crate) struct Settled<'s> {
    pub ledger: &'s BTreeMap<String, u16>,
    pub databases: &'s BTreeMap<String, Database>,
    pub subscriptions: &'s BTreeMap<String, Subscription>,
    pub nats: Option<&'s Nats>,
}

impl Settled<'_> {
    /// The port of an edge.
    pub(crate) fn port(&self, caller: &str, upstream: &str) -> u16 {
        self.ledger.get(&Ports::edge(caller, upstream)).copied().unwrap_or_default()
    }
}

pub(crate) fn compile(cx: &Context<'_>, unit: &Unit<'_>, settled: &Settled<'_>) -> Service {
    let table = &unit.table;
    let name = unit.name.value.as_str();
    let folder = unit.name.place.file.parent().unwrap_or(Path::new("/"));
    let working_dir = table.path("working_dir").unwrap_or_else(|| folder.to_path_buf());
    let environment = environment::compile(cx, unit, settled);
    let port = |index| settled.ledger.get(&Ports::instance(name, index)).copied().unwrap_or_default();
    let instance = |index| Instance { index, port: port(index) };
    Service {
        description: table.text("description").map(|text| text.value),
        owner: table.text("owner").map(|text| text.value),
        file: PathBuf::from(cx.shown(unit.name.place.file)),
        build: table.get("build").and_then(|item| {
            let command = words(cx, &item, "build", &working_dir, |_| false)?;
            Some(Build { command, working_dir: working_dir.clone() })
        }),
        command: table
            .get("command")
            .and_then(|item| command(cx, &item, "command", &environment, &working_dir))
            .unwrap_or_default(),
        declared_replicas: unit.declared,
        instances: (0..unit.replicas).map(instance).collect(),
        surge: (unit.replicas..unit.replicas + unit.update.max_surge).map(instance).collect(),
        edges: edges::compile(cx, unit, |upstream| settled.port(name, upstream)),
        events: event_edges(unit, settled),
        depends_on: unit.depends_on.iter().map(|(name, condition)| (name.value.clone(), *condition)).collect(),
        probes: probes::compile(cx, table, &environment, &working_dir),
        restart: unit.restart,
        stop_signal: table.choice("stop_signal").to_owned(),
        stop_grace_period: table.duration("stop_grace_period"),
        databases: unit.databases.iter().map(|name| name.value.clone()).collect(),
        publishes: unit.publishes.iter().map(|subject| subject.value.clone()).collect(),
        subscribes: unit.subscribes.iter().map(|subject| subject.value.clone()).collect(),
        update: unit.update.clone(),
        watch: update::watch(cx, table),
        limits: limits(table),
        environment: environment.variables,
        working_dir,
    }
}

fn event_edges(unit: &Unit<'_>, settled: &Settled<'_>) -> EventEdges {
    let name = unit.name.value.as_str();
    let edge =
        |(caller, upstream), timeout| Edge { port: settled.port(caller, upstream), policy: policies::plain(timeout) };
    let subscriptions = settled.subscriptions.values().filter(|subscription| subscription.service == name);
    let longest = subscriptions.map(|subscription| subscription.ack_wait).max();
    EventEdges {
        publish: (!unit.publishes.is_empty()).then(|| edge((name, EVENTS), PUBLISH_TIMEOUT)),
        deliver: longest.map(|longest| edge((EVENTS, name), longest.saturating_add(DELIVERY_MARGIN))),
    }
}

fn limits(service: &Table<'_>) -> ResourceLimits {
    let table = service.table_or_default("resources").table_or_default("limits");
    ResourceLimits {
        cpu_millis: table.get("cpu").and_then(|item| item.cpu()),
        memory_bytes: table.get("memory").and_then(|item| item.size()),
        pids: table.get("pids").and_then(|item| item.integer()).and_then(|pids| u32::try_from(pids).ok()),
    }
}

/// The words of a command that runs beside an instance: the variables it is given stay in them until it starts.
pub(crate) fn command(
    cx: &Context<'_>,
    item: &Item<'_>,
    key: &str,
    environment: &Environment,
    working_dir: &Path,
) -> Option<Vec<plan::Text>> {
    words(cx, item, key, working_dir, |name| environment.is_known_at_start(name))
}

/// Splits a command and expands each word, so that a value with blanks or quotes stays one word. A program with a `/` in
/// its name is found from the working folder, as a shell would there.
fn words(
    cx: &Context<'_>,
    item: &Item<'_>,
    key: &str,
    working_dir: &Path,
    later: impl Fn(&str) -> bool,
) -> Option<Vec<plan::Text>> {
    let report = |message: String, label: &str, hint: String| {
        cx.report(Diagnostic::new(Code::Command, &item.place, message).label(label).hint(hint));
        None
    };
    let written = item.written()?;
    let Some(words) = split(written) else {
        let label = "a quote is never closed, or a `\\` ends it";
        return report(format!("`{key}` cannot be split into words"), label, "close the quote".to_owned());
    };
    warn_of_shell(cx, item, key, written);
    // All of them are expanded before any is missed, so that each problem is told.
    let expanded: Vec<Option<Text<'_>>> = words.iter().map(|word| item.expand(word, &later)).collect();
    let mut words: Vec<plan::Text> = expanded.into_iter().map(|word| Some(word?.into())).collect::<Option<_>>()?;
    let Some(program) = words.first_mut().filter(|program| !program.value.is_empty()) else {
        return report(format!("`{key}` names no program"), "empty", format!("write `{key} = \"program argument …\"`"));
    };
    program.expanded = false;
    if program.value.contains('/') && !program.value.starts_with(['/', '$']) {
        program.value = crate::reader::normal(&working_dir.join(&program.value)).to_string_lossy().into_owned();
    }
    Some(words)
}

/// No shell reads a command: what is written for one would reach the program as text.
fn warn_of_shell(cx: &Context<'_>, item: &Item<'_>, key: &str, written: &str) {
    let Some((what, span)) = shell_syntax(written) else { return };
    let found = &written[span.clone()];
    let hint = match what {
        Shell::Operator | Shell::Substitution => format!("write `{key} = \"sh -c '…'\"`; in quotes it means itself"),
        Shell::Assignment => format!("write it in `environment`, or `{key} = \"sh -c '…'\"`"),
        Shell::Home => format!("write `${{HOME}}`, or `{key} = \"sh -c '…'\"`"),
        Shell::Variable => format!("write `${{{}}}`, or `{key} = \"sh -c '…'\"`", found.trim_start_matches('$')),
    };
    let message = format!("`{key}` has `{found}`, which only a shell would understand");
    let diagnostic = Diagnostic::new(Code::ShellSyntax, &item.place_of(written, span), message);
    cx.report(diagnostic.label("given to the program as it stands").hint(hint));
}
