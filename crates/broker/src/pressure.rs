//! Back-pressure as a value: whoever fills a buffer beyond its high mark says so, whoever publishes waits a while until it
//! is below the low mark. Used by the buffers of clients and of internal subscriptions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Marks of one buffer, and those who wait for it.
#[derive(Debug)]
pub(crate) struct Pressure {
    high: usize,
    low: usize,
    is_high: AtomicBool,
    eased: Notify,
}

impl Pressure {
    /// Of a buffer of at most `max` bytes: high above three quarters as in nats-server, eased below a half.
    pub(crate) fn new(max: usize) -> Self {
        Self { high: max / 4 * 3, low: max / 2, is_high: AtomicBool::new(false), eased: Notify::new() }
    }

    /// Tells how much there is now. Called by whoever holds the buffer's lock.
    pub(crate) fn set(&self, pending: usize) {
        let is_high = self.is_high.load(Ordering::Relaxed);
        if !is_high && pending > self.high {
            self.is_high.store(true, Ordering::Release);
        } else if is_high && pending < self.low {
            self.is_high.store(false, Ordering::Release);
            self.eased.notify_waiters();
        }
    }

    pub(crate) fn is_high(&self) -> bool {
        self.is_high.load(Ordering::Acquire)
    }

    /// Waits until it is eased, or for so long.
    pub(crate) async fn ease(&self, patience: Duration) {
        let mut eased = std::pin::pin!(self.eased.notified());
        // Order: listens before it looks, so that no easing is missed.
        eased.as_mut().enable();
        if self.is_high() {
            // Whoever waited in vain goes on: the buffer's bound is what decides then.
            let _ = timeout(patience, eased).await;
        }
    }
}
