//! Whether somebody who is asked regularly still answers. Silence is counted in ticks that this process was awake for,
//! and not in time: while it is stopped, starved or suspended itself, it cannot hear anybody and blames nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Counts the ticks since something was heard last.
#[derive(Debug)]
pub struct Pulse {
    ticks: Interval,
    heard: Arc<AtomicBool>,
    silent: u32,
}

/// The end that hears.
#[derive(Clone, Debug)]
pub struct Beat(Arc<AtomicBool>);

impl Pulse {
    /// The first tick comes at once: it is the time to ask for the first time.
    ///
    /// # Panics
    /// When `every` is zero, or outside of a runtime.
    #[must_use]
    pub fn new(every: Duration) -> (Self, Beat) {
        let mut ticks = interval(every);
        // Ticks that were slept through are one.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let heard = Arc::new(AtomicBool::new(true));
        (Self { ticks, heard: Arc::clone(&heard), silent: 0 }, Beat(heard))
    }

    /// Waits for the next tick; gives how many in a row have come since the last beat, 0 when there was one in between.
    /// Cancel safe.
    pub async fn tick(&mut self) -> u32 {
        self.ticks.tick().await;
        self.silent = if self.heard.swap(false, Ordering::Relaxed) { 0 } else { self.silent.saturating_add(1) };
        self.silent
    }
}

impl Beat {
    /// Something was heard.
    pub fn beat(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_counts_in_ticks_that_were_lived_through() {
        let every = Duration::from_millis(2);
        let (mut pulse, beat) = Pulse::new(every);
        assert_eq!((pulse.tick().await, pulse.tick().await, pulse.tick().await), (0, 1, 2));
        beat.beat();
        assert_eq!((pulse.tick().await, pulse.tick().await), (0, 1));
        // Twenty of them in which nothing here could run are one.
        let start = std::time::Instant::now();
        while start.elapsed() < 20 * every {
            std::hint::spin_loop();
        }
        assert_eq!((pulse.tick().await, pulse.tick().await), (2, 3));
    }
}
