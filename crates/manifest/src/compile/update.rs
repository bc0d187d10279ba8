//! How the instances of a service are replaced, and what makes a change of its files do so.

use super::declared::distinct;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{Action, Strategy, Update, Watch};
use crate::reader::Table;

/// `service` is the service's table.
pub(crate) fn update(cx: &Context<'_>, service: &Table<'_>) -> Update {
    let table = service.table_or_default("update");
    let strategy = match table.choice("strategy") {
        "recreate" => Strategy::Recreate,
        _ => Strategy::Rolling,
    };
    let number = |name: &str| match strategy {
        Strategy::Rolling => u32::try_from(table.integer(name)).unwrap_or_default(),
        Strategy::Recreate => 0,
    };
    let update = Update {
        strategy,
        max_surge: number("max_surge"),
        max_unavailable: number("max_unavailable"),
        min_ready: table.duration("min_ready"),
        auto_revert: table.boolean("auto_revert"),
        progress_deadline: table.duration("progress_deadline"),
    };
    match strategy {
        Strategy::Rolling if update.max_surge == 0 && update.max_unavailable == 0 => {
            let message = "an instance could neither be added nor taken away: no update would ever begin";
            let diagnostic = Diagnostic::new(Code::UpdateEndless, &table.place_of("max_surge"), message);
            cx.report(diagnostic.label("both are 0").hint("write `max_surge = 1`, or `max_unavailable = 1`"));
        }
        Strategy::Rolling => {}
        Strategy::Recreate => check_recreate(cx, &table),
    }
    if update.min_ready >= update.progress_deadline {
        let message = "`min_ready` must be shorter than `progress_deadline`: no new instance would count in time";
        let at = if table.has("min_ready") { "min_ready" } else { "progress_deadline" };
        let diagnostic = Diagnostic::new(Code::UpdateEndless, &table.place_of(at), message);
        cx.report(diagnostic.hint("write a longer `progress_deadline`"));
    }
    update
}

fn check_recreate(cx: &Context<'_>, table: &Table<'_>) {
    for name in ["max_surge", "max_unavailable"].into_iter().filter(|name| table.has(name)) {
        let message = format!("`{name}` has no meaning with `strategy = \"recreate\"`");
        let diagnostic = Diagnostic::new(Code::Exclusive, &table.place_of(name), message)
            .label("excludes the other one")
            .hint(format!("take `{name}` out, or write `strategy = \"rolling\"`"))
            .related(&table.place_of("strategy"), "all old instances stop first");
        cx.report(diagnostic);
    }
}

/// `None` where nothing is watched.
pub(crate) fn watch(cx: &Context<'_>, service: &Table<'_>) -> Option<Watch> {
    let table = service.table("watch")?;
    let report = |key: &str, message: &str, hint: &str| {
        cx.report(Diagnostic::new(Code::WatchIdle, &table.place_of(key), message).hint(hint));
    };
    if table.get("paths").is_some_and(|paths| paths.is_empty()) {
        report("paths", "`paths` names nothing to watch", "name a file or a folder, or take `watch` out");
    }
    let paths = distinct(cx, "paths", table.texts("paths"));
    let mut ignore = distinct(cx, "ignore", table.texts("ignore"));
    ignore.retain(|pattern| cx.is_pattern(pattern));
    let builds = service.has("build");
    let action = match table.get("action").and_then(|item| item.choice()) {
        Some("rebuild") if !builds => {
            report("action", "`rebuild` needs a `build`", "add `build = \"…\"`, or write `action = \"restart\"`");
            Action::Rebuild
        }
        Some("rebuild") => Action::Rebuild,
        Some(_) => Action::Restart,
        None if builds => Action::Rebuild,
        None => Action::Restart,
    };
    Some(Watch {
        paths: paths.iter().filter_map(|path| cx.path(path)).collect(),
        ignore: ignore.into_iter().map(|pattern| pattern.value).collect(),
        action,
    })
}
