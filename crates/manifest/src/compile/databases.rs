//! Declared databases: where their files are.

use std::collections::BTreeMap;
use std::path::Path;

use super::declared::Declared;
use crate::plan::{Database, Engine};

pub(crate) fn compile(declared: &Declared<'_>, root: &Path) -> BTreeMap<String, Database> {
    let databases = declared.databases.iter().map(|(name, declaration)| {
        // A known engine that is not built yet is refused by the choice itself.
        declaration.table.choice("engine");
        let path = root.join(".atoll").join("data").join(format!("{name}.db"));
        (name.clone(), Database { engine: Engine::Sqlite, path, migrations: declaration.table.path("migrations") })
    });
    databases.collect()
}
