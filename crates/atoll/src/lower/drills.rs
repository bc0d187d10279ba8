//! What is switched for a drill or in an emergency: wishes of the API → faults and forced breakers, and those → what the
//! API shows. Pure; time is given.

use std::time::Duration;

use jiff::Timestamp;
use manifest::Plan;
use manifest::plan::EVENTS;
use proxy::{BreakerReading, BreakerState, Effect, Fault, Forced, Readings, Share, Subject};

use crate::api::dto::{self, BreakerAction};
use crate::lower::edges::millis;
use crate::lower::names::{self, Named, named};

// Limit: a longer delay is no drill but an outage, and holds a connection.
const DELAY_MAX: Duration = Duration::from_secs(60 * 60);

/// What a wish asks for in words of the data plane: the effects in the order in which a request meets them, and the share.
pub fn effects(wish: &dto::FaultWish) -> Result<(Vec<Effect>, Share), dto::Problem> {
    let delay = wish.delay_ms.map(Duration::from_millis);
    if delay.is_some_and(|delay| delay.is_zero() || delay > DELAY_MAX) {
        return Err(invalid("a delay is longer than nothing and at most an hour", "write `--delay 300ms`"));
    }
    if wish.bytes_per_second == Some(0) {
        return Err(invalid("a bandwidth is at least a byte a second", "write `--bandwidth 10KiB`, or `--drop`"));
    }
    if wish.abort.is_some_and(|status| !(400..=599).contains(&status)) {
        return Err(invalid("a request is aborted with a status from 400 to 599", "write `--abort 503`"));
    }
    if wish.abort.is_some() && wish.drop {
        return Err(invalid("a request is either answered or dropped", "write `--abort` or `--drop`"));
    }
    let share = wish.share.unwrap_or(1.0);
    // Not a number is neither.
    if !(share > 0.0 && share <= 1.0) || Share::of(share) == Share::NONE {
        return Err(invalid("a share is above 0 and at most 1", "write `--share 0.5`, or `--share 50%`"));
    }
    let effects = [
        delay.map(Effect::Delay),
        wish.bytes_per_second.map(Effect::Bandwidth),
        wish.abort.map(Effect::Abort),
        wish.drop.then_some(Effect::Drop),
    ];
    let effects: Vec<Effect> = effects.into_iter().flatten().collect();
    if effects.is_empty() {
        return Err(invalid("it is not said what goes wrong", "write `--delay`, `--abort`, `--drop` or `--bandwidth`"));
    }
    Ok((effects, Share::of(share)))
}

fn invalid(detail: &str, hint: &str) -> dto::Problem {
    dto::Problem { title: "invalid".into(), status: 400, detail: detail.into(), hint: Some(hint.into()) }
}

/// A fault as the API shows it.
pub fn fault(plan: &Plan, fault: &Fault, now: Timestamp) -> dto::Fault {
    let Fault { id, target, effect, share, until } = fault;
    let (name, delay_ms, bytes_per_second, status) = match effect {
        Effect::Delay(time) => ("delay", Some(millis(*time)), None, None),
        Effect::Bandwidth(rate) => ("bandwidth", None, Some(*rate), None),
        Effect::Abort(status) => ("abort", None, None, Some(*status)),
        Effect::Drop => ("drop", None, None, None),
    };
    dto::Fault {
        id: *id,
        target: names::target_name(plan, target),
        effect: name.to_owned(),
        delay_ms,
        bytes_per_second,
        status,
        share: share.part(),
        until: *until,
        seconds_left: until.duration_since(now).as_secs_f64().max(0.0),
    }
}

/// What a fault does, in words, as in "delays 50 % of the requests to web.1 by 300ms".
pub fn words(fault: &dto::Fault) -> String {
    let whom = match fault.share {
        share if share >= 1.0 => "every request".to_owned(),
        share => format!("{} % of the requests", (share * 1e4).round() / 1e2),
    };
    let target = &fault.target;
    match (fault.delay_ms, fault.bytes_per_second, fault.status) {
        (Some(ms), ..) => {
            format!("delays {whom} to {target} by {}", manifest::format_duration(Duration::from_millis(ms)))
        }
        (_, Some(rate), _) => format!("slows {whom} to {target} down to {} a second", manifest::format_size(rate)),
        (.., Some(status)) => format!("answers {whom} to {target} with {status}"),
        _ => format!("drops {whom} to {target}"),
    }
}

/// What an order to a breaker forces it to.
pub const fn forced(action: BreakerAction) -> Option<Forced> {
    match action {
        BreakerAction::Open => Some(Forced::Open),
        BreakerAction::Close => Some(Forced::Closed),
        BreakerAction::Reset => None,
    }
}

