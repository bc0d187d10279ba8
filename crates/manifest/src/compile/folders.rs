//! Folders that must be there before anything starts: of migrations, and those that commands run in.

use std::collections::BTreeMap;
use std::path::Path;

use super::declared::Declared;
use super::wiring::Wired;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{Database, Service};
use crate::reader::Table;

pub(crate) fn check(
    cx: &Context<'_>,
    declared: &Declared<'_>,
    wired: &Wired<'_>,
    services: &BTreeMap<String, Service>,
    databases: &BTreeMap<String, Database>,
) {
    for (name, declaration) in &declared.databases {
        let migrations = databases.get(name).and_then(|database| database.migrations.as_deref());
        if let Some(path) = migrations {
            check_folder(cx, &declaration.table, "migrations", path, || None);
        }
    }
    for (name, unit) in wired {
        // The folder of the manifest itself, which stands for one that is not written, is there.
        if let Some(service) = services.get(name).filter(|_| unit.table.has("working_dir")) {
            let path = service.working_dir.as_path();
            check_folder(cx, &unit.table, "working_dir", path, || maker(name, services, path));
        }
    }
}

/// Reports a folder that is not there: as a warning, if something of the manifest may make it first.
fn check_folder(cx: &Context<'_>, table: &Table<'_>, key: &str, path: &Path, maker: impl FnOnce() -> Option<String>) {
    let Some(item) = table.get(key) else { return };
    if cx.has_folder(path) {
        return;
    }
    let shown = Some(cx.shown(path)).filter(|shown| !shown.is_empty()).unwrap_or_else(|| ".".to_owned());
    let message = format!("there is no folder `{shown}`");
    let hint = "create it, or correct the path; it is resolved against the folder of this file";
    let diagnostic = match maker() {
        Some(maker) => {
            let label = format!("{maker} must make it first");
            Diagnostic::new(Code::FolderNotYet, &item.place, message).label(label)
        }
        None => Diagnostic::new(Code::FolderMissing, &item.place, message).label("no such folder"),
    };
    cx.report(diagnostic.hint(hint));
}

/// What may make a service's folder before the service needs it: its own build, where that does not itself run in there,
/// or what it waits for.
fn maker(own: &str, services: &BTreeMap<String, Service>, folder: &Path) -> Option<String> {
    let service = services.get(own)?;
    let builds = service.build.as_ref().is_some_and(|build| !build.working_dir.starts_with(folder));
    let build = builds.then(|| format!("the build of `{own}`"));
    build.or_else(|| service.depends_on.keys().next().map(|name| format!("`{name}`")))
}
