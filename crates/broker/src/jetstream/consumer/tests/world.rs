//! A stream of numbered messages without contents, the clients that listen, and a clock: what a consumer lives in.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use bytes::Bytes;

use super::super::serve::Delivery;
use super::super::{Advisory, Answer, Config, Consumer, Interest, Message, Source, Start, State, ack};
use crate::jetstream::api::ConsumerConfig;

pub(super) const SECOND: i64 = 1_000_000_000;
/// Not zero, so that a forgotten time shows.
pub(super) const BEGIN: i64 = 1_700_000_000 * SECOND;

/// The messages: sequence → bytes of headers and payload.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) live: BTreeMap<u64, usize>,
    pub(super) times: BTreeMap<u64, i64>,
    pub(super) last: u64,
    position: u64,
    /// Of the live ones, how many are at or behind the position.
    ahead: u64,
}

impl Source for Stream {
    fn next(&mut self) -> Option<u64> {
        let next = self.live.range(self.position..).next().map(|(sequence, _)| *sequence)?;
        self.position = next + 1;
        self.ahead -= 1;
        Some(next)
    }

    fn pending(&self) -> u64 {
        self.ahead
    }

    fn is_live(&self, sequence: u64) -> bool {
        self.live.contains_key(&sequence)
    }

    fn last(&self) -> u64 {
        self.last
    }
}

impl Stream {
    /// Adds messages, without anybody looking.
    pub(super) fn add(&mut self, count: u64, bytes: usize, time: i64) {
        for _ in 0..count {
            self.last += 1;
            self.live.insert(self.last, bytes);
            self.times.insert(self.last, time);
            self.ahead += u64::from(self.last >= self.position);
        }
    }

    pub(super) fn seek(&mut self, position: u64) {
        self.position = position;
        self.ahead = self.live.range(position..).count() as u64;
    }

    fn remove(&mut self, sequence: u64) -> bool {
        let was_there = self.live.remove(&sequence).is_some();
        self.ahead -= u64::from(was_there && sequence >= self.position);
        was_there
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: ConsumerConfig,
    pub(super) consumer: Consumer,
    pub(super) stream: Stream,
    pub(super) now: i64,
    /// Who does not listen.
    pub(super) deaf: RefCell<BTreeSet<Bytes>>,
    /// What the records so far make.
    pub(super) replayed: State,
    /// What came out, in order.
    pub(super) out: Vec<Out>,
    /// The reply subject of each message's last delivery.
    pub(super) replies: BTreeMap<u64, Bytes>,
}

/// Something that a client sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Out {
    Message { at: i64, to: Bytes, sequence: u64, delivered: u64, consumer_sequence: u64, pending: u64 },
    Status { to: Bytes, line: String },
    Advisory(Advisory),
    Settled(u64),
}

impl World {
    /// `json` is what differs from an explicit pull consumer without limits.
    pub(super) fn new(json: &str, start: Start) -> Self {
        let config = config(json);
        let consumer = Consumer::new(Config::new(&config, "S", "c"), start, BEGIN);
        let mut world = Self {
            config,
            consumer,
            stream: Stream::default(),
            now: BEGIN,
            deaf: RefCell::default(),
            replayed: State::default(),
            out: Vec::new(),
            replies: BTreeMap::new(),
        };
        let position = world.consumer.rewind();
        world.stream.seek(position);
        world.settle();
        world
    }

    pub(super) fn publish(&mut self, count: u64, bytes: usize) {
        self.stream.add(count, bytes, self.now);
        self.serve();
    }

    pub(super) fn pull(&mut self, inbox: &str, body: &str) {
        let deaf = self.deaf.borrow();
        let listens = |subject: &[u8]| !deaf.contains(subject);
        let inbox = Bytes::copy_from_slice(inbox.as_bytes());
        self.consumer.pull(inbox, body.as_bytes(), &self.stream, &listens, self.now);
        drop(deaf);
        self.serve();
    }

