//! The state files of `.atoll/`: JSON with a version, whole or absent, for this user alone. What cannot be understood is
//! never guessed at: whoever reads goes on without it, and the next daemon moves it aside and says so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::project::Project;

/// Version of every state file's form.
const VERSION: u32 = 1;

/// Limit: a larger file is none of ours.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What a state file holds.
#[derive(Debug, PartialEq)]
pub enum Stored<T> {
    Absent,
    Valid(T),
    /// What is wrong with it.
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    content: T,
}

/// The version of a form that may be newer than ours.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl<T> Stored<T> {
    pub fn valid(self) -> Option<T> {
        match self {
            Self::Valid(content) => Some(content),
            Self::Absent | Self::Damaged(_) => None,
        }
    }
}

/// Reads a state file; blocking.
pub fn load<T: DeserializeOwned>(path: &Path) -> Stored<T> {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Stored::Absent,
        Err(error) => return Stored::Damaged(error.to_string()),
    };
    match serde_json::from_slice::<Version>(&text) {
        Ok(Version { version }) if version != VERSION => {
            return Stored::Damaged(format!("its version {version} is not known, only {VERSION} is"));
        }
        _ => {}
    }
    match serde_json::from_slice::<Versioned<T>>(&text) {
        Ok(Versioned { content, .. }) => Stored::Valid(content),
        Err(error) => Stored::Damaged(error.to_string()),
    }
}

/// Replaces a state file, durably, unless it holds just that; blocking.
pub fn store<T: Serialize>(path: &Path, content: &T) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&Versioned { version: VERSION, content })?;
    if read(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    kit::file::store_atomic(path, &text)
}

impl Project {
    /// Moves the state files aside that cannot be understood, and says of each what is wrong and what follows. For whoever
    /// holds the folder's lock.
    pub fn set_damaged_aside(&self) -> Vec<String> {
        let all = [
            (self.ports_file(), load::<super::ports::Ledger>(&self.ports_file()).damage(), "ports are chosen anew"),
            (
                self.scale_file(),
                load::<super::scale::Wishes>(&self.scale_file()).damage(),
                "the manifest's numbers hold again",
            ),
            (
                self.credentials_file(),
                load::<super::Credentials>(&self.credentials_file()).damage(),
                "every user of the broker has another password, and its services are replaced",
            ),
            (
                self.record_file(),
                load::<super::record::Stored>(&self.record_file()).damage(),
                "what ran before the present manifest is not known",
            ),
            (
                self.switches_file(),
                load::<super::Switched>(&self.switches_file()).damage(),
                "no fault is set and no breaker is forced",
            ),
        ];
        all.into_iter().filter_map(|(path, why, consequence)| Some(set_aside(&path, &why?, consequence))).collect()
    }
}

impl<T> Stored<T> {
    fn damage(self) -> Option<String> {
        match self {
            Self::Damaged(why) => Some(why),
            Self::Absent | Self::Valid(_) => None,
        }
    }
}

/// Opens a file for reading, and nothing else: a pipe, say, would have whoever opens it wait for its other end.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a file")),
    }
}

fn set_aside(path: &Path, why: &str, consequence: &str) -> String {
    let beside = PathBuf::from(format!("{}.damaged", path.display()));
    // Neither a file nor a folder takes the place of the other: what is in the way is not ours, and goes on standing there.
    let unique = PathBuf::from(format!("{}.{}", beside.display(), kit::ids::unique()));
    let moved = |to: PathBuf| std::fs::rename(path, &to).map(|()| to);
    let what = match moved(beside).or_else(|_| moved(unique)) {
        Ok(beside) => format!("moved to {}", beside.display()),
        Err(error) => format!("not moved: {error}"),
    };
    format!("{}: {why}; {what}; {consequence}", path.display())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    open(path)?.take(BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_again_and_anything_else_is_damage() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("state.json");
        assert_eq!(load::<Vec<u16>>(&path), Stored::Absent);
        store(&path, &vec![1u16, 2]).expect("stored");
        assert_eq!(load(&path), Stored::Valid(vec![1u16, 2]));
        for text in ["", "{", "[]", "\u{0}", r#"{"version":1}"#, r#"{"version":1,"content":"x"}"#] {
            std::fs::write(&path, text).expect("written");
            assert!(matches!(load::<Vec<u16>>(&path), Stored::Damaged(_)), "{text}");
        }
        std::fs::write(&path, r#"{"version":2,"content":[1],"more":{}}"#).expect("written");
        let Stored::Damaged(why) = load::<Vec<u16>>(&path) else { panic!("a newer form was read") };
        assert!(why.contains("version 2"), "{why}");
        let said = set_aside(&path, &why, "nothing follows");
        assert!(said.contains("state.json.damaged") && !path.exists(), "{said}");
        // A folder where the file should be, and one where it was moved before.
        std::fs::create_dir_all(path.join("full")).expect("a folder");
        assert!(set_aside(&path, "", "").contains("; moved to ") && !path.exists());
        std::fs::remove_file(path.with_extension("json.damaged")).expect("removed");
        std::fs::create_dir_all(path.with_extension("json.damaged").join("full")).expect("a folder");
        std::fs::write(&path, "").expect("written");
        assert!(set_aside(&path, "", "").contains("; moved to ") && !path.exists());
    }
}
