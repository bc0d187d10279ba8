//! What the pages want of the search.

use axum::http::Uri;
use serde::Deserialize;
use store_kit::Client;
use store_kit::client::{self, escape};

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Found {
    pub(crate) items: Vec<Item>,
    pub(crate) total: usize,
    /// What misspelt words were taken for.
    pub(crate) corrected: Option<String>,
    /// Whether nothing has all words.
    pub(crate) relaxed: bool,
    pub(crate) facets: Facets,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Item {
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) brand: String,
    /// Minor units.
    pub(crate) price: i64,
    pub(crate) currency: String,
    pub(crate) image: String,
    pub(crate) marked: Marked,
}

/// HTML in which `<mark>` is the only tag.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Marked {
    pub(crate) name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Facets {
    pub(crate) category: Vec<Count>,
    pub(crate) price: Vec<Band>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Count {
    pub(crate) value: String,
    pub(crate) count: usize,
}

/// Prices from `min` to `max`, in minor units, both inclusive.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Band {
    pub(crate) min: i64,
    pub(crate) max: Option<i64>,
    pub(crate) count: usize,
}

/// Asks the search.
#[derive(Clone, Debug)]
pub(crate) struct Search(Client);

impl Search {
    pub(crate) fn new(address: &Uri) -> Self {
        Self(Client::new("search", address))
    }

    pub(crate) async fn find(&self, parameters: &[(&str, String)]) -> Result<Found, client::Error> {
        let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
        self.0.get(&format!("/search?{}", pairs.join("&"))).await?.json()
    }
}