    /// Acknowledges the last delivery of a message. Whether the sender gets an answer.
    pub(super) fn ack(&mut self, sequence: u64, payload: &str) -> &'static str {
        let made_up = Bytes::from(format!("$JS.ACK.S.c.1.{sequence}.{sequence}.0.0"));
        let reply = self.replies.get(&sequence).cloned().unwrap_or(made_up);
        let subject = ack::Subject::parse(&reply).expect("it was written by a consumer");
        assert_eq!((subject.stream, subject.consumer, subject.sequence), (&b"S"[..], &b"c"[..], sequence));
        let answer = self.consumer.ack(&subject, payload.as_bytes(), self.now);
        let answer = match answer {
            Answer::Reply => "+",
            Answer::Silence => "-",
            Answer::Next(request) => {
                let request = String::from_utf8_lossy(request).into_owned();
                self.pull("next", &request);
                ""
            }
        };
        self.serve();
        answer
    }

    pub(super) fn tick(&mut self) {
        self.consumer.tick(self.now);
        self.serve();
    }

    /// Lets time go by, with everything that is due happening when it is due.
    pub(super) fn wait(&mut self, nanoseconds: i64) {
        let end = self.now + nanoseconds;
        while let Some(at) = self.consumer.wake_at().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tick();
            if self.is_inactive() || self.consumer.wake_at() == Some(at) {
                break;
            }
        }
        self.now = end;
        self.tick();
    }

    pub(super) fn is_inactive(&mut self) -> bool {
        let deaf = self.deaf.borrow();
        self.consumer.is_inactive(self.now, &|subject| !deaf.contains(subject))
    }

    pub(super) fn remove(&mut self, sequence: u64) {
        if self.stream.remove(sequence) {
            self.consumer.removed(sequence);
        }
        self.serve();
    }

    /// Removes everything before `first`.
    pub(super) fn purge(&mut self, first: u64) {
        self.stream.live = self.stream.live.split_off(&first);
        self.stream.seek(self.stream.position);
        self.consumer.purged(first, &self.stream);
        self.serve();
    }

    pub(super) fn interest(&mut self, interest: Interest) {
        self.consumer.interest(interest, self.now);
        self.serve();
    }

    /// As after a crash: what was recorded is all that is known.
    pub(super) fn restart(&mut self) {
        let mut state = State::default();
        for record in self.consumer.snapshot() {
            state.replay(&record).unwrap();
        }
        assert_eq!(state, self.replayed);
        let config = Config::new(&self.config, "S", "c");
        self.consumer = Consumer::recovered(config, state, self.stream.last, self.now);
        let position = self.consumer.rewind();
        self.stream.seek(position);
        self.consumer.forget_gone(&self.stream);
        self.settle();
    }

    /// Delivers what can be delivered.
    pub(super) fn serve(&mut self) {
        self.drain();
        while let Some(next) = self.consumer.next(&mut self.stream, self.now) {
            assert_eq!(self.consumer.next(&mut self.stream, self.now), Some(next), "a look changes nothing");
            let Some(content_len) = self.stream.live.get(&next.sequence).copied() else {
                self.consumer.removed(next.sequence);
                continue;
            };
            let message = Message { time: self.stream.times[&next.sequence], subject_len: 1, content_len };
            let deaf = self.deaf.borrow();
            let listens = |subject: &[u8]| !deaf.contains(subject);
            let delivery = self.consumer.deliver(next, &message, &self.stream, &listens, self.now);
            drop(deaf);
            if let Some(delivery) = delivery {
                self.send(delivery);
            }
            self.drain();
        }
        self.drain();
        self.settle();
    }

    fn send(&mut self, delivery: Delivery) {
        let Delivery { sequence, to, reply } = delivery;
        let subject = ack::Subject::parse(&reply).unwrap();
        let pending = reply.rsplit(|byte| *byte == b'.').next().unwrap();
        let pending = std::str::from_utf8(pending).unwrap().parse().unwrap();
        let ack::Subject { delivered, consumer_sequence, .. } = subject;
        self.out.push(Out::Message { at: self.now, to, sequence, delivered, consumer_sequence, pending });
        self.replies.insert(sequence, reply);
    }

    fn drain(&mut self) {
        let effects = &mut self.consumer.effects;
        self.out.extend(effects.settled.drain(..).map(Out::Settled));
        self.out.extend(effects.advisories.drain(..).map(Out::Advisory));
        for reply in effects.replies.drain(..) {
            let line = String::from_utf8(reply.headers.to_vec()).unwrap();
            let line = line.strip_prefix("NATS/1.0 ").unwrap().strip_suffix("\r\n\r\n").unwrap().replace("\r\n", "|");
            let asked = reply.reply.map(|reply| format!("?{}", String::from_utf8_lossy(&reply)));
            self.out.push(Out::Status { to: reply.to, line: line + &asked.unwrap_or_default() });
        }
    }

    /// What was recorded is what is.
    fn settle(&mut self) {
        for record in self.consumer.changes() {
            self.replayed.replay(&record).unwrap();
        }
        assert_eq!(self.consumer.state, self.replayed);
        assert_eq!(self.consumer.state.redelivered, self.replayed.redelivered);
        assert!(self.consumer.changes().is_empty(), "nothing is written twice");
    }

    /// What came out since the last call, as text.
    pub(super) fn seen(&mut self) -> String {
        let mut text = String::new();
        for out in self.out.drain(..) {
            match out {
                Out::Message { to, sequence, delivered, consumer_sequence, pending, .. } => {
                    let to = String::from_utf8_lossy(&to);
                    let _ = write!(text, "{to}<{sequence}#{consumer_sequence}");
                    let _ = if delivered > 1 { write!(text, "x{delivered}") } else { Ok(()) };
                    let _ = write!(text, ".{pending} ");
                }
                Out::Status { to, line } => {
                    let line = line.replace("Nats-Pending-Messages: ", "").replace("Nats-Pending-Bytes: ", "");
                    let _ = write!(text, "{}<[{line}] ", String::from_utf8_lossy(&to));
                }
                Out::Advisory(Advisory::MaxDeliver { sequence, deliveries }) => {
                    let _ = write!(text, "max({sequence}x{deliveries}) ");
                }
                Out::Advisory(Advisory::Nak { sequence, consumer_sequence, deliveries }) => {
                    let _ = write!(text, "nak({sequence}#{consumer_sequence}x{deliveries}) ");
                }
                Out::Advisory(Advisory::Terminated { sequence, consumer_sequence, deliveries, reason }) => {
                    let _ = write!(text, "term({sequence}#{consumer_sequence}x{deliveries} {reason}) ");
                }
                Out::Settled(sequence) => {
                    let _ = write!(text, "ok({sequence}) ");
                }
            }
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// How it stands: delivered, floor, then what is not zero.
    pub(super) fn info(&self) -> String {
        let info = self.consumer.info(&self.stream, self.now);
        let pair = |sequences: crate::jetstream::api::SequenceInfo| {
            format!("{}/{}", sequences.consumer_seq, sequences.stream_seq)
        };
        let counts = [
            ("ack", info.num_ack_pending as u64),
            ("again", info.num_redelivered as u64),
            ("waiting", info.num_waiting as u64),
            ("new", info.num_pending),
        ];
        let counts = counts.iter().filter(|(_, count)| *count > 0);
        let counts: String = counts.map(|(name, count)| format!(" {name}={count}")).collect();
        format!("{} floor={}{counts}", pair(info.delivered), pair(info.ack_floor))
    }
}

/// A checked configuration: an explicit pull consumer, and what `json` says.
pub(super) fn config(json: &str) -> ConsumerConfig {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(
        r#"{"ack_policy": "explicit", "ack_wait": 30000000000, "max_waiting": 512, "max_ack_pending": 1000}"#,
    )
    .unwrap();
    fields.extend(serde_json::from_str::<serde_json::Map<_, _>>(json).unwrap());
    serde_json::from_value(fields.into()).unwrap()
}
