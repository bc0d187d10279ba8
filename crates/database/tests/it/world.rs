//! A temporary folder with a database and its migrations, and how an error looks to a person.

use std::path::{Path, PathBuf};

use database::{Database, Error, Report};
use rusqlite::Connection;
use tempfile::TempDir;

pub(crate) struct World {
    directory: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(directory.path().join("migrations")).expect("a folder for migrations");
        Self { directory }
    }

    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let world = Self::new();
        for (name, sql) in files {
            world.write(name, sql);
        }
        world
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn migration(&self, name: &str) -> PathBuf {
        self.root().join("migrations").join(name)
    }

    pub(crate) fn write(&self, name: &str, sql: impl AsRef<[u8]>) {
        std::fs::write(self.migration(name), sql).expect("written");
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.migration(name)).expect("removed");
    }

    pub(crate) fn database(&self) -> Database {
        Database {
            name: "orders".to_owned(),
            path: self.root().join("data/orders.db"),
            migrations: Some(self.root().join("migrations")),
        }
    }

    pub(crate) async fn prepare(&self) -> Result<Report, Error> {
        database::prepare(&self.database()).await
    }

    /// Prepares and gives what the user sees, with the temporary folder as `$DIR`.
    pub(crate) async fn outcome(&self) -> String {
        let text = match self.prepare().await {
            Ok(report) => format!("applied {:?}, now at {:?}\n", report.applied, report.version),
            Err(error) => {
                let place = error.place().map(|place| format!("  {:>4} | {}\n", place.line, place.text));
                let hint = error.hint().map(|hint| format!("hint: {hint}\n"));
                format!("{}\n{}{}", kit::Chain(&error), place.unwrap_or_default(), hint.unwrap_or_default())
            }
        };
        text.replace(&self.root().display().to_string(), "$DIR")
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.database().path).expect("opened")
    }

    /// Names of the tables, sorted.
    pub(crate) fn tables(&self) -> Vec<String> {
        let connection = self.connect();
        let mut rows = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
            .expect("a statement");
        let names = rows.query_map([], |row| row.get(0)).expect("rows");
        names.collect::<Result<_, _>>().expect("names")
    }
}
