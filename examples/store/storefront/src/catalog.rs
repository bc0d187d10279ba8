//! What the pages want to know of the catalog.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use store_kit::client::{self, escape};
use store_kit::{Client, log};

/// How long categories are taken as known. Older ones still serve while the catalog is away.
const FRESH: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Deserialize)]
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
    pub(crate) image: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Category {
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) parent: Option<String>,
    pub(crate) count: u64,
    pub(crate) image: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Listing {
    pub(crate) items: Vec<Product>,
    pub(crate) total: usize,
}

#[derive(Debug, Deserialize)]
struct Categories {
    items: Vec<Category>,
}

type Known = Option<(Instant, Arc<[Category]>)>;

/// Asks the catalog. Clones share what is known of the categories.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    client: Client,
    known: Arc<Mutex<Known>>,
}

impl Catalog {
    pub(crate) fn new(address: &Uri) -> Self {
        Self { client: Client::new("catalog", address), known: Arc::default() }
    }

    /// All categories, in the order of the shop. They are part of every page, and so are kept for a while; when the catalog
    /// is away, those of before are better than none.
    pub(crate) async fn categories(&self) -> Result<Arc<[Category]>, client::Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, categories)) = &known
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(categories));
        }
        let answer = self.client.get("/categories").await.and_then(|answer| answer.json());
        match (answer, known) {
            (Ok(Categories { items }), _) => {
                let categories: Arc<[Category]> = items.into();
                let known = Some((Instant::now(), Arc::clone(&categories)));
                *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
                Ok(categories)
            }
            (Err(error), Some((_, categories))) => {
                log::error("categories of before are shown", &error);
                Ok(categories)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// A page of products; the pairs are parameters of the catalog's list.
    pub(crate) async fn list(&self, parameters: &[(&str, &str)]) -> Result<Listing, client::Error> {
        let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
        self.client.get(&format!("/products?{}", pairs.join("&"))).await?.json()
    }

    /// One product by slug or id; `None` when there is none.
    pub(crate) async fn fetch(&self, key: &str) -> Result<Option<Product>, client::Error> {
        let answer = self.client.get(&format!("/products/{}", escape(key))).await?;
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST) {
            return Ok(None);
        }
        answer.json().map(Some)
    }
}
