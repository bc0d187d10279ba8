//! Paths of requests as routes, rewrites and probes write them. What the data plane would refuse is refused here, where a
//! line can be shown for it.

use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::reader::Text;
use crate::text::normal_path;

/// Limit: a path that is longer than this is no pattern.
const PATH_BYTES_MAX: usize = 2_000;

/// Reports a path that no request can have: requests are refused or brought into a normal form before they are compared.
pub(crate) fn check_path(cx: &Context<'_>, text: &Text<'_>) -> bool {
    let query_hint = "a path has no query here; use `query = [{ name = \"…\", exact = \"…\" }]`";
    check(cx, text, &text.value, query_hint)
}

/// The same for what is asked of a service: `query_hint` says what to do about a query.
pub(crate) fn check_plain(cx: &Context<'_>, text: &Text<'_>, query_hint: &str) -> bool {
    check(cx, text, &text.value, query_hint)
}

/// Reports what cannot be asked for with a GET: a path, which may have a query.
pub(crate) fn check_target(cx: &Context<'_>, text: &Text<'_>) {
    let (path, query) = text.value.split_once('?').unwrap_or((&text.value, ""));
    let hint = "leave out what comes after `#`";
    if check(cx, text, path, hint) && !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        report(cx, text, "the query has a character that must be encoded", hint);
    }
}

fn check(cx: &Context<'_>, text: &Text<'_>, path: &str, query_hint: &str) -> bool {
    if path.len() > PATH_BYTES_MAX {
        return report(cx, text, "it is too long", "write a prefix or a regular expression");
    }
    if path.contains(['?', '#']) {
        return report(cx, text, "it has a query or a fragment", query_hint);
    }
    let fitting = normal_path(&suggestion(path));
    let (why, hint) = match (normal_path(path), fitting) {
        (Err(problem), _) | (_, Err(problem)) => (problem.why, problem.hint.to_owned()),
        (Ok(normal), Ok(_)) if normal == path && path.starts_with('/') && !path.contains("//") => return true,
        (Ok(_), Ok(fitting)) => {
            let why = match path {
                _ if !path.starts_with('/') => "it must begin with `/`",
                _ if path.contains("//") => "it has an empty segment",
                _ => "it is not in the form in which requests are compared",
            };
            (why, format!("write `\"{fitting}\"`"))
        }
    };
    report(cx, text, why, &hint)
}

fn report(cx: &Context<'_>, text: &Text<'_>, why: &str, hint: &str) -> bool {
    let diagnostic = Diagnostic::new(Code::Path, &text.place, format!("`{}` is not a valid path", text.value));
    cx.report(diagnostic.label(why).hint(hint));
    false
}

/// The path without what is missing or too much around its segments.
fn suggestion(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}
