//! One product: its shape in JSON, what makes a valid one, and its row.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use store_kit::{Problem, outbox};

use crate::etag::Condition;

const NAME_MAX: usize = 120;
const BRAND_MAX: usize = 60;
const DESCRIPTION_MAX: usize = 4000;
const ATTRIBUTES_MAX: usize = 20;
const ATTRIBUTE_NAME_MAX: usize = 40;
const ATTRIBUTE_VALUE_MAX: usize = 200;
/// Minor units: a million in the currency. Far from where sums of a cart could overflow.
const PRICE_MAX: i64 = 100_000_000;
/// Those with two decimals.
const CURRENCIES: [&str; 4] = ["CHF", "EUR", "GBP", "USD"];

/// A product as clients see it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Product {
    pub(crate) id: String,
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) category: String,
    pub(crate) brand: String,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Minor units.
    pub(crate) price: i64,
    pub(crate) currency: String,
    /// Path of the image, from the root of the shop.
    pub(crate) image: String,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    pub(crate) version: i64,
}

/// A product as it is written by an administrator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) category: String,
    pub(crate) brand: String,
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) price: i64,
    pub(crate) currency: String,
}

/// How a write on a product ended.
#[derive(Debug)]
pub(crate) enum Written {
    Done(Box<Product>),
    NotFound,
    /// It is of another version than the caller has seen.
    Stale,
    UnknownCategory,
}

/// Columns of a product in the order that [`from_row`] reads.
pub(crate) const COLUMNS: &str = "id, slug, name, description, category, brand, attributes, price, currency, \
                           created_at, updated_at, version";

impl Draft {
    /// Says what is wrong with it, the first thing only.
    ///
    /// # Errors
    /// 422 that names the field.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        check_text("name", &self.name, 1, NAME_MAX)?;
        check_text("brand", &self.brand, 1, BRAND_MAX)?;
        check_text("description", &self.description, 0, DESCRIPTION_MAX)?;
        if self.attributes.len() > ATTRIBUTES_MAX {
            return Err(invalid("attributes", format!("there are more than {ATTRIBUTES_MAX}")));
        }
        for (name, value) in &self.attributes {
            check_text("attributes", name, 1, ATTRIBUTE_NAME_MAX)?;
            check_text("attributes", value, 0, ATTRIBUTE_VALUE_MAX)?;
        }
        if !(0..=PRICE_MAX).contains(&self.price) {
            return Err(invalid("price", format!("it must be from 0 to {PRICE_MAX}, in minor units")));
        }
        if !CURRENCIES.contains(&self.currency.as_str()) {
            return Err(invalid("currency", format!("it must be one of {}", CURRENCIES.join(", "))));
        }
        Ok(())
    }

    fn attributes_json(&self) -> rusqlite::Result<String> {
        serde_json::to_string(&self.attributes).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }

    fn search(&self) -> String {
        let attributes: Vec<&str> = self.attributes.values().map(String::as_str).collect();
        format!("{} {} {} {}", self.name, self.brand, self.category, attributes.join(" ")).to_lowercase()
    }
}

/// A 422 that names a field.
fn invalid(field: &str, reason: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("field {field}: {reason}")).parameter(field)
}

/// A 422 for a category that does not exist.
pub(crate) fn unknown_category() -> Problem {
    invalid("category", "there is no such category, or it has categories of its own")
}

fn check_text(field: &str, text: &str, min: usize, max: usize) -> Result<(), Problem> {
    let length = text.chars().count();
    if text.trim().len() < min || length > max {
        return Err(invalid(field, format_args!("it must have from {min} to {max} characters")));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(invalid(field, "it must not have control characters"));
    }
    Ok(())
}

/// Reads [`COLUMNS`].
pub(crate) fn from_row(row: &Row<'_>) -> rusqlite::Result<Product> {
    let attributes: String = row.get(6)?;
    let attributes = serde_json::from_str(&attributes)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Text, error.into()))?;
    let (slug, version): (String, i64) = (row.get(1)?, row.get(11)?);
    Ok(Product {
        id: row.get(0)?,
        // A changed product has another address, so that a cached image is never a wrong one.
        image: format!("/images/{slug}.svg?v={version}"),
        slug,
        name: row.get(2)?,
        description: row.get(3)?,
        category: row.get(4)?,
        brand: row.get(5)?,
        attributes,
        price: row.get(7)?,
        currency: row.get(8)?,
        created_at: row.get(9)?,
        updated_at: row.get(10)?,
        version,
    })
}

/// Loads a product by its id or its slug.
///
/// # Errors
/// When the statement fails.
pub(crate) fn load(connection: &Connection, key: &str) -> rusqlite::Result<Option<Product>> {
    let sql = format!("SELECT {COLUMNS} FROM products WHERE id = ?1 OR slug = ?1 LIMIT 1");
    connection.prepare_cached(&sql)?.query_row([key], from_row).optional()
}

/// Loads the products with these ids, in the order asked for. Unknown ids are left out.
///
/// # Errors
/// When a statement fails.
pub(crate) fn load_many(connection: &Connection, ids: &[String]) -> rusqlite::Result<Vec<Product>> {
    let mut products = Vec::with_capacity(ids.len());
    for id in ids {
        products.extend(load(connection, id)?);
    }
    Ok(products)
}

