//! What is remembered of a request: every decision while it is served, and at its end the whole story, if anybody may ask
//! for it. Nothing here decides anything.

use std::time::Duration;

use crate::chronicle::{EVENTS_MAX, SAMPLE};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::route;
use crate::stock::Slate;
use crate::story::{BreakerState, Event, Kept, Story, Told};

impl Exchange<'_> {
    pub(crate) fn note(&mut self, event: Event) {
        let after = self.now().since(self.record.began);
        let story = &mut self.slate.story;
        if story.len() < EVENTS_MAX {
            story.push(Told { after, event });
        } else {
            self.record.events_dropped += 1;
        }
    }

    /// Says in the answer why it is not that of a service, where the listener tells that.
    pub(crate) fn mark_reason(&mut self) {
        let tells = self.view.table.as_ref().is_some_and(|table| table.tells_reason);
        if let Some(reason) = self.record.reason.filter(|_| tells) {
            self.slate.marks.extend_from_slice(format!("atoll-reason: {}\r\n", reason.code()).as_bytes());
        }
    }

    /// Keeps the story of a request that has ended, if it is worth it.
    pub(crate) fn tell(&self, reason: Option<Reason>, duration: Duration) {
        let Some(kept) = self.worth(reason) else { return };
        let Slate { inbound, story, .. } = &*self.slate;
        let (record, head) = (&self.record, self.head());
        let (host, path) = if self.is_checked { (head.host(), head.path()) } else { ("", "") };
        let table = self.view.table.as_deref();
        let considered = match table.filter(|_| self.is_checked) {
            Some(table) => route::rejected(table, &head, self.rule),
            None => Vec::new(),
        };
        let began = self.client.core.timers.clock.unix().saturating_sub(duration);
        self.client.core.shared.chronicle.keep(Box::new(Story {
            request_id: self.identity.request_id.get(inbound).to_owned(),
            trace_id: format!("{:032x}", self.identity.trace.trace_id),
            began: jiff::Timestamp::UNIX_EPOCH + began,
            listener: self.client.listener.name.as_ref().to_owned(),
            role: table.and_then(|table| table.caller.as_deref()).unwrap_or("gateway").to_owned(),
            client: self.client.address.to_string(),
            method: head.method().as_str().to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            route: self.route().map(|route| route.name().to_owned()),
            service: record.intended.map(|slot| self.view.current.tables.slots[slot].service.as_ref().to_owned()),
            considered,
            events: story.clone(),
            events_dropped: record.events_dropped,
            status: record.status,
            reason: reason.map(|reason| reason.code().to_owned()),
            fallback: record.fallback.as_deref().map(str::to_owned),
            attempts: record.attempts,
            duration,
            kept,
        }));
    }

    fn worth(&self, reason: Option<Reason>) -> Option<Kept> {
        let is_usual = |told: &Told| match told.event {
            Event::Chosen { is_panic, .. } => !is_panic,
            Event::Breaker { state, is_admitted, .. } => is_admitted && state == BreakerState::ForcedClosed,
            Event::Rate { is_admitted, .. } => is_admitted,
            Event::Tried { .. } => true,
            _ => false,
        };
        if self.record.status >= 500 || reason.is_some() {
            Some(Kept::Failed)
        } else if self.record.attempts > 1 || !self.slate.story.iter().all(is_usual) {
            Some(Kept::Unusual)
        } else {
            self.client.core.is_sampled(SAMPLE).then_some(Kept::Sampled)
        }
    }
}
