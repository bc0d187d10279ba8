//! A broker and an engine on ports of their own, and what tests say to them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use broker::{JetStream, JetStreamLimits, LameDuck, Sync};
use events::{Config, Handle, Limits, OnDeadLetter, Publisher, Schema, Server, Start, Subscription, Topic};
use kit::drain;
use testkit::client::Client;
use testkit::message::Message;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Every wait of these tests.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// Where `cargo xtask test` installs what tests need.
pub(crate) fn tools() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(3).unwrap().join("test-tools")
}

/// A broker that runs. Dropping it ends it.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    trigger: drain::Trigger,
    run: JoinHandle<Result<(), broker::Error>>,
}

impl Broker {
    /// On a port of its own.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_at(folder, ([127, 0, 0, 1], 0).into())
    }

    pub(crate) fn start_at(folder: &Path, listen: SocketAddr) -> Self {
        let bound = broker::bind(&broker_config(folder, listen)).unwrap();
        let address = bound.address();
        let (token, _readiness) = kit::readiness::channel();
        let (trigger, drain) = drain::channel();
        Self { address, trigger, run: tokio::spawn(bound.run(token, drain)) }
    }

    /// Waits until it has ended, and tells where it was.
    pub(crate) async fn ended(self) -> SocketAddr {
        self.trigger.start();
        timeout(BOUND, self.run).await.expect("it ends").unwrap().unwrap();
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }

    /// A stream as the daemon would make it.
    pub(crate) async fn with_stream(&self, name: &str, subject: &str) -> jetstream::Context {
        let context = self.jetstream().await;
        let config = stream::Config {
            name: name.into(),
            subjects: vec![subject.into()],
            allow_direct: true,
            ..Default::default()
        };
        context.create_stream(config).await.unwrap();
        context
    }
}

fn broker_config(folder: &Path, listen: SocketAddr) -> broker::Config {
    broker::Config {
        listen,
        monitor: None,
        name: "test".to_owned(),
        users: Vec::new(),
        tls: None,
        jetstream: Some(JetStream {
            folder: folder.to_owned(),
            sync: Sync::Always,
            limits: JetStreamLimits {
                streams_max: 100,
                consumers_max: 1000,
                store_bytes_max: 16 << 30,
                memory_bytes_max: 256 << 20,
                segment_bytes: 8 << 20,
                queue_bytes: 8 << 20,
                cache_bytes: 8 << 20,
                message_ids_max: 1 << 20,
            },
        }),
        limits: broker::Limits {
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
        },
        lame_duck: LameDuck { grace: Duration::ZERO, duration: Duration::from_millis(50) },
    }
}

/// An engine that runs. Dropping it ends it.
pub(crate) struct Engine {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    trigger: drain::Trigger,
    run: JoinHandle<Result<(), events::Error>>,
}

impl Engine {
    pub(crate) fn start(config: Config) -> Self {
        let bound = events::bind(config).unwrap();
        let (address, handle) = (bound.address(), bound.handle());
        let (token, _readiness) = kit::readiness::channel();
        let (trigger, drain) = drain::channel();
        Self { address, handle, trigger, run: tokio::spawn(bound.run(token, drain)) }
    }

    /// One that has found its broker.
    pub(crate) async fn connected(config: Config) -> Self {
        let engine = Self::start(config);
        engine.is_connected(true).await;
        engine
    }

    pub(crate) async fn is_connected(&self, wanted: bool) {
        testkit::wait::until("the link", BOUND, || async { (self.handle.read().is_connected == wanted).then_some(()) })
            .await;
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

    /// One POST over a connection of its own.
    pub(crate) async fn post(&self, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Message {
        let mut client = Client::connect(self.address).await;
        timeout(BOUND, client.request("POST", target, fields, body)).await.expect("an answer").unwrap()
    }
}

/// The service `cart` publishes `orders.>` to the stream `ORDERS`.
pub(crate) fn config(url: String) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        server: Some(Server { url }),
        application: "shop".to_owned(),
        topics: vec![topic("orders.>", "ORDERS", None)],
        publishers: vec![Publisher { service: "cart".to_owned(), publishes: vec!["orders.>".to_owned()] }],
        subscriptions: Vec::new(),
        limits: Limits { event_bytes_max: 1_000_000, ..Limits::standard() },
    }
}

/// The same with a subscription to what has this subject, whose service is away: the engine keeps streams of its own then.
pub(crate) fn delivering(config: Config, subject: &str) -> Config {
    let subscription = Subscription {
        name: "warehouse".to_owned(),
        topic: subject.to_owned(),
        stream: "ORDERS".to_owned(),
        service: "warehouse".to_owned(),
        edge: ([127, 0, 0, 1], 1).into(),
        path: "/events".to_owned(),
        filter: None,
        key: None,
        concurrency: 1,
        max_deliver: 1,
        backoff: Vec::new(),
        ack_wait: Duration::from_secs(1),
        dead_letter_topic: None,
        on_dead_letter: OnDeadLetter::Continue,
        batch: None,
        start: Start::First,
    };
    Config { subscriptions: vec![subscription], ..config }
}

pub(crate) fn topic(subject: &str, stream: &str, schema: Option<&str>) -> Topic {
    let schema = schema.map(|text| Schema { path: "schema.json".into(), text: text.to_owned() });
    Topic { subject: subject.to_owned(), stream: stream.to_owned(), schema }
}

/// The body as JSON.
pub(crate) fn json(message: &Message) -> serde_json::Value {
    serde_json::from_slice(&message.body).unwrap_or_else(|error| panic!("{error}: {message:?}"))
}

/// The message of that number.
pub(crate) async fn stored(context: &jetstream::Context, stream: &str, sequence: u64) -> async_nats::HeaderMap {
    raw(context, stream, sequence).await.0
}

/// Its headers and payload.
pub(crate) async fn raw(context: &jetstream::Context, stream: &str, sequence: u64) -> (async_nats::HeaderMap, Vec<u8>) {
    let message = context.get_stream(stream).await.unwrap().get_raw_message(sequence).await.unwrap();
    (message.headers, message.payload.to_vec())
}

pub(crate) async fn count(context: &jetstream::Context, stream: &str) -> u64 {
    context.get_stream(stream).await.unwrap().info().await.unwrap().state.messages
}
