//! Declared databases: where their files are, and who uses them.

use std::collections::BTreeMap;
use std::path::Path;

use super::declared::Declared;
use super::wiring::Wired;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{Database, Engine};
use crate::reader::Text;

pub(crate) fn compile(
    cx: &Context<'_>,
    declared: &Declared<'_>,
    wired: &Wired<'_>,
    root: &Path,
) -> BTreeMap<String, Database> {
    let mut users: BTreeMap<&str, Vec<&Text<'_>>> = BTreeMap::new();
    for unit in wired.values() {
        unit.databases.iter().for_each(|name| users.entry(&name.value).or_default().push(name));
    }
    let databases = declared.databases.iter().map(|(name, declaration)| {
        check_users(cx, &declaration.name, users.get(name.as_str()).map_or(&[], Vec::as_slice));
        // A known engine that is not built yet is refused by the choice itself.
        declaration.table.choice("engine");
        let path = root.join(".atoll").join("data").join(format!("{name}.db"));
        (name.clone(), Database { engine: Engine::Sqlite, path, migrations: declaration.table.path("migrations") })
    });
    databases.collect()
}

fn check_users(cx: &Context<'_>, name: &Text<'_>, users: &[&Text<'_>]) {
    match users {
        [] => {
            let message = format!("no service uses the database `{}`", name.value);
            let hint = format!("write `databases = [\"{}\"]` in a service, or take it out", name.value);
            cx.report(Diagnostic::new(Code::DatabaseUnused, &name.place, message).label("declared here").hint(hint));
        }
        [_] => {}
        [first, second, ..] => {
            let message = format!("the database `{}` is used by {} services", name.value, users.len());
            let diagnostic = Diagnostic::new(Code::DatabaseShared, &second.place, message)
                .label("used here as well")
                .hint("give each service a database of its own, and let one ask the other through `upstreams`")
                .related(&first.place, "used here");
            cx.report(diagnostic);
        }
    }
}
