//! A whole connection: some bytes are what a client says, the others what the service answers to whatever it gets. The
//! proxy never says anything but HTTP to the one, and never sends a head to the other that it would not take itself.
#![no_main]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proxy::{Backend, Config, Endpoint, Limits, Listener, Match, PathMatch, Policy, Role, Route, Snapshot, State};

/// The proxy, and the way to what the service is to say and to what it was told.
struct Rig {
    gateway: SocketAddr,
    words: Sender<Vec<u8>>,
    told: Receiver<Vec<u8>>,
}

static RIG: LazyLock<Mutex<Rig>> = LazyLock::new(|| {
    let service = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = service.local_addr().expect("bound");
    let (words, said) = channel::<Vec<u8>>();
    let (telling, told) = channel();
    std::thread::spawn(move || serve(&service, &said, &telling));
    let (sender, receiver) = channel();
    std::thread::spawn(move || run(address, &sender));
    Mutex::new(Rig { gateway: receiver.recv().expect("it starts"), words, told })
});

/// Answers each connection with the latest words and closes it.
fn serve(service: &TcpListener, said: &Receiver<Vec<u8>>, telling: &Sender<Vec<u8>>) {
    let mut words = Vec::new();
    for stream in service.incoming() {
        let Ok(mut stream) = stream else { continue };
        while let Ok(newer) = said.try_recv() {
            words = newer;
        }
        let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
        let mut buffer = vec![0; 64 * 1024];
        let count = stream.read(&mut buffer).unwrap_or(0);
        buffer.truncate(count);
        let _ = telling.send(buffer);
        let _ = stream.write_all(&words);
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = [0; 4096];
        while stream.read(&mut rest).is_ok_and(|count| count > 0) {}
    }
}

fn run(service: SocketAddr, sender: &Sender<SocketAddr>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let limits = Limits {
            head_timeout: Duration::from_millis(100),
            idle_timeout: Duration::from_millis(100),
            upstream_idle_max: 0,
            ..Limits::standard()
        };
        let listeners = vec![("gateway".to_owned(), SocketAddr::from(([127, 0, 0, 1], 0)))];
        let bound = proxy::bind(Config { cores: 1, listeners, limits, access: None }).expect("bound");
        let path = PathMatch::Prefix("/".to_owned());
        let route = Route {
            name: "all".to_owned(),
            hostnames: vec![],
            matches: vec![Match { path, methods: vec![], headers: vec![], query: vec![] }],
            filters: vec![],
            policy: Policy::plain(Duration::from_millis(200)),
            backends: vec![Backend { service: "s".to_owned(), weight: 1 }],
        };
        let endpoint = Endpoint { instance: 0, address: service, state: State::Ready };
        let listener = Listener { role: Role::Gateway, routes: vec![route], is_logged: true, tells_reason: false };
        let snapshot = Snapshot {
            generation: 1,
            listeners: BTreeMap::from([("gateway".to_owned(), listener)]),
            services: BTreeMap::from([("s".to_owned(), vec![endpoint])]),
        };
        bound.handle().apply(snapshot).expect("a good snapshot");
        sender.send(bound.addresses()["gateway"]).expect("somebody waits");
        let (_trigger, watch) = kit::drain::channel();
        let (token, _ready) = kit::readiness::channel();
        bound.run(token, watch).await.expect("it never ends");
    });
}

fuzz_target!(|input: (&[u8], &[u8])| {
    let (client, service) = input;
    let rig = RIG.lock().expect("one at a time");
    rig.words.send(service.to_vec()).expect("the service lives");
    let mut stream = TcpStream::connect(rig.gateway).expect("the proxy lives");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("an option");
    let _ = stream.write_all(client);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => panic!("it hangs"),
        _ => {}
    }
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", answer.escape_ascii());
    while let Ok(told) = rig.told.try_recv() {
        if let Some(end) = told.windows(4).position(|place| place == b"\r\n\r\n") {
            let head = &told[..end + 4];
            // A client of HTTP/1.0 may name no host; its request goes on with an empty one.
            let is_nameless = head.windows(8).any(|place| place == b"host: \r\n");
            let seen = proxy::with_head(head, |head| head.path().to_owned());
            assert!(seen.is_ok() || is_nameless, "{}", head.escape_ascii());
        }
    }
});
