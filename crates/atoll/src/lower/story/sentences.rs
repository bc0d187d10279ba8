//! One sentence for each thing that the data plane may have decided about a request.

use std::time::Duration;

use proxy::{BreakerState, Effect, Event, How, NoMore, Story, Told, Tried};

use super::{milliseconds, time};
use crate::api::dto;
use crate::lower::drills::state_name;

/// Tells the events of a story one after the other: a fallback changes who answers.
pub(super) struct Speaker<'s> {
    /// Whose instances are asked.
    service: &'s str,
    fallback: Option<&'s str>,
}

impl<'s> Speaker<'s> {
    pub(super) fn of(story: &'s Story) -> Self {
        Self { service: story.service.as_deref().unwrap_or("instance"), fallback: story.fallback.as_deref() }
    }

    pub(super) fn say(&mut self, told: &Told) -> dto::Told {
        let (kind, instance, text) = self.sentence(&told.event);
        dto::Told { after_ms: milliseconds(told.after), kind: kind.to_owned(), instance, text }
    }

    fn sentence(&mut self, event: &Event) -> (&'static str, Option<u32>, String) {
        match *event {
            Event::Rate { is_admitted: true, limit, left } => {
                ("rate_limit", None, format!("the rate limit lets it through: {left} of {limit} are left"))
            }
            Event::Rate { is_admitted: false, limit, .. } => {
                ("rate_limit", None, format!("the rate limit of {limit} is used up"))
            }
            Event::Queued { running, ahead } => {
                let text = format!("all places are taken: {running} requests run; it waits behind {ahead}");
                ("queued", None, text)
            }
            Event::Dequeued { waited } => ("dequeued", None, format!("it has a place after {}", time(waited))),
            Event::Crowded { running, waiting, waited } => ("crowded", None, crowded(running, waiting, waited)),
            Event::Shed { active, limit } => {
                ("shed", None, format!("the data plane has {active} requests and takes {limit}: it is refused"))
            }
            Event::Breaker { state, is_admitted, failures, slow, calls } => {
                ("breaker", None, breaker(state, is_admitted, (failures, slow, calls)))
            }
            Event::BreakerTurned { from, to } => ("breaker_turned", None, turned(from, to)),
            Event::Chosen { instance, outstanding, ready, passed_over, is_panic, how } => {
                let why = self.why(outstanding, how);
                ("chosen", Some(instance), self.chosen(instance, &why, (ready, passed_over, is_panic)))
            }
            Event::NobodyLeft { ready: 0, .. } => {
                ("nobody_left", None, format!("no instance of {} is ready", self.service))
            }
            Event::NobodyLeft { ready, tried } => {
                let text = format!("no other instance of {} can be asked: {ready} ready, {tried} tried", self.service);
                ("nobody_left", None, text)
            }
            Event::Tried { instance, outcome, took } => {
                let text = format!("{}.{instance} {}", self.service, outcome_in_words(outcome, took));
                ("tried", Some(instance), text)
            }
            Event::Ejected { instance, time: left } => {
                let text = format!("{}.{instance} is ejected: it is passed over for {}", self.service, time(left));
                ("ejected", Some(instance), text)
            }
            Event::Again { pause, .. } if pause.is_zero() => ("again", None, "it is tried again at once".to_owned()),
            Event::Again { pause, is_told: false } => ("again", None, format!("it is tried again in {}", time(pause))),
            Event::Again { pause, is_told: true } => {
                ("again", None, format!("it is tried again in {}, as `retry-after` asks", time(pause)))
            }
            Event::Budget { retries, max } => ("budget", None, budget(retries, max)),
            Event::NoMore { why } => ("no_more", None, format!("it is not tried again: {}", no_more(why))),
            Event::Fault { id, effect } => ("fault", None, format!("fault {id} {}", fault(effect))),
            Event::Fallback => ("fallback", None, self.falls_back()),
        }
    }

    /// Who answers from now on.
    fn falls_back(&mut self) -> String {
        match self.fallback {
            Some("static") => "the fixed fallback is answered instead".to_owned(),
            Some(service) => {
                self.service = service;
                format!("{service} is asked instead, as the fallback")
            }
            None => {
                self.service = "fallback";
                "the fallback is asked instead, and fails, too".to_owned()
            }
        }
    }

    fn why(&self, outstanding: u32, how: How) -> String {
        let service = self.service;
        match how {
            How::Only => "nobody else can be".to_owned(),
            How::FewerOutstanding { other, other_outstanding } => {
                format!("it has {outstanding} outstanding, {service}.{other} has {other_outstanding}")
            }
            How::Turn => "it is its turn".to_owned(),
            How::LowerCost { cost, other, other_cost } => {
                format!("its load costs {cost}, that of {service}.{other} {other_cost}")
            }
            How::Hash { skipped: 0 } => "its key belongs there".to_owned(),
            How::Hash { skipped } => format!("{skipped} before it on the ring cannot be"),
            How::SameAgain => "a connection that had been idle broke, and a new one is tried".to_owned(),
        }
    }

