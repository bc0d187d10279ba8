//! Lines on standard output, one JSON object each. A line never holds a path or a query: a cart is known by its id alone,
//! so that an id is a secret; the route's pattern says enough.

use std::io::Write;

use serde_json::{Value, json};

/// Writes one line. `fields` is an object whose members follow `time`, `level` and `message`.
pub fn write(level: &str, message: &str, fields: Value) {
    let mut line = json!({ "time": jiff::Timestamp::now().to_string(), "level": level, "message": message });
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields);
    }
    // A reader that has gone away must not end the service.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes an error with the whole chain of its causes.
pub fn error(message: &str, error: &dyn std::error::Error) {
    write("error", message, json!({ "error": chain(error) }));
}

/// An error and its causes, joined by `: `.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
