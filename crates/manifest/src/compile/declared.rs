//! What all files together declare, by name. A name that is declared twice counts once: the first time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::documents::Document;
use super::topics;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::reader::{Table, Text};
use crate::text::{NAME_BYTES_MAX, as_name, is_name, nearest, quoted_list};

/// Limit: services, databases, topics, routes and subscriptions of a whole manifest, each.
pub(crate) const DECLARATIONS_MAX: usize = 1_000;
/// Names whose variables are given by the platform, or that its commands use for its own parts.
const RESERVED: [&str; 10] =
    ["atoll", "broker", "database", "events", "gateway", "host", "nats", "port", "redis", "sagas"];

/// Everything that is declared.
#[derive(Debug)]
pub(crate) struct Declared<'d> {
    pub root: Table<'d>,
    pub services: BTreeMap<String, Declaration<'d>>,
    pub databases: BTreeMap<String, Declaration<'d>>,
    pub topics: BTreeMap<String, Declaration<'d>>,
    /// In the order of the manifest.
    pub routes: Vec<Table<'d>>,
    /// The same.
    pub subscriptions: Vec<Table<'d>>,
}

/// A named table.
#[derive(Debug)]
pub(crate) struct Declaration<'d> {
    pub name: Text<'d>,
    pub table: Table<'d>,
}

pub(crate) fn collect<'d>(cx: &'d Context<'d>, documents: &'d [Document<'d>]) -> Option<Declared<'d>> {
    let tables: Vec<Table<'d>> = documents.iter().map(|document| document.table(cx)).collect();
    let declared = Declared {
        root: tables.first()?.clone(),
        services: named(cx, &tables, "services", check_name),
        databases: named(cx, &tables, "databases", check_name),
        topics: named(cx, &tables, "topics", topics::check_name),
        routes: listed(cx, &tables, "routes", "join routes that differ in `matches` only"),
        subscriptions: listed(cx, &tables, "subscriptions", "divide the application"),
    };
    let says_nothing =
        |table: &Table<'_>, key: &str| !table.is_wrong(key) && table.get(key).is_none_or(|item| item.is_empty());
    let silent = tables.iter().all(|table| says_nothing(table, "services") && says_nothing(table, "routes"));
    if silent {
        let diagnostic =
            Diagnostic::new(Code::Empty, &declared.root.place, "the manifest declares no service and no route");
        cx.report(diagnostic.hint("add `[services.hello]` with a `command`"));
    }
    Some(declared)
}

fn named<'d>(
    cx: &Context<'_>,
    tables: &[Table<'d>],
    key: &str,
    check: fn(&Context<'_>, &Text<'_>),
) -> BTreeMap<String, Declaration<'d>> {
    let mut all: BTreeMap<String, Declaration<'d>> = BTreeMap::new();
    let entries = tables.iter().flat_map(|table| table.map(key));
    for (name, item) in entries {
        let Some(table) = item.table() else { continue };
        check(cx, &name);
        match all.entry(name.value.clone()) {
            Entry::Occupied(first) => {
                let message = format!("`{}` is declared twice in `{key}`", name.value);
                let diagnostic = Diagnostic::new(Code::Duplicate, &name.place, message)
                    .label("the second time")
                    .hint("rename one of them, or take one out")
                    .related(&first.get().name.place, "first declared here");
                cx.report(diagnostic);
            }
            Entry::Vacant(free) => {
                free.insert(Declaration { name, table });
            }
        }
    }
    if let Some((_, beyond)) = all.iter().nth(DECLARATIONS_MAX) {
        let message = format!("the manifest has {} `{key}`; the limit is {DECLARATIONS_MAX}", all.len());
        cx.report(Diagnostic::new(Code::Limit, &beyond.name.place, message).hint("divide the application"));
        all = all.into_iter().take(DECLARATIONS_MAX).collect();
    }
    all
}

