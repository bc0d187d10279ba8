//! The folder of an instance, `instances/<service>.<index>/`: the socket of its shim, `state.json` while it runs,
//! `exit.json` once it has ended and until a daemon has heard of it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::wire::{Ended, Identity, ProcessId, Started, VERSION};

const STATE: &str = "state.json";
const EXIT: &str = "exit.json";
const SOCKET: &str = "socket";

/// What is left of a write that was broken off, and what could not be read.
const NEW: &str = ".new";
const DAMAGED: &str = ".damaged";

/// Limit: a larger file is none of ours. The last lines make 40 KiB at most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where one life after the other of an instance is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// `state.json`: what runs, for the case that its shim is killed. Lost with the machine, hence not synced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) version: u32,
    /// A pid and a start time mean nothing after a reboot.
    pub(crate) boot_id: String,
    pub(crate) identity: Identity,
    pub(crate) shim: ProcessId,
    pub(crate) started: Started,
    /// Where its control groups are.
    #[serde(default)]
    pub(crate) groups: Vec<PathBuf>,
}

/// `exit.json`: how a life ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Past {
    pub(crate) version: u32,
    pub(crate) boot_id: String,
    pub(crate) identity: Identity,
    pub(crate) started: Started,
    pub(crate) ended: Ended,
    pub(crate) last_lines: Vec<String>,
}

/// What a file holds.
#[derive(Debug, PartialEq)]
pub(crate) enum Stored<T> {
    Absent,
    Valid(T),
    /// It was moved aside; what is wrong with it, and where it is.
    Damaged(String),
}

/// The version of a form that may be newer than ours.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Folder {
    /// The folder of one instance below the one of a supervisor.
    pub(crate) fn of(run_dir: &Path, service: &str, instance: u32) -> Self {
        Self { path: all(run_dir).join(format!("{service}.{instance}")) }
    }

    /// Removes what earlier daemons have left and nobody reads: files that were moved aside, and said to be, by one before
    /// this, beginnings of files, and empty folders that are no instance's. Before anything else is done here.
    pub(crate) fn tidy_all(run_dir: &Path) {
        for (folder, ..) in Self::load_all(run_dir) {
            for name in [STATE, EXIT].iter().flat_map(|name| [NEW, DAMAGED].map(|end| format!("{name}{end}"))) {
                let _ = fs::remove_file(folder.path.join(name));
            }
        }
        for entry in fs::read_dir(all(run_dir)).into_iter().flatten().flatten() {
            // Fails for what is not empty: a file of a living instance, or something that somebody else keeps there.
            let _ = fs::remove_dir(entry.path());
        }
    }

    /// All there are, with the service and index that their names say. Other names are not ours.
    pub(crate) fn load_all(run_dir: &Path) -> Vec<(Self, String, u32)> {
        let entries = fs::read_dir(all(run_dir)).into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| {
            let name = entry.file_name();
            let (service, instance) = name.to_str()?.rsplit_once('.')?;
            Some((Self { path: entry.path() }, service.to_owned(), instance.parse().ok()?))
        });
        named.collect()
    }

    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it, for this user alone, with nothing of a former life in it.
    pub(crate) fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        for name in [STATE, EXIT, SOCKET] {
            match fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what a life left in it, and the folder unless something else is there.
    pub(crate) fn clear(&self) {
        // What cannot be removed is found, and said, by the next daemon.
        let _ = self.make().and_then(|()| fs::remove_dir(&self.path));
    }

    pub(crate) fn listen(&self) -> io::Result<UnixListener> {
        self.with_socket(|path| UnixListener::bind(path))
    }

    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        self.with_socket(|path| UnixStream::connect(path))
    }

    /// Through the open folder: an address holds 107 bytes, a path may be longer (unix(7)).
    fn with_socket<T>(&self, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let folder = File::open(&self.path)?;
        with(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET))
    }

    pub(crate) fn store_state(&self, state: &State) -> io::Result<()> {
        let beside = self.path.join(format!("{STATE}{NEW}"));
        fs::write(&beside, text(state)).and_then(|()| fs::rename(&beside, self.path.join(STATE)))
    }

    /// On disk when this returns.
    pub(crate) fn store_exit(&self, past: &Past) -> io::Result<()> {
        kit::file::store_atomic(&self.path.join(EXIT), &text(past))
    }

    pub(crate) fn load_state(&self) -> Stored<State> {
        load(&self.path.join(STATE))
    }

    /// What the state file says, if it can be understood; it stays where it is.
    pub(crate) fn peek_state(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.path.join(STATE)).ok()?).ok()
    }

    pub(crate) fn load_exit(&self) -> Stored<Past> {
        load(&self.path.join(EXIT))
    }
}

fn all(run_dir: &Path) -> PathBuf {
    std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned()).join("instances")
}

fn text(content: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(content).expect("these have only strings and numbers")
}

fn load<T: DeserializeOwned>(path: &Path) -> Stored<T> {
    let why = match read(path) {
        Ok(content) => match serde_json::from_slice::<Versioned>(&content) {
            Ok(Versioned { version }) if version != VERSION => format!("its version {version} is unknown"),
            _ => match serde_json::from_slice(&content) {
                Ok(content) => return Stored::Valid(content),
                Err(error) => error.to_string(),
            },
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Stored::Absent,
        Err(error) => error.to_string(),
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(DAMAGED);
    let what = match fs::rename(path, &beside) {
        Ok(()) => format!("moved to {}", Path::new(&beside).display()),
        Err(error) => format!("not moved: {error}"),
    };
    Stored::Damaged(format!("{}: {why}; {what}", path.display()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_understood_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path(), "a", 0);
        folder.make().unwrap();
        assert_eq!(folder.load_state(), Stored::Absent);
        let path = folder.path().join(STATE);
        for content in ["", "{", "{\"version\":2}", "{\"version\":1}", "[1]", "\u{0}", "{\"version\":1,\"boot_id\":3}"]
        {
            fs::write(&path, content).unwrap();
            assert!(matches!(folder.load_state(), Stored::Damaged(why) if why.contains("moved to")), "{content}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_socket_deep_in_a_tree_can_be_bound_and_reached() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        let folder = Folder::of(&deep, "a", 0);
        folder.make().unwrap();
        let _listener = folder.listen().unwrap();
        folder.connect().unwrap();
        assert_eq!(Folder::load_all(&deep), [(folder.clone(), "a".to_owned(), 0)]);
        folder.clear();
        assert_eq!(Folder::load_all(&deep), []);
    }
}
