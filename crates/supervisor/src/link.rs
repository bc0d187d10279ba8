//! A daemon's connection to one shim: spawns or finds it, hears it, gives it orders. The other end is `shim`.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Pid;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::cgroup::Asked;
use crate::config;
use crate::process::Watched;
use crate::remains::Remains;
use crate::shim::WORD;
use crate::shim::folder::Folder;
use crate::shim::wire::{self, Hello, Instructions, MESSAGE_BYTES_MAX, Order, ProcessId, Said, VERSION};

/// Limit: how long a shim that was just started may take to its first word. It waits a second for a busy program.
const HELLO_SPAWNED_MAX: Duration = Duration::from_secs(15);

/// Limit: how long one that runs may take.
const HELLO_FOUND_MAX: Duration = Duration::from_secs(2);

/// Limit: from the last word of a shim to its end.
const END_MAX: Duration = Duration::from_secs(2);

const READ_BYTES: usize = 64 << 10;

/// Why there is no shim to talk to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot prepare the folder {} of its shim", path.display())]
    Folder { path: std::path::PathBuf, source: io::Error },
    #[error("cannot hand its shim what to run")]
    Instructions { source: io::Error },
    #[error("cannot start its shim")]
    Spawn { source: io::Error },
    #[error("nobody answers")]
    Connect { source: io::Error },
    #[error("its shim does not answer")]
    Silent,
    #[error("its shim speaks version {version}, which is unknown here")]
    Version { version: u32 },
    #[error("its shim says what cannot be understood")]
    Garbled,
    #[error("its shim ended")]
    Closed,
    #[error("its shim cannot be watched")]
    Watch { source: io::Error },
}

/// A shim that has said hello. Dropped, it goes on by itself.
#[derive(Debug)]
pub(crate) struct Link {
    folder: Folder,
    stream: Stream,
    shim: Watched,
    pub(crate) hello: Hello,
}

impl Link {
    /// Starts a shim, and with it an instance. What it says first tells how that went.
    ///
    /// # Errors
    /// No shim is left then, nor anything that it started.
    pub(crate) async fn spawn(
        shim: &config::Shim,
        folder: Folder,
        instructions: &Instructions,
        words: &Path,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Folder { path: folder.path().to_owned(), source };
        folder.make().map_err(failed)?;
        let listener = folder.listen().map_err(failed)?;
        // Order: before there is a shim, so that however fast the instance ends, it ends with somebody on the line.
        let stream = Stream::new(folder.connect().map_err(failed)?).map_err(failed)?;
        let told = told(instructions).map_err(|source| Error::Instructions { source })?;
        let last_words = File::options().create(true).append(true).open(words);
        let identity = &instructions.identity;
        let mut command = Command::new(&shim.program);
        command
            .arg0(&shim.name)
            .arg(WORD)
            .arg(format!("{}.{}", identity.service, identity.instance))
            .env_clear()
            .current_dir("/")
            .stdin(told)
            .stdout(OwnedFd::from(listener))
            .stderr(last_words.map_or_else(|_| Stdio::null(), Stdio::from));
        let child = command.spawn().map_err(|source| Error::Spawn { source })?;
        let pid = Pid::from_child(&child);
        let watched = Watched::new(pid).map_err(|source| Error::Watch { source })?;
        let life = identity.life.clone();
        match greet(stream, HELLO_SPAWNED_MAX).await {
            Ok((stream, hello)) => Ok(Self { folder, stream, shim: watched, hello }),
            Err(error) => {
                watched.kill();
                let groups = instructions.group.as_ref().map(Asked::find).unwrap_or_default();
                Remains { life, session: pid.as_raw_nonzero().get(), child: None, groups }.clear().await;
                let _ = timeout(END_MAX, watched.ended()).await;
                watched.reap();
                Err(error)
            }
        }
    }

    /// Finds the shim of a folder. It gives up whoever it talked to before.
    ///
    /// # Errors
    /// None is there, or none that can be understood.
    pub(crate) async fn find(folder: Folder) -> Result<Self, Error> {
        let connected = folder.connect().and_then(Stream::new);
        let stream = connected.map_err(|source| Error::Connect { source })?;
        let (stream, hello) = greet(stream, HELLO_FOUND_MAX).await?;
        let pid = Pid::from_raw(hello.shim.pid).ok_or(Error::Garbled)?;
        let shim = Watched::new(pid).map_err(|source| Error::Watch { source })?;
        // Looked at once it is watched: the process that is watched is the one that said hello.
        match ProcessId::of(hello.shim.pid) {
            Some(process) if process == hello.shim => Ok(Self { folder, stream, shim, hello }),
            _ => Err(Error::Closed),
        }
    }

    /// What it says next, lines only while they are wanted. Cancel safe.
    ///
    /// # Errors
    /// It says nothing more.
    pub(crate) async fn next(&mut self, wants_lines: impl Fn() -> bool) -> Result<Said, Error> {
        self.stream.next(wants_lines).await
    }

    /// Gives an order. One that cannot be given any more is of no use: the end of the shim is on its way.
    pub(crate) fn order(&mut self, order: Order) {
        // Limit: a handful of short lines in a life; a socket that has no room for one has a shim that is stuck.
        let _ = self.stream.socket.try_write(&wire::line(&order));
    }

