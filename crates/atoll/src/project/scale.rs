//! `scale.json`: how many instances were wished for with `atoll scale`. A wish lasts until the manifest's own number
//! changes; one that has lapsed is dropped when the next is written.

use std::collections::BTreeMap;
use std::io;

use manifest::Scale;

use crate::project::{Project, kept};

/// The wishes by service.
pub type Wishes = BTreeMap<String, Scale>;

/// The wishes that are kept. A file that is missing or damaged costs the wishes and nothing else.
pub fn load(project: &Project) -> Wishes {
    kept::load(&project.scale_file()).valid().unwrap_or_default()
}

/// Keeps the wishes, durably.
pub fn store(project: &Project, wishes: &Wishes) -> io::Result<()> {
    kept::store(&project.scale_file(), wishes)
}
