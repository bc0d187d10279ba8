//! Reads log files back, ordered by time, for a daemon or for a command line without one. Blocking.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Line, parse_file_name};

/// Limit: a longer line of a file is not ours and is skipped. JSON escapes a byte of text to six at most.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Which lines to load.
#[derive(Clone, Copy, Default)]
pub struct Filter<'a> {
    /// Of these services; empty means of all.
    pub services: &'a [String],
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// The newest ones only, after everything else was applied.
    pub last: Option<usize>,
    /// Any other condition, such as a pattern.
    pub keep: Option<&'a dyn Fn(&Line) -> bool>,
}

impl fmt::Debug for Filter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { services, since, last, keep } = self;
        let keep = keep.map(|_| "a condition");
        f.debug_struct("Filter")
            .field("services", services)
            .field("since", since)
            .field("last", last)
            .field("keep", &keep)
            .finish()
    }
}

/// Why no history could be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct Error {
    pub path: PathBuf,
    source: io::Error,
}

/// Loads the lines of all files, rotated ones included, ordered by time. A folder that does not exist has no lines; a
/// line that cannot be read (half written at a crash) is skipped. Memory is bounded by [`Filter::last`], and without
/// it by the size of the logs. Blocking.
///
/// # Errors
/// A folder or file that exists and cannot be read.
pub fn load(dir: &Path, filter: &Filter<'_>) -> Result<Vec<Line>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| Error { path, source }
    };
    let mut files = Vec::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(dir))?,
    };
    for entry in entries {
        let name = entry.map_err(failed(dir))?.file_name();
        let Some((service, instance, generation)) = name.to_str().and_then(parse_file_name) else {
            continue;
        };
        if filter.services.is_empty() || filter.services.iter().any(|wanted| wanted == service) {
            files.push((service.to_owned(), instance, generation, dir.join(&name)));
        }
    }
    // Order: the oldest file of an instance first, so that the newest lines are the last of its series.
    files.sort_by(|a, b| (&a.0, a.1, b.2).cmp(&(&b.0, b.1, a.2)));
    let mut all = Vec::new();
    for of_one in files.chunk_by(|a, b| (&a.0, a.1) == (&b.0, b.1)) {
        let mut newest = VecDeque::new();
        for (_, _, _, path) in of_one {
            match File::open(path) {
                Ok(file) => collect(file, filter, &mut newest).map_err(failed(path))?,
                // Rotated away in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(path)(error)),
            }
        }
        all.extend(newest);
    }
    // Stable: lines of one instance at the same time stay as they were written.
    all.sort_by_key(|line| line.ts);
    let surplus = all.len().saturating_sub(filter.last.unwrap_or(usize::MAX));
    Ok(all.split_off(surplus))
}

fn collect(file: File, filter: &Filter<'_>, newest: &mut VecDeque<Line>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        let Ok(line) = serde_json::from_slice::<Line>(&bytes) else {
            continue;
        };
        let is_recent = filter.since.is_none_or(|since| line.ts >= since);
        if is_recent && filter.keep.is_none_or(|keep| keep(&line)) {
            newest.push_back(line);
            if filter.last.is_some_and(|last| newest.len() > last) {
                newest.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{Stream, file};

    fn write(dir: &Path, service: &str, generation: u32, seconds: &[i64]) {
        let line = |second: &i64| {
            let line = Line {
                ts: Timestamp::from_second(*second).unwrap(),
                service: service.into(),
                instance: 0,
                stream: Stream::Stderr,
                text: format!("{service} {second}"),
                split: false,
            };
            serde_json::to_string(&line).unwrap() + "\n"
        };
        let text: String = seconds.iter().map(line).collect();
        let torn = b"{\"ts\":\n\xff";
        fs::write(kit::rotate::generation(&file(dir, service, 0), generation), [text.as_bytes(), torn].concat())
            .unwrap();
    }

    fn texts(dir: &Path, filter: &Filter<'_>) -> Vec<String> {
        load(dir, filter).unwrap().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn history_is_ordered_across_services_and_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a", 1, &[1, 3]);
        write(dir.path(), "a", 0, &[5, 7]);
        write(dir.path(), "b", 0, &[2, 4, 6]);
        fs::write(dir.path().join("build-a.log"), "no line of ours").unwrap();
        let all = Filter::default();
        assert_eq!(texts(dir.path(), &all), ["a 1", "b 2", "a 3", "b 4", "a 5", "b 6", "a 7"]);
        assert_eq!(texts(dir.path(), &Filter { last: Some(2), ..all }), ["b 6", "a 7"]);
        assert_eq!(texts(dir.path(), &Filter { last: Some(0), ..all }), [""; 0]);
        let since = Some(Timestamp::from_second(5).unwrap());
        assert_eq!(texts(dir.path(), &Filter { since, ..all }), ["a 5", "b 6", "a 7"]);
        let services = &["a".to_owned()][..];
        assert_eq!(texts(dir.path(), &Filter { services, last: Some(3), ..all }), ["a 3", "a 5", "a 7"]);
        let keep = |line: &Line| line.text.ends_with('4');
        assert_eq!(texts(dir.path(), &Filter { keep: Some(&keep), last: Some(1), ..all }), ["b 4"]);
    }

    #[test]
    fn no_folder_means_no_lines() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(texts(&dir.path().join("absent"), &Filter::default()), [""; 0]);
    }
}
