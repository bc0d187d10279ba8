//! Applies one migration: its statements and its ledger row in one transaction, or nothing at all.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Batch, Connection, TransactionBehavior};

use crate::error::Place;
use crate::migration::{Migration, line_at};
use crate::{Error, SqliteError};

/// Settings that a transaction ignores in silence, or that would outlive it.
const PRAGMAS_FORBIDDEN: &[&str] = &[
    "auto_vacuum",
    "encoding",
    "foreign_keys",
    "journal_mode",
    "locking_mode",
    "page_size",
    "synchronous",
    "writable_schema",
];

/// Limit: how much of a line an error shows.
const LINE_SHOWN: usize = 120;

/// Runs the migration on a fresh connection. On any error, and on a kill, the database is as it was before.
pub(super) fn apply(connection: &mut Connection, database: &Path, migration: &Migration) -> Result<(), Error> {
    let commit = |error| {
        let named = |source: SqliteError| Error::Commit { path: migration.path.clone(), source };
        Error::sqlite(database, error, named)
    };
    let guard = Guard::set_on(connection).map_err(commit)?;
    // Immediate: the lock is taken while waiting for it is still possible.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(commit)?;
    guard.set(Guard::Watching);
    run_statements(&transaction, migration).map_err(|failure| {
        let place = place(migration, failure.offset);
        match (guard.set(Guard::Off), failure.cause) {
            (Guard::Refused(what), _) => Error::Forbidden { place, what },
            (_, Cause::Parameter) => Error::Forbidden { place, what: "a parameter (`?`, `:name`)".to_owned() },
            (_, Cause::Sqlite(error)) => Error::sqlite(database, error, |source| Error::Statement { place, source }),
        }
    })?;
    guard.set(Guard::Off);
    let row = "INSERT INTO main.atoll_migrations (version, name, checksum, applied_at)
               VALUES (?1, ?2, ?3, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))";
    transaction.execute(row, (migration.version, &migration.name, &migration.checksum)).map_err(commit)?;
    transaction.commit().map_err(commit)
}

struct Failure {
    /// Byte of the migration's text.
    offset: usize,
    cause: Cause,
}

enum Cause {
    Sqlite(rusqlite::Error),
    Parameter,
}

fn run_statements(connection: &Connection, migration: &Migration) -> Result<(), Failure> {
    // With a NUL at its end SQLite parses the text in place; without one it copies the whole rest for every statement,
    // and a long list of inserts takes quadratic time (50,000 of them: 11 s, not 1 s).
    let sql = format!("{}\0", migration.sql);
    let mut batch = Batch::new(connection, &sql);
    let mut end = 0;
    loop {
        let mut statement = match batch.next() {
            Ok(Some(statement)) => statement,
            Ok(None) => return Ok(()),
            Err(error) => {
                return Err(Failure { offset: offset_of(&error, &sql, end), cause: Cause::Sqlite(error) });
            }
        };
        // Without parameters the expanded text is the statement's own, with what stood before it.
        let text = statement.expanded_sql().unwrap_or_default();
        let start = sql[end..].find(&text).map_or(end, |skipped| end + skipped);
        let offset = start + code_start(&text);
        if statement.parameter_count() > 0 {
            return Err(Failure { offset, cause: Cause::Parameter });
        }
        end = start + text.len();
        let mut rows = statement.raw_query();
        while rows.next().map_err(|error| Failure { offset, cause: Cause::Sqlite(error) })?.is_some() {}
    }
}

/// Where in `sql` a statement that did not compile goes wrong; `end` is where the last good one ended.
fn offset_of(error: &rusqlite::Error, sql: &str, end: usize) -> usize {
    match error {
        rusqlite::Error::SqlInputError { sql: rest, offset, .. } => {
            sql.len() - rest.len() + usize::try_from(*offset).unwrap_or_default()
        }
        _ => end + code_start(&sql[end..]),
    }
}

/// Length of the white space, comments and empty statements that `sql` begins with.
fn code_start(sql: &str) -> usize {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ';' | '\u{feff}'));
        let comment_end = if rest.starts_with("--") {
            rest.find('\n')
        } else if rest.starts_with("/*") {
            rest.find("*/").map(|at| at + 2)
        } else {
            return sql.len() - rest.len();
        };
        rest = comment_end.map_or("", |at| &rest[at..]);
    }
}

/// Refuses what would end our transaction, leave the file, or forge the ledger. It remembers what it refused, because
/// SQLite itself only says "not authorized".
#[derive(Debug)]
enum Guard {
    /// Our own statements pass.
    Off,
    /// A migration's statements are looked at.
    Watching,
    /// One was refused.
    Refused(String),
}

#[derive(Clone)]
struct SharedGuard(Arc<Mutex<Guard>>);

impl Guard {
    fn set_on(connection: &mut Connection) -> rusqlite::Result<SharedGuard> {
        let guard = SharedGuard(Arc::new(Mutex::new(Self::Off)));
        let shared = guard.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| shared.judge(context.action)))?;
        Ok(guard)
    }
}

impl SharedGuard {
    /// Gives the state before.
    fn set(&self, next: Guard) -> Guard {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), next)
    }

    fn judge(&self, action: AuthAction<'_>) -> Authorization {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*guard, forbidden(action)) {
            (Guard::Off, _) | (_, None) => Authorization::Allow,
            (_, Some(what)) => {
                *guard = Guard::Refused(what);
                Authorization::Deny
            }
        }
    }
}

fn forbidden(action: AuthAction<'_>) -> Option<String> {
    match action {
        AuthAction::Transaction { .. } => Some("BEGIN, COMMIT or ROLLBACK".to_owned()),
        AuthAction::Attach { .. } => Some("ATTACH".to_owned()),
        AuthAction::Detach { .. } => Some("DETACH".to_owned()),
        AuthAction::Pragma { pragma_name, pragma_value: Some(_) }
            if PRAGMAS_FORBIDDEN.iter().any(|name| name.eq_ignore_ascii_case(pragma_name)) =>
        {
            Some(format!("PRAGMA {pragma_name}"))
        }
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
            if table_name.eq_ignore_ascii_case("atoll_migrations") =>
        {
            Some("a change of atoll_migrations".to_owned())
        }
        _ => None,
    }
}

fn place(migration: &Migration, offset: usize) -> Place {
    let line = line_at(migration.sql.as_bytes(), offset);
    let text = migration.sql.lines().nth(line - 1).unwrap_or_default();
    Place { path: migration.path.clone(), line, text: text.trim().chars().take(LINE_SHOWN).collect() }
}
