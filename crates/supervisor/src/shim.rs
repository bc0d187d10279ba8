//! The shim: one small process beside each instance, so that what runs, what it writes and how it ends outlive the
//! daemon. It spawns the instance, holds its pipes, writes its log, reaps orphans, stores the exit, and answers whoever
//! connects to the socket in the instance's folder. No runtime and no thread: one loop around poll(2).
//! The other end of the socket is `link`.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{getpid, set_child_subreaper, setsid};
use rustix::stdio::{dup2_stdin, dup2_stdout, stdin, stdout};

mod family;
pub(crate) mod folder;
mod log;
mod peer;
mod run;
pub(crate) mod wire;

use wire::Instructions;

/// The first argument of a process that is a shim; the second is its instance, for people.
pub const WORD: &str = "shim";

/// Lowest number of a descriptor that is none of the standard ones.
const FD_MIN: i32 = 3;

/// Whether this process was started as a shim: asked at the very beginning of `main`, before anything else happens.
#[must_use]
pub fn is_asked() -> bool {
    std::env::args_os().nth(1).as_deref() == Some(OsStr::new(WORD))
}

/// Runs one life of an instance to its end. The instructions are read from standard input, and standard output is the
/// socket that it answers on. To be called when [`is_asked`] says so, and the process ends with what it returns.
#[must_use]
pub fn main() -> ExitCode {
    match begin() {
        Ok((instructions, listener)) => {
            run::run(instructions, listener);
            ExitCode::SUCCESS
        }
        Err(why) => {
            // Limit: one line in the shims' common log.
            eprintln!("this is for the daemon to start: {why}");
            ExitCode::from(2)
        }
    }
}

fn begin() -> Result<(Instructions, UnixListener), String> {
    let text = |error: std::io::Error| error.to_string();
    let take = |fd: std::os::fd::BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, FD_MIN).map_err(|errno| text(errno.into()));
    let (told, socket) = (take(stdin())?, take(stdout())?);
    let instructions = read(told)?;
    let nothing = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(text)?;
    dup2_stdin(&nothing).and_then(|()| dup2_stdout(&nothing)).map_err(|errno| text(errno.into()))?;
    // A session of its own: neither Ctrl-C nor the end of the daemon's group reaches it. It fails for the leader of a
    // group only, which a child that was just forked is not.
    setsid().map_err(|errno| format!("no session of its own: {errno}"))?;
    set_child_subreaper(Some(getpid())).map_err(|errno| format!("cannot adopt orphans: {errno}"))?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true).map_err(text)?;
    name_process();
    Ok((instructions, listener))
}

fn read(told: OwnedFd) -> Result<Instructions, String> {
    if rustix::termios::isatty(told.as_fd()) {
        return Err("its instructions come from no terminal".to_owned());
    }
    let mut text = Vec::new();
    std::fs::File::from(told).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let instructions: Instructions = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    match instructions.version {
        wire::VERSION => Ok(instructions),
        version => Err(format!("instructions of version {version} are unknown")),
    }
}

/// It was started as /proc/self/exe: the name that `ps` and `top` show is its own.
fn name_process() {
    let _ = std::fs::write("/proc/self/comm", "atoll-shim");
}
