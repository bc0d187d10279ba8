//! What goes with a product. No page needs it: when it cannot be asked, there is nothing.

use axum::http::Uri;
use serde::Deserialize;
use store_kit::client::{self, escape};
use store_kit::{Client, log};

#[derive(Debug, Deserialize)]
struct Recommended {
    items: Vec<Item>,
}

/// A product's id, alone or with more about it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Item {
    Id(String),
    Reasoned { product: String },
}

/// Asks the recommendations.
#[derive(Clone, Debug)]
pub(crate) struct Recommendations(Client);

impl Recommendations {
    pub(crate) fn new(address: &Uri) -> Self {
        Self(Client::new("recommendation", address))
    }

    /// Ids of products that go with this one for this visitor, at most `max`, the best first.
    pub(crate) async fn of(&self, product: &str, session: &str, max: usize) -> Vec<String> {
        let path = format!("/recommendations/{}?session={}&n={max}", escape(product), escape(session));
        match self.fetch(&path).await {
            Ok(Recommended { items }) => items.into_iter().map(Item::id).filter(|id| id != product).take(max).collect(),
            Err(error) => {
                log::error("a page is shown without recommendations", &error);
                Vec::new()
            }
        }
    }

    async fn fetch(&self, path: &str) -> Result<Recommended, client::Error> {
        self.0.get(path).await?.json()
    }
}

impl Item {
    fn id(self) -> String {
        match self {
            Self::Id(id) | Self::Reasoned { product: id } => id,
        }
    }
}
