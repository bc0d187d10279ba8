//! Events into tables. Whatever comes twice, late or in another order, the tables end with the newest version of each
//! product. A replay counts for more: it ends with what the stream says last, whatever the tables say, be it the same
//! version with other words, or a newer one of a catalog that was then restored from a backup.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::event::{Change, Product, What};
use crate::terms::grams;

/// Makes some changes, in their order.
///
/// # Errors
/// When a statement fails.
pub(crate) fn apply(transaction: &Transaction<'_>, changes: &[Change]) -> rusqlite::Result<()> {
    let mut has_words = false;
    for Change { what, is_replayed } in changes {
        if *is_replayed {
            forget_version(transaction, what.id())?;
        }
        match what {
            What::Put(product) => has_words |= put(transaction, product)?,
            What::Remove { id, version } => remove(transaction, id, *version)?,
        }
    }
    if has_words { learn_words(transaction) } else { Ok(()) }
}

/// Any version is newer from then on.
fn forget_version(transaction: &Transaction<'_>, id: &str) -> rusqlite::Result<()> {
    transaction.prepare_cached("UPDATE products SET version = ?2 WHERE id = ?1")?.execute(params![id, i64::MIN])?;
    transaction.prepare_cached("DELETE FROM removed WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Says whether the product was not known so.
fn put(transaction: &Transaction<'_>, product: &Product) -> rusqlite::Result<bool> {
    let known = "SELECT max(version) FROM (SELECT version FROM products WHERE id = ?1 \
                 UNION ALL SELECT version FROM removed WHERE id = ?1)";
    let known: Option<i64> = transaction.prepare_cached(known)?.query_row([&product.id], |row| row.get(0))?;
    if known.is_some_and(|known| known >= product.version) {
        return Ok(false);
    }
    transaction.prepare_cached("DELETE FROM removed WHERE id = ?1")?.execute([&product.id])?;
    let sql = "INSERT INTO products (id, version, slug, name, category, brand, price, currency, image, created_at, \
               is_available) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
               ON CONFLICT (id) DO UPDATE SET version = excluded.version, slug = excluded.slug, name = excluded.name, \
               category = excluded.category, brand = excluded.brand, price = excluded.price, \
               currency = excluded.currency, image = excluded.image, created_at = excluded.created_at, \
               is_available = excluded.is_available RETURNING number";
    let values = params![
        product.id,
        product.version,
        product.slug,
        product.name,
        product.category,
        product.brand,
        product.price,
        product.currency,
        product.image,
        product.created_at,
        product.available
    ];
    let number: i64 = transaction.prepare_cached(sql)?.query_row(values, |row| row.get(0))?;
    let attributes: Vec<&str> = product.attributes.values().map(String::as_str).collect();
    let sql = "INSERT OR REPLACE INTO texts (rowid, name, category, brand, attributes, description) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    transaction.prepare_cached(sql)?.execute(params![
        number,
        clean(&product.name),
        clean(&product.category),
        clean(&product.brand),
        clean(&attributes.join(", ")),
        clean(&product.description)
    ])?;
    Ok(true)
}

fn remove(transaction: &Transaction<'_>, id: &str, version: i64) -> rusqlite::Result<()> {
    let known = "SELECT number, version FROM products WHERE id = ?1";
    let known = transaction.prepare_cached(known)?.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    if let Some((number, known)) = known {
        let (number, known): (i64, i64) = (number, known);
        if known > version {
            return Ok(());
        }
        transaction.prepare_cached("DELETE FROM products WHERE number = ?1")?.execute([number])?;
        transaction.prepare_cached("DELETE FROM texts WHERE rowid = ?1")?.execute([number])?;
    }
    let sql = "INSERT INTO removed VALUES (?1, ?2) ON CONFLICT DO UPDATE SET version = max(version, excluded.version)";
    transaction.prepare_cached(sql)?.execute(params![id, version])?;
    Ok(())
}

/// Writes down the runs of letters of words that were not there before.
fn learn_words(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let new = "SELECT term FROM vocabulary WHERE term NOT IN (SELECT term FROM terms)";
    let new: Vec<String> =
        transaction.prepare_cached(new)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut terms = transaction.prepare_cached("INSERT OR IGNORE INTO terms VALUES (?1)")?;
    let mut runs = transaction.prepare_cached("INSERT OR IGNORE INTO grams VALUES (?1, ?2)")?;
    for term in &new {
        terms.execute([term])?;
        for gram in grams(term) {
            runs.execute([&gram, term])?;
        }
    }
    Ok(())
}

/// Without control characters, two of which mark what was found (see [`crate::mark`]).
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
