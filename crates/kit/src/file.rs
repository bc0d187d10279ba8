//! Files that are whole or absent: written beside, synced, renamed.

use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces `path` by `content` so that a crash at any moment leaves the old file or the new one, and the new one
/// is on disk when this returns; others may not read it. Blocking; the directory must exist and `path` must have one writer.
///
/// # Errors
/// Any error of the file system, a full disk included; the old file is then untouched.
pub fn store_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("a file without a directory"))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // State is for the user whose it is.
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_content_replaces_the_old() {
        let directory = std::env::temp_dir().join(crate::ids::unique());
        std::fs::create_dir(&directory).expect("a temporary folder");
        let path = directory.join("state");
        for content in ["one", "two"] {
            store_atomic(&path, content.as_bytes()).expect("stored");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), content);
        }
        assert_eq!(std::fs::read_dir(&directory).expect("listed").count(), 1);
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