/// Every breaker of a plan, or the one of `only`.
pub fn breakers(plan: &Plan, readings: &Readings, only: Option<&Subject>) -> Vec<dto::Breaker> {
    let all = named(plan).filter(|named| named.policy.circuit_breaker.is_some());
    let wanted = all.filter(|named| only.is_none_or(|only| named.subject == *only));
    let view = |named: Named<'_>| dto::Breaker {
        name: named.name(),
        from: named.from.to_owned(),
        route: named.route.map(str::to_owned),
        state: breaker_state(readings.guards.get(&named.subject).and_then(|guard| guard.breaker.as_ref())),
        to: named.to,
    };
    wanted.map(view).collect()
}

/// What is said where there is no breaker to be switched.
pub fn no_breaker(named: &Named<'_>) -> dto::Problem {
    let key = "circuit_breaker = { failure_rate = 0.5, window = \"10s\", open_for = \"5s\" }";
    let hint = match (named.route, named.to.as_slice()) {
        (Some(route), _) => format!("add to the route with `name = \"{route}\"`:\n{key}"),
        (None, to) if named.from == EVENTS || to.iter().any(|to| to == EVENTS) => {
            "an edge of the engine of events has none: deliveries wait by themselves while no instance is ready".to_owned()
        }
        (None, to) => format!("add to the manifest:\n[services.{}.edges.{}]\n{key}", named.from, to.join(",")),
    };
    let detail = format!("`{}` has no circuit breaker", named.name());
    dto::Problem { title: "no circuit breaker".into(), status: 409, detail, hint: Some(hint) }
}

/// How a breaker stands; the data plane that is away says nothing.
pub(super) fn breaker_state(reading: Option<&BreakerReading>) -> dto::BreakerState {
    let Some(reading) = reading else {
        return dto::BreakerState { state: "unknown".into(), failures: 0, slow: 0, calls: 0, open_left_ms: 0 };
    };
    let BreakerReading { state, failures, slow, calls, open_left } = *reading;
    dto::BreakerState { state: state_name(state).to_owned(), failures, slow, calls, open_left_ms: millis(open_left) }
}

/// Every state, in the order of the picture in Resilience4j's manual.
pub(super) const STATES: [BreakerState; 5] = [
    BreakerState::Closed,
    BreakerState::Open,
    BreakerState::HalfOpen,
    BreakerState::ForcedOpen,
    BreakerState::ForcedClosed,
];

pub(super) const fn state_name(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half_open",
        BreakerState::ForcedOpen => "forced_open",
        BreakerState::ForcedClosed => "forced_closed",
    }
}

#[cfg(test)]
mod tests {
    use proxy::FaultTarget;

    use super::*;

    #[test]
    fn a_wish_is_taken_whole_or_refused() {
        let some = dto::FaultWish { delay_ms: Some(300), ..dto::FaultWish::default() };
        let all = dto::FaultWish { bytes_per_second: Some(1), abort: Some(503), share: Some(0.5), ..some.clone() };
        let met = [Effect::Delay(Duration::from_millis(300)), Effect::Bandwidth(1), Effect::Abort(503)];
        assert_eq!(effects(&all).map_err(|problem| problem.detail), Ok((met.to_vec(), Share::of(0.5))));
        for refused in [
            dto::FaultWish::default(),
            dto::FaultWish { delay_ms: Some(0), ..some.clone() },
            dto::FaultWish { delay_ms: Some(u64::MAX), ..some.clone() },
            dto::FaultWish { bytes_per_second: Some(0), ..some.clone() },
            dto::FaultWish { abort: Some(200), ..some.clone() },
            dto::FaultWish { abort: Some(600), ..some.clone() },
            dto::FaultWish { abort: Some(500), drop: true, ..some.clone() },
            dto::FaultWish { share: Some(0.0), ..some.clone() },
            dto::FaultWish { share: Some(1e-9), ..some.clone() },
            dto::FaultWish { share: Some(1.1), ..some.clone() },
            dto::FaultWish { share: Some(f64::NAN), ..some.clone() },
        ] {
            assert!(effects(&refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_fault_says_what_it_does() {
        let plan = crate::lower::tests::plan();
        let now = Timestamp::UNIX_EPOCH;
        let said = |effect, share, instance| {
            let target = FaultTarget::Service { service: "web".into(), instance };
            let until = now + Duration::from_secs(90);
            let shown = fault(&plan, &Fault { id: 1, target, effect, share, until }, now);
            assert_eq!(shown.seconds_left, 90.0);
            words(&shown)
        };
        assert_eq!(
            said(Effect::Delay(Duration::from_millis(1500)), Share::ALL, None),
            "delays every request to web by 1s500ms"
        );
        assert_eq!(said(Effect::Abort(503), Share::of(0.5), Some(1)), "answers 50 % of the requests to web.1 with 503");
        assert_eq!(said(Effect::Drop, Share::of(0.123), None), "drops 12.3 % of the requests to web");
        assert_eq!(
            said(Effect::Bandwidth(10_240), Share::ALL, None),
            "slows every request to web down to 10KiB a second"
        );
    }
}
