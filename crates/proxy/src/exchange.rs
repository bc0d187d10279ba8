//! One request from its head to the head of its answer: check, route, attempts, answer. Reads top to bottom; every
//! decision is made elsewhere, as a value. Called by `connection` for each request.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;

use crate::access::Record;
use crate::attempt::{Outbound, attempt, no_endpoint};
use crate::body::{Reply, Upload};
use crate::cores::{Core, Room};
use crate::head;
use crate::headers::{self, Identity, Origin};
use crate::patience::Patience;
use crate::reason::{Reason, Refusal, problem};
use crate::retry;
use crate::route::{Decision, route};
use crate::table::Compiled;
use crate::tunnel;
use crate::upstream::Lease;
use crate::watched::Activity;

/// The client's end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) core: Rc<Core>,
    pub(crate) listener: Rc<str>,
    pub(crate) address: SocketAddr,
    /// The port that it connected to.
    pub(crate) port: u16,
    /// Its listener is closed: the next answer is the last.
    pub(crate) closing: CancellationToken,
    pub(crate) activity: Arc<Activity>,
    pub(crate) admission: Admission,
    pub(crate) _room: Room,
}

/// Whether a connection found room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Served,
    /// Above `connections_max`: told so once, then closed.
    Refused,
}

/// What answers a request.
enum Answer {
    Upstream(Response<Incoming>, Lease, Arc<Compiled>),
    Redirect(StatusCode, HeaderValue),
    /// `OPTIONS *`: about the proxy itself.
    Options,
}

/// What came in, and who it is taken for.
struct Inbound {
    peer: Rc<Peer>,
    parts: Parts,
    identity: Identity,
    /// Where the library can let go of the connection, if the request asks for another protocol.
    upgrade: Option<OnUpgrade>,
}

/// The client's connection broke: the library is to give it up without a word.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client went away")]
pub(crate) struct Gone;

/// Answers one request. What cannot be served is refused with a reason, as long as there is somebody to tell.
pub(crate) async fn answer(peer: Rc<Peer>, request: Request<Incoming>) -> Result<Response<Reply>, Gone> {
    peer.activity.head_ended();
    let (mut parts, incoming) = request.into_parts();
    let core = &peer.core;
    let mut record = Record::new(Rc::clone(&core.log), Arc::clone(&core.counts), Rc::clone(&peer.listener));
    record.client = peer.address;
    record.method = parts.method.clone();
    record.upload = Upload::new(incoming, Arc::clone(&peer.activity), &core.limits);
    let identity = Identity::of(&parts.headers);
    record.request_id = identity.request_id.to_str().unwrap_or_default().to_owned();
    record.trace_id = identity.trace.trace_id;
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let inbound = Inbound { peer, parts, identity, upgrade };
    let response = match serve(&inbound, &mut record).await {
        Ok(Answer::Upstream(response, lease, route)) => pass_on(inbound, response, lease, &route, record),
        Ok(Answer::Redirect(status, location)) => {
            let mut response = own(&inbound, status, Bytes::new(), record);
            response.headers_mut().insert(LOCATION, location);
            response
        }
        Ok(Answer::Options) => {
            let mut response = own(&inbound, StatusCode::NO_CONTENT, Bytes::new(), record);
            let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE");
            response.headers_mut().insert(ALLOW, methods);
            response
        }
        Err(Refusal { reason: Reason::ClientClosed, .. }) => return Err(Gone),
        Err(refusal) => refuse(&inbound, &refusal, record),
    };
    Ok(response)
}

async fn serve(inbound: &Inbound, record: &mut Record) -> Result<Answer, Refusal> {
    let Inbound { peer, parts, .. } = inbound;
    if peer.admission == Admission::Refused {
        return Err(Refusal::new(Reason::TooManyConnections, "There are too many connections."));
    }
    let current = peer.core.shared.current.load_full();
    let no_route = || Refusal::new(Reason::NoRoute, "No route matches this request.");
    let table = current.tables.listener(&peer.listener).ok_or_else(no_route)?;
    record.caller.clone_from(&table.caller);
    // Raw until it is known to be well-formed: a refused path is what one looks for in the log.
    parts.uri.path().clone_into(&mut record.path);
    let head = head::check(&parts.method, &parts.uri, parts.version, &parts.headers, &peer.core.limits)?;
    record.path = head.path.clone().into_owned();
    record.host = head.host.clone().into_owned();
    if head.path == "*" {
        return Ok(Answer::Options);
    }
    let Decision::Serve { route, matched } = route(table, &head) else {
        return Err(no_route());
    };
    record.route = Some(Arc::clone(&route.name));
    if let Some(redirect) = &route.filters.redirect {
        let location = redirect.location(&head, matched).ok_or_else(no_route)?;
        return Ok(Answer::Redirect(redirect.status, location));
    }
    let service = route.backend(fastrand::f64()).ok_or_else(no_endpoint)?;
    record.service = Some(Arc::clone(service));
    let too_long = || Refusal::new(Reason::UriTooLong, "The request target is too long.");
    let target = route.filters.target(&head, matched).ok_or_else(too_long)?;
    let outbound = prepare(inbound, route, target, record);
    let (patience, upload) = (outbound.patience, outbound.upload.clone());
    let attempts = attempt(peer, Arc::clone(&current), &route.retry, outbound, record);
    let (response, lease) = patience.wait(&upload, attempts).await?;
    Ok(Answer::Upstream(response, lease, Arc::clone(route)))
}

