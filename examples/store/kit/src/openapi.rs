//! The OpenAPI document of a service, held beside its router. [`differences`] keeps the two in step; tests call it.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::routing::{MethodRouter, get};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{Method, Request};
use serde_json::Value;
use tower::ServiceExt;

/// Serves a document that is part of the program.
pub fn document<S: Clone + Send + Sync + 'static>(text: &'static str) -> MethodRouter<S> {
    get(move || async move { ([(CONTENT_TYPE, "application/json")], text) })
}

/// Every operation that only one of router and document knows, such as `"GET /carts is not in the document"`.
/// `paths` are the router's own.
///
/// # Errors
/// When `text` is not JSON.
pub async fn differences(router: Router, paths: &[&str], text: &str) -> Result<Vec<String>, serde_json::Error> {
    let document: Value = serde_json::from_str(text)?;
    let mut served = BTreeSet::new();
    for path in paths {
        served.extend(methods(&router, path).await.into_iter().map(|method| format!("{method} {path}")));
    }
    let mut written = BTreeSet::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        let operations = item.as_object().into_iter().flatten().filter(|(_, operation)| operation.is_object());
        written.extend(operations.map(|(method, _)| format!("{} {path}", method.to_ascii_uppercase())));
    }
    let missing = served.difference(&written).map(|operation| format!("{operation} is not in the document"));
    let invented = written.difference(&served).map(|operation| format!("{operation} is not in the router"));
    Ok(missing.chain(invented).collect())
}

/// The methods of a path as the router itself tells them, in the answer to one that it does not take.
/// A `HEAD` that comes with `GET` is left out.
async fn methods(router: &Router, path: &str) -> Vec<String> {
    let request = Request::builder().method(Method::TRACE).uri(path.replace(['{', '}'], "x")).body(Body::empty());
    let Ok(request) = request else { return Vec::new() };
    let Ok(response) = router.clone().oneshot(request).await;
    let allow = response.headers().get(ALLOW).and_then(|value| value.to_str().ok()).unwrap_or_default();
    allow.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty() && name != "HEAD").collect()
}
