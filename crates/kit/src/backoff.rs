//! Exponential back-off with full jitter on the upper half, as a pure function of the attempt and a random number.

use std::time::Duration;

/// How long to wait before the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay before the first retry.
    pub first: Duration,
    /// No delay is longer than this.
    pub max: Duration,
}

impl Backoff {
    /// Returns the delay before retry number `attempt` (0 is the first), doubling each time up to `max`.
    ///
    /// `random` is in `[0, 1)`; half of the delay is fixed and half is jitter, so that the result lies in
    /// `[delay / 2, delay)` and many callers that failed together do not come back together.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let full = 2u32.checked_pow(attempt).and_then(|factor| self.first.checked_mul(factor));
        let full = full.map_or(self.max, |delay| delay.min(self.max));
        full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(30) };

    #[test]
    fn delays_double_until_the_maximum() {
        let seen: Vec<u128> = (0..11).map(|attempt| BACKOFF.delay(attempt, 1.0).as_millis()).collect();
        assert_eq!(seen, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(BACKOFF.delay(u32::MAX, 1.0), BACKOFF.max);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        for random in [0.0, 0.3, 0.999] {
            let delay = BACKOFF.delay(3, random);
            assert!(delay >= Duration::from_millis(400) && delay < Duration::from_millis(800), "{delay:?}");
        }
    }
}
