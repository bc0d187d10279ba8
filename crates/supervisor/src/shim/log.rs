//! The log of one instance: lines into `<service>.<index>.jsonl`, rotated by size and count. A disk that is full costs
//! lines, which are counted and said, and never stops the instance.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kit::rotate::Rotating;

use super::wire::Said;
use crate::logs::Limits;

/// A loss is over when nothing was lost for this long.
const CALM: Duration = Duration::from_secs(1);

/// Limit: lines are written before more than this of them is collected.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// The file that an instance's lines go to.
#[derive(Debug)]
pub(super) struct Log {
    file: Rotating,
    batch: Vec<u8>,
    lines: u64,
    /// How many lines were lost since that was told, and when the last one was.
    lost: Option<(u64, Instant)>,
}

impl Log {
    pub(super) fn new(path: PathBuf, limits: Limits) -> Self {
        let file = Rotating::new(path, limits.file_bytes_max, limits.files_max);
        Self { file, batch: Vec::new(), lines: 0, lost: None }
    }

    /// Takes one line of JSON with its end.
    pub(super) fn append(&mut self, line: &[u8], now: Instant) -> Option<Said> {
        self.batch.extend_from_slice(line);
        self.lines += 1;
        if self.batch.len() >= BATCH_BYTES_MAX { self.write(now) } else { None }
    }

    /// Writes what was collected; what there is to say of a loss that begins or is over.
    pub(super) fn write(&mut self, now: Instant) -> Option<Said> {
        if self.lines == 0 {
            return None;
        }
        let written = self.file.append(&self.batch);
        let lines = std::mem::take(&mut self.lines);
        self.batch.clear();
        self.batch.shrink_to(BATCH_BYTES_MAX);
        match written {
            Ok(()) => self.count(0, String::new(), now),
            Err(error) => self.count(lines, error.to_string(), now),
        }
    }

    /// Says the begin and the end of a loss, once each, however many lines it is made of.
    fn count(&mut self, lost: u64, why: String, now: Instant) -> Option<Said> {
        match (self.lost, lost) {
            (None, 0) => None,
            (None, _) => {
                self.lost = Some((lost, now));
                Some(Said::LogLost { why })
            }
            (Some((lines_lost, at)), 0) => (now.saturating_duration_since(at) >= CALM).then(|| {
                self.lost = None;
                Said::LogResumed { lines_lost }
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

    use super::*;

    #[test]
    fn a_loss_is_said_once_when_it_begins_and_once_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("logs");
        let mut log = Log::new(folder.join("a.0.jsonl"), Limits::default());
        let start = Instant::now();
        let mut write = |line: &str, at| {
            assert_eq!(log.append(line.as_bytes(), at), None);
            log.write(at)
        };
        assert!(matches!(write("one\n", start), Some(Said::LogLost { .. })));
        assert_eq!(write("two\n", start), None);
        fs::create_dir(&folder).unwrap();
        assert_eq!(write("three\n", start + CALM / 2), None);
        assert_eq!(write("four\n", start + CALM), Some(Said::LogResumed { lines_lost: 2 }));
        assert_eq!(write("five\n", start + CALM), None);
        assert_eq!(fs::read_to_string(folder.join("a.0.jsonl")).unwrap(), "three\nfour\nfive\n");
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let mut log = Log::new("/dev/full".into(), Limits::default());
        let now = Instant::now();
        log.append(b"one\n", now);
        assert!(matches!(log.write(now), Some(Said::LogLost { why }) if why.contains("No space")));
        log.append(b"two\n", now);
        assert_eq!(log.write(now), None);
    }

    #[test]
    fn what_is_collected_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path().join("log"), Limits::default());
        for _ in 0..100_000 {
            log.append(b"line\n", Instant::now());
            assert!(log.batch.len() <= BATCH_BYTES_MAX);
        }
    }
}
