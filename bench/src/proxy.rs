//! `bench proxy`: starts the peers, loads them in turn, and has the figures reported. Everything that it starts belongs to
//! values of its own future, so that an error or a signal ends it all.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use tokio::time::sleep;

use crate::options::{Proxy as Options, Rate};
use crate::peers::{Kind, Peer, Running, Shape, Site};
use crate::report::{Entry, Figures, Report, Sample, Space};
use crate::usage::{Look, Memory};
use crate::work::{CONNECTIONS, INSTANCES, Logs, RATE, ROUTES, Work, path};
use crate::{chart, idle, machine, rate, report, wrk};

/// Seconds of load before anything is counted.
const WARM_UP: u64 = 1;
/// Seconds of load before the memory of busy connections is read, and how long it goes on then.
const BUSY: u64 = 3;
/// How long idle connections are left alone before their memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// Works that are measured with every peer, with access logs off and on.
const LOADS: [Work; 4] = [Work::Small, Work::Big, Work::Post, Work::Rate];

/// Instances of a service, at most.
const REPLICAS_MAX: usize = 100;

/// One run of the whole.
struct Bench {
    options: Options,
    site: Site,
    peers: Vec<Peer>,
    idle_connections: usize,
    report: Report,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let idle_connections = idle::raise_open_files();
    let mut report = Report::new(machine::describe(), options.rounds, options.seconds);
    let mut peers = Vec::new();
    for kind in Kind::value_variants().iter().copied().filter(|kind| options.has_peer(*kind)) {
        match kind.find(&options.given.atoll, &options.given.tools) {
            Ok(peer) => peers.push(peer),
            Err(error) => report.leave_out(&kind.id(), &format!("{error:#}")),
        }
    }
    if peers.is_empty() {
        bail!("there is nothing to measure");
    }
    report.introduce(&peers);
    let site = Site::open()?;
    wrk::prepare(site.folder())?;
    let destination = options.destination();
    let mut bench = Bench { options, site, peers, idle_connections, report };
    let measured = bench.measure().await;
    // Also what was measured before something failed.
    println!("{}", bench.report.table());
    measured?;
    if let Some(folder) = destination {
        report::save(&folder, "proxy.json", &bench.report.to_json()?)?;
        if let Some(figures) = bench.report.headline() {
            report::save(&folder, "proxy.svg", &chart::draw(figures))?;
        }
    }
    match bench.report.errors() {
        0 => Ok(()),
        errors => bail!("{errors} requests failed: figures of peers with errors do not count"),
    }
}

impl Bench {
    async fn measure(&mut self) -> Result<()> {
        for logs in self.options.logs() {
            self.measure_loads(logs).await?;
        }
        if self.options.has_work(Work::Idle) {
            self.measure_memory().await?;
        }
        let atoll = self.peers.iter().find(|peer| peer.kind == Kind::Atoll).cloned();
        if let Some(atoll) = atoll.filter(|_| self.options.has_work(Work::Routes)) {
            let of = |routes, services, replicas| Shape { routes, services, replicas };
            let few_routes = ("10 routes", of(10, 1, INSTANCES));
            self.compare(&atoll, "routes", few_routes, ("1,000 routes", of(1_000, 1, INSTANCES))).await?;
            let few_instances = ("2 instances", of(ROUTES, 2, 1));
            self.compare(&atoll, "instances", few_instances, ("200 instances", of(ROUTES, 2, REPLICAS_MAX))).await?;
        }
        Ok(())
    }

    /// A peer that does not start is left out; that Atoll does is what this is for.
    async fn start(&mut self, peer: &Peer, logs: Logs) -> Result<Option<Running>> {
        match peer.start(&self.site, logs).await {
            Ok(proxy) => Ok(Some(proxy)),
            Err(error) if peer.kind == Kind::Atoll => Err(error),
            Err(error) => {
                self.report.leave_out(&peer.name, &format!("{error:#}"));
                Ok(None)
            }
        }
    }

