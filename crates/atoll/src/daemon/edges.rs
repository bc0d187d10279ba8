//! What the API says of routes and edges, and of single requests: the plan's, with what the data plane counts and remembers.

use std::time::Duration;

use tokio::time::timeout;

use crate::api::dto;
use crate::daemon::Control;
use crate::lower;

/// How long the data plane may take.
const READ_MAX: Duration = Duration::from_secs(3);

/// How many requests are told of, if nobody says it.
const STORIES_MAX: usize = 1024;

impl Control {
    /// Every route and edge that is declared, in the order of the manifest and then of names.
    pub async fn edges(&self) -> Result<Vec<dto::Edge>, dto::Problem> {
        Ok(lower::edges(&self.plan(), &self.readings().await?))
    }

    /// What the data plane counts and knows of everything.
    pub(super) async fn readings(&self) -> Result<proxy::Readings, dto::Problem> {
        timeout(READ_MAX, self.proxy.read()).await.map_err(|_| silent())
    }

    /// What happened to the request of this id: at the gateway first, then on edges. With an empty id, to the newest of all.
    pub async fn explain(&self, request_id: &str, max: Option<usize>) -> Result<Vec<dto::Story>, dto::Problem> {
        let found = self.proxy.stories(request_id, max.unwrap_or(STORIES_MAX));
        let mut found = timeout(READ_MAX, found).await.map_err(|_| silent())?;
        if !request_id.is_empty() {
            found.sort_by_key(|story| (story.role != lower::GATEWAY, story.began));
        }
        Ok(found.iter().map(lower::story).collect())
    }
}

fn silent() -> dto::Problem {
    dto::Problem {
        title: "the data plane does not answer".into(),
        status: 503,
        detail: format!("the data plane did not answer within {} s", READ_MAX.as_secs()),
        hint: Some("`atoll events` shows what happened to it".into()),
    }
}
