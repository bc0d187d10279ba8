//! What a scenario is played on: services in trouble, a route of Atoll's or a backend of HAProxy's for each way to treat
//! them, and where each of these is asked.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Bench;
use crate::callee::{Conduct, INSTANCE, read_count};
use crate::options::Rate;
use crate::peers::{Application, free_address};
use crate::rate::{self, Outcome};
use crate::running::Program;
use crate::usage;
use crate::work::THREADS;

/// How long a request may take, with either proxy, and how long it is of use to who made it.
pub(super) const TIMEOUT_MS: u64 = 1_000;

/// How long a program may take until it accepts connections, and how often that is tried.
const START_MAX: Duration = Duration::from_secs(10);
const START_INTERVAL: Duration = Duration::from_millis(20);

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) id: &'static str,
    /// Nothing is wrong with it without one.
    pub(super) conduct: Option<Conduct>,
    pub(super) replicas: usize,
}

/// One way to treat a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) service: Service,
    pub(super) by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Lines of a route
    Atoll(&'static str),
    /// Lines of a backend, and what stands behind each server
    Haproxy(&'static str, &'static str),
}

/// All of it; dropped, it ends.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) targets: Vec<Target>,
    _application: Option<Application>,
    _programs: Vec<Program>,
}

/// Where one case is asked.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) case: Case,
    pub(super) address: SocketAddr,
    pub(super) path: String,
    /// The proxy's processes.
    pub(super) pids: Vec<u32>,
    counts: PathBuf,
}

/// An open-loop load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) rate: u32,
    pub(super) seconds: u64,
    pub(super) connections: usize,
}

impl Target {
    /// How often each instance was asked so far.
    pub(super) fn counts(&self) -> Vec<u64> {
        let Service { id, replicas, .. } = self.case.service;
        (0..replicas).map(|number| read_count(&self.counts, &format!("{id}.{number}"))).collect()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }

    pub(super) async fn load(&self, load: Load) -> Result<Outcome> {
        let Load { rate, seconds, connections } = load;
        let (address, path) = (self.address, self.path.clone());
        let options = Rate { address, path, rate, seconds, connections, put_bytes: 0, patience_ms: TIMEOUT_MS };
        rate::apart(&options).await.with_context(|| self.case.name)
    }
}

impl Stand {
    /// Starts those of the cases that can be had here. Cases of one service have it in common.
    pub(super) async fn open(bench: &Bench, cases: &[Case]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("stand-").tempdir_in(bench.folder.path())?.keep();
        let (by_atoll, by_haproxy): (Vec<Case>, Vec<Case>) =
            cases.iter().partition(|case| matches!(case.by, By::Atoll(_)));
        let mut stand = Self { targets: Vec::new(), _application: None, _programs: Vec::new() };
        if !by_atoll.is_empty() {
            let (application, targets) = start_atoll(&bench.atoll.program, &folder, &by_atoll).await?;
            stand.targets.extend(targets);
            stand._application = Some(application);
        }
        if let Some(haproxy) = bench.haproxy.as_ref().filter(|_| !by_haproxy.is_empty()) {
            let (programs, targets) = start_haproxy(&haproxy.program, &folder, &by_haproxy).await?;
            stand.targets.extend(targets);
            stand._programs = programs;
        }
        // As they were given.
        stand.targets.sort_by_key(|target| cases.iter().position(|case| case.id == target.case.id));
        Ok(stand)
    }
}

async fn start_atoll(program: &Path, folder: &Path, cases: &[Case]) -> Result<(Application, Vec<Target>)> {
    let folder = own_folder(folder, "atoll")?;
    let address = free_address()?;
    let text = manifest(address, cases, &this_program()?, &folder)?;
    let application = Application::up(program, &folder, &text).await?;
    let (pids, _) = application.pids()?;
    Ok((application, targets(cases, address, &pids, &folder)))
}

