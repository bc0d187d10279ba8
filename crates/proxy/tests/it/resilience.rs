//! Balancing, ejection, breakers, limits, retries, timeouts, fallbacks and faults over real sockets. Here is what all of
//! these tests share: routes by their policy, callees that can be switched or held, and stories without times.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use proxy::{
    Ejection, Endpoint, Event, GuardReading, Policy, Retry, Route, Share, Snapshot, State, Story, Subject, Tried,
};
use testkit::client::Client;
use testkit::message::Message;
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::BufReader;
use tokio::sync::Semaphore;

use crate::support::{BOUND, Proxy, route, snapshot};

mod balance;
mod breaker;
mod concurrency;
mod ejection;
mod fallback;
mod faults;
mod property;
mod rate;
mod retries;
mod stories;
mod timeouts;

/// Longer than any test: what takes this long does not happen.
const LONG: Duration = Duration::from_secs(600);

/// Shorter than anything that is to be seen as slow.
const BRIEF: Duration = Duration::from_millis(100);

/// A plain policy with a change.
fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::plain(BOUND);
    change(&mut policy);
    policy
}

/// The route `all` to service `a`.
fn under(change: impl FnOnce(&mut Policy)) -> Route {
    Route { policy: policy(change), ..route("all", "/", "a") }
}

/// One route `all` to service `a` at these addresses.
fn all_to(addresses: &[SocketAddr], change: impl FnOnce(&mut Policy)) -> Snapshot {
    snapshot(1, vec![under(change)], addresses)
}

/// Ejects for good after so many failures in a row, everybody if need be.
fn ejecting_at(consecutive_failures: u32) -> Ejection {
    Ejection {
        consecutive_failures,
        failure_rate: None,
        window: LONG,
        minimum_calls: 1,
        time: LONG,
        time_max: LONG,
        share_max: Share::ALL,
    }
}

/// Adds a service.
fn with_service(mut snapshot: Snapshot, name: &str, addresses: &[SocketAddr]) -> Snapshot {
    let endpoint = |(instance, address): (usize, &SocketAddr)| Endpoint {
        instance: instance as u32,
        address: *address,
        state: State::Ready,
    };
    snapshot.services.insert(name.to_owned(), addresses.iter().enumerate().map(endpoint).collect());
    snapshot
}

/// The route `name` of the gateway.
fn subject(name: &str) -> Subject {
    Subject::Route { listener: "gateway".into(), route: name.into() }
}

/// How the route `all` stands.
fn guard(proxy: &Proxy) -> GuardReading {
    proxy.handle.read().guards.remove(&subject("all")).unwrap()
}

/// Waits until `is` holds of the route `all`.
async fn until_guard(proxy: &Proxy, what: &str, is: impl Fn(&GuardReading) -> bool) -> GuardReading {
    let look = || async { Some(guard(proxy)).filter(|reading| is(reading)) };
    wait::until(what, BOUND, look).await
}

/// Waits until `is` holds.
async fn until(what: &str, is: impl Fn() -> bool) {
    let look = || async { is().then_some(()) };
    wait::until(what, BOUND, look).await;
}

/// The statuses of so many GETs, one after the other.
async fn statuses(proxy: &Proxy, count: usize) -> Vec<u16> {
    let mut client = proxy.client().await;
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(client.get("/").await.unwrap().status());
    }
    statuses
}

/// The reason in a problem document.
fn reason(answer: &Message) -> (u16, String) {
    crate::support::problem(answer)
}

/// Answers 200.
async fn fine() -> Server {
    Server::http(|_| Answer::ok("fine")).await
}

/// Answers with this status.
async fn answering(status: u16) -> Server {
    Server::http(move |_| Answer::status(status)).await
}

/// Answers with a status that can be changed.
async fn switchable(status: u16) -> (Server, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(status));
    let seen = Arc::clone(&status);
    (Server::http(move |_| Answer::status(seen.load(Ordering::SeqCst))).await, status)
}

/// Answers with these statuses, one after the other, the last one for ever.
async fn scripted(statuses: &'static [u16]) -> Server {
    let asked = AtomicUsize::new(0);
    Server::http(move |_| {
        let nth = asked.fetch_add(1, Ordering::SeqCst);
        Answer::status(statuses[nth.min(statuses.len() - 1)])
    })
    .await
}

