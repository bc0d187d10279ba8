//! One request from its head to the end of its answer: check, route, attempts, answer. Reads top to bottom; every decision
//! is made elsewhere, as a value. Called by `connection` for each request; polls both sockets from the client's task.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::access::{Line as Entry, Time, milliseconds};
use crate::connection::Client;
use crate::cores::View;
use crate::endpoint::Occupied;
use crate::filter::Edits;
use crate::gate::Place;
use crate::guard::{Condition, Guard};
use crate::head;
use crate::headers::{self, Identity, Persistence};
use crate::message::{Head, Length, Version};
use crate::meters::{Ended, Metered};
use crate::pace::Pace;
use crate::patience::Patience;
use crate::policy::Policy;
use crate::reason::{Reason, Refusal, problem};
use crate::retry;
use crate::rooms::Admission;
use crate::route::{Decision, route};
use crate::stock::Slate;
use crate::switches::Throttle;
use crate::table::{Compiled, Table};
use crate::timers::Moment;
use crate::tries::{Call, no_endpoint};
use crate::upstream::Line;

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It may send another request.
    Again,
    Closes,
    /// It closes, and the client may not have said all it has begun to say.
    Lingers,
    /// It broke, or an answer on it did: nothing more is said.
    Gone,
}

/// What answers a request.
pub(crate) enum Served {
    /// The head of a service's response is there.
    Upstream,
    Redirect(StatusCode, String),
    /// The route's static answer instead of a service's.
    Fallback,
    /// `OPTIONS *`: about the proxy itself.
    Options,
}

/// What is written down of a request.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) began: Moment,
    /// The service that was chosen: its place in `Tables::services`.
    pub(crate) service: Option<usize>,
    /// The same, before any fallback.
    pub(crate) intended: Option<usize>,
    pub(crate) instance: Option<u32>,
    pub(crate) attempts: u32,
    /// From the sending of the last attempt to the head of its response.
    pub(crate) upstream: Option<Duration>,
    pub(crate) status: u16,
    /// Bytes that a tunnel took from the client.
    pub(crate) tunnelled_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) reason: Option<Reason>,
    /// Who answered instead: `static`, or the service.
    pub(crate) fallback: Option<Arc<str>>,
    /// Decisions beyond those that are kept.
    pub(crate) events_dropped: u32,
    metered: Metered,
    /// When the whole answer was given away; without it the client left early.
    pub(crate) completed: Option<Moment>,
}

/// A client that ended its half of the connection while it waits. It may be gone, or only have said all it had to (RFC
/// 9112 §9.6), as `nc -N` does: one that closed for good looks the same until something is written to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parting {
    /// When it did, or when we last wrote to it since; `None` when there is nothing to look for.
    pub(crate) since: Option<Moment>,
    /// Whether anything was written to it since. A client that is gone replies with a reset.
    pub(crate) is_tested: bool,
}

/// A request being served.
#[derive(Debug)]
pub(crate) struct Exchange<'c> {
    pub(crate) client: &'c mut Client,
    pub(crate) slate: &'c mut Slate,
    pub(crate) view: Rc<View>,
    pub(crate) record: Record,
    pub(crate) identity: Identity,
    /// Whether it is known where the request ends.
    is_framed: bool,
    /// Whether the head was found to be good.
    pub(crate) is_checked: bool,
    /// Of the rule that answers: its place in the table, and how much of the path it covers.
    pub(crate) rule: Option<usize>,
    pub(crate) matched: usize,
    pub(crate) patience: Patience,
    pub(crate) line: Option<Line>,
    pub(crate) occupied: Option<Occupied>,
    /// From the service: the response's head, and what is there of its content.
    pub(crate) answer: Vec<u8>,
    /// Interim responses for the client, and how much of them was written.
    pub(crate) interim: Vec<u8>,
    /// How many were passed on.
    pub(crate) interims: u32,
    /// Whether the client waits for `100 Continue`.
    pub(crate) is_expected: bool,
    pub(crate) is_upgrade: bool,
    /// Whether the service does not take the upload any more. What it says is heard all the same.
    pub(crate) is_refused: bool,
    pub(crate) parting: Parting,
    /// Whether the answer has no known length.
    pub(crate) is_open_ended: bool,
    /// Whether it goes on until somebody leaves: event streams and tunnels.
    pub(crate) is_endless: bool,
    /// Whether twice is as good as once.
    pub(crate) is_repeatable: bool,
    /// Whether the service is asked that answers instead of another.
    pub(crate) is_fallback: bool,
    /// The breaker's leave for the present try.
    pub(crate) call: Option<Call>,
    /// How the instance of the present try fares.
    pub(crate) condition: Option<Arc<Condition>>,
    /// A place of the concurrency limit.
    pub(crate) place: Option<Place>,
    /// Whether no try has reached an instance.
    pub(crate) is_unsent: bool,
    /// How slowly the answer may come, as a fault says.
    pub(crate) bandwidth: Option<Throttle>,
    /// How long `marks` was before a fallback was told of there.
    pub(crate) unmarked: usize,
    /// How fast the client takes it.
    pub(crate) pace: Pace,
}

