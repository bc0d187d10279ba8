//! A service that is delivered events. With a seed it misbehaves in all ways that it can think of and writes every delivery
//! down; without one it only counts, as fast as it can. `GET /figures` tells what it has counted,
//! `GET /figures/anew` does, too, and has it begin at nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::record::{Delivery, Outcome, Recorder};
use super::wire::{Incoming, Request, answer, now};
use crate::options::EventSubscriber;
use crate::statistics::percentile;
use crate::upstream;

/// Of a thousand attempts.
const CONDUCTS: [(u64, Conduct); 11] = [
    (40, Conduct::Slow),
    (30, Conduct::Status(500, "")),
    (15, Conduct::Status(503, "")),
    (3, Conduct::Status(503, "retry-after: 1\r\n")),
    (3, Conduct::Status(429, "")),
    (3, Conduct::Status(408, "")),
    (10, Conduct::Close),
    (10, Conduct::Garbage),
    (5, Conduct::Hang),
    (5, Conduct::Late),
    (2, Conduct::Cut),
];
/// One event in so many fails that often before it can succeed.
const POISONED_ONE_IN: u64 = 400;
const POISONED_ATTEMPTS: u32 = 7;
/// Milliseconds that [`Conduct::Slow`] takes at most.
const SLOW_MAX: u64 = 300;

/// How a delivery is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Good,
    /// After a while, and in time.
    Slow,
    Status(u16, &'static str),
    /// With the end of the connection.
    Close,
    /// With something that is not HTTP.
    Garbage,
    /// With half a head.
    Cut,
    /// Never.
    Hang,
    /// With a success, when nobody waits any more.
    Late,
}

/// What was counted.
#[derive(Debug, Default)]
struct Figures {
    count: u64,
    first: u64,
    last: u64,
    /// Nanoseconds from publishing to delivery, of events that say when they were published.
    latencies: Vec<u64>,
}

#[derive(Debug)]
struct Subscriber {
    options: EventSubscriber,
    recorder: Option<Recorder>,
    figures: Figures,
    /// Of each key the last number that was delivered, and how often one came that was not the next.
    last: HashMap<u32, u32>,
    out_of_order: u64,
}

type Shared = Rc<RefCell<Subscriber>>;

pub(crate) async fn run(options: EventSubscriber) -> Result<()> {
    let recorder = options.seed.map(|_| Recorder::open(&options.folder)).transpose()?;
    let (figures, last) = (Figures::default(), HashMap::new());
    let shared = Rc::new(RefCell::new(Subscriber { options, recorder, figures, last, out_of_order: 0 }));
    let listener = upstream::listen().await?;
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await.context("cannot accept")?;
            stream.set_nodelay(true)?;
            let shared = Rc::clone(&shared);
            tokio::task::spawn_local(async move {
                if let Err(error) = connection(Incoming::new(stream), &shared).await {
                    eprintln!("{error:#}");
                }
            });
        }
    };
    LocalSet::new().run_until(serve).await
}

