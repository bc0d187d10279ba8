//! What is known of each instance for the whole process: its outstanding requests, whether it takes more, whether it
//! lately refused connections. Outlives snapshots, so that a new generation forgets nothing. Who is asked is `balance`'s
//! matter.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::snapshot::{self, Snapshot, State};
use crate::timers::{AtomicMoment, Moment};

/// One request that a drain waits for, in the upper half of `Endpoint::load`; the lower half counts all of them.
const HELD: u64 = 1 << 32;

/// One instance of one service at one address.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Never given twice in the life of the process.
    pub(crate) id: u64,
    pub(crate) instance: u32,
    pub(crate) address: SocketAddr,
    /// Outstanding requests, and those of them that a drain waits for: one number, so that both change in one step.
    load: AtomicU64,
    /// Whether the newest snapshot has it ready. Requests that hold an older snapshot must see it too.
    ready: AtomicBool,
    /// Rung when it may have become drained.
    bell: Notify,
    /// How long its last answer took and when that was, in microseconds and milliseconds: one number, so that both change
    /// in one step.
    pace: AtomicU64,
    /// Since when the newest snapshot has it ready.
    ready_since: AtomicMoment,
    aside: Aside,
}

/// How many times as long the last answer of an endpoint took that loses a tie for it, and for how long that is held
/// against it.
const SLOWER: u64 = 4;
const PACE_MAX: Duration = Duration::from_secs(1);

/// The first time for which an endpoint that refused a connection is passed over, and the longest.
const ASIDE_MIN: Duration = Duration::from_millis(100);
const ASIDE_MAX: Duration = Duration::from_secs(5);

/// Whether an endpoint is passed over because it lately refused connections: an instance that died while no daemon was
/// there to say so costs a retry now and then, and not one for every request.
#[derive(Debug, Default)]
struct Aside {
    /// Refusals in a row.
    refusals: AtomicU32,
    /// Until when; the beginning of time for never.
    until: AtomicMoment,
}

impl Aside {
    /// What is refused while it is set aside already changes nothing: many requests meet the same refusal.
    fn refused(&self, now: Moment) {
        if self.is_aside(now) {
            return;
        }
        let before = self.refusals.fetch_add(1, Ordering::Relaxed);
        let pause = ASIDE_MIN.saturating_mul(1 << before.min(16)).min(ASIDE_MAX);
        self.until.set(now.after(pause));
    }

    fn clear(&self) {
        self.refusals.store(0, Ordering::Relaxed);
        self.until.set(Moment::default());
    }

    fn is_aside(&self, now: Moment) -> bool {
        self.until.get() > now
    }
}

// Invariant: a request is sent only while it is held, and who wants to send raises `load` first and looks at `ready`
// second; who retires lowers `ready` first and looks at `load` second. All four are sequentially consistent, so that one
// of the two sees the other: an endpoint that was seen neither ready nor held gets no request until it is ready again.
// The same pair, the other way round, makes that either the last request to end or the one who retires rings the bell.
impl Endpoint {
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// It refused a connection: for a while, others are asked first.
    pub(crate) fn refused(&self, now: Moment) {
        self.aside.refused(now);
    }

    /// Whether others are asked first.
    pub(crate) fn is_aside(&self, now: Moment) -> bool {
        self.aside.is_aside(now)
    }

