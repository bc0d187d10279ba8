//! How long a request waits for the head of its response. The route's timeout runs from the moment when the service had
//! the whole request: how long the client takes to send it is no fault of the service. Until then a stalled client has
//! the limit of its body (408), and a service that takes nothing of the body has `idle_timeout`, or the route's timeout
//! where that is longer. What the caller gave (`atoll-deadline`) and what the route gives for the whole request bound all of
//! it, from the head.

use std::time::Duration;

use crate::http1::pipe::{Pipe, Waits};
use crate::limit::Limit;
use crate::reason::{Reason, Refusal};
use crate::timers::Moment;

/// The bounds of one request, all of its attempts together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    timeout: Duration,
    idle: Duration,
    caller: Moment,
    /// The end of the whole request, where its route gives it one.
    whole: Moment,
    /// Since when the service that is asked now is.
    since: Moment,
}

impl Patience {
    /// `left` is what the caller gave, if it gave anything; `total` what the route gives for everything.
    pub(crate) fn new(
        began: Moment,
        timeout: Duration,
        idle: Duration,
        left: Option<Duration>,
        total: Option<Duration>,
    ) -> Self {
        let end = |time: Option<Duration>| time.map_or(Moment::NEVER, |time| began.after(time));
        Self { timeout, idle, caller: end(left), whole: end(total), since: began }
    }

    /// Another service is asked instead: the route's timeout begins again, and nothing else does.
    pub(crate) fn begin_again(&mut self, now: Moment) {
        self.since = now;
    }

    /// Refuses when the time is over. To be asked before each attempt, too: nothing is begun that nobody waits for.
    pub(crate) fn check(self, upload: &Pipe, now: Moment) -> Result<(), Refusal> {
        let (detail, limit) = if self.caller <= now {
            ("The time that the caller gave is over.", None)
        } else if self.whole <= now && upload.has_ended() {
            ("The time for the whole request is over.", None)
        } else if self.whole <= now {
            return Err(Refusal::new(
                Reason::RequestTimeout,
                "The body did not come in the time of the whole request.",
            ));
        } else if self.own_end(upload) > now {
            return Ok(());
        } else if upload.has_ended() {
            ("The service did not answer in time.", None)
        } else {
            ("The service stopped taking the body.", (self.timeout <= self.idle).then_some(Limit::IdleTimeout))
        };
        Err(Refusal::new(Reason::UpstreamTimeout, detail).with_limit(limit))
    }

    /// Whether the service did not do its part: not when only the caller's time is over, nor when the client's body is
    /// waited for.
    pub(crate) fn blames_service(self, upload: &Pipe, now: Moment) -> bool {
        self.own_end(upload) <= now || self.whole <= now && upload.has_ended()
    }

    /// Whether the time is over that the caller gave.
    pub(crate) fn is_over_for_caller(self, now: Moment) -> bool {
        self.caller <= now
    }

    /// When to look again, if nothing happens before.
    pub(crate) fn end(self, upload: &Pipe) -> Moment {
        self.own_end(upload).min(self.caller).min(self.whole)
    }

    /// What a service may be told that it has.
    pub(crate) fn left(self, upload: &Pipe, now: Moment) -> Duration {
        let ended = upload.ended.max(self.since);
        let own = if upload.has_ended() { ended.after(self.timeout).since(now) } else { self.timeout };
        self.caller.min(self.whole).since(now).min(own)
    }

    /// When the service has had its time; never while the client is waited for.
    fn own_end(self, upload: &Pipe) -> Moment {
        match upload.waits {
            _ if upload.has_ended() => upload.ended.max(self.since).after(self.timeout),
            Waits::Source(_) => Moment::NEVER,
            _ => upload.moved.max(self.since).after(self.timeout.max(self.idle)),
        }
    }
}
