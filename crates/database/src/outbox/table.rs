//! An outbox as a table of a SQLite file: opened, understood, read, and rid of what is settled. Everything here blocks.
//! Each transaction is a short one: no lock is held while anybody else is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row as SqlRow, TransactionBehavior, params};

use super::message::{Columns, Row, parse};
use super::window::{Room, SETTLE_ROWS_MAX, Settled};
use crate::{Error, SqliteError};

/// Limit: how long a statement waits for a writer of the service's.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// Limit: the last refused rows are kept, older ones deleted: a service that writes nothing else must not fill the disk.
const REFUSED_ROWS_MAX: i64 = 10_000;

/// The columns that a table must have, and those that it may have.
const REQUIRED: &[&str] = &["id", "topic", "data"];
const OPTIONAL: &[&str] = &["type", "subject", "event_id", "time", "content_type", "traceparent", "extensions"];

/// What the relay knows of each outbox of a database: the identity that its ids begin with, and the highest row that was
/// deleted. A row at or below it is of a table that was made anew, which begins with a new identity.
const LEDGER: &str = "CREATE TABLE IF NOT EXISTS atoll_outbox (
    outbox   TEXT PRIMARY KEY,
    identity TEXT NOT NULL,
    relayed  INTEGER NOT NULL
)";

#[derive(Debug)]
pub(super) struct Table {
    connection: Connection,
    path: PathBuf,
    name: String,
    /// Device and inode: what is at the path may be another one by now.
    file: (u64, u64),
    /// As of the schema's version.
    layout: Option<Layout>,
}

#[derive(Debug)]
struct Layout {
    schema_version: i64,
    optional: BTreeSet<String>,
    identity: String,
    relayed: i64,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    /// Whether there may be more.
    pub(super) has_more: bool,
    /// Rows in the table, at most.
    pub(super) backlog: u64,
}

