//! JSON Schemas of topics: read as files beside the manifest, and held to be JSON. What they say is the engine's to judge.

use std::path::Path;

use serde_json::Value;

use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::Schema;
use crate::reader::{Table, Text};
use crate::syntax::FILE_BYTES_MAX;

/// The schema that a topic's table names.
pub(crate) fn compile(cx: &Context<'_>, table: &Table<'_>) -> Option<Schema> {
    let written = table.text("schema")?;
    let (path, content) = cx.path(&written).and_then(|path| cx.file(&path))?;
    let text = match content {
        Ok(text) => text,
        Err(reason) => {
            let message = format!("cannot read {}: {reason}", cx.shown(path));
            let hint = "correct the path; it is resolved against the folder of this file";
            cx.report(
                Diagnostic::new(Code::Unreadable, &written.place, message).label("read for this topic").hint(hint),
            );
            return None;
        }
    };
    check(cx, &written, path, text).then(|| Schema { path: path.to_path_buf(), text: text.to_owned() })
}

fn check(cx: &Context<'_>, written: &Text<'_>, path: &Path, text: &str) -> bool {
    let shown = cx.shown(path);
    if text.len() > FILE_BYTES_MAX {
        let message = format!("{shown} has {} bytes; the limit is {FILE_BYTES_MAX}", text.len());
        cx.report(Diagnostic::new(Code::Limit, &written.place, message).hint("name a file with a JSON Schema"));
        return false;
    }
    let report = |place: &Place<'_>, message: String, label: &str| {
        let hint = "write a JSON Schema, as in `{ \"type\": \"object\" }`";
        let diagnostic = Diagnostic::new(Code::Schema, place, message).label(label).hint(hint);
        cx.report(diagnostic.related(&written.place, "named here"));
        false
    };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(_) | Value::Bool(_)) => true,
        Ok(_) => report(
            &Place { file: path, span: 0..0 },
            format!("{shown} is no schema"),
            "neither an object nor a boolean",
        ),
        Err(error) => {
            // The position stands apart, so that the words need not have it in them.
            let words = error.to_string();
            let why = words.rsplit_once(" at line ").map_or(words.as_str(), |(why, _)| why);
            let place = Place { file: path, span: span(text, error.line(), error.column()) };
            report(&place, format!("{shown} is not JSON"), why)
        }
    }
}

/// The character at a line, from 1, that ends with the byte that is its `column`.
fn span(text: &str, line: usize, column: usize) -> std::ops::Range<usize> {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let start = text.floor_char_boundary((before + column.saturating_sub(1)).min(text.len()));
    start..text.ceil_char_boundary((start + 1).min(text.len()))
}
