//! A cart as clients see it: its lines beside what the catalog says of them now. Pure.

use serde::Serialize;

use crate::catalog::Product;
use crate::rows::Line;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct View {
    id: String,
    items: Vec<Item>,
    /// Pieces, over all lines.
    count: i64,
    /// Minor units, at the prices that were seen.
    subtotal: i64,
    /// Of every line; `null` while the cart is empty.
    currency: Option<String>,
    /// Whether the catalog was there to compare the prices with.
    prices_checked: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Item {
    product_id: String,
    slug: String,
    name: String,
    image: String,
    quantity: i64,
    /// Minor units, when the quantity was last set.
    price: i64,
    total: i64,
    /// `null` when the catalog could not be asked, or has the product no more.
    current_price: Option<i64>,
    /// Of the current price: it may have changed as well.
    current_currency: Option<String>,
    price_changed: bool,
    /// `false` when the catalog has the product no more.
    available: bool,
}

impl View {
    /// `now` is what the catalog has of the products; `None` when it could not be asked.
    pub(crate) fn new(id: &str, lines: &[Line], now: Option<&[Product]>) -> Self {
        let items: Vec<Item> = lines.iter().map(|line| Item::new(line, now)).collect();
        Self {
            id: id.to_owned(),
            count: items.iter().map(|item| item.quantity).sum(),
            subtotal: items.iter().map(|item| item.total).sum(),
            currency: lines.first().map(|line| line.product.currency.clone()),
            prices_checked: now.is_some(),
            items,
        }
    }
}

impl Item {
    fn new(Line { product, quantity }: &Line, now: Option<&[Product]>) -> Self {
        let current = now.and_then(|products| products.iter().find(|current| current.id == product.id));
        let is_changed = |now: &Product| now.price != product.price || now.currency != product.currency;
        Self {
            product_id: product.id.clone(),
            slug: product.slug.clone(),
            name: product.name.clone(),
            image: product.image.clone(),
            quantity: *quantity,
            price: product.price,
            // Limit: 99 pieces of at most 10^8 in 100 lines are far below 2^63.
            total: product.price * quantity,
            current_price: current.map(|now| now.price),
            current_currency: current.map(|now| now.currency.clone()),
            price_changed: current.is_some_and(is_changed),
            available: now.is_none() || current.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(id: &str, price: i64) -> Product {
        let text = || id.to_owned();
        Product { id: text(), slug: text(), name: text(), image: text(), price, currency: "EUR".to_owned() }
    }

    fn lines() -> [Line; 3] {
        [("same", 2), ("dearer", 1), ("gone", 3)].map(|(id, quantity)| Line { product: product(id, 1000), quantity })
    }

    #[test]
    fn a_cart_counts_at_the_prices_that_were_seen_and_shows_the_new_ones() {
        let now = [product("dearer", 1200), product("same", 1000)];
        let view = View::new("c", &lines(), Some(&now));
        assert_eq!((view.count, view.subtotal, view.currency.as_deref()), (6, 6000, Some("EUR")));
        let seen: Vec<_> = view.items.iter().map(|i| (i.current_price, i.price_changed, i.available)).collect();
        assert_eq!(seen, [(Some(1000), false, true), (Some(1200), true, true), (None, false, false)]);
    }

    #[test]
    fn without_the_catalog_nothing_is_said_to_have_changed() {
        let view = View::new("c", &lines(), None);
        assert!(!view.prices_checked);
        assert!(view.items.iter().all(|item| item.available && !item.price_changed && item.current_price.is_none()));
    }
}