/// Breaks every connection after the head of a request; counts those.
async fn breaking() -> (Server, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let server = Server::raw(move |stream| {
        let count = Arc::clone(&counting);
        async move {
            stream.set_zero_linger().unwrap();
            let mut client = Client { stream: BufReader::new(stream) };
            if client.head().await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    (server, count)
}

/// A callee whose answers wait until they are let go, one permit each.
struct Held {
    server: Server,
    arrived: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
}

impl Held {
    async fn new() -> Self {
        let (arrived, permits) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (count, gate) = (Arc::clone(&arrived), Arc::clone(&permits));
        let server = Server::raw(move |stream| {
            let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
            async move {
                let mut client = Client { stream: BufReader::new(stream) };
                while client.head().await.is_ok_and(|head| !head.start.is_empty()) {
                    count.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                    let _ = client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine").await;
                }
            }
        });
        Self { server: server.await, arrived, permits }
    }

    fn address(&self) -> SocketAddr {
        self.server.address
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }

    /// Waits until so many requests have come in all.
    async fn has(&self, count: usize) {
        until("requests to arrive", || self.arrived() >= count).await;
        assert_eq!(self.arrived(), count);
    }

    fn let_go(&self, count: usize) {
        self.permits.add_permits(count);
    }
}

/// Sends a GET and leaves its answer to be read.
async fn begun(proxy: &Proxy) -> Client {
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    client
}

/// The stories of the request that was answered so.
async fn story(proxy: &Proxy, answer: &Message) -> Story {
    let id = answer.field("x-request-id").unwrap().to_owned();
    let look = || async { proxy.handle.stories(&id, 9).pop() };
    wait::until("the story", BOUND, look).await
}

/// What happened, a line each, without times and counts that differ from run to run.
fn told(story: &Story) -> String {
    let line = |event: &Event| match event {
        Event::Rate { is_admitted, limit, left } => format!("rate {is_admitted} {left} of {limit}"),
        Event::Queued { running, ahead } => format!("queued behind {running} and {ahead}"),
        Event::Dequeued { .. } => "dequeued".into(),
        Event::Crowded { running, waiting, .. } => format!("crowded {running} and {waiting}"),
        Event::Shed { active, limit } => format!("shed {active} of {limit}"),
        Event::Breaker { state, is_admitted, failures, slow, calls } => {
            format!("breaker {state:?} {is_admitted} {failures}+{slow} of {calls}")
        }
        Event::BreakerTurned { from, to } => format!("breaker {from:?} to {to:?}"),
        Event::Chosen { instance, ready, passed_over, is_panic, how, .. } => {
            let how = format!("{how:?}");
            let how = how.split([' ', '{']).next().unwrap_or_default();
            format!("chosen {instance} of {ready}-{passed_over} {how}{}", if *is_panic { " panic" } else { "" })
        }
        Event::NobodyLeft { ready, tried } => format!("nobody left of {ready}, {tried} tried"),
        Event::Tried { instance, outcome: Tried::Answered(status), .. } => format!("tried {instance}: {status}"),
        Event::Tried { instance, outcome, .. } => format!("tried {instance}: {outcome:?}"),
        Event::Ejected { instance, .. } => format!("ejected {instance}"),
        Event::Again { is_told, .. } => format!("again{}", if *is_told { ", as told" } else { "" }),
        Event::Budget { retries, max } => format!("budget {retries} of {max}"),
        Event::NoMore { why } => format!("no more: {why:?}"),
        Event::Fault { id, effect } => format!("fault {id}: {effect:?}"),
        Event::Fallback => "fallback".into(),
    };
    let mut text = story.events.iter().map(|told| line(&told.event)).collect::<Vec<_>>().join("\n");
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let (reason, fallback) = (or(&story.reason), or(&story.fallback));
    text.push_str(&format!("\n= {} {reason} {fallback} tries {} {:?}", story.status, story.attempts, story.kept));
    text
}

/// Runs all of them at once and gives what each has said.
async fn together<T: Send + 'static>(
    all: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut said = Vec::new();
    for task in all.into_iter().map(tokio::spawn).collect::<Vec<_>>() {
        said.push(task.await.unwrap());
    }
    said
}

/// So many attempts, after 502, 503 and 504, without a pause to speak of.
fn retrying(attempts: u32) -> Retry {
    let backoff = Duration::from_millis(1);
    Retry { attempts, codes: vec![502, 503, 504], backoff, backoff_max: backoff, ..Retry::NONE }
}
