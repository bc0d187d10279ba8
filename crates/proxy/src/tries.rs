//! The tries of one request, from the first to the last: who gets it, whether the breaker lets it, what an outcome means for
//! those who come after it, and what follows it. What follows is `retry`'s to decide; one try is `attempt`'s to make.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::admission::CROWDED;
use crate::attempt::{Fault, refused};
use crate::breaker::{self, Breaker, Permit, Refused};
use crate::candidates::{Candidates, Chosen};
use crate::endpoint::Occupied;
use crate::exchange::Exchange;
use crate::headers;
use crate::outlier::{self, Verdict};
use crate::policy::{Absence, Retry};
use crate::reason::{Reason, Refusal};
use crate::retry::{self, Failure, Next, Outcome, Unsent};
use crate::story::{BreakerState, Event, NoMore, Tried};
use crate::table::Compiled;
use crate::tally::Tally;
use crate::timers::Moment;

/// How soon a part of the platform that is absent may be there again.
const PASSING: Duration = Duration::from_secs(1);

/// The tries of one request.
struct Tries {
    candidates: Candidates,
    /// Those that reached an instance.
    exchanges: u32,
    /// How the last one failed.
    failure: Option<Refusal>,
    /// Whether an answer is there that is the client's if no other try comes about.
    is_kept: bool,
    /// Whether this process lacked something for the last one.
    is_own_failure: bool,
    /// Whether the budget has given leave for the next one.
    is_paid: bool,
}

