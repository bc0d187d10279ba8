//! The log of a process of Atoll's own, daemon or data plane: JSON lines in a file, rotated. What a panic prints goes there as well, through stderr.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kit::rotate::Rotating;
use tracing_subscriber::EnvFilter;

/// One file of it.
const FILE_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Files in all.
const FILES_MAX: u32 = 3;

/// What is logged unless it is said. The client of NATS tells every turn of every connection; what matters of it is told by
/// those who use it.
const USUAL: &str = "info,async_nats=off";

/// Begins to log, `info` and above, or as `ATOLL_LOG` says. Called once in a process, by the one that has the file.
pub(super) fn begin(path: PathBuf) {
    let log = Rotating::new(path, FILE_BYTES_MAX, FILES_MAX);
    let log = Arc::new(Mutex::new(log));
    let filter = EnvFilter::try_from_env("ATOLL_LOG").unwrap_or_else(|_| USUAL.into());
    let lines = tracing_subscriber::fmt().json().flatten_event(true).log_internal_errors(false).with_env_filter(filter);
    lines.with_writer(move || Line(Arc::clone(&log))).init();
}

/// Writes whole lines: the formatter gives one event in one piece. A full disk costs lines and nothing else.
struct Line(Arc<Mutex<Rotating>>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The subscriber would print an error to stderr, which is this very file.
        let _ = log.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
