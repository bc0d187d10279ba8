//! What can go wrong with a database or its migrations, and the one thing a person can do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// An operation that failed. Print it with `kit::Chain`, then [`Error::place`] and [`Error::hint`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot create {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("another process has been preparing {} for more than {seconds} s", path.display())]
    Occupied { path: PathBuf, seconds: u64 },
    #[error("cannot open the database {}", path.display())]
    Open { path: PathBuf, source: SqliteError },
    #[error("{} is not a sound SQLite database", path.display())]
    Corrupt { path: PathBuf, source: SqliteError },
    #[error("no space is left for {}", path.display())]
    Full { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the database {} stayed locked by another program for {seconds} s", path.display())]
    Busy { path: PathBuf, seconds: u64 },
    #[error("{} cannot use write-ahead logging: its file system allows only `{mode}`", path.display())]
    Journal { path: PathBuf, mode: String },
    #[error("cannot use the table atoll_migrations in {}", path.display())]
    Ledger { path: PathBuf, source: SqliteError },

    #[error("cannot read the migrations folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("the migrations folder {} has more than {max} files", path.display())]
    TooMany { path: PathBuf, max: usize },
    #[error("{} is not named as a migration", path.display())]
    FileName { path: PathBuf },
    #[error("{} and {} have the same number", first.display(), second.display())]
    Duplicate { first: PathBuf, second: PathBuf },
    #[error("cannot read the migration {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the migration {} is not a regular file", path.display())]
    NotFile { path: PathBuf },
    #[error("the migration {} is larger than {bytes_max} bytes", path.display())]
    TooLarge { path: PathBuf, bytes_max: u64 },
    #[error("the migration {} is not UTF-8 text: see line {line}", path.display())]
    NotText { path: PathBuf, line: usize },

    #[error("the migration {} has changed since it was applied: its checksum was {applied} and is {found}", path.display())]
    Changed { path: PathBuf, applied: String, found: String },
    #[error("the database has migration {version} ({name}), which {} lacks", folder.display())]
    Missing { folder: PathBuf, version: i64, name: String },
    #[error("the migration {} comes too late: the database is already at {newest}", path.display())]
    OutOfOrder { path: PathBuf, newest: i64 },
    #[error("cannot apply the migration {}:{}", place.path.display(), place.line)]
    Statement { place: Place, source: SqliteError },
    #[error("the migration {}:{} must not contain {what}", place.path.display(), place.line)]
    Forbidden { place: Place, what: String },
    #[error("cannot commit the migration {}", path.display())]
    Commit { path: PathBuf, source: SqliteError },
    #[error("the preparation was interrupted")]
    Interrupted,

    #[error("{table:?} cannot be the name of the outbox of {database}")]
    OutboxName { database: String, table: String },
    #[error("the outbox {table} of {database} is declared twice")]
    OutboxTwice { database: String, table: String },
    #[error("the database {} is not there", path.display())]
    Absent { path: PathBuf },
    #[error("{} cannot be used as an outbox: {what}", path.display())]
    OutboxSchema { path: PathBuf, what: String },
    #[error("cannot relay from {}", path.display())]
    Outbox { path: PathBuf, source: SqliteError },
    #[error("{} has been replaced", path.display())]
    Replaced { path: PathBuf },
}

/// A line of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// The line itself, cut to a printable length.
    pub text: String,
}

/// What SQLite said, without the SQL that it was said about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqliteError {
    pub message: String,
}

