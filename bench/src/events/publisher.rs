//! A service that publishes what it is told to, by `POST /publish`: events of many keys, those of one key strictly one after
//! the other, each until it was acknowledged, with an id that stays. It writes down what was, and goes on behind that when
//! it is started again.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use super::wire::{Incoming, answer, now};
use crate::client::{Connection, with_body};
use crate::options::EventPublisher;
use crate::upstream;

/// What it publishes to.
pub(crate) const TOPIC: &str = "bench.events";
/// The file of what was acknowledged: key and number, a line each.
const ACKNOWLEDGED: &str = "acknowledged";
/// Before it is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// An answer that does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Altogether, those that are acknowledged already among them.
    pub(crate) events: u64,
    pub(crate) keys: u32,
    pub(crate) connections: u32,
    /// Events a second; 0 is as fast as it goes.
    pub(crate) rate: u32,
    /// Events in one request.
    pub(crate) batch: u32,
}

impl Wish {
    pub(crate) fn to_json(self) -> Value {
        let Self { events, keys, connections, rate, batch } = self;
        json!({ "events": events, "keys": keys, "connections": connections, "rate": rate, "batch": batch })
    }

    fn parse(body: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(body)?;
        let number = |name: &str| value[name].as_u64().with_context(|| format!("{name} is not said"));
        let small = |name: &str| Ok::<u32, anyhow::Error>(u32::try_from(number(name)?)?);
        Ok(Self {
            events: number("events")?,
            keys: small("keys")?.max(1),
            connections: small("connections")?.max(1),
            rate: small("rate")?,
            batch: small("batch")?.max(1),
        })
    }

    /// How many events of a key there are to be.
    fn of_key(self, key: u32) -> u32 {
        let keys = u64::from(self.keys);
        u32::try_from(self.events / keys + u64::from(u64::from(key) < self.events % keys)).unwrap_or(u32::MAX)
    }
}

#[derive(Debug)]
struct Publisher {
    wish: Wish,
    address: SocketAddr,
    /// Of each key the last one that was acknowledged.
    numbers: RefCell<Vec<u32>>,
    file: RefCell<File>,
    began: Instant,
    /// Events that were given a moment.
    due: Cell<u64>,
    acknowledged: Cell<u64>,
    tried_again: Cell<u64>,
}

pub(crate) async fn run(options: EventPublisher) -> Result<()> {
    let url = std::env::var("EVENTS_URL").context("$EVENTS_URL is not given")?;
    let address = url.strip_prefix("http://").and_then(|rest| rest.trim_end_matches('/').parse().ok());
    let address = address.with_context(|| format!("{url} is not http://ADDRESS"))?;
    let listener = upstream::listen().await?;
    let folder: Rc<Path> = options.folder.into();
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await.context("cannot accept")?;
            tokio::task::spawn_local(obey(Incoming::new(stream), address, Rc::clone(&folder)));
        }
    };
    LocalSet::new().run_until(serve).await
}