async fn start_haproxy(program: &Path, folder: &Path, cases: &[Case]) -> Result<(Vec<Program>, Vec<Target>)> {
    let folder = own_folder(folder, "haproxy")?;
    let (mut programs, mut servers) = (Vec::new(), Vec::new());
    for service in services(cases) {
        for number in 0..service.replicas {
            let address = free_address()?;
            programs.push(start_instance(service, number, address, &folder).await?);
            servers.push((service.id, address));
        }
    }
    let address = free_address()?;
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, configuration(address, cases, &servers)).context("cannot write haproxy.cfg")?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    let mut program = Program::start(command, &folder.join("haproxy.log"))?;
    until_accepts(&mut program, address).await?;
    let pid = program.pid();
    programs.push(program);
    Ok((programs, targets(cases, address, &usage::family(pid), &folder)))
}

/// One of those that HAProxy asks: it starts none itself.
async fn start_instance(service: Service, number: usize, address: SocketAddr, folder: &Path) -> Result<Program> {
    let instance = format!("{}.{number}", service.id);
    let mut command = Command::new(this_program()?);
    command.args(arguments(service, folder)?).env(INSTANCE, &instance);
    command.env("PORT", address.port().to_string()).env_remove("HOST");
    let mut program = Program::start(command, &folder.join(format!("{instance}.log")))?;
    if service.conduct.is_none_or(Conduct::can_be_probed) {
        until_accepts(&mut program, address).await?;
    }
    Ok(program)
}

fn targets(cases: &[Case], address: SocketAddr, pids: &[u32], counts: &Path) -> Vec<Target> {
    let target = |case: &Case| Target {
        case: *case,
        address,
        path: format!("/{}/small", case.id),
        pids: pids.to_vec(),
        counts: counts.to_owned(),
    };
    cases.iter().map(target).collect()
}

fn this_program() -> Result<String> {
    let program = std::env::current_exe().context("cannot find this program")?;
    Ok(program.to_str().context("this program's path is not UTF-8")?.to_owned())
}

fn own_folder(folder: &Path, name: &str) -> Result<PathBuf> {
    let own = folder.join(name);
    std::fs::create_dir(&own).with_context(|| format!("cannot create {}", own.display()))?;
    Ok(own)
}

async fn until_accepts(program: &mut Program, address: SocketAddr) -> Result<()> {
    let start = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        program.check()?;
        ensure!(start.elapsed() < START_MAX, "nothing listens on {address}");
        sleep(START_INTERVAL).await;
    }
    Ok(())
}

/// Each once.
fn services(cases: &[Case]) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for case in cases {
        if !services.contains(&case.service) {
            services.push(case.service);
        }
    }
    services
}

/// What this program is given to be such a service.
fn arguments(service: Service, counts: &Path) -> Result<Vec<String>> {
    let counts = counts.to_str().context("the folder's path is not UTF-8")?;
    Ok(match service.conduct {
        None => vec!["upstream".to_owned()],
        Some(conduct) => vec!["callee".to_owned(), conduct.id(), counts.to_owned()],
    })
}

fn manifest(address: SocketAddr, cases: &[Case], program: &str, counts: &Path) -> Result<String> {
    let mut text = format!("name = \"bench\"\n\n[gateway]\nlisten = \"{address}\"\naccess_log = false\n");
    for Case { id, service, by, .. } in cases {
        let By::Atoll(lines) = by else { continue };
        let service = service.id;
        write!(
            text,
            "\n[[routes]]\nname = \"{id}\"\nmatches = [{{ path = {{ prefix = \"/{id}\" }} }}]\n\
             timeout = \"{TIMEOUT_MS}ms\"\nbackends = [{{ service = \"{service}\" }}]\n{lines}\n"
        )?;
    }
    for service in services(cases) {
        let arguments = arguments(service, counts)?;
        let words = std::iter::once(program).chain(arguments.iter().map(String::as_str));
        let command = shlex::try_join(words).context("a path cannot be quoted")?.replace('$', "$$");
        // Who is down must count as ready, or it is not asked at all.
        let probe = match service.conduct.is_none_or(Conduct::can_be_probed) {
            true => "tcp = true",
            false => "exec = \"true\"",
        };
        write!(
            text,
            "\n[services.{}]\ncommand = {}\nreplicas = {}\n\
             probes = {{ readiness = {{ {probe}, interval = \"10s\", timeout = \"5s\" }} }}\n",
            service.id,
            toml::Value::from(command),
            service.replicas
        )?;
    }
    Ok(text)
}