impl Error {
    /// The line of a migration that is to blame.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Statement { place, .. } | Self::Forbidden { place, .. } => Some(place),
            _ => None,
        }
    }

    /// One thing to do about it, as a sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Create { path, .. } | Self::Lock { path, .. } | Self::Open { path, .. } => {
                format!("see what is there and who may write to it: `ls -ld {}`", path.display())
            }
            Self::Occupied { .. } => "wait for the other `atoll` to finish, or stop it".to_owned(),
            Self::Corrupt { path, .. } => format!(
                "restore {0} from a backup; nothing was changed. If its data may be lost, remove {0} and start again",
                path.display()
            ),
            Self::Full { path, .. } => format!("make room: `df -h {}`", folder_of(path).display()),
            Self::Busy { path, .. } => format!("find the program that holds it: `fuser -v {}`", path.display()),
            Self::Journal { .. } => "move the state folder to a local disk".to_owned(),
            Self::Ledger { .. } => "this table belongs to Atoll: rename a table of your own with that name".to_owned(),
            Self::Folder { path, .. } => format!("create {} or correct `migrations`", path.display()),
            Self::TooMany { max, .. } => format!("join old migrations into one for new databases: at most {max}"),
            Self::FileName { .. } => {
                "name it `0001_what_it_does.sql`: digits, an underscore, then letters, digits, `_` or `-`".to_owned()
            }
            Self::Duplicate { second, .. } => format!("give {} the next free number", second.display()),
            Self::File { path, .. } => format!("check that you may read {}", path.display()),
            Self::NotFile { .. } => "put a text file of SQL there, or a link to one".to_owned(),
            Self::TooLarge { .. } => "split it into several migrations".to_owned(),
            Self::NotText { .. } => "save the file as UTF-8 text without NUL bytes".to_owned(),
            Self::Changed { .. } => "undo the change and put it into a new migration; if the data may be lost, start \
                                     afresh with `atoll down -v`"
                .to_owned(),
            Self::Missing { .. } => "restore the file: this version of the service is older than its database; if the \
                                     data may be lost, start afresh with `atoll down -v`"
                .to_owned(),
            Self::OutOfOrder { newest, .. } => format!("give it a number greater than {newest}"),
            Self::Statement { place, .. } => {
                format!("correct {}:{}; nothing of this migration was kept", place.path.display(), place.line)
            }
            Self::Forbidden { .. } => "a migration runs as one transaction, which Atoll opens and commits: leave it \
                                       out (`PRAGMA defer_foreign_keys = ON` is allowed)"
                .to_owned(),
            Self::Commit { .. } => "make it leave the data consistent; nothing of this migration was kept".to_owned(),
            Self::OutboxName { .. } => "name a table of the database's own migrations".to_owned(),
            Self::OutboxTwice { .. } => "declare it once".to_owned(),
            Self::OutboxSchema { .. } => "correct it in a further migration; `docs/outbox.md` has the table".to_owned(),
            Self::Outbox { path, .. } => {
                format!("see what is there and who may write to it: `ls -ld {}`", path.display())
            }
            Self::Absent { .. } | Self::Replaced { .. } | Self::Interrupted => return None,
        };
        Some(hint)
    }

    /// An error of the file system while `path` was made.
    pub(crate) fn create(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source: source.into() },
            _ => Self::Create { path, source },
        }
    }

    /// Sorts out the failures of SQLite that have the same cause wherever they appear; `otherwise` names the rest.
    pub(crate) fn sqlite(path: &Path, error: rusqlite::Error, otherwise: impl FnOnce(SqliteError) -> Self) -> Self {
        let path = path.to_owned();
        let (code, extended) = (error.sqlite_error_code(), error.sqlite_error().map(|error| error.extended_code));
        let source = SqliteError::from(error);
        match code {
            // SQLite cannot say why it could not lengthen its shared-memory file: nearly always for want of room.
            _ if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => Self::Full { path, source: source.into() },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { path, source },
            Some(ErrorCode::DiskFull) => Self::Full { path, source: source.into() },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Busy { path, seconds: crate::sqlite::BUSY_MAX.as_secs() }
            }
            Some(ErrorCode::OperationInterrupted) => Self::Interrupted,
            _ => otherwise(source),
        }
    }
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        let message = match error {
            // Its own text repeats the whole rest of the migration.
            rusqlite::Error::SqlInputError { msg, .. } => msg,
            // Their own texts say too little ("disk I/O error") or repeat the path.
            rusqlite::Error::SqliteFailure(error, _)
                if matches!(error.code, ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) =>
            {
                format!("{} (SQLite code {})", rusqlite::ffi::code_to_str(error.extended_code), error.extended_code)
            }
            other => other.to_string(),
        };
        Self { message }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
