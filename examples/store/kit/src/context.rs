//! Joins the request being served to the calls made for it, which no proxy can do: the trace, the request's id, and how
//! much time is left. The server enters a [`Context`] per request; the client adds it to every call.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

const COPIED: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];
const DEADLINE: &str = "atoll-deadline";

tokio::task_local!(static CURRENT: Context);

/// What a request brought with it.
#[derive(Clone, Debug, Default)]
pub struct Context {
    copied: Vec<(&'static str, HeaderValue)>,
    deadline: Option<Instant>,
}

impl Context {
    /// Reads the context of a request that arrives now. A deadline is a number of milliseconds; anything else is none.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let copied = COPIED.iter().filter_map(|name| Some((*name, headers.get(*name)?.clone()))).collect();
        let left = headers.get(DEADLINE).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_millis);
        Self { copied, deadline: left.and_then(|left| Instant::now().checked_add(left)) }
    }

    /// Runs `serve` with this context. A task spawned from it starts without one.
    pub async fn enter<F: Future>(self, serve: F) -> F::Output {
        CURRENT.scope(self, serve).await
    }

    /// The same for work that blocks.
    pub fn enter_blocking<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }

    /// For what is done after the request was answered: its trace, without its deadline.
    #[must_use]
    pub fn without_deadline(self) -> Self {
        Self { deadline: None, ..self }
    }

    /// The trace that the request belongs to (W3C Trace Context).
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        let (_, value) = self.copied.iter().find(|(name, _)| *name == "traceparent")?;
        value.to_str().ok()
    }

    /// The smaller of `most` and what is left until the deadline.
    #[must_use]
    pub fn remaining(&self, most: Duration) -> Duration {
        self.left().map_or(most, |left| most.min(left))
    }

    /// The same for a call that is made meanwhile. A tenth of what is left is kept, to answer with when the call fails:
    /// then, in a chain of services, the one that waits in vain can still say so.
    #[must_use]
    pub fn remaining_for_call(&self, most: Duration) -> Duration {
        self.left().map_or(most, |left| most.min(left * 9 / 10))
    }

    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// The context of the request that this task serves; an empty one outside of any.
#[must_use]
pub fn current() -> Context {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Adds the present context to the head of a call that may take `timeout`.
pub fn pass_on(headers: &mut HeaderMap, timeout: Duration) {
    for (name, value) in current().copied {
        headers.insert(HeaderName::from_static(name), value);
    }
    headers.insert(DEADLINE, HeaderValue::from(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[tokio::test]
    async fn a_call_carries_the_trace_the_id_and_the_time_left() {
        let arrived =
            headers(&[("traceparent", "00-a-b-01"), ("x-request-id", "r1"), (DEADLINE, "300"), ("cookie", "no")]);
        let context = Context::of(&arrived);
        assert!(context.remaining(Duration::from_secs(2)) <= Duration::from_millis(300));
        assert!(context.remaining_for_call(Duration::from_secs(2)) <= Duration::from_millis(270));
        let mut call = HeaderMap::new();
        context.enter(async { pass_on(&mut call, Duration::from_millis(250)) }).await;
        assert_eq!(call, headers(&[("traceparent", "00-a-b-01"), ("x-request-id", "r1"), (DEADLINE, "250")]));
    }

    #[test]
    fn a_deadline_that_is_no_number_is_none() {
        for value in ["soon", "-1", "99999999999999999999999", "18446744073709551615"] {
            let context = Context::of(&headers(&[(DEADLINE, value)]));
            assert_eq!(context.remaining(Duration::from_secs(2)), Duration::from_secs(2), "{value}");
        }
    }
}
