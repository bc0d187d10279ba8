//! Connections to endpoints: one core's pool of those that wait for their next request. What is said over them is
//! `exchange`'s matter.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::config::Limits;
use crate::counters::Counts;
use crate::endpoint::Endpoint;
use crate::hashing::Hashing;
use crate::limit::Limit;
use crate::sockets::keepalive;
use crate::timers::{Moment, Timers};

/// How long an endpoint is given new connections only once it has hung up on a request.
const HASTY: Duration = Duration::from_secs(10);

/// The connections of one core that wait.
#[derive(Debug)]
pub(crate) struct Pool {
    shelves: RefCell<HashMap<u64, Shelf, Hashing>>,
    /// Endpoints that hung up on a request over a connection that had waited, and until when none of theirs waits.
    hasty: RefCell<HashMap<u64, Moment, Hashing>>,
    limits: Limits,
    counts: Arc<Counts>,
    timers: Rc<Timers>,
}

/// Those of one endpoint, the longest idle first.
#[derive(Debug)]
struct Shelf {
    endpoint: Arc<Endpoint>,
    idle: VecDeque<Line>,
}

/// One connection. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) stream: TcpStream,
    born: Moment,
    /// Since when it waits.
    since: Moment,
    /// Whether it has served before.
    pub(crate) is_reused: bool,
}

/// Who is believed about a connection that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// What it has heard: one that was closed just now costs a try.
    Reactor,
    /// The kernel is asked: for what cannot be tried again.
    Nobody,
}

impl Line {
    /// Tells the endpoint at once what has arrived.
    pub(crate) fn acknowledge(&self) {
        // A kernel that does not is only slower.
        let _ = SockRef::from(&self.stream).set_tcp_quickack(true);
    }

    /// Whether the endpoint has neither closed it nor said anything that nobody asked for. As a rule the reactor knows of
    /// nothing to be read, and the kernel is not asked.
    fn is_quiet(&self, trust: Trust) -> bool {
        let peek = || SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        let peeked = match trust {
            Trust::Reactor => self.stream.try_io(Interest::READABLE, peek),
            Trust::Nobody => peek(),
        };
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Pool {
    pub(crate) fn new(limits: Limits, counts: Arc<Counts>, timers: Rc<Timers>) -> Self {
        Self { shelves: RefCell::default(), hasty: RefCell::default(), limits, counts, timers }
    }

    /// The most recently used connection: the least likely to be closed by its upstream.
    pub(crate) fn take(&self, endpoint: u64, trust: Trust) -> Option<Line> {
        let mut shelves = self.shelves.borrow_mut();
        let idle = &mut shelves.get_mut(&endpoint)?.idle;
        while let Some(mut candidate) = idle.pop_back() {
            if self.keeps(&candidate) && candidate.is_quiet(trust) {
                candidate.is_reused = true;
                return Some(candidate);
            }
        }
        None
    }

    /// Keeps a connection whose response was read to its end.
    pub(crate) fn put(&self, endpoint: &Arc<Endpoint>, mut line: Line) {
        line.since = self.timers.clock.now();
        let hasty = self.hasty.borrow();
        if !hasty.is_empty() && hasty.get(&endpoint.id).is_some_and(|until| *until > line.since) {
            return;
        }
        drop(hasty);
        if !endpoint.is_ready() || !self.keeps(&line) {
            return;
        }
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves
            .entry(endpoint.id)
            .or_insert_with(|| Shelf { endpoint: Arc::clone(endpoint), idle: VecDeque::new() });
        shelf.idle.push_back(line);
        if shelf.idle.len() > self.limits.upstream_idle_max {
            shelf.idle.pop_front();
            self.counts.reach(Limit::UpstreamIdleConnections);
        }
    }

    /// Closes what has been idle for too long or leads to an endpoint that is not ready any more.
    pub(crate) fn tidy(&self) {
        let now = self.timers.clock.now();
        self.hasty.borrow_mut().retain(|_, until| *until > now);
        self.shelves.borrow_mut().retain(|_, shelf| {
            shelf.idle.retain(|line| self.keeps(line) && line.is_quiet(Trust::Reactor));
            shelf.endpoint.is_ready() && !shelf.idle.is_empty()
        });
    }

    /// Closes the idle connections of an endpoint, one of which turned out to be dead, and keeps none for a while: whoever
    /// hangs up on every second request must not get each of them twice.
    pub(crate) fn forget(&self, endpoint: u64) {
        self.hasty.borrow_mut().insert(endpoint, self.timers.clock.now().after(HASTY));
        self.shelves.borrow_mut().remove(&endpoint);
    }

    /// Closes everything that waits.
    pub(crate) fn clear(&self) {
        self.shelves.take();
    }

    /// Makes a connection ready for requests.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn welcome(&self, stream: TcpStream) -> io::Result<Line> {
        // Without it the last small segment of every request would wait for an acknowledgement.
        stream.set_nodelay(true)?;
        // A host that dies in the middle of a response or a tunnel says no goodbye.
        SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
        self.counts.upstream_connections.add(1);
        let now = self.timers.clock.now();
        Ok(Line { stream, born: now, since: now, is_reused: false })
    }

    /// Whether it may wait, or serve once more. Counts the limit that closes it where it may not.
    fn keeps(&self, line: &Line) -> bool {
        let now = self.timers.clock.now();
        let met = if now.since(line.born) >= self.limits.upstream_age_max {
            Some(Limit::UpstreamMaxAge)
        } else {
            (now.since(line.since) >= self.limits.upstream_idle_timeout).then_some(Limit::UpstreamIdleTimeout)
        };
        self.counts.reach(met);
        met.is_none()
    }
}