/// Puts a product in whose category is known to exist, and tells of it.
///
/// # Errors
/// When a statement fails.
pub(crate) fn insert(
    transaction: &Transaction<'_>,
    id: &str,
    draft: &Draft,
    created_at: &str,
) -> rusqlite::Result<Written> {
    let sql = "INSERT INTO products (id, slug, name, description, category, brand, attributes, price, currency, \
               created_at, updated_at, search) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, ?11)";
    transaction.prepare_cached(sql)?.execute(params![
        id,
        slug(&draft.name, id),
        draft.name,
        draft.description,
        draft.category,
        draft.brand,
        draft.attributes_json()?,
        draft.price,
        draft.currency,
        created_at,
        draft.search(),
    ])?;
    written(transaction, id, "catalog.product.created")
}

/// Creates a product with an id of its own.
///
/// # Errors
/// When a statement fails.
pub(crate) fn create(transaction: &Transaction<'_>, draft: &Draft) -> rusqlite::Result<Written> {
    if !is_leaf(transaction, &draft.category)? {
        return Ok(Written::UnknownCategory);
    }
    let sql = "SELECT 'p' || lower(hex(randomblob(6))), strftime('%Y-%m-%dT%H:%M:%SZ')";
    let (id, now): (String, String) = transaction.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    insert(transaction, &id, draft, &now)
}

/// Replaces a product, if it is still of a version that the caller has seen. Its id and slug stay.
///
/// # Errors
/// When a statement fails.
pub(crate) fn replace(
    transaction: &Transaction<'_>,
    key: &str,
    condition: &Condition,
    draft: &Draft,
) -> rusqlite::Result<Written> {
    let Some(old) = load(transaction, key)? else {
        return Ok(Written::NotFound);
    };
    if !condition.holds_for(old.version) {
        return Ok(Written::Stale);
    }
    if !is_leaf(transaction, &draft.category)? {
        return Ok(Written::UnknownCategory);
    }
    let sql = "UPDATE products SET name = ?2, description = ?3, category = ?4, brand = ?5, attributes = ?6, price = ?7, \
               currency = ?8, search = ?9, updated_at = strftime('%Y-%m-%dT%H:%M:%SZ'), version = version + 1 \
               WHERE id = ?1";
    transaction.prepare_cached(sql)?.execute(params![
        old.id,
        draft.name,
        draft.description,
        draft.category,
        draft.brand,
        draft.attributes_json()?,
        draft.price,
        draft.currency,
        draft.search(),
    ])?;
    written(transaction, &old.id, "catalog.product.changed")
}

/// Deletes a product, if it is still of a version that the caller has seen; gives what it was.
///
/// # Errors
/// When a statement fails.
pub(crate) fn delete(transaction: &Transaction<'_>, key: &str, condition: &Condition) -> rusqlite::Result<Written> {
    let Some(old) = load(transaction, key)? else {
        return Ok(Written::NotFound);
    };
    if !condition.holds_for(old.version) {
        return Ok(Written::Stale);
    }
    transaction.execute("DELETE FROM products WHERE id = ?1", [&old.id])?;
    outbox::publish(transaction, "catalog.product.removed", &old.id, &old)?;
    Ok(Written::Done(Box::new(old)))
}

/// The product as it is now, of which others are told with the same transaction.
fn written(transaction: &Transaction<'_>, id: &str, topic: &str) -> rusqlite::Result<Written> {
    let Some(product) = load(transaction, id)? else {
        return Ok(Written::NotFound);
    };
    outbox::publish(transaction, topic, id, &product)?;
    Ok(Written::Done(Box::new(product)))
}

/// Products are in categories that have none below them.
fn is_leaf(connection: &Connection, category: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM categories WHERE slug = ?1) \
               AND NOT EXISTS (SELECT 1 FROM categories WHERE parent = ?1)";
    connection.prepare_cached(sql)?.query_row([category], |row| row.get(0))
}

/// A readable address that is nobody else's: the words of the name, and the end of the id.
fn slug(name: &str, id: &str) -> String {
    let mut slug = String::with_capacity(name.len() + 6);
    for c in name.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    let tail = id.len().saturating_sub(6);
    format!("{}-{}", slug.trim_end_matches('-'), &id[tail..]).trim_start_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_made_of_words_and_the_end_of_the_id() {
        assert_eq!(slug("Luma Desk Lamp, Sage", "p00000abc123"), "luma-desk-lamp-sage-abc123");
        assert_eq!(slug("Été  — 100 %", "p00000abc123"), "t-100-abc123");
        assert_eq!(slug("茶", "p00000abc123"), "abc123");
    }

    #[test]
    fn a_wrong_field_is_named() {
        let good = Draft {
            name: "Mug".to_owned(),
            description: String::new(),
            category: "mugs".to_owned(),
            brand: "Kiln Street".to_owned(),
            attributes: BTreeMap::new(),
            price: 1990,
            currency: "EUR".to_owned(),
        };
        assert_eq!(good.check(), Ok(()));
        let bad = [
            ("name", Draft { name: " ".to_owned(), ..good.clone() }),
            ("name", Draft { name: "x".repeat(NAME_MAX + 1), ..good.clone() }),
            ("name", Draft { name: "a\0b".to_owned(), ..good.clone() }),
            ("price", Draft { price: -1, ..good.clone() }),
            ("price", Draft { price: i64::MAX, ..good.clone() }),
            ("currency", Draft { currency: "eur".to_owned(), ..good.clone() }),
        ];
        for (field, draft) in bad {
            let problem = draft.check().unwrap_err();
            assert!(format!("{problem:?}").contains(&format!("Some({field:?})")), "{problem:?}");
        }
    }
}
