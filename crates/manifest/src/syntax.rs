//! TOML text to a tree with spans. Keeps what could be read of a broken file, so that its other mistakes are found too.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};

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
        cx.report(Diagnostic::new(Code::Limit, &place, message).hint("no key of a manifest needs that; look for a lost bracket"));
        return None;
    }
    let (tree, errors) = DeTable::parse_recoverable(text);
    for error in errors.iter().take(ERRORS_MAX) {
        let span = error.span().unwrap_or(0..0);
        let place = Place { file, span: within(text, span.start)..within(text, span.end.max(span.start)) };
        cx.report(describe(error.message(), text, &place));
    }
    Some(tree.into_inner())
}

/// The nearest character boundary of the text at or before a byte.
fn within(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}

fn describe(message: &str, text: &str, place: &Place<'_>) -> Diagnostic {
    let diagnostic = |message: String| Diagnostic::new(Code::Syntax, place, message);
    match message.split_once(", expected ") {
        _ if message.starts_with("duplicate key") => {
            let key = text.get(place.span.clone()).unwrap_or_default();
            diagnostic(format!("`{key}` is written twice")).label("the second time").hint("keep one of them")
        }
        Some((what, expected)) => diagnostic(what.to_owned()).label(format!("expected {expected}")),
        None => diagnostic(message.to_owned()),
    }
}

/// Finds the place where brackets and dotted keys nest too deeply, without building anything: the parser's own limit
/// counts the two apart, and a tree of their product would not fit a small stack.
fn too_deep<'d>(file: &'d Path, text: &str) -> Option<Place<'d>> {
    let mut depth = 0usize;
    let mut dots = 0usize;
    let mut bytes = text.bytes().enumerate().peekable();
    let mut quote = None;
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(b'"'), b'\\') => {
                bytes.next();
            }
            (Some(_), b'\n') => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'#') => while bytes.next_if(|(_, byte)| *byte != b'\n').is_some() {},
            (None, b'[' | b'{') => depth += 1,
            (None, b']' | b'}') => depth = depth.saturating_sub(1),
            (None, b'.') => dots += 1,
            (None, b'\n' | b',') => dots = 0,
            (None, _) => {}
        }
        if depth + dots > DEPTH_MAX {
            let at = text.floor_char_boundary(at);
            return Some(Place { file, span: at..at + 1 });
        }
    }
    None
}

/// A value's own words for its type.
pub(crate) type Value<'d> = Spanned<DeValue<'d>>;
