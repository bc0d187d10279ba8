//! No combination of rules sends a request twice that must not be, or more often than was agreed: random policies over
//! callees that misbehave at random, each request with a name of its own that every callee counts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proxy::{
    Absence, Algorithm, Balance, Breaker, Concurrency, Effect, Ejection, Fallback, Fault, FaultTarget, Key, Policy,
    Retry, Share, Snapshot, Switches, Window,
};
use testkit::client::Client;
use testkit::server::Server;
use tokio::io::{AsyncReadExt, BufReader};

use super::{all_to, subject, with_service};
use crate::support::{Proxy, limits, nowhere};

const POLICIES: usize = 60;
const REQUESTS: usize = 24;

/// What may stand in for any that `Policy` asks for, and is long enough for a slow machine.
const TIMEOUT: Duration = Duration::from_millis(60);
/// What a request may take beyond its time.
const SLACK: Duration = Duration::from_secs(8);

/// How often each request came, by its name, and over all instances of all services.
type Arrivals = Arc<Mutex<HashMap<String, u32>>>;

/// Reads a request, counts it, and does one of many things with it.
async fn whimsical(seed: u64, arrivals: Arrivals) -> Server {
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    Server::raw(move |stream| {
        let (random, arrivals) = (Arc::clone(&random), Arc::clone(&arrivals));
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            while let Ok(head) = client.head().await {
                let Some(name) = head.field("x-name").map(str::to_owned) else { return };
                *arrivals.lock().unwrap().entry(name).or_default() += 1;
                let whim = random.lock().unwrap().u32(..20);
                let length = head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                if whim == 0 {
                    client.stream.get_ref().set_zero_linger().unwrap();
                    return;
                }
                if client.stream.read_exact(&mut vec![0; length]).await.is_err() {
                    return;
                }
                let said: &[u8] = match whim {
                    1 => return,
                    2 => b"no http\r\n\r\n",
                    3 => b"HTTP/1.1 503 No\r\nretry-after: 0\r\ncontent-length: 2\r\n\r\nno",
                    4 => b"HTTP/1.1 503 No\r\nretry-after: 99\r\ncontent-length: 2\r\n\r\nno",
                    5..=7 => b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno",
                    8 => b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    9 => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
                    10 => b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                    // Reads on, and says nothing.
                    11 => {
                        let _ = client.stream.read_u8().await;
                        return;
                    }
                    _ => b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
                };
                let is_last = matches!(whim, 2 | 8 | 9);
                if client.send(said).await.is_err() || is_last {
                    return;
                }
            }
        }
    })
    .await
}

fn maybe<T>(random: &mut fastrand::Rng, one: impl FnOnce(&mut fastrand::Rng) -> T) -> Option<T> {
    random.bool().then(|| one(random))
}

fn any_policy(random: &mut fastrand::Rng) -> Policy {
    let algorithms = [
        Algorithm::LeastRequests,
        Algorithm::RoundRobin,
        Algorithm::PeakEwma,
        Algorithm::RingHash(Key::Header("x-name".into())),
    ];
    let short = Duration::from_millis(random.u64(..5));
    Policy {
        timeout: TIMEOUT * random.u32(1..4),
        total_timeout: maybe(random, |random| TIMEOUT * random.u32(1..6)),
        // A connection that takes longer than this on a busy machine would be made anew elsewhere, beyond the budget.
        connect_timeout: maybe(random, |_| SLACK),
        idle_timeout: Some(TIMEOUT),
        retry: Retry {
            attempts: random.u32(0..6),
            codes: [500, 502, 503, 504].into_iter().filter(|_| random.bool()).collect(),
            backoff: short,
            backoff_max: short,
            try_timeout: maybe(random, |_| TIMEOUT / 2),
            unsafe_methods: random.u32(..6) == 0,
        },
        balance: Balance {
            algorithm: random.choice(algorithms).unwrap(),
            slow_start: short,
            panic_threshold: Share::of(random.f64()),
        },
        ejection: maybe(random, |random| Ejection {
            consecutive_failures: random.u32(..4),
            failure_rate: maybe(random, |random| Share::of(random.f64())),
            window: Duration::from_secs(1),
            minimum_calls: random.u32(..9),
            time: short,
            time_max: TIMEOUT,
            share_max: Share::of(random.f64()),
        }),
        breaker: maybe(random, |random| Breaker {
            window: if random.bool() { Window::Calls(random.u32(..9)) } else { Window::Time(TIMEOUT) },
            minimum_calls: random.u32(..9),
            failure_rate: Share::of(random.f64().max(0.3)),
            slow_call: maybe(random, |_| TIMEOUT / 3),
            slow_call_rate: Share::of(random.f64().max(0.3)),
            open_for: short,
            half_open_calls: random.u32(..4),
        }),
        concurrency: maybe(random, |random| Concurrency {
            max: random.u32(1..6),
            queue: random.u32(..6),
            wait: TIMEOUT,
        }),
        rate_limit: None,
        absence: Absence::Failure,
        fallback: maybe(random, |random| match random.bool() {
            true => Fallback::Service("b".into()),
            false => Fallback::Static { status: 200, content_type: "text/plain".into(), body: "kept".into() },
        }),
    }
}