/// Answers one request. What cannot be served is refused with a reason, as long as there is somebody to tell.
pub(crate) async fn answer(client: &mut Client, slate: &mut Slate) -> Fate {
    let mut exchange = Exchange::new(client, slate);
    match exchange.serve().await {
        Ok(Served::Upstream) => exchange.pass_on().await,
        Ok(Served::Redirect(status, location)) => exchange.say(status, &[("location", &location)], b"").await,
        Ok(Served::Fallback) => exchange.say_fallback().await,
        Ok(Served::Options) => {
            let methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";
            exchange.say(StatusCode::NO_CONTENT, &[("allow", methods)], b"").await
        }
        Err(Refusal { reason: Reason::ClientClosed, .. }) => Fate::Gone,
        Err(refusal) => exchange.refuse(&refusal).await,
    }
}

impl<'c> Exchange<'c> {
    fn new(client: &'c mut Client, slate: &'c mut Slate) -> Self {
        let core = &client.core;
        let now = core.timers.clock.now();
        core.counts.requests.add(1);
        let record = Record {
            began: now,
            service: None,
            intended: None,
            instance: None,
            attempts: 0,
            upstream: None,
            status: Reason::ClientClosed.status().as_u16(),
            tunnelled_in: 0,
            bytes_out: 0,
            reason: None,
            fallback: None,
            events_dropped: 0,
            metered: Metered::default(),
            completed: None,
        };
        let head = slate.request.length;
        slate.upload.begin(Length::None, head, head, core.limits.body_bytes_max, now);
        slate.story.clear();
        slate.marks.clear();
        Self {
            identity: Identity::of(&slate.request.fields, &slate.inbound, core.timers.clock.unix()),
            view: client.listener.view(&core.shared),
            patience: Patience::new(now, Duration::ZERO, Duration::ZERO, None, None),
            client,
            slate,
            record,
            is_framed: false,
            is_checked: false,
            rule: None,
            matched: 0,
            line: None,
            occupied: None,
            answer: Vec::new(),
            interim: Vec::new(),
            interims: 0,
            is_expected: false,
            is_upgrade: false,
            is_refused: false,
            parting: Parting::default(),
            is_open_ended: false,
            is_endless: false,
            is_repeatable: false,
            is_fallback: false,
            call: None,
            condition: None,
            place: None,
            is_unsent: true,
            bandwidth: None,
            unmarked: 0,
            pace: Pace::default(),
        }
    }

