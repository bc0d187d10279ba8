//! The pages as values: everything that a template shows, ready to be written out. Pure; the templates escape every text.

use askama::Template;

use crate::assets::FINGERPRINT;
use crate::cart::{Cart, Item};
use crate::catalog::{Category, Listing, Product};
use crate::money;
use crate::search;

/// Products on a page.
pub(crate) const PAGE_SIZE: usize = 24;
/// Numbers around the present one in a list of pages.
const NEIGHBOURS: usize = 2;

/// What surrounds every page.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) title: String,
    pub(crate) departments: Vec<Link>,
    /// Pieces in the cart; `None` when that is not known.
    pub(crate) cart_count: Option<i64>,
    /// What was searched for.
    pub(crate) query: String,
    /// Of the assets.
    pub(crate) version: String,
}

/// A category to go to.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) count: u64,
    pub(crate) image: String,
    pub(crate) is_current: bool,
}

/// A product in a grid.
#[derive(Clone, Debug)]
pub(crate) struct Card {
    pub(crate) slug: String,
    pub(crate) name: String,
    /// The name in pieces; those that were searched for are marked.
    pub(crate) parts: Vec<Part>,
    pub(crate) brand: String,
    pub(crate) price: String,
    pub(crate) image: String,
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) text: String,
    pub(crate) is_marked: bool,
}

/// Choices that narrow a list, each with how many products it leaves.
#[derive(Clone, Debug)]
pub(crate) struct Facet {
    pub(crate) label: &'static str,
    pub(crate) choices: Vec<(Choice, usize)>,
}

/// A choice among orders, or among pages.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) label: String,
    pub(crate) href: String,
    pub(crate) is_current: bool,
}

#[derive(Debug, Template)]
#[template(path = "home.html")]
pub(crate) struct Home {
    pub(crate) frame: Frame,
    pub(crate) pictures: Vec<Link>,
    pub(crate) categories: Vec<Link>,
    pub(crate) items: Vec<Card>,
}

/// A grid of products: those of a category, or those that were found.
#[derive(Debug, Template)]
#[template(path = "products.html")]
pub(crate) struct Products {
    pub(crate) frame: Frame,
    pub(crate) heading: String,
    pub(crate) description: String,
    pub(crate) trail: Vec<Link>,
    pub(crate) related: Vec<Link>,
    pub(crate) notes: Vec<String>,
    pub(crate) facets: Vec<Facet>,
    pub(crate) items: Vec<Card>,
    pub(crate) total: usize,
    pub(crate) orders: Vec<Choice>,
    pub(crate) pages: Pages,
}

#[derive(Debug, Template)]
#[template(path = "product.html")]
pub(crate) struct ProductPage {
    pub(crate) frame: Frame,
    pub(crate) product: Product,
    pub(crate) price: String,
    pub(crate) trail: Vec<Link>,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) colors: Vec<Card>,
    pub(crate) recommended: Vec<Card>,
    pub(crate) items: Vec<Card>,
}

#[derive(Debug, Template)]
#[template(path = "cart.html")]
pub(crate) struct CartPage {
    pub(crate) frame: Frame,
    pub(crate) lines: Vec<Line>,
    pub(crate) count: i64,
    pub(crate) subtotal: String,
    pub(crate) prices_checked: bool,
}

/// A page that only says something.
#[derive(Debug, Template)]
#[template(path = "notice.html")]
pub(crate) struct Notice {
    pub(crate) frame: Frame,
    pub(crate) status: u16,
    pub(crate) text: &'static str,
}

/// A product in the cart.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) product_id: String,
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) quantity: i64,
    pub(crate) price: String,
    pub(crate) total: String,
    /// The price of now, where it is another one.
    pub(crate) new_price: Option<String>,
    pub(crate) is_available: bool,
}

/// Where one is among the pages of a list.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(crate) previous: Option<String>,
    pub(crate) next: Option<String>,
    /// `None` stands for pages left out.
    pub(crate) numbers: Vec<Option<Choice>>,
}

impl Frame {
    pub(crate) fn new(title: &str, categories: &[Category], cart_count: Option<i64>) -> Self {
        let top = categories.iter().filter(|category| category.parent.is_none());
        Self {
            title: title.to_owned(),
            departments: top.map(Link::new).collect(),
            cart_count,
            query: String::new(),
            version: format!("{FINGERPRINT:08x}"),
        }
    }

    /// Marks the department that a category is, or is in.
    pub(crate) fn at(mut self, category: Option<&Category>) -> Self {
        for department in &mut self.departments {
            let slug = Some(department.slug.as_str());
            department.is_current =
                category.is_some_and(|c| Some(c.slug.as_str()) == slug || c.parent.as_deref() == slug);
        }
        self
    }
}

impl Link {
    pub(crate) fn new(category: &Category) -> Self {
        Self {
            slug: category.slug.clone(),
            name: category.name.clone(),
            count: category.count,
            image: category.image.clone().unwrap_or_default(),
            is_current: false,
        }
    }

    /// The way from the top down to a category, itself included.
    pub(crate) fn trail(category: &Category, categories: &[Category]) -> Vec<Self> {
        let parent = categories.iter().find(|other| Some(&other.slug) == category.parent.as_ref());
        parent.into_iter().chain([category]).map(Self::new).collect()
    }

