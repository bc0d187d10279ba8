//! What can go wrong with a stream's files. Clients are answered an [`super::api::ApiError`]; this goes to the log with
//! its place and cause, and decides whether the stream is opened anew.

use std::io;
use std::path::PathBuf;

/// A failure of a stream's files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("record {sequence} in {} is none of this version", folder.display())]
    Record { folder: PathBuf, sequence: u64 },
    #[error("{} says nothing of its stream", folder.display())]
    Nameless { folder: PathBuf },
    #[error(transparent)]
    Store(#[from] super::store::Error),
    #[error("opening stream `{stream}` ended in the middle")]
    Ended { stream: String },
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl Failure {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
