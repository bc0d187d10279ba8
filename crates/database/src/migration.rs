//! Migrations as they lie in their folder: found, ordered, read, checksummed, and compared with what a database has.
//! Engine-neutral; what their SQL means is an engine's business.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Error;

/// Limit: one file. Larger ones are refused: data of that size belongs in an import, not in a schema.
const BYTES_MAX: u64 = 16 << 20;

/// Limit: entries of one folder.
const FILES_MAX: usize = 10_000;

/// How many characters of a checksum identify it for a person.
const CHECKSUM_SHOWN: usize = 12;

/// One file `NNNN_name.sql`.
#[derive(Debug)]
pub(crate) struct Migration {
    pub(crate) version: i64,
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) sql: String,
    /// SHA-256 of the bytes, in hex.
    pub(crate) checksum: String,
}

/// A row of the ledger: a migration that the database already has.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) version: i64,
    pub(crate) name: String,
    pub(crate) checksum: String,
}

impl Migration {
    /// The name of its file.
    pub(crate) fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Reads all migrations of a folder, by number. Numbers may have gaps. What neither begins with a digit nor ends in
/// `.sql` is not meant as a migration and is left alone (a README, hidden files).
pub(crate) fn load_folder(folder: &Path) -> Result<Vec<Migration>, Error> {
    let fail = |source| Error::Folder { path: folder.to_owned(), source };
    let mut found: BTreeMap<i64, (String, PathBuf)> = BTreeMap::new();
    for (seen, entry) in std::fs::read_dir(folder).map_err(fail)?.enumerate() {
        if seen >= FILES_MAX {
            return Err(Error::TooMany { path: folder.to_owned(), max: FILES_MAX });
        }
        let path = entry.map_err(fail)?.path();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        if !is_meant(&file_name) {
            continue;
        }
        let Some((version, name)) = parse_name(&file_name) else {
            return Err(Error::FileName { path });
        };
        let name = name.to_owned();
        if let Some((_, other)) = found.remove(&version) {
            // Folders are listed in no order; the message has one.
            let (first, second) = if other < path { (other, path) } else { (path, other) };
            return Err(Error::Duplicate { first, second });
        }
        found.insert(version, (name, path));
    }
    found.into_iter().map(|(version, (name, path))| load_file(version, name, path)).collect()
}

/// Compares the folder with the ledger, both in the order of their numbers, and gives what is to be applied.
pub(crate) fn plan_pending<'a>(
    folder: &Path,
    migrations: &'a [Migration],
    ledger: &[Applied],
) -> Result<&'a [Migration], Error> {
    for (at, applied) in ledger.iter().enumerate() {
        let missing =
            || Error::Missing { folder: folder.to_owned(), version: applied.version, name: applied.name.clone() };
        let migration = migrations.get(at).ok_or_else(missing)?;
        if migration.version > applied.version {
            return Err(missing());
        }
        if migration.version < applied.version {
            let newest = ledger.last().map_or(applied.version, |last| last.version);
            return Err(Error::OutOfOrder { path: migration.path.clone(), newest });
        }
        if migration.checksum != applied.checksum {
            return Err(Error::Changed {
                path: migration.path.clone(),
                applied: shortened(&applied.checksum),
                found: shortened(&migration.checksum),
            });
        }
    }
    Ok(&migrations[ledger.len()..])
}

fn is_meant(file_name: &str) -> bool {
    let hidden = file_name.starts_with('.');
    !hidden && (file_name.starts_with(|c: char| c.is_ascii_digit()) || file_name.to_ascii_lowercase().ends_with(".sql"))
}

/// Splits `0001_name.sql` into its number and its name.
fn parse_name(file_name: &str) -> Option<(i64, &str)> {
    let (digits, name) = file_name.strip_suffix(".sql")?.split_once('_')?;
    let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    (number && named).then(|| digits.parse().ok().map(|version| (version, name)))?
}

fn load_file(version: i64, name: String, path: PathBuf) -> Result<Migration, Error> {
    let fail = |source| Error::File { path: path.clone(), source };
    // Asked before it is opened: a FIFO would block.
    if !std::fs::metadata(&path).map_err(fail)?.is_file() {
        return Err(Error::NotFile { path });
    }
    let mut bytes = Vec::new();
    File::open(&path).map_err(fail)?.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Error::TooLarge { path, bytes_max: BYTES_MAX });
    }
    let checksum = Sha256::digest(&bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    });
    // SQLite would take a NUL for the end of the text and drop the rest in silence.
    let nul = bytes.iter().position(|byte| *byte == 0);
    let invalid = std::str::from_utf8(&bytes).err().map(|error| error.valid_up_to());
    match (String::from_utf8(bytes), nul) {
        (Ok(sql), None) => Ok(Migration { version, name, path, sql, checksum }),
        (Ok(text), Some(at)) => Err(Error::NotText { line: line_at(text.as_bytes(), at), path }),
        (Err(error), _) => {
            let at = invalid.unwrap_or_default();
            Err(Error::NotText { line: line_at(error.as_bytes(), at), path })
        }
    }
}

/// Number of the line, from 1, that the byte at `offset` is in.
pub(crate) fn line_at(text: &[u8], offset: usize) -> usize {
    1 + text[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

fn shortened(checksum: &str) -> String {
    checksum.chars().take(CHECKSUM_SHOWN).collect()
}
