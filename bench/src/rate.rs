//! An open-loop load: requests are due at fixed times, whatever became of those before, and each is timed from when it was
//! due. So a proxy that stalls is charged with everything that had to wait meanwhile (no coordinated omission).
//! Tokio's own timers are too coarse (1 ms): a timerfd says what is due.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::client::{self, Connection};
use crate::options::Rate;
use crate::statistics::percentile;

/// What is sent but not counted: connections are opened, pools filled.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long the last answers may take.
const TAIL: Duration = Duration::from_secs(5);

/// Breaks that are told; the others only count.
const BREAKS_SHOWN: u64 = 5;

/// What the latencies were, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Answered 200, and in time if there is a patience; while it warmed up, too.
    pub(crate) requests: u64,
    /// Of these, those that were due in the seconds that count. Without any, the latencies are 0.
    pub(crate) counted: u64,
    pub(crate) p50: u64,
    pub(crate) p95: u64,
    pub(crate) p99: u64,
    /// All others, what was refused among them.
    pub(crate) errors: u64,
    pub(crate) refused: Refused,
}

/// What was answered 503 or 429 with a `retry-after`, of what counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) requests: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

/// Requests that are due, in their order, and what became of the others.
#[derive(Debug)]
struct Queue {
    due: RefCell<VecDeque<Instant>>,
    /// One permit for each that is due.
    count: Semaphore,
    outcomes: RefCell<Outcomes>,
}

#[derive(Debug, Default)]
struct Outcomes {
    /// Of those that count, in microseconds.
    latencies: Vec<u64>,
    refusals: Vec<u64>,
    answered: u64,
    errors: u64,
    breaks: u64,
}

/// What every connection is given.
#[derive(Debug)]
struct Load {
    address: SocketAddr,
    request: Vec<u8>,
    counted_from: Instant,
    /// How late an answer is still good; what is due for longer is not sent any more.
    patience: Duration,
    queue: Queue,
}

/// Loads the address and prints the outcome.
pub(crate) async fn main(options: Rate) -> Result<()> {
    let outcome = LocalSet::new().run_until(run(&options)).await?;
    println!("{}", outcome.to_json());
    Ok(())
}

/// The same in a process of its own, so that nothing else delays it.
pub(crate) async fn apart(options: &Rate) -> Result<Outcome> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.arg("rate").arg(options.address.to_string()).arg(&options.path);
    let numbers = [
        ("--rate", u64::from(options.rate)),
        ("--seconds", options.seconds),
        ("--connections", options.connections as u64),
        ("--put-bytes", options.put_bytes as u64),
        ("--patience-ms", options.patience_ms),
    ];
    for (option, value) in numbers {
        command.arg(option).arg(value.to_string());
    }
    let output = command.kill_on_drop(true).output().await.context("cannot run the load")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    eprint!("{errors}");
    Outcome::from_json(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("the load failed: {errors}"))
}

async fn run(options: &Rate) -> Result<Outcome> {
    let interval = Duration::from_secs(1) / options.rate.max(1);
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(open(options.address).await?);
    }
    let mut timer = timer(interval)?;
    let start = Instant::now();
    let load = Rc::new(Load::of(options, start + WARM_UP));
    for connection in connections {
        tokio::task::spawn_local(serve(connection, Rc::clone(&load)));
    }
    let end = load.counted_from + Duration::from_secs(options.seconds);
    let queue = &load.queue;
    let mut sent = 0;
    let mut next = start + interval;
    while next < end {
        for _ in 0..expirations(&mut timer).await? {
            queue.due.borrow_mut().push_back(next);
            queue.count.add_permits(1);
            next += interval;
            sent += 1;
        }
    }
    let settled = || {
        let outcomes = queue.outcomes.borrow();
        outcomes.answered + outcomes.errors >= sent
    };
    while !settled() && end.elapsed() < TAIL {
        expirations(&mut timer).await?;
    }
    Ok(queue.outcomes.borrow_mut().sum(sent))
}

impl Load {
    fn of(options: &Rate, counted_from: Instant) -> Self {
        let Rate { address, ref path, .. } = *options;
        let request = match options.put_bytes {
            0 => client::get(address, path),
            bytes => client::with_body("PUT", address, path, &vec![b'x'; bytes]),
        };
        let patience = match options.patience_ms {
            0 => Duration::MAX,
            milliseconds => Duration::from_millis(milliseconds),
        };
        let queue = Queue { due: RefCell::default(), count: Semaphore::new(0), outcomes: RefCell::default() };
        Self { address, request, counted_from, patience, queue }
    }

    /// Makes one request, if it is not given up already.
    async fn exchange(&self, connection: &mut Connection, due: Instant) -> Result<()> {
        let result = match due.elapsed() > self.patience {
            true => Ok(None),
            false => connection.exchange(&self.request).await.map(Some),
        };
        let mut outcomes = self.queue.outcomes.borrow_mut();
        let waited = due.elapsed();
        let microseconds = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let counts = due >= self.counted_from;
        match result {
            Ok(Some(answer)) if answer.status == 200 && waited <= self.patience => {
                outcomes.answered += 1;
                outcomes.latencies.extend(counts.then_some(microseconds));
                Ok(())
            }
            Ok(answer) => {
                outcomes.errors += 1;
                let is_refusal = answer.is_some_and(|answer| answer.is_refusal());
                outcomes.refusals.extend((counts && is_refusal).then_some(microseconds));
                Ok(())
            }
            Err(error) => {
                outcomes.errors += 1;
                outcomes.breaks += 1;
                if outcomes.breaks <= BREAKS_SHOWN {
                    eprintln!("bench: {error:#}");
                }
                Err(error)
            }
        }
    }
}

