//! A service in trouble, behind the proxies of `bench resilience`: slow, of limited capacity, or down in one of three ways.
//! It writes how often it was asked into a file of its instance's name, because who is down cannot be asked for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::Full;
use hyper::{Response, StatusCode};
use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::options::Callee;
use crate::upstream::{self, SMALL};

/// How long [`Conduct::Slow`] takes.
pub(crate) const SLOW: Duration = Duration::from_millis(50);
/// How many requests [`Conduct::Limited`] has in hand at a time, and how long each of them takes.
pub(crate) const PLACES: usize = 8;
pub(crate) const STAY: Duration = Duration::from_millis(10);
/// Time on a CPU that [`Conduct::Busy`] takes for a request.
pub(crate) const WORK: Duration = Duration::from_millis(2);

/// Who it is: a name, a dot and a number.
pub(crate) const INSTANCE: &str = "ATOLL_INSTANCE";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Conduct {
    /// Instance 0 answers after a while, the others at once
    Slow,
    /// So many at a time, a while for each; the others wait for as long as it takes
    Limited,
    /// Computes for each, one after the other
    Busy,
    /// Answers 503
    Unavailable,
    /// Does not listen
    Refusing,
    /// Accepts connections and closes them
    Closing,
}

impl Conduct {
    /// As the command line has it.
    pub(crate) fn id(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether a connection without a request does no harm and does not count.
    pub(crate) const fn can_be_probed(self) -> bool {
        !matches!(self, Self::Refusing | Self::Closing)
    }
}

/// Requests, or connections where it does not come to requests.
#[derive(Debug)]
struct Counter {
    file: File,
    count: AtomicU64,
}

impl Counter {
    fn open(folder: &Path, instance: &str) -> Result<Self> {
        let path = folder.join(instance);
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { file, count: AtomicU64::new(0) })
    }

    fn count(&self) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        // Who cannot say it is counted too low, which shows itself: fewer tries than requests.
        let _ = self.file.write_all_at(&count.to_ne_bytes(), 0);
    }
}

/// How often an instance was asked so far.
pub(crate) fn read_count(folder: &Path, instance: &str) -> u64 {
    let bytes = std::fs::read(folder.join(instance)).unwrap_or_default();
    bytes.try_into().map(u64::from_ne_bytes).unwrap_or_default()
}

pub(crate) async fn run(options: Callee) -> Result<()> {
    let instance = std::env::var(INSTANCE).with_context(|| format!("${INSTANCE} is not given"))?;
    let counter = Arc::new(Counter::open(&options.counts, &instance)?);
    let is_first = instance.ends_with(".0");
    match options.conduct {
        Conduct::Refusing => std::future::pending().await,
        Conduct::Closing => {
            let listener = upstream::listen().await?;
            loop {
                drop(listener.accept().await.context("cannot accept")?);
                counter.count();
            }
        }
        conduct => {
            let places = Arc::new(Semaphore::new(PLACES));
            let listener = upstream::listen().await?;
            upstream::serve(listener, move |_| {
                counter.count();
                answer(conduct, is_first, Arc::clone(&places))
            })
            .await
        }
    }
}

async fn answer(
    conduct: Conduct,
    is_first: bool,
    places: Arc<Semaphore>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    match conduct {
        Conduct::Slow if is_first => sleep(SLOW).await,
        // A task of its own: as most services it does not notice that its caller has gone, and works for nobody.
        Conduct::Limited => drop(tokio::spawn(stay(places)).await),
        Conduct::Busy => compute(),
        _ => (),
    }
    let mut response = Response::new(Full::new(Bytes::from_static(&SMALL)));
    if conduct == Conduct::Unavailable {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

async fn stay(places: Arc<Semaphore>) {
    let _place = places.acquire().await;
    sleep(STAY).await;
}

/// Its own time counts, whatever else the CPU does meanwhile.
fn compute() {
    let now = || clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = |time: Timespec| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    let end = nanoseconds(now()) + i128::try_from(WORK.as_nanos()).unwrap_or_default();
    while nanoseconds(now()) < end {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let counter = Counter::open(folder.path(), "down.0").unwrap();
        assert_eq!(read_count(folder.path(), "down.0"), 0);
        for _ in 0..300 {
            counter.count();
        }
        assert_eq!(read_count(folder.path(), "down.0"), 300);
        assert_eq!(read_count(folder.path(), "down.1"), 0);
    }
}
