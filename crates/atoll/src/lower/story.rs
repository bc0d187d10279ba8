//! What the data plane remembers of a request → what `explain` tells of it: one short sentence for each decision, in order.
//! Pure.

mod sentences;

use std::time::Duration;

use proxy::{BreakerState, GuardReading, Kept, Reason, Rejected, Story};

use crate::api::dto;
use crate::lower::GATEWAY;
use sentences::Speaker;

/// A story as the API shows it.
pub fn story(story: &Story) -> dto::Story {
    let mut told = vec![begin(story)];
    if story.role == GATEWAY {
        told.extend(story.considered.iter().map(rejected));
    }
    let mut speaker = Speaker::of(story);
    told.extend(story.events.iter().map(|event| speaker.say(event)));
    if story.events_dropped > 0 {
        let text = format!("{} more decisions are not kept", story.events_dropped);
        told.push(tell(story.duration, "dropped", text));
    }
    told.push(end(story));
    told.extend(story.state.as_ref().and_then(|state| stood(story, state)));
    dto::Story {
        request_id: story.request_id.clone(),
        trace_id: story.trace_id.clone(),
        began: story.began,
        from: story.role.clone(),
        client: story.client.clone(),
        method: story.method.clone(),
        host: story.host.clone(),
        path: story.path.clone(),
        route: story.route.clone(),
        service: story.service.clone(),
        status: story.status,
        reason: story.reason.clone(),
        fallback: story.fallback.clone(),
        attempts: story.attempts,
        duration_ms: milliseconds(story.duration),
        kept: match story.kept {
            Kept::Failed => "failed",
            Kept::Unusual => "unusual",
            Kept::Sampled => "sampled",
        }
        .to_owned(),
        told,
    }
}

fn begin(story: &Story) -> dto::Told {
    let text = match (story.role.as_str(), &story.route, &story.service) {
        (GATEWAY, Some(route), Some(service)) => format!("route `{route}` takes it, for {service}"),
        (GATEWAY, Some(route), None) => format!("route `{route}` takes it"),
        (GATEWAY, None, _) => "no route takes it".to_owned(),
        (caller, _, Some(service)) => format!("{caller} calls {service}"),
        (caller, _, None) => format!("{caller} calls"),
    };
    tell(Duration::ZERO, "route", text)
}

fn rejected(rejected: &Rejected) -> dto::Told {
    let Rejected { route, rule, why } = rejected;
    tell(Duration::ZERO, "rejected", format!("not route `{route}` ({rule}): {why}"))
}

/// How the route or edge stood then, where it has anything that can stand in more than one way.
fn stood(story: &Story, state: &GuardReading) -> Option<dto::Told> {
    let breaker = state.breaker.as_ref().map(|breaker| {
        let state = match breaker.state {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half open",
            BreakerState::ForcedOpen => "forced open",
            BreakerState::ForcedClosed => "forced closed",
        };
        format!("the breaker was {state}, {} of {} calls had failed", breaker.failures, breaker.calls)
    });
    let gate = state.gate.as_ref().map(|gate| format!("{} of {} places were taken", gate.running, gate.max));
    let budget = &state.budget;
    let has_retried = budget.retries > 0;
    let retries = format!("{} of {} retries were used", budget.retries, budget.retries_max);
    let parts: Vec<String> = breaker.into_iter().chain(gate).chain(has_retried.then_some(retries)).collect();
    (!parts.is_empty()).then(|| tell(story.duration, "state", format!("by then {}", parts.join("; "))))
}

fn end(story: &Story) -> dto::Told {
    let Story { status, attempts, duration, .. } = story;
    let tries = match attempts {
        0 => ", without a try".to_owned(),
        1 => " and 1 try".to_owned(),
        more => format!(" and {more} tries"),
    };
    let reason = story.reason.as_deref().map(|code| match Reason::of_code(code).map(meaning) {
        Some(meaning) => format!("{code}: {meaning}"),
        None => code.to_owned(),
    });
    let because = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let instead = match story.fallback.as_deref() {
        None => String::new(),
        Some("static") => " by the fixed fallback".to_owned(),
        Some(service) => format!(" by {service} as the fallback"),
    };
    let time = time(*duration);
    let text = match status {
        499 => format!("the client went away after {time}{tries}"),
        status => format!("answered {status}{instead} after {time}{tries}{because}"),
    };
    tell(*duration, "end", text)
}

/// What a reason means, as the rest of "the answer came from the proxy because …".
const fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::BadRequest => "the request breaks a rule of HTTP",
        Reason::BadPath => "the path has two readings",
        Reason::UriTooLong => "the target is too long",
        Reason::HeadTooLarge => "the head is too large",
        Reason::TooManyHeaders => "it has too many headers",
        Reason::BodyTooLarge => "the body is too large",
        Reason::RequestTimeout => "the body stopped coming",
        Reason::NotImplemented => "the method or coding is not supported",
        Reason::HttpVersionNotSupported => "the version of HTTP is not supported",
        Reason::TooManyConnections => "there are too many connections",
        Reason::NoRoute => "no route matches",
        Reason::Misdirected => "no route is for this host",
        Reason::NoEndpoint => "no instance takes requests",
        Reason::ConnectFailed => "no instance could be connected to",
        Reason::UpstreamBroken => "the connection to the service broke",
        Reason::UpstreamInvalid => "what the service answered is no HTTP",
        Reason::UpstreamHeadTooLarge => "the head of the answer is too large",
        Reason::UpstreamTimeout => "the service did not answer in time",
        Reason::UpstreamFailed => "the service failed",
        Reason::DeadlinePassed => "the caller's time was over before a service was asked",
        Reason::RateLimited => "the rate limit is reached",
        Reason::CircuitOpen => "the circuit breaker lets nothing through",
        Reason::ConcurrencyLimited => "the concurrency limit is reached",
        Reason::Overloaded => "the data plane has all the requests it takes",
        Reason::FaultInjected => "a fault was set for a drill",
        Reason::ClientClosed => "the client went away",
    }
}

fn tell(after: Duration, kind: &str, text: String) -> dto::Told {
    dto::Told { after_ms: milliseconds(after), kind: kind.to_owned(), instance: None, text }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// "0.31 ms", "3.1 ms", "310 ms", "1.5 s", "30 s", "2 min 5 s": no more digits than count.
fn time(duration: Duration) -> String {
    let digits = |value: f64, digits: usize| {
        let text = format!("{value:.digits$}");
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        }
    };
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 0.000_995 => format!("{} ms", digits(s * 1e3, 2)),
        s if s < 0.0995 => format!("{} ms", digits(s * 1e3, 1)),
        s if s < 0.9995 => format!("{} ms", digits(s * 1e3, 0)),
        s if s < 59.95 => format!("{} s", digits(s, 1)),
        _ => match (duration.as_secs() / 60, duration.as_secs() % 60) {
            (minutes, 0) => format!("{minutes} min"),
            (minutes, rest) => format!("{minutes} min {rest} s"),
        },
    }
}

#[cfg(test)]
mod tests;