/// Makes the request that the service is to see.
fn prepare(inbound: &Inbound, route: &Compiled, target: PathAndQuery, record: &Record) -> Outbound {
    let Inbound { peer, parts, identity, upgrade } = inbound;
    let is_edge = record.caller.is_some();
    let upload = record.upload.clone();
    // An absolute target overrules Host, here and so for the service (RFC 9112 §3.2.2).
    let written = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = parts.uri.authority().map(|authority| authority.as_str()).or(written).unwrap_or_default();
    let origin = Origin { client: peer.address, port: peer.port, host, version: parts.version, is_edge };
    let protocol = headers::upgrade(&parts.headers).filter(|_| upgrade.is_some() && upload.is_empty());
    let left = if is_edge { headers::deadline(&parts.headers) } else { None };
    let mut fields = parts.headers.clone();
    headers::prepare_request(&mut fields, &origin, identity);
    if let Ok(host) = HeaderValue::from_str(host) {
        fields.insert(HOST, host);
    }
    if !upload.is_empty() && !fields.contains_key(CONTENT_LENGTH) {
        fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    route.filters.edit_request(&mut fields);
    let is_upgrade = protocol.is_some();
    if let Some(protocol) = protocol {
        headers::set_upgrade(&mut fields, protocol);
    }
    let patience = Patience::new(route.timeout, peer.core.limits.idle_timeout, left);
    let is_repeatable = retry::sends_again(&route.retry, &parts.method);
    Outbound { method: parts.method.clone(), target, headers: fields, upload, is_upgrade, is_repeatable, patience }
}

/// Passes the service's answer on.
fn pass_on(
    inbound: Inbound,
    mut response: Response<Incoming>,
    mut lease: Lease,
    route: &Compiled,
    mut record: Box<Record>,
) -> Response<Reply> {
    let Inbound { peer, parts: request, identity, upgrade } = inbound;
    let status = response.status();
    record.status = status;
    let upstream = (status == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(&mut response));
    let (mut parts, incoming) = response.into_parts();
    headers::prepare_response(&mut parts.headers, status, parts.version, &identity);
    route.filters.edit_response(&mut parts.headers);
    if headers::is_event_stream(&parts.headers) || upstream.is_some() {
        lease.become_endless();
    }
    let is_open_ended = upstream.is_none() && incoming.size_hint().exact().is_none();
    if is_open_ended {
        peer.activity.became_open_ended();
    }
    // Ours, whatever the service speaks (RFC 9110 §2.5). The library writes 1.0 to a client of 1.0, and keeps its
    // connection where it asked for that; an answer that says 1.0 itself it takes for the wish to close.
    parts.version = Version::HTTP_11;
    let activity = Arc::clone(&peer.activity);
    let reply = match (upgrade, upstream) {
        (Some(downstream), Some(upstream)) => {
            tunnel::open(&peer, downstream, upstream, lease, record);
            Reply::unrecorded(activity)
        }
        _ => Reply::upstream(incoming, lease, record, activity, peer.core.limits.upstream_body_timeout),
    };
    let mut response = Response::from_parts(parts, reply);
    if is_open_ended && request.version == Version::HTTP_10 {
        // It knows no chunks: only the end of the connection ends the content (RFC 9112 §6.3).
        close_after(&mut response, request.version);
    }
    response
}

/// Says that the connection ends with this answer. To a client of 1.0 that asked for more the library says `keep-alive`
/// unless the answer is of 1.0 as well.
fn close_after(response: &mut Response<Reply>, client: Version) {
    if client == Version::HTTP_10 {
        *response.version_mut() = client;
    }
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

fn refuse(inbound: &Inbound, refusal: &Refusal, mut record: Box<Record>) -> Response<Reply> {
    record.reason = Some(refusal.reason);
    // Behind a broken body there is no next request to be found.
    let is_last = refusal.reason == Reason::TooManyConnections || record.upload.failure().is_some();
    let content = problem(refusal, &record.request_id, record.service.as_deref());
    let mut response = own(inbound, refusal.reason.status(), content, record);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if refusal.reason.is_passing() {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if is_last {
        close_after(&mut response, inbound.parts.version);
    }
    response
}

/// An answer of the proxy's own.
fn own(inbound: &Inbound, status: StatusCode, content: Bytes, mut record: Box<Record>) -> Response<Reply> {
    record.status = status;
    let mut response = Response::new(Reply::own(content, record, Arc::clone(&inbound.peer.activity)));
    *response.status_mut() = status;
    response.headers_mut().insert(headers::REQUEST_ID, inbound.identity.request_id.clone());
    response
}