/// Does what it is told until nobody listens any more.
async fn obey(mut incoming: Incoming, address: SocketAddr, folder: Rc<Path>) {
    while let Ok(Some(request)) = incoming.next().await {
        let wish = Wish::parse(request.body);
        let work = async { publish(wish?, address, &folder).await };
        let bytes = tokio::select! {
            result = work => match result {
                Ok(value) => answer(200, "", &value.to_string()),
                Err(error) => answer(500, "", &format!("{error:#}")),
            },
            () = incoming.gone() => return,
        };
        if incoming.stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Publishes what is left of a wish.
async fn publish(wish: Wish, address: SocketAddr, folder: &Path) -> Result<Value> {
    let mut numbers = acknowledged(folder)?;
    numbers.resize(numbers.len().max(wish.keys as usize), 0);
    let path = folder.join(ACKNOWLEDGED);
    let file = File::options().create(true).append(true).open(&path);
    let publisher = Rc::new(Publisher {
        wish,
        address,
        numbers: RefCell::new(numbers),
        file: RefCell::new(file.with_context(|| format!("cannot open {}", path.display()))?),
        began: Instant::now(),
        due: Cell::new(0),
        acknowledged: Cell::new(0),
        tried_again: Cell::new(0),
    });
    let mut tasks = JoinSet::new();
    for number in 0..wish.connections {
        let publisher = Rc::clone(&publisher);
        tasks.spawn_local(async move { publisher.connection(number).await });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(json!({
        "acknowledged": publisher.acknowledged.get(), "tried_again": publisher.tried_again.get(),
        "seconds": publisher.began.elapsed().as_secs_f64(),
    }))
}

impl Publisher {
    /// Publishes the events of those keys that fall to a connection, in turn.
    async fn connection(&self, number: u32) -> Result<()> {
        let mut keys: Vec<u32> = (number..self.wish.keys).step_by(self.wish.connections as usize).collect();
        let mut connection = None;
        loop {
            let mut events = Vec::new();
            keys.retain(|key| self.left(*key) > 0);
            if keys.is_empty() {
                return Ok(());
            }
            let first = fastrand::usize(..keys.len());
            let mut ahead = 0;
            while events.len() < self.wish.batch as usize && keys.iter().any(|key| self.left(*key) > ahead) {
                for key in keys[first..].iter().chain(&keys[..first]).filter(|key| self.left(**key) > ahead) {
                    if events.len() < self.wish.batch as usize {
                        events.push((*key, self.numbers.borrow()[*key as usize] + ahead + 1));
                    }
                }
                ahead += 1;
            }
            self.turn(events.len() as u64).await;
            self.send(&mut connection, &events).await;
            self.note(&events)?;
        }
    }

    fn left(&self, key: u32) -> u32 {
        self.wish.of_key(key).saturating_sub(self.numbers.borrow()[key as usize])
    }

    /// Waits until so many more may be published.
    async fn turn(&self, events: u64) {
        let due = self.due.replace(self.due.get() + events);
        if self.wish.rate > 0 {
            #[expect(clippy::cast_precision_loss)]
            let at = Duration::from_secs_f64(due as f64 / f64::from(self.wish.rate));
            sleep(at.saturating_sub(self.began.elapsed())).await;
        }
    }

    /// Sends events until they are acknowledged.
    async fn send(&self, connection: &mut Option<Connection>, events: &[(u32, u32)]) {
        loop {
            let request = self.request(events);
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, self.exchange(connection, &request)).await {
                return;
            }
            *connection = None;
            self.tried_again.set(self.tried_again.get() + 1);
            sleep(PAUSE).await;
        }
    }

    async fn exchange(&self, connection: &mut Option<Connection>, request: &[u8]) -> Result<()> {
        let open = match connection {
            Some(open) => open,
            None => connection.insert(Connection::open(self.address, IpAddr::V4(Ipv4Addr::LOCALHOST)).await?),
        };
        let answer = open.exchange(request).await?;
        anyhow::ensure!(answer.status == 202, "answered {}", answer.status);
        Ok(())
    }

    fn request(&self, events: &[(u32, u32)]) -> Vec<u8> {
        let target = format!("/{TOPIC}");
        let data = |key: u32, number: u32| json!({ "key": format!("k{key}"), "n": number });
        let id = |key: u32, number: u32| format!("{key}-{number}");
        if let (1, [(key, number)]) = (self.wish.batch, events) {
            let request = with_body("POST", self.address, &target, data(*key, *number).to_string().as_bytes());
            // The subject is the moment of publishing.
            let fields = format!(
                "\r\nce-specversion: 1.0\r\nce-source: /bench\r\nce-type: counted\r\nce-id: {}\r\nce-subject: {}\r\n\
                 content-type: application/json",
                id(*key, *number),
                now()
            );
            return insert(&request, &fields);
        }
        let batch = events.iter().map(|(key, number)| {
            json!({
                "specversion": "1.0", "source": "/bench", "type": "counted", "id": id(*key, *number),
                "datacontenttype": "application/json", "data": data(*key, *number),
            })
        });
        let request = with_body("POST", self.address, &target, Value::from_iter(batch).to_string().as_bytes());
        insert(&request, "\r\ncontent-type: application/cloudevents-batch+json")
    }

    fn note(&self, events: &[(u32, u32)]) -> Result<()> {
        let lines: String = events.iter().map(|(key, number)| format!("{key} {number}\n")).collect();
        self.file.borrow_mut().write_all(lines.as_bytes())?;
        let mut numbers = self.numbers.borrow_mut();
        for (key, number) in events {
            numbers[*key as usize] = *number;
        }
        self.acknowledged.set(self.acknowledged.get() + events.len() as u64);
        Ok(())
    }
}

/// Fields behind the request line.
fn insert(request: &[u8], fields: &str) -> Vec<u8> {
    let at = memchr::memmem::find(request, b"\r\n").unwrap_or(request.len());
    [&request[..at], fields.as_bytes(), &request[at..]].concat()
}

/// Of each key the last one that was acknowledged. A last line that was not written to its end does not count.
pub(crate) fn acknowledged(folder: &Path) -> Result<Vec<u32>> {
    let text = match std::fs::read_to_string(folder.join(ACKNOWLEDGED)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.context("cannot read what was acknowledged")?,
    };
    let mut numbers = Vec::new();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let (key, number) = line.split_once(' ').with_context(|| format!("not a line: {line}"))?;
        let (key, number): (usize, u32) = (key.parse()?, number.parse()?);
        numbers.resize(numbers.len().max(key + 1), 0);
        numbers[key] = numbers[key].max(number);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(acknowledged(folder.path()).unwrap(), Vec::<u32>::new());
        std::fs::write(folder.path().join(ACKNOWLEDGED), "1 1\n1 2\n0 1\n1 3").unwrap();
        assert_eq!(acknowledged(folder.path()).unwrap(), [1, 2]);
    }

    #[test]
    fn the_events_of_all_keys_are_as_many_as_are_wished_for() {
        let wish = Wish { events: 1_003, keys: 7, connections: 3, rate: 0, batch: 1 };
        assert_eq!((0..7).map(|key| u64::from(wish.of_key(key))).sum::<u64>(), 1_003);
        assert_eq!(Wish::parse(wish.to_json().to_string().as_bytes()).unwrap(), wish);
        assert!(Wish::parse(b"{}").is_err());
    }

    #[test]
    fn fields_come_behind_the_request_line() {
        let request = insert(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\na: b");
        assert_eq!(request, b"POST / HTTP/1.1\r\na: b\r\nHost: a\r\n\r\n");
    }
}
