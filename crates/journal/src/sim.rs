//! A disk in memory that fails on purpose: for the simulations of this crate and of those that keep state in journals.
//! It forgets what was not synced, sector by sector and in any order, at whatever operation one asks; it fails writes and
//! syncs, and flips bits. Everything it chooses comes from its seed. It knows nothing of journals.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Access, Disk, File};
use crate::segment::lock;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What goes wrong with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops in the middle of it: part of it may have been done, and nothing works until
    /// [`SimDisk::power_cut`] or [`SimDisk::kill`].
    Crash,
    /// EIO. Part of a write may have been done; what a failed sync covers is clean in memory and on disk in part.
    Io,
    /// ENOSPC, in the middle of a write. Other operations succeed.
    Full,
    /// A write takes only part of what it is given. Other operations succeed.
    Short,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

impl Change {
    /// Does to `content` what this change does to the sectors that are `chosen`.
    fn apply(&self, content: &mut Vec<u8>, chosen: impl Fn(usize) -> bool) {
        match self {
            Self::Write { offset, bytes } => {
                set_length(content, content.len().max(offset + bytes.len()));
                let (mut at, mut bytes) = (*offset, bytes.as_slice());
                while !bytes.is_empty() {
                    let (part, rest) = bytes.split_at(bytes.len().min(SECTOR - at % SECTOR));
                    if chosen(at / SECTOR) {
                        content[at..at + part.len()].copy_from_slice(part);
                    }
                    (at, bytes) = (at + part.len(), rest);
                }
            }
            Self::Truncate(length) => {
                for (at, byte) in content.iter_mut().enumerate().skip(*length) {
                    if chosen(at / SECTOR) {
                        *byte = 0;
                    }
                }
            }
        }
    }

    fn length(&self, before: usize) -> usize {
        match self {
            Self::Write { offset, bytes } => before.max(offset + bytes.len()),
            Self::Truncate(length) => *length,
        }
    }
}

/// As `Vec::resize` with zeros, which takes long where nothing is optimised.
fn set_length(content: &mut Vec<u8>, length: usize) {
    content.truncate(length);
    content.extend_from_slice(&vec![0; length - content.len()]);
}

#[derive(Debug, Default)]
struct Node {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Between the two, in order.
    pending: Vec<Change>,
    is_locked: bool,
}

impl Node {
    fn change(&mut self, change: Change) {
        let length = change.length(self.live.len());
        change.apply(&mut self.live, |_| true);
        set_length(&mut self.live, length);
        self.pending.push(change);
    }

    /// What the disk holds if it stops now: of each sector any of its versions since the last sync, of the length too.
    fn survivors(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let pending = self.pending.len();
        if pending == 0 {
            return self.durable.clone();
        }
        // Often all or nothing: what lies between is not the only thing that happens.
        let kind = random.u8(..4);
        let mut version = || match kind {
            0 => 0,
            1 => pending,
            _ => random.usize(..=pending),
        };
        let kept = version();
        let length = self.pending[..kept].iter().fold(self.durable.len(), |length, change| change.length(length));
        let sectors: Vec<usize> = (0..=self.live.len().max(self.durable.len()) / SECTOR).map(|_| version()).collect();
        let mut content = self.durable.clone();
        for (at, change) in self.pending.iter().enumerate() {
            change.apply(&mut content, |sector| sectors.get(sector).is_some_and(|version| *version > at));
        }
        set_length(&mut content, length);
        content
    }
}

#[derive(Debug)]
struct World {
    random: fastrand::Rng,
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<(PathBuf, Option<usize>)>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    is_stopped: bool,
    /// Files of an earlier life cannot be used.
    life: u64,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Debug)]
struct SimFile {
    world: Arc<Mutex<World>>,
    node: usize,
    life: u64,
    has_lock: std::sync::atomic::AtomicBool,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let world = World {
            random: fastrand::Rng::with_seed(seed),
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            operations: 0,
            fault: None,
            is_stopped: false,
            life: 0,
        };
        Self { world: Arc::new(Mutex::new(world)) }
    }

    /// How many operations that change something were asked for: writes, syncs, truncations, names made and removed.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.world).operations
    }

    /// Lets the operation with this number, counted from 1 over all lives, go wrong. Replaces what was asked before.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        lock(&self.world).fault = Some((operation, fault));
    }

    /// The power goes and comes back: everything that was not synced may be lost.
    pub fn power_cut(&self) {
        let mut world = lock(&self.world);
        let World { random, nodes, names, durable_names, pending_names, .. } = &mut *world;
        for node in nodes.iter_mut() {
            node.durable = node.survivors(random);
            node.live.clone_from(&node.durable);
            node.pending.clear();
        }
        for (path, node) in pending_names.drain(..) {
            if random.bool() {
                set_name(durable_names, path, node);
            }
        }
        names.clone_from(durable_names);
        world.restart();
    }

    /// The process ends and another begins: nothing is lost, and nothing more is on disk.
    pub fn kill(&self) {
        lock(&self.world).restart();
    }

    /// Changes a file's content behind everyone's back, on disk and in memory. Says whether that changed anything.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut world = lock(&self.world);
        let Some(at) = world.names.get(path).copied() else { return false };
        let node = &mut world.nodes[at];
        let before = node.live.clone();
        change(&mut node.live);
        node.durable.clone_from(&node.live);
        node.pending.clear();
        node.live != before
    }

    /// Removes a file behind everyone's back.
    pub fn lose(&self, path: &Path) {
        let mut world = lock(&self.world);
        world.names.remove(path);
        world.durable_names.remove(path);
        world.pending_names.retain(|(other, _)| other != path);
    }

    /// Every file and its length.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let world = lock(&self.world);
        world.names.iter().map(|(path, node)| (path.clone(), world.nodes[*node].live.len())).collect()
    }
}

