//! The data plane as a process of its own. That process is this very test executable, which runs [`the_process`] and
//! nothing else when it finds a socket where its standard input should be.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kit::{drain, readiness};
use proxy::plane::{AccessLog, Bound, Config, Handle, Serve, adopt, bind, serve, stop};
use proxy::{
    Breaker, BreakerState, Effect, Endpoint, Error, Fault, FaultTarget, Forced, Share, Snapshot, State, Subject,
    Switches, Window,
};
use rustix::process::Signal;
use testkit::client::Client;
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::{BOUND, all_to, limits, nowhere, route, snapshot};

/// In the process of a data plane, its whole life; else what such a process says when it was given no socket.
#[test]
fn the_process() {
    if std::env::var_os("ATOLL_PLANE").is_some() {
        serve(Serve::inherited().unwrap()).unwrap();
    } else {
        let no_socket = std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(matches!(serve(Serve { socket: no_socket.into() }), Err(Error::Plane { .. })));
    }
}

/// A folder that is gone with the test, and with it every process that was left there.
struct Folder {
    root: PathBuf,
    path: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("atoll-plane-{}", kit::ids::unique()));
        let path = root.join("d".repeat(120));
        std::fs::create_dir_all(&path).unwrap();
        Self { root, path }
    }

    async fn bind(&self, config: Config) -> Bound {
        bind(config, adopt(&self.path).await).unwrap()
    }

    fn config(&self) -> Config {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        Config {
            program: "/proc/self/exe".into(),
            name: "data-plane".to_owned(),
            arguments: ["--exact", "plane::the_process", "--test-threads=1"].map(Into::into).to_vec(),
            folder: self.path.clone(),
            listeners: vec![("gateway".to_owned(), local), ("edge".to_owned(), local)],
            cores: 2,
            limits: limits(),
            access_log: Some(AccessLog { path: self.access_log(), file_bytes_max: 1 << 30, files_max: 2 }),
            stderr: self.path.join("stderr"),
            drain_max: Duration::from_secs(5),
            retire_max: Duration::from_secs(60),
        }
    }

    fn access_log(&self) -> PathBuf {
        self.path.join("access.jsonl")
    }

    fn sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let folder = self.path.clone();
        let stopping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(stop(&folder, Duration::ZERO));
        });
        let _ = stopping.join();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A daemon's side that runs.
struct Daemon {
    handle: Handle,
    trigger: drain::Trigger,
    run: JoinHandle<Result<(), Error>>,
}

impl Daemon {
    async fn start(folder: &Folder, snapshot: Option<Snapshot>) -> Self {
        Self::run(folder.bind(folder.config()).await, snapshot).await
    }

    async fn run(bound: Bound, snapshot: Option<Snapshot>) -> Self {
        let handle = bound.handle();
        if let Some(snapshot) = snapshot {
            handle.apply(snapshot).unwrap();
        }
        let (trigger, watch) = drain::channel();
        let (token, mut ready) = readiness::channel();
        let run = tokio::spawn(bound.run(token, watch));
        let settled = tokio::time::timeout(BOUND, ready.settled()).await;
        assert_eq!(settled.expect("it serves in time"), readiness::State::Ready);
        Self { handle, trigger, run }
    }

    fn gateway(&self) -> SocketAddr {
        self.handle.addresses()["gateway"]
    }

    fn pid(&self) -> u32 {
        self.handle.pid().expect("a process serves")
    }

    async fn status(&self) -> u16 {
        testkit::client::get(self.gateway(), "/").await.unwrap().status()
    }

    async fn reaches(&self, status: u16) {
        // One that still meets the snapshot before may wait for an origin that never answers.
        let answer = || tokio::time::timeout(Duration::from_secs(1), self.status());
        let reached = || async { (answer().await == Ok(status)).then_some(()) };
        wait::until("the snapshot to be served", BOUND, reached).await;
    }

    /// The end of a daemon without that of its data plane.
    async fn leave(self) {
        self.handle.leave().await;
        self.run.await.unwrap().unwrap();
    }

    async fn stop(self) {
        self.trigger.start();
        tokio::time::timeout(BOUND, self.run).await.expect("the drain ends").unwrap().unwrap();
    }
}

