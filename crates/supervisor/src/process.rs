//! One child process with a group of its own: found, spawned, seen to end through its pidfd, signalled, reaped.
//! Used for instances, builds and exec probes; knows none of them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process_group, pidfd_open, prlimit,
    test_kill_process_group,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{ChildStderr, ChildStdout};
use tokio::time::{Instant, sleep};

use crate::environment::{Environment, expand};
use crate::status::Exit;
use crate::{procfs, program};

/// Limit: how long SIGKILL may take to clear a group. Longer only in an uninterruptible system call.
const CLEAR_MAX: Duration = Duration::from_secs(2);

/// How often a group is looked at once its leader is gone: the kernel reports the end of a process, never of a group.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

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

/// Where the output goes.
#[derive(Debug)]
pub(crate) enum Output {
    Piped,
    Discarded,
}

/// Both pipes of a child, if asked for.
pub(crate) type Pipes = Option<(ChildStdout, ChildStderr)>;

/// Why a process could not be started. Texts for the user, with what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("its command is empty")]
    Empty,
    #[error("its working_dir {} is no directory", path.display())]
    WorkingDir { path: PathBuf },
    #[error(transparent)]
    Program(#[from] program::Error),
    #[error("cannot run `{program}`")]
    Spawn { program: String, source: io::Error },
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
    pidfd: AsyncFd<OwnedFd>,
}

/// A process group, by the pid of its leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group(Pid);

impl Process {
    /// Starts a child: own group, no standard input, exactly the given environment.
    ///
    /// # Errors
    /// Everything that keeps it from running; no process is left then.
    pub(crate) fn spawn(spec: &Spec, output: &Output) -> Result<(Self, Pipes), Error> {
        let words: Vec<String> = spec.words.iter().map(|word| expand(word, &spec.environment)).collect();
        let (program, arguments) = words.split_first().ok_or(Error::Empty)?;
        if !spec.working_dir.is_dir() {
            return Err(Error::WorkingDir { path: spec.working_dir.clone() });
        }
        let path = program::find(
            program,
            &spec.working_dir,
            spec.environment.get(OsStr::new("PATH")).map(|path| path.as_ref()),
        )?;
        let stdio = || match output {
            Output::Piped => Stdio::piped(),
            Output::Discarded => Stdio::null(),
        };
        let mut child = Command::new(path)
            .arg0(program)
            .args(arguments)
            .current_dir(&spec.working_dir)
            .env_clear()
            .envs(&spec.environment)
            .stdin(Stdio::null())
            .stdout(stdio())
            .stderr(stdio())
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn { program: program.clone(), source })?;
        let group = Group(Pid::from_child(&child));
        if let Some(soft) = spec.open_files_soft {
            limit_open_files(group.0, soft);
        }
        let watched = watch(&mut child, group).map_err(|source| {
            group.signal(Signal::KILL);
            let _ = child.wait();
            Error::Watch { program: program.clone(), source }
        });
        let (pidfd, pipes) = watched?;
        Ok((Self { child: Some(child), group, pidfd }, pipes))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.group.0.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn group(&self) -> Group {
        self.group
    }

    /// Returns when the process has ended; it stays a zombie, so that its pid and group remain its own until
    /// [`Process::reap`]. Cancel safe.
    pub(crate) async fn ended(&self) {
        if self.pidfd.readable().await.is_err() {
            // The runtime shuts down and drops whoever waits here.
            std::future::pending::<()>().await;
        }
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

fn watch(child: &mut Child, group: Group) -> io::Result<(AsyncFd<OwnedFd>, Pipes)> {
    let pidfd = pidfd_open(group.0, PidfdFlags::NONBLOCK)?;
    // Safety: an `OwnedFd` is open, and the same descriptor, for as long as it lives, and `AsyncFd` owns it.
    #[allow(unsafe_code)]
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    let pipes = match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), Some(stderr)) => Some((ChildStdout::from_std(stdout)?, ChildStderr::from_std(stderr)?)),
        _ => None,
    };
    Ok((pidfd, pipes))
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
            let (process, _) = Process::spawn(&spec(&["sh", "-c", script]), &Output::Discarded).unwrap();
            let pid = i32::try_from(process.pid()).unwrap();
            process.ended().await;
            assert!(procfs::stat(pid).is_some_and(|stat| stat.is_zombie));
            assert_eq!(process.reap(), exit);
        }
    }

    #[tokio::test]
    async fn a_group_is_cleared_with_all_that_its_leader_left() {
        let script = "sh -c \"trap '' TERM HUP; sleep 1000 & wait\" & sleep 1000 & exit 0";
        let (process, _) = Process::spawn(&spec(&["sh", "-c", script]), &Output::Discarded).unwrap();
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
        let (process, _) = Process::spawn(&spec, &Output::Discarded).unwrap();
        process.ended().await;
        assert_eq!(process.reap(), Exit::Status(0));
    }

    #[tokio::test]
    async fn what_cannot_run_says_why() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("text"), "no program").unwrap();
        for (words, message) in [
            (
                &["no-such-program"][..],
                "cannot run `no-such-program`: not found in PATH; install it, or write its full path",
            ),
            (&["./absent"], "cannot run `./absent`: {}/./absent does not exist; build it, or correct its path"),
            (&["./text"], "cannot run `./text`: {}/./text is not executable; try `chmod +x`"),
        ] {
            let spec = Spec { working_dir: dir.path().to_owned(), ..spec(words) };
            let error = Process::spawn(&spec, &Output::Discarded).unwrap_err();
            assert_eq!(error.to_string(), message.replace("{}", &dir.path().display().to_string()));
        }
        let absent = Spec { working_dir: dir.path().join("absent"), ..spec(&["sh"]) };
        assert!(matches!(Process::spawn(&absent, &Output::Discarded), Err(Error::WorkingDir { .. })));
    }
}
