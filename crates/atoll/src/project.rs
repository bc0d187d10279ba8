//! One application's folder: where its manifest is, what `.atoll/` holds, and how both are read.
//! Everything that touches the disk on behalf of a manifest happens here; what it means is `manifest`'s.

mod credentials;
mod kept;
mod load;
mod ports;
mod record;
pub mod scale;
mod switches;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::socket;
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

pub use credentials::Credentials;
pub use load::{Loaded, Variables, process};
pub use ports::Claims;
pub use record::{Accepted, RETIRING_MAX, Record, Stored as StoredRecord};
pub use switches::Switched;

/// The name that is searched for, upwards from the present folder.
pub const MANIFEST: &str = "atoll.toml";

/// How often a daemon looks whether its folder is still there.
const FOLDER_INTERVAL: Duration = Duration::from_secs(1);

/// Version of what `.atoll/` holds. A newer one is refused, never guessed at.
const FORMAT: u32 = 1;

#[derive(Debug, Error)]
pub enum Error {
    #[error("there is no {MANIFEST} in {} or in any folder above it", from.display())]
    NotFound { from: PathBuf },
    #[error("cannot read the manifest {}", path.display())]
    Manifest { path: PathBuf, source: io::Error },
    #[error("cannot use the state folder {}", path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("{} was written by a newer version of atoll (format {found}, this version knows {FORMAT})", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("{} is damaged: it should hold a format version, but holds {found:?}", path.display())]
    Damaged { path: PathBuf, found: String },
    #[error("another daemon runs this application")]
    Locked,
}

impl Error {
    /// One thing to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => {
                Some("name the manifest with `-f FILE`, or its folder, as in `atoll up examples/store`".into())
            }
            Self::Newer { .. } => Some("use that newer version, or move the folder away to start afresh".into()),
            Self::Damaged { path, .. } => {
                Some(format!("if the data under it is good, write `{FORMAT}` into {}", path.display()))
            }
            Self::Locked => Some("`atoll ps` shows what it runs, `atoll down` stops it".into()),
            Self::Manifest { .. } | Self::State { .. } => None,
        }
    }
}

/// An application on this machine.
#[derive(Clone, Debug)]
pub struct Project {
    /// The root manifest, absolute.
    pub manifest: PathBuf,
    /// `.atoll/` beside it.
    pub state: PathBuf,
}

impl Project {
    /// Finds the manifest: `file` if given, else the folder `directory` or, without one, the nearest upwards.
    pub fn find(file: Option<&Path>, directory: Option<&Path>) -> Result<Self, Error> {
        let path = match (file, directory) {
            (Some(file), _) if file.is_dir() => file.join(MANIFEST),
            (Some(file), _) => file.to_owned(),
            (None, Some(directory)) => directory.join(MANIFEST),
            (None, None) => nearest()?,
        };
        let manifest = fs::canonicalize(&path).map_err(|source| Error::Manifest { path, source })?;
        // Canonical paths of files always have a parent.
        let state = manifest.with_file_name(".atoll");
        Ok(Self { manifest, state })
    }

    /// The folder that relative paths of the root manifest resolve against.
    pub fn root(&self) -> &Path {
        self.manifest.parent().unwrap_or(Path::new("/"))
    }

    pub fn socket(&self) -> PathBuf {
        self.state.join("run/atoll.sock")
    }

    /// Locked by the daemon; holds its pid.
    pub fn lock_file(&self) -> PathBuf {
        self.state.join("run/lock")
    }

    /// Who holds the lock, as that says itself.
    pub fn daemon_pid(&self) -> Option<u32> {
        fs::read_to_string(self.lock_file()).ok()?.trim().parse().ok()
    }

    /// Sockets, the lock, and what runs.
    pub fn run(&self) -> PathBuf {
        self.state.join("run")
    }

    fn ports_file(&self) -> PathBuf {
        self.state.join("ports.json")
    }

    fn credentials_file(&self) -> PathBuf {
        self.state.join("credentials.json")
    }

    fn scale_file(&self) -> PathBuf {
        self.state.join("scale.json")
    }

    fn record_file(&self) -> PathBuf {
        self.run().join("record.json")
    }

    fn switches_file(&self) -> PathBuf {
        self.run().join("switches.json")
    }

    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    pub fn data(&self) -> PathBuf {
        self.state.join("data")
    }

    /// Where the broker keeps its streams.
    pub fn broker_data(&self) -> PathBuf {
        self.data().join("broker")
    }

    /// Where the daemon says what it does.
    pub fn daemon_log(&self) -> PathBuf {
        self.logs().join("daemon.log")
    }

    /// Where the data plane's process says what it does.
    pub fn proxy_log(&self) -> PathBuf {
        self.logs().join("proxy.log")
    }

    /// Makes `.atoll/` and its folders, private to this user.
    pub fn make_folders(&self) -> Result<(), Error> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::State { path, source }
        };
        for folder in [self.state.clone(), self.run(), self.logs(), self.data()] {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(at(&folder))?;
        }
        Ok(())
    }

    /// Checks the version of what `.atoll/` holds, and marks a new one. For whoever holds the lock.
    pub fn check_format(&self) -> Result<(), Error> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::State { path, source }
        };
        let ignore = self.state.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").map_err(at(&ignore))?;
        }
        let format = self.state.join("format");
        match fs::read_to_string(&format) {
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(FORMAT) => Ok(()),
                Ok(found) => Err(Error::Newer { path: self.state.clone(), found }),
                Err(_) => Err(Error::Damaged { path: format, found: text.chars().take(40).collect() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                kit::file::store_atomic(&format, format!("{FORMAT}\n").as_bytes()).map_err(at(&format))
            }
            Err(source) => Err(Error::State { path: format, source }),
        }
    }

    /// Becomes the one daemon of this folder until the returned file is dropped or the process ends.
    pub fn lock(&self) -> Result<File, Error> {
        let path = self.lock_file();
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let mut file = open.map_err(|source| Error::State { path: path.clone(), source })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // For people and scripts; the lock itself is what counts.
                let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                written.map_err(|source| Error::State { path, source }).map(|()| file)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked),
            Err(errno) => Err(Error::State { path, source: errno.into() }),
        }
    }

    /// Returns when the lock is not that of this folder any more: somebody has deleted `.atoll/`, and the next daemon would
    /// know nothing of this one. Looks every second: no kernel event says it for every file system.
    pub async fn taken_away(&self, lock: &File) {
        let same = |held: &fs::Metadata, there: &fs::Metadata| (held.dev(), held.ino()) == (there.dev(), there.ino());
        loop {
            tokio::time::sleep(FOLDER_INTERVAL).await;
            let (Ok(held), there) = (lock.metadata(), fs::metadata(self.lock_file())) else { continue };
            match there {
                Ok(there) if same(&held, &there) => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                _ => return,
            }
        }
    }

    /// Whether a daemon of this folder answers now. Looks at the socket and not at the lock: to try the lock is to hold
    /// it for a moment, in which a daemon could fail to start.
    pub fn is_running(&self) -> bool {
        socket::name(&self.socket()).is_ok_and(|name| UnixStream::connect(&name.path).is_ok())
    }
}

fn nearest() -> Result<PathBuf, Error> {
    let from = std::env::current_dir().map_err(|source| Error::Manifest { path: ".".into(), source })?;
    let found = from.ancestors().map(|folder| folder.join(MANIFEST)).find(|path| path.is_file());
    found.ok_or(Error::NotFound { from })
}