async fn origin() -> Server {
    Server::http(|_| Answer::ok("x")).await
}

fn is_running(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Requests without end, on four connections at a time.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Outcome>>,
}

#[derive(Debug, Default)]
struct Outcome {
    refused: usize,
    failed: usize,
    longest: Duration,
}

#[derive(Clone, Copy)]
enum Connections {
    OneARequest,
    Kept,
}

impl Load {
    fn start(address: SocketAddr, connections: Connections) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..4).map(|_| tokio::spawn(load(address, connections, Arc::clone(&stop), Arc::clone(&done))));
        Self { tasks: tasks.collect(), stop, done }
    }

    /// Returns when so many more were answered.
    async fn some(&self, more: usize) {
        let target = self.done.load(Ordering::SeqCst) + more;
        let reached = || async { (self.done.load(Ordering::SeqCst) >= target).then_some(()) };
        wait::until("load", BOUND, reached).await;
    }

    async fn end(self) -> Outcome {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Outcome::default();
        for task in self.tasks {
            let Outcome { refused, failed, longest } = task.await.unwrap();
            all.refused += refused;
            all.failed += failed;
            all.longest = all.longest.max(longest);
        }
        all
    }
}

async fn load(address: SocketAddr, connections: Connections, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut kept: Option<Client> = None;
    while !stop.load(Ordering::SeqCst) {
        let began = Instant::now();
        let mut client = match kept.take() {
            Some(client) => client,
            None => match tokio::net::TcpStream::connect(address).await {
                Ok(stream) => Client { stream: BufReader::new(stream) },
                Err(_) => {
                    outcome.refused += 1;
                    continue;
                }
            },
        };
        match client.request("POST", "/", &[], b"body").await {
            Ok(answer) if answer.status() == 200 => {
                let is_last = answer.field("connection") == Some("close");
                kept = (matches!(connections, Connections::Kept) && !is_last).then_some(client);
                done.fetch_add(1, Ordering::SeqCst);
            }
            _ => outcome.failed += 1,
        }
        outcome.longest = outcome.longest.max(began.elapsed());
    }
    outcome
}

