//! What a subscription shows of itself.

use std::time::Duration;

use tokio::sync::watch;

use super::{Delivering, Phase, Place};
use crate::reading::{Replay, SubscriptionReading};
use crate::subscription::BEGINS;
use crate::subscription::lanes::{Outcome, Request};
use crate::subscription::progress::sequence_of;

/// Seconds over which the rate is.
const RATE_SECONDS: usize = 10;
/// Errors of a filter are logged this often at most.
const FILTER_ERRORS_EVERY: u64 = 1000;

pub(super) struct Counting {
    pub(super) reading: SubscriptionReading,
    sender: watch::Sender<SubscriptionReading>,
    /// How much there is has been found out.
    pub(super) is_begun: bool,
    /// Why the stream cannot be read.
    pub(super) unreadable: Option<String>,
    pub(super) is_parked_full: bool,
    /// The stream of what is aside has no room.
    pub(super) is_aside_full: bool,
    /// Deliveries at the end of each of the last seconds.
    seconds: [u64; RATE_SECONDS],
    at: usize,
    lived: usize,
}

impl Counting {
    pub(super) fn new(sender: watch::Sender<SubscriptionReading>) -> Self {
        Self {
            reading: SubscriptionReading::default(),
            sender,
            is_begun: false,
            unreadable: None,
            is_parked_full: false,
            is_aside_full: false,
            seconds: [0; RATE_SECONDS],
            at: 0,
            lived: 0,
        }
    }

    pub(super) fn attempted(&mut self, request: &Request, outcome: Outcome) {
        let count = request.tickets.len() as u64;
        match outcome {
            Outcome::Unreachable => return,
            Outcome::Done => self.reading.delivered += count,
            Outcome::Failed { .. } | Outcome::Refused => self.reading.failed += 1,
        }
        if request.attempt > 1 {
            self.reading.retried += 1;
        }
    }

    pub(super) fn filter_failed(&mut self, subscription: &str, sequence: u64, error: &str) {
        if self.reading.filter_errors.is_multiple_of(FILTER_ERRORS_EVERY) {
            tracing::warn!(subscription, sequence, error, "a filter cannot be evaluated: the event is passed over");
        }
        self.reading.filter_errors += 1;
    }

    /// A second is over.
    pub(super) fn tick(&mut self) {
        let now = self.reading.delivered;
        let before = std::mem::replace(&mut self.seconds[self.at], now);
        self.at = (self.at + 1) % RATE_SECONDS;
        self.lived = (self.lived + 1).min(RATE_SECONDS);
        let before = if self.lived < RATE_SECONDS { 0 } else { before };
        #[allow(clippy::cast_precision_loss)]
        let rate = (now - before) as f64 / Duration::from_secs(self.lived as u64).as_secs_f64();
        self.reading.rate = rate;
    }

    pub(super) fn send(&self) {
        self.sender.send_replace(self.reading.clone());
    }
}

impl Delivering {
    /// Shows how it stands.
    pub(super) fn tell(&mut self, is_away: bool) {
        let (parked, keys_parked, keys_held) = self.lanes.parked();
        let window = &self.lanes.window;
        let behind = match &self.cursor {
            Place::Open(cursor) => cursor.pending,
            _ => self.counting.reading.lag.saturating_sub((window.open() + parked) as u64),
        };
        let replay = window.replay().map(|(from, to)| Replay {
            from: sequence_of(from),
            to: sequence_of(to),
            left: to.saturating_sub(window.floor().max(from - 1)),
        });
        let paused = if is_away {
            Some("the broker is away".to_owned())
        } else if let Some(trouble) = self.store.trouble() {
            Some(trouble)
        } else if let Phase::Receding(..) = self.phase {
            Some("it is to be set back: what is under way ends first".to_owned())
        } else if self.lanes.is_paused() {
            self.nobody.clone().or_else(|| Some("nobody answers".to_owned()))
        } else if self.counting.is_parked_full {
            Some("too many events wait aside behind failed ones".to_owned())
        } else if self.counting.is_aside_full {
            Some("what waits aside has no room in the broker: newer attempts are in memory only".to_owned())
        } else {
            let begins = (!self.counting.is_begun).then(|| BEGINS.to_owned());
            let refused = || if let Place::Open(cursor) = &self.cursor { cursor.refused.clone() } else { None };
            self.counting.unreadable.clone().or_else(refused).or(begins)
        };
        let open = self.lanes.open_in_memory();
        let reading = &mut self.counting.reading;
        reading.lag = behind + (open + parked) as u64;
        reading.in_flight = self.lanes.in_flight() as u64;
        (reading.keys_parked, reading.parked, reading.keys_held) =
            (keys_parked as u64, parked as u64, keys_held as u64);
        (reading.paused, reading.replay) = (paused, replay);
        self.counting.send();
    }
}
