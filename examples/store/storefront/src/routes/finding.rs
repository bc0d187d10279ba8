//! The page of what was searched for. While the search is away it shows the catalog's own list, and says so quietly.

use std::collections::HashMap;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use store_kit::client::escape;
use store_kit::log;

use super::{ORDERS, PAGE_MAX, Parameters, QUERY_MAX, Shop, show};
use crate::catalog::Category;
use crate::failure::Failure;
use crate::money;
use crate::pages::{Card, Choice, Facet, Frame, PAGE_SIZE, Pages, Products};
use crate::search::{Band, Found};

const BEST: (&str, &str) = ("relevance", "Best match");
/// What prices are shown in, as the search counts them in one currency.
const CURRENCY: &str = "EUR";

/// What is asked for, in words that are safe to put into an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    text: String,
    category: Option<String>,
    min_price: Option<i64>,
    max_price: Option<i64>,
    sort: &'static str,
    page: usize,
}

/// What there is to show.
#[derive(Debug, Default)]
struct Shown {
    items: Vec<Card>,
    total: usize,
    facets: Vec<Facet>,
    notes: Vec<String>,
}

pub(super) async fn search(State(shop): State<Shop>, Query(query): Parameters, headers: HeaderMap) -> Response {
    let asked = Asked::of(&query);
    let (count, categories, shown) = tokio::join!(shop.count(&headers), shop.categories(), shop.find(&asked));
    let mut shown = match shown {
        Ok(shown) => shown,
        Err(failure) => return shop.notice(failure, count).await,
    };
    name_categories(&mut shown.facets, &categories);
    let heading = if asked.text.is_empty() { "Search".to_owned() } else { format!("“{}”", asked.text) };
    let description = match (asked.text.is_empty(), shown.total) {
        (true, _) => "Type a name, a colour or a material above.",
        (false, 0) => "Nothing in the shop goes by that. Fewer or simpler words may help.",
        (false, _) => "",
    };
    show(&Products {
        frame: Frame { query: asked.text.clone(), ..Frame::new("Search", &categories, count) },
        heading,
        description: description.to_owned(),
        trail: Vec::new(),
        related: Vec::new(),
        notes: shown.notes,
        facets: shown.facets,
        items: shown.items,
        total: shown.total,
        orders: asked.orders(),
        pages: Pages::new(shown.total, asked.page, |page| Asked { page, ..asked.clone() }.href()),
    })
}

impl Shop {
    async fn find(&self, asked: &Asked) -> Result<Shown, Failure> {
        if asked.text.is_empty() {
            return Ok(Shown::default());
        }
        let mut parameters = asked.pairs();
        parameters.push(("limit", PAGE_SIZE.to_string()));
        match self.search.find(&parameters).await {
            Ok(found) if found.items.is_empty() && asked.page > 1 => Err(Failure::NotFound),
            Ok(found) => Ok(asked.shown(&found)),
            Err(error) => {
                log::error("the catalog's own list is shown", &error);
                self.list_plainly(asked, parameters).await
            }
        }
    }

    /// The catalog takes the same parameters, and finds words as they are written.
    async fn list_plainly(&self, asked: &Asked, mut parameters: Vec<(&str, String)>) -> Result<Shown, Failure> {
        parameters.retain(|(name, value)| *name != "sort" || value != BEST.0);
        let parameters: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let listing = self.catalog.list(&parameters).await?;
        if listing.items.is_empty() && asked.page > 1 {
            return Err(Failure::NotFound);
        }
        let notes =
            vec!["Our search is resting for a moment: this is a plain list, of words as they are written.".to_owned()];
        Ok(Shown { items: Card::all(&listing), total: listing.total, facets: Vec::new(), notes })
    }
}