fn any_faults(random: &mut fastrand::Rng, route: &str) -> Vec<Fault> {
    let effects = [Effect::Abort(503), Effect::Abort(404), Effect::Drop, Effect::Delay(TIMEOUT / 4)];
    let targets =
        [FaultTarget::Subject(subject(route)), FaultTarget::Service { service: "a".into(), instance: Some(0) }];
    let fault = |random: &mut fastrand::Rng| Fault {
        id: 1,
        target: random.choice(targets).unwrap(),
        effect: random.choice(effects).unwrap(),
        share: Share::of(0.2),
        until: jiff::Timestamp::MAX,
    };
    maybe(random, fault).into_iter().collect()
}

/// One request of a run.
#[derive(Clone, Debug)]
struct Asked {
    name: String,
    method: &'static str,
    is_keyed: bool,
    body: usize,
}

impl Asked {
    fn any(run: usize, number: usize, random: &mut fastrand::Rng) -> Self {
        Self {
            name: format!("{run}-{number}"),
            method: random.choice(["GET", "GET", "POST", "POST", "PATCH", "PUT", "DELETE"]).unwrap(),
            is_keyed: random.u32(..4) == 0,
            body: random.choice([0, 0, 9, 3000, 70_000]).unwrap(),
        }
    }

    fn is_repeatable(&self, policy: &Policy) -> bool {
        let is_idempotent = !matches!(self.method, "POST" | "PATCH");
        is_idempotent || self.is_keyed || policy.retry.attempts > 1 && policy.retry.unsafe_methods
    }

    /// Sends it, and gives how long it took until an answer had ended or broken.
    async fn send(&self, address: SocketAddr) -> Duration {
        let began = Instant::now();
        let mut client = Client::connect(address).await;
        let mut fields = vec![("x-name", self.name.as_str())];
        fields.extend(self.is_keyed.then_some(("idempotency-key", self.name.as_str())));
        let body = vec![b'x'; self.body];
        let answer = tokio::time::timeout(SLACK * 4, client.request(self.method, "/", &fields, &body)).await;
        assert!(answer.is_ok(), "{self:?} has no end");
        began.elapsed()
    }
}

#[tokio::test]
async fn no_rule_sends_twice_what_must_not_be_or_more_often_than_was_agreed() {
    let seed = std::env::var("ATOLL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("ATOLL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let arrivals = Arrivals::default();
    let mut callees = Vec::new();
    for _ in 0..4 {
        callees.push(whimsical(random.u64(..), Arc::clone(&arrivals)).await);
    }
    let of = |places: &[usize]| places.iter().map(|place| callees[*place].address).collect::<Vec<_>>();
    let proxy = Proxy::start(limits(), all_to(&[], |_| {})).await;
    let nowhere = nowhere();
    for run in 0..POLICIES {
        let policy = any_policy(&mut random);
        let mut instances = of(&[0, 1, 2][..random.usize(1..=3)]);
        if random.u32(..4) == 0 {
            instances.push(nowhere);
        }
        // Each run has a route of its own, so that its budget is its own, too.
        let mut all = with_service(all_to(&instances, |all| *all = policy.clone()), "b", &of(&[3]));
        let name = format!("all-{run}");
        all.listeners.get_mut("gateway").unwrap().routes[0].name.clone_from(&name);
        proxy.handle.apply(Snapshot { generation: 2 + run as u64, ..all }).unwrap();
        proxy.handle.switch(Switches { faults: any_faults(&mut random, &name), ..Switches::default() });
        let asked: Vec<Asked> = (0..REQUESTS).map(|number| Asked::any(run, number, &mut random)).collect();
        let address = proxy.gateway;
        let began = Instant::now();
        let took = super::together(asked.clone().into_iter().map(|one| async move { one.send(address).await })).await;
        super::until("requests to end", || proxy.handle.counters().requests_active == 0).await;
        let came = std::mem::take(&mut *arrivals.lock().unwrap());
        let context = || format!("ATOLL_SEED={seed} run {run} {policy:#?}");
        let falls_back = u32::from(matches!(policy.fallback, Some(Fallback::Service(_))));
        for (one, took) in asked.iter().zip(took) {
            let count = came.get(&one.name).copied().unwrap_or(0);
            // Without a policy, an exchange that broke is repeated twice.
            let attempts = if policy.retry.attempts > 1 { policy.retry.attempts } else { 3 } + 3 * falls_back;
            let most = if one.is_repeatable(&policy) { attempts } else { 1 };
            assert!(count <= most, "{count} times {one:?}: {}", context());
            let time = policy.timeout * (1 + falls_back) + TIMEOUT * 2 + policy.total_timeout.unwrap_or_default();
            assert!(took < time + SLACK, "{took:?} {one:?}: {}", context());
        }
        let budget = proxy.handle.read().guards.remove(&subject(&name));
        let budget = budget.unwrap().budget;
        let all = came.values().sum::<u32>() as usize;
        // Free are answers instead, and what met a connection that had waited: once, as none waits from then on.
        let reused = REQUESTS;
        let windows = 1 + began.elapsed().as_secs() as usize / 10;
        let most = REQUESTS * (1 + falls_back as usize) + (REQUESTS / 5).max(10) * windows + reused;
        assert!(all <= most, "{all} of {most}: {}", context());
        // Beyond it: whom a dead instance refused goes to a good one in any case, and what met a connection that had waited
        // is sent once more. Both are counted.
        let failovers = if instances.contains(&nowhere) { REQUESTS } else { 0 };
        let free = (failovers + reused) as u64;
        assert!(budget.retries <= 10.max(budget.requests / 5) + free, "{budget:?}: {}", context());
    }
    proxy.stop().await;
}