impl Exchange<'_> {
    /// Sends the request to one endpoint after another, as long as that is safe and wanted, until the head of a response
    /// is there. Its connection is then in `line`, and what was read in `answer`.
    pub(crate) async fn attempts(&mut self, slot: usize) -> Result<(), Refusal> {
        self.record.service = Some(slot);
        let candidates = Candidates::new(slot, self.balance_hash());
        let mut tries =
            Tries { candidates, exchanges: 0, failure: None, is_kept: false, is_own_failure: false, is_paid: false };
        // A request counts once, whoever answers it in the end.
        if let Some(guard) = self.guard().filter(|_| !self.is_fallback) {
            guard.budget.add_request(self.client.core.counts.core, self.now());
        }
        loop {
            match self.seek(&mut tries) {
                Ok(chosen) => {
                    if tries.is_kept {
                        self.discard().await;
                    }
                    (self.occupied, self.condition) = (Some(chosen.occupied), chosen.condition);
                }
                Err(_) if tries.is_kept => return Ok(()),
                Err(refusal) => {
                    // A call that reached nobody, neither here nor elsewhere, has failed.
                    let call = self.call.take().filter(|_| tries.failure.is_some() && !tries.is_own_failure);
                    self.end_call(call, true, Duration::ZERO);
                    return Err(refusal);
                }
            }
            let began = self.now();
            let outcome = match self.attempt().await {
                Ok(()) => self.answered(),
                Err(Fault::Failed(failure)) => Outcome::Failed(failure),
                Err(Fault::Over(refusal)) => {
                    self.is_unsent = false;
                    if self.patience.blames_service(&self.slate.upload, self.now()) {
                        self.judge(Outcome::Failed(Failure::TimedOut), began);
                    }
                    return Err(refusal);
                }
            };
            self.judge(outcome, began);
            match self.settle(&mut tries, outcome) {
                Next::Keep(_) => return tries.failure.map_or(Ok(()), Err),
                Next::After { pause, .. } => {
                    tries.candidates.may_repeat = true;
                    self.pause(pause).await?;
                }
                Next::Elsewhere | Next::Anew | Next::Another => {}
            }
        }
    }

    /// Who gets the request next, if anybody may.
    fn seek(&mut self, tries: &mut Tries) -> Result<Chosen, Refusal> {
        let now = self.now();
        if self.record.attempts == 0 && self.patience.is_over_for_caller(now) {
            return Err(Refusal::new(Reason::DeadlinePassed, "The time that the caller gave was over already."));
        }
        let in_time = self.patience.check(&self.slate.upload, now);
        if in_time.is_err_and(|refusal| refusal.reason == Reason::UpstreamTimeout) && self.record.attempts == 0 {
            // It was not the service that took it.
            return Err(CROWDED);
        }
        in_time?;
        let chosen = tries.candidates.choose(self);
        let last = |tries: &Tries| tries.failure.unwrap_or_else(no_endpoint);
        let chosen = chosen.ok_or_else(|| last(tries))?;
        // Where nobody good is left, asking one after another would only make a failure larger.
        let is_free = tries.failure.is_none() || std::mem::take(&mut tries.is_paid);
        if !is_free && chosen.is_last_resort && !self.takes_from_budget() {
            self.note_budget_spent();
            return Err(last(tries));
        }
        if !is_free && !chosen.is_last_resort {
            // Whoever is good is asked in any case; what follows finds less in the budget.
            self.guard().iter().for_each(|guard| guard.budget.spend(now));
        }
        // What was sent already has its own reason.
        self.pass_breaker().map_err(|refusal| tries.failure.unwrap_or(refusal))?;
        Ok(chosen)
    }

    /// The breaker's leave for one try.
    fn pass_breaker(&mut self) -> Result<(), Refusal> {
        // A try that reached nobody was no call yet.
        if self.call.is_some() {
            return Ok(());
        }
        let Some(breaker) = self.guard().filter(|_| !self.is_fallback).and_then(|guard| guard.breaker.clone()) else {
            return Ok(());
        };
        let now = self.now();
        match breaker.try_acquire(now) {
            Ok(permit) => {
                if let Some((from, to)) = permit.turned {
                    self.note(Event::BreakerTurned { from, to });
                }
                if permit.state != BreakerState::Closed {
                    let state = permit.state;
                    self.note(Event::Breaker { state, is_admitted: true, failures: 0, slow: 0, calls: 0 });
                }
                self.call = Some(Call { breaker, permit: Some(permit) });
                Ok(())
            }
            Err(refused) => {
                let Refused { state, tally: Tally { failures, slow, calls }, retry_after } = refused;
                self.note(Event::Breaker { state, is_admitted: false, failures, slow, calls });
                let detail = "The circuit breaker is open: too many calls to the service failed or were slow.";
                Err(Refusal::new(Reason::CircuitOpen, detail).with_retry_after(retry_after))
            }
        }
    }

    /// What a try means for those who come after it.
    fn judge(&mut self, outcome: Outcome, began: Moment) {
        let (now, is_failure) = (self.now(), outcome.is_failure());
        // How long the client took to send its request is its own matter.
        let upload = &self.slate.upload;
        let began = if upload.has_ended() { began.max(upload.ended) } else { began };
        let took = now.since(began);
        let Some(endpoint) = self.occupied.as_ref().map(Occupied::endpoint) else { return };
        let instance = endpoint.instance;
        if matches!(outcome, Outcome::Answered { .. }) {
            endpoint.answered(took, now);
        }
        self.note(Event::Tried { instance, outcome: told(outcome), took });
        let is_unsent = matches!(outcome, Outcome::Failed(Failure::Unsent(_)));
        let call = if is_unsent { None } else { self.call.take() };
        self.end_call(call, is_failure, took);
        if outcome == Outcome::Failed(Failure::Unsent(Unsent::Own)) {
            self.condition = None;
        }
        let Some(condition) = self.condition.take() else { return };
        if !is_unsent {
            condition.ewma.observe(took, now);
        }
        let (route, slot) = (self.route(), self.record.service);
        let Some((policy, slot)) = route.and_then(|route| route.policy.ejection.as_ref()).zip(slot) else { return };
        let service = self.view.current.slots[slot].as_ref();
        let may_eject = || {
            service.is_some_and(|service| {
                let (ready, ejected) = service.ejected(now);
                outlier::may_eject(policy, ready, ejected)
            })
        };
        if let Verdict::Ejected(time) = condition.health.record(policy, is_failure, now, may_eject) {
            let service = self.service().unwrap_or_default();
            tracing::info!(service, instance, route = self.route().map(Compiled::name), ?time, "ejected");
            self.note(Event::Ejected { instance, time });
        }
    }

    fn end_call(&mut self, call: Option<Call>, is_failure: bool, took: Duration) {
        if let Some((from, to)) = call.and_then(|call| call.end(is_failure, took, self.now())) {
            tracing::info!(route = self.route().map(Compiled::name), ?from, ?to, "circuit breaker");
            self.note(Event::BreakerTurned { from, to });
        }
    }

    /// What follows the outcome of a try.
    fn settle(&mut self, tries: &mut Tries, outcome: Outcome) -> Next {
        let is_unsent = matches!(outcome, Outcome::Failed(Failure::Unsent(_)));
        tries.exchanges += u32::from(!is_unsent);
        self.is_unsent &= is_unsent;
        let request = self.as_tried(tries.exchanges);
        let mut next = retry::next(self.retry_policy(), request, outcome, fastrand::f64());
        tries.is_own_failure = outcome == Outcome::Failed(Failure::Unsent(Unsent::Own));
        tries.is_paid = false;
        if matches!(next, Next::After { .. } | Next::Another) {
            tries.is_paid = self.takes_from_budget();
            next = if tries.is_paid { next } else { Next::Keep(NoMore::BudgetSpent) };
        }
        let Some(endpoint) = self.occupied.as_ref().map(|occupied| occupied.endpoint().id) else { return next };
        match outcome {
            Outcome::Answered { .. } => (tries.is_kept, tries.failure) = (true, None),
            Outcome::Failed(failed) => {
                (tries.is_kept, tries.failure) = (false, Some(self.refusal_of(failed)));
                self.line = None;
                if next == Next::Anew {
                    self.client.core.pool.forget(endpoint);
                    tries.candidates.again = self.occupied.take();
                }
                self.occupied = if matches!(next, Next::Keep(_)) { self.occupied.take() } else { None };
            }
        }
        if !matches!(next, Next::Keep(_)) {
            tries.candidates.tried.push(endpoint);
        }
        match next {
            Next::After { pause, is_told } => self.note(Event::Again { pause, is_told }),
            Next::Keep(NoMore::Final) => {}
            Next::Keep(NoMore::BudgetSpent) => self.note_budget_spent(),
            Next::Keep(why) => self.note(Event::NoMore { why }),
            Next::Elsewhere | Next::Anew | Next::Another => {
                self.note(Event::Again { pause: Duration::ZERO, is_told: false });
            }
        }
        next
    }

    /// What is answered if no other try comes about.
    fn refusal_of(&self, failed: Failure) -> Refusal {
        let is_absence = matches!(failed, Failure::Unsent(_) | Failure::Broken | Failure::BrokenReused);
        let is_passing = |route: &Compiled| route.policy.absence == Absence::Passing;
        match refused(failed) {
            refusal if is_absence && self.route().is_some_and(is_passing) => {
                refusal.with_status(StatusCode::SERVICE_UNAVAILABLE).with_retry_after(PASSING)
            }
            refusal => refusal,
        }
    }

    pub(crate) fn retry_policy(&self) -> &Retry {
        const NONE: &Retry = &Retry::NONE;
        match self.route() {
            Some(route) if !self.is_fallback => &route.policy.retry,
            _ => NONE,
        }
    }

    fn as_tried(&self, exchanges: u32) -> retry::Request {
        let upload = &self.slate.upload;
        retry::Request {
            is_repeatable: self.is_repeatable,
            is_whole: upload.is_whole(),
            exchanges,
            left: self.patience.left(upload, self.now()),
        }
    }

    fn takes_from_budget(&self) -> bool {
        self.guard().is_some_and(|guard| guard.budget.take(self.now()))
    }

    /// What came, as far as it decides about another try.
    fn answered(&self) -> Outcome {
        let status = self.slate.response.status;
        let is_asked = self.retry_policy().codes.contains(&status);
        let unix = self.client.core.timers.clock.unix();
        let told = || headers::retry_after(&self.slate.response.fields, &self.answer, unix);
        Outcome::Answered { status, retry_after: if is_asked { told() } else { None } }
    }
}