fn listed<'d>(cx: &Context<'_>, tables: &[Table<'d>], key: &str, hint: &str) -> Vec<Table<'d>> {
    let mut all: Vec<Table<'d>> = tables.iter().flat_map(|table| table.tables(key)).collect();
    if let Some(beyond) = all.get(DECLARATIONS_MAX) {
        let message = format!("the manifest has {} {key}; the limit is {DECLARATIONS_MAX}", all.len());
        cx.report(Diagnostic::new(Code::Limit, &beyond.place, message).hint(hint));
        all.truncate(DECLARATIONS_MAX);
    }
    all
}

/// Reports a name that is not a lower-case DNS label, or that the platform uses itself.
pub(crate) fn check_name(cx: &Context<'_>, name: &Text<'_>) {
    if !is_name(&name.value) {
        let message = format!("`{}` is not a valid name", name.value);
        let label = format!("lower-case letters, digits and `-`, a letter first, at most {NAME_BYTES_MAX}");
        let diagnostic = Diagnostic::new(Code::Name, &name.place, message).label(label);
        cx.report(match as_name(&name.value) {
            Some(fitting) => diagnostic.hint(format!("write `{fitting}`")),
            None => diagnostic.hint("begin with a letter from `a` to `z`"),
        });
    } else if RESERVED.contains(&name.value.as_str()) {
        let message = format!("`{}` is a name of the platform's own", name.value);
        let hint = format!("write another name, such as `my-{}`", name.value);
        cx.report(Diagnostic::new(Code::ReservedName, &name.place, message).label("reserved").hint(hint));
    }
}

/// The name of the application.
pub(crate) fn application(cx: &Context<'_>, declared: &Declared<'_>) -> Option<String> {
    if !declared.root.has("name") {
        let folder = cx.sources.root.parent().and_then(|folder| folder.file_name());
        let name =
            folder.and_then(|name| as_name(&name.to_string_lossy())).unwrap_or_else(|| "my-application".to_owned());
        let diagnostic = Diagnostic::new(Code::MissingKey, &declared.root.place, "the manifest lacks `name`");
        cx.report(diagnostic.hint(format!("begin with `name = \"{name}\"`")));
        return None;
    }
    let name = declared.root.text("name")?;
    if !is_name(&name.value) {
        check_name(cx, &name);
    }
    Some(name.value)
}

/// Reports a second mention of a name in a list; gives each once.
pub(crate) fn distinct<'d>(cx: &Context<'_>, key: &str, names: Vec<Text<'d>>) -> Vec<Text<'d>> {
    let mut seen: BTreeMap<String, Text<'d>> = BTreeMap::new();
    let mut kept = Vec::new();
    for name in names {
        if let Some(first) = seen.get(&name.value) {
            let message = format!("`{}` stands twice in `{key}`", name.value);
            let diagnostic = Diagnostic::new(Code::Duplicate, &name.place, message)
                .label("the second time")
                .hint("keep one of them")
                .related(&first.place, "the first time");
            cx.report(diagnostic);
        } else {
            seen.insert(name.value.clone(), name.clone());
            kept.push(name);
        }
    }
    kept
}

/// Whether a service is declared; reports it when not.
pub(crate) fn is_service(cx: &Context<'_>, declared: &Declared<'_>, name: &Text<'_>) -> bool {
    is_declared(cx, Code::UnknownService, "service", &declared.services, name)
}

/// Whether a database is declared; reports it when not.
pub(crate) fn is_database(cx: &Context<'_>, declared: &Declared<'_>, name: &Text<'_>) -> bool {
    is_declared(cx, Code::UnknownDatabase, "database", &declared.databases, name)
}

fn is_declared(
    cx: &Context<'_>,
    code: Code,
    noun: &str,
    declared: &BTreeMap<String, Declaration<'_>>,
    name: &Text<'_>,
) -> bool {
    let found = declared.contains_key(&name.value);
    if !found {
        let names: Vec<&str> = declared.keys().map(String::as_str).collect();
        let hint = match (nearest(&name.value, names.iter().copied()), cx.unread()) {
            (Some(near), None) => format!("did you mean `{near}`?"),
            (Some(near), Some(unread)) => {
                format!("did you mean `{near}`? It may also stand in {unread}, which could not be read")
            }
            (None, Some(unread)) => format!("mend {unread} first: it could not be read, and may declare it"),
            (None, None) if names.is_empty() || names.len() > 8 => format!("declare `[{noun}s.{}]`", name.value),
            (None, None) => format!("declare `[{noun}s.{}]`, or write {}", name.value, quoted_list(&names)),
        };
        let message = format!("the {noun} `{}` is not declared", name.value);
        cx.report(Diagnostic::new(code, &name.place, message).label(format!("no such {noun}")).hint(hint));
    }
    found
}
