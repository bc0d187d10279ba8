//! Errors as a client sees them: RFC 9457 problem documents. Every error of an API leaves through here, also those that
//! the router makes.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::{client, database, log};

const MEDIA_TYPE: &str = "application/problem+json";

/// A refusal with its reason. `type` is absent, which means `about:blank`: the status says what kind it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    title: &'static str,
    #[serde(serialize_with = "code")]
    status: StatusCode,
    detail: String,
    /// Name of the query parameter, field or header at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    #[serde(skip)]
    retry_after: Option<u32>,
}

impl Problem {
    /// A problem of this status; `detail` is for the person who reads it.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { title, status, detail: detail.into(), parameter: None, retry_after: None }
    }

    /// Names the parameter, field or header at fault.
    #[must_use]
    pub fn parameter(mut self, name: &str) -> Self {
        self.parameter = Some(name.to_owned());
        self
    }

    /// Says after how many seconds to ask again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(&self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<database::Error> for Problem {
    fn from(error: database::Error) -> Self {
        log::error("a request failed at the database", &error);
        if error.is_busy() {
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database is busy").retry_after(1);
        }
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the database failed")
    }
}

impl From<client::Error> for Problem {
    fn from(error: client::Error) -> Self {
        log::error("a request failed at an upstream", &error);
        let detail = format!("{} does not answer at the moment", error.upstream());
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
    }
}

/// Turns an error response that is neither a problem nor a page, such as a 405 of the router, into a problem. Its other
/// headers stay.
#[must_use]
pub fn shape(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || kind.starts_with(MEDIA_TYPE.as_bytes()) || kind.starts_with(b"text/html") {
        return response;
    }
    let detail = match status {
        StatusCode::NOT_FOUND => "there is nothing at this path",
        StatusCode::METHOD_NOT_ALLOWED => "this path does not take this method",
        StatusCode::PAYLOAD_TOO_LARGE => "the body is too large",
        StatusCode::BAD_REQUEST => "the request is malformed",
        _ => "the request was refused",
    };
    let (mut head, body) = Problem::new(status, detail).into_response().into_parts();
    let mut headers = response.headers().clone();
    headers.remove(CONTENT_LENGTH);
    headers.extend(std::mem::take(&mut head.headers));
    head.headers = headers;
    Response::from_parts(head, body)
}

fn code<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