    pub(crate) fn head(&self) -> Head<'_> {
        Head { bytes: &self.slate.inbound, request: &self.slate.request }
    }

    pub(crate) fn now(&self) -> Moment {
        self.client.now()
    }

    fn table(&self) -> Result<&Table, Refusal> {
        self.view.table.as_deref().ok_or(NO_ROUTE)
    }

    /// The route that answers, once it is known.
    pub(crate) fn route(&self) -> Option<&Compiled> {
        let table = self.view.table.as_deref()?;
        Some(&*table.rules.get(self.rule?)?.route)
    }

    /// What the route knows of its own traffic.
    pub(crate) fn guard(&self) -> Option<&Arc<Guard>> {
        self.route()?.guard.get()
    }

    /// The name of the service that was chosen.
    pub(crate) fn service(&self) -> Option<&str> {
        self.record.service.map(|slot| &*self.view.current.tables.slots[slot].service)
    }

    async fn serve(&mut self) -> Result<Served, Refusal> {
        if self.client.admission == Admission::Refused {
            return Err(Refusal::new(Reason::TooManyConnections, "There are too many connections."));
        }
        self.table()?;
        let (limits, now) = (&self.client.core.limits, self.now());
        let Slate { inbound, request, upload, .. } = &mut *self.slate;
        let checked = head::check(request, inbound, limits);
        self.is_framed = !checked.is_err_and(|refusal| refusal.reason.ends_connection());
        if self.is_framed {
            upload.begin(request.content, request.length, request.length, limits.body_bytes_max, now);
        }
        checked?;
        self.is_checked = true;
        if self.head().path() == "*" {
            return Ok(Served::Options);
        }
        let (position, matched) = match route(self.table()?, &self.head()) {
            Decision::Serve { position, matched, .. } => (position, matched),
            Decision::NoRoute => return Err(NO_ROUTE),
            Decision::Misdirected => {
                return Err(Refusal::new(Reason::Misdirected, "This listener does not answer for this host."));
            }
        };
        (self.rule, self.matched) = (Some(position), matched);
        let view = Rc::clone(&self.view);
        let route = view.table.as_deref().and_then(|table| Some(&*table.rules.get(position)?.route)).ok_or(NO_ROUTE)?;
        self.record.metered.route(&route.meter, self.client.core.counts.core);
        if let Some(redirect) = &route.filters.redirect {
            return Ok(Served::Redirect(redirect.status, redirect.location(&self.head(), matched)));
        }
        self.prepare(&route.policy);
        self.pass_load()?;
        self.pass_rate(route)?;
        if self.is_repeatable {
            // Also without a policy: a connection that waited may turn out to be dead.
            self.slate.upload.keep();
        }
        let outcome = self.ask(route).await;
        match (outcome, &route.policy.fallback) {
            (outcome, None) => outcome.map(|()| Served::Upstream),
            (Ok(()), _) if self.slate.response.status < 500 => Ok(Served::Upstream),
            (Err(refusal), _) if !refusal.is_failure_of_service() => Err(refusal),
            (outcome, Some(fallback)) => self.fall_back(route, fallback, outcome).await,
        }
    }

    /// One of the route's services, once there is a place.
    async fn ask(&mut self, route: &Compiled) -> Result<(), Refusal> {
        self.pass_gate(route).await?;
        let slot = route.backend(fastrand::f64).ok_or_else(no_endpoint)?.slot;
        self.record.intended = Some(slot);
        self.attempts(slot).await
    }

    /// Looks for what of the request concerns how it is served.
    fn prepare(&mut self, policy: &Policy) {
        let is_edge = self.is_edge();
        let idle = self.client.core.limits.idle_timeout;
        let Slate { inbound, request, .. } = &*self.slate;
        let left = if is_edge { headers::deadline(&request.fields, inbound) } else { None };
        self.patience = Patience::new(self.record.began, policy.timeout, idle, left, policy.total_timeout);
        let has_content = request.content != Length::None;
        self.is_expected = has_content && headers::expects_continue(&self.head());
        self.is_upgrade = !has_content && headers::asks_for_upgrade(&request.fields, request.version, inbound);
        let head = self.head();
        self.is_repeatable = retry::sends_again(&policy.retry, head.method(), || {
            head.values("idempotency-key").any(|key| !key.is_empty())
        });
    }

    pub(crate) fn is_edge(&self) -> bool {
        self.view.table.as_ref().is_some_and(|table| table.caller.is_some())
    }

    pub(crate) async fn refuse(mut self, refusal: &Refusal) -> Fate {
        if self.record.fallback.take().is_some() {
            // What was to be answered instead broke, too: nobody was told of it yet.
            self.slate.marks.truncate(self.unmarked);
        }
        self.record.reason = Some(refusal.reason);
        self.client.core.counts.reach(refusal.limit);
        let id = self.identity.request_id.get(&self.slate.inbound);
        let content = problem(refusal, id, self.service());
        let retry_after = refusal.retry_after().map(|seconds| seconds.to_string());
        let mut lines = vec![("content-type", "application/problem+json")];
        lines.extend(retry_after.as_deref().map(|seconds| ("retry-after", seconds)));
        self.mark_reason();
        self.say(refusal.status(), &lines, &content).await
    }

    /// An answer of the proxy's own.
    pub(crate) async fn say(mut self, status: StatusCode, lines: &[(&str, &str)], content: &[u8]) -> Fate {
        // Whatever an endpoint still has to say or to take, nobody wants it.
        (self.line, self.occupied) = (None, None);
        let now = self.now();
        self.record.status = status.as_u16();
        let persistence = self.own_persistence();
        let date = self.client.core.date();
        let rule = self.view.table.as_deref().zip(self.rule).filter(|_| self.record.fallback.is_some());
        let none = Edits::default();
        // What stands for a service's answer has the header fields of one.
        let edits = rule.map_or(&none, |(table, rule)| &table.rules[rule].route.filters.response);
        let Slate { inbound, request, download, marks, .. } = &mut *self.slate;
        download.begin(Length::None, 0, 0, u64::MAX, now);
        let out = download.lead();
        out.append(&mut self.interim);
        let length = content.len().to_string();
        let mut all = lines.to_vec();
        if status != StatusCode::NO_CONTENT {
            all.push(("content-length", &length));
        }
        let request_id = self.identity.request_id.get(inbound);
        let answer =
            headers::Answer { client: request.version, is_chunked: false, persistence, request_id, date: &date, marks };
        headers::write_own(out, status, &all, edits, &answer);
        if request.method != http::Method::HEAD {
            out.extend_from_slice(content);
            self.record.bytes_out = content.len() as u64;
        }
        self.answer.clear();
        if poll_fn(|context| self.poll_own(context)).await.is_err() {
            return Fate::Gone;
        }
        self.record.completed = Some(self.now());
        self.fate(persistence != Persistence::Closed)
    }

    /// Whether the connection can outlive an answer of our own: where the request was read to its end.
    fn own_persistence(&mut self) -> Persistence {
        let Slate { inbound, upload, .. } = &mut *self.slate;
        let is_sound = self.is_framed && !self.record.reason.is_some_and(Reason::ends_connection);
        let is_read = is_sound && upload.decode(inbound).is_ok() && upload.has_ended();
        self.persistence(is_read)
    }

    /// What the client is told, if the request and its answer leave the connection usable.
    pub(crate) fn persistence(&self, is_usable: bool) -> Persistence {
        let request = &self.slate.request;
        if !is_usable || !request.keeps_alive || self.client.listener.is_closing.get() {
            Persistence::Closed
        } else if request.version == Version::Http10 {
            Persistence::KeptAsAsked
        } else {
            Persistence::Kept
        }
    }

    pub(crate) fn fate(&self, is_kept: bool) -> Fate {
        let upload = &self.slate.upload;
        let is_read = self.is_framed && upload.has_ended();
        match (is_kept, is_read) {
            (true, true) => Fate::Again,
            (_, true) if self.slate.inbound.len() == upload.rest() => Fate::Closes,
            _ => Fate::Lingers,
        }
    }

    fn write_down(&mut self) {
        let record = &self.record;
        // What the client still sends after its answer is no part of it.
        let duration = record.completed.unwrap_or_else(|| self.now()).since(record.began);
        let reason =
            if record.completed.is_some() { record.reason } else { record.reason.or(Some(Reason::ClientClosed)) };
        self.meter(reason, duration);
        self.tell(reason, duration);
        if self.client.core.log.is_on() && self.view.is_logged() {
            self.log(reason, duration);
        }
    }

    fn meter(&mut self, reason: Option<Reason>, duration: Duration) {
        let metered = std::mem::take(&mut self.record.metered);
        let (counts, record) = (&self.client.core.counts, &self.record);
        counts.requests_ended.add(1);
        counts.endless_ended.add(u64::from(self.is_endless));
        if let Some(reason) = reason {
            counts.refuse(reason);
        }
        let stray = if self.is_edge() { &counts.no_edge } else { &counts.no_route };
        metered.end(
            stray,
            &Ended {
                method: self.head().method(),
                status: record.status,
                reason,
                attempts: record.attempts,
                bytes_in: self.slate.upload.bytes + record.tunnelled_in,
                bytes_out: record.bytes_out,
                duration,
                upstream: record.upstream,
            },
        );
    }

    fn log(&self, reason: Option<Reason>, duration: Duration) {
        let core = &self.client.core;
        let (record, head) = (&self.record, self.head());
        let began = core.timers.clock.unix().saturating_sub(duration);
        // Raw until it is known to be well-formed: a refused path is what one looks for in the log.
        let target = head.request.target.text(head.bytes);
        let (host, path) = if self.is_checked {
            (head.host(), head.path())
        } else {
            ("", target.split('?').next().unwrap_or_default())
        };
        let trace_id = self.identity.trace.trace_id;
        core.log.append(&Entry {
            ts: Time(jiff::Timestamp::UNIX_EPOCH + began),
            listener: &self.client.listener.name,
            role: self.view.table.as_ref().and_then(|table| table.caller.as_deref()).unwrap_or("gateway"),
            client: self.client.address,
            method: Some(head.method().as_str()),
            host: Some(host),
            path: Some(path),
            route: self.route().map(Compiled::name),
            service: self.service(),
            instance: record.instance,
            status: record.status,
            reason: reason.map(Reason::code),
            fallback: record.fallback.as_deref(),
            attempts: record.attempts,
            bytes_in: self.slate.upload.bytes + record.tunnelled_in,
            bytes_out: record.bytes_out,
            duration_ms: milliseconds(duration),
            upstream_ms: record.upstream.map(milliseconds),
            request_id: Some(self.identity.request_id.get(head.bytes)),
            trace_id: Some(format!("{trace_id:032x}")),
        });
    }
}

impl Drop for Exchange<'_> {
    /// However it ends, also when the connection is given up: it is written down.
    fn drop(&mut self) {
        self.write_down();
        self.client.core.stock.give_buffer(&mut self.answer);
    }
}

const NO_ROUTE: Refusal = Refusal::new(Reason::NoRoute, "No route matches this request.");