/// Takes what is due, on another connection when one breaks. Where there is no other, what is left counts as failed.
async fn serve(mut connection: Connection, load: Rc<Load>) {
    while let Ok(permit) = load.queue.count.acquire().await {
        permit.forget();
        let Some(due) = load.queue.due.borrow_mut().pop_front() else { continue };
        if load.exchange(&mut connection, due).await.is_err() {
            match open(load.address).await {
                Ok(another) => connection = another,
                Err(error) => return eprintln!("bench: {error:#}"),
            }
        }
    }
}

async fn open(address: SocketAddr) -> Result<Connection> {
    Connection::open(address, IpAddr::V4(Ipv4Addr::LOCALHOST)).await
}

impl Outcomes {
    fn sum(&mut self, sent: u64) -> Outcome {
        self.latencies.sort_unstable();
        self.refusals.sort_unstable();
        let of = |sorted: &[u64], percent| percentile(sorted, percent).unwrap_or_default();
        Outcome {
            requests: self.answered,
            counted: self.latencies.len() as u64,
            p50: of(&self.latencies, 50.0),
            p95: of(&self.latencies, 95.0),
            p99: of(&self.latencies, 99.0),
            // What is not answered now never counts as fast.
            errors: sent - self.answered,
            refused: Refused {
                requests: self.refusals.len() as u64,
                p50: of(&self.refusals, 50.0),
                p99: of(&self.refusals, 99.0),
            },
        }
    }
}

/// Expires again and again; each read waits and gives how often it has expired since the last one.
fn timer(interval: Duration) -> Result<Receiver> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags).context("cannot make a timer")?;
    let interval = Timespec::try_from(interval).context("no interval for a timer")?;
    let setting = Itimerspec { it_interval: interval, it_value: interval };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting).context("cannot set a timer")?;
    // It is read as a pipe is, and tokio has no name for what is neither pipe nor socket that is safe to register.
    Receiver::from_owned_fd_unchecked(timer).context("cannot watch a timer")
}

async fn expirations(timer: &mut Receiver) -> Result<u64> {
    let mut count = [0; 8];
    timer.read_exact(&mut count).await.context("cannot read a timer")?;
    Ok(u64::from_ne_bytes(count))
}

impl Outcome {
    fn to_json(self) -> Value {
        let Self { requests, counted, p50, p95, p99, errors, refused } = self;
        json!({
            "requests": requests, "counted": counted, "p50_us": p50, "p95_us": p95, "p99_us": p99, "errors": errors,
            "refused": refused.requests, "refused_p50_us": refused.p50, "refused_p99_us": refused.p99,
        })
    }

    /// What [`main`] has printed.
    pub(crate) fn from_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let number = |key: &str| value[key].as_u64();
        let refused =
            Refused { requests: number("refused")?, p50: number("refused_p50_us")?, p99: number("refused_p99_us")? };
        Some(Self {
            requests: number("requests")?,
            counted: number("counted")?,
            p50: number("p50_us")?,
            p95: number("p95_us")?,
            p99: number("p99_us")?,
            errors: number("errors")?,
            refused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_being_printed() {
        let refused = Refused { requests: 7, p50: 60, p99: 300 };
        let outcome = Outcome { requests: 24_000, counted: 20_000, p50: 55, p95: 90, p99: 240, errors: 8, refused };
        assert_eq!(Outcome::from_json(&outcome.to_json().to_string()), Some(outcome));
        assert_eq!(Outcome::from_json("{}"), None);
        assert_eq!(Outcome::from_json(""), None);
    }

    /// What a load of a thousand requests a second is told by a server with one connection, which is given the number of
    /// each request.
    async fn outcome(patience_ms: u64, answer: impl Fn(u64) -> &'static str) -> Outcome {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut buffer, mut count) = ([0; 1024], 0);
            while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {
                count += 1;
                let head = answer(count);
                stream.write_all(format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
            }
        };
        let path = "/".to_owned();
        let options = Rate { address, path, rate: 1_000, seconds: 1, connections: 1, put_bytes: 0, patience_ms };
        let load = LocalSet::new();
        tokio::select! {
            outcome = load.run_until(run(&options)) => outcome.unwrap(),
            () = server => panic!("the load has closed its connection"),
        }
    }

    fn stall_at_800(count: u64) -> &'static str {
        let start = Instant::now();
        while count == 800 && start.elapsed() < Duration::from_millis(200) {}
        "200 OK"
    }

    #[tokio::test]
    async fn a_server_that_stalls_is_charged_with_all_that_had_to_wait() {
        let outcome = outcome(0, stall_at_800).await;
        // A fifth of all requests fell into the stall, each with less of it left than the one before.
        assert_eq!(outcome.errors, 0);
        assert!(outcome.p99 > 150_000, "{outcome:?}");
    }

    #[tokio::test]
    async fn what_comes_too_late_is_no_answer() {
        let outcome = outcome(100, stall_at_800).await;
        assert!(outcome.errors >= 90 && outcome.p99 <= 100_000, "{outcome:?}");
        assert_eq!(outcome.refused, Refused::default());
    }

    #[tokio::test]
    async fn what_is_refused_is_told_from_what_fails() {
        let outcome = outcome(0, |count| match count % 4 {
            0 => "200 OK",
            1 => "503 Service Unavailable",
            _ => "503 Service Unavailable\r\nretry-after: 1",
        });
        let outcome = outcome.await;
        // On a busy machine some more are due before the end is seen: one in four is answered, whatever their number.
        let all = outcome.requests + outcome.errors;
        assert!(outcome.requests.abs_diff(all / 4) <= 2 && all >= 1490, "{outcome:?}");
        let refused = outcome.refused.requests;
        assert!(refused.abs_diff(2 * outcome.counted) <= refused / 10 && outcome.counted >= 245, "{outcome:?}");
    }
}
