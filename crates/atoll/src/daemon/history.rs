//! `events.jsonl`: what happened to instances, builds and the daemon itself, one JSON line each, over the lives of many
//! daemons. A task of the daemon writes it, `atoll events` reads it with or without a daemon. A full disk costs lines.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use kit::rotate::{self, Rotating};
use supervisor::{Event, Handle, Kind};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, watch};

use crate::api::dto;
use crate::lower;

const FILE: &str = "events.jsonl";
/// One file of it.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Files in all.
const FILES_MAX: u32 = 4;
/// A longer line is not ours and is skipped.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Events of the daemon itself that wait to be written; more are lost, with a line in the daemon's log.
const SAID_MAX: usize = 64;
/// Events that a follower may fall behind before it misses the oldest; the file has them.
const FOLLOWERS_BEHIND_MAX: usize = 1024;
/// Events that are written at once.
const BATCH_MAX: usize = 256;

/// The way in. Clones are handles to the same history.
#[derive(Clone, Debug)]
pub struct History {
    said: mpsc::Sender<dto::Event>,
    /// Weak: followers see the end when the writer ends.
    followers: broadcast::WeakSender<Arc<dto::Event>>,
}

/// The one task that writes.
pub(super) struct Writer {
    said: mpsc::Receiver<dto::Event>,
    followers: broadcast::Sender<Arc<dto::Event>>,
}

/// Makes the history of this daemon and its writer. What is said before the writer runs waits for it, as does that a
/// daemon was started.
pub(super) fn begin() -> (History, Writer) {
    let (sender, said) = mpsc::channel(SAID_MAX);
    let followers = broadcast::Sender::new(FOLLOWERS_BEHIND_MAX);
    let history = History { said: sender, followers: followers.downgrade() };
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    history.say("daemon_started", format!("version {version} runs as pid {pid}"));
    (history, Writer { said, followers })
}

impl History {
    /// Adds something that happened to the application as a whole. `kind` is one word for programs, `message` one sentence
    /// for people.
    pub fn say(&self, kind: &str, message: String) {
        let event = dto::Event {
            at: Timestamp::now(),
            kind: kind.to_owned(),
            service: None,
            instance: None,
            message,
            lines: Vec::new(),
        };
        if self.said.try_send(event).is_err() {
            tracing::warn!(kind, "an event is missing in the history");
        }
    }

    /// What is written from now on; ends with the daemon. `None` when it has ended already.
    pub fn follow(&self) -> Option<broadcast::Receiver<Arc<dto::Event>>> {
        self.followers.upgrade().map(|followers| followers.subscribe())
    }
}

impl Writer {
    /// Writes everything but the output of builds, until the application has drained. An event reaches followers once it
    /// is in the file, so that whoever follows first and then reads misses nothing.
    pub(super) async fn run(self, folder: PathBuf, supervisor: Handle, mut drained: watch::Receiver<bool>) {
        let Self { mut said, followers } = self;
        let mut log = Log { file: Some(Rotating::new(folder.join(FILE), FILE_BYTES_MAX, FILES_MAX)), failing: false };
        let mut source = Source::new(supervisor);
        let mut ended = false;
        while !ended {
            let mut batch = Vec::new();
            if source.pending.is_empty() {
                tokio::select! {
                    () = source.next() => {}
                    Some(event) = said.recv() => batch.push(event),
                    _ = drained.wait_for(|drained| *drained) => ended = true,
                }
            }
            while let Ok(event) = said.try_recv() {
                batch.push(event);
            }
            loop {
                source.take_ready(&mut batch);
                if batch.is_empty() {
                    break;
                }
                batch.sort_by_key(|event| event.at);
                log.append(&batch).await;
                for event in batch.drain(..) {
                    // Nobody follows, mostly.
                    let _ = followers.send(Arc::new(event));
                }
                if !ended {
                    break;
                }
            }
        }
    }
}

/// The supervisor's events, none missed and none twice.
struct Source {
    supervisor: Handle,
    live: broadcast::Receiver<Arc<Event>>,
    /// The newest that was taken.
    id: u64,
    pending: VecDeque<Arc<Event>>,
}

impl Source {
    fn new(supervisor: Handle) -> Self {
        let (past, live) = supervisor.events();
        Self { supervisor, live, id: 0, pending: past.into() }
    }

