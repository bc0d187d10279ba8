//! Filters of a route: rewrites, redirects and header edits, and whether they fit together.

use std::collections::BTreeMap;

use super::matches::{Wildcard, header_name, hostname};
use super::paths::check_path;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan::{self, Filter, HeaderEdits, Match, PathMatch, PathRewrite};
use crate::reader::{Table, Text};

/// Headers that belong to one connection or to the message's framing (RFC 9110 §7.6.1), or that have a key of their own.
const MANAGED: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
const KINDS: [&str; 4] = ["url_rewrite", "request_redirect", "request_headers", "response_headers"];

pub(crate) fn compile(cx: &Context<'_>, route: &Table<'_>, matches: &[Match]) -> Vec<Filter> {
    let mut seen: BTreeMap<&str, Place<'_>> = BTreeMap::new();
    let mut filters = Vec::new();
    for table in route.tables("filters") {
        let Some(kind) = KINDS.into_iter().find(|kind| table.has(kind)) else { continue };
        let place = table.place_of(kind);
        let rival = match kind {
            "url_rewrite" => "request_redirect",
            "request_redirect" => "url_rewrite",
            _ => kind,
        };
        for (first, message) in [
            (seen.get(kind), format!("the route has two filters `{kind}`")),
            (seen.get(rival).filter(|_| rival != kind), format!("`{kind}` and `{rival}` exclude each other")),
        ] {
            if let Some(first) = first {
                let diagnostic = Diagnostic::new(Code::Filters, &place, message).hint("keep only one of them");
                cx.report(diagnostic.label("the second one").related(first, "the first one"));
            }
        }
        seen.insert(kind, place);
        filters.extend(filter(cx, kind, &table, matches));
    }
    filters
}

fn filter(cx: &Context<'_>, kind: &str, table: &Table<'_>, matches: &[Match]) -> Option<Filter> {
    let inner = table.table(kind)?;
    Some(match kind {
        "url_rewrite" => Filter::UrlRewrite { hostname: host(cx, &inner), path: path_rewrite(cx, &inner, matches) },
        "request_redirect" => redirect(cx, &inner, matches),
        "request_headers" => Filter::RequestHeaders(header_edits(cx, &inner)),
        _ => Filter::ResponseHeaders(header_edits(cx, &inner)),
    })
}

fn host(cx: &Context<'_>, table: &Table<'_>) -> Option<String> {
    hostname(cx, &table.text("hostname")?, Wildcard::Refused)
}

fn redirect(cx: &Context<'_>, table: &Table<'_>, matches: &[Match]) -> Filter {
    if !["scheme", "hostname", "port", "path", "prefix"].iter().any(|key| table.has(key)) {
        let diagnostic =
            Diagnostic::new(Code::Filters, &table.place, "the redirect leads back to where the client came from");
        cx.report(diagnostic.hint("add `scheme`, `hostname`, `port`, `path` or `prefix`"));
    }
    let port = table.get("port").and_then(|item| item.integer());
    Filter::RequestRedirect {
        scheme: table.get("scheme").and_then(|item| item.choice()).map(str::to_owned),
        hostname: host(cx, table),
        port: port.and_then(|port| u16::try_from(port).ok()),
        path: path_rewrite(cx, table, matches),
        status: u16::try_from(table.integer("status")).unwrap_or(302),
    }
}

/// `prefix` replaces what matched, so that every match must be a prefix, as in the Gateway API.
fn path_rewrite(cx: &Context<'_>, table: &Table<'_>, matches: &[Match]) -> Option<PathRewrite> {
    if let Some(text) = table.text("path") {
        return check_path(cx, &text).then_some(PathRewrite::Full(text.value));
    }
    let text = table.text("prefix")?;
    if !matches.iter().all(|matched| matches!(matched.path, PathMatch::Prefix(_))) {
        let diagnostic = Diagnostic::new(
            Code::Filters,
            &text.place,
            "`prefix` replaces a prefix, but a match of this route has none",
        );
        cx.report(diagnostic.hint("write `path` for the whole path, or match by `prefix`"));
    }
    let trimmed = text.value.trim_end_matches('/');
    let prefix = if trimmed.is_empty() { "/" } else { trimmed }.to_owned();
    check_path(cx, &text).then_some(PathRewrite::Prefix(prefix))
}

fn header_edits(cx: &Context<'_>, table: &Table<'_>) -> HeaderEdits {
    let values = |key: &str| {
        let entries = table
            .map(key)
            .into_iter()
            .filter_map(|(name, item)| Some((edited_name(cx, &name)?, header_value(cx, item.text()?)?)));
        entries.collect()
    };
    HeaderEdits {
        set: values("set"),
        add: values("add"),
        remove: table.texts("remove").iter().filter_map(|name| edited_name(cx, name)).collect(),
    }
}

fn edited_name(cx: &Context<'_>, text: &Text<'_>) -> Option<String> {
    let name = header_name(cx, text)?;
    let hint = match name.as_str() {
        "host" => "write `{ url_rewrite = { hostname = \"…\" } }`",
        name if name.starts_with("atoll-") => "headers that begin with `atoll-` are the platform's own",
        name if MANAGED.contains(&name) => "leave it out: the gateway sets it for each connection",
        _ => return Some(name),
    };
    let diagnostic = Diagnostic::new(Code::Header, &text.place, format!("the header `{name}` cannot be edited"));
    cx.report(diagnostic.hint(hint));
    None
}

/// Visible characters, blanks and tabs within (RFC 9110 §5.5).
fn header_value(cx: &Context<'_>, text: Text<'_>) -> Option<plan::Text> {
    let allowed = |byte: u8| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic();
    if text.value.bytes().all(allowed) && text.value.trim() == text.value {
        return Some(text.into());
    }
    let diagnostic = Diagnostic::new(Code::Header, &text.place, "the value cannot stand in a header");
    cx.report(diagnostic.hint("write ASCII without line breaks, and no blank at either end"));
    None
}
