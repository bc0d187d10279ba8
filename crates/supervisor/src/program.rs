//! Finds the program of a command, and says why one that was found cannot be run. Used around a spawn, and by whoever
//! wants to know beforehand whether it would work.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a program cannot be run. Texts for the user, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot run `{program}`: not found in PATH; install it, or write its full path")]
    NotInPath { program: String },
    #[error("cannot run `{program}`: {} does not exist; build it, or correct its path", path.display())]
    NoFile { program: String, path: PathBuf },
    #[error("cannot run `{program}`: {} is a directory; name the program in it", path.display())]
    Directory { program: String, path: PathBuf },
    #[error("cannot run `{program}`: {} is not executable; try `chmod +x`", path.display())]
    NotExecutable { program: String, path: PathBuf },
    #[error(
        "cannot run `{program}`: {}, or the interpreter that it names, may not be run by this user; look at its mode and \
         owner, and whether it lies on a file system mounted `noexec`",
        path.display()
    )]
    Denied { program: String, path: PathBuf },
    #[error(
        "cannot run `{program}`: the `#!` line of {} names {interpreter}, which does not exist; install it, or correct \
         the line",
        path.display()
    )]
    Interpreter { program: String, path: PathBuf, interpreter: String },
    #[error("cannot run `{program}`: the `#!` line of {} names no interpreter; correct it", path.display())]
    NoInterpreter { program: String, path: PathBuf },
    #[error(
        "cannot run `{program}`: the `#!` line of {} ends with a carriage return; save the file with line ends of Unix (LF)",
        path.display()
    )]
    CarriageReturn { program: String, path: PathBuf },
    #[error(
        "cannot run `{program}`: {} needs a dynamic loader that is not on this machine; build it here, or statically",
        path.display()
    )]
    NoLoader { program: String, path: PathBuf },
    #[error("cannot run `{program}`: {} is a program for another kind of machine; build it for this one", path.display())]
    OtherMachine { program: String, path: PathBuf },
    #[error(
        "cannot run `{program}`: {} has no `#!` line and is no program of this machine; add the line, or build it",
        path.display()
    )]
    NoFormat { program: String, path: PathBuf },
    #[error(
        "cannot run `{program}`: {} is open for writing in another process; let that end, and start again",
        path.display()
    )]
    Busy { program: String, path: PathBuf },
    #[error("cannot run `{program}`")]
    Other { program: String, source: io::Error },
}

/// Limit: the kernel reads no more of a file to find out how to run it (BINPRM_BUF_SIZE).
const HEAD_BYTES_MAX: u64 = 256;

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
        return match (is_executable(&path), path.try_exists()) {
            (true, _) => Ok(path),
            (false, Ok(true)) if path.is_dir() => Err(Error::Directory { program, path }),
            (false, Ok(true)) => Err(Error::NotExecutable { program, path }),
            (false, Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(Error::Denied { program, path })
            }
            (false, _) => Err(Error::NoFile { program, path }),
        };
    }
    let mut candidates =
        std::env::split_paths(path.unwrap_or_default()).map(|dir| working_dir.join(dir).join(&program));
    candidates.find(|path| is_executable(path)).ok_or(Error::NotInPath { program })
}

/// Says why the kernel refused to run what [`find`] has found, as execve(2) tells it. Blocking.
pub(crate) fn explain(program: &str, path: &Path, working_dir: &Path, source: io::Error) -> Error {
    let (program, path) = (program.to_owned(), path.to_owned());
    let head = Head::load(&path);
    match (source.kind(), head) {
        (io::ErrorKind::ExecutableFileBusy, _) => Error::Busy { program, path },
        (io::ErrorKind::PermissionDenied, _) => Error::Denied { program, path },
        (io::ErrorKind::NotFound, Head::Script(line)) if line.ends_with('\r') => {
            Error::CarriageReturn { program, path }
        }
        (io::ErrorKind::NotFound, Head::Script(line)) => {
            let interpreter = line.split_ascii_whitespace().next().unwrap_or_default().to_owned();
            match working_dir.join(&interpreter).exists() {
                // What it names is there, and needs something itself that is not.
                true => Error::Other { program, source },
                false => Error::Interpreter { program, path, interpreter },
            }
        }
        (io::ErrorKind::NotFound, Head::Elf) => Error::NoLoader { program, path },
        _ if source.raw_os_error() != Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            Error::Other { program, source }
        }
        (_, Head::Script(_)) => Error::NoInterpreter { program, path },
        (_, Head::Elf) => Error::OtherMachine { program, path },
        (_, Head::Other) => Error::NoFormat { program, path },
    }
}

/// How a file begins.
enum Head {
    /// The rest of its `#!` line.
    Script(String),
    Elf,
    /// Also one that cannot be read.
    Other,
}

impl Head {
    fn load(path: &Path) -> Self {
        let mut head = Vec::new();
        let read = File::open(path).and_then(|file| file.take(HEAD_BYTES_MAX).read_to_end(&mut head));
        if read.is_err() {
            return Self::Other;
        }
        match head.strip_prefix(b"#!") {
            Some(rest) => {
                let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
                Self::Script(String::from_utf8_lossy(line).into_owned())
            }
            None if head.starts_with(b"\x7fELF") => Self::Elf,
            None => Self::Other,
        }
    }
}
