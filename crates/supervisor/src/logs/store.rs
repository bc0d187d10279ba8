//! Writes lines to `<service>.<instance>.jsonl` and rotates by size and count. A disk that is full or slow costs lines,
//! which are counted and said, and never stops an instance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kit::rotate::Rotating;
use tokio::sync::mpsc;

use super::{Limits, Line, file};
use crate::event::{Events, Kind};

/// Limit: lines on their way to the disk, of all instances. With the longest lines that is 16 MiB.
pub(crate) const LINES_MAX: usize = 256;

/// A loss is over when nothing was lost for this long.
const CALM: Duration = Duration::from_secs(1);

/// A line for the store.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) line: Arc<Line>,
    /// How many lines of the same stream were dropped before it, because the store was too slow.
    pub(crate) dropped_before: u64,
}

/// Runs until every sender is gone and everything is written.
pub(crate) async fn run(dir: PathBuf, limits: Limits, mut lines: mpsc::Receiver<Entry>, events: Events) {
    let mut store = Store { dir, limits, files: BTreeMap::new(), events };
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, LINES_MAX).await > 0 {
        let work = tokio::task::spawn_blocking(move || {
            store.append(&batch, Instant::now());
            batch.clear();
            (store, batch)
        });
        match work.await {
            Ok(given_back) => (store, batch) = given_back,
            // It panicked: the panic hook has said why. Capture drops lines from here on.
            Err(_) => return,
        }
    }
}

#[derive(Debug)]
struct Store {
    dir: PathBuf,
    limits: Limits,
    files: BTreeMap<(Arc<str>, u32), Current>,
    events: Events,
}

/// The file that an instance's lines go to.
#[derive(Debug)]
struct Current {
    file: Rotating,
    /// How many lines were lost since that was told, and when the last one was.
    lost: Option<(u64, Instant)>,
}

/// What is written at once for one instance.
#[derive(Debug, Default)]
struct Part {
    text: Vec<u8>,
    lines: u64,
    dropped: u64,
}

impl Store {
    fn append(&mut self, batch: &[Entry], now: Instant) {
        let mut parts: BTreeMap<(Arc<str>, u32), Part> = BTreeMap::new();
        for Entry { line, dropped_before } in batch {
            let part = parts.entry((Arc::clone(&line.service), line.instance)).or_default();
            serde_json::to_writer(&mut part.text, &**line).expect("a line has only strings and numbers");
            part.text.push(b'\n');
            part.lines += 1;
            part.dropped += dropped_before;
        }
        for ((service, instance), part) in parts {
            let current = self.files.entry((Arc::clone(&service), instance)).or_insert_with(|| {
                let path = file(&self.dir, &service, instance);
                Current { file: Rotating::new(path, self.limits.file_bytes_max, self.limits.files_max), lost: None }
            });
            let (lost, why) = match current.file.append(&part.text) {
                Ok(()) => (part.dropped, "the disk is too slow".to_owned()),
                Err(error) => (part.dropped + part.lines, error.to_string()),
            };
            if let Some(kind) = current.count(lost, why, now) {
                tracing::warn!(service = &*service, instance, ?kind, "log lines");
                self.events.emit(&service, Some(instance), kind);
            }
        }
    }
}

impl Current {
    /// Says the begin and the end of a loss, once each, however many lines it is made of.
    fn count(&mut self, lost: u64, why: String, now: Instant) -> Option<Kind> {
        match (self.lost, lost) {
            (None, 0) => None,
            (None, _) => {
                self.lost = Some((lost, now));
                Some(Kind::LogsLost { why })
            }
            (Some((lines_lost, at)), 0) => (now.saturating_duration_since(at) >= CALM).then(|| {
                self.lost = None;
                Kind::LogsResumed { lines_lost }
            }),
            (Some((before, _)), _) => {
                self.lost = Some((before + lost, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use jiff::Timestamp;

    use super::*;
    use crate::logs::{Filter, Stream, load};

    fn entry(text: &str) -> Entry {
        let line = Line {
            ts: Timestamp::now(),
            service: "a".into(),
            instance: 0,
            stream: Stream::Stdout,
            text: text.to_owned(),
            split: false,
        };
        Entry { line: Arc::new(line), dropped_before: 0 }
    }

    fn store(dir: &Path, limits: Limits) -> Store {
        Store { dir: dir.to_owned(), limits, files: BTreeMap::new(), events: Events::default() }
    }

    fn kinds(store: &Store) -> Vec<Kind> {
        store.events.subscribe().0.iter().map(|event| event.kind.clone()).collect()
    }

    #[test]
    fn files_rotate_by_size_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { file_bytes_max: 200, files_max: 3, ..Limits::default() };
        let mut store = store(dir.path(), limits);
        for number in 0..20 {
            store.append(&[entry(&format!("line {number}"))], Instant::now());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        let kept: Vec<String> =
            load(dir.path(), &Filter::default()).unwrap().into_iter().map(|line| line.text).collect();
        let expected: Vec<String> = (20 - kept.len()..20).map(|number| format!("line {number}")).collect();
        assert!(kept.len() >= 4, "{kept:?}");
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_loss_is_said_once_when_it_begins_and_once_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        let mut store = store(&logs, Limits::default());
        let start = Instant::now();
        store.append(&[entry("one"), entry("two")], start);
        store.append(&[entry("three")], start);
        assert!(matches!(&kinds(&store)[..], [Kind::LogsLost { .. }]));
        fs::create_dir(&logs).unwrap();
        let late = Entry { dropped_before: 4, ..entry("four") };
        store.append(&[late], start);
        store.append(&[entry("five")], start + CALM / 2);
        store.append(&[entry("six")], start + CALM);
        store.append(&[entry("seven")], start + CALM);
        assert!(matches!(&kinds(&store)[..], [Kind::LogsLost { .. }, Kind::LogsResumed { lines_lost: 7 }]));
        assert_eq!(load(&logs, &Filter::default()).unwrap().len(), 4);
    }

    #[test]
    fn half_a_line_of_a_crash_does_not_swallow_the_next() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(file(dir.path(), "a", 0), b"{\"ts\":\"2026-").unwrap();
        store(dir.path(), Limits::default()).append(&[entry("whole")], Instant::now());
        let kept = load(dir.path(), &Filter::default()).unwrap();
        assert_eq!(kept.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["whole"]);
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", file(dir.path(), "a", 0)).unwrap();
        let mut store = store(dir.path(), Limits::default());
        store.append(&[entry("one")], Instant::now());
        store.append(&[entry("two")], Instant::now());
        assert!(matches!(&kinds(&store)[..], [Kind::LogsLost { .. }]));
    }
}
