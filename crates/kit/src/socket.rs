//! Unix sockets at paths of any length.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// `sockaddr_un` holds 108 bytes, the last of them zero (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// A name for the socket that fits into an address, and what must be kept open while the name is used.
#[derive(Debug)]
pub struct Name {
    /// What to bind or to connect to.
    pub path: PathBuf,
    _directory: Option<File>,
}

/// Gives `path` itself, or a short way to it through its open folder in `/proc/self/fd`.
///
/// # Errors
/// Those of opening the folder, which must exist.
pub fn name(path: &Path) -> io::Result<Name> {
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok(Name { path: path.to_owned(), _directory: None });
    }
    let (Some(directory), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("a socket needs a folder and a name"));
    };
    let directory = File::open(directory)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(file);
    Ok(Name { path: short, _directory: Some(directory) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_deep_in_a_tree_can_be_bound_and_reached() {
        let root = std::env::temp_dir().join(crate::ids::unique());
        let deep = root.join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).expect("folders");
        let path = deep.join("atoll.sock");
        let bound = name(&path).expect("a name");
        let _listener = std::os::unix::net::UnixListener::bind(&bound.path).expect("bound");
        assert!(path.exists());
        std::os::unix::net::UnixStream::connect(&name(&path).expect("a name").path).expect("connected");
        std::fs::remove_dir_all(root).expect("removed");
    }
}