async fn connection(mut incoming: Incoming, shared: &Shared) -> Result<()> {
    while let Some(request) = incoming.next().await? {
        if request.what.starts_with("GET /figures") {
            let is_anew = request.what.ends_with("/anew");
            let figures = shared.borrow_mut().figures();
            if is_anew {
                let mut subscriber = shared.borrow_mut();
                (subscriber.figures, subscriber.out_of_order) = (Figures::default(), 0);
            }
            incoming.stream.write_all(&answer(200, "", &figures.to_string())).await?;
            continue;
        }
        let delivery = read(&request)?;
        let (id, conduct) = {
            let mut subscriber = shared.borrow_mut();
            subscriber.count(&delivery, &request);
            let id = subscriber.recorder.as_mut().map(|recorder| recorder.begin(&delivery)).transpose()?;
            (id, subscriber.options.seed.map_or(Conduct::Good, |seed| Conduct::of(seed, &delivery)))
        };
        if !reply(&mut incoming, shared, (id, conduct, &delivery)).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Answers in some way; gives whether the connection goes on.
async fn reply(
    incoming: &mut Incoming,
    shared: &Shared,
    (id, conduct, delivery): (Option<u64>, Conduct, &Delivery),
) -> Result<bool> {
    let end = |outcome| match (id, &mut shared.borrow_mut().recorder) {
        (Some(id), Some(recorder)) => recorder.end(id, outcome),
        _ => Ok(()),
    };
    let deadline = Duration::from_millis(shared.borrow().options.ack_wait_ms);
    match conduct {
        Conduct::Slow => sleep(Duration::from_millis(hash(delivery.begin, 0) % SLOW_MAX)).await,
        Conduct::Late => sleep(deadline + Duration::from_millis(200)).await,
        Conduct::Hang => {
            incoming.gone().await;
            end(Outcome::Failed)?;
            return Ok(false);
        }
        _ => (),
    }
    let is_done = matches!(conduct, Conduct::Good | Conduct::Slow | Conduct::Late);
    end(if is_done { Outcome::Done } else { Outcome::Failed })?;
    match conduct {
        Conduct::Close => return Ok(false),
        Conduct::Garbage | Conduct::Cut => {
            let bytes: &[u8] = if conduct == Conduct::Cut { b"HTTP/1.1 200 OK\r\ncont" } else { b"\0{}\r\n\r\n" };
            incoming.stream.write_all(bytes).await?;
            return Ok(false);
        }
        Conduct::Status(status, more) => incoming.stream.write_all(&answer(status, more, "not now")).await?,
        _ => incoming.stream.write_all(&answer(200, "", "")).await?,
    }
    Ok(true)
}

fn read(request: &Request<'_>) -> Result<Delivery> {
    let data: Value = serde_json::from_slice(request.body).context("data that are not JSON")?;
    let number = |name: &str| data[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let key = data["key"].as_str().and_then(|key| key.strip_prefix('k')?.parse().ok());
    let field = |name: &str| request.field(name).and_then(|value| value.parse().ok());
    Ok(Delivery {
        key: key.context("data without a key")?,
        number: number("n").context("data without a number")?,
        process: std::process::id(),
        begin: now(),
        deadline_ms: field("atoll-deadline").unwrap_or_default(),
        attempt: field("atoll-attempt").and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or_default(),
        is_marked: ["atoll-replayed", "atoll-redriven", "atoll-out-of-order"]
            .iter()
            .any(|name| request.field(name).is_some()),
        end: None,
    })
}

impl Subscriber {
    fn count(&mut self, delivery: &Delivery, request: &Request<'_>) {
        let figures = &mut self.figures;
        figures.count += 1;
        figures.last = delivery.begin;
        if figures.count == 1 {
            figures.first = delivery.begin;
        }
        // Its number of nanoseconds, as the type's text: what is measured is not to be parsed twice.
        let published = request.field("ce-subject").and_then(|time| time.parse::<u64>().ok());
        figures.latencies.extend(published.map(|time| delivery.begin.saturating_sub(time)));
        let last = self.last.insert(delivery.key, delivery.number);
        self.out_of_order += u64::from(last.is_some_and(|last| delivery.number != last + 1));
    }

    fn figures(&mut self) -> Value {
        let Figures { count, first, last, latencies } = &mut self.figures;
        latencies.sort_unstable();
        let at: BTreeMap<_, _> = [50.0, 90.0, 99.0, 99.9]
            .iter()
            .map(|percent| (format!("p{percent}"), percentile(latencies, *percent)))
            .collect();
        let out_of_order = self.out_of_order;
        json!({ "count": count, "first": first, "last": last, "latency_ns": at, "out_of_order": out_of_order })
    }
}

impl Conduct {
    fn of(seed: u64, delivery: &Delivery) -> Self {
        let event = hash(hash(seed, u64::from(delivery.key)), u64::from(delivery.number));
        if event.is_multiple_of(POISONED_ONE_IN) && delivery.attempt <= POISONED_ATTEMPTS {
            return Self::Status(500, "");
        }
        let mut place = hash(event, u64::from(delivery.attempt)) % 1_000;
        for (share, conduct) in CONDUCTS {
            match place.checked_sub(share) {
                None => return conduct,
                Some(rest) => place = rest,
            }
        }
        Self::Good
    }
}

/// The finalizer of `SplitMix64`.
fn hash(seed: u64, of: u64) -> u64 {
    let mut bits = seed.wrapping_add(of.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(number: u32, attempt: u32) -> Delivery {
        Delivery { key: 1, number, process: 1, begin: 1, deadline_ms: 1, attempt, is_marked: false, end: None }
    }

    #[test]
    fn one_seed_always_misbehaves_alike_and_in_every_way() {
        let of = |seed| (0..20_000).map(move |number| Conduct::of(seed, &delivery(number, 1)));
        assert!(of(1).eq(of(1)) && !of(1).eq(of(2)));
        assert!(CONDUCTS.iter().all(|(_, wanted)| of(1).any(|conduct| conduct == *wanted)));
        let good = of(1).filter(|conduct| *conduct == Conduct::Good).count();
        assert!((17_000..18_000).contains(&good), "{good}");
    }

    #[test]
    fn what_fails_succeeds_in_the_end() {
        let attempts = |number| (1..).find(|attempt| Conduct::of(3, &delivery(number, *attempt)) == Conduct::Good);
        let most = (0..20_000).filter_map(attempts).max().unwrap();
        assert!((POISONED_ATTEMPTS..30).contains(&most), "{most}");
    }
}
