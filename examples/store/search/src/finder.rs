//! Finding: which products match, in which order, how many of each kind there are, and the page that was asked for.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use store_kit::Problem;
use store_kit::client::escape;
use store_kit::query::Query;

use crate::mark::{self, BEGIN, END};
use crate::question::Question;

const LIMIT: usize = 24;
const LIMIT_MAX: usize = 100;
const PAGE_MAX: usize = 100_000;
const TEXT_MAX: usize = 100;
/// Products that are counted and sorted; of more, the best ones.
const MATCHES_MAX: usize = 20_000;
/// Words of a description around what was found.
const EXCERPT_WORDS: usize = 18;
/// How much a word counts for in name, category, brand, attributes and description.
const WEIGHTS: &str = "12.0, 8.0, 4.0, 5.0, 1.0";
/// Upper ends of the price bands, in minor units, exclusive; above the last is one more.
const BANDS: [i64; 4] = [2_500, 5_000, 10_000, 25_000];

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    text: String,
    category: Option<String>,
    min_price: Option<i64>,
    max_price: Option<i64>,
    is_available: Option<bool>,
    sort: Sort,
    limit: usize,
    page: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    /// The best first; without words, the newest.
    #[default]
    Relevance,
    Newest,
    Name,
    Cheapest,
    Dearest,
}

const SORTS: [(&str, Sort); 5] = [
    ("relevance", Sort::Relevance),
    ("newest", Sort::Newest),
    ("name", Sort::Name),
    ("price", Sort::Cheapest),
    ("-price", Sort::Dearest),
];

/// One page of what was found.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) items: Vec<Item>,
    /// On all pages.
    pub(crate) total: usize,
    /// Reference to the next page, relative to the address of this one (RFC 3986 §5.2).
    pub(crate) next: Option<String>,
    /// What the words were taken for, where one was misspelt.
    pub(crate) corrected: Option<String>,
    /// Words that nothing has.
    pub(crate) ignored: Vec<String>,
    /// Whether nothing has all words, so that these have some.
    pub(crate) relaxed: bool,
    pub(crate) facets: Facets,
}

#[derive(Debug, Serialize)]
pub(crate) struct Item {
    id: String,
    slug: String,
    name: String,
    category: String,
    brand: String,
    /// Minor units.
    price: i64,
    currency: String,
    image: String,
    available: bool,
    marked: Marked,
}

/// HTML, in which nothing but `<mark>` is a tag.
#[derive(Debug, Serialize)]
struct Marked {
    name: String,
    description: String,
}

/// How many products there are of each kind, if only the conditions on the other kinds hold.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Facets {
    category: Vec<Count>,
    price: Vec<Band>,
    available: Availability,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Availability {
    yes: usize,
    no: usize,
}

#[derive(Debug, PartialEq, Serialize)]
struct Count {
    value: String,
    count: usize,
}

/// Prices from `min` to `max`, both inclusive.
#[derive(Debug, PartialEq, Serialize)]
struct Band {
    min: i64,
    max: Option<i64>,
    count: usize,
}

/// A product whose words match.
#[derive(Debug)]
struct Match {
    number: i64,
    category: String,
    price: i64,
    is_available: bool,
}

