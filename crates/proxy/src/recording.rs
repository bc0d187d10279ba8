//! What is remembered of a request: every decision while it is served, and at its end the whole story, if anybody may ask
//! for it. Nothing here decides anything.

use std::time::Duration;

use crate::chronicle::{EVENTS_MAX, SAMPLE};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::route;
use crate::stock::Slate;
use crate::story::{BreakerState, Event, Kept, NoMore, Story, Told, cut};

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

    /// The retry budget allows no other try: how it stands, and that none is made.
    pub(crate) fn note_budget_spent(&mut self) {
        if let Some(reading) = self.guard().map(|guard| guard.budget.reading(self.now())) {
            let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
            self.note(Event::Budget { retries: count(reading.retries), max: count(reading.retries_max) });
        }
        self.note(Event::NoMore { why: NoMore::BudgetSpent });
    }

    /// Says in the answer why it is not that of a service, where the listener tells that.
    pub(crate) fn mark_reason(&mut self) {
        let tells = self.view.table.as_ref().is_some_and(|table| table.tells_reason);
        if let Some(reason) = self.record.reason.filter(|_| tells) {
            self.slate.marks.extend_from_slice(format!("atoll-reason: {}\r\n", reason.code()).as_bytes());
        }
    }

    /// Keeps the story of a request that has ended, if it is worth it. Whether it is, is known before anything is built:
    /// under overload, refusing must stay cheap.
    pub(crate) fn tell(&self, reason: Option<Reason>, duration: Duration) {
        let Some(kept) = self.worth(reason) else { return };
        let Slate { inbound, story, .. } = &*self.slate;
        let (record, head) = (&self.record, self.head());
        let (host, path) = if self.is_checked { (head.host(), head.path()) } else { ("", "") };
        let table = self.view.table.as_deref();
        let is_found = self.rule.is_some() && reason.is_some_and(is_of_load);
        let considered = match table.filter(|_| self.is_checked && !is_found) {
            Some(table) => route::rejected(table, &head, self.rule),
            None => Vec::new(),
        };
        let began = self.client.core.timers.clock.unix().saturating_sub(duration);
        self.client.core.shared.chronicle.keep(Story {
            request_id: self.identity.request_id.get(inbound).to_owned(),
            trace_id: format!("{:032x}", self.identity.trace.trace_id),
            began: jiff::Timestamp::UNIX_EPOCH + began,
            listener: self.client.listener.name.as_ref().to_owned(),
            role: table.and_then(|table| table.caller.as_deref()).unwrap_or("gateway").to_owned(),
            client: self.client.address.to_string(),
            method: cut(head.method().as_str()),
            host: cut(host),
            path: cut(path),
            route: self.route().map(|route| route.name().to_owned()),
            service: record.intended.map(|slot| self.view.current.tables.slots[slot].service.as_ref().to_owned()),
            considered,
            events: story.clone(),
            events_dropped: record.events_dropped,
            status: record.status,
            reason: reason.map(|reason| reason.code().to_owned()),
            fallback: record.fallback.as_deref().map(str::to_owned),
            attempts: record.attempts,
            state: self.guard().map(|guard| guard.read(self.now())),
            duration,
            kept,
        });
    }

    fn worth(&self, reason: Option<Reason>) -> Option<Kept> {
        let is_usual = |told: &Told| match told.event {
            Event::Chosen { is_panic, .. } => !is_panic,
            Event::Breaker { state, is_admitted, .. } => is_admitted && state == BreakerState::ForcedClosed,
            Event::Rate { is_admitted, .. } => is_admitted,
            Event::Tried { .. } => true,
            _ => false,
        };
        let core = &self.client.core;
        let (kept, allowance) = if reason.is_some_and(is_of_load) {
            (Kept::Failed, &core.refused)
        } else if self.record.status >= 500 || reason.is_some() {
            (Kept::Failed, &core.failed)
        } else if self.record.attempts > 1 || !self.slate.story.iter().all(is_usual) {
            (Kept::Unusual, &core.unusual)
        } else {
            return core.is_sampled(SAMPLE).then_some(Kept::Sampled);
        };
        let is_kept = allowance.take(core.timers.clock.unix().as_secs());
        core.counts.stories_skipped.add(u64::from(!is_kept));
        is_kept.then_some(kept)
    }
}

/// Whether a request is refused for what others do. No other route would have helped, and such come in floods.
const fn is_of_load(reason: Reason) -> bool {
    matches!(reason, Reason::Overloaded | Reason::RateLimited | Reason::ConcurrencyLimited | Reason::CircuitOpen)
}