fn configuration(address: SocketAddr, cases: &[Case], servers: &[(&'static str, SocketAddr)]) -> String {
    let mut text = format!(
        "global\n  nbthread {THREADS}\n  maxconn 5000\ndefaults\n  mode http\n  \
         timeout connect {TIMEOUT_MS}ms\n  timeout client 60s\n  timeout server {TIMEOUT_MS}ms\n  \
         timeout http-request 10s\n  http-reuse always\nfrontend in\n  bind {address}\n"
    );
    for Case { id, .. } in cases {
        let _ = writeln!(text, "  use_backend {id} if {{ path_beg /{id}/ }}");
    }
    for Case { id, service, by, .. } in cases {
        let By::Haproxy(lines, behind) = by else { continue };
        let _ = writeln!(text, "backend {id}\n{lines}");
        let own = servers.iter().filter(|(of, _)| *of == service.id);
        for (number, (_, server)) in own.enumerate() {
            let _ = writeln!(text, "  server s{number} {server} {behind}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Service = Service { id: "down", conduct: Some(Conduct::Refusing), replicas: 3 };
    const WELL: Service = Service { id: "well", conduct: None, replicas: 1 };

    fn case(id: &'static str, service: Service, by: By) -> Case {
        Case { id, name: id, service, by }
    }

    #[test]
    fn the_manifest_has_a_route_for_each_case_and_each_service_once() {
        let cases = [
            case("one", DOWN, By::Atoll("retry = { attempts = 3 }")),
            case("two", DOWN, By::Atoll("")),
            case("three", WELL, By::Atoll("")),
        ];
        let address = "127.0.0.1:7000".parse().unwrap();
        let text = manifest(address, &cases, "/a folder/$x", Path::new("counts")).unwrap();
        let parsed: toml::Table = text.parse().unwrap();
        let routes = parsed["routes"].as_array().unwrap();
        assert_eq!((routes.len(), routes[0]["retry"]["attempts"].as_integer()), (3, Some(3)));
        assert_eq!(routes[1]["backends"][0]["service"].as_str(), Some("down"));
        let services = parsed["services"].as_table().unwrap();
        assert_eq!(services.len(), 2);
        assert_eq!(services["down"]["command"].as_str(), Some("'/a folder/$$x' callee refusing counts"));
        assert_eq!(services["down"]["probes"]["readiness"]["exec"].as_str(), Some("true"));
        assert_eq!(services["well"]["probes"]["readiness"]["tcp"].as_bool(), Some(true));
    }

    #[test]
    fn a_backend_has_the_servers_of_its_service() {
        let cases = [
            case("one", DOWN, By::Haproxy("  balance leastconn", "maxconn 8")),
            case("two", WELL, By::Haproxy("  balance roundrobin", "")),
        ];
        let server = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let text = configuration(server(7000), &cases, &[("down", server(7001)), ("well", server(7002))]);
        assert!(text.contains("backend one\n  balance leastconn\n  server s0 127.0.0.1:7001 maxconn 8\n"), "{text}");
        assert!(text.contains("backend two\n  balance roundrobin\n  server s0 127.0.0.1:7002 \n"), "{text}");
        assert_eq!(text.matches("use_backend").count(), 2);
    }
}
