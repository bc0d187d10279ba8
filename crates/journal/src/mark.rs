//! The file `mark`: the journal's id, what retention has dropped, which segment is the last, and how far is synced. It is
//! also the lock. Retention, and the beginning of a segment, are durable here before they happen; the watermark is only
//! written along, never synced for its own sake, so that on disk it may be old and is never too high.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Access, Disk, File, read_upto, write_all};
use crate::error::{Damage, Error, Result};
use crate::format::{SLOT_BYTES, SLOTS, Slot, VERSION, Versioned};

const NAME: &str = "mark";

/// The open mark. Whoever has it is the only one who works on the journal's files.
#[derive(Debug)]
pub(crate) struct Mark {
    file: Box<dyn File>,
    path: PathBuf,
    pub(crate) slot: Slot,
}

/// A mark as it was found.
pub(crate) struct Found {
    pub(crate) mark: Mark,
    /// Nothing was ever written to it.
    pub(crate) is_blank: bool,
    /// Slots that are not what was written.
    pub(crate) damage: Vec<Damage>,
}

impl Mark {
    /// Opens or makes the file and takes the lock. A mark without a valid slot gets a new id and is stored by whoever
    /// decides what that means.
    pub(crate) fn open(disk: &Arc<dyn Disk>, folder: &Path) -> Result<Found> {
        let path = folder.join(NAME);
        let opened = match disk.open(&path, Access::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(&path, Access::New),
            opened => opened,
        };
        let file = opened.map_err(Error::io("open", &path))?;
        if !file.try_lock().map_err(Error::io("lock", &path))? {
            return Err(Error::Locked { folder: folder.to_owned() });
        }
        let mut valid: Option<Slot> = None;
        let mut damage = Vec::new();
        let mut blank = 0;
        for offset in SLOTS {
            let bytes = read_upto(&*file, SLOT_BYTES, offset).map_err(Error::io("read", &path))?;
            match Slot::decode(&bytes) {
                Versioned::Valid(slot) => {
                    valid = Some(valid.filter(|other| other.generation > slot.generation).unwrap_or(slot));
                }
                Versioned::Other(version) => return Err(Error::Version { path, version, supported: VERSION }),
                Versioned::Invalid => {
                    blank += usize::from(bytes.iter().all(|byte| *byte == 0));
                    let bytes = SLOT_BYTES as u64;
                    damage.push(Damage { file: path.clone(), offset, bytes, first: 0, until: 0 });
                }
            }
        }
        let id = uuid::Uuid::new_v4().as_u128();
        let slot = valid.unwrap_or(Slot { id, generation: 0, first: 1, last_base: 0, synced: 0 });
        let is_blank = valid.is_none() && blank == SLOTS.len();
        // Both are on disk before the first segment is begun.
        if valid.is_some_and(|slot| slot.last_base == 0) && blank == 1 {
            damage.clear();
        }
        Ok(Found { mark: Self { file, path, slot }, is_blank, damage })
    }

    /// Writes the slot beside the last one. It reaches the disk when the kernel likes.
    pub(crate) fn write(&mut self) -> Result<()> {
        self.slot.generation += 1;
        let offset = SLOTS[(self.slot.generation % 2) as usize];
        write_all(&*self.file, &self.slot.encode(), offset).map_err(Error::io("write", &self.path))
    }

    /// Writes both slots and waits until they are on disk.
    pub(crate) fn store_both(&mut self) -> Result<()> {
        self.write()?;
        self.store()
    }

    /// Writes the slot and waits until it is on disk.
    pub(crate) fn store(&mut self) -> Result<()> {
        self.write()?;
        self.file.sync().map_err(Error::io("sync", &self.path))
    }
}
