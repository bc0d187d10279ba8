//! How fast messages may go out: as far apart as they were published (`replay_policy: original`), and not more bytes a
//! second than `rate_limit_bps` says.

use crate::jetstream::api::ReplayPolicy;

const SECOND: i64 = 1_000_000_000;
/// Shorter gaps are not kept up.
const GAP_MIN: i64 = 1_000_000;
/// Bytes that may go at once after a pause; the size of the largest message by default.
const BURST: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    /// Nothing goes before.
    pub(super) not_before: Option<i64>,
    replay: Replay,
    /// When what has gone out is paid for.
    paid_at: i64,
}

#[derive(Debug)]
enum Replay {
    /// Until the stream is caught up with.
    Waiting,
    /// Up to this sequence; the last message was published and delivered at these times.
    Running {
        last: u64,
        before: Option<(i64, i64)>,
    },
    Done,
}

impl Pace {
    pub(super) fn new(policy: ReplayPolicy) -> Self {
        let replay = if policy == ReplayPolicy::Original { Replay::Waiting } else { Replay::Done };
        Self { not_before: None, replay, paid_at: i64::MIN }
    }

    pub(super) fn is_open(&self, now: i64) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Whether a message that was published at `time` may go now; `last` is the stream's last sequence.
    pub(super) fn admits(&mut self, sequence: u64, time: i64, last: u64, now: i64) -> bool {
        if matches!(self.replay, Replay::Waiting) {
            self.replay = Replay::Running { last, before: None };
        }
        let Replay::Running { last, before } = self.replay else { return true };
        if sequence > last {
            self.replay = Replay::Done;
            return true;
        }
        let due = before.map_or(now, |(published, delivered)| delivered.saturating_add(time.saturating_sub(published)));
        if due > now.saturating_add(GAP_MIN) {
            self.not_before = Some(due);
        }
        self.is_open(now)
    }

    /// A message went out.
    pub(super) fn went(&mut self, time: i64, size: u64, rate: Option<u64>, now: i64) {
        if let Replay::Running { before, .. } = &mut self.replay {
            *before = Some((time, now));
        }
        if let Some(rate) = rate {
            let cost = |bytes: u64| {
                let nanoseconds = u128::from(bytes) * u128::from(SECOND.unsigned_abs()) / u128::from(rate.max(1));
                i64::try_from(nanoseconds).unwrap_or(i64::MAX)
            };
            let earliest = now.saturating_sub(cost(BURST));
            self.paid_at = self.paid_at.max(earliest).saturating_add(cost(size));
            self.not_before = Some(self.paid_at).filter(|at| *at > now);
        }
    }

    /// Forgets what is past.
    pub(super) fn tick(&mut self, now: i64) {
        self.not_before = self.not_before.filter(|at| *at > now);
    }
}
