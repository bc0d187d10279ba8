//! Probes: what is asked of an instance, and how often.

use std::path::Path;

use super::environment::Environment;
use super::{paths, services};
use crate::context::Context;
use crate::plan::{Check, Probe, Probes};
use crate::reader::Table;
use crate::shape::READINESS;
use crate::text::parse_duration;

pub(crate) fn compile(
    cx: &Context<'_>,
    table: Option<&Table<'_>>,
    environment: &Environment,
    working_dir: &Path,
) -> Probes {
    let probe = |name: &str| {
        let table = table?.table(name)?;
        let check = if let Some(path) = table.text("http") {
            paths::check_target(cx, &path);
            Check::Http(path.value)
        } else if table.has("tcp") {
            Check::Tcp
        } else if let Some(item) = table.get("exec") {
            Check::Exec(services::command(cx, &item, "exec", environment, working_dir).unwrap_or_default())
        } else {
            Check::Default
        };
        Some(Probe {
            check,
            interval: table.duration("interval"),
            timeout: table.duration("timeout"),
            failure_threshold: u32::try_from(table.integer("failure_threshold")).unwrap_or(1),
        })
    };
    Probes {
        startup: probe("startup"),
        readiness: probe("readiness").unwrap_or_else(default),
        liveness: probe("liveness"),
    }
}

/// The readiness probe of a service that says nothing about it.
fn default() -> Probe {
    let duration = |name| READINESS.default_of(name).and_then(parse_duration).unwrap_or_default();
    let failures = READINESS.default_of("failure_threshold").and_then(|text| text.parse().ok());
    Probe {
        check: Check::Default,
        interval: duration("interval"),
        timeout: duration("timeout"),
        failure_threshold: failures.unwrap_or(1),
    }
}