    fn chosen(&self, instance: u32, why: &str, (ready, passed_over, is_panic): (u32, u32, bool)) -> String {
        let aside = match (is_panic, passed_over) {
            (true, _) => "; so many are ejected that all are asked".to_owned(),
            (false, 0) => String::new(),
            (false, some) => format!("; {some} passed over"),
        };
        format!("{}.{instance} of {ready} ready is chosen: {why}{aside}", self.service)
    }
}

fn crowded(running: u32, waiting: u32, waited: Duration) -> String {
    match waited.is_zero() {
        true => format!("all places are taken: {running} requests run, {waiting} wait; it is refused"),
        false => {
            format!("it has no place after {}: {running} requests run, {waiting} wait; it is refused", time(waited))
        }
    }
}

fn breaker(state: BreakerState, is_admitted: bool, (failures, slow, calls): (u32, u32, u32)) -> String {
    let counted = match slow {
        0 => format!("{failures} of {calls} calls failed"),
        _ => format!("{failures} of {calls} calls failed, {slow} were slow"),
    };
    match (state, is_admitted) {
        (BreakerState::Closed, true) => "the breaker is closed".to_owned(),
        (BreakerState::ForcedClosed, true) => "the breaker is forced closed".to_owned(),
        (BreakerState::HalfOpen, true) => "the breaker is half open and lets it through as a trial".to_owned(),
        (BreakerState::HalfOpen, false) => "the breaker is half open and has its trials: nothing is sent".to_owned(),
        (BreakerState::ForcedOpen, false) => {
            "the breaker is forced open, until `atoll breaker reset`: nothing is sent".to_owned()
        }
        (_, false) => format!("the breaker is open, as {counted}: nothing is sent"),
        (_, true) => "the breaker lets it through".to_owned(),
    }
}

fn turned(from: BreakerState, to: BreakerState) -> String {
    let name = |state| state_name(state).replace('_', " ");
    match (from, to) {
        (BreakerState::Open, BreakerState::HalfOpen) => {
            "the breaker was open for long enough: it is half open".to_owned()
        }
        (_, BreakerState::Open) => format!("this opens the breaker, which was {}", name(from)),
        (_, BreakerState::Closed) => format!("this closes the breaker, which was {}", name(from)),
        (from, to) => format!("the breaker was {} and is {}", name(from), name(to)),
    }
}

fn outcome_in_words(outcome: Tried, took: Duration) -> String {
    let after = if took.is_zero() { String::new() } else { format!(", after {}", time(took)) };
    let took = time(took);
    match outcome {
        Tried::Answered(status) => format!("answers {status} after {took}"),
        Tried::ConnectRefused => "refuses the connection".to_owned(),
        Tried::ConnectTimeout => format!("does not take the connection within {took}"),
        Tried::ConnectFailed => "cannot be connected to".to_owned(),
        Tried::Broken { is_reused: true } => format!("breaks a connection that it had kept open{after}"),
        Tried::Broken { is_reused: false } => format!("breaks the connection without an answer{after}"),
        Tried::Invalid => format!("answers what is no HTTP{after}"),
        Tried::HeadTooLarge => format!("answers with too large a head{after}"),
        Tried::TimedOut => format!("does not answer within {took}"),
    }
}

fn budget(retries: u32, max: u32) -> String {
    let times = if retries == 1 { "retry" } else { "retries" };
    format!("there were {retries} {times} in the last 10 s, and its requests allow {max}")
}

const fn no_more(why: NoMore) -> &'static str {
    match why {
        NoMore::NotRepeatable => "its method is not idempotent, and it has no `idempotency-key`",
        NoMore::BodyNotKept => "its body is too large to be kept",
        NoMore::AttemptsUsed => "it has had all its tries",
        NoMore::BudgetSpent => "the retry budget is spent",
        NoMore::NoTime => "its time would be over",
        NoMore::ToldToWaitTooLong => "`retry-after` is later than its time allows",
        NoMore::Final => "such an answer is final",
    }
}

fn fault(effect: Effect) -> String {
    match effect {
        Effect::Delay(by) => format!("delays it by {}", time(by)),
        Effect::Abort(status) => format!("answers {status} in place of the service"),
        Effect::Drop => "drops the connection".to_owned(),
        Effect::Bandwidth(rate) => {
            format!("lets its answer through at {} a second", manifest::format_size(rate))
        }
    }
}