#[tokio::test]
async fn a_killed_data_plane_is_back_on_the_same_ports_and_refuses_nobody() {
    let (folder, origin) = (Folder::new(), origin().await);
    let daemon = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    let (gateway, first) = (daemon.gateway(), daemon.pid());
    let load = Load::start(gateway, Connections::OneARequest);
    load.some(50).await;
    kill(first);
    load.some(200).await;
    assert_ne!(daemon.pid(), first);
    let outcome = load.end().await;
    println!("kill -9 of the data plane: {outcome:?}");
    // What was in flight is lost with the process, and nothing else.
    assert_eq!(outcome.refused, 0);
    assert!(outcome.failed <= 4, "{outcome:?}");
    let counted = || async { (daemon.handle.counters().requests >= 200).then_some(()) };
    wait::until("the counters of both processes", BOUND, counted).await;
    daemon.stop().await;
    assert!(std::net::TcpStream::connect(gateway).is_err(), "the daemon holds no socket either");
    assert_eq!(folder.sockets(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn one_that_is_stopped_is_killed_and_followed_and_one_that_goes_on_in_time_is_not() {
    let (folder, origin) = (Folder::new(), origin().await);
    let daemon = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    let (first, mut losses) = (daemon.pid(), daemon.handle.losses());
    signal(first, Signal::STOP);
    let stands = |pid: u32| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let states = tasks.map(|task| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default());
        states
            .filter_map(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('T')))
            .all(|is_stopped| is_stopped)
    };
    wait::until("its stop", BOUND, || async { stands(first).then_some(()) }).await;
    // A request that waits for it; less than the time that it is given.
    let asked = tokio::time::timeout(Duration::from_millis(1500), daemon.status()).await;
    assert!(asked.is_err(), "it is stopped");
    signal(first, Signal::CONT);
    daemon.reaches(200).await;
    assert_eq!(daemon.pid(), first);

    signal(first, Signal::STOP);
    let began = Instant::now();
    // Whoever connects now is in the queue of a socket that the next process has as well.
    let answered = wait::until("an answer", BOUND, || async {
        let asked = tokio::time::timeout(Duration::from_secs(1), daemon.status());
        asked.await.is_ok_and(|status| status == 200).then_some(began.elapsed())
    });
    println!("SIGSTOP of the data plane: an answer after {:?}", answered.await);
    // It answers before it says so.
    let next = || async { daemon.handle.pid().filter(|pid| *pid != first) };
    wait::until("the next process", BOUND, next).await;
    let loss = losses.recv().await.unwrap();
    assert_eq!((loss.pid, loss.how.as_str()), (first, "it did not answer and was killed"));
    wait::until("its end", BOUND, || async { (!is_running(first)).then_some(()) }).await;
    daemon.stop().await;
    assert_eq!(folder.sockets(), [] as [PathBuf; 0]);
}

/// Answers with half a body, and with the rest when it is told to.
async fn halting(release: &Arc<Notify>) -> Server {
    let release = Arc::clone(release);
    Server::raw(move |stream| {
        let released = Arc::clone(&release);
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            let _ = client.head().await;
            let _ = client.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nbe").await;
            released.notified().await;
            let _ = client.send("gun!").await;
            let _ = client.head().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_replaced_data_plane_fails_no_request_and_finishes_long_downloads() {
    let release = Arc::new(Notify::new());
    let (folder, origin, slow) = (Folder::new(), origin().await, halting(&release).await);
    let mut both = snapshot(1, vec![route("all", "/", "a"), route("slow", "/slow", "slow")], &[origin.address]);
    both.services.insert("slow".to_owned(), vec![Endpoint { instance: 0, address: slow.address, state: State::Ready }]);
    let daemon = Daemon::start(&folder, Some(both)).await;
    let mut download = Client::connect(daemon.gateway()).await;
    download.send("GET /slow HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    assert_eq!(download.head().await.unwrap().status(), 200);
    let loads = [Connections::OneARequest, Connections::Kept].map(|kind| Load::start(daemon.gateway(), kind));
    let first = daemon.pid();
    for _ in 0..3 {
        let before = daemon.pid();
        loads[0].some(20).await;
        daemon.handle.replace().await.unwrap();
        loads[1].some(20).await;
        assert_ne!(daemon.pid(), before);
    }
    assert!(is_running(first), "it has a download");
    release.notify_one();
    let mut body = [0; 6];
    download.stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"begun!");
    drop(download);
    for load in loads {
        let outcome = load.end().await;
        assert_eq!((outcome.refused, outcome.failed), (0, 0), "{outcome:?}");
    }
    wait::until("the first to end", BOUND, || async { (!is_running(first)).then_some(()) }).await;
    wait::until("the others to end", BOUND, || async { (folder.sockets().len() == 1).then_some(()) }).await;
    daemon.stop().await;
}

#[tokio::test]
async fn the_next_daemon_finds_the_process_the_ports_and_the_traffic() {
    let (folder, origin) = (Folder::new(), origin().await);
    let daemon = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    let (addresses, pid) = (daemon.handle.addresses(), daemon.pid());
    let load = Load::start(daemon.gateway(), Connections::Kept);
    load.some(20).await;
    daemon.leave().await;
    load.some(20).await;
    let bound = folder.bind(folder.config()).await;
    assert_eq!((bound.adopted(), bound.addresses()), (Some(pid), addresses));
    let daemon = Daemon::run(bound, None).await;
    load.some(20).await;
    daemon.handle.apply(all_to(&[origin.address])).unwrap();
    assert_eq!(daemon.handle.snapshot().unwrap().generation, 2, "it goes on where the former daemon ended");
    load.some(20).await;
    assert_eq!(daemon.pid(), pid);
    let outcome = load.end().await;
    assert_eq!((outcome.refused, outcome.failed), (0, 0), "{outcome:?}");
    daemon.handle.apply(snapshot(1, vec![], &[])).unwrap();
    daemon.reaches(404).await;
    daemon.stop().await;
    assert!(!is_running(pid));
}

#[tokio::test]
async fn one_of_another_shape_is_replaced_once_there_is_something_to_serve() {
    let (folder, origin) = (Folder::new(), origin().await);
    let daemon = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    let (addresses, pid) = (daemon.handle.addresses(), daemon.pid());
    daemon.leave().await;
    let daemon = Daemon::run(folder.bind(Config { cores: 1, ..folder.config() }).await, None).await;
    assert_eq!((daemon.status().await, daemon.pid()), (200, pid), "the former knows what to serve");
    daemon.handle.apply(all_to(&[origin.address])).unwrap();
    wait::until("the former to end", BOUND, || async { (!is_running(pid)).then_some(()) }).await;
    assert_eq!((daemon.status().await, daemon.handle.addresses().len()), (200, addresses.len()));
    daemon.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_dies_while_no_daemon_is_there_is_passed_over() {
    let (folder, origin) = (Folder::new(), origin().await);
    let daemon = Daemon::start(&folder, Some(all_to(&[nowhere(), origin.address]))).await;
    let gateway = daemon.gateway();
    daemon.leave().await;
    let mut client = Client::connect(gateway).await;
    for _ in 0..40 {
        assert_eq!(client.request("POST", "/", &[], b"body").await.unwrap().status(), 200);
    }
    let lines = || async {
        let text = std::fs::read_to_string(folder.access_log()).unwrap_or_default();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() == 40).then_some(lines)
    };
    let lines = wait::until("the log, which needs no daemon", BOUND, lines).await;
    let twice = lines.iter().filter(|line| line["attempts"] == 2).count();
    assert!((1..=8).contains(&twice), "{twice} of 40 met the dead one");
}

#[tokio::test]
async fn listeners_come_and_go_while_it_serves() {
    let (folder, origin) = (Folder::new(), origin().await);
    let daemon = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    let (gateway, edge, pid) = (daemon.gateway(), daemon.handle.addresses()["edge"], daemon.pid());
    let mut on_edge = Client::connect(edge).await;
    assert_eq!(on_edge.get("/").await.unwrap().status(), 200);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let addresses = daemon.handle.listen(&[("gateway".to_owned(), gateway), ("new".to_owned(), any)]).unwrap();
    assert_eq!(addresses["gateway"], gateway);
    assert_eq!(testkit::client::get(addresses["new"], "/").await.unwrap().status(), 404, "no routes yet");
    let closed = || async { std::net::TcpStream::connect(edge).is_err().then_some(()) };
    wait::until("the edge to close", BOUND, closed).await;
    let last = on_edge.get("/").await.unwrap();
    assert_eq!((last.status(), last.field("connection")), (200, Some("close")), "what it had is finished");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = daemon.handle.listen(&[("gateway".to_owned(), taken.local_addr().unwrap())]);
    assert!(matches!(refused, Err(Error::Listen { .. })));
    assert_eq!((daemon.status().await, daemon.pid()), (200, pid), "a refused change changes nothing");
    daemon.stop().await;
}

#[tokio::test]
async fn drained_is_answered_also_across_a_death_and_after_the_end() {
    let release = Arc::new(Notify::new());
    let (folder, slow) = (Folder::new(), halting(&release).await);
    let daemon = Daemon::start(&folder, Some(all_to(&[slow.address]))).await;
    let mut client = Client::connect(daemon.gateway()).await;
    client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), 200);
    let first = tokio::spawn(daemon.handle.drained("a", 0, slow.address));
    daemon.handle.apply(snapshot(2, vec![route("all", "/", "a")], &[])).unwrap();
    daemon.reaches(503).await;
    let bounded = |drained| tokio::time::timeout(BOUND, drained);
    bounded(daemon.handle.drained("a", 9, slow.address)).await.expect("nobody knows it");
    assert!(!first.is_finished());
    kill(daemon.pid());
    tokio::time::timeout(BOUND, first).await.expect("nothing is in flight any more").unwrap();
    let handle = daemon.handle.clone();
    daemon.stop().await;
    tokio::time::timeout(BOUND, handle.drained("a", 0, slow.address)).await.expect("after the end");
    assert!(matches!(handle.replace().await, Err(Error::Ended)));
}

#[tokio::test]
async fn garbage_and_silence_on_the_socket_do_not_hurt_and_the_newer_daemon_wins() {
    let (folder, origin) = (Folder::new(), origin().await);
    let daemon = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    let (pid, socket) = (daemon.pid(), folder.sockets().remove(0));
    let mut strangers = Vec::new();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0xff; 64], &[0, 0, 0, 2, b'{', b'}'], b""] {
        let name = kit::socket::name(&socket).unwrap();
        let mut stranger = UnixStream::connect(&name.path).await.unwrap();
        let _ = stranger.write_all(garbage).await;
        strangers.push(stranger);
    }
    daemon.handle.apply(snapshot(1, vec![], &[])).unwrap();
    daemon.reaches(404).await;
    drop(strangers);
    let second = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    let superseded = tokio::time::timeout(BOUND, daemon.run).await.expect("the first gives up").unwrap();
    assert!(matches!(superseded, Err(Error::Superseded)));
    assert_eq!((second.pid(), second.gateway()), (pid, daemon.handle.addresses()["gateway"]));
    second.reaches(200).await;
    drop(daemon.handle);
    second.stop().await;
}

