//! What the pages want of the carts. A cart that is gone is `None`, never an error.

use axum::http::{Method, StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;
use store_kit::client::{self, Answer, escape};
use store_kit::{Client, log};

pub(crate) const QUANTITY_MAX: i64 = 99;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Cart {
    pub(crate) items: Vec<Item>,
    pub(crate) count: i64,
    /// Minor units.
    pub(crate) subtotal: i64,
    pub(crate) currency: Option<String>,
    pub(crate) prices_checked: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Item {
    pub(crate) product_id: String,
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) quantity: i64,
    pub(crate) price: i64,
    pub(crate) total: i64,
    pub(crate) current_price: Option<i64>,
    pub(crate) current_currency: Option<String>,
    pub(crate) price_changed: bool,
    pub(crate) available: bool,
}

#[derive(Debug, Deserialize)]
struct Count {
    count: i64,
}

/// How a change of a cart ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    Done,
    NoSuchCart,
    /// The cart cannot take it: the product is gone, or the cart is full.
    Refused,
}

/// Asks the service that keeps the carts.
#[derive(Clone, Debug)]
pub(crate) struct Carts(Client);

impl Carts {
    pub(crate) fn new(address: &Uri) -> Self {
        Self(Client::new("cart", address))
    }

    /// Makes a cart under the id of a visitor, unless there is one.
    pub(crate) async fn create(&self, id: &str) -> Result<(), client::Error> {
        self.0.send_json(Method::POST, "/carts", &json!({ "id": id })).await?.success()
    }

    pub(crate) async fn fetch(&self, id: &str) -> Result<Option<Cart>, client::Error> {
        let answer = self.0.get(&format!("/carts/{}", escape(id))).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer.json().map(Some)
    }

    /// How many pieces are in a visitor's cart; `None` when that cannot be said, for which no page should fail.
    pub(crate) async fn count(&self, id: Option<&str>) -> Option<i64> {
        let Some(id) = id else { return Some(0) };
        let answer = self.0.get(&format!("/carts/{}/count", escape(id))).await;
        let counted = answer.and_then(|answer| match answer.status {
            StatusCode::NOT_FOUND => Ok(Count { count: 0 }),
            _ => answer.json(),
        });
        match counted {
            Ok(Count { count }) => Some(count),
            Err(error) => {
                log::error("a page is shown without the cart", &error);
                None
            }
        }
    }

    /// Adds to what is there, which only the service itself can do without losing somebody else's addition.
    pub(crate) async fn add(&self, id: &str, product: &str, quantity: i64) -> Result<Changed, client::Error> {
        let body = json!({ "product_id": product, "quantity": quantity });
        outcome(&self.0.send_json(Method::POST, &format!("/carts/{}/items", escape(id)), &body).await?)
    }

    pub(crate) async fn set(&self, id: &str, product: &str, quantity: i64) -> Result<Changed, client::Error> {
        let path = format!("/carts/{}/items/{}", escape(id), escape(product));
        outcome(&self.0.send_json(Method::PUT, &path, &json!({ "quantity": quantity })).await?)
    }

    /// Takes a product out; one that is not there is out already.
    pub(crate) async fn remove(&self, id: &str, product: &str) -> Result<Changed, client::Error> {
        let answer =
            self.0.send(Method::DELETE, &format!("/carts/{}/items/{}", escape(id), escape(product)), "".into()).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(Changed::Done) } else { outcome(&answer) }
    }
}

fn outcome(answer: &Answer) -> Result<Changed, client::Error> {
    match answer.status {
        StatusCode::NOT_FOUND => Ok(Changed::NoSuchCart),
        status if status.is_client_error() => Ok(Changed::Refused),
        _ => Ok(Changed::Done),
    }
}
