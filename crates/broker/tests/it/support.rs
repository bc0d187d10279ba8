//! A broker on a port of its own, and a client that speaks bytes.

use std::net::SocketAddr;
use std::time::Duration;

use broker::{Bound, Config, Credential, Handle, LameDuck, Limits, Permissions, Rules, Sockets, User};
use kit::drain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Every wait of these tests.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

pub(crate) const CONNECT: &str =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n";

/// A broker that runs. Dropping it ends it.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) monitor: Option<SocketAddr>,
    pub(crate) handle: Handle,
    trigger: drain::Trigger,
    run: JoinHandle<Result<(), broker::Error>>,
}

impl Running {
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Begins the drain.
    pub(crate) fn drain(&self) {
        self.trigger.start();
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(self) {
        self.trigger.start();
        timeout(BOUND, self.run).await.expect("it ends").unwrap().unwrap();
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        connections_max: 1000,
        subscriptions_max: 10_000,
        subject_tokens_max: 32,
        control_line_max: 4096,
        payload_max: 1024 * 1024,
        pending_max: 16 * 1024 * 1024,
        write_deadline: Duration::from_secs(10),
        auth_timeout: Duration::from_secs(10),
        tls_timeout: Duration::from_secs(10),
        ping_interval: Duration::from_secs(60),
        pings_outstanding_max: 2,
        closed_connections_max: 100,
    }
}

pub(crate) fn config() -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        monitor: None,
        name: "test".to_owned(),
        users: Vec::new(),
        tls: None,
        jetstream: None,
        limits: limits(),
        lame_duck: LameDuck { grace: Duration::ZERO, duration: Duration::from_millis(50) },
    }
}

pub(crate) fn start(config: &Config) -> Running {
    run(broker::bind(config).unwrap())
}

pub(crate) fn start_on(config: &Config, sockets: &Sockets) -> Running {
    run(broker::bind_on(config, sockets).unwrap())
}

fn run(bound: Bound) -> Running {
    let (address, monitor, handle) = (bound.address(), bound.monitor_address(), bound.handle());
    let (token, _readiness) = kit::readiness::channel();
    let (trigger, drain) = drain::channel();
    let run = tokio::spawn(bound.run(token, drain));
    Running { address, monitor, handle, trigger, run }
}

/// A user with its name as its password.
pub(crate) fn user(name: &str, permissions: Permissions) -> User {
    User { name: name.to_owned(), credential: Credential::Password(name.to_owned()), permissions }
}

/// `None` allows everything.
pub(crate) fn rules(allow: Option<&[&str]>, deny: &[&str]) -> Rules {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Rules { allow: allow.map(texts), deny: texts(deny) }
}

/// A client of the protocol's bytes.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    buffer: Vec<u8>,
    pub(crate) info: String,
}

impl Raw {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut raw = Self { socket, buffer: Vec::new(), info: String::new() };
        raw.info = raw.line().await;
        raw
    }

    /// Connected, not verbose.
    pub(crate) async fn connected(address: SocketAddr) -> Self {
        let mut raw = Self::open(address).await;
        raw.send(CONNECT).await;
        raw
    }

    /// Connected as a user of [`user`].
    pub(crate) async fn connected_as(address: SocketAddr, name: &str) -> Self {
        let mut raw = Self::open(address).await;
        let rest = CONNECT.strip_prefix("CONNECT {").unwrap();
        raw.send(format!("CONNECT {{\"user\":\"{name}\",\"pass\":\"{name}\",{rest}")).await;
        raw
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends and waits until all of it was looked at; gives what came until then.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.send([bytes.as_ref(), b"PING\r\n"].concat()).await;
        self.until("PONG\r\n").await
    }

    /// Everything up to an end, which is not given.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end.as_bytes()) {
                let taken: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&taken[..at]).into_owned();
            }
            let read = timeout(BOUND, self.socket.read_buf(&mut self.buffer)).await;
            let seen = String::from_utf8_lossy(&self.buffer).into_owned();
            let count = read.unwrap_or_else(|_| panic!("no {end:?} after {seen:?}")).unwrap();
            assert!(count > 0, "closed before {end:?}, after {seen:?}");
        }
    }

    pub(crate) async fn line(&mut self) -> String {
        self.until("\r\n").await
    }

    /// Everything that comes until the other side closes.
    pub(crate) async fn rest(&mut self) -> String {
        loop {
            match timeout(BOUND, self.socket.read_buf(&mut self.buffer)).await.expect("it is closed") {
                Ok(0) | Err(_) => return String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned(),
                Ok(_) => {}
            }
        }
    }
}
