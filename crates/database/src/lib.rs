//! Databases of services' own: makes a declared database, brings it to its newest migration, and says what it did.
//! Called by the daemon before the services of a database start. It knows neither services nor the manifest, and it
//! never deletes or repairs anything. [`outbox`] relays what services have put into their outboxes.
//!
//! One engine is here, SQLite; each further one is a module of its own beside [`mod@sqlite`].

mod error;
mod migration;
pub mod outbox;
mod sqlite;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use error::{Error, Place, SqliteError};

/// A declared database. Plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// As declared; for messages only.
    pub name: String,
    /// Its file, absolute. The folder is made when it is missing.
    pub path: PathBuf,
    /// Folder of `NNNN_name.sql` files; `None` means that the owner looks after the schema alone.
    pub migrations: Option<PathBuf>,
}

/// What [`prepare`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of the newest migration in the database; `None` when there is none.
    pub version: Option<i64>,
    /// File names of the migrations applied just now, in order.
    pub applied: Vec<String>,
}

/// Makes the database if it is missing and applies its pending migrations in the order of their numbers, each in one
/// transaction with its row in the ledger. When this returns, they are on disk (`synchronous = FULL`).
///
/// Waits for another process that prepares the same file, and for writers, up to fixed limits; a migration itself may
/// take as long as it needs. Cancel safe: a dropped future interrupts the running migration, of which nothing remains.
///
/// # Errors
/// Any [`Error`]. Migrations before the one that failed stay applied.
pub async fn prepare(database: &Database) -> Result<Report, Error> {
    let guard = Cancel::default();
    let cancelled = Arc::clone(&guard.0);
    let database = database.clone();
    let work = kit::tasks::Tasks::default().spawn_blocking(move || sqlite::prepare(&database, &cancelled));
    match work.await {
        Ok(result) => result,
        Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
        Err(_) => Err(Error::Interrupted),
    }
}

/// Tells the blocking half that nobody waits for it any more.
#[derive(Default)]
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
