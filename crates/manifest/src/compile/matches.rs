//! Conditions on requests, and the syntax of what stands in requests: hosts, methods, header names.

use regex::RegexBuilder;

use super::paths::check_path;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{Match, NamedMatch, PathMatch, ValueMatch};
use crate::reader::{Table, Text};
use crate::text::{is_token, nearest};

/// Limit: characters of a regular expression, and bytes of what it compiles to.
const REGEX_BYTES_MAX: usize = 1_000;
const REGEX_COMPILED_MAX: usize = 1 << 18;
/// RFC 1035 §2.3.4.
const HOSTNAME_BYTES_MAX: usize = 253;
/// RFC 9110 §9.3 and RFC 5789, as the Gateway API lists them.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

pub(crate) fn compile(cx: &Context<'_>, table: &Table<'_>) -> Match {
    let methods = table.texts("methods");
    let (headers, query) = (table.tables("headers"), table.tables("query"));
    Match {
        path: table.table("path").and_then(|path| path_match(cx, &path)).unwrap_or(PathMatch::Prefix("/".to_owned())),
        methods: methods.iter().filter_map(|text| method(cx, text)).collect(),
        headers: headers.iter().filter_map(|table| named(cx, table, |name| header_name(cx, name))).collect(),
        query: query.iter().filter_map(|table| named(cx, table, |name| Some(name.value.clone()))).collect(),
    }
}

fn path_match(cx: &Context<'_>, table: &Table<'_>) -> Option<PathMatch> {
    if let Some(text) = table.text("regex") {
        return regex(cx, &text).map(PathMatch::Regex);
    }
    if let Some(text) = table.text("prefix") {
        // `/api/` and `/api` are the same by segments.
        let trimmed = text.value.trim_end_matches('/');
        let prefix = if trimmed.is_empty() { "/" } else { trimmed }.to_owned();
        return check_path(cx, &text).then_some(PathMatch::Prefix(prefix));
    }
    let text = table.text("exact")?;
    check_path(cx, &text).then_some(PathMatch::Exact(text.value))
}

fn named(cx: &Context<'_>, table: &Table<'_>, name: impl Fn(&Text<'_>) -> Option<String>) -> Option<NamedMatch> {
    let value = if let Some(text) = table.text("regex") {
        regex(cx, &text).map(ValueMatch::Regex)
    } else {
        table.text("exact").map(|text| ValueMatch::Exact(text.value))
    };
    Some(NamedMatch { name: name(&table.text("name")?)?, value: value? })
}

/// Checks an expression; it is anchored at both ends by whoever uses it.
fn regex(cx: &Context<'_>, text: &Text<'_>) -> Option<String> {
    let report = |why: &str, hint: &str| {
        let message = format!("the regular expression cannot be used: {why}");
        cx.report(Diagnostic::new(Code::Regex, &text.place, message).hint(hint));
        None
    };
    if text.value.len() > REGEX_BYTES_MAX {
        return report(&format!("it is longer than {REGEX_BYTES_MAX} bytes"), "divide it into several matches");
    }
    match RegexBuilder::new(&format!("^(?:{})$", text.value)).size_limit(REGEX_COMPILED_MAX).build() {
        // The expression must be whole by itself: `a)|(b` would escape the group that anchors it.
        Ok(_) if regex::Regex::new(&text.value).is_ok() => Some(text.value.clone()),
        Ok(_) => report("a group is closed that was never opened", "write `\\\\)` for a bracket that means itself"),
        Err(regex::Error::CompiledTooBig(_)) => report("it becomes too large", "write smaller repetitions"),
        Err(error) => {
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let hint = match why.contains("not supported") {
                true => "write it without: expressions are those of RE2, which always take linear time",
                false => "correct it; a character that means itself is written with `\\\\` before it",
            };
            report(why, hint)
        }
    }
}

fn method(cx: &Context<'_>, text: &Text<'_>) -> Option<String> {
    if METHODS.contains(&text.value.as_str()) {
        return Some(text.value.clone());
    }
    let diagnostic = Diagnostic::new(Code::Method, &text.place, format!("`{}` is not a request method", text.value));
    let upper = text.value.to_ascii_uppercase();
    cx.report(match nearest(&upper, METHODS) {
        _ if METHODS.contains(&upper.as_str()) => {
            diagnostic.label("methods are upper case").hint(format!("write `\"{upper}\"`"))
        }
        Some(near) => diagnostic.hint(format!("did you mean `\"{near}\"`?")),
        None => diagnostic.hint(format!("write one of {}", METHODS.join(", "))),
    });
    None
}

/// Whether `*.` may stand before a hostname.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wildcard {
    Allowed,
    Refused,
}

/// A hostname in lower case.
pub(crate) fn hostname(cx: &Context<'_>, text: &Text<'_>, wildcard: Wildcard) -> Option<String> {
    let host = text.value.to_ascii_lowercase();
    let plain = match wildcard {
        Wildcard::Allowed => host.strip_prefix("*.").unwrap_or(&host),
        Wildcard::Refused => &host,
    };
    let label = |label: &str| {
        let inside = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inside && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    if plain.len() <= HOSTNAME_BYTES_MAX && plain.split('.').all(label) {
        return Some(host);
    }
    let hint = if host.contains("://") || host.contains('/') {
        "write the host alone, without scheme and path"
    } else if host.contains(':') {
        "write the host alone, without a port"
    } else if host.contains('*') && wildcard == Wildcard::Allowed {
        "a wildcard is a whole first label: `*.example.org`; leave `hostnames` out for every host"
    } else {
        "write labels of letters, digits and `-` with dots between them; other alphabets as `xn--…`"
    };
    let diagnostic = Diagnostic::new(Code::Hostname, &text.place, format!("`{}` is not a hostname", text.value));
    cx.report(diagnostic.hint(hint));
    None
}

/// A header name in lower case, if it is a token of RFC 9110 §5.6.2.
pub(crate) fn header_name(cx: &Context<'_>, text: &Text<'_>) -> Option<String> {
    if is_token(&text.value) {
        return Some(text.value.to_ascii_lowercase());
    }
    let diagnostic = Diagnostic::new(Code::Header, &text.place, format!("`{}` is not a header name", text.value));
    cx.report(diagnostic.hint("write letters, digits and `-`, without `:` and blanks"));
    None
}
