//! TOML text to a tree with spans. Keeps what could be read of a broken file, so that its other mistakes are found too.

use std::collections::BTreeSet;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::{Code, render};

/// Limit: a manifest is written by hand; what is longer is the wrong file.
pub(crate) const FILE_BYTES_MAX: usize = 1 << 20;
/// Limit: after so many syntax errors the rest of a file is not worth reading.
const ERRORS_MAX: usize = 20;
/// Limit: tables and lists within each other. The manifest's own need no more than ten.
const DEPTH_MAX: usize = 32;

/// Parses one file and reports its syntax errors. `None` when there is nothing to go on with.
pub(crate) fn parse<'d>(cx: &Context<'_>, file: &'d Path, text: &'d str) -> Option<DeTable<'d>> {
    let start = Place::start(file);
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes; the limit is {FILE_BYTES_MAX}", text.len());
        cx.report(Diagnostic::new(Code::Limit, &start, message).hint("divide it into files and `include` them"));
        return None;
    }
    if let Some(place) = too_deep(file, text) {
        let message = format!("values are nested more than {DEPTH_MAX} deep");
        cx.report(
            Diagnostic::new(Code::Limit, &place, message)
                .hint("no key of a manifest needs that; look for a lost bracket"),
        );
        return None;
    }
    let (tree, errors) = DeTable::parse_recoverable(text);
    let mut lines = BTreeSet::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let start = text.floor_char_boundary(span.start);
        let place = Place { file, span: start..text.floor_char_boundary(span.end.max(span.start)) };
        // What follows on the same line is most often an echo.
        let line = render::line_start(text, start);
        if lines.len() < ERRORS_MAX && lines.insert(line) {
            let diagnostic = describe(error.message(), text, &place);
            // A broken header seems to declare nothing.
            if diagnostic.code == Code::Syntax && text[line..].starts_with('[') {
                let number = text[..line].matches('\n').count() + 1;
                cx.mark_unread(|| format!("line {number} of {}", cx.shown(file)));
            }
            cx.report(diagnostic);
        }
    }
    Some(tree.into_inner())
}

/// The parser's words, with a line to change where the mistake is a common one.
fn describe(message: &str, text: &str, place: &Place<'_>) -> Diagnostic {
    let found = text.get(place.span.clone()).unwrap_or_default();
    let (what, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, Some(expected)),
        None => (message, None),
    };
    let new = |code, message: String| Diagnostic::new(code, place, message);
    let is_word =
        !found.is_empty() && found.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    match (what, expected) {
        ("duplicate key", _) => {
            let message = format!("`{found}` is written twice");
            new(Code::Duplicate, message).label("the second time").hint("keep one of them, or rename it")
        }
        ("invalid boolean" | "string values must be quoted" | "invalid floating-point number", _) if is_word => {
            let message = format!("`{found}` is not a value");
            new(Code::Syntax, message).label("not quoted").hint(format!("write `\"{found}\"` if it is a string"))
        }
        ("invalid basic string" | "invalid literal string", Some(quote)) => {
            let quote = quote.trim_matches('`');
            new(Code::Syntax, "the string is not closed".to_owned()).hint(format!("end it with {quote}"))
        }
        (_, Some(closing @ ("`,`" | "`}`" | "`]`"))) => new(Code::Syntax, what.to_owned())
            .label(format!("expected {closing}"))
            .hint("close the bracket, or put a comma between two entries"),
        ("recursion limit", _) => {
            new(Code::Limit, "the key has too many dots".to_owned()).hint("no key of a manifest needs that")
        }
        (_, Some(expected)) => new(Code::Syntax, what.to_owned())
            .label(format!("expected {expected}"))
            .hint("write one `key = value` a line"),
        (_, None) => new(Code::Syntax, what.to_owned()).hint("write one `key = value` a line"),
    }
}

/// Finds the place where brackets and dotted keys nest too deeply, without building anything: the parser's own limit
/// counts the two apart, and a tree of their product would not fit a small stack. Strings and comments are skipped.
fn too_deep<'d>(file: &'d Path, text: &str) -> Option<Place<'d>> {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut dots) = (0usize, 0usize, 0usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => {
                at = after_string(bytes, at);
                continue;
            }
            b'#' => at += bytes[at..].iter().take_while(|byte| **byte != b'\n').count(),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'.' => dots += 1,
            b',' => dots = 0,
            _ => {}
        }
        if bytes.get(at) == Some(&b'\n') {
            dots = 0;
        }
        if depth + dots > DEPTH_MAX {
            return Some(Place { file, span: at..at + 1 });
        }
        at += 1;
    }
    None
}

/// The byte after the string that begins at `at`. One that is not closed ends with its line, or with the file if it may
/// have many lines.
fn after_string(bytes: &[u8], at: usize) -> usize {
    let quote = bytes[at];
    let long = bytes[at..].starts_with(&[quote; 3]);
    let closing: &[u8] = if long { &[quote; 3] } else { &[quote] };
    let mut here = at + closing.len();
    while let Some(byte) = bytes.get(here) {
        match byte {
            b'\\' if quote == b'"' => here += 1,
            b'\n' if !long => return here,
            _ if bytes[here..].starts_with(closing) => return here + closing.len(),
            _ => {}
        }
        here += 1;
    }
    bytes.len()
}

/// A value's own words for its type.
pub(crate) type Value<'d> = Spanned<DeValue<'d>>;