    /// All peers run, one at a time is loaded: A B C, B C A, ...
    async fn measure_loads(&mut self, logs: Logs) -> Result<()> {
        let works: Vec<Work> = LOADS.into_iter().filter(|work| self.options.has_work(*work)).collect();
        if works.is_empty() {
            return Ok(());
        }
        let mut running = Vec::new();
        for peer in &self.peers.clone() {
            if let Some(proxy) = self.start(peer, logs).await? {
                running.push((peer.kind.id(), proxy));
            }
        }
        for (_, proxy) in &running {
            wrk::run(self.site.folder(), proxy, Work::Small, WARM_UP).await?;
        }
        for work in works {
            let mut entries: Vec<Entry> = running.iter().map(|(id, proxy)| Entry::new(id, proxy)).collect();
            let direct = (work == Work::Rate).then(|| self.site.direct()).transpose()?;
            let direct = direct.map(|address| Running::direct(address, ROUTES));
            entries.extend(direct.as_ref().map(|direct| Entry::new("direct", direct)));
            let proxies: Vec<&Running> = running.iter().map(|(_, proxy)| proxy).chain(direct.as_ref()).collect();
            for round in 0..self.options.rounds {
                for at in (0..proxies.len()).map(|offset| (round + offset) % proxies.len()) {
                    let sample = self.load(proxies[at], work).await?;
                    eprintln!("bench: {} {} round {}: {}: {sample}", work.id(), logs.id(), round + 1, entries[at].name);
                    entries[at].samples.push(sample);
                }
            }
            self.report.figures.push(Figures { work, id: logs.id(), title: logs.title().to_owned(), entries });
        }
        Ok(())
    }

    /// Atoll in two shapes, in turn.
    async fn compare(&mut self, atoll: &Peer, id: &'static str, few: (&str, Shape), many: (&str, Shape)) -> Result<()> {
        let mut running = Vec::new();
        for (name, shape) in [few, many] {
            running.push(atoll.start_shaped(&self.site, Logs::Off, shape, name).await?);
        }
        for proxy in &running {
            wrk::run(self.site.folder(), proxy, Work::Small, WARM_UP).await?;
        }
        let mut entries: Vec<Entry> =
            running.iter().zip(["few", "many"]).map(|(proxy, id)| Entry::new(id, proxy)).collect();
        for round in 0..self.options.rounds {
            for at in [round % 2, (round + 1) % 2] {
                let sample = self.load(&running[at], Work::Small).await?;
                eprintln!("bench: {id} round {}: {}: {sample}", round + 1, entries[at].name);
                entries[at].samples.push(sample);
            }
        }
        let title = format!("Atoll: {} -> {}, small GET, {}", few.0, many.0, Logs::Off.title());
        self.report.figures.push(Figures { work: Work::Routes, id, title, entries });
        Ok(())
    }

    /// One measurement of CPU time, and of latencies where the rate is fixed.
    async fn load(&self, proxy: &Running, work: Work) -> Result<Sample> {
        let looks = || Ok::<_, anyhow::Error>((Look::at(&proxy.pids)?, Look::at(&proxy.beside)?));
        let seconds = self.options.seconds;
        let before = looks().with_context(|| proxy.name.clone())?;
        let mut sample = match work {
            Work::Rate => Sample::from(fixed_rate(proxy, seconds).await?),
            _ => Sample::from(wrk::run(self.site.folder(), proxy, work, seconds).await?),
        };
        let after = looks().with_context(|| proxy.name.clone())?;
        sample.charge(after.0.since(&before.0), after.1.since(&before.1));
        Ok(sample)
    }

    /// Each peer alone and fresh: what earlier work has left in its pools is not of these connections.
    async fn measure_memory(&mut self) -> Result<()> {
        for peer in &self.peers.clone() {
            let Some(proxy) = self.start(peer, Logs::Off).await? else { continue };
            let load = wrk::run(self.site.folder(), &proxy, Work::Small, 2 * BUSY);
            let look = async {
                sleep(Duration::from_secs(BUSY)).await;
                Memory::at(&proxy.pids)
            };
            let (load, busy) = tokio::join!(load, look);
            let (errors, busy) = (load?.errors, busy?);
            drop(proxy);
            let Some(proxy) = self.start(peer, Logs::Off).await? else { continue };
            let before = Memory::at(&proxy.pids)?;
            let path = path(Work::Small, proxy.routes);
            let held = idle::open(proxy.address, &path, self.idle_connections).await;
            let (held, failure) = match held {
                Ok(held) => (held, None),
                Err(error) => (Vec::new(), Some(format!("{error:#}"))),
            };
            sleep(SETTLE).await;
            let grown = Memory::at(&proxy.pids)?.since(before);
            let space = Space {
                id: peer.kind.id(),
                name: peer.name.clone(),
                busy,
                grown,
                connections: held.len(),
                failure,
                errors,
            };
            eprintln!("bench: memory: {space}");
            self.report.spaces.push(space);
        }
        Ok(())
    }
}

/// What a proxy answers at the rate that is the same for all.
async fn fixed_rate(proxy: &Running, seconds: u64) -> Result<rate::Outcome> {
    let path = path(Work::Rate, proxy.routes);
    let load = Rate {
        address: proxy.address,
        path,
        rate: RATE,
        seconds,
        connections: CONNECTIONS,
        put_bytes: 0,
        patience_ms: 0,
    };
    let outcome = rate::apart(&load).await.with_context(|| proxy.name.clone())?;
    ensure!(outcome.requests > 0, "{}: no request was answered", proxy.name);
    Ok(outcome)
}
