//! A service that changes its database and tells of each change through its outbox, in one transaction, until it is killed.
//! Some transactions it takes back: of these nothing may be heard.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use serde_json::json;

use crate::options::EventLedger;
use crate::upstream;

pub(crate) const TOPIC: &str = "ledger.changed";

/// Its schema, which Atoll applies.
pub(crate) const MIGRATION: &str = "\
CREATE TABLE account (key TEXT PRIMARY KEY, number INTEGER NOT NULL, balance INTEGER NOT NULL);
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, data TEXT NOT NULL);
";

/// One transaction in so many is taken back.
const TAKEN_BACK_ONE_IN: u32 = 10;
const BUSY_MAX: Duration = Duration::from_secs(20);

/// Where Atoll keeps the database of this name.
pub(crate) fn path_of(url: &str) -> Result<PathBuf> {
    let path = url.strip_prefix("sqlite://").with_context(|| format!("{url} is no SQLite file"))?;
    Ok(PathBuf::from(path))
}

pub(crate) fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(BUSY_MAX)?;
    Ok(connection)
}

/// Listens on `$PORT` only to be found ready.
pub(crate) async fn run(options: EventLedger) -> Result<()> {
    let listener = upstream::listen().await?;
    let work = tokio::task::spawn_blocking(move || keep(&options));
    let listen = async {
        loop {
            drop(listener.accept().await.context("cannot accept")?);
        }
    };
    tokio::select! {
        result = work => result?,
        result = listen => result,
    }
}

fn keep(options: &EventLedger) -> Result<()> {
    let url = std::env::var("DATABASE_URL").context("$DATABASE_URL is not given")?;
    let mut connection = open(&path_of(&url)?)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    loop {
        let key = format!("k{}", fastrand::u32(..options.keys.max(1)));
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        change(&transaction, &key, fastrand::i64(-1_000..1_000))?;
        if fastrand::u32(..TAKEN_BACK_ONE_IN) == 0 {
            transaction.rollback()?;
        } else {
            transaction.commit()?;
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(..=options.pause_ms)));
    }
}

/// Tells the key's number and balance as they are after it.
fn change(transaction: &Transaction<'_>, key: &str, amount: i64) -> Result<()> {
    let before = transaction
        .prepare_cached("SELECT number, balance FROM account WHERE key = ?1")?
        .query_row([key], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let (number, balance) = before.unwrap_or_default();
    let (number, balance) = (number + 1, balance + amount);
    transaction
        .prepare_cached("INSERT OR REPLACE INTO account (key, number, balance) VALUES (?1, ?2, ?3)")?
        .execute((key, number, balance))?;
    let data = json!({ "key": key, "number": number, "amount": amount, "balance": balance });
    transaction
        .prepare_cached("INSERT INTO outbox (topic, data) VALUES (?1, ?2)")?
        .execute((TOPIC, data.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_and_its_row_are_one() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(MIGRATION).unwrap();
        for (amount, is_kept) in [(5, true), (100, false), (-2, true)] {
            let transaction = connection.transaction().unwrap();
            change(&transaction, "k1", amount).unwrap();
            if is_kept {
                transaction.commit().unwrap();
            }
        }
        let rows: Vec<String> = {
            let mut rows = connection.prepare("SELECT data FROM outbox ORDER BY id").unwrap();
            rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1], r#"{"key":"k1","number":2,"amount":-2,"balance":3}"#);
    }
}
