//! Tells when a database may have changed: inotify (inotify(7)) on its folder, as SQLite writes the file itself or the
//! `-wal` and `-journal` beside it, and the folder is what stays when a database is made anew. Callers look at times
//! besides: a folder may be made later, and changes through `mmap` or another machine are never told.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Limit: bytes of notices read at once.
const BUFFER_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Wake {
    /// None where this user has no instance of inotify left: then nothing is ever told.
    notices: Option<AsyncFd<OwnedFd>>,
    folder: PathBuf,
    file: Vec<u8>,
}

impl Wake {
    pub(super) fn new(database: &Path) -> Self {
        let notices = open();
        if let Err(error) = &notices {
            tracing::warn!(database = %database.display(), %error, "changes are looked for once a second only");
        }
        let wake = Self {
            notices: notices.ok(),
            folder: database.parent().unwrap_or(Path::new("/")).to_owned(),
            file: database.file_name().unwrap_or_default().as_bytes().to_vec(),
        };
        wake.arm();
        wake
    }

    /// Watches the folder that is there now. Cheap, and without effect when it is watched already.
    pub(super) fn arm(&self) {
        let Some(notices) = &self.notices else { return };
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        // A folder that is not there has nothing to tell of.
        let _ = inotify::add_watch(notices, &self.folder, flags);
    }

    /// Returns when the database may have changed. Cancel safe.
    pub(super) async fn changed(&self) {
        let Some(notices) = &self.notices else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = notices.readable().await else { return std::future::pending().await };
            let has_changed = self.take(notices.get_ref());
            ready.clear_ready();
            if has_changed {
                return;
            }
        }
    }

    /// Reads all notices there are.
    fn take(&self, notices: &OwnedFd) -> bool {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(notices, &mut buffer);
        let mut has_changed = false;
        loop {
            match reader.next() {
                Ok(notice) => {
                    let name = notice.file_name().map(std::ffi::CStr::to_bytes);
                    has_changed |= notice.events().contains(ReadFlags::QUEUE_OVERFLOW)
                        || name.is_some_and(|name| self.is_of_database(name));
                }
                Err(Errno::INTR) => {}
                Err(_) => return has_changed,
            }
        }
    }

    fn is_of_database(&self, name: &[u8]) -> bool {
        let suffix = name.strip_prefix(self.file.as_slice()).map(OsStr::from_bytes);
        suffix.is_some_and(|suffix| suffix.is_empty() || suffix == "-wal" || suffix == "-journal")
    }
}

#[expect(unsafe_code, reason = "watching a descriptor that is owned")]
fn open() -> std::io::Result<AsyncFd<OwnedFd>> {
    let notices = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    // Safety: an `OwnedFd` is open, and the same descriptor, for as long as it lives, and `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(notices, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_database_and_its_logs_are_told_of_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let wake = Wake::new(&folder.path().join("a.db"));
        for name in ["a.db", "a.db-wal", "a.db-journal"] {
            std::fs::write(folder.path().join(name), "x").expect("written");
            tokio::time::timeout(Duration::from_secs(10), wake.changed()).await.expect("told");
        }
        for name in ["a.db-shm", "b.db", "a.dbx"] {
            std::fs::write(folder.path().join(name), "x").expect("written");
        }
        assert!(!wake.take(wake.notices.as_ref().expect("inotify").get_ref()));
    }
}
