//! Lists of products: which filters there are, how they are read from a query, and the statement they become.

use axum::http::StatusCode;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use serde::Serialize;
use store_kit::Problem;
use store_kit::client::escape;
use store_kit::query::Query;

use crate::product::{self, COLUMNS, Product};

const LIMIT: usize = 24;
const LIMIT_MAX: usize = 100;
const PAGE_MAX: usize = 100_000;
const IDS_MAX: usize = 100;
const TEXT_MAX: usize = 100;
/// Words of a search beyond these are not looked at.
const WORDS_MAX: usize = 8;

/// One page of products.
#[derive(Debug, Serialize)]
pub(crate) struct Listing {
    pub(crate) items: Vec<Product>,
    /// On all pages.
    pub(crate) total: usize,
    /// Reference to the next page, relative to the address of this one (RFC 3986 §5.2), so that it is right behind any
    /// prefix of a gateway.
    pub(crate) next: Option<String>,
}

/// What to list.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// The products with these ids or slugs, in this order.
    Ids(Vec<String>),
    Page(Box<Filter>),
}

/// Conditions that must all hold, an order, and a place in it.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    category: Option<String>,
    brand: Option<String>,
    min_price: Option<i64>,
    max_price: Option<i64>,
    text: Option<String>,
    sort: Sort,
    limit: usize,
    page: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    #[default]
    Newest,
    Name,
    Cheapest,
    Dearest,
}

const SORTS: [(&str, Sort); 4] =
    [("newest", Sort::Newest), ("name", Sort::Name), ("price", Sort::Cheapest), ("-price", Sort::Dearest)];

impl Wanted {
    /// Reads a query.
    ///
    /// # Errors
    /// 400 that names the parameter at fault.
    pub(crate) fn parse(mut query: Query) -> Result<Self, Problem> {
        if let Some(ids) = query.text("ids", 8192)? {
            query.finish()?;
            let ids: Vec<String> = ids.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
            if ids.len() > IDS_MAX {
                return Err(invalid("ids", format!("there are more than {IDS_MAX}")));
            }
            return Ok(Self::Ids(ids));
        }
        let filter = Filter {
            category: query.text("category", TEXT_MAX)?,
            brand: query.text("brand", TEXT_MAX)?,
            min_price: query.number("min_price", 0..=i64::MAX)?,
            max_price: query.number("max_price", 0..=i64::MAX)?,
            text: query.text("q", TEXT_MAX)?,
            sort: query.choice("sort", &SORTS)?.unwrap_or_default(),
            limit: query.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT),
            page: query.number("page", 1..=PAGE_MAX)?.unwrap_or(1),
        };
        query.finish()?;
        if let (Some(min), Some(max)) = (filter.min_price, filter.max_price)
            && min > max
        {
            return Err(invalid("min_price", "it is above max_price"));
        }
        Ok(Self::Page(Box::new(filter)))
    }

    /// Loads what is wanted; `None` when the category does not exist.
    ///
    /// # Errors
    /// When a statement fails.
    pub(crate) fn load(&self, connection: &Connection) -> rusqlite::Result<Option<Listing>> {
        match self {
            Self::Ids(ids) => {
                let items = product::load_many(connection, ids)?;
                Ok(Some(Listing { total: items.len(), items, next: None }))
            }
            Self::Page(filter) => filter.load(connection),
        }
    }
}

impl Filter {
    fn load(&self, connection: &Connection) -> rusqlite::Result<Option<Listing>> {
        if let Some(category) = &self.category {
            let mut exists = connection.prepare_cached("SELECT 1 FROM categories WHERE slug = ?1")?;
            if exists.query_row([category], |_| Ok(())).optional()?.is_none() {
                return Ok(None);
            }
        }
        let (conditions, values) = self.conditions();
        let sql = format!("SELECT count(*) FROM products WHERE {conditions}");
        let total =
            connection.prepare_cached(&sql)?.query_row(params_from_iter(&values), |row| row.get::<_, u32>(0))? as usize;
        let offset = (self.page - 1) * self.limit;
        let order = match self.sort {
            Sort::Newest => "created_at DESC, id DESC",
            Sort::Name => "name, id",
            Sort::Cheapest => "price, id",
            Sort::Dearest => "price DESC, id DESC",
        };
        let limit = self.limit;
        let sql =
            format!("SELECT {COLUMNS} FROM products WHERE {conditions} ORDER BY {order} LIMIT {limit} OFFSET {offset}");
        let mut statement = connection.prepare(&sql)?;
        let items =
            statement.query_map(params_from_iter(&values), product::from_row)?.collect::<rusqlite::Result<Vec<_>>>()?;
        let next = (offset + items.len() < total && !items.is_empty()).then(|| self.reference(self.page + 1));
        Ok(Some(Listing { items, total, next }))
    }

    /// The conditions as SQL with `?`, and the values for them. No text of a client becomes part of the SQL.
    fn conditions(&self) -> (String, Vec<Value>) {
        let mut parts = vec!["true"];
        let mut values: Vec<Value> = Vec::new();
        if let Some(category) = &self.category {
            parts.push("category IN (SELECT slug FROM categories WHERE slug = ? OR parent = ?)");
            values.push(category.clone().into());
            values.push(category.clone().into());
        }
        if let Some(brand) = &self.brand {
            parts.push("brand = ?");
            values.push(brand.clone().into());
        }
        if let Some(price) = self.min_price {
            parts.push("price >= ?");
            values.push(price.into());
        }
        if let Some(price) = self.max_price {
            parts.push("price <= ?");
            values.push(price.into());
        }
        for word in self.text.iter().flat_map(|text| text.split_whitespace()).take(WORDS_MAX) {
            parts.push(r"search LIKE ? ESCAPE '\'");
            values.push(pattern(word).into());
        }
        (parts.join(" AND "), values)
    }

    /// The query of another page.
    fn reference(&self, page: usize) -> String {
        let mut pairs = vec![("limit", self.limit.to_string()), ("page", page.to_string())];
        pairs.extend(SORTS.iter().find(|(_, sort)| *sort == self.sort).map(|(name, _)| ("sort", (*name).to_owned())));
        pairs.extend(self.category.clone().map(|category| ("category", category)));
        pairs.extend(self.brand.clone().map(|brand| ("brand", brand)));
        pairs.extend(self.min_price.map(|price| ("min_price", price.to_string())));
        pairs.extend(self.max_price.map(|price| ("max_price", price.to_string())));
        pairs.extend(self.text.clone().map(|text| ("q", text)));
        let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
        format!("?{}", pairs.join("&"))
    }
}

/// Anything with this word in it, whatever characters it has.
fn pattern(word: &str) -> String {
    let word = word.to_lowercase().replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    format!("%{word}%")
}

/// A 400 that names a parameter.
pub(crate) fn invalid(name: &str, reason: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("parameter {name}: {reason}")).parameter(name)
}
