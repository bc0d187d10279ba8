//! A bounded pool of connections to this service's SQLite file. Work runs on threads that may block; whoever waits too
//! long for a connection is refused. It has the context of its request. The file and its tables are made by the platform's migrations, never here.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::context;

/// Connections open at once.
const CONNECTIONS_MAX: usize = 8;
/// How long a request waits for a connection.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a writer waits for the writers of other instances.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// Work on the database that was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the database {path}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("no connection to the database became free within {WAIT_MAX:?}")]
    Exhausted,
    #[error("a statement failed")]
    Statement { source: rusqlite::Error },
    #[error("work on the database panicked")]
    Panicked { source: tokio::task::JoinError },
}

impl Error {
    /// Whether the same work may well succeed a moment later.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Exhausted => true,
            Self::Statement { source } | Self::Open { source, .. } => {
                matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
            }
            Self::Panicked { .. } => false,
        }
    }
}

/// The way to the database. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Pool {
    path: Arc<Path>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// Opens a database that exists.
    ///
    /// # Errors
    /// When the file is missing, or is no database.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let first = connect(path)?;
        Ok(Self {
            path: path.into(),
            idle: Arc::new(Mutex::new(vec![first])),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        })
    }

    /// Reads from one state of the database. `work` runs to its end even when the caller is gone.
    ///
    /// # Errors
    /// When no connection is free, or a statement fails.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(TransactionBehavior::Deferred, move |transaction| work(transaction)).await
    }

    /// Writes, all or nothing: an error of `work` undoes what it did. On success everything is on disk.
    ///
    /// # Errors
    /// When no connection is free, another writer is too slow, or a statement fails.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        // A transaction that reads first and writes later could fail half way; this one waits at its beginning.
        self.run(TransactionBehavior::Immediate, work).await
    }

    async fn run<T: Send + 'static>(
        &self,
        behavior: TransactionBehavior,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(Error::Exhausted);
        };
        let (pool, context) = (self.clone(), context::current());
        let work = move || context.enter_blocking(|| pool.run_blocking(permit, behavior, work));
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|source| Error::Panicked { source })?
    }

    /// Holds its permit until the connection is back. A panic loses the connection, and the next caller opens another.
    fn run_blocking<T>(
        &self,
        permit: OwnedSemaphorePermit,
        behavior: TransactionBehavior,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = idle.map_or_else(|| connect(&self.path), Ok)?;
        let result = connection.transaction_with_behavior(behavior).and_then(|transaction| {
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        });
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        drop(permit);
        result.map_err(|source| Error::Statement { source })
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_MAX)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // An acknowledged write is on disk: with WAL, only FULL waits for that.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|source| Error::Open { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> (tempfile::TempDir, Pool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER) STRICT;").unwrap();
        (folder, Pool::open(&path).unwrap())
    }

    fn count(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
    }

    #[test]
    fn a_missing_file_is_an_error_and_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.db");
        assert!(matches!(Pool::open(&path), Err(Error::Open { .. })));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_failed_write_leaves_nothing_behind() {
        let (_folder, pool) = pool();
        let failed = pool.write(|t| t.execute("INSERT INTO t VALUES (1)", []).and_then(|_| t.execute("NONSENSE", [])));
        assert!(matches!(failed.await, Err(Error::Statement { .. })));
        assert_eq!(pool.read(count).await.unwrap(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn writers_beyond_the_bound_wait_for_their_turn() {
        let (_folder, pool) = pool();
        let mut writers = tokio::task::JoinSet::new();
        for n in 0..(CONNECTIONS_MAX as i64 * 4) {
            let pool = pool.clone();
            writers.spawn(async move { pool.write(move |t| t.execute("INSERT INTO t VALUES (?1)", [n])).await });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap().unwrap();
        }
        assert_eq!(pool.read(count).await.unwrap(), CONNECTIONS_MAX as i64 * 4);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_goes_on() {
        let (_folder, pool) = pool();
        let panicked: Result<(), _> = pool.read(|_| panic!("on purpose")).await;
        assert!(matches!(panicked, Err(Error::Panicked { .. })));
        assert_eq!(pool.read(count).await.unwrap(), 0);
    }
}
