//! The port ledger on disk, where in the range to look for new ports, and claims that keep daemons out of each other's way.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::{fs, io};

use crate::project::{Project, kept};

/// Below the usual ephemeral range, above what services commonly claim. Narrowed where the kernel hands out ports.
const RANGE: RangeInclusive<u16> = 20_000..=29_999;

/// Ports by [`manifest::Plan::ports`]'s keys.
pub type Ledger = BTreeMap<String, u16>;

/// The ports that this application was given before. A ledger that is missing or damaged costs new ports and nothing else.
pub fn load_ledger(project: &Project) -> Ledger {
    kept::load(&project.ports_file()).valid().unwrap_or_default()
}

/// Keeps the ports for the next start.
pub fn store_ledger(project: &Project, ledger: &Ledger) -> io::Result<()> {
    kept::store(&project.ports_file(), ledger)
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

/// Ports that no other daemon of this network namespace chooses while this is held. They go with the process, however
/// that ends: each is the name of an abstract socket (unix(7)).
#[derive(Debug, Default)]
pub struct Claims {
    names: BTreeMap<u16, UnixListener>,
}

impl Claims {
    /// Claims those of these ports that are not claimed yet, or gives those that another daemon has and claims none.
    pub fn take(&mut self, ports: impl Iterator<Item = u16>) -> Result<(), BTreeSet<u16>> {
        let mut names = BTreeMap::new();
        let mut claimed = BTreeSet::new();
        for port in ports.filter(|port| !self.names.contains_key(port)) {
            let name = SocketAddr::from_abstract_name(format!("atoll/port/{port}"));
            match name.and_then(|name| UnixListener::bind_addr(&name)) {
                Ok(name) => {
                    names.insert(port, name);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    claimed.insert(port);
                }
                // Where there are no such sockets, listeners alone tell what is taken.
                Err(_) => {}
            }
        }
        if !claimed.is_empty() {
            return Err(claimed);
        }
        self.names.append(&mut names);
        Ok(())
    }

    /// Lets go of all ports but these.
    pub fn keep(&mut self, ports: &BTreeSet<u16>) {
        self.names.retain(|port, _| ports.contains(port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_is_not_claimed_twice_until_it_is_let_go() {
        let (mut ours, mut theirs) = (Claims::default(), Claims::default());
        ours.take(40_001..40_004).expect("free");
        ours.take(40_002..40_005).expect("those that are claimed already are no others'");
        assert_eq!(theirs.take(40_004..40_007).expect_err("one is taken"), BTreeSet::from([40_004]));
        ours.keep(&BTreeSet::from([40_001]));
        theirs.take(40_002..40_007).expect("free again");
        assert_eq!(theirs.take([40_001].into_iter()).expect_err("kept"), BTreeSet::from([40_001]));
    }

    #[test]
    fn the_first_port_lies_in_the_range_and_depends_on_the_folder_alone() {
        for name in ["/a", "/b", "/some/where/else"] {
            let port = first(&RANGE, Path::new(name));
            assert!(RANGE.contains(&port) && port == first(&RANGE, Path::new(name)));
        }
    }
}