impl Wanted {
    /// Reads a query.
    ///
    /// # Errors
    /// 400 that names the parameter at fault.
    pub(crate) fn parse(mut query: Query) -> Result<Self, Problem> {
        let wanted = Self {
            text: query.text("q", TEXT_MAX)?.unwrap_or_default(),
            category: query.text("category", TEXT_MAX)?,
            min_price: query.number("min_price", 0..=i64::MAX)?,
            max_price: query.number("max_price", 0..=i64::MAX)?,
            is_available: query.choice("available", &[("true", true), ("false", false)])?,
            sort: query.choice("sort", &SORTS)?.unwrap_or_default(),
            limit: query.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT),
            page: query.number("page", 1..=PAGE_MAX)?.unwrap_or(1),
        };
        query.finish()?;
        if let (Some(min), Some(max)) = (wanted.min_price, wanted.max_price)
            && min > max
        {
            let detail = "parameter min_price: it is above max_price";
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail).parameter("min_price"));
        }
        Ok(wanted)
    }

    /// Finds it.
    ///
    /// # Errors
    /// When a statement fails.
    pub(crate) fn find(&self, connection: &Connection) -> rusqlite::Result<Found> {
        let question = Question::parse(connection, &self.text)?;
        let is_browsing = !self.text.chars().any(char::is_alphanumeric);
        let mut expression = if is_browsing { None } else { Some(question.all.as_str()) };
        let mut matches = self.matches(connection, expression)?;
        let relaxed = matches.is_empty() && question.any != question.all;
        if relaxed {
            expression = Some(question.any.as_str());
            matches = self.matches(connection, expression)?;
        }
        let facets = self.facets(&matches);
        matches.retain(|found| self.has_category(found) && self.has_price(found) && self.has_availability(found));
        let total = matches.len();
        let from = (self.page - 1) * self.limit;
        let numbers: Vec<i64> = matches.iter().skip(from).take(self.limit).map(|found| found.number).collect();
        let items = load_items(connection, &numbers, expression)?;
        let next = (from + items.len() < total && !items.is_empty()).then(|| self.reference(self.page + 1));
        let Question { corrected, ignored, .. } = question;
        Ok(Found { items, total, next, corrected, ignored, relaxed, facets })
    }

    /// What has the words, in order, whatever its kind; without an expression everything has them.
    fn matches(&self, connection: &Connection, expression: Option<&str>) -> rusqlite::Result<Vec<Match>> {
        let (rank, from) = match expression {
            Some("") => return Ok(Vec::new()),
            Some(_) => (
                format!("bm25(texts, {WEIGHTS})"),
                "texts JOIN products p ON p.number = texts.rowid WHERE texts MATCH ?1",
            ),
            None => ("0".to_owned(), "products p WHERE ?1 IS NULL"),
        };
        let order = match (self.sort, expression) {
            (Sort::Relevance, Some(_)) => "score, p.name, p.id",
            (Sort::Relevance, None) | (Sort::Newest, _) => "p.created_at DESC, p.id DESC",
            (Sort::Name, _) => "p.name, p.id",
            (Sort::Cheapest, _) => "p.price, p.id",
            (Sort::Dearest, _) => "p.price DESC, p.id DESC",
        };
        let sql = format!(
            "SELECT p.number, p.category, p.price, p.is_available, {rank} AS score FROM {from} \
             ORDER BY {order} LIMIT {MATCHES_MAX}"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map([expression], |row| {
            Ok(Match { number: row.get(0)?, category: row.get(1)?, price: row.get(2)?, is_available: row.get(3)? })
        })?;
        rows.collect()
    }

    fn has_category(&self, found: &Match) -> bool {
        self.category.as_ref().is_none_or(|category| *category == found.category)
    }

    fn has_price(&self, found: &Match) -> bool {
        self.min_price.is_none_or(|min| found.price >= min) && self.max_price.is_none_or(|max| found.price <= max)
    }

    fn has_availability(&self, found: &Match) -> bool {
        self.is_available.is_none_or(|wanted| wanted == found.is_available)
    }

    fn facets(&self, matches: &[Match]) -> Facets {
        let mut facets = Facets { price: bands(), ..Facets::default() };
        for found in matches {
            let (category, price) = (self.has_category(found), self.has_price(found));
            let availability = self.has_availability(found);
            if price && availability {
                match facets.category.iter_mut().find(|known| known.value == found.category) {
                    Some(known) => known.count += 1,
                    None => facets.category.push(Count { value: found.category.clone(), count: 1 }),
                }
            }
            if category && availability {
                let band = BANDS.iter().position(|end| found.price < *end).unwrap_or(BANDS.len());
                facets.price[band].count += 1;
            }
            if category && price {
                let Availability { yes, no } = &mut facets.available;
                *(if found.is_available { yes } else { no }) += 1;
            }
        }
        facets.category.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        facets.price.retain(|band| band.count > 0);
        facets
    }

    /// The query of another page.
    fn reference(&self, page: usize) -> String {
        let mut pairs = vec![("limit", self.limit.to_string()), ("page", page.to_string())];
        pairs.extend(SORTS.iter().find(|(_, sort)| *sort == self.sort).map(|(name, _)| ("sort", (*name).to_owned())));
        pairs.extend((!self.text.is_empty()).then(|| ("q", self.text.clone())));
        pairs.extend(self.category.clone().map(|category| ("category", category)));
        pairs.extend(self.min_price.map(|price| ("min_price", price.to_string())));
        pairs.extend(self.max_price.map(|price| ("max_price", price.to_string())));
        pairs.extend(self.is_available.map(|available| ("available", available.to_string())));
        let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
        format!("?{}", pairs.join("&"))
    }
}

fn bands() -> Vec<Band> {
    let starts = [0].into_iter().chain(BANDS);
    let ends = BANDS.into_iter().map(|end| Some(end - 1)).chain([None]);
    starts.zip(ends).map(|(min, max)| Band { min, max, count: 0 }).collect()
}

/// Loads products in this order, marked where the expression is found in them.
fn load_items(connection: &Connection, numbers: &[i64], expression: Option<&str>) -> rusqlite::Result<Vec<Item>> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let marked = match expression {
        Some(_) => format!("highlight(texts, 0, ?3, ?4), snippet(texts, 4, ?3, ?4, '…', {EXCERPT_WORDS})"),
        None => "texts.name, texts.description".to_owned(),
    };
    // With the sign before `texts.rowid`, the index is asked once for all that match and not once for each row.
    let matching = expression.map_or("?2 IS NULL AND texts.rowid", |_| "texts MATCH ?2 AND +texts.rowid");
    // The last condition always holds: without marks, their parameters have no other place.
    let sql = format!(
        "SELECT p.number, p.id, p.slug, p.name, p.category, p.brand, p.price, p.currency, p.image, p.is_available, \
         {marked} FROM texts JOIN products p ON p.number = texts.rowid \
         WHERE {matching} IN (SELECT value FROM json_each(?1)) AND ?3 <> ?4"
    );
    let list = numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let values = params![format!("[{list}]"), expression, BEGIN.to_string(), END.to_string()];
    let mut statement = connection.prepare_cached(&sql)?;
    let items = statement.query_map(values, |row| Ok((row.get(0)?, read_item(row)?)))?;
    let mut items = items.collect::<rusqlite::Result<BTreeMap<i64, Item>>>()?;
    Ok(numbers.iter().filter_map(|number| items.remove(number)).collect())
}

fn read_item(row: &Row<'_>) -> rusqlite::Result<Item> {
    let (name, description): (String, String) = (row.get(10)?, row.get(11)?);
    Ok(Item {
        id: row.get(1)?,
        slug: row.get(2)?,
        name: row.get(3)?,
        category: row.get(4)?,
        brand: row.get(5)?,
        price: row.get(6)?,
        currency: row.get(7)?,
        image: row.get(8)?,
        available: row.get(9)?,
        marked: Marked { name: mark::html(&name), description: mark::html(&description) },
    })
}
