//! One child process with a group of its own: found, spawned, seen to end through its pidfd, signalled, reaped.
//! Used for builds and exec probes and, without a runtime, by the shim for its instance; knows none of them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group, pidfd_open,
    pidfd_send_signal, prlimit, test_kill_process_group, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;

use crate::environment::{Environment, expand};
use crate::status::Exit;
use crate::{procfs, program};

/// Limit: how long SIGKILL may take to clear a group. Longer only in an uninterruptible system call.
const CLEAR_MAX: Duration = Duration::from_secs(2);

/// How often a group is looked at once its leader is gone: the kernel reports the end of a process, never of a group.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Limit: how long a program that somebody has open for writing is waited for: its build, or a copy of it, just ends.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// How often such a program is tried: the kernel does not report the end of writing.
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// The program and its arguments; `${NAME}` expands from `environment`.
    pub(crate) words: Vec<String>,
    pub(crate) working_dir: PathBuf,
    /// All of it: nothing is inherited.
    pub(crate) environment: Environment,
    /// See [`crate::Config::open_files_soft`].
    pub(crate) open_files_soft: Option<u64>,
}

/// Where the output of a child goes.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: Stdio,
    stderr: Stdio,
}

impl Output {
    pub(crate) fn discarded() -> Self {
        Self { stdout: Stdio::null(), stderr: Stdio::null() }
    }

    /// A pipe for each of stdout and stderr, and what they are read from.
    pub(crate) fn apart() -> Result<([io::PipeReader; 2], Self), Error> {
        let pipes = || {
            let ((stdout, to_stdout), (stderr, to_stderr)) = (io::pipe()?, io::pipe()?);
            Ok(([stdout, stderr], Self { stdout: to_stdout.into(), stderr: to_stderr.into() }))
        };
        pipes().map_err(|source| Error::Pipe { source })
    }

    /// One pipe for both: what is read has the order in which it was written.
    pub(crate) fn joined() -> Result<(Receiver, Self), Error> {
        let pipe = || {
            let (output, writer) = pipe()?;
            Ok((output, Self { stdout: writer.try_clone()?.into(), stderr: writer.into() }))
        };
        pipe().map_err(|source| Error::Pipe { source })
    }
}

/// Why a process could not be started. Texts for the user, with what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("its command is empty")]
    Empty,
    #[error("its working_dir {} is no directory; make it, or correct `working_dir`", path.display())]
    WorkingDir { path: PathBuf },
    #[error("its working_dir {} may not be entered by this user; look at its mode and owner", path.display())]
    WorkingDirDenied { path: PathBuf },
    #[error("cannot make a pipe for its output")]
    Pipe { source: io::Error },
    #[error(transparent)]
    Program(#[from] program::Error),
    #[error("cannot watch `{program}` for its end")]
    Watch { program: String, source: io::Error },
}

/// A running child, and the only one who may signal and reap it: its pid cannot be another's before it is reaped.
/// Dropped before that, it is killed with its group: nobody would see its end.
#[derive(Debug)]
pub(crate) struct Process {
    /// Until it is reaped.
    child: Option<Child>,
    group: Group,
    watched: Watched,
}

/// A process whose end is seen, whoever its parent is.
#[derive(Debug)]
pub(crate) struct Watched(AsyncFd<OwnedFd>);

/// A process group, by the pid of its leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group(Pid);

impl Process {
    /// Starts a child: own group, no standard input, exactly the given environment. Waits, for a second at most, while
    /// somebody has the program open for writing.
    ///
    /// # Errors
    /// Everything that keeps it from running; no process is left then.
    pub(crate) async fn spawn(spec: &Spec, output: Output) -> Result<Self, Error> {
        let mut ready = Ready::new(spec, output)?;
        let start = Instant::now();
        let mut child = loop {
            match ready.command.spawn() {
                Err(error) if is_busy(&error) && start.elapsed() < BUSY_MAX => sleep(BUSY_INTERVAL).await,
                spawned => break spawned.map_err(|source| ready.explain(source))?,
            }
        };
        let group = started(&child, spec);
        let watched = Watched::new(group.0).map_err(|source| {
            group.signal(Signal::KILL);
            let _ = child.wait();
            Error::Watch { program: ready.program, source }
        });
        Ok(Self { child: Some(child), group, watched: watched? })
    }

