//! `scale.json`: how many instances were wished for with `atoll scale`. A wish lasts until the manifest's own number
//! changes; one that has lapsed is dropped when the next is written.

use std::collections::BTreeMap;
use std::io;

use manifest::Scale;

use crate::project::Project;

/// The wishes by service.
pub fn load(project: &Project) -> BTreeMap<String, Scale> {
    // A file that is missing or damaged costs the wishes and nothing else.
    project.load_state(&path(project), "what the manifest says holds again")
}

/// Keeps the wishes, durably.
pub fn store(project: &Project, scale: &BTreeMap<String, Scale>) -> io::Result<()> {
    kit::file::store_atomic(&path(project), &serde_json::to_vec_pretty(scale)?)
}

fn path(project: &Project) -> std::path::PathBuf {
    project.state.join("scale.json")
}
