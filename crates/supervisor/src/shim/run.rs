//! The loop of a shim: waits for the instance, its output, the daemon and time, and goes from stage to stage.
//!
//! ```text
//! Failed (waits until somebody has heard why)
//! Running ── leader ends ──► Leaving ── nobody is left ──► Closing ── pipes end ──► Gone ── stored and told ──► end
//! ```

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{PidfdFlags, Signal, pidfd_open, test_kill_process_group};

use super::family::{reap, sweep};
use super::folder::{self, Folder};
use super::log::Log;
use super::peer::Peer;
use super::wire::{
    Cause, Ended, Hello, Identity, Instructions, Order, ProcessId, Readiness, Said, Started, State, VERSION,
};
use crate::cgroup::{self, Groups};
use crate::logs::lines::{Piece, Splitter};
use crate::logs::tail::Tail;
use crate::logs::{Line, Stream};
use crate::process::{self, Group, Output, Spec};
use crate::procfs;
use crate::status::Exit;

/// How often orphans are looked for: the kernel reports the end of a child that nobody watches to handlers of signals
/// only. As long as some are found the first, and twice as long each time, up to the second.
const REAP_FIRST: Duration = Duration::from_millis(100);
const REAP_LAST: Duration = Duration::from_secs(2);

/// How often those who are left are looked at once the leader has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Limit: how long SIGKILL may take to clear everything. Longer only in an uninterruptible system call.
const CLEAR_MAX: Duration = Duration::from_secs(2);

/// Limit: how long a pipe may stay open once nobody is left: its other end was given to a stranger.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// Limit: how long the rest of a group that was told to stop may take when no daemon is there to lose its patience.
const GRACE_ALONE: Duration = Duration::from_secs(10);

/// Limit: how long somebody may take to hear the last words.
const TELL_MAX: Duration = Duration::from_secs(5);

/// How often a disk that does not take the exit is tried again while nobody has heard of it.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// What ends a process that the kernel kills for its memory, and the status of a shell whose last command that was.
const SIGKILL: i32 = Signal::KILL.as_raw();
const SHELL_KILLED: i32 = 128 + SIGKILL;

const READ_BYTES: usize = 16 << 10;

/// Runs one life; returns when nothing of it is left and its end is stored or told.
pub(super) fn run(instructions: Instructions, listener: UnixListener) {
    let mut shim = Shim::start(instructions, listener);
    while !shim.is_over() {
        let woken = shim.wait();
        shim.accept();
        shim.hear(woken.peer);
        for (index, is_ready) in woken.pipes.into_iter().enumerate() {
            if is_ready {
                shim.read(index);
            }
        }
        shim.reap();
        shim.step();
        shim.flush();
    }
    shim.remove_groups();
}

struct Shim {
    identity: Identity,
    process: ProcessId,
    folder: Folder,
    listener: UnixListener,
    peer: Option<Peer>,
    readiness: Readiness,
    /// `None` where the instance could not be started.
    child: Option<Child>,
    stage: Stage,
    pipes: [Option<Pipe>; 2],
    groups: Groups,
    log: Log,
    tail: Tail,
    /// The name of the service, shared by all lines.
    service: Arc<str>,
    begun: Instant,
    reap_interval: Duration,
}

struct Child {
    group: Group,
    started: Started,
    /// Wakes the loop when the leader ends.
    pidfd: Option<OwnedFd>,
    stop: Stop,
}

/// Whether the instance was told to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    Asked,
    Forced,
}

struct Pipe {
    reader: io::PipeReader,
    splitter: Splitter,
    stream: Stream,
}

enum Stage {
    Failed { reason: String, told: bool },
    Running,
    Leaving { ended: Ended, since: Instant },
    Closing { ended: Ended, since: Instant },
    Gone { ended: Ended, since: Instant, stored: bool, stored_at: Instant, told: bool },
}

#[derive(Default)]
struct Woken {
    pipes: [bool; 2],
    peer: bool,
}