    /// The categories beside this one or, when it has any, below it.
    pub(crate) fn related(category: &Category, categories: &[Category]) -> Vec<Self> {
        let of = |parent: &str| {
            let children = categories.iter().filter(move |other| other.parent.as_deref() == Some(parent));
            children
                .map(|other| Self { is_current: other.slug == category.slug, ..Self::new(other) })
                .collect::<Vec<_>>()
        };
        of(category.parent.as_deref().unwrap_or(&category.slug))
    }
}

impl From<&Product> for Card {
    fn from(product: &Product) -> Self {
        Self {
            slug: product.slug.clone(),
            name: product.name.clone(),
            parts: vec![Part { text: product.name.clone(), is_marked: false }],
            brand: product.brand.clone(),
            price: money::format(product.price, &product.currency),
            image: product.image.clone(),
        }
    }
}

impl From<&search::Item> for Card {
    fn from(item: &search::Item) -> Self {
        Self {
            slug: item.slug.clone(),
            name: item.name.clone(),
            parts: Part::of_html(&item.marked.name),
            brand: item.brand.clone(),
            price: money::format(item.price, &item.currency),
            image: item.image.clone(),
        }
    }
}

impl Part {
    /// Reads HTML in which `<mark>` is the only tag. It becomes text again, which the template escapes: no page shows
    /// markup of another service.
    fn of_html(html: &str) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut rest = html;
        while !rest.is_empty() {
            let (before, marked) = rest.split_once("<mark>").unwrap_or((rest, ""));
            let (marked, after) = marked.split_once("</mark>").unwrap_or((marked, ""));
            for (html, is_marked) in [(before, false), (marked, true)] {
                if !html.is_empty() {
                    parts.push(Self { text: unescape(html), is_marked });
                }
            }
            rest = after;
        }
        parts
    }
}

fn unescape(html: &str) -> String {
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    entities.iter().fold(html.to_owned(), |text, (entity, letter)| text.replace(entity, letter))
}

impl Card {
    pub(crate) fn all(listing: &Listing) -> Vec<Self> {
        listing.items.iter().map(Self::from).collect()
    }
}

impl CartPage {
    pub(crate) fn new(frame: Frame, cart: Option<&Cart>) -> Self {
        let currency = cart.and_then(|cart| cart.currency.clone()).unwrap_or_default();
        Self {
            frame,
            lines: cart.iter().flat_map(|cart| &cart.items).map(|item| Line::new(item, &currency)).collect(),
            count: cart.map_or(0, |cart| cart.count),
            subtotal: cart.map_or_else(String::new, |cart| money::format(cart.subtotal, &currency)),
            prices_checked: cart.is_none_or(|cart| cart.prices_checked),
        }
    }
}

impl Line {
    fn new(item: &Item, currency: &str) -> Self {
        let new_price = item.current_price.filter(|_| item.price_changed);
        let new_currency = item.current_currency.as_deref().unwrap_or(currency);
        Self {
            product_id: item.product_id.clone(),
            slug: item.slug.clone(),
            name: item.name.clone(),
            image: item.image.clone(),
            quantity: item.quantity,
            price: money::format(item.price, currency),
            total: money::format(item.total, currency),
            new_price: new_price.map(|price| money::format(price, new_currency)),
            is_available: item.available,
        }
    }
}

impl Pages {
    /// The pages of `total` products, seen from page `current`; `href` gives the address of a page.
    pub(crate) fn new(total: usize, current: usize, href: impl Fn(usize) -> String) -> Self {
        let last = total.div_ceil(PAGE_SIZE).max(1);
        let mut numbers = Vec::new();
        let mut before = 0;
        for number in 1..=last {
            if number != 1 && number != last && number.abs_diff(current) > NEIGHBOURS {
                continue;
            }
            if number != before + 1 {
                numbers.push(None);
            }
            before = number;
            let is_current = number == current;
            numbers.push(Some(Choice { label: number.to_string(), href: href(number), is_current }));
        }
        Self {
            previous: (current > 1).then(|| href(current - 1)),
            next: (current < last).then(|| href(current + 1)),
            numbers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(total: usize, current: usize) -> String {
        let pages = Pages::new(total, current, |number| number.to_string());
        let numbers = pages.numbers.iter().map(|number| match number {
            Some(Choice { label, is_current: true, .. }) => format!("[{label}]"),
            Some(Choice { label, .. }) => label.clone(),
            None => "…".to_owned(),
        });
        numbers.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn marks_of_a_search_become_parts_and_nothing_else_is_markup() {
        let parts = Part::of_html("a <mark>&lt;b&gt;</mark> &amp;amp; <i>c</i><mark>d");
        let shown: Vec<_> = parts.iter().map(|part| (part.text.as_str(), part.is_marked)).collect();
        assert_eq!(shown, [("a ", false), ("<b>", true), (" &amp; <i>c</i>", false), ("d", true)]);
        assert_eq!(Part::of_html(""), []);
    }

    #[test]
    fn a_list_of_pages_leaves_out_what_is_far() {
        assert_eq!(shown(0, 1), "[1]");
        assert_eq!(shown(24, 1), "[1]");
        assert_eq!(shown(25, 2), "1 [2]");
        assert_eq!(shown(240, 1), "[1] 2 3 … 10");
        assert_eq!(shown(240, 5), "1 … 3 4 [5] 6 7 … 10");
        assert_eq!(shown(240, 9), "1 … 7 8 [9] 10");
    }
}
