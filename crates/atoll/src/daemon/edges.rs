//! What the API says of routes and edges: the plan's, with what was counted of each.

use std::time::Duration;

use tokio::time::timeout;

use crate::api::dto;
use crate::daemon::Control;
use crate::lower;

/// How long the data plane may take.
const READ_MAX: Duration = Duration::from_secs(3);

impl Control {
    /// Every route and edge that is declared, in the order of the manifest and then of names.
    pub async fn edges(&self) -> Result<Vec<dto::Edge>, dto::Problem> {
        let readings = timeout(READ_MAX, self.proxy.read()).await.map_err(|_| dto::Problem {
            title: "the data plane does not answer".into(),
            status: 503,
            detail: format!("the data plane did not say within {} s what it has counted", READ_MAX.as_secs()),
            hint: Some("`atoll events` shows what happened to it".into()),
        })?;
        Ok(lower::edges(&self.plan(), &readings))
    }
}
