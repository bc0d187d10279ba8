//! What a request passes before any instance is asked: the limit of the whole process, the rate limit of its route or edge,
//! a place of its concurrency limit. What is decided is noted; who is refused is told when to come again.

use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Poll;
use std::time::Duration;

use crate::attempt::unfit;
use crate::exchange::Exchange;
use crate::gate::Entered;
use crate::headers::decimal;
use crate::limit::Limit;
use crate::policy::{Algorithm, Key};
use crate::reason::{Reason, Refusal};
use crate::ring;
use crate::stock::Slate;
use crate::story::Event;
use crate::table::Compiled;

impl Exchange<'_> {
    /// Refuses what is too much for the whole process. As long as its own core has no more than its share, nobody looks at
    /// what all cores share. Tunnels and event streams stay for hours and cost little: they take no room.
    pub(crate) fn pass_load(&mut self) -> Result<(), Refusal> {
        let core = &self.client.core;
        let (limit, all) = (core.limits.requests_max, &core.shared.counts);
        if core.counts.finite() <= limit / all.len() as u64 {
            return Ok(());
        }
        // This one is among them.
        let active = all.iter().map(|core| core.finite()).sum::<u64>().saturating_sub(1);
        if active < limit {
            return Ok(());
        }
        self.note(Event::Shed { active, limit });
        let detail = "The data plane answers as many requests as it takes at a time.";
        Err(Refusal::new(Reason::Overloaded, detail).by(Limit::Requests))
    }

    /// Takes a token out of the bucket of the request's key, and says in the answer how many are left
    /// (draft-ietf-httpapi-ratelimit-headers-10).
    pub(crate) fn pass_rate(&mut self, route: &Compiled) -> Result<(), Refusal> {
        let Some((guard, limit)) = route.guard.get().zip(route.policy.rate_limit.as_ref()) else { return Ok(()) };
        let Some(buckets) = &guard.buckets else { return Ok(()) };
        let admission = buckets.take(self.key(&limit.key, ring::secret_hash).unwrap_or_default(), self.now());
        let (left, is_admitted) = (admission.left, admission.is_admitted);
        let requests = limit.requests;
        // Both are lists of structured fields (RFC 9651): the quota in its window, and what is left for how long.
        // `headers::RATE_LIMIT` is how these begin.
        let (mut digits, marks) = ([0; 20], &mut self.slate.marks);
        for (words, number) in [
            (&b"ratelimit-policy: \"default\";q="[..], u64::from(requests)),
            (b";w=", whole_seconds(limit.per)),
            (b"\r\nratelimit: \"default\";r=", u64::from(left)),
            (b";t=", whole_seconds(admission.reset_after)),
        ] {
            marks.extend_from_slice(words);
            marks.extend_from_slice(decimal(number, &mut digits));
        }
        marks.extend_from_slice(b"\r\n");
        self.note(Event::Rate { is_admitted, limit: requests, left });
        if is_admitted {
            return Ok(());
        }
        let detail = "There were more requests than the rate limit allows.";
        Err(Refusal::new(Reason::RateLimited, detail).with_retry_after(admission.retry_after))
    }

    /// Takes a place, or waits for one.
    pub(crate) async fn pass_gate(&mut self, route: &Compiled) -> Result<(), Refusal> {
        let Some((guard, limit)) = route.guard.get().zip(route.policy.concurrency.as_ref()) else { return Ok(()) };
        let Some(gate) = &guard.gate else { return Ok(()) };
        let began = self.now();
        let mut ticket = match gate.try_enter() {
            Entered::Place(place) => {
                self.place = Some(place);
                return Ok(());
            }
            Entered::Full { running, waiting } => {
                self.note(Event::Crowded { running, waiting, waited: Duration::ZERO });
                return Err(CROWDED);
            }
            Entered::Wait { ticket, running, ahead } => {
                self.note(Event::Queued { running, ahead });
                ticket
            }
        };
        // Who has sent everything is looked at while it waits: one that leaves leaves the queue.
        let Slate { inbound, upload, .. } = &mut *self.slate;
        upload.look(inbound, began).map_err(|cut| unfit(&cut))?;
        let end = began.after(limit.wait);
        let entered = poll_fn(|context| {
            if let Poll::Ready(place) = ticket.poll(context) {
                return Poll::Ready(Ok(Some(place)));
            }
            if self.now() >= end {
                return Poll::Ready(Ok(None));
            }
            self.poll_bounds(context, end).map(Err)
        });
        let entered = entered.await;
        let entered = match entered {
            // No service was asked yet.
            Err(refusal) if refusal.reason == Reason::UpstreamTimeout => {
                if self.patience.is_over_for_caller(self.now()) {
                    return Err(Refusal::new(
                        Reason::DeadlinePassed,
                        "The time that the caller gave was over in the queue.",
                    ));
                }
                None
            }
            entered => entered?,
        };
        let waited = self.now().since(began);
        match entered {
            Some(place) => {
                self.place = Some(place);
                self.note(Event::Dequeued { waited });
                Ok(())
            }
            None => {
                let reading = gate.reading();
                self.note(Event::Crowded { running: reading.running, waiting: reading.waiting, waited });
                Err(CROWDED)
            }
        }
    }

    /// What balancing goes by, where the route's asks for a key.
    pub(crate) fn balance_hash(&self) -> u64 {
        match self.route().map(|route| &route.policy.balance.algorithm) {
            // Without the key any is as good as another.
            Some(Algorithm::RingHash(key)) => self.key(key, ring::hash).unwrap_or_else(|| fastrand::u64(..)),
            _ => 0,
        }
    }

    /// The hash of a request's key; `None` where it has none.
    fn key(&self, key: &Key, hash: impl Fn(&[u8]) -> u64) -> Option<u64> {
        let head = self.head();
        match key {
            Key::Route => Some(0),
            Key::Address => Some(match self.origin_address() {
                IpAddr::V4(address) => hash(&address.octets()),
                // Whoever has one of these has all of its network (RFC 6177 §2).
                IpAddr::V6(address) => hash(&address.octets()[..IPV6_NETWORK_BYTES]),
            }),
            Key::Header(name) => head.values(name).next().map(|value| hash(value.as_bytes())),
            Key::Cookie(name) => {
                let pairs = head.values("cookie").flat_map(|cookies| cookies.split(';'));
                let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
                pairs.find(|(known, _)| known == name).map(|(_, value)| hash(value.as_bytes()))
            }
        }
    }

    /// Who asked: the client before a gateway; before an edge, whom the gateway names, as all callers share one address
    /// there.
    fn origin_address(&self) -> IpAddr {
        let own = self.client.address.ip().to_canonical();
        if !self.is_edge() {
            return own;
        }
        let first = self.head().values("x-forwarded-for").next();
        let first = first.and_then(|list| list.split(',').next()?.trim().parse().ok());
        first.map_or(own, |first: IpAddr| first.to_canonical())
    }
}

/// Not too few.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// A /64: what a provider gives to one customer at least.
const IPV6_NETWORK_BYTES: usize = 8;

pub(crate) const CROWDED: Refusal = Refusal::new(
    Reason::ConcurrencyLimited,
    "As many requests as are allowed at a time are being answered, and the queue is full or the wait was too long.",
);
