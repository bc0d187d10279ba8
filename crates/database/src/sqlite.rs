//! A database as a SQLite file: made, opened, locked against a second preparation, and migrated.
//! Everything here blocks; [`crate::prepare`] keeps it off the runtime's threads.

mod apply;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, params};

use crate::migration::{Applied, load_folder, plan_pending};
use crate::{Database, Error, Report};

/// Limit: how long a statement waits for another program's transaction, such as a running instance's.
pub(crate) const BUSY_MAX: Duration = Duration::from_secs(10);

/// Limit: how long one preparation waits for another of the same file. Longer than [`BUSY_MAX`]: the other one may
/// itself wait for a writer.
const LOCK_MAX: Duration = Duration::from_secs(60);

/// How often the lock is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// How many of SQLite's virtual machine instructions pass between two looks at the cancellation.
const STEPS_PER_LOOK: i32 = 10_000;

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS atoll_migrations (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at TEXT NOT NULL
)";

/// See [`crate::prepare`].
pub(crate) fn prepare(database: &Database, cancelled: &Arc<AtomicBool>) -> Result<Report, Error> {
    let path = &database.path;
    // The folder is checked before a file is made: a typing error leaves nothing behind.
    let migrations = database.migrations.as_deref().map(load_folder).transpose()?.unwrap_or_default();
    create_folder(path)?;
    let _lock = lock(path, cancelled)?;
    create_file(path)?;
    let connection = open(path, cancelled)?;
    let ledger = match &database.migrations {
        Some(_) if !migrations.is_empty() || has_ledger(&connection, path)? => load_ledger(&connection, path)?,
        _ => Vec::new(),
    };
    drop(connection);

    let folder = database.migrations.as_deref().unwrap_or(Path::new(""));
    let pending = plan_pending(folder, &migrations, &ledger)?;
    let mut report = Report { version: ledger.last().map(|applied| applied.version), applied: Vec::new() };
    for migration in pending {
        let start = Instant::now();
        // A connection for each: settings and temporary tables of one migration must not reach the next, or a database
        // built in one go would differ from one that grew.
        apply::apply(&mut open(path, cancelled)?, path, migration)?;
        report.version = Some(migration.version);
        report.applied.push(migration.file_name());
        tracing::info!(
            database = database.name,
            migration = migration.file_name(),
            milliseconds = start.elapsed().as_millis(),
            "migration applied"
        );
    }
    Ok(report)
}

fn create_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| Error::create(folder, source))
}

/// Holds off other preparations of the same file until the result is dropped. The lock is on a file beside the
/// database: closing any descriptor of the database itself would drop SQLite's own locks in this process.
fn lock(path: &Path, cancelled: &AtomicBool) -> Result<File, Error> {
    let path = beside(path, ".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(|source| Error::create(&path, source))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(Error::Lock { path, source }),
            Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_MAX => {
                return Err(Error::Occupied { path, seconds: LOCK_MAX.as_secs() });
            }
            Err(TryLockError::WouldBlock) if cancelled.load(Ordering::Relaxed) => return Err(Error::Interrupted),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_INTERVAL),
        }
    }
}

/// Makes the file with our own permissions, which SQLite then gives to the files that it puts beside it.
fn create_file(path: &Path) -> Result<(), Error> {
    let fail = |source| Error::create(path, source);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(fail(error)),
    }
}

fn open(path: &Path, cancelled: &Arc<AtomicBool>) -> Result<Connection, Error> {
    let connect = || -> rusqlite::Result<(Connection, String)> {
        let mut connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_MAX)?;
        let cancelled = Arc::clone(cancelled);
        connection.progress_handler(STEPS_PER_LOOK, Some(move || cancelled.load(Ordering::Relaxed)))?;
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", "on")?;
        Ok((connection, mode))
    };
    let (connection, mode) = connect()
        .map_err(|error| Error::sqlite(path, error, |source| Error::Open { path: path.to_owned(), source }))?;
    if mode != "wal" {
        return Err(Error::Journal { path: path.to_owned(), mode });
    }
    Ok(connection)
}

fn has_ledger(connection: &Connection, path: &Path) -> Result<bool, Error> {
    connection
        .table_exists(None, "atoll_migrations")
        .map_err(|error| Error::sqlite(path, error, |source| ledger_error(path, source)))
}

/// Reads the ledger by number, and makes it first when it is missing.
fn load_ledger(connection: &Connection, path: &Path) -> Result<Vec<Applied>, Error> {
    let load = || {
        connection.execute(LEDGER, [])?;
        let mut rows = connection.prepare("SELECT version, name, checksum FROM atoll_migrations ORDER BY version")?;
        let read = rows.query_map(params![], |row| {
            Ok(Applied { version: row.get(0)?, name: row.get(1)?, checksum: row.get(2)? })
        })?;
        read.collect::<Result<Vec<_>, _>>()
    };
    load().map_err(|error| Error::sqlite(path, error, |source| ledger_error(path, source)))
}

fn ledger_error(path: &Path, source: crate::SqliteError) -> Error {
    Error::Ledger { path: path.to_owned(), source }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
