//! What is answered instead of a failure: a static answer, or that of another service. Marked in the answer
//! (`atoll-fallback`), in the access log and in explanations; the reason stays that of the failure.

use std::sync::Arc;

use http::StatusCode;

use crate::exchange::{Exchange, Fate, Served};
use crate::policy::Fallback;
use crate::reason::{Reason, Refusal};
use crate::story::Event;
use crate::table::Compiled;

impl Exchange<'_> {
    /// The service gave an answer of 500 and above (`Ok`), or none.
    pub(crate) async fn fall_back(
        &mut self,
        route: &Compiled,
        fallback: &Fallback,
        outcome: Result<(), Refusal>,
    ) -> Result<Served, Refusal> {
        let refusal = outcome.err().unwrap_or(FAILED);
        match (fallback, route.fallback) {
            (Fallback::Service(name), Some(slot)) => {
                // What may have had an effect is not done twice, and what is gone cannot be sent.
                let is_fresh = self.record.attempts == 0 || self.is_unsent;
                if !(is_fresh || self.is_repeatable) || !self.slate.upload.is_whole() {
                    return outcome.map(|()| Served::Upstream);
                }
                if outcome.is_ok() && !self.is_anybody_ready(slot) {
                    // The answer that is there says more than that nobody else can be asked.
                    return Ok(Served::Upstream);
                }
                self.discard().await;
                self.note(Event::Fallback);
                self.is_fallback = true;
                self.patience.begin_again(self.now());
                let instance = self.record.instance;
                match self.attempts(slot).await {
                    Ok(()) => self.fell_back(refusal.reason, name.as_str().into()),
                    Err(gone) if gone.reason == Reason::ClientClosed => return Err(gone),
                    Err(_) => {
                        // The failure that is told is the first one.
                        (self.record.service, self.record.instance) = (self.record.intended, instance);
                        return Err(refusal);
                    }
                }
                Ok(Served::Upstream)
            }
            _ => {
                self.discard().await;
                self.note(Event::Fallback);
                self.fell_back(refusal.reason, "static".into());
                Ok(Served::Fallback)
            }
        }
    }

    /// Whether the service has an instance, in the snapshot of the request or in that of now.
    fn is_anybody_ready(&self, slot: usize) -> bool {
        let (now, before) = (self.now(), &self.view.current);
        if before.slots[slot].as_ref().is_some_and(|service| service.ejected(now).0 > 0) {
            return true;
        }
        let newest = self.client.core.shared.current.load();
        newest.services.get(&*before.tables.slots[slot].service).is_some_and(|service| service.ejected(now).0 > 0)
    }

    fn fell_back(&mut self, reason: Reason, by: Arc<str>) {
        self.record.reason = Some(reason);
        self.unmarked = self.slate.marks.len();
        self.slate.marks.extend_from_slice(format!("atoll-fallback: {by}\r\n").as_bytes());
        self.record.fallback = Some(by);
        self.mark_reason();
    }

    /// The static answer.
    pub(crate) async fn say_fallback(self) -> Fate {
        let route = self.view.table.as_ref().zip(self.rule).map(|(table, rule)| Arc::clone(&table.rules[rule].route));
        let fallback = route.as_ref().and_then(|route| route.policy.fallback.as_ref());
        let Some(Fallback::Static { status, content_type, body }) = fallback else { return self.refuse(&FAILED).await };
        let status = StatusCode::from_u16(*status).unwrap_or_default();
        self.say(status, &[("content-type", content_type)], body.as_bytes()).await
    }
}

const FAILED: Refusal = Refusal::new(Reason::UpstreamFailed, "The service failed.");