impl Table {
    pub(super) fn open(path: &Path, name: &str) -> Result<Self, Error> {
        let file = identify(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY_MAX)?;
            // The last one to close a database takes away its log, by name: never that of a successor.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
            if mode == "wal" {
                // What is deleted here may come back after a power cut: it is published again with the same id.
                connection.pragma_update(None, "synchronous", "normal")?;
            }
            Ok(connection)
        };
        let connection = open().map_err(|error| classify(path, error))?;
        Ok(Self { connection, path: path.to_owned(), name: name.to_owned(), file, layout: None })
    }

    /// Reads the rows behind `after`, in their order, at least one if there is any.
    pub(super) fn read(&mut self, after: Option<i64>, room: Room, data_bytes_max: usize) -> Result<Batch, Error> {
        self.check_in_place()?;
        let known = self.layout.as_ref().map(|layout| layout.schema_version);
        let layout = self.understand()?;
        if after.is_some() && known != Some(layout.schema_version) {
            // The rows before may be those of another table: who wants what is behind them begins anew.
            return Err(Error::Replaced { path: self.path.clone() });
        }
        let result = read_rows(&self.connection, &self.name, &layout, after, room, data_bytes_max);
        let batch = result.map_err(|error| classify(&self.path, error))?;
        if after.is_none() && batch.rows.first().is_some_and(|row| row.id <= layout.relayed) {
            self.renew().map_err(|error| classify(&self.path, error))?;
            return self.read(after, room, data_bytes_max);
        }
        self.layout = Some(layout);
        Ok(batch)
    }

    /// Deletes what was published and puts aside what was refused, in one transaction.
    pub(super) fn settle(&mut self, settled: &[Settled]) -> Result<(), Error> {
        self.check_in_place()?;
        let replaced = Error::Replaced { path: self.path.clone() };
        let Some(layout) = self.layout.take() else { return Err(replaced) };
        let layout = self.layout.insert(layout);
        let result = settle_rows(&mut self.connection, &self.name, layout, settled);
        if result.map_err(|error| classify(&self.path, error))? { Ok(()) } else { Err(replaced) }
    }

    fn check_in_place(&self) -> Result<(), Error> {
        if identify(&self.path)? == self.file { Ok(()) } else { Err(Error::Replaced { path: self.path.clone() }) }
    }

    /// What the table looks like, asked anew only when the schema has changed.
    fn understand(&mut self) -> Result<Layout, Error> {
        let version = schema_version(&self.connection).map_err(|error| classify(&self.path, error))?;
        if let Some(layout) = self.layout.take().filter(|layout| layout.schema_version == version) {
            return Ok(layout);
        }
        let optional = self.check_columns()?;
        let (identity, relayed) = self.load_ledger().map_err(|error| classify(&self.path, error))?;
        // The ledger may have been made just now: then rows are read the next time.
        Ok(Layout { schema_version: version, optional, identity, relayed })
    }

    /// Gives the optional columns that are there.
    fn check_columns(&self) -> Result<BTreeSet<String>, Error> {
        let load = || {
            let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
            let sql: Option<String> = self.connection.query_row(sql, [&self.name], |row| row.get(0)).optional()?;
            let mut columns = self.connection.prepare("SELECT lower(name), pk > 0 FROM pragma_table_info(?1)")?;
            let columns = columns.query_map([&self.name], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok((sql, columns.collect::<Result<BTreeMap<String, bool>, _>>()?))
        };
        let (sql, columns) = load().map_err(|error| classify(&self.path, error))?;
        let fail = |what| Error::OutboxSchema { path: self.path.clone(), what };
        let Some(sql) = sql else { return Err(fail(format!("it has no table {}", self.name))) };
        if let Some(missing) = REQUIRED.iter().find(|name| !columns.contains_key(**name)) {
            return Err(fail(format!("the table {} has no column {missing}", self.name)));
        }
        if columns.get("id") != Some(&true) || !sql.to_ascii_uppercase().contains("AUTOINCREMENT") {
            // Otherwise the number of a row that is relayed and deleted is given to the next one.
            let what = format!("id of the table {} is not INTEGER PRIMARY KEY AUTOINCREMENT", self.name);
            return Err(fail(what));
        }
        Ok(OPTIONAL.iter().filter(|name| columns.contains_key(**name)).map(|name| (*name).to_owned()).collect())
    }

    fn load_ledger(&mut self) -> rusqlite::Result<(String, i64)> {
        let load = |connection: &Connection| {
            let sql = "SELECT identity, relayed FROM atoll_outbox WHERE outbox = ?1";
            connection.query_row(sql, [&self.name], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        };
        if self.connection.table_exists(None, "atoll_outbox")?
            && let Some(found) = load(&self.connection)?
        {
            return Ok(found);
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute(LEDGER, [])?;
        let identity = new_identity();
        let insert = "INSERT INTO atoll_outbox (outbox, identity, relayed) VALUES (?1, ?2, ?3)";
        transaction.execute(insert, params![self.name, identity, i64::MIN])?;
        transaction.commit()?;
        Ok((identity, i64::MIN))
    }

    fn renew(&self) -> rusqlite::Result<()> {
        let sql = "UPDATE atoll_outbox SET identity = ?2, relayed = ?3 WHERE outbox = ?1";
        self.connection.execute(sql, params![self.name, new_identity(), i64::MIN]).map(drop)
    }
}

/// Says no, and does nothing, where the schema has changed since the rows were read: it may be another table by now,
/// with other rows of the same numbers.
fn settle_rows(
    connection: &mut Connection,
    name: &str,
    layout: &mut Layout,
    settled: &[Settled],
) -> rusqlite::Result<bool> {
    let table = quote(name);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if schema_version(&transaction)? != layout.schema_version {
        return Ok(false);
    }
    let last = settled.last().map_or(layout.relayed, |row| row.id.max(layout.relayed));
    let mut version = layout.schema_version;
    for (row, reason) in settled.iter().filter_map(|row| row.refused.as_ref().map(|reason| (row, reason))) {
        let aside = quote(&format!("{name}_refused"));
        transaction.execute(&create_aside(&aside), [])?;
        let columns = select_columns(|name| layout.optional.contains(name), "data");
        let sql = format!(
            "INSERT INTO {aside} (row_id, topic, data, type, subject, event_id, time, content_type, traceparent,
                                  extensions, reason, refused_at)
             SELECT {columns}, ?2, strftime('%Y-%m-%dT%H:%M:%fZ', 'now') FROM {table} WHERE id = ?1"
        );
        transaction.execute(&sql, params![row.id, reason])?;
        version = schema_version(&transaction)?;
    }
    if settled.iter().any(|row| row.refused.is_some()) {
        delete_oldest_aside(&transaction, &quote(&format!("{name}_refused")))?;
    }
    let mut delete = transaction.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?;
    for row in settled {
        delete.execute([row.id])?;
    }
    drop(delete);
    let note = "UPDATE atoll_outbox SET relayed = ?2 WHERE outbox = ?1";
    transaction.prepare_cached(note)?.execute(params![name, last])?;
    transaction.commit()?;
    (layout.schema_version, layout.relayed) = (version, last);
    Ok(true)
}

/// Limit: as many as may have come at most, so that the lock is held for a moment only, however many there are.
fn delete_oldest_aside(transaction: &Connection, aside: &str) -> rusqlite::Result<()> {
    let sql = format!(
        "DELETE FROM {aside} WHERE rowid <= (SELECT max(rowid) FROM {aside}) - {REFUSED_ROWS_MAX}
                               AND rowid < (SELECT min(rowid) FROM {aside}) + {SETTLE_ROWS_MAX}"
    );
    transaction.execute(&sql, []).map(drop)
}

fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "schema_version", |row| row.get(0))
}

