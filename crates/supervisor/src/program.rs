//! Finds the program of a command. Used before a spawn, and by whoever wants to know beforehand whether it would work.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a program cannot be run. Texts for the user, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot run `{program}`: not found in PATH; install it, or write its full path")]
    NotInPath { program: String },
    #[error("cannot run `{program}`: {} does not exist; build it, or correct its path", path.display())]
    NoFile { program: String, path: PathBuf },
    #[error("cannot run `{program}`: {} is not executable; try `chmod +x`", path.display())]
    NotExecutable { program: String, path: PathBuf },
}

/// Finds a program as a shell would, in the PATH that it is given itself (`path`, with colons), relative to its own
/// working directory: exactly what is started for the first word of a command. Blocking.
///
/// # Errors
/// No executable file is there.
pub fn find(program: &str, working_dir: &Path, path: Option<&OsStr>) -> Result<PathBuf, Error> {
    let is_executable = |path: &Path| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let program = program.to_owned();
    if program.contains('/') {
        let path = working_dir.join(&program);
        return match is_executable(&path) {
            true => Ok(path),
            false if path.exists() => Err(Error::NotExecutable { program, path }),
            false => Err(Error::NoFile { program, path }),
        };
    }
    let mut candidates =
        std::env::split_paths(path.unwrap_or_default()).map(|dir| working_dir.join(dir).join(&program));
    candidates.find(|path| is_executable(path)).ok_or(Error::NotInPath { program })
}
