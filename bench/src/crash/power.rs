//! A disk whose power can be cut. The broker's file system is in a file, which is in a file system in a file, which is in
//! a third one: when the third is frozen nothing more reaches the file of the second, and what is copied then is what a disk
//! holds at one moment. Whether the second has a cache that a cut empties is chosen. Needs root and loop devices.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// MiB of each file system, the innermost first.
const SIZES: [u64; 3] = [160, 210, 260];

/// What the disk has in front of its platters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// What was written and not flushed is lost, but for what was written back by chance.
    Volatile,
    /// What was written is there, in whatever state it was.
    Through,
}

impl Cache {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Volatile => "volatile cache",
            Self::Through => "write-through",
        }
    }
}

/// Loop devices and mounts, in the order in which they were made. Its drop undoes them.
#[derive(Debug, Default)]
struct Undo(Vec<[String; 3]>);

impl Drop for Undo {
    fn drop(&mut self) {
        for [program, first, second] in self.0.iter().rev() {
            let arguments = [first, second].into_iter().filter(|word| !word.is_empty());
            // What cannot be undone is left to whoever reads this.
            match std::process::Command::new(program).args(arguments).status() {
                Ok(status) if status.success() => {}
                other => eprintln!("bench: {program} {first} {second}: {other:?}"),
            }
        }
    }
}

/// The disk.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    cache: Cache,
    _undo: Undo,
}

/// What was left of it, mounted.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) folder: PathBuf,
    _undo: Undo,
}

async fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().await;
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is text")
}

/// Mounts the file system that is in a file.
async fn mount(undo: &mut Undo, file: &Path, at: &Path, direct: &str) -> Result<()> {
    tokio::fs::create_dir_all(at).await?;
    let device = run("losetup", &["--find", "--show", direct, text(file)?]).await?;
    undo.0.push(["losetup".into(), "--detach".into(), device.clone()]);
    run("mount", &[&device, text(at)?]).await?;
    undo.0.push(["umount".into(), text(at)?.to_owned(), String::new()]);
    Ok(())
}

/// Writes every byte of it, so that later only what is in it changes, and nothing of where it lies.
async fn make(file: &Path, size: u64) -> Result<()> {
    let (output, count) = (format!("of={}", text(file)?), format!("count={size}"));
    run("dd", &["if=/dev/zero", &output, "bs=1M", &count, "conv=fsync"]).await?;
    run("mkfs.ext4", &["-q", "-F", text(file)?]).await?;
    Ok(())
}

impl Disk {
    pub(crate) async fn make(root: &Path, cache: Cache) -> Result<Self> {
        let mut undo = Undo::default();
        let [inner, middle, outer] = SIZES;
        make(&root.join("outer"), outer).await?;
        mount(&mut undo, &root.join("outer"), &root.join("a"), "--direct-io=on").await?;
        make(&root.join("a/middle"), middle).await?;
        mount(&mut undo, &root.join("a/middle"), &root.join("b"), "--direct-io=on").await?;
        make(&root.join("b/inner"), inner).await?;
        run("sync", &["--file-system", text(&root.join("b/inner"))?]).await?;
        let direct = if cache == Cache::Volatile { "--direct-io=off" } else { "--direct-io=on" };
        mount(&mut undo, &root.join("b/inner"), &root.join("c"), direct).await?;
        Ok(Self { root: root.to_owned(), cache, _undo: undo })
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.root.join("c/broker")
    }

    /// Copies what is on it at one moment, while it is written.
    pub(crate) async fn cut(&self) -> Result<()> {
        let frozen = self.root.join("a");
        run("fsfreeze", &["--freeze", text(&frozen)?]).await?;
        let (from, to) = (frozen.join("middle"), self.root.join("copy"));
        let copied = run("cp", &["--sparse=always", text(&from)?, text(&to)?]).await;
        run("fsfreeze", &["--unfreeze", text(&frozen)?]).await?;
        copied.map(drop)
    }

    /// Mounts what was copied last.
    pub(crate) async fn remains(&self) -> Result<Remains> {
        let mut undo = Undo::default();
        mount(&mut undo, &self.root.join("copy"), &self.root.join("d"), "--direct-io=off").await?;
        mount(&mut undo, &self.root.join("d/inner"), &self.root.join("e"), "--direct-io=off").await?;
        Ok(Remains { folder: self.root.join("e/broker"), _undo: undo })
    }

    pub(crate) fn cache(&self) -> Cache {
        self.cache
    }
}
