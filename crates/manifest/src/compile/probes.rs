//! Probes: what is asked of an instance, and how often.

use std::path::Path;

use super::environment::Environment;
use super::{paths, services};
use crate::context::Context;
use crate::plan::{Check, Probe, Probes};
use crate::reader::Table;

pub(crate) fn compile(cx: &Context<'_>, service: &Table<'_>, environment: &Environment, working_dir: &Path) -> Probes {
    let probe = |table: &Table<'_>| {
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
        Probe {
            check,
            interval: table.duration("interval"),
            timeout: table.duration("timeout"),
            failure_threshold: u32::try_from(table.integer("failure_threshold")).unwrap_or(1),
        }
    };
    let table = service.table_or_default("probes");
    Probes {
        startup: table.table("startup").as_ref().map(probe),
        readiness: probe(&table.table_or_default("readiness")),
        liveness: table.table("liveness").as_ref().map(probe),
    }
}
