//! The servers that are compared, as processes with ports and folders of their own: the broker, nats-server as it is, and
//! nats-server that syncs before it acknowledges. Each can also be given a disk whose syncs take longer.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

use super::raw::Client;
use crate::options::Broker as Options;
use crate::running::Program;
use crate::usage::{self, Look, Memory};

/// How long a server may take until it answers, and how often that is looked at.
const START_MAX: Duration = Duration::from_secs(120);
const START_INTERVAL: Duration = Duration::from_millis(2);

/// What is added to each sync of a slow disk, in microseconds.
pub(super) const DELAY_US: u32 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Atoll,
    /// As it is: it syncs every two minutes.
    Nats,
    /// With `sync_interval: always`.
    Synced,
}

impl Kind {
    pub(super) const fn id(self) -> &'static str {
        match self {
            Self::Atoll => "atoll",
            Self::Nats => "nats-server",
            Self::Synced => "nats-server-synced",
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Atoll => "Atoll",
            Self::Nats => "nats-server",
            Self::Synced => "nats-server, sync always",
        }
    }
}

/// How long a sync takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Disk {
    /// As long as it does here.
    Own,
    /// [`DELAY_US`] longer, for every server alike: a tracer holds the thread that syncs, and nothing else.
    Slow,
}

/// One that runs; dropped, it ends.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    program: Program,
    /// What is counted.
    pids: Vec<u32>,
}

impl Server {
    /// Starts it on a folder, which may hold streams already, and waits until it answers.
    pub(super) async fn start(kind: Kind, disk: Disk, folder: &Path, options: &Options) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let words = words(kind, address, folder, options)?;
        let mut command = match disk {
            Disk::Own => Command::new(&words[0]),
            Disk::Slow => {
                let mut tracer = Command::new("strace");
                let inject = format!("inject=fsync,fdatasync:delay_exit={DELAY_US}");
                tracer.args([
                    "-f",
                    "--seccomp-bpf",
                    "-qq",
                    "-e",
                    "trace=fsync,fdatasync",
                    "-e",
                    &inject,
                    "-o",
                    "/dev/null",
                ]);
                tracer.arg(&words[0]);
                tracer
            }
        };
        command.args(&words[1..]);
        let mut program = Program::start(command, &folder.join("log"))?;
        let start = Instant::now();
        while Client::open(address, &[]).await.is_err() {
            program.check().with_context(|| format!("{} does not run", kind.title()))?;
            if start.elapsed() > START_MAX {
                bail!("{} does not answer", kind.title());
            }
            sleep(START_INTERVAL).await;
        }
        let own = program.pid();
        let tracer = matches!(disk, Disk::Slow).then_some(own);
        let pids = usage::family(own).into_iter().filter(|pid| Some(*pid) != tracer).collect();
        Ok(Self { kind, address, program, pids })
    }

    pub(super) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(super) fn look(&mut self) -> Result<Look> {
        self.program.check().with_context(|| self.kind.title())?;
        Look::at(&self.pids)
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        Memory::at(&self.pids)
    }
}

fn words(kind: Kind, address: SocketAddr, folder: &Path, options: &Options) -> Result<Vec<PathBuf>> {
    let store = folder.join("store");
    if kind == Kind::Atoll {
        return Ok(vec![options.broker.clone(), address.port().to_string().into(), store]);
    }
    let file = folder.join("nats.conf");
    let sync = if kind == Kind::Synced { ", sync_interval: always" } else { "" };
    let text = format!("listen: \"{address}\"\njetstream {{ store_dir: {store:?}, max_file_store: 100GB{sync} }}\n");
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(vec![options.nats_server.clone(), "-c".into(), file])
}
