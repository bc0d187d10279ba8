//! What a cart wants to know of the catalog, its upstream.

use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use store_kit::client::{self, escape};
use store_kit::{Client, log};

/// The part of a product that a cart keeps.
#[derive(Clone, Debug, Deserialize)]
pub struct Product {
    pub id: String,
    pub slug: String,
    pub name: String,
    pub image: String,
    /// Minor units.
    pub price: i64,
    pub currency: String,
}

#[derive(Debug, Deserialize)]
struct Listing {
    items: Vec<Product>,
}

/// Asks the catalog.
#[derive(Clone, Debug)]
pub struct Catalog(Client);

impl Catalog {
    /// The catalog at this address.
    #[must_use]
    pub fn new(address: &Uri) -> Self {
        Self(Client::new("catalog", address))
    }

    /// Fetches one product; `None` when there is none with this id.
    ///
    /// # Errors
    /// When the catalog does not answer in time, or not with a product.
    pub async fn fetch(&self, id: &str) -> Result<Option<Product>, client::Error> {
        let answer = self.0.get(&format!("/products/{}", escape(id))).await?;
        // The catalog refuses an id that it cannot even read with 400.
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST) {
            return Ok(None);
        }
        // A slug finds its product as well, but a line goes by id.
        answer.json().map(|product: Product| (product.id == id).then_some(product))
    }

    /// Fetches what these products are now; `None` when the catalog cannot say, which no cart should break on.
    pub async fn fetch_now(&self, ids: &[&str]) -> Option<Vec<Product>> {
        if ids.is_empty() {
            return Some(Vec::new());
        }
        let ids: Vec<String> = ids.iter().map(|id| escape(id)).collect();
        let answer = self.0.get(&format!("/products?ids={}", ids.join(","))).await;
        match answer.and_then(|answer| answer.json()) {
            Ok(Listing { items }) => Some(items),
            Err(error) => {
                log::error("prices are not compared", &error);
                None
            }
        }
    }
}
