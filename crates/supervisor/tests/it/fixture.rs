//! A supervisor in a folder of its own, and short ways to say what it runs and to wait for what it shows.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kit::backoff::Backoff;
use supervisor::{
    Build, Check, Config, Drain, Event, Handle, Instance, InstanceStatus, Kind, Preparation, Prepare, Probe, Probes,
    Restart, Service, Shim, Snapshot, Strategy, Update, bind, logs,
};
use tempfile::TempDir;
use testkit::wait::until;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Long enough for a busy machine; a test that waits this long has failed.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// A server that says yes to everything, in few words.
pub(crate) const SERVER: &str = "
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = int(open('status').read()) if os.path.exists('status') else 200
        self.send_response(status)
        self.send_header('content-length', '0')
        self.end_headers()
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
";

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(crate) fn sh(script: &str) -> Vec<String> {
    words(&["sh", "-c", script])
}

pub(crate) fn probe(check: Check) -> Probe {
    Probe { check, interval: Duration::from_millis(50), timeout: Duration::from_secs(5), failure_threshold: 2 }
}

/// A port that nobody has at this moment.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

pub(crate) struct World {
    pub(crate) dir: TempDir,
}

impl Drop for World {
    /// A test that failed leaves instances, which go on by design.
    fn drop(&mut self) {
        let run_dir = self.path("run");
        let clean_up = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { supervisor::stop_all(supervisor::adopt(&run_dir).await).await });
        };
        if std::thread::panicking() {
            // Not on this thread, which has a runtime already.
            let _ = std::thread::spawn(clean_up).join();
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One instance that is ready as soon as it runs.
    pub(crate) fn service(&self, name: &str, command: Vec<String>) -> Service {
        let readiness = probe(Check::Exec(words(&["true"])));
        Service {
            name: name.to_owned(),
            build: None,
            command,
            working_dir: self.dir.path().to_owned(),
            environment: BTreeMap::new(),
            instances: vec![instance(0)],
            surge: Vec::new(),
            depends_on: BTreeMap::new(),
            calls: Vec::new(),
            probes: Probes { startup: None, readiness, liveness: None },
            restart: Restart::Always,
            stop_signal: 15,
            stop_grace_period: BOUND,
            prepare: Preparation::None,
            update: Update {
                strategy: Strategy::Rolling,
                max_unavailable: 0,
                min_ready: Duration::ZERO,
                auto_revert: true,
                progress_deadline: BOUND,
            },
            limits: supervisor::Limits::default(),
        }
    }

    pub(crate) fn server(&self, name: &str) -> Service {
        let mut service = self.service(name, words(&["python3", "-c", SERVER]));
        service.probes.readiness = probe(Check::Default);
        service
    }

    pub(crate) fn build(&self, script: &str) -> Option<Build> {
        Some(Build { command: sh(script), shown: sh(script).join(" "), working_dir: self.dir.path().to_owned() })
    }

    pub(crate) fn config(&self, services: Vec<Service>) -> (Config, mpsc::Receiver<Prepare>) {
        let (prepare, prepares) = mpsc::channel(4);
        let config = Config {
            services,
            log_dir: self.path("logs"),
            run_dir: self.path("run"),
            adopted: supervisor::Adopted::default(),
            before: supervisor::Before::default(),
            shim: Shim { program: env!("CARGO_BIN_EXE_supervisor-shim").into(), name: "supervisor".to_owned() },
            registry: registry::Handle::default(),
            prepare,
            drain: mpsc::channel(1).0,
            log: logs::Limits::default(),
            backoff: Backoff { first: Duration::from_millis(1), max: Duration::from_millis(20) },
            stable_after: Duration::from_secs(10),
            builds_max: 2,
            open_files_soft: None,
        };
        (config, prepares)
    }

    /// Runs services, without starting one.
    pub(crate) fn run(&self, services: Vec<Service>) -> Running {
        let (config, prepares) = self.config(services);
        Running::new(config, prepares)
    }

    /// The same after a daemon that died.
    pub(crate) async fn run_after_death(&self, services: Vec<Service>) -> Running {
        let (mut config, prepares) = self.config(services);
        config.adopted = supervisor::adopt(&config.run_dir).await;
        Running::new(config, prepares)
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    /// The instances that have something on disk for the daemon after this one.
    pub(crate) fn folders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("run/instances")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = logs::load(&self.path("logs"), &logs::Filter::default()).expect("the logs");
        lines.into_iter().map(|line| line.text).collect()
    }

    /// Waits for a file that a process writes, and gives its numbers.
    pub(crate) async fn numbers(&self, name: &str, count: usize) -> Vec<i32> {
        let numbers = || self.text(name).map(|text| text.split_whitespace().filter_map(|n| n.parse().ok()).collect());
        until(name, BOUND, || async { numbers().filter(|numbers: &Vec<i32>| numbers.len() == count) }).await
    }
}

