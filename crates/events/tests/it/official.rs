//! nats-server in place of the broker: publishers see the same.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::{self, stream};
use events::{Config, Limits};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{BOUND, Engine, config, count, delivering, json, raw, tools};

/// The real thing, with streams in a folder. Dropping it kills it.
pub(crate) struct NatsServer {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl NatsServer {
    /// On this port; with 0 on one of its own.
    pub(crate) async fn start(folder: &TempDir, port: u16) -> Self {
        let path = folder.path().display();
        let port = if port == 0 { -1 } else { i32::from(port) };
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{path}\"\njetstream {{ store_dir: \"{path}\" }}\n"
        );
        let file = folder.path().join("nats.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(tools().join("python/bin/nats-server"));
        command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("cargo xtask test installs it");
        let ports = folder.path().join(format!("nats-server_{}.ports", child.id()));
        let address = testkit::wait::until("nats-server", BOUND, || async { read_address(&ports) }).await;
        Self { address, child }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }
}

/// The file may be half written.
fn read_address(ports: &Path) -> Option<SocketAddr> {
    let ports: Value = serde_json::from_str(&std::fs::read_to_string(ports).ok()?).ok()?;
    let (_scheme, address) = ports["nats"][0].as_str()?.split_once("://")?;
    address.parse().ok()
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn with_stream(server: &NatsServer, changes: stream::Config) -> jetstream::Context {
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..changes };
    context.create_stream(config).await.unwrap();
    context
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_durable_and_deduplicated_on_nats_server_too() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(&folder, 0).await;
    let context = with_stream(&server, stream::Config::default()).await;
    let config = || delivering(config(server.url()), "orders.none");
    let engine = Engine::connected(config()).await;
    for is_duplicate in [false, true] {
        let answer = engine.post("/cart/orders.placed", &[("idempotency-key", "k")], b"hi").await;
        let source = "/services/cart";
        let event = json!({ "id": "orders.placed/k", "source": source, "stream": "ORDERS", "sequence": 1, "duplicate": is_duplicate });
        assert_eq!((answer.status(), json(&answer)), (202, json!({ "events": [event] })));
    }
    let (headers, payload) = raw(&context, "ORDERS", 1).await;
    assert_eq!((headers.get("ce-id").unwrap().as_str(), &payload[..]), ("orders.placed/k", &b"hi"[..]));
    for name in ["ATOLL_SHOP_ASIDE", "ATOLL_SHOP_DEAD"] {
        assert_eq!(count(&context, name).await, 0, "{name}");
    }
    let limits = Limits { parked_bytes_max: 1 << 20, ..config().limits };
    engine.handle.apply(Config { limits, ..config() }).unwrap();
    testkit::wait::until("the limit", BOUND, || async {
        let stream = context.get_stream("ATOLL_SHOP_ASIDE").await.unwrap();
        (stream.cached_info().config.max_bytes == 1 << 20).then_some(())
    })
    .await;
    engine.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nats_server_refuses_is_answered_alike() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(&folder, 0).await;
    let full = stream::Config {
        max_messages: 1,
        max_message_size: 2000,
        discard: stream::DiscardPolicy::New,
        ..stream::Config::default()
    };
    let context = with_stream(&server, full).await;
    let engine = Engine::connected(config(server.url())).await;
    let answer = engine.post("/cart/orders.placed", &[], &[b'x'; 3000]).await;
    assert_eq!(answer.status(), 413, "{answer:?}");
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 202);
    let answer = engine.post("/cart/orders.placed", &[], b"1").await;
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    context.delete_stream("ORDERS").await.unwrap();
    let answer = engine.post("/cart/orders.placed", &[], b"1").await;
    assert_eq!(answer.status(), 503);
    assert!(json(&answer)["detail"].as_str().unwrap().contains("no stream takes orders.placed"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nats_server_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(&folder, 0).await;
    with_stream(&server, stream::Config::default()).await;
    let engine = Engine::connected(config(server.url())).await;
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 202);
    let port = server.address.port();
    drop(server);
    engine.is_connected(false).await;
    let answer = engine.post("/cart/orders.placed", &[], b"1").await;
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    let _server = NatsServer::start(&folder, port).await;
    engine.is_connected(true).await;
    testkit::wait::until("a publish", BOUND, || async {
        // Streams are there a little later than the server.
        (engine.post("/cart/orders.placed", &[], b"1").await.status() == 202).then_some(())
    })
    .await;
}
