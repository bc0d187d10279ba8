//! Events that are published with a change and never without it: a row in the `outbox` table of this service's own
//! database, written in the transaction of the change. The platform relays the rows in the order of their commits.

use rusqlite::{Transaction, params};
use serde::Serialize;

use crate::context;

/// Puts an event into the outbox; `subject` is what it tells of, such as the id of a product.
///
/// # Errors
/// When the statement fails, or `data` is no JSON.
pub fn publish(
    transaction: &Transaction<'_>,
    topic: &str,
    subject: &str,
    data: &impl Serialize,
) -> rusqlite::Result<()> {
    let data = serde_json::to_string(data).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let sql = "INSERT INTO outbox (topic, subject, time, traceparent, data) \
               VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%fZ'), ?3, ?4)";
    transaction.prepare_cached(sql)?.execute(params![topic, subject, context::current().traceparent(), data])?;
    Ok(())
}
