//! The data plane as a process of its own, so that a daemon may die, be killed or be upgraded and no request fails.
//! [`serve`] is the process; [`bind`], [`Bound::run`] and [`Handle`] are the daemon's side. Both hold every listening
//! socket: while one of them is away, the kernel goes on queueing connections for it. They talk over a Unix socket in the
//! folder of [`Config`], at which the process listens, so that each next daemon finds it. Which process belongs to it is
//! seen by a mark in its environment: no list of processes could be stale, damaged or of another version.
//!
//! Starting → (accepts) Serving → (replaced) Retiring → gone. One that dies is followed at once, on the same sockets; one
//! that does not answer is killed, and followed likewise.

mod adopt;
mod bound;
mod handle;
mod held;
mod life;
mod log;
mod process;
mod read;
mod serve;
mod stories;
mod wire;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::serde::{Deserialize, Serialize};

use crate::config::Limits;

pub use adopt::{Adopted, adopt, stop};
pub use bound::{Bound, bind};
pub use handle::{Handle, Loss};
pub use serve::{Serve, serve};

/// How to run the process, and what it is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is executed; it calls [`serve`] with [`Serve::inherited`]. `/proc/self/exe` is this very program, even when
    /// its file has been replaced.
    pub program: PathBuf,
    /// The name that the process is shown by.
    pub name: String,
    pub arguments: Vec<OsString>,
    /// Where the sockets of the processes are. Private to the user: whoever reaches it commands the data plane.
    pub folder: PathBuf,
    /// Name and address of every listener. Port 0 asks the kernel for one.
    pub listeners: Vec<(String, SocketAddr)>,
    /// Threads, each with sockets of its own. At least 1; 0 counts as 1.
    pub cores: usize,
    pub limits: Limits,
    pub access_log: Option<AccessLog>,
    /// Takes what the process writes to standard error, a panic for example.
    pub stderr: PathBuf,
    /// How long requests may go on at the end of [`Bound::run`]; then they are cut.
    pub drain_max: Duration,
    /// The same for a process that was replaced: downloads and tunnels finish there.
    pub retire_max: Duration,
}

/// Where the process writes one line for each request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    pub path: PathBuf,
    /// A file that has reached this size is rotated.
    pub file_bytes_max: u64,
    /// Files in all.
    pub files_max: u32,
}

/// Tells programs apart: the version, and which file it is.
fn build(program: &Path) -> io::Result<String> {
    let file = std::fs::metadata(program)?;
    let (device, inode, seconds, nanos) = (file.dev(), file.ino(), file.mtime(), file.mtime_nsec());
    Ok(format!("{} {device}:{inode} {seconds}.{nanos:09}", env!("CARGO_PKG_VERSION")))
}
