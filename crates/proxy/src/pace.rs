//! Whether a client takes its answer fast enough. Pure. Only the time counts in which the client is waited for, and only
//! then is any of this asked: an answer that its client takes at once never comes by here.
//!
//! ```text
//! blocked:   ████      ███████   ██      a window ends when its blocked parts add up to `idle_timeout`
//! ```

use std::time::Duration;

use crate::config::Limits;
use crate::limit::Limit;
use crate::timers::Moment;

/// One answer's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// How long the client was waited for in this window, before now.
    waited: Duration,
    /// What it had taken when the window began; below zero where it still owed earlier answers.
    base: i64,
    block: Option<Block>,
}

/// The client is being waited for.
#[derive(Clone, Copy, Debug)]
struct Block {
    since: Moment,
    /// From when on it counts in this window, and what had been taken by then.
    from: Moment,
    taken: i64,
}

impl Pace {
    /// The client is not waited for any more, since then.
    pub(crate) fn leave(&mut self, at: Moment) {
        if let Some(block) = self.block.take() {
            self.waited += at.since(block.from);
        }
    }

    /// The client is waited for since then, and has taken so many bytes by now. Gives when to look again.
    ///
    /// # Errors
    /// The limit that ends the answer.
    pub(crate) fn check(
        &mut self,
        since: Moment,
        now: Moment,
        limits: &Limits,
        taken: impl FnOnce() -> i64,
    ) -> Result<Moment, Limit> {
        match self.block {
            Some(block) if block.since == since && now < self.end(limits) => {}
            Some(block) if block.since == since => self.judge(block, now, limits, taken())?,
            _ => self.enter(Block { since, from: since, taken: taken() }),
        }
        Ok(self.end(limits))
    }

    fn enter(&mut self, block: Block) {
        self.leave(block.since);
        if self.waited.is_zero() {
            self.base = block.taken;
        }
        self.block = Some(block);
    }

    /// When the window ends, if nothing happens before.
    fn end(&self, limits: &Limits) -> Moment {
        let left = limits.idle_timeout.saturating_sub(self.waited);
        self.block.map_or(Moment::NEVER, |block| block.from.after(left))
    }

    /// The window is over.
    fn judge(&mut self, block: Block, now: Moment, limits: &Limits, taken: i64) -> Result<(), Limit> {
        let fresh = u64::try_from(taken - self.base).unwrap_or(0);
        if fresh == 0 {
            return Err(Limit::IdleTimeout);
        }
        let waited = self.waited + now.since(block.from);
        if u128::from(fresh) * 1_000_000 < u128::from(limits.response_rate_min) * waited.as_micros() {
            return Err(Limit::ResponseRateMin);
        }
        // The next one begins with this block, so that who reads nothing from here on has `idle_timeout` and no more.
        let next = if self.waited.is_zero() { Block { from: now, taken, ..block } } else { block };
        *self = Self { waited: Duration::ZERO, base: next.taken, block: Some(next) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client does for a while that is waited for, in milliseconds; it is looked at when it is over.
    enum Part {
        /// It is waited for and takes so many bytes meanwhile.
        Blocked(u64, i64),
        /// The service is waited for.
        Source(u64),
    }
    use Part::{Blocked, Source};

    /// 1000 bytes a second, a second at a time. Gives the limit that was met, and when.
    fn judged(parts: &[Part]) -> Option<(Limit, u64)> {
        let limits = Limits { idle_timeout: Duration::from_secs(1), response_rate_min: 1000, ..Limits::standard() };
        let at = |millis| Moment::default().after(Duration::from_millis(millis));
        let (mut pace, mut now, mut taken) = (Pace::default(), 0, -5000);
        for part in parts {
            match part {
                Source(millis) => {
                    pace.leave(at(now));
                    now += millis;
                }
                Blocked(millis, bytes) => {
                    let (since, end) = (at(now), now + millis);
                    let mut look = pace.check(since, since, &limits, || taken).expect("it has time");
                    taken += bytes;
                    while look <= at(end) {
                        let millis = u64::try_from(look.since(Moment::default()).as_millis()).unwrap();
                        match pace.check(since, look, &limits, || taken) {
                            Ok(later) => look = later,
                            Err(limit) => return Some((limit, millis)),
                        }
                    }
                    now = end;
                }
            }
        }
        None
    }

    #[test]
    fn the_rate_is_that_of_the_time_in_which_the_client_is_waited_for() {
        for (parts, expected) in [
            (&[Blocked(1000, 0)][..], Some((Limit::IdleTimeout, 1000))),
            (&[Blocked(1000, 999)], Some((Limit::ResponseRateMin, 1000))),
            (&[Blocked(1000, 1000)], None),
            (&[Blocked(900, 0), Source(5000), Blocked(90, 0)], None),
            (&[Blocked(900, 0), Source(5000), Blocked(100, 0)], Some((Limit::IdleTimeout, 6000))),
            (&[Blocked(500, 400), Blocked(500, 500)], Some((Limit::ResponseRateMin, 1000))),
            (&[Blocked(500, 400), Blocked(500, 600)], None),
            // Who has read enough and then nothing has its second from then on.
            (&[Blocked(800, 5000), Blocked(999, 0)], None),
            (&[Blocked(800, 5000), Blocked(1100, 0)], Some((Limit::IdleTimeout, 1800))),
            // Each window stands for itself.
            (&[Blocked(1000, 9000), Blocked(1000, 900)], Some((Limit::ResponseRateMin, 2000))),
            (&[Blocked(1000, 9000), Source(60_000), Blocked(1000, 1000), Blocked(1000, 1000)], None),
        ] {
            assert_eq!(judged(parts), expected);
        }
    }

    #[test]
    fn with_no_rate_anything_is_enough_but_nothing() {
        let limits = Limits { idle_timeout: Duration::from_secs(1), response_rate_min: 0, ..Limits::standard() };
        let (mut pace, second) = (Pace::default(), |count| Moment::default().after(Duration::from_secs(count)));
        let mut check = |now, taken| pace.check(second(0), second(now), &limits, || taken);
        assert_eq!(check(0, 0), Ok(second(1)));
        assert_eq!(check(1, 1), Ok(second(2)));
        assert_eq!(check(2, 1), Err(Limit::IdleTimeout));
    }
}
