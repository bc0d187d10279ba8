//! `up --watch`: which services' files have changed. One watcher for the life of the command; a burst of changes, as an
//! editor or a checkout makes it, is one change. A folder may come, go and come again: where it is missing the nearest one
//! above it is watched.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
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
    /// Why changes are not seen from now on, or not all of them.
    pub trouble: Option<String>,
}

/// The files of all services that have a `watch`.
pub struct Files {
    rules: Vec<Rule>,
    bursts: mpsc::Receiver<Vec<PathBuf>>,
    /// Whether changes were lost: then anything may have changed.
    lost: Arc<AtomicBool>,
    /// Watches for as long as it lives.
    debouncer: Debouncer<notify::RecommendedWatcher, NoCache>,
    watched: BTreeMap<PathBuf, Place>,
    /// The paths of the rules that exist.
    there: BTreeMap<PathBuf, Identity>,
}

/// Device and inode: the kernel watches these, and not a name.
type Identity = (u64, u64);

/// A folder that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// With all that is in it.
    is_whole: bool,
    identity: Identity,
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
        let debouncer = new_debouncer_opt(QUIET, None, tell, NoCache, notify::Config::default()).map_err(cannot)?;
        let mut files = Self { rules, bursts, lost, debouncer, watched: BTreeMap::new(), there: BTreeMap::new() };
        files.settle().map_err(cannot)?;
        Ok(files)
    }

    /// Watches what there is to be watched now; gives the paths that have come or gone since.
    fn settle(&mut self) -> notify::Result<Vec<PathBuf>> {
        let wanted = places(self.rules.iter().flat_map(|rule| &rule.paths));
        let is_outdated = |(folder, place): &(&PathBuf, &Place)| wanted.get(*folder) != Some(*place);
        let outdated: Vec<PathBuf> =
            self.watched.iter().filter(is_outdated).map(|(folder, _)| folder.clone()).collect();
        for folder in outdated {
            self.watched.remove(&folder);
            // One that is gone is not watched any more.
            let _ = self.debouncer.unwatch(&folder);
        }
        for (folder, place) in wanted {
            if self.watched.contains_key(&folder) {
                continue;
            }
            let mode = if place.is_whole { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            match self.debouncer.watch(&folder, mode) {
                Ok(()) => drop(self.watched.insert(folder, place)),
                // Gone in this moment: the one above it says when it is back.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        // Order: once they are watched. What happens to a folder as a whole hides what happens in it.
        let paths = self.rules.iter().flat_map(|rule| &rule.paths);
        let there = paths.filter_map(|path| Some((path.clone(), identity(path)?))).collect();
        let before = std::mem::replace(&mut self.there, there);
        let both = before.keys().chain(self.there.keys());
        Ok(both.filter(|path| before.get(*path) != self.there.get(*path)).cloned().collect())
    }

    /// Whose files are watched.
    pub fn services(&self) -> Vec<&str> {
        self.rules.iter().map(|rule| rule.service.as_str()).collect()
    }

    /// The next burst that concerns a service. Cancel safe.
    pub async fn changed(&mut self) -> Changed {
        loop {
            let Some(mut paths) = self.bursts.recv().await else { return std::future::pending().await };
            let settled = self.settle();
            if self.lost.swap(false, Ordering::Relaxed) {
                paths = self.rules.iter().flat_map(|rule| rule.paths.iter().cloned()).collect();
            }
            let mut changed = Changed::default();
            match settled {
                Ok(moved) => paths.extend(moved),
                Err(error) => changed.trouble = Some(error.to_string()),
            }
            changed = Changed { trouble: changed.trouble, ..sort(&self.rules, &paths) };
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

/// What to watch for these paths: a folder with all that is in it, and always the nearest folder above, which sees it go
/// and come. A file is not watched by itself: editors replace it.
fn places<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> BTreeMap<PathBuf, Place> {
    let mut all: BTreeMap<PathBuf, Place> = BTreeMap::new();
    let mut add = |folder: &Path, is_whole| {
        let Some(identity) = identity(folder) else { return };
        all.entry(folder.to_owned()).or_insert(Place { is_whole, identity }).is_whole |= is_whole;
    };
    for path in paths {
        if path.is_dir() {
            add(path, true);
        }
        if let Some(above) = path.ancestors().skip(1).find(|folder| folder.is_dir()) {
            add(above, false);
        }
    }
    // Once is enough: to let go of the inner one would let go of it in the outer one.
    let whole: Vec<PathBuf> =
        all.iter().filter(|(_, place)| place.is_whole).map(|(folder, _)| folder.clone()).collect();
    all.retain(|folder, _| !folder.ancestors().skip(1).any(|above| whole.iter().any(|whole| whole == above)));
    all
}

fn identity(path: &Path) -> Option<Identity> {
    path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
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

    #[test]
    fn a_folder_is_watched_whole_once_and_what_is_missing_through_the_one_above() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("src/inner")).expect("made");
        std::fs::write(path("page.html"), "").expect("written");
        let shown = |paths: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(|name| path(name)).collect();
            let places = places(paths.iter()).into_iter();
            let shown = places.map(|(folder, place)| {
                let name = folder.strip_prefix(dir.path()).expect("within").display().to_string();
                if place.is_whole { format!("{name}/**") } else { name }
            });
            shown.collect::<Vec<_>>()
        };
        assert_eq!(shown(&["src"]), ["", "src/**"]);
        assert_eq!(shown(&["src/inner", "src"]), ["", "src/**"]);
        assert_eq!(shown(&["page.html", "src/inner"]), ["", "src", "src/inner/**"]);
        assert_eq!(shown(&["later/deep"]), [""]);
        assert_eq!(shown(&["src/later"]), ["src"]);
    }

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
            let Changed { rebuild, restart, trouble: _ } = sort(&rules, &[path.into()]);
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
