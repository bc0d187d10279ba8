//! JetStream: durable streams and their consumers, as clients ask for them under `$JS.API.>`. The hub knows which streams
//! there are; each stream is one task that owns its messages, its consumers and its journals.
//!
//! Pure: `api`, `consumer`, `subjects`, `wishes`, `duplicates`, `wire`. On disk: `store` (messages), `ledger` (all else).
//! Acting: `hub`, `stream`. <https://docs.nats.io/nats-concepts/jetstream>

mod advisory;
mod api;
mod consumer;
mod duplicates;
mod duration;
mod failure;
mod hub;
mod ledger;
mod shared;
mod store;
mod stream;
mod subjects;
mod wire;
mod wishes;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kit::tasks::Tasks;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::config;
pub(crate) use failure::Failure;
use hub::Hub;
pub(crate) use shared::Shared;

/// JetStream while it runs.
#[derive(Debug)]
pub(crate) struct JetStream {
    tasks: Tasks,
    over: CancellationToken,
}

/// Opens every stream that is on disk, and answers from then on.
///
/// # Errors
/// [`Failure::Io`] where the folder cannot be used. A stream that cannot be opened is told, and no error.
pub(crate) async fn start(broker: &Arc<Broker>, config: config::JetStream) -> Result<JetStream, Failure> {
    let (tasks, over) = (Tasks::default(), CancellationToken::new());
    let shared = Arc::new(Shared::new(Arc::clone(broker), config, tasks.clone()));
    let hub = Hub::open(Arc::clone(&shared), over.clone()).await?;
    broker.set_jetstream(shared);
    tasks.spawn(hub.run());
    Ok(JetStream { tasks, over })
}

impl JetStream {
    /// Ends it: what is on its way to the disk arrives, whoever waits for it is answered, the files are closed.
    pub(crate) async fn stop(self) {
        self.over.cancel();
        self.tasks.finished().await;
    }
}

/// What the monitoring says at `/jsz`.
pub(crate) fn report(shared: &Shared) -> Value {
    let load = |sum: &std::sync::atomic::AtomicU64| sum.load(Ordering::Relaxed);
    let Shared { files, memory, config, api_total, api_errors, .. } = shared;
    json!({
        "config": {
            "max_memory": config.limits.memory_bytes_max,
            "max_storage": config.limits.store_bytes_max,
            "store_dir": config.folder.display().to_string(),
            "sync": config.sync.to_string(),
        },
        "memory": load(&memory.bytes),
        "storage": load(&files.bytes),
        "damaged": load(&shared.damaged),
        "api": { "level": api::LEVEL, "total": load(api_total), "errors": load(api_errors) },
        "missed": load(&shared.broker.counts.missed),
        "streams": load(&files.streams) + load(&memory.streams),
        "consumers": load(&files.consumers) + load(&memory.consumers),
        "messages": load(&files.messages) + load(&memory.messages),
        "bytes": load(&files.bytes) + load(&memory.bytes),
    })
}

/// Reads bytes as each kind of record that is on disk.
///
/// # Panics
/// Where one is written otherwise than it was read.
pub fn records(record: &[u8]) {
    store::read_records(record);
    ledger::read_record(record);
    // What it makes of it is its own affair.
    let _ = consumer::State::default().replay(record);
}
