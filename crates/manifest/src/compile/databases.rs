//! Declared databases: where their files are, and which table of each is an outbox.

use std::collections::BTreeMap;
use std::path::Path;

use super::declared::Declared;
use super::wiring::Wired;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{Database, Engine};
use crate::reader::Table;
use crate::text::{NAME_BYTES_MAX, is_variable};

pub(crate) fn compile(
    cx: &Context<'_>,
    declared: &Declared<'_>,
    wired: &Wired<'_>,
    root: &Path,
) -> BTreeMap<String, Database> {
    let databases = declared.databases.iter().map(|(name, declaration)| {
        // A known engine that is not built yet is refused by the choice itself.
        declaration.table.choice("engine");
        let path = root.join(".atoll").join("data").join(format!("{name}.db"));
        let migrations = declaration.table.path("migrations");
        let outbox = outbox(cx, &declaration.table, name, wired);
        (name.clone(), Database { engine: Engine::Sqlite, path, migrations, outbox })
    });
    databases.collect()
}

fn outbox(cx: &Context<'_>, table: &Table<'_>, database: &str, wired: &Wired<'_>) -> Option<String> {
    let text = table.text("outbox")?;
    let lower = text.value.to_ascii_lowercase();
    // SQLite's own tables, and what the relay keeps beside the outbox.
    let is_reserved = lower.starts_with("sqlite_") || lower.starts_with("atoll_");
    if !is_variable(&text.value) || text.value.len() > NAME_BYTES_MAX || is_reserved {
        let message = format!("`{}` cannot name an outbox", text.value);
        let label = match is_reserved {
            true => "tables of this name are not the application's".to_owned(),
            false => format!("letters, digits and `_`, no digit first, at most {NAME_BYTES_MAX}"),
        };
        cx.report(Diagnostic::new(Code::Name, &text.place, message).label(label).hint("write `outbox = \"outbox\"`"));
        return None;
    }
    let uses = |unit: &&super::wiring::Unit<'_>| unit.databases.iter().any(|name| name.value == database);
    let mut users = wired.values().filter(uses).peekable();
    let of = users.peek().map_or_else(|| "SERVICE".to_owned(), |unit| unit.name.value.clone());
    if users.all(|unit| unit.publishes.is_empty()) {
        let message = format!("no service of the database `{database}` publishes anything");
        let hint = format!("name in `[services.{of}]` what stands in it, as in `publishes = [\"orders.placed\"]`");
        cx.report(
            Diagnostic::new(Code::OutboxSilent, &text.place, message).label("its rows would go nowhere").hint(hint),
        );
    }
    Some(text.value)
}
