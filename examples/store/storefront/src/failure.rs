//! Why a page cannot be shown, and the page that says so.

use axum::http::StatusCode;
use store_kit::{client, log};

use crate::pages::{Frame, Notice};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    NotFound,
    /// A service behind the shop does not answer.
    Away,
    /// A form of another site.
    Foreign,
    /// The cart cannot take it.
    Refused,
    /// What the router refuses: a method, a body.
    Other(StatusCode),
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        log::error("a page cannot be shown", &error);
        Self::Away
    }
}

impl Failure {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Away => StatusCode::SERVICE_UNAVAILABLE,
            Self::Foreign => StatusCode::FORBIDDEN,
            Self::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Other(status) => status,
        }
    }

    pub(crate) fn notice(self, mut frame: Frame) -> Notice {
        let (title, text) = match self {
            Self::NotFound => (
                "This page has drifted off",
                "What you are looking for is not here. It may have sold out, or the link has a letter too many.",
            ),
            Self::Away => (
                "We will be right back",
                "A part of the shop does not answer at the moment. Nothing in your cart is lost; please try again in a few \
                 seconds.",
            ),
            Self::Foreign => (
                "That came from somewhere else",
                "The form was not sent from a page of this shop, so nothing was changed.",
            ),
            Self::Refused => (
                "That did not fit into the cart",
                "The product may have just sold out, or the cart holds as many different products as it can.",
            ),
            Self::Other(_) => ("That did not work", "We could not make sense of the request. Nothing was changed."),
        };
        title.clone_into(&mut frame.title);
        Notice { frame, status: self.status().as_u16(), text }
    }
}
