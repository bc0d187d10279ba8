//! Requests by service and instance, counted from what is added to the access log. Whoever writes that log need not know
//! of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// From here on an answer is an error of the application.
const ERROR_STATUS_MIN: u16 = 500;
/// Read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// A longer line is not ours and is skipped.
const LINE_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub requests: u64,
    pub errors: u64,
    pub durations: proxy::Histogram,
}

/// By service and, where one took the request, instance.
pub type Counts = BTreeMap<(String, Option<u32>), Count>;

/// A place in the access log.
#[derive(Debug)]
pub struct Requests {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

/// What counts of a line.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    service: Option<Cow<'a, str>>,
    instance: Option<u32>,
    status: u16,
    #[serde(default)]
    duration_ms: f64,
}

impl Requests {
    /// Begins at the end of the log. One that is not there yet is read from its beginning once it is.
    pub fn follow(path: PathBuf) -> Self {
        let file = File::open(&path).ok().and_then(|mut file| file.seek(SeekFrom::End(0)).ok().map(|_| file));
        Self { path, file, partial: Vec::new() }
    }

    /// What was added since the last call. Best effort: of a log that rotated more than once meanwhile, the files between
    /// are not seen.
    pub fn counts(&mut self) -> Counts {
        let mut counts = Counts::new();
        self.read_on(&mut counts);
        if self.is_rotated() {
            // Once more to its end: it may have grown up to the moment in which it was renamed.
            self.read_on(&mut counts);
            self.partial.clear();
            self.file = File::open(&self.path).ok();
            self.read_on(&mut counts);
        }
        counts
    }

    fn is_rotated(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let open = self.file.as_ref().and_then(|file| file.metadata().ok()).map(identity);
        std::fs::metadata(&self.path).ok().map(identity).is_some_and(|present| open != Some(present))
    }

    fn read_on(&mut self, counts: &mut Counts) {
        let Some(file) = &mut self.file else { return };
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = file.read(&mut chunk) {
            self.partial.extend_from_slice(&chunk[..count]);
            let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
                if self.partial.len() > LINE_BYTES_MAX {
                    self.partial.clear();
                }
                continue;
            };
            for line in self.partial[..end].split(|byte| *byte == b'\n') {
                if let Ok(Line { service: Some(service), instance, status, duration_ms }) = serde_json::from_slice(line)
                {
                    let count = counts.entry((service.into_owned(), instance)).or_default();
                    count.requests += 1;
                    count.errors += u64::from(status >= ERROR_STATUS_MIN);
                    count.durations.add(Duration::try_from_secs_f64(duration_ms / 1000.0).unwrap_or_default(), 1);
                }
            }
            self.partial.drain(..=end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_added_is_counted_once_across_halves_of_lines_and_rotation() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.jsonl");
        let line = |instance: &str, status: u16| {
            format!(
                "{{\"ts\":\"x\",\"service\":\"web\",\"instance\":{instance},\"status\":{status},\"duration_ms\":2.5,\"path\":\"/\\\"\"}}\n"
            )
        };
        let append = |text: &str| {
            let mut file = File::options().create(true).append(true).open(&path).expect("the log");
            file.write_all(text.as_bytes()).expect("appended");
        };
        let of = |counts: &Counts, instance| counts.get(&("web".to_owned(), instance)).cloned().unwrap_or_default();
        let counted = |requests, errors| {
            let mut durations = proxy::Histogram::default();
            durations.add(Duration::from_micros(2500), requests);
            Count { requests, errors, durations }
        };
        append(&line("0", 200));
        let mut requests = Requests::follow(path.clone());
        assert_eq!(requests.counts(), Counts::new(), "what is past is past");

        let two = line("0", 200) + &line("null", 503);
        let (half, rest) = two.split_at(two.len() - 5);
        append(half);
        append("");
        assert_eq!(of(&requests.counts(), Some(0)), counted(1, 0));
        append(rest);
        append("no json\n{\"service\":null,\"status\":404}\n");
        let counts = requests.counts();
        assert_eq!((of(&counts, None), counts.len()), (counted(1, 1), 1));

        append(&line("1", 500));
        std::fs::rename(&path, folder.path().join("access.jsonl.1")).expect("rotated");
        append(&line("1", 499));
        assert_eq!(of(&requests.counts(), Some(1)), counted(2, 1));
        assert_eq!(requests.counts(), Counts::new());
    }
}
