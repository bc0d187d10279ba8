//! The tries of one request: who gets it, how it is made ready to be sent once more, what becomes of an answer that another
//! try is to replace. Whether there is another is `retry`'s to decide. Called by `exchange`, which bounds the time.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep};

use crate::access::Record;
use crate::balance::Occupied;
use crate::body::Upload;
use crate::cores::Core;
use crate::exchange::Peer;
use crate::handle::Current;
use crate::headers;
use crate::patience::Patience;
use crate::reason::{Reason, Refusal};
use crate::retry::{self, Failure, Next, Outcome};
use crate::snapshot::Retry;
use crate::upstream::{Failed, Lease};

/// A request ready to be sent, as often as need be.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) method: Method,
    pub(crate) target: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) upload: Upload,
    /// Whether it asks for another protocol.
    pub(crate) is_upgrade: bool,
    /// Whether it may be sent again once it has reached an instance, if its body can be.
    pub(crate) is_repeatable: bool,
    pub(crate) patience: Patience,
}

/// The head of an answer, and the connection that the rest comes over.
type Answered = (Response<Incoming>, Lease);

/// How a try ended, with what came of it.
enum Tried {
    Answered(Answered),
    /// Whoever tries the same endpoint again still holds it.
    Failed(Failure, Option<Occupied>),
}

/// Sends the request to one endpoint after another, as long as that is safe and wanted.
pub(crate) async fn attempt(
    peer: &Peer,
    current: Arc<Current>,
    policy: &Retry,
    mut outbound: Outbound,
    record: &mut Record,
) -> Result<Answered, Refusal> {
    let mut candidates = Candidates::new(&peer.core, current, record);
    if policy.attempts > 0 && outbound.is_repeatable {
        outbound.upload.keep();
        candidates.add_to_budget();
    }
    let mut exchanges = 0;
    let mut failure = None;
    // The client's if no other try comes about.
    let mut kept: Option<Answered> = None;
    loop {
        let in_time = outbound.patience.check(&outbound.upload);
        let chosen =
            in_time.and_then(|()| candidates.choose().ok_or_else(|| failure.map_or_else(no_endpoint, refused)));
        let occupied = match (chosen, kept.take()) {
            (Ok(occupied), None) => occupied,
            (Ok(occupied), Some(unwanted)) => {
                discard(unwanted, &outbound.upload).await;
                occupied
            }
            (Err(_), Some(answered)) => return Ok(answered),
            (Err(refusal), None) => return Err(refusal),
        };
        let endpoint = occupied.endpoint().id;
        let tried = exchange(peer, occupied, &mut outbound, record).await;
        let outcome = match &tried {
            Tried::Answered((response, _)) => Outcome::Answered(response.status()),
            Tried::Failed(failed, _) => Outcome::Failed(*failed),
        };
        exchanges += u32::from(outcome != Outcome::Failed(Failure::Unsent));
        let mut next = retry::next(policy, outbound.as_tried(exchanges), outcome, fastrand::f64());
        if matches!(next, Next::After(_)) && !candidates.take_from_budget() {
            next = Next::Keep;
        }
        match tried {
            Tried::Answered(answered) if next == Next::Keep => return Ok(answered),
            Tried::Answered(answered) => kept = Some(answered),
            Tried::Failed(failed, again) => {
                // What the client did to the body is not the service's fault.
                if let Some(refusal) = outbound.upload.failure() {
                    return Err(refusal);
                }
                if next == Next::Keep {
                    return Err(refused(failed));
                }
                failure = Some(failed);
                // It may only have been closed for its idleness: a new connection to the same instance is worth a try.
                if failed == Failure::BrokenReused {
                    peer.core.pool.forget(endpoint);
                    candidates.again = again;
                }
            }
        }
        candidates.tried.push(endpoint);
        if let Next::After(pause) = next {
            candidates.may_repeat = true;
            sleep(pause).await;
        }
    }
}

