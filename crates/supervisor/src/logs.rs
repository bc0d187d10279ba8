//! What instances write: lines with a time and an origin, on disk and to followers.
//! The shim of an instance writes them; `history` reads them back, with or without a daemon; `pipe` reads builds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod history;
pub(crate) mod lines;
pub(crate) mod pipe;
pub(crate) mod tail;

pub use history::{Error, Filter, load};

/// One line of an instance. Serialisable, because it is a line of the log file and of the API's stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When it was read.
    pub ts: Timestamp,
    pub service: Arc<str>,
    pub instance: u32,
    pub stream: Stream,
    /// Without its line end; what is not UTF-8 is replaced by U+FFFD.
    pub text: String,
    /// Whether the next line goes on with this one, which was longer than [`Limits::line_bytes_max`].
    #[serde(default, skip_serializing_if = "is_whole")]
    pub split: bool,
}

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// A longer line is split; 64 KiB by default.
    pub line_bytes_max: usize,
    /// A file that reached this size is rotated; 10 MiB by default. Also the limit of a build's log.
    pub file_bytes_max: u64,
    /// Files of one instance, the current one included; the oldest goes first. 5 by default.
    pub files_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { line_bytes_max: 64 << 10, file_bytes_max: 10 << 20, files_max: 5 }
    }
}

fn is_whole(split: &bool) -> bool {
    !split
}

/// Path of an instance's log; older generations are beside it (see [`kit::rotate::generation`]).
pub(crate) fn file(dir: &Path, service: &str, instance: u32) -> PathBuf {
    dir.join(format!("{service}.{instance}.jsonl"))
}

/// The reverse of [`file`]: service, instance, generation.
fn parse_file_name(name: &str) -> Option<(&str, u32, u32)> {
    let (stem, generation) = name.split_once(".jsonl")?;
    let generation = match generation.strip_prefix('.') {
        Some(number) => number.parse().ok()?,
        None if generation.is_empty() => 0,
        None => return None,
    };
    let (service, instance) = stem.rsplit_once('.')?;
    Some((service, instance.parse().ok()?, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_survive_the_round_trip_and_others_are_not_ours() {
        for (service, instance, generation) in [("catalog", 0, 0), ("a-b", 12, 3)] {
            let path = kit::rotate::generation(&file(Path::new("/logs"), service, instance), generation);
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert_eq!(parse_file_name(name), Some((service, instance, generation)));
        }
        for other in
            ["build-catalog.log", "catalog.jsonl", "catalog.x.jsonl", "catalog.0.jsonl.new", "catalog.0.jsonlx"]
        {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }
}