fn read_rows(
    connection: &Connection,
    name: &str,
    layout: &Layout,
    after: Option<i64>,
    room: Room,
    data_bytes_max: usize,
) -> rusqlite::Result<Batch> {
    let table = quote(name);
    // Order: the rows are of the schema that was understood.
    let transaction = connection.unchecked_transaction()?;
    if schema_version(&transaction)? != layout.schema_version {
        return Ok(Batch { rows: Vec::new(), has_more: true, backlog: 0 });
    }
    let columns = select_columns(
        |name| layout.optional.contains(name),
        "CASE WHEN octet_length(data) <= ?3 THEN data END, octet_length(data)",
    );
    let sql = format!("SELECT {columns} FROM {table} WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = transaction.prepare_cached(&sql)?;
    let mut found = statement.query(params![
        after.unwrap_or(i64::MIN),
        i64::try_from(room.rows).unwrap_or(i64::MAX),
        i64::try_from(data_bytes_max).unwrap_or(i64::MAX)
    ])?;
    let mut rows = Vec::new();
    let mut bytes = 0;
    let mut has_more = false;
    while let Some(row) = found.next()? {
        let row = read_row(row, &layout.identity, data_bytes_max)?;
        if bytes > 0 && bytes + row.bytes > room.bytes {
            has_more = true;
            break;
        }
        bytes += row.bytes;
        rows.push(row);
    }
    has_more |= rows.len() >= room.rows;
    drop(found);
    let sql = format!("SELECT (SELECT max(id) FROM {table}) - (SELECT min(id) FROM {table}) + 1");
    let backlog: Option<i64> = transaction.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
    Ok(Batch { rows, has_more, backlog: backlog.and_then(|rows| u64::try_from(rows).ok()).unwrap_or_default() })
}

fn read_row(row: &SqlRow<'_>, identity: &str, data_bytes_max: usize) -> rusqlite::Result<Row> {
    let id: i64 = row.get(0)?;
    let data_bytes = row.get::<_, Option<i64>>(3)?.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default();
    let columns = Columns {
        topic: row.get_ref(1)?,
        data: row.get_ref(2)?,
        kind: row.get_ref(4)?,
        subject: row.get_ref(5)?,
        event_id: row.get_ref(6)?,
        time: row.get_ref(7)?,
        content_type: row.get_ref(8)?,
        traceparent: row.get_ref(9)?,
        extensions: row.get_ref(10)?,
    };
    let event = if data_bytes > data_bytes_max {
        Err(format!("data is {data_bytes} bytes, more than {data_bytes_max}"))
    } else {
        parse(id, identity, &columns)
    };
    let bytes = event.as_ref().map_or(0, |(topic, message)| topic.len() + message.bytes());
    Ok(Row { id, bytes, event })
}

/// `id`, `topic`, what is said for the data, and the optional columns or NULL in their place.
fn select_columns(has: impl Fn(&str) -> bool, data: &str) -> String {
    let mut columns = format!("id, topic, {data}");
    for name in OPTIONAL {
        columns.push_str(if has(name) { ", " } else { ", NULL AS " });
        columns.push_str(&quote(name));
    }
    columns
}

fn create_aside(table: &str) -> String {
    // Columns without a type keep values as they were.
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (
             id INTEGER PRIMARY KEY, row_id INTEGER NOT NULL, topic, data, type, subject, event_id, time, content_type,
             traceparent, extensions, reason TEXT NOT NULL, refused_at TEXT NOT NULL
         )"
    )
}

fn new_identity() -> String {
    let mut bytes = [0; 8];
    fastrand::fill(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn identify(path: &Path) -> Result<(u64, u64), Error> {
    match std::fs::metadata(path) {
        Ok(file) => Ok((file.dev(), file.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Absent { path: path.to_owned() }),
        Err(error) => {
            let source = SqliteError { message: error.to_string() };
            Err(Error::Outbox { path: path.to_owned(), source })
        }
    }
}

fn classify(path: &Path, error: rusqlite::Error) -> Error {
    match Error::sqlite(path, error, |source| Error::Outbox { path: path.to_owned(), source }) {
        Error::Busy { path, .. } => Error::Busy { path, seconds: BUSY_MAX.as_secs() },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_was_refused_the_last_ones_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shop.db");
        let connection = Connection::open(&path).expect("opened");
        let made = "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, topic, data);
                    INSERT INTO outbox (topic, data) VALUES ('a', '1'), ('a', '2')";
        connection.execute_batch(made).expect("made");
        let mut table = Table::open(&path, "outbox").expect("opened");
        let room = Room { rows: 10, bytes: 1 << 20 };
        // The first time makes the ledger.
        while table.read(None, room, 100).expect("read").rows.is_empty() {}
        let refused = |id| [Settled { id, refused: Some("no".to_owned()) }];
        table.settle(&refused(1)).expect("put aside");
        let more = "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
                    INSERT INTO outbox_refused (row_id, reason, refused_at) SELECT 0, '', '' FROM n";
        connection.execute(more, [REFUSED_ROWS_MAX + 100]).expect("inserted");
        table.settle(&refused(2)).expect("put aside");
        let kept = "SELECT count(*), max(row_id) FROM outbox_refused";
        let kept: (i64, i64) = connection.query_row(kept, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("counted");
        assert_eq!(kept, (REFUSED_ROWS_MAX, 2));
    }
}