/// A try for which the breaker gave leave. Dropped without an outcome, it counts nothing.
#[derive(Debug)]
pub(crate) struct Call {
    breaker: Arc<Breaker>,
    permit: Option<Permit>,
}

impl Call {
    fn end(mut self, is_failure: bool, took: Duration, now: Moment) -> Option<(BreakerState, BreakerState)> {
        self.breaker.record(self.permit.take()?, breaker::Outcome { is_failure, took }, now)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.breaker.release(permit);
        }
    }
}

/// How a try is told of.
fn told(outcome: Outcome) -> Tried {
    match outcome {
        Outcome::Answered { status, .. } | Outcome::Failed(Failure::Fault(status)) => Tried::Answered(status),
        Outcome::Failed(Failure::Unsent(Unsent::Refused)) => Tried::ConnectRefused,
        Outcome::Failed(Failure::Unsent(Unsent::TimedOut)) => Tried::ConnectTimeout,
        Outcome::Failed(Failure::Unsent(Unsent::Other | Unsent::Own)) => Tried::ConnectFailed,
        Outcome::Failed(Failure::Broken) => Tried::Broken { is_reused: false },
        Outcome::Failed(Failure::BrokenReused) => Tried::Broken { is_reused: true },
        Outcome::Failed(Failure::TimedOut) => Tried::TimedOut,
        Outcome::Failed(Failure::Invalid) => Tried::Invalid,
        Outcome::Failed(Failure::HeadTooLarge) => Tried::HeadTooLarge,
    }
}

/// There is nobody to ask.
pub(crate) fn no_endpoint() -> Refusal {
    Refusal::new(Reason::NoEndpoint, "No instance of the service is ready.")
}