    /// It has answered after so long.
    pub(crate) fn answered(&self, took: Duration, now: Moment) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.pace.store((now.micros() / 1000) << 32 | u64::from(micros), Ordering::Relaxed);
    }

    /// Whether it lately took much longer than another one. Says nothing about who was not asked for a while, so that it is
    /// asked again.
    pub(crate) fn is_slower(&self, other: &Self, now: Moment) -> bool {
        let (own, other) = (self.pace.load(Ordering::Relaxed), other.pace.load(Ordering::Relaxed));
        let micros = |pace: u64| pace & u64::from(u32::MAX);
        let age = (now.micros() / 1000).wrapping_sub(own >> 32) & u64::from(u32::MAX);
        other > 0 && micros(own) / SLOWER > micros(other) && age < PACE_MAX.as_millis() as u64
    }

    /// For how long it has been ready.
    pub(crate) fn ready_for(&self, now: Moment) -> Duration {
        now.since(self.ready_since.get())
    }

    /// It took a connection.
    pub(crate) fn welcomed(&self) {
        self.aside.clear();
    }

    /// Counts a request as outstanding until the guard is dropped. `None` when it takes no requests.
    pub(crate) fn occupy(self: &Arc<Self>) -> Option<Occupied> {
        self.load.fetch_add(HELD + 1, Ordering::SeqCst);
        let occupied = Occupied { endpoint: Arc::clone(self), is_held: true };
        self.is_ready().then_some(occupied)
    }

    pub(crate) fn outstanding(&self) -> u32 {
        (self.load.load(Ordering::Relaxed) % HELD) as u32
    }

    fn is_drained(&self) -> bool {
        !self.is_ready() && self.load.load(Ordering::SeqCst) < HELD
    }

    fn ring(&self) {
        if self.is_drained() {
            self.bell.notify_waiters();
        }
    }

    async fn drained(&self) {
        loop {
            let mut rung = pin!(self.bell.notified());
            // Order: listen before looking.
            rung.as_mut().enable();
            if self.is_drained() {
                return;
            }
            rung.await;
        }
    }
}

/// One outstanding request.
#[derive(Debug)]
pub(crate) struct Occupied {
    endpoint: Arc<Endpoint>,
    is_held: bool,
}

impl Occupied {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The answer has no end of its own, or nobody may be left to take it: it goes on counting for the balance, but a drain
    /// does not wait for it.
    pub(crate) fn become_endless(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.endpoint.load.fetch_sub(HELD, Ordering::SeqCst);
            self.endpoint.ring();
        }
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        if self.is_held {
            self.endpoint.load.fetch_sub(HELD + 1, Ordering::SeqCst);
            self.endpoint.ring();
        } else {
            self.endpoint.load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

type Key = (String, u32, SocketAddr);

/// By service, its endpoints that take requests.
pub(crate) type Ready = HashMap<String, Vec<Arc<Endpoint>>>;

/// Every endpoint that the newest snapshot or a request still knows. One per process.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    known: HashMap<Key, Arc<Endpoint>>,
    /// Those that no snapshot has any more.
    // Limit: those that left with the newest snapshot, and of those before only who still has a request.
    gone: Vec<(Key, Arc<Endpoint>)>,
    next_id: u64,
}

impl Endpoints {
    /// Takes the endpoints of a snapshot in. Gives those of each service that are ready, and those that are not any more:
    /// they are still taken for ready, so that a request with the snapshot before finds somebody, until they are retired.
    pub(crate) fn apply(&mut self, snapshot: &Snapshot, now: Moment) -> (Ready, Retired) {
        let mut seen = HashMap::with_capacity(self.known.len());
        let mut services = HashMap::with_capacity(snapshot.services.len());
        let mut retired = Vec::new();
        for (name, endpoints) in &snapshot.services {
            let mut ready = Vec::with_capacity(endpoints.len());
            for endpoint in endpoints {
                let key = (name.clone(), endpoint.instance, endpoint.address);
                let known = self.known.remove(&key).or_else(|| seen.get(&key).cloned());
                let known = known.unwrap_or_else(|| self.meet(endpoint));
                match endpoint.state {
                    State::Ready => {
                        // Order: its past first; from then on it is asked.
                        if !known.is_ready() {
                            known.aside.clear();
                            known.ready_since.set(now);
                            known.ready.store(true, Ordering::SeqCst);
                        }
                        ready.push(Arc::clone(&known));
                    }
                    State::Draining => retired.push(Arc::clone(&known)),
                }
                seen.insert(key, known);
            }
            services.insert(name.clone(), ready);
        }
        self.gone.retain(|(_, endpoint)| !endpoint.is_drained());
        // What is left was in the last snapshot and is not in this one. Should it come back, then as another: whoever
        // listens at its address by then knows nothing of the connections that we have.
        for (key, endpoint) in std::mem::replace(&mut self.known, seen) {
            retired.push(Arc::clone(&endpoint));
            self.gone.push((key, endpoint));
        }
        (services, Retired(retired))
    }

