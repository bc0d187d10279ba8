//! A service that is delivered to, with a will of its own, and a stage on which it plays: broker, stream, engine.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use events::{Config, OnDeadLetter, Start, Subscription, SubscriptionReading};
use tempfile::TempDir;
use testkit::message::Message;
use testkit::server::{Answer, Server};
use tokio::runtime::Runtime;

use crate::support::{BOUND, Broker, Engine, config};

/// Everything that was delivered, in order of arrival, and what to answer.
#[derive(Clone, Default)]
pub(crate) struct Script {
    seen: Arc<Mutex<Vec<Message>>>,
    /// Answers by body, taken one after the other; then 200.
    answers: Arc<Mutex<HashMap<String, Vec<Answer>>>>,
    /// Instead of everything else.
    always: Arc<Mutex<Option<Answer>>>,
}

impl Script {
    pub(crate) fn answer(&self, request: &Message) -> Answer {
        self.seen.lock().unwrap().push(request.clone());
        if let Some(answer) = &*self.always.lock().unwrap() {
            return answer.clone();
        }
        let mut answers = self.answers.lock().unwrap();
        let of_body = answers.get_mut(&request.text()).filter(|answers| !answers.is_empty());
        of_body.map_or_else(|| Answer::ok(""), |answers| answers.remove(0))
    }

    pub(crate) fn set(&self, body: &str, answers: &[Answer]) {
        self.answers.lock().unwrap().insert(body.to_owned(), answers.to_vec());
    }

    pub(crate) fn always(&self, answer: Option<Answer>) {
        *self.always.lock().unwrap() = answer;
    }

    pub(crate) fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(Message::text).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn clear(&self) {
        self.seen.lock().unwrap().clear();
    }

    pub(crate) async fn has(&self, count: usize) -> Vec<Message> {
        testkit::wait::until("deliveries", BOUND, || async {
            let seen = self.seen.lock().unwrap();
            (seen.len() >= count).then(|| seen.clone())
        })
        .await
    }

    /// What was delivered of each key: the text before the first `-` of the body.
    pub(crate) fn by_key(&self) -> BTreeMap<String, Vec<String>> {
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for body in self.bodies() {
            let key = body.split('"').nth(3).unwrap_or_default().to_owned();
            keys.entry(key).or_default().push(body);
        }
        keys
    }
}

pub(crate) struct Stage {
    pub(crate) folder: TempDir,
    pub(crate) broker: Option<Broker>,
    pub(crate) context: jetstream::Context,
    pub(crate) script: Script,
    pub(crate) server: Option<Server>,
    pub(crate) config: Config,
    pub(crate) engine: Option<Engine>,
    /// The engine's own, so that it can be killed.
    runtime: Option<Runtime>,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn subscription(edge: SocketAddr) -> Subscription {
    Subscription {
        name: "warehouse".to_owned(),
        topic: "orders.>".to_owned(),
        stream: "ORDERS".to_owned(),
        service: "warehouse".to_owned(),
        edge,
        path: "/events".to_owned(),
        filter: None,
        key: None,
        concurrency: 8,
        max_deliver: 3,
        backoff: vec![Duration::from_millis(20)],
        ack_wait: Duration::from_secs(5),
        dead_letter_topic: None,
        on_dead_letter: OnDeadLetter::Continue,
        batch: None,
        start: Start::First,
    }
}

/// Data with a key and a number.
pub(crate) fn keyed(key: &str, number: usize) -> String {
    format!("{{\"k\":\"{key}\",\"n\":{number}}}")
}

impl Stage {
    /// With a service that answers as its script says.
    pub(crate) async fn new(change: impl FnOnce(&mut Subscription)) -> Self {
        let script = Script::default();
        let answers = script.clone();
        let server = Server::http(move |request| answers.answer(request)).await;
        let mut stage = Self::at(server.address, change).await;
        (stage.script, stage.server) = (script, Some(server));
        stage
    }

    /// With whatever is at this address.
    pub(crate) async fn at(edge: SocketAddr, change: impl FnOnce(&mut Subscription)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start(folder.path());
        let url = broker.url();
        let mut stage = Self::on(url, edge, change).await;
        (stage.broker, stage.folder) = (Some(broker), folder);
        stage
    }

    /// With the broker that is there.
    pub(crate) async fn on(url: String, edge: SocketAddr, change: impl FnOnce(&mut Subscription)) -> Self {
        let context = jetstream::new(async_nats::connect(&url).await.unwrap());
        let orders = stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default() };
        context.create_stream(orders).await.unwrap();
        let mut one = subscription(edge);
        change(&mut one);
        let config = Config { subscriptions: vec![one], ..config(url) };
        let folder = tempfile::tempdir().unwrap();
        let (script, runtime) = (Script::default(), Some(runtime()));
        let mut stage = Self { folder, broker: None, context, script, server: None, config, engine: None, runtime };
        stage.start().await;
        stage
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Waits for the PONG behind what was sent over the wire.
    pub(crate) async fn pong(&self, stream: &mut tokio::net::TcpStream) {
        let mut read = String::new();
        while !read.contains("PONG") {
            let mut bytes = [0; 1024];
            let count = tokio::io::AsyncReadExt::read(stream, &mut bytes).await.unwrap();
            assert!(count > 0, "{read}");
            read.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    /// Publishes over NATS.
    pub(crate) async fn publish(&self, bodies: impl IntoIterator<Item = String>) {
        let mut acks = Vec::new();
        for body in bodies {
            acks.push(self.context.publish("orders.placed", Bytes::from(body)).await.unwrap());
        }
        for ack in acks {
            ack.await.unwrap();
        }
    }

    pub(crate) fn reading(&self) -> SubscriptionReading {
        self.engine().handle.read().subscriptions.get("warehouse").cloned().unwrap_or_default()
    }

    pub(crate) async fn reads(&self, what: &str, is_so: impl Fn(&SubscriptionReading) -> bool) -> SubscriptionReading {
        let wait =
            testkit::wait::until(what, BOUND, || async { Some(self.reading()).filter(|reading| is_so(reading)) });
        match tokio::time::timeout(BOUND - Duration::from_secs(1), wait).await {
            Ok(reading) => reading,
            Err(_) => panic!("{what}: {:?}", self.reading()),
        }
    }

    /// Everything is delivered, and nothing is left.
    pub(crate) async fn settled(&self) -> SubscriptionReading {
        self.reads("nothing left", |reading| {
            reading.lag == 0 && reading.in_flight == 0 && reading.parked == 0 && reading.paused.is_none()
        })
        .await
    }

    /// The engine ends as if it had been killed, and another one begins.
    pub(crate) async fn crash(&mut self) {
        let runtime = self.runtime.replace(runtime());
        // Its tasks are gone at their next point of waiting, whatever they were about to do.
        runtime.unwrap().shutdown_background();
        drop(self.engine.take());
        self.start().await;
    }

    pub(crate) async fn start(&mut self) {
        let engine = {
            let _inside = self.runtime.as_ref().unwrap().enter();
            Engine::start(self.config.clone())
        };
        engine.is_connected(true).await;
        self.engine = Some(engine);
    }
}
