//! What the hub and all streams share: the way to clients, the bounds, and sums over all streams. Sums are atomics that
//! each stream corrects by what it has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kit::tasks::Tasks;

use super::api::{AccountLimits, Storage};
use crate::broker::Broker;
use crate::config::JetStream;

/// Shared by the hub and every stream.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) broker: Arc<Broker>,
    pub(super) config: JetStream,
    pub(super) tasks: Tasks,
    pub(super) files: Sums,
    pub(super) memory: Sums,
    /// Places of damage that were met, each as often as it was.
    pub(super) damaged: AtomicU64,
    pub(super) api_total: AtomicU64,
    pub(super) api_errors: AtomicU64,
}

/// Sums over the streams of one kind of storage.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) streams: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) consumers: AtomicU64,
}

/// One stream's part of [`Sums`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) streams: u64,
    pub(super) bytes: u64,
    pub(super) messages: u64,
    pub(super) consumers: u64,
}

impl Sums {
    /// Takes one stream's part as it was out, and as it is in.
    pub(super) fn exchange(&self, before: Share, now: Share) {
        let exchange = |sum: &AtomicU64, before: u64, now: u64| {
            if before != now {
                // Wrapping: both together never go below zero.
                sum.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
            }
        };
        exchange(&self.streams, before.streams, now.streams);
        exchange(&self.bytes, before.bytes, now.bytes);
        exchange(&self.messages, before.messages, now.messages);
        exchange(&self.consumers, before.consumers, now.consumers);
    }
}

impl Shared {
    pub(super) fn new(broker: Arc<Broker>, config: JetStream, tasks: Tasks) -> Self {
        let (files, memory) = (Sums::default(), Sums::default());
        Self {
            broker,
            config,
            tasks,
            files,
            memory,
            damaged: AtomicU64::new(0),
            api_total: AtomicU64::new(0),
            api_errors: AtomicU64::new(0),
        }
    }

    /// What the bounds are called in the API.
    pub(super) fn account_limits(&self) -> AccountLimits {
        AccountLimits::from(&self.config.limits)
    }

    pub(super) fn sums(&self, storage: Storage) -> &Sums {
        match storage {
            Storage::File => &self.files,
            Storage::Memory => &self.memory,
        }
    }

    /// Bytes that all streams of one kind may take together.
    pub(super) fn bytes_max(&self, storage: Storage) -> u64 {
        match storage {
            Storage::File => self.config.limits.store_bytes_max,
            Storage::Memory => self.config.limits.memory_bytes_max,
        }
    }

    /// Whether `more` bytes have room.
    pub(super) fn has_room(&self, storage: Storage, more: u64) -> bool {
        let bytes = self.sums(storage).bytes.load(Ordering::Relaxed);
        bytes.saturating_add(more) <= self.bytes_max(storage)
    }
}

/// Nanoseconds since the epoch.
pub(super) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // A clock before the epoch counts as the epoch.
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
