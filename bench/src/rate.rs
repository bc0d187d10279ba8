//! An open-loop load: requests are due at fixed times, whatever became of those before, and each is timed from when it was
//! due. So a proxy that stalls is charged with everything that had to wait meanwhile (no coordinated omission).
//! Tokio's own timers are too coarse (1 ms): a timerfd says what is due.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
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

/// What the latencies were, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) errors: u64,
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
    answered: u64,
    errors: u64,
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
    let request = Rc::new(match options.put_bytes {
        0 => client::get(options.address, &options.path),
        bytes => client::with_body("PUT", options.address, &options.path, &vec![b'x'; bytes]),
    });
    let queue = Rc::new(Queue {
        due: RefCell::default(),
        count: Semaphore::new(0),
        outcomes: RefCell::new(Outcomes::default()),
    });
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(Connection::open(options.address, IpAddr::V4(Ipv4Addr::LOCALHOST)).await?);
    }
    let mut timer = timer(interval)?;
    let start = Instant::now();
    let counted_from = start + WARM_UP;
    for connection in connections {
        tokio::task::spawn_local(serve(connection, Rc::clone(&queue), Rc::clone(&request), counted_from));
    }
    let end = counted_from + Duration::from_secs(options.seconds);
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
    let settled = |queue: &Queue| {
        let outcomes = queue.outcomes.borrow();
        outcomes.answered + outcomes.errors >= sent
    };
    while !settled(&queue) && end.elapsed() < TAIL {
        expirations(&mut timer).await?;
    }
    let mut outcomes = queue.outcomes.borrow_mut();
    // What is not answered now never counts as fast.
    outcomes.errors = sent - outcomes.answered;
    outcomes.latencies.sort_unstable();
    let of = |percent| percentile(&outcomes.latencies, percent).context("no request was answered");
    Ok(Outcome { requests: outcomes.answered, p50: of(50.0)?, p99: of(99.0)?, errors: outcomes.errors })
}

/// Takes what is due as long as its connection works.
async fn serve(mut connection: Connection, queue: Rc<Queue>, request: Rc<Vec<u8>>, counted_from: Instant) {
    while let Ok(permit) = queue.count.acquire().await {
        permit.forget();
        let Some(due) = queue.due.borrow_mut().pop_front() else { continue };
        let result = connection.exchange(&request).await.map(|answer| answer.status);
        let mut outcomes = queue.outcomes.borrow_mut();
        match result {
            Ok(200) => {
                outcomes.answered += 1;
                if due >= counted_from {
                    outcomes.latencies.push(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
            }
            Ok(status) => {
                outcomes.errors += 1;
                eprintln!("bench: answered {status}");
            }
            Err(error) => {
                outcomes.errors += 1;
                eprintln!("bench: {error:#}");
                return;
            }
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
        json!({ "requests": self.requests, "p50_us": self.p50, "p99_us": self.p99, "errors": self.errors })
    }

    /// What [`main`] has printed.
    pub(crate) fn from_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let number = |key: &str| value[key].as_u64();
        Some(Self {
            requests: number("requests")?,
            p50: number("p50_us")?,
            p99: number("p99_us")?,
            errors: number("errors")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_being_printed() {
        let outcome = Outcome { requests: 24_000, p50: 55, p99: 240, errors: 1 };
        assert_eq!(Outcome::from_json(&outcome.to_json().to_string()), Some(outcome));
        assert_eq!(Outcome::from_json("{}"), None);
        assert_eq!(Outcome::from_json(""), None);
    }

    #[tokio::test]
    async fn a_server_that_stalls_is_charged_with_all_that_had_to_wait() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stall = Duration::from_millis(200);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut buffer, mut count) = ([0; 1024], 0);
            while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {
                count += 1;
                if count == 800 {
                    let until = Instant::now() + stall;
                    while Instant::now() < until {}
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        };
        let options = Rate { address, path: "/".to_owned(), rate: 1_000, seconds: 1, connections: 1, put_bytes: 0 };
        let load = LocalSet::new();
        let outcome = tokio::select! {
            outcome = load.run_until(run(&options)) => outcome.unwrap(),
            () = server => panic!("the load has closed its connection"),
        };
        // A fifth of all requests fell into the stall, each with less of it left than the one before.
        assert_eq!(outcome.errors, 0);
        assert!(outcome.p99 > 150_000, "{outcome:?}");
    }
}
