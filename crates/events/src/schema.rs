//! JSON Schema of a topic's data, compiled once. A facade: nothing is read from files or the network, and what a pattern
//! may cost is bounded.

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::event::Event;

/// Limit: of more violations, the first ones are told.
const VIOLATIONS_MAX: usize = 20;
/// Limit: what a violation says, in bytes; values of the data may be in it.
const DETAIL_BYTES_MAX: usize = 500;
/// Limit: steps of one match of a pattern; beyond it the text does not match.
const BACKTRACK_MAX: usize = 100_000;

/// One place where the data is not what the schema says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// A JSON Pointer (RFC 6901) into the data; empty for the whole.
    pub pointer: String,
    pub detail: String,
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("it is not JSON")]
    Json { source: serde_json::Error },
    /// Not a schema, or one that refers to elsewhere.
    #[error("{reason}")]
    Invalid { reason: String },
}

/// A schema that can be asked.
pub(crate) struct Schema(Validator);

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

impl Schema {
    /// # Errors
    /// [`SchemaError`].
    pub(crate) fn compile(text: &str) -> Result<Self, SchemaError> {
        let schema: Value = serde_json::from_str(text).map_err(|source| SchemaError::Json { source })?;
        let patterns = PatternOptions::fancy_regex().backtrack_limit(BACKTRACK_MAX);
        let validator = jsonschema::options().with_pattern_options(patterns).build(&schema);
        validator.map(Self).map_err(|error| SchemaError::Invalid { reason: explain(&error) })
    }

    /// Looks at the data of an event, which must be JSON whatever its content type says.
    pub(crate) fn check(&self, event: &Event) -> Result<(), Vec<Violation>> {
        let data: Value = serde_json::from_slice(&event.data).map_err(|error| {
            let detail =
                if event.data.is_empty() { "there is no data".to_owned() } else { format!("not JSON: {error}") };
            vec![Violation { pointer: String::new(), detail }]
        })?;
        if self.0.is_valid(&data) {
            return Ok(());
        }
        let violations = self.0.iter_errors(&data).take(VIOLATIONS_MAX);
        let tell = |error: jsonschema::ValidationError<'_>| Violation {
            pointer: error.instance_path().to_string(),
            detail: cut(error.to_string()),
        };
        Err(violations.map(tell).collect())
    }
}

/// Why something is no schema: where, and what.
fn explain(error: &jsonschema::ValidationError<'_>) -> String {
    if let ValidationErrorKind::Referencing(_) = error.kind() {
        return cut(format!("a `$ref` leads nowhere: only what is in the schema itself can be referred to ({error})"));
    }
    match error.instance_path().to_string().as_str() {
        "" => cut(error.to_string()),
        pointer => cut(format!("{pointer}: {error}")),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > DETAIL_BYTES_MAX {
        text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &str) -> Event {
        Event { data: data.to_owned().into(), ..Event::default() }
    }

    fn violations(schema: &str, data: &str) -> Vec<(String, String)> {
        let found = Schema::compile(schema).unwrap().check(&event(data)).err().unwrap_or_default();
        found.into_iter().map(|violation| (violation.pointer, violation.detail)).collect()
    }

    #[test]
    fn violations_point_to_their_places() {
        let schema = r#"{"type":"object","required":["id"],"properties":{"lines":{"items":{"type":"integer"}}}}"#;
        assert_eq!(violations(schema, r#"{"id":1,"lines":[1,2]}"#), []);
        let found = violations(schema, r#"{"lines":[1,"two"]}"#);
        let pointers: Vec<&str> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert!(pointers.contains(&"/lines/1") && pointers.contains(&""), "{found:?}");
    }

    #[test]
    fn a_schema_that_forbids_everything_forbids_everything() {
        for data in ["null", "{}", "1", "[]"] {
            assert_eq!(violations("false", data).len(), 1, "{data}");
        }
    }

    #[test]
    fn data_that_is_no_json_is_against_every_schema() {
        assert_eq!(violations("true", "")[0].1, "there is no data");
        assert!(violations("true", "hello")[0].1.starts_with("not JSON"));
        // Deeper than the parser goes.
        assert!(violations("true", &"[".repeat(100_000))[0].1.starts_with("not JSON"));
    }

    #[test]
    fn what_a_violation_says_is_bounded() {
        let found = violations(r#"{"type":"integer"}"#, &format!("{:?}", "ä".repeat(10_000)));
        assert!(found[0].1.len() <= DETAIL_BYTES_MAX + 3);
        let many = format!("[{}]", vec!["\"a\""; 1000].join(","));
        assert_eq!(violations(r#"{"items":{"type":"integer"}}"#, &many).len(), VIOLATIONS_MAX);
    }

    #[test]
    fn nothing_is_fetched() {
        for reference in ["https://example.com/schema.json", "file:///etc/hostname", "http://127.0.0.1:1/x"] {
            let schema = format!(r#"{{"$ref":"{reference}"}}"#);
            let told = Schema::compile(&schema).unwrap_err().to_string();
            assert!(told.starts_with("a `$ref` leads nowhere") && told.contains(reference), "{told}");
        }
        let told = Schema::compile(r#"{"properties":{"a":{"type":5}}}"#).unwrap_err().to_string();
        assert!(told.starts_with("/properties/a/type: "), "{told}");
        for bad in ["", "{", r#"{"type":"nothing"}"#, r##"{"$ref":"#/nowhere"}"##, "3"] {
            assert!(Schema::compile(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_costs_no_more_than_its_bound() {
        let schema = r#"{"type":"string","pattern":"^(a+)+(?=b)$"}"#;
        let began = std::time::Instant::now();
        assert_eq!(violations(schema, &format!("{:?}", "a".repeat(1000))).len(), 1);
        assert!(began.elapsed() < std::time::Duration::from_secs(5));
    }
}