#[tokio::test]
async fn who_speaks_another_protocol_or_not_at_all_is_stopped_and_replaced() {
    let (folder, origin) = (Folder::new(), origin().await);
    let path = folder.path.canonicalize().unwrap();
    let (newer, silent) = (path.join("plane-1.sock"), path.join("plane-2.sock"));
    let start =
        |socket: &Path| std::process::Command::new("sleep").arg("1000").env("ATOLL_PLANE", socket).spawn().unwrap();
    let mut children = [start(&newer), start(&silent)];
    let listener = tokio::net::UnixListener::bind(&kit::socket::name(&newer).unwrap().path).unwrap();
    let _silent = std::os::unix::net::UnixListener::bind(&kit::socket::name(&silent).unwrap().path).unwrap();
    std::fs::write(path.join("plane-damaged.sock"), "no socket").unwrap();
    let speaking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let hello = br#"{"protocol":999,"news":true}"#;
        stream.write_all(&[&[0, 0, 0, hello.len() as u8], hello.as_slice()].concat()).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    let daemon = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    speaking.await.unwrap();
    for child in &mut children {
        assert!(!child.wait().unwrap().success(), "it was stopped");
    }
    assert_eq!((daemon.status().await, folder.sockets().len()), (200, 1));
    daemon.stop().await;
}

