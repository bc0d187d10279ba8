//! One process of the data plane, spawned or found: its life by a pidfd, its words over its socket.

use std::fs::{File, Permissions, set_permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::plane::Config;
use crate::plane::held::Held;
use crate::plane::wire::{Hello, PROTOCOL, Reader, Version};

/// The variable in the environment of a process that holds the path of its socket.
pub(crate) const MARK: &str = "ATOLL_PLANE";

/// How the names of sockets begin and end; between is what makes each unique, the oldest first.
pub(crate) const SOCKET_NAME: (&str, &str) = ("plane-", ".sock");

/// What of the daemon's environment the process gets.
const PASSED: [&str; 4] = ["ATOLL_LOG", "LD_LIBRARY_PATH", "RUST_BACKTRACE", "TZ"];

/// How long SIGKILL may take. Longer only while something holds the process up: a freezer, say.
const KILL_MAX: Duration = Duration::from_secs(2);

/// A process, whoever started it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    /// To be reaped by us.
    child: Option<Child>,
    pub(crate) socket: PathBuf,
}

/// Means this very process, and no later one of the same number.
#[derive(Debug)]
pub(crate) struct Killer(Arc<AsyncFd<OwnedFd>>);

impl Killer {
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&*self.0, Signal::KILL);
    }
}

/// A connection to a process that has said who it is.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) stream: Arc<UnixStream>,
    pub(crate) reader: Reader,
    pub(crate) hello: Hello,
    pub(crate) held: Held,
}

/// Why a process cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Mute {
    #[error("its protocol {0} is unknown, this version knows {PROTOCOL}")]
    Protocol(u32),
    #[error("it does not answer")]
    Timeout,
    #[error("its socket fails")]
    Socket(#[from] io::Error),
}

impl Process {
    /// Starts one. It is to be told what to do over its socket, which listens from the beginning.
    pub(crate) fn spawn(config: &Config) -> io::Result<Self> {
        let (head, tail) = SOCKET_NAME;
        let socket = config.folder.join(format!("{head}{}{tail}", kit::ids::unique()));
        let name = kit::socket::name(&socket)?;
        let listener = UnixListener::bind(&name.path)?;
        let spawned = set_permissions(&socket, Permissions::from_mode(0o600))
            .and_then(|()| Self::execute(config, &socket, listener))
            .and_then(|child| {
                let pid = Pid::from_child(&child);
                Ok((watch(pid)?, pid, child))
            });
        match spawned {
            Ok((pidfd, pid, child)) => Ok(Self { pid, pidfd, child: Some(child), socket }),
            Err(error) => {
                let _ = std::fs::remove_file(&socket);
                Err(error)
            }
        }
    }

    fn execute(config: &Config, socket: &Path, listener: UnixListener) -> io::Result<Child> {
        let stderr = File::options().create(true).append(true).open(&config.stderr)?;
        let mut command = Command::new(&config.program);
        command.arg0(&config.name).args(&config.arguments).env_clear().env(MARK, socket).current_dir("/");
        command.envs(PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // A group of its own: what a terminal or the daemon's death sends to the daemon's group does not reach it.
        command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(stderr).process_group(0);
        command.spawn()
    }

    /// Watches one that somebody else has started.
    pub(crate) fn found(pid: Pid, socket: PathBuf) -> io::Result<Self> {
        Ok(Self { pid, pidfd: watch(pid)?, child: None, socket })
    }

    /// Connects, and hears who it is.
    pub(crate) async fn connect(&self, bound: Duration) -> Result<Link, Mute> {
        let introduction = async {
            let name = kit::socket::name(&self.socket)?;
            let stream = Arc::new(UnixStream::connect(&name.path).await?);
            let mut reader = Reader::new(Arc::clone(&stream));
            let frame = reader.frame().await?;
            let Version { protocol } = serde_json::from_slice(&frame).map_err(io::Error::from)?;
            if protocol != PROTOCOL {
                return Err(Mute::Protocol(protocol));
            }
            let hello: Hello = serde_json::from_slice(&frame).map_err(io::Error::from)?;
            let held = Held::receive(&mut reader, hello.listeners.clone())?;
            Ok(Link { stream, reader, hello, held })
        };
        timeout(bound, introduction).await.unwrap_or(Err(Mute::Timeout))
    }

    /// Returns when it has ended. Cancel safe.
    pub(crate) async fn ended(&self) {
        // A pidfd is readable from the end of its process on (pidfd_open(2)).
        if self.pidfd.ready(Interest::READABLE).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Nothing when it has ended already.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&*self.pidfd, signal);
    }

    /// Kills it from wherever.
    pub(crate) fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.pidfd))
    }

    /// Asks it to end, waits, and kills it.
    pub(crate) async fn stop(mut self, grace: Duration) {
        self.signal(Signal::TERM);
        if timeout(grace, self.ended()).await.is_err() {
            self.signal(Signal::KILL);
            if timeout(KILL_MAX, self.ended()).await.is_err() {
                // It is killed the moment that it may run again; nobody waits for that.
                return;
            }
        }
        self.bury();
    }

    /// Whether somebody has stopped it (SIGSTOP): it answers nothing then, however little the machine has to do.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).unwrap_or_default();
        // The name is in parentheses and may hold anything (proc(5)).
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Says how it has ended, where that can be known. To be called once it has.
    pub(crate) fn bury(&mut self) -> String {
        let _ = std::fs::remove_file(&self.socket);
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => status.to_string(),
            Some(Err(error)) => error.to_string(),
            None => "it was started by another daemon".to_owned(),
        }
    }
}

#[expect(unsafe_code, reason = "tokio has no other way to wait for a pidfd")]
fn watch(pid: Pid) -> io::Result<Arc<AsyncFd<OwnedFd>>> {
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // Safety: an `OwnedFd` is open, and the same descriptor, for as long as it lives, and `AsyncFd` owns it.
    let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    Ok(Arc::new(watched?))
}