impl Asked {
    /// Reads a query. What makes no sense is left out: a reader is not helped by an error.
    fn of(query: &HashMap<String, String>) -> Self {
        let text = |name: &str| -> String {
            let text = query.get(name).map_or("", |text| text.trim());
            text.chars().filter(|c| !c.is_control()).take(QUERY_MAX).collect()
        };
        let number = |name: &str| query.get(name).and_then(|text| text.parse().ok()).filter(|number| *number >= 0);
        let (min_price, max_price) = (number("min_price"), number("max_price"));
        let is_range = min_price.unwrap_or_default() <= max_price.unwrap_or(i64::MAX);
        let sort = query.get("sort").and_then(|sort| ORDERS.iter().find(|(name, _)| name == sort));
        let page = query.get("page").and_then(|page| page.parse().ok()).filter(|page| (1..=PAGE_MAX).contains(page));
        Self {
            text: text("q"),
            category: Some(text("category")).filter(|category| !category.is_empty()),
            min_price: min_price.filter(|_| is_range),
            max_price: max_price.filter(|_| is_range),
            sort: sort.map_or(BEST.0, |(name, _)| name),
            page: page.unwrap_or(1),
        }
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![("q", self.text.clone()), ("sort", self.sort.to_owned()), ("page", self.page.to_string())];
        pairs.extend(self.category.clone().map(|category| ("category", category)));
        pairs.extend(self.min_price.map(|price| ("min_price", price.to_string())));
        pairs.extend(self.max_price.map(|price| ("max_price", price.to_string())));
        pairs
    }

    fn href(&self) -> String {
        let pairs: Vec<String> = self.pairs().iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
        format!("/search?{}", pairs.join("&"))
    }

    fn orders(&self) -> Vec<Choice> {
        let choice = |(sort, label): (&'static str, &str)| Choice {
            label: label.to_owned(),
            href: Self { sort, page: 1, ..self.clone() }.href(),
            is_current: sort == self.sort,
        };
        [BEST].into_iter().chain(ORDERS).map(choice).collect()
    }

    fn shown(&self, found: &Found) -> Shown {
        let mut notes = Vec::new();
        notes.extend(found.corrected.as_ref().map(|corrected| format!("Showing what there is for “{corrected}”.")));
        if found.relaxed && found.total > 0 {
            notes.push("Nothing has all of these words; this has some of them.".to_owned());
        }
        let facets = [self.category_facet(found), self.price_facet(found)];
        Shown {
            items: found.items.iter().map(Card::from).collect(),
            total: found.total,
            facets: facets.into_iter().filter(|facet| facet.choices.len() > 1).collect(),
            notes,
        }
    }

    /// To choose what is chosen already takes the choice back.
    fn category_facet(&self, found: &Found) -> Facet {
        let choices = found.facets.category.iter().map(|category| {
            let is_current = self.category.as_ref() == Some(&category.value);
            let chosen = (!is_current).then(|| category.value.clone());
            let href = Self { category: chosen, page: 1, ..self.clone() }.href();
            (Choice { label: category.value.clone(), href, is_current }, category.count)
        });
        Facet { label: "Category", choices: choices.collect() }
    }

    fn price_facet(&self, found: &Found) -> Facet {
        let choices = found.facets.price.iter().map(|band| {
            let is_current = self.min_price == Some(band.min) && self.max_price == band.max;
            let (min_price, max_price) = if is_current { (None, None) } else { (Some(band.min), band.max) };
            let href = Self { min_price, max_price, page: 1, ..self.clone() }.href();
            (Choice { label: band_label(band), href, is_current }, band.count)
        });
        Facet { label: "Price", choices: choices.collect() }
    }
}

fn band_label(band: &Band) -> String {
    let price = |minor: i64| money::format(minor, CURRENCY).trim_end_matches(".00").to_owned();
    match band.max {
        Some(max) if band.min == 0 => format!("under {}", price(max + 1)),
        Some(max) => format!("{} to {}", price(band.min), price(max + 1)),
        None => format!("{} and more", price(band.min)),
    }
}

/// Categories come as slugs.
fn name_categories(facets: &mut [Facet], categories: &[Category]) {
    for (choice, _) in facets.iter_mut().flat_map(|facet| &mut facet.choices) {
        if let Some(category) = categories.iter().find(|category| category.slug == choice.label) {
            choice.label.clone_from(&category.name);
        }
    }
}