    #[cfg(test)]
    pub(crate) fn pid(&self) -> u32 {
        self.group.0.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn group(&self) -> Group {
        self.group
    }

    /// Returns when the process has ended; it stays a zombie, so that its pid and group remain its own until
    /// [`Process::reap`]. Cancel safe.
    pub(crate) async fn ended(&self) {
        self.watched.ended().await;
    }

    /// Takes the status of a process that has [ended](Process::ended).
    pub(crate) fn reap(mut self) -> Exit {
        let mut child = self.child.take().expect("only `reap` and `drop` take it");
        match child.wait() {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Status(code),
                (None, signal) => Exit::Signal(signal.unwrap_or_default()),
            },
            // Somebody else in this process reaped it: the status is lost, the end is certain.
            Err(_) => Exit::Status(-1),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.group.signal(Signal::KILL);
            // Microseconds: SIGKILL is not asked for its opinion.
            let _ = child.wait();
        }
    }
}

impl Group {
    pub(crate) fn id(self) -> i32 {
        self.0.as_raw_nonzero().get()
    }

    /// The process whose group it is, while that lives.
    pub(crate) fn leader(self) -> Pid {
        self.0
    }

    /// The group of a process of an earlier daemon.
    pub(crate) fn from_id(id: i32) -> Option<Self> {
        // Group 1 and, as `kill(-0)`, group 0 are never ours.
        (id > 1).then(|| Pid::from_raw(id).map(Self))?
    }

    /// Signals every member; nobody may be there any more.
    pub(crate) fn signal(self, signal: Signal) {
        let _ = kill_process_group(self.0, signal);
    }

    /// Whether a member still runs.
    pub(crate) fn is_running(self) -> bool {
        match test_kill_process_group(self.0) {
            Err(rustix::io::Errno::SRCH) => false,
            _ => procfs::has_running_members(self.id()),
        }
    }