    /// Waits for the next event. Cancel safe.
    async fn next(&mut self) {
        match self.live.recv().await {
            Ok(event) => self.pending.push_back(event),
            Err(RecvError::Lagged(_)) => self.catch_up(),
            // The handle that is held here keeps it open.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Moves what has happened into the batch, until that is full.
    fn take_ready(&mut self, batch: &mut Vec<dto::Event>) {
        while batch.len() < BATCH_MAX {
            let Some(event) = self.pending.pop_front() else {
                match self.live.try_recv() {
                    Ok(event) => self.pending.push_back(event),
                    Err(TryRecvError::Lagged(_)) => self.catch_up(),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => return,
                }
                continue;
            };
            let is_new = event.id > self.id;
            self.id = self.id.max(event.id);
            if is_new && !matches!(event.kind, Kind::BuildOutput { .. }) {
                batch.push(lower::event(&event));
            }
        }
    }

    /// After a build wrote faster than the disk took events: the supervisor remembers those that count.
    fn catch_up(&mut self) {
        let (past, live) = self.supervisor.events();
        self.live = live;
        self.pending.extend(past);
    }
}

struct Log {
    /// Away while it is written to.
    file: Option<Rotating>,
    failing: bool,
}

impl Log {
    async fn append(&mut self, batch: &[dto::Event]) {
        let mut lines = Vec::new();
        for event in batch {
            if serde_json::to_writer(&mut lines, event).is_ok() {
                lines.push(b'\n');
            }
        }
        let Some(mut file) = self.file.take_if(|_| !lines.is_empty()) else { return };
        let write = tokio::task::spawn_blocking(move || {
            let written = file.append(&lines);
            (file, written)
        });
        // Fails only while the process ends.
        let Ok((file, written)) = write.await else { return };
        self.file = Some(file);
        if let Err(error) = &written
            && !self.failing
        {
            tracing::warn!(%error, "events are missing in the history");
        }
        self.failing = written.is_err();
    }
}

/// Which events to load.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Of these services; empty means everything.
    pub services: &'a [String],
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// So many of the newest.
    pub last: usize,
}

impl Wanted<'_> {
    /// Whether an event is one of them, its age in number apart.
    pub fn takes(&self, event: &dto::Event) -> bool {
        let of_service = |service: &String| self.services.contains(service);
        let chosen = self.services.is_empty() || event.service.as_ref().is_some_and(of_service);
        chosen && self.since.is_none_or(|since| event.at >= since)
    }
}

/// Loads the history in the order in which it was written. A line that cannot be read (half written at a crash, or of a
/// newer version) is skipped. Blocking.
///
/// # Errors
/// A file that exists and cannot be read.
pub fn load(folder: &Path, wanted: &Wanted<'_>) -> io::Result<VecDeque<dto::Event>> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    // Order: the newest is opened first. A rotation meanwhile then shows a file twice, which is seen, and hides none.
    for number in 0..FILES_MAX {
        match File::open(rotate::generation(&folder.join(FILE), number)) {
            Ok(file) => {
                let metadata = file.metadata()?;
                if metadata.is_file() && seen.insert((metadata.dev(), metadata.ino())) {
                    files.push(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut newest = VecDeque::new();
    for file in files.into_iter().rev() {
        let mut reader = BufReader::with_capacity(64 << 10, file);
        let mut line = Vec::new();
        while reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? > 0 {
            if let Ok(event) = serde_json::from_slice(&line)
                && wanted.takes(&event)
            {
                newest.push_back(event);
                if newest.len() > wanted.last {
                    newest.pop_front();
                }
            }
            line.clear();
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(second: i64, service: Option<&str>) -> dto::Event {
        dto::Event {
            at: Timestamp::from_second(second).expect("a time"),
            kind: "started".into(),
            service: service.map(str::to_owned),
            instance: None,
            message: format!("at {second}"),
            lines: Vec::new(),
        }
    }

    fn write(folder: &Path, number: u32, events: &[dto::Event]) {
        let lines: String =
            events.iter().map(|event| serde_json::to_string(event).expect("an event is JSON") + "\n").collect();
        let text = [lines.as_bytes(), b"{\"at\":\n\xff\n"].concat();
        std::fs::write(rotate::generation(&folder.join(FILE), number), text).expect("written");
    }

    #[test]
    fn history_is_read_across_rotated_files_and_filtered() {
        let folder = tempfile::tempdir().expect("a folder");
        let seconds = |wanted: &Wanted<'_>| {
            let found = load(folder.path(), wanted).expect("readable");
            found.iter().map(|event| event.at.as_second()).collect::<Vec<_>>()
        };
        let all = Wanted { services: &[], since: None, last: 100 };
        assert_eq!(seconds(&all), [0; 0]);
        write(folder.path(), 2, &[event(1, None), event(2, Some("web"))]);
        write(folder.path(), 0, &[event(3, Some("cart")), event(4, Some("web"))]);
        assert_eq!(seconds(&all), [1, 2, 3, 4]);
        assert_eq!(seconds(&Wanted { last: 2, ..all }), [3, 4]);
        assert_eq!(seconds(&Wanted { last: 0, ..all }), [0; 0]);
        assert_eq!(seconds(&Wanted { services: &["web".into()], ..all }), [2, 4]);
        assert_eq!(seconds(&Wanted { since: Timestamp::from_second(3).ok(), ..all }), [3, 4]);
    }
}
