//! A file that is appended to and rotated by size, so that what is written for ever takes a bounded space.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A log file and its older generations. One writer; blocking.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    /// A file that reached this size is rotated before the next write.
    bytes_max: u64,
    /// Files in all, the current one included; at least 1.
    files_max: u32,
    /// Absent before the first write and after a failed one.
    open: Option<(File, u64)>,
}

/// Path of a generation: 0 is the current file, higher numbers are older.
#[must_use]
pub fn generation(path: &Path, number: u32) -> PathBuf {
    match number {
        0 => path.to_owned(),
        _ => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            name.into()
        }
    }
}

impl Rotating {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(path: PathBuf, bytes_max: u64, files_max: u32) -> Self {
        Self { path, bytes_max, files_max, open: None }
    }

    /// Appends whole lines. After an error the file is opened anew by the next call, behind a line end.
    ///
    /// # Errors
    /// Any of the file system, a full disk included; nothing of `lines` is then in the file, unless it could not be cut
    /// back either.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let result = self.write(lines);
        if result.is_err() {
            self.open = None;
        }
        result
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(_, length)| *length >= self.bytes_max) {
            self.open = None;
            self.rotate()?;
        }
        let (file, length) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(open(&self.path)?),
        };
        let written = file.write_all(lines);
        if written.is_err() {
            // Half a line would not be JSON any more. Where it cannot be cut off, the next one begins behind a line end.
            let _ = file.set_len(*length);
        } else {
            *length += lines.len() as u64;
        }
        written
    }

    /// Moves every file one generation on; the oldest is replaced. With one file only, it starts empty again.
    fn rotate(&self) -> io::Result<()> {
        for number in (0..self.files_max.saturating_sub(1)).rev() {
            ignore_missing(fs::rename(generation(&self.path, number), generation(&self.path, number + 1)))?;
        }
        ignore_missing(fs::remove_file(&self.path))
    }
}

/// Opens for appending, after a line end: a crash or a full disk may have left half a line.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = File::options().create(true).append(true).read(true).open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    if length > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok((file, length))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(crate::ids::unique());
        fs::create_dir(&folder).expect("a temporary folder");
        folder
    }

    #[test]
    fn files_rotate_by_size_and_the_oldest_goes() {
        let folder = folder();
        let path = folder.join("log");
        let mut log = Rotating::new(path.clone(), 10, 3);
        for number in 0..8 {
            log.append(format!("line {number}\n").as_bytes()).expect("appended");
        }
        let read = |number| fs::read_to_string(generation(&path, number)).expect("a generation");
        assert_eq!([read(2), read(1), read(0)].concat(), "line 2\nline 3\nline 4\nline 5\nline 6\nline 7\n");
        assert_eq!(fs::read_dir(&folder).expect("listed").count(), 3);
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn half_a_line_of_a_crash_does_not_swallow_the_next() {
        let folder = folder();
        let path = folder.join("log");
        fs::write(&path, "half").expect("written");
        Rotating::new(path.clone(), 100, 1).append(b"whole\n").expect("appended");
        assert_eq!(fs::read_to_string(&path).expect("read"), "half\nwhole\n");
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_full_disk_is_an_error_and_the_next_write_tries_again() {
        let mut log = Rotating::new("/dev/full".into(), 100, 1);
        assert_eq!(log.append(b"lost\n").expect_err("full").raw_os_error(), Some(28));
        assert!(log.append(b"lost\n").is_err());
    }
}