    /// Returns when no member runs any more. Unbounded and cancel safe: callers add their own limit.
    pub(crate) async fn ended(self) {
        while self.is_running() {
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Kills until nobody is left, grandchildren included; gives up after two seconds, which only a process in an
    /// uninterruptible system call survives.
    pub(crate) async fn clear(self) {
        let start = Instant::now();
        while self.is_running() && start.elapsed() < CLEAR_MAX {
            // Again each time: a member may have forked between the list and the signal.
            self.signal(Signal::KILL);
            sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Our end of a new pipe, and the child's. Both are closed in every other child.
fn pipe() -> io::Result<(Receiver, io::PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    Ok((Receiver::from_owned_fd(reader.into())?, writer))
}

/// A command that is complete, and what is needed to say why it does not run.
struct Ready<'a> {
    spec: &'a Spec,
    command: Command,
    program: String,
    path: PathBuf,
}

impl<'a> Ready<'a> {
    fn new(spec: &'a Spec, output: Output) -> Result<Self, Error> {
        let words: Vec<String> = spec.words.iter().map(|word| expand(word, &spec.environment)).collect();
        let (program, arguments) = words.split_first().ok_or(Error::Empty)?;
        if !spec.working_dir.is_dir() {
            return Err(Error::WorkingDir { path: spec.working_dir.clone() });
        }
        // Asked beforehand: what `spawn` says does not tell the folder from the program.
        if access(&spec.working_dir, Access::EXEC_OK) == Err(rustix::io::Errno::ACCESS) {
            return Err(Error::WorkingDirDenied { path: spec.working_dir.clone() });
        }
        let search = spec.environment.get(OsStr::new("PATH")).map(|path| path.as_ref());
        let path = program::find(program, &spec.working_dir, search)?;
        let mut command = Command::new(&path);
        command
            .arg0(program)
            .args(arguments)
            .current_dir(&spec.working_dir)
            .env_clear()
            .envs(&spec.environment)
            .stdin(Stdio::null())
            .stdout(output.stdout)
            .stderr(output.stderr)
            .process_group(0);
        Ok(Self { spec, command, program: program.clone(), path })
    }

    fn explain(&self, source: io::Error) -> Error {
        program::explain(&self.program, &self.path, &self.spec.working_dir, source).into()
    }
}

/// Starts a child as [`Process::spawn`] does, for one who has no runtime and sees to its end himself. Blocking.
///
/// # Errors
/// As [`Process::spawn`].
pub(crate) fn spawn_blocking(spec: &Spec, output: Output) -> Result<Group, Error> {
    let mut ready = Ready::new(spec, output)?;
    let start = Instant::now();
    loop {
        match ready.command.spawn() {
            Err(error) if is_busy(&error) && start.elapsed() < BUSY_MAX => std::thread::sleep(BUSY_INTERVAL),
            spawned => {
                return spawned.map(|child| started(&child, spec)).map_err(|source| ready.explain(source));
            }
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ExecutableFileBusy
}

fn started(child: &Child, spec: &Spec) -> Group {
    let group = Group(Pid::from_child(child));
    if let Some(soft) = spec.open_files_soft {
        limit_open_files(group.0, soft);
    }
    group
}

impl Watched {
    /// Watches the process that has this id now.
    pub(crate) fn new(pid: Pid) -> io::Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // Safety: an `OwnedFd` is open, and the same descriptor, for as long as it lives, and `AsyncFd` owns it.
        #[allow(unsafe_code)]
        let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        Ok(Self(watched?))
    }

    /// Returns when the process has ended. Cancel safe.
    pub(crate) async fn ended(&self) {
        if self.0.readable().await.is_err() {
            // The runtime shuts down and drops whoever waits here.
            std::future::pending::<()>().await;
        }
    }

    /// Kills it; it may have ended.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }

    /// Reaps it once it has ended, where it is a child of this process; of another's its parent takes care.
    pub(crate) fn reap(&self) {
        let _ = waitid(WaitId::PidFd(self.0.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Gives a child the soft limit of open files that its user chose. Right after its `exec`, from here: between `fork` and
/// `exec` only code that is `unsafe` could.
fn limit_open_files(pid: Pid, soft: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(soft, |maximum| soft.min(maximum)));
    // One that has ended already needs no limit, and a program that changed its user keeps what it has.
    let _ = prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum });
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn spec(words: &[&str]) -> Spec {
        Spec {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            working_dir: std::env::temp_dir(),
            environment: [("PATH", "/usr/bin:/bin")].iter().map(|(name, value)| (name.into(), value.into())).collect(),
            open_files_soft: None,
        }
    }

    #[tokio::test]
    async fn an_end_is_seen_before_it_is_reaped() {
        for (script, exit) in [("exit 3", Exit::Status(3)), ("kill -9 $$", Exit::Signal(9))] {
            let process = Process::spawn(&spec(&["sh", "-c", script]), Output::discarded()).await.unwrap();
            let pid = i32::try_from(process.pid()).unwrap();
            process.ended().await;
            assert!(procfs::stat(pid).is_some_and(|stat| stat.is_zombie));
            assert_eq!(process.reap(), exit);
        }
    }

    #[tokio::test]
    async fn a_group_is_cleared_with_all_that_its_leader_left() {
        let script = "sh -c \"trap '' TERM HUP; sleep 1000 & wait\" & sleep 1000 & exit 0";
        let process = Process::spawn(&spec(&["sh", "-c", script]), Output::discarded()).await.unwrap();
        let group = process.group();
        process.ended().await;
        process.reap();
        assert!(group.is_running());
        group.clear().await;
        assert!(!group.is_running());
    }

    #[tokio::test]
    async fn a_child_has_the_open_files_that_were_chosen() {
        let script = "for i in $(seq 100); do test \"$(ulimit -Sn)\" = 99 && exit 0; done; exit 1";
        let spec = Spec { open_files_soft: Some(99), ..spec(&["sh", "-c", script]) };
        let process = Process::spawn(&spec, Output::discarded()).await.unwrap();
        process.ended().await;
        assert_eq!(process.reap(), Exit::Status(0));
    }

    #[tokio::test]
    async fn what_cannot_run_says_why() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        for (name, mode, content) in [
            ("text", 0o644, &b"no program"[..]),
            ("plain", 0o755, b"echo hello\n"),
            ("alone", 0o755, b"#!\necho hello\n"),
            ("gone", 0o755, b"#! /usr/bin/nosuch -x\n"),
            ("crlf", 0o755, b"#!/bin/sh\r\necho hello\r\n"),
            ("locked", 0o755, b"#!./text\n"),
            ("foreign", 0o755, b"\x7fELF\x02\x01\x01 and nothing of this machine"),
        ] {
            std::fs::write(dir.path().join(name), content).unwrap();
            std::fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
        }
        for (program, reason) in [
            ("no-such-program", "not found in PATH; install it, or write its full path"),
            ("./absent", "{}/./absent does not exist; build it, or correct its path"),
            ("./folder", "{}/./folder is a directory; name the program in it"),
            ("./text", "{}/./text is not executable; try `chmod +x`"),
            ("./plain", "{}/./plain has no `#!` line and is no program of this machine; add the line, or build it"),
            ("./alone", "the `#!` line of {}/./alone names no interpreter; correct it"),
            (
                "./gone",
                "the `#!` line of {}/./gone names /usr/bin/nosuch, which does not exist; install it, or correct the line",
            ),
            (
                "./crlf",
                "the `#!` line of {}/./crlf ends with a carriage return; save the file with line ends of Unix (LF)",
            ),
            (
                "./locked",
                "{}/./locked, or the interpreter that it names, may not be run by this user; look at its mode and owner, \
                 and whether it lies on a file system mounted `noexec`",
            ),
            ("./foreign", "{}/./foreign is a program for another kind of machine; build it for this one"),
        ] {
            let spec = Spec { working_dir: dir.path().to_owned(), ..spec(&[program]) };
            let error = Process::spawn(&spec, Output::discarded()).await.unwrap_err();
            let reason = reason.replace("{}", &dir.path().display().to_string());
            assert_eq!(kit::Chain(&error).to_string(), format!("cannot run `{program}`: {reason}"));
        }
        let absent = Spec { working_dir: dir.path().join("absent"), ..spec(&["sh"]) };
        let error = Process::spawn(&absent, Output::discarded()).await.unwrap_err();
        assert!(matches!(error, Error::WorkingDir { .. }));
    }

    #[tokio::test]
    async fn a_program_that_is_being_written_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::copy("/bin/true", &path).unwrap();
        let writer = std::fs::File::options().append(true).open(&path).unwrap();
        let spec = Spec { working_dir: dir.path().to_owned(), ..spec(&["./program"]) };
        let error = Process::spawn(&spec, Output::discarded()).await.unwrap_err();
        let busy = "is open for writing in another process; let that end, and start again";
        assert_eq!(error.to_string(), format!("cannot run `./program`: {}/./program {busy}", dir.path().display()));
        let spawned = tokio::spawn(async move { Process::spawn(&spec, Output::discarded()).await });
        // It is tried once before this goes on.
        tokio::task::yield_now().await;
        drop(writer);
        let process = spawned.await.unwrap().unwrap();
        process.ended().await;
        assert_eq!(process.reap(), Exit::Status(0));
    }
}