#[tokio::test]
async fn one_that_cannot_start_is_tried_again_and_its_replacement_is_refused() {
    let (folder, origin) = (Folder::new(), origin().await);
    let bound = folder.bind(Config { arguments: vec!["--list".into()], ..folder.config() }).await;
    let handle = bound.handle();
    handle.apply(all_to(&[origin.address])).unwrap();
    let (trigger, watch) = drain::channel();
    let (token, _ready) = readiness::channel();
    let run = tokio::spawn(bound.run(token, watch));
    let replaced = tokio::time::timeout(BOUND, handle.replace()).await.expect("it is told");
    assert!(matches!(replaced, Err(Error::Plane { .. })), "{replaced:?}");
    assert_eq!(handle.pid(), None);
    trigger.start();
    tokio::time::timeout(BOUND, run).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test]
async fn what_was_counted_is_read_over_processes_that_come_and_go() {
    let (folder, origin) = (Folder::new(), origin().await);
    let daemon = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    let subject = Subject::Route { listener: "gateway".into(), route: "all".into() };
    let counted = async |handle: Handle, count: u64| {
        let look = || async {
            let reading = handle.read().await.meters.remove(&subject).unwrap_or_default();
            assert!(reading.ended() <= count, "{} of {count}", reading.ended());
            (reading.ended() == count && reading.active() == 0).then_some(())
        };
        wait::until("requests to be counted", BOUND, look).await;
    };
    counted(daemon.handle.clone(), 0).await;
    for _ in 0..3 {
        assert_eq!(daemon.status().await, 200);
    }
    counted(daemon.handle.clone(), 3).await;
    assert_eq!(daemon.status().await, 200);
    // Its last words tell what nobody has asked for.
    daemon.handle.replace().await.unwrap();
    assert_eq!(daemon.status().await, 200);
    counted(daemon.handle.clone(), 5).await;
    // What was read is kept, however the process ends.
    kill(daemon.pid());
    daemon.reaches(200).await;
    let after = daemon.handle.read().await.meters.remove(&subject).unwrap_or_default().ended();
    assert!(after >= 5, "{after}");
    // Many who ask at once share rounds.
    let all = (0..200).map(|_| daemon.handle.read());
    let answers = futures_util::future::join_all(all).await;
    assert!(answers.iter().all(|readings| readings.meters[&subject].ended() >= after));
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_switched_is_so_in_every_process_and_what_they_remember_is_found() {
    let (folder, origin) = (Folder::new(), origin().await);
    let mut all = all_to(&[origin.address]);
    let policy = &mut all.listeners.get_mut("gateway").unwrap().routes[0].policy;
    policy.breaker = Some(Breaker {
        window: Window::Calls(10),
        minimum_calls: 10,
        failure_rate: Share::of(0.5),
        slow_call: None,
        slow_call_rate: Share::ALL,
        open_for: BOUND,
        half_open_calls: 1,
    });
    let subject = Subject::Route { listener: "gateway".into(), route: "all".into() };
    let fault = Fault {
        id: 7,
        target: FaultTarget::Subject(subject.clone()),
        effect: Effect::Abort(418),
        share: Share::ALL,
        until: jiff::Timestamp::now() + BOUND,
    };
    let faulty = Switches { faults: vec![fault], breakers: Vec::new() };
    let forced = Switches { faults: Vec::new(), breakers: vec![(subject.clone(), Forced::Open)] };

    // Before there is a process at all, and in every one to come.
    let bound = folder.bind(folder.config()).await;
    bound.handle().switch(faulty);
    let daemon = Daemon::run(bound, Some(all.clone())).await;
    assert_eq!(daemon.status().await, 418);
    kill(daemon.pid());
    wait::until("the next process", BOUND, || async { testkit::client::get(daemon.gateway(), "/").await.ok() }).await;
    assert_eq!(daemon.status().await, 418);
    // Whoever has answered a reading was told of what was switched before.
    daemon.handle.switch(forced);
    let breaker = daemon.handle.read().await.guards[&subject].breaker.unwrap();
    assert_eq!((breaker.state, daemon.status().await), (BreakerState::ForcedOpen, 503));
    daemon.handle.switch(Switches::default());
    daemon.handle.reset_breaker(&subject).await;
    let breaker = daemon.handle.read().await.guards[&subject].breaker.unwrap();
    assert_eq!((breaker.state, breaker.calls, daemon.status().await), (BreakerState::Closed, 0, 200));

    let stories = daemon.handle.stories("", 100).await;
    assert!(stories.iter().any(|story| story.reason.as_deref() == Some("circuit_open")), "{stories:?}");
    let first = &stories[0];
    assert_eq!(daemon.handle.stories(&first.request_id, 9).await, std::slice::from_ref(first));
    assert_eq!((daemon.handle.stories("", 1).await.len(), daemon.handle.stories("no such", 9).await.len()), (1, 0));

    // The next daemon says what is switched, and not the process.
    daemon.handle.switch(Switches { breakers: vec![(subject, Forced::Open)], ..Switches::default() });
    daemon.handle.read().await;
    assert_eq!(daemon.status().await, 503);
    daemon.leave().await;
    let next = Daemon::start(&folder, Some(all)).await;
    next.reaches(200).await;
    next.stop().await;
}

#[tokio::test]
async fn access_lines_are_in_the_file_once_the_process_has_ended() {
    let (folder, origin) = (Folder::new(), origin().await);
    let daemon = Daemon::start(&folder, Some(all_to(&[origin.address]))).await;
    assert_eq!(daemon.status().await, 200);
    daemon.stop().await;
    let lines = std::fs::read(folder.access_log()).unwrap();
    let line: serde_json::Value = serde_json::from_slice(lines.trim_ascii_end()).unwrap();
    assert_eq!(line["status"], 200);
}
