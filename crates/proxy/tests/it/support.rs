//! A running proxy for tests, and snapshots in few words.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::{drain, readiness};
use proxy::{
    Backend, Config, Endpoint, Error, Filter, Handle, Limits, Listener, Match, PathMatch, Policy, Role, Route,
    Snapshot, State, bind,
};
use serde_json::Value;
use testkit::client::Client;
use testkit::wait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long a test waits for what must come.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// A proxy with the listeners `gateway` and `edge`, on two cores unless told otherwise.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) handle: Handle,
    pub(crate) gateway: SocketAddr,
    pub(crate) edge: SocketAddr,
    pub(crate) trigger: drain::Trigger,
    pub(crate) run: JoinHandle<Result<(), Error>>,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Proxy {
    pub(crate) async fn start(limits: Limits, snapshot: Snapshot) -> Self {
        Self::start_on(2, limits, snapshot).await
    }

    pub(crate) async fn start_on(cores: usize, limits: Limits, snapshot: Snapshot) -> Self {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = vec![("gateway".to_owned(), local), ("edge".to_owned(), local)];
        let (access, mut batches) = mpsc::channel(64);
        let bound = bind(Config { cores, listeners, limits, access: Some(access) }).unwrap();
        let (gateway, edge) = (bound.addresses()["gateway"], bound.addresses()["edge"]);
        let handle = bound.handle();
        handle.apply(snapshot).unwrap();
        let (trigger, watch) = drain::channel();
        let (token, mut ready) = readiness::channel();
        let run = tokio::spawn(bound.run(token, watch));
        assert_eq!(ready.settled().await, readiness::State::Ready);
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let collected = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                assert!(batch.ends_with(b"\n"));
                let parsed = batch.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                collected.lock().unwrap().extend(parsed.map(|line| serde_json::from_slice::<Value>(line).unwrap()));
            }
        });
        Self { handle, gateway, edge, trigger, run, lines }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.gateway).await
    }

    /// Waits for the access lines of this many requests.
    pub(crate) async fn lines(&self, count: usize) -> Vec<Value> {
        let look = || async {
            let lines = self.lines.lock().unwrap();
            (lines.len() >= count).then(|| lines.clone())
        };
        wait::until("access lines", BOUND, look).await
    }

    /// Drains and waits for the end.
    pub(crate) async fn stop(self) {
        self.trigger.start();
        tokio::time::timeout(BOUND, self.run).await.expect("the drain ends").unwrap().unwrap();
    }
}

pub(crate) fn limits() -> Limits {
    Limits::standard()
}

/// Everything below `prefix` goes to `service`.
pub(crate) fn route(name: &str, prefix: &str, service: &str) -> Route {
    Route {
        name: name.to_owned(),
        hostnames: vec![],
        matches: vec![Match {
            path: PathMatch::Prefix(prefix.to_owned()),
            methods: vec![],
            headers: vec![],
            query: vec![],
        }],
        filters: vec![],
        policy: Policy::plain(BOUND),
        backends: vec![Backend { service: service.to_owned(), weight: 1 }],
    }
}

pub(crate) fn filtered(route: Route, filters: Vec<Filter>) -> Route {
    Route { filters, ..route }
}

/// A gateway with these routes and an edge `cart` → `a`, for one service `a` at these addresses.
pub(crate) fn snapshot(generation: u64, routes: Vec<Route>, addresses: &[SocketAddr]) -> Snapshot {
    let endpoint = |(instance, address): (usize, &SocketAddr)| Endpoint {
        instance: instance as u32,
        address: *address,
        state: State::Ready,
    };
    let edge = Role::Edge { caller: "cart".to_owned(), upstream: "a".to_owned() };
    Snapshot {
        generation,
        listeners: BTreeMap::from([
            ("gateway".to_owned(), Listener { role: Role::Gateway, routes, is_logged: true, tells_reason: false }),
            (
                "edge".to_owned(),
                Listener {
                    role: edge, routes: vec![route("cart→a", "/", "a")], is_logged: true, tells_reason: false
                },
            ),
        ]),
        services: BTreeMap::from([("a".to_owned(), addresses.iter().enumerate().map(endpoint).collect())]),
    }
}

/// One service `a` behind `/`.
pub(crate) fn all_to(addresses: &[SocketAddr]) -> Snapshot {
    snapshot(1, vec![route("all", "/", "a")], addresses)
}

/// An address at which nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn problem(response: &testkit::message::Message) -> (u16, String) {
    let value: Value = serde_json::from_slice(&response.body).expect("a problem document");
    assert_eq!(response.field("content-type"), Some("application/problem+json"));
    assert_eq!(value["status"], response.status());
    assert_eq!(value["instance"].as_str(), response.field("x-request-id"));
    (response.status(), value["reason"].as_str().unwrap().to_owned())
}
