//! Style sheet and icon, part of the program. Pages name them with a fingerprint, so that browsers may keep them.

use axum::extract::{Path, Query};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

const STYLE: &str = include_str!("../assets/store.css");
const ICON: &str = include_str!("../assets/icon.svg");

/// Of both files.
pub(crate) const FINGERPRINT: u32 = fingerprint(&[STYLE, ICON]);

#[derive(Debug, Deserialize)]
pub(crate) struct Version {
    v: Option<String>,
}

pub(crate) async fn serve(Path(file): Path<String>, Query(version): Query<Version>, headers: HeaderMap) -> Response {
    let (kind, text) = match file.as_str() {
        "store.css" => ("text/css; charset=utf-8", STYLE),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let tag = format!("\"{FINGERPRINT:08x}\"");
    // While two versions of this service run, one may be asked for the other's file: then nothing is kept.
    let is_this = version.v.is_some_and(|version| version == format!("{FINGERPRINT:08x}"));
    let caching = if is_this { "public, max-age=31536000, immutable" } else { "no-cache" };
    let head = [(ETAG, tag.as_str()), (CACHE_CONTROL, caching)];
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    (head, [(CONTENT_TYPE, kind)], text).into_response()
}

/// FNV-1a.
const fn fingerprint(texts: &[&str]) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    let mut text = 0;
    while text < texts.len() {
        let bytes = texts[text].as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
            at += 1;
        }
        text += 1;
    }
    hash
}
