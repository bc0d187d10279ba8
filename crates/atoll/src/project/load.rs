//! Reads what the manifest asks for, file by file, until the compiler wants nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use manifest::{Diagnostic, Plan, Sources, Want};

use crate::project::ports::{self, Claims, Ledger};
use crate::project::{Project, kept, scale};

/// A manifest may not be larger; what is read of a larger one is enough for the compiler to refuse it.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Each round finds every port that another daemon has; more are needed only while others start at the same time.
const CLAIM_ROUNDS_MAX: usize = 16;

/// The compiler's answer together with what it was given.
pub struct Loaded {
    pub sources: Sources,
    pub plan: Option<Plan>,
    pub diagnostics: Vec<Diagnostic>,
}

impl Project {
    /// Reads and compiles the manifest for the command line. Changes nothing on disk; blocking.
    pub fn load(&self) -> Loaded {
        // Its daemon listens on them, or what a daemon has left running.
        let is_ours = self.is_running() || !supervisor::left_running(&self.run()).is_empty();
        let ours = if is_ours { ports::load_ledger(self).into_values().collect() } else { BTreeSet::new() };
        compile(self.gather(&process()), strangers(&ours))
    }

    /// The same for the daemon that is about to open the ports: whoever listens on one now is a stranger, and each one is
    /// claimed among all daemons of this machine, so that an instance finds its port again although nobody listened there
    /// while it was away.
    ///
    /// `process` is the environment that `${NAME}` expands from; `ours` are ports on which this application listens
    /// itself. Claims are only added.
    pub fn load_and_claim(&self, process: &Variables, ours: &BTreeSet<u16>, claims: &mut Claims) -> Loaded {
        compile_and_claim(self.gather(process), ours, claims)
    }

    /// The same for what was read before, with other wishes and the ports of now.
    pub fn rescale_and_claim(
        &self,
        sources: &Sources,
        wishes: scale::Wishes,
        ours: &BTreeSet<u16>,
        claims: &mut Claims,
    ) -> Loaded {
        let mut sources = Sources { scale: wishes, ..sources.clone() };
        sources.ports.ledger = ports::load_ledger(self);
        compile_and_claim(sources, ours, claims)
    }

    /// Reads everything that the manifest names.
    fn gather(&self, process: &Variables) -> Sources {
        let range = ports::range();
        let first = ports::first(&range, self.root());
        let mut sources = Sources {
            root: self.manifest.clone(),
            files: BTreeMap::new(),
            globs: BTreeMap::new(),
            environment: environment(self.root(), process),
            ports: manifest::Ports { range, first, ledger: ports::load_ledger(self), busy: BTreeSet::new() },
            scale: scale::load(self),
        };
        loop {
            let wanted = manifest::wanted(&sources);
            if wanted.is_empty() {
                return sources;
            }
            for want in wanted {
                match want {
                    Want::File(path) => {
                        let text = read(&path);
                        sources.files.insert(path, text);
                    }
                    Want::Glob(pattern) => {
                        let matches = matches(&pattern);
                        sources.globs.insert(pattern, matches);
                    }
                }
            }
        }
    }

    /// The ports that are kept.
    pub fn load_ports(&self) -> Ledger {
        ports::load_ledger(self)
    }

    /// Keeps the ports of a plan that is about to run.
    pub fn store_ports(&self, ledger: &Ledger) -> std::io::Result<()> {
        ports::store_ledger(self, ledger)
    }
}

fn compile_and_claim(mut sources: Sources, ours: &BTreeSet<u16>, claims: &mut Claims) -> Loaded {
    let mut busy = strangers(ours);
    for _ in 0..CLAIM_ROUNDS_MAX {
        let loaded = compile(sources, busy.clone());
        let Some(plan) = &loaded.plan else { return loaded };
        // What is written is not in it.
        match claims.take(plan.ports.values().copied()) {
            Ok(()) => return loaded,
            Err(claimed) => busy.extend(claimed),
        }
        sources = loaded.sources;
    }
    compile(sources, busy)
}

fn compile(mut sources: Sources, busy: BTreeSet<u16>) -> Loaded {
    sources.ports.busy = busy;
    let (plan, diagnostics) = manifest::compile(&sources);
    Loaded { sources, plan, diagnostics }
}

/// Ports on which somebody else listens.
fn strangers(ours: &BTreeSet<u16>) -> BTreeSet<u16> {
    supervisor::listening_ports().into_iter().filter(|port| !ours.contains(port)).collect()
}

/// Variables of a process: those whose name and value are UTF-8.
pub type Variables = BTreeMap<String, String>;

/// The environment of this process.
pub fn process() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// That of a process over that of `.env` beside the manifest.
fn environment(root: &Path, process: &Variables) -> Variables {
    let mut variables = BTreeMap::new();
    if let Ok(text) = read(&root.join(".env")) {
        // What is wrong in it shows as an undefined variable where it is used.
        variables.extend(manifest::dotenv(&text));
    }
    variables.extend(process.iter().map(|(name, value)| (name.clone(), value.clone())));
    variables
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = kept::open(path).map_err(|error| error.to_string())?;
    match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}

/// Files, or folders for a pattern that ends in `/`.
fn matches(pattern: &Path) -> Vec<std::path::PathBuf> {
    let Some(pattern) = pattern.to_str() else {
        return Vec::new();
    };
    let is_wanted = |path: &std::path::PathBuf| if pattern.ends_with('/') { path.is_dir() } else { path.is_file() };
    let mut found: Vec<_> = glob::glob(pattern).into_iter().flatten().flatten().filter(is_wanted).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_no_file_and_is_not_waited_for() {
        let root = tempfile::tempdir().expect("a folder");
        let pipe = root.path().join("service.toml");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("a pipe");
        assert_eq!(read(&pipe), Err("it is not a file".to_owned()));
        assert_eq!(read(root.path()), Err("it is not a file".to_owned()));
    }

    #[test]
    fn a_pattern_finds_files_and_one_with_a_slash_at_its_end_folders() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("odd [name]");
        std::fs::create_dir_all(folder.join("migrations")).expect("a folder");
        std::fs::write(folder.join("service.toml"), "").expect("a file");
        std::os::unix::fs::symlink("migrations", folder.join("link")).expect("a link");
        let escaped = glob::Pattern::escape(&folder.to_string_lossy());
        let found = |rest: &str| {
            let found = matches(Path::new(&format!("{escaped}/{rest}")));
            found.iter().map(|path| path.strip_prefix(&folder).expect("inside").to_path_buf()).collect::<Vec<_>>()
        };
        assert_eq!(found("*"), [Path::new("service.toml")]);
        assert_eq!(found("migrations/"), [Path::new("migrations")]);
        assert_eq!(found("link/"), [Path::new("link")]);
        for missing in ["service.toml/", "gone/", "gone/deeper/", "gone"] {
            assert!(found(missing).is_empty(), "{missing}");
        }
    }
}
