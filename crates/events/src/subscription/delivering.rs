//! The task of one subscription: does what `lanes` decides, and tells it what came of that. It alone owns the events in
//! memory. Everything that takes time is a future in `work`; nothing else waits.

mod asked;
mod beginning;
mod counting;
mod doing;

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Future, StreamExt};
use kit::drain;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::courier::{Connection, Delivery};
use super::cursor::{Cursor, Next, Read};
use super::kept::Kept;
use super::lanes::{Arrival, Lanes, Request, Rules, Ticket};
use super::progress::{Record, Window};
use super::store::Store;
use super::{Command, Compiled, Reply, Surroundings};
use crate::cloudevent::nats;
use crate::config::Since;
use crate::error::Error;
use crate::event::Event;
use crate::key::Parsed;
use crate::reading::{Replay, SubscriptionReading};

use counting::Counting;

/// Progress is written this often at most where something waits for it, and else: each is a sync of a disk, and what was done
/// since the last one is delivered again after a crash.
const RECORD_EVERY: Duration = Duration::from_millis(5);
const RECORD_IDLE_EVERY: Duration = Duration::from_millis(20);
/// How often is looked at what nobody tells of: silence, rates.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages that are taken at a time, before anything else is looked at.
const TAKEN_MAX: usize = 128;

type Work = Pin<Box<dyn Future<Output = Happening> + Send>>;

pub(super) struct Delivering {
    compiled: Arc<Compiled>,
    surroundings: Surroundings,
    store: Store,
    lanes: Lanes,
    /// Events in memory, by their numbers.
    bodies: HashMap<u64, Body>,
    bytes: usize,
    /// Numbers in the stream of what is aside, by the event's own.
    stored: HashMap<u64, u64>,
    cursor: Place,
    idle: Vec<Connection>,
    work: FuturesUnordered<Work>,
    recording: Recording,
    /// What is under way of a dead letter.
    asked: HashSet<u64>,
    /// What was asked and cannot be done yet, and until when it waits.
    waiting: Vec<(Instant, Command)>,
    phase: Phase,
    counting: Counting,
    commands: mpsc::Receiver<Command>,
    /// The last reason why nobody was asked.
    nobody: Option<String>,
    /// How often the connection was lost with nothing read since, and what had been read.
    stuck: (u64, u32),
    is_asking: bool,
    is_asking_for_rest: bool,
}

/// An event in memory.
struct Body {
    event: Event,
    topic: Arc<str>,
    published: jiff::Timestamp,
    key: Option<Arc<str>>,
    kept: Option<Box<Kept>>,
    bytes: usize,
}

/// Where the cursor is.
enum Place {
    /// There is none, and another one is opened from this time on.
    None(Instant),
    Opening,
    Open(Box<Cursor>),
}

enum Phase {
    Delivering,
    /// Nothing is sent; what is under way ends, and then the cursor is set back. Beyond the time it goes on as it was.
    Receding(Instant, Back),
    Draining(Instant),
}

/// Where the cursor is set back to.
enum Back {
    /// It is being found out.
    Seeking(Since, Reply<Replay>),
    To(u64, Reply<Replay>),
    /// The first event of another stream, made at that time.
    Anew(i64),
    /// What is behind the last one that the stream still has.
    Cut(u64),
}

/// What is on its way to the disk.
struct Recording {
    is_on: bool,
    since: Instant,
    recorded: u64,
    replies: Vec<(u64, Replay, Reply<Replay>)>,
}

/// What has happened.
enum Happening {
    Delivered {
        request: Request,
        delivery: Delivery,
        fetched: Option<Box<(Kept, Event)>>,
    },
    /// It was aside, and somebody has taken it away.
    Gone {
        request: Request,
    },
    Parked {
        ticket: Ticket,
        /// None where there is no room for what is new of it: that stays in memory.
        stored: Option<u64>,
    },
    Forgotten {
        ticket: Ticket,
    },
    Buried {
        ticket: Ticket,
        letter: u64,
        fetched: Option<Box<(Kept, Event)>>,
    },
    Recorded {
        change: u64,
    },
    /// A cursor from this sequence on.
    Opened(u64, Result<Box<Cursor>, Error>),
    /// A cursor.
    Closed,
    Redriven {
        letter: u64,
        kept: Box<Kept>,
        stored: u64,
        reply: Reply<()>,
    },
    NotRedriven {
        number: u64,
        key: Option<Arc<str>>,
        error: Error,
        reply: Reply<()>,
    },
    Dropped {
        letter: u64,
        number: u64,
        reply: Reply<()>,
    },
    Sought(Since, Result<u64, Error>),
    /// Whether nothing is left of the stream from a sequence to what was the last.
    Rest {
        from: u64,
        last: u64,
        is_none: bool,
    },
    /// How many are behind what had been read.
    Pending {
        read: u64,
        pending: Option<u64>,
    },
    /// The message from this sequence on that the cursor could not read, if there is one.
    Stepped(u64, Result<Option<Box<Read>>, Error>),
}

