//! Who may get a request next: those of the snapshot of the request that were not tried, and where that knows nobody, those
//! that are served now. Called by `attempt` before each try.

use std::sync::Arc;

use crate::balance::{Ask, Choice, Service};
use crate::endpoint::Occupied;
use crate::exchange::Exchange;
use crate::guard::Condition;
use crate::handle::Current;
use crate::story::{Event, How};

/// One request's.
pub(crate) struct Candidates {
    /// The place of the service in the tables of the request's snapshot.
    slot: usize,
    /// Of the request's key, where balancing asks for one.
    hash: u64,
    current: Option<Arc<Current>>,
    /// In order.
    pub(crate) tried: Vec<u64>,
    /// Taken when there is nobody else.
    pub(crate) again: Option<Occupied>,
    /// Whether those who were tried may be once more.
    pub(crate) may_repeat: bool,
}

/// Who gets it.
pub(crate) struct Chosen {
    pub(crate) occupied: Occupied,
    /// Where the route's policy asks how its instances fare.
    pub(crate) condition: Option<Arc<Condition>>,
    /// Whether others would have been asked first.
    pub(crate) is_last_resort: bool,
}

impl Candidates {
    pub(crate) fn new(slot: usize, hash: u64) -> Self {
        Self { slot, hash, current: None, tried: Vec::new(), again: None, may_repeat: false }
    }

    /// Somebody who was not tried; else, where that is allowed, any but the last; else the last.
    pub(crate) fn choose(&mut self, exchange: &mut Exchange<'_>) -> Option<Chosen> {
        let mut chosen = self.untried(exchange);
        if chosen.is_none() && std::mem::take(&mut self.may_repeat) {
            let last = self.tried.pop();
            self.tried = last.into_iter().collect();
            chosen = self.untried(exchange);
            if chosen.is_none() {
                self.tried.clear();
                chosen = self.untried(exchange);
            }
        }
        if chosen.is_some() {
            return chosen;
        }
        if let Some(occupied) = self.again.take() {
            let endpoint = occupied.endpoint();
            let (instance, outstanding) = (endpoint.instance, endpoint.outstanding());
            exchange.note(Event::Chosen {
                instance,
                outstanding,
                ready: 1,
                passed_over: 0,
                is_panic: false,
                how: How::SameAgain,
            });
            let condition = self.service(exchange).and_then(|service| service.condition(endpoint.id).cloned());
            return Some(Chosen { occupied, condition, is_last_resort: false });
        }
        let ready = self.service(exchange).map_or(0, |service| service.ejected(exchange.now()).0 as u32);
        exchange.note(Event::NobodyLeft { ready, tried: self.tried.len() as u32 });
        None
    }

    /// Picks an endpoint from the snapshot of the request. Where that knows nobody, the one that is served now may.
    fn untried(&mut self, exchange: &mut Exchange<'_>) -> Option<Chosen> {
        let ask = Ask { now: exchange.now(), tried: &self.tried, hash: self.hash };
        loop {
            let choice =
                self.service(exchange).and_then(|service| service.choose(&ask, |count| fastrand::usize(..count)));
            if let Some(choice) = choice {
                return Some(self.take(choice, exchange));
            }
            let newest = exchange.client.core.shared.current.load_full();
            if Arc::ptr_eq(&newest, self.current.as_ref().unwrap_or(&exchange.view.current)) {
                return None;
            }
            self.current = Some(newest);
        }
    }

    /// The service as the route sees it; in a newer snapshot, as all see it.
    fn service<'s>(&'s self, exchange: &'s Exchange<'_>) -> Option<&'s Arc<Service>> {
        let current = &exchange.view.current;
        match &self.current {
            None => current.slots[self.slot].as_ref(),
            Some(newest) => newest.services.get(&*current.tables.slots[self.slot].service),
        }
    }

    fn take(&self, choice: Choice, exchange: &mut Exchange<'_>) -> Chosen {
        let Choice { occupied, condition, how, is_last_resort, is_panic, ready, passed_over } = choice;
        let endpoint = occupied.endpoint();
        // Without this request itself.
        let outstanding = endpoint.outstanding().saturating_sub(1);
        let instance = endpoint.instance;
        exchange.note(Event::Chosen { instance, outstanding, ready, passed_over, is_panic, how });
        Chosen { occupied, condition, is_last_resort }
    }
}
