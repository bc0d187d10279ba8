//! `up --watch`: which services' files have changed. One watcher for the life of the command; a burst of changes, as an
//! editor or a checkout makes it, is one change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use glob::Pattern;
use manifest::Plan;
use manifest::plan::{Action, Watch};
use notify_debouncer_full::notify::{self, EventKind, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, NoCache, new_debouncer_opt};
use tokio::sync::mpsc;

use crate::cli::Failure;

/// A change is told when nothing more has happened to the file for this long.
const QUIET: Duration = Duration::from_millis(200);

/// Limit: bursts on their way; where one finds no room everything counts as changed.
const BURSTS_MAX: usize = 64;

/// Folders that programs write into while they are built or run.
const PASSED_OVER: [&str; 7] = [".atoll", ".git", "target", "node_modules", "__pycache__", ".venv", "dist"];

/// What to do for which services.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub rebuild: BTreeSet<String>,
    pub restart: BTreeSet<String>,
}

/// The files of all services that have a `watch`.
pub struct Files {
    rules: Vec<Rule>,
    bursts: mpsc::Receiver<Vec<PathBuf>>,
    /// Whether changes were lost: then anything may have changed.
    lost: Arc<AtomicBool>,
    /// Watches for as long as it lives.
    _debouncer: Debouncer<notify::RecommendedWatcher, NoCache>,
}

#[derive(Debug)]
struct Rule {
    service: String,
    paths: Vec<PathBuf>,
    ignore: Vec<Pattern>,
    action: Action,
}

impl Files {
    /// Begins to watch; what is not there yet is watched through the nearest folder above it.
    pub fn watch(plan: &Plan) -> Result<Self, Failure> {
        let rules: Vec<Rule> =
            plan.services.iter().filter_map(|(name, service)| Some(Rule::new(name, service.watch.as_ref()?))).collect();
        if rules.is_empty() {
            let hint = "add `watch = { paths = [\"src\"] }` to a service".to_owned();
            return Err(Failure::new("no service of this manifest has a `watch`").hint(hint));
        }
        let (sender, bursts) = mpsc::channel(BURSTS_MAX);
        let lost = Arc::new(AtomicBool::new(false));
        let losing = Arc::clone(&lost);
        let tell = move |result: DebounceEventResult| {
            let events = result.unwrap_or_default();
            // The kernel's queue has overflowed, or a folder cannot be read: nobody knows what has changed.
            if events.is_empty() || events.iter().any(|event| event.need_rescan()) {
                losing.store(true, Ordering::Relaxed);
                let _ = sender.try_send(Vec::new());
                return;
            }
            let changes = events.iter().filter(|event| !matches!(event.kind, EventKind::Access(_)));
            let paths: Vec<PathBuf> = changes.flat_map(|event| event.paths.iter().cloned()).collect();
            if !paths.is_empty() && sender.try_send(paths).is_err() {
                losing.store(true, Ordering::Relaxed);
            }
        };
        let cannot = |error: notify::Error| {
            Failure::new("cannot watch files").because(error).hint(
                "`fs.inotify.max_user_watches` bounds how many folders this user may watch; watch fewer".to_owned(),
            )
        };
        let mut debouncer = new_debouncer_opt(QUIET, None, tell, NoCache, notify::Config::default()).map_err(cannot)?;
        let mut folders: BTreeSet<(PathBuf, bool)> = BTreeSet::new();
        for path in rules.iter().flat_map(|rule| &rule.paths) {
            folders.insert(place(path));
        }
        for (folder, is_whole) in folders {
            let mode = if is_whole { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            debouncer.watch(&folder, mode).map_err(cannot)?;
        }
        Ok(Self { rules, bursts, lost, _debouncer: debouncer })
    }

    /// Whose files are watched.
    pub fn services(&self) -> Vec<&str> {
        self.rules.iter().map(|rule| rule.service.as_str()).collect()
    }

    /// The next burst that concerns a service. Cancel safe.
    pub async fn changed(&mut self) -> Changed {
        loop {
            let Some(paths) = self.bursts.recv().await else { return std::future::pending().await };
            let all: Vec<PathBuf> = self.rules.iter().flat_map(|rule| rule.paths.iter().cloned()).collect();
            let is_lost = self.lost.swap(false, Ordering::Relaxed);
            let changed = sort(&self.rules, if is_lost { &all } else { &paths });
            if changed != Changed::default() {
                return changed;
            }
        }
    }
}

fn sort(rules: &[Rule], paths: &[PathBuf]) -> Changed {
    let mut changed = Changed::default();
    for rule in rules.iter().filter(|rule| paths.iter().any(|path| rule.concerns(path))) {
        let list = match rule.action {
            Action::Rebuild => &mut changed.rebuild,
            Action::Restart => &mut changed.restart,
        };
        list.insert(rule.service.clone());
    }
    changed
}

/// What to watch for a path: a folder with all that is in it, or, for a file and for what is not there, the folder above.
/// A file is not watched by itself: editors replace it.
fn place(path: &Path) -> (PathBuf, bool) {
    if path.is_dir() {
        return (path.to_owned(), true);
    }
    let above = path.ancestors().skip(1).find(|folder| folder.is_dir());
    (above.unwrap_or(Path::new("/")).to_owned(), false)
}

impl Rule {
    fn new(service: &str, watch: &Watch) -> Self {
        let ignore = watch.ignore.iter().filter_map(|pattern| Pattern::new(pattern).ok()).collect();
        Self { service: service.to_owned(), paths: watch.paths.clone(), ignore, action: watch.action }
    }

    fn concerns(&self, changed: &Path) -> bool {
        self.paths.iter().any(|path| {
            let Ok(within) = changed.strip_prefix(path) else { return false };
            let passed_over = within.components().any(|part| {
                let part = part.as_os_str();
                PASSED_OVER.iter().any(|name| part == *name)
            });
            let name = changed.file_name().unwrap_or_default();
            let ignored = self.ignore.iter().any(|p| p.matches_path(within) || p.matches(&name.to_string_lossy()));
            !passed_over && !ignored
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(service: &str, path: &str, ignore: &[&str], action: Action) -> Rule {
        let ignore = ignore.iter().map(ToString::to_string).collect();
        Rule::new(service, &Watch { paths: vec![path.into()], ignore, action })
    }

    #[test]
    fn a_change_concerns_those_who_watch_it() {
        let rules = [
            rule("cart", "/app/cart/src", &["*.tmp", "gen/*"], Action::Rebuild),
            rule("web", "/app/web", &[], Action::Restart),
        ];
        let sorted = |path: &str| {
            let Changed { rebuild, restart } = sort(&rules, &[path.into()]);
            rebuild.into_iter().chain(restart).collect::<Vec<_>>()
        };
        for (path, expected) in [
            ("/app/cart/src/main.rs", &["cart"][..]),
            ("/app/cart/src", &["cart"]),
            ("/app/cart/src/deep/x.tmp", &[]),
            ("/app/cart/src/gen/x.rs", &[]),
            ("/app/cart/srcx/main.rs", &[]),
            ("/app/web/node_modules/a/index.js", &[]),
            ("/app/web/.git/index", &[]),
            ("/app/web/page.html", &["web"]),
        ] {
            assert_eq!(sorted(path), expected, "{path}");
        }
    }
}