impl Delivering {
    pub(super) fn new(
        compiled: Arc<Compiled>,
        surroundings: Surroundings,
        reading: watch::Sender<SubscriptionReading>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let config = &compiled.config;
        let rules = Rules {
            concurrency: config.concurrency.max(1),
            max_deliver: config.max_deliver.max(1),
            backoff: config.backoff.clone(),
            on_dead_letter: config.on_dead_letter,
            batch: config.batch,
        };
        let now = Instant::now();
        Self {
            store: Store::new(surroundings.link.clone(), config),
            lanes: Lanes::new(rules, Window::new(&Record::after(0)), fastrand::u64(..)),
            compiled,
            surroundings,
            bodies: HashMap::new(),
            bytes: 0,
            stored: HashMap::new(),
            cursor: Place::None(now),
            idle: Vec::new(),
            work: FuturesUnordered::new(),
            recording: Recording { is_on: false, since: now, recorded: 0, replies: Vec::new() },
            asked: HashSet::new(),
            waiting: Vec::new(),
            phase: Phase::Delivering,
            counting: Counting::new(reading),
            commands,
            nobody: None,
            stuck: (0, 0),
            is_asking: false,
            is_asking_for_rest: false,
        }
    }

    /// Until the drain; then what is in flight ends, and what was done is written.
    pub(super) async fn run(mut self, mut drain: drain::Watch) {
        let Some(mut session) = self.begin(&mut drain).await else { return };
        let mut link = self.surroundings.link.clone();
        let (mut look_at, mut is_away) = (Instant::now() + LOOK_EVERY, false);
        loop {
            let now = Instant::now();
            if !self.waiting.is_empty() {
                self.ask_again();
            }
            self.act(&session, now).await;
            self.tell(is_away);
            if let Phase::Draining(until) = self.phase
                && (now >= until || self.is_over())
            {
                break;
            }
            let wake = self.wake_at().map_or(look_at, |wake| wake.min(look_at));
            let is_draining = matches!(self.phase, Phase::Draining(_));
            tokio::select! {
                Some(happening) = self.work.next(), if !self.work.is_empty() => self.happened(happening),
                next = next(&mut self.cursor) => self.read(next),
                Some(command) = self.commands.recv(), if !is_draining => self.asked(command),
                () = drain.started(), if !is_draining => self.drain(),
                () = session.lost(), if !is_away => {
                    is_away = true;
                    self.lost();
                }
                connected = link.connected(), if is_away => match connected {
                    Ok(new) => (session, is_away) = (new, false),
                    Err(_) => break,
                },
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                self.look(now);
            }
        }
        if let Place::Open(cursor) = self.cursor {
            cursor.close().await;
        }
    }

    /// The connection was lost.
    fn lost(&mut self) {
        self.cursor = Place::None(Instant::now());
        let read = self.lanes.window.read();
        let times = if self.stuck.0 == read { self.stuck.1 } else { 0 };
        self.stuck = (read, times + 1);
    }

    fn drain(&mut self) {
        self.lanes.recede();
        self.close();
        self.phase = Phase::Draining(Instant::now() + self.surroundings.limits.drain_max);
    }

    fn close(&mut self) {
        if let Place::Open(cursor) = std::mem::replace(&mut self.cursor, Place::None(Instant::now())) {
            self.close_cursor(cursor);
        }
    }

    fn close_cursor(&mut self, cursor: Box<Cursor>) {
        self.work.push(Box::pin(async move {
            cursor.close().await;
            Happening::Closed
        }));
    }

    /// Nothing is under way, and all of it is on disk.
    fn is_over(&self) -> bool {
        self.lanes.is_quiet() && !self.recording.is_on && self.lanes.changes() <= self.recording.recorded
    }

