//! The data plane's process, from both sides: what the daemon starts it with, and what it is when it was started.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kit::Chain;
use proxy::plane::{AccessLog, Config, Loss, Serve, serve};
use rustix::process::{Resource, getrlimit};
use tokio::sync::broadcast::error::RecvError;

use crate::daemon::{Control, log};
use crate::project::Project;

/// The hidden command: `atoll proxy LOG`.
pub const COMMAND: &str = "proxy";

/// How long requests that were accepted before the stop may go on once no service is left.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long downloads and tunnels of a process that was replaced may go on.
const RETIRE_MAX: Duration = Duration::from_secs(10 * 60);

/// One file of the access log, and files in all.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
const FILES_MAX: u32 = 4;

/// Files that the process keeps for everything but connections and listeners.
const OPEN_FILES_RESERVED: usize = 256;

/// What the daemon starts the process with.
pub fn config(project: &Project, listeners: Vec<(String, SocketAddr)>, limits: &proxy::Limits) -> Config {
    let cores = cores();
    Config {
        // The very program that runs, whatever has been put in the place of its file.
        program: PathBuf::from("/proc/self/exe"),
        name: "atoll".to_owned(),
        arguments: vec![COMMAND.into(), project.proxy_log().into()],
        folder: project.run(),
        limits: affordable(limits, listeners.len()),
        listeners,
        cores,
        access_log: Some(AccessLog {
            path: project.logs().join("access.jsonl"),
            file_bytes_max: FILE_BYTES_MAX,
            files_max: FILES_MAX,
        }),
        stderr: project.proxy_log(),
        drain_max: DRAIN_MAX,
        retire_max: RETIRE_MAX,
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// As many connections as were asked for, but no more than there are descriptors: two a connection and two a listening
/// socket, of those that this process and so its child may have.
pub fn affordable(wanted: &proxy::Limits, listeners: usize) -> proxy::Limits {
    let sockets = listeners.saturating_mul(cores());
    let open_files = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    let others = sockets.saturating_mul(2).saturating_add(OPEN_FILES_RESERVED);
    let affordable = open_files.map_or(usize::MAX, |limit| limit.saturating_sub(others) / 2);
    proxy::Limits { connections_max: wanted.connections_max.min(affordable.max(1)), ..wanted.clone() }
}

/// What is told of a process that could not be adopted.
pub(super) fn left(Loss { pid, how }: &Loss) -> String {
    format!("the data plane, pid {pid}, was left by a former daemon and is stopped: {how}")
}

/// Has the history tell of every process that is lost, until the application has drained.
pub(super) async fn tell_losses(control: Arc<Control>) {
    let (mut losses, mut drained) = (control.proxy.losses(), control.drained.clone());
    loop {
        tokio::select! {
            loss = losses.recv() => match loss {
                Ok(Loss { pid, how }) => {
                    let message = format!("the data plane, pid {pid}, is lost and another one is started: {how}");
                    control.history.say("data_plane_lost", message);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = drained.wait_for(|drained| *drained) => return,
        }
    }
}

/// The whole life of the process. Entered before the command line is looked at: it needs nothing of it.
pub fn main(log: Option<OsString>) -> ExitCode {
    if let Some(path) = log {
        log::begin(path.into());
    }
    let served = Serve::inherited().map_err(|error| error.to_string());
    match served.and_then(|config| serve(config).map_err(|error| Chain(&error).to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the data plane ends");
            ExitCode::from(crate::EXIT_BUG)
        }
    }
}
