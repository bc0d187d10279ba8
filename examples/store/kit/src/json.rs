//! A JSON body, read strictly: a wrong one is answered with a problem that says where it is wrong.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, OptionalFromRequest, Request};
use http::StatusCode;
use serde::de::DeserializeOwned;

use crate::Problem;

/// The extracted body.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match <Json<T> as FromRequest<S>>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(problem(&rejection)),
        }
    }
}

/// Without a media type there is no body.
impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let body = <Json<T> as OptionalFromRequest<S>>::from_request(request, state).await;
        body.map(|body| body.map(|Json(body)| Self(body))).map_err(|rejection| problem(&rejection))
    }
}

/// 415 without a JSON media type, 413 above the limit, 400 for what is not JSON, 422 for JSON of another shape.
fn problem(rejection: &JsonRejection) -> Problem {
    let detail = match rejection {
        JsonRejection::MissingJsonContentType(_) => "the body must be sent as application/json".to_owned(),
        JsonRejection::JsonSyntaxError(error) => reason(error, "the body is not JSON"),
        JsonRejection::JsonDataError(error) => reason(error, "the body does not have the expected fields"),
        _ if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => "the body is too large".to_owned(),
        _ => "the body could not be read".to_owned(),
    };
    Problem::new(rejection.status(), detail)
}

/// The innermost cause names the field, the line and the column.
fn reason(error: &dyn std::error::Error, fallback: &str) -> String {
    error.source().map_or_else(|| fallback.to_owned(), |cause| format!("{fallback}: {cause}"))
}