    /// See [`crate::Handle::drained`].
    pub(crate) fn drained(
        &self,
        service: &str,
        instance: u32,
        address: SocketAddr,
    ) -> impl Future<Output = ()> + Send + use<> {
        let key = (service.to_owned(), instance, address);
        let gone = self.gone.iter().filter(|(known, _)| *known == key).map(|(_, endpoint)| endpoint);
        let asked: Vec<_> = self.known.get(&key).into_iter().chain(gone).cloned().collect();
        async move {
            for endpoint in asked {
                endpoint.drained().await;
            }
        }
    }

    fn meet(&mut self, endpoint: &snapshot::Endpoint) -> Arc<Endpoint> {
        self.next_id += 1;
        Arc::new(Endpoint {
            id: self.next_id,
            instance: endpoint.instance,
            address: endpoint.address,
            load: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            bell: Notify::new(),
            pace: AtomicU64::new(0),
            ready_since: AtomicMoment::default(),
            aside: Aside::default(),
        })
    }
}

/// Endpoints that the newest snapshot does not have ready.
#[must_use]
pub(crate) struct Retired(Vec<Arc<Endpoint>>);

impl Retired {
    /// Order: only once the snapshot is the one that is served. Who then finds nobody ready looks at it.
    pub(crate) fn retire(self) {
        for endpoint in self.0 {
            endpoint.ready.store(false, Ordering::SeqCst);
            endpoint.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::balance::{Ask, Choice, Member, Service};
    use crate::policy::Balance;

    fn snapshot(endpoints: &[(u32, State)]) -> Snapshot {
        let endpoint = |(instance, state): &(u32, State)| snapshot::Endpoint {
            instance: *instance,
            address: SocketAddr::from(([127, 0, 0, 1], 9000 + *instance as u16)),
            state: *state,
        };
        let services = BTreeMap::from([("a".to_owned(), endpoints.iter().map(endpoint).collect())]);
        Snapshot { services, ..Snapshot::default() }
    }

    fn apply(endpoints: &mut Endpoints, snapshot: &Snapshot) -> Service {
        let (services, retired) = endpoints.apply(snapshot, Moment::default());
        retired.retire();
        let member = |endpoint: &Arc<Endpoint>| Member { endpoint: Arc::clone(endpoint), condition: None };
        Service::new(services["a"].iter().map(member).collect(), &Balance::PLAIN)
    }

    fn choose(service: &Service, tried: &[u64], random: impl FnMut(usize) -> usize) -> Option<Occupied> {
        choose_at(service, Moment::default(), tried, random)
    }

    fn choose_at(
        service: &Service,
        now: Moment,
        tried: &[u64],
        random: impl FnMut(usize) -> usize,
    ) -> Option<Occupied> {
        service.choose(&Ask { now, tried, hash: 0 }, random).map(|Choice { occupied, .. }| occupied)
    }

    fn instances(service: &Service, tried: &[u64]) -> Vec<u32> {
        // Every pair of positions, so that each that can be chosen is.
        let pairs = (0..9).flat_map(|first| (0..9).map(move |second| [first, second]));
        let mut seen: Vec<u32> = pairs
            .filter_map(|pair| {
                let mut rolls = pair.into_iter().cycle();
                choose(service, tried, |count| rolls.next().unwrap() % count)
                    .map(|occupied| occupied.endpoint().instance)
            })
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn only_ready_and_untried_endpoints_are_chosen() {
        let mut endpoints = Endpoints::default();
        let service = apply(&mut endpoints, &snapshot(&[(0, State::Ready), (1, State::Draining), (2, State::Ready)]));
        assert_eq!(instances(&service, &[]), [0, 2]);
        let first = choose(&service, &[], |_| 0).unwrap().endpoint().id;
        assert_eq!(instances(&service, &[first]).len(), 1);
        apply(&mut endpoints, &snapshot(&[(0, State::Draining)]));
        assert_eq!(instances(&service, &[]), [0u32; 0], "an older snapshot sees the new states");
    }

    #[test]
    fn the_less_busy_of_two_is_taken_and_counts_survive_snapshots() {
        let mut endpoints = Endpoints::default();
        let both = snapshot(&[(0, State::Ready), (1, State::Ready)]);
        let service = apply(&mut endpoints, &both);
        let mut busy = choose(&service, &[], |_| 0).unwrap();
        let service = apply(&mut endpoints, &both);
        let other = 1 - busy.endpoint().instance;
        assert_eq!(instances(&service, &[]), [other]);
        busy.become_endless();
        assert_eq!(instances(&service, &[]), [other], "a stream is a load, too");
        drop(busy);
        assert_eq!(instances(&service, &[]), [0, 1]);
    }

    #[test]
    fn who_refuses_connections_is_passed_over_for_ever_longer_until_it_takes_one() {
        let mut endpoints = Endpoints::default();
        let service = apply(&mut endpoints, &snapshot(&[(0, State::Ready), (1, State::Ready)]));
        let chosen = |now: Moment| {
            let seen = (0..2).map(|roll| choose_at(&service, now, &[], |_| roll).unwrap().endpoint().instance);
            seen.collect::<std::collections::BTreeSet<u32>>().into_iter().collect::<Vec<_>>()
        };
        let of = |instance| endpoints.known.iter().find(|((_, known, _), _)| *known == instance).unwrap().1;
        let (first, second) = (of(0), of(1));
        let milliseconds = Duration::from_millis;
        let mut now = Moment::default().after(milliseconds(1));
        for pause in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            first.refused(now);
            first.refused(now.after(milliseconds(1)));
            assert_eq!(chosen(now), [1]);
            assert_eq!(chosen(now.after(milliseconds(pause - 1))), [1]);
            now = now.after(milliseconds(pause));
            assert_eq!(chosen(now), [0, 1]);
        }
        first.refused(now);
        second.refused(now);
        assert_eq!(chosen(now), [0, 1], "when nobody is left, all are tried");
        first.welcomed();
        // One of two is half of them: no panic.
        assert_eq!(chosen(now), [0]);
        first.refused(now);
        second.welcomed();
        assert_eq!(chosen(now.after(milliseconds(100))), [0, 1], "a connection that was taken ends the row");
    }

    async fn ends(waiting: tokio::task::JoinHandle<()>) {
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it is drained").unwrap();
    }

    #[tokio::test]
    async fn an_endpoint_is_drained_when_it_is_retired_and_its_last_request_has_ended() {
        let mut endpoints = Endpoints::default();
        let service = apply(&mut endpoints, &snapshot(&[(0, State::Ready)]));
        let (first, mut second) = (choose(&service, &[], |_| 0).unwrap(), choose(&service, &[], |_| 0).unwrap());
        let address = first.endpoint().address;
        ends(tokio::spawn(endpoints.drained("a", 1, address))).await;
        let before = tokio::spawn(endpoints.drained("a", 0, address));
        apply(&mut endpoints, &snapshot(&[(0, State::Draining)]));
        apply(&mut endpoints, &snapshot(&[]));
        apply(&mut endpoints, &snapshot(&[(1, State::Ready)]));
        let after = tokio::spawn(endpoints.drained("a", 0, address));
        drop(first);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!before.is_finished() && !after.is_finished(), "one request is left");
        second.become_endless();
        ends(before).await;
        ends(after).await;
        assert!(choose(&service, &[], |_| 0).is_none());
        apply(&mut endpoints, &snapshot(&[]));
        assert_eq!(endpoints.gone.len(), 1, "who has no request is forgotten");
    }

    #[test]
    fn nobody_sends_to_an_endpoint_that_was_seen_drained() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for _ in 0..500 {
            let mut endpoints = Endpoints::default();
            let service = apply(&mut endpoints, &snapshot(&[(0, State::Ready)]));
            let address = SocketAddr::from(([127, 0, 0, 1], 9000));
            let is_drained = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while let Some(occupied) = choose(&service, &[], |_| 0) {
                            assert!(!is_drained.load(Ordering::SeqCst));
                            drop(occupied);
                        }
                    });
                }
                let drained = endpoints.drained("a", 0, address);
                apply_none(&mut endpoints);
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), drained).await.unwrap() });
                is_drained.store(true, Ordering::SeqCst);
            });
        }
    }

    fn apply_none(endpoints: &mut Endpoints) {
        let (_, retired) = endpoints.apply(&Snapshot::default(), Moment::default());
        retired.retire();
    }
}
