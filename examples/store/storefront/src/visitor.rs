//! Who asks: the cart in the cookie, and whether a form was sent from a page of ours. A visitor has the id of a cart before
//! there is a cart, so that what is looked at and what is bought are of one session.

use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue};
use uuid::Uuid;

const NAME: &str = "cart";
const AGE_MAX: u32 = 30 * 24 * 60 * 60;

/// The cart that the visitor has, if the cookie is one of ours.
pub(crate) fn cart(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(name, value)| (name == NAME).then(|| Uuid::parse_str(value).ok())?).map(|id| id.to_string())
}

/// The id of a cart for a visitor who has none.
pub(crate) fn new_cart() -> String {
    Uuid::new_v4().to_string()
}

/// The cookie that remembers a cart. It is kept from scripts and from the forms of other sites, and over TLS from others.
pub(crate) fn cookie(cart: &str, headers: &HeaderMap) -> String {
    let is_tls = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    let secure = if is_tls { "; Secure" } else { "" };
    format!("{NAME}={cart}; Path=/; Max-Age={AGE_MAX}; HttpOnly; SameSite=Lax{secure}")
}

/// Whether a browser only prepares for a page that may never be looked at (Fetch, `Sec-Purpose`).
pub(crate) fn is_prefetch(headers: &HeaderMap) -> bool {
    headers.get("sec-purpose").is_some_and(|purpose| purpose.as_bytes().starts_with(b"prefetch"))
}

/// Whether a form may change something. Browsers say from which site a form comes; one that says nothing is no browser of
/// today, and has no cookie of ours from a foreign page, since the cookie is `SameSite`.
pub(crate) fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let Some(site) = text(headers.get("sec-fetch-site")) {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let origin = text(Some(origin)).unwrap_or_default();
    let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
    // Behind the gateway, the host that the browser sees may be in either.
    let hosts = [text(headers.get("x-forwarded-host")), text(headers.get(HOST))];
    hosts.iter().flatten().any(|host| host.eq_ignore_ascii_case(authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_a_cart_of_ours_is_taken_from_a_cookie() {
        let id = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
        let read = |value: &'static str| cart(&headers(&[("cookie", value)]));
        assert_eq!(read("a=b; cart=7c9e6679-7425-40de-944b-e07fc1f90ae7; c").as_deref(), Some(id));
        for foreign in ["cart=", "cart=../../products", "cart2=7c9e6679-7425-40de-944b-e07fc1f90ae7", "cart"] {
            assert_eq!(read(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_cookie_is_secure_where_the_page_is() {
        let id = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
        assert!(!cookie(id, &headers(&[])).contains("Secure"));
        assert!(cookie(id, &headers(&[("x-forwarded-proto", "https")])).ends_with("HttpOnly; SameSite=Lax; Secure"));
    }

    #[test]
    fn a_form_of_another_site_is_told_apart() {
        let shop = ("host", "shop.example:8080");
        for (given, ours) in [
            (&[shop][..], true),
            (&[shop, ("origin", "http://shop.example:8080")], true),
            (&[shop, ("origin", "http://shop.example")], false),
            (&[shop, ("origin", "http://evil.example")], false),
            (&[shop, ("origin", "null")], false),
            (
                &[("host", "127.0.0.1:9000"), ("x-forwarded-host", "shop.example"), ("origin", "https://shop.example")],
                true,
            ),
            (&[shop, ("sec-fetch-site", "same-origin")], true),
            (&[shop, ("sec-fetch-site", "same-site")], false),
            (&[shop, ("sec-fetch-site", "cross-site"), ("origin", "http://shop.example:8080")], false),
        ] {
            assert_eq!(is_from_here(&headers(given)), ours, "{given:?}");
        }
    }
}