    /// Lets the shim go on if somebody has stopped it.
    pub(crate) fn wake(&self) {
        self.hello.shim.wake();
    }

    /// Returns when the shim has ended by itself, as it does after its last word, and removes what it left on disk.
    pub(crate) async fn finish(self) {
        if timeout(END_MAX, self.shim.ended()).await.is_err() {
            self.shim.kill();
            // One that something holds up, a freezer say, dies when it may run again; nobody waits for that.
            let _ = timeout(END_MAX, self.shim.ended()).await;
        }
        self.shim.reap();
        self.folder.clear();
    }

    /// Kills a shim that does not do its work any more, with everything that it looked after.
    pub(crate) async fn kill(self) {
        let Hello { identity, shim, state, groups, .. } = &self.hello;
        self.shim.kill();
        let child = state.started().map(|started| started.process);
        Remains { life: identity.life.clone(), session: shim.pid, child, groups: groups.clone() }.clear().await;
        self.finish().await;
    }
}

/// A file in memory: it is complete before anybody reads it, and gone with its reader.
fn told(instructions: &Instructions) -> io::Result<File> {
    let mut file = File::from(memfd_create("instructions", MemfdFlags::CLOEXEC)?);
    file.write_all(&wire::line(instructions))?;
    file.rewind()?;
    Ok(file)
}

async fn greet(mut stream: Stream, limit: Duration) -> Result<(Stream, Hello), Error> {
    match timeout(limit, stream.next(|| true)).await {
        Err(_) => Err(Error::Silent),
        Ok(Ok(Said::Hello(hello))) => Ok((stream, *hello)),
        Ok(Ok(_)) => Err(Error::Garbled),
        Ok(Err(error)) => Err(error),
    }
}

/// Messages out of a socket.
#[derive(Debug)]
struct Stream {
    socket: UnixStream,
    read: Vec<u8>,
    /// Where the next message begins, and how far it was looked through for its end.
    begin: usize,
    seen: usize,
}

/// Of a hello, whatever its version.
#[derive(Deserialize)]
struct AnyHello {
    hello: AnyVersion,
}

#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

impl Stream {
    fn new(socket: std::os::unix::net::UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixStream::from_std(socket)?, read: Vec::new(), begin: 0, seen: 0 })
    }

    async fn next(&mut self, wants_lines: impl Fn() -> bool) -> Result<Said, Error> {
        loop {
            while let Some(length) = self.read[self.seen..].iter().position(|byte| *byte == b'\n') {
                let message = self.begin..self.seen + length;
                (self.begin, self.seen) = (message.end + 1, message.end + 1);
                let text = &self.read[message];
                // Asked for each: somebody may begin to follow at any time.
                if text.starts_with(b"{\"line\":") && !wants_lines() {
                    continue;
                }
                return parse(text);
            }
            self.read.drain(..self.begin);
            (self.begin, self.seen) = (0, self.read.len());
            if self.read.len() > MESSAGE_BYTES_MAX {
                return Err(Error::Garbled);
            }
            self.read.reserve(READ_BYTES);
            self.socket.readable().await.map_err(|_| Error::Closed)?;
            match self.socket.try_read_buf(&mut self.read) {
                Ok(0) => return Err(Error::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Error::Closed),
            }
        }
    }
}

fn parse(text: &[u8]) -> Result<Said, Error> {
    match serde_json::from_slice::<AnyHello>(text) {
        Ok(AnyHello { hello }) if hello.version != VERSION => Err(Error::Version { version: hello.version }),
        _ => serde_json::from_slice(text).map_err(|_| Error::Garbled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &[u8]) -> Vec<Result<Said, String>> {
        let (mut theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut stream = Stream::new(ours).unwrap();
        let writer = async {
            theirs.set_nonblocking(true).unwrap();
            for byte in text {
                theirs.write_all(&[*byte]).unwrap();
                tokio::task::yield_now().await;
            }
            drop(theirs);
        };
        let reader = async {
            let mut all = Vec::new();
            loop {
                let said = stream.next(|| false).await.map_err(|error| error.to_string());
                let is_over = said.is_err();
                all.push(said);
                if is_over {
                    return all;
                }
            }
        };
        tokio::join!(writer, reader).1
    }

    #[tokio::test]
    async fn messages_arrive_in_any_pieces_and_nonsense_is_an_error() {
        let gone = Said::Gone { last_lines: vec!["x".to_owned()] };
        let replaced = Said::Replaced {};
        let line = b"{\"line\":{\"whatever\":1}}\n".to_vec();
        let text = [wire::line(&gone), line, wire::line(&replaced)].concat();
        assert_eq!(read(&text).await, [Ok(gone), Ok(replaced), Err("its shim ended".to_owned())]);
        for (text, expected) in [
            (&b"{\"hello\":{\"version\":7,\"more\":[]}}\n"[..], "its shim speaks version 7, which is unknown here"),
            (b"{\"hello\":{\"version\":1}}\n", "its shim says what cannot be understood"),
            (b"\n", "its shim says what cannot be understood"),
            (b"{\"dance\":{}}\n", "its shim says what cannot be understood"),
            (b"{\"gone", "its shim ended"),
        ] {
            assert_eq!(read(text).await, [Err(expected.to_owned())]);
        }
    }
}
