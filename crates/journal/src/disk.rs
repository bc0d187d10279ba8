//! The few operations of a file system that a journal is made of, and the real ones. The other implementation is
//! `sim::SimDisk`, which fails and crashes on purpose. All of them block; they are called on threads for such work only.

use std::fmt::Debug;
use std::fs::{DirBuilder, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Reading and writing what exists.
    Write,
    /// Reading and writing what must not exist yet; 0600.
    New,
}

/// A file system.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a folder (0700) durably, with those above it. One that exists is fine.
    ///
    /// # Errors
    /// Those of the file system, as for all methods here.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a folder, in any order; those that are not UTF-8 are left out.
    ///
    /// # Errors
    /// Those of the file system.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// # Errors
    /// Those of the file system.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;
    /// # Errors
    /// Those of the file system.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes names that came or went durable.
    ///
    /// # Errors
    /// Those of the file system.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// An open file.
pub trait File: Debug + Send + Sync {
    /// May give fewer bytes than fit; none only at the end.
    ///
    /// # Errors
    /// Those of the file system, as for all methods here.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// May take fewer bytes than were given.
    ///
    /// # Errors
    /// Those of the file system.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// `fdatasync`: content and length, not times.
    ///
    /// # Errors
    /// Those of the file system. What was written since the last success is then in an unknown state for ever.
    fn sync(&self) -> io::Result<()>;
    /// # Errors
    /// Those of the file system.
    fn length(&self) -> io::Result<u64>;
    /// # Errors
    /// Those of the file system.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Takes the lock of this file until it is closed, or says `false` when another has it.
    ///
    /// # Errors
    /// Those of the file system.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Writes all of `bytes`, in as many writes as it takes.
pub(crate) fn write_all(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads up to `length` bytes: fewer only where the file ends.
pub(crate) fn read_upto(file: &dyn File, length: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if !path.is_dir() {
            if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
                self.create_folder(parent)?;
            }
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        // Also for one that exists: whoever made it may have been killed before this.
        self.sync_folder(parent.unwrap_or(Path::new(".")))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read).create_new(access == Access::New).mode(0o600);
        Ok(Box::new(options.open(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        std::fs::File::open(folder)?.sync_all()
    }
}

impl File for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
