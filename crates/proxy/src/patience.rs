//! How long a request waits for the head of its response. The route's timeout runs from the moment when the service had
//! the whole request: how long the client takes to send it is no fault of the service. Until then a stalled client has
//! the limit of its body (408), and a service that takes nothing of the body has `idle_timeout`, or the route's timeout
//! where that is longer. What the caller gave (`atoll-deadline`) bounds all of it, from the head.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::body::{Progress, Upload};
use crate::reason::{Reason, Refusal};

/// The least time between two looks at an upload, whatever the route's timeout.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// The bounds of one request, all of its attempts together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    began: Instant,
    timeout: Duration,
    idle: Duration,
    caller: Option<Instant>,
}

impl Patience {
    /// `left` is what the caller gave, if it gave anything.
    pub(crate) fn new(timeout: Duration, idle: Duration, left: Option<Duration>) -> Self {
        let began = Instant::now();
        Self { began, timeout, idle, caller: left.map(|left| began + left) }
    }

    /// Waits for `work`, and gives it up when the time is over.
    pub(crate) async fn wait<T>(
        self,
        upload: &Upload,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let mut work = pin!(work);
        let mut timer = pin!(sleep_until(self.next_look(upload)));
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = &mut timer => {
                    self.check(upload)?;
                    timer.as_mut().reset(self.next_look(upload));
                }
            }
        }
    }

    /// Refuses when the time is over. To be asked before each attempt: nothing is begun that nobody waits for.
    pub(crate) fn check(self, upload: &Upload) -> Result<(), Refusal> {
        let now = Instant::now();
        let detail = if self.caller.is_some_and(|caller| caller <= now) {
            "The time that the caller gave is over."
        } else if self.end(upload).is_some_and(|end| end <= now) {
            match upload.progress(self.began) {
                Progress::Ended(_) => "The service did not answer in time.",
                _ => "The service stopped taking the body.",
            }
        } else {
            return Ok(());
        };
        Err(Refusal::new(Reason::UpstreamTimeout, detail))
    }

    /// What a service may be told that it has.
    pub(crate) fn left(self, upload: &Upload) -> Duration {
        let now = Instant::now();
        let own = match upload.progress(self.began) {
            Progress::Ended(at) => (at + self.timeout).saturating_duration_since(now),
            _ => self.timeout,
        };
        self.caller.map_or(own, |caller| caller.saturating_duration_since(now).min(own))
    }

    /// When the service has had its time. `None` while the client is waited for.
    fn end(self, upload: &Upload) -> Option<Instant> {
        match upload.progress(self.began) {
            Progress::Ended(at) => Some(at + self.timeout),
            Progress::AwaitsUpstream(since) => Some(since + self.timeout.max(self.idle)),
            Progress::AwaitsClient => None,
        }
    }

    /// When to look again. An upload that ends meanwhile gives the service its timeout from then on, so that this is
    /// never too late and nobody needs to be woken by the end of an upload.
    fn next_look(self, upload: &Upload) -> Instant {
        let look = match upload.progress(self.began) {
            Progress::Ended(at) => at + self.timeout,
            _ => {
                let look = Instant::now() + self.timeout.max(LOOK_INTERVAL_MIN);
                self.end(upload).map_or(look, |end| end.min(look))
            }
        };
        self.caller.map_or(look, |caller| caller.min(look))
    }
}
