//! Carts and their lines in the database.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use store_kit::{outbox, session};

use crate::catalog::Product;

/// Pieces of one line.
pub(crate) const QUANTITY_MAX: i64 = 99;
/// Lines of one cart.
pub(crate) const LINES_MAX: usize = 100;
/// A cart that nobody touched for so long is deleted.
const AGE_MAX: &str = "-30 days";
/// Old carts that the making of a new one deletes, so that none waits long for it.
const SWEEP_MAX: usize = 50;

/// One product in a cart, as it was when it was put in.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) product: Product,
    pub(crate) quantity: i64,
}

/// What a quantity does to the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Takes its place.
    To(i64),
    /// Is added to it, as far as a line holds it.
    By(i64),
}

/// How changing a quantity ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    Done,
    NoSuchCart,
    Full,
    /// The cart already has lines of another currency.
    OtherCurrency,
}

/// What others are told of a line. Nothing in it leads to the cart.
#[derive(Debug, Serialize)]
struct Told<'a> {
    session: &'a str,
    product: &'a str,
    /// Pieces there are now.
    quantity: i64,
}

/// Makes an empty cart; `false` when there is one with this id already. Carts that nobody touched for long are forgotten, of which nobody
/// is told: their shoppers took nothing out.
pub(crate) fn create(transaction: &Transaction<'_>, id: &str) -> rusqlite::Result<bool> {
    let sweep = "DELETE FROM carts WHERE id IN (SELECT id FROM carts \
                 WHERE updated_at < strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?1) ORDER BY updated_at LIMIT ?2)";
    transaction.execute(sweep, params![AGE_MAX, SWEEP_MAX as i64])?;
    let now = "strftime('%Y-%m-%dT%H:%M:%SZ')";
    let sql = format!("INSERT INTO carts VALUES (?1, {now}, {now}) ON CONFLICT DO NOTHING");
    Ok(transaction.execute(&sql, [id])? > 0)
}

/// The lines of a cart in the order in which they came; `None` when there is no such cart.
pub(crate) fn load(connection: &Connection, id: &str) -> rusqlite::Result<Option<Vec<Line>>> {
    if !exists(connection, id)? {
        return Ok(None);
    }
    let sql = "SELECT product_id, slug, name, image, price, currency, quantity FROM lines \
               WHERE cart_id = ?1 ORDER BY position";
    let mut statement = connection.prepare_cached(sql)?;
    let lines = statement.query_map([id], |row| {
        let product = Product {
            id: row.get(0)?,
            slug: row.get(1)?,
            name: row.get(2)?,
            image: row.get(3)?,
            price: row.get(4)?,
            currency: row.get(5)?,
        };
        Ok(Line { product, quantity: row.get(6)? })
    })?;
    lines.collect::<rusqlite::Result<_>>().map(Some)
}

/// Changes a line's quantity, and with it the price that was just seen. What was there is read in the same transaction, so
/// that of two additions none is lost.
pub(crate) fn set(transaction: &Transaction<'_>, id: &str, product: &Product, change: Change) -> rusqlite::Result<Set> {
    let Some(lines) = load(transaction, id)? else {
        return Ok(Set::NoSuchCart);
    };
    let there = lines.iter().find(|line| line.product.id == product.id);
    let quantity = match change {
        Change::To(quantity) => quantity,
        Change::By(more) => there.map_or(0, |line| line.quantity).saturating_add(more).min(QUANTITY_MAX),
    };
    if there.is_none() && lines.len() >= LINES_MAX {
        return Ok(Set::Full);
    }
    if lines.iter().any(|line| line.product.id != product.id && line.product.currency != product.currency) {
        return Ok(Set::OtherCurrency);
    }
    let sql = "INSERT INTO lines VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, \
               (SELECT ifnull(max(position), 0) + 1 FROM lines WHERE cart_id = ?1)) \
               ON CONFLICT DO UPDATE SET slug = excluded.slug, name = excluded.name, image = excluded.image, \
               price = excluded.price, currency = excluded.currency, quantity = excluded.quantity";
    let values =
        params![id, product.id, product.slug, product.name, product.image, product.price, product.currency, quantity];
    transaction.prepare_cached(sql)?.execute(values)?;
    touch(transaction, id)?;
    match there.map(|line| line.quantity) {
        None => tell(transaction, "cart.line.added", id, &product.id, quantity)?,
        Some(before) if before != quantity => tell(transaction, "cart.line.changed", id, &product.id, quantity)?,
        Some(_) => {}
    }
    Ok(Set::Done)
}

/// Takes a product out; `false` when it was not in the cart.
pub(crate) fn remove(transaction: &Transaction<'_>, id: &str, product: &str) -> rusqlite::Result<bool> {
    let removed = transaction.execute("DELETE FROM lines WHERE cart_id = ?1 AND product_id = ?2", [id, product])?;
    touch(transaction, id)?;
    if removed > 0 {
        tell(transaction, "cart.line.removed", id, product, 0)?;
    }
    Ok(removed > 0)
}

/// Deletes a cart; `false` when there was none.
pub(crate) fn delete(transaction: &Transaction<'_>, id: &str) -> rusqlite::Result<bool> {
    for line in load(transaction, id)?.unwrap_or_default() {
        tell(transaction, "cart.line.removed", id, &line.product.id, 0)?;
    }
    Ok(transaction.execute("DELETE FROM carts WHERE id = ?1", [id])? > 0)
}

fn tell(transaction: &Transaction<'_>, topic: &str, cart: &str, product: &str, quantity: i64) -> rusqlite::Result<()> {
    let session = &session::of_cart(cart);
    outbox::publish(transaction, topic, product, &Told { session, product, quantity })
}

fn exists(connection: &Connection, id: &str) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM carts WHERE id = ?1")?;
    statement.query_row([id], |_| Ok(())).optional().map(|found| found.is_some())
}

fn touch(transaction: &Transaction<'_>, id: &str) -> rusqlite::Result<()> {
    transaction.execute("UPDATE carts SET updated_at = strftime('%Y-%m-%dT%H:%M:%SZ') WHERE id = ?1", [id])?;
    Ok(())
}