pub(crate) fn instance(index: u32) -> Instance {
    let address = free_address();
    let port = ("PORT".to_owned(), address.port().to_string());
    Instance { index, address, environment: BTreeMap::from([port]) }
}

pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) registry: registry::Handle,
    pub(crate) prepares: mpsc::Receiver<Prepare>,
    drain: kit::drain::Trigger,
    run: JoinHandle<Result<(), supervisor::Error>>,
}

impl Running {
    /// No request is ever in flight.
    pub(crate) fn new(mut config: Config, prepares: mpsc::Receiver<Prepare>) -> Self {
        let (drain, mut drains) = mpsc::channel::<Drain>(4);
        config.drain = drain;
        tokio::spawn(async move {
            while let Some(Drain { reply, .. }) = drains.recv().await {
                let _ = reply.send(());
            }
        });
        Self::with_drains(config, prepares)
    }

    /// Whoever holds the other end of `config.drain` says when no request is in flight.
    pub(crate) fn with_drains(config: Config, prepares: mpsc::Receiver<Prepare>) -> Self {
        let registry = config.registry.clone();
        let bound = bind(config).expect("a valid configuration");
        let handle = bound.handle();
        let (token, _) = kit::readiness::channel();
        let (drain, watch) = kit::drain::channel();
        Self { handle, registry, prepares, drain, run: tokio::spawn(bound.run(token, watch)) }
    }

    pub(crate) async fn start(&self) {
        self.handle.start(None).await.expect("started");
    }

    /// Waits until the snapshot has what is looked for.
    pub(crate) async fn see<T>(&self, what: &str, look: impl Fn(&Snapshot) -> Option<T>) -> T {
        until(what, BOUND, || async { look(&self.handle.snapshot()) }).await
    }

    /// Waits until the first instance of a service is as asked for.
    pub(crate) async fn first(
        &self,
        service: &str,
        what: &str,
        is: impl Fn(&InstanceStatus) -> bool,
    ) -> InstanceStatus {
        let look = |snapshot: &Snapshot| snapshot.service(service)?.instances.first().filter(|i| is(i)).cloned();
        self.see(&format!("{service} {what}"), look).await
    }

    pub(crate) async fn state(&self, service: &str, state: &str) -> InstanceStatus {
        self.first(service, state, |instance| instance.state.name() == state).await
    }

    pub(crate) async fn ready(&self, service: &str) -> InstanceStatus {
        self.first(service, "ready", |instance| instance.ready).await
    }

    pub(crate) fn events(&self) -> Vec<Arc<Event>> {
        self.handle.events().0
    }

    /// Waits for an event.
    pub(crate) async fn event(&self, what: &str, is: impl Fn(&Event) -> bool) -> Arc<Event> {
        until(what, BOUND, || async { self.events().into_iter().find(|event| is(event)) }).await
    }

    /// Where the first event of that kind stands.
    pub(crate) fn position(&self, service: &str, is: impl Fn(&Kind) -> bool) -> usize {
        let events = self.events();
        let position = events.iter().position(|event| event.service == service && is(&event.kind));
        position.unwrap_or_else(|| panic!("no such event of {service} in {events:#?}"))
    }

    /// Ends the supervisor and nothing else.
    pub(crate) async fn leave(self) {
        self.handle.leave();
        self.run.await.expect("no panic").expect("no error");
    }

    /// The shim of an instance, as its folder says.
    pub(crate) async fn shim(&self, world: &World, name: &str) -> i32 {
        let path = format!("run/instances/{name}/state.json");
        let pid = || serde_json::from_str::<serde_json::Value>(&world.text(&path)?).ok()?["shim"]["pid"].as_i64();
        let pid = until("the shim", BOUND, || async { pid() }).await;
        i32::try_from(pid).expect("a pid")
    }

    pub(crate) async fn drain(self) {
        self.drain.finish().await;
        self.run.await.expect("no panic").expect("no error");
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])))
}

pub(crate) fn kill(pid: u32) {
    signal(i32::try_from(pid).expect("a pid"), rustix::process::Signal::KILL);
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).expect("a pid"), signal).expect("signalled");
}

/// Waits until a process has ended.
pub(crate) async fn ended(pid: i32) {
    until("the end of a process", BOUND, || async { (!is_running(pid)).then_some(()) }).await;
}