/// One try.
async fn exchange(peer: &Peer, occupied: Occupied, outbound: &mut Outbound, record: &mut Record) -> Tried {
    record.attempts += 1;
    record.instance = Some(occupied.endpoint().instance);
    record.upstream = None;
    let began = Instant::now();
    match peer.core.pool.send(occupied, outbound.request(), &peer.activity).await {
        Ok((response, lease)) => {
            record.upstream = Some(began.elapsed());
            // A change of protocol that nobody asked for is no answer.
            let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let is_answer = outbound.is_upgrade || !is_switch;
            if is_answer { Tried::Answered((response, lease)) } else { Tried::Failed(Failure::Invalid, None) }
        }
        Err(Failed { failure, occupied, request }) => {
            if let Some(unsent) = request {
                outbound.headers = unsent.into_parts().0.headers;
            }
            Tried::Failed(failure, Some(occupied))
        }
    }
}

/// Lets go of an answer that another try replaces.
async fn discard((response, lease): Answered, upload: &Upload) {
    // A connection that still takes the body would take it from the next try: it is closed.
    if upload.is_ended() {
        lease.discard(response.into_body()).await;
    }
}

/// Who may get the request next.
struct Candidates<'a> {
    core: &'a Core,
    current: Arc<Current>,
    service: Arc<str>,
    /// In order.
    tried: Vec<u64>,
    /// Taken when there is nobody else.
    again: Option<Occupied>,
    /// Whether those who were tried may be once more.
    may_repeat: bool,
}

impl<'a> Candidates<'a> {
    fn new(core: &'a Core, current: Arc<Current>, record: &Record) -> Self {
        let service = record.service.clone().unwrap_or_default();
        Self { core, current, service, tried: Vec::new(), again: None, may_repeat: false }
    }

    /// Somebody who was not tried; else, where that is allowed, any but the last; else the last.
    fn choose(&mut self) -> Option<Occupied> {
        let mut chosen = self.untried();
        if chosen.is_none() && std::mem::take(&mut self.may_repeat) {
            let last = self.tried.pop();
            self.tried = last.into_iter().collect();
            chosen = self.untried();
            if chosen.is_none() {
                self.tried.clear();
                chosen = self.untried();
            }
        }
        chosen.or_else(|| self.again.take())
    }

    /// Picks an endpoint from the snapshot of the request. Where that knows nobody, the one that is served now may.
    fn untried(&mut self) -> Option<Occupied> {
        loop {
            let service = self.current.services.get(&*self.service);
            let chosen = service.and_then(|service| service.choose(&self.tried, |count| fastrand::usize(..count)));
            if chosen.is_some() {
                return chosen;
            }
            let newest = self.core.shared.current.load_full();
            if Arc::ptr_eq(&newest, &self.current) {
                return None;
            }
            self.current = newest;
        }
    }

    fn add_to_budget(&self) {
        if let Some(service) = self.current.services.get(&*self.service) {
            service.budget.add_request();
        }
    }

    fn take_from_budget(&self) -> bool {
        self.current.services.get(&*self.service).is_some_and(|service| service.budget.take())
    }
}

impl Outbound {
    /// Makes the request of one attempt. Where no other could follow it, or one that follows gets the fields back,
    /// they are given away; else they are cloned.
    fn request(&mut self) -> Request<Upload> {
        let mut headers = if self.is_repeatable { self.headers.clone() } else { std::mem::take(&mut self.headers) };
        headers::set_deadline(&mut headers, self.patience.left(&self.upload));
        let mut request = Request::new(self.upload.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.target.clone());
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers;
        request
    }

    /// What is to be known of it after so many exchanges.
    fn as_tried(&self, exchanges: u32) -> retry::Request {
        retry::Request {
            is_repeatable: self.is_repeatable && self.upload.is_whole(),
            exchanges,
            left: self.patience.left(&self.upload),
        }
    }
}

fn refused(failure: Failure) -> Refusal {
    let detail = match failure {
        Failure::Unsent => "No instance of the service could be connected to.",
        Failure::Broken | Failure::BrokenReused => "The service broke the connection before it answered.",
        Failure::Invalid => "The service gave an answer that is no HTTP response.",
        Failure::HeadTooLarge => "The head of the service's answer is larger than allowed, or has too many fields.",
    };
    Refusal::new(failure.reason(), detail)
}

/// There is nobody to ask.
pub(crate) fn no_endpoint() -> Refusal {
    Refusal::new(Reason::NoEndpoint, "No instance of the service is ready.")
}
