//! What an event says of a product. CloudEvents 1.0 over HTTP, binary or structured; anything else is refused for good,
//! so that it becomes a dead letter and nobody waits for it.

use std::collections::BTreeMap;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use store_kit::Problem;

/// The part of a product that is looked at.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: String,
    pub(crate) version: i64,
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) category: String,
    pub(crate) brand: String,
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) price: i64,
    pub(crate) currency: String,
    pub(crate) image: String,
    pub(crate) created_at: String,
    /// Where nothing is said, there is some.
    #[serde(default = "yes")]
    pub(crate) available: bool,
}

/// What an event tells.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) what: What,
    /// Whether all of the product is told once more, in the order of the stream: that counts for more than what is known.
    pub(crate) is_replayed: bool,
}

/// What becomes of a product.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Put(Box<Product>),
    Remove { id: String, version: i64 },
}

impl What {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Put(product) => &product.id,
            Self::Remove { id, .. } => id,
        }
    }
}

/// Of a product that is gone, no more is needed.
#[derive(Debug, Deserialize)]
struct Gone {
    id: String,
    version: i64,
}

#[derive(Debug, Deserialize)]
struct Structured {
    r#type: String,
    #[serde(default)]
    data: Value,
}

fn yes() -> bool {
    true
}

/// Reads an event; `None` when it tells of something that is not looked at here.
///
/// # Errors
/// 400 for what is no event, 422 for one of another shape.
pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Option<Change>, Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_structured =
        text(CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with("application/cloudevents+json"));
    let malformed = |error| Problem::new(StatusCode::BAD_REQUEST, format!("this is no event: {error}"));
    let (kind, data) = if is_structured {
        let Structured { r#type, data } = serde_json::from_slice(body).map_err(malformed)?;
        (r#type, data)
    } else {
        let missing =
            || Problem::new(StatusCode::BAD_REQUEST, "this is no event: it has no ce-type").parameter("ce-type");
        (text("ce-type").ok_or_else(missing)?.to_owned(), serde_json::from_slice(body).map_err(malformed)?)
    };
    let misshapen = |error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("data: {error}")).parameter("data");
    let what = match kind.as_str() {
        "catalog.product.created" | "catalog.product.changed" => {
            What::Put(serde_json::from_value(data).map_err(misshapen)?)
        }
        "catalog.product.removed" => {
            let Gone { id, version } = serde_json::from_value(data).map_err(misshapen)?;
            What::Remove { id, version }
        }
        _ => return Ok(None),
    };
    let is_replayed = text("atoll-replayed").is_some() && text("atoll-out-of-order").is_none();
    Ok(Some(Change { what, is_replayed }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn an_event_is_read_in_either_form() {
        let data = json!({ "id": "p1", "version": 3, "name": "gone" });
        let binary = headers(&[("ce-type", "catalog.product.removed"), ("content-type", "application/json")]);
        let structured = headers(&[("content-type", "application/cloudevents+json; charset=utf-8")]);
        let event =
            json!({ "specversion": "1.0", "type": "catalog.product.removed", "id": "1", "source": "s", "data": data });
        for (headers, body) in [(binary, data.to_string()), (structured, event.to_string())] {
            let change = parse(&headers, body.as_bytes()).unwrap();
            assert!(matches!(change.unwrap().what, What::Remove { id, version: 3 } if id == "p1"));
        }
        let other = headers(&[("ce-type", "catalog.product.praised")]);
        assert!(parse(&other, b"{}").unwrap().is_none());
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let created = headers(&[("ce-type", "catalog.product.created")]);
        for (headers, body, status) in [
            (&created, "{", 400),
            (&created, "{}", 422),
            (&created, r#"{"id":"p1","version":"new"}"#, 422),
            (&headers(&[]), "{}", 400),
            (&headers(&[("content-type", "application/cloudevents+json")]), "{}", 400),
        ] {
            assert_eq!(parse(headers, body.as_bytes()).unwrap_err().status().as_u16(), status, "{body}");
        }
    }
}