fn set_name(names: &mut BTreeMap<PathBuf, usize>, path: PathBuf, node: Option<usize>) {
    match node {
        Some(node) => names.insert(path, node),
        None => names.remove(&path),
    };
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(errno::EIO)
}

/// Numbers of Linux.
mod errno {
    pub(super) const EIO: i32 = 5;
    pub(super) const ENOSPC: i32 = 28;
}

impl World {
    fn restart(&mut self) {
        self.life += 1;
        self.is_stopped = false;
        self.fault = None;
        for node in &mut self.nodes {
            node.is_locked = false;
        }
    }

    /// Counts an operation and says what goes wrong with it.
    fn count(&mut self) -> io::Result<Option<Fault>> {
        if self.is_stopped {
            return Err(broken());
        }
        self.operations += 1;
        let fault = self.fault.filter(|(at, _)| *at == self.operations).map(|(_, fault)| fault);
        self.is_stopped |= fault == Some(Fault::Crash);
        Ok(fault)
    }

    /// For operations that happen or do not: whether it did, and whether it says so.
    fn whole(&mut self) -> io::Result<(bool, io::Result<()>)> {
        Ok(match self.count()? {
            Some(Fault::Crash | Fault::Io) => (self.random.bool(), Err(broken())),
            _ => (true, Ok(())),
        })
    }

    fn rename(&mut self, path: &Path, node: Option<usize>) {
        set_name(&mut self.names, path.to_owned(), node);
        self.pending_names.push((path.to_owned(), node));
    }
}

impl Disk for SimDisk {
    fn create_folder(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let world = lock(&self.world);
        let inside = world.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let mut world = lock(&self.world);
        if world.is_stopped {
            return Err(broken());
        }
        let known = world.names.get(path).copied();
        let node = match (known, access) {
            (Some(_), Access::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Access::Read | Access::Write) => return Err(io::ErrorKind::NotFound.into()),
            (Some(node), _) => node,
            (None, Access::New) => {
                let (is_done, result) = world.whole()?;
                let node = world.nodes.len();
                if is_done {
                    world.nodes.push(Node::default());
                    world.rename(path, Some(node));
                }
                result?;
                node
            }
        };
        let life = world.life;
        Ok(Box::new(SimFile { world: Arc::clone(&self.world), node, life, has_lock: false.into() }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = lock(&self.world);
        if !world.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (is_done, result) = world.whole()?;
        if is_done {
            world.rename(path, None);
        }
        result
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut world = lock(&self.world);
        let (is_done, result) = world.whole()?;
        if is_done {
            let World { durable_names, pending_names, .. } = &mut *world;
            for (path, node) in pending_names.extract_if(.., |(path, _)| path.parent() == Some(folder)) {
                set_name(durable_names, path, node);
            }
        }
        result
    }
}

impl SimFile {
    fn world(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = lock(&self.world);
        if world.is_stopped || world.life != self.life { Err(broken()) } else { Ok(world) }
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.world()?;
        let live = &world.nodes[self.node].live;
        let from = live.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let length = buffer.len().min(live.len() - from);
        buffer[..length].copy_from_slice(&live[from..from + length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut world = self.world()?;
        let fault = world.count()?;
        // What lies within one sector is taken whole or not at all, as a kernel copies pages.
        let is_small = offset % SECTOR as u64 + bytes.len() as u64 <= SECTOR as u64;
        let part = match world.random.usize(..=bytes.len()) {
            part if is_small && part < bytes.len().div_ceil(2) => 0,
            _ if is_small => bytes.len(),
            part => part,
        };
        let taken = match fault {
            None => bytes.len(),
            Some(Fault::Short) if is_small => bytes.len(),
            Some(Fault::Short) => part.max(1).min(bytes.len()),
            Some(_) => part,
        };
        if taken > 0 {
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            world.nodes[self.node].change(Change::Write { offset, bytes: bytes[..taken].to_vec() });
        }
        match fault {
            Some(Fault::Crash | Fault::Io) => Err(broken()),
            Some(Fault::Full) => Err(io::Error::from_raw_os_error(errno::ENOSPC)),
            None | Some(Fault::Short) => Ok(taken),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.world()?;
        let fault = world.count()?;
        let World { random, nodes, .. } = &mut *world;
        let node = &mut nodes[self.node];
        match fault {
            Some(Fault::Crash) => Err(broken()),
            Some(Fault::Io) => {
                // Linux marks the pages clean: the next sync says that all is well.
                node.durable = node.survivors(random);
                node.pending.clear();
                Err(broken())
            }
            _ => {
                // Not the live content: what an earlier failed sync has lost is not written by this one.
                for change in node.pending.drain(..) {
                    let length = change.length(node.durable.len());
                    change.apply(&mut node.durable, |_| true);
                    set_length(&mut node.durable, length);
                }
                Ok(())
            }
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.world()?.nodes[self.node].live.len() as u64)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut world = self.world()?;
        let (is_done, result) = world.whole()?;
        if is_done {
            world.nodes[self.node].change(Change::Truncate(usize::try_from(length).map_err(io::Error::other)?));
        }
        result
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut world = self.world()?;
        let is_free = !std::mem::replace(&mut world.nodes[self.node].is_locked, true);
        self.has_lock.store(is_free, std::sync::atomic::Ordering::Relaxed);
        Ok(is_free)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut world = lock(&self.world);
        if world.life == self.life && self.has_lock.load(std::sync::atomic::Ordering::Relaxed) {
            world.nodes[self.node].is_locked = false;
        }
    }
}
