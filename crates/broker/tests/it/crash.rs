//! A broker in a process of its own is killed while it is published to; another one must have all that it acknowledged. The
//! process is this test binary, told by its environment. `cargo xtask bench crash` does the same for longer, and more of it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::{self, consumer, stream};
use async_nats::{Client, HeaderMap};
use broker::Config;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use crate::streams;
use crate::support::{BOUND, config};

const FOLDER: &str = "BROKER_CRASH_FOLDER";
const LIVES: usize = 4;
const WINDOW: usize = 64;

/// A broker in another process. Its drop kills it.
pub(crate) struct Apart {
    child: Child,
    address: String,
}

impl Apart {
    /// Starts it; what it logs goes to a file.
    pub(crate) fn start(folder: &Path, log: &Path) -> Self {
        let this = std::env::current_exe().unwrap();
        let mut child = Command::new(this)
            .args(["--exact", "crash::serves_until_killed", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .stderr(File::create(log).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.split_once("listening on ").map(|(_, address)| address.to_owned()));
        Self { child, address: address.unwrap_or_else(|| panic!("it does not listen: {log:?}")) }
    }

    pub(crate) async fn client(&self) -> Client {
        async_nats::connect(&self.address).await.unwrap()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Does nothing unless it is the process to be killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let mut jetstream = streams::jetstream(Path::new(&folder));
    jetstream.limits.segment_bytes = 16 << 10;
    let bound = broker::bind(&Config { jetstream: Some(jetstream), ..config() }).unwrap();
    println!("\nlistening on {}", bound.address());
    let (token, _readiness) = kit::readiness::channel();
    let (_trigger, drain) = kit::drain::channel();
    panic!("it ended before it was killed: {:?}", bound.run(token, drain).await);
}

fn payload(id: u64) -> String {
    format!("{id} ").repeat(1 + id as usize % 50)
}

/// What was acknowledged, by id.
#[derive(Default)]
struct Known {
    sent: u64,
    /// Sequence and id.
    acked: Vec<(u64, u64)>,
    open: Vec<u64>,
}

impl Known {
    /// Publishes until so many are acknowledged, first what was not before.
    async fn publish(&mut self, context: &jetstream::Context, count: usize) {
        let mut waiting = FuturesUnordered::new();
        let until = self.acked.len() + count;
        while self.acked.len() < until {
            while waiting.len() < WINDOW {
                let id = self.open.pop().unwrap_or_else(|| {
                    self.sent += 1;
                    self.sent
                });
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Msg-Id", id.to_string().as_str());
                let sent = context.publish_with_headers(format!("log.{}", id % 3), headers, payload(id).into());
                let ack = sent.await.unwrap();
                waiting.push(async move { (id, ack.await.unwrap().sequence) });
            }
            let (id, sequence) = timeout(BOUND, waiting.next()).await.unwrap().unwrap();
            self.acked.push((sequence, id));
        }
        let known: HashSet<u64> = self.acked.iter().map(|(_, id)| *id).collect();
        self.open = (1..=self.sent).filter(|id| !known.contains(id)).collect();
    }

    async fn check(&self, stream: &stream::Stream) {
        let last = self.acked.iter().map(|(sequence, _)| *sequence).max().unwrap_or(0);
        let mut ids = HashSet::new();
        for sequence in 1..=stream.get_info().await.unwrap().state.last_sequence.max(last) {
            let message = stream.direct_get(sequence).await.unwrap_or_else(|error| panic!("{sequence}: {error}"));
            let id = message.headers.get("Nats-Msg-Id").unwrap().as_str().parse().unwrap();
            assert_eq!(message.payload, payload(id), "message {sequence} was altered");
            assert!(ids.insert(id), "id {id} is there twice");
            let acked = self.acked.iter().find(|(other, _)| *other == sequence);
            assert!(acked.is_none_or(|(_, acked)| *acked == id), "{sequence} is another message");
        }
        assert!(self.acked.iter().all(|(_, id)| ids.contains(id)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_broker_acknowledged_is_there_once_and_what_was_acknowledged_to_it_is_not_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, log) = (folder.path().join("store"), folder.path().join("log"));
    let (mut known, mut done) = (Known::default(), HashSet::new());
    let log_config =
        stream::Config { name: "LOG".into(), subjects: vec!["log.>".into()], allow_direct: true, ..Default::default() };
    for life in 0..LIVES {
        let broker = Apart::start(&store, &log);
        let context = jetstream::new(broker.client().await);
        let stream = context.get_or_create_stream(log_config.clone()).await.unwrap();
        known.check(&stream).await;
        let pull = consumer::pull::Config { durable_name: Some("reader".into()), ..Default::default() };
        let consumer = stream.get_or_create_consumer("reader", pull).await.unwrap();
        known.publish(&context, 150 + 70 * life).await;
        let mut batch = consumer.fetch().max_messages(40).messages().await.unwrap();
        while let Some(message) = batch.next().await {
            let message = message.unwrap();
            let sequence = message.info().unwrap().stream_sequence;
            message.double_ack().await.unwrap();
            assert!(done.insert(sequence), "{sequence} was acknowledged before");
        }
        assert_eq!(done.len(), 40 * (life + 1));
    }
}
