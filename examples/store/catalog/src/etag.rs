//! Entity tags and the conditions on them (RFC 9110 §8.8.3, §13.1). A product's tag is its version.

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use store_kit::Problem;

/// The tag of a version.
pub(crate) fn of(version: i64) -> String {
    format!("\"{version}\"")
}

/// Whether `If-None-Match` names the tag, so that 304 is the answer. Compared weakly.
pub(crate) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    listed(headers, IF_NONE_MATCH).any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
}

/// Which versions a write is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Any,
    /// One of these tags, compared strongly.
    Tags(Vec<String>),
}

impl Condition {
    /// Reads `If-Match`.
    ///
    /// # Errors
    /// 428 without one: a write that does not say what it changes would undo another's.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let tags: Vec<String> = listed(headers, IF_MATCH).map(str::to_owned).collect();
        if tags.is_empty() {
            let detail = "send If-Match with the ETag of the product that you have seen";
            return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, detail).parameter("If-Match"));
        }
        Ok(if tags.iter().any(|tag| tag == "*") { Self::Any } else { Self::Tags(tags) })
    }

    pub(crate) fn holds_for(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.contains(&of(version)),
        }
    }
}

/// The members of a list of tags. Our own tags have no comma, so a foreign one that is split matches nothing.
fn listed(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_cached_copy_is_known_by_any_tag_of_the_list() {
        for (value, known) in [("\"3\"", true), ("\"1\", W/\"3\"", true), ("*", true), ("3", false), ("\"4\"", false)] {
            assert_eq!(is_known(&headers(IF_NONE_MATCH, value), "\"3\""), known, "{value}");
        }
    }

    #[test]
    fn a_write_needs_the_strong_tag_of_the_version_it_changes() {
        for (value, holds) in
            [("\"3\"", true), ("\"1\",\"3\"", true), ("*", true), ("W/\"3\"", false), ("\"2\"", false)]
        {
            assert_eq!(Condition::of(&headers(IF_MATCH, value)).unwrap().holds_for(3), holds, "{value}");
        }
        assert_eq!(Condition::of(&HeaderMap::new()).unwrap_err().status(), StatusCode::PRECONDITION_REQUIRED);
    }
}
