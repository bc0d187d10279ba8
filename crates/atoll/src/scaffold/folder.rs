//! A folder that is looked at: bounded reads of text files in it. Nothing here writes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Limit: bytes of a file that is read.
pub const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Limit: what one pattern, or one look into a folder, may find.
const MATCHES_MAX: usize = 200;

#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is larger than {FILE_BYTES_MAX} bytes", path.display())]
    Large { path: PathBuf },
}

/// A folder; all paths are relative to it.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder's own name, as the disk has it.
    pub fn name(&self) -> String {
        let path = std::fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone());
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub fn below(&self, path: &str) -> Self {
        Self(self.0.join(path))
    }

    pub fn has_file(&self, path: &str) -> bool {
        self.0.join(path).is_file()
    }

    pub fn has_folder(&self, path: &str) -> bool {
        self.0.join(path).is_dir()
    }

    /// The text of a file; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// When it is there and cannot be read, or is too large. `None` when it is not there.
    pub fn read(&self, path: &str) -> Result<Option<String>, Error> {
        let path = self.0.join(path);
        // A pipe would wait for a writer.
        if !path.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => Err(Error::Large { path }),
            Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// The same, where a file that cannot be read is as good as none.
    pub fn text(&self, path: &str) -> Option<String> {
        self.read(path).ok().flatten()
    }

    /// Folders below that match a pattern of the `glob` crate, sorted. A pattern leads nowhere else.
    pub fn folders(&self, pattern: &str) -> Vec<String> {
        self.matches(pattern).into_iter().filter(|path| self.has_folder(path)).collect()
    }

    /// Files below that match, sorted.
    pub fn files(&self, pattern: &str) -> Vec<String> {
        self.matches(pattern).into_iter().filter(|path| self.has_file(path)).collect()
    }

    fn matches(&self, pattern: &str) -> Vec<String> {
        let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
        // `**` would walk through everything that was ever installed here.
        let pattern = pattern.replace("**", "*");
        if pattern.starts_with('/') || pattern.split('/').any(|part| part == "..") {
            return Vec::new();
        }
        let root = glob::Pattern::escape(&self.0.to_string_lossy());
        let Ok(found) = glob::glob(&format!("{root}/{pattern}")) else { return Vec::new() };
        let mut paths: Vec<String> = found
            .flatten()
            .filter_map(|path| Some(path.strip_prefix(&self.0).ok()?.to_str()?.to_owned()))
            .filter(|path| !path.split('/').any(|part| part == "node_modules" || part.starts_with('.')))
            .take(MATCHES_MAX)
            .collect();
        paths.sort();
        paths
    }
}
