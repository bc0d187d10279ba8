//! The port ledger on disk, and where in the range of ports to look for new ones.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::path::Path;
use std::{fs, io};

use crate::project::Project;

/// Below the usual ephemeral range, above what services commonly claim. Narrowed where the kernel hands out ports.
const RANGE: RangeInclusive<u16> = 20_000..=29_999;

/// The ports that this application was given before, by key.
pub fn load_ledger(project: &Project) -> BTreeMap<String, u16> {
    // A ledger that is missing or damaged costs new ports and nothing else.
    let text = fs::read(path(project)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Keeps the ports for the next start.
pub fn store_ledger(project: &Project, ledger: &BTreeMap<String, u16>) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(ledger)?;
    if fs::read(path(project)).is_ok_and(|old| old == text) {
        return Ok(());
    }
    kit::file::store_atomic(&path(project), &text)
}

fn path(project: &Project) -> std::path::PathBuf {
    project.state.join("ports.json")
}

/// Where to look for ports that no program gets by chance.
pub fn range() -> RangeInclusive<u16> {
    let kernel = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = kernel.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    match (bounds.next(), bounds.next()) {
        (Some(low), Some(_)) if low > *RANGE.start() + 1000 && low <= *RANGE.end() => *RANGE.start()..=low - 1,
        (Some(low), Some(high)) if low <= *RANGE.start() && high < 60_000 && high >= *RANGE.start() => {
            high + 1..=u16::MAX
        }
        _ => RANGE,
    }
}

/// Where to begin in the range: different for each folder, so that two applications rarely want the same port.
pub fn first(range: &RangeInclusive<u16>, root: &Path) -> u16 {
    let mut hasher = DefaultHasher::new();
    root.hash(&mut hasher);
    let size = u64::from(range.end() - range.start()) + 1;
    range.start() + u16::try_from(hasher.finish() % size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_port_lies_in_the_range_and_depends_on_the_folder_alone() {
        for name in ["/a", "/b", "/some/where/else"] {
            let port = first(&RANGE, Path::new(name));
            assert!(RANGE.contains(&port) && port == first(&RANGE, Path::new(name)));
        }
    }
}
