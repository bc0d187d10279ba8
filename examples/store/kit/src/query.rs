//! The parameters of a request's query, taken one by one. Whatever is left at the end is unknown and refused, since a
//! misspelt filter that is ignored gives a wrong answer.

use std::convert::Infallible;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;

use crate::Problem;

/// Parameters not taken yet, decoded, in the order of the query.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Any query is a list of pairs: what is no valid escape stands for itself.
        let pairs = axum::extract::Query::try_from_uri(&parts.uri).map(|query| query.0);
        Ok(Self(pairs.unwrap_or_default()))
    }
}

impl Query {
    /// Takes a text of at most `max` characters; an empty one counts as absent.
    ///
    /// # Errors
    /// 400 when it is longer, or given twice.
    pub fn text(&mut self, name: &str, max: usize) -> Result<Option<String>, Problem> {
        let mut found = self.0.extract_if(.., |(given, _)| given == name).map(|(_, value)| value);
        let value = found.next();
        if found.next().is_some() {
            return Err(invalid(name, "it is given more than once"));
        }
        drop(found);
        match value {
            Some(value) if value.chars().count() > max => {
                Err(invalid(name, format_args!("it is longer than {max} characters")))
            }
            value => Ok(value.filter(|value| !value.is_empty())),
        }
    }

    /// Takes a whole number of `range`.
    ///
    /// # Errors
    /// 400 when it is no number, out of range, or given twice.
    pub fn number<T: FromStr + PartialOrd + Display>(
        &mut self,
        name: &str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name, 20)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let (from, to) = (range.start(), range.end());
                Err(invalid(name, format_args!("{text:?} is not a whole number from {from} to {to}")))
            }
        }
    }

    /// Takes one of the named choices.
    ///
    /// # Errors
    /// 400 when it is none of them, or given twice.
    pub fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name, 40)? else {
            return Ok(None);
        };
        match choices.iter().find(|(choice, _)| *choice == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
                Err(invalid(name, format_args!("{text:?} is none of {}", names.join(", "))))
            }
        }
    }

    /// Says that nothing else is expected.
    ///
    /// # Errors
    /// 400 when a parameter is left.
    pub fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => {
                let name: String = name.chars().take(40).collect();
                Err(invalid(&name, "there is no such parameter"))
            }
            None => Ok(()),
        }
    }
}

/// A 400 that names the parameter.
fn invalid(name: &str, reason: impl Display) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("parameter {name}: {reason}")).parameter(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        let uri = format!("/?{text}").parse().unwrap();
        Query(axum::extract::Query::try_from_uri(&uri).map(|query| query.0).unwrap())
    }

    #[test]
    fn parameters_are_taken_once_and_the_rest_is_refused() {
        let mut given = query("limit=3&sort=-price&q=tea%20pot&x=1");
        assert_eq!(given.number("limit", 1..=100).unwrap(), Some(3));
        assert_eq!(given.choice("sort", &[("name", 1), ("-price", 2)]).unwrap(), Some(2));
        assert_eq!(given.text("q", 100).unwrap().as_deref(), Some("tea pot"));
        assert_eq!(given.text("q", 100).unwrap(), None);
        assert_eq!(given.finish().unwrap_err(), invalid("x", "there is no such parameter"));
    }

    #[test]
    fn a_wrong_value_is_a_400_that_names_its_parameter() {
        for text in ["limit=0", "limit=101", "limit=-1", "limit=3.5", "limit=ten", "limit=1&limit=1", "limit=%ff"] {
            let problem = query(text).number("limit", 1..=100).unwrap_err();
            assert_eq!(problem.status(), StatusCode::BAD_REQUEST, "{text}");
            assert!(format!("{problem:?}").contains("parameter: Some(\"limit\")"), "{text}");
        }
    }
}
