//! What a consumer goes by, compiled from the checked configuration: nothing is left to interpret where messages are
//! delivered. Durations and times are nanoseconds.

use bytes::Bytes;

use crate::jetstream::api::{self, AckPolicy, ReplayPolicy};

/// Limit: requests that wait at one consumer, whatever it was made with; with one more they are refused as by NATS.
pub(super) const WAITING_MAX: usize = 10_000;
/// Limit: messages that wait for their acknowledgement, also where a consumer was made without a bound. It goes on when
/// some were acknowledged.
pub(super) const PENDING_MAX: usize = 1 << 20;
/// Limit: nothing is delivered again sooner than this, so that no consumer is busy with itself.
pub(super) const WAIT_MIN: i64 = 1_000_000;
/// Limit: heartbeats of a request come no more often than this.
pub(super) const HEARTBEAT_MIN: i64 = 10_000_000;

/// A consumer's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) ack: AckPolicy,
    /// Before a second delivery, where no back-off says otherwise.
    pub(crate) ack_wait: i64,
    /// Before the second, third, … delivery; the last counts for all others.
    pub(crate) backoff: Vec<i64>,
    pub(crate) max_deliver: Option<u64>,
    pub(crate) max_ack_pending: usize,
    pub(crate) inactive_threshold: Option<i64>,
    pub(crate) pause_until: Option<i64>,
    /// The sequence that a client has named as the first; 0: none. It may be ahead of the stream.
    pub(crate) start_sequence: u64,
    pub(crate) replay: ReplayPolicy,
    pub(crate) mode: Mode,
    /// `$JS.ACK.<stream>.<consumer>.`
    pub(crate) ack_prefix: Bytes,
}

/// How messages get out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pull(Pull),
    Push(Push),
}

/// Bounds of pull requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pull {
    pub(crate) max_waiting: usize,
    pub(crate) max_batch: Option<u64>,
    pub(crate) max_expires: Option<i64>,
    pub(crate) max_bytes: Option<u64>,
}

/// Where and how messages are pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Push {
    pub(crate) subject: Bytes,
    pub(crate) heartbeat: Option<i64>,
    /// `$JS.FC.<stream>.<consumer>.`, where flow is controlled.
    pub(crate) flow: Option<Bytes>,
    /// Bytes a second.
    pub(crate) rate: Option<u64>,
}

impl Config {
    /// From what was checked.
    pub(crate) fn new(config: &api::ConsumerConfig, stream: &str, name: &str) -> Self {
        let mode = if config.is_push() {
            Mode::Push(Push {
                subject: Bytes::copy_from_slice(config.deliver_subject.as_bytes()),
                heartbeat: positive(config.idle_heartbeat),
                flow: config.flow_control.then(|| format!("$JS.FC.{stream}.{name}.").into()),
                rate: Some(config.rate_limit_bps / 8).filter(|rate| *rate > 0),
            })
        } else {
            Mode::Pull(Pull {
                max_waiting: usize::try_from(config.max_waiting).unwrap_or(0).min(WAITING_MAX),
                max_batch: positive(config.max_batch).map(i64::unsigned_abs),
                max_expires: positive(config.max_expires),
                max_bytes: positive(config.max_bytes).map(i64::unsigned_abs),
            })
        };
        Self {
            ack: config.ack_policy,
            ack_wait: config.ack_wait,
            backoff: config.backoff.clone(),
            max_deliver: positive(config.max_deliver).map(i64::unsigned_abs),
            max_ack_pending: positive(config.max_ack_pending)
                .and_then(|most| usize::try_from(most).ok())
                .map_or(PENDING_MAX, |most| most.min(PENDING_MAX)),
            inactive_threshold: positive(config.inactive_threshold),
            pause_until: config.pause_until.filter(|until| !until.is_none()).map(api::Time::nanoseconds),
            start_sequence: config.opt_start_seq,
            replay: config.replay_policy,
            mode,
            ack_prefix: format!("$JS.ACK.{stream}.{name}.").into(),
        }
    }

    /// How long an acknowledgement is waited for, after this many deliveries.
    pub(super) fn wait(&self, deliveries: u64) -> i64 {
        let at = usize::try_from(deliveries.saturating_sub(1)).unwrap_or(usize::MAX);
        self.backoff.get(at).or(self.backoff.last()).copied().unwrap_or(self.ack_wait).max(WAIT_MIN)
    }
}

fn positive(value: i64) -> Option<i64> {
    Some(value).filter(|value| *value > 0)
}