    /// What nobody tells of.
    fn look(&mut self, now: Instant) {
        self.counting.tick();
        if matches!(&self.cursor, Place::Open(cursor) if cursor.is_silent(now)) {
            self.close();
        }
        // Who does not read is not told how many wait.
        if let Place::Open(cursor) = &self.cursor
            && !cursor.is_waiting()
            && !std::mem::replace(&mut self.is_asking, true)
        {
            let (asked, read) = (cursor.ask_pending(), self.lanes.window.read());
            self.work.push(Box::pin(async move { Happening::Pending { read, pending: asked.await.ok() } }));
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let lanes = self.lanes.wake_at().map(Instant::from_std);
        let record =
            (!self.recording.is_on && self.lanes.changes() > self.recording.recorded).then(|| self.record_at());
        let open = match self.cursor {
            Place::None(at) if self.is_reading() => Some(at),
            _ => None,
        };
        let phase = match self.phase {
            Phase::Draining(until) | Phase::Receding(until, _) => Some(until),
            Phase::Delivering => None,
        };
        [lanes, record, open, phase].into_iter().flatten().min()
    }

    /// When progress is written next, if there is any.
    fn record_at(&self) -> Instant {
        let is_awaited = self.lanes.is_awaiting_record()
            || !self.recording.replies.is_empty()
            || !matches!(self.phase, Phase::Delivering);
        self.recording.since + if is_awaited { RECORD_EVERY } else { RECORD_IDLE_EVERY }
    }

    fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Delivering) && !self.lanes.is_standing()
    }

    /// Something has come from the cursor; and what has come behind it.
    fn read(&mut self, first: Next) {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(one) = next.take() {
            match one {
                Next::Nothing => {}
                Next::Lost => return self.close(),
                Next::Message(read) => self.arrived(&read),
            }
            taken += 1;
            if taken < TAKEN_MAX
                && let Place::Open(cursor) = &mut self.cursor
            {
                next = cursor.try_next();
            }
        }
    }

    fn arrived(&mut self, read: &Read) {
        let now = Instant::now().into_std();
        let sequence = self.lanes.window.number(read.sequence);
        if !self.is_reading() {
            return;
        }
        if self.lanes.window.was_done(sequence) || self.lanes.is_aside(sequence) {
            self.lanes.pass(sequence, now);
        } else {
            self.deliverable(read, now);
        }
        self.pass_the_rest();
    }

    fn deliverable(&mut self, read: &Read, now: std::time::Instant) {
        let (sequence, message) = (self.lanes.window.number(read.sequence), &read.message);
        let stored = nats::Stored {
            stream: &self.compiled.config.stream,
            sequence: read.sequence,
            subject: &message.subject,
            time: read.time,
            headers: message.headers.as_ref(),
            payload: &message.payload,
        };
        let event = nats::decode(&stored);
        let parsed = Parsed::new(&event);
        let is_wanted = match &self.compiled.filter {
            None => true,
            Some(filter) => filter.is_wanted(&parsed).unwrap_or_else(|error| {
                self.counting.filter_failed(&self.compiled.config.name, read.sequence, &error);
                false
            }),
        };
        if !is_wanted {
            self.counting.reading.filtered += 1;
            return self.lanes.pass(sequence, now);
        }
        let key = self.compiled.key.as_ref().and_then(|key| key.of(&parsed));
        drop(parsed);
        let bytes = message.length.max(event.data.len()) + BODY_BYTES;
        let topic = Arc::from(message.subject.as_str());
        self.bytes += bytes;
        self.bodies.insert(sequence, Body { event, topic, published: read.time, key: key.clone(), kept: None, bytes });
        if self.lanes.arrive(sequence, key.as_ref(), now) == Arrival::Known {
            self.forget_body(sequence);
        }
    }

    /// What was read from aside is written from memory, if it is written again.
    fn remember(&mut self, sequence: u64, (kept, event): (Kept, Event)) {
        let bytes = event.data.len() + BODY_BYTES;
        self.forget_body(sequence);
        self.bytes += bytes;
        let (topic, published, key) = (kept.topic.as_str().into(), kept.published, kept.key.clone());
        self.bodies.insert(sequence, Body { event, topic, published, key, kept: Some(Box::new(kept)), bytes });
    }

    fn forget_body(&mut self, sequence: u64) {
        if let Some(body) = self.bodies.remove(&sequence) {
            self.bytes -= body.bytes;
        }
    }
}

/// What an event takes in memory beside its message.
const BODY_BYTES: usize = 512;

async fn next(place: &mut Place) -> Next {
    match place {
        Place::Open(cursor) => cursor.next().await,
        _ => std::future::pending().await,
    }
}
