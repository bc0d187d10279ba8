//! `bench soak`: a fixed rate of GETs and PUTs for minutes, while instances are killed at random. No request may fail, as
//! all of them may be repeated (RFC 9110 section 9.2.2), and the data plane's memory and descriptors may not grow.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{interval, sleep};

use crate::options::{Rate, Soak};
use crate::peers::{Kind, Running, Shape, Site};
use crate::rate::{self, Outcome};
use crate::usage::{self, Memory};
use crate::work::{BIG_BYTES, Logs, ROUTES, Work, path};

/// Instances that share the load, and of these, how many are left alone at least.
const REPLICAS: usize = 4;
const LEFT_MIN: usize = 2;
/// How often one of them is killed.
const KILL_INTERVAL: Duration = Duration::from_secs(1);
/// The same load before anything is counted: pools and buffers are as large as they get.
const WARM_UP: u64 = 20;
/// How long nothing happens before what is held is counted.
const SETTLE: Duration = Duration::from_secs(3);
/// Of each half of the load.
const CONNECTIONS: usize = 32;

/// More than this is growth: pages that an allocator keeps, and connections that wait in pools.
const MEMORY_GROWTH_MAX_KIB: u64 = 4 * 1024;
const DESCRIPTORS_GROWTH_MAX: usize = 2 * CONNECTIONS;

/// What the data plane holds.
#[derive(Clone, Copy, Debug)]
struct Holding {
    memory: Memory,
    descriptors: usize,
}

pub(crate) async fn run(options: Soak) -> Result<()> {
    let atoll = Kind::Atoll.find(&options.given.atoll, &options.given.tools)?;
    let site = Site::open()?;
    let shape = Shape { routes: ROUTES, services: 1, replicas: REPLICAS };
    let proxy = atoll.start_shaped(&site, Logs::On, shape, &atoll.name).await?;
    eprintln!("bench: soak: warming up for {WARM_UP} s");
    load_and_kill(&site, &proxy, options.rate, WARM_UP).await?;
    let before = Holding::of(&proxy).await?;
    eprintln!("bench: soak: {} s at {} requests/s", options.seconds, options.rate);
    let ([gets, puts], killed) = load_and_kill(&site, &proxy, options.rate, options.seconds).await?;
    let after = Holding::of(&proxy).await?;
    let (memory, descriptors) =
        (after.memory.since(before.memory).pss, after.descriptors.saturating_sub(before.descriptors));
    println!("soak: {} s at {} requests/s, {killed} instances killed", options.seconds, options.rate);
    for (name, half) in [("GET", gets), ("PUT 16 KiB", puts)] {
        println!(
            "  {name}: {} answered, {} failed, p50 {} us, p99 {} us",
            half.requests, half.errors, half.p50, half.p99
        );
    }
    println!("  memory: {} KiB, then {} KiB", before.memory.pss, after.memory.pss);
    println!("  descriptors: {}, then {}", before.descriptors, after.descriptors);
    ensure!(killed > 0, "no instance could be killed: nothing was tried");
    ensure!(gets.errors + puts.errors == 0, "{} requests failed", gets.errors + puts.errors);
    ensure!(memory <= MEMORY_GROWTH_MAX_KIB, "memory grew by {memory} KiB");
    ensure!(descriptors <= DESCRIPTORS_GROWTH_MAX, "{descriptors} descriptors more are open");
    Ok(())
}

/// Also gives how many instances were killed.
async fn load_and_kill(site: &Site, proxy: &Running, rate: u32, seconds: u64) -> Result<([Outcome; 2], u64)> {
    let of = |put_bytes| Rate {
        address: proxy.address,
        path: path(Work::Small, proxy.routes),
        rate: rate / 2,
        seconds,
        connections: CONNECTIONS,
        put_bytes,
        patience_ms: 0,
    };
    let (get, put) = (of(0), of(BIG_BYTES));
    let load = async { tokio::try_join!(rate::apart(&get), rate::apart(&put)) };
    let mut killed = 0;
    let killing = async {
        let mut tick = interval(KILL_INTERVAL);
        loop {
            tick.tick().await;
            match kill_one(site) {
                Ok(victim) => killed += u64::from(victim.is_some()),
                Err(error) => return error,
            }
        }
    };
    let outcomes = tokio::select! {
        outcomes = load => outcomes?,
        error = killing => return Err(error),
    };
    Ok((outcomes.into(), killed))
}

/// Kills one instance of this application, unless too few are there.
fn kill_one(site: &Site) -> Result<Option<u32>> {
    let mut instances = usage::find(|words| words.get(1).is_some_and(|word| word == "upstream"));
    // Others may run such a program, too, the bench among them.
    let is_here =
        |pid: &u32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(site.folder()));
    instances.retain(is_here);
    if instances.len() <= LEFT_MIN {
        return Ok(None);
    }
    let random = RandomState::new().build_hasher().finish();
    let pid = instances[usize::try_from(random % instances.len() as u64)?];
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process")?;
    match kill_process(target, Signal::KILL) {
        Ok(()) => Ok(Some(pid)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => bail!("cannot kill instance {pid}: {error}"),
    }
}

impl Holding {
    async fn of(proxy: &Running) -> Result<Self> {
        sleep(SETTLE).await;
        let count = |pid: &u32| Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count());
        let descriptors = proxy.pids.iter().map(count).sum::<Result<usize, std::io::Error>>();
        Ok(Self { memory: Memory::at(&proxy.pids)?, descriptors: descriptors.context("the data plane has gone")? })
    }
}