impl Shim {
    fn start(mut instructions: Instructions, listener: UnixListener) -> Self {
        let spec = instructions.take_spec();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let mut groups = instructions.group.take().map(|asked| Groups::make(&asked)).unwrap_or_default();
        let (child, pipes, stage) = match spawn(&spec, &instructions, &mut groups) {
            Ok((child, pipes)) => (Some(child), pipes, Stage::Running),
            Err(reason) => (None, [None, None], Stage::Failed { reason, told: false }),
        };
        let Instructions { identity, folder, log_file, log, .. } = instructions;
        let shim = Self {
            service: identity.service.as_str().into(),
            identity,
            process: ProcessId::of(own).unwrap_or(ProcessId { pid: own, start_time: 0 }),
            folder: Folder::at(folder.into()),
            listener,
            peer: None,
            readiness: Readiness::Never,
            child,
            stage,
            pipes,
            groups,
            log: Log::new(log_file.into(), log),
            tail: Tail::default(),
            begun: Instant::now(),
            reap_interval: REAP_FIRST,
        };
        shim.store_state();
        shim
    }

    /// Waits for whatever comes first.
    fn wait(&self) -> Woken {
        let timeout = self.timeout();
        let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        let mut polled = vec![PollFd::new(&self.listener, PollFlags::IN)];
        polled.extend(
            self.child.iter().filter_map(|child| child.pidfd.as_ref()).map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        let pipes_from = polled.len();
        polled.extend(self.pipes.iter().flatten().map(|pipe| PollFd::new(&pipe.reader, PollFlags::IN)));
        let peer_at = polled.len();
        if let Some(peer) = &self.peer {
            let out = if peer.is_flushed() { PollFlags::empty() } else { PollFlags::OUT };
            polled.push(PollFd::new(peer.stream(), PollFlags::IN | out));
        }
        if poll(&mut polled, Some(&timeout)).is_err() {
            return Woken::default();
        }
        let mut woken = Woken::default();
        let mut readers = polled[pipes_from..peer_at].iter();
        for (index, pipe) in self.pipes.iter().enumerate() {
            if pipe.is_some() {
                woken.pipes[index] = readers.next().is_some_and(|reader| !reader.revents().is_empty());
            }
        }
        let reads = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        woken.peer = polled.get(peer_at).is_some_and(|peer| peer.revents().intersects(reads));
        woken
    }

    fn timeout(&self) -> Duration {
        match &self.stage {
            Stage::Running => self.reap_interval,
            Stage::Leaving { .. } | Stage::Closing { .. } => LOOK_INTERVAL,
            Stage::Failed { .. } | Stage::Gone { .. } => REAP_FIRST,
        }
    }

    /// Takes the newest of those who want to talk.
    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let Ok(mut peer) = Peer::new(stream) else { continue };
            // What the older one has said still holds: that the instance is ready, say.
            self.hear(true);
            if let Some(mut older) = self.peer.take() {
                older.say(&Said::Replaced {});
                // Who does not read it sees the end of the connection.
                let _ = older.flush();
            }
            peer.say(&Said::Hello(Box::new(self.hello())));
            self.peer = Some(peer);
            // Once more: somebody may have damaged it.
            self.store_state();
            match &mut self.stage {
                Stage::Failed { told, .. } | Stage::Gone { told, .. } => *told = true,
                Stage::Running | Stage::Leaving { .. } | Stage::Closing { .. } => {}
            }
        }
    }

    fn hello(&self) -> Hello {
        let started = || self.child.as_ref().map(|child| child.started);
        let state = match (&self.stage, started()) {
            (Stage::Failed { reason, .. }, _) => State::Failed { reason: reason.clone() },
            (Stage::Running, Some(started)) => State::Running { started },
            (Stage::Leaving { ended, .. } | Stage::Closing { ended, .. }, Some(started)) => {
                State::Leaving { started, ended: *ended }
            }
            (Stage::Gone { ended, .. }, Some(started)) => {
                State::Gone { started, ended: *ended, last_lines: self.tail.lines() }
            }
            (_, None) => State::Failed { reason: String::new() },
        };
        Hello {
            version: VERSION,
            identity: self.identity.clone(),
            shim: self.process,
            state,
            ready: self.readiness,
            groups: self.groups.paths(),
            unlimited: self.groups.lack(),
            answers: true,
        }
    }

    fn hear(&mut self, is_ready: bool) {
        let Some(peer) = self.peer.as_mut().filter(|_| is_ready) else { return };
        match peer.orders() {
            Ok(orders) => orders.into_iter().for_each(|order| self.obey(order)),
            Err(_) => self.peer = None,
        }
    }

    fn obey(&mut self, order: Order) {
        let is_running = matches!(self.stage, Stage::Running);
        match order {
            Order::Readiness(readiness) => self.readiness = readiness,
            Order::Ping(id) => self.say(Some(Said::Pong { id })),
            Order::Stop(number) | Order::Signal(number) => {
                // Order: only while the leader, even as a zombie, keeps the number of its group.
                let signal = Signal::from_named_raw(number);
                if let (Some(child), Some(signal), true) = (&mut self.child, signal, is_running) {
                    if matches!(order, Order::Stop(_)) {
                        child.stop = Stop::Asked;
                    }
                    child.group.signal(signal);
                    // A stopped process acts on no signal but SIGKILL before it is continued.
                    child.group.signal(Signal::CONT);
                }
            }
            Order::Kill => {
                if let Some(child) = &mut self.child {
                    child.stop = Stop::Forced;
                    if is_running {
                        child.group.signal(Signal::KILL);
                    }
                }
            }
        }
    }

    /// Reads what is there, once, so that none of two pipes waits for the other.
    fn read(&mut self, index: usize) {
        let mut bytes = [0; READ_BYTES];
        let Some(pipe) = &mut self.pipes[index] else { return };
        let length = match pipe.reader.read(&mut bytes) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(_) => 0,
        };
        if length == 0 {
            return self.close(index);
        }
        let Some(mut pipe) = self.pipes[index].take() else { return };
        pipe.splitter.feed(&bytes[..length], |piece| self.take_in(piece, pipe.stream));
        self.pipes[index] = Some(pipe);
        self.write();
    }

    fn close(&mut self, index: usize) {
        if let Some(mut pipe) = self.pipes[index].take()
            && let Some(piece) = pipe.splitter.finish()
        {
            self.take_in(piece, pipe.stream);
            self.write();
        }
    }

    fn take_in(&mut self, piece: Piece, stream: Stream) {
        self.tail.remember(&piece.text);
        let line = Line {
            ts: Timestamp::now(),
            service: Arc::clone(&self.service),
            instance: self.identity.instance,
            stream,
            text: piece.text,
            split: piece.split,
        };
        let (line, now) = (super::wire::line(&line), Instant::now());
        if let Some(peer) = &mut self.peer {
            peer.say_line(&line, now);
        }
        let loss = self.log.append(&line, now);
        self.say(loss);
    }

    fn write(&mut self) {
        let loss = self.log.write(Instant::now());
        self.say(loss);
    }

    fn say(&mut self, said: Option<Said>) {
        if let (Some(peer), Some(said)) = (&mut self.peer, said) {
            peer.say(&said);
        }
    }

    fn reap(&mut self) {
        let Some(child) = &self.child else { return };
        let reaped = reap(child.group.leader());
        self.reap_interval = match reaped.count {
            0 => (self.reap_interval * 2).min(REAP_LAST),
            _ => REAP_FIRST,
        };
        if let Some(exit) = reaped.leader {
            let cause = if child.stop == Stop::No { Cause::ByItself } else { Cause::Asked };
            let is_killed =
                child.stop != Stop::Forced && matches!(exit, Exit::Signal(SIGKILL) | Exit::Status(SHELL_KILLED));
            let memory_limit = self.groups.out_of_memory().filter(|_| is_killed);
            let ended = Ended { exit, at: Timestamp::now(), cause, memory_limit };
            self.stage = Stage::Leaving { ended, since: Instant::now() };
            self.say(Some(Said::Exited(ended)));
        }
        if let Stage::Leaving { ended, .. } = &self.stage
            && reaped.is_alone
        {
            self.stage = Stage::Closing { ended: *ended, since: Instant::now() };
        }
    }

    /// Goes on to the next stage when it is time.
    fn step(&mut self) {
        let now = Instant::now();
        match &mut self.stage {
            Stage::Failed { .. } | Stage::Running => {}
            Stage::Leaving { ended, since } => {
                let Some(child) = &mut self.child else { return };
                child.pidfd = None;
                // The rest of the group got the same signal and has the same time to finish: npm ends before its server
                // does. Who has left the group knows of no signal.
                let has_grace = child.stop == Stop::Asked
                    && test_kill_process_group(child.group.leader()).is_ok()
                    && (self.peer.is_some() || now.saturating_duration_since(*since) < GRACE_ALONE);
                if has_grace {
                    return;
                }
                if child.stop != Stop::Forced {
                    (child.stop, *since) = (Stop::Forced, now);
                }
                cgroup::kill(&self.groups.paths());
                sweep();
                if now.saturating_duration_since(*since) >= CLEAR_MAX {
                    self.stage = Stage::Closing { ended: *ended, since: now };
                }
            }
            Stage::Closing { ended, since } => {
                let (ended, since) = (*ended, *since);
                let is_over = now.saturating_duration_since(since) >= CLOSE_MAX;
                let is_clear = cgroup::remove(&self.groups.paths());
                if !is_over && (!is_clear || self.pipes.iter().any(Option::is_some)) {
                    return;
                }
                (0..self.pipes.len()).for_each(|index| self.close(index));
                let stored = self.store_exit(ended);
                self.stage = Stage::Gone { ended, since: now, stored, stored_at: now, told: self.peer.is_some() };
                self.say(Some(Said::Gone { last_lines: self.tail.lines() }));
            }
            Stage::Gone { ended, stored: false, stored_at, .. }
                if now.saturating_duration_since(*stored_at) >= STORE_INTERVAL =>
            {
                let ended = *ended;
                *stored_at = now;
                let is_stored = self.store_exit(ended);
                if let Stage::Gone { stored, .. } = &mut self.stage {
                    *stored = is_stored;
                }
            }
            Stage::Gone { .. } => {}
        }
    }

    fn is_over(&self) -> bool {
        let is_flushed = self.peer.as_ref().is_none_or(Peer::is_flushed);
        match &self.stage {
            Stage::Failed { told, .. } => (*told && is_flushed) || self.begun.elapsed() >= TELL_MAX,
            Stage::Gone { since, stored, told, .. } => {
                // An end that is neither on disk nor told would be lost with this process.
                (*told && is_flushed) || (*stored && (self.peer.is_none() || since.elapsed() >= TELL_MAX))
            }
            Stage::Running | Stage::Leaving { .. } | Stage::Closing { .. } => false,
        }
    }

    fn flush(&mut self) {
        if self.peer.as_mut().is_some_and(|peer| peer.flush().is_err()) {
            self.peer = None;
            if let Stage::Failed { told, .. } | Stage::Gone { told, .. } = &mut self.stage {
                *told = false;
            }
        }
    }

    /// Best effort: it is needed only when this process is killed, and then the marks of the instance are left.
    fn store_state(&self) {
        let (Some(child), Stage::Running) = (&self.child, &self.stage) else { return };
        let state = folder::State {
            version: VERSION,
            boot_id: procfs::boot_id(),
            identity: self.identity.clone(),
            shim: self.process,
            started: child.started,
            groups: self.groups.paths(),
        };
        let _ = self.folder.store_state(&state);
    }

    fn store_exit(&self, ended: Ended) -> bool {
        let Some(child) = &self.child else { return true };
        let past = folder::Past {
            version: VERSION,
            boot_id: procfs::boot_id(),
            identity: self.identity.clone(),
            started: child.started,
            ended,
            last_lines: self.tail.lines(),
        };
        match self.folder.store_exit(&past) {
            // With its folder went the socket: nobody can ask any more, and nobody will look.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(()) => true,
        }
    }

    /// What cannot be removed in time is found by the next daemon.
    fn remove_groups(&self) {
        let (groups, start) = (self.groups.paths(), Instant::now());
        while !cgroup::remove(&groups) && start.elapsed() < CLOSE_MAX {
            cgroup::kill(&groups);
            // The kernel does not report when a group is empty, and someone else may have been moved in.
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

type Pipes = [Option<Pipe>; 2];

fn spawn(spec: &Spec, instructions: &Instructions, groups: &mut Groups) -> Result<(Child, Pipes), String> {
    let reason = |error| kit::Chain(&error).to_string();
    let ([stdout, stderr], output) = Output::apart().map_err(reason)?;
    // Order: nothing of the instance ever runs outside of its groups.
    groups.enter();
    let spawned = process::spawn_blocking(spec, output);
    let left = groups.leave();
    let group = spawned.map_err(reason)?;
    left.inspect_err(|_| group.signal(Signal::KILL))?;
    // Nobody has reaped it: it is there, if only as a zombie.
    let process = ProcessId::of(group.id()).unwrap_or(ProcessId { pid: group.id(), start_time: 0 });
    let pidfd = pidfd_open(group.leader(), PidfdFlags::empty()).ok();
    let started = Started { process, at: Timestamp::now() };
    let pipe = |reader: io::PipeReader, stream| {
        // Where this fails a read may wait for the next line, and so does all else: better than no output.
        let _ = ioctl_fionbio(reader.as_fd(), true);
        Some(Pipe { reader, splitter: Splitter::new(instructions.log.line_bytes_max), stream })
    };
    let pipes = [pipe(stdout, Stream::Stdout), pipe(stderr, Stream::Stderr)];
    Ok((Child { group, started, pidfd, stop: Stop::No }, pipes))
}
